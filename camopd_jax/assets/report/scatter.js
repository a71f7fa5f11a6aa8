"use strict";
// The margin of each held-out question before and after, a dot a question: above the line it rose.
// margins: [[id, log RMR of the start, of the trained student]...]

const SIDE = { left: 52, right: 14, top: 12, bottom: 40, most: 620 };

function scatter(rows, describe, label) {
  const readout = el("p", { class: "readout", "aria-live": "polite" });
  const picture = svg("svg", { role: "img", tabindex: 0, "aria-label": `${label}; arrow keys go from question to question` });
  const figure = el("figure", { class: "chart scatter" }, el("figcaption", {}, el("b", {}, "log RMR, trained over start"),
    el("span", { class: "quiet" }, " nats a token; a dot a question")), picture, readout);
  const order = rows.map((_, i) => i).sort((a, b) => rows[a][1] - rows[b][1]);
  let [at, places] = [null, []];
  const cursor = svg("circle", { r: 7, class: "ring" });
  const show = (i) => {
    at = i;
    cursor.setAttribute("visibility", i === null ? "hidden" : "visible");
    if (i !== null) ["cx", "cy"].forEach((name, axis) => cursor.setAttribute(name, places[i][axis]));
    readout.replaceChildren(...(i === null ? ["Point at a dot, or use the arrow keys."] : describe(rows[i])));
  };
  new ResizeObserver(() => {
    const width = Math.max(280, Math.min(SIDE.most, figure.clientWidth - 2));
    const height = width - SIDE.left - SIDE.right + SIDE.top + SIDE.bottom; // one unit is as long across as upwards
    const range = padded(rows.flatMap(([, start, trained]) => [start, trained, 0]).filter((v) => v !== null));
    const x = scale(range, [SIDE.left, width - SIDE.right]);
    const y = scale(range, [height - SIDE.bottom, SIDE.top]);
    places = rows.map(([, start, trained]) => [x(start ?? 0), y(trained ?? 0)]);
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.setAttribute("width", width);
    picture.replaceChildren(...scatterAxes(range, x, y), ...places.map(([cx, cy], i) =>
      svg("circle", { cx, cy, r: 3.5, class: rows[i][2] > rows[i][1] ? "dot rose" : "dot fell" })), cursor);
    show(at);
  }).observe(figure);
  const nearest = (event) => {
    const box = picture.getBoundingClientRect();
    const far = ([cx, cy]) => Math.hypot(cx - (event.clientX - box.left), cy - (event.clientY - box.top));
    return order.reduce((best, i) => (far(places[i]) < far(places[best]) ? i : best));
  };
  picture.addEventListener("pointermove", (event) => show(nearest(event)));
  picture.addEventListener("pointerdown", (event) => show(nearest(event)));
  picture.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const next = at === null ? 0 : order.indexOf(at) + move;
    show(order[Math.max(0, Math.min(order.length - 1, next))]);
  });
  return figure;
}

function padded(values) {
  const [low, high] = extent(values);
  return [low - (high - low) * 0.04, high + (high - low) * 0.04];
}

function scatterAxes(range, x, y) {
  const [low, high] = range;
  const grid = ticks(low, high).filter((v) => v >= low && v <= high).flatMap((v) => [
    svg("line", { x1: x(low), x2: x(high), y1: y(v), y2: y(v), class: v === 0 ? "zero" : "grid" }),
    svg("line", { x1: x(v), x2: x(v), y1: y(low), y2: y(high), class: v === 0 ? "zero" : "grid" }),
    svg("text", { x: x(low) - 6, y: y(v) + 4, "text-anchor": "end" }, tickWords(v)),
    svg("text", { x: x(v), y: y(low) + 16, "text-anchor": "middle" }, tickWords(v))]);
  return [...grid, svg("line", { x1: x(low), y1: y(low), x2: x(high), y2: y(high), class: "limit" }),
    svg("text", { x: x(high), y: y(low) + 32, "text-anchor": "end" }, "start →"),
    svg("text", { x: x(low) + 6, y: y(high) + 12 }, "↑ trained")];
}

function marginsOf(rows) {
  if (!rows.length) return [el("p", { class: "quiet" }, "No question has a margin.")];
  const rose = rows.filter(([, start, trained]) => trained > start).length;
  const robust = (k) => rows.filter((row) => row[k] > 0).length;
  const words = `${rose} of ${rows.length} questions rose; ${robust(1)} were above 0 at the start, ${robust(2)} are now`;
  const describe = ([id, start, trained]) => [el("span", {}, `start ${signed(start)}`), el("span", {}, `trained ${signed(trained)}`),
    el("span", {}, `change ${signed(trained - start)}`), el("a", { href: `#answers?${new URLSearchParams({ q: id })}` }, id)];
  return [el("p", { class: "quiet" }, `log RMR = log PPL(bad output) − log PPL(gold output): above 0 the model finds the answer that `
    + `ignores the distractors likelier than the one that obeys them. Above the dashed line a question rose. ${words}.`),
    scatter(rows, describe, words)];
}
