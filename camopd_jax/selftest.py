"""Proofs on a run's own models and numerics, before it trains, that it measures and learns what it says.

A teacher that is the student must teach nothing, and one that is not, something; what the sampler says of its tokens
must be what scoring says of them; the token that ends a response must be in the loss. Collector, scorer, objective and
gradient are those of the run; only prompts, responses and packed rows are few and short.
"""

import gc
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from camopd_jax import renderings, rules, sharding, stops
from camopd_jax.camopd import methods
from camopd_jax.camopd import system as camopd
from camopd_jax.camopd.records import Answers, Branch
from camopd_jax.camopd.system import RolloutShape
from camopd_jax.chat import Chat
from camopd_jax.engine import Engine
from camopd_jax.inputs import Inputs
from camopd_jax.models import decoder
from camopd_jax.packing import PackShape
from camopd_jax.step import build_steps, make_optimizer
from camopd_jax.student import Student
from camopd_jax.types import Experience, Params, Rollout, TrainState

PROMPTS = 2  # sample conversations, the shortest ones
NEW_TOKENS = 8  # of a response
# So much larger the final norm of the teacher that is not the student is, and with it its logits. The second one is
# tried where the first gives no gradient: a sharper teacher may like none of a few tokens better than the student does.
SCALES = (1.1, 0.5)


@dataclass(frozen=True)
class Bounds:
    """What rounding may do. On 2 CPU cores, SmolLM2-135M (the small preset), 48 tokens at temperature 1, it does:

    in float32 and in bfloat16, with an adapter and without, and under each of the losses, a gap of 0 and a gradient of
    0 (under "full" 2e-6 of the other teacher's); between sampler and scores 4e-6 nats a token on average and 2.5e-5 at
    most in float32, 0.021 and 0.18 in bfloat16. Other devices round otherwise, and may compile the student, whose
    weights are float32, to another program than a teacher of bfloat16; hence the room above these figures.
    """

    gap: float  # nats, of any token, to a teacher that is the student
    still: float  # gradient that it gives, of that which the other teacher gives
    mean: float  # |sampler - scores|, nats at temperature 1; at lower ones as much more
    most: float  # the same, of any token


BOUNDS = {
    "float32": Bounds(gap=1e-4, still=1e-3, mean=1e-3, most=1e-2),
    "bfloat16": Bounds(gap=0.1, still=0.05, mean=0.1, most=1.0),
}


class _OneTeacher:
    """In the place of `Teachers`: one set of weights for every branch, which can be exchanged."""

    def __init__(self, engine: Engine, params: Params):
        self.engine, self.params = engine, params

    def placed(self, name: str) -> tuple[Engine, Params]:
        return self.engine, self.params

    def prefetch(self, name: str) -> None:
        """It is there."""

    def score(self, name: str, rollout: Rollout) -> np.ndarray:
        return self.engine.score(self.params, rollout)


def figures(read: Inputs) -> dict:
    """What `judge` looks at; all that was put on the devices for it is let go of.

    The weights are the student's base alone: the teacher that is the student has the same arrays (in half precision,
    copies of that precision, as a run has), and so has the other one, but for the final norm.

    Raises:
      ValueError: if a score of theirs is not finite.
    """
    try:
        return _figures(read)
    except FloatingPointError as error:
        raise ValueError(f"self-test: {error}; the weights of {read.base.source} cannot be computed with") from None
    finally:
        gc.collect()  # the reference cycles of an engine hold what it placed


