"""What a run says while it runs: metrics.jsonl, TensorBoard, and a progress bar or plain lines."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from camopd_jax import hosts
from camopd_jax.models import export

ROLLOUTS = "rollouts.jsonl"
LOGS = ("metrics.jsonl", "eval.jsonl", ROLLOUTS, "diagnostics.jsonl")


def read_jsonl(path: Path) -> list[dict]:
    """The whole lines of a file; a last line that was cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def whole_rows(path: Path) -> list[dict | None]:
    """The rows of a log by line; None for a line that is no row."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        rows.append(row if isinstance(row, dict) and isinstance(row.get("step"), int) else None)
    return rows


def kept_rows(path: Path, step: int) -> list[dict]:
    """The rows of a log up to a step, and not what a run wrote after it, whole or in part.

    Raises:
      ValueError: if one of them is damaged, comes after one of a later step, or comes twice.
    """
    rows = whole_rows(path)
    last = max((i for i, row in enumerate(rows) if row and row["step"] <= step), default=-1)
    newest, seen = -1, set()
    for number, row in enumerate(rows[: last + 1], 1):
        text, at = json.dumps(row), row["step"] if row else newest
        once = path.name != ROLLOUTS and text in seen
        if row is None or at < newest or once:
            wrong = "is damaged" if row is None else "comes twice" if once else f"is of step {at}, after step {newest}"
            raise ValueError(
                f"{path}:{number} {wrong}; put back a copy of the file, or delete that line if it is extra"
            )
        newest = at
        seen.add(text)
    return rows[: last + 1]


def steps_logged(path: Path) -> int:
    """How many steps, from the first one on, metrics.jsonl has in order, once each."""
    expected = 1
    for row in whole_rows(path):
        if row is None or row["step"] != expected:
            break
        expected += 1
    return expected - 1


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Put rows in the place of a file's, whole or not at all."""
    put(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_json(path: Path, record: dict, indent: int | None = None) -> None:
    """Put a record in the place of a file's, whole or not at all."""
    put(path, json.dumps(record, indent=indent) + "\n")


def put(path: Path, what: str | bytes) -> None:
    """Put a text, or bytes, in the place of a file's, whole or not at all; on the disk when this returns."""
    body = what.encode() if isinstance(what, str) else what
    staged = path.with_name(f"{export.STAGED}{path.name}-{platform.node()}-{os.getpid()}")
    try:
        with _named(path), staged.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
        export.sync(path.parent)
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error of the disk with the file's name, which the system leaves out where a file is open already."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


class Jsonl:
    """One JSON object a line, written at once; on resume the lines after the restored step are dropped."""

    def __init__(self, path: Path, after_step: int):
        write_jsonl(path, kept_rows(path, after_step))
        self._path, self._file = path, path.open("ab", buffering=0)

    def write(self, *rows: dict) -> None:
        """Append rows: all of them or, where the disk does not take them, none."""
        body, before = "".join(json.dumps(row) + "\n" for row in rows).encode(), self._file.tell()
        with _named(self._path):
            try:
                while body:
                    body = body[self._file.write(body) :]
            except OSError:
                self._file.truncate(before)
                raise

    def sync(self) -> None:
        """Return when the rows are on the disk, not only with the system."""
        with _named(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class NoLog:
    """What a process keeps of a run that does not write."""

    def step(self, row: dict, rollouts: list[dict]) -> None:
        pass

    def sync(self) -> None:
        pass

    def evaluation(self, rows: list[dict]) -> None:
        pass

    diagnosis = evaluation

    close = sync


class RunLog:
    """The files of a run, and TensorBoard beside them; what is of a later step than the given one is dropped."""

    def __init__(self, workdir: Path, step: int):
        workdir.mkdir(parents=True, exist_ok=True)
        self._metrics, self._evals, self._rollouts, self._diagnostics = (Jsonl(workdir / name, step) for name in LOGS)
        self._board = _Board(workdir / "tensorboard", step + 1)

    def step(self, row: dict, rollouts: list[dict]) -> None:
        for rollout in rollouts:
            self._rollouts.write(rollout)
        self._metrics.write(row)
        self._scalars(row["branch"], row, row["step"])

    def evaluation(self, rows: list[dict]) -> None:
        self._evals.write(*rows)  # all or none: a run that goes on looks here for what is left to do
        for row in rows:
            self._board.scalar(f"eval/{row['task']}/{row['metric']}", row["value"], row["step"])

    def diagnosis(self, rows: list[dict]) -> None:
        self._diagnostics.write(*rows)
        for row in rows:
            self._scalars("diagnostics", row, row["step"])

    def _scalars(self, prefix: str, tree: dict, step: int) -> None:
        for name, value in tree.items():
            if isinstance(value, dict):
                self._scalars(f"{prefix}/{name}", value, step)
            elif isinstance(value, (int, float)) and name != "step":
                self._board.scalar(f"{prefix}/{name}", value, step)

    def sync(self) -> None:
        """Return when all rows are on the disk; so no checkpoint is ahead of them, whatever ends the machine."""
        for file in (self._metrics, self._evals, self._rollouts, self._diagnostics):
            file.sync()

    def close(self) -> None:
        for file in (self._metrics, self._evals, self._rollouts, self._diagnostics, self._board):
            file.close()


class _Board:
    """TensorBoard's event file, written in this thread: tensorboardX's own thread would end unseen on a full disk."""

    def __init__(self, directory: Path, purge_step: int):
        directory.mkdir(exist_ok=True)
        self._path, self._events = directory, EventsWriter(str(directory / "events"))
        again = SessionLog(status=SessionLog.START)  # drops what is there of these steps and later ones
        self._write(Event(wall_time=time.time(), step=purge_step, session_log=again))

    def scalar(self, name: str, value: float, step: int) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=summary.scalar(name, value)))

    def _write(self, event: Event) -> None:
        with _named(self._path):
            self._events.write_event(event)
            self._events.flush()

    def close(self) -> None:
        with _named(self._path):
            self._events.close()


def surroundings() -> dict:
    """Versions of Python and of the packages that compute, and the git revision of this code (None: unknown)."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "transformers")
    git = None
    if shutil.which("git"):
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return {
        "versions": {"python": platform.python_version()} | {p: metadata.version(p) for p in packages},
        "git_revision": git.stdout.strip() or None if git else None,
    }


def write_config(
    workdir: Path, config: ConfigDict, models: dict[str, list[str]], data: dict[str, str], changes: list[dict]
) -> None:
    """config.json: the resolved config, versions, git revision, devices, what names the models and the data, and
    what was changed since the run began (step, key, before, now)."""
    record = {
        "config": config.to_dict(),
        **surroundings(),
        "devices": [str(d) for d in jax.devices()],
        "models": models,
        "data": data,
        "changes": changes,
    }
    write_json(workdir / "config.json", record, indent=2)


class Progress:
    """A bar on a terminal; elsewhere lines, of the first step, the last, and at most 99 others."""

    def __init__(self, title: str, total: int, done: int):
        self._title, self._total, self._first, self._start = title, total, done, time.monotonic()
        self._told = None  # the step of the last line
        shown = sys.stderr.isatty() and hosts.writer()
        self._bar = tqdm(total=total, initial=done, desc=title, unit="step") if shown else None

    def show(self, step: int, figures: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(figures)
            self._bar.update(step - self._bar.n)
            return
        each = max(self._total // 50, 1)
        if self._told is not None and step // each == self._told // each and step != self._total:
            return
        self._told = step
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
