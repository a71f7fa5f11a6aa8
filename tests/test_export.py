"""bin/export.py: any kept step of a run, or a model source, becomes a directory that loads; mistakes are one line."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_checkpoint import largest

from camopd_jax import inputs, lock, metrics, recover, resume, saved, scoring, sums
from camopd_jax.checkpoint import Checkpoints
from camopd_jax.models import decoder, load
from camopd_jax.models.weights import WHOLE, merged, of_params
from camopd_jax.sft import objective
from camopd_jax.step import make_optimizer
from camopd_jax.student import Student, steps_of

ROOT = Path(__file__).parent.parent


def imported(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


main = imported(ROOT / "bin" / "export.py").main
medical = imported(ROOT / "configs" / "medical.py")


def make_run(workdir, rank, saved):
    """What a run leaves that has saved its state at these steps and kept two; its students by step."""
    config = medical.get_config("tiny")
    config.lora.rank = rank
    config.checkpoint.keep_last, config.checkpoint.keep_best = 2, 0
    workdir.mkdir()
    models, engine = inputs.open_models(config)
    metrics.write_config(workdir, config, {n: [m.source, m.fingerprint] for n, m in models.items()}, {}, [])
    student = Student(engine, inputs.base_of(config, models))
    steps = steps_of(config, student, objective, make_optimizer(**config.optim, decay_steps=0), 1.0, scoring.score)
    states = {}
    with recover.checkpoints_of(config, workdir) as checkpoints:
        for step in saved:
            params = jax.tree.map(lambda x, n=step: x + n / 100, student.fresh(0))
            read = merged(student.base.read, params, engine.cfg.lora) if rank else of_params(params)
            states[step] = {(n, i): read(n, i, WHOLE) for n, i, _ in decoder.tensors_of(engine.cfg)}
            checkpoints.save(replace(steps.init(params, jax.random.key(0)), step=jnp.int32(step)), step)
            checkpoints.wait()
    return states


@pytest.fixture(scope="module", params=[0, 4], ids=["all weights", "adapter"])
def run(request, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    return workdir, make_run(workdir, request.param, (2, 4, 6))


def assert_holds(directory, expected, dtype="float32"):
    model = load.load(f"path:{directory}")
    for (name, layer), tensor in expected.items():
        got = model.read(name, layer, WHOLE)
        np.testing.assert_array_equal(got, tensor.astype(jnp.dtype(dtype)), strict=True)
    return model


def line_of(capsys, arguments):
    """What a mistake prints: one line on stderr, with exit code 2."""
    capsys.readouterr()
    assert main(["export.py", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    "flags, step, dtype",
    [([], 6, "float32"), (["--step=4"], 4, "float32"), (["--step=4", "--dtype=bfloat16"], 4, "bfloat16")],
)
def test_a_kept_step_is_exported(run, tmp_path, capsys, flags, step, dtype):
    workdir, states = run
    writing = workdir / "checkpoints" / "8.orbax-checkpoint-tmp-0"  # by the run itself, which goes on
    writing.mkdir(exist_ok=True)
    assert main(["export.py", str(workdir), f"--out={tmp_path / 'out'}", *flags]) == 0
    assert f"step {step} of {workdir}" in capsys.readouterr().out
    assert_holds(tmp_path / "out", states[step], dtype)
    assert writing.exists()


def test_a_step_that_was_not_kept_is_refused_with_those_that_were(run, tmp_path, capsys):
    for step in (2, 5, 0, 8):
        message = line_of(capsys, [run[0], f"--out={tmp_path / 'out'}", f"--step={step}"])
        assert f"--step={step}" in message and "4, 6" in message
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_checkpoint_says_so(run, tmp_path, capsys):
    empty = tmp_path / "run"
    (empty / "checkpoints").mkdir(parents=True)
    (empty / "config.json").write_text((run[0] / "config.json").read_text())
    assert "no finished checkpoint" in line_of(capsys, [empty, f"--out={tmp_path / 'out'}"])
    (empty / "config.json").write_text("{}")
    assert "no record of a run" in line_of(capsys, [empty, f"--out={tmp_path / 'out'}"])


def test_a_damaged_step_is_refused_and_nothing_there_is_changed(run, tmp_path, capsys):
    damaged = Path(shutil.copytree(run[0], tmp_path / "run"))
    file = largest(damaged / "checkpoints" / "6" / "default")
    file.write_bytes(bytes(file.stat().st_size))
    before = {p: p.read_bytes() for p in damaged.rglob("*") if p.is_file()}
    said = line_of(capsys, [damaged, f"--out={tmp_path / 'out'}"])
    assert f"the checkpoint of step 6 is damaged (the contents of {file.relative_to(damaged / 'checkpoints/6')}" in said
    assert "take --step=4" in said
    assert main(["export.py", str(damaged), f"--out={tmp_path / 'four'}", "--step=4"]) == 0
    assert_holds(tmp_path / "four", run[1][4], "float32")
    assert {p: p.read_bytes() for p in damaged.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("while_", ["compared", "read"])
def test_a_step_that_the_run_removes_meanwhile_is_not_called_damaged(run, tmp_path, capsys, monkeypatch, while_):
    live = Path(shutil.copytree(run[0], tmp_path / "run"))
    monkeypatch.setattr(saved, "REMOVED_SECONDS", 0)
    owner, name = {"compared": (sums, "damage"), "read": (Checkpoints, "params")}[while_]
    real = getattr(owner, name)

    def late(*arguments, **named):
        shutil.rmtree(live / "checkpoints" / "4")
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, late)
    said = line_of(capsys, [live, f"--out={tmp_path / 'out'}", "--step=4"])
    assert "the run has just removed its checkpoint of step 4; it has kept the steps 6" in said


def test_a_run_of_an_older_version_is_exported_while_a_run_has_the_workdir(run, tmp_path):
    older = Path(shutil.copytree(run[0], tmp_path / "run"))
    record = json.loads((older / "config.json").read_text())
    kept = ("teachers", "student", "lora", "precision")
    record = {"config": {key: record["config"][key] for key in kept}, "models": record["models"]}
    (older / "config.json").write_text(json.dumps(record))
    held = lock.take(older / resume.LOCK, "")
    assert main(["export.py", str(older), f"--out={tmp_path / 'out'}"]) == 0
    held.release()
    assert_holds(tmp_path / "out", run[1][6], "float32")


def test_a_model_source_is_exported(tmp_path, capsys):
    assert main(["export.py", "random:llama", f"--out={tmp_path / 'a' / 'out'}", "--dtype=bfloat16"]) == 0
    assert f"random:llama is in {tmp_path / 'a' / 'out'}" in capsys.readouterr().out
    source = load.load("random:llama")
    expected = {(n, i): source.read(n, i, WHOLE) for n, i, _ in decoder.tensors_of(source.cfg)}
    assert assert_holds(tmp_path / "a" / "out", expected, "bfloat16").stop_ids == source.stop_ids


def test_mistakes_are_one_line(tmp_path, capsys):
    out = f"--out={tmp_path / 'out'}"
    assert "one run or model source" in line_of(capsys, [out])
    assert "one run or model source" in line_of(capsys, ["random:llama", "random:llama", out])
    assert "--out is missing" in line_of(capsys, ["random:llama"])
    assert "--step=3: random:llama is not the workdir of a run" in line_of(capsys, ["random:llama", out, "--step=3"])
    assert "allowed are" in line_of(capsys, ["random:gpt", out])
    assert "neither a workdir" in line_of(capsys, [tmp_path / "no_run", out])
    assert "float16" in line_of(capsys, ["random:llama", out, "--dtype=float16"])
    assert "sooner" in line_of(capsys, ["random:llama", out, "--sooner"])
    (tmp_path / "out").mkdir()
    assert "is there already" in line_of(capsys, ["random:llama", out])
    assert list((tmp_path / "out").iterdir()) == []
    assert main(["export.py", "--help"]) == 0
    assert "SOURCE_OR_RUN" in capsys.readouterr().out


def test_the_tokenizer_names_a_class_that_transformers_4_knows(tmp_path):
    assert main(["export.py", "random:llama", f"--out={tmp_path / 'm'}"]) == 0
    written = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
