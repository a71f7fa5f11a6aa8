"""Label attention: each code reads the tokens of a note with a query of its own (method.md, section 3).

    M chunks of all notes     T tokens of a chunk     C codes     D width     H heads, of D / H numbers each

The codes are gone through in blocks, and a block is computed again in the backward pass, so that no array of chunks x
tokens x codes exists.
"""

import jax
import jax.numpy as jnp

MASKED = -1e30


def label_logits(
    key_MTD: jax.Array, value_MTD: jax.Array, mask_MT: jax.Array, query_CD: jax.Array, weight_CD: jax.Array, *,
    heads: int, block: int,
) -> jax.Array:  # fmt: skip
    """The logit of each code in each chunk [M, C], float32: <softmax(q k^T) v, w>, heads side by side.

    There is no 1 / sqrt(D / H), as published. Padding has no weight; a chunk without tokens has MASKED.

    Args:
      block: codes that are computed together.
    """
    codes, width = query_CD.shape
    count = -(-codes // block)

    def blocks(x_CD):
        return jnp.pad(x_CD, ((0, count * block - codes), (0, 0))).reshape(count, block, heads, width // heads)

    key_MTHd, value_MTHd = (x.reshape(*x.shape[:2], heads, -1) for x in (key_MTD, value_MTD))

    @jax.checkpoint
    def one(x):
        query_cHd, weight_cHd = x
        return _block(key_MTHd, value_MTHd, mask_MT, query_cHd, weight_cHd)

    logit_BMc = jax.lax.map(one, (blocks(query_CD), blocks(weight_CD)))
    logit_MC = jnp.moveaxis(logit_BMc, 0, 1).reshape(len(key_MTD), -1)[:, :codes]
    return jnp.where(mask_MT.any(axis=1)[:, None], logit_MC, MASKED)


def _block(key_MTHd, value_MTHd, mask_MT, query_cHd, weight_cHd):
    weight_MHcT = token_weights(key_MTHd, mask_MT, query_cHd).astype(value_MTHd.dtype)
    context_McHd = jnp.einsum("mhct,mthd->mchd", weight_MHcT, value_MTHd, preferred_element_type=jnp.float32)
    return jnp.einsum("mchd,chd->mc", context_McHd, weight_cHd.astype(jnp.float32))


def token_weights(key_MTHd: jax.Array, mask_MT: jax.Array, query_cHd: jax.Array) -> jax.Array:
    """What each head of some codes reads of the tokens [M, H, c, T]; sums to 1."""
    score_MHcT = jnp.einsum("chd,mthd->mhct", query_cHd, key_MTHd, preferred_element_type=jnp.float32)
    return jax.nn.softmax(jnp.where(mask_MT[:, None, None], score_MHcT, MASKED), axis=-1)


def over_chunks(logit_MC: jax.Array, chunks: int) -> jax.Array:
    """The greatest logit of a code over the chunks of each note [N, C]; M = N x chunks."""
    return logit_MC.reshape(-1, chunks, logit_MC.shape[1]).max(axis=1)
