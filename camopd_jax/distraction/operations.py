"""What the task templates ask: each operation chooses what the text has to give and derives the right answer from it.

Meta-processing and traditional NLP stand here, structure and analysis in structures.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from camopd_jax.distraction.content import Fact, Genre
from camopd_jax.distraction.texts import NUMBERS, Document, accepted, capital, drawn, others
from camopd_jax.distraction.words import words

NAMED = ("person", "city", "thing")
SHORT_LINE, LONG_LINE = 16, 50  # words
LINE = {"kind": "plain_line", "n": SHORT_LINE}
YES = ("yes", "true", "correct", "right")
NO = ("no", "false", "incorrect", "wrong")


@dataclass(frozen=True)
class Solved:
    """An instruction's slots, and what is right."""

    slots: dict[str, str]
    gold: str
    task: dict  # tasks.py
    form: list[dict]  # forms.py
    alien: tuple[str, ...] = ()  # words that no distractor may have, or the answer would be another


@dataclass(frozen=True)
class Plan:
    """What a task needs of its text, and how it is solved there."""

    wanted: tuple[str, ...]
    solve: Callable[[Document], Solved]
    without: frozenset[str] = field(default_factory=frozenset)
    keep: tuple[str, ...] = ()  # "start", "end": where no distractor may stand


Rng = np.random.Generator


def pick(genre: Genre, types: Sequence[str], n: int, rng: Rng) -> list[Fact]:
    """Different facts of these types, in random order."""
    facts = [fact for fact in genre.facts.values() if fact.type in types]
    return [facts[i] for i in rng.permutation(len(facts))[:n]]


def task_of(fact: Fact, doc: Document) -> dict:
    """The check of an answer that gives a fact's value."""
    value = doc.facts[fact.name]
    if fact.type in NUMBERS:
        return number(int(value))
    return values([accepted(fact, value)], others(fact, value, doc.split))


def values(slots: list[list[str]], refuse: Sequence[str], *, ordered: bool = True, denial: bool = False) -> dict:
    return {"kind": "values", "slots": slots, "ordered": ordered, "refuse": list(refuse), "denial": denial}


def number(value: int, also: Sequence[int] = (), refuse: Sequence[int] = ()) -> dict:
    return {"kind": "number", "value": value, "also": list(also), "refuse": list(refuse)}


def verbatim(text: str) -> dict:
    return {"kind": "verbatim", "expected": text}


def copied_lines(n: int) -> dict:
    """The form of n lines that hold sentences of the text."""
    return {"kind": "line_count", "n": n, "most": LONG_LINE}


def truth(holds: bool) -> dict:
    """The check of an answer of yes or no, true or false."""
    accept, refuse = (YES, NO) if holds else (NO, YES)
    return {"kind": "label", "accept": list(accept), "refuse": list(refuse)}


def rows(*tasks: dict) -> dict:
    return {"kind": "rows", "tasks": list(tasks)}


def claim(fact: Fact, doc: Document, holds: bool, rng: Rng) -> str:
    """A clause that the text bears out, or contradicts with another value of the fact."""
    value = doc.facts[fact.name]
    while not holds and value in doc.facts.values():
        value = drawn(fact, doc.genre, doc.split, rng)
    return fact.state.format(v=value)


def edge_word(doc: Document, last: bool) -> str:
    """The first or the last word of the text, as it is written."""
    return doc.text.split()[-1 if last else 0].strip(".,;:!?")


# Meta-processing.


def first_word(genre: Genre, rng: Rng) -> Plan:
    return Plan((), lambda doc: _word(edge_word(doc, last=False)), keep=("start",))


def last_word(genre: Genre, rng: Rng) -> Plan:
    return Plan((), lambda doc: _word(edge_word(doc, last=True)), keep=("end",))


def _word(word: str) -> Solved:
    return Solved({}, word, verbatim(word), [LINE])


