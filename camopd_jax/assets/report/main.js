"use strict";
// The sections of the page, in order.

// What draws a section, by the name that its data give; each returns nodes.
const RENDERERS = {
  verdict: (data) => [verdictOf(data.verdict), warningsOf(data.warnings)].filter((node) => node),
  cost: (data) => [costOf(data.cost)],
  examples: (data) => examplesOf(data.answers),
  tables: (data) => data.tables.flatMap(titledTable),
  curves: (data) => [curves(data)],
  rewardCurves: (data) => [rewardCurves(data)],
  margins: (data) => marginsOf(data.margins),
  diagnostics: (data) => [diagnostics(data.diagnostics)],
  rollouts: (data, id) => rollouts(id, data.rollouts),
  groups: (data, id) => groups(id, data.groups),
  answers: (data, id) => answersList(id, data.answers),
  record: (data) => [recordOf(data.record)],
};

function sectionOf({ id, title, draw, absent }, data) {
  const inside = absent ? [el("p", { class: "quiet" }, `Left out. ${absent}`)] : RENDERERS[draw](data, id);
  return el("section", { id, tabindex: -1 }, el("h2", {}, title), ...inside);
}

function goTo() {
  const target = byId(fromHash()[0]);
  if (target && target.tagName === "SECTION") target.scrollIntoView();
}

function main() {
  const data = JSON.parse(byId("data").textContent);
  byId("title").append(data.title);
  byId("subtitle").append(`Report of the run in ${data.workdir}`);
  byId("nav").append(...data.sections.map(({ id, title }) => el("a", { href: `#${id}` }, title)));
  for (const section of data.sections) byId("main").append(sectionOf(section, data));
  addEventListener("hashchange", goTo);
  goTo();
  document.documentElement.dataset.ready = "yes";
}

main();
