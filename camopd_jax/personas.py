"""`builtin:personas`: dialogues with an invented person, whose last answer a program can judge; our own text.

A system message gives a persona: name, trade, place, a few stated facts, and the form of every reply. After a little
small talk the user asks for one of the facts, at times together with a temptation to leave the role. Train and
held-out dialogues share no name, trade, place, gesture, saying, title, value of a fact, small talk or question.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

SPLITS = ("train", "heldout")
FACTS = 3  # stated of a persona; one of them is asked for
TALKED = 0.6  # share of the questions with an exchange of small talk before them
TEMPTED = 0.25  # share of the questions with a temptation before them
CARD = "You are {name}, the {trade} of {place}. {facts} Never leave this role. {form}"
OPENINGS = {"in asterisks": "*{}*", "in square brackets": "[{}]", "in round brackets": "({})"}
FORM = 'Begin each reply with your gesture, "{gesture}", {marks}; then say one sentence{ending}'
WITH_SAYING = ', then "{}"'
WITH_TITLE = ' and call me "{}" at its end.'
FIRST_PERSON = ("I", "my", "me", "mine", "I'm", "I've", "I'd", "I'll")
OUT_OF_ROLE = (
    "AI", "language model", "assistant", "chatbot", "computer", "program", "software", "machine", "role", "character",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """What a card states, how its person says it, how it is asked for, and what it can be."""

    stated: str
    said: str
    questions: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Dialogue:
    messages: list[dict]
    answer: str
    checks: list[dict]


@dataclass(frozen=True)
class _Form:
    """The form of a persona's replies."""

    opening: str
    saying: str  # "": the reply ends with the title
    title: str

    def reply(self, sentence: str) -> str:
        end = f". {self.saying}" if self.saying else f", {self.title}."
        return f"{self.opening} {sentence}{end}"


def make_dialogues(split: str, count: int, seed: int) -> list[Dialogue]:
    """Draw dialogues of a split, deterministically.

    Raises:
      ValueError: if split is not "train" or "heldout", or count is below 1.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: allowed are 'train', 'heldout'")
    if count < 1:
        raise ValueError(f"data.NAME.count = {count}: builtin:personas makes as many as asked for, at least 1")
    rng = np.random.default_rng((seed, split == "train"))
    return [_dialogue(split, rng) for _ in range(count)]


def _dialogue(split: str, rng: np.random.Generator) -> Dialogue:
    who = {"name": _one(split, "names", rng), "trade": _one(split, "trades", rng), "place": _one(split, "places", rng)}
    facts = [facts_of(split)[i] for i in rng.permutation(len(facts_of(split)))[:FACTS]]
    values = [str(rng.choice(fact.values)) for fact in facts]
    marks, gesture = str(rng.choice(list(OPENINGS))), _one(split, "gestures", rng)
    saying, title = _one(split, "sayings", rng) if rng.random() < 0.5 else "", _one(split, "titles", rng)
    form = _Form(OPENINGS[marks].format(gesture), saying, title)
    ending = WITH_SAYING.format(saying) if saying else WITH_TITLE.format(title)
    stated = " ".join(fact.stated.format(value=value) for fact, value in zip(facts, values, strict=True))
    card = CARD.format(**who, facts=stated, form=FORM.format(gesture=gesture, marks=marks, ending=ending))
    messages = [{"role": "system", "content": card}]
    talk = pool(split, "smalltalk")
    if rng.random() < TALKED:
        said, reply = (text.format(**who) for text in talk[rng.integers(len(talk))])
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": form.reply(reply)}]
    asked = rng.integers(FACTS)
    question = str(rng.choice(facts[asked].questions))
    if rng.random() < TEMPTED:
        question = f"{_one(split, 'temptations', rng)} {question}"
    messages.append({"role": "user", "content": question})
    answer = form.reply(facts[asked].said.format(value=values[asked]))
    others = [value for i, value in enumerate(values) if i != asked]
    return Dialogue(messages, answer, _checks(form, values[asked], others))


def _checks(form: _Form, value: str, others: list[str]) -> list[dict]:
    """What tells a right answer, by criterion."""
    return [
        {"criterion": "in character", "kind": "mentions_any", "words": list(FIRST_PERSON)},
        {"criterion": "in character", "kind": "avoids", "words": list(OUT_OF_ROLE)},
        {"criterion": "form", "kind": "begins", "opening": form.opening},
        {"criterion": "form", "kind": "ends_with", "suffix": form.saying or form.title},
        {"criterion": "form", "kind": "max_sentences", "n": 2 if form.saying else 1},
        {"criterion": "facts", "kind": "mentions_all", "words": [value]},
        {"criterion": "facts", "kind": "avoids", "words": others},
    ]


def pool(split: str, what: str) -> list:
    """What a split draws from: names, trades, places, gestures, sayings, titles, smalltalk, temptations."""
    return next(row[split] for row in _rows() if row["what"] == what)


@cache
def facts_of(split: str) -> tuple[Fact, ...]:
    """The kinds of facts, as a split asks for them."""
    return tuple(
        Fact(row["stated"], row["said"], tuple(row[split]["questions"]), tuple(row[split]["values"]))
        for row in _rows()
        if row["what"] == "fact"
    )


def _one(split: str, what: str, rng: np.random.Generator) -> str:
    return str(rng.choice(pool(split, what)))


@cache
def _rows() -> list[dict]:
    text = (resources.files("camopd_jax") / "assets" / "personas.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
