// The readout of a curve: the values at the step under the pointer, or where the arrow
// keys lead. The points stand in data-plot, in the picture's own units.

const SPACE = "http://www.w3.org/2000/svg";

function nearest(points, x) {
  let best = points[0];
  for (const point of points) {
    if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  }
  return best;
}

function readoutOf(plot) {
  let box = plot.querySelector(".readout");
  if (!box) {
    box = document.createElement("dl");
    box.className = "readout";
    box.setAttribute("aria-live", "polite");
    plot.append(box);
  }
  return box;
}

function show(plot, x) {
  const { step, lines } = JSON.parse(plot.dataset.plot);
  const svg = plot.querySelector("svg");
  svg.querySelectorAll(".read").forEach((mark) => mark.remove());
  const values = lines.map((line) => ({ ...line, point: nearest(line.points, x) }));
  const at = values.at(-1).point;
  plot.dataset.at = at[0];
  const rule = document.createElementNS(SPACE, "path");
  rule.setAttribute("class", "at read");
  rule.setAttribute("d", `M${at[0]} 12V308`);
  svg.append(rule);
  const cells = [];
  for (const [name, value] of [[step, at[2]], ...values.map((v) => [v.name, v.point[3]])]) {
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    cells.push(term, text);
  }
  for (const { style, point } of values) {
    const dot = document.createElementNS(SPACE, "circle");
    dot.setAttribute("class", `${style} read`);
    dot.setAttribute("cx", point[0]);
    dot.setAttribute("cy", point[1]);
    dot.setAttribute("r", 4.5);
    svg.append(dot);
  }
  readoutOf(plot).replaceChildren(...cells);
}

// A run that is looked at while it goes on is drawn anew: the readout stays.
let reading = null;
document.addEventListener("htmx:beforeSwap", () => {
  const at = document.querySelector("[data-plot][data-at]")?.dataset.at;
  reading = at ? +at : null;
});
document.addEventListener("htmx:afterSwap", () => {
  const plot = document.querySelector("[data-plot]");
  if (plot && reading !== null) show(plot, reading);
});

function clear(plot) {
  delete plot.dataset.at;
  plot.querySelectorAll(".read, .readout").forEach((mark) => mark.remove());
}

document.addEventListener("pointermove", (event) => {
  const svg = event.target.closest?.("[data-plot] svg");
  if (!svg) return;
  const box = svg.getBoundingClientRect();
  show(svg.parentNode, ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
});
document.addEventListener("pointerout", (event) => {
  const plot = event.target.closest?.("[data-plot]");
  if (plot && !plot.contains(event.relatedTarget) && document.activeElement?.parentNode !== plot) clear(plot);
});
document.addEventListener("focusout", (event) => {
  const plot = event.target.closest?.("[data-plot]");
  if (plot) clear(plot);
});
document.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const plot = event.target.closest?.("[data-plot]");
  if (!plot || !move) return;
  event.preventDefault();
  const { points } = JSON.parse(plot.dataset.plot).lines.at(-1);
  const now = plot.dataset.at ? points.findIndex((point) => point[0] === +plot.dataset.at) : -1;
  const next = now < 0 ? points.length - 1 : Math.min(Math.max(now + move, 0), points.length - 1);
  show(plot, points[next][0]);
});
