"use strict";
// The chosen map beside that of the same sample and layer in other runs, and their differences.
const differences = (() => {
  /** Position of the chosen sample and layer in another run, if it has a map of the same size there. */
  function match(other, name, sample) {
    const run = runs[chosen.run], second = runs[other];
    if (!second.gallery || !(name in second.gallery.maps)) return null;
    const layer = second.layers.findIndex((each) => each.name === run.layers[chosen.layer].name);
    const position = second.gallery.samples.findIndex((at) => at === sample && second.samples[at] === run.samples[sample]);
    const alike = String(second.gallery.maps[name].shape) === String(run.gallery.maps[name].shape);
    return layer < 0 || position < 0 || !alike ? null : { layer, position };
  }
  function minus(second, first) {
    return { ...first, error: first.error + second.error, at: (i) => (second.at(i) === null || first.at(i) === null ? null : second.at(i) - first.at(i)) };
  }

  function draw(name, sample, position, tell) {
    const run = runs[chosen.run], box = at("pairs"), first = maps.mapOf(chosen.run, name, chosen.layer, position), found = [];
    const limits = maps.limitsOf(chosen.run, name, chosen.layer), layer = run.layers[chosen.layer].short, units = run.gallery.units;
    const figure = (map, colors, label, shades) => make("figure", {}, maps.framed(map, maps.paint(map, colors, `${label}: ${name} map of ${layer} for ${run.samples[sample]}`, shades), units, tell), make("figcaption", {}, label));
    runs.forEach((other, number) => {
      const place = number === chosen.run ? null : match(number, name, sample);
      if (!place) return;
      const second = maps.mapOf(number, name, place.layer, place.position), change = minus(second, first);
      const sizes = known(Array.from({ length: first.rows * first.columns }, (_, i) => change.at(i))).map(Math.abs).sort((a, b) => a - b);
      const most = sizes.length ? sizes[Math.floor(0.995 * (sizes.length - 1))] || 1e-6 : 1, scaleLine = make("p", { class: "legend" });
      legend(scaleLine, -most, most, `${other.key} minus ${run.key}`, ["≤ ", "≥ "], report.diverging);
      found.push(make("h4", {}, `${layer}: ${run.key} and ${other.key}`), scaleLine,
        make("div", { class: "row" }, figure(first, limits, run.key), figure(second, limits, other.key), figure(change, [-most, most], "difference", report.diverging)));
    });
    box.hidden = !found.length;
    box.replaceChildren(...found);
  }
  return { draw };
})();
