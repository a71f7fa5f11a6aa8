"""Reinforcement runs over seeds: what they gained over their start, and over runs of another kind, as a table."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from camopd_jax import comparison
from camopd_jax.comparison import Difference, Scores

LABELS = {
    "log_rmr": "margin: mean log RMR, nats/token",
    "passed": "conjunctive pass",
    "clean": "clean accuracy",
    "instructions": "instruction following",
}
TITLES = ("start", "trained")
RESAMPLES, SEED = 4000, 0


def read(workdirs: Sequence[Path]) -> dict[str, dict[str, Scores]]:
    """{model: {measure: scores [seeds, items]}} of finished runs, one of each seed.

    Raises:
      ValueError: if one is not finished, or two answered other questions.
    """
    records = [_record(workdir) for workdir in workdirs]
    if any(_sizes(record) != _sizes(records[0]) for record in records):
        raise ValueError(f"{workdirs[0]} and the others have other held-out questions; allowed are the same")
    return {
        title: {
            name: Scores(*(np.stack([record[title, name][side] for record in records]) for side in (0, 1)))
            for name in LABELS
        }
        for title in TITLES
    }


def _record(workdir: Path) -> dict[tuple[str, str], list[np.ndarray]]:
    """{(model, measure): numerator and denominator by item}."""
    path = workdir / "evaluation.json"
    try:
        models = json.loads(path.read_text(encoding="utf-8"))["models"]
        return {
            (title, name): [np.array(models[title][name][side], np.float64) for side in ("numerator", "denominator")]
            for title in TITLES
            for name in LABELS
        }
    except OSError:
        raise ValueError(f"{workdir}: there is no evaluation.json; allowed are the workdirs of finished runs") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no evaluation of a reinforcement run ({error})") from None


def _sizes(record: dict) -> list[int]:
    return [len(numerator) for numerator, _ in record.values()]


def table(runs: Sequence[Path], against: Sequence[Path]) -> str:
    """Start, trained and their difference, of the runs and of those of the other kind, and what tells these apart.

    Intervals of differences resample items and seeds (`comparison.paired_bootstrap`).
    """
    ours = read(runs)
    lines = [f"{len(runs)} runs: {', '.join(map(str, runs))}", "", *_rows(ours)]
    if against:
        theirs = read(against)
        lines += ["", f"against {len(against)} runs: {', '.join(map(str, against))}", "", *_rows(theirs)]
        if len(runs) == len(against):
            lines += ["", "| measure | runs - against [95 % interval] |", "|---|---|"]
            lines += [
                f"| {label} | {_cell(_difference(ours['trained'][name], theirs['trained'][name]))} |"
                for name, label in LABELS.items()
            ]
    return "\n".join(lines)


def _rows(found: dict[str, dict[str, Scores]]) -> list[str]:
    lines = ["| measure | start | trained, each seed | trained - start [95 % interval] |", "|---|---|---|---|"]
    for name, label in LABELS.items():
        start, trained = found["start"][name], found["trained"][name]
        each = ", ".join(f"{value:.3f}" for value in trained.by_seed())
        lines.append(f"| {label} | {start.by_seed()[0]:.3f} | {each} | {_cell(_difference(trained, start))} |")
    return lines


def _difference(a: Scores, b: Scores) -> Difference:
    seeds, items = a.numerator_SN.shape
    return comparison.paired_bootstrap(a, b, comparison.resampling(seeds, items, RESAMPLES, SEED))


def _cell(x: Difference) -> str:
    return f"{x.value:+.3f} [{x.low:+.3f}, {x.high:+.3f}]"
