"""Drawings of the likelihood margin: every instance of a model, and models by their size."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

COLORS = {"single": "#1f6fb4", "multi": "#d1701f", "system": "#3a8a4d"}


def of_model(path: Path, title: str, rows: Sequence[Mapping]) -> None:
    """log PPL of the gold against that of the distracted answer, and how log RMR is spread, by paradigm."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    scatter, spread = figure.subplots(1, 2)
    names = [name for name in COLORS if any(row["paradigm"] == name for row in rows)]
    log_rmr = np.array([row["log_rmr"] for row in rows])
    bins = np.linspace(log_rmr.min() - 1e-6, log_rmr.max() + 1e-6, 31)
    below = np.zeros(30)
    for name in names:
        some = [row for row in rows if row["paradigm"] == name]
        gold, bad = ([row[key] for row in some] for key in ("gold_log_ppl", "bad_log_ppl"))
        scatter.scatter(gold, bad, s=12, alpha=0.6, linewidths=0, color=COLORS[name], label=name)
        count = np.histogram([row["log_rmr"] for row in some], bins)[0]
        spread.bar(bins[:-1], count, np.diff(bins), bottom=below, align="edge", color=COLORS[name])
        below = below + count
    most = max(max(row["gold_log_ppl"], row["bad_log_ppl"]) for row in rows) * 1.05
    scatter.plot([0, most], [0, most], color="#888888", linewidth=1)
    scatter.set(xlim=(0, most), ylim=(0, most), xlabel="log PPL of the gold answer, nats a token")
    scatter.set_ylabel("log PPL of the distracted answer")
    scatter.set_title("above the line the gold answer is preferred", fontsize=9)
    scatter.set_aspect("equal")
    spread.axvline(0, color="#888888", linewidth=1)
    spread.axvline(log_rmr.mean(), color="black", linestyle="--", linewidth=1)
    spread.set(xlabel="log RMR, nats a token", ylabel="answers")
    spread.set_title(f"mean {log_rmr.mean():.3f}: RMR {np.exp(log_rmr.mean()):.3f} (dashed)", fontsize=9)
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def of_models(path: Path, results: Sequence[Mapping]) -> bool:
    """RMR against parameters, with intervals; False, and no file, where there is one model only."""
    if len(results) < 2:
        return False
    counts = [result["parameters"] for result in results]
    by_size = len(set(counts)) > 1
    at = counts if by_size else list(range(len(results)))
    estimates = [result["margin"]["all"]["log_rmr"] for result in results]
    value, low, high = (np.exp([e[key] for e in estimates]) for key in ("value", "low", "high"))
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.errorbar(at, value, yerr=[value - low, high - value], fmt="o", capsize=3, color=COLORS["single"])
    axes.axhline(1, color="#888888", linewidth=1)
    axes.set_ylabel("RMR, geometric mean")
    axes.set_title("above 1 the gold answer is preferred; bars: 95 % intervals", fontsize=9)
    names = [result["model"] for result in results]
    if by_size:
        axes.set(xscale="log", xlabel="parameters")
        for x, y, name in zip(at, value, names, strict=True):
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(6, 5), fontsize=7, parse_math=False)
        axes.margins(x=0.2)
    else:
        axes.set_xticks(at, names, rotation=20, ha="right", fontsize=8, parse_math=False)
        axes.margins(x=0.3)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=130)
    return True
