"""How many are taken of each source, and which."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camopd_jax.prepare import recipes, sample


def weights(recipe):
    return {s.name: s.weight for s in recipes.RECIPES[recipe]}


def test_the_paper_s_ten_thousand_in_the_official_proportions():
    # 25,659,642 rows: 290.97, 739.06, 796.74, 8052.40 and 120.83 of 10,000; the three largest remainders get one more
    found = sample.parts(10_000, weights("nemotron"))
    assert found == {"chat": 291, "code": 739, "math": 797, "stem": 8052, "tool_calling": 121}
    assert sample.parts(10_000, weights("medical")) == {
        "medmcqa": 4000, "medreason": 3000, "medical_r1": 2000, "m23k": 1000,
    }  # fmt: skip


@given(st.integers(1, 5000), st.lists(st.integers(1, 10**7), min_size=1, max_size=6))
def test_parts_sum_to_the_count_and_are_within_one_of_the_share(count, numbers):
    found = sample.parts(count, dict(enumerate(numbers)))
    assert sum(found.values()) == count
    assert all(abs(found[i] - count * n / sum(numbers)) < 1 for i, n in enumerate(numbers))


def test_equal_remainders_go_by_order():
    assert sample.parts(2, {"a": 1, "b": 1, "c": 1}) == {"a": 1, "b": 1, "c": 0}


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_the_smallest_keys_whatever_the_order_also_from_a_state_in_between(count):
    keys = [sample.key_of([{"role": "user", "content": str(i % 30)}], 0) for i in range(50)]
    expected = [[key, keys.count(key), f"row of {key}"] for key in sorted(set(keys))[:count]]
    for seed in range(5):
        random.Random(seed).shuffle(keys)
        found = sample.Smallest(count)
        for i, key in enumerate(keys):
            if i == 20:
                found = sample.Smallest(count, found.rows())
            found.add(key, f"row of {key}")
        assert found.rows() == expected


def test_another_seed_is_another_order():
    texts = [[{"role": "user", "content": str(i)}] for i in range(20)]
    orders = [sorted(range(20), key=lambda i: sample.key_of(texts[i], seed)) for seed in (0, 1)]
    assert orders[0] != orders[1]
