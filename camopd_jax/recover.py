"""The recovery run, end to end: specialise, evaluate the teachers, recover with CaMOPD, evaluate, report."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from camopd_jax import (
    guards,
    hosts,
    licensed,
    loop,
    outcome,
    preflight,
    resume,
    rules,
    scoring,
    sft,
)
from camopd_jax.camopd import methods, records
from camopd_jax.camopd import system as camopd
from camopd_jax.camopd.diagnostics import Diagnostics
from camopd_jax.checkpoint import Checkpoints
from camopd_jax.engine import Policy
from camopd_jax.evals import cached, suite
from camopd_jax.inputs import Inputs
from camopd_jax.step import make_optimizer
from camopd_jax.student import Student, Teacher, recovery_steps, steps_of
from camopd_jax.types import Params, System

BEST = "general/short_reverse_kl"


def run(config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> None:
    """Do the whole run, or what is left of it; the workdir then holds what docs/method.md lists.

    Args:
      allowed: keys of the config that may differ from those of the run that is there.

    Raises:
      ValueError: for a mistake, with nothing left behind.
      resume.Fault: for what goes wrong later.
    """
    clock = time.monotonic()
    checked = preflight.check(config, workdir, allowed)
    with resume.owning(config, workdir, checked.models, checked.data, allowed):
        _run(config, checked.read, workdir, allowed, clock)


def _run(config: ConfigDict, read: Inputs, workdir: Path, allowed: Sequence[str], clock: float) -> None:
    student = Student(read.engine, read.base)
    teachers = {n: student.given(m, read.models["general"], config.seed) for n, m in read.models.items()}
    if read.specialised:
        made = teachers[read.specialised] = specialise(read, student, workdir)
        resume.record_made(workdir, read.specialised, [rules.SPECIALISE, made.fingerprint], allowed)
    teachers = {name: teachers[name] for name in read.branches}
    evaluate = _full_evaluation(read, teachers, workdir)
    found: dict[str, cached.Evaluation] = {}
    for name, teacher in teachers.items():
        title = f"{name} teacher = start" if name == config.student else f"{name} teacher"
        found[title] = evaluate(f"{name} teacher", teacher.policy, teacher.fingerprint)
    start = teachers[config.student]
    for alpha in config.eval.interpolation if _mixes(read, config.student) else ():
        title = f"interpolation {alpha:g}"
        found[title] = evaluate(title, start.mixed(alpha), f"{start.fingerprint}-{alpha:g}")
    trained = recover(read, student, teachers, workdir)
    recovered = Policy(read.engine, lambda: student.whole(trained))
    found["recovered"] = evaluate("recovered student", recovered, None)
    student.export(workdir / "export", trained, config.export.dtype, hosts.writer())
    if hosts.writer():
        outcome.write(read, workdir, found)
    minutes = (time.monotonic() - clock) / 60
    print(f"Done in {minutes:.1f} minutes. The recovered model: {workdir / 'export'}")
    print(f"To look at: {workdir / 'report.html'}", flush=True)


def specialise(read: Inputs, student: Student, workdir: Path) -> Teacher:
    """Make a domain teacher by supervised fine-tuning, or take it from the cache."""
    config, engine, s = read.config, read.engine, read.config.specialise
    home = read.made_at(workdir)
    stage = workdir / "specialise" / home.name  # another recipe must not go on from this one's checkpoints
    for wrong in student.remove_damaged(home):
        print(f"WARNING: the {read.specialised} teacher in {home} is damaged ({wrong}); it is made again", flush=True)
    if any(hosts.absent(home)):
        optimizer = make_optimizer(**s.optim, decay_steps=s.steps)
        steps = steps_of(config, student, sft.objective, optimizer, 1.0, scoring.score)
        collect = sft.collector(
            read.examples.prompts, read.examples.answers, read.examples.ids, batch_size=s.batch_size,
            seed=s.seed, shape=engine.shape, pad_id=engine.tokenizer.pad_token_id,
        )  # fmt: skip
        with Checkpoints(stage / "checkpoints", keep_last=1, keep_best=0, best_metric="") as checkpoints:
            state = loop.run(
                System(collect, lambda params, step: [], lambda state, step: []),
                steps,
                loop.Plan("specialise", s.steps, 0, s.checkpoint_every, limits=guards.limits_of(config.guard, False)),
                stage,
                checkpoints,
                lambda: student.fresh(s.seed),
                jax.random.key(s.seed),
            )
        student.save(home, state.params)
    else:
        print(f"{read.specialised} teacher: from the cache ({home.name})", flush=True)
    if hosts.writer():
        shutil.rmtree(stage / "checkpoints", ignore_errors=True)
        link = workdir / "specialised"
        link.unlink(missing_ok=True)
        link.symlink_to(home)
    return student.made(home)


def recover(read: Inputs, student: Student, teachers: dict[str, Teacher], workdir: Path) -> Params:
    """Run CaMOPD and return the parameters that trained."""
    system = system_of(read, student, {name: teacher.policy for name, teacher in teachers.items()})
    return train(read.config, system, student, teachers[read.config.student].start, workdir)


def system_of(read: Inputs, student: Student, policies: dict[str, Policy]) -> System:
    """CaMOPD with the prompts of a run; policies: of the teachers."""
    config, engine = read.config, read.engine
    c, branches = config.camopd, read.branches
    frozen = camopd.Teachers(policies, c.idle_teachers)
    shape = camopd.RolloutShape(config.rollout.batch_size, config.rollout.rows_at_once, config.rollout.max_new_tokens)
    record = records.recorder(
        engine, tuple(c.weight_band) if _weighed(config) else None, config.report.tokens, licensed.of(config)
    )
    diagnose = Diagnostics(
        engine, frozen, branches, shape, prompts=config.diagnostics.prompts, seed=config.eval.seed,
        shapes=student.shapes, frozen=student.frozen, whole=student.whole,
    )  # fmt: skip
    return System(
        camopd.collector(
            engine, frozen, branches, c, shape, config.steps, config.seed, student.whole, record, config.report.rollouts
        ),
        camopd.evaluator(engine, frozen, branches, shape, config.eval.seed, student.whole),
        diagnose,
    )


def train(config: ConfigDict, system: System, student: Student, start: Callable[[], Params], workdir: Path) -> Params:
    """The recovery's updates, or those that are left, and the parameters that trained; start: places the first ones."""
    wanted = loop.Plan(
        "recover", config.steps, config.eval.every, config.checkpoint.every, config.diagnostics.every,
        guards.limits_of(config.guard, surrogate=_weighed(config)),
    )  # fmt: skip
    with checkpoints_of(config, workdir) as checkpoints:
        if checkpoints.latest() != config.steps and hosts.writer():
            (workdir / "evaluation.json").unlink(missing_ok=True)  # of a shorter run, which this one now extends
        state = loop.run(
            system, recovery_steps(config, student), wanted, workdir, checkpoints, start, jax.random.key(config.seed)
        )
    return state.params


