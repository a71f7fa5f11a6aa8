"""The least probability that predicts a code: fixed, or of the best F1 on validation, for all codes or by bucket.

A threshold is tuned on the exact optimum: F1 falls between two true pairs as the threshold does, since only false ones
come in, so that the probability of some true pair of the split is best. Of equally good ones the highest is taken.
"""

from collections.abc import Callable, Iterator

import numpy as np

from camopd_jax.probias.scores import BUCKETS, Split, bucket_of

COLUMNS = 1 << 22  # probabilities of a block of codes
NEAR = 1e-12  # F1 that differ by less are equal: sums of as many fractions as there are pairs


def fixed(value: float, codes: int) -> np.ndarray:
    """The same threshold for every code [C] (float32)."""
    return np.full(codes, value, np.float32)


def tuned(validation: Split, best: Callable[[Split], float | None]) -> np.ndarray:
    """One threshold for every code [C] (float32): the `best` of the validation split, `micro` or `macro`.

    Raises:
      ValueError: if no document of the split has a code.
    """
    return fixed(_best(validation, best), validation.probability_NC.shape[1])


def by_bucket(validation: Split, frequency_C: np.ndarray, best: Callable[[Split], float | None]) -> np.ndarray:
    """A threshold for the codes of each frequency bucket [C] (float32), the best for these codes alone.

    A bucket of which validation has no true pair takes the threshold of all codes.

    Raises:
      ValueError: if no document of the split has a code.
    """
    threshold_C, bucket_C = tuned(validation, best), bucket_of(frequency_C)
    for number in range(len(BUCKETS)):
        code_K = np.flatnonzero(bucket_C == number)
        found = best(validation.of(code_K)) if len(code_K) else None
        if found is not None:
            threshold_C[code_K] = found
    return threshold_C


def _best(validation: Split, best: Callable[[Split], float | None]) -> float:
    found = best(validation)
    if found is None:
        raise ValueError("no document of validation has a code of the label set: a threshold cannot be tuned; fix it")
    return found


def micro(split: Split) -> float | None:
    """The threshold of the highest micro-F1; None if no pair is true.

    micro-F1(t) = 2 hits(t) / (predicted(t) + true).
    """
    true_T = _true(split)
    candidate_K = np.unique(true_T)
    predicted_K = np.zeros(len(candidate_K), np.int64)
    for probability_BC, _ in split.rows():
        predicted_K += probability_BC.size - np.searchsorted(np.sort(probability_BC, axis=None), candidate_K)
    hits_K = len(true_T) - np.searchsorted(true_T, candidate_K)
    return _highest(candidate_K, 2 * hits_K / (predicted_K + len(true_T)))


def macro(split: Split) -> float | None:
    """The threshold of the highest mean F1 over codes; None if no pair is true.

    The same for the mean over all codes and over those of the split, which are a constant apart.
    """
    candidate_K = np.unique(_true(split))
    # The sum over codes of F1 at each candidate, as running sums of its steps: a pair comes in, at the highest
    # candidate that is not above it, and changes its code's F1.
    step_K = np.zeros(len(candidate_K) + 1)
    for probability_CN, truth_CN in _columns(split):
        order_CN = np.argsort(-probability_CN, axis=1)
        hits_CN = np.cumsum(np.take_along_axis(truth_CN, order_CN, axis=1), axis=1)
        f1_CN = 2 * hits_CN / (np.arange(1, hits_CN.shape[1] + 1) + hits_CN[:, -1:])
        falling_CN = np.take_along_axis(probability_CN, order_CN, axis=1)
        at_M = np.searchsorted(candidate_K, falling_CN.ravel(), side="right")  # 0: below all
        step_K += np.bincount(at_M, np.diff(f1_CN, axis=1, prepend=0.0).ravel(), len(step_K))
    return _highest(candidate_K, np.cumsum(step_K[:0:-1])[::-1] / split.probability_NC.shape[1])


def _true(split: Split) -> np.ndarray:
    """The probabilities of the true pairs, in rising order."""
    return np.sort(np.concatenate([p_BC[t_BC.nonzero()] for p_BC, t_BC in split.rows()]))


def _columns(split: Split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(probability_CN, truth_CN) of a few codes after another."""
    documents, codes = split.probability_NC.shape
    truth = split.truth_NC.tocsc()
    step = max(1, COLUMNS // documents)
    for c in range(0, codes, step):
        yield np.ascontiguousarray(split.probability_NC[:, c : c + step].T), truth[:, c : c + step].toarray().T


def _highest(candidate_K: np.ndarray, f1_K: np.ndarray) -> float | None:
    if not len(candidate_K):
        return None
    return float(candidate_K[np.flatnonzero(f1_K >= f1_K.max() - NEAR)[-1]])
