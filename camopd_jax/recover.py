"""The recovery run, end to end: specialise, evaluate the teachers, recover with CaMOPD, evaluate, report."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from camopd_jax import chat, data, loop, metrics, plan, preflight, sft, sharding, summary
from camopd_jax.camopd import system as camopd
from camopd_jax.checkpoint import Checkpoints
from camopd_jax.engine import Engine, Numerics
from camopd_jax.evals import cached, suite
from camopd_jax.models import decoder, load
from camopd_jax.models.load import Model
from camopd_jax.packing import PackShape
from camopd_jax.step import Optimizer, Steps, build_steps, make_optimizer
from camopd_jax.types import Params, System

BEST = "general/short_reverse_kl"


@dataclass(frozen=True)
class Setup:
    """What the stages of a run share."""

    config: ConfigDict
    workdir: Path
    engine: Engine
    general: Model


def run(config: ConfigDict, workdir: Path) -> None:
    """Do the whole run, or what is left of it; the workdir then holds what docs/method.md lists."""
    preflight.check_config(config)
    jax.config.update("jax_compilation_cache_dir", str(load.cache_dir() / "compiled"))
    workdir.mkdir(parents=True, exist_ok=True)
    clock = time.monotonic()
    jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32 on every backend
    mesh = sharding.make_mesh(**config.mesh)
    shards = sharding.data_shards(mesh)
    preflight.check_devices(config, shards)
    print(_header(config, workdir), flush=True)
    general = load.load(config.teachers.general)
    micro = config.micro
    engine = Engine(
        general.cfg,
        mesh,
        general.tokenizer,
        PackShape(micro.rows * shards, micro.width, micro.slots),
        Numerics(config.rollout.temperature, micro.logit_chunk),
    )
    setup = Setup(config, workdir, engine, general)
    evaluation = _evaluation(setup)
    branches = _branches(setup)

    print(plan.estimate(config, engine.cfg, evaluation, branches), flush=True)
    domain = specialise(setup) if config.teachers.domain == "specialise" else load.load(config.teachers.domain)
    _same_tokens(general, domain)
    metrics.write_config(workdir, config, {"general": general.fingerprint, "domain": domain.fingerprint})
    evaluate = _full_evaluation(setup, evaluation)
    alpha = config.eval.interpolation
    found = {
        "general teacher": evaluate("general teacher", general.weights, general.fingerprint),
        "domain teacher = start": evaluate("domain teacher", domain.weights, domain.fingerprint),
        f"interpolation {alpha:g}": evaluate(
            f"interpolation {alpha:g}", partial(_between, general, domain, alpha), f"{domain.fingerprint}-{alpha:g}"
        ),
    }
    student = recover(setup, branches, {"general": general.weights, "domain": domain.weights})
    found["recovered"] = evaluate("recovered student", lambda: student, None)
    load.save_directory(workdir / "export", general.cfg, student, general.tokenizer)
    _report(setup, found)
    print(
        f"Done in {(time.monotonic() - clock) / 60:.1f} minutes. The recovered model: {workdir / 'export'}", flush=True
    )


def specialise(setup: Setup) -> Model:
    """Make the domain teacher by supervised fine-tuning, or take it from the cache."""
    config, engine, s = setup.config, setup.engine, setup.config.specialise
    made = {"candidates": config.data.domain.candidates, "seed": s.seed, "heldout_share": 0.2}
    count = s.steps * s.batch_size
    loaded = data.load_conversations(config.data.domain.source, count=count, at_most=True, **made)
    prompts, encoded = _encode(setup, loaded)
    answers = chat.encode_answers(engine.tokenizer, prompts, engine.tokenizer.eos_token_id)
    optim = s.optim.to_dict() | {"decay_steps": s.steps}
    made_of = {
        "general": setup.general.fingerprint,
        "optim": optim,
        "batch_size": s.batch_size,
        "seed": s.seed,
        "data": cached.digest([x.tolist() for x in encoded + answers]),
    }
    home = load.cache_dir() / "specialised" / cached.digest(made_of)
    stage = setup.workdir / "specialise" / home.name  # another recipe must not go on from this one's checkpoints
    if not home.is_dir():
        steps = _steps(setup, sft.objective, make_optimizer(**optim), temperature=1.0)
        collect = sft.collector(
            encoded, answers, batch_size=s.batch_size, seed=s.seed, shape=engine.shape,
            pad_id=engine.tokenizer.pad_token_id,
        )  # fmt: skip
        checkpoints = Checkpoints(stage / "checkpoints", keep_last=1, keep_best=0, best_metric="")
        state = loop.run(
            System(collect, lambda params, step: []),
            steps,
            loop.Plan("specialise", s.steps, 0, s.checkpoint_every),
            stage,
            checkpoints,
            lambda: engine.place(setup.general.weights()),
            jax.random.key(s.seed),
        )
        checkpoints.close()
        load.save_directory(home, engine.cfg, jax.device_get(state.params), engine.tokenizer)
    else:
        print(f"domain teacher: from the cache ({home.name})", flush=True)
    shutil.rmtree(stage / "checkpoints", ignore_errors=True)
    link = setup.workdir / "specialised"
    link.unlink(missing_ok=True)
    link.symlink_to(home)
    return load.load_directory(home)


def recover(setup: Setup, branches: dict[str, camopd.Branch], weights: dict[str, Callable[[], Params]]) -> Params:
    """Run CaMOPD and return the student's weights on the host."""
    config, engine = setup.config, setup.engine
    teachers = camopd.Teachers(engine, weights)
    shape = camopd.RolloutShape(config.rollout.batch_size, config.rollout.max_new_tokens)
    objective = camopd.objective(tuple(config.camopd.weight_band))
    system = System(
        camopd.collector(engine, teachers, branches, tuple(config.camopd.cycle), shape, config.seed),
        camopd.evaluator(engine, teachers, branches, shape, config.eval.seed),
    )
    optimizer = make_optimizer(**config.optim, decay_steps=0)
    steps = _steps(setup, objective, optimizer, temperature=config.rollout.temperature)
    checkpoints = Checkpoints(
        setup.workdir / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_best=config.checkpoint.keep_best if config.eval.every else 0,
        best_metric=BEST,
    )
    state = loop.run(
        system,
        steps,
        loop.Plan("recover", config.steps, config.eval.every, config.checkpoint.every),
        setup.workdir,
        checkpoints,
        lambda: engine.place(weights[config.student]()),
        jax.random.key(config.seed),
    )
    checkpoints.close()
    return jax.device_get(state.params)


