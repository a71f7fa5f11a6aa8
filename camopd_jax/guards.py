"""Guards of a run in flight: what stops it, which update is left out, what a person is told, and where a stall stands.

They are functions of the rows of metrics.jsonl alone, so that a run that goes on decides what an undisturbed one does.
"""

import faulthandler
import json
import math
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from camopd_jax import hosts, metrics
from camopd_jax.finite import spans

ON_SPIKE = ("warn", "skip", "stop")
MEANS = {  # of a warning's name: what it means, and what to do
    "grad_norm": "A gradient far above the usual ones points at odd samples or a rate that is too high: look at the "
    "step's rollouts; guard.on_spike = 'skip' leaves such updates out.",
    "loss": "A loss far above the usual ones points at odd samples or a rate that is too high: look at the step's "
    "data; guard.on_spike = 'skip' leaves such updates out.",
    "w_kept": "The update gives the tokens other probabilities than the sampler did, and those outside of "
    "camopd.weight_band do not train: compare with precision 'float32'; mesh and kernels are the next suspects.",
    "eos_rate": "The others are cut at the length limit and train as they are: raise rollout.max_new_tokens, or see in "
    "the rollouts whether the student repeats itself.",
    "length": "Much shorter, the student may collapse to a set answer; much longer, it may repeat itself or no longer "
    "stop: read the rollouts, and lower optim.learning_rate if they are bad.",
    "entropy": "Hardly any is left where the student always says the same, and then there is little to learn from; "
    "very much is noise: read the rollouts, and lower optim.learning_rate if they are bad.",
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """config.guard, and which figures of a step can have spikes."""

    spiking: tuple[str, ...]
    on_spike: str  # of ON_SPIKE
    spike_factor: float  # times the median of the last updates
    spike_window: int  # updates of that median
    spike_after: int  # updates of a branch before the first that is judged
    steps: int  # of a branch, over which the figures below are averaged
    w_kept: float
    eos_rate: float
    length_ratio: tuple[float, float]
    entropy: float  # nats a token
    entropy_left: float
    stall_seconds: float  # 0: never


OFF = Limits((), "warn", math.inf, 1, 1, 1, 0.0, 0.0, (0.0, math.inf), math.inf, 0.0, 0.0)


def limits_of(c: ConfigDict, surrogate: bool) -> Limits:
    """The limits of config.guard for a stage; the value of a surrogate loss says nothing, its gradient does.

    What a kind of run does not have in config.guard is off.
    """
    return replace(OFF, spiking=("grad_norm",) if surrogate else ("grad_norm", "loss"), **c)


def history(path: Path, step: int) -> list[dict]:
    """The rows of metrics.jsonl up to a step as the writer has them, on every process."""
    rows = metrics.kept_rows(path, step) if hosts.writer() else []
    return json.loads(hosts.from_writer(json.dumps(rows).encode()))


# Spikes


def spikes(figures: Mapping[str, float], branch: str, rows: Sequence[dict], limits: Limits) -> dict[str, str]:
    """In words, by name, the figures of an update that are over spike_factor times their running median.

    The median is that of the branch's last spike_window updates among `rows`, those included that were left out: what
    lasts is a spike no more once it is the half of them.
    """
    found = {}
    before = [row for row in rows if row["branch"] == branch and "micro_steps" in row]
    for name in limits.spiking if len(before) >= limits.spike_after else ():
        usual = statistics.median(row[name] for row in before[-limits.spike_window :])
        if figures[name] > limits.spike_factor * usual > 0:
            found[name] = (
                f"{name} is {figures[name]:.3g}, {figures[name] / usual:.0f} times the median of the updates before"
            )
    return found


# Figures that are watched


def watched(row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The watched figures of a step, by branch; what its branches share is under the name of all of them."""
    found = {branch: _figures(part) for branch, part in row.get("branches", {row["branch"]: row}).items()}
    if "w_kept" in row:
        found.setdefault(row["branch"], {})["w_kept"] = row["w_kept"]
    return found


def _figures(part: Mapping[str, Any]) -> dict[str, float]:
    found = {name: part[name] for name in ("eos_rate", "entropy") if name in part}
    if "eos_rate" in part:  # responses that were sampled, not given
        found["length"] = part["response_tokens"] / part["batch"]
    return found


def warnings(row: dict, rows: Sequence[dict], limits: Limits) -> dict[str, str]:
    """What a person is to be told after a step, in words by BRANCH/NAME; `rows` are those of the steps before.

    A figure is its mean over the branch's last `limits.steps` steps, and is compared with limits or with that of the
    first ones; where there are fewer of them, it is not judged.
    """
    found = {}
    if "micro_steps" in row:
        left = ", so this update is left out" if row.get("skipped") else ""
        for name, words in spikes(row, row["branch"], rows, limits).items():
            found[f"{row['branch']}/{name}"] = words + left
    now = watched(row)
    history_of = [watched(r) for r in (*rows, row)] if now else []
    for branch, figures in now.items():
        for name in figures:
            series = [r[branch][name] for r in history_of if name in r.get(branch, ())]
            if len(series) >= limits.steps:
                first, last = (statistics.fmean(part) for part in (series[: limits.steps], series[-limits.steps :]))
                words = _judged(name, first, last, limits)
                if words:
                    found[f"{branch}/{name}"] = words
    return found


def _judged(name: str, first: float, last: float, limits: Limits) -> str:
    """What is wrong with a figure; "": nothing."""
    if name == "w_kept" and last < limits.w_kept:
        return f"{last:.1%} of the tokens that train have an importance weight inside of camopd.weight_band"
    if name == "eos_rate" and last < limits.eos_rate:
        return f"{last:.1%} of the responses end by themselves"
    if name == "length" and not limits.length_ratio[0] <= last / first <= limits.length_ratio[1]:
        return f"a response has {last:.0f} tokens, {last / first:.2f} times as many as in the branch's first steps"
    if name == "entropy" and last > limits.entropy:
        return f"the entropy is {last:.2f} nats a token"
    if name == "entropy" and last < limits.entropy_left * first:
        return f"the entropy is {last:.2g} nats a token, {last / first:.1%} of that of the branch's first steps"
    return ""


def begun(found: Mapping[str, str], rows: Sequence[dict], step: int) -> list[str]:
    """A line for each warning of a step that the last step before on its branch did not have."""
    lines = []
    for warning, words in found.items():
        branch, _, name = warning.rpartition("/")
        before = next((row for row in reversed(rows) if branch in (row["branch"], *row.get("branches", ()))), {})
        if warning not in before.get("warnings", ()):
            lines.append(f"warning at step {step}, branch {branch}: {words}. {MEANS[name]}")
    return lines


def summary(rows: Sequence[dict]) -> list[dict]:
    """{"branch", "name", "steps", "means"} of each warning of a run, the first one first."""
    found = []
    for warning in dict.fromkeys(w for row in rows for w in row.get("warnings", ())):
        branch, _, name = warning.rpartition("/")
        mine = [row for row in rows if branch in (row["branch"], *row.get("branches", ()))]
        having = [i for i, row in enumerate(mine) if warning in row.get("warnings", ())]
        steps = spans(having, [row["step"] for row in mine])
        found.append({"branch": branch, "name": name, "steps": steps, "means": MEANS[name]})
    return found


def summary_lines(rows: Sequence[dict]) -> list[str]:
    """The warnings of a run for the console."""
    return [f"warning: {w['name']} of {w['branch']} at step {w['steps']}. {w['means']}" for w in summary(rows)]


class Stopped(FloatingPointError):
    """A spike stopped the run, before its update."""


class Watch:
    """What the rows of a run so far ask for in the next step."""

    def __init__(self, limits: Limits, rows: Sequence[dict]):
        self._limits, self._rows = limits, list(rows)

    def left_out(self, figures: Mapping[str, float], branch: str, step: int) -> bool:
        """Whether the update of a step is not made, as it is a spike.

        Raises:
          Stopped: if guard.on_spike is "stop".
        """
        found = spikes(figures, branch, self._rows, self._limits)
        if found and self._limits.on_spike == "stop":
            raise Stopped(
                f"step {step}, branch {branch}: {' and '.join(found.values())}, and guard.on_spike is 'stop'; with "
                "'skip' the run goes on without such updates"
            )
        return bool(found) and self._limits.on_spike == "skip"

    def warn(self, row: dict) -> list[str]:
        """Put the warnings of a step into its row, which is kept, and give a line for each that begins."""
        found = warnings(row, self._rows, self._limits)
        lines = begun(found, self._rows, row["step"])
        row["warnings"] = list(found)
        self._rows.append(row)
        return lines


# Stalls


@contextmanager
def watchdog(workdir: Path, seconds: float, what: str) -> Iterator[Callable[[str], None]]:
    """Where `what` goes on for more than `seconds`, the stacks of all threads go to a file, once.

    Gives now(what), which says that something else begins, for which the time counts anew.

    A line on stderr says where, and the run goes on. The file is stalled-PROCESS.txt of the workdir; where nothing
    stalls there is none. 0 seconds: never.
    """
    if not seconds:
        yield lambda what: None
        return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / f"stalled-{hosts.index()}.txt"
    timer: list[threading.Timer] = []

    def disarm() -> None:
        faulthandler.cancel_dump_traceback_later()
        while timer:
            timer.pop().cancel()

    def say(what: str) -> None:
        tqdm.write(f"{what} takes longer than {seconds:g} s; where it stands is in {path}", file=sys.stderr)

    try:
        with path.open("a", encoding="utf-8") as file:

            def now(what: str) -> None:
                disarm()
                faulthandler.dump_traceback_later(seconds, file=file)  # a thread of C: it needs no lock of Python's
                timer.append(threading.Timer(seconds, say, (what,)))
                timer[0].daemon = True
                timer[0].start()

            try:
                now(what)
                yield now
            finally:
                disarm()
    finally:
        if not path.stat().st_size:
            path.unlink()
