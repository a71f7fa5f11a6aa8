"""The finished runs of an experiment, read back, and each measure of each model as a number."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camopd_jax import comparison, metrics, workdirs
from camopd_jax.comparison import Scores
from camopd_jax.evals.suite import Line, Measure, ratio_interval
from camopd_jax.experiment import grid as grids
from camopd_jax.experiment import runner
from camopd_jax.experiment.grid import Grid

RECOVERED = "recovered"
RESAMPLES = 2000  # of the items of one model, as in a run's own summary


@dataclass(frozen=True)
class Run:
    """What one run left behind."""

    record: dict  # config.json
    models: dict[str, dict[str, Measure]]  # of its evaluation.json, by title
    steps: list[dict]  # metrics.jsonl
    evaluations: list[dict]  # eval.jsonl
    diagnostics: list[dict]  # diagnostics.jsonl; empty where it was switched off
    minutes: float | None


@dataclass(frozen=True)
class Results:
    """All finished runs of a grid."""

    grid: Grid
    out: Path
    lines: tuple[Line, ...]  # the measures
    student: str  # branch whose teacher is the student's start
    checked: tuple[str, ...]  # branches whose answers are told right from wrong
    runs: dict[str, dict[int, Run]]  # by cell and seed

    @property
    def models(self) -> dict[str, dict[str, Measure]]:
        """The models of the first run: those that did not train are the same in all."""
        return next(iter(next(iter(self.runs.values())).values())).models

    @property
    def general(self) -> str:
        """Title of the general teacher."""
        return next(title for title in self.models if title.startswith("general teacher"))

    @property
    def start(self) -> str:
        return f"{self.student} teacher = start"

    @property
    def references(self) -> list[str]:
        """The models that did not train here: the teachers, and the averages of their weights."""
        return [title for title in self.models if title != RECOVERED]

    @property
    def missing(self) -> list[str]:
        """The runs of the grid that are not finished."""
        return [f"{c.name}, seed {s}" for c, s in self.grid.runs() if s not in self.runs.get(c.name, {})]

    def line(self, measure: str) -> Line:
        return next(line for line in self.lines if line.measure == measure)

    def scores(self, name: str, seeds: list[int], measure: str) -> Scores:
        """A measure of a cell over seeds, or of a reference, which is the same for all."""
        if name in self.runs:
            found = [self.runs[name][seed].models[RECOVERED][measure] for seed in seeds]
        else:
            found = [self.models[name][measure]] * len(seeds)
        return Scores(np.stack([m.numerator for m in found]), np.stack([m.denominator for m in found]))


@dataclass(frozen=True)
class Column:
    """A figure of the table."""

    label: str
    digits: int
    measure: str
    kind: str  # "value", "recovery", "retention", or "share" of the general teacher's


def read(out: Path) -> Results:
    """Read what is finished.

    Raises:
      ValueError: if nothing is, or a file of a run is damaged.
    """
    grid = grids.read(out)
    runs, evaluation = {}, None
    for cell, seed in sorted(grid.runs(), key=lambda run: grid.cells.index(run[0])):
        if grids.finished(out, cell, seed):
            workdir = grids.workdir(out, cell, seed)
            path = workdir / grids.FINISHED
            try:
                evaluation = json.loads(path.read_text(encoding="utf-8"))
                models = {t: {m: _measure(x) for m, x in found.items()} for t, found in evaluation["models"].items()}
                lines = tuple(Line(**line) for line in evaluation["lines"])
                student, checked = evaluation["student"], tuple(evaluation["checked"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path} is no evaluation of a run ({error}); delete it and start again") from None
            rows = [metrics.read_jsonl(workdir / f"{name}.jsonl") for name in ("metrics", "eval", "diagnostics")]
            record, took = workdirs.read_record(workdir), runner.minutes(out, cell, seed)
            runs.setdefault(cell.name, {})[seed] = Run(record, models, *rows, took)
    if evaluation is None:
        raise ValueError(f"--out={out}: none of its {len(grid.runs())} runs is finished; start it without --report")
    return Results(grid, out, lines, student, checked, runs)


def columns(results: Results) -> list[Column]:
    """What the table shows of a model."""
    out = []
    for line in results.lines:
        if line.measure == "length":
            out.append(Column("length / general teacher's", 2, "length", "share"))
            continue
        out.append(Column(short(line), line.digits, line.measure, "value"))
        if line.measure in ("reverse_kl", "instructions"):
            out.append(Column(f"recovery of {_noun(line)}", 2, line.measure, "recovery"))
        elif line.measure in results.checked:
            out.append(Column(f"{line.measure} retention", 2, line.measure, "retention"))
    return out


def short(line: Line) -> str:
    """A measure's name in a table's head and in a sentence."""
    names = {"reverse_kl": "reverse KL", "forward_kl": "forward KL", "instructions": "instruction pass rate"}
    names |= {"eos_rate": "EOS rate", "length": "response length"}
    return names.get(line.measure, f"{line.task} {line.metric.replace('_', ' ').replace(' kl', ' KL')}")


def _noun(line: Line) -> str:
    return {"instructions": "instructions"}.get(line.measure, short(line))


def higher_is_better(line: Line) -> bool | None:
    """None where neither is: ending by itself, and length."""
    return {"pass_rate": True, "exact_match": True, "reverse_kl": False, "forward_kl": False}.get(line.metric)


def figure(results: Results, models: dict[str, dict[str, Measure]], title: str, column: Column) -> tuple | None:
    """A column of one model: value and 95 % bootstrap interval over items; None where it is undefined."""
    measure, general = models[title][column.measure], models[results.general][column.measure]
    start = models[results.start][column.measure]
    if column.kind == "recovery":
        return ratio_interval(measure, start, general, RESAMPLES)
    if column.kind != "value":
        return ratio_interval(measure, general if column.kind == "share" else start, None, RESAMPLES)
    n = len(measure.numerator)
    value_R = measure.resampled(np.random.default_rng(0).integers(n, size=(RESAMPLES, n)))
    return (measure.value(), *(float(q) for q in np.quantile(value_R, [0.025, 0.975])))


def by_seed(results: Results, cell: str, column: Column) -> dict[int, float] | None:
    """A column of a cell for each seed; None where it is undefined for one of them."""
    found = {seed: figure(results, run.models, RECOVERED, column) for seed, run in results.runs[cell].items()}
    return None if None in found.values() else {seed: value for seed, (value, *_) in found.items()}


def costs(run: Run) -> dict[str, float | None]:
    """What a run took."""
    selecting = [row for row in run.steps if "selected" in row]
    share = sum(row["selected"] for row in selecting) / sum(row["batch"] for row in selecting) if selecting else None
    return {
        "selected share": share,
        "trained tokens": sum(row.get("trained_tokens", 0) for row in run.steps),
        "seconds of update": float(np.mean([row["seconds_update"] for row in run.steps])) if run.steps else None,
        "seconds a step": float(np.mean([row["seconds"] for row in run.steps])) if run.steps else None,
        "minutes": run.minutes,
    }


def mean(values: dict[int, float]) -> tuple[float, tuple[float, float] | None]:
    """Mean over seeds and its t-interval."""
    value_S = np.array(list(values.values()))
    return float(np.mean(value_S)), comparison.t_interval(value_S)


def _measure(x: dict) -> Measure:
    return Measure(np.array(x["numerator"], np.float64), np.array(x["denominator"], np.float64))
