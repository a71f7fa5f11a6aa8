"""CaMOPD as a System: roll out, measure the gap to this step's teacher, select, and give credit."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from camopd_jax import data, losses, packing, sharding
from camopd_jax.camopd import select
from camopd_jax.engine import Engine, Policy
from camopd_jax.evals.suite import Measure
from camopd_jax.types import Experience, Params, Rollout, TrainState, Update


@dataclass(frozen=True)
class Branch:
    """One teacher with its prompts and its rule of selection."""

    name: str
    number: int  # names the branch's random streams
    prompts: Sequence[np.ndarray]
    prompt_ids: Sequence[str]
    heldout: Sequence[np.ndarray]  # prompts of the short evaluations
    demand: str  # a key of select.DEMANDS
    rho: float  # share of the batch's demand that the selected samples hold
    scale: float  # r_b of eq. 7


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


class Teachers:
    """Frozen teachers, of which one at a time is on the devices."""

    def __init__(self, policies: Mapping[str, Policy]):
        self._policies = policies
        self._name, self._placed = None, None

    def score(self, name: str, rollout: Rollout) -> np.ndarray:
        """log-probabilities [B, T] of a rollout under a teacher; another one's weights are let go first."""
        if name != self._name:
            self._placed = None
            self._name, self._placed = name, self._policies[name].place()
        return self._policies[name].engine.score(self._placed, rollout)


def objective(band: tuple[float, float]) -> Callable:
    """The loss of eq. 7; scale, selection and means lie in the update's credit and weights."""

    def loss(logp_RS: jax.Array, update: Update) -> tuple[jax.Array, dict]:
        token_loss_RS = losses.policy_token_loss(logp_RS, update.sampler_logp_RS, update.credit_RS, band)
        used_RS = update.weight_RS > 0
        kept_RS = losses.importance_weight(logp_RS, update.sampler_logp_RS, band) > 0
        sums = {"tokens": jnp.sum(used_RS), "w_kept": jnp.sum(kept_RS & used_RS)}
        return losses.weighted_sum(token_loss_RS, update.weight_RS), sums

    return loss


def make_updates(
    rollout: Rollout, credit_BT: np.ndarray, selected: np.ndarray, shape: packing.PackShape
) -> list[Update]:
    """Micro-batches of the selected rows alone, each response weighing 1 / (|S| L_i) a token."""
    length_B = rollout.response_mask_BT.sum(axis=1)
    share_BT = rollout.response_mask_BT / np.maximum(length_B, 1)[:, None] / max(len(selected), 1)
    return packing.updates(rollout, selected, shape, credit_BT, share_BT)


def collector(
    engine: Engine,
    teachers: Teachers,
    branches: Mapping[str, Branch],
    cycle: Sequence[str],
    shape: RolloutShape,
    seed: int,
    whole: Callable[[Params], Params],
) -> Callable[[TrainState, int], Experience]:
    """`collect` of the CaMOPD System (the step of docs/method.md, up to the update).

    `whole` gives the student's full parameters for those that train: the same, or base and adapter.
    """
    rows = sharding.by_rows(engine.mesh)
    measure = {name: _measure(select.DEMANDS[b.demand], rows) for name, b in branches.items()}

    def collect(state: TrainState, step: int) -> Experience:
        name, visit = select.schedule(cycle, step)
        branch = branches[name]
        chosen = data.batch_at(len(branch.prompts), shape.batch_size, visit, seed + 7919 * branch.number)
        clock = time.perf_counter()
        prompts = [branch.prompts[i] for i in chosen]
        key = jax.random.fold_in(state.key, step)
        student = whole(state.params)
        rollout = sample_prompts(engine, student, branch, prompts, key, shape)
        sampled = time.perf_counter()
        student_BT = engine.score(student, rollout)
        teacher_BT = teachers.score(name, rollout)
        gap_BT, score_B = jax.device_get(measure[name](teacher_BT, student_BT, rollout.response_mask_BT))
        for row in np.flatnonzero(~np.isfinite(score_B)):
            prompt = branch.prompt_ids[chosen[row]]
            raise FloatingPointError(f"step {step + 1}, branch {name}: the score of prompt {prompt} is {score_B[row]}")
        selected = select.smallest_prefix(score_B, branch.rho)
        updates = make_updates(rollout, branch.scale * gap_BT, selected, engine.shape)
        scored = time.perf_counter()
        metrics = _figures(engine, rollout, gap_BT, score_B, selected)
        metrics |= {"seconds_rollout": sampled - clock, "seconds_score": scored - sampled}
        return Experience(name, updates, metrics)

    return collect


def _measure(demand: Callable, rows) -> Callable:
    def gap_and_demand(teacher_BT, student_BT, mask_BT):
        gap_BT = select.log_prob_gap(teacher_BT, student_BT, mask_BT)
        return gap_BT, demand(gap_BT, mask_BT)

    return jax.jit(gap_and_demand, in_shardings=(rows, rows, rows), out_shardings=(rows, rows))


def _figures(engine: Engine, rollout: Rollout, gap_BT, score_B, selected) -> dict[str, float]:
    tokens = int(rollout.response_mask_BT.sum())
    total = float(np.sum(score_B, dtype=np.float64))
    return {
        "reverse_kl": -float(gap_BT.sum(dtype=np.float64)) / tokens,
        "gap_abs": float(np.abs(gap_BT).sum(dtype=np.float64)) / tokens,
        "gap_positive": float(np.maximum(gap_BT, 0).sum(dtype=np.float64)) / tokens,
        "selected": len(selected),
        "batch": len(score_B),
        "mass": float(np.sum(score_B[selected], dtype=np.float64)) / total if total else 0.0,
        "response_tokens": tokens,
        "eos_rate": float(engine.ended(rollout).mean()),
    }


def evaluator(
    engine: Engine, teachers: Teachers, branches: Mapping[str, Branch], shape: RolloutShape, seed: int,
    whole: Callable[[Params], Params],
) -> Callable[[Params, int], list[dict]]:  # fmt: skip
    """`evaluate` of the CaMOPD System: sampled reverse KL to each teacher on held-out prompts, nats a token.

    It samples with the shapes of training, so that it compiles nothing of its own.
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
