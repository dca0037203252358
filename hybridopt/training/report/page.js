"use strict";
// Tells what the reader points at: the values of a step on a chart, or a tensor on the map.
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const make = (name, look, text) => Object.assign(document.createElement(name), { className: look, textContent: text ?? "" });
const told = (figure) => JSON.parse(figure.querySelector("script").textContent);

function written(value, how) {
  if (value === null) return "not a number";
  if (how !== "bytes") return String(Number(value.toPrecision(5)));
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) { value /= 1024; unit += 1; }
  return `${value.toFixed(unit ? 2 : 0)} ${UNITS[unit]}`;
}

function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] < x) low = middle; else high = middle; }
  return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
}

function put(tip, box, x, y) {
  const left = x + tip.offsetWidth + 18 > box.width ? x - tip.offsetWidth - 12 : x + 12;
  tip.style.left = `${Math.max(0, Math.min(left, box.width - tip.offsetWidth))}px`;
  tip.style.top = `${Math.max(0, Math.min(y + 12, box.height - tip.offsetHeight))}px`;
}

function hover(area, show) {
  const tip = area.appendChild(make("div", "tip"));
  tip.hidden = true;
  const hide = () => { tip.hidden = true; show(null); };
  const move = (event) => {
    const box = area.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    tip.hidden = !show(tip, x, y, box, event);
    if (!tip.hidden) put(tip, box, x, y);
  };
  area.addEventListener("pointermove", move);
  area.addEventListener("pointerdown", move);
  area.addEventListener("pointerleave", hide);
}

for (const figure of document.querySelectorAll(".chart")) {
  const { x: [first, last], series, write } = told(figure), area = figure.querySelector(".area");
  const all = series.filter((each) => each.x.length);
  if (!all.length) continue;
  const cross = area.appendChild(make("div", "cross"));
  cross.hidden = true;
  hover(area, (tip, x, y, box) => {
    cross.hidden = !tip;
    if (!tip) return false;
    const wanted = first + (x / box.width) * (last - first);
    const steps = all.map((each) => each.x[nearest(each.x, wanted)]);
    const step = steps.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
    cross.style.left = `${(100 * (step - first)) / (last - first)}%`;
    tip.replaceChildren(make("b", "", `step ${step.toLocaleString("en")}`));
    for (const each of all) {
      const at = nearest(each.x, step);
      if (each.x[at] !== step) continue;
      const row = tip.appendChild(make("div", ""));
      row.append(make("i", `key ${each.look}`), make("span", "", `${each.name}: ${written(each.y[at], write)}`));
    }
    return true;
  });
}

for (const figure of document.querySelectorAll(".map")) {
  const cells = told(figure), area = figure.querySelector(".tiles"), rects = [...area.querySelectorAll("rect")];
  const order = new Map(rects.map((rect, i) => [rect, i]));
  let on = null;
  hover(area, (tip, x, y, box, event) => {
    if (on) on.classList.remove("on");
    on = tip && order.has(event.target) ? event.target : null;
    if (!on) return false;
    on.classList.add("on");
    on.parentNode.append(on);
    const [name, role, tag, shape, size] = cells[order.get(on)];
    tip.replaceChildren(make("b", "", name));
    for (const text of [[role, tag].filter(Boolean).join(", "), [shape, size].filter(Boolean).join(", ")]) tip.append(make("div", "", text));
    return true;
  });
}
