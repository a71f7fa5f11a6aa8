"""Proofs on a run's own model and numerics, before it trains: sampler and scores agree, and rewards move it."""

import gc
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from camopd_jax import agreement, checked, selftest, sharding, stops
from camopd_jax.distraction import grpo
from camopd_jax.judged import BOUNDS
from camopd_jax.page import from_cache
from camopd_jax.reinforce.inputs import Inputs
from camopd_jax.reinforce.steps import steps_of_run
from camopd_jax.student import Student
from camopd_jax.types import Rollout

ANSWERS = 8  # of a data shard; few and short, and all of one group
FIRST_STOP = 4  # of the tokens that end a response here; with 0, SmolLM2's "The" is one, and ends most answers


def lines(read: Inputs) -> Iterator[str]:
    """A line a proof; figures of the same inputs, code and machine are remembered.

    Raises:
      ValueError: if one fails, with what that means.
    """

    def passed() -> dict:
        found = figures(read)
        _judge(found, read.config)  # what has failed is not kept
        return found

    found, known = checked.remembered({"proofs": checked.shaped_by(read)}, passed)
    first, *others = _judge(found, read.config)
    yield from (f"{first}{from_cache(known)}", *others)


def figures(read: Inputs) -> dict:
    """What `_judge` looks at; all that was put on the devices for it is let go of."""
    try:
        return _figures(read)
    finally:
        gc.collect()  # the reference cycles of an engine hold what it placed


def _figures(read: Inputs) -> dict:
    config, size = read.config, ANSWERS * sharding.data_shards(read.engine.mesh)
    shortest = sorted(read.train.prompts, key=len)[:ANSWERS]
    prompts = [shortest[i // 2 % len(shortest)] for i in range(size)]  # two to a prompt, which is computed once
    student = Student(selftest.small(read.engine, prompts[:ANSWERS], FIRST_STOP), read.base)
    engine, params = student.engine, student.fresh(0)
    whole = jax.tree.map(lambda x: x.astype(engine.numerics.dtype), student.whole(params))
    rollout = engine.sample(
        whole, prompts, jax.random.key(0), width=-(-max(map(len, prompts)) // 8) * 8, batch=size,
        max_new_tokens=selftest.NEW_TOKENS, temperature=engine.numerics.temperature,
    )  # fmt: skip
    score_BT = engine.score(whole, rollout, shared=True)
    slope_BT = agreement.slope(score_BT, engine.score(selftest.louder(whole, 0.5), rollout, shared=True))
    steps = steps_of_run(config, student)
    gradient, norm = selftest.gradient_of(steps, engine)

    def moved(reward_B: np.ndarray, times: float, grads):
        return gradient(params, _updates(config, rollout, reward_B, score_BT, engine), times, grads)

    reward_B = np.arange(size) % 2.0
    grads = moved(reward_B, 1.0, steps.zeros())
    once = norm(grads)
    left = norm(moved(reward_B, -0.5, grads))
    return {
        "scored": agreement.figures([score_BT], [rollout.sampler_logp_BT], [slope_BT]),
        "moved": once,
        "follows": abs(2 * left / once - 1) if once else 1.0,
        "flat": len(_updates(config, rollout, np.ones(size), score_BT, engine)),
        "stopped": stops.of_sampler([rollout], engine),
        "ends": stops.in_loss(rollout, engine, grpo.objective(tuple(config.grpo.clip), "none", 0.0)),
    }


def _updates(config: ConfigDict, rollout: Rollout, reward_B: np.ndarray, reference_BT: np.ndarray, engine) -> list:
    """Of one group with these rewards; the reference is the student."""
    variant = grpo.VARIANTS[config.grpo.variant]
    groups = grpo.advantages(reward_B[None], by_std=variant.by_std)
    weight_BT = grpo.token_weights(rollout.response_mask_BT, groups, variant.share, selftest.NEW_TOKENS)
    kl = (reference_BT,) if config.grpo.loss_kl_weight else ()
    return grpo.make_updates(rollout, groups, weight_BT, kl, engine.shape)


def _judge(found: dict, config: ConfigDict) -> list[str]:
    bounds, stopped, ends = BOUNDS[config.precision], found["stopped"], found["ends"]
    agrees, sampled = agreement.line("scoring", found["scored"], bounds.sampled, config.rollout.temperature)
    tests = (
        (agrees, sampled, "importance ratios would be wrong"),
        (
            np.isfinite(found["moved"]) and found["moved"] > 0,
            f"with one answer better than another: a gradient of {found['moved']:.3g} (must be above 0)",
            "rewards do not reach the student",
        ),
        (
            found["follows"] <= bounds.still,
            "with the better answer worse, by half as much: half of that gradient is left, but for "
            f"{found['follows']:.2g} of it (allowed {bounds.still:.2g})",
            "the student does not learn what the rewards say",
        ),
        (
            found["flat"] == 0,
            f"with all answers alike: {found['flat']} micro-batches train (must be 0)",
            "a group without spread moves the student",
        ),
        (
            stopped["right"] == stopped["responses"],
            f"the sampler stops at a stop token, which belongs to the response: {stopped['right']} of "
            f"{stopped['responses']} responses, {stopped['ended']} of them ended so",
            "responses have no end, or another than the model gave them",
        ),
        (
            ends["ends"] == ends["padded"] == ends["responses"] and ends["slots"] == ends["tokens"],
            f"the token that ends a response trains: in {ends['ends']} of {ends['responses']} responses; "
            f"{ends['slots']} of {ends['tokens']} tokens train",
            "the student would not learn to stop",
        ),
    )
    for passed, line, meaning in tests:
        if not passed:
            raise ValueError(
                f"self-test failed, on {jax.device_count()} x {jax.devices()[0].device_kind} in {config.precision}: "
                f"{line}; {meaning}: try precision = 'float32' or another version of JAX, and report it as a bug"
            )
    return [line for _, line, _ in tests]
