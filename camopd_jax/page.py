"""The page of checks of a start: what was checked, with a figure for each, or one line that says what is wrong.

What needs no computing comes first, the cheapest of it before all; then the weights are read once, and the self-tests
compute. All processes of a run make the same checks and come to the same end.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
from ml_collections import ConfigDict

from camopd_jax import checked, footprint, hosts, resume, shown, workdirs
from camopd_jax.models.conversion import cache_dir
from camopd_jax.models.load import Model
from camopd_jax.shown import WARNING


class Read(Protocol):
    """The inputs of a run, opened."""

    config: ConfigDict
    models: dict[str, Model]  # by branch, or by what a run without branches calls them

    def digests(self) -> dict[str, str]:
        """What names the prompts that train, by branch."""


def student_trains(config: ConfigDict) -> str:
    """What trains of a student."""
    rank = config.lora.rank
    return f"{f'an adapter of rank {rank}' if rank else 'all weights'} of the student trains"


def weights(read: Read) -> Iterator[str]:
    """A line for each model, every value of which is looked at once."""
    for name, model in read.models.items():
        millions, (tensors, known) = footprint.parameters(model.cfg) / 1e6, checked.finite(model)
        yield (
            f"{name} {model.source}: {millions:,.1f} million in {tensors} tensors, all there, of the right shape "
            f"and finite{from_cache(known)}; fingerprint {model.fingerprint}"
        )


def from_cache(known: bool) -> str:
    """The end of a line of which the figures are remembered."""
    return " (from the cache)" if known else ""


@dataclass(frozen=True)
class Program:
    """A kind of run, as far as its start goes; each of the checks gives lines or raises ValueError."""

    check_config: Callable[[ConfigDict], int]  # how many keys there are
    doubts: Callable[[ConfigDict], list[str]]
    header: Callable[[ConfigDict, Path], Iterable[str]]
    read: Callable[[ConfigDict], Any]  # a Read
    checks: Sequence[tuple[str, Callable[[Any, Path], Iterable[str]]]]  # nothing is computed in them
    self_tests: Callable[[Any], Iterable[str]]
    estimate: Callable[[Any], str]
    trains: Callable[[ConfigDict], str] = student_trains
    weights: Callable[[Any], Iterable[str]] = weights


@dataclass(frozen=True)
class Checked:
    """What a start has found in order."""

    read: Any
    models: dict[str, list[str]]  # source and fingerprint, by name
    data: dict[str, str]  # digests of the prompts that train


def check(program: Program, config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> Checked:
    """Make all checks of a start and print them, as they are made.

    Args:
      allowed: keys of the config that may differ from those of the run in the workdir.

    Raises:
      ValueError: at the first that is failed, with what is wrong, where, and what to do.
    """
    clock = time.monotonic()
    with hosts.together():
        keys = program.check_config(config)
        resume.check_free(workdir)
        workdirs.check_allowed(config, workdir, allowed)
        workdirs.check_workdir(config, workdir, allowed)
        step = resume.check_whole(workdir)
        workdirs.check_writable(f"CAMOPD_CACHE: the cache {cache_dir()}", cache_dir())
        if config.precision == "float32":
            jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32 on every backend
        print(shown.lines("\n".join(_header(program, config, workdir))), flush=True)
        goes_on = f"; the run in {workdir} goes on at step {step}" if step else ""
        _show("config", [f"{keys} keys, all there, known and in range{goes_on}", *warnings(program.doubts(config))])
        found = _checked(program, config, workdir, allowed)
        for group, lines in program.checks:
            _show(group, lines(found.read, workdir))
        _show("weights", program.weights(found.read))
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))  # what is refused leaves none behind
    with hosts.together():
        _show("self-test", program.self_tests(found.read))
    _show("time", [program.estimate(found.read)])
    print(f"  checked in {time.monotonic() - clock:.1f} s", flush=True)
    return found


def warnings(lines: Iterable[str]) -> Iterator[str]:
    return (WARNING + line for line in lines)


def _show(group: str, lines: Iterable[str]) -> None:
    for line in lines:
        print(f"  {group:10s} {shown.line(line)}", flush=True)
        group = ""


def _header(program: Program, config: ConfigDict, workdir: Path) -> Iterator[str]:
    """What will run, where, and how to get the other presets."""
    device = jax.devices()[0]
    yield (
        f"{config.name}:{config.preset}, seed {config.seed}, on {jax.device_count()} x {device.device_kind}, "
        f"{config.precision}; {program.trains(config)}"
    )
    yield from program.header(config, workdir)
    yield f"  kept in {workdir}; the same command goes on where it stopped"
    yield "  other presets: --config=configs/NAME.py[:PRESET]; every value: --config.KEY=VALUE"


def _checked(program: Program, config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> Checked:
    """The inputs of a run, which are those of the run in its workdir, if there is one; nothing is computed."""
    read = program.read(config)
    models = {name: [model.source, model.fingerprint] for name, model in read.models.items()}
    data = read.digests()
    workdirs.check_same(workdir, models, data, allowed)
    everywhere = [told for told, _ in hosts.gather([models, data])]
    for number, theirs in enumerate(everywhere):
        if theirs != everywhere[0]:
            name = next(n for n in data if [x.get(n) for x in theirs] != [x.get(n) for x in everywhere[0]])
            raise ValueError(
                f"config.teachers.{name} or config.data.{name}: process {number} has other weights or prompts than "
                "process 0; give all of them the same files"
            )
    return Checked(read, models, data)
