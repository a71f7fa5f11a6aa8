"""Scores of a split: scikit-learn's figures, numbers worked by hand, plain loops, and what is degenerate."""

import json
from pathlib import Path

import numpy as np
import pytest

from camopd_jax.probias import auc, scores

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "icd_scores.json"


def split_of(probability_NC, truth_NC):
    return scores.Split(np.asarray(probability_NC, np.float32), scores.truth_csr(np.asarray(truth_NC, bool)))


def computed(probability_NC, truth_NC, threshold=0.5, frequency_C=None):
    split = split_of(probability_NC, truth_NC)
    codes = split.probability_NC.shape[1]
    return scores.compute(
        split, np.full(codes, threshold), np.ones(codes, int) if frequency_C is None else np.array(frequency_C)
    )


def random_split(documents, codes, seed, digits):
    """Probabilities with ties, codes that no document has, documents without codes."""
    rng = np.random.default_rng(seed)
    share_C = np.where(rng.uniform(size=codes) < 0.3, 0, rng.uniform(0, 0.4, codes))
    truth_NC = (rng.uniform(size=(documents, codes)) < share_C) & (rng.uniform(size=(documents, 1)) < 0.8)
    probability_NC = np.round(1 / (1 + np.exp(1 - 2 * truth_NC - rng.normal(size=truth_NC.shape))), digits)
    return probability_NC.astype(np.float32), truth_NC


def plain(probability_NC, truth_NC, threshold):
    """The figures by loops over documents, codes and pairs."""
    documents, codes = truth_NC.shape
    predicted_NC = probability_NC >= np.float32(threshold)
    f1s, precisions, recalls, present, areas = [], [], [], [], []
    totals = [0, 0, 0]
    for c in range(codes):
        hit = sum(truth_NC[n, c] and predicted_NC[n, c] for n in range(documents))
        said, true = predicted_NC[:, c].sum(), truth_NC[:, c].sum()
        f1s.append(2 * hit / (said + true) if said + true else 0.0)
        precisions.append(hit / said if said else 0.0)
        recalls.append(hit / true if true else 0.0)
        present.append(true > 0)
        totals = [a + b for a, b in zip(totals, (hit, said, true), strict=True)]
        if 0 < true < documents:
            areas.append(plain_area(probability_NC[:, c], truth_NC[:, c]))
    precision, recall = np.mean(precisions), np.mean(recalls)
    out = {
        "micro_f1": 2 * totals[0] / (totals[1] + totals[2]),
        "micro_precision": totals[0] / totals[1],
        "micro_recall": totals[0] / totals[2],
        "macro_f1_caml": 2 * precision * recall / (precision + recall),
        "macro_f1_all": np.mean(f1s),
        "macro_f1_present": np.mean([f for f, there in zip(f1s, present, strict=True) if there]),
        "micro_auc": plain_area(probability_NC.ravel(), truth_NC.ravel()),
        "macro_auc": np.mean(areas),
        "exact_match": np.mean([list(p) == list(t) for p, t in zip(predicted_NC, truth_NC, strict=True)]),
    }
    r_precision, average, at = [], [], {k: [] for k in scores.AT}
    for n in range(documents):
        order = sorted(range(codes), key=lambda c: (-probability_NC[n, c], c))
        right = [truth_NC[n, c] for c in order]
        for k in scores.AT:
            at[k].append(sum(right[:k]) / k)
        if any(right):
            r_precision.append(sum(right[: sum(right)]) / sum(right))
            average.append(np.mean([sum(right[: i + 1]) / (i + 1) for i in range(codes) if right[i]]))
    return out | {f"precision_at_{k}": np.mean(x) for k, x in at.items()} | {
        "r_precision": np.mean(r_precision), "map": np.mean(average),
    }  # fmt: skip


def plain_area(score_M, truth_M):
    pairs = [(a > b) + 0.5 * (a == b) for a in score_M[truth_M] for b in score_M[~truth_M]]
    return np.mean(pairs)


def test_figures_are_scikit_learns():
    golden = json.loads(GOLDEN.read_text())
    rank_NC = np.array(golden["rank_NC"])
    found = computed((rank_NC + 1) / (rank_NC.shape[1] + 1), golden["truth_NC"], golden["threshold"]).figures
    assert {name: found[name] for name in golden["expected"]} == pytest.approx(golden["expected"], abs=1e-6)


@pytest.mark.parametrize("seed, digits, threshold", [(0, 1, 0.5), (1, 1, 0.7), (2, 6, 0.3)])
def test_figures_are_those_of_plain_loops(seed, digits, threshold):
    probability_NC, truth_NC = random_split(25, 18, seed, digits)
    found = computed(probability_NC, truth_NC, threshold).figures
    assert found == pytest.approx(plain(probability_NC, truth_NC, threshold), abs=1e-12)


def test_three_macro_f1_by_hand():
    """Codes: right once in two documents with one false alarm; never found; in no document but predicted; nowhere.

    Precision 1/2, 0, 0, 0, recall 1/1, 0, 0, 0: macro 1/8 and 1/4, harmonic mean 1/6. F1 2/3, 0, 0, 0: mean over four
    codes 1/6, over the two that are present 1/3. Micro: 1 hit, 3 predicted, 2 true.
    """
    found = computed([[0.9, 0.1, 0.6, 0.0], [0.5, 0.4, 0.2, 0.0]], [[1, 0, 0, 0], [0, 1, 0, 0]]).figures
    assert found["macro_f1_caml"] == pytest.approx(1 / 6)
    assert found["macro_f1_all"] == pytest.approx(1 / 6)
    assert found["macro_f1_present"] == pytest.approx(1 / 3)
    assert found["micro_f1"] == pytest.approx(2 / 5)
    assert (found["micro_precision"], found["micro_recall"]) == pytest.approx((1 / 3, 1 / 2))


