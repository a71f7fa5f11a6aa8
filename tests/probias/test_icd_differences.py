"""Differences of two systems over documents that are drawn again, and the ceiling of a label set."""

import numpy as np
import pytest

from camopd_jax.probias import coverage, differences, scores

NAMES = ("micro_f1", "macro_f1_caml", "macro_f1_all", "macro_f1_present", "precision_at_5", "r_precision", "map",
         "exact_match")  # fmt: skip


def systems(documents, codes, seed, better):
    """The truth, and the probabilities of two systems; the first sees the truth better."""
    rng = np.random.default_rng(seed)
    truth_NC = rng.uniform(size=(documents, codes)) < rng.uniform(0.02, 0.4, codes)
    common_NC, own_NC = rng.normal(size=(2, documents, codes))
    logit_NC = 1.5 * truth_NC - 1 + common_NC
    both = (logit_NC + better * truth_NC, logit_NC + 0.3 * own_NC)
    return [
        scores.Split((1 / (1 + np.exp(-x))).astype(np.float32), scores.truth_csr(truth_NC)) for x in both
    ]  # fmt: skip


def compare(a, b, frequency_C, resamples=400, seed=0):
    half_C = np.full(a.probability_NC.shape[1], 0.5)
    return differences.paired(a, b, half_C, half_C, frequency_C, resamples, seed)


def figures_of(split):
    half_C = np.full(split.probability_NC.shape[1], 0.5)
    of_documents = scores.per_document(scores.ranking(split), scores.exact_match(split, half_C))
    mean = {name: np.nanmean(x_N) for name, x_N in of_documents.items()}
    return mean | {name: x_R[0] for name, x_R in scores.f1(scores.count(split, half_C)).items()}


def test_values_are_the_differences_of_the_scores():
    a, b = systems(50, 20, 0, 0.6)
    frequency_C = np.repeat([5, 30, 400, 900], 5)
    found = compare(a, b, frequency_C, resamples=20)
    of_a, of_b = (scores.compute(x, np.full(20, 0.5), frequency_C) for x in (a, b))
    for name in NAMES:
        assert found[name].value == pytest.approx(of_a.figures[name] - of_b.figures[name])
    for bucket in ("1-10", "101-500"):
        for name in ("micro_f1", "macro_f1_all", "macro_f1_present"):
            difference = of_a.buckets[bucket][name] - of_b.buckets[bucket][name]
            assert found[f"{name} {bucket}"].value == pytest.approx(difference)
    assert found["macro_f1_all 51-100"] is None  # no code


def test_the_spread_is_that_of_scores_on_documents_drawn_by_hand():
    """The scores of resamples, each made by repeating rows, have the standard deviation that the interval is of."""
    a, b = systems(40, 8, 1, 0.6)
    found = compare(a, b, np.full(8, 5), resamples=3000)
    rng = np.random.default_rng(99)
    drawn = {name: [] for name in NAMES}
    for _ in range(200):
        at = rng.integers(40, size=40)
        of_a, of_b = (figures_of(scores.Split(x.probability_NC[at], x.truth_NC[at])) for x in (a, b))
        for name in NAMES:
            drawn[name].append(of_a[name] - of_b[name])
    for name in NAMES:
        half = (found[name].high - found[name].low) / 2
        assert half == pytest.approx(2.0227 * np.std(drawn[name], ddof=1), rel=0.2), name  # t(39)


def test_a_system_alone():
    a, _ = systems(50, 8, 7, 0.6)
    half_C, frequency_C = np.full(8, 0.5), np.repeat([5, 30], 4)
    found = differences.alone(a, half_C, frequency_C, 2000, 0)
    whole = scores.compute(a, half_C, frequency_C)
    assert all(found[name].value == pytest.approx(whole.figures[name]) for name in NAMES)
    assert found["micro_f1 11-50"].value == pytest.approx(whole.buckets["11-50"]["micro_f1"])
    spread = scores.ranking(a).precision_at[5].std() / np.sqrt(50)  # of a mean over documents it is known
    assert found["precision_at_5"].high - found["precision_at_5"].value == pytest.approx(2.0096 * spread, rel=0.05)


