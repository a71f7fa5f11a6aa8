"""What a model is asked to write an instance about, drawn so that a set of instances is varied."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from camopd_jax.distraction import actions
from camopd_jax.distraction.content import CATEGORIES, LEVELS, SPLITS

WORDS = {"short": 120, "full": 400}  # of a text with its distractors, at most
SENTENCES = {"short": "3 to 5", "full": "8 to 14"}
_PLACES = ("before the first sentence", "between two sentences", "on a line of its own", "after the last sentence")
_RARE = ("words", "roman", "swap", "surname")  # fit few answers: the writer may still choose them


@dataclass(frozen=True)
class Idea:
    """An instance that is still to be written."""

    id: str
    split: str
    level: str
    category: str
    task: str
    genre: str
    topic: str
    families: dict[str, str]  # of the three distractors, with what they are
    actions: tuple[str, ...]  # kinds that they might ask for
    places: tuple[str, ...]  # where they might stand
    instruction_first: bool


def make(split: str, count: int, seed: int, level: str) -> list[Idea]:
    """The first `count` ideas; the same for the same arguments, and a longer list begins with the shorter one."""
    return [_idea(split, level, seed, number) for number in range(count)]


def _idea(split: str, level: str, seed: int, number: int) -> Idea:
    rng = np.random.default_rng((seed, SPLITS.index(split), LEVELS.index(level), number))
    category = CATEGORIES[number % len(CATEGORIES)]
    tasks = _texts("task", split, category)
    families = {row["name"]: row["text"] for row in _rows("family", split)}
    names = [str(name) for name in rng.choice(list(families), 3, replace=False)]
    kinds = [kind for kind in actions.KINDS if kind not in _RARE]
    return Idea(
        f"written-{split}-{level}-{seed}-{number:05d}", split, level, category,
        tasks[number // len(CATEGORIES) % len(tasks)],
        str(rng.choice(_texts("genre", split))), str(rng.choice(_texts("topic", split))),
        {name: families[name] for name in names},
        tuple(str(kind) for kind in rng.choice(kinds, 3, replace=False)),
        tuple(str(place) for place in rng.choice(_PLACES, 3)), bool(rng.integers(2)),
    )  # fmt: skip


def _texts(part: str, split: str, category: str | None = None) -> list[str]:
    return [row["text"] for row in _rows(part, split) if row.get("category") == category]


@cache
def _rows(part: str, split: str) -> list[dict]:
    text = (resources.files("camopd_jax") / "assets" / "distraction" / "ideas.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["part"] == part and row["split"] == split]
