"""ProBias, its ablations and controls over seeds: what bin/experiment.py runs for a config of ICD coding, and tells."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camopd_jax import comparison, figures, metrics
from camopd_jax.comparison import Difference
from camopd_jax.experiment import grid
from camopd_jax.experiment.grid import Cell, Grid
from camopd_jax.figures import Point

CELLS: dict[str, dict[str, Any]] = {
    "probias": {},
    "no_bias": {"graph.bias": "none"},
    "no_graph": {"graph.direction": "none"},
    "shuffled": {"graph.shuffle": True},
    "undirected": {"graph.direction": "undirected"},
    "continuous": {"graph.bias": "continuous"},
    "gated": {"graph.gate": True},
    "adjusted": {"loss.adjustment": 0.5},
    "plm_icd": {"graph.direction": "none", "labels.queries": "learned"},
    "probias_strength0": {"synthetic.strength": 0.0},
    "no_graph_strength0": {"synthetic.strength": 0.0, "graph.direction": "none"},
}
CORPUS = ("synthetic.", "data.", "protocol.")  # begin the keys that change what the notes are
FIGURES = {  # of evaluation.json
    "rare micro-F1": ("buckets", "1-10", "micro_f1"),
    "rare macro-F1 (c)": ("buckets", "1-10", "macro_f1_present"),
    "rare macro-AUC": ("buckets", "1-10", "macro_auc"),
    "micro-F1": ("figures", "micro_f1"),
    "macro-F1 (a)": ("figures", "macro_f1_caml"),
    "macro-F1 (c)": ("figures", "macro_f1_present"),
    "MAP": ("figures", "map"),
    "precision at 8": ("figures", "precision_at_8"),
}
HEADLINE = "rare micro-F1"
ALSO = (("shuffled", "no_graph"),)  # whether the edges of other codes are better than none


def cells(names: Sequence[str]) -> tuple[Cell, ...]:
    """A cell for each of some names.

    Raises:
      ValueError: for a name that is unknown or stands twice.
    """
    for name in names:
        if name not in CELLS:
            raise ValueError(f"--methods: there is no {name!r} for ICD coding; allowed are {', '.join(CELLS)}")
    if len(set(names)) < len(names) or not names:
        raise ValueError("--methods: allowed are one or more names, each once")
    return tuple(Cell(name, "method", CELLS[name]) for name in names)


@dataclass(frozen=True)
class Results:
    """Figures of the finished runs."""

    grid: Grid
    value: dict[str, dict[int, dict[str, float]]]  # by cell, seed and figure

    def of(self, cell: str, figure: str) -> np.ndarray:
        """[S] of the seeds of a cell, in their order."""
        return np.array([self.value[cell][seed][figure] for seed in sorted(self.value[cell])])


def read(out: Path) -> Results:
    """The finished runs of an experiment.

    Raises:
      ValueError: if none is finished, or one has an evaluation that cannot be read.
    """
    found, value = grid.read(out), {}
    for cell, seed in found.runs():
        path = grid.workdir(out, cell, seed) / grid.FINISHED
        if path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                value.setdefault(cell.name, {})[seed] = {name: _at(record, where) for name, where in FIGURES.items()}
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is no evaluation of an ICD coding run ({error})") from None
    if not value:
        raise ValueError(f"--out={out}: no run of it is finished yet")
    return Results(found, value)


def _at(record: dict, where: Sequence[str]) -> float:
    for key in where:
        record = record[key]
    return float("nan") if record is None else float(record)


def pairs(results: Results) -> list[tuple[str, str]]:
    """What is compared: each cell with the first finished one of the same notes, and `ALSO`."""
    first: dict[tuple, str] = {}
    found = []
    for cell in results.grid.cells:
        if cell.name in results.value:
            notes = tuple(sorted((k, str(v)) for k, v in cell.overrides.items() if k.startswith(CORPUS)))
            reference = first.setdefault(notes, cell.name)
            if reference != cell.name:
                found.append((reference, cell.name))
    return found + [pair for pair in ALSO if pair not in found and set(pair) <= results.value.keys()]


def difference(results: Results, reference: str, cell: str, figure: str) -> Difference | None:
    """reference - cell over the seeds that both have, by the paired t; None where they are fewer than two."""
    seeds = sorted(results.value[reference].keys() & results.value[cell].keys())
    a, b = (np.array([results.value[name][seed][figure] for seed in seeds]) for name in (reference, cell))
    return comparison.paired_t(a, b)


def write(out: Path, docs: Path | None) -> None:
    """Write results.md, results.json and a figure into an experiment's directory, and its text to a page.

    Raises:
      ValueError: as `read`.
    """
    results = read(out)
    metrics.put(out / "results.md", page(results, out, "figures"))
    metrics.write_json(out / "results.json", {"value": results.value}, indent=2)
    draw(results, out / "figures" / "cells.png")
    print(f"{out / 'results.md'}, {out / 'results.json'} and {out / 'figures'} are written")
    if docs is not None:
        home = docs.with_suffix("")
        metrics.put(docs, page(results, out, home.name))
        draw(results, home / "cells.png")
        print(f"{docs} and {home} are written")


def page(results: Results, out: Path, folder: str) -> str:
    """The whole text of results.md; `folder` has the figure."""
    base, commands, total = results.grid.base, grid.commands(results.grid, out), len(results.grid.runs())
    lines = [
        f"# ICD coding: {len(results.value)} cells, preset {base['preset']}, {base['data']['source']}", "",
        "Mean over seeds on test [95 % t-interval]; a seed draws its own notes where these are made. Rare: at most 10",
        "training notes. Made by", "", *(f"    {command}" for command in commands), "",
        f"{sum(map(len, results.value.values()))} of {total} runs are finished.", "",
        "| cell (seeds) | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|",
    ]  # fmt: skip
    for name, seeds in results.value.items():
        values = " | ".join(_mean(results.of(name, figure)) for figure in FIGURES)
        lines.append(f"| {name} ({len(seeds)}) | {values} |")
    compared = pairs(results)
    if compared:
        lines += [
            "", "Differences by seed, with the paired t-test's 95 % interval:", "",
            "| | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|",
        ]  # fmt: skip
        for reference, name in compared:
            found = [_signed(difference(results, reference, name, figure)) for figure in FIGURES]
            lines.append(f"| {reference} - {name} | {' | '.join(found)} |")
        lines += ["", *(_words(results, reference, name) for reference, name in compared)]
    what = "Rare micro-F1, macro-F1 (c) and micro-F1 of each cell, with intervals over seeds"
    return "\n".join([*lines, "", f"![{what}]({folder}/cells.png)", ""])


def _words(results: Results, reference: str, name: str) -> str:
    x = difference(results, reference, name, HEADLINE)
    if x is None:
        return f"- {reference} and {name}: one seed tells no interval"
    said = "above" if x.low > 0 else "below" if x.high < 0 else "not told apart from"
    return f"- {reference} is {said} {name} in {HEADLINE}: {_signed(x)}"


def _mean(value_S: np.ndarray) -> str:
    interval = comparison.t_interval(value_S)
    return f"{np.mean(value_S):.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _signed(x: Difference | None) -> str:
    return "-" if x is None else f"{x.value:+.3f} [{x.low:+.3f}, {x.high:+.3f}]"


def draw(results: Results, path: Path) -> None:
    """Rare micro-F1, macro-F1 and micro-F1 of each cell with their intervals over seeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figures.dots(path, {
        figure: {
            name: Point(float(np.mean(results.of(name, figure))), comparison.t_interval(results.of(name, figure)))
            for name in results.value
        }
        for figure in (HEADLINE, "macro-F1 (c)", "micro-F1")
    })  # fmt: skip
