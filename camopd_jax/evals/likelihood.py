"""Log-probabilities of continuations of any lengths, in batches of few shapes: what a model is tested with."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from camopd_jax import losses, sharding
from camopd_jax.engine import Engine, Numerics
from camopd_jax.models import decoder as decoders
from camopd_jax.models.load import Model, token_count
from camopd_jax.packing import PackShape
from camopd_jax.types import PackedTokens, Params

LOGIT_CHUNK = 512  # tokens whose logits over the vocabulary exist at a time, where a command has no key for it


def engine_of(model: Model, mesh, dtype: str, logit_chunk: int, shape: PackShape | None = None) -> Engine:
    """An engine that answers and scores with a model of any architecture that loads.

    Args:
      shape: of the packed rows in which `Engine.score` scores; None: it is not used.

    Raises:
      ValueError: if the tokenizer does not fit the embedding, or the mesh the weights.
    """
    tokens = token_count(model)
    shape = shape or PackShape(sharding.data_shards(mesh), 1, 1)
    return Engine(model.cfg, mesh, model.tokenizer, model.stop_ids, shape, Numerics(1.0, logit_chunk, dtype, tokens))


def token_scores(
    graph: nnx.GraphDef, params: Params, packed: PackedTokens, *, chunk: int, dtype: str, vocab: int,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """log p(label | what is before it) of the slots [R, S], nats, and whether the label is the most likely token.

    Logits of about `chunk` tokens exist at a time; ids from `vocab` on have no probability.
    """
    decoder = nnx.merge(graph, decoders.in_dtype(params, dtype))
    hidden_RSD, head_VD = decoders.packed_hidden(decoder, packed, mesh=mesh), decoder.head_VD()

    def of_slot(x):
        hidden_RD, label_R = x
        logits_RV = jnp.einsum("rd,vd->rv", hidden_RD, head_VD, preferred_element_type=jnp.float32)
        logits_RV = losses.known_tokens(logits_RV, vocab)
        picked_R = jnp.take_along_axis(logits_RV, label_R[:, None], axis=1)[:, 0]
        return picked_R - jax.nn.logsumexp(logits_RV, axis=1), jnp.argmax(logits_RV, axis=1) == label_R

    rows, slots = packed.labels_RS.shape
    by_slot = jnp.moveaxis(hidden_RSD, 1, 0), packed.labels_RS.T  # rows stay on their devices
    logp_SR, greedy_SR = jax.lax.map(of_slot, by_slot, batch_size=min(max(chunk // rows, 1), slots))
    return logp_SR.T, greedy_SR.T


def bucket(n: int, least: int, factor: int) -> int:
    """The smallest least * factor^k that is n or more: sizes are rounded to these, as each is compiled."""
    while least < n:
        least *= factor
    return least


def lay(inputs: list[tuple[int, ...]], labels: list[list[list[int]]], rows: int, width: int) -> PackedTokens:
    """A row for each input; its slots hold its continuations one after another, each read off the input's end."""
    slots = bucket(max(sum(map(len, some)) for some in labels), 16, 4)
    tokens, segments = np.zeros((2, rows, width), np.int32)
    source, label = np.zeros((2, rows, slots), np.int32)
    mask = np.zeros((rows, slots), bool)
    for row, (ids, some) in enumerate(zip(inputs, labels, strict=True)):
        tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
        columns = np.concatenate([np.arange(len(ids) - len(one), len(ids)) for one in some])
        here = slice(0, len(columns))
        source[row, here], label[row, here], mask[row, here] = columns, np.concatenate(some), True
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), (rows, width))
    return PackedTokens(tokens, positions, segments, source, label, mask)
