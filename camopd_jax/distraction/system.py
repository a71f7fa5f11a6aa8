"""GRPO on DistractionIF as a System: groups of answers, their rewards, an update towards the better ones."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from ml_collections import ConfigDict

from camopd_jax import data, packing
from camopd_jax.distraction import grpo, margin, questions, rewards
from camopd_jax.distraction.questions import Question
from camopd_jax.distraction.rewards import Reward
from camopd_jax.engine import Engine
from camopd_jax.evals.suite import mean_of
from camopd_jax.types import Experience, Params, Rollout, TrainState

BRANCH = "distraction"
AGAIN = 7919  # apart are the seeds of the order of the prompts and of those that take the place of a flat group's


@dataclass(frozen=True)
class Asked:
    """Questions with their prompts as token ids."""

    questions: list[Question]
    prompts: list[np.ndarray]

    @property
    def width(self) -> int:
        """Tokens to which the prompts are padded, the same for every batch of them."""
        return -(-max(map(len, self.prompts)) // 8) * 8


@dataclass(frozen=True)
class Drawn:
    """Groups of answers with their rewards; row n G + g is answer g of group n."""

    chosen_N: np.ndarray  # places in `Asked`
    rollout: Rollout
    answers: list[str]
    reward_NG: np.ndarray


def collector(
    engine: Engine,
    asked: Asked,
    reward: Reward,
    g: ConfigDict,
    rollout: ConfigDict,
    steps: int,
    seed: int,
    whole: Callable[[Params], Params],
    reference: Callable[[Rollout], np.ndarray],
    recorded: int,
) -> Callable[[TrainState, int], Experience]:
    """`collect` of the GRPO System.

    Args:
      g, rollout: config.grpo and config.rollout, whose batch_size counts prompts.
      whole: gives the policy's full parameters for those that train.
      reference: log pi_ref of a rollout's tokens [B, T], nats; asked only where a KL weighs something.
      recorded: answers of the run that are kept for rollouts.jsonl.
    """
    variant, groups_of = grpo.VARIANTS[g.variant], grpo.advantages
    n, size = rollout.batch_size, g.group_size

    def draw(params: Params, chosen_N: np.ndarray, key: jax.Array) -> Drawn:
        sampled = engine.sample(
            params, [asked.prompts[i] for i in np.repeat(chosen_N, size)], key, width=asked.width,
            batch=rollout.rows_at_once, max_new_tokens=rollout.max_new_tokens, temperature=rollout.temperature,
        )  # fmt: skip
        answers = engine.texts(sampled)
        found_B = rewards.of(reward, [asked.questions[i] for i in np.repeat(chosen_N, size)], answers)
        return Drawn(chosen_N, sampled, answers, found_B.reshape(len(chosen_N), size))

    def drawn_with_spread(params: Params, step: int, key: jax.Array) -> tuple[Drawn, int]:
        """The answers of a step; in a variant that draws again, other prompts take the place of flat groups'."""
        drawn = draw(params, data.batch_at(len(asked.prompts), n, step, seed), jax.random.fold_in(key, 0))
        again = 0
        for round_ in range(1, 1 + (g.redraws if variant.draws_again else 0)):
            flat = grpo.to_draw_again(groups_of(drawn.reward_NG, by_std=variant.by_std))
            if not len(flat):
                break
            others = data.batch_at(len(asked.prompts), n, step, seed + AGAIN * round_)  # all: one shape is compiled
            drawn = _replaced(drawn, flat, draw(params, others, jax.random.fold_in(key, round_)))
            again += len(flat)
        return drawn, again

    def collect(state: TrainState, step: int) -> Experience:
        clock = time.perf_counter()
        params, key = whole(state.params), jax.random.fold_in(state.key, step)
        drawn, again = drawn_with_spread(params, step, key)
        sampled = time.perf_counter()
        reward_NG, used_NG = drawn.reward_NG, drawn.reward_NG
        if g.shuffle_rewards:
            used_NG = np.random.default_rng((seed, step)).permutation(reward_NG.reshape(-1)).reshape(n, size)
        kl, reference_BT = (), None
        if g.loss_kl_weight or g.reward_kl_weight:
            reference_BT = reference(drawn.rollout)
        if g.reward_kl_weight:
            used_NG = grpo.with_kl(used_NG, drawn.rollout, reference_BT, g.reward_kl_weight)
        if g.loss_kl_weight:
            kl = (reference_BT,)
        groups = groups_of(used_NG, by_std=variant.by_std)
        mask_BT = drawn.rollout.response_mask_BT
        weight_BT = grpo.token_weights(mask_BT, groups, variant.share, rollout.max_new_tokens)
        updates = grpo.make_updates(drawn.rollout, groups, weight_BT, kl, engine.shape)
        trained = np.flatnonzero(weight_BT.any(axis=1))
        ids_B = [asked.questions[i].id for i in np.repeat(drawn.chosen_N, size)]
        members = packing.members(drawn.rollout, trained, engine.shape, shared=True)
        samples = [[ids_B[b] for b in rows] for rows in members]
        figures = {
            **_figures(engine, asked, drawn),
            **groups.figures(),
            "groups_again": again,
            "selected": len(trained),
            "seconds_rollout": sampled - clock,
            "seconds_score": time.perf_counter() - sampled,
        }
        kept = (step + 1) * recorded // steps - step * recorded // steps
        rows = _recorded(engine, asked, drawn, groups, kept)
        return Experience(
            BRANCH, updates, figures, [row | {"step": step + 1} for row in rows], samples=samples, epochs=g.epochs
        )

    return collect


