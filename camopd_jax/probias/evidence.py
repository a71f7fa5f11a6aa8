"""Which passages of a note the attention of a code lies on: weights of tokens, made readable.

T tokens.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FAINT = 0.1  # of the heaviest word: a lighter one begins no passage and ends none
BETWEEN = 2  # light words at most between two heavy ones of a passage
LONGEST = 20  # words of a passage
_EDGES = "\"'()[]{}<>.,;:!?*-"  # of a passage, cut off
_WORD = re.compile(r"\S+")
_SENTENCE = re.compile(r"[.;!?][\"')\]]*$")


@dataclass(frozen=True)
class Span:
    """A passage: characters [start, end) of the note, and the attention on it."""

    start: int
    end: int
    weight: float


def passages(text: str, offsets_T: Sequence[tuple[int, int]], weight_T: np.ndarray, n: int) -> list[Span]:
    """The n passages with the most attention, the heaviest first.

    A token's weight goes to the words that it is of (twice the same token, as chunks overlap: both weights). Heavy
    words belong together if few light ones, and neither the end of a sentence nor an empty line, lie between.

    Args:
      offsets_T: characters [start, end) of each token; tokens that are not of the note have start == end.
      weight_T: attention, at least 0.

    Raises:
      ValueError: if a weight is negative or not finite, or offsets and weights are not as many.
    """
    offsets_T2, weight_T = np.asarray(offsets_T, np.int64).reshape(-1, 2), np.asarray(weight_T, np.float64)
    if len(offsets_T2) != len(weight_T) or not np.isfinite(weight_T).all() or (weight_T < 0).any():
        raise ValueError(
            f"{len(offsets_T2)} tokens with {len(weight_T)} weights, the least {weight_T.min(initial=0)}; allowed is "
            "one weight a token, finite and at least 0"
        )
    words = [match.span() for match in _WORD.finditer(text, 0, _end(text, offsets_T2))]
    heavy = _heavy(_word_weights(words, offsets_T2, weight_T))
    found, group = [], []
    for number, weight in heavy:
        if group and not _together(text, words, group[0][0], group[-1][0], number):
            found.append(_span(text, words, group))
            group = []
        group.append((number, weight))
    if group:
        found.append(_span(text, words, group))
    return sorted(found, key=lambda span: (-span.weight, span.start))[:n]


def _end(text: str, offsets_T2: np.ndarray) -> int:
    """Where the word of the last token ends: of a long note little may have been read."""
    last = min(int(offsets_T2.max(initial=0)), len(text))
    rest = _WORD.match(text, last)
    return rest.end() if rest else last


def _word_weights(words: list, offsets_T2: np.ndarray, weight_T: np.ndarray) -> np.ndarray:
    """The attention on each word: that of a token is even over its characters, white space left out."""
    if not words:
        return np.zeros(0)
    start_W, end_W = np.array(words).T
    length = int(end_W[-1])
    dark = _covered(length, start_W, end_W, 1.0)
    before = np.concatenate([[0], np.cumsum(dark)])  # dark characters before each place
    start_T, end_T = np.clip(offsets_T2, 0, length).T
    size_T = before[end_T] - before[start_T]
    each_T = np.divide(weight_T, size_T, out=np.zeros(len(weight_T)), where=size_T > 0)
    total = np.concatenate([[0], np.cumsum(_covered(length, start_T, end_T, each_T) * dark)])
    return total[end_W] - total[start_W]


def _covered(length: int, start_M: np.ndarray, end_M: np.ndarray, amount_M: np.ndarray | float) -> np.ndarray:
    """The sum, at each of `length` characters, of the amounts of the ranges that it is in."""
    change = np.zeros(length + 1)
    np.add.at(change, start_M, amount_M)
    np.subtract.at(change, end_M, amount_M)
    return np.cumsum(change)[:length]


def _heavy(weight_W: np.ndarray) -> list[tuple[int, float]]:
    if not len(weight_W) or weight_W.max() <= 0:
        return []
    return [(int(w), float(weight_W[w])) for w in np.flatnonzero(weight_W >= FAINT * weight_W.max())]


def _together(text: str, words: list, first: int, last: int, number: int) -> bool:
    if number - last > BETWEEN + 1 or number - first >= LONGEST:
        return False
    between = text[words[last][1] : words[number][0]]
    ends = any(_SENTENCE.search(text[start:end]) for start, end in words[last:number])
    return not ends and not re.search(r"\n\s*\n", between)


def _span(text: str, words: list, group: list[tuple[int, float]]) -> Span:
    start, end = words[group[0][0]][0], words[group[-1][0]][1]
    while end - start > 1 and text[end - 1] in _EDGES:
        end -= 1
    while end - start > 1 and text[start] in _EDGES:
        start += 1
    return Span(start, end, sum(weight for _, weight in group))


def quote(text: str, span: Span, longest: int) -> tuple[str, str, str]:
    """A passage in one line, with as many words before and after it, of its paragraph, as there is room for.

    About `longest` characters in all; a longer passage is cut in its middle, and stands alone.
    """
    words = " ".join(text[span.start : span.end].split())
    if len(words) > longest:
        half = (longest - 3) // 2
        return "", f"{words[:half].rstrip()} … {words[-half:].lstrip()}", ""
    room = (longest - len(words)) // 2
    near = text[max(0, span.start - 4 * room - 80) : span.start], text[span.end : span.end + 4 * room + 80]
    before, after = re.split(r"\n\s*\n", near[0])[-1], re.split(r"\n\s*\n", near[1])[0]
    before, after = re.sub(r"\s+", " ", before), re.sub(r"\s+", " ", after)
    if len(before) > room:
        before = "…" + re.sub(r"^\S*", "", before[-room:])  # no part of a word
    if len(after) > room:
        after = re.sub(r"\S*$", "", after[:room]) + "…"
    return before.lstrip(), words, after.rstrip()
