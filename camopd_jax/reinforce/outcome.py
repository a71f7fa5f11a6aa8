"""What a finished reinforcement run leaves to look at: table, differences, plots, the model's answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from camopd_jax import guards, metrics
from camopd_jax.distraction import instance, questions
from camopd_jax.distraction.questions import Question
from camopd_jax.evals import cached
from camopd_jax.reinforce import evaluation
from camopd_jax.reinforce.evaluation import START, TRAINED
from camopd_jax.reinforce.inputs import Inputs

COLORS = {START: "#888888", TRAINED: "#1f6fb4"}


def write(read: Inputs, workdir: Path, found: Mapping[str, cached.Evaluation]) -> None:
    """Print and write what the evaluations found; `found` has START and TRAINED.

    evaluation.json, the last file but the report, says that the run is finished.
    """
    rows = {title: rows_of(read, answers["questions"]) for title, (_, answers) in found.items()}
    measured = {title: measures for title, (measures, _) in found.items()}
    log_rmr = {title: measures["log_rmr"].numerator for title, measures in measured.items()}
    made = _evaluation(read, rows, measured)
    table = "\n".join([evaluation.table(made), "", evaluation.rmr(made), "", *evaluation.words(made)])
    metrics.put(workdir / "summary.md", f"{table}\n")
    print(f"\n{table}\n", flush=True)
    steps, evaluations = (metrics.read_jsonl(workdir / f"{name}.jsonl") for name in ("metrics", "eval"))
    for line in guards.summary_lines(steps):
        print(line, flush=True)
    metrics.write_jsonl(workdir / "answers.jsonl", _kept(read, rows))
    plots = workdir / "plots"
    plots.mkdir(exist_ok=True)
    plot_training(plots / "training.png", steps, evaluations)
    plot_margin(plots / "margin.png", log_rmr)
    for part in ("train", "heldout"):
        metrics.write_jsonl(workdir / f"{part}_prompts.jsonl", prompts_of(getattr(read, part).questions))
    metrics.write_json(workdir / "evaluation.json", evaluation.record(made))


def _evaluation(read: Inputs, rows: Mapping[str, list[dict]], measured: Mapping) -> evaluation.Evaluation:
    asked = read.pairs.asked.questions
    names = [q.instance.id for q in asked]
    models = {
        title: {
            "log_rmr": evaluation.summed(names, measures["log_rmr"].numerator),
            **evaluation.by_instance(rows[title]),
            "instructions": measures["instructions"],
        }
        for title, measures in measured.items()
    }
    sides = (measured[title]["log_rmr"].numerator.tolist() for title in (START, TRAINED))
    return evaluation.Evaluation(models, list(zip([q.id for q in asked], *sides, strict=True)))


def _kept(read: Inputs, rows: Mapping[str, list[dict]]) -> list[dict]:
    """Rows of answers.jsonl: what both models answered to the first held-out questions."""
    kept = read.heldout.questions[: read.config.report.answers]
    return [
        row | {"prompt": q.messages, "distractors": list(q.instance.residues), "gold": _gold(q), "model": title}
        for title, of in rows.items()
        for q, row in zip(kept, of, strict=False)
    ]


def _gold(question: Question) -> str:
    """The right answer: where a distractor is a real instruction, one that follows it."""
    legitimate = question.control.startswith("legitimate")
    return instance.obeying(question.instance, [int(question.control[-1]) - 1] if legitimate else [])


def prompts_of(asked: Sequence[Question]) -> list[dict]:
    """The conversations with distractors, as a path: source of a recovery reads them (configs/robust.py)."""
    return [{"id": q.id, "messages": q.messages} for q in asked if q.control == "distracted"]


def rows_of(read: Inputs, answers: Sequence[str]) -> list[dict]:
    """The rows of answers to all held-out questions."""
    return [questions.judged(q, a) for q, a in zip(read.heldout.questions, answers, strict=True)]


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
