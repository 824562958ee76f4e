// Two plots: an image is a point of two models' values; a model is a point of its cost and quality.
const TICKS = 6, WIDEST = 660, LETTER = 7.2; // about the width of a letter in a label
const left = 62, right = 16, top_ = 12, bottom = 48; // around the plot

function ticks(least, most, logarithmic) {
  if (logarithmic && most / least > 5) {
    const found = [], digits = most / least > 300 ? [1] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(least)); power <= Math.log10(most); power++)
      found.push(...digits.map((digit) => digit * 10 ** power));
    return found.filter((tick) => tick >= least && tick <= most);
  }
  const rough = (most - least) / TICKS, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= rough), found = [];
  for (let i = Math.ceil(least / step); i * step <= most; i++) found.push(i * step);
  return found;
}

function range(values, logarithmic) {
  // With some room on both sides.
  const least = Math.min(...values), most = Math.max(...values);
  if (logarithmic) {
    const room = least === most ? 2 : (most / least) ** 0.15;
    return [least / room, most * room];
  }
  const room = least === most ? 0.5 : (most - least) * 0.06;
  return [least - room, most + room];
}

function chart(place, near, points, about) {
  // points: {x, y, low, high, name, text, colour}. about: titles x and y; equal: both axes are the same, with
  // their diagonal, and `above` (true, false, null) the better side; else x is logarithmic, with names.
  place.replaceChildren();
  near.textContent = "Point at the plot to see its numbers.";
  if (!points.length) {
    place.append("Nothing has both numbers.");
    return;
  }
  const W = Math.max(280, Math.min(WIDEST, place.clientWidth - 20)), H = Math.round(Math.max(260, W * 0.72));
  const xs = points.map((p) => p.x), ys = points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]);
  const [x0, x1] = range(about.equal ? [...xs, ...ys] : xs, !about.equal);
  const [y0, y1] = range(about.equal ? [...xs, ...ys] : ys, false);
  const f = about.equal ? (v) => v : Math.log;
  const X = (v) => left + ((f(v) - f(x0)) / (f(x1) - f(x0))) * (W - left - right);
  const Y = (v) => H - bottom - ((v - y0) / (y1 - y0)) * (H - top_ - bottom);
  const all = points.length > 12 ? `${points.length} images` : points.map((p) => p.text).join("; ");
  const label = `${about.y} over ${about.x}: ${all}`;
  const size = { viewBox: `0 0 ${W} ${H}`, class: "plot" };
  const svg = element("svg", { ...size, role: "img", "aria-label": label });
  if (about.equal && about.above !== null) {
    const corner = about.above ? `${X(x0)},${Y(y1)}` : `${X(x1)},${Y(y0)}`;
    const shape = `${X(x0)},${Y(x0)} ${X(x1)},${Y(x1)} ${corner}`;
    svg.append(element("polygon", { class: "better", points: shape }));
  }
  const line = (kind, a, b, c, d) => element("line", { class: kind, x1: a, y1: b, x2: c, y2: d });
  const write = (kind, x, y, text, more) => element("text", { class: kind, x, y, ...more }, text);
  const digits = (v) => String(Number(v.toPrecision(6)));
  for (const v of ticks(x0, x1, !about.equal))
    svg.append(line("grid", X(v), top_, X(v), H - bottom), write("tick", X(v), H - bottom + 16, digits(v)));
  for (const v of ticks(y0, y1, false))
    svg.append(line("grid", left, Y(v), W - right, Y(v)), write("tick up", left - 6, Y(v) + 4, digits(v)));
  if (about.equal) svg.append(line("equal", X(x0), Y(x0), X(x1), Y(x1)));
  const middle = (top_ + H - bottom) / 2;
  svg.append(write("title", (left + W - right) / 2, H - 8, about.x),
    write("title", 14, middle, about.y, { transform: `rotate(-90 14 ${middle})` }));
  const taken = points.map((p) => [X(p.x) - 6, X(p.x) + 6, Y(p.y) + 4]); // by points and names: [from, to, y]
  const circles = points.map((p) => {
    const group = element("g", { class: `c${p.colour % 10}` }, element("title", {}, p.text));
    const x = X(p.x), y = Y(p.y);
    if (p.low !== null && p.low !== undefined) group.append(line("span", x, Y(p.low), x, Y(p.high)));
    const circle = element("circle", { cx: x, cy: y, r: about.equal ? 4.5 : 6, class: "faint" });
    group.append(circle);
    svg.append(group);
    return circle;
  });
  if (!about.equal) svg.append(...points.map((p) => nameOf(p, X(p.x), Y(p.y)))); // over all lines

  function nameOf(p, x, y) {
    // Beside the point, on the nearest line, up or down, where no name and no other point is.
    const long = p.name.length * LETTER, turned = x + 10 + long > W;
    const [from, to] = turned ? [x - 10 - long, x - 10] : [x + 10, x + 10 + long];
    const free = (at) => taken.every(([a, b, c]) => to < a || from > b || Math.abs(at - c) > 14);
    const steps = [0, ...Array.from({ length: 10 }, (_, k) => [-15 * (k + 1), 15 * (k + 1)]).flat()];
    const at = steps.map((step) => y - 7 + step).find((v) => v > 10 && v < H - bottom && free(v)) ?? y - 7;
    taken.push([from, to, at]);
    return write("name", turned ? x - 10 : x + 10, at, p.name, { "text-anchor": turned ? "end" : "start" });
  }
  function find(event) {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * W, y = ((event.clientY - box.top) / box.height) * H;
    const far = points.map((p) => (X(p.x) - x) ** 2 + (Y(p.y) - y) ** 2), i = far.indexOf(Math.min(...far));
    circles.forEach((circle, k) => circle.classList.toggle("near", k === i));
    near.textContent = points[i].text;
  }
  svg.addEventListener("pointermove", find);
  svg.addEventListener("pointerdown", find);
  place.append(svg);
}

