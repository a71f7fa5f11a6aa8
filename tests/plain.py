"""A tiny model, rollouts, and its log-probabilities and gradients from full logits, sequence by sequence.

What the tests of CaMOPD compare the packed, chunked and sharded code with.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from camopd_jax import sharding
from camopd_jax.engine import Engine, Numerics
from camopd_jax.models import decoder
from camopd_jax.models.load import load
from camopd_jax.models.tiny import CONFIG as TINY
from camopd_jax.packing import PackShape
from camopd_jax.types import Rollout

BAND = (0.5, 5.0)
TAU = 0.7
SHAPE = PackShape(rows=1, width=20, slots=8)
SGD = dict(name="sgd", learning_rate=0.1, warmup_steps=0, decay_steps=0, clip_norm=1e9)
SGD |= dict(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0)


def mesh():
    return jax.make_mesh(
        (1, 1, 1), sharding.MESH_AXES, devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,) * 3
    )


def random_weights(seed):
    """Weights large enough that attention and softmax are far from uniform."""
    leaves, tree = jax.tree.flatten(decoder.random_params(TINY, seed))
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [np.asarray(p) + rng.normal(0, 0.15, p.shape).astype(np.float32) for p in leaves])


def a_rollout(prompt_lengths=(4, 2, 6, 3, 5), response_lengths=(3, 5, 1, 4, 2)):
    rng = np.random.default_rng(0)
    batch, width, steps = len(prompt_lengths), max(prompt_lengths), max(response_lengths)
    prompt_mask = np.arange(width) >= width - np.array(prompt_lengths)[:, None]
    response_mask = np.arange(steps) < np.array(response_lengths)[:, None]
    tokens = rng.integers(TINY.vocab_size, size=(batch, width + steps)).astype(np.int32)
    return Rollout(tokens, prompt_mask, response_mask, np.zeros((batch, steps), np.float32))


def noise(rollout, seed, scale, mean=0.0):
    return np.random.default_rng(seed).normal(mean, scale, size=rollout.response_mask_BT.shape).astype(np.float32)


def sequence(rollout, b):
    """The tokens of one row without padding, and the length of its prompt."""
    width, prompt = rollout.prompt_mask_BP.shape[1], int(rollout.prompt_mask_BP[b].sum())
    return rollout.tokens_BL[b, width - prompt : width + int(rollout.response_mask_BT[b].sum())], prompt


def all_logp(params, tokens_L):
    """log pi of tokens 1, 2, ... of one sequence, from the full logits of its own forward pass."""
    graph, _ = decoder.split(TINY)
    model = nnx.merge(graph, params)
    length = len(tokens_L)
    hidden, _ = model(tokens_L[None], np.arange(length)[None], np.ones((1, length), int))
    logp_LV = jax.nn.log_softmax(hidden[0] @ params["embed"].T / TAU, axis=-1)
    return logp_LV[np.arange(length - 1), tokens_L[1:]]


plain_logp = jax.jit(all_logp)


@jax.jit
def plain_grad(params, tokens_L, sampler_logp_L, factor_L):
    """-sum_t w_t factor_t log pi(y_t|h_t) of one sequence, the number of w_t > 0, and the gradient."""

    def loss(params):
        logp_L = jnp.concatenate([jnp.zeros(1), all_logp(params, tokens_L)])
        w_L = jnp.exp(logp_L - sampler_logp_L)
        w_L = jax.lax.stop_gradient(jnp.where((w_L < BAND[0]) | (w_L > BAND[1]), 0.0, w_L))
        return -jnp.sum(w_L * factor_L * logp_L), jnp.sum((w_L > 0) & (factor_L != 0))

    return jax.value_and_grad(loss, has_aux=True)(params)


def an_engine():
    model = load("random:llama")
    numerics = Numerics(TAU, 5, "float32", TINY.vocab_size)
    return Engine(TINY, mesh(), model.tokenizer, model.stop_ids, SHAPE, numerics)


def options(cycle, **changes):
    """config.camopd of a run, its branches' own keys aside."""
    own = {"method": "camopd", "schedule": "method", "cycle": cycle, "weight_band": BAND, "loss": "sampled"}
    own |= {"loss_top_k": 4, "relaxed": {"mixture": 0.3, "first_fraction": 0.5, "last_fraction": 1.0}}
    return ConfigDict(own | {"selectkd": {"test": "top_k", "top_k": 9, "beta": 0.25}} | changes)
