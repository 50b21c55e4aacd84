"use strict";
// Maps as pictures whose values can be read: decoded from bytes, painted, and read by pointer or keys.
const maps = (() => {
  const decoded = new Map();
  function codes(run, name) {
    const key = `${run}/${name}`;
    if (!decoded.has(key)) decoded.set(key, Uint8Array.from(atob(runs[run].gallery.maps[name].codes), (c) => c.charCodeAt(0)));
    return decoded.get(key);
  }
  /** One map: its size, its codes, and the value of each pixel. */
  function mapOf(number, name, layer, position) {
    const { samples, maps: all } = runs[number].gallery, coded = all[name], [rows, columns] = coded.shape, size = rows * columns;
    const start = (layer * samples.length + position) * size, bytes = codes(number, name).subarray(start, start + size);
    const { low, high } = coded.layers[layer], step = (high - low) / 254;
    return { rows, columns, step: coded.step, error: step / 2, at: (i) => (bytes[i] === 255 ? null : low + bytes[i] * step) };
  }
  /** The limits of a layer's colors: its own, or those of all layers. */
  const limitsOf = (number, name, layer) => (at("shared").checked ? runs[number].gallery.maps[name].limits : runs[number].gallery.maps[name].layers[layer].limits);

  function paint(map, [low, high], label, shades = scale) {
    const canvas = make("canvas", { width: map.columns, height: map.rows, role: "img", "aria-label": label });
    const context = canvas.getContext("2d"), pixels = context.createImageData(map.columns, map.rows);
    for (let i = 0; i < map.rows * map.columns; i++) {
      const color = colorOf(map.at(i), low, high, shades);
      if (color === null) continue;
      const code = parseInt(color.slice(1), 16);
      pixels.data.set([code >> 16, (code >> 8) & 255, code & 255, 255], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  /** Where a pixel is, in the units of the sample, and its value to the digits that the page has. */
  function reading(map, row, column, units) {
    const value = map.at(row * map.columns + column), span = (place) => (map.step > 1 ? `${place * map.step}–${place * map.step + map.step - 1}` : `${place}`);
    const digits = Math.max(0, Math.min(4, Math.floor(-Math.log10(Math.max(2 * map.error, 1e-4)))));
    const where = map.rows > 1 ? `x ${span(column)}, y ${span(row)}` : units && map.step === 1 ? units[column] : `position ${span(column)}`;
    return `${where}: ${value === null ? "no value" : shown(value, digits)}`;
  }

  /** A map in a frame that shows which pixel is read; `tell` receives what is read there, or null. */
  function framed(map, canvas, units, tell) {
    const cross = make("span", { class: "cross", hidden: "" }), frame = make("span", { class: "frame" }, canvas, cross);
    const place = { row: Math.floor(map.rows / 2), column: Math.floor(map.columns / 2) };
    function read() {
      cross.hidden = false;
      Object.assign(cross.style, { left: `${(100 * place.column) / map.columns}%`, top: `${(100 * place.row) / map.rows}%`, width: `${100 / map.columns}%`, height: `${100 / map.rows}%` });
      return reading(map, place.row, place.column, units);
    }
    frame.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect(), inside = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
      place.row = inside((event.clientY - box.top) / box.height, map.rows);
      place.column = inside((event.clientX - box.left) / box.width, map.columns);
      tell(read(), event);
    });
    frame.addEventListener("pointerleave", () => { cross.hidden = true; tell(null); });
    frame.step = (down, right) => {
      if (!cross.hidden) {
        place.row = Math.max(0, Math.min(map.rows - 1, place.row + down));
        place.column = Math.max(0, Math.min(map.columns - 1, place.column + right));
      }
      return read();
    };
    return frame;
  }
  return { mapOf, limitsOf, paint, framed };
})();
