"""Reference texts with structured facts, from which right answers are derived by program."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from camopd_jax.distraction import content
from camopd_jax.distraction.content import Fact, Genre, Sentence

SENTENCES = {"short": (3, 4), "full": (7, 10)}  # of a text, at least and at most, more only where a task needs more
LISTED = {"short": (3, 3), "full": (4, 5)}  # things in a list
NUMBERS = ("count", "money")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


@dataclass(frozen=True)
class Document:
    """A text and all that is true of it."""

    genre: Genre
    split: str
    sentences: tuple[str, ...]
    breaks: frozenset[int]  # sentences that begin a paragraph, the first aside
    facts: dict[str, str]  # of those that a sentence gives
    where: dict[str, int]  # what is given (a fact, list, aspect, phone, email) -> the sentence that gives it
    label: str
    listed: tuple[str, ...]
    phone: str
    email: str

    @property
    def text(self) -> str:
        """The sentences with what stands between them."""
        return "".join(self.gap(i) + sentence for i, sentence in enumerate(self.sentences))

    def gap(self, i: int) -> str:
        """What stands before sentence i."""
        return "" if i == 0 else "\n\n" if i in self.breaks else " "


def draw(
    genre: Genre, split: str, level: str, wanted: Sequence[str], without: Set[str], rng: np.random.Generator
) -> Document:
    """A text that gives what is wanted (names of facts, "list", "aspect", "phone", "email") and nothing of `without`.

    Its first sentence is the one that opens the genre; the others are drawn and stand in the genre's order.
    """
    values = _values(genre, split, rng)
    label = str(rng.choice(genre.aspect["labels"]))
    low, high = LISTED[level]
    listed = _some(genre.list["values"], int(rng.integers(low, high + 1)), rng)
    phone, email = f"555-01{rng.integers(10, 100)}", str(rng.choice(content.pool(split, "email")))
    chosen = _choose(genre.sentences, label, level, set(wanted), set(without), rng)
    filled = {**values, "list": _series(listed), "phone": phone, "email": email}
    sentences = tuple(capital(str(rng.choice(s.texts)).format(**filled)) for s in chosen)
    where = {name: i for i, s in enumerate(chosen) for name in s.gives}
    breaks = _breaks(len(chosen), rng) if level == "full" else frozenset()
    given = {name: value for name, value in values.items() if name in where}
    return Document(genre, split, sentences, breaks, given, where, label, listed, phone, email)


def accepted(fact: Fact, value: str) -> list[str]:
    """The wordings in which an answer may give a fact's value; one that begins with "=" has to be all of it."""
    if fact.type == "person":
        first, last = value.split()
        titles = [f"{title} {last}" for title in ("Mr", "Mrs", "Ms", "Dr", "Mayor")]
        return [value, f"{last} {first}", f"={last}", *titles]
    if fact.type == "date":
        day, month = value.split()
        nth = f"{day}{_ordinal(int(day))}"
        return [f"{d} {month}" for d in (day, nth, f"{nth} of")] + [f"{month} {d}" for d in (day, nth)]
    if fact.type == "time":
        hour, minute = value.split(":")
        full = [f"={hour}", f"{hour} o'clock"] if minute == "00" else []
        return [value, f"0{value}", *full] + ([f"{int(hour) - 12}:{minute} pm"] if int(hour) > 12 else [])
    return [value, f"{value}s"] if fact.type == "weekday" else [value]


def others(fact: Fact, value: str, split: str) -> list[str]:
    """Wrong values of the same type, which a right answer does not name."""
    if fact.type in ("person", "city"):
        return [v for v in content.pool(split, fact.type) if v != value]
    if fact.type == "time":
        return [f"{value} pm", f"{value} p.m."] if int(value.split(":")[0]) < 12 else []
    if fact.type == "weekday":
        return [v for day in WEEKDAYS if day != value for v in (day, f"{day}s")]
    return [v for v in fact.values if v != value]


def drawn(fact: Fact, genre: Genre, split: str, rng: np.random.Generator) -> str:
    """A value of the fact."""
    return _DRAWN[fact.type](fact, split, rng)


def capital(clause: str) -> str:
    """The clause with a capital at its beginning."""
    return clause[:1].upper() + clause[1:]


def _values(genre: Genre, split: str, rng: np.random.Generator) -> dict[str, str]:
    """A value for each fact of a genre; no two facts, nor two numbers of one, are equal."""
    values: dict[str, str] = {}
    for name, fact in genre.facts.items():
        value = drawn(fact, genre, split, rng)
        while value in values.values():
            value = drawn(fact, genre, split, rng)
        values[name] = value
    return values


_DRAWN: dict[str, Callable[[Fact, str, np.random.Generator], str]] = {
    "person": lambda fact, split, rng: str(rng.choice(content.pool(split, "person"))),
    "city": lambda fact, split, rng: str(rng.choice(content.pool(split, "city"))),
    "thing": lambda fact, split, rng: str(rng.choice(fact.values)),
    "weekday": lambda fact, split, rng: str(rng.choice(WEEKDAYS)),
    "date": lambda fact, split, rng: f"{rng.integers(1, 29)} {rng.choice(MONTHS)}",
    "time": lambda fact, split, rng: f"{rng.integers(7, 22)}:{rng.choice(['00', '10', '15', '20', '30', '45', '50'])}",
    "count": lambda fact, split, rng: str(rng.integers(fact.low, fact.high + 1)),
    "money": lambda fact, split, rng: str(rng.integers(fact.low, fact.high + 1)),
}


def _choose(
    sentences: Sequence[Sentence], label: str, level: str, wanted: set[str], without: set[str], rng: np.random.Generator
) -> list[Sentence]:
    usable = [
        i for i, s in enumerate(sentences) if not (s.gives & without) and (s.slot != "aspect" or s.label == label)
    ]
    chosen = {0} | {i for i in usable if sentences[i].gives & wanted}
    low, high = SENTENCES[level]
    size = max(int(rng.integers(low, high + 1)), len(chosen))
    # Contact data only where a task is about it, and in long texts now and then.
    spare = [i for i in usable if i not in chosen and (level == "full" or sentences[i].slot not in ("phone", "email"))]
    chosen |= {int(i) for i in rng.permutation(spare)[: size - len(chosen)]}
    return [sentences[i] for i in sorted(chosen)]


def _some(values: Sequence[str], n: int, rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(str(v) for v in rng.permutation(values)[:n])


def _series(listed: Sequence[str]) -> str:
    return ", ".join(listed[:-1]) + f" and {listed[-1]}"


def _breaks(n: int, rng: np.random.Generator) -> frozenset[int]:
    """Where paragraphs of at least two sentences begin: two or three paragraphs."""
    count = 1 if n < 9 else int(rng.integers(1, 3))
    places = [i for i in range(2, n - 1) if i % 2 == 0]
    return frozenset(int(i) for i in rng.permutation(places)[:count])


def _ordinal(day: int) -> str:
    return "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
