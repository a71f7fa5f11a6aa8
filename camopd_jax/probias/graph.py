"""The directed bipartite graph of codes: what a common code's presence says of a rare one (method.md, section 3).

Of training notes alone, in NumPy. R rare codes, K common codes, C codes in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

QUANTILES = 11
BUCKETS = 11  # ids 0 to 10
NO_EDGE = -1
DIGITS = 7  # of P that count; P is a float32
ROWS = 1024  # of P that are looked at together


@dataclass(frozen=True)
class Graph:
    """Rare codes and the common ones that they attend to.

    The bucket of each pair is a byte: of MIMIC-IV's 26,096 codes, with 18,000 of them rare, 144 MB.
    """

    common_K: np.ndarray  # places in C, ascending
    rare_R: np.ndarray  # places in C, ascending
    bucket_RK: np.ndarray  # int8: 0 to 10; NO_EDGE where P is 0
    probability_RK: np.ndarray  # float32: P(common | rare), the share of a rare code's notes that have the common one

    @property
    def edges(self) -> int:
        return int((self.bucket_RK != NO_EDGE).sum())


def of_training(columns: Sequence[np.ndarray], frequency_C: np.ndarray, rare_at_most: int) -> Graph:
    """The graph of training notes: P(common | rare) = count(both) / count(rare).

    Args:
      columns: of each training note, the places of its codes, each once.
      frequency_C: training notes that have each code.
      rare_at_most: a code of at most so many training notes is rare.
    """
    rare_C = frequency_C <= rare_at_most
    common_K, rare_R = np.flatnonzero(~rare_C), np.flatnonzero(rare_C)
    place_C = np.empty(len(frequency_C), np.int64)
    place_C[common_K], place_C[rare_R] = np.arange(len(common_K)), np.arange(len(rare_R))
    both_RK = np.zeros((len(rare_R), len(common_K)), np.float32)
    for codes in columns:
        rare = rare_C[codes]
        both_RK[np.ix_(place_C[codes[rare]], place_C[codes[~rare]])] += 1
    probability_RK = both_RK / np.maximum(frequency_C[rare_R], 1)[:, None].astype(np.float32)
    return Graph(common_K, rare_R, buckets(probability_RK), probability_RK)


def buckets(probability: np.ndarray) -> np.ndarray:
    """The bucket of each P, int8; NO_EDGE where it is 0.

    Edges are the different values among 0 and 11 quantiles (0, 0.1, ..., 1) of the P that are not 0: ties merge edges.
    P is in bucket b where edge b <= P < edge b + 1; the greatest P has no edge above it, and no bucket is above 10.
    P = 1 is always in 10.
    """
    bucket = np.full(probability.shape, NO_EDGE, np.int8)
    known = _rounded(probability[probability > 0])
    if not known.size:
        return bucket
    edges = np.unique(_rounded(np.concatenate([[0.0], np.quantile(known, np.linspace(0, 1, QUANTILES))])))
    for start in range(0, len(probability), ROWS):
        p = _rounded(probability[start : start + ROWS])
        found = np.minimum(np.searchsorted(edges, p, side="right") - 1, BUCKETS - 1)
        bucket[start : start + ROWS] = np.select([p == 1, p == 0], [BUCKETS - 1, NO_EDGE], found)
    return bucket


def _rounded(p: np.ndarray) -> np.ndarray:
    """Equal fractions as equal numbers, whatever a quantile between two of them has added."""
    return np.round(p.astype(np.float64), DIGITS)


def shuffled(graph: Graph, seed: int) -> Graph:
    """The control: each rare code has the edges of another, drawn by chance."""
    order_R = np.random.default_rng(seed).permutation(len(graph.rare_R))
    return replace(graph, bucket_RK=graph.bucket_RK[order_R], probability_RK=graph.probability_RK[order_R])
