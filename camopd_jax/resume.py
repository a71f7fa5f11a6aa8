"""What a run goes on from, and who may: the lock of its workdir, the newest whole checkpoint, what has changed."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from camopd_jax import hosts, lock, metrics, rules, shown, sums, workdirs
from camopd_jax.checkpoint import UNFINISHED, Unreadable
from camopd_jax.models import export
from camopd_jax.models.conversion import cache_dir

LOCK = "lock"
DAMAGED = "damaged"  # the directory of a workdir into which damaged checkpoints are moved
FULL = {errno.ENOSPC, errno.EDQUOT}
NOT_WRITTEN = {*FULL, errno.EFBIG, errno.EROFS}  # codes of what happens to who writes, and to nobody who reads


class Fault(Exception):
    """What ends a run in the middle, other than a mistake: one line with what is whole and how to go on."""


@dataclass(frozen=True)
class Found:
    """What a run, or its specialisation, can go on from."""

    step: int | None  # of the newest whole checkpoint; None: there is none
    damaged: dict[int, str]  # steps of checkpoints that cannot be gone on from, and why


def find(directory: Path) -> Found:
    """The newest whole checkpoint of a directory of which metrics.jsonl has every step; nothing is changed.

    Checkpoints before it, which are kept for being good, are compared quickly.
    """
    logged, newest, damaged = metrics.steps_logged(directory / "metrics.jsonl"), None, {}
    for step in reversed(workdirs.saved_steps(directory)):
        wrong = sums.damage(directory / "checkpoints" / str(step), quick=newest is not None)
        if not wrong and step > logged:
            wrong = (
                f"metrics.jsonl has the rows of steps 1 to {logged} alone" if logged else "metrics.jsonl has no rows"
            )
        if wrong:
            damaged[step] = wrong
        elif newest is None:
            newest = step
    return Found(newest, damaged)


def check_free(workdir: Path) -> None:
    """Raise ValueError, on the writer, if another run is going on in a workdir."""
    if hosts.writer():
        lock.check(workdir / LOCK, _refused(workdir))


def check_whole(workdir: Path) -> int | None:
    """The step that the run in a workdir goes on at, on the writer, which validates that it can.

    Raises:
      ValueError: if no checkpoint is whole, or a row of a log is damaged.
    """
    if not hosts.writer():
        return None
    found = find(workdir)
    _usable(workdir, found)
    return found.step


@contextmanager
def owning(
    config: ConfigDict, workdir: Path, models: dict[str, list[str]], data: dict[str, str], allowed: Sequence[str]
) -> Iterator[None]:  # fmt: skip
    """Hold a workdir for a run, which in it finds config.json written and the newest checkpoint whole.

    What killed processes left half written is removed, damaged checkpoints are set aside. All processes must call it.

    Args:
      models, data, allowed: as `workdirs.check_same` has them.

    Raises:
      ValueError: as the checks of a start, on every process, with nothing left behind; another run may have been there
        since they were made.
      Fault: for a ValueError or OSError of the run.
    """
    held = None
    try:
        with hosts.together():
            if hosts.writer():
                made = [p for p in (workdir, *workdir.parents) if not p.exists()]
                held = lock.take(workdir / LOCK, _refused(workdir))
                try:
                    _prepare(config, workdir, models, data, allowed)
                except (ValueError, OSError):
                    held.release()
                    held = None
                    with contextlib.suppress(OSError):  # holds something by now
                        for path in made:
                            path.rmdir()
                    raise
            hosts.gather(None)
            if not hosts.appears(workdir / "config.json"):
                raise ValueError(
                    f"--workdir={workdir}: not all hosts see what is written there; allowed is a shared disk"
                )
        with _late(workdir):
            yield
    finally:
        if held:
            held.release()


def record_made(workdir: Path, name: str, made: list[str], allowed: Sequence[str]) -> None:
    """Write into config.json which teacher a run made, before its recovery begins; all processes must call it.

    Args:
      made: source and fingerprint.
      allowed: has teachers.NAME if it may be another than that of the recovery which is there.

    Raises:
      ValueError: if it is another.
    """
    with hosts.together():
        if hosts.writer():
            workdirs.check_same(workdir, {name: made}, {}, allowed)
            record, done = workdirs.read_record(workdir), workdirs.saved_steps(workdir)
            changes = workdirs.input_changes({name: made}, {}, record) if done else []
            record["changes"] = record.get("changes", []) + [{"step": done[-1], **change} for change in changes]
            record["models"][name] = made
            metrics.write_json(workdir / "config.json", record, indent=2)


def _refused(workdir: Path) -> str:
    return f"--workdir={workdir}: another run is going on there; wait for its end, or give another --workdir"


def _usable(workdir: Path, found: Found) -> None:
    if found.damaged and found.step is None:
        told = "; ".join(f"step {step}: {why}" for step, why in found.damaged.items())
        raise ValueError(
            f"--workdir={workdir}: no whole checkpoint is left there ({told}); put back a copy of one, or give another "
            "--workdir"
        )
    for name in metrics.LOGS if found.step is not None else ():
        metrics.kept_rows(workdir / name, found.step)


def _prepare(config, workdir: Path, models: dict, data: dict, allowed: Sequence[str]) -> None:
    workdirs.check_workdir(config, workdir, allowed)
    workdirs.check_same(workdir, models, data, allowed)
    found = find(workdir)
    _usable(workdir, found)
    _clean(workdir)
    _set_aside(workdir, found)
    for stage in (workdir / "specialise").glob("*"):
        _set_aside(stage, find(stage))
    changes, made = _changes(config, workdir, models, data, found.step), {}
    if found.step is not None:  # until `record_made` compares it
        before, name = workdirs.read_record(workdir).get("models", {}), rules.specialised(config)
        made = {name: before[name]} if name in before else {}
    metrics.write_config(workdir, config, made | models, data, changes)


def _clean(workdir: Path) -> None:
    """Remove what a killed run left half written, and from the cache what nobody can be writing any more."""
    for directory in (workdir, *(workdir / "specialise").glob("*"), *(workdir / "cache").glob("*")):
        export.clean(directory, older=0)
        for path in (directory / "checkpoints").glob(f"*{UNFINISHED}*"):
            shutil.rmtree(path)
    for name in ("models", "specialised", "evaluations", "checked"):
        export.clean(cache_dir() / name, older=export.FORGOTTEN)


def _set_aside(directory: Path, found: Found) -> None:
    """Move the damaged checkpoints out of the way of the run, and say so."""
    for step, why in found.damaged.items():
        place = directory / DAMAGED / str(step)
        place.parent.mkdir(exist_ok=True)
        while place.exists():
            place = place.with_name(f"{place.name}-again")
        os.rename(directory / "checkpoints" / str(step), place)
        then = f"the run goes on from step {found.step} and does steps {(found.step or 0) + 1} to {step} again"
        if found.step is None:
            then = f"there is none before it, and steps 1 to {step} are done again"
        elif step < found.step:
            then = f"the run goes on from step {found.step} and does not need it"
        where = f"{directory / 'checkpoints' / str(step)} is damaged"
        print(shown.line(f"WARNING: the checkpoint {where} ({why}); it is moved to {place}; {then}"), flush=True)


def _changes(config, workdir: Path, models: dict, data: dict, step: int | None) -> list[dict]:
    """The history of config.json: what it holds, and what is changed now, at the step that the run goes on from."""
    if step is None:
        return []
    record = workdirs.read_record(workdir)
    around = workdirs.surroundings_changes(metrics.surroundings(), record)
    if around:
        told = ", ".join(f"{c['key']} {c['before']} -> {c['now']}" for c in around)
        print(shown.line(f"WARNING: since the run in {workdir} was last started, other programs: {told}"), flush=True)
    changes = workdirs.config_changes(config, record) + workdirs.input_changes(models, data, record)
    for change in changes:
        told = shown.line(f"  changed at step {step}: {change['key']}: {change['before']} -> {change['now']}")
        print(told, flush=True)  # config.json may have come with the workdir, from others
    return record.get("changes", []) + [{"step": step, **change} for change in changes + around]


@contextmanager
def _late(workdir: Path) -> Iterator[None]:
    try:
        yield
    except Unreadable as error:  # which says how to go on
        raise Fault(str(error)) from error
    except ValueError as error:  # which the same command may well meet again
        raise Fault(f"{error}; in {workdir} {_kept(workdir)[0]}") from error
    except OSError as error:
        text, (whole, then) = str(error), _kept(workdir)
        if error.strerror:
            what = " could not be written" if error.errno in NOT_WRITTEN else ""
            text = f"{error.filename}{what}: {error.strerror}" if error.filename else error.strerror
        ways = {errno.EFBIG: "raise the limit of file sizes (ulimit -f), and "}
        how = ways.get(error.errno, "make room, and " if error.errno in FULL else "")
        raise Fault(f"{text}; in {workdir} {whole}: {how}the same command {then}") from error


def _kept(workdir: Path) -> tuple[str, str]:
    """What a run has saved, and what the same command then does."""
    if saved := workdirs.saved_steps(workdir):
        return f"the checkpoints up to step {saved[-1]} are whole", "goes on from there"
    made = [step for stage in (workdir / "specialise").glob("*") for step in workdirs.saved_steps(stage)]
    if made:
        return f"the checkpoints of the specialisation up to step {max(made)} are whole", "goes on from there"
    return "there is no checkpoint of it yet", "begins again"
