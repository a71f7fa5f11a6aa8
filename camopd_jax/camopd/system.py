"""CaMOPD and its rivals as a System: roll out, measure the gap to the step's teachers, select, and give credit."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from camopd_jax import data, finite, losses, packing, scoring, sft
from camopd_jax.camopd import records, select
from camopd_jax.camopd.methods import Method, Signal, Turn, method_of
from camopd_jax.camopd.records import Answers, Branch
from camopd_jax.camopd.teachers import Teachers
from camopd_jax.engine import Engine
from camopd_jax.evals.suite import Measure
from camopd_jax.packing import PackShape
from camopd_jax.types import Experience, Params, Rollout, TrainState, Update


@dataclass(frozen=True)
class RolloutShape:
    batch_size: int  # prompts a step
    rows_at_once: int  # of them that are decoded together, at most
    max_new_tokens: int


def sample_prompts(
    engine: Engine, params: Params, branch: Branch, prompts: Sequence[np.ndarray], key: jax.Array, shape: RolloutShape
) -> Rollout:
    """Responses of the student to a branch's prompts; the branch has one width, so that nothing recompiles."""
    longest = max(map(len, [*branch.prompts, *branch.heldout]))
    return engine.sample(
        params,
        prompts,
        key,
        width=-(-longest // 8) * 8,
        batch=shape.rows_at_once,
        max_new_tokens=shape.max_new_tokens,
        temperature=engine.numerics.temperature,
    )


def objective(band: tuple[float, float]) -> Callable:
    """The loss of eq. 7; scale, selection and means lie in the update's credit and weights."""

    def loss(logp_RS: jax.Array, update: Update) -> tuple[jax.Array, dict]:
        token_loss_RS = losses.policy_token_loss(logp_RS, update.sampler_logp_RS, update.credit_RS, band)
        used_RS = update.weight_RS > 0
        kept_RS = losses.importance_weight(logp_RS, update.sampler_logp_RS, band) > 0
        sums = {"tokens": jnp.sum(used_RS), "w_kept": jnp.sum(kept_RS & used_RS)}
        return losses.weighted_sum(token_loss_RS, update.weight_RS), sums

    return loss


def divergence_objective(divergence_RS: jax.Array, update: Update) -> tuple[jax.Array, dict]:
    """Eq. 7 with a divergence over the vocabulary at each token in the place of -w_t A_t log pi_theta(y_t|h_t)."""
    token_loss_RS = losses.divergence_token_loss(divergence_RS, update.credit_RS)
    return losses.weighted_sum(token_loss_RS, update.weight_RS), {"tokens": jnp.sum(update.weight_RS > 0)}


def scored_by(c: ConfigDict) -> tuple[Callable, Callable]:
    """The function of `scoring` that a run differentiates, and the objective on what it gives, for config.camopd."""
    if method_of(c).teacher_answers:
        return scoring.score, sft.objective
    if c.loss == "sampled":
        return scoring.score, objective(tuple(c.weight_band))
    return {"full": scoring.reverse_kl, "top_k": scoring.top_k_reverse_kl}[c.loss], divergence_objective


def make_updates(
    rollout: Rollout, credit_BT: np.ndarray, selected: np.ndarray, count: int, shape: PackShape
) -> list[Update]:
    """Micro-batches of the selected rows alone, each response weighing 1 / (count L_i) a token."""
    length_B = rollout.response_mask_BT.sum(axis=1)
    share_BT = rollout.response_mask_BT / np.maximum(length_B, 1)[:, None] / max(count, 1)
    return packing.updates(rollout, selected, shape, credit_BT, share_BT)


def gap_and_demand(demand: str, teacher_BT, student_BT, mask_BT) -> tuple[jax.Array, jax.Array]:
    """The gap [B, T] to a teacher, and each response's score [B] by a demand."""
    gap_BT = select.log_prob_gap(teacher_BT, student_BT, mask_BT)
    return gap_BT, select.DEMANDS[demand](gap_BT, mask_BT)


def check_scores(score_B: np.ndarray, step: int, branch: str, ids: Sequence[str]) -> None:
    """Raise FloatingPointError, which names the prompts, if scores are not finite."""
    bad = np.flatnonzero(~np.isfinite(score_B))
    if len(bad):
        more = [str(ids[row]) for row in bad[1:]]
        others = f", and so are those of {finite.listed(more)}" if more else ""
        raise FloatingPointError(
            f"step {step}, branch {branch}: the score of prompt {ids[bad[0]]} is {score_B[bad[0]]}{others}"
        )


def collector(
    engine: Engine,
    teachers: Teachers,
    branches: Mapping[str, Branch],
    c: ConfigDict,
    shape: RolloutShape,
    steps: int,
    seed: int,
    whole: Callable[[Params], Params],
    record: Callable[[Answers, np.ndarray, int], list[dict]],
    recorded: int,
) -> Callable[[TrainState, int], Experience]:
    """`collect` of the CaMOPD System (the step of docs/method.md, up to the update).

    Args:
      c: config.camopd; steps: of the run.
      whole: gives the student's full parameters for those that train: the same, or base and adapter.
      record: (answers, rows that train, how many at most) -> rows of rollouts.jsonl; recorded: answers of the run.
    """
    method = method_of(c)
    measures = {name: jax.jit(functools.partial(gap_and_demand, b.demand)) for name, b in branches.items()}

    def answer(student: Params, turn: Turn, key: jax.Array) -> tuple[Rollout, list[str]]:
        branch = branches[turn.branch]
        chosen = data.batch_at(len(branch.prompts), turn.rows, turn.visit, seed + 7919 * branch.number)
        who, params = teachers.placed(turn.branch) if method.teacher_answers else (engine, student)
        rollout = sample_prompts(who, params, branch, [branch.prompts[i] for i in chosen], key, shape)
        return rollout, [branch.prompt_ids[i] for i in chosen]

    def scored(student: Params, name: str, rollout: Rollout, ids: list[str], step: int) -> Answers:
        student_BT, teacher_BT = engine.score(student, rollout), teachers.score(name, rollout)
        gap_BT, score_B = jax.device_get(measures[name](teacher_BT, student_BT, rollout.response_mask_BT))
        check_scores(score_B, step + 1, name, ids)
        return Answers(branches[name], ids, rollout, student_BT, teacher_BT, gap_BT, score_B)

    def credit(student: Params, answers: Answers, step: int) -> np.ndarray:
        if method.teacher_answers or c.loss != "sampled":
            return np.ones_like(answers.gap_BT)
        name, rollout = answers.branch.name, answers.rollout
        entropy_BT = engine.examine(student, rollout)[0] if method.student_entropy else None
        rank_BT = None
        if method.teacher_rank:
            who, params = teachers.placed(name)
            rank_BT = who.examine(params, rollout)[1]
        progress, numbers = step / max(steps - 1, 1), (seed, step, answers.branch.number)
        return method.credit(
            Signal(answers.gap_BT, rollout.response_mask_BT, entropy_BT, rank_BT, progress, numbers), c
        )

    def with_teacher(student: Params, name: str, update: Update) -> Update:
        if c.loss == "sampled":
            return update
        who, params = teachers.placed(name)
        if c.loss == "full":
            hidden_RSD = who.on_packed(scoring.hidden, params, update.packed)
            return update.replace(teacher=(hidden_RSD, params["embed" if who.cfg.tied_head else "head"]))
        ids_RSK = engine.on_packed(scoring.top_ids, student, update.packed, k=c.loss_top_k)
        return update.replace(teacher=(ids_RSK, who.on_packed(scoring.logp_at, params, update.packed, ids_RSK)))

    def collect(state: TrainState, step: int) -> Experience:
        turns = method.turns(tuple(c.cycle), step, shape.batch_size)
        student, key = whole(state.params), jax.random.fold_in(state.key, step)
        keys = [key] if len(turns) == 1 else list(jax.random.split(key, len(turns)))
        parts, seconds = [], {"seconds_rollout": 0.0, "seconds_score": 0.0}
        for turn, own_key in zip(turns, keys, strict=True):
            clock = time.perf_counter()
            teachers.prefetch(turn.branch)  # comes while the student answers
            rollout, ids = answer(student, turn, own_key)
            sampled = time.perf_counter()
            answers = scored(student, turn.branch, rollout, ids, step)
            rows, factor = method.select(answers.score_B, answers.branch.rho, answers.branch.scale)
            factor_B = np.zeros(len(answers.score_B))
            factor_B[rows] = factor
            parts.append((answers, rows, factor_B[:, None] * credit(student, answers, step)))
            seconds["seconds_rollout"] += sampled - clock
            seconds["seconds_score"] += time.perf_counter() - sampled
        if c.loss == "sampled" and step + 1 < steps:  # any other loss asks the teacher again during the update
            teachers.prefetch(method.turns(tuple(c.cycle), step + 1, shape.batch_size)[0].branch)
        total = sum(len(rows) for _, rows, _ in parts)
        updates, names, samples = [], [], []
        if method.teacher_answers or any(answers.score_B.any() for answers, *_ in parts):
            for answers, rows, credit_BT in parts:
                count = total if method.pooled else len(rows)
                updates += make_updates(answers.rollout, credit_BT, rows, count, engine.shape)
                names += [answers.branch.name] * (len(updates) - len(names))
                members = packing.members(answers.rollout, rows, engine.shape)
                samples += [[answers.ids[b] for b in inside] for inside in members]
        quotas = records.quotas(recorded, steps, step, len(turns))
        rollouts = [
            row | {"step": step + 1}
            for (answers, rows, _), quota in zip(parts, quotas, strict=True)
            for row in record(answers, rows, quota)
        ]
        return Experience(
            "+".join(turn.branch for turn in turns),
            updates,
            _figures(engine, method, parts) | seconds,
            rollouts,
            lambda place: with_teacher(student, names[place], updates[place]),
            samples,
        )

    return collect


def _figures(engine: Engine, method: Method, parts: list) -> dict:
    """Figures of a step for metrics.jsonl, of all branches together and of each."""
    found = {a.branch.name: _branch_figures(engine, method, a, rows) for a, rows, _ in parts}
    each = list(found.values())
    counts = {name: sum(f[name] for f in each) for name in ("selected", "batch", "response_tokens")}
    kl = "forward_kl" if method.teacher_answers else "reverse_kl"
    alone = each[0] if len(each) == 1 else {}
    return (
        alone
        | counts
        | {
            kl: _of_tokens(kl, each),
            "eos_rate": sum(f["eos_rate"] * f["batch"] for f in each) / counts["batch"],
            **({} if method.teacher_answers else {"entropy": _of_tokens("entropy", each)}),
            "branches": found,
        }
    )


def _of_tokens(name: str, each: Sequence[dict]) -> float:
    """The mean of a figure over the response tokens of all branches."""
    return sum(f[name] * f["response_tokens"] for f in each) / sum(f["response_tokens"] for f in each)


def _branch_figures(engine: Engine, method: Method, answers: Answers, rows: np.ndarray) -> dict[str, float]:
    gap_BT, score_B = answers.gap_BT, answers.score_B
    tokens = int(answers.rollout.response_mask_BT.sum())
    total = float(np.sum(score_B, dtype=np.float64))
    gap = float(gap_BT.sum(dtype=np.float64)) / tokens
    # Of the policy that sampled, at its temperature: -E log mu(y_t | h_t), estimated without a forward pass.
    entropy = -float(answers.rollout.sampler_logp_BT.sum(dtype=np.float64)) / tokens
    return {
        # On the teacher's own answers the mean gap estimates the forward KL; on the student's, minus the reverse KL.
        **({"forward_kl": gap} if method.teacher_answers else {"reverse_kl": -gap, "entropy": entropy}),
        "gap_abs": float(np.abs(gap_BT).sum(dtype=np.float64)) / tokens,
        "gap_positive": float(np.maximum(gap_BT, 0).sum(dtype=np.float64)) / tokens,
        "selected": len(rows),
        "batch": len(score_B),
        "mass": float(np.sum(score_B[rows], dtype=np.float64)) / total if total else 0.0,
        "response_tokens": tokens,
        "eos_rate": float(engine.ended(answers.rollout).mean()),
    }


def evaluator(
    engine: Engine, teachers: Teachers, branches: Mapping[str, Branch], shape: RolloutShape, seed: int,
    whole: Callable[[Params], Params],
) -> Callable[[Params, int], list[dict]]:  # fmt: skip
    """`evaluate` of the CaMOPD System: sampled reverse KL to each teacher on held-out prompts, nats a token.

    It samples with the widths of training, so that it compiles nothing of its own where it has as many prompts.
    """

    def evaluate(params: Params, step: int) -> list[dict]:
        student, rows = whole(params), []
        for branch in branches.values():
            rollout = sample_prompts(engine, student, branch, branch.heldout, jax.random.key(seed), shape)
            kl_BT = engine.score(student, rollout) - teachers.score(branch.name, rollout)
            kl = Measure(kl_BT.sum(axis=1, dtype=np.float64), rollout.response_mask_BT.sum(axis=1))
            rows.append(kl.row("student", step, branch.name, "short_reverse_kl"))
        return rows

    return evaluate