function imagesChart() {
  const at = document.getElementById("images-controls"), list = document.getElementById("images-worst");
  if (!at) return;
  const on = choice(at, "Set", setNames, 0, draw);
  const metric = choice(at, "Metric", metricNames(ofImages), data.focus[1], draw);
  const up = choice(at, "Model, upward", judgedNames, data.focus[0], draw);
  const across = choice(at, "Against, to the right", judgedNames, data.focus[0] === 0 ? 1 : 0, draw);

  function draw() {
    const set = data.sets[on()], m = metric(), a = across(), b = up(), values = set.values[m], points = [];
    const better = data.metrics[m].better;
    const both = (i) => values && values[a][i] !== null && values[b][i] !== null;
    const known = set.images.map((_, i) => i).filter(both);
    for (const i of known) {
      const [x, y] = [values[a][i], values[b][i]], name = set.images[i];
      const text = `${name}: ${data.judged[b]} ${shown(m, y)}, ${data.judged[a]} ${shown(m, x)}`;
      points.push({ x, y, name, colour: b, text });
    }
    const about = { x: `${data.judged[a]}, ${named(m)}`, y: `${data.judged[b]}, ${named(m)}`, equal: true };
    about.above = better === "near 1" ? null : better === "higher";
    chart(document.getElementById("images-chart"), document.getElementById("images-near"), points, about);
    const lost = (i) => loss(set, m, i, b, a);
    const worst = known.filter((i) => lost(i) > 0).sort((i, j) => lost(j) - lost(i)).slice(0, 5);
    const said = (i) => `${points[known.indexOf(i)].text} (${shown(m, lost(i))} worse)`;
    list.replaceChildren(...worst.map((i) => element("li", {}, said(i))));
    document.getElementById("images-none").hidden = worst.length > 0;
  }
  window.addEventListener("resize", draw);
  draw();
}

function costChart() {
  const at = document.getElementById("cost-controls");
  if (!at) return;
  const names = metricNames((m) => data.sets.some((set) => set.means[m].some((mean) => mean[0] !== null)));
  const on = choice(at, "Set", setNames, 0, draw);
  const metric = choice(at, "Quality", names, names.length ? names[0][0] : 0, draw);
  const cost = choice(at, "Cost", numbered(data.costs.map((one) => one.label)), 0, draw);

  function draw() {
    const set = data.sets[on()], m = metric(), of = data.costs[cost()], points = [];
    data.judged.forEach((name, i) => {
      const [y, low, high] = set.means[m][i], x = of.values[i];
      if (x === null || y === null) return;
      const text = `${name}: ${named(m)} ${shown(m, y)}, ${Number(x.toPrecision(4))} ${of.label}`;
      points.push({ x, y, low, high, name, colour: i, text });
    });
    const about = { x: `${of.label} (logarithmic)`, y: named(m), equal: false };
    chart(document.getElementById("cost-chart"), document.getElementById("cost-near"), points, about);
  }
  window.addEventListener("resize", draw);
  draw();
}

imagesChart();
costChart();
