"""Exact areas under the ROC curve of a split, by counting (Mann and Whitney 1947): ties count one half.

With `less` and `equal` the scores of all pairs that are below or equal to that of a true pair,
    AUC = (sum over true pairs of (less + equal / 2) - T^2 / 2) / (T F),
T true and F false pairs: the true pairs among themselves give T^2 / 2. The sums are whole numbers.
"""

import numpy as np

COLUMNS = 1 << 22  # probabilities of a block of codes


def micro(split) -> float:
    """Over all pairs of document and code; nan if none is true or all are."""
    true_T = np.sort(np.concatenate([p_BC[t_BC.nonzero()] for p_BC, t_BC in split.rows()]))
    twice = 0
    for probability_BC, _ in split.rows():
        twice += _below(np.sort(probability_BC, axis=None), true_T)
    return _area(twice, len(true_T), split.probability_NC.size)


def by_code(split) -> np.ndarray:
    """Of each code over the documents [C]; nan where no document has it or all have."""
    documents, codes = split.probability_NC.shape
    truth = split.truth_NC.tocsc()
    auc_C = np.full(codes, np.nan)
    step = max(1, COLUMNS // documents)
    for first in range(0, codes, step):
        probability_CN = np.ascontiguousarray(split.probability_NC[:, first : first + step].T)
        for c, probability_N in enumerate(probability_CN, start=first):
            true_T = probability_N[truth.indices[truth.indptr[c] : truth.indptr[c + 1]]]
            if 0 < len(true_T) < documents:
                auc_C[c] = _area(_below(np.sort(probability_N), true_T), len(true_T), documents)
    return auc_C


def _below(sorted_M: np.ndarray, true_T: np.ndarray) -> int:
    """2 less + equal, summed over the true pairs."""
    return sum(int(np.searchsorted(sorted_M, true_T, side=side).sum()) for side in ("left", "right"))


def _area(twice: int, true: int, pairs: int) -> float:
    if not 0 < true < pairs:
        return np.nan
    return (twice - true**2) / (2 * true * (pairs - true))