def first_sentence(genre: Genre, rng: Rng) -> Plan:
    return Plan((), lambda doc: _sentence(doc.sentences[0]), keep=("start",))


def last_sentence(genre: Genre, rng: Rng) -> Plan:
    return Plan((), lambda doc: _sentence(doc.sentences[-1]), keep=("end",))


def _sentence(sentence: str) -> Solved:
    return Solved({}, sentence, verbatim(sentence), [copied_lines(1)])


def earlier(genre: Genre, rng: Rng) -> Plan:
    a, b = pick(genre, NAMED, 2, rng)

    def solve(doc):
        one, other = doc.facts[a.name], doc.facts[b.name]
        first, later = sorted((a, b), key=lambda f: doc.text.find(doc.facts[f.name]))
        right, wrong = doc.facts[first.name], doc.facts[later.name]
        return Solved({"a": one, "b": other}, right, values([accepted(first, right)], [wrong]), [LINE])

    return Plan((a.name, b.name), solve)


def contains_word(genre: Genre, rng: Rng, *, yes: str, no: str) -> Plan:
    holds = bool(rng.integers(2))

    def solve(doc):
        candidates = [v for v in genre.list["values"] if (v in doc.listed) == holds and (v in words(doc.text)) == holds]
        word = str(rng.choice(candidates))
        return Solved({"word": word}, yes if holds else no, truth(holds), [LINE], alien=(word,))

    return Plan(("list",), solve)


def sentence_with(genre: Genre, rng: Rng, *, lead: str) -> Plan:
    (fact,) = pick(genre, (*NAMED, *NUMBERS), 1, rng)

    def solve(doc):
        sentence = doc.sentences[doc.where[fact.name]]
        form = [copied_lines(1)] + ([{"kind": "begins", "opening": lead.strip()}] if lead else [])
        return Solved({"noun": fact.noun}, lead + sentence, verbatim(sentence), form)

    return Plan((fact.name,), solve)


def first_and_last_sentence(genre: Genre, rng: Rng) -> Plan:
    def solve(doc):
        first, last = doc.sentences[0], doc.sentences[-1]
        return Solved({}, f"{first}\n{last}", rows(verbatim(first), verbatim(last)), [copied_lines(2)])

    return Plan((), solve, keep=("start", "end"))


def first_and_last_word(genre: Genre, rng: Rng) -> Plan:
    def solve(doc):
        first, last = edge_word(doc, last=False), edge_word(doc, last=True)
        gold = f"{first} + {last}"
        return Solved({}, gold, verbatim(gold), [{"kind": "joined_by", "joint": "+", "n": 2}])

    return Plan((), solve, keep=("start", "end"))


def absent(genre: Genre, rng: Rng) -> Plan:
    def solve(doc):
        gone = [v for v in genre.list["values"] if v not in words(doc.text)]
        there = [str(v) for v in rng.permutation(doc.listed)[:3]]
        word = str(rng.choice(gone))
        named = ", ".join(str(v) for v in rng.permutation([word, *there]))
        return Solved({"words": named}, word, values([[word]], there, denial=True), [LINE], alien=(word, *there))

    return Plan(("list",), solve)


def order(genre: Genre, rng: Rng) -> Plan:
    facts = pick(genre, NAMED, 3, rng)

    def solve(doc):
        ranked = sorted(facts, key=lambda f: doc.text.find(doc.facts[f.name]))
        asked = ", ".join(doc.facts[f.name] for f in facts)
        gold = " > ".join(doc.facts[f.name] for f in ranked)
        task = values([accepted(f, doc.facts[f.name]) for f in ranked], [])
        return Solved({"words": asked}, gold, task, [{"kind": "joined_by", "joint": ">", "n": 3}])

    return Plan(tuple(f.name for f in facts), solve)


# Traditional NLP.


