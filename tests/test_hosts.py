"""Two processes with four simulated devices each, against one process with eight: bin/train.py as it is started."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_checkpoint import largest
from test_train import TIMING

from camopd_jax import hosts, lock, resume
from camopd_jax.models import tiny

ROOT = Path(__file__).parent.parent
BLANK = 7  # lines of the file of prompts, counted from 0
SHORT = (
    "--config.mesh.replica=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2",
    "--config.steps=4", "--config.optim.learning_rate=3e-4", "--config.specialise.steps=2",
    "--config.checkpoint.every=2", "--config.eval.every=3", "--config.eval.prompts=4",
    "--config.diagnostics.every=0", "--config.eval.interpolation=()", "--config.eval.instructions=8",
    "--config.eval.general_prompts=4", "--config.eval.domain_prompts=4",
    "--config.eval.max_new_tokens=8", "--config.eval.max_instruction_tokens=8",
)  # fmt: skip


class Run:
    """The processes of a run, which are started at once."""

    def __init__(self, home: Path, name: str, processes: int, *arguments: str, workdir: str = "", cache: str = "cache"):
        self.workdir, self.seen = home / (workdir or name), [home / f"{name}-{i}.json" for i in range(processes)]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.logs, self.processes = [home / f"{name}-{i}.log" for i in range(processes)], []
        for i, log in enumerate(self.logs):
            flags = [f"--coordinator=localhost:{port}", f"--processes={processes}", f"--process={i}"]
            env = os.environ | {
                "CAMOPD_CACHE": str(home / cache.format(i)),
                "SEEN": str(self.seen[i]),
                "PYTHONPATH": str(ROOT),
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // processes}",
            }
            command = [sys.executable, "tests/one_host.py", "--config=configs/medical.py:tiny", *SHORT, *arguments]
            command += [f"--workdir={str(self.workdir).format(i)}", *(flags if processes > 1 else [])]
            with log.open("w") as out:
                self.processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out))

    def codes(self) -> list[int]:
        return [process.wait(timeout=1200) for process in self.processes]

    def wait_for(self, step: int) -> None:
        """Return once the metrics hold a step."""
        file, running = self.workdir / "metrics.jsonl", self.processes
        while not (file.exists() and f'"step": {step},' in file.read_text()):
            assert all(process.poll() is None for process in running), self.output()
            time.sleep(0.02)

    def output(self, process: int = 0) -> str:
        return self.logs[process].read_text()

    def done(self) -> "Run":
        assert not any(self.codes()), "\n".join(map(self.output, range(len(self.processes))))
        return self

    def rows(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.workdir / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("hosts")
    lines = [json.dumps({"prompt": f"Say the number {i}."}) for i in range(40)]
    lines[BLANK] = ""
    (home / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    return home


@pytest.fixture(scope="module")
def arguments(home):
    return (f"--config.data.general.source=path:{home / 'prompts.jsonl'}",)


@pytest.fixture(scope="module")
def one(home, arguments):
    return Run(home, "one", 1, *arguments, cache="cache-of-one").done()


@pytest.fixture(scope="module")
def two(home, arguments):
    """Without a file system that both share, but for the workdir: each has a cache of its own."""
    return Run(home, "two", 2, *arguments, cache="cache-{}").done()


def test_the_rows_of_two_hosts_are_disjoint_and_together_complete(home, one, two):
    whole, *parts = (json.loads(path.read_text()) for path in (*one.seen, *two.seen))
    assert len(whole["read"]) == 39 and len(whole["tokenised"]) > 6
    lines = [{int(where.rpartition(":")[2]) - 1 for where in part["read"]} for part in parts]
    assert lines == [set(range(0, 40, 2)), set(range(1, 40, 2)) - {BLANK}]
    for texts, first, second in zip(whole["tokenised"], *(part["tokenised"] for part in parts), strict=True):
        assert (first, second) == (texts[::2], texts[1::2])


def test_two_processes_do_what_one_does(one, two):
    expected, got = one.rows("metrics.jsonl"), two.rows("metrics.jsonl")
    assert [r["step"] for r in got] == [r["step"] for r in expected] == list(range(1, 5))
    assert_losses(expected, got)
    for a, b in zip(expected, got, strict=True):
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-5)
        assert (b["selected"], b["response_tokens"]) == (a["selected"], a["response_tokens"])
    for a, b in zip(one.rows("eval.jsonl"), two.rows("eval.jsonl"), strict=True):
        assert b == a | {"value": pytest.approx(a["value"], rel=1e-4), "stderr": pytest.approx(a["stderr"], rel=1e-4)}
    assert_weights(one.workdir, two.workdir, 1e-6)
    expected, got = (next(run.workdir.glob("specialise/*")).name for run in (one, two))
    assert got == expected
    assert_losses(*(run.rows(f"specialise/{got}/metrics.jsonl") for run in (one, two)))
    records = [json.loads((run.workdir / "config.json").read_text()) for run in (one, two)]
    assert records[0]["data"] == records[1]["data"]


def assert_losses(expected: list[dict], got: list[dict]) -> None:
    """Equal to 1e-6 of themselves; where student and teacher are still nearly one, of the log-probabilities.

    The loss is made of the difference of the two, which then is as small as the rounding of each.
    """
    for a, b in zip(expected, got, strict=True):
        near = a["branch"] == "domain"
        assert abs(a["loss"]) > (1e-3 if near else 0.1)
        tolerance = 1e-6 * (np.log(tiny.CONFIG.vocab_size) if near else abs(a["loss"]))
        assert b["loss"] == pytest.approx(a["loss"], rel=0, abs=tolerance), a["step"]


def assert_weights(a: Path, b: Path, tolerance: float) -> None:
    expected, got = (load_file(path / "export" / "model.safetensors") for path in (a, b))
    for name, weight in expected.items():
        assert np.linalg.norm(got[name] - weight) <= tolerance * np.linalg.norm(weight), name


def test_one_process_alone_writes_and_speaks(home, two):
    for words in ("medical:tiny", "recover 1/4", "evaluating:", "Done in"):
        assert words in two.output(0) and words not in two.output(1)
    assert (home / "cache-0" / "evaluations").is_dir() and not (home / "cache-1" / "evaluations").exists()
    assert any((home / "cache-0" / "checked").iterdir()) and not (home / "cache-1" / "checked").exists()
    assert len(list((home / "cache-1" / "specialised").iterdir())) == 1  # each host reads the teacher from its own disk


def assert_same(run: Run, expected: Run) -> None:
    for name in ("metrics.jsonl", "eval.jsonl"):
        a, b = ([{k: v for k, v in row.items() if k not in TIMING} for row in r.rows(name)] for r in (expected, run))
        assert b == a, name
    assert_weights(expected.workdir, run.workdir, 0)


def test_sigterm_to_one_of_them_saves_one_step_on_both_and_one_or_two_go_on(home, arguments, two):
    run = Run(home, "stopped", 2, *arguments, cache="cache-{}")
    run.wait_for(2)
    run.processes[1].send_signal(signal.SIGTERM)
    assert run.codes() == [143, 143], run.output() + run.output(1)
    step = int(re.search(r"stopped by SIGTERM at step (\d+); the state is saved", run.output()).group(1))
    assert max(int(p.name) for p in (run.workdir / "checkpoints").iterdir()) == step == len(run.rows("metrics.jsonl"))
    shutil.copytree(run.workdir, home / "alone", symlinks=True)
    again = Run(home, "again", 2, *arguments, workdir="stopped", cache="cache-{}").done()
    assert f"going on from the checkpoint at step {step}" in again.output()
    assert_same(again, two)
    alone = Run(home, "alone-again", 1, *arguments, workdir="alone", cache="cache-0").done()
    assert_losses(two.rows("metrics.jsonl"), alone.rows("metrics.jsonl"))
    assert_weights(two.workdir, alone.workdir, 1e-6)


@pytest.mark.parametrize("victim", [1, 0])
def test_a_host_that_dies_ends_the_other_with_a_message_and_the_checkpoint_is_whole(home, arguments, two, victim):
    run = Run(home, f"killed-{victim}", 2, *arguments, cache="cache-{}")
    run.wait_for(3)
    run.processes[victim].kill()
    clock = time.monotonic()
    code = run.codes()[1 - victim]
    assert time.monotonic() - clock < 60
    said = run.output(1 - victim)
    assert code in (1, -signal.SIGABRT), said
    assert "another process" in said if code == 1 else "another task died" in said
    assert "Traceback" not in said
    if victim == 1:
        again = Run(home, "killed-again", 2, *arguments, workdir=f"killed-{victim}", cache="cache-{}").done()
        assert "going on from the checkpoint at step" in again.output()
        assert_same(again, two)


def test_a_mistake_that_one_host_meets_ends_both_with_its_line(home):
    lines = [json.dumps({"prompt": f"Say the number {i}."}) for i in range(12)]
    lines[5], lines[8] = '{"prompt": 5}', '{"prompt": ""}'  # of process 1 and of process 0
    (home / "bad.jsonl").write_text("\n".join(lines) + "\n")
    (home / "cache-that-is-a-file-1").write_text("")
    source = f"--config.data.general.source=path:{home / 'bad.jsonl'}"
    for name, extra, cache, says in (
        ("bad-row", (source,), "cache-{}", "bad.jsonl:6: prompt is a number"),
        ("bad-cache", (), "cache-that-is-a-file-{}", "CAMOPD_CACHE: the cache"),
        ("own-disk-{}", (), "cache-{}", "not all hosts see what is written there"),
    ):
        run = Run(home, name, 2, *extra, cache=cache)
        assert run.codes() == [2, 2]
        for process in (0, 1):
            errors = [line for line in run.output(process).splitlines() if line.startswith("error: ")]
            assert len(errors) == 1 and says in errors[0]
        assert not run.workdir.exists()


def test_both_are_refused_a_workdir_that_is_taken_and_both_go_on_before_a_damaged_checkpoint(home, arguments, two):
    workdir = Path(shutil.copytree(two.workdir, home / "damaged", symlinks=True))
    file = largest(workdir / "checkpoints" / "4" / "default")
    file.write_bytes(bytes(file.stat().st_size))
    held = lock.take(workdir / resume.LOCK, "")
    refused = Run(home, "refused", 2, *arguments, workdir="damaged", cache="cache-{}")
    assert refused.codes() == [2, 2]
    for process in (0, 1):
        errors = [line for line in refused.output(process).splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "another run is going on there" in errors[0]
    held.release()
    again = Run(home, "goes-on", 2, *arguments, workdir="damaged", cache="cache-{}").done()
    assert "the run goes on from step 2 and does steps 3 to 4 again" in again.output()
    assert "going on from the checkpoint at step 2" in again.output() and not again.output(1).count(
        "WARNING: the check"
    )
    assert_same(again, two)


@pytest.mark.parametrize(
    "environment, several",
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, False),  # sbatch without srun: one process
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, True),
    ],
)
def test_only_what_plainly_starts_several_processes_is_taken_for_it(environment, several):
    assert hosts.started_by_cluster(environment) == several
