"use strict";
// The held-out answers of the models, side by side: three examples, and all of them.
// An item: {id, prompt, answers: [[text, passed, [[criterion, holds]...]]...], change, marks, gold}; a recovery has
// no criteria, marks and gold.

const CHANGES = {
  fixed: ["good", "fixed: failed at the start, passes now"],
  broken: ["bad", "broken: passed at the start, fails now"],
  same: ["open", "same verdict as at the start"],
};

function answerOf(title, answer, role) {
  const word = answer === null ? ["open", "none"] : answer[1] === null ? ["open", "not checked"] : answer[1] ? ["good", "passed"] : ["bad", "failed"];
  return el("div", { class: `answer ${role}` },
    el("p", { class: "who" }, el("b", {}, title), badge(...word)),
    said("div", answer === null ? "" : answerText(answer[0]), { class: "text" }),
    answer?.[2] ? criteriaOf(answer[2]) : null);
}

function criteriaOf(criteria) {
  return el("p", { class: "criteria" }, ...criteria.map(([word, holds]) =>
    el("span", { class: holds ? "holds" : "fails" }, `${holds ? "✓" : "✗"} ${word}`)));
}

function answersOf(answers, item, shown) {
  const role = (i) => (i === answers.after ? "after" : i === answers.start ? "start" : "");
  return el("div", { class: "answers" }, ...shown.map((i) => answerOf(answers.models[i], item.answers[i], role(i))));
}

function itemHead(answers, item) {
  const change = CHANGES[item.change];
  const words = [...answers.filters.map(([name]) => item[name]), item.id].join(" · ");
  return el("p", { class: "who" }, el("span", { class: "quiet" }, words), change ? badge(...change) : null);
}

function itemBody(answers, item, shown) {
  return [promptOf(item.prompt, item.marks), item.gold ? goldOf(item.gold) : null, answersOf(answers, item, shown)]
    .filter((node) => node);
}

function goldOf(text) {
  return el("p", { class: "who" }, el("b", {}, "gold output"), said("span", text));
}

function countsOf(items) {
  const of = (change) => items.filter((item) => item.change === change).length;
  return `${of("fixed")} fixed (failed at the start, pass now), ${of("broken")} broken, ${of("same")} with the same verdict`;
}

function examplesOf(answers) {
  if (!answers.examples.length) return [el("p", { class: "quiet" }, "None yet: there is no answer of the trained student.")];
  const cards = answers.examples.map((i) => answers.items[i]).map((item) =>
    el("li", { class: "card" }, itemHead(answers, item), ...itemBody(answers, item, answers.shown)));
  return [
    el("p", { class: "quiet" }, `Chosen to show what came back; of all ${answers.items.length} held-out prompts: `
      + `${countsOf(answers.items)}. `, el("a", { href: "#answers" }, "All answers")),
    el("ul", { class: "cards" }, ...cards),
  ];
}

function itemHeight(width, answers) {
  const columns = Math.max(1, Math.floor(width / 250));
  const rows = Math.ceil(answers.models.length / columns);
  return (item) => {
    const longest = Math.max(...item.answers.map((a) => (a ? a[0].length : 0)));
    const criteria = item.answers.some((a) => a?.[2]) ? 90 : 0;
    return 40 + promptHeight(item.prompt, width) + rows * (50 + criteria + 22 * Math.ceil((longest * 8 * columns) / width));
  };
}

function answersList(id, answers) {
  const items = answers.items.map((item) => ({ ...item,
    searched: [plainPrompt(item.prompt), item.id, ...item.answers.map((a) => (a ? a[0] : ""))].join("\n").toLowerCase() }));
  const everyone = answers.models.map((_, i) => i);
  const passes = (state) => (item) => answers.filters.every(([name]) => !state[name] || item[name] === state[name])
    && (!state.change || item.change === state.change) && hasWords(state, item);
  const list = filteredList(id, { items, noun: "prompts", passes, head: (item) => [itemHead(answers, item)],
    body: (item) => itemBody(answers, item, everyone), height: itemHeight(roughWidth(), answers), fields: [
      ...answers.filters.map(([name, label]) => ({ name, label, options: optionsOf(items.map((item) => item[name])) })),
      { name: "change", label: "Changed", options: [["", "all"], ["fixed", "fixed"], ["broken", "broken"], ["same", "same"]] },
      SEARCH] });
  return [el("p", { class: "quiet" }, `${answers.note}: ${countsOf(items)}.`), ...list];
}
