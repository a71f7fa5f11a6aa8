"""What a model says of given responses: the pure functions on packed tokens that are jitted, and differentiated.

Each takes (graph, parameters, packed tokens, what else it needs), and by keyword how logits are computed:
temperature tau, chunk (tokens whose logits exist at a time), dtype (of weights and activations), vocab (ids from
here on have no probability; None: all have) and remat (what the backward pass recomputes). None holds [R, S, V].
"""

import jax
import jax.numpy as jnp
from flax import nnx

from camopd_jax import losses
from camopd_jax.models import decoder as decoders
from camopd_jax.types import PackedTokens, Params


def score(graph: nnx.GraphDef, params: Params, packed: PackedTokens, **how) -> jax.Array:
    """log pi(y_t | h_t) of the slots' tokens [R, S], nats; 0 in empty slots."""
    return jnp.where(packed.slot_mask_RS, logp_at(graph, params, packed, packed.labels_RS, **how), 0.0)


def logp_at(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, ids: jax.Array, *, temperature: float, chunk: int,
    dtype: str, vocab: int | None = None, remat: str = "none",
) -> jax.Array:  # fmt: skip
    """log-probabilities of a token at each slot [R, S], or of several [R, S, K], nats."""
    hidden_ND, head_VD = _hidden(graph, params, packed, dtype, remat)
    ids_N = ids.reshape(len(hidden_ND), *ids.shape[2:])
    return losses.chunked_logp(hidden_ND, head_VD, ids_N, temperature, chunk, vocab).reshape(ids.shape)


def examine(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, *, temperature: float, chunk: int, dtype: str,
    vocab: int | None = None, remat: str = "none",
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Entropy (nats) of the distribution at each slot, and the rank of the slot's token in it, both [R, S]."""
    hidden_ND, head_VD = _hidden(graph, params, packed, dtype, remat)
    found = losses.chunked_examination(hidden_ND, head_VD, packed.labels_RS.reshape(-1), temperature, chunk, vocab)
    return tuple(x.reshape(packed.labels_RS.shape) for x in found)


def top_ids(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, *, k: int, temperature: float, chunk: int, dtype: str,
    vocab: int | None = None, remat: str = "none",
) -> jax.Array:  # fmt: skip
    """The k most likely tokens at each slot [R, S, k]."""
    hidden_ND, head_VD = _hidden(graph, params, packed, dtype, remat)
    ids_NK = losses.chunked_top_ids(hidden_ND, head_VD, k, temperature, chunk, vocab)
    return ids_NK.reshape(*packed.labels_RS.shape, k)


def hidden(graph: nnx.GraphDef, params: Params, packed: PackedTokens, *, dtype: str) -> jax.Array:
    """Final hidden states at the slots [R, S, D]."""
    return decoders.packed_hidden(nnx.merge(graph, decoders.in_dtype(params, dtype)), packed, "none")


def reverse_kl(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, teacher_hidden_RSD: jax.Array,
    teacher_head_VD: jax.Array, *, temperature: float, chunk: int, dtype: str, vocab: int | None = None,
    remat: str = "none",
) -> jax.Array:  # fmt: skip
    """KL(pi_theta || pi_T) over the vocabulary at each slot [R, S], nats; 0 in empty slots."""
    hidden_ND, head_VD = _hidden(graph, params, packed, dtype, remat)
    teacher_ND = teacher_hidden_RSD.reshape(-1, teacher_hidden_RSD.shape[-1])
    # What pads an embedding is no token, and the two may be padded to different sizes.
    head_VD, teacher_head_VD = head_VD[:vocab], teacher_head_VD[:vocab].astype(dtype)
    kl_N = losses.chunked_reverse_kl(hidden_ND, head_VD, teacher_ND, teacher_head_VD, temperature, chunk)
    return jnp.where(packed.slot_mask_RS, kl_N.reshape(packed.labels_RS.shape), 0.0)


def top_k_reverse_kl(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, ids_RSK: jax.Array, teacher_logp_RSK: jax.Array, **how
) -> jax.Array:
    """KL(pi_theta || pi_T) over K tokens and one bucket for all others, at each slot [R, S]; 0 in empty slots."""
    logp_RSK = logp_at(graph, params, packed, ids_RSK, **how)
    k = ids_RSK.shape[-1]
    kl_N = losses.top_k_reverse_kl(logp_RSK.reshape(-1, k), teacher_logp_RSK.reshape(-1, k))
    return jnp.where(packed.slot_mask_RS, kl_N.reshape(packed.labels_RS.shape), 0.0)


def _hidden(graph, params, packed, dtype, remat) -> tuple[jax.Array, jax.Array]:
    """Hidden states of the slots [N, D], and the head."""
    decoder = nnx.merge(graph, decoders.in_dtype(params, dtype))
    hidden_RSD = decoders.packed_hidden(decoder, packed, remat)
    return hidden_RSD.reshape(-1, hidden_RSD.shape[-1]), decoder.head_VD()