def fact(genre: Genre, rng: Rng, *, types: Sequence[str]) -> Plan:
    (it,) = pick(genre, types, 1, rng)

    def solve(doc):
        return Solved({"ask": it.ask}, doc.facts[it.name], task_of(it, doc), [LINE])

    return Plan((it.name,), solve)


def aspect(genre: Genre, rng: Rng) -> Plan:
    def solve(doc):
        return Solved({"ask": genre.aspect["ask"]}, doc.label, _labelled(doc), [LINE])

    return Plan(("aspect",), solve)


def _labelled(doc: Document) -> dict:
    refuse = [label for label in doc.genre.aspect["labels"] if label != doc.label]
    return {"kind": "label", "accept": [doc.label], "refuse": refuse}


def two_questions(genre: Genre, rng: Rng) -> Plan:
    a, b = pick(genre, (*NAMED, *NUMBERS), 2, rng)

    def solve(doc):
        gold = f"{doc.facts[a.name]}\n{doc.facts[b.name]}"
        form = [{"kind": "line_count", "n": 2, "most": SHORT_LINE}]
        return Solved({"ask1": a.ask, "ask2": b.ask}, gold, rows(task_of(a, doc), task_of(b, doc)), form)

    return Plan((a.name, b.name), solve)


def names(genre: Genre, rng: Rng, *, joint: str) -> Plan:
    people = [f for f in genre.facts.values() if f.type == "person"]

    def solve(doc):
        ranked = sorted(people, key=lambda f: doc.text.find(doc.facts[f.name]))
        found = [doc.facts[f.name] for f in ranked]
        refuse = [v for v in others(people[0], "", doc.split) if v not in found]
        task = values([accepted(f, doc.facts[f.name]) for f in ranked], refuse)
        return Solved({}, joint.join(found), task, [{"kind": "series", "n": len(found)}])

    return Plan(tuple(f.name for f in people), solve)


def evidence(genre: Genre, rng: Rng) -> Plan:
    def solve(doc):
        sentence = doc.sentences[doc.where["aspect"]]
        task = rows(_labelled(doc), verbatim(sentence))
        return Solved({"ask": genre.aspect["ask"]}, f"{doc.label}\n{sentence}", task, [copied_lines(2)])

    return Plan(("aspect",), solve)


def summary(genre: Genre, rng: Rng) -> Plan:
    facts = [f for f in genre.facts.values() if "{" + f.name + "}" in genre.summary]

    def solve(doc):
        gold = genre.summary.format(**doc.facts)
        blank = genre.summary.format(**{f.name: "____" for f in facts})
        return Solved({"blank": blank}, gold, verbatim(gold), [copied_lines(1)])

    return Plan(tuple(f.name for f in facts), solve)


def entities(genre: Genre, rng: Rng) -> Plan:
    facts = [pick(genre, types, 1, rng)[0] for types in (("person",), ("city",), NUMBERS)]
    keys = ("PERSON", "PLACE", "NUMBER")

    def solve(doc):
        gold = "\n".join(f"{key}: {doc.facts[f.name]}" for key, f in zip(keys, facts, strict=True))
        task = {key.lower(): task_of(f, doc) for key, f in zip(keys, facts, strict=True)}
        form = [{"kind": "pairs", "keys": list(task), "joint": ":"}]
        slots = {letter: f.noun for letter, f in zip("abc", facts, strict=True)}
        return Solved(slots, gold, {"kind": "keyed", "tasks": task}, form)

    return Plan(tuple(f.name for f in facts), solve)


def sentence_answer(genre: Genre, rng: Rng) -> Plan:
    (it,) = pick(genre, (*NAMED, *NUMBERS), 1, rng)

    def solve(doc):
        gold = capital(it.state.format(v=doc.facts[it.name])) + "."
        form = [{"kind": "exact_sentences", "n": 1}, {"kind": "min_words", "n": 4}]
        return Solved({"ask": it.ask}, gold, task_of(it, doc), form)

    return Plan((it.name,), solve)
