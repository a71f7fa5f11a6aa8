"""What a model says of given responses: the pure functions on packed tokens that are jitted, and differentiated.

Each takes (graph, parameters, packed tokens, what else it needs), and by keyword how logits are computed:
temperature tau, chunk (as many logits exist at a time, on a data shard, as so many tokens have), dtype (of weights and
activations), vocab (ids from here on have no probability; None: all have), remat (what the backward pass recomputes)
and mesh (None: the compiler may spread rows and weights as it likes). None holds [R, S, V].
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from camopd_jax import losses, sharding
from camopd_jax.models import decoder as decoders
from camopd_jax.types import PackedTokens, Params


def score(graph: nnx.GraphDef, params: Params, packed: PackedTokens, **how) -> jax.Array:
    """log pi(y_t | h_t) of the slots' tokens [R, S], nats; 0 in empty slots."""
    return jnp.where(packed.slot_mask_RS, logp_at(graph, params, packed, packed.labels_RS, **how), 0.0)


def logp_at(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, ids: jax.Array, *, temperature: float, chunk: int,
    dtype: str, vocab: int | None = None, remat: str = "none", mesh: Mesh | None = None,
) -> jax.Array:  # fmt: skip
    """log-probabilities of a token at each slot [R, S], or of several [R, S, K], nats."""
    hidden_RSD, head_VD = _hidden(graph, params, packed, dtype, remat, mesh)
    parts = sharding.tensor_shards(mesh) if mesh else 1

    def one(heads, hidden_ND, ids):
        return losses.chunked_logp(hidden_ND, *heads, ids, temperature, chunk, vocab, parts)

    return _shard_by_shard(one, mesh, (head_VD,), hidden_RSD, ids)


def examine(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, *, temperature: float, chunk: int, dtype: str,
    vocab: int | None = None, remat: str = "none", mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Entropy (nats) of the distribution at each slot, and the rank of the slot's token in it, both [R, S]."""
    hidden_RSD, head_VD = _hidden(graph, params, packed, dtype, remat, mesh)

    def one(heads, hidden_ND, labels_N):
        return losses.chunked_examination(hidden_ND, *heads, labels_N, temperature, chunk, vocab)

    return _shard_by_shard(one, mesh, (head_VD,), hidden_RSD, packed.labels_RS)


def top_ids(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, *, k: int, temperature: float, chunk: int, dtype: str,
    vocab: int | None = None, remat: str = "none", mesh: Mesh | None = None,
) -> jax.Array:  # fmt: skip
    """The k most likely tokens at each slot [R, S, k]."""
    hidden_RSD, head_VD = _hidden(graph, params, packed, dtype, remat, mesh)

    def one(heads, hidden_ND):
        return losses.chunked_top_ids(hidden_ND, *heads, k, temperature, chunk, vocab)

    return _shard_by_shard(one, mesh, (head_VD,), hidden_RSD)


def hidden(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, *, dtype: str, mesh: Mesh | None = None
) -> jax.Array:
    """Final hidden states at the slots [R, S, D]."""
    return _hidden(graph, params, packed, dtype, "none", mesh)[0]


def reverse_kl(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, teacher_hidden_RSD: jax.Array,
    teacher_head_VD: jax.Array, *, temperature: float, chunk: int, dtype: str, vocab: int | None = None,
    remat: str = "none", mesh: Mesh | None = None,
) -> jax.Array:  # fmt: skip
    """KL(pi_theta || pi_T) over the vocabulary at each slot [R, S], nats; 0 in empty slots."""
    hidden_RSD, head_VD = _hidden(graph, params, packed, dtype, remat, mesh)

    def one(heads, hidden_ND, teacher_ND):
        # What pads an embedding is no token, and the two may be padded to different sizes.
        head_VD, teacher_head_VD = (head[:vocab] for head in heads)
        return losses.chunked_reverse_kl(hidden_ND, head_VD, teacher_ND, teacher_head_VD, temperature, chunk)

    heads = head_VD, teacher_head_VD.astype(dtype)
    kl_RS = _shard_by_shard(one, mesh, heads, hidden_RSD, teacher_hidden_RSD)
    return jnp.where(packed.slot_mask_RS, kl_RS, 0.0)


def top_k_reverse_kl(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, ids_RSK: jax.Array, teacher_logp_RSK: jax.Array, **how
) -> jax.Array:
    """KL(pi_theta || pi_T) over K tokens and one bucket for all others, at each slot [R, S]; 0 in empty slots."""
    logp_RSK = logp_at(graph, params, packed, ids_RSK, **how)
    k = ids_RSK.shape[-1]
    kl_N = losses.top_k_reverse_kl(logp_RSK.reshape(-1, k), teacher_logp_RSK.reshape(-1, k))
    return jnp.where(packed.slot_mask_RS, kl_N.reshape(packed.labels_RS.shape), 0.0)


def _hidden(graph, params, packed, dtype, remat, mesh) -> tuple[jax.Array, jax.Array]:
    """Hidden states of the slots [R, S, D], and the head."""
    decoder = nnx.merge(graph, decoders.in_dtype(params, dtype))
    return decoders.packed_hidden(decoder, packed, remat, mesh), decoder.head_VD()


def _shard_by_shard(function: Callable, mesh: Mesh | None, heads: tuple[jax.Array, ...], *arrays_RS: jax.Array) -> Any:
    """function(heads, *arrays [N, ...]) of each data shard's own N slots, put together again: a tree of [R, S, ...].

    Every shard has the heads whole, but for the tensor axis, and the sum of its own slots' gradient for them; only
    when all chunks are through are these added over the shards.
    """
    shards, (rows, slots) = sharding.data_shards(mesh) if mesh else 1, arrays_RS[0].shape[:2]

    def own(x):
        return sharding.constrain(x.reshape(shards, -1, *x.shape[2:]), mesh, "rows")

    def copies(head_VD):
        return sharding.constrain(jnp.broadcast_to(head_VD, (shards, *head_VD.shape)), mesh, "rows", "vocab")

    out = jax.vmap(function)(jax.tree.map(copies, heads), *map(own, arrays_RS))
    return jax.tree.map(lambda y: y.reshape(rows, slots, *y.shape[2:]), out)
