"""Responses of the training steps as rows of rollouts.jsonl, for people to read."""

from collections.abc import Callable

import numpy as np

from camopd_jax import losses
from camopd_jax.camopd.system import Answers
from camopd_jax.engine import Engine


def recorder(engine: Engine, band: tuple[float, float], at_most: int) -> Callable[[Answers, np.ndarray], list[dict]]:
    """`record` of the collector: (answers, rows that train) -> the first `at_most` answers of a branch's batch."""
    decode = engine.tokenizer.decode

    def record(answers: Answers, selected: np.ndarray) -> list[dict]:
        rollout, chosen, rows = answers.rollout, set(selected.tolist()), []
        ended_B, width = engine.ended(rollout), rollout.prompt_mask_BP.shape[1]
        weight_BT = np.asarray(losses.importance_weight(answers.student_BT, rollout.sampler_logp_BT, band))
        for b in range(min(at_most, len(answers.ids))):
            mask_T = rollout.response_mask_BT[b]
            prompt = rollout.tokens_BL[b, :width][rollout.prompt_mask_BP[b]]
            rows.append(
                {
                    "branch": answers.branch.name,
                    "id": answers.ids[b],
                    "prompt": decode(prompt, skip_special_tokens=True),
                    "tokens": [decode([token]) for token in rollout.tokens_BL[b, width:][mask_T]],
                    "student_logp": _rounded(answers.student_BT[b][mask_T]),
                    "teacher_logp": _rounded(answers.teacher_BT[b][mask_T]),
                    "weight": _rounded(weight_BT[b][mask_T]),
                    "score": round(float(answers.score_B[b]), 5),
                    "selected": b in chosen,
                    "ended": bool(ended_B[b]),
                }
            )
        return rows

    return record


def _rounded(x: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in x]
