"""Operations of traditional NLP: questions, labels, entities, summaries; see operations.py."""

from collections.abc import Sequence

from camopd_jax.distraction.content import Genre
from camopd_jax.distraction.operations import (
    LINE,
    NAMED,
    SHORT_LINE,
    Plan,
    Rng,
    Solved,
    alone,
    copied_lines,
    focused,
    parts,
    pick,
    rows,
    task_of,
    verbatim,
)
from camopd_jax.distraction.texts import NUMBERS, Document, capital


def fact(genre: Genre, rng: Rng, *, types: Sequence[str]) -> Plan:
    """A question about one fact."""
    (it,) = pick(genre, types, 1, rng)

    def solve(doc):
        return Solved({"ask": it.ask}, doc.facts[it.name], focused(task_of(it, doc), doc, it.name), [LINE])

    return Plan((it.name,), solve)


def aspect(genre: Genre, rng: Rng) -> Plan:
    """Which of two labels the text bears out."""

    def solve(doc):
        return Solved({"ask": genre.aspect["ask"]}, doc.label, focused(_labelled(doc), doc, "aspect"), [LINE])

    return Plan(("aspect",), solve)


def _labelled(doc: Document) -> dict:
    refuse = [label for label in doc.genre.aspect["labels"] if label != doc.label]
    return {"kind": "label", "accept": [doc.label], "refuse": refuse}


def two_questions(genre: Genre, rng: Rng) -> Plan:
    """Two questions, a line each."""
    a, b = pick(genre, (*NAMED, *NUMBERS), 2, rng)

    def solve(doc):
        gold = f"{doc.facts[a.name]}\n{doc.facts[b.name]}"
        form = [{"kind": "line_count", "n": 2, "most": SHORT_LINE}]
        return Solved(
            {"ask1": a.ask, "ask2": b.ask}, gold, rows(*(focused(task_of(f, doc), doc, f.name) for f in (a, b))), form
        )

    return Plan((a.name, b.name), solve)


def names(genre: Genre, rng: Rng, *, joint: str) -> Plan:
    """All people, in the order of the text."""
    people = [f for f in genre.facts.values() if f.type == "person"]

    def solve(doc):
        ranked = sorted(people, key=lambda f: doc.text.find(doc.facts[f.name]))
        found = [doc.facts[f.name] for f in ranked]
        task = parts(*(task_of(f, doc) for f in ranked), ordered=True)
        return Solved({}, joint.join(found), task, [{"kind": "series", "n": len(found)}])

    return Plan(tuple(f.name for f in people), solve)


def evidence(genre: Genre, rng: Rng) -> Plan:
    """A label, and the sentence that shows it."""

    def solve(doc):
        sentence = doc.sentences[doc.where["aspect"]]
        task = rows(_labelled(doc), verbatim(sentence))
        return Solved({"ask": genre.aspect["ask"]}, f"{doc.label}\n{sentence}", task, [copied_lines(2)])

    return Plan(("aspect",), solve)


def summary(genre: Genre, rng: Rng) -> Plan:
    """A summary whose blanks are filled."""
    facts = [f for f in genre.facts.values() if "{" + f.name + "}" in genre.summary]

    def solve(doc):
        gold = genre.summary.format(**doc.facts)
        blank = genre.summary.format(**{f.name: "____" for f in facts})
        return Solved({"blank": blank}, gold, verbatim(gold), [copied_lines(1)])

    return Plan(tuple(f.name for f in facts), solve)


def entities(genre: Genre, rng: Rng) -> Plan:
    """A person, a place and a number, each behind its key."""
    facts = [pick(genre, types, 1, rng)[0] for types in (("person",), ("city",), NUMBERS)]
    keys = ("PERSON", "PLACE", "NUMBER")

    def solve(doc):
        gold = "\n".join(f"{key}: {doc.facts[f.name]}" for key, f in zip(keys, facts, strict=True))
        task = {key.lower(): alone(task_of(f, doc), doc, f.name) for key, f in zip(keys, facts, strict=True)}
        form = [{"kind": "pairs", "keys": list(task), "joint": ":"}]
        slots = {letter: f.noun for letter, f in zip("abc", facts, strict=True)}
        return Solved(slots, gold, {"kind": "keyed", "tasks": task}, form)

    return Plan(tuple(f.name for f in facts), solve)


def sentence_answer(genre: Genre, rng: Rng) -> Plan:
    """A question that wants a whole sentence."""
    (it,) = pick(genre, (*NAMED, *NUMBERS), 1, rng)

    def solve(doc):
        gold = capital(it.state.format(v=doc.facts[it.name])) + "."
        form = [{"kind": "exact_sentences", "n": 1}, {"kind": "min_words", "n": 4}, {"kind": "worded", "n": 2}]
        return Solved({"ask": it.ask}, gold, focused(task_of(it, doc), doc, it.name), form)

    return Plan((it.name,), solve)
