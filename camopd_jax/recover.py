"""The recovery run, end to end: specialise, evaluate the teachers, recover with CaMOPD, evaluate, report."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from camopd_jax import (
    footprint,
    hosts,
    inputs,
    licensed,
    loop,
    metrics,
    outcome,
    plan,
    prompts,
    rules,
    scoring,
    sft,
    sharding,
    shown,
    workdirs,
)
from camopd_jax.camopd import methods, records
from camopd_jax.camopd import system as camopd
from camopd_jax.camopd.diagnostics import Diagnostics
from camopd_jax.checkpoint import Checkpoints
from camopd_jax.engine import Engine, Policy
from camopd_jax.evals import cached, suite
from camopd_jax.inputs import Inputs
from camopd_jax.models import decoder, load
from camopd_jax.models.conversion import cache_dir
from camopd_jax.step import Optimizer, Steps, build_steps, make_optimizer
from camopd_jax.student import Student, Teacher
from camopd_jax.types import Params, System

BEST = "general/short_reverse_kl"


def run(config: ConfigDict, workdir: Path) -> None:
    """Do the whole run, or what is left of it; the workdir then holds what docs/method.md lists."""
    clock = time.monotonic()
    with hosts.together():
        read, models, data = _checked(config, workdir)
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))  # what is refused leaves none behind
    print("\n".join(f"  {shown.line(line)}" for line in (*_models(read), *read.statistics)), flush=True)
    print(plan.estimate(config, read), flush=True)
    with hosts.together():
        if hosts.writer():
            workdir.mkdir(parents=True, exist_ok=True)
            metrics.write_config(workdir, config, models, data)
        hosts.gather(None)
        if not hosts.appears(workdir / "config.json"):
            raise ValueError(f"--workdir={workdir}: not all hosts see what is written there; allowed is a shared disk")

    student = Student(read.engine, read.base)
    teachers = {n: student.given(m, read.models["general"], config.seed) for n, m in read.models.items()}
    if read.specialised:
        teachers[read.specialised] = specialise(read, student, workdir)
    teachers = {name: teachers[name] for name in read.branches}
    evaluate = _full_evaluation(read, teachers, licensed.of(config).cache(workdir))
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


def _checked(config: ConfigDict, workdir: Path) -> tuple[Inputs, dict[str, list[str]], dict[str, str]]:
    """The inputs of a run, source and fingerprint of its models, and digests of its prompts; nothing is computed."""
    rules.check_config(config)
    workdirs.check_workdir(config, workdir)
    workdirs.check_writable(f"CAMOPD_CACHE: the cache {cache_dir()}", cache_dir())
    if config.precision == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32 on every backend
    print(shown.lines(_header(config, workdir)), flush=True)
    read = inputs.read(config)
    models = {name: [model.source, model.fingerprint] for name, model in read.models.items()}
    data = prompts.digests(read.branches)
    workdirs.check_same(workdir, models, data)
    return read, models, data


def specialise(read: Inputs, student: Student, workdir: Path) -> Teacher:
    """Make a domain teacher by supervised fine-tuning, or take it from the cache."""
    config, engine, s = read.config, read.engine, read.config.specialise
    optim = s.optim.to_dict() | {"decay_steps": s.steps}
    made_of = {
        "base": student.base.fingerprint,
        "lora": config.lora.to_dict() if config.lora.rank else None,
        "precision": config.precision,
        "optim": optim,
        "steps": s.steps,
        "batch_size": s.batch_size,
        "seed": s.seed,
        "data": cached.digest([x.tolist() for x in read.examples.prompts + read.examples.answers]),
    }
    home = licensed.of(config).cache(workdir) / "specialised" / cached.digest(made_of)
    stage = workdir / "specialise" / home.name  # another recipe must not go on from this one's checkpoints
    if any(hosts.absent(home)):
        steps = _steps(config, engine, student, sft.objective, make_optimizer(**optim), temperature=1.0)
        collect = sft.collector(
            read.examples.prompts, read.examples.answers, batch_size=s.batch_size, seed=s.seed, shape=engine.shape,
            pad_id=engine.tokenizer.pad_token_id,
        )  # fmt: skip
        with Checkpoints(stage / "checkpoints", keep_last=1, keep_best=0, best_metric="") as checkpoints:
            state = loop.run(
                System(collect, lambda params, step: [], lambda state, step: []),
                steps,
                loop.Plan("specialise", s.steps, 0, s.checkpoint_every),
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
    config, engine = read.config, read.engine
    c, branches = config.camopd, read.branches
    frozen = camopd.Teachers({name: teacher.policy for name, teacher in teachers.items()}, c.idle_teachers)
    shape = camopd.RolloutShape(config.rollout.batch_size, config.rollout.rows_at_once, config.rollout.max_new_tokens)
    weighed = c.loss == "sampled" and not methods.method_of(c).teacher_answers
    record = records.recorder(
        engine, tuple(c.weight_band) if weighed else None, config.report.tokens, licensed.of(config)
    )
    diagnose = Diagnostics(
        engine, frozen, branches, shape, prompts=config.diagnostics.prompts, seed=config.eval.seed,
        shapes=student.shapes, frozen=student.frozen, whole=student.whole,
    )  # fmt: skip
    system = System(
        camopd.collector(
            engine, frozen, branches, c, shape, config.steps, config.seed, student.whole, record, config.report.rollouts
        ),
        camopd.evaluator(engine, frozen, branches, shape, config.eval.seed, student.whole),
        diagnose,
    )
    function, objective = camopd.scored_by(c)
    optimizer = make_optimizer(**config.optim, decay_steps=0)
    temperature = config.rollout.temperature
    with checkpoints_of(config, workdir, read_only=False) as checkpoints:
        if checkpoints.latest() != config.steps and hosts.writer():
            (workdir / "evaluation.json").unlink(missing_ok=True)  # of a shorter run, which this one now extends
        state = loop.run(
            system,
            _steps(config, engine, student, objective, optimizer, temperature, function),
            loop.Plan("recover", config.steps, config.eval.every, config.checkpoint.every, config.diagnostics.every),
            workdir,
            checkpoints,
            teachers[config.student].start,
            jax.random.key(config.seed),
        )
    return state.params


def checkpoints_of(config: ConfigDict, workdir: Path, read_only: bool) -> Checkpoints:
    """The checkpoints of a recovery."""
    keep_best = config.checkpoint.keep_best if config.eval.every else 0
    return Checkpoints(
        workdir / "checkpoints", keep_last=config.checkpoint.keep_last, keep_best=keep_best, best_metric=BEST,
        read_only=read_only,
    )  # fmt: skip


def export_step(workdir: Path, step: int | None, out: Path, dtype: str) -> int:
    """Write the student of a kept step of a run as a model directory, and return which step that is.

    Raises:
      ValueError: if the run did not keep the step, or its base is not what it was.
    """
    record = workdirs.read_record(workdir)
    config = ConfigDict(record["config"])
    rules.check_config(config)
    with checkpoints_of(config, workdir, read_only=True) as checkpoints:
        kept = checkpoints.steps()
        if not kept:
            raise ValueError(f"{workdir} has no finished checkpoint yet")
        if step not in (None, *kept):
            raise ValueError(f"--step={step}: {workdir} has kept the steps {', '.join(map(str, kept))}")
        name = rules.base_branch(config)
        base = load.load(record["models"][name][0])  # an hf: source with the commit that it was
        workdirs.check_same(workdir, {name: [base.source, base.fingerprint]}, {})
        engine = inputs.engine_of(config, sharding.make_mesh(replica=1, fsdp=-1, tensor=1), base)  # not the run's own
        student = Student(engine, base)
        optimizer = make_optimizer(**config.optim, decay_steps=0)
        steps = _steps(config, engine, student, sft.objective, optimizer, temperature=1.0)
        state = checkpoints.restore(steps.abstract, step)
    student.export(out, state.params, dtype, write=True)
    return kept[-1] if step is None else step


def _steps(
    config: ConfigDict, engine: Engine, student: Student, objective: Callable, optimizer: Optimizer, temperature: float,
    function: Callable = scoring.score,
) -> Steps:  # fmt: skip
    score = engine.scorer(temperature, config.micro.remat, function)
    return build_steps(score, student.shapes, engine.mesh, decoder.AXES, objective, optimizer, student.frozen())


def _mixes(read: Inputs, name: str) -> bool:
    """Whether a teacher is not the general one, and can be averaged with it weight by weight."""
    general = read.models["general"]
    return name != "general" and read.models.get(name, general).cfg == general.cfg


def _full_evaluation(read: Inputs, teachers: dict[str, Teacher], home: Path) -> Callable:
    """evaluate(title, policy, fingerprint) -> measures; with a fingerprint, computed once per machine."""
    evaluation = read.suite
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
            return evaluation.run(policy, policies, reference, is_general)

        key = shaped_by | {"model": fingerprint, "scored_by": scored_by}
        return cached.evaluation(home, key, compute) if fingerprint else compute()

    return evaluate


def _digest(task: suite.Task) -> str:
    checks = [prompt.checks for prompt in task.prompts]
    return cached.digest([task.max_new_tokens, [x.tolist() for x in task.encoded], checks])


def _models(read: Inputs) -> list[str]:
    """A line a model that was opened."""
    return [
        f"teachers.{name} {model.source}: {footprint.parameters(model.cfg) / 1e6:,.1f} million weights, fingerprint "
        f"{model.fingerprint}"
        for name, model in read.models.items()
    ]


def _header(config: ConfigDict, workdir: Path) -> str:
    """What will run, where, and how to get the other presets."""
    device, names = jax.devices()[0], rules.branches(config)
    made = rules.specialised(config)
    s, rank = config.specialise, config.lora.rank
    made_by = f"made by {s.steps} updates of {s.batch_size} examples unless cached" if made else ""
    trains = f"an adapter of rank {rank}" if rank else "all weights"
    turns = methods.steps_in_words(config.camopd, config.rollout.batch_size)
    return "\n".join(
        [
            f"{config.name}:{config.preset}, seed {config.seed}, on {jax.device_count()} x {device.device_kind}, "
            f"{config.precision}; {trains} of the student trains",
            *(
                f"  {n} teacher: {made_by if n == made else config.teachers[n]}"
                f"{', the start of the student' if n == config.student else ''}"
                for n in names
            ),
            "  1. full evaluation of the teachers and of their interpolation (unless cached)",
            f"  2. recovery by {config.camopd.method}: {config.steps} updates of {config.rollout.batch_size} prompts, "
            f"{turns}",
            "  3. full evaluation of the recovered student, table, plots, export",
            f"  kept in {workdir}; the same command goes on where it stopped",
            "  other presets: --config=configs/NAME.py[:PRESET]; every value: --config.KEY=VALUE",
        ]
    )
