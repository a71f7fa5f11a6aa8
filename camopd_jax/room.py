"""Whether what a run writes fits on the disks that are here, and what it holds into the memory."""

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
from ml_collections import ConfigDict

from camopd_jax import footprint, hosts, licensed, rules, sharding
from camopd_jax.footprint import MOMENTS, Phase, Setup
from camopd_jax.inputs import Inputs
from camopd_jax.models.decoder import DecoderConfig
from camopd_jax.phases import of_recovery

GB = 1e9
LOGS = 0.1 * GB  # metrics, texts, plots, the report
STREAMED = 4 * GB  # of a model that is written, which the host holds at a time (models.export.SHARD_BYTES)
CERTAIN = ("weights", "moments", "gradients", "teacher")  # parts of a phase that are exact, whatever the compiler does
USABLE = 0.9  # of a memory; the rest is for the runtime and for fragments
UNLIMITED = 1 << 60  # what version 1 of control groups gives where there is no limit is larger


@dataclass(frozen=True)
class Written:
    """Bytes that a run still writes to a directory, by what they are."""

    name: str  # of the flag or variable that names it
    at: Path
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def setup_of(read: Inputs) -> Setup:
    """The plan of a run whose models are open."""
    config, mesh = read.config, read.engine.mesh
    teachers = {n: read.models.get(n, read.base).cfg for n in rules.branches(config)}
    return Setup(config, sharding.abstract_mesh(**config.mesh, devices=mesh.size), read.engine.cfg, teachers)


def written(read: Inputs, workdir: Path) -> list[Written]:
    """What a run still writes, at most, to its workdir and to the cache.

    A checkpoint has the float32 parameters that train and their moments. While one is written the others are there,
    and at the end the export comes on top; a teacher that the run makes has its own checkpoints before, and is then
    in the cache.
    """
    config, s, trained = read.config, read.config.specialise, _sizes(read.engine.cfg)[0]
    own, cached = of_run(config, read.engine.cfg, workdir), {}
    made_at = read.made_at(workdir)
    if made_at and not made_at.is_dir():
        before = _checkpoints(1, s.steps, s.checkpoint_every, s.optim.name, trained)
        # they are gone when the recovery begins
        own.parts["checkpoints"] = max(own.parts["checkpoints"], before - own.parts["export"])
        cached["domain teacher"] = 4 * trained
    cache = licensed.of(config).cache(workdir)
    return [own, Written(f"the cache {cache}", cache, cached)]


def of_run(config: ConfigDict, cfg: DecoderConfig, workdir: Path) -> Written:
    """What the training of a student with this architecture, its evaluation and its export still write."""
    c, (trained, whole) = config.checkpoint, _sizes(cfg)
    kept = c.keep_last + (c.keep_best if config.eval.every else 0)
    saved = max(
        _checkpoints(kept, config.steps, c.every, config.optim.name, trained) - _size(workdir / "checkpoints"), 0
    )
    export = {"float32": 4, "bfloat16": 2}[config.export.dtype] * whole
    return Written(f"--workdir={workdir}", workdir, {"checkpoints": saved, "export": export, "logs": LOGS})


def _sizes(cfg: DecoderConfig) -> tuple[int, int]:
    """Parameters that train, and all of them."""
    found = footprint.elements(cfg, sharding.abstract_mesh(1, 1, 1, 1))
    return (found.adapter if cfg.lora else found.base), found.base


def _checkpoints(kept: int, steps: int, every: int, optimizer: str, trained: int) -> float:
    return min(kept + 1, math.ceil(steps / every)) * (4 + MOMENTS[optimizer]) * trained


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) if directory.is_dir() else 0


def check_disks(needs: list[Written]) -> list[str]:
    """A line for each directory.

    Raises:
      ValueError: if the disk of one of them has too little room for all that is written to it.
    """
    disks: dict[int, float] = {}
    lines = []
    for need in needs:
        above = next(p for p in (need.at, *need.at.absolute().parents) if p.exists())
        disk = os.stat(above).st_dev
        disks[disk] = disks.get(disk, 0) + need.total
        free = shutil.disk_usage(above).free
        parts = ", ".join(f"{part} {size / GB:.2g} GB" for part, size in need.parts.items() if size)
        if disks[disk] > free:
            raise ValueError(
                f"{need.name}: the run writes up to {disks[disk] / GB:.3g} GB to that disk ({parts}), which has "
                f"{free / GB:.3g} GB free; make room, lower checkpoint.keep_last, or name another directory"
            )
        lines.append(f"{need.name} {parts or 'nothing large'} to write, {free / GB:,.0f} GB free")
    return lines


