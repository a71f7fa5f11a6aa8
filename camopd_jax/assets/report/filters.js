"use strict";
// Filters of a section live in the address, as in report.html#rollouts?branch=general&q=fever

function fromHash() {
  const [id, query] = location.hash.slice(1).split("?");
  return [id, new URLSearchParams(query || "")];
}

function toHash(id, state) {
  const query = new URLSearchParams(Object.entries(state).filter(([, value]) => value !== ""));
  history.replaceState(null, "", `#${id}${query.size ? `?${query}` : ""}`);
}

// fields: {name, label, options: [[value, words]...]} or {name, label, type, min, max, step}; "" is: not filtered.
function control(field) {
  if (field.options) {
    return el("select", {}, ...field.options.map(([value, words]) => el("option", { value }, words)));
  }
  return el("input", { type: field.type, min: field.min ?? null, max: field.max ?? null, step: field.step ?? null, autocomplete: "off" });
}

function setFrom(inputs, query) {
  for (const [name, input] of Object.entries(inputs)) {
    input.value = query.get(name) ?? "";
    if (input.selectedIndex === -1) input.selectedIndex = 0; // an option that is not there
  }
}

// A form of filters; show(state) is called now and when something changes, and returns what it shows, in words.
function filters(id, fields, show) {
  const inputs = Object.fromEntries(fields.map((field) => [field.name, control(field)]));
  const count = el("output", { class: "quiet", "aria-live": "polite" });
  const state = () => Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value]));
  const update = () => count.replaceChildren(show(state()));
  let timer = 0;
  const changed = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      toHash(id, state());
      update();
    }, 120);
  };
  const adopt = () => {
    const [at, query] = fromHash();
    if (at === id) setFrom(inputs, query);
    update();
  };
  addEventListener("hashchange", () => fromHash()[0] === id && adopt());
  const labels = fields.map((field) => el("label", { class: field.type || "select" }, field.label, inputs[field.name]));
  const form = el("form", { class: "filters", input: changed, submit: (event) => event.preventDefault() }, ...labels);
  adopt();
  return [form, count];
}

// Filters above a list of cards, which are filled where one looks.
// list: {items, noun, fields, passes(state) -> (item) -> bool, sorts: {value: compare}, head, body, height, gone}
function filteredList(id, spec) {
  const list = el("ul", { class: "cards" });
  let stop = () => {};
  const show = (state) => {
    const found = spec.items.filter(spec.passes(state));
    if (spec.sorts?.[state.sort]) found.sort(spec.sorts[state.sort]);
    stop();
    spec.gone?.();
    stop = lazyList(list, found, spec.head, spec.body, spec.height);
    return `${found.length} of ${spec.items.length} ${spec.noun}`;
  };
  return [...filters(id, spec.fields, show), list];
}

const STEP_RANGE = [
  { name: "from", label: "From step", type: "number", min: 0 },
  { name: "to", label: "To step", type: "number", min: 0 },
];
const SEARCH = { name: "q", label: "Search", type: "search" };

// The options of a select: all, or one of the values.
function optionsOf(values) {
  return [["", "all"], ...[...new Set(values)].map((value) => [value, value])];
}

function within(x, from, to) {
  return (!from || (x !== null && x >= Number(from))) && (!to || (x !== null && x <= Number(to)));
}

// Whether the words of the search field are in the item's text, which is lower case.
function hasWords(state, item) {
  return item.searched.includes(state.q.toLowerCase());
}
