"""The statistics of experiments: against SciPy, numbers worked by hand, plain loops, and simulation."""

import numpy as np
import pytest
from scipy import stats

from camopd_jax import comparison
from camopd_jax.comparison import Difference, Scores


def scores(value_SN):
    value_SN = np.asarray(value_SN, np.float64)
    return Scores(value_SN, np.ones_like(value_SN))


def test_t_interval_by_hand():
    """1, 2, 3: mean 2, s 1, t(2) 4.302653: 2 -+ 4.302653 / sqrt(3)."""
    low, high = comparison.t_interval(np.array([1.0, 2.0, 3.0]))
    assert low == pytest.approx(2 - 2.484138, abs=1e-6) and high == pytest.approx(2 + 2.484138, abs=1e-6)
    assert comparison.t_interval(np.array([1.0])) is None


def test_paired_t_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.4, 1, 5), rng.normal(0, 1, 5)
    ours, theirs = comparison.paired_t(a, b), stats.ttest_rel(a, b)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-9)
    assert ours.value == pytest.approx(np.mean(a - b))


def test_paired_t_without_spread_or_with_one_seed():
    assert comparison.paired_t(np.ones(3), np.ones(3)) == Difference(0, 0, 0, 1)
    assert comparison.paired_t(np.full(3, 3.0), np.ones(3)) == Difference(2, 2, 2, 0)
    assert comparison.paired_t(np.ones(1), np.zeros(1)) is None


def test_resampling_draws_all_items_and_all_seeds_but_one():
    drawn = comparison.resampling(3, 7, 500, seed=0)
    assert drawn.item_RN.shape == (500, 7) and drawn.seed_RS.shape == (500, 3)
    np.testing.assert_array_equal(drawn.item_RN.sum(axis=1), 7)
    np.testing.assert_allclose(drawn.seed_RS.sum(axis=1), 1)
    assert set(np.unique(drawn.seed_RS)) == {0, 0.5, 1}
    np.testing.assert_array_equal(comparison.resampling(1, 7, 500, seed=0).seed_RS, 1)


def test_values_on_resamples_are_those_of_a_plain_loop():
    rng = np.random.default_rng(1)
    s = Scores(rng.normal(size=(3, 5)), rng.integers(1, 9, (3, 5)).astype(float))
    drawn = comparison.resampling(3, 5, 20, seed=2)
    for r, value in enumerate(drawn.values(s)):
        expected = 0.0
        for i in range(3):
            top = bottom = 0.0
            for j in range(5):
                top += drawn.item_RN[r, j] * s.numerator_SN[i, j]
                bottom += drawn.item_RN[r, j] * s.denominator_SN[i, j]
            expected += drawn.seed_RS[r, i] * top / bottom
        assert value == pytest.approx(expected)


def test_the_spread_over_resamples_is_the_analytic_one():
    """Items that differ alone: s_items / sqrt(N), ddof 0; seeds that differ alone: s_seeds / sqrt(S), ddof 1."""
    rng = np.random.default_rng(2)
    item_N, seed_S = rng.normal(size=40), np.array([0.0, 1.0, 5.0])
    drawn = comparison.resampling(3, 40, 20_000, seed=3)
    of_items = drawn.values(scores(np.tile(item_N, (3, 1)))).std()
    of_seeds = drawn.values(scores(np.tile(seed_S[:, None], (1, 40)))).std()
    assert of_items == pytest.approx(item_N.std() / np.sqrt(40), rel=0.02)
    assert of_seeds == pytest.approx(seed_S.std(ddof=1) / np.sqrt(3), rel=0.02)


def test_where_seeds_alone_differ_the_bootstrap_is_the_t_test():
    a_S, b_S = np.array([1.0, 2.5, 3.0]), np.array([0.5, 1.0, 2.8])
    wide = np.ones((1, 30))
    drawn = comparison.resampling(3, 30, 20_000, seed=4)
    ours = comparison.paired_bootstrap(scores(a_S[:, None] * wide), scores(b_S[:, None] * wide), drawn)
    t = comparison.paired_t(a_S, b_S)
    assert ours.value == pytest.approx(t.value)
    assert (ours.low, ours.high, ours.p) == pytest.approx((t.low, t.high, t.p), rel=0.05)


