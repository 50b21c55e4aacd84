"use strict";
// What all scripts share: the data, what is chosen, and elements. All text from the data becomes text nodes or
// attributes of made elements: names are never read as markup.
const report = JSON.parse(document.getElementById("data").textContent);
const { runs, colors, scale } = report;

const at = (id) => document.getElementById(id);
const metricOf = (run, name) => run.metrics.find((metric) => metric.name === name);
const known = (values) => values.filter((value) => value !== null && value !== undefined);

/** A number for people: a true minus sign, a dash if there is none. */
const shown = (value, digits = 4) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−"));

function fill(element, attributes, children) {
  Object.entries(attributes).forEach(([name, value]) => { if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value); });
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const vector = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// What is chosen. Every view listens, and redraws what depends on the names that changed.
const chosen = { run: 0, metric: "", layer: 0, sample: 0 };
const listeners = [];
const listen = (names, view) => listeners.push({ names, view });
function choose(changes) {
  const changed = Object.keys(changes).filter((name) => chosen[name] !== changes[name]);
  Object.assign(chosen, changes);
  listeners.filter((each) => each.names.some((name) => changed.includes(name))).forEach((each) => each.view(changed));
}

function options(select, values, labels = values) {
  const before = select.value;
  select.replaceChildren(...values.map((value, i) => new Option(labels[i], value)));
  if (values.includes(before)) select.value = before;
}

/** Positions on an axis: round numbers between two limits, about as many as wanted. */
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return { step, values: Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step) };
}
const decimals = (step) => Math.max(0, Math.min(6, Math.ceil(-Math.log10(step) - 1e-9)));

/** The text of a tooltip beside a point of the page; without lines, it goes. */
function tip(lines, x, y) {
  const box = at("tip");
  box.hidden = !lines;
  if (!lines) return;
  box.replaceChildren(...lines.map((line, i) => make(i ? "div" : "strong", {}, line)));
  const { width, height } = box.getBoundingClientRect();
  box.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 6))}px`;
  box.style.top = `${y + 18 + height > innerHeight ? Math.max(4, y - height - 14) : y + 18}px`;
}
