"use strict";
// A strip of cells, steps across and rows upwards.
// heat: {title, unit, steps, rows, values: [step][row], paint(v) -> [class, opacity], describe(step, row, v), low, high, note}

const CELL = { left: 52, right: 12, top: 6, bottom: 22 };

function heat(spec) {
  const readout = el("p", { class: "readout", "aria-live": "polite" });
  const picture = svg("svg", { role: "img", tabindex: 0, height: HEIGHT, "aria-label":
    `${spec.title}, ${spec.unit}: ${spec.rows} rows over ${spec.steps.length} steps; arrow keys read the cells` });
  const figure = el("figure", { class: "chart" },
    el("figcaption", {}, el("b", {}, spec.title), el("span", { class: "quiet" }, ` ${spec.unit}`)),
    picture, readout, spec.note ? el("p", { class: "quiet" }, spec.note) : null);
  let at = [spec.steps.length - 1, spec.rows - 1];
  let size = [1, 1];
  const cursor = svg("rect", { class: "cursor" });
  const show = ([c, r]) => {
    at = [Math.max(0, Math.min(spec.steps.length - 1, c)), Math.max(0, Math.min(spec.rows - 1, r))];
    const box = boxOf(...at, size, spec.rows);
    Object.entries(box).forEach(([name, value]) => cursor.setAttribute(name, value));
    readout.replaceChildren(spec.describe(spec.steps[at[0]], at[1], spec.values[at[0]][at[1]]));
  };
  new ResizeObserver(() => {
    const width = Math.max(280, figure.clientWidth);
    size = [(width - CELL.left - CELL.right) / spec.steps.length, (HEIGHT - CELL.top - CELL.bottom) / spec.rows];
    picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    picture.setAttribute("width", width);
    picture.replaceChildren(...heatCells(spec, size), ...heatLabels(spec, size, width), cursor);
    show(at);
  }).observe(figure);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - CELL.top) / size[1]);
    show([Math.floor((event.clientX - box.left - CELL.left) / size[0]), spec.rows - 1 - row]);
  });
  picture.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move) return;
    event.preventDefault();
    show([at[0] + move[0], at[1] + move[1]]);
  });
  return figure;
}

function boxOf(c, r, [wide, high], rows) {
  return { x: CELL.left + c * wide, y: CELL.top + (rows - 1 - r) * high, width: wide, height: high };
}

function heatCells(spec, size) {
  const found = [];
  spec.values.forEach((column, c) => column.forEach((value, r) => {
    const [kind, opacity] = spec.paint(value);
    if (opacity) found.push(svg("rect", { ...boxOf(c, r, size, spec.rows), class: kind, "fill-opacity": opacity.toFixed(3) }));
  }));
  return found;
}

function heatLabels(spec, [wide], width) {
  const every = Math.ceil(spec.steps.length / Math.max(2, Math.floor(width / 70)));
  const bottom = HEIGHT - CELL.bottom;
  const across = spec.steps.map((step, c) => (c % every ? null
    : svg("text", { x: CELL.left + (c + 0.5) * wide, y: bottom + 16, "text-anchor": "middle" }, String(step))));
  return [...across.filter((x) => x),
    svg("rect", { x: CELL.left, y: CELL.top, width: width - CELL.left - CELL.right, height: bottom - CELL.top, class: "frame" }),
    svg("text", { x: CELL.left - 6, y: CELL.top + 10, "text-anchor": "end" }, spec.high),
    svg("text", { x: CELL.left - 6, y: bottom - 2, "text-anchor": "end" }, spec.low),
    svg("text", { x: CELL.left - 6, y: bottom + 16, "text-anchor": "end" }, "step")];
}
