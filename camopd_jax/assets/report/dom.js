"use strict";
// Elements are made here alone. Text of a run becomes text nodes, never markup.

const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== false));
  return node;
}

function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

// Text that a model or a data set wrote: its direction and its line breaks are its own.
function said(tag, text, attributes = {}, ...more) {
  return el(tag, { dir: "auto", ...attributes, class: `said ${attributes.class || ""}` }, text, ...more);
}

function number(x, digits = 3) {
  if (x === null || x === undefined) return "–";
  const size = Math.abs(x);
  if (size !== 0 && (size >= 1e5 || size < 10 ** -digits)) return x.toExponential(1).replace("-", "−");
  return x.toFixed(Number.isInteger(x) ? 0 : digits).replace("-", "−");
}

function signed(x, digits = 2) {
  if (x === null || x === undefined) return "–";
  return (x > 0 ? "+" : "") + number(x, digits);
}

function badge(tone, word) {
  return el("span", { class: `badge ${tone}` }, word);
}

function tableOf(rows, label) {
  const [head, ...body] = rows;
  const line = (cells, tag) =>
    el("tr", {}, ...cells.map((cell, i) => el(i ? tag : "th", { scope: tag === "th" ? "col" : i ? null : "row" }, cell)));
  return el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": label },
    el("table", {}, el("thead", {}, line(head, "th")), el("tbody", {}, ...body.map((cells) => line(cells, "td")))));
}

// Pixels across a card, before it is there.
function roughWidth() {
  return Math.min(1180, innerWidth - 32) - 30;
}

// A long list whose cards are filled while they are near the screen, and emptied when they are far from it.
function lazyList(list, items, frame, contents, height) {
  const of = new Map();
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const body = target.lastElementChild;
      if (isIntersecting && !body.firstChild) {
        body.style.minHeight = "";
        body.append(...contents(of.get(target)));
      } else if (!isIntersecting && body.firstChild && !body.contains(document.activeElement)) {
        body.style.minHeight = `${body.getBoundingClientRect().height}px`;
        body.replaceChildren();
      }
    }
  }, { rootMargin: "900px 0px" });
  const cards = items.map((item) => {
    const body = el("div", { class: "body" });
    body.style.minHeight = `${height(item)}px`;
    const card = el("li", { class: "card" }, ...frame(item), body);
    of.set(card, item);
    return card;
  });
  list.replaceChildren(...cards);
  cards.forEach((card) => watch.observe(card));
  return () => watch.disconnect();
}
