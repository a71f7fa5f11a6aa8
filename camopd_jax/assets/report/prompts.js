"use strict";
// What was asked, and the words of an answer.
// A prompt is a text, or a conversation [{role, content}...]; marks: [[part of its text, what it is]...].

const FOLDED = 900; // characters, above which a prompt is folded

function plainPrompt(prompt) {
  return typeof prompt === "string" ? prompt : prompt.map((message) => message.content).join("\n");
}

// An answer, or what it is where nothing can be seen of it.
function answerText(text) {
  if (text === "") return "(an empty answer)";
  return text.trim() ? text : "(an answer of white space alone)";
}

function promptOf(prompt, marks = []) {
  const text = plainPrompt(prompt);
  const whole = () => (typeof prompt === "string" ? [said("div", text)] : prompt.map((message) => messageOf(message, marks)));
  if (text.length <= FOLDED) return el("div", { class: "prompt" }, ...whole());
  return el("details", { class: "prompt" },
    el("summary", {}, said("span", `${text.slice(0, 200)} … (${text.length} characters)`)), ...whole());
}

function messageOf({ role, content }, marks) {
  return el("div", { class: "message" }, el("span", { class: "role" }, role), said("div", "", {}, ...marked(content, marks)));
}

// The text as nodes, the marked parts with their number.
function marked(text, marks) {
  const places = marks.map(([part, title], i) => [text.indexOf(part), part, title, i + 1]).filter(([at, part]) => at >= 0 && part)
    .sort((a, b) => a[0] - b[0]);
  const nodes = [];
  let end = 0;
  for (const [at, part, title, n] of places) {
    if (at < end) continue;
    nodes.push(text.slice(end, at), el("mark", { title }, el("sup", { "aria-hidden": "true" }, String(n)), part));
    end = at + part.length;
  }
  return [...nodes, text.slice(end)];
}

// Pixels that a prompt takes, roughly.
function promptHeight(prompt, width) {
  const text = plainPrompt(prompt);
  const lines = (part) => Math.ceil((part.length * 7.5) / width) + (part.match(/\n/g) || []).length;
  return text.length > FOLDED ? 60 : 22 * lines(text) + (typeof prompt === "string" ? 0 : 26 * prompt.length);
}
