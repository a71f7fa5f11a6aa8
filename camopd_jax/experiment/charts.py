"""The figures of an experiment: which data each one shows, and why one is left out."""

from dataclasses import dataclass
from pathlib import Path

from camopd_jax import figures
from camopd_jax.experiment.grid import Cell
from camopd_jax.experiment.results import RECOVERED, Column, Results, by_seed, columns, figure, mean
from camopd_jax.figures import Panel, Plane, Point


@dataclass(frozen=True)
class Chart:
    """A figure of the report, or why it is not there."""

    title: str
    file: str
    caption: str
    missing: str = ""


def draw(results: Results, folder: Path) -> list[Chart]:
    """Draw what there are data for, for the methods and for the sweep apart."""
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for kind in dict.fromkeys(cell.kind for cell in results.grid.cells):
        cells = [cell for cell in results.grid.cells if cell.kind == kind and cell.name in results.runs]
        if cells:
            drawn = [_trade_off, *([_dots] if kind == "sweep" else []), _held_out, _counteraction, _coherence]
            out += [chart(results, cells, folder, "sweep-" if kind == "sweep" else "") for chart in drawn]
    for chart in out:
        if chart.missing:
            (folder / chart.file).unlink(missing_ok=True)  # of an earlier report
    return out


def _trade_off(results: Results, cells: list[Cell], folder: Path, prefix: str) -> Chart:
    title, file = "Recovery against retention", f"{prefix}tradeoff.png"
    found = columns(results)
    kept = [column for column in found if column.kind == "retention"]
    recoveries = [column for column in found if column.kind == "recovery"]
    planes = [_plane(results, cells, x, y) for y in recoveries for x in kept]
    planes = [plane for plane in planes if plane]
    if not planes:
        return Chart(title, file, "", "no recovery and retention that are defined for a cell and for both teachers")
    figures.trade_off(folder / file, planes)
    caption = (
        f"A point a cell: {_intervals(results)} The grey line joins the general teacher, the averages of the two "
        "teachers' weights (named by the general teacher's share) and the start: what costs no training. An interval "
        "that meets the edge goes on beyond it."
    )
    return Chart(title, file, caption)


def _plane(results: Results, cells: list[Cell], x: Column, y: Column) -> Plane | None:
    points, joined = {}, {}
    for cell in cells:
        pair = _point(results, cell.name, x), _point(results, cell.name, y)
        if None not in pair:
            points[cell.name] = pair
    for name, title in _free(results).items():
        pair = [figure(results, results.models, title, column) for column in (x, y)]
        if None not in pair:
            joined[name] = pair[0][0], pair[1][0]
    if not points or len(joined) < 2:
        return None
    return Plane(f"{x.label} (start: 1)", f"{y.label} (general teacher: 1)", points, joined)


def _dots(results: Results, cells: list[Cell], folder: Path, prefix: str) -> Chart:
    title, file = "The cells of the sweep", f"{prefix}cells.png"
    panels = {}
    for column in columns(results):
        if column.kind in ("recovery", "retention"):
            points = {cell.name: _point(results, cell.name, column) for cell in cells}
            points = {name: point for name, point in points.items() if point}
            if points:
                panels[column.label] = points
    if not panels:
        return Chart(title, file, "", "no recovery or retention is defined")
    figures.dots(folder / file, panels)
    return Chart(title, file, f"{_intervals(results)} The dotted line is the value of the first cell.")


def _held_out(results: Results, cells: list[Cell], folder: Path, prefix: str) -> Chart:
    title, file = "Reverse KL during the run", f"{prefix}reverse_kl.png"
    by_task: dict[str, dict[str, list]] = {}
    for cell in cells:
        for run in results.runs[cell.name].values():
            curves: dict[str, dict[int, float]] = {}
            for row in run.evaluations:
                if row["metric"] == "short_reverse_kl":
                    curves.setdefault(row["task"], {})[row["step"]] = row["value"]
            for task, curve in curves.items():
                by_task.setdefault(task, {}).setdefault(cell.name, []).append(curve)
    panels = [Panel(f"to the {task} teacher", "nats/token", curves) for task, curves in by_task.items()]
    if not panels:
        return Chart(title, file, "", "no evaluations during the runs (eval.every = 0)")
    figures.over_steps(folder / file, panels, across=len(panels))
    return Chart(title, file, f"On held-out prompts of the short evaluation. {_bands(results)}")


