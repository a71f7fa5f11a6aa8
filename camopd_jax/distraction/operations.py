"""What the task templates ask: each operation chooses what the text has to give and derives the right answer from it.

Here is what they share; they stand by category in meta.py, language.py, structures.py and analysis.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from camopd_jax.distraction.content import Fact, Genre
from camopd_jax.distraction.texts import NUMBERS, Document, accepted, drawn, others

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
    solve: Callable[[Document], Solved | None]  # None where this text does not allow it
    without: frozenset[str] = field(default_factory=frozenset)
    keep: tuple[str, ...] = ()  # "start", "end": where no distractor may stand


Rng = np.random.Generator


def pick(genre: Genre, types: Sequence[str], n: int, rng: Rng) -> list[Fact]:
    """Different facts of these types, in random order."""
    facts = [fact for fact in genre.facts.values() if fact.type in types]
    return [facts[i] for i in rng.permutation(len(facts))[:n]]


def opens(genre: Genre, fact: Fact) -> bool:
    """The first sentence of the genre's texts gives the fact."""
    return fact.name in genre.sentences[0].gives


def task_of(fact: Fact, doc: Document) -> dict:
    """The check of an answer that gives a fact's value."""
    value = doc.facts[fact.name]
    if fact.type in NUMBERS:
        return number(int(value))
    return values([accepted(fact, value)], others(fact, value, doc.split))


def focused(task: dict, doc: Document, name: str) -> dict:
    """The check of an answer that gives a fact (or "aspect", "phone"), and not all that the text tells."""
    at = doc.where[name]
    told = [(value, doc.where[other]) for other, value in doc.facts.items() if other != name]
    told += [(item, doc.where["list"]) for item in doc.listed if "list" in doc.where]
    told += [(getattr(doc, key), doc.where[key]) for key in ("phone", "email") if key in doc.where and key != name]
    sentences = [sentence for i, sentence in enumerate(doc.sentences) if i != at]
    beside, foreign = [value for value, i in told if i == at], [value for value, i in told if i != at]
    return {"kind": "focused", "task": task, "beside": beside, "foreign": foreign, "most": 1, "sentences": sentences}


def whole_name(task: dict) -> dict:
    """The check of a person's name without the wordings that leave out the first name."""
    return {**task, "slots": [accepted[:2] for accepted in task["slots"]]}


def alone(task: dict, doc: Document, name: str) -> dict:
    """The check that a value stands by itself, as under a key: the values of the other facts are not beside it."""
    others = [value for other, value in doc.facts.items() if other != name]
    return {"kind": "focused", "task": task, "beside": [], "foreign": others, "most": 0, "sentences": []}


def values(slots: list[list[str]], refuse: Sequence[str], *, ordered: bool = True, denial: bool = False) -> dict:
    """The check `tasks.values`."""
    return {"kind": "values", "slots": slots, "ordered": ordered, "refuse": list(refuse), "denial": denial}


def number(value: int, also: Sequence[int] = (), refuse: Sequence[int] = ()) -> dict:
    """The check `tasks.number`."""
    return {"kind": "number", "value": value, "also": list(also), "refuse": list(refuse)}


def verbatim(text: str) -> dict:
    """The check `tasks.verbatim`."""
    return {"kind": "verbatim", "expected": text}


def copied_lines(n: int) -> dict:
    """The form of n lines that hold sentences of the text."""
    return {"kind": "line_count", "n": n, "most": LONG_LINE}


def truth(holds: bool) -> dict:
    """The check of an answer of yes or no, true or false."""
    accept, refuse = (YES, NO) if holds else (NO, YES)
    return {"kind": "label", "accept": list(accept), "refuse": list(refuse)}


def rows(*tasks: dict) -> dict:
    """The check `tasks.rows`."""
    return {"kind": "rows", "tasks": list(tasks)}


def parts(*tasks: dict, ordered: bool) -> dict:
    """The check `tasks.parts`."""
    return {"kind": "parts", "tasks": list(tasks), "ordered": ordered}


def claim(fact: Fact, doc: Document, holds: bool, rng: Rng) -> str:
    """A clause that the text bears out, or contradicts with another value of the fact."""
    value = doc.facts[fact.name]
    while not holds and value in doc.facts.values():
        value = drawn(fact, doc.genre, doc.split, rng)
    return fact.state.format(v=value)


def edge_word(doc: Document, last: bool) -> str:
    """The first or the last word of the text, as it is written."""
    return doc.text.split()[-1 if last else 0].strip(".,;:!?")
