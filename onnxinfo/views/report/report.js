"use strict";
// All text from the data goes through textContent or Plotly with its markup escaped: names are never read as markup.
(() => {
  const { runs, colors, scale } = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const shown = (value) => (value === null ? "–" : value.toFixed(4));
  const metricOf = (run, name) => run.metrics.find((metric) => metric.name === name);
  const names = (list) => [...new Set(list.flatMap((run) => run.metrics.map((metric) => metric.name)))];
  const state = { run: 0, layer: null };

  function options(select, values) {
    const before = select.value;
    select.replaceChildren(...values.map((value) => new Option(value, value)));
    if (values.includes(before)) select.value = before;
  }
  function colorOf(value, low, high) {
    if (value === null) return null;
    return scale[Math.max(0, Math.min(254, Math.round((254 * (value - low)) / Math.max(high - low, 1e-9))))];
  }
  function inkOn(color) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
    return 0.299 * r + 0.587 * g + 0.114 * b > 128 ? "#000" : "#fff";
  }
  function legend(place, low, high, label, ends = ["", ""]) {
    const bar = document.createElement("span");
    bar.style.background = `linear-gradient(90deg, ${scale.filter((_, i) => i % 32 === 0).concat(scale[254]).join()})`;
    place.replaceChildren(`${label}: ${ends[0]}${shown(low)}`, bar, `${ends[1]}${shown(high)}`);
  }

  const dashes = ["solid", "dash", "dot", "dashdot"];
  const symbols = ["circle", "square", "diamond", "triangle-up"];
  // Paper is white, and as wide as a page of A4 or letter between its margins.
  const onPaper = { width: 680, colors: ["#1a1a1a", "#ffffff", "#d0d0d0"] };

  function drawCurve(print = null) {
    const css = getComputedStyle(document.documentElement);
    const [ink, paper, faint] = print ? print.colors : ["--ink", "--paper", "--faint"].map((name) => css.getPropertyValue(name).trim());
    const name = at("curve-metric").value, traces = [];
    let label = name;
    runs.forEach((run, number) => {
      const metric = metricOf(run, name);
      const box = document.querySelector(`#toggles input[data-run="${number}"]`);
      if (!metric || !box.checked) return;
      label = metric.label;
      const order = run.layers.map((_, i) => i).filter((i) => metric.mean[i] !== null)
        .sort((a, b) => run.layers[a].depth - run.layers[b].depth);
      const color = colors[number % colors.length];
      const x = order.map((i) => run.layers[i].depth);
      const band = (sign) => order.map((i) => metric.mean[i] + sign * (metric.stderr[i] || 0));
      traces.push({ x: x.concat(x.slice().reverse()), y: band(1).concat(band(-1).reverse()), fill: "toself", fillcolor: color + "40",
        line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false });
      traces.push({ x, y: order.map((i) => metric.mean[i]), mode: "lines+markers", name: plain(run.key), line: { color: color, dash: dashes[number % 4] },
        marker: { size: Math.max(6, 11 - 2 * number), color: color, symbol: order.map((i) => symbols[number % 4] + (metric.n_converged[i] < metric.n[i] ? "-open" : "")) },
        text: order.map((i) => `${plain(run.layers[i].name)}<br>${plain(metric.words[i])}<br>${metric.n[i] - metric.n_missing[i]} samples, ${metric.n_converged[i]} of ${metric.n[i]} proven`),
        hovertemplate: "%{text}<extra>%{fullData.name}</extra>" });
    });
    Plotly.react("curve", traces, { paper_bgcolor: paper, plot_bgcolor: paper, font: { color: ink }, margin: { l: 70, r: 10, t: 40, b: 50 },
      width: print ? print.width : undefined, autosize: !print,
      xaxis: { title: { text: "depth of the layer" }, gridcolor: faint, zeroline: false },
      yaxis: { title: { text: plain(label) }, gridcolor: faint, zeroline: false }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, showlegend: true },
    { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] });
  }

  function drawGraph() {
    const run = runs[state.run], metric = metricOf(run, at("graph-metric").value);
    document.querySelectorAll(".graph").forEach((graph) => { graph.hidden = Number(graph.dataset.run) !== state.run; });
    const known = metric.mean.filter((value) => value !== null);
    const low = Math.min(...known), high = Math.max(...known);
    legend(at("graph-scale"), low, high, metric.label);
    document.querySelectorAll(`.graph[data-run="${state.run}"] .node`).forEach((node) => {
      const layer = Number(node.dataset.layer), color = colorOf(metric.mean[layer], low, high);
      node.querySelector("rect").style.fill = color || "";
      node.querySelectorAll("text").forEach((text) => { text.style.fill = color ? inkOn(color) : ""; });
      node.querySelector(".value").textContent = `${run.layers[layer].op}  ${shown(metric.mean[layer])}`;
      node.setAttribute("aria-pressed", String(layer === state.layer));
    });
  }

  const decoded = new Map();
  function codes(run, name) {
    const key = `${run}/${name}`;
    if (!decoded.has(key)) decoded.set(key, Uint8Array.from(atob(runs[run].gallery.maps[name].codes), (c) => c.charCodeAt(0)));
    return decoded.get(key);
  }
  function figure(element, caption) {
    const found = document.createElement("figure"), text = document.createElement("figcaption");
    text.textContent = caption;
    found.append(element, text);
    return found;
  }
  function drawMaps() {
    const run = runs[state.run], gallery = run.gallery, place = at("maps");
    at("gallery-controls").hidden = gallery === null;
    if (gallery === null) { place.textContent = "This run has no maps."; return; }
    const name = at("map-metric").value, coded = gallery.maps[name], [rows, columns] = coded.shape;
    at("sample").max = gallery.samples.length - 1;
    const position = Math.min(Number(at("sample").value), gallery.samples.length - 1), sample = gallery.samples[position];
    const label = (run.labels ? `, label ${run.labels[sample]}` : "") + (run.predictions ? `, prediction: ${run.predictions[sample]}` : "");
    at("sample-name").textContent = `${run.samples[sample]}${label}`;
    at("gallery-note").textContent = gallery.samples.length < run.samples.length ? `${gallery.samples.length} of ${run.samples.length} samples, evenly chosen; the archive has all.` : "";
    legend(at("map-scale"), coded.low, coded.high, `${name === coded.metric ? "" : name + ": "}${metricOf(run, coded.metric).label}, one scale for all layers and samples`, ["≤ ", "≥ "]);
    const all = codes(state.run, name), figures = [];
    if (gallery.pictures) {
      const image = new Image();
      image.src = gallery.pictures[position];
      image.alt = `Input ${run.samples[sample]}${label}`;
      figures.push(figure(image, "input"));
    }
    run.layers.forEach((layer, number) => {
      const canvas = document.createElement("canvas");
      canvas.width = columns; canvas.height = rows;
      canvas.setAttribute("role", "img");
      const metric = metricOf(run, coded.metric), value = coded.values[number][sample];
      canvas.setAttribute("aria-label", `${name} map of ${layer.name} for ${run.samples[sample]}, mean ${shown(value)}`);
      const context = canvas.getContext("2d"), pixels = context.createImageData(columns, rows), size = rows * columns;
      const start = (number * gallery.samples.length + position) * size;
      for (let i = 0; i < size; i++) {
        const code = all[start + i];
        if (code === 255) continue;
        const color = parseInt(scale[code].slice(1), 16);
        pixels.data.set([color >> 16, (color >> 8) & 255, color & 255, 255], 4 * i);
      }
      context.putImageData(pixels, 0, 0);
      const mark = value !== null && !metric.converged[number][sample] ? " *not proven" : "";
      const found = figure(canvas, `${layer.short}: ${shown(value)}${mark}`);
      found.dataset.layer = number;
      found.classList.toggle("chosen", number === state.layer);
      figures.push(found);
    });
    place.replaceChildren(...figures);
  }

  function drawColumns(print = null) {
    const run = runs[state.run], units = run.units;
    at("columns").hidden = at("to-columns").hidden = units === null;
    if (units === null) return;
    const css = getComputedStyle(document.documentElement);
    const [ink, paper, faint] = print ? print.colors : ["--ink", "--paper", "--faint"].map((name) => css.getPropertyValue(name).trim());
    const name = at("columns-metric").value, metric = units.metrics[name], layer = at("columns-layer").selectedIndex;
    const known = metric.mean[layer], proven = metric.proven[layer];
    // Names may be the same: the axis counts, and shows the names.
    const places = units.names.map((_, i) => i);
    Plotly.react("columns-bars", [{ type: "bar", orientation: "h", y: places, base: metric.base, x: known.map((value) => (value === null ? null : value - metric.base)),
      error_x: { type: "data", array: metric.stderr[layer].map((value) => value || 0), color: ink },
      marker: { color: proven ? colors[0] : "rgba(0,0,0,0)", line: { color: colors[0], width: 1.5 } },
      text: known.map((value, i) => `${plain(units.names[i])}: ${shown(value)} ± ${shown(metric.stderr[layer][i])}`), textposition: "none", hovertemplate: "%{text}<extra></extra>" }],
    { paper_bgcolor: paper, plot_bgcolor: paper, font: { color: ink }, margin: { l: 10, r: 10, t: 30, b: 50 }, height: 120 + 22 * places.length,
      width: print ? print.width : undefined, autosize: !print,
      xaxis: { title: { text: plain(metricOf(run, name).label) }, gridcolor: faint, zeroline: false },
      yaxis: { tickvals: places, ticktext: units.names.map(plain), autorange: "reversed", automargin: true } },
    { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] });
  }

  function choose(layer) {
    state.layer = layer;
    if (runs[state.run].units) at("columns-layer").selectedIndex = layer;
    drawColumns();
    drawGraph();
    drawMaps();
    const found = document.querySelector("#maps figure.chosen");
    if (found) { found.tabIndex = -1; found.focus({ preventScroll: true }); found.scrollIntoView({ block: "center" }); }
  }
  function chooseRun() {
    const run = runs[state.run];
    options(at("graph-metric"), names([run]));
    if (run.gallery) options(at("map-metric"), Object.keys(run.gallery.maps));
    if (run.units) {
      options(at("columns-metric"), Object.keys(run.units.metrics));
      at("columns-layer").replaceChildren(...run.layers.map((layer) => new Option(layer.short)));
      at("columns-layer").selectedIndex = run.layers.length - 1;
    }
    drawColumns();
    drawGraph();
    drawMaps();
  }

  const headings = ["run", "layer", "layer_index", "op", "depth", "metric", "mean", "stderr", "gap", "n", "n_converged", "n_missing", "mark", "mean in words"];
  const rowsOf = () => runs.flatMap((run) => run.metrics.flatMap((metric) => run.layers.map((layer, i) =>
    [run.key, layer.name, layer.index, layer.op, layer.depth, metric.name, metric.mean[i], metric.stderr[i], metric.gap[i], metric.n[i], metric.n_converged[i], metric.n_missing[i], metric.mark[i] || "", metric.words[i]])));
  const byInput = () => runs.flatMap((run) => run.inputs.map((row) => {
    const layer = run.layers[row.layer];
    return [run.key, layer.name, layer.index, layer.op, layer.depth, `${row.metric} of ${row.input}`, row.value, row.stderr, null, row.n, row.n_converged, row.n_missing, "", ""];
  }));
  let table = rowsOf().concat(byInput()), sorted = { column: null, down: false };
  function fillTable() {
    at("numbers").tBodies[0].replaceChildren(...table.map((row) => {
      const line = document.createElement("tr");
      row.forEach((value, i) => {
        const cell = line.insertCell();
        cell.textContent = i >= 6 && i <= 8 ? shown(value) : String(value);
        if (typeof value === "number" || value === null) cell.className = "number";
      });
      return line;
    }));
  }
  function sortBy(column) {
    const down = sorted.column === column && !sorted.down;
    sorted = { column, down };
    table.sort((a, b) => {
      const [x, y] = [a[column], b[column]];
      if (x === null || y === null) return (x === null) - (y === null);
      return (down ? -1 : 1) * (typeof x === "number" ? x - y : String(x).localeCompare(String(y)));
    });
    [...at("numbers").tHead.rows[0].cells].forEach((cell, i) =>
      cell.setAttribute("aria-sort", i !== column ? "none" : down ? "descending" : "ascending"));
    fillTable();
  }
  headings.forEach((text, column) => {
    const cell = document.createElement("th"), button = document.createElement("button");
    cell.scope = "col";
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => sortBy(column));
    cell.append(button);
    at("numbers").tHead.rows[0].append(cell);
  });

  function csv() {
    // Prefix cells that a spreadsheet would interpret as a formula with a quote.
    const cell = (value) => {
      const text = value === null ? "" : String(value);
      const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
      return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
    };
    const lines = [["run", "layer", "layer_index", "op", "depth", "sample", "sample_name", "label", "metric", "value", "stderr", "gap", "mark", "converged"]];
    runs.forEach((run) => run.metrics.forEach((metric) => run.layers.forEach((layer, i) => run.samples.forEach((sample, j) => {
      if (metric.values[i][j] === null) return;
      lines.push([run.key, layer.name, layer.index, layer.op, layer.depth, j, sample, run.labels ? run.labels[j] : null, metric.name,
        metric.values[i][j], metric.errors[i][j], metric.gaps && metric.gaps[i][j], metric.marks && metric.marks[i][j], Boolean(metric.converged[i][j])]);
    }))));
    return lines.map((line) => line.map(cell).join(",")).join("\n") + "\n";
  }
  at("csv").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = "onnxinfo.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  at("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    drawCurve();
    drawColumns();
  });
  document.querySelectorAll(".node").forEach((node) => {
    node.addEventListener("click", () => choose(Number(node.dataset.layer)));
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(Number(node.dataset.layer)); }
    });
  });
  at("toggles").addEventListener("change", () => drawCurve());
  at("curve-metric").addEventListener("change", () => drawCurve());
  at("graph-metric").addEventListener("change", drawGraph);
  at("map-metric").addEventListener("change", drawMaps);
  at("sample").addEventListener("input", drawMaps);
  at("columns-metric").addEventListener("change", () => drawColumns());
  at("columns-layer").addEventListener("change", () => drawColumns());
  at("run").addEventListener("change", () => { state.run = Number(at("run").value); state.layer = null; chooseRun(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawCurve(); drawColumns(); });
  addEventListener("beforeprint", () => {
    document.querySelectorAll("#runs > details").forEach((each) => { each.open = true; });
    drawCurve(onPaper);
    drawColumns(onPaper);
  });
  addEventListener("afterprint", () => { drawCurve(); drawColumns(); });

  options(at("curve-metric"), names(runs));
  chooseRun();
  fillTable();
  drawCurve();
  document.documentElement.dataset.ready = "yes";
})();
