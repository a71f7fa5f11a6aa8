"use strict";
// Line, dot and stacked-bar charts over the steps of a run, drawn at the width that is there.
// A chart: {title, unit, series: [{name, look, kind, points: [{x, y, e}]}], note, log, from0, top, line: {y, words}}

const EDGE = { left: 52, right: 12, top: 10, bottom: 26 };
const HEIGHT = 230;
const SHAPES = ["circle", "square", "triangle", "diamond", "cross"];

function ticks(low, high, log) {
  if (log) {
    const found = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
      for (const k of high / low > 1000 ? [1] : [1, 3]) found.push(k * 10 ** p);
    }
    return found.filter((x) => x >= low * 0.999 && x <= high * 1.001);
  }
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(+(i * step).toPrecision(12));
  return found;
}

function tickWords(v) {
  return number(v, 4).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

function extent(values, log) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - (Math.abs(low) * 0.1 || 1), high + (Math.abs(high) * 0.1 || 1)];
  return [low, high];
}

function scale([low, high], [from, to], log) {
  const f = log ? Math.log10 : (x) => x;
  return (x) => from + ((f(x) - f(low)) / (f(high) - f(low))) * (to - from);
}

function marker(shape, x, y, r, kind) {
  const d = {
    circle: `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
    square: `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    triangle: `M${x},${y - r * 1.2}l${r * 1.2},${r * 2.1}h${-2.4 * r}z`,
    diamond: `M${x},${y - r * 1.4}l${r * 1.4},${r * 1.4}l${-r * 1.4},${r * 1.4}l${-r * 1.4},${-r * 1.4}z`,
    cross: `M${x - r},${y - r}l${2 * r},${2 * r}m0,${-2 * r}l${-2 * r},${2 * r}`,
  }[shape];
  return svg("path", { d, class: `mark ${kind}` });
}

function axes(x, y, spec, width, [xs, ys]) {
  const right = width - EDGE.right;
  const bottom = HEIGHT - EDGE.bottom;
  const parts = ticks(...ys, spec.log).map((v) => svg("g", {},
    svg("line", { x1: EDGE.left, x2: right, y1: y(v), y2: y(v), class: v === 0 ? "zero" : "grid" }),
    svg("text", { x: EDGE.left - 6, y: y(v) + 4, "text-anchor": "end" }, tickWords(v))));
  for (const v of ticks(...xs).filter(Number.isInteger)) {
    parts.push(svg("text", { x: x(v), y: bottom + 17, "text-anchor": "middle" }, String(v)));
  }
  parts.push(svg("text", { x: EDGE.left - 6, y: bottom + 17, "text-anchor": "end" }, "step"));
  if (spec.line) {
    const at = y(spec.line.y);
    parts.push(svg("line", { x1: EDGE.left, x2: right, y1: at, y2: at, class: "limit" }),
      svg("text", { x: EDGE.left + 4, y: at - 4 }, spec.line.words));
  }
  return parts;
}

function drawSeries(series, x, y) {
  const shown = series.points.filter((p) => p.y !== null);
  const parts = [];
  if (series.kind !== "dots" && shown.length > 1) {
    const d = shown.map((p, i) => `${i ? "L" : "M"}${x(p.x)},${y(p.y)}`).join("");
    parts.push(svg("path", { d, class: `path ${series.dashed ? "dashed" : ""}` }));
  }
  for (const p of shown) {
    if (p.e) parts.push(svg("path", { d: `M${x(p.x)},${y(p.y - p.e)}V${y(p.y + p.e)}`, class: "error" }));
    if (shown.length <= 80 || series.kind !== "line") {
      parts.push(marker(SHAPES[series.look % 5], x(p.x), y(p.y), series.kind === "errors" ? 4 : 3, series.kind));
    }
  }
  return svg("g", { class: `c${series.look % 5}` }, ...parts);
}

function drawBars(series, x, y, width) {
  const steps = series[0].points.length;
  const pitch = (width - EDGE.left - EDGE.right) / (steps + 1);
  const wide = pitch < 4 ? pitch : Math.min(24, pitch - 1);
  const parts = [];
  for (let i = 0; i < steps; i++) {
    let sum = 0;
    series.forEach((s, k) => {
      const { x: at, y: value } = s.points[i];
      parts.push(svg("rect", { x: x(at) - wide / 2, width: wide, y: y(sum + value), height: y(sum) - y(sum + value),
        class: `bar c${k}` }));
      sum += value;
    });
  }
  return svg("g", {}, ...parts);
}

