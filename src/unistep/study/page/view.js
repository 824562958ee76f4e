// Panes of pictures of one size that are looked at together: what one shows, all show.
"use strict";

globalThis.View = class View {
  // On a screen with k device pixels to a CSS pixel, 1:1 is the whole number of device pixels nearest to k
  // for each pixel of the picture: crisp, and of the size that people know from other pages.
  constructor(grid) {
    this.grid = grid;
    this.panes = [];
    this.fingers = new Map();
    new ResizeObserver(() => this.draw()).observe(grid);
    grid.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    grid.addEventListener("pointerdown", (event) => this.down(event));
    grid.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) {
      grid.addEventListener(kind, (event) => this.up(event));
    }
  }

  get one() {
    return Math.max(1, Math.round(devicePixelRatio)) / devicePixelRatio;
  }

  // What is shown: [{label, alt, url}], all width x height. Resolves when all pictures are there.
  async show(pictures, width, height) {
    Object.assign(this, { width, height, x: width / 2, y: height / 2, scale: this.one });
    this.fingers.clear();
    this.panes = pictures.map(({ label, alt, url }) => {
      const image = Object.assign(document.createElement("img"), { alt, draggable: false, width, height });
      image.className = "waiting";
      const caption = Object.assign(document.createElement("figcaption"), { textContent: label });
      const pane = Object.assign(document.createElement("figure"), { className: "pane" });
      pane.append(caption, image);
      image.src = url;
      return { pane, image };
    });
    this.grid.replaceChildren(...this.panes.map(({ pane }) => pane));
    this.draw();
    const shown = this.panes;
    await Promise.all(shown.map(({ image }) => image.decode()));
    for (const { image } of shown) image.classList.remove("waiting");
  }

  draw() {
    if (!this.panes.length) return;
    this.arrange();
    const { clientWidth: wide, clientHeight: high } = this.panes[0].pane;
    this.wide = wide;
    this.high = high;
    this.scale = Math.min(Math.max(this.scale, Math.min(this.whole, this.one)), 8 * this.one);
    this.x = inside(this.x, this.width, wide / this.scale);
    this.y = inside(this.y, this.height, high / this.scale);
    const snap = (value) => Math.round(value * devicePixelRatio) / devicePixelRatio;
    const left = snap(wide / 2 - this.x * this.scale), top = snap(high / 2 - this.y * this.scale);
    const device = this.scale * devicePixelRatio;
    const sharp = device >= 1 && Math.abs(device - Math.round(device)) < 1e-6;
    for (const { image } of this.panes) {
      image.style.transform = `translate(${left}px, ${top}px) scale(${this.scale})`;
      image.classList.toggle("sharp", sharp);
    }
  }

  // As many columns as give the picture the most room; a place that stays empty counts as lost.
  arrange() {
    const { clientWidth, clientHeight } = this.grid, n = this.panes.length;
    let best = [0, 1];
    for (let columns = 1; columns <= n; columns++) {
      const rows = Math.ceil(n / columns), wide = clientWidth / columns, high = clientHeight / rows;
      const room = Math.min(wide, this.width * this.one) * Math.min(high, this.height * this.one);
      const seen = (room * n) / (rows * columns);
      if (seen > best[0] + 1) best = [seen, columns];
    }
    this.grid.style.gridTemplateColumns = `repeat(${best[1]}, minmax(0, 1fr))`;
  }

  get whole() {
    return Math.min(this.wide / this.width, this.high / this.height);
  }

  fit() {
    this.scale = Math.min(this.whole, this.one);
    this.draw();
  }

  natural() {
    this.zoom(this.one / this.scale);
  }

  // Zooms by a factor about a point of a pane, in CSS pixels from its middle.
  zoom(factor, dx = 0, dy = 0) {
    const before = this.scale;
    const least = Math.min(this.whole, this.one);
    this.scale = Math.min(Math.max(before * factor, least), 8 * this.one);
    this.x += dx / before - dx / this.scale;
    this.y += dy / before - dy / this.scale;
    this.draw();
  }

  // The next step of the buttons: half, 1, 2, 4 and 8 times 1:1.
  step(up) {
    const level = Math.log2(this.scale / this.one);
    const next = up ? Math.floor(level + 1 + 1e-6) : Math.ceil(level - 1 - 1e-6);
    this.zoom((this.one * 2 ** next) / this.scale);
  }

  pan(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.draw();
  }

  wheel(event) {
    const pane = event.target.closest(".pane");
    if (!pane) return;
    event.preventDefault();
    const box = pane.getBoundingClientRect();
    const lines = event.deltaMode === 1 ? 16 : 1;
    const factor = Math.exp(-Math.max(-120, Math.min(120, event.deltaY * lines)) / 300);
    this.zoom(factor, event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
  }

  down(event) {
    const pane = event.target.closest(".pane");
    if (!pane || (event.pointerType === "mouse" && event.button !== 0)) return;
    pane.setPointerCapture(event.pointerId);
    pane.classList.add("dragged");
    this.fingers.set(event.pointerId, { x: event.clientX, y: event.clientY, pane });
  }

  move(event) {
    const finger = this.fingers.get(event.pointerId);
    if (!finger) return;
    const before = this.span();
    const dx = event.clientX - finger.x, dy = event.clientY - finger.y;
    Object.assign(finger, { x: event.clientX, y: event.clientY });
    this.pan(dx / this.fingers.size, dy / this.fingers.size);
    const after = this.span();
    if (before && after) {
      const box = finger.pane.getBoundingClientRect();
      this.zoom(after.length / before.length, after.x - box.left - box.width / 2, after.y - box.top - box.height / 2);
    }
  }

  up(event) {
    this.fingers.get(event.pointerId)?.pane.classList.remove("dragged");
    this.fingers.delete(event.pointerId);
  }

  // Distance and middle of two fingers.
  span() {
    const [a, b] = this.fingers.values();
    if (this.fingers.size !== 2) return null;
    return { length: Math.max(1, Math.hypot(a.x - b.x, a.y - b.y)), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  }
};

// A middle that keeps the picture in the pane, or in its middle where it is smaller.
function inside(middle, size, seen) {
  return seen >= size ? size / 2 : Math.min(Math.max(middle, seen / 2), size - seen / 2);
}
