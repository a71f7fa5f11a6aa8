"""GRPO's maths: advantages inside groups, the share of each token, and a step's answers as micro-batches.

N prompts with a group of G answers each are the B = N G rows of a rollout, an answer's row being n G + g. A reward of
NaN says that an answer could not be scored: it is as if it had never been drawn. Sources: GRPO (arXiv 2402.03300), Dr.
GRPO (2503.20783), DAPO (2503.14476).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from camopd_jax import losses, packing, policy, scoring
from camopd_jax.packing import PackShape
from camopd_jax.types import PackedTokens, Params, Rollout, Update

EPS = 1e-4  # beside the standard deviation, in units of the reward


@dataclass(frozen=True)
class Groups:
    """What the rewards of N groups of G answers are worth to the policy."""

    advantage_NG: np.ndarray  # float64; 0 where an answer does not train
    scorable_NG: np.ndarray
    trains_NG: np.ndarray  # scorable, in a group with spread
    few_N: np.ndarray  # groups of fewer than 2 scorable answers: nothing to compare
    flat_N: np.ndarray  # groups of 2 or more scorable answers whose rewards are all equal

    def figures(self) -> dict[str, int]:
        """Counts for metrics.jsonl."""
        return {
            "groups": len(self.few_N),
            "groups_few": int(self.few_N.sum()),
            "groups_flat": int(self.flat_N.sum()),
            "unscorable": int((~self.scorable_NG).sum()),
        }


def advantages(reward_NG: np.ndarray, *, by_std: bool) -> Groups:
    """A = (r - mean) / (std + 1e-4) inside each group; without the division where not `by_std` (Dr. GRPO).

    Mean and std (ddof 1) are over the group's scorable answers, in float64. A group without spread, or with fewer than
    2 scorable answers, has no advantages and does not train.

    Raises:
      ValueError: if a reward is infinite (its group and answer are named).
    """
    reward_NG = np.asarray(reward_NG, np.float64)
    for group, answer in np.argwhere(np.isinf(reward_NG)):
        raise ValueError(
            f"the reward of answer {answer} of group {group} is {reward_NG[group, answer]}: allowed are numbers, "
            "and NaN for an answer that cannot be scored"
        )
    scorable_NG = ~np.isnan(reward_NG)
    count_N1 = scorable_NG.sum(axis=1, keepdims=True)
    known_NG = np.where(scorable_NG, reward_NG, 0.0)
    from_mean_NG = np.where(scorable_NG, reward_NG - known_NG.sum(axis=1, keepdims=True) / np.maximum(count_N1, 1), 0.0)
    # Equal rewards are told by themselves: of 0.1, 0.1, 0.1 the rounded mean is another number.
    first_N1 = np.take_along_axis(known_NG, scorable_NG.argmax(axis=1)[:, None], axis=1)
    spread_N = np.any(scorable_NG & (reward_NG != first_N1), axis=1)
    few_N = count_N1[:, 0] < 2
    scale_N1 = 1.0
    if by_std:
        scale_N1 = np.sqrt(np.sum(from_mean_NG**2, axis=1, keepdims=True) / np.maximum(count_N1 - 1, 1)) + EPS
    trains_NG = scorable_NG & spread_N[:, None]
    return Groups(np.where(trains_NG, from_mean_NG / scale_N1, 0.0), scorable_NG, trains_NG, few_N, ~few_N & ~spread_N)


def to_draw_again(groups: Groups) -> np.ndarray:
    """The groups that are sampled again (DAPO's dynamic sampling): all that train nothing, in their order."""
    return np.flatnonzero(~groups.trains_NG.any(axis=1))


def sequence_share(length_A: np.ndarray, max_new_tokens: int) -> np.ndarray:
    """1 / (A L_i): the mean over each answer's tokens, then over the A answers (GRPO)."""
    del max_new_tokens
    return 1.0 / (len(length_A) * np.maximum(length_A, 1))


def constant_share(length_A: np.ndarray, max_new_tokens: int) -> np.ndarray:
    """1 / (A T_max), whatever the lengths: each prompt's sum over tokens by G T_max, then the mean (Dr. GRPO)."""
    return np.full(len(length_A), 1.0 / (max(len(length_A), 1) * max_new_tokens))


def token_share(length_A: np.ndarray, max_new_tokens: int) -> np.ndarray:
    """1 / sum of L_i: the mean over all tokens of the batch (DAPO)."""
    del max_new_tokens
    return np.full(len(length_A), 1.0 / np.maximum(length_A.sum(), 1))


@dataclass(frozen=True)
class Variant:
    """What tells one form of GRPO from another."""

    by_std: bool  # advantages are divided by the group's standard deviation
    share: Callable[[np.ndarray, int], np.ndarray]  # (lengths of the A scorable answers, T_max) -> a token's share
    clip: tuple[float, float]  # as published
    draws_again: bool = False  # groups without spread are sampled again
    kl: bool = True  # may have a KL to the reference


VARIANTS = {
    "grpo": Variant(True, sequence_share, (0.2, 0.2)),
    "dr_grpo": Variant(False, constant_share, (0.2, 0.2)),
    "dapo": Variant(True, token_share, (0.2, 0.28), draws_again=True, kl=False),
}


def token_weights(
    mask_BT: np.ndarray, groups: Groups, share: Callable[[np.ndarray, int], np.ndarray], max_new_tokens: int
) -> np.ndarray:
    """Each token's share of the loss [B, T], float64, over the whole batch and not a micro-batch; 0 where none trains.

    The mean is over all A scorable answers, those of groups without spread too, whose terms, the KL's included, are 0;
    an unscorable one is not among them. An answer of which no token counts is one of the A, with nothing to add.

    Args:
      mask_BT: the tokens that count: the rollout's response mask, or less.
      max_new_tokens: T_max, the limit of the rollout, the same for every batch.
    """
    scorable_B, trains_B = groups.scorable_NG.reshape(-1), groups.trains_NG.reshape(-1)
    share_B = np.zeros(len(mask_BT))
    share_B[scorable_B] = share(mask_BT[scorable_B].sum(axis=1), max_new_tokens)
    return np.where(mask_BT & trains_B[:, None], share_B[:, None], 0.0)


def with_kl(reward_NG: np.ndarray, rollout: Rollout, reference_BT: np.ndarray, weight: float) -> np.ndarray:
    """r - weight sum_t (log mu(y_t|h_t) - log pi_ref(y_t|h_t)), float64: k1 inside the reward.

    The mean of the sum over the sampler's answers is KL(mu || pi_ref) of whole answers, nats, and the policy gradient
    of the reward has its gradient, which k1 as a loss has not. Unscorable answers stay so. A group whose own rewards
    are all equal has the spread of its KL then, which advantages divided by the std make as large as any other.
    """
    gap_BT = np.where(rollout.response_mask_BT, rollout.sampler_logp_BT.astype(np.float64) - reference_BT, 0.0)
    return reward_NG - weight * gap_BT.sum(axis=1).reshape(np.shape(reward_NG))


def make_updates(
    rollout: Rollout, groups: Groups, weight_BT: np.ndarray, reference: Sequence[np.ndarray], shape: PackShape
) -> list[Update]:
    """Micro-batches of the answers that train, and of no others; a group's stand behind one copy of its prompt.

    Args:
      weight_BT: of `token_weights`.
      reference: (log pi_ref of the sampled tokens [B, T],) where a KL loss needs it, else ().
    """
    rows = np.flatnonzero(weight_BT.any(axis=1))
    advantage_BT = np.broadcast_to(groups.advantage_NG.reshape(-1, 1), weight_BT.shape)
    return packing.updates(rollout, rows, shape, advantage_BT, weight_BT, reference, shared=True)


def score(graph: nnx.GraphDef, params: Params, packed: PackedTokens, *reference: jax.Array, **how) -> jax.Array:
    """`scoring.score`; the reference's log-probabilities, which an update carries to the objective, pass by."""
    del reference
    return scoring.score(graph, params, packed, **how)


def objective(clip: tuple[float, float], loss_kl: str, loss_kl_weight: float) -> Callable:
    """sum_t weight_t (-min(rho_t A, clip(rho_t) A) + loss_kl_weight KL_t), with rho_t against the policy that sampled.

    Advantages, means and the choice of answers lie in the update's credit and weights. The KL has no importance ratio,
    as published: in later updates on the same answers it is that at the sampler's tokens.

    Args:
      clip: (below, above): the ratio is clipped to 1 - below to 1 + above.
      loss_kl: of `policy.KL_LOSSES`, for which the update carries the reference's log-probabilities, or "none".

    Raises:
      ValueError: as `policy.kl_loss` does.
    """
    kl = policy.kl_loss(loss_kl)

    def loss(logp_RS: jax.Array, update: Update) -> tuple[jax.Array, dict]:
        used_RS, sampler_RS = update.weight_RS > 0, update.sampler_logp_RS
        logp_RS = jnp.where(used_RS, logp_RS, sampler_RS)  # nothing flows back into a slot that is not used
        loss_RS = policy.clipped_surrogate(logp_RS, sampler_RS, update.credit_RS, clip)
        sums = {
            "tokens": jnp.sum(used_RS),
            "clipped": jnp.sum(used_RS & policy.clipped(logp_RS, sampler_RS, update.credit_RS, clip)),
            "sampler_kl": jnp.sum(sampler_RS - logp_RS),  # KL(mu || pi_theta): how far the updates since went
        }
        if kl:
            (reference_RS,) = update.teacher
            loss_RS += loss_kl_weight * kl(logp_RS, reference_RS)
            sums["reference_kl"] = jnp.sum(jnp.where(used_RS, logp_RS - reference_RS, 0.0))
        return losses.weighted_sum(loss_RS, update.weight_RS), sums

    return loss


def check(g: ConfigDict) -> None:
    """Raise ValueError if the keys of config.grpo are not allowed, or do not go together."""
    if g.variant not in VARIANTS:
        raise ValueError(f"config.grpo.variant = {g.variant!r}: allowed are {', '.join(map(repr, VARIANTS))}")
    if g.group_size < 2:
        raise ValueError(f"config.grpo.group_size = {g.group_size}: a group compares answers; allowed is 2 or more")
    if not (0 < g.clip[0] <= 1 and g.clip[1] > 0):
        raise ValueError(
            f"config.grpo.clip = {tuple(g.clip)}: allowed are (below, above), 0 < below <= 1 and 0 < above: the ratio "
            "is clipped to 1 - below to 1 + above"
        )
    try:
        policy.kl_loss(g.loss_kl)
    except ValueError as error:
        raise ValueError(f"config.grpo.loss_kl = {g.loss_kl!r}: {error}") from None
    for key in ("loss_kl_weight", "reward_kl_weight"):
        if not g[key] >= 0:
            raise ValueError(f"config.grpo.{key} = {g[key]}: allowed is 0 or more")
    if (g.loss_kl == policy.NO_KL) != (g.loss_kl_weight == 0):
        raise ValueError(
            f"config.grpo.loss_kl_weight = {g.loss_kl_weight}: with loss_kl = {g.loss_kl!r} allowed is "
            f"{'0' if g.loss_kl == policy.NO_KL else 'above 0'}"
        )
    if not VARIANTS[g.variant].kl and (g.loss_kl_weight or g.reward_kl_weight):
        raise ValueError(
            f"config.grpo.variant = {g.variant!r}: has no KL to a reference; allowed are loss_kl = {policy.NO_KL!r}, "
            "loss_kl_weight = 0 and reward_kl_weight = 0"
        )
