// Crops, each with a line to move between two views of it.
const LOW = 0, TRUTH = 1, FIRST = 2; // places in a card's views; from FIRST on those of the judged
const sliders = [];
const state = { left: LOW, right: FIRST, zoom: 1, together: false };
const viewName = (view) => ["low quality", "truth", ...data.judged][view];

function slider(set, card) {
  // The left view covers the right one as far as the line. A range input takes keys and is what is read out.
  const part = (kind) => element("img", { class: kind, alt: "", draggable: "false" });
  const leftView = part("left"), rightView = part("right");
  const input = element("input", { type: "range", min: 0, max: 100, step: 1, value: 50 });
  const bar = element("div", { class: "bar" });
  const box = element("div", { class: "slider" }, rightView, leftView, bar, input);
  const one = { set, card, box, input, move, pair };

  function move(at) {
    input.value = at;
    box.style.setProperty("--at", `${input.value}%`);
    input.setAttribute("aria-valuetext", `${input.value} % ${viewName(state.left)}`);
  }
  function pair() {
    const names = `${viewName(state.left)} on the left, ${viewName(state.right)} on the right`;
    leftView.src = card.views[state.left];
    rightView.src = card.views[state.right];
    input.setAttribute("aria-label", `${set.images[card.image]}: ${names}`);
    move(input.value);
  }
  const moveAll = (at) => (state.together ? sliders : [one]).forEach((other) => other.move(at));
  function drag(event) {
    const edge = box.getBoundingClientRect();
    moveAll(((event.clientX - edge.left) / edge.width) * 100);
  }
  box.addEventListener("pointerdown", (event) => {
    box.setPointerCapture(event.pointerId);
    input.focus({ preventScroll: true });
    drag(event);
    event.preventDefault(); // or the picture would be dragged
  });
  box.addEventListener("pointermove", (event) => {
    if (box.hasPointerCapture(event.pointerId)) drag(event);
  });
  input.addEventListener("input", () => moveAll(input.value));
  input.addEventListener("keydown", (event) => {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    moveAll(Number(input.value) > 50 ? 0 : 100);
  });
  return one;
}

function resize(one) {
  // Whole pixels of the screen: at 1:1 one pixel of a result is one of those, or a square of them.
  const ratio = window.devicePixelRatio || 1, pixel = (state.zoom * Math.max(1, Math.round(ratio))) / ratio;
  one.figure.style.setProperty("--width", `${one.card.width * pixel}px`);
  one.figure.style.setProperty("--height", `${one.card.height * pixel}px`);
}

function gallery() {
  const at = document.getElementById("gallery-controls"), place = document.getElementById("cards");
  if (!at) return;
  const first = data.focus ? data.focus[0] : 0, truth = data.sets.some((set) => set.reference);
  const filled = setNames.filter(([i]) => data.sets[i].cards.length);
  const sides = [LOW, ...(truth ? [TRUTH] : []), ...data.judged.map((_, i) => i + FIRST)];
  const named_ = sides.map((view) => [view, viewName(view)]);
  const on = choice(at, "Set", filled, filled[0][0], arrange);
  const leftSide = choice(at, "Left", named_, LOW, pairs);
  const rightSide = choice(at, "Right", named_, first + FIRST, pairs);
  let who = () => 0, metric = () => 0, against = () => BEST;
  if (data.focus) {
    const others = [[BEST, "the best of the others"], ...judgedNames];
    who = choice(at, "Worst first of", judgedNames, first, arrange);
    metric = choice(at, "by", metricNames(ofImages), data.focus[1], arrange);
    if (data.judged.length > 1) against = choice(at, "against", others, BEST, arrange);
  }
  const zoom = choice(at, "Size", [1, 2, 3, 4].map((k) => [k, `${k}:1`]), 1, () => {
    state.zoom = zoom();
    sliders.forEach(resize);
  });
  const check = element("input", { type: "checkbox" });
  check.addEventListener("change", () => (state.together = check.checked));
  at.append(element("label", { class: "check" }, check, "Move all lines together"));

  for (const set of data.sets) for (const card of set.cards) {
    const one = slider(set, card);
    one.caption = element("figcaption", {});
    one.sides = element("div", { class: "sides" });
    const scroll = element("div", { class: "scroll" }, one.box);
    one.figure = element("figure", { class: "card" }, one.sides, scroll, one.caption);
    sliders.push(one);
    resize(one);
    one.move(50);
  }

  function pairs() {
    state.left = leftSide();
    state.right = rightSide();
    for (const one of sliders) {
      one.figure.hidden = !one.set.reference && (state.left === TRUTH || state.right === TRUTH);
      if (one.figure.hidden) continue;
      one.pair();
      const names = [state.left, state.right].map((view) => element("span", {}, viewName(view)));
      one.sides.replaceChildren(...names);
    }
    sliders.forEach(describe);
  }
  function describe(one) {
    const { image, kind, x, y, width, height } = one.card, m = metric(), values = one.set.values[m];
    const where = kind === "flat" ? "flat" : "largest differences";
    const lines = [element("b", {}, one.set.images[image]), `${where}, ${width}×${height} at ${x}, ${y}`];
    const views = [state.left, state.right].filter((view) => view >= FIRST);
    const number = (view) => `${viewName(view)} ${shown(m, values[view - FIRST][image])}`;
    const sides = values ? views.map(number) : [];
    if (sides.length) lines.push(element("br", {}), `${named(m)}: ${sides.join(", ")}`);
    const lost = data.focus && data.judged.length > 1 ? loss(one.set, m, image, who(), against()) : null;
    if (lost !== null && who() !== against()) {
      const other = against() === BEST ? "the best of the others" : data.judged[against()];
      const much = `${shown(m, Math.abs(lost))} ${lost > 0 ? "worse" : "better"} than ${other}`;
      lines.push(element("br", {}), `${data.judged[who()]}: ${much}`);
    }
    one.caption.replaceChildren(...lines);
  }
  function arrange() {
    const set = data.sets[on()], these = sliders.filter((one) => one.set === set);
    const lost = these.map((one) => loss(set, metric(), one.card.image, who(), against()) ?? -Infinity);
    const order = these.map((_, i) => i).sort((i, j) => lost[j] - lost[i] || i - j);
    place.replaceChildren(...order.map((i) => these[i].figure));
    sliders.forEach(describe);
  }
  window.addEventListener("resize", () => sliders.forEach(resize));
  pairs();
  arrange();
}

gallery();
