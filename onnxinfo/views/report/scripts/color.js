"use strict";
// The scale of colors: codes, inks that can be read on them, and legends.
function colorOf(value, low, high, shades = scale) {
  if (value === null || value === undefined) return null;
  return shades[Math.max(0, Math.min(254, Math.round((254 * (value - low)) / Math.max(high - low, 1e-9))))];
}
function inkOn(color) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 128 ? "#000" : "#fff";
}
const gradient = (shades) => `linear-gradient(90deg, ${shades.filter((_, i) => i % 32 === 0).concat(shades[254]).join()})`;
function legend(place, low, high, label, ends = ["", ""], shades = scale) {
  const bar = make("span", { "aria-hidden": "true" });
  bar.style.background = gradient(shades);
  place.replaceChildren(make("em", {}, label), ` ${ends[0]}${shown(low, 3)}`, bar, `${ends[1]}${shown(high, 3)}`);
}
