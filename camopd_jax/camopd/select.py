"""CaMOPD's own maths: the gap, a sample's correction demand, which samples train, which branch is next.

Equation numbers are those of docs/method.md, after arXiv 2605.27115.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from camopd_jax import losses


def schedule(cycle: Sequence[str], step: int) -> tuple[str, int]:
    """The branch of a step, and how many earlier steps that branch had (eq. 3).

    Args:
      cycle: the fixed order of branches, as ("general", "general", "general", "domain").
      step: 0, 1, ...
    """
    rounds, place = divmod(step, len(cycle))
    branch = cycle[place]
    return branch, rounds * cycle.count(branch) + cycle[:place].count(branch)


def log_prob_gap(teacher_logp_BT: jax.Array, student_logp_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Delta_t = log pi_T(y_t|h_t) - log pi_theta(y_t|h_t), nats; 0 outside the mask (eq. 1).

    Constant under the gradient: it is the credit of the student's own token, not a path to the student.
    """
    return jax.lax.stop_gradient(jnp.where(mask_BT, teacher_logp_BT - student_logp_BT, 0.0))


def absolute_demand(gap_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """s_i = mean_t |Delta_t| [B]: any departure from the teacher counts (eq. 4)."""
    return losses.masked_mean(jnp.abs(gap_BT), mask_BT)


def positive_demand(gap_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """s_i = mean_t max(Delta_t, 0) [B]: only what the teacher still prefers counts (eq. 5)."""
    return losses.masked_mean(jnp.maximum(gap_BT, 0.0), mask_BT)


DEMANDS = {"absolute": absolute_demand, "positive": positive_demand}


def smallest_prefix(score_B: np.ndarray, rho: float) -> np.ndarray:
    """Indices of the largest scores, the fewest that sum to at least rho of the total (eq. 6).

    In float64 over the global batch; equal scores keep their order in the batch. Empty if all scores are 0.

    Raises:
      ValueError: if rho is outside (0, 1], or a score is negative or not finite (its index is named).
    """
    if not 0 < rho <= 1:
        raise ValueError(f"rho = {rho}: allowed is 0 < rho <= 1")
    score = np.asarray(score_B, np.float64)
    bad = np.flatnonzero(~np.isfinite(score) | (score < 0))
    if bad.size:
        raise ValueError(f"sample {bad[0]} of the batch has the score {score[bad[0]]}")
    order = np.argsort(-score, kind="stable")
    mass = np.cumsum(score[order])
    if mass[-1] == 0:
        return order[:0]
    return order[: int(np.searchsorted(mass, rho * mass[-1])) + 1]
