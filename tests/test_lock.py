"""The lock of a workdir: one process at a time, released by the kernel, with a record of its owner."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from camopd_jax import lock

ROOT = Path(__file__).parent.parent
HOLDER = "import sys, time; from camopd_jax import lock; from pathlib import Path\n" \
         "lock.take(Path(sys.argv[1]), 'taken'); print('held', flush=True); time.sleep(600)"  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "lock"


@pytest.fixture
def holder(path):
    """Another process, which has the lock."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_is_refused_while_another_process_has_it_and_its_owner_is_named(path, holder):
    for attempt in (lock.take, lock.check):
        with pytest.raises(ValueError, match=f"^taken already: process {holder.pid} on .*, since 2.* UTC") as error:
            attempt(path, "taken already")
        assert "\n" not in str(error.value)
    assert json.loads(path.read_text())["process"] == holder.pid


def test_a_killed_owner_holds_nothing_and_is_named(path, holder, capsys):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock.check(path, "taken already")
    lock.take(path, "taken already").release()
    assert f"process {holder.pid} on" in capsys.readouterr().out
    assert not path.exists()
    lock.take(path, "taken already").release()
    assert capsys.readouterr().out == "", "the one before gave it back"


def test_to_look_makes_nothing(path):
    lock.check(path, "")
    assert not path.parent.exists()


def test_to_look_while_the_holder_ends_is_no_error(path, monkeypatch):
    held, real = lock.take(path, ""), os.open

    def open_(*arguments):
        held.release()
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", open_)
        lock.check(path, "taken already")
    (path.parent / "file").touch()
    lock.check(path.parent / "file" / "lock", "")


def test_one_who_only_looks_does_not_keep_a_run_from_starting(path, monkeypatch):
    path.parent.mkdir()
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(file, fcntl.LOCK_UN))
        lock.take(path, "taken already").release()


def test_a_file_that_its_holder_deletes_meanwhile_is_not_taken_for_the_lock(path, monkeypatch):
    first, real = lock.take(path, ""), lock._flock

    def flock(fd):
        if not released:
            released.append(first.release())  # between opening the file and locking it
        return real(fd)

    released = []
    monkeypatch.setattr(lock, "_flock", flock)
    second = lock.take(path, "taken already")
    with pytest.raises(ValueError, match="taken already"):
        lock.take(path, "taken already")
    second.release()


def test_a_full_disk_takes_the_record_and_not_the_lock(path, monkeypatch):
    def pwrite(fd, body, place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    first = lock.take(path, "")
    with pytest.raises(ValueError, match="taken already: a process that has not yet said which it is"):
        lock.take(path, "taken already")
    first.release()


def test_of_many_at_once_one_gets_it(path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        got = pool.map(_try, [path] * 4, chunksize=1)
    assert sum(got) == 1


def _try(path: Path) -> bool:
    try:
        lock.take(path, "")  # until the process ends
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("host, process, refused", [
    (None, os.getppid(), True), (None, 2**22 + 1, False), ("elsewhere", 2**22 + 1, True), (None, None, False),
])  # fmt: skip
def test_without_locks_of_the_file_system_the_record_decides(path, monkeypatch, capsys, host, process, refused):
    def flock(fd, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    path.parent.mkdir()
    record = {"host": host or lock.platform.node(), "process": process, "since": "then", "command": "x"}
    path.write_text(json.dumps(record) if process else "")
    if refused:
        with pytest.raises(ValueError, match=f"process {process} on .*{'delete' if host else ''}"):
            lock.take(path, "taken already")
        return
    lock.take(path, "taken already").release()
    assert "has no locks" in capsys.readouterr().out
