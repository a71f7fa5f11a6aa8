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

// fields: {name, label, options: [[value, words]...]} or {name, label, type, min, max}; "" is: not filtered.
function control(field) {
  if (field.options) {
    return el("select", {}, ...field.options.map(([value, words]) => el("option", { value }, words)));
  }
  return el("input", { type: field.type, min: field.min ?? null, max: field.max ?? null, autocomplete: "off" });
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
