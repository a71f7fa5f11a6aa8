"""bin/train.py as a user starts it: the tiny preset whole, killed and resumed, stopped by a signal."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parent.parent
TIMING = {"seconds", "seconds_update", "seconds_rollout", "seconds_score", "tokens_per_second", "compilations"}


def start(workdir, cache, *arguments, config="configs/medical.py:tiny"):
    env = os.environ | {"CAMOPD_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    env.pop("XLA_FLAGS", None)  # one device, as on a user's machine
    command = [sys.executable, "bin/train.py", f"--config={config}", f"--workdir={workdir}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def wait_for(workdir, step, files="metrics.jsonl"):
    """Return once the metrics hold `step`."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if any(f'"step": {step},' in path.read_text() for path in workdir.glob(files)):
            return
        time.sleep(0.02)
    raise TimeoutError(f"step {step} did not come")


def records(workdir):
    def rows(name):
        lines = (workdir / name).read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in TIMING} for line in lines]

    return rows("metrics.jsonl"), rows("eval.jsonl"), load_file(workdir / "export" / "model.safetensors")


def assert_same(a, b):
    assert a[0] == b[0]
    assert a[1] == b[1]
    assert a[2].keys() == b[2].keys()
    for name in a[2]:
        np.testing.assert_array_equal(a[2][name], b[2][name])


