"""Do probabilities mean what they say: one temperature from validation (Guo et al. 2017), and how reliable they are.

K bins of probability.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, sparse, special

BLOCK = 1 << 22  # pairs that are looked at together
RANGE = (0.05, 20.0)  # of a temperature


@dataclass(frozen=True)
class Reliability:
    """Of the pairs of document and code in each bin of probability: how many, what was said, what is true."""

    edge_K1: np.ndarray  # K + 1
    count_K: np.ndarray
    probability_K: np.ndarray  # mean; nan in an empty bin
    true_K: np.ndarray  # share; nan in an empty bin

    def ece(self) -> float | None:
        """Expected calibration error, sum of count |true - said| / sum of count (Naeini et al. 2015); None: no pair."""
        known_K = self.count_K > 0
        if not known_K.any():
            return None
        off_K = np.abs(self.true_K - self.probability_K)[known_K]
        return float(np.average(off_K, weights=self.count_K[known_K]))


def temperature(logit_NC: np.ndarray, truth_NC: sparse.csr_array) -> float:
    """The T at which the mean binary cross-entropy of sigmoid(logit / T) is least, within RANGE.

    The loss is convex in b = 1 / T, and its slope, the sum of (sigmoid(b logit) - truth) logit, rises through 0 at the
    least; where it does not within the range, an end of the range is least. Of logits without any spread T is 1.
    """

    def slope(log_b: float) -> float:
        total = 0.0
        for logit_BC, truth_BC in _rows(logit_NC, truth_NC):
            total += float(((special.expit(np.exp(log_b) * logit_BC) - truth_BC) * logit_BC).sum())
        return total

    least, most = -np.log(RANGE[1]), -np.log(RANGE[0])
    low, high = slope(least), slope(most)
    if low == high == 0:
        return 1.0
    if low >= 0:
        return RANGE[1]
    if high <= 0:
        return RANGE[0]
    return float(np.exp(-optimize.brentq(slope, least, most, xtol=1e-9)))


def loss(logit_NC: np.ndarray, truth_NC: sparse.csr_array, temperature: float) -> float:
    """Mean binary cross-entropy of sigmoid(logit / temperature), nats a pair of document and code."""
    total = 0.0
    for logit_BC, truth_BC in _rows(logit_NC, truth_NC):
        x_BC = logit_BC / temperature
        total += float((np.logaddexp(0, x_BC) - truth_BC * x_BC).sum())
    return total / logit_NC.size


def logit(probability_BC: np.ndarray) -> np.ndarray:
    """log p - log(1 - p) in float64, of float32 probabilities; 0 and 1 are taken for their neighbours in float32.

    A p near 1 has few digits left of its logit (at 10 it is known to 0.001, above 16 no more): give `temperature` the
    model's own logits where they are at hand.
    """
    ends = np.nextafter(np.float32(0), np.float32(1)), np.nextafter(np.float32(1), np.float32(0))
    p_BC = np.clip(np.asarray(probability_BC, np.float32), *ends).astype(np.float64)
    return np.log(p_BC) - np.log1p(-p_BC)


def tempered(probability_BC: np.ndarray, temperature: float) -> np.ndarray:
    """sigmoid(logit / temperature) of probabilities, float32."""
    return special.expit(logit(probability_BC) / temperature).astype(np.float32)


def reliability(probability_NC: np.ndarray, truth_NC: sparse.csr_array, edge_K1: np.ndarray) -> Reliability:
    """What was said and what is true in bins [edge, next edge), the last of them with its end.

    Pairs outside all bins are left out: nearly all pairs of a long-tail label set are false and said to be, so that
    an error over all pairs says little. Edges that begin at 0.1 look at what a coder is shown.
    """
    edge_K1 = np.asarray(edge_K1, np.float64)
    bins = len(edge_K1) - 1
    count_K, said_K, true_K = np.zeros(bins, np.int64), np.zeros(bins), np.zeros(bins)
    for p_BC, truth_BC in _rows(probability_NC, truth_NC):
        at_M = np.searchsorted(edge_K1, p_BC.ravel(), side="right") - 1
        at_M[p_BC.ravel() == edge_K1[-1]] = bins - 1
        inside_M = (at_M >= 0) & (at_M < bins)
        at_M = at_M[inside_M]
        count_K += np.bincount(at_M, minlength=bins)
        said_K += np.bincount(at_M, weights=p_BC.ravel()[inside_M], minlength=bins)
        true_K += np.bincount(at_M, weights=truth_BC.ravel()[inside_M], minlength=bins)
    empty = np.full(bins, np.nan)
    mean, share = (np.divide(x_K, count_K, out=empty.copy(), where=count_K > 0) for x_K in (said_K, true_K))
    return Reliability(edge_K1, count_K, mean, share)


def _rows(x_NC: np.ndarray, truth_NC: sparse.csr_array):
    """A few rows of both after another, dense, in float64."""
    step = max(1, BLOCK // x_NC.shape[1])
    for n in range(0, len(x_NC), step):
        yield np.asarray(x_NC[n : n + step], np.float64), truth_NC[n : n + step].toarray().astype(np.float64)
