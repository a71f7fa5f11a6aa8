"""What a run says while it runs: metrics.jsonl, TensorBoard, and a progress bar or plain lines."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter
from tqdm import tqdm

from camopd_jax import hosts


def read_jsonl(path: Path) -> list[dict]:
    """The whole lines of a file; a last line that was cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Put rows in the place of a file's, whole or not at all."""
    put(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_json(path: Path, record: dict, indent: int | None = None) -> None:
    """Put a record in the place of a file's, whole or not at all."""
    put(path, json.dumps(record, indent=indent) + "\n")


def put(path: Path, text: str) -> None:
    """Put a text in the place of a file's, whole or not at all."""
    staged = path.with_name(f"{path.name}.tmp")
    staged.write_text(text, encoding="utf-8")
    os.replace(staged, path)


class Jsonl:
    """One JSON object a line, flushed at once; on resume the lines after the restored step are dropped."""

    def __init__(self, path: Path, after_step: int):
        write_jsonl(path, [row for row in read_jsonl(path) if row["step"] <= after_step])
        self._file = path.open("a", encoding="utf-8")

    def write(self, *rows: dict) -> None:
        self._file.write("".join(json.dumps(row) + "\n" for row in rows))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class NoLog:
    """What a process keeps of a run that does not write."""

    def step(self, row: dict, rollouts: list[dict]) -> None:
        pass

    def evaluation(self, rows: list[dict]) -> None:
        pass

    diagnosis = evaluation

    def close(self) -> None:
        pass


class RunLog:
    """The files of a run, and TensorBoard beside them; what is of a later step than the given one is dropped."""

    def __init__(self, workdir: Path, step: int):
        workdir.mkdir(parents=True, exist_ok=True)
        self._metrics, self._evals, self._rollouts, self._diagnostics = (
            Jsonl(workdir / f"{name}.jsonl", step) for name in ("metrics", "eval", "rollouts", "diagnostics")
        )
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def step(self, row: dict, rollouts: list[dict]) -> None:
        for rollout in rollouts:
            self._rollouts.write(rollout)
        self._metrics.write(row)
        self._scalars(row["branch"], row, row["step"])

    def evaluation(self, rows: list[dict]) -> None:
        self._evals.write(*rows)  # all or none: a run that goes on looks here for what is left to do
        for row in rows:
            self._board.add_scalar(f"eval/{row['task']}/{row['metric']}", row["value"], row["step"])

    def diagnosis(self, rows: list[dict]) -> None:
        self._diagnostics.write(*rows)
        for row in rows:
            self._scalars("diagnostics", row, row["step"])

    def _scalars(self, prefix: str, tree: dict, step: int) -> None:
        for name, value in tree.items():
            if isinstance(value, dict):
                self._scalars(f"{prefix}/{name}", value, step)
            elif isinstance(value, (int, float)) and name != "step":
                self._board.add_scalar(f"{prefix}/{name}", value, step)

    def close(self) -> None:
        for file in (self._metrics, self._evals, self._rollouts, self._diagnostics, self._board):
            file.close()


def write_config(workdir: Path, config: ConfigDict, models: dict[str, list[str]], data: dict[str, str]) -> None:
    """config.json: the resolved config, versions, git revision, devices, and what names the models and the data."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "transformers")
    git = None
    if shutil.which("git"):
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    record = {
        "config": config.to_dict(),
        "versions": {"python": platform.python_version()} | {p: metadata.version(p) for p in packages},
        "git_revision": git.stdout.strip() or None if git else None,
        "devices": [str(d) for d in jax.devices()],
        "models": models,
        "data": data,
    }
    write_json(workdir / "config.json", record, indent=2)


class Progress:
    """A bar on a terminal, one line a step elsewhere."""

    def __init__(self, title: str, total: int, done: int):
        self._title, self._total, self._first, self._start = title, total, done, time.monotonic()
        shown = sys.stderr.isatty() and hosts.writer()
        self._bar = tqdm(total=total, initial=done, desc=title, unit="step") if shown else None

    def show(self, step: int, figures: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(figures)
            self._bar.update(step - self._bar.n)
            return
        left = (time.monotonic() - self._start) / (step - self._first) * (self._total - step)
        print(f"{self._title} {step}/{self._total}  {figures}  ETA {left // 60:.0f}:{left % 60:02.0f}", flush=True)

    def say(self, line: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
            return
        print(line, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


_compilations = 0


def _count(event: str, duration: float, **_) -> None:
    global _compilations
    del duration
    _compilations += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)


def compilations() -> int:
    """Programs compiled (or loaded from the compilation cache) in this process so far."""
    return _compilations
