"""Proofs on a run's own models and numerics, before it trains, that it measures and learns what it says.

A teacher that is the student must teach nothing, and one that is not, something; what the sampler says of its tokens
must be what scoring says of them; the token that ends a response must be in the loss. Collector, scorer, objective and
gradient are those of the run; only prompts, responses and packed rows are few and short.
"""

import gc
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from camopd_jax import agreement, renderings, rules, sharding, stops
from camopd_jax.camopd import methods
from camopd_jax.camopd import system as camopd
from camopd_jax.camopd.records import Answers, Branch
from camopd_jax.camopd.system import RolloutShape
from camopd_jax.chat import Chat
from camopd_jax.engine import Engine
from camopd_jax.inputs import Inputs
from camopd_jax.packing import PackShape
from camopd_jax.step import Steps
from camopd_jax.student import Student, recovery_steps
from camopd_jax.types import Params, Rollout, TrainState, Update

PROMPTS = 2  # sample conversations, the shortest ones
NEW_TOKENS = 16  # of a response
STOPS = 8  # besides the stop tokens every eighth token ends a response, so that ends come in so few tokens
# So much larger the final norm of the teacher that is not the student is, and with it its logits; of the n-th branch's
# teacher, to the power n. The second one is tried where the first gives no gradient: a sharper teacher may like none of
# a few tokens better than the student does.
SCALES = (1.1, 0.5)


class _ScaledTeachers:
    """In the place of `Teachers`: for each branch weights of its own, made from the same ones."""

    def __init__(self, engine: Engine, same: Params, branches: dict[str, Branch]):
        self.engine, self.same, self.scale, self._branches = engine, same, 1.0, branches

    def placed(self, name: str) -> tuple[Engine, Params]:
        return self.engine, louder(self.same, self.scale ** (1 + self._branches[name].number))

    def prefetch(self, name: str) -> None:
        """It is there."""

    def score(self, name: str, rollout: Rollout) -> np.ndarray:
        return self.engine.score(self.placed(name)[1], rollout)


def louder(params: Params, scale: float) -> Params:
    """The same model with so many times the logits."""
    return params | {"norm": params["norm"] * scale}


