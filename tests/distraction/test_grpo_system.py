"""GRPO's collector on a tiny model: groups stand together, flat ones train nothing or are drawn again, and controls."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from plain import an_engine, random_weights

from camopd_jax.distraction import benchmark, grpo, system
from camopd_jax.distraction.questions import Question
from camopd_jax.engine import Engine

N, G, T = 3, 4, 5
QUESTIONS = [Question(x, "single", "distracted") for x in benchmark.make("dev", 9, seed=0, level="short")]
ASKED = system.Asked(QUESTIONS, [np.arange(1, 3 + i, dtype=np.int32) for i in range(9)])
STATE = SimpleNamespace(params=random_weights(0), key=jax.random.key(0))


def settings(**changes):
    g = {"variant": "dr_grpo", "group_size": G, "epochs": 1, "loss_kl_weight": 0.0, "reward_kl_weight": 0.0,
         "redraws": 0, "shuffle_rewards": False} | changes  # fmt: skip
    return ConfigDict(g), ConfigDict({"batch_size": N, "rows_at_once": 4, "max_new_tokens": T, "temperature": 1.0})


def collect(reward, reference=None, steps=2, recorded=0, step=0, **changes):
    """An Experience of a step, and what was asked of the reward: (question, answer), in order."""
    engine, (g, rollout), seen = an_engine(), settings(**changes), []

    def noted(question, answer):
        seen.append((question, answer))
        return reward(len(seen) - 1)

    made = system.collector(
        engine, ASKED, noted, g, rollout, steps, 0, lambda params: params, reference, recorded
    )  # fmt: skip
    return made(STATE, step), seen


def test_a_group_has_one_question_and_its_better_answers_more_weight(monkeypatch):
    sample, answered = Engine.sample, []

    def noted(self, params, prompts, *more, **how):
        answered.extend(len(ids) for ids in prompts)
        return sample(self, params, prompts, *more, **how)

    monkeypatch.setattr(Engine, "sample", noted)
    experience, seen = collect(lambda i: i % G)
    places = {question.id: place for place, question in enumerate(QUESTIONS)}
    assert answered == [2 + places[question.id] for question, _ in seen], "the prompt is the question's"
    names = [question.id for question, _ in seen]
    assert [len(set(names[n * G : (n + 1) * G])) for n in range(N)] == [1] * N
    assert len(set(names)) == N
    credit = sorted({round(float(a), 3) for u in experience.updates for a in np.unique(u.credit_RS[u.weight_RS > 0])})
    assert credit == [-1.5, -0.5, 0.5, 1.5]
    assert experience.metrics["reward"] == 1.5 and experience.metrics["selected"] == N * G
    weight = sum(float(u.weight_RS.sum()) for u in experience.updates)
    assert weight == pytest.approx(experience.metrics["response_tokens"] / (N * G * T))
    assert sorted(name for part in experience.samples for name in part) == sorted(names)
    assert experience.epochs == 1 and collect(lambda i: i % G, epochs=3)[0].epochs == 3


def test_groups_without_spread_train_nothing_and_are_counted():
    experience, _ = collect(lambda i: float(i // G == 1 and i % G == 0))  # of three groups the second alone differs
    assert experience.metrics["groups_flat"] == 2 and experience.metrics["selected"] == G
    none, _ = collect(lambda i: 1.0)
    assert none.updates == [] and none.metrics["groups_flat"] == N


def test_an_answer_that_cannot_be_scored_is_left_out():
    experience, _ = collect(lambda i: np.nan if i == 0 else i % G)
    assert experience.metrics["unscorable"] == 1 and experience.metrics["selected"] == N * G - 1
    assert experience.metrics["reward"] == pytest.approx((2 * 6 + 6) / (N * G - 1))


def test_dapo_puts_other_questions_in_the_place_of_flat_groups():
    experience, seen = collect(lambda i: float(i % G if i // G in (0, 5) else 0), variant="dapo", redraws=3)
    groups = [seen[i][0].id for i in range(0, len(seen), G)]
    # Round 1 draws three more, of which the third (number 5) has spread; round 2 and 3 find none for the second.
    assert groups[:N] != groups[N : 2 * N] != groups[2 * N : 3 * N]
    assert len(groups) == 4 * N and experience.metrics["groups_again"] == 2 + 1 + 1
    trained = {name for part in experience.samples for name in part}
    assert trained == {groups[0], groups[5]} and experience.metrics["groups_flat"] == 1


def test_shuffled_rewards_are_the_same_ones_elsewhere():
    plain, _ = collect(lambda i: i)
    shuffled, _ = collect(lambda i: i, shuffle_rewards=True)
    assert plain.metrics["reward"] == shuffled.metrics["reward"]
    first, second = (
        np.concatenate([u.credit_RS[u.weight_RS > 0] for u in e.updates]) for e in (plain, shuffled)
    )  # fmt: skip
    assert not np.allclose(np.sort(first), np.sort(second)), "of 0 to 11 in order every group has the same spread"


@pytest.mark.parametrize("key", ["loss_kl_weight", "reward_kl_weight"])
def test_the_reference_is_asked_where_a_kl_weighs_something(key):
    asked = []

    def reference(rollout):
        asked.append(rollout)
        return rollout.sampler_logp_BT - 0.5 * rollout.response_mask_BT

    experience, _ = collect(lambda i: i % G, reference, **{key: 0.1})
    assert len(asked) == 1
    if key == "loss_kl_weight":
        for update in experience.updates:
            (reference_RS,) = update.teacher
            used = update.weight_RS > 0
            np.testing.assert_allclose(reference_RS[used], update.sampler_logp_RS[used] - 0.5, rtol=1e-5)
    else:
        mask = asked[0].response_mask_BT
        reward_NG = (np.arange(N * G) % G - 0.1 * 0.5 * mask.sum(axis=1)).reshape(N, G)
        expected = grpo.advantages(reward_NG, by_std=False).advantage_NG
        found = np.concatenate([u.credit_RS[u.weight_RS > 0] for u in experience.updates])
        assert set(np.round(found, 4)) == set(np.round(expected.astype(np.float32).reshape(-1), 4))


def test_as_many_answers_are_kept_as_asked_over_all_steps():
    kept = [collect(lambda i: i % G, steps=3, recorded=7, step=step)[0].rollouts for step in range(3)]
    assert [len(rows) for rows in kept] == [2, 2, 3]
    assert kept[1][0]["step"] == 2 and kept[1][1]["reward"] == 1.0 and kept[1][1]["advantage"] == -0.5