def test_a_system_against_itself():
    a, _ = systems(30, 6, 2, 0.0)
    found = compare(a, a, np.full(6, 5), resamples=50)
    assert all(d is None or (d.value, d.low, d.high, d.p) == (0, 0, 0, 1) for d in found.values())


def test_blocks_of_resamples_change_nothing(monkeypatch):
    a, b = systems(30, 6, 3, 0.5)
    whole = compare(a, b, np.full(6, 5), resamples=64)
    monkeypatch.setattr(differences, "BLOCK", 60)  # ten resamples
    for name, d in compare(a, b, np.full(6, 5), resamples=64).items():
        assert (d is None) == (whole[name] is None)
        assert d is None or (d.value, d.low, d.high) == pytest.approx(
            (whole[name].value, whole[name].low, whole[name].high)
        )


@pytest.mark.filterwarnings("error")
def test_the_interval_holds_the_difference_of_other_documents():
    """Systems as before on many splits: 95 of 100 intervals hold the difference over all of these documents."""
    truth, trials = systems(60 * 100, 6, 4, 0.3), 100
    goal = compare(*truth, np.full(6, 5), resamples=2)["macro_f1_present"].value
    held = 0
    for trial in range(trials):
        rows = slice(60 * trial, 60 * (trial + 1))
        a, b = (scores.Split(x.probability_NC[rows], x.truth_NC[rows]) for x in truth)
        d = compare(a, b, np.full(6, 5), resamples=100, seed=trial)["macro_f1_present"]
        held += d.low <= goal <= d.high
    assert 0.88 <= held / trials <= 0.99


def test_other_documents_are_refused():
    a, b = systems(10, 4, 5, 0.5)
    _, other = systems(10, 4, 6, 0.5)
    with pytest.raises(ValueError, match="different documents, codes or truths cannot be paired"):
        compare(a, other, np.full(4, 5))
    one = scores.Split(b.probability_NC[:1], b.truth_NC[:1])
    with pytest.raises(ValueError, match="documents: 1; allowed is 2 or more"):
        compare(one, one, np.full(4, 5))


def test_the_ceiling_by_hand():
    """Documents with 2 codes in and 1 out, 1 and 0, 0 and 3, 0 and 0; 2 different ones in, 4 out."""
    found = coverage.ceiling(np.array([2, 1, 0, 0]), np.array([1, 0, 3, 0]), 2, 4)
    assert (found.documents, found.affected, found.pairs_outside, found.codes_outside) == (4, 2, 4, 4)
    assert found.figures == pytest.approx(
        {
            "micro_recall": 3 / 7,
            "micro_f1": 6 / 10,
            "macro_f1_present": 2 / 6,
            "exact_match": 2 / 4,
            "precision_at_5": 3 / 5 / 4,
            "precision_at_8": 3 / 8 / 4,
            "precision_at_15": 3 / 15 / 4,
            "r_precision": (2 / 3 + 1 + 0) / 3,
            "map": (2 / 3 + 1 + 0) / 3,
        }
    )


def test_the_ceiling_is_reached_by_a_system_that_knows_all():
    truth_NC = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    found = coverage.ceiling(truth_NC.sum(axis=1), np.zeros(3), 2, 0).figures
    split = scores.Split(truth_NC.astype(np.float32), scores.truth_csr(truth_NC))
    reached = scores.compute(split, np.full(3, 0.5), np.ones(3)).figures
    assert found == pytest.approx({name: reached[name] for name in found})


@pytest.mark.filterwarnings("error")
def test_the_ceiling_of_documents_without_any_code():
    found = coverage.ceiling(np.zeros(2), np.zeros(2), 0, 0).figures
    assert found["micro_f1"] is found["r_precision"] is found["macro_f1_present"] is None
    assert found["exact_match"] == 1
