"""The records of a step: a branch, its answers, and the rows of rollouts.jsonl that people read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from camopd_jax import losses
from camopd_jax.engine import Engine
from camopd_jax.licensed import Licence
from camopd_jax.types import Rollout


@dataclass(frozen=True)
class Branch:
    """One teacher with its prompts and its rule of selection."""

    name: str
    number: int  # names the branch's random streams
    prompts: Sequence[np.ndarray]
    prompt_ids: Sequence[str]
    heldout: Sequence[np.ndarray]  # prompts of the short evaluations
    demand: str  # a key of select.DEMANDS
    rho: float  # share of the batch's demand that the selected samples hold
    scale: float  # r_b of eq. 7


@dataclass(frozen=True)
class Answers:
    """One branch's responses in a step, scored. Log-probabilities and gap in nats, 0 outside the mask."""

    branch: Branch
    ids: list[str]  # of the prompts
    rollout: Rollout
    student_BT: np.ndarray
    teacher_BT: np.ndarray
    gap_BT: np.ndarray
    score_B: np.ndarray


def quotas(total: int, steps: int, step: int, parts: int) -> list[int]:
    """How many answers of each part of a step are kept, so that a run of so many steps keeps `total`."""
    here = (step + 1) * total // steps - step * total // steps
    return [here // parts + (i < here % parts) for i in range(parts)]


def recorder(
    engine: Engine, band: tuple[float, float] | None, tokens: int, licence: Licence
) -> Callable[[Answers, np.ndarray, int], list[dict]]:
    """`record` of the collector: (answers, rows that train, n) -> the first n answers of a branch's batch.

    Args:
      band: of the importance weights (eq. 2); None: the method has none, they are 1.
      tokens: of a response that are kept, at most.
      licence: whose texts may be kept; of others the figures are.
    """
    decode = engine.tokenizer.decode

    def record(answers: Answers, selected: np.ndarray, at_most: int) -> list[dict]:
        rollout, chosen, rows = answers.rollout, set(selected.tolist()), []
        ended_B, width = engine.ended(rollout), rollout.prompt_mask_BP.shape[1]
        weight_BT = np.ones_like(answers.student_BT)
        if band:
            weight_BT = np.asarray(losses.importance_weight(answers.student_BT, rollout.sampler_logp_BT, band))
        for b in range(min(at_most, len(answers.ids))):
            kept = np.flatnonzero(rollout.response_mask_BT[b])[:tokens]
            name = answers.branch.name
            prompt = rollout.tokens_BL[b, :width][rollout.prompt_mask_BP[b]]
            rows.append(
                {
                    "branch": name,
                    "id": answers.ids[b],
                    "prompt": licence.text(decode(prompt, skip_special_tokens=True), licence.allows(name, "rollouts")),
                    "tokens": licence.tokens(
                        [decode([token]) for token in rollout.tokens_BL[b, width:][kept]],
                        licence.allows_response(name, "rollouts"),
                    ),
                    "student_logp": _rounded(answers.student_BT[b][kept]),
                    "teacher_logp": _rounded(answers.teacher_BT[b][kept]),
                    "weight": _rounded(weight_BT[b][kept]),
                    "score": round(float(answers.score_B[b]), 5),
                    "selected": b in chosen,
                    "ended": bool(ended_B[b]),
                }
            )
        return rows

    return record


def _rounded(x: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in x]
