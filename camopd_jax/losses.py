"""Per-token quantities and losses: arrays in, arrays out; no model, no config.

Equation numbers are those of docs/method.md, after CaMOPD (arXiv 2605.27115).
"""

import jax
import jax.numpy as jnp


def chunked_logp(
    hidden_ND: jax.Array, head_VD: jax.Array, labels_N: jax.Array, temperature: float, chunk: int,
    vocab: int | None = None,
) -> jax.Array:  # fmt: skip
    """log softmax(hidden head^T / temperature)[label], without an array of N x V.

    Args:
      hidden_ND: final hidden states; head_VD: output embedding; labels_N: token ids.
      temperature: tau > 0, the one that the sampler used.
      chunk: tokens whose logits [chunk, V] exist at a time, forward and backward.
      vocab: ids from here on pad the embedding and have no probability; None: all ids are tokens.

    Returns:
      Log-probabilities [N] in nats, float32.

    Raises:
      ValueError: if chunk or temperature is not positive.
    """
    if chunk <= 0 or temperature <= 0:
        raise ValueError(f"chunk ({chunk}) and temperature ({temperature}) must be positive")
    n = hidden_ND.shape[0]
    chunk = min(chunk, n)
    pad = -n % chunk

    # Recomputing a chunk's logits in the backward pass is what keeps [N, V] out of memory.
    @jax.checkpoint
    def one(hidden_CD, labels_C):
        logits_CV = jnp.einsum("cd,vd->cv", hidden_CD, head_VD, preferred_element_type=jnp.float32)
        logits_CV = known_tokens(logits_CV / temperature, vocab)
        picked_C = jnp.take_along_axis(logits_CV, labels_C[:, None], axis=1)[:, 0]
        return picked_C - jax.nn.logsumexp(logits_CV, axis=1)

    hidden = jnp.pad(hidden_ND, ((0, pad), (0, 0))).reshape(-1, chunk, hidden_ND.shape[1])
    labels = jnp.pad(labels_N, (0, pad)).reshape(-1, chunk)
    return jax.lax.map(lambda x: one(*x), (hidden, labels)).reshape(-1)[:n]


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
