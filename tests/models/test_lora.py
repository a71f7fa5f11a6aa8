"""Low-rank adapters: nothing at first, the same as merged weights later, trained through both factors, and kept."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from camopd_jax.models import decoder, lora, weights
from camopd_jax.models.decoder import TARGETS, Lora
from camopd_jax.models.tiny import CONFIG as TINY

ALL = Lora(rank=3, alpha=7.0, targets=TARGETS)
TOKENS = np.random.default_rng(0).integers(TINY.vocab_size, size=(2, 9))
BASE = jax.tree.map(np.asarray, decoder.random_params(TINY, 0))


def shapes_of(how):
    return decoder.split(replace(TINY, lora=how))[1]


def started(how, random_b=True):
    """A new adapter; B is random where the test needs one that changes something."""
    adapter, rng = lora.start(shapes_of(how), seed=1), np.random.default_rng(1)
    if random_b:
        for name, value in adapter["layers"].items():
            if name.endswith("_lora_b"):
                value += 0.1 * rng.normal(size=value.shape).astype(np.float32)
    return adapter


def merged(adapter, how):
    """Base and adapter as one set of weights."""
    read = weights.merged(weights.of_params(BASE), adapter, how)
    layers = {n: np.stack([read(n, i, weights.WHOLE) for i in range(TINY.layers)]) for n in BASE["layers"]}
    return {n: read(n, None, weights.WHOLE) for n in BASE if n != "layers"} | {"layers": layers}


@jax.jit(static_argnums=0)
def hidden(cfg, params):
    model = nnx.merge(decoder.split(cfg)[0], params)
    return model(TOKENS, jnp.tile(jnp.arange(9), (2, 1)), jnp.ones((2, 9), jnp.int32))[0]


def test_a_new_adapter_changes_nothing_bit_for_bit():
    cfg, adapter = replace(TINY, lora=ALL), started(ALL, random_b=False)
    np.testing.assert_array_equal(hidden(cfg, lora.join(BASE, adapter)), hidden(TINY, BASE))
    jax.tree.map(np.testing.assert_array_equal, merged(adapter, ALL), BASE)


@pytest.mark.parametrize("targets", [*((t,) for t in TARGETS), ("q", "v"), TARGETS])
def test_merged_weights_give_the_same_hidden_states(targets):
    how = replace(ALL, targets=targets)
    adapter = started(how)
    params, one = lora.join(BASE, adapter), merged(adapter, how)
    for name, base in BASE["layers"].items():  # the definition, in NumPy: W + alpha / rank * B A
        change = 0.0
        if name in targets:
            a, b = (adapter["layers"][f"{name}_lora_{x}"].astype(np.float64) for x in "ab")
            change = 7.0 / 3 * b @ a
        np.testing.assert_allclose(one["layers"][name], base + change, atol=1e-6)
    before, after = hidden(replace(TINY, lora=how), params), hidden(TINY, one)
    assert np.abs(before - hidden(TINY, BASE)).max() > 1e-3
    np.testing.assert_allclose(after, before, atol=2e-5)


def test_the_gradient_reaches_a_and_b():
    cfg, params = replace(TINY, lora=ALL), lora.join(BASE, started(ALL))
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(hidden(cfg, p))))(params)["layers"]
    for name in TARGETS:
        for part in "ab":
            assert np.all(np.abs(gradient[f"{name}_lora_{part}"]).max(axis=(1, 2)) > 1e-6), (name, part)


def test_a_new_adapter_has_normal_a_and_zero_b():
    layers = lora.start(shapes_of(Lora(rank=64, alpha=1.0, targets=("down", "q"))), 0)["layers"]
    assert {k: v.shape for k, v in layers.items()} == {
        "down_lora_a": (2, 64, 64), "down_lora_b": (2, 32, 64), "q_lora_a": (2, 64, 32), "q_lora_b": (2, 32, 64),
    }  # fmt: skip
    assert not np.any(layers["q_lora_b"]) and not np.any(layers["down_lora_b"])
    np.testing.assert_allclose(np.std(layers["q_lora_a"]), 32**-0.5, rtol=0.05)
    np.testing.assert_allclose(np.std(layers["down_lora_a"]), 64**-0.5, rtol=0.05)
    assert np.abs(np.corrcoef(*np.reshape(layers["q_lora_a"], (2, -1)))[0, 1]) < 0.1  # layers draw apart


def test_split_and_join_are_inverse_and_copy_nothing():
    adapter = started(ALL)
    params = lora.join(BASE, adapter)
    assert set(params["layers"]) == set(shapes_of(ALL)["layers"])
    base, again = lora.split(params)
    assert jax.tree.structure(base) == jax.tree.structure(BASE)
    assert jax.tree.structure(again) == jax.tree.structure(adapter)
    for got, expected in ((base, BASE), (again, adapter)):
        assert all(a is b for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True))
    assert lora.split(BASE)[1] == {"layers": {}}


def test_half_of_an_adapter_is_half_way_to_its_merged_weights():
    adapter = started(ALL)
    half_way = jax.tree.map(lambda a, b: (a + b) / 2, BASE, merged(adapter, ALL))
    half = merged(lora.scaled(adapter, 0.5), ALL)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), half, half_way)


@pytest.mark.parametrize("targets", [("q", "v"), TARGETS])
def test_an_adapter_is_kept_in_the_layout_of_peft(tmp_path, targets):
    how = replace(ALL, targets=targets)
    adapter, cfg = started(how), replace(TINY, lora=how)
    lora.save(tmp_path / "new" / "adapter", adapter, how, "path:somewhere")
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b, strict=True),
        lora.load(tmp_path / "new" / "adapter", cfg, shapes_of(how)), adapter,
    )  # fmt: skip
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["adapter"]
    tensors = load_file(tmp_path / "new" / "adapter" / "adapter_model.safetensors")
    assert len(tensors) == 2 * len(targets) * TINY.layers
    module = "base_model.model.model.layers.1.self_attn.v_proj"
    np.testing.assert_array_equal(tensors[f"{module}.lora_A.weight"], adapter["layers"]["v_lora_a"][1])
    np.testing.assert_array_equal(tensors[f"{module}.lora_B.weight"], adapter["layers"]["v_lora_b"][1])
    config = json.loads((tmp_path / "new" / "adapter" / "adapter_config.json").read_text())
    modules = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
    modules |= {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    assert config["target_modules"] == [modules[t] for t in targets]
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 7.0)
    assert config["base_model_name_or_path"] == "path:somewhere"


def test_float32_adapters_beside_bfloat16_weights_keep_the_stream_bfloat16():
    cfg, params = replace(TINY, lora=ALL), lora.join(BASE, started(ALL))
    mixed = lora.join(jax.tree.map(lambda x: x.astype(jnp.bfloat16), BASE), started(ALL))
    got = hidden(cfg, mixed)
    assert got.dtype == jnp.bfloat16
    assert np.abs(got.astype(np.float32) - hidden(cfg, params)).mean() < 0.02


@pytest.mark.parametrize("change, word", [
    ({"rank": 0}, "lora.rank = 0"), ({"targets": ("q", "head")}, "'head'"), ({"targets": ()}, "q, k, v, o, gate"),
])  # fmt: skip
def test_a_wrong_rank_or_target_is_named(change, word):
    with pytest.raises(ValueError, match=word):
        replace(ALL, **change)
