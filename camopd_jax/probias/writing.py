"""Texts of the made notes: mentions of what the note is coded for, of what it is not, and of nothing."""

from collections import Counter

import numpy as np

from camopd_jax.probias import phrases, terms
from camopd_jax.probias.phrases import PLACES, SECTIONS

FAMILY_HISTORY = 0.3  # share of the notes
SHARED_NEGATED = 0.15  # share of the negated mentions that name a family of rare codes


class Mention:
    """How codes are mentioned, and which are that a note does not have."""

    def __init__(self, shape, planned, rng: np.random.Generator):
        self.shape, self._rng = shape, rng
        self._terms = {one.code: one.terms for one in planned.common}
        self._title = {code: title for f in planned.family for code, title in f.members}
        self._family = {code: f.name for f in planned.family for code, _ in f.members}
        names = [one.terms[0] for one in planned.common] + [f.name for f in planned.family]
        times = Counter(map(terms.initials, names))
        self._short = {name: short for name in names if len(short := terms.initials(name)) > 1 and times[short] == 1}
        self._common = [one.code for one in planned.common]
        rates = np.array([planned.rate[code] for code in self._common])
        self._weights = rates / rates.sum()
        self._names = [f.name for f in planned.family]

    def of(self, code: str) -> str | None:
        """A mention of a code of the note; None: nothing is said of it."""
        draw, which = self._rng.random(2)
        if code in self._terms:
            short = self._short.get(self._terms[code][0])
            return short if short and draw < self.shape.abbreviated else self._one(self._terms[code], which)
        if draw < self.shape.clear:
            return self._title[code]
        if draw < self.shape.clear + self.shape.silent:
            return None
        name = self._family[code]
        return self._one((name, self._short.get(name, name)), which)

    def absent(self, codes: list[str]) -> str:
        """A mention of what the note is not coded for."""
        families = {self._family[code] for code in codes if code in self._family}
        if self._rng.random() < SHARED_NEGATED:
            return self._one([name for name in self._names if name not in families], self._rng.random())
        while (code := self._rng.choice(self._common, p=self._weights)) in codes:
            pass
        return self._one(self._terms[code], self._rng.random())

    @staticmethod
    def _one(choices, draw: float) -> str:
        return choices[int(draw * len(choices))]


def write(mention: Mention, codes: list[str], test: bool, rng: np.random.Generator) -> str:
    """The text of a note with these codes, of the phrases of training or of those of test."""
    said = phrases.TEST if test else phrases.TRAINING
    parts: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for code in codes:
        term = mention.of(code)
        if term is not None:
            place = PLACES[rng.integers(len(PLACES))]
            parts[place].append(_filled(getattr(said, place), term, rng))
    for _ in range(rng.poisson(mention.shape.negated)):
        parts[PLACES[rng.integers(len(PLACES))]].append(_filled(said.negated, mention.absent(codes), rng))
    if rng.random() < FAMILY_HISTORY:
        parts["family"].append(_filled(said.family, mention.absent(codes), rng))
    for _ in range(mention.shape.noise):
        place = ("medications", "exam")[rng.integers(2)]
        parts[place].append(_noise(getattr(said, place), rng))
    for sentences in parts.values():
        rng.shuffle(sentences)
    parts["history"].insert(0, _noise(said.opening, rng))
    blocks = [[_any(said.headings[section], rng), *parts[section]] for section in SECTIONS if parts[section]]
    return "\n".join(" ".join(block) for block in blocks)


def _filled(sentences: tuple[str, ...], term: str, rng: np.random.Generator) -> str:
    sentence = _any(sentences, rng).format(term=term)
    return sentence[0].upper() + sentence[1:]


def _noise(sentences: tuple[str, ...], rng: np.random.Generator) -> str:
    drug, other = rng.choice(phrases.DRUGS, 2, replace=False)
    sentence = _any(sentences, rng).format(
        age=rng.integers(20, 95), sex=_any(("man", "woman"), rng), complaint=_any(phrases.COMPLAINTS, rng), drug=drug,
        other=other, dose=5 * rng.integers(1, 20), more=10 * rng.integers(1, 20), high=rng.integers(95, 180),
        low=rng.integers(50, 95), pulse=rng.integers(55, 120),
    )  # fmt: skip
    return sentence[0].upper() + sentence[1:]


def _any(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]
