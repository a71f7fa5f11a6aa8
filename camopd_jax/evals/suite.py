"""Held-out measures of a model: distance to the teachers, instruction following, domain exact match.

A measure is kept as two numbers an item, whose sums divide to its value, so that intervals can be had by
resampling items, and two models compared item by item.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from camopd_jax.data import Prompt
from camopd_jax.engine import Engine
from camopd_jax.evals import checks
from camopd_jax.types import Params, Rollout

TASKS = {  # measure -> (task, metric) in eval.jsonl
    "reverse_kl": ("general", "reverse_kl"),
    "forward_kl": ("general", "forward_kl"),
    "eos_rate": ("general", "eos_rate"),
    "length": ("general", "response_tokens"),
    "instructions": ("instructions", "pass_rate"),
    "domain": ("icd10", "exact_match"),
}


@dataclass(frozen=True)
class Measure:
    """sum(numerator) / sum(denominator) over items."""

    numerator: np.ndarray
    denominator: np.ndarray

    def value(self) -> float:
        return float(self.numerator.sum() / self.denominator.sum())

    def stderr(self) -> float:
        """Standard error of the ratio over items (linearised)."""
        n = len(self.numerator)
        residual = self.numerator - self.value() * self.denominator
        return float(np.sqrt(n / (n - 1) * np.sum(residual**2)) / self.denominator.sum())

    def resampled(self, index_RN: np.ndarray) -> np.ndarray:
        """The value on each resampling of the items [R]."""
        return self.numerator[index_RN].sum(axis=1) / self.denominator[index_RN].sum(axis=1)


def mean_of(x: Sequence[float]) -> Measure:
    numerator = np.asarray(x, np.float64)
    return Measure(numerator, np.ones_like(numerator))


def with_checks(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts, each with checks that score its responses: its own, or equality with its answer.

    Raises:
      ValueError: if a prompt has neither checks nor an answer, or a check is unknown or its arguments are wrong.
    """
    found = []
    for prompt in prompts:
        if not prompt.checks and not prompt.answer:
            raise ValueError(f"prompt {prompt.id}: neither answer nor checks; one of them is needed to score responses")
        scored = replace(prompt, checks=prompt.checks or [{"kind": "answer", "text": prompt.answer}])
        try:
            checks.passes("", scored.checks)
        except ValueError as error:
            raise ValueError(f"prompt {prompt.id}: {error}") from error
        found.append(scored)
    return found


@dataclass(frozen=True)
class Task:
    """Prompts of one held-out task, encoded."""

    prompts: list[Prompt]
    encoded: list[np.ndarray]
    width: int  # tokens to which prompts are padded
    max_new_tokens: int


@dataclass(frozen=True)
class Suite:
    """The full evaluation, on fixed held-out prompts with a fixed seed."""

    engine: Engine
    general: Task
    instructions: Task
    domain: Task
    batch_size: int
    seed: int

    def sample(self, params: Params, task: Task, temperature: float) -> Rollout:
        return self.engine.sample(
            params,
            task.encoded,
            jax.random.key(self.seed),
            width=task.width,
            batch=self.batch_size,
            max_new_tokens=task.max_new_tokens,
            temperature=temperature,
        )

    def reference(self, params: Params) -> tuple[Rollout, np.ndarray]:
        """The general teacher's own responses and log-probabilities, on which the forward KL is taken."""
        rollout = self.sample(params, self.general, self.engine.numerics.temperature)
        return rollout, self.engine.score(params, rollout)

    def run(
        self,
        place: Callable[[], Params],
        general: Callable[[], Params],
        reference: tuple[Rollout, np.ndarray],
        is_general: bool,
    ) -> dict[str, Measure]:
        """All measures of a model; `place` and `general` put a model's weights on the mesh, one at a time.

        Reverse KL: mean over the model's own response tokens of log pi - log pi_general; forward KL: over the
        general teacher's tokens of log pi_general - log pi. Both in nats a token, sampled at the run's
        temperature, as are EOS rate and length. Instruction following and domain answers are greedy. The general
        teacher itself (`is_general`) has its responses in the reference already.
        """
        params = place()
        teacher_rollout, teacher_own = reference
        rollout, own, under_own = teacher_rollout, teacher_own, teacher_own
        if not is_general:
            rollout = self.sample(params, self.general, self.engine.numerics.temperature)
            own = self.engine.score(params, rollout)
            under_own = self.engine.score(params, teacher_rollout)
        forward = teacher_own - under_own
        followed = self.engine.texts(self.sample(params, self.instructions, 0.0))
        coded = self.engine.texts(self.sample(params, self.domain, 0.0))
        del params
        reverse = own - (teacher_own if is_general else self.engine.score(general(), rollout))
        tokens = rollout.response_mask_BT.sum(axis=1).astype(np.float64)
        passed = [checks.passes(t, p.checks) for t, p in zip(followed, self.instructions.prompts, strict=True)]
        exact = [checks.passes(t, p.checks) for t, p in zip(coded, self.domain.prompts, strict=True)]
        return {
            "reverse_kl": Measure(reverse.sum(axis=1, dtype=np.float64), tokens),
            "forward_kl": Measure(
                forward.sum(axis=1, dtype=np.float64), teacher_rollout.response_mask_BT.sum(axis=1).astype(np.float64)
            ),
            "eos_rate": mean_of(self.engine.ended(rollout)),
            "length": mean_of(tokens),
            "instructions": mean_of(passed),
            "domain": mean_of(exact),
        }


def rows(model: str, step: int, measures: dict[str, Measure]) -> list[dict]:
    """The lines of eval.jsonl."""
    return [
        {
            "step": step,
            "model": model,
            "task": TASKS[name][0],
            "metric": TASKS[name][1],
            "value": measure.value(),
            "n": len(measure.numerator),
            "stderr": measure.stderr(),
        }
        for name, measure in measures.items()
    ]


def ratio_interval(
    after: Measure, start: Measure, teacher: Measure | None, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float] | None:
    """(after - start) / (teacher - start), or after / start without a teacher, with its 95 % bootstrap interval.

    Items are resampled jointly. None where the interval of the denominator contains 0: the ratio says nothing.
    """
    n = len(after.numerator)
    index_RN = np.random.default_rng(seed).integers(n, size=(resamples, n))
    after_R, start_R = after.resampled(index_RN), start.resampled(index_RN)
    if teacher is None:
        top_R, bottom_R = after_R, start_R
        value = after.value() / start.value() if start.value() else 0.0
    else:
        top_R, bottom_R = after_R - start_R, teacher.resampled(index_RN) - start_R
        value = (after.value() - start.value()) / ((teacher.value() - start.value()) or 1.0)
    low, high = np.quantile(bottom_R, [0.025, 0.975])
    if low <= 0 <= high:
        return None
    bottom_R = np.where(bottom_R == 0, np.nan, bottom_R)
    return (value, *(float(q) for q in np.nanquantile(top_R / bottom_R, [0.025, 0.975])))