def _figures(read: Inputs) -> dict:
    config, c = read.config, read.config.camopd
    samples = renderings.prompts(read.engine.tokenizer, Chat(**config.chat))
    prompts = sorted(samples, key=len)[:PROMPTS]
    engine, method = _small(read.engine, prompts), methods.method_of(c)
    student = Student(engine, read.base)
    state = TrainState(student.fresh(0), None, 0, jax.random.key(0))
    same = jax.tree.map(lambda x: x.astype(engine.numerics.dtype), student.whole(state.params))
    teacher, seen = _OneTeacher(engine, same), []
    batch = batch_of(c, sharding.data_shards(engine.mesh))
    collect = camopd.collector(
        engine, teacher, _branches(config, prompts), c, RolloutShape(batch, batch, NEW_TOKENS), 1, 0, student.whole,
        lambda answers, rows, n: seen.append(answers) or [], recorded=0,
    )  # fmt: skip
    gradient, objective = _gradient(config, engine, student)
    found = {"gap": 0.0, "still": None if method.teacher_answers else 0.0, "moved": {}}
    found |= {"sampled": 0.0, "off": 0.0, "tokens": 0}
    for step in visits(c, batch):
        if not seen:
            experience = collect(state, step)
            found["gap"] = max(float(np.abs(answers.gap_BT).max()) for answers in seen)
            if not method.teacher_answers:
                found["still"] = gradient(state.params, experience)
        for scale in SCALES:
            teacher.params = same | {"norm": same["norm"] * scale}
            experience = collect(state, step)
            moved = gradient(state.params, experience)
            if moved:
                break
        rejected = method.teacher_rank and not any(update.credit_RS.any() for update in experience.updates)
        found["moved"][experience.branch] = None if rejected else moved
        if c.loss != "sampled":  # the same tokens, and a teacher that is the student
            teacher.params = same
            found["still"] = max(found["still"], gradient(state.params, experience))
    for answers in seen:
        rescored_BT = answers.teacher_BT if method.teacher_answers else answers.student_BT
        off_BT = np.abs(rescored_BT - answers.rollout.sampler_logp_BT)
        found["sampled"] = max(found["sampled"], float(off_BT.max()))
        found["off"] += float(off_BT.sum(dtype=np.float64))
        found["tokens"] += int(answers.rollout.response_mask_BT.sum())
    found["ends"] = stops.in_loss(seen[-1].rollout, engine, objective)
    del same, teacher, collect  # before another teacher comes
    found["teachers"] = dict(_others(read, student, seen[-1]))
    return found


def judge(found: dict, precision: str, temperature: float) -> list[str]:
    """What `figures` says, in words, a line a test.

    Raises:
      ValueError: if a test is failed, with what that means.
    """
    bounds, colder = BOUNDS[precision], 1 / min(temperature, 1.0)
    mean, ends = found["off"] / found["tokens"], found["ends"]
    sizes = {branch: size for branch, size in found["moved"].items() if size is not None}
    least = min(sizes.values(), default=math.inf)
    moved = ", ".join(f"{size:.3g} on {branch}" for branch, size in sizes.items()) or "none, all tokens are rejected"
    still = "" if found["still"] is None else f", gradient {found['still']:.2g}"
    tests = [
        (
            found["gap"] <= bounds.gap * colder,
            f"a teacher that is the student: gap {found['gap']:.2g} nats (allowed {bounds.gap * colder:.2g}){still}",
            "student and teacher are not scored alike",
        ),
        (
            np.isfinite(list(sizes.values())).all() and least > 0,
            f"a teacher that is surer, or less sure: gradient {moved}",
            "what a teacher says does not reach the student",
        ),
        (
            found["still"] is None or found["still"] <= bounds.still * least,
            f"of it, where the teacher is the student: {(found['still'] or 0.0) / (least or 1.0):.2g} "
            f"(allowed {bounds.still:.2g})",
            "the loss moves a student that agrees with its teacher",
        ),
        (
            mean <= bounds.mean * colder and found["sampled"] <= bounds.most * colder,
            f"sampler against scores: {mean:.2g} nats a token, {found['sampled']:.2g} at most, over {found['tokens']} "
            f"tokens (allowed {bounds.mean * colder:.2g} and {bounds.most * colder:.2g})",
            "importance weights would be wrong",
        ),
        (
            ends["ends"] == ends["padded"] == ends["responses"] and ends["slots"] == ends["tokens"],
            f"the token that ends a response: in the loss of {ends['ends']} of {ends['responses']}, and of "
            f"{ends['padded']} padded with that token; {ends['slots']} of {ends['tokens']} tokens train",
            "the student would not learn to stop",
        ),
        *(
            (np.isfinite(gap), f"{name} teacher: mean gap {gap:.3g} nats a token", "it cannot be computed with")
            for name, gap in found["teachers"].items()
        ),
    ]
    for passed, line, meaning in tests:
        if not passed:
            raise ValueError(
                f"self-test failed, on {jax.device_count()} x {jax.devices()[0].device_kind} in {precision}: {line}; "
                f"{meaning}: try precision = 'float32' or another version of JAX, and report it as a bug"
            )
    return [line for _, line, _ in tests]


