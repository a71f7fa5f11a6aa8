"""Supervised fine-tuning: the specialisation stage, which makes the domain teacher."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from camopd_jax import data, losses, packing
from camopd_jax.packing import PackShape
from camopd_jax.types import Experience, TrainState, Update


def objective(logp_RS: jax.Array, update: Update) -> tuple[jax.Array, dict]:
    """Mean negative log-likelihood of the response tokens, EOS included."""
    loss_RS = losses.nll_token_loss(logp_RS, update.credit_RS)
    return losses.weighted_sum(loss_RS, update.weight_RS), {"tokens": jnp.sum(update.packed.slot_mask_RS)}


def collector(
    prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], ids: Sequence[str], *, batch_size: int, seed: int,
    shape: PackShape, pad_id: int,
):  # fmt: skip
    """`collect` of a System that visits (prompt, answer) pairs; each response token of a batch weighs the same."""

    def collect(state: TrainState, step: int) -> Experience:
        del state  # the data do not depend on the policy
        chosen = data.batch_at(len(prompts), batch_size, step, seed)
        rollout = data.given_responses([prompts[i] for i in chosen], [answers[i] for i in chosen], pad_id)
        mask_BT = rollout.response_mask_BT
        tokens = int(mask_BT.sum())
        updates = packing.updates(rollout, range(batch_size), shape, mask_BT, mask_BT / tokens)
        members = packing.members(rollout, range(batch_size), shape)
        samples = [[ids[chosen[b]] for b in rows] for rows in members]
        return Experience("sft", updates, {"response_tokens": tokens, "batch": batch_size}, samples=samples)

    return collect
