"""Runs of configs/icd.py:tiny as processes of their own, and its config."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMING = ("seconds", "tokens_per_second", "compilations")  # and all that begins with the first


def run(workdir: Path, cache: Path, *flags: str, stop: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code and output; `stop` is the first arguments of stopped.py."""
    env = os.environ | {"CAMOPD_CACHE": str(cache), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # what compiles quickly is cached as well
    env.pop("XLA_FLAGS", None)  # one device, as on a user's machine
    program = ["tests/coding/stopped.py", *stop] if stop else ["bin/train.py"]
    command = [sys.executable, *program, "--config=configs/icd.py:tiny", f"--workdir={workdir}", *flags]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=900)
    return done.returncode, done.stdout + done.stderr


def rows(file: Path) -> list[dict]:
    """Lines of a log, without what measures time."""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(TIMING)} for row in found]


def tiny():
    return runpy.run_path(str(ROOT / "configs" / "icd.py"))["get_config"]("tiny")