def _small(engine: Engine, prompts: list[np.ndarray]) -> Engine:
    """The same with a packed row a data shard, of two sequences."""
    longest = max(map(len, prompts)) + NEW_TOKENS
    shape = PackShape(sharding.data_shards(engine.mesh), 2 * longest, 2 * NEW_TOKENS)
    return Engine(engine.cfg, engine.mesh, engine.tokenizer, engine.stop_ids, shape, engine.numerics)


def _branches(config: ConfigDict, prompts: list[np.ndarray]) -> dict[str, Branch]:
    c, ids = config.camopd, [f"sample-{i}" for i in range(len(prompts))]
    return {
        name: Branch(name, i, prompts, ids, [], c.demand[name], c.rho[name], c.scale[name])
        for i, name in enumerate(rules.branches(config))
    }


def batch_of(c: ConfigDict, shards: int) -> int:
    """The fewest prompts of a step that spread evenly over the data shards, two or more for each branch in it."""

    def fits(batch: int) -> bool:
        rows = [turn.rows for turn in methods.method_of(c).turns(tuple(c.cycle), 0, batch)]
        return sum(rows) == batch and all(n >= 2 and n % shards == 0 for n in rows)

    return next(batch for batch in itertools.count(shards, shards) if fits(batch))


def visits(c: ConfigDict, batch: int) -> Iterator[int]:
    """Steps that together visit every branch that a run visits."""
    visited = set()
    for step in range(len(c.cycle)):
        now = {turn.branch for turn in methods.method_of(c).turns(tuple(c.cycle), step, batch)}
        if not now <= visited:
            yield step
        visited |= now


def _gradient(config: ConfigDict, engine: Engine, student: Student) -> tuple[Callable[..., float], Callable]:
    """gradient(parameters that train, experience) -> the norm of a step's gradient; and the objective."""
    function, objective = camopd.scored_by(config.camopd)
    score = engine.scorer(engine.numerics.temperature, config.micro.remat, function)
    optimizer = make_optimizer(**config.optim, decay_steps=0)
    steps = build_steps(score, student.shapes, engine.mesh, decoder.AXES, objective, optimizer, student.frozen())
    norm = jax.jit(optax.tree.norm, out_shardings=sharding.replicated(engine.mesh))

    def gradient(params: Params, experience: Experience) -> float:
        if not experience.updates:
            return 0.0
        grads = steps.zeros()
        for place in range(len(experience.updates)):
            update = sharding.spread(experience.complete(place), steps.rows)
            grads, _ = steps.micro(params, grads, update, steps.frozen)
        return float(norm(grads))

    return gradient, objective


def _others(read: Inputs, student: Student, answers: Answers) -> Iterator[tuple[str, float]]:
    """Mean gap, nats a token, of each teacher that is given and is not the student's base."""
    for name, model in read.models.items():
        if model is read.base:
            continue
        policy = student.given(model, read.models["general"], 0).policy
        logp_BT = policy.engine.score(policy.place(), answers.rollout)
        mask_BT = answers.rollout.response_mask_BT
        yield name, float((logp_BT - answers.student_BT)[mask_BT].mean(dtype=np.float64))
