"""Low-rank updates: nothing at first, the same as merged weights later, and trained through both factors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from camopd_jax.models import decoder
from camopd_jax.models.decoder import TARGETS, Lora
from camopd_jax.models.load import TINY

ALL = Lora(rank=3, alpha=7.0, targets=TARGETS)
TOKENS = np.random.default_rng(0).integers(TINY.vocab_size, size=(2, 9))


def with_lora(lora, seed=1, random_b=True):
    """TINY's random weights and low-rank parameters beside them; B is random or zero."""
    cfg = replace(TINY, lora=lora)
    rng = np.random.default_rng(seed)
    params = decoder.random_params(TINY, 0)
    layers = decoder.lora_params(cfg, seed)["layers"]
    if random_b:
        noise = {k: 0.1 * rng.normal(size=v.shape).astype(np.float32) for k, v in layers.items() if k.endswith("b")}
        layers |= noise
    return cfg, params | {"layers": {**params["layers"], **layers}}


@jax.jit(static_argnums=0)
def hidden(cfg, params):
    model = nnx.merge(decoder.split(cfg)[0], params)
    return model(TOKENS, jnp.tile(jnp.arange(9), (2, 1)), jnp.ones((2, 9), jnp.int32))[0]


def test_zero_b_changes_nothing_bit_for_bit():
    np.testing.assert_array_equal(hidden(*with_lora(ALL, random_b=False)), hidden(TINY, decoder.random_params(TINY, 0)))


@pytest.mark.parametrize("targets", [*((t,) for t in TARGETS), ("q", "v"), TARGETS])
def test_merged_weights_give_the_same_hidden_states(targets):
    cfg, params = with_lora(replace(ALL, targets=targets))
    merged_cfg, merged = decoder.merge_lora(cfg, params)
    assert merged_cfg == TINY
    for name in targets:  # the definition, in NumPy: W + alpha / rank * B A
        w, a, b = (np.asarray(params["layers"][n], np.float64) for n in (name, f"{name}_lora_a", f"{name}_lora_b"))
        np.testing.assert_allclose(merged["layers"][name], w + 7.0 / 3 * b @ a, atol=1e-6)
    before, after = hidden(cfg, params), hidden(merged_cfg, merged)
    assert np.abs(before - hidden(TINY, decoder.random_params(TINY, 0))).max() > 1e-3
    np.testing.assert_allclose(after, before, atol=2e-5)


def test_the_gradient_reaches_a_and_b():
    cfg, params = with_lora(ALL)
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(hidden(cfg, p))))(params)["layers"]
    for name in TARGETS:
        for part in "ab":
            assert np.all(np.abs(gradient[f"{name}_lora_{part}"]).max(axis=(1, 2)) > 1e-6), (name, part)


def test_fresh_parameters_are_normal_a_and_zero_b():
    layers = decoder.lora_params(replace(TINY, lora=Lora(rank=64, alpha=1.0, targets=("down", "q"))), 0)["layers"]
    assert {k: v.shape for k, v in layers.items()} == {
        "down_lora_a": (2, 64, 64), "down_lora_b": (2, 32, 64), "q_lora_a": (2, 64, 32), "q_lora_b": (2, 32, 64),
    }  # fmt: skip
    assert not np.any(layers["q_lora_b"]) and not np.any(layers["down_lora_b"])
    np.testing.assert_allclose(np.std(layers["q_lora_a"]), 32**-0.5, rtol=0.05)
    np.testing.assert_allclose(np.std(layers["down_lora_a"]), 64**-0.5, rtol=0.05)
    assert np.abs(np.corrcoef(*np.reshape(layers["q_lora_a"], (2, -1)))[0, 1]) < 0.1  # layers draw apart


def test_float32_adapters_beside_bfloat16_weights_keep_the_stream_bfloat16():
    cfg, params = with_lora(ALL)
    half = {k: v if "_lora_" in k else v.astype(jnp.bfloat16) for k, v in params["layers"].items()}
    mixed = {k: v.astype(jnp.bfloat16) for k, v in params.items() if k != "layers"} | {"layers": half}
    got = hidden(cfg, mixed)
    assert got.dtype == jnp.bfloat16
    assert np.abs(got.astype(np.float32) - hidden(cfg, params)).mean() < 0.02


@pytest.mark.parametrize("change, word", [
    ({"rank": 0}, "lora.rank = 0"), ({"targets": ("q", "head")}, "'head'"), ({"targets": ()}, "q, k, v, o, gate"),
])  # fmt: skip
def test_a_wrong_rank_or_target_is_named(change, word):
    with pytest.raises(ValueError, match=word):
        replace(ALL, **change)
