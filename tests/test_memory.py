"""Peak temporary memory grows with the vocabulary as the head and a chunk of logits do, not as all logits would."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from camopd_jax import losses, sharding, step
from camopd_jax.models import decoder
from camopd_jax.models.tiny import CONFIG as TINY
from camopd_jax.scoring import score
from camopd_jax.types import PackedTokens, Update

ROWS, SLOTS, WIDTH, CHUNK = 4, 256, 256, 16
SMALL, LARGE = 2_000, 32_000
# A few float32 buffers of V x D (head, its gradient, a scan's carry) and of a chunk's logits ...
ALLOWED = 4 * (4 * TINY.width + 6 * CHUNK) * (LARGE - SMALL)
# ... where all slots' logits would take this much. (The bound is 4.6 times smaller.)
ALL_LOGITS = 4 * ROWS * SLOTS * (LARGE - SMALL)


def packed():
    def tokens(n):
        return jax.ShapeDtypeStruct((ROWS, n), jnp.int32)

    mask = jax.ShapeDtypeStruct((ROWS, SLOTS), bool)
    return PackedTokens(tokens(WIDTH), tokens(WIDTH), tokens(WIDTH), tokens(SLOTS), tokens(SLOTS), mask)


def full_logits_score(graph, params, packed):
    """What the bound must catch: the logits of every slot at once."""
    model = nnx.merge(graph, params)
    logits_RSV = decoder.packed_hidden(model, packed) @ model.head_VD().T
    return jnp.take_along_axis(jax.nn.log_softmax(logits_RSV), packed.labels_RS[:, :, None], axis=2)[:, :, 0]


def split(vocab):
    return decoder.split(replace(TINY, vocab_size=vocab))


def scorer(graph, remat="none"):
    return partial(score, graph, temperature=1.0, chunk=CHUNK, dtype="float32", remat=remat)


def scoring(vocab):
    graph, shapes = split(vocab)
    return jax.jit(scorer(graph)).lower(shapes, packed())


def scoring_with_all_logits(vocab):
    graph, shapes = split(vocab)
    return jax.jit(partial(full_logits_score, graph)).lower(shapes, packed())


def training(vocab, remat):
    """The micro-step that the loop runs, on one device."""
    graph, shapes = split(vocab)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES)
    sgd = step.make_optimizer(
        name="sgd", learning_rate=1.0, warmup_steps=0, decay_steps=0, b1=0.0, b2=0.0, eps=0.0, weight_decay=0.0,
        clip_norm=1.0,
    )  # fmt: skip

    def objective(logp_RS, update):
        loss_RS = losses.policy_token_loss(logp_RS, update.sampler_logp_RS, update.credit_RS, (0.5, 5.0))
        return losses.weighted_sum(loss_RS, update.weight_RS), {}

    steps = step.build_steps(scorer(graph, remat), shapes, mesh, decoder.AXES, objective, sgd, {})
    figure = jax.ShapeDtypeStruct((ROWS, SLOTS), jnp.float32)
    return steps.micro.lower(shapes, shapes, Update(packed(), figure, figure, figure), {})


def training_with_all_logits(vocab):
    graph, shapes = split(vocab)
    return jax.jit(jax.grad(lambda p, x: full_logits_score(graph, p, x).sum())).lower(shapes, packed())


def growth(lower):
    """Bytes of temporary memory that the larger vocabulary costs."""
    small, large = (lower(v).compile().memory_analysis().temp_size_in_bytes for v in (SMALL, LARGE))
    return large - small


@pytest.mark.parametrize(
    "lower",
    [scoring, partial(training, remat="none"), partial(training, remat="full")],
    ids=["scoring", "training", "training-remat"],
)
def test_memory_does_not_grow_as_slots_times_vocabulary(lower):
    assert growth(lower) < ALLOWED < ALL_LOGITS / 4


@pytest.mark.parametrize("lower", [scoring_with_all_logits, training_with_all_logits])
def test_the_bound_would_catch_full_logits(lower):
    assert growth(lower) > 0.9 * ALL_LOGITS
