"""Tests of CaMOPD's schedule, gap, demands and selection: hand-worked numbers and brute force."""

from fractions import Fraction
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from camopd_jax.camopd import select

GAP = jnp.array([[1.0, -3.0, 2.0, 99.0], [-0.5, 50.0, 50.0, 50.0], [-1.0, -2.0, -3.0, 4.0], [7.0, 7.0, 7.0, 7.0]])
MASK = jnp.array([[True, True, True, False], [True, False, False, False], [True] * 4, [False] * 4])


def test_schedule_of_the_default_cycle():
    cycle = ("g", "g", "g", "d")
    got = [select.schedule(cycle, step) for step in range(9)]
    assert got == [("g", 0), ("g", 1), ("g", 2), ("d", 0), ("g", 3), ("g", 4), ("g", 5), ("d", 1), ("g", 6)]


@pytest.mark.parametrize("cycle", ["d", "gd", "ggd", "gdgdd", "dggg"])
def test_a_visit_counts_the_earlier_steps_of_its_branch(cycle):
    seen = {branch: 0 for branch in cycle}
    for step in range(23):
        branch, visit = select.schedule(tuple(cycle), step)
        assert (branch, visit) == (cycle[step % len(cycle)], seen[branch])
        seen[branch] += 1


def test_gap_is_teacher_minus_student_inside_the_mask():
    teacher, student = jnp.array([[-1.0, -4.0, np.nan]]), jnp.array([[-3.0, -1.5, -2.0]])
    gap = select.log_prob_gap(teacher, student, jnp.array([[True, True, False]]))
    np.testing.assert_array_equal(gap, [[2.0, -2.5, 0.0]])


def test_gap_is_constant_under_the_gradient():
    teacher, student, mask = jnp.array([[-1.0, -4.0]]), jnp.array([[-3.0, -1.5]]), jnp.ones((1, 2), bool)
    for at in (0, 1):
        gradient = jax.grad(lambda t, s: jnp.sum(select.log_prob_gap(t, s, mask)), argnums=at)(teacher, student)
        np.testing.assert_array_equal(gradient, [[0.0, 0.0]])


def test_demands_by_hand_with_ragged_lengths():
    np.testing.assert_array_equal(select.absolute_demand(GAP, MASK), [2.0, 0.5, 2.5, 0.0])
    np.testing.assert_array_equal(select.positive_demand(GAP, MASK), [1.0, 0.0, 1.0, 0.0])
    assert select.DEMANDS == {"absolute": select.absolute_demand, "positive": select.positive_demand}


@pytest.mark.parametrize("demand", ["absolute", "positive"])
def test_demand_gradients_by_finite_differences(demand):
    check_grads(lambda gap: select.DEMANDS[demand](gap, MASK), (GAP,), 1, ["rev"], atol=1e-2, rtol=1e-2, eps=1e-2)


@pytest.mark.parametrize(
    ("score", "rho", "expected"),
    [
        ([1, 5, 2, 2], 0.5, [1]),  # 5 of 10
        ([1, 5, 2, 2], 0.7, [1, 2]),  # 7 of 10 is reached exactly; of the two 2s, the earlier
        ([1, 5, 2, 2], 0.71, [1, 2, 3]),
        ([1, 5, 2, 2], 1.0, [1, 2, 3, 0]),
        ([0, 3, 0, 1], 1.0, [1, 3]),  # zeros add nothing
        ([4, 4, 4, 4, 4], 0.8, [0, 1, 2, 3]),
        ([4, 4, 4, 4, 4], 0.81, [0, 1, 2, 3, 4]),
        ([0.25], 0.01, [0]),
        ([0, 0, 0], 0.8, []),
    ],
)
def test_smallest_prefix_by_hand(score, rho, expected):
    assert select.smallest_prefix(np.array(score, np.float32), rho).tolist() == expected


def test_ties_keep_the_order_of_the_batch():
    score = np.random.default_rng(0).integers(1, 4, size=1000).astype(np.float32)
    expected = sorted(range(1000), key=lambda i: (-score[i], i))
    assert select.smallest_prefix(score, 1.0).tolist() == expected


def test_the_sum_is_in_float64():
    # In float32, 2^24 + 1 is 2^24: the total would be reached by the first sample alone.
    score = np.array([2.0**24] + [1.0] * 4, np.float32)
    assert select.smallest_prefix(score, 1.0).tolist() == [0, 1, 2, 3, 4]


def test_smallest_prefix_is_the_smallest_set_by_brute_force():
    rng = np.random.default_rng(1)
    for trial in range(200):
        n, rho = int(rng.integers(1, 8)), (0.125, 0.25, 0.5, 0.75, 0.875, 1.0)[trial % 6]  # exact in binary
        score = rng.integers(0, 6, size=n)
        got = select.smallest_prefix(score.astype(np.float32), rho).tolist()
        needed = Fraction(rho) * int(score.sum())
        sizes = [k for k in range(n + 1) if any(sum(c) >= needed for c in combinations(score.tolist(), k))]
        assert len(set(got)) == len(got) == min(sizes)
        assert sum(score[got].tolist()) >= needed
        left = [score[i] for i in range(n) if i not in got]
        assert not got or not left or score[got].min() >= max(left)
        assert score[got].tolist() == sorted(score[got].tolist(), reverse=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.5])
def test_a_bad_score_is_named(bad):
    with pytest.raises(ValueError, match=r"sample 2 of the batch has the score"):
        select.smallest_prefix(np.array([1.0, 2.0, bad, 3.0]), 0.8)


@pytest.mark.parametrize("rho", [0.0, -0.1, 1.01, np.nan])
def test_a_bad_rho_is_refused(rho):
    with pytest.raises(ValueError, match="rho"):
        select.smallest_prefix(np.array([1.0, 2.0]), rho)
