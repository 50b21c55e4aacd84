"use strict";
// All means as a table that sorts, and all values as CSV.
const numbers = (() => {
  const headings = [["run"], ["layer"], ["index", true], ["op"], ["depth", true], ["metric"], ["mean", true], ["± stderr", true], ["gap", true],
    ["samples", true], ["proven", true], ["missing", true], ["marks"]];
  const proof = (metric, i) => (metric.n[i] === 0 ? "missing" : metric.n_converged[i] < metric.n[i] ? "unproven" : "proven");
  const rowsOf = () => runs.flatMap((run) => run.metrics.flatMap((metric) => run.layers.map((layer, i) =>
    ({ title: metric.words[i], state: proof(metric, i), cells: [run.key, layer.name, layer.index, layer.op, layer.depth, metric.name, metric.mean[i], metric.stderr[i], metric.gap[i],
      metric.n[i], metric.n_converged[i], metric.n_missing[i], metric.mark[i] || ""] }))));
  const byInput = () => runs.flatMap((run) => run.inputs.map((row) => {
    const layer = run.layers[row.layer];
    return { title: "", state: row.n === 0 ? "missing" : row.n_converged < row.n ? "unproven" : "proven", cells: [run.key, layer.name, layer.index, layer.op, layer.depth, `${row.metric} of ${row.input}`,
      row.value, row.stderr, null, row.n, row.n_converged, row.n_missing, ""] };
  }));
  const signs = { proven: "●", unproven: "○", missing: "–" };
  const rows = rowsOf().concat(byInput());
  let sorted = { column: null, down: false };

  function fillTable() {
    at("numbers").tBodies[0].replaceChildren(...rows.map(({ title, state, cells }) => {
      const line = make("tr", { class: state, title: title || null });
      cells.forEach((value, i) => {
        const numeric = headings[i][1], text = i >= 6 && i <= 8 ? shown(value) : String(value);
        const cell = make("td", { class: numeric ? "number" : null });
        if (i === 6) cell.append(make("span", { class: "sign", role: "img", "aria-label": state, title: state }, signs[state]));
        cell.append(text);
        line.append(cell);
      });
      return line;
    }));
  }
  function sortBy(column) {
    const down = sorted.column === column && !sorted.down;
    sorted = { column, down };
    rows.sort((one, two) => {
      const [a, b] = [one.cells[column], two.cells[column]];
      if (a === null || b === null) return (a === null) - (b === null);
      return (down ? -1 : 1) * (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
    });
    [...at("numbers").tHead.rows[0].cells].forEach((cell, i) =>
      cell.setAttribute("aria-sort", i !== column ? "none" : down ? "descending" : "ascending"));
    fillTable();
  }

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
  function download() {
    const link = make("a", { href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })), download: "onnxinfo.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function start() {
    headings.forEach(([text, numeric], column) => {
      const button = make("button", { type: "button" }, text);
      button.addEventListener("click", () => sortBy(column));
      at("numbers").tHead.rows[0].append(make("th", { scope: "col", class: numeric ? "number" : null }, button));
    });
    at("csv").addEventListener("click", download);
    fillTable();
  }
  return { start };
})();