def _weighed(config: ConfigDict) -> bool:
    """Whether the tokens of an update have importance weights."""
    return config.camopd.loss == "sampled" and not methods.method_of(config.camopd).teacher_answers


def checkpoints_of(config: ConfigDict, workdir: Path) -> Checkpoints:
    """The checkpoints of a recovery."""
    keep_best = config.checkpoint.keep_best if config.eval.every else 0
    return Checkpoints(
        workdir / "checkpoints", keep_last=config.checkpoint.keep_last, keep_best=keep_best, best_metric=BEST
    )


def _mixes(read: Inputs, name: str) -> bool:
    """Whether a teacher is not the general one, and can be averaged with it weight by weight."""
    general = read.models["general"]
    return name != "general" and read.models.get(name, general).cfg == general.cfg


def _full_evaluation(read: Inputs, teachers: dict[str, Teacher], workdir: Path) -> Callable:
    """evaluate(title, policy, fingerprint) -> measures; with a fingerprint, computed once per machine."""
    evaluation, home = read.suite, licensed.of(read.config).cache(workdir)
    tasks = {"general": evaluation.general, "instructions": evaluation.instructions, **evaluation.domains}
    shaped_by = {
        "seed": evaluation.seed,
        "temperature": evaluation.temperature,
        "precision": read.config.precision,
        "stop_ids": read.engine.stop_ids,
        "tasks": {name: _digest(task) for name, task in tasks.items()},
        "backend": jax.default_backend(),
        "general": teachers["general"].fingerprint,
    }
    scored_by = [teachers[name].fingerprint for name, task in evaluation.domains.items() if not task.checked]
    policies = {name: teacher.policy for name, teacher in teachers.items()}
    reference = cached.reference(home, shaped_by, lambda: evaluation.reference(policies["general"]))

    def evaluate(title: str, policy: Policy, fingerprint: str | None) -> cached.Evaluation:
        def compute():
            print(f"evaluating: {title} ...", flush=True)
            is_general = fingerprint == teachers["general"].fingerprint
            with guards.watchdog(workdir, read.config.guard.stall_seconds, f"the evaluation of the {title}"):
                return evaluation.run(policy, policies, reference, is_general)

        key = shaped_by | {"model": fingerprint, "scored_by": scored_by}
        return cached.evaluation(home, key, compute) if fingerprint else compute()

    return evaluate


def _digest(task: suite.Task) -> str:
    checks = [prompt.checks for prompt in task.prompts]
    return cached.digest([task.max_new_tokens, [x.tolist() for x in task.encoded], checks])
