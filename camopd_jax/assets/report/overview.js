"use strict";
// Whether it worked, what it cost, three examples; the table and the ratios.

function verdictOf({ headline, tone, points }, finished) {
  return el("div", { class: `verdict ${tone}` },
    el("p", { class: "headline" }, headline),
    el("ul", { class: "points" }, ...points.map((p) => el("li", {}, badge(p.tone, p.badge), el("span", {}, p.text)))),
    finished && el("p", { class: "quiet" }, "Recovery is (after − start) / (teacher − start), retention after / start. The intervals are "
      + "bootstrap intervals over held-out prompts: they do not cover another seed or other data."));
}

function warningsOf(warnings) {
  if (!warnings.length) return null;
  return el("div", {}, el("h3", {}, "Warnings during the training"), el("ul", { class: "points" }, ...warnings.map((w) => el("li", {},
    badge("mixed", w.name), el("span", {}, `Branch ${w.branch}, step ${w.steps}. ${w.means}`)))));
}

function costOf({ facts, stages }) {
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
    el("p", { class: "quiet" }, "The steps alone: making the domain teacher, evaluations and start-up come on top."));
}

const CHANGES = {
  fixed: ["good", "fixed: failed at the start, passes now"],
  broken: ["bad", "broken: passed at the start, fails now"],
  same: ["open", "same verdict as at the start"],
};

function answerOf(title, answer, role) {
  const word = answer === null ? ["open", "none"] : answer[1] === null ? ["open", "not checked"] : answer[1] ? ["good", "passed"] : ["bad", "failed"];
  return el("div", { class: `answer ${role}` },
    el("p", { class: "who" }, el("b", {}, title), badge(...word)),
    said("div", answer === null ? "" : answer[0] || "(an empty answer)", { class: "text" }));
}

function promptOf(text) {
  if (text.length <= 600) return said("div", text, { class: "prompt" });
  return el("details", { class: "prompt" }, el("summary", {}, said("span", `${text.slice(0, 200)} … (${text.length} characters)`)),
    said("div", text));
}

function answersOf(answers, item, shown) {
  const role = (i) => (i === answers.after ? "after" : i === answers.start ? "start" : "");
  return el("div", { class: "answers" }, ...shown.map((i) => answerOf(answers.models[i], item.answers[i], role(i))));
}

function itemHead(item) {
  const change = CHANGES[item.change];
  return el("p", { class: "who" }, el("span", { class: "quiet" }, `${item.task} · ${item.id}`), change ? badge(...change) : null);
}

function countsOf(items) {
  const of = (change) => items.filter((item) => item.change === change).length;
  return `${of("fixed")} fixed (failed at the start, pass now), ${of("broken")} broken, ${of("same")} with the same verdict`;
}

function examplesOf(answers) {
  if (!answers.examples.length) return [el("p", { class: "quiet" }, "None yet: there is no answer of the recovered student.")];
  const cards = answers.examples.map((i) => el("li", { class: "card" }, itemHead(answers.items[i]),
    promptOf(answers.items[i].prompt), answersOf(answers, answers.items[i], answers.shown)));
  return [
    el("p", { class: "quiet" }, `Chosen to show what came back; of all ${answers.items.length} held-out prompts: `
      + `${countsOf(answers.items)}. `, el("a", { href: "#answers" }, "All answers")),
    el("ul", { class: "cards" }, ...cards),
  ];
}

function tablesOf([table, ratios]) {
  return [tableOf(table, "Held-out measures"), el("p", { class: "quiet" }, "± one standard error over held-out prompts."),
    tableOf(ratios, "Ratios"), el("p", { class: "quiet" }, "“undefined”: the 95 % interval of the denominator contains 0, "
      + "so the ratio says nothing.")];
}

function recordOf(record) {
  return el("details", {}, el("summary", {}, `All ${record.length} values: config, versions, devices, models, data`),
    tableOf([["key", "value"], ...record], "Config and versions"));
}
