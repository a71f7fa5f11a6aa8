"""Whether the sampler stops where it must, and the token that ends a response is in the loss, to be learnt."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from camopd_jax import sft
from camopd_jax.camopd import system as camopd
from camopd_jax.engine import Engine
from camopd_jax.inputs import Inputs
from camopd_jax.types import Rollout


def of_sampler(rollouts: Sequence[Rollout], engine: Engine) -> dict[str, int]:
    """How many responses there are, how many end in a stop token, and how many end as they must.

    A response holds the tokens up to the first stop token, that one included, or as many as there is room for.
    """
    found = {"responses": 0, "ended": 0, "right": 0}
    for rollout in rollouts:
        mask_BT = rollout.response_mask_BT
        stop_BT = np.isin(rollout.tokens_BL[:, rollout.prompt_mask_BP.shape[1] :], engine.stop_ids)
        before_BT = np.cumsum(stop_BT & mask_BT, axis=1) - (stop_BT & mask_BT)  # stop tokens in front of each
        ended_B = (stop_BT & mask_BT).any(axis=1)
        right_B = (mask_BT == (before_BT == 0)).all(axis=1) & (engine.ended(rollout) == ended_B)
        found["responses"] += len(mask_BT)
        found["ended"] += int(ended_B.sum())
        found["right"] += int(right_B.sum())
    return found


def in_loss(rollout: Rollout, engine: Engine, objective: Callable) -> dict[str, int]:
    """Of a rollout whose responses all end in a stop token, one after the other: how many ends are in the loss.

    An end counts where it weighs more than 0 in the update that trains and the loss has a slope there. "padded": the
    same where responses are padded with that token; "slots": all slots with a slope; "tokens": of the responses.
    """
    found = {"responses": len(rollout.tokens_BL)}
    slope = jax.jit(jax.grad(lambda x_RS, update: objective(x_RS, update)[0]))
    stop_B = np.resize(engine.stop_ids, len(rollout.tokens_BL))
    for name, pad_B in (("ends", np.full_like(stop_B, engine.tokenizer.pad_token_id)), ("padded", stop_B)):
        ended = _ended(rollout, stop_B, pad_B)
        mask_BT = ended.response_mask_BT
        updates = camopd.make_updates(
            ended, np.ones(mask_BT.shape), np.arange(len(mask_BT)), len(mask_BT), engine.shape
        )
        trains = [(np.asarray(slope(u.sampler_logp_RS, u)) != 0) & (u.weight_RS > 0) for u in updates]
        is_end = [np.isin(u.packed.labels_RS, engine.stop_ids) & u.packed.slot_mask_RS for u in updates]
        found[name] = int(sum((t & e).sum() for t, e in zip(trains, is_end, strict=True)))
        found["slots"], found["tokens"] = int(sum(t.sum() for t in trains)), int(mask_BT.sum())
    return found


def _ended(rollout: Rollout, stop_B: np.ndarray, pad_B: np.ndarray) -> Rollout:
    """The responses cut to lengths of all kinds, each ended by a stop token; behind it, padding."""
    width, tokens_BL = rollout.prompt_mask_BP.shape[1], rollout.tokens_BL.copy()
    mask_BT = np.zeros_like(rollout.response_mask_BT)
    for b, length in enumerate(rollout.response_mask_BT.sum(axis=1)):
        kept = max(1, int(length) - b % mask_BT.shape[1])
        mask_BT[b, :kept] = True
        tokens_BL[b, width + kept - 1], tokens_BL[b, width + kept :] = stop_B[b], pad_B[b]
    return rollout.replace(
        tokens_BL=tokens_BL, response_mask_BT=mask_BT, sampler_logp_BT=rollout.sampler_logp_BT * mask_BT
    )


def of_examples(read: Inputs) -> str:
    """A line that the answers of the specialisation's first update end in a stop token that trains.

    Raises:
      ValueError: if one does not.
    """
    s, engine = read.config.specialise, read.engine
    collect = sft.collector(
        read.examples.prompts, read.examples.answers, read.examples.ids, batch_size=s.batch_size, seed=s.seed,
        shape=engine.shape, pad_id=engine.tokenizer.pad_token_id,
    )  # fmt: skip
    updates = collect(None, 0).updates
    found = sum(int(((u.packed.labels_RS == engine.stop_ids[0]) & (u.weight_RS > 0)).sum()) for u in updates)
    line = f"specialise: {found} ends in the loss of the first {s.batch_size} answers"
    if found < s.batch_size:
        raise ValueError(f"self-test failed: {line}; the teacher would not learn to stop, please report it as a bug")
    return line
