"""Which rows are taken: parts by largest remainders, and of each source those with the smallest keyed hash.

A hash of seed and content puts rows in an order that is random, and the same whatever their order in the source; equal
rows have equal hashes. To keep the N smallest needs memory for N rows, however many are read.
"""

import hashlib
import heapq
from collections.abc import Mapping

from camopd_jax import data


def parts(count: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers in the proportions of `weights` that sum to `count`, by largest remainders; ties go by order."""
    total = sum(weights.values())
    found = {name: count * weight // total for name, weight in weights.items()}
    left = count - sum(found.values())
    for name in sorted(weights, key=lambda name: -(count * weights[name] % total))[:left]:
        found[name] += 1
    return found


def key_of(messages: list[dict], seed: int) -> str:
    """A SHA-256 of seed, roles and contents, in hexadecimal digits: the place of a conversation in a random order."""
    return hashlib.sha256(f"{seed} {data.content_hash(messages)}".encode()).hexdigest()


class Smallest:
    """The `count` different rows of the smallest keys of all that were added, and how often each of them was."""

    def __init__(self, count: int, kept: list[list] = ()):
        self._count = count
        self._kept = {key: [times, row] for key, times, row in kept}
        self._heap = [-int(key, 16) for key in self._kept]
        heapq.heapify(self._heap)

    def add(self, key: str, row: object) -> None:
        if key in self._kept:
            self._kept[key][0] += 1
        elif len(self._heap) < self._count:
            heapq.heappush(self._heap, -int(key, 16))
            self._kept[key] = [1, row]
        elif self._heap and int(key, 16) < -self._heap[0]:
            del self._kept[f"{-heapq.heapreplace(self._heap, -int(key, 16)):064x}"]
            self._kept[key] = [1, row]

    def rows(self) -> list[list]:
        """[key, times, row] by key; a row that is here was here from the first time that it was added."""
        return [[key, *self._kept[key]] for key in sorted(self._kept)]
