"use strict";
// The chosen metric by depth: a line for each run, its standard error and the floor; the spread over samples of a run
// that is shown alone, as those of several would cover each other.
const curve = (() => {
  const margin = { left: 64, right: 16, top: 14, bottom: 46 };
  const dashes = ["", "7 4", "2 4", "8 4 2 4"];
  let width = 0, places = [];

  const shownRuns = () => runs.map((run, number) => ({ run, number, metric: metricOf(run, chosen.metric) }))
    .filter(({ metric, number }) => metric && !(document.querySelector(`#toggles input[data-run="${number}"]`) || { checked: true }).checked === false);
  const byDepth = (run, metric) => run.layers.map((_, i) => i).filter((i) => metric.mean[i] !== null)
    .sort((a, b) => run.layers[a].depth - run.layers[b].depth);

  const hasSpread = (lines) => lines.length === 1 && lines[0].run.samples.length > 2;
  const withError = (metric, sign) => metric.mean.map((value, i) => (value === null ? null : value + sign * (metric.stderr[i] || 0)));

  function limits(lines) {
    const all = lines.flatMap(({ metric }) => known(hasSpread(lines) ? metric.mean.concat(metric.low, metric.high) : withError(metric, -1).concat(withError(metric, 1))));
    let low = Math.min(...all), high = Math.max(...all);
    const floors = [...new Set(lines.map(({ metric }) => metric.floor))], floor = floors.length === 1 ? floors[0] : null;
    // A line far from the data would only compress them.
    const near = floor !== null && floor - 0.5 < low && low < floor + 2 * Math.max(high - low, 0.05);
    if (near) { low = Math.min(low, floor); high = Math.max(high, floor); }
    const room = 0.06 * (high - low) || 0.5;
    return { low: low - room, high: high + room, floor: near ? floor : null };
  }

  /** A closed band between two lines; a bar at a single point. */
  function band(order, x, y, low, high, name, color) {
    const points = order.filter((i) => low[i] !== null && high[i] !== null);
    if (!points.length) return null;
    if (points.length === 1) return vector("path", { class: name, fill: color, d: `M${x(points[0]) - 4} ${y(high[points[0]])}h8V${y(low[points[0]])}h-8Z` });
    const path = [...points.map((i) => [i, high[i]]), ...points.slice().reverse().map((i) => [i, low[i]])];
    return vector("path", { class: name, fill: color, d: `M${path.map(([i, value]) => `${x(i).toFixed(1)} ${y(value).toFixed(1)}`).join("L")}Z` });
  }
  /** Marks differ in shape between runs, and are hollow where a value is unproven. */
  function mark(number, x, y, color, hollow) {
    const look = { class: "mark", fill: hollow ? "var(--card)" : color, stroke: color };
    if (number % 4 === 0) return vector("circle", { ...look, cx: x, cy: y, r: 4.5 });
    const size = 4.5, shapes = [null, `M${x - size} ${y - size}h${2 * size}v${2 * size}h${-2 * size}Z`,
      `M${x} ${y - size - 1}L${x + size + 1} ${y}L${x} ${y + size + 1}L${x - size - 1} ${y}Z`, `M${x} ${y - size - 1}L${x + size + 1} ${y + size}H${x - size - 1}Z`];
    return vector("path", { ...look, d: shapes[number % 4] });
  }

  /** Names of layers below the axis, as many as fit; depths if the runs have different layers. */
  function xAxis(lines, x, bottom, inner) {
    const found = [], named = new Map();
    const alike = new Set(lines.map(({ run }) => run.layers.map((layer) => `${layer.depth} ${layer.name}`).join("\n"))).size === 1;
    if (alike) lines[0].run.layers.forEach((layer) => { if (!named.has(layer.depth)) named.set(layer.depth, layer.short); });
    else lines.forEach(({ run }) => run.layers.forEach((layer) => named.set(layer.depth, String(layer.depth))));
    const depths = [...named.keys()].sort((a, b) => a - b), longest = (most) => Math.max(...[...named.values()].map((text) => Math.min(text.length, most)));
    // Slanted names need the height of a line each, level ones their own length.
    const level = depths.length * (longest(14) * 6.6 + 10) <= inner, most = level ? 14 : 18;
    let last = -Infinity;
    depths.forEach((depth) => {
      const place = x(depth), text = named.get(depth), short = text.length > most ? `…${text.slice(1 - most)}` : text;
      found.push(vector("line", { class: "tick", x1: place, x2: place, y1: bottom, y2: bottom + 4 }));
      if (!level && place - last < 17) return;
      last = place;
      found.push(vector("text", { class: "axis", x: place, y: bottom + 17, "text-anchor": level ? "middle" : "end", transform: level ? null : `rotate(-35 ${place} ${bottom + 14})` }, short));
    });
    return { found, below: level ? 22 : 12 + Math.round(longest(most) * 4.1), title: alike ? "layer, placed by its depth" : "depth of the layer" };
  }

  /** Height without that of slanted names: at least as fits the width, and more where the headline beside is taller. */
  function heightOf(width, given) {
    const fit = Math.max(260, Math.min(380, Math.round(width * 0.52))), headline = document.querySelector(".first:not(.several) .headline"), section = at("curves");
    if (given || !headline || Math.abs(headline.getBoundingClientRect().top - section.getBoundingClientRect().top) > 2) return fit;
    // That of what the headline holds, not its own, which grows with the curve.
    const beside = headline.lastElementChild.getBoundingClientRect().bottom - headline.getBoundingClientRect().top;
    return Math.max(fit, Math.min(beside - 160, Math.round(width * 0.95)));
  }

  function draw(given) {
    const box = at("curve");
    width = given || box.clientWidth;
    const lines = shownRuns().filter(({ run, metric }) => byDepth(run, metric).length);
    legendOf(lines);
    places = [];
    if (!lines.length || !width) {
      box.replaceChildren(make("p", { class: "empty" }, runs.some((run) => metricOf(run, chosen.metric)) && !shownRuns().length ? "No run is chosen." : "No cell has a value: there is nothing to draw."));
      return;
    }
    const all = lines.flatMap(({ run }) => run.layers.map((layer) => layer.depth)), first = Math.min(...all), last = Math.max(...all);
    const { low, high, floor } = limits(lines), bottom = heightOf(width, given) - 42;
    const { step, values } = ticks(low, high, (bottom - margin.top) / 48), texts = values.map((value) => shown(value, decimals(step)));
    // The numbers must not reach the axis title.
    margin.left = Math.max(64, Math.round(34 + 7.6 * Math.max(...texts.map((text) => text.length))));
    const inner = width - margin.left - margin.right, pad = first === last ? 0.5 : 0.03 * (last - first);
    const x = (depth) => margin.left + (inner * (depth - first + pad)) / (last - first + 2 * pad);
    const below = xAxis(lines, x, 0, inner), height = bottom + 20 + below.below;
    const y = (value) => bottom - ((bottom - margin.top) * (value - low)) / (high - low);
    const svg = vector("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true", focusable: "false" });
    values.forEach((value, i) => svg.append(vector("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value) }),
      vector("text", { class: "axis", x: margin.left - 8, y: y(value) + 4, "text-anchor": "end" }, texts[i])));
    svg.append(...xAxis(lines, x, bottom, inner).found);
    svg.append(vector("text", { class: "axis title", x: margin.left + inner / 2, y: height - 4, "text-anchor": "middle" }, below.title));
    svg.append(vector("text", { class: "axis title", transform: `rotate(-90 13 ${(bottom + margin.top) / 2})`, x: 13, y: (bottom + margin.top) / 2 + 4, "text-anchor": "middle" }, lines[0].metric.label));
    if (floor !== null) {
      svg.append(vector("line", { class: "floor", x1: margin.left, x2: width - margin.right, y1: y(floor), y2: y(floor) }),
        vector("text", { class: "axis", x: width - margin.right, y: y(floor) + (bottom - y(floor) > 16 ? 14 : -5), "text-anchor": "end" }, `${chosen.metric === "sid" ? "floor of a linear layer" : "zero"}: ${shown(floor, 3)}`));
    }
    lines.forEach(({ run, number, metric }) => {
      const order = byDepth(run, metric), color = colors[number % colors.length], place = (i) => x(run.layers[i].depth);
      const spread = hasSpread(lines) ? band(order, place, y, metric.low, metric.high, "spread", color) : null;
      [spread, band(order, place, y, withError(metric, -1), withError(metric, 1), "error", color)].forEach((each) => { if (each) svg.append(each); });
      svg.append(vector("path", { class: "line", stroke: color, "stroke-dasharray": dashes[number % 4] || null, d: `M${order.map((i) => `${place(i).toFixed(1)} ${y(metric.mean[i]).toFixed(1)}`).join("L")}` }));
      order.forEach((i) => {
        svg.append(mark(number, place(i), y(metric.mean[i]), color, metric.n_converged[i] < metric.n[i]));
        places.push({ number, layer: i, x: place(i), y: y(metric.mean[i]) });
      });
    });
    const cursor = vector("g", { class: "cursor" }, vector("line", { y1: margin.top, y2: bottom }), vector("circle", { r: 8 }));
    svg.append(cursor);
    box.replaceChildren(svg);
    point();
  }

  /** Explain every line, band and mark that is drawn, and no other; what all runs share is in the color of text. */
  function legendOf(lines) {
    const swatch = (kind) => { const found = make("i", { class: `swatch ${kind}`, "aria-hidden": "true" }); if (lines.length === 1) found.style.color = colors[lines[0].number % colors.length]; return found; };
    const line = (number) => vector("svg", { class: "sample-line", viewBox: "0 0 36 12", width: 36, height: 12, "aria-hidden": "true", focusable: "false" },
      vector("path", { class: "line", stroke: colors[number % colors.length], "stroke-dasharray": dashes[number % 4] || null, d: "M0 6H36" }), mark(number, 18, 6, colors[number % colors.length], false));
    const entries = lines.length > 1 ? lines.map(({ run, number }) => [line(number), run.key]) : [];
    if (lines.some(({ metric }) => metric.stderr.some((value) => value))) entries.push([swatch("error"), "mean ± standard error"]);
    if (hasSpread(lines)) entries.push([swatch("spread"), "80% of the samples"]);
    if (lines.some(({ metric }) => metric.n_converged.some((count, i) => count < metric.n[i]))) entries.push([swatch("hollow"), "hollow: some samples are unproven"]);
    at("curve-legend").replaceChildren(...entries.map(([sign, text]) => make("li", {}, sign, text)));
  }

  function describe(number, layer) {
    const run = runs[number], metric = metricOf(run, chosen.metric), row = run.layers[layer];
    const there = metric.n[layer] - metric.n_missing[layer];
    return [row.name, runs.length > 1 ? run.key : null, metric.words[layer] || "no value yet", `${row.op}, depth ${row.depth}; ${metric.n_converged[layer]} of ${there} samples proven`].filter((line) => line !== null);
  }
  /** Show the chosen layer, and tell it to screen readers. */
  function point() {
    const run = runs[chosen.run], metric = metricOf(run, chosen.metric), box = at("curve"), cursor = box.querySelector(".cursor");
    const found = places.find((place) => place.number === chosen.run && place.layer === chosen.layer);
    box.setAttribute("aria-valuemax", run.layers.length - 1);
    box.setAttribute("aria-valuenow", chosen.layer);
    box.setAttribute("aria-valuetext", metric ? describe(chosen.run, chosen.layer).join(", ") : `${run.key} has no ${chosen.metric}`);
    if (!cursor) return;
    cursor.classList.toggle("none", !found);
    if (!found) return;
    cursor.firstChild.setAttribute("x1", found.x);
    cursor.firstChild.setAttribute("x2", found.x);
    cursor.lastChild.setAttribute("cx", found.x);
    cursor.lastChild.setAttribute("cy", found.y);
  }
  function nearest(event) {
    const box = at("curve").getBoundingClientRect(), left = event.clientX - box.left, top = event.clientY - box.top;
    return places.reduce((best, place) => {
      const far = Math.abs(place.x - left) * 4 + Math.abs(place.y - top);
      return best === null || far < best.far ? { ...place, far } : best;
    }, null);
  }

  function start() {
    const box = at("curve");
    box.addEventListener("pointermove", (event) => {
      const found = nearest(event);
      if (found) tip(describe(found.number, found.layer), event.clientX, event.clientY);
    });
    box.addEventListener("pointerleave", () => tip(null));
    box.addEventListener("click", (event) => {
      const found = nearest(event);
      if (found) choose({ run: found.number, layer: found.layer });
    });
    box.addEventListener("keydown", (event) => {
      const order = runs[chosen.run].layers.map((_, i) => i).sort((a, b) => runs[chosen.run].layers[a].depth - runs[chosen.run].layers[b].depth);
      const here = order.indexOf(chosen.layer), last = order.length - 1;
      const next = { ArrowRight: here + 1, ArrowUp: here + 1, ArrowLeft: here - 1, ArrowDown: here - 1, Home: 0, End: last }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      choose({ layer: order[Math.max(0, Math.min(last, next))] });
    });
    at("toggles").addEventListener("change", () => draw());
    listen(["metric"], () => draw());
    listen(["layer", "run"], point);
    new ResizeObserver(() => { if (box.clientWidth !== width && !matchMedia("print").matches) draw(); }).observe(box);
    draw();
  }
  return { start, draw };
})();
