"""Damaged checkpoints, a disk that takes no more, and NaN in weights and gradients: in processes of their own."""

import os
import shutil
from pathlib import Path

import numpy as np
import processes
import pytest
from safetensors.numpy import load_file, save_file

from camopd_jax.models import export, load


def files(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint that hold arrays, the largest last."""
    return sorted((p for p in checkpoint.rglob("*") if p.is_file() and "/d/" in str(p)), key=lambda p: p.stat().st_size)


def truncated(checkpoint: Path) -> None:
    largest = files(checkpoint)[-1]
    os.truncate(largest, largest.stat().st_size // 2)


def zeroed(checkpoint: Path) -> None:
    largest = files(checkpoint)[-1]
    largest.write_bytes(bytes(largest.stat().st_size))


def swapped(checkpoint: Path) -> None:
    """What another step saved lies there, whole, under this step's number."""
    shutil.rmtree(checkpoint / "default")
    shutil.copytree(checkpoint.parent / "2" / "default", checkpoint / "default")


def deleted(checkpoint: Path) -> None:
    files(checkpoint)[-1].unlink()


DAMAGES = (truncated, zeroed, swapped, deleted)


@pytest.fixture
def copied(shared, expected, tmp_path):
    """A finished run with checkpoints of steps 2 and 4."""
    assert expected["kept"] == [2, 4]
    return Path(shutil.copytree(shared.home / "undisturbed", tmp_path / "run", symlinks=True))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(damage, copied, shared, expected):
    damage(copied / "checkpoints" / "4")
    output = shared.completed(copied)
    assert "going on from the checkpoint at step 2" in output
    assert "checkpoints/4 is damaged" in output, output
    processes.assert_same(copied, expected)


def test_without_a_whole_checkpoint_nothing_is_started_over(copied, shared):
    for step in (2, 4):
        truncated(copied / "checkpoints" / str(step))
    code, output = shared.finish(copied)
    assert code == 2, output
    assert "no whole checkpoint is left" in processes.error_of(output)


LIMITS = {  # where no file may grow beyond some bytes: the fault, and the steps whose checkpoints are whole then
    "save": ({"file_size": 20_000, "from": "camopd_jax.checkpoint:Checkpoints.save", "after_step": 4}, [2]),
    "export": ({"file_size": 20_000, "in": "camopd_jax.models.export:save_file"}, [2, 4]),
    "report": ({"file_size": 20_000, "in": "camopd_jax.report:write"}, [2, 4]),
}


@pytest.mark.parametrize("place", LIMITS)
def test_a_disk_that_takes_no_more_stops_with_one_line_and_keeps_what_was_saved(place, shared, expected, tmp_path):
    fault, whole = LIMITS[place]
    code, output = shared.finish(tmp_path / "run", fault=fault)
    assert code == 1, output
    processes.error_of(output)
    assert processes.kept(tmp_path / "run") == whole
    for step in whole:
        assert processes.state(tmp_path / "run", step) == processes.state(shared.home / "undisturbed", step)
    shared.completed(tmp_path / "run")
    processes.assert_same(tmp_path / "run", expected)


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_update(shared, expected, tmp_path):
    code, output = shared.finish(tmp_path / "run", fault={"nan": "embed", "after_step": 2})
    assert code == 1, output
    said = processes.error_of(output)
    assert "step 3" in said and "branch general" in said
    assert processes.kept(tmp_path / "run") == [2]
    assert processes.state(tmp_path / "run", 2) == processes.state(shared.home / "undisturbed", 2)
    shared.completed(tmp_path / "run")
    processes.assert_same(tmp_path / "run", expected)


def test_a_gradient_that_is_not_finite_is_named_with_its_tensors_and_samples(shared, expected, tmp_path):
    _, output = shared.finish(tmp_path / "run", fault={"nan": "embed"})
    said = processes.error_of(output)
    assert "embed" in said and "prompts.jsonl:" in said


def test_weights_that_are_not_finite_are_refused_before_anything_is_written(shared, tmp_path):
    model = load.load("random:llama")
    ids = dict(stop_ids=model.stop_ids, dtype="float32", shard_bytes=10**9)
    export.save_directory(tmp_path / "model", model.cfg, model.read, model.tokenizer, **ids)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    code, output = shared.finish(tmp_path / "run", f"--config.teachers.domain=path:{tmp_path / 'model'}")
    assert code == 2, output
    assert "model.layers.1.mlp.up_proj.weight" in processes.error_of(output)
    assert not (tmp_path / "run" / "checkpoints").exists()