def of_children() -> float:
    """CPU seconds of the processes that have ended: unlike the clock's, the same beside other work."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    before = of_children()
    code, output = finish(start(home / "run", home / "cache"))
    assert code == 0, output
    return home, output, of_children() - before


def test_tiny_leaves_what_it_promises_within_90_seconds(undisturbed):
    home, output, seconds = undisturbed
    assert 5 < seconds < 2 * 90  # two cores
    run = home / "run"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps] == list(range(1, 9))
    assert [s["branch"] for s in steps] == ["general", "general", "general", "domain"] * 2
    assert all(s["compilations"] == 0 for s in steps[4:]), "something compiled after the first cycle"
    for name in ("config.json", "summary.md", "plots/recovery.png", "plots/gaps.png", "export/config.json"):
        assert (run / name).stat().st_size > 0
    assert (run / "specialised" / "model.safetensors").exists()
    assert "recovery of reverse KL" in output
    assert "Traceback" not in output


def test_the_newest_step_is_what_the_run_exported_and_another_one_is_not(undisturbed, tmp_path):
    home, _, _ = undisturbed
    for step, same in (("8", True), ("6", False)):
        command = [sys.executable, "bin/export.py", home / "run", f"--out={tmp_path / step}", f"--step={step}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        ours, runs = (load_file(d / "model.safetensors") for d in (tmp_path / step, home / "run" / "export"))
        assert ours.keys() == runs.keys()
        assert all(np.array_equal(ours[name], runs[name]) for name in ours) == same


def test_a_second_run_reuses_teacher_and_evaluations_and_agrees(undisturbed, tmp_path):
    home, _, _ = undisturbed
    code, output = finish(start(tmp_path / "run", home / "cache"))
    assert code == 0, output
    assert "from the cache" in output
    assert "evaluating: general teacher" not in output
    assert_same(records(tmp_path / "run"), records(home / "run"))


@pytest.mark.parametrize("step", [1, 5])  # before the first checkpoint, and between two
def test_kill_9_and_restart_is_bit_identical(undisturbed, tmp_path, step):
    home, _, _ = undisturbed
    process = start(tmp_path / "run", home / "cache")
    wait_for(tmp_path / "run", step)
    process.kill()
    process.communicate()
    code, output = finish(start(tmp_path / "run", home / "cache"))
    assert code == 0, output
    assert ("going on from the checkpoint at step" in output) == (step > 1)
    assert_same(records(tmp_path / "run"), records(home / "run"))


def test_sigterm_in_the_specialisation_saves_and_resumes(undisturbed, tmp_path):
    home, _, _ = undisturbed
    process = start(tmp_path / "run", tmp_path / "cache")
    wait_for(tmp_path / "run", 1, "specialise/*/metrics.jsonl")
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 128 + signal.SIGTERM, output
    assert "the state is saved" in output and "Traceback" not in output
    code, output = finish(start(tmp_path / "run", tmp_path / "cache"))
    assert code == 0, output
    assert "specialise: going on from the checkpoint" in output
    assert_same(records(tmp_path / "run"), records(home / "run"))


def test_a_run_that_diverges_stops_and_names_step_and_branch(undisturbed, tmp_path):
    home, _, _ = undisturbed
    code, output = finish(start(tmp_path / "run", home / "cache", "--config.optim.learning_rate=1e38"))
    assert code == 1, output
    assert "error: step" in output and "branch general" in output and "Traceback" not in output


def test_help_says_how_to_use_it():
    done = subprocess.run([sys.executable, "bin/train.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--config=configs/medical.py" in done.stdout and "--workdir" in done.stdout


OWN = (  # adapters, half precision, a third branch, and a user's prompts
    "--config.lora.rank=4",
    "--config.precision=bfloat16",
    "--config.steps=6",
    "--config.checkpoint.every=3",
    "--config.eval.instructions=2",
    "--config.data.heldout_share=0.2",
)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A whole run of another kind, on prompts of its own."""
    home = tmp_path_factory.mktemp("own")
    rows = [json.dumps({"prompt": f"Say the number {i}.", "answer": str(i)}) for i in range(50)]
    (home / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    source = f"--config.data.second.source=path:{home / 'prompts.jsonl'}"
    arguments = (*OWN, source, "--config.data.second.count=0")
    code, output = finish(start(home / "run", home / "cache", *arguments, config="configs/medical.py:three"))
    assert code == 0, output
    return home, arguments, output


def test_adapters_a_third_branch_and_own_prompts_make_a_whole_run(own):
    home, _, output = own
    run = home / "run"
    steps, _, weights = records(run)
    assert [s["branch"] for s in steps] == ["general", "general", "domain", "second", "general", "general"]
    assert "path:" in output and "50 rows, 40 to train on" in output and "second retention" in output
    assert (run / "specialised" / "adapter_model.safetensors").exists()
    base = load_file(ROOT / "tests" / "golden" / "llama" / "model.safetensors").keys()
    assert not any("lora" in name for name in weights) and any(name in base for name in weights)


def test_a_run_with_adapters_is_killed_and_resumed_bit_for_bit(own, tmp_path):
    home, arguments, _ = own
    process = start(tmp_path / "run", home / "cache", *arguments, config="configs/medical.py:three")
    wait_for(tmp_path / "run", 4)
    process.kill()
    process.communicate()
    code, output = finish(start(tmp_path / "run", home / "cache", *arguments, config="configs/medical.py:three"))
    assert code == 0, output
    assert "going on from the checkpoint at step 3" in output
    assert_same(records(tmp_path / "run"), records(home / "run"))


def test_a_run_with_another_name_for_a_branch_takes_nothing_wrong_from_the_same_cache(undisturbed, tmp_path):
    config = tmp_path / "renamed.py"
    text = (ROOT / "configs" / "medical.py").read_text()
    config.write_text(text.replace("c.teachers.domain", "c.teachers.law").replace("c.data.domain", "c.data.law")
                      .replace("demand.domain", "demand.law").replace("rho.domain", "rho.law")
                      .replace("scale.domain", "scale.law").replace('"domain"', '"law"'))  # fmt: skip
    code, output = finish(start(tmp_path / "run", undisturbed[0] / "cache", config=f"{config}:tiny"))
    assert code == 0, output
    assert "law teacher: from the cache" in output and "law retention" in output
    got, expected = records(tmp_path / "run"), records(undisturbed[0] / "run")
    for name in got[2]:
        np.testing.assert_array_equal(got[2][name], expected[2][name])