function rangeOf(spec) {
  const points = spec.series.flatMap((s) => s.points).filter((p) => p.y !== null);
  let values = points.flatMap((p) => (p.e ? [p.y - p.e, p.y + p.e] : [p.y]));
  if (spec.bars) values = spec.series[0].points.map((_, i) => spec.series.reduce((sum, s) => sum + s.points[i].y, 0));
  if (spec.line) values.push(spec.line.y);
  if (spec.from0) values.push(0);
  if (spec.top) values.push(spec.top);
  return [extent(points.map((p) => p.x)), extent(spec.log ? values.filter((v) => v > 0) : values, spec.log)];
}

function readoutAt(spec, at) {
  const words = (p) => `${number(p.y)}${p.e ? ` ± ${number(p.e)}` : ""}${p.x === at ? "" : ` (step ${p.x})`}`;
  return [el("span", {}, `step ${at}`), ...spec.series.map((s) => {
    const known = s.points.filter((p) => p.x <= at && p.y !== null).pop(); // a branch has no value in another's step
    return el("span", {}, key(s, spec.bars), ` ${s.name} ${known ? words(known) : "–"}`);
  })];
}

function key(series, bars) {
  const shape = bars ? svg("rect", { x: 4, y: 2, width: 10, height: 10, class: `bar c${series.look % 5}` })
    : marker(SHAPES[series.look % 5], 9, 7, 3.5, series.kind);
  const line = bars || series.kind === "dots" ? null : svg("path", { d: "M0,7H18", class: `path ${series.dashed ? "dashed" : ""}` });
  return svg("svg", { width: 18, height: 14, class: `key c${series.look % 5}`, "aria-hidden": "true" }, line, shape);
}

function chart(spec) {
  const head = el("figcaption", {}, el("b", {}, spec.title), el("span", { class: "quiet" }, ` ${spec.unit}`));
  const note = spec.note ? el("p", { class: "quiet" }, spec.note) : null;
  if (spec.log) spec.series.forEach((s) => { s.points = s.points.filter((p) => p.y > 0); });
  const xs = [...new Set(spec.series.flatMap((s) => s.points.filter((p) => p.y !== null).map((p) => p.x)))].sort((a, b) => a - b);
  if (!xs.length) return el("figure", { class: "chart" }, head, el("p", { class: "quiet" }, "No values."), note);
  const last = xs[xs.length - 1];
  const readout = el("p", { class: "readout", "aria-live": "polite" });
  const picture = svg("svg", { role: "img", tabindex: 0, height: HEIGHT, "aria-label":
    `${spec.title}, ${spec.unit}, over ${xs.length} steps; arrow keys read the values of a step` });
  const figure = el("figure", { class: "chart" }, head, picture, readout, note);
  interactive(figure, picture, readout, spec, xs, last);
  return figure;
}

function interactive(figure, picture, readout, spec, xs, last) {
  let at = last;
  let x = null;
  const cursor = svg("line", { y1: EDGE.top, y2: HEIGHT - EDGE.bottom, class: "cursor" });
  const show = (value) => {
    at = value;
    cursor.setAttribute("x1", x(at));
    cursor.setAttribute("x2", x(at));
    readout.replaceChildren(...readoutAt(spec, at));
  };
  const draw = () => {
    const width = Math.max(280, figure.clientWidth);
    const ranges = rangeOf(spec);
    const pad = spec.bars ? 16 : 6;
    x = scale(ranges[0], [EDGE.left + pad, width - EDGE.right - pad]);
    const y = scale(ranges[1], [HEIGHT - EDGE.bottom, EDGE.top], spec.log);
    picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    picture.setAttribute("width", width);
    picture.replaceChildren(...axes(x, y, spec, width, ranges), cursor,
      ...(spec.bars ? [drawBars(spec.series, x, y, width)] : spec.series.map((s) => drawSeries(s, x, y))));
    show(at);
  };
  picture.addEventListener("pointermove", (event) => {
    const here = event.clientX - picture.getBoundingClientRect().left;
    show(xs.reduce((best, v) => (Math.abs(x(v) - here) < Math.abs(x(best) - here) ? v : best)));
  });
  picture.addEventListener("pointerleave", () => show(last));
  picture.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    show(xs[Math.max(0, Math.min(xs.length - 1, xs.indexOf(at) + move))]);
  });
  new ResizeObserver(draw).observe(figure);
}
