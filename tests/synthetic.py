"""Workdirs of finished runs as bin/train.py leaves them, with numbers that are drawn."""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from camopd_jax import metrics
from camopd_jax.evals.suite import Line
from camopd_jax.experiment import grid as grids
from camopd_jax.experiment.grid import Grid

LINES = (
    Line("reverse_kl", "reverse KL to general teacher, nats/token", 3, "general", "reverse_kl"),
    Line("forward_kl", "forward KL from general teacher, nats/token", 3, "general", "forward_kl"),
    Line("instructions", "instruction following, pass rate", 3, "instructions", "pass_rate"),
    Line("domain", "domain: ICD-10 coding, exact match", 3, "domain", "exact_match"),
    Line("eos_rate", "responses that end by themselves", 2, "general", "eos_rate"),
    Line("length", "response length, tokens (share of the general teacher's)", 1, "general", "response_tokens"),
)
# reverse KL, instruction pass rate, domain exact match in truth
TRUTH = {
    "general teacher": (0.0, 0.55, 0.02),
    "domain teacher = start": (0.72, 0.25, 0.84),
    "interpolation 0.25": (0.35, 0.35, 0.78),
    "interpolation 0.5": (0.13, 0.45, 0.60),
    "interpolation 0.75": (0.03, 0.52, 0.25),
    "camopd": (0.20, 0.48, 0.82),
    "no_selection": (0.22, 0.47, 0.81),
    "no_scaling": (0.25, 0.46, 0.81),
    "mix": (0.27, 0.44, 0.82),
    "vanilla_mopd": (0.42, 0.38, 0.83),
}
ITEMS = {"reverse_kl": 50, "forward_kl": 50, "instructions": 150, "domain": 100, "eos_rate": 50, "length": 50}


def write(out: Path, grid: Grid, config: ConfigDict, *, seeds_differ: float = 0.02, diagnostics: bool = True) -> None:
    """The record of the grid, and all of its runs finished; cells without a truth get one near CaMOPD's."""
    grids.write(grid, out)
    for number, (cell, seed) in enumerate(grid.runs()):
        rng = np.random.default_rng(number)
        workdir = grids.workdir(out, cell, seed)
        workdir.mkdir(parents=True)
        kl, passed, domain = TRUTH.get(cell.name, (0.2 + 0.02 * grid.cells.index(cell), 0.47, 0.8))
        kl += rng.normal(0, seeds_differ)
        models = {name: model(*truth) for name, truth in TRUTH.items() if "teacher" in name or "inter" in name}
        models["recovered"] = model(kl, passed, domain, seed=seed)
        write_evaluation(workdir, models)
        metrics.write_config(workdir, config, {"general": ["random:llama", "0123"]}, {}, [])
        _lines(workdir / "metrics.jsonl", [_step(rng, step) for step in range(1, 13)])
        _lines(workdir / "eval.jsonl", _short(rng, kl))
        if diagnostics:
            _lines(workdir / "diagnostics.jsonl", [_diagnosis(rng, step) for step in range(0, 12, 2)])
        _lines(workdir.with_name(f"{workdir.name}.starts.jsonl"), [{"seconds": 360 + 10 * number}])


def write_evaluation(workdir: Path, models: dict) -> None:
    lines = [vars(line) for line in LINES]
    evaluation = {"lines": lines, "models": models, "student": "domain", "checked": ["domain"]}
    (workdir / "evaluation.json").write_text(json.dumps(evaluation))


def model(kl: float, passed: float, domain: float, seed: int = 0) -> dict:
    """Measures of a model: the same items are hard for all, and a seed moves some of them."""
    hard = np.random.default_rng(1)
    mine = np.random.default_rng(100 + seed)

    def share(name: str, value: float) -> dict:
        n = ITEMS[name]
        level = 0.8 * hard.permutation((np.arange(n) + 0.5) / n) + 0.2 * mine.permutation((np.arange(n) + 0.5) / n)
        return one((level < np.quantile(level, value)).astype(float))

    def per_token(name: str, value: float) -> dict:
        tokens = hard.integers(20, 90, ITEMS[name]).astype(float)
        spread = hard.gamma(2.0, 0.5, ITEMS[name]) * mine.uniform(0.8, 1.2, ITEMS[name])
        spread *= tokens.sum() / (spread * tokens).sum()
        return {"numerator": (value * spread * tokens).tolist(), "denominator": tokens.tolist()}

    def one(values) -> dict:
        return {"numerator": list(values), "denominator": [1.0] * len(values)}

    return {
        "reverse_kl": per_token("reverse_kl", kl),
        "forward_kl": per_token("forward_kl", kl / 2),
        "instructions": share("instructions", passed),
        "domain": share("domain", domain),
        "eos_rate": share("eos_rate", 0.6 + 0.4 * kl),
        "length": one((67 * (1 - 0.7 * kl) * hard.uniform(0.5, 1.5, ITEMS["length"])).tolist()),
    }


def _step(rng, step: int) -> dict:
    return {"step": step, "branch": "domain" if step % 4 == 0 else "general", "selected": int(rng.integers(6, 11)),
            "batch": 12, "trained_tokens": int(rng.integers(200, 300)), "seconds_update": float(rng.uniform(4, 5)),
            "seconds": float(rng.uniform(14, 16))}  # fmt: skip


def _short(rng, kl: float) -> list[dict]:
    def row(step: int, task: str, value: float) -> dict:
        return {"step": step, "model": "student", "task": task, "metric": "short_reverse_kl", "value": value, "n": 12,
                "stderr": 0.05}  # fmt: skip

    rows = []
    for step in (0, 6, 12):
        rows.append(row(step, "general", float(kl + (0.72 - kl) * np.exp(-step / 3) + rng.normal(0, 0.02))))
        rows.append(row(step, "domain", float(0.01 * step / 12 + abs(rng.normal(0, 0.003)))))
    return rows


def _diagnosis(rng, step: int) -> dict:
    dot = float(rng.normal(-0.02, 0.03))

    def branch() -> dict:
        return {"gain": float(rng.normal(20, 10)), "selected": int(rng.integers(5, 11)), "batch": 12,
                "moment_cosine": None if step == 0 else 0.1}  # fmt: skip

    cosine = dot * 4
    if step == 0:  # the student is the domain teacher, whose gradient is 0
        dot, cosine = 0.0, None
    pairs = {"general/domain": {"dot": dot, "cosine": cosine, "cosine_by_layer": [cosine] * 3}}
    return {"step": step, "pairs": pairs, "branches": {"general": branch(), "domain": branch()}, "gap_edges": []}


def _lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
