"""A directory appears whole, on the disk, or not at all, also where two runs make the same one at once."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_checkpoint import files_of_at_most

from camopd_jax.models import export


def fill(staged: Path, value: float) -> None:
    save_file({"w": np.full(1000, value, np.float32)}, staged / "w.safetensors")


def value_of(directory: Path) -> float:
    return load_file(directory / "w.safetensors")["w"][0]


@pytest.mark.parametrize("replace, stays", [(False, 2.0), (True, 1.0)])
def test_of_two_at_once_the_first_stays_unless_it_is_to_be_replaced(tmp_path, replace, stays):
    target = tmp_path / "teacher"
    with export.writing(target, replace) as first:
        fill(first, 1.0)
        with export.writing(target, replace) as second:
            fill(second, 2.0)
        assert value_of(target) == 2.0
    assert value_of(target) == stays and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("replace", [False, True])
def test_one_that_comes_just_before_the_name_is_taken_does_no_harm(tmp_path, monkeypatch, replace):
    def rename(staged, directory):
        if not directory.exists() and not came:
            came.append(True)
            directory.mkdir()
            fill(directory, 2.0)
        real(staged, directory)

    came, real = [], export._rename
    monkeypatch.setattr(export, "_rename", rename)
    with export.writing(tmp_path / "teacher", replace) as staged:
        fill(staged, 1.0)
    assert value_of(tmp_path / "teacher") == (1.0 if replace else 2.0)
    assert came and list(tmp_path.iterdir()) == [tmp_path / "teacher"]


@pytest.mark.parametrize("replace", [False, True])
def test_many_at_once_leave_one_that_is_whole(tmp_path, replace):
    def work(value):
        for _ in range(20):
            try:
                with export.writing(tmp_path / "teacher", replace) as staged:
                    fill(staged, value)
            except Exception as error:
                failed.append(error)

    failed = []
    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert value_of(tmp_path / "teacher") in range(4) and list(tmp_path.iterdir()) == [tmp_path / "teacher"]


def test_what_does_not_fit_is_an_error_of_the_disk_and_the_one_before_stays(tmp_path):
    with export.writing(tmp_path / "export", True) as staged:
        fill(staged, 1.0)
    with files_of_at_most(1000), pytest.raises(OSError, match=r"export could not be written .*File too large"):
        with export.writing(tmp_path / "export", True) as staged:
            fill(staged, 2.0)
    assert value_of(tmp_path / "export") == 1.0 and list(tmp_path.iterdir()) == [tmp_path / "export"]


def test_every_file_is_on_the_disk_before_the_directory_has_its_name(tmp_path, monkeypatch):
    done, real = [], export._rename
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
    monkeypatch.setattr(export, "_rename", lambda a, b: (done.append("renamed"), real(a, b)))
    with export.writing(tmp_path / "export", True) as staged:
        fill(staged, 1.0)
        (staged / "sub").mkdir()
        (staged / "sub" / "a.txt").write_text("a")
    assert set(done[:3]) == {"w.safetensors", "a.txt", "new"} and done[3:] == ["renamed", tmp_path.name]


def test_what_is_forgotten_half_written_is_removed_and_what_is_new_is_not(tmp_path):
    old, new, other = tmp_path / f"{export.STAGED}a", tmp_path / f"{export.STAGED}b", tmp_path / "teacher"
    for path in (old, new, other):
        (path / "new").mkdir(parents=True)
    (tmp_path / f"{export.STAGED}file").write_text("")
    ago = time.time() - export.FORGOTTEN - 60
    for path in (old, other, tmp_path / f"{export.STAGED}file"):
        os.utime(path, (ago, ago))
    export.clean(tmp_path, export.FORGOTTEN)
    assert sorted(tmp_path.iterdir()) == [new, other]
