"""What a finished reinforcement run leaves to look at: table, differences, plots, the model's answers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from camopd_jax import guards, metrics
from camopd_jax.distraction import intervals, questions, scoring
from camopd_jax.distraction.intervals import Estimate
from camopd_jax.distraction.questions import Question
from camopd_jax.evals.cached import Evaluation
from camopd_jax.evals.suite import Measure
from camopd_jax.reinforce.inputs import Inputs

RESAMPLES, SEED = 2000, 0  # of the intervals
SHOWN = ("passed", "task", "resisted", "form", "clean", "legitimate")  # of scoring.MEASURES
HEADLINE = {"log_rmr": "the margin, log RMR", "passed": "conjunctive pass", "clean": "clean accuracy",
            "instructions": "instruction following"}  # fmt: skip
COLORS = {"start": "#888888", "trained": "#1f6fb4"}


def write(read: Inputs, workdir: Path, found: Mapping[str, Evaluation]) -> None:
    """Print and write what the evaluations found; `found` has "start" and "trained".

    evaluation.json, the last file, says that the run is finished.
    """
    rows = {title: rows_of(read, answers["questions"]) for title, (_, answers) in found.items()}
    log_rmr = {title: measures["log_rmr"].numerator for title, (measures, _) in found.items()}
    told = {title: measures["instructions"].numerator for title, (measures, _) in found.items()}
    names = [q.instance.id for q in read.pairs.asked.questions]
    table = _table(_figures(rows, log_rmr, told, names), _differences(rows, log_rmr, told, names))
    metrics.put(workdir / "summary.md", f"{table}\n")
    print(f"\n{table}\n", flush=True)
    steps, evaluations = (metrics.read_jsonl(workdir / f"{name}.jsonl") for name in ("metrics", "eval"))
    for line in guards.summary_lines(steps):
        print(line, flush=True)
    kept = read.config.report.answers
    metrics.write_jsonl(
        workdir / "answers.jsonl",
        [row | {"model": title} for title, of in rows.items() for row in (of[:kept] if kept else [])],
    )
    plots = workdir / "plots"
    plots.mkdir(exist_ok=True)
    plot_training(plots / "training.png", steps, evaluations)
    plot_margin(plots / "margin.png", log_rmr)
    for part in ("train", "heldout"):
        metrics.write_jsonl(workdir / f"{part}_prompts.jsonl", prompts_of(getattr(read, part).questions))
    record = {title: _by_instance(rows[title], log_rmr[title], told[title], names) for title in found}
    metrics.write_json(workdir / "evaluation.json", {"models": record})


def prompts_of(asked: Sequence[Question]) -> list[dict]:
    """The conversations with distractors, as a path: source of a recovery reads them (configs/robust.py)."""
    return [{"id": q.id, "messages": q.messages} for q in asked if q.control == "distracted"]


def rows_of(read: Inputs, answers: Sequence[str]) -> list[dict]:
    """The rows of answers to all held-out questions."""
    return [questions.judged(q, a) for q, a in zip(read.heldout.questions, answers, strict=True)]


def _figures(rows: Mapping, log_rmr: Mapping, told: Mapping, names: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """{title: {measure: estimate}}."""
    return {
        title: {
            "log_rmr": _mean(log_rmr[title], names),
            **scoring.figures(rows[title], RESAMPLES, SEED),
            "instructions": _mean(told[title], range(len(told[title]))),
        }
        for title in rows
    }


def _differences(rows: Mapping, log_rmr: Mapping, told: Mapping, names: Sequence[str]) -> dict[str, Estimate]:
    """Trained less start, paired by instance."""
    return {
        "log_rmr": _mean(log_rmr["trained"] - log_rmr["start"], names),
        **scoring.difference(rows["trained"], rows["start"], RESAMPLES, SEED),
        "instructions": _mean(told["trained"] - told["start"], range(len(told["start"]))),
    }


def _mean(x_M: np.ndarray, together_M: Sequence) -> Estimate:
    return intervals.mean(x_M, together_M, RESAMPLES, SEED)


def _table(figures: Mapping[str, Mapping[str, Estimate]], differences: Mapping[str, Estimate]) -> str:
    """Every measure of both models and their difference with 95 % intervals, as Markdown, and the headline."""
    labels = {"log_rmr": "margin: mean log RMR, nats/token", **scoring.MEASURES,
              "instructions": "instruction following, pass rate"}  # fmt: skip
    lines = ["| held-out measure [95 % interval] | start | trained | trained - start |", "|---|---|---|---|"]
    for name in ("log_rmr", *SHOWN, "instructions"):
        if name in differences:
            cells = [_cell(figures[title][name]) for title in ("start", "trained")]
            lines.append(f"| {labels[name]} | {' | '.join(cells)} | {_cell(differences[name], '+')} |")
    start, trained = (math.exp(figures[title]["log_rmr"].value) for title in ("start", "trained"))
    lines += ["", f"RMR, geometric mean: {start:.3f} before, {trained:.3f} after.", ""]
    return "\n".join([*lines, *(_words(label, differences[name]) for name, label in HEADLINE.items())])


def _cell(x: Estimate, sign: str = "") -> str:
    return f"{x.value:{sign}.3f} [{x.low:{sign}.3f}, {x.high:{sign}.3f}]"


def _words(label: str, x: Estimate) -> str:
    if x.low <= 0 <= x.high:
        return f"- {label}: not told apart from the start ({_cell(x, '+')})"
    return f"- {label}: {'rose' if x.value > 0 else 'fell'} by {_cell(Estimate(*map(abs, (x.value, x.low, x.high))))}"


def _by_instance(rows: Sequence[Mapping], log_rmr: np.ndarray, told: np.ndarray, names: Sequence[str]) -> dict:
    """{measure: numerator and denominator by item}, for comparisons between runs."""
    found = {"log_rmr": _summed(names, log_rmr), "instructions": Measure(told, np.ones_like(told))}
    for measure, control in (("passed", "distracted"), ("clean", "clean")):
        some = [row for row in rows if row["control"] == control]
        found[measure] = _summed([row["instance"] for row in some], np.array([float(row["passed"]) for row in some]))
    return {n: {"numerator": m.numerator.tolist(), "denominator": m.denominator.tolist()} for n, m in found.items()}


def _summed(names: Sequence[str], x_M: np.ndarray) -> Measure:
    place_M = intervals.places(names)
    return Measure(np.bincount(place_M, weights=x_M), np.bincount(place_M).astype(np.float64))


def plot_training(path: Path, steps: Sequence[Mapping], evaluations: Sequence[Mapping]) -> None:
    """Reward and pass of the training batches, and the held-out margin, over the steps."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    reward, passed = ([row[name] for row in steps] for name in ("reward", "passed"))
    one = np.allclose(reward, passed)  # a conjunctive reward: the lines would hide each other
    left.plot([row["step"] for row in steps], passed, ".-", color="#1f6fb4", label="passed" + " = reward" * one)
    if not one:
        left.plot([row["step"] for row in steps], reward, ".-", color="#d1701f", label="reward")
    left.set(xlabel="step", title="training answers: mean")
    left.legend(frameon=False)
    for metric, color in (("short_log_rmr", "#3a8a4d"), ("short_pass_rate", "#1f6fb4")):
        some = [row for row in evaluations if row["metric"] == metric]
        right.errorbar(
            [row["step"] for row in some], [row["value"] for row in some], [row["stderr"] for row in some],
            fmt="o-", markersize=4, capsize=2, color=color, label=metric.removeprefix("short_"),
        )  # fmt: skip
    right.set(xlabel="step", title="held-out questions; bars: one standard error")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(color="#eeeeee")
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=130)


def plot_margin(path: Path, log_rmr: Mapping[str, np.ndarray]) -> None:
    """The margin of each held-out question before and after, and its distributions."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    start, trained = log_rmr["start"], log_rmr["trained"]
    low, high = min(start.min(), trained.min()), max(start.max(), trained.max())
    left.plot([low, high], [low, high], color="#bbbbbb", linewidth=1)
    left.plot(start, trained, ".", color=COLORS["trained"], alpha=0.6)
    left.set(xlabel="log RMR, start", ylabel="log RMR, trained", title="a dot a question; above the line: more robust")
    edges = np.linspace(low, high, 30)
    for title, values in log_rmr.items():
        right.hist(values, edges, histtype="stepfilled", alpha=0.45, color=COLORS[title], label=title)
    right.axvline(0, color="#444444", linewidth=1)
    right.set(xlabel="log RMR, nats a token", ylabel="questions", title="above 0 the robust answer is preferred")
    right.legend(frameon=False)
    figure.savefig(path, dpi=130)
