"""How sure a difference of two systems on one split is: documents are drawn again, the same for both.

Over seeds, the paired t interval is `comparison.paired_t`: with five seeds a bootstrap has too few values to draw from.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import sparse

from camopd_jax import comparison
from camopd_jax.comparison import Difference
from camopd_jax.probias import scores
from camopd_jax.probias.scores import BUCKETS, Counts, Split

BLOCK = 1 << 22  # counts that are looked at together


def paired(
    a: Split, b: Split, threshold_a_C: np.ndarray, threshold_b_C: np.ndarray, frequency_C: np.ndarray,
    resamples: int, seed: int,
) -> dict[str, Difference | None]:  # fmt: skip
    """a - b in every figure but the areas under curves, and in the F1 of each bucket (`macro_f1_present 1-10`).

    value -+ t_{N-1, 0.975} times the standard deviation over resampled documents. Not percentiles: a resample lacks a
    third of the documents and with them the codes that one document has, so that macro-F1 there is off its own value.
    None where a figure is undefined on the split for one of the two.

    Raises:
      ValueError: if the two are not on the same documents and codes, or there are fewer than two documents.
    """
    if a.truth_NC.shape != b.truth_NC.shape or (a.truth_NC != b.truth_NC).nnz:
        raise ValueError("two systems on different documents, codes or truths cannot be paired; give one split of both")
    of_a, of_b = _Drawn(a, threshold_a_C, frequency_C), _Drawn(b, threshold_b_C, frequency_C)

    def difference(weight_RN: np.ndarray) -> dict[str, np.ndarray]:
        figures_b = of_b.figures(weight_RN)
        return {name: x_R - figures_b[name] for name, x_R in of_a.figures(weight_RN).items()}

    return _intervals(difference, *a.truth_NC.shape, resamples, seed)


def alone(
    split: Split, threshold_C: np.ndarray, frequency_C: np.ndarray, resamples: int, seed: int
) -> dict[str, Difference | None]:
    """The figures of one system with their intervals, names and rules as in `paired`; p is of being 0.

    Two of these that overlap may still differ for sure: `paired` tells.
    """
    return _intervals(_Drawn(split, threshold_C, frequency_C).figures, *split.truth_NC.shape, resamples, seed)


def _intervals(
    figures: Callable[[np.ndarray], dict[str, np.ndarray]], documents: int, codes: int, resamples: int, seed: int
) -> dict[str, Difference | None]:
    if documents < 2:
        raise ValueError("documents: 1; allowed is 2 or more, to draw from")
    whole = figures(np.ones((1, documents)))
    drawn = [figures(weight_RN) for weight_RN in _resamples(documents, resamples, max(1, BLOCK // codes), seed)]
    out = {}
    for name, value in whole.items():
        over_R = np.concatenate([found[name] for found in drawn])
        over_R = over_R[~np.isnan(over_R)]  # a resample may lack all codes of a bucket
        known = not np.isnan(value[0]) and len(over_R) > 1
        out[name] = comparison.by_t(float(value[0]), float(over_R.std(ddof=1)), documents - 1) if known else None
    return out


def _resamples(documents: int, resamples: int, step: int, seed: int) -> Iterator[np.ndarray]:
    """How often each document is drawn [some of R, N]."""
    rng = np.random.default_rng(seed)
    for first in range(0, resamples, step):
        size = min(step, resamples - first)
        yield rng.multinomial(documents, np.full(documents, 1 / documents), size=size).astype(np.float64)


class _Drawn:
    """A system on a split, to be scored on weighted documents."""

    def __init__(self, split: Split, threshold_C: np.ndarray, frequency_C: np.ndarray):
        predicted = [sparse.csr_array(scores.predicted(p_BC, threshold_C)) for p_BC, _ in split.rows()]
        self._predicted = sparse.csr_array(sparse.vstack(predicted, format="csr")).astype(np.float64)
        self._true = split.truth_NC.astype(np.float64)
        self._hit = self._predicted.multiply(self._true).tocsr()
        exact_N = scores.exact_match(split, threshold_C)
        self._per_document = scores.per_document(scores.ranking(split), exact_N)
        self._bucket_C = scores.bucket_of(frequency_C)

    def figures(self, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Each [R]; nan where undefined."""
        counts = Counts(*(np.asarray((x.T @ weight_RN.T).T) for x in (self._hit, self._predicted, self._true)))
        out = scores.f1(counts)
        for name, x_N in self._per_document.items():
            known_N = ~np.isnan(x_N)
            weight_R = weight_RN[:, known_N].sum(axis=1)
            total_R = weight_RN[:, known_N] @ x_N[known_N]
            out[name] = np.divide(total_R, weight_R, out=np.full(len(weight_R), np.nan), where=weight_R > 0)
        for number, bucket in enumerate(BUCKETS):
            some = self._bucket_C == number
            here = Counts(*(x[:, some] for x in (counts.hit_RC, counts.predicted_RC, counts.true_RC)))
            out |= {f"{name} {bucket}": x_R for name, x_R in scores.f1(here).items()}
        return out
