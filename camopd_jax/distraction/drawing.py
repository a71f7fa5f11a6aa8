"""Drawings of an evaluation: what passes with and without distractors, and what is resisted by family and place."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

COLORS = {"clean": "#888888", "passed": "#1f6fb4", "legitimate": "#3a8a4d", "resisted": "#d1701f", "obeyed": "#8a4fa3"}
LABELS = {
    "clean": "passes without distractors",
    "passed": "passes with them: all five criteria",
    "legitimate": "task done and request obeyed, where it is a real instruction",
    "resisted": "distractor resisted",
    "obeyed": "request obeyed, where it is a real instruction",
}


def draw(out: Path, results: Mapping) -> None:
    """plots/passed.png and plots/resisted.png."""
    (out / "plots").mkdir(exist_ok=True)
    figures, model = results["figures"], results["setting"]["model"]
    title = f"{model}, {results['setting']['instances']}, {results['instances']} instances; bars: 95 % intervals"
    _dots(
        out / "plots" / "passed.png", title, figures, ("all", "paradigm", "category"), ("clean", "passed", "legitimate")
    )
    _dots(out / "plots" / "resisted.png", title, figures, ("family", "place"), ("resisted", "obeyed"))


def _dots(path: Path, title: str, figures: Mapping, groups: Sequence[str], measures: Sequence[str]) -> None:
    """A row a value of each group, from the top; a dot and its interval for each measure."""
    rows, tops = [], []
    for what in groups:
        if rows:
            rows.append(None)
        tops.append((len(rows), what))
        rows += figures[what].items()
    shown = [m for m in measures if any(row and m in row[1] for row in rows)]
    figure = Figure(figsize=(8, 1.6 + 0.34 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, measure in enumerate(shown):
        found = [(y, row[1][measure]) for y, row in enumerate(rows) if row and measure in row[1]]
        values = [e["value"] for _, e in found]
        arms = [[e["value"] - e["low"] for _, e in found], [e["high"] - e["value"] for _, e in found]]
        at = [y + 0.2 * (place - (len(shown) - 1) / 2) for y, _ in found]
        axes.errorbar(
            values, at, xerr=[[max(a, 0.0) for a in arm] for arm in arms], fmt="o", markersize=5, capsize=2,
            linewidth=1.2, color=COLORS[measure], label=LABELS[measure],
        )  # fmt: skip
    names = [(y, row[0]) for y, row in enumerate(rows) if row]
    axes.set(yticks=[y for y, _ in names], yticklabels=[name for _, name in names], xlim=(-0.03, 1.03), xlabel="share")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=9, parse_math=False)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
