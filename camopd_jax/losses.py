"""Per-token quantities and losses: arrays in, arrays out; no model, no config.

Equation numbers are those of docs/method.md, after CaMOPD (arXiv 2605.27115).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def over_chunks(function: Callable, chunk: int, *arrays_N: jax.Array) -> Any:
    """function(*chunks of the arrays' first axis), put together again: a tree of arrays that begin with N.

    A chunk is computed again in the backward pass, which is what keeps [N, V] out of memory.

    Raises:
      ValueError: if chunk is not positive.
    """
    _check_positive(chunk=chunk)
    n = arrays_N[0].shape[0]
    chunk = min(chunk, n)
    laid = [jnp.pad(a, [(0, -n % chunk)] + [(0, 0)] * (a.ndim - 1)).reshape(-1, chunk, *a.shape[1:]) for a in arrays_N]
    out = jax.lax.map(lambda x: jax.checkpoint(function)(*x), tuple(laid))
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:])[:n], out)


def logits_of(hidden_CD: jax.Array, head_VD: jax.Array, temperature: float, vocab: int | None) -> jax.Array:
    """hidden head^T / temperature [C, V] in float32; -inf at ids that are no tokens.

    Args:
      temperature: tau > 0, the one that the sampler used.
      vocab: ids from here on pad the embedding and have no probability; None: all ids are tokens.

    Raises:
      ValueError: if temperature is not positive.
    """
    _check_positive(temperature=temperature)
    logits_CV = jnp.einsum("cd,vd->cv", hidden_CD, head_VD, preferred_element_type=jnp.float32)
    return known_tokens(logits_CV / temperature, vocab)


def chunked_logp(
    hidden_ND: jax.Array, head_VD: jax.Array, ids: jax.Array, temperature: float, chunk: int, vocab: int | None = None,
    parts: int = 1,
) -> jax.Array:  # fmt: skip
    """log softmax(hidden head^T / temperature) at some token ids, without an array of N x V.

    It goes through the vocabulary in tiles, all tokens at once: a tile of the head is read once, and its gradient
    written once, where chunks of tokens would add to the whole head's gradient again and again. What is kept for the
    gradient is log sum exp of each token; the backward pass makes each tile's logits once more.

    Args:
      hidden_ND: final hidden states; head_VD: output embedding; ids: a token id for each [N], or several [N, K].
      chunk: as many logits exist at a time as so many tokens have, chunk x V, forward and backward.
      temperature, vocab: as in `logits_of`.
      parts: equal parts of the vocabulary that are computed side by side: the devices that it is spread over.

    Returns:
      Log-probabilities in nats, float32, of the shape of `ids`. No second derivatives.

    Raises:
      ValueError: if chunk or temperature is not positive.
    """
    _check_positive(chunk=chunk, temperature=temperature)
    head_PVD = head_VD.reshape(parts, -1, head_VD.shape[1])
    padded = vocab if vocab is not None and vocab < len(head_VD) else None
    tiles, ids_NK = -(-len(ids) // chunk), ids.reshape(len(ids), -1)
    width = -(-head_PVD.shape[1] // tiles)
    return _tiled_logp(hidden_ND, head_PVD, ids_NK, temperature, width, padded).reshape(ids.shape)


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} = {value}: must be positive")


class _Tile(NamedTuple):
    """Some C words of a part of the vocabulary."""

    start: jax.Array  # their place in the part
    words_CD: jax.Array  # the head's rows
    products_NC: jax.Array  # of hidden states and words, in float32
    pads_C: jax.Array | None  # True at what pads the embedding; None: nothing does
    old_C: jax.Array | None  # True at words of the tile before, which the last one overlaps; None: it does not
    at_NK: jax.Array  # where in the tile the token ids are; C: they are not


def _tile(number, part, head_VD, hidden_ND, ids_NK, width, vocab) -> _Tile:
    """`vocab` is None where all ids are tokens: a mask costs a pass over the logits."""
    size = len(head_VD)
    start = jnp.minimum(number * width, size - width)
    words_CD = jax.lax.dynamic_slice_in_dim(head_VD, start, width)
    products_NC = jnp.einsum("nd,cd->nc", hidden_ND, words_CD, preferred_element_type=jnp.float32)
    places_C, at_NK = start + jnp.arange(width), ids_NK - part * size - start
    found_NK = (at_NK >= 0) & (at_NK < width)
    pads_C = None
    if vocab is not None:
        found_NK, pads_C = found_NK & (ids_NK < vocab), part * size + places_C >= vocab
    old_C = places_C < number * width if size % width else None
    return _Tile(start, words_CD, products_NC, pads_C, old_C, jnp.where(found_NK, at_NK, width))


def _put(x_NC: jax.Array, mask_C: jax.Array | None, value: float) -> jax.Array:
    return x_NC if mask_C is None else jnp.where(mask_C, value, x_NC)


def _over_parts(function, head_PVD, hidden_ND):
    """function(part, its head, hidden states) of all parts side by side."""
    parts = len(head_PVD)
    return jax.vmap(function)(jnp.arange(parts), head_PVD, jnp.broadcast_to(hidden_ND, (parts, *hidden_ND.shape)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _tiled_logp(hidden_ND, head_PVD, ids_NK, temperature, width, vocab):
    return _tiled_forward(hidden_ND, head_PVD, ids_NK, temperature, width, vocab)[0]


def _tiled_forward(hidden_ND, head_PVD, ids_NK, temperature, width, vocab):
    def of_part(part, head_VD, hidden_ND):
        def add(sums, number):
            lse_N, picked_NK = sums
            tile = _tile(number, part, head_VD, hidden_ND, ids_NK, width, vocab)
            here_NK = jnp.take_along_axis(tile.products_NC, tile.at_NK, axis=1, mode="fill", fill_value=-jnp.inf)
            logits_NC = _put(_put(tile.products_NC / temperature, tile.pads_C, -jnp.inf), tile.old_C, -jnp.inf)
            lse_N = jnp.logaddexp(lse_N, jax.nn.logsumexp(logits_NC, axis=1))
            return (lse_N, jnp.maximum(picked_NK, here_NK / temperature)), None

        nothing = jnp.full(len(hidden_ND), -jnp.inf), jnp.full(ids_NK.shape, -jnp.inf)
        return jax.lax.scan(add, nothing, jnp.arange(-(-len(head_VD) // width)))[0]

    lse_PN, picked_PNK = _over_parts(of_part, head_PVD, hidden_ND)
    lse_N = jax.nn.logsumexp(lse_PN, axis=0)
    return jnp.max(picked_PNK, axis=0) - lse_N[:, None], (hidden_ND, head_PVD, ids_NK, lse_N)


def _tiled_backward(temperature, width, vocab, kept, cotangent_NK):
    """d logits = (one-hot of the id - softmax) x cotangent, from which come the gradients of hidden states and head."""
    hidden_ND, head_PVD, ids_NK, lse_N = kept
    total_N1, rows_N1 = jnp.sum(cotangent_NK, axis=1, keepdims=True), jnp.arange(len(ids_NK))[:, None]

    def at_ids(tile):
        if ids_NK.shape[1] == 1:  # a comparison goes along with the pass over the logits; a scatter is one of its own
            return jnp.where(jnp.arange(len(tile.words_CD)) == tile.at_NK, cotangent_NK, 0.0)
        return jnp.zeros(tile.products_NC.shape).at[rows_N1, tile.at_NK].add(cotangent_NK, mode="drop")

    def of_part(part, head_VD, hidden_ND):
        def add(sums, number):
            d_hidden_ND, d_head_VD = sums
            tile = _tile(number, part, head_VD, hidden_ND, ids_NK, width, vocab)
            p_NC = _put(jnp.exp(tile.products_NC / temperature - lse_N[:, None]), tile.pads_C, 0.0)
            d_NC = ((at_ids(tile) - total_N1 * p_NC) / temperature).astype(hidden_ND.dtype)
            d_words_CD = jnp.einsum("nc,nd->cd", d_NC, hidden_ND, preferred_element_type=jnp.float32)
            d_head_VD = jax.lax.dynamic_update_slice_in_dim(d_head_VD, d_words_CD.astype(head_VD.dtype), tile.start, 0)
            new_NC = _put(d_NC, tile.old_C, 0)
            d_hidden_ND += jnp.einsum("nc,cd->nd", new_NC, tile.words_CD, preferred_element_type=jnp.float32)
            return (d_hidden_ND, d_head_VD), None

        nothing = jnp.zeros(hidden_ND.shape, jnp.float32), jnp.zeros_like(head_VD)
        return jax.lax.scan(add, nothing, jnp.arange(-(-len(head_VD) // width)))[0]

    d_hidden_PND, d_head_PVD = _over_parts(of_part, head_PVD, hidden_ND)
    return jnp.sum(d_hidden_PND, axis=0).astype(hidden_ND.dtype), d_head_PVD, None


_tiled_logp.defvjp(_tiled_forward, _tiled_backward)


def chunked_examination(
    hidden_ND: jax.Array, head_VD: jax.Array, labels_N: jax.Array, temperature: float, chunk: int,
    vocab: int | None = None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Entropy (nats) of each token's distribution, and the rank of its label in it (0: the most likely), both [N]."""

    def one(hidden_CD, labels_C):
        logits_CV = logits_of(hidden_CD, head_VD, temperature, vocab)
        logp_CV = jax.nn.log_softmax(logits_CV, axis=1)
        p_CV = jnp.exp(logp_CV)
        picked_C1 = jnp.take_along_axis(logits_CV, labels_C[:, None], axis=1)
        entropy_C = -jnp.sum(jnp.where(p_CV > 0, p_CV * logp_CV, 0.0), axis=1)
        return entropy_C, jnp.sum(logits_CV > picked_C1, axis=1)

    return over_chunks(one, chunk, hidden_ND, labels_N)


def chunked_top_ids(
    hidden_ND: jax.Array, head_VD: jax.Array, k: int, temperature: float, chunk: int, vocab: int | None = None
) -> jax.Array:
    """The k most likely tokens of each position [N, k], the most likely first."""

    def one(hidden_CD):
        return jax.lax.top_k(logits_of(hidden_CD, head_VD, temperature, vocab), k)[1]

    return over_chunks(one, chunk, hidden_ND)


def chunked_reverse_kl(
    hidden_ND: jax.Array, head_VD: jax.Array, teacher_hidden_ND: jax.Array, teacher_head_VD: jax.Array,
    temperature: float, chunk: int,
) -> jax.Array:  # fmt: skip
    """KL(pi_theta || pi_T) = sum_v pi_theta(v) (log pi_theta(v) - log pi_T(v)) of each position [N], nats.

    Over the whole vocabulary, of which the logits of `chunk` positions exist at a time, of both models; the teacher's
    width may be another. Constant in the teacher.
    """
    teacher_hidden_ND, teacher_head_VD = jax.lax.stop_gradient((teacher_hidden_ND, teacher_head_VD))

    def one(hidden_CD, teacher_hidden_CD):
        logp_CV = jax.nn.log_softmax(logits_of(hidden_CD, head_VD, temperature, None), axis=1)
        teacher_CV = jax.nn.log_softmax(logits_of(teacher_hidden_CD, teacher_head_VD, temperature, None), axis=1)
        return jnp.sum(jnp.exp(logp_CV) * (logp_CV - teacher_CV), axis=1)

    return over_chunks(one, chunk, hidden_ND, teacher_hidden_ND)


LEAST_TAIL = 1e-6  # in float32 the tail, 1 - sum, is known to about this; below it the bucket is constant


def top_k_reverse_kl(logp_NK: jax.Array, teacher_logp_NK: jax.Array) -> jax.Array:
    """Reverse KL [N] of two distributions that are known at K ids each, all other ids being one bucket, nats.

    sum_k p_k log(p_k / q_k) + p_rest log(p_rest / q_rest): a lower bound of the KL over the vocabulary.
    """
    p_NK, q_NK = jnp.exp(logp_NK), jnp.exp(teacher_logp_NK)
    rest_N, teacher_rest_N = (jnp.maximum(1.0 - jnp.sum(x, axis=1), LEAST_TAIL) for x in (p_NK, q_NK))
    head_N = jnp.sum(p_NK * (logp_NK - teacher_logp_NK), axis=1)
    return head_N + rest_N * (jnp.log(rest_N) - jnp.log(teacher_rest_N))


def known_tokens(logits_BV: jax.Array, vocab: int | None) -> jax.Array:
    """The logits with -inf at ids from `vocab` on: rows that pad the embedding are no tokens."""
    if vocab is None or vocab >= logits_BV.shape[1]:
        return logits_BV
    return jnp.where(jnp.arange(logits_BV.shape[1]) < vocab, logits_BV, -jnp.inf)


def masked_mean(x_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Mean over the valid tokens of each row [B]; 0 for a row without any."""
    total_B = jnp.sum(jnp.where(mask_BT, x_BT, 0.0), axis=-1)
    return total_B / jnp.maximum(jnp.sum(mask_BT, axis=-1), 1)


def importance_weight(logp: jax.Array, sampler_logp: jax.Array, band: tuple[float, float]) -> jax.Array:
    """w = pi_theta / mu where that lies in [band[0], band[1]], else 0 (eq. 2; IcePop's masking).

    Constant under the gradient: it corrects the sampler's numerics and is no path to the policy.
    """
    ratio = jnp.exp(jax.lax.stop_gradient(logp) - sampler_logp)
    return jnp.where((ratio >= band[0]) & (ratio <= band[1]), ratio, 0.0)


def policy_token_loss(
    logp: jax.Array, sampler_logp: jax.Array, credit: jax.Array, band: tuple[float, float]
) -> jax.Array:
    """-w_t * A_t * log pi_theta(y_t|h_t) for each token (the summand of eqs. 2 and 7), any shape."""
    weight = importance_weight(logp, sampler_logp, band)
    return -weight * jax.lax.stop_gradient(credit) * logp


def nll_token_loss(logp: jax.Array, credit: jax.Array) -> jax.Array:
    """-A_t * log pi_theta(y_t|h_t): supervised learning, where the credit of a response token is 1."""
    return -jax.lax.stop_gradient(credit) * logp


def weighted_sum(token_loss_RS: jax.Array, weight_RS: jax.Array) -> jax.Array:
    """The loss of a micro-batch: slots weighted by their share of the mean; empty slots weigh 0."""
    return jnp.sum(jnp.where(weight_RS > 0, token_loss_RS * weight_RS, 0.0))


def divergence_token_loss(divergence: jax.Array, credit: jax.Array) -> jax.Array:
    """r_b D(pi_theta || pi_T) for each token, any shape: a divergence over the vocabulary has a gradient of its own.

    The credit is the factor r_b; no importance weight, since the sampled token is not in the divergence.
    """
    return jax.lax.stop_gradient(credit) * divergence
