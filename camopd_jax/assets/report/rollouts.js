"use strict";
// Training rollouts: every token coloured by how much the teacher likes it better (or worse) than the student.

const CLIP = 3; // nats, where a colour is full
const SPACES = { " ": "space", "\n": "newline", "\t": "tab" };
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

// White space gets a quiet sign from the style sheet and stays what it is, so that lines break and copies are true;
// what would be invisible or turn the text around is written as its code point.
function shownToken(text) {
  if (text === "") return [el("i", { class: "empty" })];
  return text.split(/([ \n\t])/).filter((part) => part).map((part) => SPACES[part]
    ? el("i", { class: SPACES[part] }, part)
    : part.replace(HIDDEN, (c) => `⟨${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`));
}

function gapOf(rollout, t) {
  const [teacher, student] = [rollout.teacher_logp[t], rollout.student_logp[t]];
  return teacher === null || student === null ? null : teacher - student;
}

function paint(node, gap) {
  if (gap === null || Math.abs(gap) < 0.05) return;
  node.classList.add(gap < 0 ? "neg" : "pos");
  if (Math.abs(gap) >= 1) node.classList.add("far");
  node.style.setProperty("--a", Math.min(1, Math.abs(gap) / CLIP).toFixed(2));
}

function tokenSpan(rollout, t) {
  const node = el("span", { class: "token", tabindex: t ? -1 : 0, "data-t": t }, ...shownToken(rollout.tokens[t]));
  paint(node, gapOf(rollout, t));
  return node;
}

function tokenWords(rollout, t) {
  const gap = gapOf(rollout, t);
  const side = gap === null || Math.abs(gap) < 0.1 ? "they agree" : gap > 0 ? "the teacher prefers it" : "the student is over-confident";
  const weight = rollout.weight[t] === 0 ? "0: outside the band, does not train" : number(rollout.weight[t], 2);
  return [
    el("b", { class: "said" }, JSON.stringify(rollout.tokens[t]).replace(HIDDEN, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`)),
    el("span", {}, `gap ${signed(gap)} nats: ${side}`),
    el("span", {}, `log p teacher ${number(rollout.teacher_logp[t], 2)}, student ${number(rollout.student_logp[t], 2)}`),
    el("span", {}, `importance weight ${weight}`),
  ];
}

let tipOf = null; // the token that the tip is of

function showTip(rollout, node) {
  hideTip();
  tipOf = node;
  node.setAttribute("aria-describedby", "tip");
  byId("tip").replaceChildren(...tokenWords(rollout, Number(node.dataset.t)));
  byId("tip").hidden = false;
  placeTip();
}

function placeTip() {
  const tip = byId("tip");
  const token = tipOf.getClientRects()[0];
  const { offsetWidth: width, offsetHeight: height } = tip;
  const above = token.top - height - 6;
  tip.style.left = `${Math.max(6, Math.min(token.left, document.documentElement.clientWidth - width - 6))}px`;
  tip.style.top = `${above > 4 ? above : token.bottom + 6}px`;
}

function hideTip() {
  byId("tip").hidden = true;
  tipOf?.removeAttribute("aria-describedby");
  tipOf = null;
}

// A focused token keeps its tip: focus alone may scroll the page.
function scrolled() {
  if (tipOf && tipOf === document.activeElement) placeTip();
  else if (tipOf) hideTip();
}

function moveFocus(event) {
  const move = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
  const next = move && event.target[move];
  if (event.key === "Escape") hideTip();
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function rolloutBody(rollout) {
  const tokens = rollout.tokens.map((_, t) => tokenSpan(rollout, t));
  const over = (event) => event.target.closest(".token") && showTip(rollout, event.target.closest(".token"));
  return [
    promptOf(rollout.prompt),
    el("div", { class: "tokens said", dir: "auto", role: "group", "aria-label": "Response; arrow keys go from token to token",
      mouseover: over, focusin: over, click: over, mouseleave: hideTip, focusout: hideTip, keydown: moveFocus }, ...tokens),
  ];
}

function rolloutHead(rollout) {
  const worst = rollout.worst === null ? "–" : signed(rollout.worst);
  return [el("p", { class: "who" },
    el("b", {}, `step ${rollout.step} · ${rollout.branch}`),
    rollout.selected ? badge("good", "selected") : badge("open", "not selected"),
    badge("open", rollout.ended ? "ended" : "cut at the limit"),
    el("span", { class: "quiet" }, `score ${number(rollout.score)} · ${rollout.tokens.length} tokens · worst ${worst} · ${rollout.id}`))];
}

function rolloutHeight(width) {
  const lines = (text, size) => Math.ceil((text.length * size) / width) + (text.match(/\n/g) || []).length;
  return (rollout) => 40 + promptHeight(rollout.prompt, width) + 26 * lines(rollout.text, 9);
}

function prepare(rollout) {
  const gaps = rollout.tokens.map((_, t) => gapOf(rollout, t)).filter((gap) => gap !== null);
  const worst = gaps.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0);
  const text = rollout.tokens.join("");
  return { ...rollout, text, worst: gaps.length ? worst : null, searched: `${rollout.prompt}\n${text}\n${rollout.id}`.toLowerCase() };
}

const SORTS = {
  score: (a, b) => b.score - a.score,
  worst: (a, b) => Math.abs(b.worst) - Math.abs(a.worst),
  long: (a, b) => b.tokens.length - a.tokens.length,
  short: (a, b) => a.tokens.length - b.tokens.length,
  last: (a, b) => b.step - a.step,
};

function passes(state) {
  return (r) => (!state.branch || r.branch === state.branch) && (!state.selected || r.selected === (state.selected === "yes"))
    && within(r.step, state.from, state.to) && hasWords(state, r);
}

function gapLegend() {
  const steps = [-3, -2, -1, 0, 1, 2, 3].map((gap) => {
    const node = el("span", { class: "token" }, signed(gap, 0));
    paint(node, gap);
    return node;
  });
  return el("p", { class: "legend tokens" }, el("span", {}, "student over-confident"), el("span", {}, ...steps),
    el("span", {}, "teacher prefers"), el("span", { class: "quiet" },
      "gap = log p teacher − log p student, nats; colour is full at ±3, from ±1 on also underlined (dotted where the student is over-confident)"));
}

function rollouts(id, rows) {
  const all = rows.map(prepare);
  const list = filteredList(id, { items: all, noun: "rollouts", passes, sorts: SORTS, gone: hideTip,
    head: rolloutHead, body: rolloutBody, height: rolloutHeight(roughWidth()), fields: [
      { name: "branch", label: "Branch", options: optionsOf(all.map((r) => r.branch)) },
      { name: "selected", label: "Selected", options: [["", "all"], ["yes", "selected"], ["no", "not selected"]] },
      { name: "sort", label: "Order", options: [["", "first steps first"], ["last", "last steps first"], ["score", "highest score"],
        ["worst", "worst token"], ["long", "longest"], ["short", "shortest"]] },
      ...STEP_RANGE, SEARCH] });
  addEventListener("scroll", scrolled, { passive: true });
  return [el("p", { class: "quiet" }, "A sample of the responses of the training, word for word, scored by the teacher of the step's branch."),
    gapLegend(), ...list];
}
