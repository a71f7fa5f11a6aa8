"""The clipped policy gradient, and the KL to a reference policy as a loss: arrays in, arrays out.

rho_t = pi_theta(y_t|h_t) / mu(y_t|h_t), the ratio to the policy mu that sampled, also after several updates on the same
answers. Under the gradient the sampler's and the reference's log-probabilities and the advantages are constants: they
are records of other policies, and a path through them would pull these towards the policy that trains.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def clipped_surrogate(
    logp: jax.Array, sampler_logp: jax.Array, advantage: jax.Array, clip: tuple[float, float]
) -> jax.Array:
    """-min(rho A, clip(rho, 1 - clip[0], 1 + clip[1]) A) for each token (PPO, arXiv 1707.06347, eq. 7), any shape.

    The gradient goes through rho, -rho A grad log pi_theta, and is 0 where the bound is the smaller: a token has moved
    as far as its advantage may move it in the updates since it was sampled. What moved the other way is not bounded.
    """
    advantage = jax.lax.stop_gradient(advantage)
    log_rho = logp - jax.lax.stop_gradient(sampler_logp)
    log_bound, beyond = _bound(log_rho, advantage, clip)
    # The bound is put in before the exponential: behind it, an overflow that is not used would make the gradient NaN.
    return -advantage * jnp.exp(jnp.where(beyond, log_bound, log_rho))


def clipped(logp: jax.Array, sampler_logp: jax.Array, advantage: jax.Array, clip: tuple[float, float]) -> jax.Array:
    """Where `clipped_surrogate` has no gradient because of the bound."""
    return _bound(logp - sampler_logp, advantage, clip)[1] & (advantage != 0)


def _bound(log_rho, advantage, clip) -> tuple[jax.Array, jax.Array]:
    """log of the bound of rho on the side to which the advantage moves it, and where rho is beyond."""
    low = np.log1p(-clip[0]) if clip[0] < 1 else -np.inf
    log_bound = jnp.where(advantage >= 0, np.log1p(clip[1]), low)
    return log_bound, jnp.where(advantage >= 0, log_rho > log_bound, log_rho < log_bound)


def k2_token_loss(logp: jax.Array, reference_logp: jax.Array) -> jax.Array:
    """(log pi_theta - log pi_ref)^2 / 2 for each sampled token, any shape, nats (k2 of Schulman 2020).

    Its gradient, (log pi_theta - log pi_ref) grad log pi_theta, has the mean grad KL(pi_theta || pi_ref) over tokens
    that pi_theta sampled.
    """
    return 0.5 * (logp - jax.lax.stop_gradient(reference_logp)) ** 2


def k3_token_loss(logp: jax.Array, reference_logp: jax.Array) -> jax.Array:
    """pi_ref / pi_theta - 1 - log(pi_ref / pi_theta) for each sampled token, any shape, nats (k3 of Schulman 2020).

    Its value has the mean KL(pi_theta || pi_ref) over tokens that pi_theta sampled, its gradient,
    (1 - pi_ref / pi_theta) grad log pi_theta, that of grad KL(pi_ref || pi_theta).
    """
    gap = jax.lax.stop_gradient(reference_logp) - logp
    return jnp.expm1(gap) - gap


NO_KL = "none"
KL_LOSSES = {"k2": k2_token_loss, "k3": k3_token_loss}


def kl_loss(name: str) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """The KL to the reference as a loss, from (log pi_theta, log pi_ref) of the sampled tokens; None for "none".

    Raises:
      ValueError: if there is none of this name; of k1, log pi_theta - log pi_ref, with the reason.
    """
    if name == "k1":
        raise ValueError(
            "'k1' is no KL loss: the gradient of log pi - log pi_ref is that of log pi and ignores the reference; "
            f"allowed are {', '.join(map(repr, (NO_KL, *KL_LOSSES)))}, and k1 inside the reward"
        )
    if name not in (NO_KL, *KL_LOSSES):
        raise ValueError(f"{name!r} is no KL loss: allowed are {', '.join(map(repr, (NO_KL, *KL_LOSSES)))}")
    return KL_LOSSES.get(name)
