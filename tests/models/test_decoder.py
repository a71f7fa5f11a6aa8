"""The decoder against a plain NumPy Llama in float64, and what must change nothing: padding, packing, the cache."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from camopd_jax import sharding
from camopd_jax.models import decoder
from camopd_jax.models.decoder import Lora
from camopd_jax.models.product import product
from camopd_jax.models.tiny import CONFIG as TINY

# head_dim 12 makes every axis of the parameters another size.
CONFIGS = {
    "tiny": TINY,
    "untied": replace(TINY, tied_head=False, head_dim=12),
    "qk_norm": replace(TINY, qk_norm=True, tied_head=False, head_dim=12),
    "qkv_bias": replace(TINY, qkv_bias=True, head_dim=12),
}


def random_weights(cfg, seed=0):
    """Weights large enough that attention is far from uniform, and norms that are not 1."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        return jnp.asarray(1 + 0.3 * noise if path[-1].key.endswith("norm") else 0.3 * noise)

    return jax.tree_util.tree_map_with_path(one, decoder.split(cfg)[1])


def numpy_llama(params, cfg, tokens):
    """Logits [L, V] of one sequence: one head, one query position and one layer at a time."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    length, group = len(tokens), cfg.heads // cfg.kv_heads

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + cfg.norm_eps) * scale

    def rotate(x, position):
        half = cfg.head_dim // 2
        turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * cfg.rope_theta ** (-np.arange(half) / half))
        return np.concatenate([turned.real, turned.imag])

    x = p["embed"][tokens]
    for i in range(cfg.layers):
        w = {name: stacked[i] for name, stacked in p["layers"].items()}
        h = norm(x, w["attn_norm"])
        mixed = np.zeros((length, cfg.heads, cfg.head_dim))
        for head in range(cfg.heads):
            rows = slice(head * cfg.head_dim, (head + 1) * cfg.head_dim)
            shared = slice(head // group * cfg.head_dim, (head // group + 1) * cfg.head_dim)
            q, k, v = h @ w["q"][rows].T, h @ w["k"][shared].T, h @ w["v"][shared].T
            if cfg.qkv_bias:
                q, k, v = q + w["q_bias"][rows], k + w["k_bias"][shared], v + w["v_bias"][shared]
            if cfg.qk_norm:
                q, k = norm(q, w["q_norm"]), norm(k, w["k_norm"])
            q, k = ([rotate(row, t) for t, row in enumerate(m)] for m in (q, k))
            for t in range(length):
                scores = np.array([q[t] @ k[s] for s in range(t + 1)]) / np.sqrt(cfg.head_dim)
                share = np.exp(scores - scores.max())
                mixed[t, head] = share / share.sum() @ v[: t + 1]
        x = x + mixed.reshape(length, -1) @ w["o"].T
        h = norm(x, w["mlp_norm"])
        gate = h @ w["gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up"].T)) @ w["down"].T
    return norm(x, p["norm"]) @ p["embed" if cfg.tied_head else "head"].T


def build(cfg):
    params = random_weights(cfg)
    return params, nnx.merge(decoder.split(cfg)[0], params)


@jax.jit
def hidden_of(model, tokens, positions, segments):
    """Hidden states [L, D] of one row."""
    return model(tokens[None], positions[None], segments[None])[0][0]


def alone(model, tokens):
    return hidden_of(model, tokens, np.arange(len(tokens)), np.ones(len(tokens), np.int32))


def draw_tokens(length, seed):
    return np.random.default_rng(seed).integers(TINY.vocab_size, size=length)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_a_plain_numpy_llama(name):
    params, model = build(CONFIGS[name])
    tokens = draw_tokens(11, seed=1)
    logits = alone(model, tokens) @ model.head_VD().T
    np.testing.assert_allclose(logits, numpy_llama(params, CONFIGS[name], tokens), atol=2e-4, rtol=2e-4)


def test_norms_are_float32_inside():
    """256 squares of 1 to 2: summed in bfloat16, whose step there is up to 2, they would lose a per cent."""
    x = jnp.linspace(1.0, 2.0, 256).astype(jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    np.testing.assert_array_equal(
        decoder.rms_norm(x, jnp.ones(256, jnp.bfloat16), 0.0),
        jnp.asarray(wide / np.sqrt(np.mean(wide**2)), jnp.bfloat16),
    )


def test_padding_and_packed_neighbours_change_nothing():
    _, model = build(TINY)
    first, second = draw_tokens(7, seed=2), draw_tokens(5, seed=3)
    rubbish = draw_tokens(4, seed=4)
    tokens = np.concatenate([rubbish, first, second, rubbish])
    positions = np.concatenate([np.full(4, 9), np.arange(7), np.arange(5), np.full(4, 9)])
    segments = np.repeat([0, 1, 2, 0], [4, 7, 5, 4])
    packed = hidden_of(model, tokens, positions, segments)
    np.testing.assert_allclose(packed[4:11], alone(model, first), atol=1e-5)
    np.testing.assert_allclose(packed[11:16], alone(model, second), atol=1e-5)


def test_a_token_sees_no_later_token():
    _, model = build(TINY)
    tokens = draw_tokens(9, seed=5)
    changed = np.where(np.arange(9) == 6, (tokens + 1) % TINY.vocab_size, tokens)
    before, after = alone(model, tokens), alone(model, changed)
    np.testing.assert_array_equal(before[:6], after[:6])
    assert np.all(np.abs(before[6:] - after[6:]).max(axis=1) > 1e-2)


@pytest.mark.parametrize("name", ["tiny", "qk_norm", "qkv_bias"])
def test_cached_decode_equals_the_full_forward(name):
    """Two rows of other lengths, left-padded; the cache is filled by the prompt, then token by token."""
    params, model = build(CONFIGS[name])
    rows = [draw_tokens(9, seed=6), draw_tokens(7, seed=7)]
    steps, prompt_length = 4, 5
    prompt_BP = np.zeros((2, prompt_length), np.int32)
    mask_BP = np.zeros((2, prompt_length), bool)
    for b, row in enumerate(rows):
        prompt_BP[b, prompt_length - (len(row) - steps) :] = row[:-steps]
        mask_BP[b, prompt_length - (len(row) - steps) :] = True
    lengths_B = mask_BP.sum(axis=1)
    positions_BP = np.maximum(np.cumsum(mask_BP, axis=1) - 1, 0)
    _, (k, v) = model(prompt_BP, positions_BP, jnp.asarray(mask_BP, jnp.int32))
    k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, steps), (0, 0), (0, 0))) for x in (k, v))
    cache = list(zip(k.transpose(0, 1, 3, 4, 2), v.transpose(0, 1, 3, 2, 4), strict=True))
    alike, layers = decoder.of_unstacked(nnx.split(model)[0], decoder.unstacked(params))
    decode = jax.jit(lambda *args: alike.decode(layers, *args))
    full = [alone(model, row) for row in rows]
    for t in range(steps):
        token_B = jnp.array([row[n + t] for row, n in zip(rows, lengths_B, strict=True)])
        mask_BK = np.concatenate([mask_BP, np.tile(np.arange(steps) <= t, (2, 1))], axis=1)
        hidden_BD, cache = decode(token_B, lengths_B + t, mask_BK, cache, prompt_length + t)
        for b, n in enumerate(lengths_B):
            np.testing.assert_allclose(hidden_BD[b], full[b][n + t], atol=2e-5)


def test_rematerialisation_changes_no_gradient():
    params, _ = build(TINY)
    tokens = jnp.asarray(draw_tokens(6, seed=8))[None]
    segments = jnp.ones((1, 6), jnp.int32)

    @partial(jax.jit, static_argnums=1)
    @jax.grad
    def gradient(params, remat):
        model = nnx.merge(decoder.split(TINY)[0], params)
        return jnp.sum(jnp.sin(model(tokens, jnp.arange(6)[None], segments, remat)[0]))

    def operations(remat):
        return gradient.lower(params, remat).compile().cost_analysis()["flops"]

    assert operations("none") <= operations("dots") < 0.9 * operations("full")
    plain = gradient(params, "none")
    for remat in ("dots", "full"):
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(gradient(params, remat)), strict=True):
            assert np.abs(a).max() > 0
            np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_parameters_compute_in_bfloat16(name):
    """Hidden states within 4 % of the same weights in float32, at positions that bfloat16 could not tell apart."""
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), random_weights(CONFIGS[name]))
    full = jax.tree.map(lambda a: a.astype(jnp.float32), half)
    tokens, graph = draw_tokens(40, seed=9), decoder.split(CONFIGS[name])[0]
    inputs = tokens[None], 3001 + np.arange(40)[None], np.ones((1, 40), np.int32)
    (a, kv), (b, _) = (jax.jit(nnx.merge(graph, params))(*inputs) for params in (half, full))
    assert a.dtype == kv[0].dtype == kv[1].dtype == jnp.bfloat16 and b.dtype == jnp.float32
    assert jnp.linalg.norm(a.astype(jnp.float32) - b) < 0.04 * jnp.linalg.norm(b)


LORA = replace(TINY, qkv_bias=True, lora=Lora(rank=3, alpha=1.0, targets=decoder.TARGETS))


@pytest.mark.parametrize("cfg", [*CONFIGS.values(), LORA], ids=[*CONFIGS, "lora"])
def test_every_parameter_has_logical_axes_of_its_own_shape(cfg):
    sizes = {
        "vocab": cfg.vocab_size, "embed": cfg.width, "norm": cfg.width, "layers": cfg.layers, "mlp": cfg.mlp_width,
        "heads": cfg.heads * cfg.head_dim, "kv_heads": cfg.kv_heads * cfg.head_dim, "lora": 3,
    }  # fmt: skip
    flat = jax.tree_util.tree_flatten_with_path(decoder.split(cfg)[1])[0]
    assert len(flat) == 11 + (not cfg.tied_head) + 2 * cfg.qk_norm + 3 * cfg.qkv_bias + 14 * (cfg.lora is not None)
    for path, leaf in flat:
        parameter = path[-1].key
        axes = decoder.AXES[parameter]
        assert set(axes) <= set(sharding.RULES)
        expected = (cfg.layers, cfg.head_dim) if parameter in ("q_norm", "k_norm") else tuple(sizes[a] for a in axes)
        assert leaf.shape == expected, parameter


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_product_and_its_gradient_are_those_of_plain_matrices(columns, dtype):
    rng = np.random.default_rng(1)
    x, w, dy = (jnp.asarray(rng.normal(size=s), dtype) for s in ((2, columns, 5), (4, 5), (2, columns, 4)))
    y, back = jax.vjp(product, x, w)
    dx, dw = back(dy)
    x64, w64, dy64 = (np.asarray(a, np.float64) for a in (x, w, dy))
    expected = x64 @ w64.T, dy64 @ w64, np.einsum("blo,bli->oi", dy64, x64)
    for found, plain in zip((y, dx, dw), expected, strict=True):
        assert found.dtype == dtype and found.shape == plain.shape
        tolerance = 1e-5 if dtype == "float32" else 0.02
        np.testing.assert_allclose(np.asarray(found, np.float64), plain, rtol=tolerance, atol=tolerance)