def figures(read: Inputs) -> dict:
    """What `judged` looks at; all that was put on the devices for it is let go of.

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
    samples = renderings.prompts(read.engine.tokenizer, Chat(**read.config.chat))
    prompts = sorted(samples, key=len)[:PROMPTS]
    student = Student(small(read.engine, prompts), read.base)
    found, answers = _of_student(read.config, student, prompts)  # whose weights go before another teacher's come
    return found | {"teachers": dict(_others(read, student, answers))}


def _of_student(config: ConfigDict, student: Student, prompts: list[np.ndarray]) -> tuple[dict, Answers]:
    """The figures that need no other model, and some answers."""
    c, engine, method = config.camopd, student.engine, methods.method_of(config.camopd)
    state = TrainState(student.fresh(0), None, 0, jax.random.key(0))
    same = jax.tree.map(lambda x: x.astype(engine.numerics.dtype), student.whole(state.params))
    branches, seen, asked, scored, slopes = _branches(config, prompts), [], [], [], []
    teachers, batch = _ScaledTeachers(engine, same, branches), batch_of(c, sharding.data_shards(engine.mesh))

    def record(answers: Answers, rows: np.ndarray, most: int) -> list[dict]:
        own = teachers.placed(answers.branch.name)[1]
        if teachers.scale != 1:  # else there is no gap
            gap_BT = engine.score(own, answers.rollout) - answers.student_BT
            asked.append(float(np.abs(answers.gap_BT - gap_BT).max() / max(np.abs(gap_BT).max(), 1e-30)))
        who, score_BT = (own, answers.teacher_BT) if method.teacher_answers else (same, answers.student_BT)
        slopes.append(agreement.slope(score_BT, engine.score(louder(who, 0.5), answers.rollout)))
        scored.append(score_BT)
        seen.append(answers)
        return []

    collect = camopd.collector(
        engine, teachers, branches, c, RolloutShape(batch, batch, NEW_TOKENS), 1, 0, student.whole, record, recorded=0
    )
    steps = recovery_steps(config, student)
    gradient, size = gradient_of(steps, engine)
    found = {"still": None if method.teacher_answers else 0.0, "follows": 0.0, "moved": {}}
    for step in visits(c, batch):
        if not seen:
            teachers.scale = 1.0
            collect(state, step)
            first = list(zip(seen, slopes, strict=True))
            found["gap"] = max(float(np.abs(answers.gap_BT).max()) for answers in seen)
            if c.loss == "sampled":
                found["trained"] = _trained(first, steps, engine, state.params)
                if not method.teacher_answers:  # built here, as a run builds none of gaps that are 0
                    updates = [u for a in seen for u in _updates(a.rollout, a.gap_BT, engine)]
                    found["still"] = size(gradient(state.params, updates, 1.0, steps.zeros()))
        for scale in SCALES:
            teachers.scale = scale
            experience = collect(state, step)
            updates = [experience.complete(place) for place in range(len(experience.updates))]
            grads = gradient(state.params, updates, 1.0, steps.zeros())
            moved = size(grads)
            if moved:
                break
        rejected = method.teacher_rank and not any(update.credit_RS.any() for update in updates)
        found["moved"][experience.branch] = None if rejected else moved
        if moved:  # with the credit and -1/2 of it, of which half a gradient is left
            left = size(gradient(state.params, updates, -0.5, grads)) / moved
            found["follows"] = max(found["follows"], abs(2 * left - 1))
        del grads, updates
        if c.loss != "sampled":  # the same tokens, and a teacher that is the student
            teachers.scale = 1.0
            updates = [experience.complete(place) for place in range(len(experience.updates))]
            found["still"] = max(found["still"], size(gradient(state.params, updates, 1.0, steps.zeros())))
    found["scored"] = agreement.figures(scored, [a.rollout.sampler_logp_BT for a in seen], slopes)
    found["asked"] = max(asked, default=math.inf)  # no teacher was asked
    found["stopped"] = stops.of_sampler([answers.rollout for answers in seen], engine)
    found["ends"] = stops.in_loss(seen[-1].rollout, engine, camopd.scored_by(c)[1])
    return found, seen[-1]


def small(engine: Engine, prompts: list[np.ndarray], first_stop: int = 0) -> Engine:
    """The same with a packed row a data shard, of two sequences, and more tokens that end a response, from one on."""
    longest = max(map(len, prompts)) + NEW_TOKENS
    shape = PackShape(sharding.data_shards(engine.mesh), 2 * longest, 2 * NEW_TOKENS)
    stop_ids = dict.fromkeys([*engine.stop_ids, *range(first_stop, engine.numerics.vocab, STOPS)])
    return Engine(engine.cfg, engine.mesh, engine.tokenizer, stop_ids, shape, engine.numerics)


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


def gradient_of(steps: Steps, engine: Engine) -> tuple[Callable[..., Params], Callable[[Params], float]]:
    """gradient(parameters that train, updates, times their credit, a gradient) -> their sum; and the norm of one."""
    norm = jax.jit(optax.tree.norm, out_shardings=sharding.replicated(engine.mesh))

    def gradient(params: Params, updates: Sequence[Update], times: float, grads: Params) -> Params:
        for update in updates:
            update = update.replace(credit_RS=update.credit_RS * np.float32(times))
            grads, _ = steps.micro(params, grads, sharding.spread(update, steps.rows), steps.frozen)
        return grads

    return gradient, lambda grads: float(norm(grads))


def _updates(rollout: Rollout, credit_BT: np.ndarray, engine: Engine) -> list[Update]:
    rows = np.arange(len(credit_BT))
    return camopd.make_updates(rollout, credit_BT, rows, len(rows), engine.shape)


def _trained(first: list[tuple[Answers, np.ndarray]], steps: Steps, engine: Engine, params: Params) -> dict:
    """What the function that a run differentiates gives the tokens that the student itself sampled."""
    updates = [u for answers, slope_BT in first for u in _updates(answers.rollout, slope_BT, engine)]
    scored = [
        sharding.fetch(steps.score(params, sharding.spread(update, steps.rows), steps.frozen)) for update in updates
    ]
    return agreement.figures(scored, [u.sampler_logp_RS for u in updates], [u.credit_RS for u in updates])


def _others(read: Inputs, student: Student, answers: Answers) -> Iterator[tuple[str, float]]:
    """Mean gap, nats a token, of each teacher that is given and is not the student's base."""
    for name, model in read.models.items():
        if model is read.base:
            continue
        policy = student.given(model, read.models["general"], 0).policy
        logp_BT = policy.engine.score(policy.place(), answers.rollout)
        mask_BT = answers.rollout.response_mask_BT
        yield name, float((logp_BT - answers.student_BT)[mask_BT].mean(dtype=np.float64))
