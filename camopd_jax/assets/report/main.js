"use strict";
// The sections of the page, in order.

function sectionOf(id, title, absent, contents) {
  const inside = absent ? [el("p", { class: "quiet" }, `Left out. ${absent}`)] : contents();
  return el("section", { id, tabindex: -1 }, el("h2", {}, title), ...inside);
}

function sections(data) {
  const { absent } = data;
  return [
    ["verdict", "Did it work?", null, () => [verdictOf(data.verdict, data.tables.length > 0), warningsOf(data.warnings)]],
    ["cost", "What it cost", null, () => [costOf(data.cost)]],
    ["examples", "Three examples", absent.answers, () => examplesOf(data.answers)],
    ["table", "All measures", absent.evaluation, () => tablesOf(data.tables)],
    ["curves", "Curves", absent.metrics, () => [curves(data)]],
    ["diagnostics", "Gradients", absent.diagnostics, () => [diagnostics(data.diagnostics)]],
    ["rollouts", "Training rollouts", absent.rollouts, () => rollouts("rollouts", data.rollouts)],
    ["answers", "Held-out answers", absent.answers, () => answersList("answers", data.answers)],
    ["config", "Config and versions", null, () => [recordOf(data.record)]],
  ];
}

function goTo() {
  const target = byId(fromHash()[0]);
  if (target && target.tagName === "SECTION") target.scrollIntoView();
}

function main() {
  const data = JSON.parse(byId("data").textContent);
  byId("title").append(data.title);
  byId("subtitle").append(`Report of the run in ${data.workdir}`);
  const all = sections(data);
  byId("nav").append(...all.map(([id, title]) => el("a", { href: `#${id}` }, title)));
  for (const parts of all) byId("main").append(sectionOf(...parts));
  addEventListener("hashchange", goTo);
  goTo();
  document.documentElement.dataset.ready = "yes";
}

main();
