"""Clocks, the memory at its fullest, and what was compiled."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from camopd_jax import metrics

_seconds_compiling = 0.0


def _add(event: str, duration: float, **_) -> None:
    global _seconds_compiling
    if event == "/jax/core/compile/backend_compile_duration":
        _seconds_compiling += duration


jax.monitoring.register_event_duration_secs_listener(_add)


def compiled() -> tuple[int, float]:
    """Programs compiled (or loaded from the compilation cache) in this process so far, and the seconds that took."""
    return metrics.compilations(), _seconds_compiling


def interleaved(repeats: int, calls: Sequence[Callable[[], Any]]) -> list[list[float]]:
    """Seconds of each call, `repeats` times in turn, after one time each that is not counted."""
    for call in calls:
        jax.block_until_ready(call())
    seconds = [[] for _ in calls]
    for _ in range(repeats):
        for own, call in zip(seconds, calls, strict=True):
            clock = time.perf_counter()
            jax.block_until_ready(call())
            own.append(time.perf_counter() - clock)
    return seconds


def median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)


def forget_peak() -> None:
    """Let the process's peak begin anew where Linux allows it; an accelerator's cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_memory() -> int:
    """Bytes of the fullest device at its fullest moment; on CPU of the process, files that are mapped included."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if jax.default_backend() != "cpu" and all(stats):
        return max(s["peak_bytes_in_use"] for s in stats)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