def test_with_one_seed_the_bootstrap_is_the_t_test_over_items():
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.2, 1, (1, 60)), rng.normal(size=(1, 60))
    ours = comparison.paired_bootstrap(scores(a), scores(b), comparison.resampling(1, 60, 20_000, seed=6))
    theirs = stats.ttest_rel(a[0], b[0])
    assert ours.p == pytest.approx(theirs.pvalue, rel=0.1)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)), abs=0.02)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_method_is_not_told_apart_from_itself(seeds):
    a = scores(np.random.default_rng(7).integers(0, 2, (seeds, 50)))
    same = comparison.paired_bootstrap(a, a, comparison.resampling(seeds, 50, 200, seed=8))
    assert same == Difference(0, 0, 0, 1)
    assert comparison.verdict(same.value, same.p, True) == "not told apart"


def test_a_pairing_of_other_items_is_refused():
    drawn = comparison.resampling(1, 4, 10, seed=0)
    with pytest.raises(ValueError, match="cannot be paired"):
        comparison.paired_bootstrap(scores(np.ones((1, 4))), scores(np.ones((1, 5))), drawn)


@pytest.mark.parametrize(
    "seeds, items, item, seed, noise, least, most",
    [
        (1, 100, 0.5, 0.0, 0.0, 0.93, 0.97),
        (3, 100, 0.5, 0.0, 0.1, 0.93, 0.98),  # items differ, seeds do not: the t-test over seeds holds 3 in 4 here
        (3, 100, 0.5, 0.05, 0.3, 0.93, 0.98),
        (3, 100, 0.1, 0.1, 0.1, 0.90, 0.96),  # seeds differ most: three are few, and the percentiles would hold 80 %
        (5, 100, 0.1, 0.1, 0.1, 0.92, 0.97),
    ],
)
def test_the_interval_holds_the_truth_in_95_of_100_cases(seeds, items, item, seed, noise, least, most):
    """Differences of 0 in truth, made of effects of items, of seeds, and of both together."""
    rng = np.random.default_rng(9)
    drawn = comparison.resampling(seeds, items, 600, seed=10)
    common, trials, held = rng.normal(size=(1, items)), 1500, 0
    for _ in range(trials):
        d_SN = rng.normal(0, item, (1, items)) + rng.normal(0, seed, (seeds, 1)) + rng.normal(0, noise, (seeds, items))
        both = scores(common + d_SN), scores(np.tile(common, (seeds, 1)))
        found = comparison.paired_bootstrap(*both, drawn)
        held += found.low <= 0 <= found.high
        assert (found.p < comparison.LEVEL) == (not found.low <= 0 <= found.high)
    assert least <= held / trials <= most


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2 = 0.06 again, 0.04 x 1 is raised to 0.06; in any order; at most 1."""
    np.testing.assert_allclose(comparison.holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    assert comparison.holm([0.6, 0.7]) == [1.0, 1.0]
    assert comparison.holm([]) == []


def test_holm_keeps_any_false_rejection_at_5_percent():
    p = np.random.default_rng(11).uniform(size=(4000, 6))
    any_rejected = np.mean([min(comparison.holm(row)) < 0.05 for row in p])
    assert 0.035 < any_rejected < 0.065


@pytest.mark.parametrize(
    "difference, p, higher, expected",
    [
        (0.1, 0.01, True, "better"),
        (0.1, 0.01, False, "worse"),
        (-0.1, 0.01, False, "better"),
        (-0.1, 0.01, True, "worse"),
        (0.1, 0.05, True, "not told apart"),
    ],
)
def test_verdict(difference, p, higher, expected):
    assert comparison.verdict(difference, p, higher) == expected
