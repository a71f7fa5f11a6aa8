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

from camopd_jax.summary import COLORS

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
                axis.fill_between(steps, value_ST.min(axis=0), value_ST.max(axis=0), color=color, alpha=0.15, lw=0)
        axis.axhline(0, color="#999999", linewidth=0.8)
        axis.set(title=panel.title, xlabel="step", ylabel=panel.ylabel)
        axis.title.set_fontsize(10)
        axis.xaxis.get_major_locator().set_params(integer=True)
    _finish(figure, path, handles)


def trade_off(path: Path, planes: Sequence[Plane]) -> None:
    """A point a label with both intervals; what is cut by the edge goes on beyond it."""
    styles = _styles(list(dict.fromkeys(label for plane in planes for label in plane.points)))
    figure, axes = plt.subplots(
        1, len(planes), figsize=(1.5 + 4.8 * len(planes), 5.2), squeeze=False, layout="constrained"
    )
    handles = {}
    for axis, plane in zip(axes.flat, planes, strict=True):
        x, y = zip(*plane.joined.values(), strict=True)
        handles["teachers, and averages of their weights"], = axis.plot(
            x, y, color=GREY, marker="o", markersize=5, markerfacecolor="white", linewidth=1.2, zorder=1
        )  # fmt: skip
        for name, at in plane.joined.items():
            axis.annotate(name, at, textcoords="offset points", xytext=(6, 6), fontsize=7.5, color="#555555")
        for label, (horizontal, vertical) in plane.points.items():
            color, marker = styles[label]
            handles[label] = axis.errorbar(
                horizontal.value, vertical.value, xerr=_arms(horizontal), yerr=_arms(vertical), color=color,
                marker=marker, markersize=7, capsize=2, elinewidth=0.9, linestyle="none", zorder=2,
            )  # fmt: skip
        axis.set(xlabel=plane.xlabel, ylabel=plane.ylabel)
        axis.set_xlim(_range([*x, *(h.value for h, _ in plane.points.values())]))
        axis.set_ylim(_range([*y, *(v.value for _, v in plane.points.values())]))
        axis.grid(color="#eeeeee", linewidth=0.8)
        axis.set_axisbelow(True)
    _finish(figure, path, handles)


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
    margin = 0.12 * (high - low) or 0.1
    return low - margin, high + margin


def _finish(figure, path: Path, handles: dict) -> None:
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