def _counteraction(results: Results, cells: list[Cell], folder: Path, prefix: str) -> Chart:
    title, file = "Counteraction of the branches", f"{prefix}counteraction.png"
    pairs = {pair for cell in cells for run in results.runs[cell.name].values() for d in run.diagnostics
             for pair in d["pairs"]}  # fmt: skip
    panels = []
    for pair in sorted(pairs):
        for key, what in (("dot", "dot product"), ("cosine", "cosine")):
            curves = _diagnostics(results, cells, lambda d, p=pair, k=key: d["pairs"][p][k] if _met(d, p) else None)
            if curves:
                panels.append(Panel(f"{pair}: {what} of the gradients", what, curves))
    if not panels:
        return Chart(title, file, "", "no run has diagnostics.jsonl")
    figures.over_steps(folder / file, panels, across=2)
    caption = f"Gradients of two branches at the same parameters (the paper's figure 1). {_bands(results)}"
    return Chart(title, file, caption)


def _coherence(results: Results, cells: list[Cell], folder: Path, prefix: str) -> Chart:
    title, file = "Gradient coherence gain and selected share", f"{prefix}coherence.png"
    names = {name: None for cell in cells for run in results.runs[cell.name].values() for d in run.diagnostics
             for name in d["branches"]}  # fmt: skip
    panels = []
    for ylabel, of in (
        ("gain, %", lambda b: b["gain"] if b["selected"] else None),
        ("selected share", lambda b: b["selected"] / b["batch"]),
    ):
        for name in names:
            curves = _diagnostics(
                results, cells, lambda d, n=name, of=of: of(d["branches"][n]) if n in d["branches"] else None
            )
            if curves:
                what = "coherence gain of the selected" if ylabel.startswith("gain") else "selected of the batch"
                panels.append(Panel(f"{name}: {what}", ylabel, curves))
    if not panels:
        return Chart(title, file, "", "no run has diagnostics.jsonl")
    figures.over_steps(folder / file, panels, across=len(names))
    caption = (
        "GCG = (Coh(selected) - Coh(batch)) / Coh(batch), Coh = |sum g| / sum |g| over the gradients of samples (the "
        f"paper's figure 3). {_bands(results)}"
    )
    return Chart(title, file, caption)


def _diagnostics(results: Results, cells: list[Cell], of) -> dict[str, list[dict[int, float]]]:
    """{cell: [{step: value} a seed]} of what diagnostics.jsonl has; where a value is missing, the step is."""
    curves: dict[str, list[dict[int, float]]] = {}
    for cell in cells:
        for run in results.runs[cell.name].values():
            curve = {d["step"]: value for d in run.diagnostics if (value := of(d)) is not None}
            if curve:
                curves.setdefault(cell.name, []).append(curve)
    return curves


def _met(row: dict, pair: str) -> bool:
    """Whether both gradients of a pair were there: at its teacher, a branch has none."""
    return pair in row["pairs"] and row["pairs"][pair]["cosine"] is not None


def _point(results: Results, cell: str, column: Column) -> Point | None:
    """Mean over seeds and its t-interval; of one seed, the interval over items."""
    values = by_seed(results, cell, column)
    if values is None:
        return None
    if len(values) > 1:
        return Point(*mean(values))
    run = next(iter(results.runs[cell].values()))
    value, low, high = figure(results, run.models, RECOVERED, column)
    return Point(value, (low, high))


def _free(results: Results) -> dict[str, str]:
    """{name: title} of the models on the way from the general teacher to the start, in order."""
    between = [title for title in results.references if title.startswith("interpolation ")]
    shares = {title: title.removeprefix("interpolation ") for title in between}
    ordered = sorted(between, key=lambda title: -float(shares[title]))
    return {"general teacher": results.general} | {shares[t]: t for t in ordered} | {"start": results.start}


def _intervals(results: Results) -> str:
    if _seeds(results) > 1:
        return "mean over seeds and 95 % t-interval over seeds (of a cell with one seed, over held-out items)."
    return "one seed, and the 95 % bootstrap interval over held-out items."


def _bands(results: Results) -> str:
    return "Lines: mean over seeds; bands: least to largest seed." if _seeds(results) > 1 else "One seed: no band."


def _seeds(results: Results) -> int:
    return max(len(runs) for runs in results.runs.values())
