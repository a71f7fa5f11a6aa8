"""evaluation.json of a reinforcement run: every measure of both models by held-out item, and what they say of it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camopd_jax import verdict
from camopd_jax.distraction import intervals, scoring
from camopd_jax.distraction.intervals import Estimate
from camopd_jax.evals.suite import Measure

START, TRAINED = "start", "trained"
RESAMPLES, SEED = 2000, 0  # of the intervals
SHOWN = ("passed", "task", "resisted", "form", "clean", "legitimate")  # of scoring.MEASURES
LABELS = {"log_rmr": "margin: mean log RMR, nats/token", **{name: scoring.MEASURES[name] for name in SHOWN},
          "instructions": "instruction following, pass rate"}  # fmt: skip
HEADLINE = {"log_rmr": "the margin (log RMR)", "passed": "conjunctive pass", "clean": "clean accuracy",
            "instructions": "instruction following"}  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """The measures of START and TRAINED, those of `LABELS` that the held-out questions tell anything of.

    A measure's items are the instances in the order of their names, those of "instructions" its prompts.
    """

    models: dict[str, dict[str, Measure]]
    margins: list[tuple[str, float, float]]  # a question with distractors: its id, log RMR of START and of TRAINED

    def figures(self) -> dict[str, dict[str, Estimate]]:
        """{title: {measure: estimate}}."""
        return {title: _estimates([measures]) for title, measures in self.models.items()}

    def differences(self) -> dict[str, Estimate]:
        """TRAINED less START, paired by item."""
        return _estimates([self.models[TRAINED], self.models[START]])


def by_instance(rows: Sequence[Mapping]) -> dict[str, Measure]:
    """Those of `SHOWN` that rows of `questions.judged` tell anything of."""
    found = scoring.sums(rows)
    names = sorted({row["instance"] for row in rows})
    zero = np.zeros(2)
    return {
        measure: Measure(*np.array([found[measure].get(name, zero) for name in names], np.float64).T)
        for measure in SHOWN
        if measure in found
    }


def summed(names: Sequence[str], x_M: np.ndarray) -> Measure:
    """Sum and count of what equal names have, in the order of the names."""
    place_M = intervals.places(names)
    return Measure(np.bincount(place_M, weights=x_M), np.bincount(place_M).astype(np.float64))


def _estimates(sides: Sequence[Mapping[str, Measure]]) -> dict[str, Estimate]:
    """Of one model its figures, of two the first's less the second's, in the order of `LABELS`."""
    asked = [
        {
            name: {f"{i:09d}": x_2 for i, x_2 in enumerate(np.stack([m.numerator, m.denominator], axis=1))}
            for name, m in side.items()
            if name in SHOWN
        }
        for side in sides
    ]
    found = scoring.estimates(asked, RESAMPLES, SEED)
    found |= {name: _ratio([side[name] for side in sides]) for name in LABELS if name not in SHOWN}
    return {name: found[name] for name in LABELS if name in found}


def _ratio(sides: Sequence[Measure]) -> Estimate:
    def value(at: np.ndarray) -> np.ndarray:
        first, *other = (m.numerator[at].sum(axis=-1) / m.denominator[at].sum(axis=-1) for m in sides)
        return first - other[0] if other else first

    return intervals.estimate(value, len(sides[0].numerator), RESAMPLES, SEED)


def record(found: Evaluation) -> dict:
    """evaluation.json as JSON has it."""
    models = {
        title: {
            name: {"numerator": m.numerator.tolist(), "denominator": m.denominator.tolist()}
            for name, m in measures.items()
        }
        for title, measures in found.models.items()
    }
    return {"models": models, "margins": [list(margin) for margin in found.margins]}


def read(path: Path) -> Evaluation:
    """evaluation.json.

    Raises:
      ValueError: if it is not what a finished run writes.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        models = {
            title: {name: Measure(*(np.asarray(m[k], np.float64) for k in ("numerator", "denominator")))
                    for name, m in found["models"][title].items()}
            for title in (START, TRAINED)
        }  # fmt: skip
        margins = [(name, float(start), float(trained)) for name, start, trained in found["margins"]]
        for measures in models.values():
            measures["log_rmr"], measures["passed"], measures["clean"], measures["instructions"]
        return Evaluation(models, margins)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is not what a finished run of this version writes ({error!r}); run it again"
        ) from None


def table(found: Evaluation) -> str:
    """Every measure of both models and their difference with 95 % intervals, as Markdown."""
    figures, differences = found.figures(), found.differences()
    lines = ["| held-out measure [95 % interval] | start | trained | trained - start |", "|---|---|---|---|"]
    for name in differences:
        both = [cell(figures[title][name]) for title in (START, TRAINED)]
        lines.append(f"| {LABELS[name]} | {' | '.join(both)} | {cell(differences[name], '+')} |")
    return "\n".join(lines)


def cell(x: Estimate, sign: str = "") -> str:
    """A figure with its interval."""
    return f"{x.value:{sign}.3f} [{x.low:{sign}.3f}, {x.high:{sign}.3f}]"


def rmr(found: Evaluation) -> str:
    """RMR of both models, in words."""
    start, trained = (math.exp(found.models[title]["log_rmr"].value()) for title in (START, TRAINED))
    return f"RMR, geometric mean: {start:.3f} before, {trained:.3f} after."


def words(found: Evaluation) -> list[str]:
    """A line for each measure of the headline."""
    differences = found.differences()
    return [_line(label, differences[name]) for name, label in HEADLINE.items()]


def _line(label: str, x: Estimate) -> str:
    if not direction(x):
        return f"- {label}: not told apart from the start ({cell(x, '+')})"
    return f"- {label}: {'rose' if x.value > 0 else 'fell'} by {cell(Estimate(*map(abs, (x.value, x.low, x.high))))}"


def direction(x: Estimate) -> int:
    """1 or -1: a difference is told apart from 0 and above or below it; 0: it is not."""
    return verdict.told((x.value, x.low, x.high), 0.0)
