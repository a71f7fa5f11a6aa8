"""One run at a time: a lock of the kernel on a file, which ends with the process that holds it, however that ends."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path

NONE_HERE = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.EINVAL}
TRIES = 10  # a tenth of a second apart: a run that only looks whether the lock is held has it for a moment


class Lock:
    """A lock that this process holds; its file says by whom it is held, and goes when it is given back."""

    def __init__(self, path: Path, fd: int):
        self._path, self._fd = path, fd

    def release(self) -> None:
        self._path.unlink(missing_ok=True)  # before the lock goes: whoever waits for it sees that its file is gone
        os.close(self._fd)


def take(path: Path, refused: str) -> Lock:
    """Hold the lock of a file, which is made with the directories above it; says so where it was not given back.

    Raises:
      ValueError: if another process has it: `refused`, and who that is.
      OSError: if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            got = _patiently(fd)
            if got is False:
                raise ValueError(f"{refused}: {_words(_record(fd))}")
            if not _is(fd, path):  # its holder gave it back, and the file with it
                os.close(fd)
                continue
            _look(path, _record(fd), refused, locked=got is True)
            owner = {"host": platform.node(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S UTC",
                     time.gmtime()), "command": shlex.join(sys.argv)}  # fmt: skip
            os.ftruncate(fd, 0)
            with contextlib.suppress(OSError if got else ()):  # a full disk, on which the start may yet make room
                os.pwrite(fd, json.dumps(owner).encode(), 0)
            return Lock(path, fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise


def check(path: Path, refused: str) -> None:
    """Raise ValueError, as `take` does, if another process has the lock of a file; nothing is made or changed."""
    try:
        fd = os.open(path, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if _patiently(fd) is False:
            raise ValueError(f"{refused}: {_words(_record(fd))}")
    finally:
        os.close(fd)


def _patiently(fd: int) -> bool | None:
    for _ in range(TRIES):
        got = _flock(fd)
        if got is not False:
            break
        time.sleep(0.1)
    return got


def _flock(fd: int) -> bool | None:
    """Whether this process now has the lock of an open file; None: its file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in NONE_HERE:
            return None
        raise


def _look(path: Path, before: dict, refused: str, locked: bool) -> None:
    """Say what the record of a lock's last holder means; without locks of the kernel, judge by it alone."""
    if not locked:
        if before and before.get("host") != platform.node():
            raise ValueError(f"{refused}: {_words(before)}; if that has ended, delete {path}")
        if before and _alive(before.get("process")):
            raise ValueError(f"{refused}: {_words(before)}")
        print(f"note: the file system of {path.parent} has no locks; a run on another host is told by {path} alone")
    if before:
        print(f"note: {_words(before)}, has ended without giving {path.parent} back, as after a kill", flush=True)


def _alive(process: int | None) -> bool:
    if not process:
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _record(fd: int) -> dict:
    try:
        record = json.loads(os.pread(fd, 1 << 16, 0))
    except ValueError:  # none, or one that is just being written
        return {}
    return record if isinstance(record, dict) else {}


def _words(record: dict) -> str:
    if not record:
        return "a process that has not yet said which it is"
    return "process {process} on {host}, since {since} ({command})".format_map(
        {"process": "?", "host": "?", "since": "?", "command": "?"} | record
    )
