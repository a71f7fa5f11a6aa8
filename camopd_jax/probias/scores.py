"""How good the codes of a split are: the figures of the field, exact over the split, its documents streamed.

N documents of a split, B of a batch, C codes of the label set, R resamples. A code is predicted where its probability
is at or above its threshold. What is 0 / 0 in precision, recall or F1 is 0, as CAML and scikit-learn have it.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from camopd_jax.probias import auc

BUCKETS = ("0", "1-10", "11-50", "51-100", "101-500", ">500")  # training frequencies of a code
_LAST = (0, 10, 50, 100, 500)  # of each bucket, but of the last
AT = (5, 8, 15)
BLOCK = 1 << 22  # probabilities that are looked at together


@dataclass(frozen=True)
class Split:
    """What a model says of the documents of a split, and the truth."""

    probability_NC: np.ndarray  # float32, in memory or mapped from a file
    truth_NC: sparse.csr_array  # bool, sorted by code in each row

    def rows(self) -> Iterator[tuple[np.ndarray, sparse.csr_array]]:
        """(probability_BC, truth_BC) of a few documents after another."""
        documents, codes = self.probability_NC.shape
        step = max(1, BLOCK // codes)
        for n in range(0, documents, step):
            yield np.asarray(self.probability_NC[n : n + step]), self.truth_NC[n : n + step]

    def of(self, code_K: np.ndarray) -> "Split":
        """The same documents with some of the codes (places in C)."""
        return Split(self.probability_NC[:, code_K], self.truth_NC[:, code_K].sorted_indices())


class Accumulator:
    """Takes a split batch by batch.

    The exact areas under the curve need every probability: they go, as float32, to a file without a name in
    `directory` (10,000 documents x 26,096 codes: 1 GB of disk, and of memory what the system spares for it).
    """

    def __init__(self, codes: int, directory: Path):
        self._codes, self._documents, self._truth = codes, 0, []
        self._file = tempfile.TemporaryFile(dir=directory)

    def add(self, probability_BC: np.ndarray, truth_BC) -> None:
        """Take some documents more; truth is boolean, dense or sparse.

        Raises:
          ValueError: if a shape is another, or a probability is none.
        """
        probability_BC = np.ascontiguousarray(probability_BC, dtype=np.float32)
        truth_BC = truth_csr(truth_BC)
        for name, shape in (("probabilities", probability_BC.shape), ("truth", truth_BC.shape)):
            if shape != (len(probability_BC), self._codes):
                raise ValueError(f"{name} of shape {shape}; allowed is [documents, {self._codes} codes], both alike")
        good_BC = (probability_BC >= 0) & (probability_BC <= 1)
        if not good_BC.all():
            n, code = np.argwhere(~good_BC)[0]
            raise ValueError(
                f"document {self._documents + n} of the split has the probability {probability_BC[n, code]} for code "
                f"number {code}; allowed is 0 to 1"
            )
        self._file.write(probability_BC.data)
        self._truth.append(truth_BC)
        self._documents += len(probability_BC)

    def split(self) -> Split:
        """All documents, in the order of their coming; no more can be added.

        Raises:
          ValueError: if there is none.
        """
        if not self._documents:
            raise ValueError("a split without documents has no scores; allowed is one document or more")
        self._file.flush()
        shape = (self._documents, self._codes)
        probability_NC = np.memmap(self._file, dtype=np.float32, mode="r", shape=shape)
        self._file.close()  # the mapping lives on
        return Split(probability_NC, sparse.csr_array(sparse.vstack(self._truth, format="csr")))


def truth_csr(truth_BC) -> sparse.csr_array:
    """Truth as the sparse boolean array that a Split holds."""
    truth_BC = sparse.csr_array(truth_BC, dtype=bool, copy=True)
    truth_BC.sum_duplicates()
    truth_BC.eliminate_zeros()
    return truth_BC


def bucket_of(frequency_C: np.ndarray) -> np.ndarray:
    """The place in BUCKETS of each code, by the number of training documents that have it."""
    return np.searchsorted(_LAST, frequency_C, side="left")


@dataclass(frozen=True)
class Counts:
    """What F1 is made of, for each code; R resamples, or 1."""

    hit_RC: np.ndarray  # documents in which the code is true and predicted
    predicted_RC: np.ndarray
    true_RC: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """Figures of each document that depend on the order of its codes alone; nan where a document has none."""

    precision_at: dict[int, np.ndarray]  # k: [N]
    r_precision_N: np.ndarray
    average_precision_N: np.ndarray


@dataclass(frozen=True)
class Scores:
    """All figures of a system on a split; None where one is undefined."""

    documents: int
    without_codes: int  # documents; R-precision and MAP leave them out
    figures: dict[str, float | None]
    buckets: dict[str, dict[str, float | None]]  # by training frequency


def compute(split: Split, threshold_C: np.ndarray, frequency_C: np.ndarray) -> Scores:
    """All figures of a split.

    micro_*: over all pairs of document and code. Three macro-F1: `macro_f1_caml`, the harmonic mean of macro-precision
    and macro-recall over all codes (Mullenbach et al. 2018); `macro_f1_all`, the mean of F1 over all codes (one that
    occurs neither in truth nor in predictions has 0); `macro_f1_present`, the mean over the codes that a document of
    the split has (Edin et al. 2023). `macro_auc` is the mean over codes that some documents have and some have not.
    precision_at_k: of the k most probable codes the true ones / k, also where a document, or the label set, has fewer
    than k codes. r_precision and map are means over documents with codes. exact_match: predictions are the truth,
    both empty included. Of each bucket the same F1 and AUC over its codes, with `codes`, `present`, `true` and
    `predicted` counted.

    Args:
      split: probability_NC and truth_NC.
      threshold_C: least probability that predicts a code.
      frequency_C: training documents that have the code.
    """
    counts, exact_N, bucket_C = count(split, threshold_C), exact_match(split, threshold_C), bucket_of(frequency_C)
    auc_C, ranked = auc.by_code(split), ranking(split)
    figures = {
        **f1(counts),
        "micro_auc": auc.micro(split),
        "macro_auc": _mean(auc_C),
        **{name: _mean(x_N) for name, x_N in per_document(ranked, exact_N).items()},
    }
    buckets = {}
    for number, name in enumerate(BUCKETS):
        some = bucket_C == number
        here = Counts(*(x[:, some] for x in (counts.hit_RC, counts.predicted_RC, counts.true_RC)))
        buckets[name] = {
            "codes": int(some.sum()),
            "present": int((here.true_RC > 0).sum()),
            "true": int(here.true_RC.sum()),
            "predicted": int(here.predicted_RC.sum()),
            **_said(f1(here)),
            "macro_auc": _said({"": _mean(auc_C[some])})[""],
        }
    empty = int((np.diff(split.truth_NC.indptr) == 0).sum())
    return Scores(len(exact_N), empty, _said(figures), buckets)


def predicted(probability_BC: np.ndarray, threshold_C: np.ndarray) -> np.ndarray:
    """Which codes are predicted [B, C]; compared in float32, as thresholds are tuned on probabilities."""
    return probability_BC >= np.asarray(threshold_C, np.float32)


def count(split: Split, threshold_C: np.ndarray) -> Counts:
    """Hits, predictions and truths of each code over the split [1, C]."""
    hit_C, predicted_C, true_C = (np.zeros(split.probability_NC.shape[1], np.int64) for _ in range(3))
    for probability_BC, truth_BC in split.rows():
        predicted_BC, truth_BC = predicted(probability_BC, threshold_C), truth_BC.toarray()
        hit_C += (predicted_BC & truth_BC).sum(axis=0)
        predicted_C += predicted_BC.sum(axis=0)
        true_C += truth_BC.sum(axis=0)
    return Counts(hit_C[None], predicted_C[None], true_C[None])


def exact_match(split: Split, threshold_C: np.ndarray) -> np.ndarray:
    """1.0 where the predicted codes of a document are its codes [N]."""
    same = [(predicted(p_BC, threshold_C) == t_BC.toarray()).all(axis=1) for p_BC, t_BC in split.rows()]
    return np.concatenate(same).astype(np.float64)


def f1(counts: Counts) -> dict[str, np.ndarray]:
    """Micro-F1, its precision and recall, and the three macro-F1, each [R]; nan for a mean over no code."""
    hit_RC, predicted_RC, true_RC = counts.hit_RC, counts.predicted_RC, counts.true_RC
    hit_R, predicted_R, true_R = (x.sum(axis=1) for x in (hit_RC, predicted_RC, true_RC))
    f1_RC = _ratio(2 * hit_RC, predicted_RC + true_RC)
    codes = np.full(len(hit_R), hit_RC.shape[1])
    precision_R, recall_R = (_ratio(_ratio(hit_RC, of_RC).sum(axis=1), codes) for of_RC in (predicted_RC, true_RC))
    caml_R = _ratio(2 * precision_R * recall_R, precision_R + recall_R)
    return {
        "micro_f1": _ratio(2 * hit_R, predicted_R + true_R),
        "micro_precision": _ratio(hit_R, predicted_R),
        "micro_recall": _ratio(hit_R, true_R),
        "macro_f1_caml": np.where(codes > 0, caml_R, np.nan),
        "macro_f1_all": _mean_ratio(f1_RC.sum(axis=1), codes),
        "macro_f1_present": _mean_ratio(f1_RC.sum(axis=1), (true_RC > 0).sum(axis=1)),
    }


def ranking(split: Split) -> Ranking:
    """Precision at k, R-precision and average precision of each document.

    Codes stand by falling probability, equal ones in the order of the label set. R-precision: of the R most probable
    codes the true ones / R, for a document with R codes; average precision: the mean, over its codes, of the share of
    true codes among those that stand up to it.
    """
    at, r_precision, average = {k: [] for k in AT}, [], []
    for probability_BC, truth_BC in split.rows():
        for n, row_C in enumerate(probability_BC):
            rank_K = np.sort(ranks(row_C, truth_BC.indices[truth_BC.indptr[n] : truth_BC.indptr[n + 1]]))
            size = len(rank_K)
            for k in AT:
                at[k].append((rank_K < k).sum() / k)
            r_precision.append((rank_K < size).sum() / size if size else np.nan)
            average.append(np.mean(np.arange(1, size + 1) / (rank_K + 1)) if size else np.nan)
    return Ranking({k: np.array(x) for k, x in at.items()}, np.array(r_precision), np.array(average))


def ranks(row_C: np.ndarray, code_K: np.ndarray) -> np.ndarray:
    """How many codes of a document stand before each of some (places in C)."""
    sorted_C, value_K = np.sort(row_C), row_C[code_K]
    above_K = len(row_C) - np.searchsorted(sorted_C, value_K, side="right")
    equal_K = len(row_C) - above_K - np.searchsorted(sorted_C, value_K, side="left")
    for i in np.flatnonzero(equal_K > 1):
        above_K[i] += np.count_nonzero(row_C[: code_K[i]] == value_K[i])
    return above_K


def per_document(ranked: Ranking, exact_N: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of each document [N] whose mean over documents, nan left out, is the split's."""
    return {
        **{f"precision_at_{k}": x_N for k, x_N in ranked.precision_at.items()},
        "r_precision": ranked.r_precision_N,
        "map": ranked.average_precision_N,
        "exact_match": exact_N,
    }


def _ratio(top, bottom) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.asarray(bottom) > 0)


def _mean_ratio(top_R, bottom_R) -> np.ndarray:
    return np.where(bottom_R > 0, _ratio(top_R, bottom_R), np.nan)


def _mean(x: np.ndarray) -> float:
    known = x[~np.isnan(x)]
    return float(known.mean()) if len(known) else np.nan


def _said(figures: dict) -> dict[str, float | None]:
    values = {name: float(np.squeeze(x)) for name, x in figures.items()}
    return {name: None if np.isnan(x) else x for name, x in values.items()}
