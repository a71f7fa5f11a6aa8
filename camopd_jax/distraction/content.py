"""What instances are made of, from assets/distraction/*.jsonl: genres and their sentences, patterns, task templates."""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

SPLITS = ("dev", "test")
LEVELS = ("short", "full")
CATEGORIES = ("meta-processing", "traditional-nlp", "structure-format", "analysis-safety")
SLOT = re.compile(r"{(\w+)}")


@dataclass(frozen=True)
class Fact:
    """Something that a genre's texts say, with a value of its own in each text."""

    name: str  # also the key in structured answers
    type: str  # person, city, thing, date, time, weekday: text; count, money: whole numbers
    ask: str  # a question whose answer it is
    noun: str  # "the chair of the meeting"
    state: str  # a clause with {v} for the value
    values: tuple[str, ...] = ()  # of a thing
    low: int = 0  # of a number
    high: int = 0


@dataclass(frozen=True)
class Sentence:
    """A sentence of a genre in several wordings, which give the same facts."""

    slot: str  # facts, aspect, list, phone, email, filler
    texts: tuple[str, ...]
    label: str = ""  # of an aspect

    @property
    def gives(self) -> frozenset[str]:
        """The names of what a reader learns from it."""
        return frozenset(SLOT.findall(self.texts[0])) if self.slot == "facts" else frozenset({self.slot})


@dataclass(frozen=True)
class Genre:
    """A kind of text: what its sentences tell, and how they tell it."""

    genre: str
    title: str
    facts: dict[str, Fact]
    aspect: dict  # name, ask, labels: one of two labels holds
    list: dict  # name, noun, one, values: a few things are listed
    summary: str
    sentences: tuple[Sentence, ...]  # in the order of a text; the first opens it


@dataclass(frozen=True)
class Pattern:
    """An atomic distractor: residues that ask for one and the same action, in several wordings."""

    pattern: str
    family: str
    action: dict  # with {mark} for one of the marks
    marks: tuple[str, ...]
    texts: tuple[str, ...]
    request: str  # the same as a real instruction


@dataclass(frozen=True)
class Template:
    """A main instruction in several wordings, and the operation that derives what is right (operations.py)."""

    template: str
    category: str
    op: str
    args: dict
    texts: tuple[str, ...]


@cache
def genres(split: str) -> tuple[Genre, ...]:
    """The genres of a split, in the order of the file."""
    sentences = _rows("sentences.jsonl")
    return tuple(
        Genre(
            row["genre"], row["title"], {f["name"]: Fact(**_tuples(f)) for f in row["facts"]}, row["aspect"],
            row["list"], row["summary"],
            tuple(
                Sentence(s["slot"], tuple(s["texts"]), s.get("label", ""))
                for s in sentences if s["genre"] == row["genre"]
            ),
        )
        for row in _of("genres.jsonl", split)
    )  # fmt: skip


@cache
def patterns(split: str) -> tuple[Pattern, ...]:
    """The distractor patterns of a split, in the order of the file."""
    return tuple(Pattern(**_tuples(row)) for row in _of("patterns.jsonl", split))


@cache
def templates(split: str, level: str) -> tuple[Template, ...]:
    """The task templates of a split and level, in the order of the file."""
    return tuple(
        Template(**_tuples(row, "level")) for row in _of("templates.jsonl", split) if row["level"] == level
    )  # fmt: skip


@cache
def pool(split: str, type_: str) -> tuple[str, ...]:
    """The values of a type that a split's texts draw from."""
    return next(tuple(row["values"]) for row in _of("values.jsonl", split) if row["type"] == type_)


def _of(name: str, split: str) -> list[dict]:
    return [row for row in _rows(name) if row["split"] == split]


def _tuples(row: dict, *without: str) -> dict:
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return {key: value for key, value in lists.items() if key not in ("split", *without)}


@cache
def _rows(name: str) -> list[dict]:
    text = (resources.files("camopd_jax") / "assets" / "distraction" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
