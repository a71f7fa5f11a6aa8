"""Held-out measures of a model: distance to the teachers, instruction following, the skill of each domain.

A measure is kept as two numbers an item, whose sums divide to its value, so that intervals can be had by
resampling items, and two models compared item by item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from camopd_jax.data import Prompt
from camopd_jax.engine import Engine, Policy
from camopd_jax.evals import checks
from camopd_jax.types import Params, Rollout

# What a branch with questions of ours measures, and the metric; others have checks of their own.
SKILLS = {"builtin:icd10": ("ICD-10 coding", "exact_match"), "builtin:personas": ("personas", "pass_rate")}


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

    def row(self, model: str, step: int, task: str, metric: str) -> dict:
        """A line of eval.jsonl."""
        figures = {"value": self.value(), "n": len(self.numerator), "stderr": self.stderr()}
        return {"step": step, "model": model, "task": task, "metric": metric, **figures}

    def resampled(self, index_RN: np.ndarray) -> np.ndarray:
        """The value on each resampling of the items [R]."""
        return self.numerator[index_RN].sum(axis=1) / self.denominator[index_RN].sum(axis=1)


def mean_of(x: Sequence[float]) -> Measure:
    numerator = np.asarray(x, np.float64)
    return Measure(numerator, np.ones_like(numerator))


def figure(x: Sequence[float]) -> dict:
    """Mean, number and standard error of the mean; of one figure there is none."""
    measure = mean_of(x)
    return {"value": measure.value(), "n": len(x), "stderr": measure.stderr() if len(x) > 1 else None}


@dataclass(frozen=True)
class Task:
    """Prompts of one held-out task, encoded."""

    source: str
    prompts: list[Prompt]
    encoded: list[np.ndarray]
    max_new_tokens: int

    @property
    def width(self) -> int:
        """Tokens to which the prompts are padded."""
        return max(map(len, self.encoded))

    @property
    def checked(self) -> bool:
        """Whether answers can be told right from wrong: every prompt says how."""
        return all(p.checks for p in self.prompts)

    @property
    def criteria(self) -> list[str]:
        """What the checks of every prompt are about, where they name it."""
        named = [dict.fromkeys(c["criterion"] for c in p.checks if "criterion" in c) for p in self.prompts]
        return [criterion for criterion in named[0] if all(criterion in names for names in named)]


@dataclass(frozen=True)
class Line:
    """How a measure is shown, and where it stands in eval.jsonl."""

    measure: str
    label: str
    digits: int
    task: str
    metric: str


@dataclass(frozen=True)
class Suite:
    """The full evaluation, on fixed held-out prompts with a fixed seed."""

    general: Task
    instructions: Task
    domains: dict[str, Task]  # by branch
    batch_size: int
    seed: int
    temperature: float

    def lines(self) -> list[Line]:
        """The measures of `run`, in the order of the table."""
        lines = [
            Line("reverse_kl", "reverse KL to general teacher, nats/token", 3, "general", "reverse_kl"),
            Line("forward_kl", "forward KL from general teacher, nats/token", 3, "general", "forward_kl"),
            Line("instructions", "instruction following, pass rate", 3, "instructions", "pass_rate"),
        ]
        for branch, task in self.domains.items():
            if not task.checked:
                lines.append(Line(branch, f"reverse KL to {branch} teacher, nats/token", 3, branch, "reverse_kl"))
                continue
            skill, metric = SKILLS.get(task.source, ("prompts", "pass_rate"))
            lines.append(Line(branch, f"{branch}: {skill}, {metric.replace('_', ' ')}", 3, branch, metric))
            for criterion in task.criteria:
                label = f"{branch}: {skill}, {criterion}, pass rate"
                part = f"{criterion.replace(' ', '_')}_pass_rate"
                lines.append(Line(_part(branch, criterion), label, 3, branch, part))
        return [
            *lines,
            Line("eos_rate", "responses that end by themselves", 2, "general", "eos_rate"),
            Line("length", "response length, tokens (share of the general teacher's)", 1, "general", "response_tokens"),
        ]

    def sample(self, engine: Engine, params: Params, task: Task, temperature: float) -> Rollout:
        return engine.sample(
            params,
            task.encoded,
            jax.random.key(self.seed),
            width=task.width,
            batch=self.batch_size,
            max_new_tokens=task.max_new_tokens,
            temperature=temperature,
        )

    def reference(self, general: Policy) -> tuple[Rollout, np.ndarray]:
        """The general teacher's own responses and log-probabilities, on which the forward KL is taken."""
        params = general.place()
        rollout = self.sample(general.engine, params, self.general, self.temperature)
        return rollout, general.engine.score(params, rollout)

    def run(
        self,
        policy: Policy,
        teachers: Mapping[str, Policy],
        reference: tuple[Rollout, np.ndarray],
        is_general: bool,
    ) -> tuple[dict[str, Measure], dict[str, list[str]]]:
        """All measures of a model, and its greedy answers by task; its weights go before a teacher's come to score.

        Reverse KL: mean over the model's own response tokens of log pi - log pi_general; forward KL: over the
        general teacher's tokens of log pi_general - log pi. Both in nats a token, sampled at the run's
        temperature, as are EOS rate and length. Instruction following and checked answers are greedy; a branch
        whose prompts carry no check is measured by the reverse KL to its own teacher. The general teacher itself
        (`is_general`) has its responses in the reference already.
        """
        engine, params = policy.engine, policy.place()
        teacher_rollout, teacher_own = reference
        rollout, own, under_own = teacher_rollout, teacher_own, teacher_own
        if not is_general:
            rollout = self.sample(engine, params, self.general, self.temperature)
            own = engine.score(params, rollout)
            under_own = engine.score(params, teacher_rollout)
        forward = teacher_own - under_own
        answers = {name: self._greedy(engine, params, task) for name, task in self.checked.items()}
        passed = {name: _passed(answers[name], task) for name, task in self.checked.items()}
        for branch, task in self.domains.items():
            for criterion in task.criteria if task.checked else ():
                passed[_part(branch, criterion)] = _passed(answers[branch], task, criterion)
        sampled = {}
        for branch, task in self.domains.items():
            if not task.checked:
                drawn = self.sample(engine, params, task, self.temperature)
                sampled[branch] = drawn, engine.score(params, drawn)
        del params
        reverse = own - (teacher_own if is_general else _score(teachers["general"], rollout))
        tokens = rollout.response_mask_BT.sum(axis=1)
        kl = {branch: _per_token(own - _score(teachers[branch], r), r) for branch, (r, own) in sampled.items()}
        measures = {
            "reverse_kl": _per_token(reverse, rollout),
            "forward_kl": _per_token(forward, teacher_rollout),
            "eos_rate": mean_of(engine.ended(rollout)),
            "length": mean_of(tokens),
            **passed,
            **kl,
        }
        return measures, answers

    @property
    def checked(self) -> dict[str, Task]:
        """The tasks whose answers can be told right from wrong, by name."""
        return {"instructions": self.instructions, **{n: t for n, t in self.domains.items() if t.checked}}

    def _greedy(self, engine: Engine, params: Params, task: Task) -> list[str]:
        return engine.texts(self.sample(engine, params, task, 0.0))


def _passed(answers: Sequence[str], task: Task, criterion: str | None = None) -> Measure:
    """The share of the answers that pass all checks, or those of a criterion."""
    wanted = [[c for c in p.checks if criterion in (None, c.get("criterion"))] for p in task.prompts]
    return mean_of([checks.passes(a, some) for a, some in zip(answers, wanted, strict=True)])


def _part(branch: str, criterion: str) -> str:
    return f"{branch} {criterion}"  # no branch has a space in its name


def _score(policy: Policy, rollout: Rollout) -> np.ndarray:
    return policy.engine.score(policy.place(), rollout)


def _per_token(x_BT: np.ndarray, rollout: Rollout) -> Measure:
    return Measure(x_BT.sum(axis=1, dtype=np.float64), rollout.response_mask_BT.sum(axis=1).astype(np.float64))


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
