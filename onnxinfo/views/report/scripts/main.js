"use strict";
// Controls of the whole page, and its start.
(() => {
  const select = { run: at("run"), metric: at("metric"), layer: at("layer") };
  const metrics = [...new Set(runs.flatMap((run) => run.metrics.map((metric) => metric.name)))];

  function sync() {
    const { layers } = runs[chosen.run];
    options(select.layer, layers.map((_, i) => String(i)), layers.map((layer) => layer.short));
    select.run.value = String(chosen.run);
    select.metric.value = chosen.metric;
    select.layer.value = String(chosen.layer);
  }
  /** The layer of that name in another run; else the one at the same position. */
  function sameLayer(run) {
    const name = runs[chosen.run].layers[chosen.layer].name, found = runs[run].layers.findIndex((layer) => layer.name === name);
    return found >= 0 ? found : Math.min(chosen.layer, runs[run].layers.length - 1);
  }

  options(select.run, runs.map((_, i) => String(i)), runs.map((run) => run.key));
  options(select.metric, metrics);
  select.run.parentElement.hidden = runs.length < 2;
  select.metric.parentElement.hidden = metrics.length < 2;
  select.run.addEventListener("change", () => { const run = Number(select.run.value); choose({ layer: sameLayer(run), run }); });
  select.metric.addEventListener("change", () => choose({ metric: select.metric.value }));
  select.layer.addEventListener("change", () => choose({ layer: Number(select.layer.value) }));
  listen(["run", "metric", "layer"], sync);

  at("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  // Paper is as wide as a page of A4 or letter between its margins, and nothing on it can be opened.
  const paper = 680;
  addEventListener("beforeprint", () => {
    document.querySelectorAll("main details").forEach((each) => { each.open = true; });
    [curve, graph, columns].forEach((view) => view.draw(paper));
  });
  addEventListener("afterprint", () => [curve, graph, columns].forEach((view) => view.draw()));

  const first = runs[0].metrics.find((metric) => metric.name === "sid") || runs[0].metrics[0];
  const means = first ? first.mean : [];
  const isReliable = (i) => 2 * first.n_converged[i] > first.n[i];
  // The layer that discards most is the first to look at, unless at least half of its cells are unproven.
  const most = means.reduce((best, value, i) => (value !== null && isReliable(i) && (best < 0 || value > means[best]) ? i : best), -1);
  Object.assign(chosen, { metric: first ? first.name : "", layer: most < 0 ? Math.max(0, runs[0].layers.length - 1) : most });
  sync();
  [curve, graph, samples, columns, numbers].forEach((view) => view.start());
  document.documentElement.dataset.ready = "yes";
})();
