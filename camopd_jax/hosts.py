"""Several processes that run the same program on the devices of all of them: their start, who writes, what they share.

Every process makes the same decisions from the same figures. What only one of them can know (its share of the data,
a signal, an error) goes to all in an exchange, and all of them take part in every exchange, in the same order.
"""

import functools
import hashlib
import json
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT_SECONDS = 100  # without a sign of life for so long, a process counts as gone, and the others end
SEEN_SECONDS = 40  # until a file is seen by all hosts, or the disk is not shared
CHUNK = 1 << 26  # bytes of each process that are exchanged at a time: they go through the devices
EMPTY = np.zeros(0, np.int32)


class Told(ValueError):
    """A mistake of which every process knows, so that each ends by itself, in order."""


def start(coordinator: str | None, processes: int | None, process: int | None, distributed: bool | None) -> None:
    """Join the other processes of a run, if there are any; before this no device may have been touched.

    Args:
      coordinator, processes, process: HOST:PORT of process 0, how many there are, and which this is, from 0; None: as
        the cluster says, if `distributed`, or if that is None and it plainly starts several (a step of Slurm, a slice
        of TPU hosts).

    Raises:
      ValueError: if the arguments do not fit each other, or no cluster is found.
    """
    given = {"--coordinator=HOST:PORT": coordinator, "--processes=N": processes, "--process=I": process}
    missing = [name for name, value in given.items() if value is None]
    arguments = {}
    if not missing:
        _check(coordinator, processes, process)
        arguments = dict(coordinator_address=coordinator, num_processes=processes, process_id=process)
        arguments["cluster_detection_method"] = "deactivate"
    elif len(missing) < len(given):
        raise ValueError(f"{missing[0]} is missing: allowed are all of {', '.join(given)}, or none of them")
    elif distributed is False or (distributed is None and not started_by_cluster(os.environ)):
        return
    # Its handler of SIGTERM would swallow the signal outside of the training loop, which has its own.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **arguments,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise ValueError(
            f"--distributed: no cluster is found that says which processes there are ({error}); allowed is a TPU "
            f"slice, Slurm's srun, or {' '.join(given)}"
        ) from None
    except RuntimeError as error:  # such as a coordinator that does not answer
        reason = " ".join(str(error).split())
        raise ValueError(f"the processes of the run did not come together ({reason})") from None
    if not writer():
        sys.stdout = open(os.devnull, "w")


def _check(coordinator: str, processes: int, process: int) -> None:
    if not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(f"--coordinator={coordinator}: allowed is HOST:PORT, where process 0 can be reached")
    if processes < 1:
        raise ValueError(f"--processes={processes}: allowed is a whole number, 1 or more")
    if not 0 <= process < processes:
        raise ValueError(f"--process={process}: allowed is 0 to {processes - 1}, as there are {processes} processes")


