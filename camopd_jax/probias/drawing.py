"""Drawings of ICD coding: how reliable probabilities are, and F1 by training frequency.

Curves over steps are `figures.over_steps`, figures with their intervals `figures.dots`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from camopd_jax.figures import GREY, MARKERS, MORE_COLORS, Point
from camopd_jax.probias.calibration import Reliability


def reliability(path: Path, curves: Mapping[str, Reliability]) -> None:
    """The share that is true against the mean probability of each bin, and below how many pairs are in it.

    `curves` are by name, such as "as trained" and "temperature 1.31"; their bins are the same.
    """
    figure = Figure(figsize=(5.6, 5.8), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="as often true as said")
    for number, (name, curve) in enumerate(curves.items()):
        known = curve.count_K > 0
        ece = curve.ece()
        label = name if ece is None else f"{name}: ECE {ece:.4f}"
        color, marker = MORE_COLORS[number % len(MORE_COLORS)], MARKERS[number % len(MARKERS)]
        top.plot(curve.probability_K[known], curve.true_K[known], color=color, marker=marker, markersize=5, label=label)
        bottom.stairs(curve.count_K, curve.edge_K1, color=color, linewidth=1.4)
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is true")
    bottom.set(xlabel="probability said", ylabel="pairs")
    bottom.set_yscale("symlog", linthresh=1)
    for axis in (top, bottom):
        axis.grid(color="#eeeeee", linewidth=0.8)
        axis.set_axisbelow(True)
    _finish(figure, path, top)


def buckets(path: Path, ylabel: str, systems: Mapping[str, Mapping[str, Point]], codes: Mapping[str, int]) -> None:
    """A group of bars a frequency bucket, a bar a system, with its interval if it has one.

    Args:
      systems: by system and bucket; a bucket without a point has no bar.
      codes: how many codes are in each bucket; one without any is left out.
    """
    names = [bucket for bucket, count in codes.items() if count]
    figure = Figure(figsize=(1.6 + 1.5 * len(names), 4.2), layout="constrained")
    axis = figure.add_subplot()
    width = 0.8 / max(len(systems), 1)
    for number, (system, points) in enumerate(systems.items()):
        at = [i for i, bucket in enumerate(names) if bucket in points]
        here = [points[names[i]] for i in at]
        place = np.array(at) + (number - (len(systems) - 1) / 2) * width
        color = MORE_COLORS[number % len(MORE_COLORS)]
        axis.bar(place, [p.value for p in here], 0.92 * width, color=color, label=system)
        sure = [(x, p) for x, p in zip(place, here, strict=True) if p.interval]
        if sure:
            arms = [
                [max(p.value - p.interval[0], 0) for _, p in sure],
                [max(p.interval[1] - p.value, 0) for _, p in sure],
            ]
            axis.errorbar([x for x, _ in sure], [p.value for _, p in sure], arms, fmt="none", color="black",
                          capsize=2, elinewidth=0.9)  # fmt: skip
    axis.set_xticks(range(len(names)), [f"{name}\n{codes[name]:,} codes" for name in names], parse_math=False)
    axis.set(xlabel="training documents that have the code", ylabel=ylabel)
    axis.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axis.set_axisbelow(True)
    _finish(figure, path, axis)


def _finish(figure: Figure, path: Path, axis) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
