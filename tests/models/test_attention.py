"""Attention in blocks of queries: a plain NumPy loop, the same gradients as in one block, memory linear in length."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from camopd_jax import sampling, scoring
from camopd_jax.models import attention, decoder
from camopd_jax.models.tiny import CONFIG as TINY
from camopd_jax.types import PackedTokens

# Two rows with padding in front, behind and between; 18 columns are 5 blocks of 4, in 3 groups, and 2 columns over.
SEGMENTS = np.array([np.repeat([0, 1, 2, 0], [3, 8, 5, 2]), np.repeat([1, 0, 2], [6, 2, 10])], np.int32)

# Row 0: prompt 1 with the answers 2 and 3, each from a later block on; row 1: prompt 1 with 2, then 3 with 4 and 5.
SHARED = np.array([np.repeat([0, 1, 2, 3], [1, 7, 4, 6]), np.repeat([1, 2, 3, 4, 5, 0], [5, 2, 3, 4, 2, 2])], np.int32)
PREFIX = np.array([np.repeat([0, 1], [1, 17]), np.repeat([1, 3, 0], [7, 9, 2])], np.int32)


def draw(seed=0, heads=4, shared=2, dim=6):
    rng = np.random.default_rng(seed)
    shape = SEGMENTS.shape
    return [2 * rng.normal(size=(*shape, n, dim)).astype(np.float32) for n in (heads, shared, shared)]


def numpy_attention(q, k, v, segments=SEGMENTS, prefix=SEGMENTS):
    """One query of one head at a time; 0 at padding."""
    out = np.zeros(q.shape)
    for b, i, h in np.ndindex(q.shape[:3]):
        shared = h // (q.shape[2] // k.shape[2])
        seen = [j for j in range(i + 1) if segments[b, j] in (segments[b, i], prefix[b, i])]
        if segments[b, i]:
            scores = np.array([q[b, i, h] @ k[b, j, shared] for j in seen], np.float64) / np.sqrt(q.shape[3])
            share = np.exp(scores - scores.max())
            out[b, i, h] = share / share.sum() @ v[b, seen, shared]
    return out


@pytest.mark.parametrize("block", [4, 7, 18, 512])
def test_blocks_of_queries_are_a_plain_numpy_loop(monkeypatch, block):
    monkeypatch.setattr(attention, "BLOCK", block)
    q, k, v = draw()
    got = np.asarray(attention.attend(q, k, v, SEGMENTS))
    assert np.all(np.isfinite(got))
    real = SEGMENTS > 0
    np.testing.assert_allclose(got[real], numpy_attention(q, k, v)[real], atol=2e-6)


@pytest.mark.parametrize("block", [4, 7, 512])
def test_answers_see_the_prompt_that_they_share_and_not_each_other(monkeypatch, block):
    monkeypatch.setattr(attention, "BLOCK", block)
    q, k, v = draw()
    got = np.asarray(attention.attend(q, k, v, SHARED, PREFIX))
    assert np.all(np.isfinite(got))
    real = SHARED > 0
    np.testing.assert_allclose(got[real], numpy_attention(q, k, v, SHARED, PREFIX)[real], atol=2e-6)
    alone = np.asarray(attention.attend(q, k, v, SEGMENTS))
    np.testing.assert_array_equal(attention.attend(q, k, v, SEGMENTS, SEGMENTS), alone)


@pytest.mark.parametrize("segments, prefix", [(SEGMENTS, None), (SHARED, PREFIX)])
def test_gradients_do_not_depend_on_the_blocks(monkeypatch, segments, prefix):
    def gradients(block):
        monkeypatch.setattr(attention, "BLOCK", block)

        def loss(q, k, v):
            out = attention.attend(q, k, v, segments, prefix)
            return jnp.sum(jnp.where(segments[:, :, None, None] > 0, jnp.sin(out), 0))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*draw())

    for whole, parts in zip(gradients(512), gradients(4), strict=True):
        assert np.abs(whole).max() > 0.1
        np.testing.assert_allclose(parts, whole, atol=1e-5)
        assert not np.any(parts[segments == 0])


def score_and_gradient(length):
    graph, shapes = decoder.split(TINY)
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    packed = PackedTokens(ids, ids, ids, ids, ids, jax.ShapeDtypeStruct((1, length), bool))
    score = partial(scoring.score, graph, temperature=1.0, chunk=16, dtype="float32", remat="full")
    return jax.jit(jax.grad(lambda params, packed: score(params, packed).sum())).lower(shapes, packed)


def prefill(length):
    graph, shapes = decoder.split(TINY)
    ids, mask = (jax.ShapeDtypeStruct((1, length), kind) for kind in (jnp.int32, bool))
    return jax.jit(partial(sampling.prefill, graph, dtype="float32", mesh=None)).lower(shapes, ids, mask)


def growth(lower):
    """How many times the temporary memory of 8,192 tokens 32,768 tokens need."""
    short, long = (lower(n).compile().memory_analysis().temp_size_in_bytes for n in (8_192, 32_768))
    return long / short


@pytest.mark.parametrize("lower", [score_and_gradient, prefill])
def test_memory_grows_with_the_length_and_not_with_its_square(lower):
    assert growth(lower) < 4.4


@pytest.mark.parametrize("lower", [score_and_gradient, prefill])
def test_the_bound_would_catch_a_square_of_logits(monkeypatch, lower):
    monkeypatch.setattr(attention, "BLOCK", 32_768)
    assert growth(lower) > 12


def value_gradient(block, dtype, monkeypatch, length=512):
    """Of the sum of all outputs where every key is alike: the first value gets 1 + 1/2 + 1/3 + ..."""
    monkeypatch.setattr(attention, "BLOCK", block)
    q, k, v = (jnp.zeros((1, length, 1, 4), dtype) for _ in range(3))
    total = jax.jit(jax.grad(lambda v: attention.attend(q, k, v, np.ones((1, length), np.int32)).sum()))
    return np.asarray(total(v).astype(jnp.float32))[0, :, 0]


def test_gradients_of_many_blocks_do_not_lose_bits(monkeypatch):
    """128 blocks of four queries; a sum in bfloat16 would stop growing at about 4, short of 6.8."""
    expected = np.cumsum(1 / np.arange(512, 0, -1))[::-1, None]  # value j gets the sum of 1/(i + 1) over i >= j
    np.testing.assert_allclose(value_gradient(4, jnp.float32, monkeypatch), expected + np.zeros(4), rtol=1e-4)
    np.testing.assert_allclose(value_gradient(4, jnp.bfloat16, monkeypatch), expected + np.zeros(4), rtol=0.01)


@pytest.mark.parametrize("block", [4, 512])
def test_bfloat16_inputs_give_bfloat16(monkeypatch, block):
    """Outputs and gradients, within 2 % of the same rounded inputs in float32."""
    monkeypatch.setattr(attention, "BLOCK", block)
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in draw()]

    def loss(q, k, v):
        return jnp.sum(jnp.where(SEGMENTS[:, :, None, None] > 0, attention.attend(q, k, v, SEGMENTS), 0.0))

    assert attention.attend(*inputs, SEGMENTS).dtype == jnp.bfloat16
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    half, full = gradient(*inputs), gradient(*(x.astype(jnp.float32) for x in inputs))
    for a, b in zip(half, full, strict=True):
        assert a.dtype == jnp.bfloat16
        assert jnp.linalg.norm(a.astype(jnp.float32) - b) < 0.02 * jnp.linalg.norm(b)


def test_a_long_sequence_is_scored_like_its_beginning():
    """Three blocks of the constant's own size: the first 500 of 1,200 tokens are what they are alone."""
    graph, _ = decoder.split(TINY)
    model = nnx.merge(graph, decoder.random_params(TINY, 0))
    tokens = np.random.default_rng(0).integers(TINY.vocab_size, size=(1, 1200))
    run = jax.jit(model)
    hidden = [run(tokens[:, :n], np.arange(n)[None], np.ones((1, n), np.int32))[0] for n in (1200, 500)]
    np.testing.assert_allclose(hidden[0][:, :500], hidden[1], atol=1e-5)
