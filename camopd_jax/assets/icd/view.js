"use strict";
// Marks the passages of the code that is pointed at, has the focus, or was kept.

const note = document.getElementById("note");
const buttons = [...document.querySelectorAll("button.code")];
const marks = [...note.querySelectorAll("mark")].map((node) => ({ node,
  codes: new Map(node.dataset.codes.split(" ").map((pair) => pair.split(":").map(Number))) }));
const suggested = document.querySelectorAll("#suggested button.code").length;
const said = document.getElementById("shown");
const overview = said.textContent;
let kept = null;

function show(code) {
  note.classList.toggle("choosing", code !== null);
  for (const { node, codes } of marks) {
    const strength = code === null ? 0 : codes.get(code) || 0;
    node.classList.toggle("on", strength > 0);
    node.classList.remove("here");
    node.style.setProperty("--strength", (0.15 + 0.85 * strength).toFixed(3));
  }
  for (const row of document.querySelectorAll("tr[data-code]")) row.classList.toggle("chosen", Number(row.dataset.code) === code);
  if (code === null) {
    said.textContent = overview;
    return;
  }
  const row = buttons[code].closest("tr");
  const n = row.querySelectorAll(".passage").length;
  said.textContent = `${buttons[code].textContent} ${row.querySelector(".title").textContent}: ${n} ${n === 1 ? "passage" : "passages"}`;
}

function keep(code) {
  kept = code;
  for (const button of buttons) button.setAttribute("aria-pressed", String(Number(button.dataset.code) === kept));
  show(kept);
}

function goTo(start) {
  const found = marks.find(({ node }) => Number(node.dataset.start) === start);
  if (!found) return;
  found.node.classList.add("here");
  found.node.scrollIntoView({ block: "center" });
}

function firstPassage(code) {
  const passage = buttons[code].closest("tr").querySelector(".passage");
  if (passage) goTo(Number(passage.dataset.start));
}

for (const { node, codes } of marks) {
  const best = [...codes].filter(([code]) => code < suggested).sort((a, b) => b[1] - a[1])[0];
  if (!best) continue;
  node.addEventListener("click", () => {
    keep(best[0]);
    buttons[best[0]].scrollIntoView({ block: "nearest" });
  });
}
for (const row of document.querySelectorAll("tr[data-code]")) {
  row.addEventListener("pointerenter", () => show(Number(row.dataset.code)));
  row.addEventListener("pointerleave", () => show(kept));
  row.addEventListener("focusin", () => show(Number(row.dataset.code)));
  row.addEventListener("focusout", () => show(kept));
}
for (const button of buttons) {
  button.addEventListener("click", () => {
    const code = Number(button.dataset.code);
    keep(kept === code ? null : code);
    if (kept !== null) firstPassage(code);
  });
  button.addEventListener("keydown", (event) => {
    const move = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const next = move && buttons[Number(button.dataset.code) + move];
    if (!move) return;
    event.preventDefault();
    if (next) next.focus();
  });
}
for (const passage of document.querySelectorAll(".passage")) {
  passage.addEventListener("click", () => {
    keep(Number(passage.dataset.code));
    goTo(Number(passage.dataset.start));
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") keep(null);
});
document.documentElement.dataset.ready = "yes";
