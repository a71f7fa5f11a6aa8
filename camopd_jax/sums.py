"""SHA-256 of every file of a checkpoint or a made teacher: written before it has its name, compared before its use."""

import functools
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FILE = "sha256.json"
LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")  # Orbax writes these after the sums, and restores without them
NEEDED = ("default/_METADATA", "default/manifest.ocdbt")  # that a checkpoint of Orbax cannot be read without
SMALL = 1 << 20  # bytes of a file that are looked at even in a quick comparison
THREADS = 8  # hashing leaves Python's lock alone, so that it takes as many cores as there are


def write(directory: Path, step: int | None) -> None:
    """Write the sums of all files of a directory beside them, after every file has reached the disk.

    Args:
      step: of a checkpoint; None: the directory is none.
    """
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.relative_to(directory).as_posix() not in LATER)
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda p: [p.stat().st_size, _digest(p, durable=True)], files)
        listed = {p.relative_to(directory).as_posix(): what for p, what in zip(files, found, strict=True)}
    with (directory / FILE).open("w") as file:
        file.write(json.dumps({"step": step, "files": listed}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def damage(directory: Path, quick: bool) -> str | None:
    """What is wrong with a directory of which `write` wrote the sums; None: nothing that can be seen.

    A checkpoint's directory is named by its step. Without sums it is whole as far as can be seen if no checkpoint
    beside it has any, as those of a version that wrote none.

    Args:
      quick: compare the size of every file, and the contents of small ones alone.
    """
    if not (directory / FILE).exists():
        if any(path.parent.name.isdigit() for path in directory.parent.glob(f"*/{FILE}")):
            return f"{FILE} is missing"
        return next((f"{n} is missing or empty" for n in NEEDED if not _size(directory / n)), None)
    try:
        record = json.loads((directory / FILE).read_text())
        step, files = record["step"], [(name, size, digest) for name, (size, digest) in record["files"].items()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{FILE} cannot be read"
    if step is not None and str(step) != directory.name:
        return f"it is the checkpoint of step {step}"
    with ThreadPoolExecutor(THREADS) as pool:
        return next(filter(None, pool.map(lambda f: _difference(directory, *f, quick), files)), None)


def _difference(directory: Path, name: str, size: int, digest: str, quick: bool) -> str | None:
    path = directory / name
    if not path.is_file():
        return f"{name} is missing"
    status = path.stat()
    if status.st_size != size:
        return f"{name} has {status.st_size} bytes, not {size}"
    if quick and size > SMALL:
        return None
    try:
        same = _known(path, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, size) == digest
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None if same else f"the contents of {name} have changed"


@functools.cache
def _known(path: Path, *status: int) -> str:
    """The digest of a file; of one that is asked for again, and was not written since, the one that was found."""
    return _digest(path, durable=False)


def _digest(path: Path, durable: bool) -> str:
    with path.open("rb") as file:
        if durable:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
