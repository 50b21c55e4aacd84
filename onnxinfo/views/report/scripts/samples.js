"use strict";
// The samples: a grid that is searched, filtered and sorted, and all maps of the chosen one.
const samples = (() => {
  let listed = [];
  const gallery = () => runs[chosen.run].gallery;
  const mapName = () => at("map-metric").value;
  const metricName = () => (gallery() ? gallery().maps[mapName()].metric : chosen.metric);
  const metric = () => metricOf(runs[chosen.run], metricName());
  const positions = () => (gallery() ? gallery().samples : runs[chosen.run].samples.map((_, i) => i).slice(0, report.most));
  const isUnproven = (layer, sample) => metric() && metric().values[layer][sample] !== null && !metric().converged[layer][sample];
  const unprovenLayers = (sample) => runs[chosen.run].layers.filter((_, layer) => isUnproven(layer, sample)).length;
  const valueOf = (sample) => (metric() ? metric().values[chosen.layer][sample] : null);

  function described(sample) {
    const run = runs[chosen.run];
    return [run.samples[sample], run.labels && `label ${run.labels[sample]}`, run.predictions && `prediction ${run.predictions[sample]}`].filter(Boolean);
  }
  /** Those that match search and class, in the chosen order. */
  function matching() {
    const run = runs[chosen.run], words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean), label = at("class").value;
    const found = positions().filter((sample) => {
      const text = described(sample).join(" ").toLowerCase();
      const right = run.correct && run.correct[sample];
      const fits = label === "" || (label === "!" ? right === false : `=${run.labels[sample]}` === label);
      return fits && words.every((word) => text.includes(word));
    });
    const sign = { most: -1, least: 1 }[at("order").value];
    const number = (sample) => { const value = valueOf(sample); return value === null ? Infinity : sign * value; };
    if (sign) found.sort((a, b) => number(a) - number(b) || a - b);
    if (at("order").value === "unproven") found.sort((a, b) => unprovenLayers(b) - unprovenLayers(a) || a - b);
    return found;
  }
  const picture = (position, sample) => make("img", { src: gallery().pictures[position], alt: `Input ${runs[chosen.run].samples[sample]}` });
  const told = (text, event) => tip(text === null ? null : [text], event && event.clientX, event && event.clientY);

  function card(sample) {
    const run = runs[chosen.run], found = gallery(), right = run.correct ? run.correct[sample] : null, value = valueOf(sample);
    const line = make("li", { role: "option", tabindex: "-1", "data-sample": sample });
    if (found) {
      const position = found.samples.indexOf(sample), map = maps.mapOf(chosen.run, mapName(), chosen.layer, position);
      const canvas = maps.paint(map, maps.limitsOf(chosen.run, mapName(), chosen.layer), `${mapName()} map of ${run.layers[chosen.layer].name} for ${run.samples[sample]}, mean ${shown(value)}`);
      const pair = make("div", { class: map.rows > 1 ? "pair" : null }, found.pictures && map.rows > 1 ? picture(position, sample) : null, maps.framed(map, canvas, found.units, told));
      line.append(pair);
    }
    const count = unprovenLayers(sample);
    line.append(make("div", { class: "name" }, run.samples[sample]));
    if (run.labels || run.predictions) {
      const text = [run.labels && run.labels[sample], run.predictions && run.predictions[sample]].filter(Boolean).join(" → ");
      line.append(make("div", { class: right === false ? "bad" : "soft" }, right === null || right === undefined ? text : `${right ? "✓" : "✗"} ${text}`));
    }
    line.append(make("div", { class: "soft" }, `${metricName()} ${shown(value, 3)}${isUnproven(chosen.layer, sample) ? " ○ unproven" : ""}`));
    if (count) line.append(make("div", { class: "bad" }, `○ ${count} ${count === 1 ? "layer" : "layers"} unproven`));
    line.addEventListener("click", () => choose({ sample }));
    return line;
  }
  function list() {
    const run = runs[chosen.run];
    listed = matching();
    at("samples").replaceChildren(...listed.map(card));
    const all = positions().length;
    at("count").textContent = `${listed.length} of ${run.samples.length} samples`;
    if (!listed.length) at("samples").append(make("li", { class: "empty", role: "presentation" }, "No sample matches."));
    const notes = [];
    if (all < run.samples.length) notes.push(`${all} of ${run.samples.length} samples are on this page; the archive has all.`);
    if (gallery()) {
      const { step } = gallery().maps[mapName()];
      if (step > 1) notes.push(`Maps are thinned for this page: a pixel is the mean of ${step} by ${step} input pixels; the archive has all.`);
      if (gallery().averaged.length) notes.push(`${gallery().grid ? "A pixel" : "A position"} is the mean over ${gallery().averaged.join(" and ")}.`);
      if (Object.values(gallery().maps).some((map) => map.missing)) notes.push("Hatched: no value, such as padding.");
    } else notes.push("This run has no maps.");
    at("gallery-note").textContent = notes.join(" ");
    if (listed.length && !listed.includes(chosen.sample)) choose({ sample: listed[0] });
    else detail();
    mark();
  }
  function mark() {
    const lines = [...at("samples").querySelectorAll("[role=option]")];
    lines.forEach((line) => {
      const own = Number(line.dataset.sample) === chosen.sample;
      line.setAttribute("aria-selected", String(own));
      line.tabIndex = own ? 0 : -1;
    });
  }

  function detail() {
    const run = runs[chosen.run], found = gallery(), place = at("maps"), sample = chosen.sample;
    at("detail").hidden = !found;
    at("map-scale").hidden = !found;
    if (!found) return;
    const position = found.samples.indexOf(sample);
    if (position < 0) { place.replaceChildren(); return; }
    at("sample-name").textContent = described(sample).join(" · ");
    const [low, high] = maps.limitsOf(chosen.run, mapName(), chosen.layer), label = metric().label;
    legend(at("map-scale"), low, high, `${mapName() === metricName() ? "" : `${mapName()}: `}${label}, ${at("shared").checked ? "one scale for all layers" : `scale of ${run.layers[chosen.layer].short}; each layer has its own`}`, ["≤ ", "≥ "]);
    const figures = [];
    run.layers.forEach((layer, number) => {
      const map = maps.mapOf(chosen.run, mapName(), number, position), value = metric().values[number][sample];
      const canvas = maps.paint(map, maps.limitsOf(chosen.run, mapName(), number), `${mapName()} map of ${layer.name} for ${run.samples[sample]}, mean ${shown(value)}`);
      const frame = maps.framed(map, canvas, found.units, (text, event) => told(text === null ? null : `${layer.short}, ${text}`, event));
      const figure = make("figure", { "data-layer": number, tabindex: number === chosen.layer ? 0 : -1, role: "group", "aria-label": `${layer.name}, mean ${shown(value)}; the arrow keys read pixels, page up and down change the layer` },
        frame, make("figcaption", {}, `${layer.short}: ${shown(value, 3)}`, isUnproven(number, sample) ? make("span", { class: "bad" }, " ○ unproven") : null));
      figure.classList.toggle("chosen", number === chosen.layer);
      figure.addEventListener("click", () => choose({ layer: number }));
      figures.push(figure);
    });
    const rows = figures.length && found.maps[mapName()].shape[0] === 1;
    place.classList.toggle("rows", Boolean(rows));
    if (found.pictures && !rows) figures.unshift(make("figure", {}, picture(position, sample), make("figcaption", {}, "input")));
    place.replaceChildren(...figures);
    differences.draw(mapName(), sample, position, told);
  }

  /** Arrow keys read pixels of the map that has the focus, page up and down go to other layers. */
  function keys(event) {
    const figure = event.target.closest("figure[data-layer]");
    if (!figure) return;
    const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key], turn = { PageUp: -1, PageDown: 1 }[event.key];
    if (!way && !turn) return;
    event.preventDefault();
    if (way) { at("reading").textContent = `${runs[chosen.run].layers[chosen.layer].name}, ${figure.querySelector(".frame").step(...way)}`; return; }
    choose({ layer: Math.max(0, Math.min(runs[chosen.run].layers.length - 1, chosen.layer + turn)) });
    show();
  }
  function walk(event) {
    const lines = [...at("samples").querySelectorAll("[role=option]")], here = lines.findIndex((line) => line.tabIndex === 0);
    if (here < 0) return;
    const columns = lines.filter((line) => line.offsetTop === lines[0].offsetTop).length;
    const next = { ArrowRight: here + 1, ArrowLeft: here - 1, ArrowDown: here + columns, ArrowUp: here - columns, Home: 0, End: lines.length - 1 }[event.key];
    if (next === undefined || !lines[next]) return;
    event.preventDefault();
    choose({ sample: Number(lines[next].dataset.sample) });
    lines[next].focus();
  }
  /** Lead from a layer elsewhere on the page to its map. */
  function show() {
    const found = document.querySelector("#maps figure.chosen");
    if (found) { found.focus({ preventScroll: true }); found.scrollIntoView({ block: "center" }); }
  }

  function chooseRun() {
    const run = runs[chosen.run], labels = run.labels ? [...new Set(run.labels)].sort((a, b) => a.localeCompare(b, undefined, { numeric: true })) : [];
    const wrong = run.correct && run.correct.includes(false);
    options(at("class"), ["", ...(wrong ? ["!"] : []), ...labels.map((label) => `=${label}`)], ["all", ...(wrong ? ["misclassified"] : []), ...labels]);
    at("class").parentElement.hidden = labels.length < 2;
    const titles = run.gallery ? Object.keys(run.gallery.maps) : [];
    options(at("map-metric"), titles);
    at("map-metric").parentElement.hidden = titles.length < 2;
    at("shared").parentElement.hidden = !titles.length;
    chooseMetric();
  }
  function chooseMetric() {
    const found = gallery() && Object.keys(gallery().maps).find((title) => gallery().maps[title].metric === chosen.metric);
    if (found) at("map-metric").value = found;
    list();
  }
  function start() {
    ["search", "class", "order", "map-metric", "shared"].forEach((id) => at(id).addEventListener("input", list));
    at("samples").addEventListener("keydown", walk);
    at("maps").addEventListener("keydown", keys);
    listen(["run"], chooseRun);
    listen(["metric"], chooseMetric);
    listen(["layer"], list);
    listen(["sample"], () => { detail(); mark(); });
    chosen.sample = -1;
    chooseRun();
  }
  return { start, show };
})();
