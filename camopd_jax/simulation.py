"""A recovery at full size whose model is a stand-in (`simulated`): what its own code does, also when stopped.

Prompts are drawn: as many a branch as the paper has, and their lengths too. What stops the run is real: a signal, or an
end without warning; what goes on is what goes on after a real stop.
"""

import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from camopd_jax import inputs, loop, metrics, recover, resume, rules, sharding
from camopd_jax.camopd import methods
from camopd_jax.camopd.records import Branch
from camopd_jax.engine import Policy
from camopd_jax.models import load
from camopd_jax.simulated import Drawn, Length, ScriptedEngine
from camopd_jax.types import Experience, Params, System, TrainState

PROMPTS = 10_000  # of a branch
TIMING = {"seconds", "seconds_update", "seconds_rollout", "seconds_score", "tokens_per_second", "compilations"}


@dataclass(frozen=True)
class Step:
    """What one training step took, the update aside."""

    number: int
    drawn: Drawn  # its rollouts, one after the other
    scored: int  # micro-batches, by student and teacher
    trained: int  # micro-batches
    selected: int
    batch: int
    ended: float  # share of the responses that end by themselves
    seconds: float  # on this host, the update aside
    memory: int  # bytes that this process ever held, at most


@dataclass
class Student:
    """`student.Student` of a stand-in."""

    engine: ScriptedEngine

    @property
    def shapes(self) -> Params:
        return self.engine.shapes

    def frozen(self) -> Params:
        return {}

    def whole(self, trained: Params) -> Params:
        return trained


@dataclass
class Inputs:
    """What `recover` reads of `inputs.Inputs`."""

    config: ConfigDict
    engine: ScriptedEngine
    branches: dict[str, Branch]


@dataclass
class Run:
    """A run that is driven, and what was seen of it."""

    config: ConfigDict
    length: Length
    workdir: Path
    stops: list[int] = field(default_factory=list)  # steps in which it is stopped: by SIGTERM, cut off, by SIGTERM, ...
    steps: list[Step] = field(default_factory=list)
    params: Params = None  # at the end
    on_step: Callable[[Step], None] = lambda step: None


class Unlike(resume.Fault):
    """A run that was stopped has other records than the undisturbed one."""


class CutOff(Exception):
    """The process ends without warning; nothing of the step is kept."""


def stops_of(words: Sequence[str], steps: int) -> list[int]:
    """The steps of --stops.

    Raises:
      ValueError: if they are no ascending numbers from 1 to the number of steps.
    """
    stops = [int(word) if word.isdecimal() else 0 for word in words]
    if stops != sorted(set(stops)) or (stops and not 1 <= stops[0] <= stops[-1] <= steps):
        raise ValueError(f"--stops={','.join(words)}: allowed are ascending numbers from 1 to {steps}")
    return stops


def check(config: ConfigDict) -> None:
    """Raise ValueError, with the key, for what a stand-in cannot simulate."""
    rules.check_config(config)
    method = methods.method_of(config.camopd)
    if config.camopd.loss != "sampled" or method.teacher_answers or method.student_entropy or method.teacher_rank:
        raise ValueError(
            f"config.camopd.method = {config.camopd.method!r} with the loss {config.camopd.loss!r}: a simulation is "
            "allowed with methods that need no more of a model than log-probabilities, and the loss 'sampled'"
        )


def adapted(config: ConfigDict, steps: int) -> ConfigDict:
    """The config of a simulated run: so many steps on one data shard; no adapter, which the stand-in has not, and no
    diagnostics, which are about layers."""
    changed = config.copy_and_resolve_references()
    changed.steps = steps
    changed.diagnostics.every, changed.lora.rank, changed.precision = 0, 0, "float32"
    changed.mesh.update(replica=1, fsdp=1, tensor=1)
    return changed


def drive(run: Run) -> Run:
    """Do all steps of a run, started again after each stop."""
    left, cut = list(run.stops), False
    while True:
        try:
            with resume.owning(run.config, run.workdir, {}, {}, ()):
                run.params = _process(run, left, cut)
            return run
        except (loop.Interrupted, CutOff):
            left, cut = left[1:], not cut


def _process(run: Run, stops: Sequence[int], cut: bool) -> Params:
    """What one process does of a run: all that is left, or up to the first stop."""
    config, model = run.config, load.load("random:llama")
    mesh = jax.make_mesh((1, 1, 1), sharding.MESH_AXES, (jax.sharding.AxisType.Auto,) * 3, devices=jax.devices()[:1])
    engine = ScriptedEngine(inputs.engine_of(config, mesh, model), run.length)
    branches = {name: _branch(config, name, n) for n, name in enumerate(rules.branches(config))}
    student = Student(engine)
    teachers = {name: Policy(engine, lambda n=b.number: engine.parameters(n)) for name, b in branches.items()}
    system = recover.system_of(Inputs(config, engine, branches), student, teachers)

    def collect(state: TrainState, step: int) -> Experience:
        if stops and step + 1 == stops[0]:
            if cut:
                raise CutOff
            os.kill(os.getpid(), signal.SIGTERM)
        clock, scored, before = time.perf_counter(), engine.scored, len(engine.drawn)
        experience = system.collect(state, step)
        figures, drawn = experience.metrics, _together(engine.drawn[before:])
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts = engine.scored - scored, len(experience.updates), figures["selected"], figures["batch"]
        ended = figures["eos_rate"]
        run.steps.append(Step(step + 1, drawn, *counts, ended, time.perf_counter() - clock, memory))
        run.on_step(run.steps[-1])
        return experience

    watched = System(collect, system.evaluate, system.diagnose)
    start = teachers[config.student].place
    return recover.train(config, watched, student, start, run.workdir)


def _together(drawn: Sequence[Drawn]) -> Drawn:
    whole = Drawn(sum(d.prompts for d in drawn), max(d.rows for d in drawn))
    for name in ("iterations", "tokens", "columns", "pauses", "reads"):
        setattr(whole, name, sum(getattr(d, name) for d in drawn))
    whole.widest = max(d.widest for d in drawn)
    return whole


def _branch(config: ConfigDict, name: str, number: int) -> Branch:
    """Drawn prompts, one of them as long as is allowed, most of them an eighth of that or less."""
    rng, longest, held = np.random.default_rng(number), config.rollout.max_prompt_tokens, config.eval.prompts
    lengths = np.clip(rng.lognormal(np.log(longest / 16), 1.0, PROMPTS + held), 1, longest).astype(int)
    lengths[0] = longest
    prompts = [rng.integers(32, 127, n).astype(np.int32) for n in lengths]
    ids, c = [f"{name}-{i}" for i in range(PROMPTS)], config.camopd
    return Branch(name, number, prompts[held:], ids, prompts[:held], c.demand[name], c.rho[name], c.scale[name])


def differences(one: Run, other: Run) -> list[str]:
    """Where the records of two runs, timing aside, and their parameters are not the same."""
    found = []
    for name in ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl"):
        rows = [
            [{k: v for k, v in row.items() if k not in TIMING} for row in metrics.read_jsonl(run.workdir / name)]
            for run in (one, other)
        ]
        if len(rows[0]) != len(rows[1]):
            found.append(f"{name}: {len(rows[0])} and {len(rows[1])} rows")
        found += [f"{name}, row {i + 1}" for i, (a, b) in enumerate(zip(*rows, strict=False)) if a != b][:1]
    same = jax.tree.map(np.array_equal, *(jax.device_get(run.params) for run in (one, other)))
    return found + ([] if all(jax.tree.leaves(same)) else ["the parameters at the end"])
