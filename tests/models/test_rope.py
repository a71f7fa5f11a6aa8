"""Rotary frequencies, worked out one by one from the definitions (tests/golden has them inside whole models)."""

import math

import numpy as np
import pytest

from camopd_jax.models.rope import RopeScaling, frequencies, rotation

LLAMA3 = RopeScaling("llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = RopeScaling("yarn", 4.0, 64, beta_fast=8.0, beta_slow=1.0, attention_factor=1.25, truncate=False)


def plain(head_dim, theta):
    return [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]


def test_plain_frequencies_by_hand():
    np.testing.assert_allclose(frequencies(6, 1000.0, None), [1, 0.1, 0.01], rtol=1e-6)


def test_linear_divides_every_frequency():
    np.testing.assert_allclose(frequencies(6, 1000.0, RopeScaling("linear", 4.0)), [0.25, 0.025, 0.0025], rtol=1e-6)


def test_llama3_keeps_short_waves_divides_long_ones_and_passes_between():
    expected, seen = [], set()
    for f in plain(16, 5e5):
        wave = 2 * math.pi / f
        if wave < 8192 / 4:
            seen.add("kept")
        elif wave > 8192:
            seen.add("divided")
            f = f / 8
        else:
            seen.add("between")
            smooth = (8192 / wave - 1) / (4 - 1)
            f = (1 - smooth) * f / 8 + smooth * f
        expected.append(f)
    assert seen == {"kept", "divided", "between"}
    np.testing.assert_allclose(frequencies(16, 5e5, LLAMA3), expected, rtol=1e-6)


@pytest.mark.parametrize("truncate", [False, True])
def test_yarn_is_a_ramp_between_two_numbers_of_turns(truncate):
    scaling = RopeScaling(**{**vars(YARN), "truncate": truncate})
    # Index i turns 64 / (2 pi) * 100^(-i/4) times in the original context: 8 times at 0.210, once at 2.016.
    low, high = (4 * math.log(64 / (2 * math.pi) / turns, 100) for turns in (8, 1))
    assert (round(low, 3), round(high, 3)) == (0.21, 2.016)
    if truncate:
        low, high = 0, 3
    expected = []
    for i, f in enumerate(plain(8, 100.0)):
        divided = min(max((i - low) / (high - low), 0), 1)
        expected.append(divided * f / 4 + (1 - divided) * f)
    np.testing.assert_allclose(frequencies(8, 100.0, scaling), expected, rtol=1e-6)


def test_yarn_stretches_cosine_and_sine_and_the_others_do_not():
    for scaling, size in [(None, 1), (LLAMA3, 1), (YARN, 1.25)]:
        cos, sin = rotation(np.array([[0, 5]]), 8, 100.0, scaling)
        angle = 5 * frequencies(8, 100.0, scaling)
        assert cos.shape == sin.shape == (1, 2, 1, 4)
        np.testing.assert_allclose(cos[0, :, 0], size * np.cos([0 * angle, angle]), rtol=1e-5)
        np.testing.assert_allclose(sin[0, :, 0], size * np.sin([0 * angle, angle]), rtol=1e-5)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'longrope' is unknown: linear, llama3, yarn"):
        frequencies(8, 1e4, RopeScaling("longrope", 2.0))
