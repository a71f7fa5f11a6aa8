"""Runs the cells of a grid one after the other, each in a process of its own that can be stopped and gone on with."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from camopd_jax import metrics
from camopd_jax.experiment import grid as grids
from camopd_jax.experiment.grid import Cell, Grid

TAIL = 15  # lines of a failed run's log that are shown again
WEIGHTS = ("checkpoints", "damaged", "export")


class Child:
    """The process that runs now, if any; SIGTERM and Ctrl-C are passed on to it."""

    def __init__(self):
        self.process: subprocess.Popen | None = None
        self.signum = 0  # the first signal that came
        self._pending: list[int] = []

    def note(self, signum: int, frame) -> None:
        """Handle a signal."""
        del frame
        self.signum = self.signum or signum
        self._pending.append(signum)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._pending and self.process is not None:
            self.process.send_signal(self._pending.pop())

    def run(self, command: list[str], log: Path, lock: int) -> int:
        """Run to the end, with the output shown and added to a log; returns the exit code (-n: killed by signal n).

        The process is not in the terminal's process group: of a Ctrl-C it sees what is passed on, once. It inherits
        the lock, so that a process that outlives the experiment keeps others out.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                encoding="utf-8", errors="replace", pass_fds=[lock], process_group=0,
            )  # fmt: skip
            self._pass_on()  # what came before there was a process
            for line in self.process.stdout:
                print(line, end="", flush=True)
                file.write(line)
                file.flush()
            code = self.process.wait()
        self.process = None
        return code


def run(grid: Grid, out: Path, train: Path, *, keep_going: bool, drop_weights: bool) -> int:
    """Run what is not finished of a grid.

    Args:
      train: bin/train.py, called as a program.
      keep_going: a run that fails does not stop the others.
      drop_weights: delete checkpoints/ and export/ of each run that is finished.

    Returns:
      The exit code: 0 all finished, 1 or 2 a run failed, 128 + n stopped by signal n.
    """
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    with _alone(out) as lock, _signals() as child:
        grids.write(grids.joined(grid, out), out)
        print(plan(grid, out), flush=True)
        for number, (cell, seed) in enumerate(grid.runs(), 1):
            title = f"{cell.name}, seed {seed}"
            if not grids.finished(out, cell, seed):
                print(f"[{number}/{len(grid.runs())}] {title}; {_left(grid, out)}", flush=True)
                code = _start(child, [sys.executable, str(train), *grids.flags(grid, out, cell, seed)],
                              grids.workdir(out, cell, seed), lock)  # fmt: skip
                if child.signum:
                    name = signal.Signals(child.signum).name
                    print(f"stopped by {name} in {title}; the same command goes on from there.", flush=True)
                    return 128 + child.signum
                if code or not grids.finished(out, cell, seed):
                    failed.append(f"{title} ({_ending(code)})")
                    print(_failure(failed[-1], grids.workdir(out, cell, seed)), file=sys.stderr, flush=True)
                    if not keep_going:
                        return code if code in (1, 2) else 1
                    continue
            if drop_weights:
                for name in WEIGHTS:
                    shutil.rmtree(grids.workdir(out, cell, seed) / name, ignore_errors=True)
    if failed:
        print(f"error: {len(failed)} of {len(grid.runs())} runs failed: {'; '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def plan(grid: Grid, out: Path) -> str:
    """How many runs there are, how many are finished, and how long the others take."""
    done = sum(grids.finished(out, *run) for run in grid.runs())
    return "\n".join(
        [
            f"{len(grid.runs())} runs in {out}: {len(grid.cells)} cells x {len(grid.seeds)} seeds; {done} finished",
            f"  cells: {', '.join(cell.name for cell in grid.cells)}",
            f"  {_left(grid, out)}; the same command goes on where it stopped",
        ]
    )


def minutes(out: Path, cell: Cell, seed: int) -> float | None:
    """Wall-clock minutes of all starts of a run that came to an end by themselves; None: it was not started here."""
    rows = metrics.read_jsonl(_starts(grids.workdir(out, cell, seed)))
    return sum(row["seconds"] for row in rows) / 60 if rows else None


def _left(grid: Grid, out: Path) -> str:
    open_ = [run for run in grid.runs() if not grids.finished(out, *run)]
    took = [minutes(out, *run) for run in grids.read(out).runs() if grids.finished(out, *run)]
    took = [m for m in took if m is not None]
    if not took:
        return f"{len(open_)} to go, no time known before the first one is finished"
    mean = sum(took) / len(took)
    return f"{len(open_)} to go, about {mean * len(open_):.0f} minutes at {mean:.1f} minutes a run"


def _start(child: Child, command: list[str], workdir: Path, lock: int) -> int:
    began, clock = time.strftime("%Y-%m-%dT%H:%M:%S%z"), time.monotonic()
    code = child.run(command, _log(workdir), lock)
    row = {"began": began, "seconds": time.monotonic() - clock, "exit_code": code, "command": command[1:]}
    with _starts(workdir).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return code


def _log(workdir: Path) -> Path:
    return workdir.with_name(f"{workdir.name}.log")


def _starts(workdir: Path) -> Path:
    return workdir.with_name(f"{workdir.name}.starts.jsonl")


def _ending(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}" if code else f"ended without {grids.FINISHED}"


def _failure(what: str, workdir: Path) -> str:
    with _log(workdir).open(encoding="utf-8") as file:
        tail = "".join(f"  {line}" for line in deque(file, TAIL))
    return f"error: {what}; the end of {_log(workdir)}:\n{tail}".rstrip()


@contextmanager
def _alone(out: Path) -> Iterator[int]:
    """Hold the directory: two experiments in it would start the same run twice.

    Raises:
      ValueError: if another experiment holds it.
    """
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"--out={out}: another experiment, or a run that it left behind, is at work there; wait for its end"
            ) from None
        yield file.fileno()


@contextmanager
def _signals() -> Iterator[Child]:
    child = Child()
    before = {s: signal.signal(s, child.note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield child
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
