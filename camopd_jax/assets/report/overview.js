"use strict";
// Whether it worked, what it cost, the tables.

function verdictOf({ headline, tone, points, note }) {
  return el("div", { class: `verdict ${tone}` },
    el("p", { class: "headline" }, headline),
    el("ul", { class: "points" }, ...points.map((p) => el("li", {}, badge(p.tone, p.badge), el("span", {}, p.text)))),
    note && el("p", { class: "quiet" }, note));
}

function warningsOf(warnings) {
  if (!warnings.length) return null;
  return el("div", {}, el("h3", {}, "Warnings during the training"), el("ul", { class: "points" }, ...warnings.map((w) => el("li", {},
    badge("mixed", w.name), el("span", {}, `Branch ${w.branch}, step ${w.steps}. ${w.means}`)))));
}

function costOf({ facts, stages, note }) {
  const total = stages.reduce((sum, [, seconds]) => sum + seconds, 0);
  const share = (seconds) => `${((100 * seconds) / total).toFixed(0)} %`;
  const bar = el("div", { class: "stages", "aria-hidden": "true" }, ...stages.map(([, seconds], i) => {
    const part = el("span", { class: `fill c${i}` });
    part.style.flexGrow = seconds;
    return part;
  }));
  const words = el("p", { class: "legend" }, ...stages.map(([name, seconds], i) => el("span", {},
    el("span", { class: `swatch fill c${i}`, "aria-hidden": "true" }), ` ${name} ${share(seconds)}`)));
  return el("div", {},
    el("dl", { class: "facts" }, ...facts.map(([name, words]) => el("div", {}, el("dt", {}, name), el("dd", {}, words)))),
    ...(total ? [bar, words] : []),
    el("p", { class: "quiet" }, note));
}

function titledTable({ title, rows, note }) {
  return [tableOf(rows, title), el("p", { class: "quiet" }, note)];
}

function recordOf(record) {
  return el("details", {}, el("summary", {}, `All ${record.length} values: config, versions, devices, models, data`),
    tableOf([["key", "value"], ...record], "Config and versions"));
}
