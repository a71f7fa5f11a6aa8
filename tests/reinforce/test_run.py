"""configs/distraction.py:tiny as a user starts it: whole, and killed in the middle and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
TIMING = {"seconds", "seconds_update", "seconds_rollout", "seconds_score", "tokens_per_second", "compilations"}


def start(workdir, cache, *more, config="distraction"):
    env = os.environ | {"CAMOPD_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    env.pop("XLA_FLAGS", None)  # one device, as on a user's machine
    command = [sys.executable, "bin/train.py", f"--config=configs/{config}.py:tiny", f"--workdir={workdir}", *more]
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def rows(file):
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING} for row in found]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    code, output = finish(start(home / "run", home / "cache"))
    assert code == 0, output
    return home, output


def test_a_run_leaves_what_it_promises(undisturbed):
    home, output = undisturbed
    run = home / "run"
    steps = rows(run / "metrics.jsonl")
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert all({"reward", "passed", "groups_flat"} <= row.keys() for row in steps)
    assert all({"reference_kl", "clipped", "sampler_kl"} <= row.keys() for row in steps if row["selected"])
    assert any(row["selected"] for row in steps)
    assert [json.loads(line)["compilations"] for line in (run / "metrics.jsonl").read_text().splitlines()][2:] == [0, 0]
    assert {row["step"] for row in rows(run / "eval.jsonl")} == {0, 2, 4}
    for name in ("config.json", "summary.md", "answers.jsonl", "rollouts.jsonl", "plots/training.png",
                 "train_prompts.jsonl", "heldout_prompts.jsonl", "report.html",
                 "plots/margin.png", "export/model.safetensors"):  # fmt: skip
        assert (run / name).stat().st_size > 0
    evaluation = json.loads((run / "evaluation.json").read_text())
    models = evaluation["models"]
    asked = [row["id"] for row in rows(run / "answers.jsonl") if row["control"] == "distracted"]
    assert [name for name, *_ in evaluation["margins"]] == asked[:12] and asked[12:] == asked[:12]  # of both models
    assert models.keys() == {"start", "trained"}
    for found in models.values():
        assert len(found["passed"]["numerator"]) == len(found["log_rmr"]["numerator"]) == 4  # instances
        assert found["passed"]["denominator"] == [3] * 4  # paradigms
    assert "RMR, geometric mean" in output and "Traceback" not in output


def test_killed_and_started_again_is_the_undisturbed_run_bit_for_bit(undisturbed, tmp_path):
    home, _ = undisturbed
    process, late = start(tmp_path / "run", home / "cache"), time.monotonic() + 240
    while not (tmp_path / "run" / "checkpoints" / "2").exists():
        assert time.monotonic() < late and process.poll() is None, finish(process)
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, output = finish(start(tmp_path / "run", home / "cache"))
    assert code == 0 and "going on from the checkpoint at step 2" in output, output
    for name in ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl", "answers.jsonl"):
        assert rows(tmp_path / "run" / name) == rows(home / "run" / name), name
    assert (tmp_path / "run" / "evaluation.json").read_text() == (home / "run" / "evaluation.json").read_text()
    ours, theirs = (load_file(where / "run" / "export" / "model.safetensors") for where in (tmp_path, home))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    "change, key", [("--config.grpo.group_size=2", "grpo.group_size"), ("--config.seed=1", "seed")]
)
def test_another_config_is_refused_in_one_line(undisturbed, change, key):
    home, _ = undisturbed
    code, output = finish(start(home / "run", home / "cache", change))
    assert code == 2 and output.splitlines()[-1].startswith(f"error: config.{key} = ")
    assert f"--allow_change={key}" in output


def test_the_trained_model_is_a_domain_teacher_of_a_recovery(undisturbed, tmp_path):
    home, _ = undisturbed
    run = home / "run"
    given = {
        "teachers.domain": "export",
        "data.domain.source": "train_prompts.jsonl",
        "data.domain.heldout": "heldout_prompts.jsonl",
    }
    more = [f"--config.{key}=path:{run / name}" for key, name in given.items()]
    code, output = finish(start(tmp_path / "run", home / "cache", *more, "--check", config="robust"))
    assert code == 0, output
    assert "24 rows" in output and "All checks are passed" in output
