"use strict";
// The maps of a sample, layer by layer.
const maps = (() => {
  const decoded = new Map();
  function codes(run, name) {
    const key = `${run}/${name}`;
    if (!decoded.has(key)) decoded.set(key, Uint8Array.from(atob(runs[run].gallery.maps[name].codes), (c) => c.charCodeAt(0)));
    return decoded.get(key);
  }
  const figure = (element, caption) => make("figure", {}, element, make("figcaption", {}, caption));

  function draw() {
    const run = runs[chosen.run], gallery = run.gallery, place = at("maps");
    at("gallery-controls").hidden = at("map-scale").hidden = gallery === null;
    if (gallery === null) { place.replaceChildren("This run has no maps."); return; }
    const name = at("map-metric").value, coded = gallery.maps[name], [rows, columns] = coded.shape;
    at("sample").max = gallery.samples.length - 1;
    const position = Math.min(Number(at("sample").value), gallery.samples.length - 1), sample = gallery.samples[position];
    const label = (run.labels ? `, label ${run.labels[sample]}` : "") + (run.predictions ? `, prediction: ${run.predictions[sample]}` : "");
    at("sample-name").textContent = `${run.samples[sample]}${label}`;
    at("gallery-note").textContent = gallery.samples.length < run.samples.length ? `${gallery.samples.length} of ${run.samples.length} samples, evenly chosen; the archive has all.` : "";
    legend(at("map-scale"), coded.low, coded.high, `${name === coded.metric ? "" : name + ": "}${metricOf(run, coded.metric).label}, one scale for all layers and samples`, ["≤ ", "≥ "]);
    const all = codes(chosen.run, name), figures = [];
    if (gallery.pictures) figures.push(figure(make("img", { src: gallery.pictures[position], alt: `Input ${run.samples[sample]}${label}` }), "input"));
    run.layers.forEach((layer, number) => {
      const metric = metricOf(run, coded.metric), value = coded.values[number][sample];
      const canvas = make("canvas", { width: columns, height: rows, role: "img", "aria-label": `${name} map of ${layer.name} for ${run.samples[sample]}, mean ${shown(value)}` });
      const context = canvas.getContext("2d"), pixels = context.createImageData(columns, rows), size = rows * columns;
      const start = (number * gallery.samples.length + position) * size;
      for (let i = 0; i < size; i++) {
        const code = all[start + i];
        if (code === 255) continue;
        const color = parseInt(scale[code].slice(1), 16);
        pixels.data.set([color >> 16, (color >> 8) & 255, color & 255, 255], 4 * i);
      }
      context.putImageData(pixels, 0, 0);
      const unproven = value !== null && !metric.converged[number][sample] ? " *not proven" : "";
      const found = figure(canvas, `${layer.short}: ${shown(value)}${unproven}`);
      found.dataset.layer = number;
      figures.push(found);
    });
    place.replaceChildren(...figures);
    point();
  }
  function point() {
    document.querySelectorAll("#maps figure").forEach((each) => each.classList.toggle("chosen", Number(each.dataset.layer) === chosen.layer && each.dataset.layer !== undefined));
  }
  /** Lead from a layer elsewhere on the page to its map. */
  function show() {
    const found = document.querySelector("#maps figure.chosen");
    if (found) { found.tabIndex = -1; found.focus({ preventScroll: true }); found.scrollIntoView({ block: "center" }); }
  }
  function chooseRun() {
    const run = runs[chosen.run];
    if (run.gallery) options(at("map-metric"), Object.keys(run.gallery.maps));
    draw();
  }
  function start() {
    at("map-metric").addEventListener("change", draw);
    at("sample").addEventListener("input", draw);
    listen(["run"], chooseRun);
    listen(["layer"], point);
    chooseRun();
  }
  return { start, show };
})();
