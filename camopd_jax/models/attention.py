"""Causal attention inside packed sequences, in blocks of queries, so that no array of length x length exists."""

from operator import itemgetter

import jax
import jax.numpy as jnp

BLOCK = 512  # queries whose logits exist at a time; a sequence of at most so many is one block
GROUPS = 4  # a later quarter of the queries sees more keys: 5/8 of the products of a square


def causal_mask(
    segments_BQ: jax.Array, prefix_BQ: jax.Array | None, columns_Q: jax.Array, segments_BK: jax.Array
) -> jax.Array:
    """[B, Q, K]: a query attends to its own column and earlier ones of its own segment and of its prefix.

    The prefix is another segment, or the own again; None: every query's is the own. Segment 0 is padding.
    """
    same_BQK = segments_BQ[:, :, None] == segments_BK[:, None, :]
    if prefix_BQ is not None:
        same_BQK |= prefix_BQ[:, :, None] == segments_BK[:, None, :]
    return same_BQK & (segments_BK[:, None, :] > 0) & (jnp.arange(segments_BK.shape[1]) <= columns_Q[:, None])


def attend(
    q_BLHD: jax.Array, k_BLND: jax.Array, v_BLND: jax.Array, segments_BL: jax.Array, prefix_BL: jax.Array | None = None
) -> jax.Array:
    """softmax(q k^T / sqrt(D), causal inside each segment and its prefix) v of whole sequences, [B, L, H, D].

    Softmax in float32. H is a multiple of N, the heads of keys and values, which neighbours share (GQA). Padding
    gets the mean of all values: finite, and used by nobody.
    """
    length = q_BLHD.shape[1]
    if length <= BLOCK:
        return _block(q_BLHD, (segments_BL, prefix_BL), jnp.arange(length), k_BLND, v_BLND, segments_BL)

    blocks = -(-length // BLOCK)
    room = (0, blocks * BLOCK - length)
    q_NBCHD = _in_blocks(jnp.pad(q_BLHD, ((0, 0), room, (0, 0), (0, 0))))
    own_NBC = jax.tree.map(lambda x_BL: _in_blocks(jnp.pad(x_BL, ((0, 0), room))), (segments_BL, prefix_BL))
    columns_NC = jnp.arange(blocks * BLOCK).reshape(blocks, BLOCK)
    group = -(-blocks // GROUPS)
    out = []
    for start in range(0, blocks, group):
        these = itemgetter(slice(start, start + group))
        seen = min((start + group) * BLOCK, length)
        queries = jax.tree.map(these, (q_NBCHD, own_NBC, columns_NC))
        out.append(_blocks(queries, k_BLND[:, :seen], v_BLND[:, :seen], segments_BL[:, :seen]))
    attended_BNCHD = jnp.moveaxis(jnp.concatenate(out), 0, 1)
    return attended_BNCHD.reshape(len(q_BLHD), -1, *q_BLHD.shape[2:])[:, :length]


def attend_one(q_BHD: jax.Array, k_BNDC: jax.Array, v_BNCD: jax.Array, visible_BC: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v of one query a row over the columns that are visible to it, [B, H, D].

    Keys lie with their columns last: on CPU the product with them then takes less than half the time.
    """
    batch, heads, dim = q_BHD.shape
    q_BNGD = q_BHD.reshape(batch, k_BNDC.shape[1], -1, dim)
    logits_BNGC = jnp.einsum("bngd,bndc->bngc", q_BNGD, k_BNDC, preferred_element_type=jnp.float32) / dim**0.5
    logits_BNGC = jnp.where(visible_BC[:, None, None], logits_BNGC, -1e30)
    weight_BNGC = jnp.exp(logits_BNGC - jnp.max(logits_BNGC, axis=-1, keepdims=True))
    sums_BNG1 = jnp.sum(weight_BNGC, axis=-1, keepdims=True)
    out_BNGD = jnp.einsum(
        "bngc,bncd->bngd", weight_BNGC.astype(v_BNCD.dtype), v_BNCD, preferred_element_type=jnp.float32
    )
    return (out_BNGD / sums_BNG1).astype(q_BHD.dtype).reshape(batch, heads, dim)


def _in_blocks(x: jax.Array) -> jax.Array:
    """[B, N * BLOCK, ...] to [N, B, BLOCK, ...]."""
    return jnp.moveaxis(x.reshape(len(x), -1, BLOCK, *x.shape[2:]), 1, 0)


def _blocks(queries, k_BKND, v_BKND, segments_BK):
    """One block of queries after another; a block's logits are computed again in the backward pass."""
    # The gradients of keys and values are summed over blocks: in float32, whatever they are themselves.
    k32, v32 = k_BKND.astype(jnp.float32), v_BKND.astype(jnp.float32)

    @jax.checkpoint
    def one(x):
        return _block(*x, k32.astype(k_BKND.dtype), v32.astype(v_BKND.dtype), segments_BK)

    return jax.lax.map(one, queries)


def _block(q_BCHD, own_BC, columns_C, k_BKND, v_BKND, segments_BK):
    """One block of C queries, with their segments and prefixes, against K keys of N heads.

    The queries that share a key head are rows of one product, and the weights are divided by their sum after the
    product with the values: on CPU two to four times as fast as jax.nn.dot_product_attention.
    """
    batch, rows, heads, dim = q_BCHD.shape
    shared = k_BKND.shape[2]
    group = heads // shared
    q_BNMD = jnp.moveaxis(q_BCHD.reshape(batch, rows, shared, group, dim), 1, 3).reshape(batch, shared, -1, dim)
    logits_BNMK = jnp.einsum("bnmd,bknd->bnmk", q_BNMD, k_BKND, preferred_element_type=jnp.float32) / dim**0.5
    mask_BMK = jnp.tile(causal_mask(*own_BC, columns_C, segments_BK), (1, group, 1))
    logits_BNMK = jnp.where(mask_BMK[:, None], logits_BNMK, -1e30)  # finite: a row of padding has no NaN
    highest_BNM1 = jax.lax.stop_gradient(jnp.max(logits_BNMK, axis=-1, keepdims=True))  # cancels in the quotient
    weight_BNMK = jnp.exp(logits_BNMK - highest_BNM1)
    total_BNM1 = jnp.sum(weight_BNMK, axis=-1, keepdims=True)
    weight_BNMK = weight_BNMK.astype(v_BKND.dtype)
    sum_BNMD = jnp.einsum("bnmk,bknd->bnmd", weight_BNMK, v_BKND, preferred_element_type=jnp.float32)
    mean_BNGCD = (sum_BNMD / total_BNM1).astype(v_BKND.dtype).reshape(batch, shared, group, rows, dim)
    return jnp.moveaxis(mean_BNGCD, 3, 1).reshape(q_BCHD.shape)
