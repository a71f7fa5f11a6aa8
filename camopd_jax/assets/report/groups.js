"use strict";
// Training answers, a group's side by side with their rewards and advantages.
// A group: {step, group, id, prompt, marks, size, mean, trains, answers: [[text, reward, advantage, ended]...]}.

function groupAnswer([text, reward, advantage, ended]) {
  const side = advantage > 0 ? "better" : advantage < 0 ? "worse" : "";
  return el("div", { class: `answer ${side}` },
    el("p", { class: "who" }, el("b", {}, reward === null ? "not scored" : `reward ${number(reward)}`),
      el("span", { class: "quiet" }, `advantage ${signed(advantage, 3)}${ended ? "" : " · cut at the limit"}`)),
    said("div", answerText(text), { class: "text" }));
}

function groupHead(group) {
  const kept = group.answers.length;
  const count = kept < group.size ? `${kept} of its ${group.size} answers are kept` : `${kept} answers`;
  return [el("p", { class: "who" },
    el("b", {}, `step ${group.step}`),
    group.trains ? badge("good", "with spread") : badge("open", "no spread: trains nothing"),
    el("span", { class: "quiet" }, `mean reward ${number(group.mean)} · ${count} · ${group.id}`))];
}

function groupHeight(width) {
  const columns = Math.max(1, Math.floor(width / 250));
  return (group) => {
    const longest = Math.max(...group.answers.map(([text]) => text.length));
    const rows = Math.ceil(group.answers.length / columns);
    return 40 + promptHeight(group.prompt, width) + rows * (60 + 22 * Math.ceil((longest * 8 * columns) / width));
  };
}

const GROUP_SORTS = {
  last: (a, b) => b.step - a.step,
  high: (a, b) => b.mean - a.mean,
  low: (a, b) => a.mean - b.mean,
};

function groups(id, rows) {
  const items = rows.map((group) => ({ ...group,
    searched: [plainPrompt(group.prompt), group.id, ...group.answers.map(([text]) => text)].join("\n").toLowerCase() }));
  const passes = (state) => (group) => (!state.spread || group.trains === (state.spread === "yes"))
    && within(group.step, state.from, state.to) && within(group.mean, state.least, state.most) && hasWords(state, group);
  const list = filteredList(id, { items, noun: "groups", passes, sorts: GROUP_SORTS, head: groupHead,
    body: (group) => [promptOf(group.prompt, group.marks), el("div", { class: "answers" }, ...group.answers.map(groupAnswer))],
    height: groupHeight(roughWidth()), fields: [
      { name: "spread", label: "Group", options: [["", "all"], ["yes", "with spread"], ["no", "no spread"]] },
      { name: "sort", label: "Order", options: [["", "first steps first"], ["last", "last steps first"],
        ["high", "highest reward"], ["low", "lowest reward"]] },
      ...STEP_RANGE,
      { name: "least", label: "Reward from", type: "number", step: "any" },
      { name: "most", label: "Reward to", type: "number", step: "any" },
      SEARCH] });
  return [el("p", { class: "quiet" }, "A sample of the answers of the training, word for word. The answers to a question are one group: "
    + "what is better than its group (blue edge) becomes more likely, what is worse (red edge) less; a group without spread trains nothing. "
    + "“Reward from” and “to” are of a group's mean."), ...list];
}
