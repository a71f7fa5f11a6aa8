"""The label set and its frequencies, of the training notes alone (method.md, section 3)."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RARE = 10  # a code of at most so many training notes is rare (ProBias)


@dataclass(frozen=True)
class Labels:
    """Codes, with the number of training notes of each."""

    codes: tuple[str, ...]  # sorted
    frequency_C: np.ndarray  # int32
    titles: tuple[str, ...]  # "" where none is known

    @functools.cached_property
    def index(self) -> dict[str, int]:
        return {code: i for i, code in enumerate(self.codes)}

    @property
    def rare_C(self) -> np.ndarray:
        """bool: at most `RARE` training notes have it."""
        return self.frequency_C <= RARE

    def columns(self, codes: Iterable[str]) -> np.ndarray:
        """The places [n] (int32, ascending) of those of some codes that are labels."""
        return np.array(sorted(self.index[code] for code in set(codes) if code in self.index), np.int32)


@dataclass(frozen=True)
class Coverage:
    """How much of what a split's notes were given the label set can give at all."""

    assigned: int  # pairs of note and code
    known: int  # of them, of a code that is a label
    unknown: dict[str, int]  # code that is none -> notes that have it, the most frequent first
    beyond: int  # notes that have at least one such code

    @property
    def ceiling(self) -> float:
        """The highest micro-recall that is possible; 1 for a split without codes."""
        return self.known / self.assigned if self.assigned else 1.0


def of_training(train: Sequence[Iterable[str]], *, least: int, most: int, titles: Mapping[str, str]) -> Labels:
    """The labels of the codes of each training note.

    Args:
      least: notes that a code needs to be a label.
      most: how many labels at most, the most frequent first, equal ones by their names; 0: all.
      titles: of codes; a code that is not in it has "".
    """
    count = Counter(code for codes in train for code in set(codes))
    ranked = sorted((code for code, n in count.items() if n >= least), key=lambda code: (-count[code], code))
    codes = tuple(sorted(ranked[:most] if most else ranked))
    frequency_C = np.array([count[code] for code in codes], np.int32)
    return Labels(codes, frequency_C, tuple(titles.get(code, "") for code in codes))


def coverage(labels: Labels, notes: Iterable[Iterable[str]]) -> Coverage:
    """Of the codes of each note of a split."""
    assigned = known = beyond = 0
    unknown: Counter[str] = Counter()
    for codes in map(set, notes):
        without = [code for code in codes if code not in labels.index]
        assigned, known, beyond = assigned + len(codes), known + len(codes) - len(without), beyond + bool(without)
        unknown.update(without)
    ranked = sorted(unknown.items(), key=lambda item: (-item[1], item[0]))
    return Coverage(assigned, known, dict(ranked), beyond)
