"use strict";
// What the plots and the gallery share. All names are put in as text, never as markup; lists are in the order
// of the data's sets, metrics and judged, so that no name is ever a key.
const data = JSON.parse(document.getElementById("data").textContent);
const BEST = -1; // "the best of the others"
const DRAWN = ["svg", "g", "line", "circle", "text", "title", "polygon"];

function element(name, attributes, ...children) {
  const made = DRAWN.includes(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function choice(parent, label, names, chosen, changed) {
  // A labelled select of [number, name]; gives a function that gives the number. changed() after each choice.
  const id = `choice-${document.querySelectorAll("select").length}`;
  const select = element("select", { id });
  for (const [value, name] of names) select.append(element("option", { value }, name));
  select.value = String(chosen);
  select.addEventListener("change", changed);
  parent.append(element("div", { class: "choice" }, element("label", { for: id }, label), select));
  return () => Number(select.value);
}

const numbered = (names) => names.map((name, i) => [i, name]);
const judgedNames = numbered(data.judged);
const setNames = numbered(data.sets.map((set) => set.name));
const named = (metric) => data.metrics[metric].label + data.metrics[metric].arrow;
const shown = (metric, value) => (value === null ? "—" : value.toFixed(data.metrics[metric].digits));
const metricNames = (useful) => numbered(data.metrics.map((_, i) => named(i))).filter(([i]) => useful(i));
const ofImages = (metric) => data.sets.some((set) => set.values[metric]);

function badness(metric, value) {
  // Smaller is better.
  if (value === null) return null;
  const better = data.metrics[metric].better;
  return better === "higher" ? -value : better === "lower" ? value : Math.abs(value - 1);
}

function loss(set, metric, image, who, against) {
  // How much worse than another, or than the best of the others; null where there is no number.
  const values = set.values[metric];
  if (!values) return null;
  const others = data.judged.map((_, i) => i).filter((i) => (against === BEST ? i !== who : i === against));
  const of = (i) => badness(metric, values[i][image]);
  const own = of(who), rest = others.map(of).filter((value) => value !== null);
  if (own === null || (others.length && !rest.length)) return null;
  return own - (rest.length ? Math.min(...rest) : 0);
}
