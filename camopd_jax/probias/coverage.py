"""What a label set made from training can reach at best on a split: some codes of its documents are outside."""

from dataclasses import dataclass

import numpy as np

from camopd_jax.probias.scores import AT


@dataclass(frozen=True)
class Ceiling:
    """Figures of a system that is right on every code of the label set and cannot say another."""

    documents: int
    affected: int  # documents with a code outside
    pairs_outside: int  # of a document and a code
    codes_outside: int  # different ones
    figures: dict[str, float | None]  # best values; None where one is undefined


def ceiling(in_N: np.ndarray, out_N: np.ndarray, codes_in: int, codes_out: int) -> Ceiling:
    """The best reachable figures, were the codes outside the label set counted as missed.

    With I pairs inside and O outside: recall I / (I + O), micro-F1 2 I / (2 I + O), precision 1. macro_f1_present over
    the codes of the split, those outside included, of which each has F1 0. precision_at_k also falls short of 1 where
    a document has fewer than k codes. R-precision and MAP leave out documents without codes: at best the codes inside
    stand first, so that both are the mean share inside.

    Args:
      in_N, out_N: how many codes of each document are, and are not, in the label set.
      codes_in, codes_out: how many different ones these are over the split.
    """
    in_N, out_N = np.asarray(in_N, np.int64), np.asarray(out_N, np.int64)
    has_N = in_N + out_N > 0
    pairs_in, pairs_out = int(in_N.sum()), int(out_N.sum())
    share_N = in_N[has_N] / (in_N + out_N)[has_N]
    figures = {
        "micro_recall": _share(pairs_in, pairs_in + pairs_out),
        "micro_f1": _share(2 * pairs_in, 2 * pairs_in + pairs_out),
        "macro_f1_present": _share(codes_in, codes_in + codes_out),
        "exact_match": _share(int((out_N == 0).sum()), len(out_N)),
        **{f"precision_at_{k}": _share(float((np.minimum(in_N, k) / k).sum()), len(in_N)) for k in AT},
        "r_precision": _share(float(share_N.sum()), len(share_N)),
        "map": _share(float(share_N.sum()), len(share_N)),
    }
    return Ceiling(len(in_N), int((out_N > 0).sum()), pairs_out, codes_out, figures)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
