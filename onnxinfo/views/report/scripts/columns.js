"use strict";
// The columns of a table: a bar for each, of the chosen layer.
const columns = (() => {
  let width = 0;
  const nameOf = (run) => (run.units && (chosen.metric in run.units.metrics ? chosen.metric : Object.keys(run.units.metrics)[0]));

  function draw(given) {
    const run = runs[chosen.run], units = run.units;
    at("columns").hidden = at("to-columns").hidden = units === null;
    if (units === null) return;
    const box = at("columns-bars");
    width = given || box.clientWidth;
    const name = nameOf(run), metric = units.metrics[name], layer = chosen.layer, row = 24, color = colors[chosen.run % colors.length];
    const left = Math.min(width * 0.36, 16 + 7 * Math.max(...units.names.map((text) => Math.min(text.length, 26)))), right = 76, inner = Math.max(40, width - left - right);
    const mean = metric.mean[layer], error = metric.stderr[layer].map((value) => value || 0);
    at("columns-title").textContent = `${name} of ${run.layers[layer].name}`;
    const all = known(mean).concat(metric.base, mean.flatMap((value, i) => (value === null ? [] : [value - error[i], value + error[i]])));
    const low = Math.min(...all), high = Math.max(...all), x = (value) => left + (inner * (value - low)) / Math.max(high - low, 1e-9);
    const height = row * units.names.length + 34;
    const svg = vector("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true", focusable: "false" });
    const { step, values } = ticks(low, high, inner / 90), bottom = height - 32;
    values.forEach((value) => svg.append(vector("line", { class: "grid", x1: x(value), x2: x(value), y1: 0, y2: bottom }),
      vector("text", { class: "axis", x: x(value), y: bottom + 14, "text-anchor": "middle" }, shown(value, decimals(step)))));
    svg.append(vector("text", { class: "axis title", x: left + inner / 2, y: height - 3, "text-anchor": "middle" }, metricOf(run, name).label));
    units.names.forEach((text, i) => {
      const middle = row * i + row / 2, value = mean[i], fits = Math.floor((left - 10) / 6.6);
      const line = vector("g", { class: "bar" }, vector("title", {}, `${text}: ${shown(value)} ± ${shown(metric.stderr[layer][i])}`),
        vector("text", { class: "axis name", x: left - 8, y: middle + 4, "text-anchor": "end" }, text.length > fits ? `${text.slice(0, fits - 1)}…` : text));
      if (value !== null) {
        line.append(vector("rect", { x: Math.min(x(value), x(metric.base)), y: middle - 7, width: Math.abs(x(value) - x(metric.base)), height: 14, fill: metric.proven[layer] ? color : "transparent", stroke: color }),
          vector("line", { class: "whisker", x1: x(value - error[i]), x2: x(value + error[i]), y1: middle, y2: middle }));
      }
      line.append(vector("text", { class: "axis", x: width - 4, y: middle + 4, "text-anchor": "end" }, shown(value, 3)));
      svg.append(line);
    });
    svg.append(vector("line", { class: "floor", x1: x(metric.base), x2: x(metric.base), y1: 0, y2: bottom }));
    box.replaceChildren(svg);
    box.setAttribute("aria-label", `${name} of ${run.layers[layer].name} by column: ${units.names.map((text, i) => `${text} ${shown(mean[i], 3)}`).join(", ")}`);
  }
  function start() {
    listen(["run", "metric", "layer"], () => draw());
    new ResizeObserver(() => { if (at("columns-bars").clientWidth !== width && !matchMedia("print").matches) draw(); }).observe(at("columns-bars"));
    draw();
  }
  return { start, draw };
})();