def started_by_cluster(environment: Mapping[str, str]) -> bool:
    """Whether this process is one of several that Slurm's srun started, or on one of several hosts of a TPU slice."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")  # of the step: sbatch alone, one process, does not set it
    return (tasks.isdigit() and int(tasks) > 1) or "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def count() -> int:
    return jax.process_count()


def index() -> int:
    return jax.process_index()


def writer() -> bool:
    """Whether this is the one process that writes files and to the console."""
    return jax.process_index() == 0


LOST = re.compile("gloo|connection|peer|unavailable|deadline|heartbeat|coordination|barrier", re.IGNORECASE)


def explained(error: Exception) -> Exception:
    """An error of JAX; where it reads as if another process were gone, with that in front and how to go on."""
    if not jax.distributed.is_initialized() or not LOST.search(str(error)):
        return error
    reason = " ".join(str(error).split())[:200]
    return RuntimeError(
        "another process of this run has probably ended or cannot be reached, and what it said tells why; start all of "
        f"them again with the same command, and the run goes on from its last checkpoint ({reason})"
    )


def leave(error: BaseException, code: int, show: bool) -> None:
    """End this process at once, if it is one of several and they do not know of its error; `show` its traceback first.

    The orderly end waits for them, and they wait for what this process no longer does.
    """
    if jax.distributed.is_initialized() and not isinstance(error, Told | FloatingPointError):
        if show:
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def gather(what: Any, body: bytes = b"") -> list[tuple[Any, bytes]]:
    """What each process gives, anything that JSON can hold and bytes, by process.

    Raises:
      Told: if another process met a mistake instead (`together`).
    """
    return [(what, body)] if count() == 1 else _exchange({"value": what}, body)


def _exchange(message: dict, body: bytes) -> list[tuple[Any, bytes]]:
    head = json.dumps(message).encode()
    mine = np.frombuffer(len(head).to_bytes(8, "little") + head + body, np.uint8)
    sizes = multihost_utils.process_allgather(np.array(divmod(len(mine), CHUNK), np.int32))
    lengths = [int(high) * CHUNK + int(low) for high, low in sizes]
    parts = []
    for start_ in range(0, max(lengths), CHUNK):
        longest = min(max(lengths) - start_, CHUNK)
        padded = np.zeros(1 << (longest - 1).bit_length(), np.uint8)  # few sizes, as each is compiled
        part = mine[start_ : start_ + longest]
        padded[: len(part)] = part
        parts.append(multihost_utils.process_allgather(padded)[:, :longest])
    received = []
    for row, length in zip(np.concatenate(parts, axis=1), lengths, strict=True):
        raw = row[:length].tobytes()
        end = 8 + int.from_bytes(raw[:8], "little")
        received.append((json.loads(raw[8:end]), raw[end:]))
    for content, _ in received:
        if "error" in content:
            raise Told(content["error"])
    return [(content["value"], rest) for content, rest in received]


@contextmanager
def together() -> Iterator[None]:
    """What runs in it ends on all processes or on none: a mistake of one is raised on each of them.

    Raises:
      Told: the mistake.
    """
    try:
        yield
    except Told:
        raise
    except (ValueError, OSError) as error:
        if count() == 1:
            raise
        _exchange({"error": str(error)}, b"")  # raises it, or that of a process before
    else:
        gather(None)


Item = tuple[Any, np.ndarray]  # anything that JSON can hold, and integers (int32)


def shared(work: Callable[[slice], list[Item]]) -> list[Item]:
    """The items that work(every row) gives, of which each process makes those of its own rows: i, i + n, i + 2 n, ...

    Args:
      work: gives an item for each row of a slice, in order; a pure function.

    Raises:
      ValueError, OSError: what work(every row) raises, on every process.
    """
    everything = slice(0, None, 1)
    n = count()
    if n == 1:
        return work(everything)
    try:
        mine, failed = work(slice(index(), None, n)), None
    except (ValueError, OSError) as error:
        mine, failed = [], str(error)
    numbers = np.concatenate([EMPTY, *(ids for _, ids in mine)]).astype(np.int32)
    told = gather({"failed": failed, "items": [(what, len(ids)) for what, ids in mine]}, numbers.tobytes())
    if any(part["failed"] for part, _ in told):
        try:
            work(everything)  # raises what one process would, which is the first mistake of all
        except (ValueError, OSError) as error:
            raise Told(str(error)) from error
        raise Told(next(part["failed"] for part, _ in told if part["failed"]))
    parts = [list(_items(part["items"], body)) for part, body in told]
    total = sum(map(len, parts))
    if any(len(part) != len(range(i, total, n)) for i, part in enumerate(parts)):
        raise Told(f"the processes do not read the same data: they find {', '.join(str(len(p)) for p in parts)} rows")
    return [parts[i % n][i // n] for i in range(total)]


def _items(listed: list, body: bytes) -> Iterator[Item]:
    numbers, at = np.frombuffer(body, np.int32), 0
    for what, length in listed:
        yield what, numbers[at : at + length]
        at += length


def from_writer(body: bytes | None) -> bytes | None:
    """What the writer gives, on every process."""
    mine = body if writer() else None
    given, found = gather(mine is not None, mine or b"")[0]
    return found if given else None


def in_turn(work: Callable[[], Any]) -> Any:
    """work() on the writer, then on a process of each other host, then on all others; gives this process's own.

    So that what one of them leaves on a disk is found there by the others, and none of them works on it at once.
    """
    names = [name for name, _ in gather(platform.node())]
    place = 0 if writer() else 1 if names.index(names[index()]) == index() else 2
    for number in range(3):
        if number == place:
            found = work()
        gather(None)
    return found


def write(path: Path, save: Callable[[bool], None]) -> None:
    """Have a directory written: by the writer, and by one process of each host that does not see that one's files.

    Args:
      save: (whether to write) -> None; is called on all processes, as it may gather what is spread over them.
    """
    save(writer())
    lacking = absent(path)
    if any(lacking):
        names = [name for name, _ in gather(platform.node())]
        first = {names[i]: i for i in reversed(range(len(names))) if lacking[i]}
        save(first.get(platform.node()) == index())
        gather(None)


def appears(path: Path) -> bool:
    """Whether a file that the writer wrote is seen here: a network disk may show it half a minute late."""
    late = time.monotonic() + SEEN_SECONDS
    while not path.is_file() and time.monotonic() < late:
        time.sleep(1)
    return path.is_file()


def absent(path: Path) -> list[bool]:
    """By process: whether a directory is not there as the writer has it."""
    if count() == 1:
        return [not path.is_dir()]
    found = [digest for digest, _ in gather(_digest(path))]
    return [digest is None or digest != found[0] for digest in found]


def _digest(path: Path) -> str | None:
    """SHA-256 of the files of a directory; None where there is none."""
    if not path.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            for block in iter(functools.partial(opened.read, 1 << 24), b""):
                digest.update(block)
    return digest.hexdigest()


def agreed(number: int) -> int:
    """The largest number that any process gives, on every process."""
    return number if count() == 1 else int(multihost_utils.process_allgather(np.int32(number)).max())
