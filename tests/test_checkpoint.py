"""Checkpoints: the sums of their files are in them before they have their name, and tell every damage."""

import json
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from camopd_jax import shown, sums
from camopd_jax.checkpoint import UNFINISHED, Checkpoints
from camopd_jax.types import TrainState

KEEP = {"keep_last": 3, "keep_best": 1, "best_metric": "kl"}


def state_of(step: int) -> TrainState:
    params = {"w": jax.random.normal(jax.random.key(7), (600_000,)), "v": jnp.full(3, float(step))}
    return TrainState(params, {"m": jnp.ones(4)}, jnp.int32(step), jax.random.key(step))


def abstract() -> TrainState:
    here = SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: state_of(0))
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), shapes)


def save(directory: Path, *steps: int) -> None:
    with Checkpoints(directory, **KEEP) as checkpoints:
        for step in steps:
            checkpoints.save(state_of(step), step, {"kl": 1.0})


@contextmanager
def files_of_at_most(size: int):
    """A limit of this process; the system then refuses to write more, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    save(directory, 2, 4)
    return directory


@pytest.fixture
def newest(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "checkpoints")) / "4"


def largest(directory: Path) -> Path:
    return max(directory.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else -1)


def test_a_checkpoint_holds_the_sums_of_all_that_it_is_read_from(newest):
    record = json.loads((newest / sums.FILE).read_text())
    assert record["step"] == 4
    there = {p.relative_to(newest).as_posix() for p in newest.rglob("*") if p.is_file()}
    assert there - record["files"].keys() == {sums.FILE, *sums.LATER}
    assert "metrics/metrics" in record["files"] and sums.damage(newest, quick=False) is None
    for name in sums.LATER:  # Orbax goes without these
        (newest / name).unlink()
    with Checkpoints(newest.parent, **KEEP) as checkpoints:
        assert checkpoints.latest() == 4
        np.testing.assert_array_equal(checkpoints.restore(abstract()).params["v"], [4, 4, 4])


def test_the_sums_are_there_before_the_name(tmp_path, monkeypatch):
    seen = []

    def write(directory, step):
        seen.append((directory.name, step, sorted(p.name for p in tmp_path.iterdir())))
        real(directory, step)

    real = sums.write
    monkeypatch.setattr(sums, "write", write)
    save(tmp_path, 1, 2)
    names = [f"{i}{UNFINISHED}" for i in (1, 2)]
    assert seen == [(names[0], 1, [names[0]]), (names[1], 2, ["1", names[1]])]


def every_file(directory: Path) -> list[str]:
    return sorted(json.loads((directory / sums.FILE).read_text())["files"])


@pytest.mark.parametrize("how", ["gone", "truncated", "zeroed", "one bit"])
def test_damage_of_any_file_is_seen_and_named(newest, how):
    for name in every_file(newest):
        file = newest / name
        whole = file.read_bytes()
        if how == "gone":
            file.unlink()
        else:
            bit = bytes([whole[0] ^ 1]) + whole[1:]
            file.write_bytes({"truncated": whole[:-1], "zeroed": bytes(len(whole)), "one bit": bit}[how])
        assert name in sums.damage(newest, quick=False)
        file.write_bytes(whole)
    assert sums.damage(newest, quick=False) is None


def test_files_and_whole_checkpoints_of_another_step_are_told_apart(newest):
    other = newest.parent / "2"
    assert every_file(other) != every_file(newest)  # data files have names of their own
    for name in ("default/manifest.ocdbt", "default/ocdbt.process_0/manifest.ocdbt"):
        whole = (newest / name).read_bytes()
        shutil.copy(other / name, newest / name)
        assert name in sums.damage(newest, quick=False)
        (newest / name).write_bytes(whole)
    other.rename(newest.parent / "6")
    assert sums.damage(newest.parent / "6", quick=False) == "it is the checkpoint of step 2"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"step": 4}', '{"step": 4, "files": {"a": 1}}', '{"step": 4, "files": 3}']
)
def test_sums_that_cannot_be_read_are_damage(newest, text):
    (newest / sums.FILE).write_text(text)
    assert sums.damage(newest, quick=False) == f"{sums.FILE} cannot be read"


def test_a_checkpoint_without_sums_is_of_an_older_version_and_needs_its_main_files(newest):
    (newest / sums.FILE).unlink()
    assert sums.damage(newest, quick=False) == "sha256.json is missing", "step 2 has them, so that step 4 had them"
    (newest.parent / "2" / sums.FILE).unlink()
    assert sums.damage(newest, quick=False) is None
    (newest / "default" / "manifest.ocdbt").write_bytes(b"")
    assert sums.damage(newest, quick=False) == "default/manifest.ocdbt is missing or empty"


def test_a_quick_comparison_reads_small_files_alone(newest):
    data = largest(newest)
    whole = data.read_bytes()
    data.write_bytes(bytes(len(whole)))
    assert len(whole) > sums.SMALL and sums.damage(newest, quick=True) is None
    assert data.name in sums.damage(newest, quick=False)
    data.write_bytes(whole[:-1])
    assert data.name in sums.damage(newest, quick=True)
    data.write_bytes(whole)
    (newest / "metrics" / "metrics").write_text('{"kl": 2.0}')
    assert "metrics/metrics" in sums.damage(newest, quick=True)


def test_what_does_not_fit_is_an_error_and_the_checkpoints_before_it_stay_whole(tmp_path):
    save(tmp_path, 2)
    with pytest.raises(OSError, match="the checkpoint of step 4 could not be written: File too large") as error:
        with Checkpoints(tmp_path, **KEEP) as checkpoints, files_of_at_most(1 << 20):
            checkpoints.save(state_of(4), 4, {"kl": 1.0})
            checkpoints.wait()
    assert error.value.errno == 27
    assert not (tmp_path / "4").exists() and sums.damage(tmp_path / "2", quick=False) is None
    save(tmp_path, 4)  # the rest of it is in nobody's way
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "4"]


def test_what_the_other_arrays_say_when_one_does_not_fit_is_not_shown(capsys):
    def unraisable(kind, error, trace):
        shown.unraisablehook(SimpleNamespace(exc_type=kind, exc_value=error, exc_traceback=trace))

    for hook in (shown.excepthook, unraisable):
        for text in ("Event loop is closed", "another error"):
            hook(RuntimeError, RuntimeError(text), None)
        assert capsys.readouterr().err == "RuntimeError: another error\n"


def test_sums_that_do_not_fit_leave_no_checkpoint(tmp_path, monkeypatch):
    def write(directory, step):
        raise OSError(28, "No space left on device")

    save(tmp_path, 2)
    monkeypatch.setattr(sums, "write", write)
    with pytest.raises(OSError, match=r"step 4 could not be written: .*No space left"):
        save(tmp_path, 4)
    assert not (tmp_path / "4").exists()


def test_the_parameters_alone_are_read(saved):
    with Checkpoints(saved, **KEEP, read_only=True) as checkpoints:
        got = checkpoints.params(abstract().params, 2)
    jax.tree.map(np.testing.assert_array_equal, got, state_of(2).params)
