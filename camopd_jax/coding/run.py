"""The ICD coding run, end to end: train, take the best on dev, calibrate and tune there, score test, export."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from camopd_jax import guards, hosts, loop, metrics, resume
from camopd_jax.checkpoint import Checkpoints
from camopd_jax.coding import outcome, saved, start
from camopd_jax.coding.coder import Coder
from camopd_jax.coding.inputs import Inputs
from camopd_jax.probias import scores, system
from camopd_jax.types import Params, System

MICRO = "dev/micro_f1"  # of which more is better; the best step is the one that is kept
SHORT = ("micro_f1", "macro_f1_present", "map", "precision_at_8")  # figures of an evaluation in between


def run(config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> None:
    """Do the whole run, or what is left of it; the workdir then holds what docs/icd.md lists.

    Args:
      allowed: keys of the config that may differ from those of the run that is there.

    Raises:
      ValueError: for a mistake, with nothing left behind.
      resume.Fault: for what goes wrong later.
    """
    clock = time.monotonic()
    checked = start.check(config, workdir, allowed)
    with resume.owning(config, workdir, checked.models, checked.data, allowed):
        read: Inputs = checked.read
        coder = Coder(read)
        params = train(read, coder, workdir)
        with guards.watchdog(workdir, config.guard.stall_seconds, "the evaluation of dev and test"):
            print("evaluating: dev and test ...", flush=True)
            splits = {name: coder.split(params, read.parts[name], scratch()) for name in ("dev", "test")}
        judged = outcome.judge(read, splits)
        saved.export(workdir / "export", read, coder, params, judged, hosts.writer())
        if hosts.writer():
            outcome.write(read, workdir, judged)
        print(f"Done in {(time.monotonic() - clock) / 60:.1f} minutes. The trained model: {workdir / 'export'}")
        print(f"To look at: {workdir / 'summary.md'} and {workdir / 'plots'}")
        print(f"To use it: python bin/predict.py --model={workdir / 'export'} NOTE.txt", flush=True)


def scratch() -> Path:
    """Where unnamed files of a moment lie."""
    return Path(tempfile.gettempdir())


def train(read: Inputs, coder: Coder, workdir: Path) -> Params:
    """Train, and return the parameters of the best step on dev."""
    config, part = read.config, read.parts["train"]
    names = [entry.id for entry in read.corpus.splits["train"].entries]
    collect = system.collector(
        part.ids, part.truth_NC, names, batch_size=config.data.batch_size, micro=config.micro.notes, seed=config.seed,
        tokenizer=read.tokenizer, chunking=read.chunking,
    )  # fmt: skip

    def evaluate(params: Params, step: int) -> list[dict]:
        split = coder.split(params, read.parts["dev"], scratch())
        threshold_C = outcome.threshold(read, split)
        found = scores.compute(split, threshold_C, read.labels.frequency_C)
        rare = found.buckets["1-10"]["micro_f1"]
        figures = {name: found.figures[name] for name in SHORT} | {"rare_micro_f1": rare}
        return [
            {"step": step, "model": "student", "task": "dev", "metric": name, "value": value, "n": found.documents}
            for name, value in figures.items()
            if value is not None
        ]

    c, e = config.checkpoint, config.eval
    plan = loop.Plan(
        "training", config.steps, e.every, c.every, limits=guards.limits_of(config.guard, surrogate=False),
        patience=e.patience, metric=MICRO if e.every else "",
    )  # fmt: skip
    kept = c.keep_best if e.every else 0
    keep = {"keep_last": c.keep_last, "keep_best": kept, "best_metric": MICRO, "higher_is_better": True}
    with Checkpoints(workdir / "checkpoints", **keep) as checkpoints:
        if checkpoints.latest() != config.steps and hosts.writer():
            (workdir / "evaluation.json").unlink(missing_ok=True)  # of a shorter run, which this one now extends
        state = loop.run(
            System(collect, evaluate, lambda state, step: []), coder.steps(), plan, workdir, checkpoints,
            lambda: coder.fresh(config.seed), jax.random.key(config.seed),
        )  # fmt: skip
        last, best = int(state.step), _best(workdir, checkpoints.steps())
    if best is None or best == last:
        return state.params
    print(f"taking the parameters of step {best}, the best on dev", flush=True)
    del state
    with Checkpoints(workdir / "checkpoints", **keep, read_only=True) as checkpoints:
        return checkpoints.params(coder.abstract(), best)


def _best(workdir: Path, kept: Sequence[int]) -> int | None:
    """Of the steps that are kept the one of the highest micro-F1 on dev, on every process; None: none was evaluated."""
    rows = metrics.read_jsonl(workdir / "eval.jsonl") if hosts.writer() else []
    found = {r["step"]: r["value"] for r in rows if f"{r['task']}/{r['metric']}" == MICRO and r["step"] in kept}
    best = max(found, key=lambda step: (found[step], -step)) if found else -1
    step = hosts.agreed(best + 1) - 1
    return None if step < 0 else step
