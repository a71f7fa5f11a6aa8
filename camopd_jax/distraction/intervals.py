"""A figure with its bootstrap interval over resampled instances (percentiles, Efron 1979)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05  # two-sided, of the intervals


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def places(together_M: Sequence) -> np.ndarray:
    """The number [M] of the cluster of each item: equal values, as the names of an instance, are one."""
    return np.unique(np.asarray(together_M), return_inverse=True)[1]


def estimate(figure: Callable[[np.ndarray], np.ndarray], clusters: int, resamples: int, seed: int) -> Estimate:
    """A figure, from the places of clusters [..., C], and its interval over clusters that are drawn again."""
    drawn_RC = np.random.default_rng(seed).integers(clusters, size=(resamples, clusters))
    low, high = np.quantile(figure(drawn_RC), [LEVEL / 2, 1 - LEVEL / 2])
    return Estimate(float(figure(np.arange(clusters))), float(low), float(high))


def mean(x_M: np.ndarray, together_M: Sequence, resamples: int, seed: int) -> Estimate:
    """The mean of figures of items; items of equal value in `together_M` are drawn together."""
    place_M = places(together_M)
    sum_C, count_C = np.bincount(place_M, weights=x_M), np.bincount(place_M)
    return estimate(lambda at: sum_C[at].sum(axis=-1) / count_C[at].sum(axis=-1), len(count_C), resamples, seed)
