"""Drawings that compare methods: curves with their spread over seeds, points with intervals, dots by cell."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: a run has no screen

import matplotlib.pyplot as plt
import numpy as np

COLORS = ("#1f6fb4", "#d1701f", "#3a8a4d", "#8a4fa3", "#b03a48")  # of branches, methods or systems, in order
MORE_COLORS = (*COLORS, "#d4a017", "#2aa5a0", "#c65d9b", "#6b6b6b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
GREY = "#888888"


@dataclass(frozen=True)
class Panel:
    """Curves over steps: for each label a {step: value} a seed."""

    title: str
    ylabel: str
    curves: dict[str, list[dict[int, float]]]


@dataclass(frozen=True)
class Point:
    """A value with its 95 % interval, if it has one."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Plane:
    """Two figures of each label against each other, and references joined by a line in the order given."""

    xlabel: str
    ylabel: str
    points: dict[str, tuple[Point, Point]]
    joined: dict[str, tuple[float, float]]


def over_steps(path: Path, panels: Sequence[Panel], across: int) -> None:
    """A line a label, the mean over seeds at the steps that all of them have; the band runs from least to largest."""
    styles = _styles(list(dict.fromkeys(label for panel in panels for label in panel.curves)))
    down = math.ceil(len(panels) / across)
    figure, axes_DA = plt.subplots(
        down, across, figsize=(1 + 4.4 * across, 1 + 2.9 * down), squeeze=False, layout="constrained"
    )
    handles = {}
    for axis, panel in itertools.zip_longest(axes_DA.flat, panels):
        if panel is None:
            axis.set_axis_off()
            continue
        for label, by_seed in panel.curves.items():
            color, marker = styles[label]
            steps = sorted(set.intersection(*(set(curve) for curve in by_seed)))
            value_ST = np.array([[curve[step] for step in steps] for curve in by_seed])
            handles[label], = axis.plot(steps, value_ST.mean(axis=0), color=color, marker=marker, markersize=4,
                                        linewidth=1.4)  # fmt: skip
            if len(by_seed) > 1:
                axis.fill_between(steps, value_ST.min(axis=0), value_ST.max(axis=0), color=color, alpha=0.1, lw=0)
        axis.axhline(0, color="#999999", linewidth=0.8)
        axis.set(xlabel="step", ylabel=panel.ylabel)
        axis.set_title(panel.title, fontsize=10)
        axis.xaxis.get_major_locator().set_params(integer=True)
    _finish(figure, path, handles)


def trade_off(path: Path, planes: Sequence[Plane]) -> None:
    """A point a label with both intervals: above with all references, below the labels' own range, closer.

    What is cut by an edge goes on beyond it.
    """
    styles = _styles(list(dict.fromkeys(label for plane in planes for label in plane.points)))
    figure, axes_2P = plt.subplots(
        2, len(planes), figsize=(1.5 + 4.8 * len(planes), 8.6), squeeze=False, layout="constrained"
    )
    handles = {}
    for plane, (whole, near) in zip(planes, axes_2P.T, strict=True):
        for axis in (whole, near):
            handles |= _draw_plane(axis, plane, styles)
        for number, name in enumerate("xy"):
            points = [pair[number] for pair in plane.points.values()]
            low, high = _range([*(p.value for p in points), *(at[number] for at in plane.joined.values())])
            whole.set(**{f"{name}lim": (low, high)})
            ends = [end for p in points for end in (p.value, *(p.interval or ()))]
            near.set(**{f"{name}lim": _range([min(max(end, low), high) for end in ends])})
        for number, (name, at) in enumerate(plane.joined.items()):
            place, side = ((6, 6), "left") if number == 0 else ((-5, -11), "right")  # the points lie above the line
            whole.annotate(name, at, textcoords="offset points", xytext=place, ha=side, fontsize=7.5, color="#555555")
        near.set_title("closer", fontsize=10)
        near.locator_params(nbins=6)
    _finish(figure, path, handles)


def _draw_plane(axis, plane: Plane, styles: dict[str, tuple[str, str]]) -> dict:
    handles = {}
    handles["teachers, and averages of their weights"], = axis.plot(
        *zip(*plane.joined.values(), strict=True), color=GREY, marker="o", markersize=5, markerfacecolor="white",
        linewidth=1.2, zorder=1,
    )  # fmt: skip
    for label, (horizontal, vertical) in plane.points.items():
        color, marker = styles[label]
        handles[label] = axis.errorbar(
            horizontal.value, vertical.value, xerr=_arms(horizontal), yerr=_arms(vertical), color=color,
            marker=marker, markersize=7, capsize=2, elinewidth=0.9, linestyle="none", zorder=2,
        )  # fmt: skip
    axis.set(xlabel=plane.xlabel, ylabel=plane.ylabel)
    axis.grid(color="#eeeeee", linewidth=0.8)
    axis.set_axisbelow(True)
    return handles


def dots(path: Path, panels: dict[str, dict[str, Point]]) -> None:
    """A row a label, a dot and its interval in each panel; the dotted line is the first label's value."""
    labels = list(dict.fromkeys(label for points in panels.values() for label in points))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.5 + 3.6 * len(panels), 1.2 + 0.36 * len(labels)), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, (title, points) in zip(axes.flat, panels.items(), strict=True):
        for label, point in points.items():
            axis.errorbar(point.value, labels.index(label), xerr=_arms(point), color=COLORS[0], marker="o", capsize=3)
        axis.axvline(next(iter(points.values())).value, color=GREY, linestyle=":", linewidth=1)
        axis.set(xlabel=title, yticks=range(len(labels)), yticklabels=labels)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", color="#eeeeee", linewidth=0.8)
    axes.flat[0].invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _styles(labels: list[str]) -> dict[str, tuple[str, str]]:
    return dict(zip(labels, zip(itertools.cycle(MORE_COLORS), itertools.cycle(MARKERS), strict=False), strict=False))


def _arms(point: Point) -> list[list[float]] | None:
    if point.interval is None:
        return None
    low, high = point.interval
    return [[max(point.value - low, 0.0)], [max(high - point.value, 0.0)]]


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.15 * (high - low) or 0.1
    return low - margin, high + margin


def _finish(figure, path: Path, handles: dict) -> None:
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
