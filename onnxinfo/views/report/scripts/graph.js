"use strict";
// The model's graph: its layers, colored by the chosen metric.
const graph = (() => {
  const boxes = () => document.querySelectorAll(`.graph[data-run="${chosen.run}"] .node`);

  function paint() {
    const run = runs[chosen.run], metric = metricOf(run, chosen.metric);
    document.querySelectorAll(".graph").forEach((each) => { each.hidden = Number(each.dataset.run) !== chosen.run; });
    const values = metric ? known(metric.mean) : [], low = Math.min(...values), high = Math.max(...values);
    at("graph-scale").hidden = !values.length;
    if (values.length) legend(at("graph-scale"), low, high, metric.label);
    boxes().forEach((node) => {
      const layer = Number(node.dataset.layer), value = metric ? metric.mean[layer] : null, color = colorOf(value, low, high);
      node.querySelector("rect").style.fill = color || "";
      node.querySelectorAll("text").forEach((text) => { text.style.fill = color ? inkOn(color) : ""; });
      node.querySelector(".value").textContent = `${run.layers[layer].op}  ${shown(value)}`;
    });
    point();
  }
  function point() {
    boxes().forEach((node) => node.setAttribute("aria-pressed", String(Number(node.dataset.layer) === chosen.layer)));
  }
  function start() {
    document.querySelectorAll(".node").forEach((node) => {
      const take = () => { choose({ layer: Number(node.dataset.layer) }); samples.show(); };
      node.addEventListener("click", take);
      node.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); take(); }
      });
    });
    listen(["run", "metric"], paint);
    listen(["layer"], point);
    paint();
  }
  return { start };
})();
