"""A run that is killed anywhere and started again ends as if nothing had been: bit for bit, in processes of its own."""

import json
import random
import signal
import subprocess
import time

import processes
import pytest
import runner

BEFORE, AFTER = {"call": 1, "when": "before"}, {"call": 1, "when": "after"}
NAMED = {  # the point: the fault, and the step from which the next run goes on (0: from the start)
    "sampling": ({"kill": "camopd_jax.batching:Queue.finish", "after_step": 3} | BEFORE, 2),
    "scoring": ({"kill": "camopd_jax.camopd.teachers:Teachers.score", "after_step": 1} | AFTER, 0),
    "update": ({"kill": "Steps.apply", "after_step": 2} | AFTER, 2),
    "save": ({"rename": "checkpoint-tmp", "after_step": 4}, 2),
    "evaluation": ({"kill": "camopd_jax.engine:Engine.texts", "after_step": 4} | AFTER, 4),
    "report": ({"rename": "report.html", "after_step": 4}, 4),
}


def assert_goes_on(output: str, step: int) -> None:
    assert ("going on from the checkpoint at step" in output) == (step > 0), output
    assert not step or f"going on from the checkpoint at step {step}" in output


@pytest.mark.parametrize("point", NAMED)
def test_killed_at_a_named_point_and_started_again(point, shared, expected, tmp_path):
    fault, step = NAMED[point]
    workdir = tmp_path / "run"
    shared.killed(workdir, fault)
    if point == "save":
        assert list((workdir / "checkpoints").glob("4*tmp*")), "it was not in the middle of saving"
    assert not (workdir / "report.html").exists()
    assert_goes_on(shared.completed(workdir), step)
    processes.assert_same(workdir, expected)


@pytest.fixture(scope="session")
def course(shared, expected, tmp_path_factory):
    """How long a run takes, and how often it calls each function at which it can be killed."""
    workdir = tmp_path_factory.mktemp("course")
    clock = time.monotonic()
    code, output = shared.finish(workdir / "run", fault={"count": str(workdir / "counts.json")})
    assert code == 0, output
    processes.assert_same(workdir / "run", expected)
    counts = json.loads((workdir / "counts.json").read_text())
    assert set(counts) == set(runner.POINTS)
    return time.monotonic() - clock, counts


def random_fault(draw: random.Random, counts: dict[str, int]) -> dict:
    point = draw.choice(runner.POINTS)
    return {"kill": point, "call": draw.randint(1, counts[point]), "when": draw.choice(("before", "after"))}


def stop(shared, workdir, draw: random.Random, course: float, signum: int) -> tuple[int, str]:
    """Send a signal at a random time of the course of a run, unless it has come to its end by then."""
    seconds = draw.uniform(0.3, 1.0) * course
    process = shared.start(workdir)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signum)
        output, _ = process.communicate(timeout=300)
    print(f"{seconds:.2f} s of {course:.2f}: exit code {process.returncode}\n{output}")
    return process.returncode, output


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_a_random_call_of_a_random_function(seed, shared, expected, course, tmp_path):
    fault = random_fault(random.Random(seed), course[1])
    print(fault)
    shared.killed(tmp_path / "run", fault)
    shared.completed(tmp_path / "run")
    processes.assert_same(tmp_path / "run", expected)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_a_random_time(seed, shared, expected, course, tmp_path):
    code, _ = stop(shared, tmp_path / "run", random.Random(100 + seed), course[0], signal.SIGKILL)
    assert code in (0, -signal.SIGKILL)
    shared.completed(tmp_path / "run")
    processes.assert_same(tmp_path / "run", expected)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(3))
def test_killed_three_times(seed, shared, expected, course, tmp_path):
    draw = random.Random(200 + seed)
    for _ in range(3):
        fault = random_fault(draw, course[1])  # a run that goes on makes fewer calls, and may come to its end
        print(fault)
        code, output = shared.finish(tmp_path / "run", fault=fault)
        assert code in (0, -signal.SIGKILL), output
    shared.completed(tmp_path / "run")
    processes.assert_same(tmp_path / "run", expected)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(6))
def test_sigterm_at_a_random_time(seed, shared, expected, course, tmp_path):
    code, output = stop(shared, tmp_path / "run", random.Random(300 + seed), course[0], signal.SIGTERM)
    assert code in (0, 128 + signal.SIGTERM, -signal.SIGTERM)  # outside the training there is nothing to save
    assert ("the state is saved" in output) == (code == 128 + signal.SIGTERM)
    shared.completed(tmp_path / "run")
    processes.assert_same(tmp_path / "run", expected)
