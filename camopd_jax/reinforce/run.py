"""The reinforcement run, end to end: evaluate the start, train with GRPO, evaluate, report."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from camopd_jax import guards, hosts, loop, report, resume
from camopd_jax.checkpoint import Checkpoints
from camopd_jax.distraction import system
from camopd_jax.engine import Policy
from camopd_jax.evals import cached, checks
from camopd_jax.evals.suite import Measure, mean_of
from camopd_jax.models.conversion import cache_dir
from camopd_jax.reinforce import outcome, start
from camopd_jax.reinforce.evaluation import START, TRAINED
from camopd_jax.reinforce.inputs import Inputs
from camopd_jax.reinforce.steps import steps_of_run
from camopd_jax.student import Student
from camopd_jax.types import Params, Rollout, System

BEST = f"{system.BRANCH}/short_log_rmr"


def run(config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> None:
    """Do the whole run, or what is left of it; the workdir then holds what docs/distractionif.md lists.

    Args:
      allowed: keys of the config that may differ from those of the run that is there.

    Raises:
      ValueError: for a mistake, with nothing left behind.
      resume.Fault: for what goes wrong later.
    """
    clock = time.monotonic()
    checked = start.check(config, workdir, allowed)
    with resume.owning(config, workdir, checked.models, checked.data, allowed):
        _run(checked.read, workdir, clock)


def _run(read: Inputs, workdir: Path, clock: float) -> None:
    config, student = read.config, Student(read.engine, read.base)
    before = Policy(read.engine, lambda: student.whole(student.fresh(config.seed)))
    found = {START: evaluate(read, "start", before, read.base.fingerprint, workdir)}
    trained = train(read, student, workdir)
    found[TRAINED] = evaluate(
        read, "trained student", Policy(read.engine, lambda: student.whole(trained)), None, workdir
    )
    student.export(workdir / "export", trained, config.export.dtype, hosts.writer())
    if hosts.writer():
        outcome.write(read, workdir, found)
        report.write(workdir)
    print(f"Done in {(time.monotonic() - clock) / 60:.1f} minutes. The trained model: {workdir / 'export'}")
    print(f"To look at: {workdir / 'report.html'}", flush=True)


def train(read: Inputs, student: Student, workdir: Path) -> Params:
    """Run GRPO and return the parameters that trained."""
    config, engine, g = read.config, read.engine, read.config.grpo
    collect = system.collector(
        engine, read.train, read.reward, g, config.rollout, config.steps, config.seed, student.whole,
        _reference(read, student), config.report.rollouts,
    )  # fmt: skip
    sample = functools.partial(
        system.greedy, engine, batch=config.eval.batch_size, max_new_tokens=config.rollout.max_new_tokens,
        seed=config.eval.seed,
    )  # fmt: skip
    made = System(
        collect,
        system.evaluator(engine, read.short, student.whole, lambda params, asked: sample(asked, params)),
        lambda state, step: [],
    )
    c = config.checkpoint
    wanted = loop.Plan(
        "grpo", config.steps, config.eval.every, c.every, limits=guards.limits_of(config.guard, surrogate=True)
    )
    keep_best = c.keep_best if config.eval.every else 0
    directory = workdir / "checkpoints"
    with Checkpoints(
        directory, keep_last=c.keep_last, keep_best=keep_best, best_metric=BEST, higher_is_better=True
    ) as checkpoints:
        if checkpoints.latest() != config.steps and hosts.writer():
            (workdir / "evaluation.json").unlink(missing_ok=True)  # of a shorter run, which this one now extends
        state = loop.run(
            made, steps_of_run(config, student), wanted, workdir, checkpoints,
            lambda: student.fresh(config.seed), jax.random.key(config.seed),
        )  # fmt: skip
    return state.params


def _reference(read: Inputs, student: Student) -> Callable[[Rollout], np.ndarray]:
    """log pi_ref: of the base without the adapter, or of a frozen copy, which is placed when it is first asked."""
    engine, dtype = read.engine, read.engine.numerics.dtype

    @functools.cache
    def placed() -> Params:
        if read.config.lora.rank:
            return student.whole(engine.no_adapter(dtype))
        return engine.place(read.base.read, dtype)

    return lambda rollout: engine.score(placed(), rollout, shared=True)


def evaluate(
    read: Inputs, title: str, policy: Policy, fingerprint: str | None, workdir: Path
) -> tuple[dict[str, Measure], dict[str, list[str]]]:
    """The margin, instruction following, and the greedy answers to all held-out questions ("questions").

    With a fingerprint, computed once per machine.
    """
    config, engine = read.config, policy.engine
    new_tokens, batch, seed = config.rollout.max_new_tokens, config.eval.batch_size, config.eval.seed

    def compute() -> cached.Evaluation:
        print(f"evaluating: {title} ...", flush=True)
        with guards.watchdog(workdir, config.guard.stall_seconds, f"the evaluation of the {title}"):
            params, task = policy.place(), read.instructions
            answers = system.greedy(engine, read.heldout, params, batch=batch, max_new_tokens=new_tokens, seed=seed)
            told = engine.texts(
                engine.sample(
                    params, task.encoded, jax.random.key(seed), width=task.width, batch=batch,
                    max_new_tokens=task.max_new_tokens, temperature=0.0,
                )
            )  # fmt: skip
            passed = [checks.passes(a, p.checks) for a, p in zip(told, task.prompts, strict=True)]
            measures = {"log_rmr": mean_of(read.pairs.log_rmr(engine, params)), "instructions": mean_of(passed)}
            return measures, {"questions": answers, "instructions": told}

    if fingerprint is None:
        return compute()
    key = {
        "model": fingerprint,
        "precision": config.precision,
        "stop_ids": engine.stop_ids,
        "backend": jax.default_backend(),
        "tokens": [new_tokens, read.instructions.max_new_tokens],
        "questions": cached.digest([x.tolist() for x in read.heldout.prompts]),
        "answers": cached.digest([x.tolist() for x in read.pairs.gold + read.pairs.bad]),
        "instructions": cached.digest([[p.checks for p in read.instructions.prompts],
                                       [x.tolist() for x in read.instructions.encoded]]),
    }  # fmt: skip
    return cached.evaluation(cache_dir(), ["distractionif", key], compute)
