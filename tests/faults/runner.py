"""bin/train.py with one fault: python tests/faults/runner.py FLAGS, with FAULT={JSON} in the environment.

{"after_step": N, ...}: the fault waits until the run has made N updates; 0 where it is not named
{"kill": "MODULE:NAME" or "Steps.FIELD", "call": N, "when": "before" | "after"}: SIGKILL at a call
{"rename": TEXT, "call": N}: SIGKILL when a file or directory with TEXT in its name or new name is about to be renamed
{"file_size": BYTES, "in": "MODULE:NAME"}: no file may grow beyond that while a function runs
{"file_size": BYTES, "from": "MODULE:NAME"}: or from a call of it on
{"nan": TENSOR}: the gradient of one tensor is NaN
{"count": FILE}: no fault; how often each function of POINTS is called goes to a file
"""

import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import resource
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from camopd_jax import metrics, recover

POINTS = (
    "camopd_jax.batching:Queue.finish", "camopd_jax.engine:Engine.score", "camopd_jax.camopd.teachers:Teachers.score",
    "Steps.micro", "Steps.apply", "camopd_jax.checkpoint:Checkpoints.save", "camopd_jax.checkpoint:Checkpoints.wait",
    "camopd_jax.metrics:Jsonl.write", "camopd_jax.metrics:put", "camopd_jax.engine:Engine.texts",
    "camopd_jax.camopd.diagnostics:Diagnostics.__call__", "camopd_jax.report:page", "camopd_jax.outcome:write",
)  # fmt: skip

done = 0  # updates that the run has made
_turn = threading.Lock()


def wrapped(point: str, wrap: Callable[[Callable], Callable]) -> None:
    """Put wrap(function) in a function's place."""
    if point.startswith("Steps."):
        field = point.removeprefix("Steps.")

        def around(build):
            def built(*arguments):
                steps = build(*arguments)
                return dataclasses.replace(steps, **{field: wrap(getattr(steps, field))})

            return built

        recover.steps_of, recover.recovery_steps = around(recover.steps_of), around(recover.recovery_steps)
        return
    module, _, name = point.partition(":")
    *owners, name = name.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, name, wrap(getattr(owner, name)))


def count_steps(show: Callable) -> Callable:
    def counted(self, step, figures):
        global done
        show(self, step, figures)
        done = step

    return counted


def nth_call(fault: dict) -> Callable[[], bool]:
    """A function that is true at one call: the fault's, of those after its step."""
    seen = Counter()

    def now() -> bool:
        with _turn:
            seen["calls"] += done >= fault.get("after_step", 0)
            return seen["calls"] == fault.get("call", 1) and done >= fault.get("after_step", 0)

    return now


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(fault: dict) -> Callable[[Callable], Callable]:
    now = nth_call(fault)

    def wrap(function):
        def killed(*arguments, **options):
            if not now():
                return function(*arguments, **options)
            if fault["when"] == "after":
                jax.block_until_ready(function(*arguments, **options))
            die()

        return killed

    return wrap


def kill_at_rename(fault: dict) -> None:
    now = nth_call(fault)

    def hook(event, arguments):
        if event == "os.rename" and any(fault["rename"] in os.fsdecode(p) for p in arguments[:2]) and now():
            die()

    sys.addaudithook(hook)


def limited(fault: dict) -> Callable[[Callable], Callable]:
    def wrap(function):
        def within(*arguments, **options):
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            if done >= fault.get("after_step", 0):
                resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_size"], before[1]))
            try:
                return function(*arguments, **options)
            finally:
                if "in" in fault:
                    resource.setrlimit(resource.RLIMIT_FSIZE, before)

        return within

    return wrap


def poisoned(fault: dict) -> Callable[[Callable], Callable]:
    def wrap(micro):
        def poison(*arguments):
            grads, sums = micro(*arguments)
            if done < fault.get("after_step", 0):
                return grads, sums
            return {**grads, fault["nan"]: grads[fault["nan"]].at[(0,) * grads[fault["nan"]].ndim].set(jnp.nan)}, sums

        return poison

    return wrap


def counting(counts: Counter, point: str) -> Callable[[Callable], Callable]:
    def wrap(function):
        def counted(*arguments, **options):
            with _turn:
                counts[point] += 1
            return function(*arguments, **options)

        return counted

    return wrap


def main() -> int:
    fault, counts = json.loads(os.environ["FAULT"]), Counter()
    metrics.Progress.show = count_steps(metrics.Progress.show)
    if "kill" in fault:
        wrapped(fault["kill"], kill_at(fault))
    if "rename" in fault:
        kill_at_rename(fault)
    if "file_size" in fault:
        wrapped(fault["in"] if "in" in fault else fault["from"], limited(fault))
    if "nan" in fault:
        wrapped("Steps.micro", poisoned(fault))
    for point in POINTS if "count" in fault else ():
        wrapped(point, counting(counts, point))
    spec = importlib.util.spec_from_file_location("train", Path(__file__).parent.parent.parent / "bin" / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    code = train.main(sys.argv)
    if "count" in fault:
        Path(fault["count"]).write_text(json.dumps(counts))
    return code


if __name__ == "__main__":
    sys.exit(main())
