"""Thresholds against every threshold tried, and by hand."""

import numpy as np
import pytest

from camopd_jax.probias import scores, thresholds
from camopd_jax.probias.thresholds import macro, micro


def made(documents, codes, seed, digits):
    rng = np.random.default_rng(seed)
    truth_NC = rng.uniform(size=(documents, codes)) < rng.uniform(0, 0.4, codes)
    probability_NC = np.round(1 / (1 + np.exp(1 - 2 * truth_NC - rng.normal(size=truth_NC.shape))), digits)
    return scores.Split(probability_NC.astype(np.float32), scores.truth_csr(truth_NC))


def best_of_all(split, figure):
    """Every distinct probability is tried; the highest of the best."""
    codes = split.probability_NC.shape[1]
    tried = np.unique(split.probability_NC)
    value = [scores.f1(scores.count(split, thresholds.fixed(t, codes)))[figure][0] for t in tried]
    return max(t for t, v in zip(tried, value, strict=True) if v >= max(value) - 1e-12)


@pytest.mark.parametrize("seed, digits", [(0, 2), (1, 2), (2, 7), (3, 1)])
def test_no_threshold_is_better(seed, digits, monkeypatch):
    split = made(30, 9, seed, digits)
    assert micro(split) == best_of_all(split, "micro_f1")
    assert macro(split) == best_of_all(split, "macro_f1_all") == best_of_all(split, "macro_f1_present")
    monkeypatch.setattr(scores, "BLOCK", 20)
    monkeypatch.setattr(thresholds, "COLUMNS", 70)
    assert (micro(split), macro(split)) == (best_of_all(split, "micro_f1"), best_of_all(split, "macro_f1_all"))


def test_by_hand():
    """Falling: true 0.9, false 0.8, true 0.6, false 0.5, true 0.1. F1 at 0.9, 0.6, 0.1: 2/4, 4/6, 6/8."""
    truth_NC = [[1], [0], [1], [0], [1]]
    split = scores.Split(np.array([[0.9], [0.8], [0.6], [0.5], [0.1]], np.float32), scores.truth_csr(truth_NC))
    assert micro(split) == macro(split) == pytest.approx(0.1)
    more = np.concatenate([split.probability_NC, np.full((4, 1), 0.2, np.float32)])  # at 0.1 now 6/12, at 0.6 still 4/6
    more = scores.Split(more, scores.truth_csr(truth_NC + [[0]] * 4))
    assert micro(more) == macro(more) == pytest.approx(0.6)


def test_of_equally_good_ones_the_highest():
    """At 0.9: 2 x 1 / (1 + 3); at 0.5: 2 x 3 / (9 + 3): both one half."""
    probability_NC = np.array([[0.9]] + [[0.5]] * 8, np.float32)
    split = scores.Split(probability_NC, scores.truth_csr([[1], [1], [1]] + [[0]] * 6))
    assert micro(split) == macro(split) == pytest.approx(0.9)


@pytest.mark.parametrize("best, figure", [(micro, "micro_f1"), (macro, "macro_f1_all")])
def test_each_bucket_has_the_best_of_its_codes(best, figure):
    split, frequency_C = made(40, 9, 5, 2), np.array([0, 5, 700, 5, 30, 700, 5, 30, 700])
    found_C = thresholds.by_bucket(split, frequency_C, best)
    assert found_C.dtype == np.float32
    for bucket in (5, 30, 700):
        code_K = np.flatnonzero(frequency_C == bucket)
        assert set(found_C[code_K]) == {np.float32(best_of_all(split.of(code_K), figure))}
    assert len(set(found_C[frequency_C > 0])) > 1


def test_a_bucket_that_validation_lacks_takes_the_threshold_of_all():
    split = made(40, 4, 6, 2)
    truth_NC = split.truth_NC.toarray()
    truth_NC[:, 0] = False
    split = scores.Split(split.probability_NC, scores.truth_csr(truth_NC))
    found_C = thresholds.by_bucket(split, np.array([0, 5, 30, 700]), micro)
    assert found_C[0] == thresholds.tuned(split, micro)[0]
    assert len(set(found_C[1:])) == 3


def test_a_split_without_codes_tunes_nothing():
    split = scores.Split(np.full((2, 3), 0.5, np.float32), scores.truth_csr(np.zeros((2, 3))))
    assert micro(split) is None and macro(split) is None
    for tune in (lambda: thresholds.tuned(split, micro), lambda: thresholds.by_bucket(split, np.ones(3), macro)):
        with pytest.raises(ValueError, match="no document of validation has a code of the label set"):
            tune()


def test_fixed():
    assert thresholds.fixed(0.5, 3).tolist() == [0.5, 0.5, 0.5]