def available(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Bytes of host memory that can be had: what the kernel says, or less where a control group's limit is near.

    None where the system does not say, as outside Linux.
    """
    try:
        fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        free = 1024 * (int(fields["MemAvailable"].split()[0]) + int(fields["SwapFree"].split()[0]))
    except (OSError, KeyError, ValueError):
        return None
    return float(min([free, *_left_in_groups(proc, groups)]))


def _left_in_groups(proc: Path, groups: Path) -> Iterator[int]:
    """Of each control group around this process that has a limit: that, less what is used and cannot be taken back."""
    try:
        lines = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, place in lines:
        if controllers == "":
            top, limit, used, cached = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        own = top / place.strip("/")
        for group in (own, *own.parents):
            if not group.is_relative_to(top):
                break
            try:
                most, taken = int((group / limit).read_text()), int((group / used).read_text())
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                if most < UNLIMITED:
                    yield most - taken + int(stat.get(cached, 0))
            except (OSError, ValueError):  # "max", or not here, as in a container that sees its own group as the top
                continue


def check_memory(phases: list[Phase], room: float | None, where: str) -> tuple[str, str | None]:
    """A line, and a warning where the estimate is above the memory that is there.

    Args:
      phases: of one device, or of all that share the memory; room: bytes, None: not known; where: which memory it is.

    Raises:
      ValueError: if what is certain of a phase, its weights, moments, gradients and teacher, does not fit.
    """
    peak = max(phases, key=lambda phase: phase.total)
    line = f"{where}: about {peak.total / GB:.3g} GB at the fullest ({peak.name})"
    if room is None:
        return f"{line}; how much there is, is not known here", None
    advice = "--dry_run shows what holds it and what to change"
    line = f"{line}, {room / GB:.3g} GB there"
    fullest = max(phases, key=_certain)
    if _certain(fullest) > room:
        raise ValueError(
            f"{where}: {', '.join(CERTAIN)} alone take {_certain(fullest) / GB:.3g} GB ({fullest.name}), and there "
            f"are {room / GB:.3g} GB; {advice}"
        )
    warning = f"{line}: the run may end for want of memory; {advice}" if peak.total > USABLE * room else None
    return line, warning


def _certain(phase: Phase) -> float:
    return sum(phase.parts[part] for part in CERTAIN)


def memory(read: Inputs) -> tuple[list[str], list[str]]:
    """Lines and warnings for the memory of the devices of this process, and of its host where that is another one.

    Raises:
      ValueError: as `check_memory`.
    """
    setup = setup_of(read)
    return on_devices(setup, of_recovery(setup), parked(setup))


def parked(setup: Setup) -> float:
    """Bytes of the teachers that wait in host memory, for each device."""
    own = footprint.elements(setup.student, setup.mesh)
    idle = {name: footprint.teacher_bytes(setup, name, own) for name in setup.teachers}
    return sum(idle.values()) if setup.config.camopd.idle_teachers == "host" and len(idle) > 1 else 0.0


def on_devices(setup: Setup, phases: list[Phase], parked: float) -> tuple[list[str], list[str]]:
    """Lines and warnings, as `memory`; `parked`: bytes of what waits in host memory for each device."""
    devices, host, found = jax.local_devices(), available(), []
    if devices[0].platform == "cpu":  # simulated devices share the host's memory
        each = [Phase(p.name, {part: size * len(devices) for part, size in p.parts.items()}) for p in phases]
        found.append(check_memory(each, host, "host memory"))
    else:
        limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
        known = [limit for limit in limits if limit]
        found.append(check_memory(phases, min(known, default=None), "device memory"))
        found.append(check_memory([_on_host(setup, len(devices), parked)], host, "host memory"))
    return [line for line, _ in found], [warning for _, warning in found if warning]


def checkpoint_bytes(setup: Setup) -> float:
    """Of one checkpoint: float32 parameters that train, and their moments."""
    trained = _sizes(setup.student)[0]
    return (4 + MOMENTS[setup.config.optim.name]) * trained


def _on_host(setup: Setup, devices: int, parked: float) -> Phase:
    """What the host holds beside devices of their own: idle teachers, a checkpoint on its way, a model as written."""
    own = footprint.elements(setup.student, setup.mesh)
    trained = own.adapter if setup.student.lora else own.base
    parts = dict.fromkeys(footprint.PARTS, 0.0)
    parts["teacher"] = parked * devices
    parts["copies"] = (4 + MOMENTS[setup.config.optim.name]) * trained * devices / hosts.count() + STREAMED
    return Phase("teachers, checkpoint and export", parts)
