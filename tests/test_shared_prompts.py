"""Answers behind one copy of their prompt are scored, and train, as if each had its own."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from camopd_jax import data, packing, scoring, sharding
from camopd_jax.engine import Engine, Numerics
from camopd_jax.models import attention, decoder
from camopd_jax.models.decoder import Lora
from camopd_jax.models.rope import RopeScaling
from camopd_jax.models.tiny import CONFIG as TINY
from camopd_jax.packing import PackShape

EIGHT_HEADS = replace(TINY, heads=8, kv_heads=8)
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_positions=8, low_freq_factor=1.0, high_freq_factor=4.0)
CONFIGS = {
    "tiny": TINY,
    "qwen3": replace(TINY, qk_norm=True, tied_head=False, head_dim=12),
    "qwen2": replace(TINY, qkv_bias=True, head_dim=12),
    "scaled": replace(TINY, rope_scaling=LLAMA3),
    "lora": replace(TINY, lora=Lora(2, 4.0, ("q", "v", "down"))),
}
HOW = {"temperature": 0.8, "chunk": 16, "dtype": "float32", "vocab": 300}


def weights(cfg):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: (rng.normal(size=s.shape) * 0.3).astype(np.float32), decoder.split(cfg)[1])


def groups(seed=0, sizes=(5, 1, 3, 4)):
    """Answers to 4 prompts, of which two begin alike."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(1, 300, size=n).astype(np.int32) for n in (9, 6, 7, 3)]
    prompts[3] = prompts[0][:3]
    asked = [p for p, n in zip(prompts, sizes, strict=True) for _ in range(n)]
    return data.given_responses(
        asked, [rng.integers(1, 300, size=rng.integers(1, 7)).astype(np.int32) for _ in asked], 0
    )


def logp_alone(cfg, params, rollout):
    """[B, T] of each sequence by itself, from its full logits."""
    graph, _ = decoder.split(cfg)
    width, out = rollout.prompt_mask_BP.shape[1], np.zeros(rollout.response_mask_BT.shape)

    @jax.jit
    def logp_of(params, tokens_L, length):
        model = nnx.merge(graph, params)
        real_L = (jnp.arange(len(tokens_L)) < length).astype(jnp.int32)
        hidden, _ = model(tokens_L[None], jnp.arange(len(tokens_L))[None], real_L[None])
        return jax.nn.log_softmax((hidden[0] @ model.head_VD().T)[:, : HOW["vocab"]] / HOW["temperature"], axis=1)

    for b, row in enumerate(rollout.tokens_BL):
        prompt, answer = row[:width][rollout.prompt_mask_BP[b]], row[width:][rollout.response_mask_BT[b]]
        tokens = np.zeros(len(row), np.int32)
        tokens[: len(prompt) + len(answer)] = [*prompt, *answer]
        logp_LV = logp_of(params, tokens, len(prompt) + len(answer))
        out[b, : len(answer)] = [logp_LV[len(prompt) + t - 1, y] for t, y in enumerate(answer)]
    return out


def value_and_gradient(cfg, params, rollout, shape, shared, remat="none"):
    """log pi [B, T], and the gradient of sum_t c_t log pi(y_t|h_t) for drawn c."""
    credit_BT = np.random.default_rng(2).normal(size=rollout.response_mask_BT.shape)
    updates = packing.updates(
        rollout, range(len(credit_BT)), shape, credit_BT, rollout.response_mask_BT, shared=shared
    )  # fmt: skip
    packed = packing.pack(rollout, range(len(credit_BT)), shape, shared=shared)

    def loss(params, update):
        logp_RS = scoring.score(decoder.split(cfg)[0], params, update.packed, remat=remat, **HOW)
        return jnp.sum(update.credit_RS * update.weight_RS * logp_RS), logp_RS

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    found = [step(params, update) for update in updates]
    logp_BT = packed.scatter(np.stack([logp for (_, logp), _ in found]), credit_BT.shape)
    return logp_BT, jax.tree.map(lambda *x: sum(x), *(g for _, g in found)), len(updates)


def assert_same_gradient(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        size = np.linalg.norm(other)
        assert np.linalg.norm(np.asarray(one) - np.asarray(other)) <= 1e-5 * size + 1e-7 and size > 1e-2


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_and_gradients_are_those_of_each_answer_with_its_own_prompt(name):
    """In one micro-batch that holds all groups, and in narrow rows over which groups are split."""
    cfg, rollout = CONFIGS[name], groups()
    params = weights(cfg)
    alone = logp_alone(cfg, params, rollout)
    assert alone.std() > 0.5
    plain, gradient, batches = value_and_gradient(cfg, params, rollout, PackShape(2, 20, 14), shared=False)
    np.testing.assert_allclose(plain, alone, atol=1e-5)
    for shape in (PackShape(1, 90, 60), PackShape(2, 20, 14)):
        logp, found, fewer = value_and_gradient(cfg, params, rollout, shape, shared=True)
        np.testing.assert_allclose(logp, alone, atol=1e-5)
        assert_same_gradient(found, gradient)
        assert fewer < batches


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_what_the_backward_pass_computes_again_changes_nothing(remat):
    cfg, rollout, shape = TINY, groups(3), PackShape(1, 90, 60)
    found, expected = (value_and_gradient(cfg, weights(cfg), rollout, shape, True, r)[1] for r in (remat, "none"))
    assert_same_gradient(found, expected)


def test_blocks_of_queries_see_the_prompt_of_an_earlier_block(monkeypatch):
    cfg, rollout = TINY, groups(4)
    expected = value_and_gradient(cfg, weights(cfg), rollout, PackShape(1, 20, 14), shared=False)
    monkeypatch.setattr(attention, "BLOCK", 16)
    logp, gradient, _ = value_and_gradient(cfg, weights(cfg), rollout, PackShape(1, 90, 60), shared=True)
    np.testing.assert_allclose(logp, expected[0], atol=1e-5)
    assert_same_gradient(gradient, expected[1])


def on(sizes):
    mesh = jax.make_mesh(
        sizes, sharding.MESH_AXES, devices=jax.devices()[: np.prod(sizes)],
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )  # fmt: skip
    tokenizer = SimpleNamespace(eos_token_id=0, pad_token_id=0)
    shape = PackShape(8, 24, 16)
    return Engine(EIGHT_HEADS, mesh, tokenizer, [0], shape, Numerics(0.8, 16, "float32", HOW["vocab"]))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)], ids=str)
def test_every_mesh_scores_and_differentiates_as_one_sequence_alone(sizes):
    engine, rollout = on(sizes), groups()
    given = weights(EIGHT_HEADS)
    params = jax.device_put(given, engine.params_at)
    logp = engine.score(params, rollout, shared=True)
    np.testing.assert_allclose(logp, logp_alone(EIGHT_HEADS, given, rollout), atol=1e-5)
    weight = rollout.response_mask_BT
    credit = np.random.default_rng(2).normal(size=weight.shape)
    updates = packing.updates(rollout, range(len(weight)), engine.shape, credit, weight, shared=True)
    score = engine.scorer(0.8, "full")

    @partial(jax.jit, in_shardings=(engine.params_at, engine._rows))
    def gradient(params, update):
        return jax.grad(lambda p: jnp.sum(update.credit_RS * update.weight_RS * score(p, update.packed)))(params)

    found = jax.tree.map(lambda *x: sum(x), *(jax.device_get(gradient(params, u)) for u in updates))
    expected = value_and_gradient(EIGHT_HEADS, given, rollout, PackShape(1, 20, 14), shared=False)[1]
    assert_same_gradient(found, expected)
