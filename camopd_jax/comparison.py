"""Statistics of runs that were repeated over seeds and judged on the same held-out items: arrays in, numbers out.

A measure of one method is two arrays [S, N] over seeds and items; a seed's value is the ratio of their sums over
items, the method's value the mean over seeds. Two methods are paired by seed (same prompts, order and sampling keys)
and by item. Below, LEVEL is two-sided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """A difference of two means, its 95 % interval and its two-sided p."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Scores:
    """A measure of one method."""

    numerator_SN: np.ndarray
    denominator_SN: np.ndarray

    def by_seed(self) -> np.ndarray:
        """Value of each seed [S]."""
        return self.numerator_SN.sum(axis=1) / self.denominator_SN.sum(axis=1)


@dataclass(frozen=True)
class Resampling:
    """What each resample weighs: items, the same for all seeds and methods, and seeds."""

    item_RN: np.ndarray
    seed_RS: np.ndarray

    def values(self, scores: Scores) -> np.ndarray:
        """The method's value on each resample [R]."""
        value_SR = (scores.numerator_SN @ self.item_RN.T) / (scores.denominator_SN @ self.item_RN.T)
        return np.einsum("rs,sr->r", self.seed_RS, value_SR)


def t_interval(value_S: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of a mean over seeds: mean -+ t_{S-1, 0.975} s / sqrt(S) (Student 1908); None for one seed."""
    n = len(value_S)
    if n < 2:
        return None
    half = stats.t.ppf(1 - LEVEL / 2, n - 1) * np.std(value_S, ddof=1) / np.sqrt(n)
    return float(np.mean(value_S) - half), float(np.mean(value_S) + half)


def paired_t(a_S: np.ndarray, b_S: np.ndarray) -> Difference | None:
    """mean(a - b) over seeds with the paired t-test's interval and p (S - 1 degrees of freedom); None for one seed.

    Differences without any spread have p 1 where they are 0, and p 0 elsewhere.
    """
    d_S = np.asarray(a_S, np.float64) - np.asarray(b_S, np.float64)
    if len(d_S) < 2:
        return None
    return by_t(float(np.mean(d_S)), float(np.std(d_S, ddof=1) / np.sqrt(len(d_S))), len(d_S) - 1)


def resampling(seeds: int, items: int, resamples: int, seed: int) -> Resampling:
    """Draw items and seeds independently of each other (the pigeonhole bootstrap, Owen 2007).

    N of N items are drawn, but S - 1 of S seeds: with few seeds, S of S would show (S - 1) / S of the variance
    between seeds (Rao and Wu 1988). One seed stands as it is: the spread is then that over items alone.
    """
    rng = np.random.default_rng(seed)
    item_RN = rng.multinomial(items, np.full(items, 1 / items), size=resamples).astype(np.float64)
    if seeds == 1:
        return Resampling(item_RN, np.ones((resamples, 1)))
    drawn = seeds - 1
    return Resampling(item_RN, rng.multinomial(drawn, np.full(seeds, 1 / seeds), size=resamples) / drawn)


def paired_bootstrap(a: Scores, b: Scores, drawn: Resampling) -> Difference:
    """value(a) - value(b), with interval and p from its standard error V^(1/2) over resampled items and seeds.

    Student's t is taken at the degrees of freedom of Satterthwaite (1946), 1 / (f^2 / (S-1) + (1-f)^2 / (N-1)), where
    f = s_d^2 / (S V), at most 1, is the share of V that the spread s_d between the seeds' differences explains. The
    percentile interval lacks this: where three seeds differ more than items do, it holds the truth in 80 % of cases.
    A method against itself has p 1.

    Raises:
      ValueError: if the two are not on the same seeds and items.
    """
    shapes = {x.shape for s in (a, b) for x in (s.numerator_SN, s.denominator_SN)}
    if len(shapes) != 1:
        raise ValueError(f"arrays of the shapes {sorted(shapes)} cannot be paired; allowed is one shape [seeds, items]")
    seeds, items = shapes.pop()
    variance = float(np.var(drawn.values(a) - drawn.values(b), ddof=1))
    d_S = a.by_seed() - b.by_seed()
    freedom = items - 1.0
    if seeds > 1 and variance > 0:
        share = min(float(np.var(d_S, ddof=1)) / seeds / variance, 1.0)
        freedom = 1 / (share**2 / (seeds - 1) + (1 - share) ** 2 / (items - 1))
    return by_t(float(np.mean(d_S)), float(np.sqrt(variance)), freedom)


def by_t(value: float, stderr: float, freedom: float) -> Difference:
    """A value with the interval and the p of Student's t; without any spread p is 1 at 0, and 0 elsewhere."""
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * stderr
    p = float(2 * stats.t.sf(abs(value) / stderr, freedom)) if stderr > 0 else float(value == 0)
    return Difference(value, value - half, value + half, p)


def holm(p: Sequence[float]) -> list[float]:
    """p corrected for the number of tests: running maximum of (m - k) p_(k), k = 0, 1, ... in rising order (Holm 1979).

    Rejecting what is below 0.05 keeps the chance of any false rejection at or below 5 %.
    """
    order = np.argsort(p, kind="stable")
    factor = len(p) - np.arange(len(p))
    corrected = np.minimum(1.0, np.maximum.accumulate(factor * np.asarray(p, np.float64)[order]))
    out = np.empty(len(p))
    out[order] = corrected
    return out.tolist()


def verdict(difference: float, corrected_p: float, higher_is_better: bool) -> str:
    """Say "better", "worse" or "not told apart", by the corrected p at 5 %."""
    if corrected_p >= LEVEL:
        return "not told apart"
    return "better" if (difference > 0) == higher_is_better else "worse"
