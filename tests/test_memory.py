"""Peak temporary memory grows with the vocabulary as the head and a chunk of logits do, not as all logits would."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import moved
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


def packed(rows=ROWS):
    def tokens(n):
        return jax.ShapeDtypeStruct((rows, n), jnp.int32)

    mask = jax.ShapeDtypeStruct((rows, SLOTS), bool)
    return PackedTokens(tokens(WIDTH), tokens(WIDTH), tokens(WIDTH), tokens(SLOTS), tokens(SLOTS), mask)


def update(rows=ROWS):
    figure = jax.ShapeDtypeStruct((rows, SLOTS), jnp.float32)
    return Update(packed(rows), figure, figure, figure)


def full_logits_score(graph, params, packed):
    """What the bound must catch: the logits of every slot at once."""
    model = nnx.merge(graph, params)
    logits_RSV = decoder.packed_hidden(model, packed) @ model.head_VD().T
    return jnp.take_along_axis(jax.nn.log_softmax(logits_RSV), packed.labels_RS[:, :, None], axis=2)[:, :, 0]


def split(vocab):
    return decoder.split(replace(TINY, vocab_size=vocab))


def scorer(graph, remat="none", mesh=None):
    return partial(score, graph, temperature=1.0, chunk=CHUNK, dtype="float32", remat=remat, mesh=mesh)


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
    return micro(scorer(graph, remat), shapes, mesh).lower(shapes, shapes, update(), {})


def micro(scorer, shapes, mesh):
    sgd = step.make_optimizer(
        name="sgd", learning_rate=1.0, warmup_steps=0, decay_steps=0, b1=0.0, b2=0.0, eps=0.0, weight_decay=0.0,
        clip_norm=1.0,
    )  # fmt: skip

    def objective(logp_RS, update):
        loss_RS = losses.policy_token_loss(logp_RS, update.sampler_logp_RS, update.credit_RS, (0.5, 5.0))
        return losses.weighted_sum(loss_RS, update.weight_RS), {}

    return step.build_steps(scorer, shapes, mesh, decoder.AXES, objective, sgd, {}).micro


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


ON_MESH = replace(TINY, vocab_size=1024, width=64, mlp_width=128, heads=8, kv_heads=8, head_dim=8)


def on_mesh(sizes, program, remat="full"):
    """(bytes moved, temporary bytes, bytes of all parameters) of a program on a mesh of 8 devices."""
    mesh, (graph, shapes) = sharding.make_mesh(*sizes), decoder.split(ON_MESH)
    rows, at = sharding.by_rows(mesh), sharding.param_shardings(mesh, shapes, decoder.AXES)
    on_rows = partial(jax.tree.map, lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=rows))
    how = scorer(graph, remat, mesh)
    if program == "scoring":
        lowered = jax.jit(how, in_shardings=(at, rows), out_shardings=rows).lower(shapes, on_rows(packed(16)))
    else:
        lowered = micro(how, shapes, mesh).lower(shapes, shapes, on_rows(update(16)), {})
    compiled = lowered.compile()
    size = 4 * sum(s.size for s in jax.tree.leaves(shapes))
    return sum(moved(compiled.as_text()).values()), compiled.memory_analysis().temp_size_in_bytes, size


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1)])
def test_weights_come_to_the_rows_and_gradients_are_added_once(sizes):
    """Scoring gathers each weight once, training twice, for the layers are computed again; nothing else is moved but
    token embeddings, and each weight's gradient (that of a tied head in two parts)."""
    gathers = sizes[1] > 1
    scored, _, size = on_mesh(sizes, "scoring")
    trained, _, _ = on_mesh(sizes, "training")
    assert scored <= (1.3 * size if gathers else 0)
    assert trained <= (3.25 if gathers else 1.6) * size
