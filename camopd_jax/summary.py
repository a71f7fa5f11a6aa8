"""What a recovery run tells its user: the table, the ratios with their intervals, and the plots."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: a run has no screen

import matplotlib.pyplot as plt

from camopd_jax.evals.suite import Line, Measure, ratio_interval
from camopd_jax.figures import COLORS


def record(models: dict[str, dict[str, Measure]], lines: Sequence[Line], student: str, checked: Sequence[str]) -> dict:
    """evaluation.json: every measure by held-out item, for reports and for comparisons between runs.

    `student` names the branch at whose teacher it starts, `checked` the branches whose answers can be told right.
    """
    return {
        "lines": [dataclasses.asdict(line) for line in lines],
        "models": {
            title: {
                name: {"numerator": m.numerator.tolist(), "denominator": m.denominator.tolist()}
                for name, m in measures.items()
            }
            for title, measures in models.items()
        },
        "student": student,
        "checked": list(checked),
    }


def table(models: dict[str, dict[str, Measure]], lines: Sequence[Line]) -> str:
    """Every measure (± one standard error) of every model, as Markdown; the first is the general teacher."""
    teacher = next(iter(models.values()))
    out = ["| held-out measure | " + " | ".join(models) + " |", "|---|" + "---|" * len(models)]
    for line in lines:
        measures = [m[line.measure] for m in models.values()]
        cells = [f"{m.value():.{line.digits}f} ± {m.stderr():.{line.digits}f}" for m in measures]
        if line.measure == "length":
            shares = [m.value() / teacher["length"].value() for m in measures]
            cells = [f"{cell} ({share:.2f})" for cell, share in zip(cells, shares, strict=True)]
        out.append(f"| {line.label} | " + " | ".join(cells) + " |")
    return "\n".join(out)


def ratios(
    start: dict[str, Measure], general: dict[str, Measure], after: dict[str, dict[str, Measure]], kept: Sequence[str]
) -> dict[str, dict[str, tuple | None]]:
    """For each model of `after`: recovery of reverse KL and of instruction following, and what it kept.

    `kept` names the measures whose retention after / start is wanted.
    """
    return {
        model: {
            "recovery of reverse KL": ratio_interval(m["reverse_kl"], start["reverse_kl"], general["reverse_kl"]),
            "recovery of instruction following": ratio_interval(
                m["instructions"], start["instructions"], general["instructions"]
            ),
            **{f"{name} retention": ratio_interval(m[name], start[name], None) for name in kept},
        }
        for model, m in after.items()
    }


def ratio_table(found: dict[str, dict[str, tuple | None]]) -> str:
    """The ratios with 95 % intervals, as Markdown; 'undefined' where the start is not told from the teacher."""
    names = list(next(iter(found.values())))
    out = ["| ratio [95 % interval] | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for name in names:
        cells = [_cell(found[model][name]) for model in found]
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(out)


def _cell(interval: tuple | None) -> str:
    if interval is None:
        return "undefined"
    return "{:.2f} [{:.2f}, {:.2f}]".format(*interval)


def of_branch(steps: list[dict], branch: str) -> list[dict]:
    """A branch's own figures of each step on it, from the rows of metrics.jsonl."""
    return [{"step": row["step"], **row["branches"][branch]} for row in steps if branch in row["branches"]]


def plot_recovery(path: Path, steps: list[dict], evaluations: list[dict], branches: Sequence[str]) -> None:
    """Sampled reverse KL to each teacher: each training batch, and held-out prompts over the steps."""
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for branch, color in zip(branches, itertools.cycle(COLORS), strict=False):
        mine = of_branch(steps, branch)
        mine = [r for r in mine if "reverse_kl" in r]
        held = [r for r in evaluations if r["task"] == branch and r["metric"] == "short_reverse_kl"]
        axis.plot([r["step"] for r in mine], [r["reverse_kl"] for r in mine], ".", color=color, alpha=0.45,
                  label=f"{branch} teacher, training batches")  # fmt: skip
        axis.errorbar([r["step"] for r in held], [r["value"] for r in held], [r["stderr"] for r in held],
                      color=color, marker="o", capsize=3, label=f"{branch} teacher, held-out prompts")  # fmt: skip
    axis.axhline(0, color="#999999", linewidth=0.8)
    axis.set(xlabel="step", ylabel="reverse KL to the teacher, nats/token", title="Recovery over steps")
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_gaps(path: Path, steps: list[dict], branches: Sequence[str]) -> None:
    """The mean gap of each batch by branch, and the share of the batch that was selected."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 5.4), sharex=True, layout="constrained")
    for branch, color in zip(branches, itertools.cycle(COLORS), strict=False):
        mine = of_branch(steps, branch)
        at = [r["step"] for r in mine]
        top.plot(at, [r["gap_abs"] for r in mine], "o-", color=color, label=f"{branch}: mean |gap|")
        top.plot(at, [r["gap_positive"] for r in mine], "s--", color=color, alpha=0.6,
                 label=f"{branch}: mean positive gap")  # fmt: skip
        bottom.plot(at, [r["selected"] / r["batch"] for r in mine], "o-", color=color, label=branch)
    top.set(ylabel="nats/token", title="Teacher-student log-prob gap")
    top.legend(frameon=False, fontsize=8)
    bottom.set(xlabel="step", ylabel="selected share of the batch", ylim=(0, 1.05))
    bottom.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