def _steps(setup: Setup, objective: Callable, optimizer: Optimizer, temperature: float) -> Steps:
    micro = setup.config.micro
    return build_steps(
        setup.engine.graph,
        setup.engine.shapes,
        setup.engine.mesh,
        decoder.AXES,
        objective,
        optimizer,
        temperature=temperature,
        chunk=micro.logit_chunk,
        remat=micro.remat,
    )


def _branches(setup: Setup) -> dict[str, camopd.Branch]:
    config, found = setup.config, {}
    for number, name in enumerate(preflight.BRANCHES):
        made = {"candidates": config.data.domain.candidates, "seed": config.seed + 1000}
        read = partial(data.load_prompts, config.data[name].source, at_most=False, heldout_share=0.2, **made)
        train, encoded = _encode(setup, read("train", count=config.data[name].count))
        _, heldout = _encode(setup, read("heldout", count=config.eval.prompts))
        found[name] = camopd.Branch(
            name=name,
            number=number,
            prompts=encoded,
            prompt_ids=[p.id for p in train],
            heldout=heldout,
            demand=config.camopd.demand[name],
            rho=config.camopd.rho[name],
            scale=config.camopd.scale[name],
        )
    return found


def _encode(setup: Setup, loaded: data.Loaded):
    limit, form = setup.config.rollout.max_prompt_tokens, chat.Chat("", "template")
    e = chat.encode_prompts(setup.engine.tokenizer, loaded, form, limit=limit, long_prompts="error")
    return e.prompts, e.tokens


def _evaluation(setup: Setup) -> suite.Suite:
    config, e = setup.config, setup.config.eval

    def task(source, count, max_new_tokens):
        made = {"candidates": config.data.domain.candidates, "seed": e.seed}
        loaded = data.load_prompts(source, "heldout", count=count, at_most=False, heldout_share=0.2, **made)
        prompts, encoded = _encode(setup, loaded)
        return suite.Task(prompts, encoded, max(map(len, encoded)), max_new_tokens)

    return suite.Suite(
        setup.engine,
        general=task(config.data.general.source, e.general_prompts, e.max_new_tokens),
        instructions=task("builtin:instructions", e.instructions, e.max_instruction_tokens),
        domain=task(config.data.domain.source, e.domain_prompts, e.max_domain_tokens),
        batch_size=e.batch_size,
        seed=e.seed,
    )