def test_the_ranking_of_one_document_by_hand():
    """True codes stand first, third and tenth of sixteen: P@5 2/5, P@8 2/8, P@15 3/15, R-precision 2/3, AP
    (1/1 + 2/3 + 3/10) / 3."""
    probability_C = np.linspace(0.9, 0.1, 16)
    truth_C = np.isin(np.arange(16), [0, 2, 9])
    found = computed(probability_C[None], truth_C[None], 0.95).figures
    assert [found[f"precision_at_{k}"] for k in (5, 8, 15)] == pytest.approx([2 / 5, 2 / 8, 3 / 15])
    assert found["r_precision"] == pytest.approx(2 / 3)
    assert found["map"] == pytest.approx((1 + 2 / 3 + 3 / 10) / 3)


def test_equal_probabilities_stand_in_the_order_of_the_label_set():
    row_C = np.array([0.5, 0.7, 0.5, 0.5, 0.9], np.float32)
    assert scores.ranks(row_C, np.arange(5)).tolist() == [2, 1, 3, 4, 0]


def test_precision_at_k_divides_by_k_where_there_are_fewer_codes():
    """One document has one code, the other none, in a label set of three: 1/8 and 0."""
    found = computed([[0.9, 0.1, 0.2], [0.3, 0.2, 0.1]], [[1, 0, 0], [0, 0, 0]])
    assert found.figures["precision_at_8"] == pytest.approx(1 / 16)
    assert (found.figures["r_precision"], found.figures["map"]) == (1, 1)  # of the one document that has a code
    assert (found.documents, found.without_codes) == (2, 1)


@pytest.mark.filterwarnings("error")
def test_nothing_predicted_and_nothing_true():
    found = computed(np.full((3, 2), 0.1), np.zeros((3, 2)), frequency_C=[0, 5])
    undefined = {name for name, value in found.figures.items() if value is None}
    assert undefined == {"micro_auc", "macro_auc", "macro_f1_present", "r_precision", "map"}
    assert found.figures["exact_match"] == 1  # both are empty
    assert found.figures["micro_f1"] == found.figures["macro_f1_caml"] == found.figures["macro_f1_all"] == 0
    everything = computed(np.full((3, 2), 0.9), np.ones((3, 2)))
    assert everything.figures["micro_auc"] is None and everything.figures["micro_f1"] == 1


def test_bucket_edges():
    frequency_C = np.array([0, 1, 10, 11, 50, 51, 100, 101, 500, 501, 90_000])
    assert [scores.BUCKETS[i] for i in scores.bucket_of(frequency_C)] == [
        "0", "1-10", "1-10", "11-50", "11-50", "51-100", "51-100", "101-500", "101-500", ">500", ">500",
    ]  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_a_buckets_figures_are_those_of_its_codes_alone():
    probability_NC, truth_NC = random_split(30, 12, 3, 2)
    frequency_C = np.array([3, 700, 3, 30, 0, 700, 3, 30, 3, 700, 3, 30])
    found = computed(probability_NC, truth_NC, 0.4, frequency_C).buckets
    rare = frequency_C == 3
    alone = plain(probability_NC[:, rare], truth_NC[:, rare], 0.4)
    for name in ("micro_f1", "micro_recall", "macro_f1_caml", "macro_f1_all", "macro_f1_present", "macro_auc"):
        assert found["1-10"][name] == pytest.approx(alone[name])
    assert (found["1-10"]["codes"], found["1-10"]["true"]) == (5, truth_NC[:, rare].sum())
    assert found["1-10"]["predicted"] == (probability_NC[:, rare] >= np.float32(0.4)).sum()
    assert found["51-100"]["codes"] == 0
    assert all(found["51-100"][name] is None for name in ("macro_f1_caml", "macro_f1_all", "macro_auc"))


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_batches_and_blocks_of_any_size_change_nothing(tmp_path, monkeypatch, batch):
    probability_NC, truth_NC = random_split(40, 11, 4, 2)
    frequency_C = np.arange(11) * 12
    whole = computed(probability_NC, truth_NC, 0.5, frequency_C)
    monkeypatch.setattr(scores, "BLOCK", 33)  # three documents
    monkeypatch.setattr(auc, "COLUMNS", 80)  # two codes
    accumulator = scores.Accumulator(11, tmp_path)
    for n in range(0, 40, batch):
        accumulator.add(probability_NC[n : n + batch], truth_NC[n : n + batch])
    assert scores.compute(accumulator.split(), np.full(11, 0.5), frequency_C) == whole
    assert not list(tmp_path.iterdir())


def test_a_threshold_for_each_code():
    split = split_of([[0.3, 0.3], [0.6, 0.6]], [[1, 1], [1, 1]])
    assert scores.count(split, np.array([0.3, 0.6])).predicted_RC.tolist() == [[2, 1]]
    assert scores.exact_match(split, np.array([0.3, 0.6])).tolist() == [0, 1]


def test_what_is_no_probability_is_refused(tmp_path):
    accumulator = scores.Accumulator(2, tmp_path)
    accumulator.add([[0.1, 0.2]], [[1, 0]])
    with pytest.raises(ValueError, match=r"document 2 of the split has the probability nan for code number 1"):
        accumulator.add([[0.1, 0.2], [0.1, np.nan]], np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"probabilities of shape \(1, 3\); allowed is \[documents, 2 codes\]"):
        accumulator.add([[0.1, 0.2, 0.3]], [[1, 0]])
    with pytest.raises(ValueError, match="a split without documents"):
        scores.Accumulator(2, tmp_path).split()
