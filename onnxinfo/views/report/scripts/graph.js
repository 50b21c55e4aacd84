"use strict";
// The model's graph: layers from the input on, in as many columns as fit, colored by the chosen metric.
const graph = (() => {
  // Many layers are tiles without words.
  const many = 90, room = 30, side = 20;
  let width = 0;

  /** Corners of all boxes, row by row of the drawing like the words of a text. */
  function arrange({ ranks }, total) {
    const small = ranks.length > many, size = small ? { w: 26, h: 26, gap: 10 } : { w: 148, h: 44, gap: 30 };
    const count = Math.max(...ranks) + 1, fit = Math.max(1, Math.floor((total - 2 * side + size.gap) / (size.w + size.gap))), columns = Math.min(fit, count);
    const step = columns > 1 ? Math.min((total - 2 * side - size.w) / (columns - 1), size.w * (small ? 1.6 : 2)) : 0;
    const members = Array.from({ length: count }, () => []);
    ranks.forEach((rank, layer) => members[rank].push(layer));
    const boxes = [], tops = [];
    let top = 0;
    for (let start = 0; start < count; start += columns) {
      const part = members.slice(start, start + columns);
      tops.push(top);
      part.forEach((layers, column) => layers.forEach((layer, line) => {
        boxes[layer] = { x: side + column * step, y: top + room + line * (size.h + 12), column, row: tops.length - 1 };
      }));
      top += room + Math.max(...part.map((layers) => layers.length)) * (size.h + 12);
    }
    return { boxes, tops, size, small, height: top + 8 };
  }
  function route(from, to, { tops, size }) {
    const out = from.x + size.w, middle = from.y + size.h / 2, into = to.y + size.h / 2, above = from.x + size.w / 2, below = to.x + size.w / 2;
    if (from.row === to.row && to.column === from.column + 1) return `M${out} ${middle}C${(out + to.x) / 2} ${middle},${(out + to.x) / 2} ${into},${to.x} ${into}`;
    if (from.row === to.row) {
      const lift = Math.min(room - 6, 12 + 4 * (to.column - from.column));
      return `M${above} ${from.y}C${above} ${from.y - lift},${below} ${to.y - lift},${below} ${to.y}`;
    }
    const gutter = tops[to.row] + 10;
    if (to.row === from.row + 1) return `M${above} ${from.y + size.h}V${gutter}H${below}V${to.y}`;
    return `M${above} ${from.y + size.h}V${tops[from.row + 1] + 5}H${side / 2}V${gutter}H${below}V${to.y}`;
  }

  /** Limits of the colors: at least a standard error apart, so that means that are alike look alike. */
  function limits(values, errors) {
    const low = Math.min(...values), high = Math.max(...values), more = Math.max(0, Math.max(0, ...errors) - (high - low)) / 2;
    return [low - more, high + more];
  }

  function draw(given) {
    const run = runs[chosen.run], metric = metricOf(run, chosen.metric), box = at("nodes");
    width = given || box.clientWidth;
    const values = metric ? known(metric.mean) : [], [low, high] = values.length ? limits(values, known(metric.stderr)) : [0, 0];
    at("graph-scale").hidden = !values.length;
    if (values.length) legend(at("graph-scale"), low, high, metric.label);
    const lines = run.graph.known ? "Lines lead from a layer to those computed from it." : "Dotted lines: the order of depth only; the model's own connections need its file (--model).";
    at("graph-note").textContent = `${lines} Choose a layer to see its maps${metric && metric.n_converged.some((count, i) => count < metric.n[i]) ? "; dashed boxes have unproven samples" : ""}.`;
    const inner = Math.max(200, width - 20), found = arrange(run.graph, inner), { w, h } = found.size;
    const svg = vector("svg", { width: inner, height: found.height, viewBox: `0 0 ${inner} ${found.height}`, role: "group", "aria-label": `Layers of ${run.key}` });
    run.graph.lines.forEach(([from, to]) => svg.append(vector("path", { class: run.graph.known ? "edge" : "edge guessed", d: route(found.boxes[from], found.boxes[to], found) })));
    run.layers.forEach((layer, i) => {
      const value = metric ? metric.mean[i] : null, color = colorOf(value, low, high), place = found.boxes[i], fits = Math.floor((w - 14) / 7.2);
      const words = metric && metric.words[i] ? `${chosen.metric} ${metric.words[i]}` : "no value";
      const rect = vector("rect", { width: w, height: h, rx: 6 }), node = vector("g", { class: metric && metric.n_converged[i] < metric.n[i] ? "node unproven" : "node", tabindex: 0, role: "button", "data-layer": i,
        transform: `translate(${place.x} ${place.y})`, "aria-label": `${layer.name}, ${layer.op}, ${words}` },
      vector("title", {}, `${layer.name} · ${layer.op} · ${layer.shape} · ${layer.parameters} parameters · ${words}`), rect);
      if (color) rect.style.fill = color;
      if (!found.small) {
        node.append(vector("text", { x: 8, y: 18 }, layer.short.length > fits ? `${layer.short.slice(0, fits - 1)}…` : layer.short), vector("text", { class: "value", x: 8, y: 35 }, `${layer.op}  ${shown(value, 3)}`));
        if (color) node.querySelectorAll("text").forEach((text) => { text.style.fill = inkOn(color); });
      }
      svg.append(node);
    });
    box.replaceChildren(svg);
    point();
  }
  function point() {
    document.querySelectorAll("#nodes .node").forEach((node) => node.setAttribute("aria-pressed", String(Number(node.dataset.layer) === chosen.layer)));
  }
  function take(event) {
    const node = event.target.closest(".node");
    if (!node || (event.type === "keydown" && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    choose({ layer: Number(node.dataset.layer) });
    samples.show();
  }
  function start() {
    ["click", "keydown"].forEach((name) => at("nodes").addEventListener(name, take));
    listen(["run", "metric"], () => draw());
    listen(["layer"], point);
    new ResizeObserver(() => { if (at("nodes").clientWidth !== width && !matchMedia("print").matches) draw(); }).observe(at("nodes"));
    draw();
  }
  return { start, draw };
})();