def _full_evaluation(setup: Setup, evaluation: suite.Suite) -> Callable:
    """evaluate(name, weights, fingerprint) -> measures; with a fingerprint, once per machine."""
    engine, general = setup.engine, setup.general
    tasks = (evaluation.general, evaluation.instructions, evaluation.domain)
    shaped_by = {
        "tokens": [task.max_new_tokens for task in tasks],
        "seed": evaluation.seed,
        "temperature": setup.config.rollout.temperature,
        "prompts": cached.digest([x.tolist() for task in tasks for x in task.encoded]),
        "answers": cached.digest([p.checks for task in tasks for p in task.prompts]),
        "backend": jax.default_backend(),
        "general": general.fingerprint,
    }

    def place_general() -> Params:
        return engine.place(general.weights())

    reference = cached.reference(shaped_by, lambda: evaluation.reference(place_general()))

    def evaluate(name: str, weights: Callable[[], Params], fingerprint: str | None) -> dict[str, suite.Measure]:
        def compute():
            print(f"evaluating: {name} ...", flush=True)
            is_general = fingerprint == general.fingerprint
            return evaluation.run(lambda: engine.place(weights()), place_general, reference, is_general)

        return cached.measures(shaped_by | {"model": fingerprint}, compute) if fingerprint else compute()

    return evaluate


def _between(general: Model, domain: Model, alpha: float) -> Params:
    return jax.tree.map(lambda g, d: alpha * g + (1 - alpha) * d, general.weights(), domain.weights())


def _report(setup: Setup, models: dict[str, dict[str, suite.Measure]]) -> None:
    """Print and write the table, the ratios and the plots; add the full evaluations to eval.jsonl."""
    workdir, last = setup.workdir, setup.config.steps
    general, start, *after = models
    ratios = summary.ratios(models[start], models[general], {name: models[name] for name in after})
    text = f"{summary.table(models)}\n\n{summary.ratio_table(ratios)}\n"
    (workdir / "summary.md").write_text(text)
    print(f"\n{text}", flush=True)
    steps, evaluations = (metrics.read_jsonl(workdir / f"{name}.jsonl") for name in ("metrics", "eval"))
    short = [row for row in evaluations if row["metric"] == "short_reverse_kl"]
    full = [row for name, measures in models.items() for row in suite.rows(name, last, measures)]
    metrics.write_jsonl(workdir / "eval.jsonl", short + full)
    plots = workdir / "plots"
    plots.mkdir(exist_ok=True)
    summary.plot_recovery(plots / "recovery.png", steps, short)
    summary.plot_gaps(plots / "gaps.png", steps)


def _same_tokens(general: Model, domain: Model) -> None:
    """Teachers score the student's token ids, so both must mean the same by them."""
    ours, theirs = general.tokenizer.get_vocab(), domain.tokenizer.get_vocab()
    if ours != theirs:
        token = min(set(ours.items()) ^ set(theirs.items()))[0]
        raise ValueError(
            f"config.teachers: the tokenizers differ, for example token {token!r} is {ours.get(token)} for the general "
            f"and {theirs.get(token)} for the domain teacher; both must share one vocabulary"
        )
    if general.cfg != domain.cfg:
        raise ValueError(f"config.teachers: the architectures differ: {general.cfg} and {domain.cfg}")


def _header(config: ConfigDict, workdir: Path) -> str:
    """What will run, where, and how to get the other presets."""
    device = jax.devices()[0]
    count = {b: config.camopd.cycle.count(b) for b in preflight.BRANCHES}
    return "\n".join(
        [
            f"{config.name}:{config.preset}, seed {config.seed}, on {jax.device_count()} x {device.device_kind}",
            f"  1. domain teacher: {config.teachers.domain} ({config.specialise.steps} updates of "
            f"{config.specialise.batch_size} examples unless cached)",
            "  2. full evaluation of both teachers and of their interpolation (unless cached)",
            f"  3. recovery: {config.steps} updates of {config.rollout.batch_size} prompts, "
            f"{count['general']} general steps to {count['domain']} domain",
            "  4. full evaluation of the recovered student, table, plots, export",
            f"  kept in {workdir}; the same command goes on where it stopped",
            "  other presets: --config=configs/NAME.py[:tiny]; every value: --config.KEY=VALUE",
        ]
    )
