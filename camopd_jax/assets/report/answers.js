"use strict";
// The held-out answers of all models, side by side.

function matches(state) {
  const words = state.q.toLowerCase();
  return (item) => (!state.task || item.task === state.task) && (!state.change || item.change === state.change)
    && (!words || item.searched.includes(words));
}

function itemHeight(width, answers) {
  const columns = Math.max(1, Math.floor(width / 250));
  const rows = Math.ceil(answers.models.length / columns);
  return (item) => {
    const longest = Math.max(...item.answers.map((a) => (a ? a[0].length : 0)));
    return 40 + 22 * Math.ceil((Math.min(600, item.prompt.length) * 7.5) / width) + rows * (50 + 22 * Math.ceil((longest * 8 * columns) / width));
  };
}

function answersList(id, answers) {
  const list = el("ul", { class: "cards" });
  const all = answers.items.map((item) => ({ ...item,
    searched: [item.prompt, item.id, ...item.answers.map((a) => (a ? a[0] : ""))].join("\n").toLowerCase() }));
  const everyone = answers.models.map((_, i) => i);
  const tasks = [...new Set(all.map((item) => item.task))];
  let stop = () => {};
  const show = (state) => {
    const found = all.filter(matches(state));
    stop();
    stop = lazyList(list, found, (item) => [itemHead(item)],
      (item) => [promptOf(item.prompt), answersOf(answers, item, everyone)], itemHeight(roughWidth(), answers));
    return `${found.length} of ${all.length} prompts`;
  };
  const [form, count] = filters(id, [
    { name: "task", label: "Task", options: [["", "all"], ...tasks.map((t) => [t, t])] },
    { name: "change", label: "Changed", options: [["", "all"], ["fixed", "fixed"], ["broken", "broken"], ["same", "same"]] },
    { name: "q", label: "Search", type: "search" },
  ], show);
  return [el("p", { class: "quiet" }, `Greedy answers. From start to recovered: ${countsOf(all)}.`), form, count, list];
}
