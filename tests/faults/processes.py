"""Runs of the short config as processes of their own, with or without a fault, and what is compared of them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import short

from camopd_jax.checkpoint import UNFINISHED
from camopd_jax.models import export

ROOT = Path(__file__).parent.parent.parent
TIMING = ("seconds", "tokens_per_second", "compilations")  # and all that begins with the first
LOGS = ("metrics", "eval", "rollouts", "diagnostics", "answers")
STEPS = 4


class Runs:
    """A directory of runs that share prompts and cache."""

    def __init__(self, home: Path):
        self.home = home
        short.write_prompts(home / "prompts.jsonl")

    def start(self, workdir: Path, *arguments: str, fault: dict | None = None) -> subprocess.Popen:
        env = os.environ | {
            "CAMOPD_CACHE": str(self.home / "cache"),
            "PROMPTS": str(self.home / "prompts.jsonl"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # what compiles quickly is cached as well
        }
        env.pop("XLA_FLAGS", None)  # one device, as on a user's machine
        program = "bin/train.py" if fault is None else "tests/faults/runner.py"
        if fault is not None:
            env["FAULT"] = json.dumps(fault)
        command = [sys.executable, program, "--config=tests/faults/short.py", f"--workdir={workdir}", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def finish(self, workdir: Path, *arguments: str, fault: dict | None = None) -> tuple[int, str]:
        """Exit code and output of a run that is waited for."""
        process = self.start(workdir, *arguments, fault=fault)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def killed(self, workdir: Path, fault: dict) -> None:
        code, output = self.finish(workdir, fault=fault)
        assert code == -signal.SIGKILL, output

    def completed(self, workdir: Path, *arguments: str) -> str:
        """The output of a run that comes to its end."""
        code, output = self.finish(workdir, *arguments)
        assert code == 0, output
        assert "Traceback" not in output
        return output


def error_of(output: str) -> str:
    """The one line of an error."""
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in output, output
    return lines[0]


def untimed(x):
    """A JSON value without what measures time."""
    if isinstance(x, dict):
        return {k: untimed(v) for k, v in x.items() if not k.startswith(TIMING)}
    return [untimed(v) for v in x] if isinstance(x, list) else x


def state(workdir: Path, step: int) -> dict[str, tuple]:
    """Every array of a checkpoint (parameters, moments, step, key), as dtype, shape and bytes."""
    handler = ocp.PyTreeCheckpointer()
    where = (workdir / "checkpoints" / str(step) / "default").absolute()
    tree = handler.metadata(where).item_metadata.tree
    got = handler.restore(where, restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree))
    flat = jax.tree_util.tree_leaves_with_path(got)
    return {jax.tree_util.keystr(path): (x.dtype, x.shape, np.asarray(x).tobytes()) for path, x in flat}


def outcome(workdir: Path) -> dict:
    """All that a run leaves and that must not depend on how often it was stopped."""
    found = {name: [untimed(json.loads(x)) for x in open(workdir / f"{name}.jsonl", encoding="utf-8")] for name in LOGS}
    assert [row["step"] for row in found["metrics"]] == list(range(1, STEPS + 1)), "no gap and no duplicate"
    found["evaluation"] = json.loads((workdir / "evaluation.json").read_text())
    found["export"] = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (workdir / "export").iterdir()}
    found["kept"] = kept(workdir)
    return found | {"state": state(workdir, STEPS)}


def kept(workdir: Path) -> list[int]:
    """The steps that have a whole checkpoint."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def assert_same(workdir: Path, expected: dict) -> None:
    """Every number of the two runs is the same, bit for bit, and nothing half-made lies about."""
    got = outcome(workdir)
    for name in expected:
        assert got[name] == expected[name], name
    assert (workdir / "report.html").stat().st_size > 10_000
    left = [p for p in workdir.rglob("*") if p.name.startswith(export.STAGED) or UNFINISHED in p.name]
    assert not left, left