def _replaced(drawn: Drawn, groups: np.ndarray, others: Drawn) -> Drawn:
    """The same with others in the place of some groups."""
    size = drawn.reward_NG.shape[1]
    rows = (groups[:, None] * size + np.arange(size)).reshape(-1)

    def put(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
        x = x.copy()
        x[at] = y[at]
        return x

    taken = set(rows.tolist())
    return Drawn(
        put(drawn.chosen_N, others.chosen_N, groups),
        jax.tree.map(lambda x, y: put(x, y, rows), drawn.rollout, others.rollout),
        [others.answers[b] if b in taken else answer for b, answer in enumerate(drawn.answers)],
        put(drawn.reward_NG, others.reward_NG, groups),
    )


def _figures(engine: Engine, asked: Asked, drawn: Drawn) -> dict:
    """Figures of a step for metrics.jsonl."""
    mask_BT = drawn.rollout.response_mask_BT
    tokens, size = int(mask_BT.sum()), drawn.reward_NG.shape[1]
    passed = [
        questions.judged(asked.questions[i], answer)["passed"]
        for i, answer in zip(np.repeat(drawn.chosen_N, size), drawn.answers, strict=True)
    ]
    scorable = ~np.isnan(drawn.reward_NG)
    return {
        "reward": float(drawn.reward_NG[scorable].mean()) if scorable.any() else 0.0,
        "passed": float(np.mean(passed)),
        "entropy": -float(drawn.rollout.sampler_logp_BT.sum(dtype=np.float64)) / tokens,
        "eos_rate": float(engine.ended(drawn.rollout).mean()),
        "batch": len(mask_BT),
        "response_tokens": tokens,
    }


def _recorded(engine: Engine, asked: Asked, drawn: Drawn, groups: grpo.Groups, at_most: int) -> list[dict]:
    """Rows of rollouts.jsonl: the first answers of a step, a group's together."""
    reward_B, advantage_B = drawn.reward_NG.reshape(-1), groups.advantage_NG.reshape(-1)
    ended_B, size = engine.ended(drawn.rollout), drawn.reward_NG.shape[1]
    rows = []
    for b in range(min(at_most, len(reward_B))):
        question = asked.questions[drawn.chosen_N[b // size]]
        rows.append({
            "branch": BRANCH, "id": question.id, "group": b // size, "prompt": question.messages,
            "distractors": list(question.instance.residues),
            "answer": drawn.answers[b], "reward": None if np.isnan(reward_B[b]) else float(reward_B[b]),
            "advantage": round(float(advantage_B[b]), 4), "ended": bool(ended_B[b]),
        })  # fmt: skip
    return rows


@dataclass(frozen=True)
class Pairs:
    """The gold and the bad answer to each question, EOS included, as token ids."""

    asked: Asked
    gold: list[np.ndarray]
    bad: list[np.ndarray]

    def log_rmr(self, engine: Engine, params: Params) -> np.ndarray:
        """log RMR of each question [M], nats a token."""
        twice, count = [*self.asked.prompts] * 2, len(self.gold)
        log_ppl = margin.likelihoods(engine, params, twice, [*self.gold, *self.bad], 2 * count).log_ppl_M
        return log_ppl[count:] - log_ppl[:count]


def evaluator(
    engine: Engine, pairs: Pairs, whole: Callable[[Params], Params], sample: Callable[[Params, Asked], list[str]]
) -> Callable[[Params, int], list[dict]]:
    """`evaluate` of the GRPO System: margin and greedy conjunctive pass on held-out questions.

    Args:
      sample: greedy answers of a policy.
    """

    def evaluate(params: Params, step: int) -> list[dict]:
        policy, asked = whole(params), pairs.asked
        answers = sample(policy, asked)
        passed = [questions.judged(q, a)["passed"] for q, a in zip(asked.questions, answers, strict=True)]
        return [
            mean_of(pairs.log_rmr(engine, policy)).row("student", step, BRANCH, "short_log_rmr"),
            mean_of(passed).row("student", step, BRANCH, "short_pass_rate"),
        ]

    return evaluate


def greedy(engine: Engine, asked: Asked, params: Params, *, batch: int, max_new_tokens: int, seed: int) -> list[str]:
    """A policy's greedy answers."""
    rollout: Sequence = engine.sample(
        params, asked.prompts, jax.random.key(seed), width=asked.width, batch=batch, max_new_tokens=max_new_tokens,
        temperature=0.0,
    )  # fmt: skip
    return engine.texts(rollout)
