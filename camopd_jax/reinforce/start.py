"""What a reinforcement run checks before it starts; what is the same for every kind of run is in page.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from camopd_jax import footprint, page, plan, room, sharding
from camopd_jax.distraction import grpo
from camopd_jax.footprint import Phase, Setup
from camopd_jax.inputs import named
from camopd_jax.page import Checked, Program, warnings
from camopd_jax.plan import Work
from camopd_jax.reinforce import inputs, proofs, rules
from camopd_jax.reinforce.inputs import Inputs


def check(config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> Checked:
    """`page.check` of a reinforcement run."""
    return page.check(REINFORCEMENT, config, workdir, allowed)


def _header(config: ConfigDict, workdir: Path) -> Iterator[str]:
    """The stages."""
    del workdir
    g = config.grpo
    yield f"  student, and reference: {config.teachers[rules.REFERENCE]}"
    yield "  1. full evaluation of the start (unless cached)"
    yield (
        f"  2. {g.variant}: {config.steps} steps of {config.rollout.batch_size} prompts x {g.group_size} answers, "
        f"{g.epochs} update{'s' if g.epochs > 1 else ''} each; reward {g.reward}"
        f"{', shuffled' if g.shuffle_rewards else ''}"
    )
    yield "  3. full evaluation of the trained student, table, plots, export"


def _tokens(read: Inputs, workdir: Path) -> Iterator[str]:
    del workdir
    engine = read.engine
    yield f"{rules.REFERENCE}: {engine.numerics.vocab:,} tokens; a response ends with {named(engine, engine.stop_ids)}"


def _setup(read: Inputs) -> Setup:
    config, mesh = read.config, read.engine.mesh
    abstract = sharding.abstract_mesh(**config.mesh, devices=mesh.size)
    return Setup(config, abstract, read.engine.cfg, {rules.REFERENCE: read.base.cfg})


def _phases(read: Inputs) -> list[Phase]:
    """What one device holds in each phase; the reference is there where a KL needs it."""
    setup, g, rollout, e = _setup(read), read.config.grpo, read.config.rollout, read.config.eval
    parts, own = footprint.of_student(setup), footprint.elements(setup.student, setup.mesh)
    asked = bool(g.loss_kl_weight or g.reward_kl_weight)
    reference = {"teacher": footprint.teacher_bytes(setup, rules.REFERENCE, own) if asked else 0.0}
    drawn = footprint.decoding(setup, rollout.batch_size * g.group_size, rollout.rows_at_once, rollout.max_new_tokens)
    answered = [
        footprint.decoding(setup, len(read.heldout.prompts), e.batch_size, rollout.max_new_tokens),
        footprint.decoding(setup, len(read.instructions.prompts), e.batch_size, e.max_instruction_tokens),
    ]
    largest = max(answered, key=lambda parts: sum(parts.values()))
    return [
        footprint.phase("rollout", parts.state, reference, parts.sampling, drawn),
        footprint.phase("update", parts.state, reference, parts.update),
        footprint.phase("evaluation", parts.alone, parts.sampling, largest),
    ]


def _disk(read: Inputs, workdir: Path) -> list[str]:
    return room.check_disks([room.of_run(read.config, read.engine.cfg, workdir)])


def _memory(read: Inputs, workdir: Path) -> list[str]:
    del workdir
    lines, doubts = room.on_devices(_setup(read), _phases(read), 0.0)
    return [*lines, *warnings(doubts)]


def _estimate(read: Inputs) -> str:
    """Minutes of each stage."""
    config, cfg, rate = read.config, read.engine.cfg, plan.matmul_rate()
    rollout, g = config.rollout, config.grpo
    new = rollout.max_new_tokens

    def mean(prompts: Sequence[np.ndarray]) -> float:
        return float(np.mean([len(x) for x in prompts]))

    rows = rollout.batch_size * g.group_size
    prompt = mean(read.train.prompts)
    step = Work(
        scored=rollout.batch_size * prompt,
        trained=g.epochs * (rollout.batch_size * prompt + rows * new),
        decoded=rows * new,
    )
    asked = len(read.heldout.prompts) * (mean(read.heldout.prompts) + new)
    told = len(read.instructions.prompts) * config.eval.max_instruction_tokens
    evaluation = Work(scored=asked + len(read.pairs.gold) * mean(read.pairs.asked.prompts), decoded=asked / 4 + told)
    devices = 1 if jax.default_backend() == "cpu" else jax.device_count()
    once, steps = (f"{plan.minutes(w, cfg, rate, devices):.0f} min" for w in (evaluation, step.times(config.steps)))
    again = f" and draws groups again up to {g.redraws} times" if grpo.VARIANTS[g.variant].draws_again else ""
    return (
        f"about {once} to evaluate the start (once per machine), {steps} to train{again}, {once} to evaluate; "
        f"compiling comes on top ({rate / 1e9:.0f} GFLOP/s measured here)"
    )


REINFORCEMENT = Program(
    rules.check_config,
    rules.doubts,
    _header,
    inputs.read,
    (
        ("data", lambda read, workdir: inputs.lines(read)),
        ("tokens", _tokens),
        ("disk", _disk),
        ("memory", _memory),
    ),
    proofs.lines,
    _estimate,
)
