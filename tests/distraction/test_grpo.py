"""GRPO against loops over groups, answers and tokens in float64, which share no code with the package."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from plain import SGD, SHAPE, TAU, a_rollout, all_logp, an_engine, mesh, noise, plain_logp, random_weights, sequence

from camopd_jax import packing, policy
from camopd_jax import step as steps_of
from camopd_jax.distraction import grpo
from camopd_jax.models import decoder
from camopd_jax.packing import PackShape

NAN = math.nan
T_MAX = 6
# Groups of 3: one of usual rewards, one with an unscorable answer, one without spread, one with one scorable answer.
REWARDS = np.array([[1.0, 0.0, 0.4], [NAN, 0.2, 1.0], [0.6, 0.6, 0.6], [NAN, NAN, 1.0]])
LENGTHS = (3, 5, 1, 4, 0, 5, 2, 2, 3, 4, 1, 2)  # tokens that count; of answer 4, which has 3, all are masked
CLIPS = {"grpo": (0.2, 0.2), "dr_grpo": (0.2, 0.2), "dapo": (0.2, 0.28)}
SHAPES = [SHAPE, PackShape(2, 12, 5), PackShape(1, 200, 90)]


def drawn(seed=1):
    """A rollout of 4 prompts with 3 answers each, the policy's and the reference's log-probabilities of its tokens."""
    rollout = a_rollout(prompt_lengths=np.repeat([4, 2, 6, 3], 3), response_lengths=[n or 3 for n in LENGTHS])
    sampler = noise(rollout, seed, 1.0, -3.0)
    logp = sampler + noise(rollout, seed + 1, 0.3)
    return rollout.replace(sampler_logp_BT=sampler), logp, sampler + noise(rollout, seed + 2, 0.5)


def oracle_loss(variant, logp, sampler, reference, kl, kl_weight, lengths=LENGTHS, rewards=REWARDS):
    """The loss of a batch as a function of the log-probabilities, a token at a time."""
    scorable = [i for i, r in enumerate(rewards.reshape(-1)) if not math.isnan(r)]
    tokens = sum(lengths[i] for i in scorable)
    low, high = CLIPS[variant]
    loss = 0.0
    for i in scorable:
        group = [r for r in rewards[i // rewards.shape[1]] if not math.isnan(r)]
        if len(set(group)) < 2:
            continue
        mean = sum(group) / len(group)
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1))
        advantage = rewards.reshape(-1)[i] - mean
        advantage /= 1 if variant == "dr_grpo" else std + 1e-4
        for t in range(lengths[i]):
            rho = math.exp(float(logp[i, t]) - float(sampler[i, t]))
            one = -min(rho * advantage, min(max(rho, 1 - low), 1 + high) * advantage)
            gap = float(reference[i, t]) - float(logp[i, t])
            one += kl_weight * {"none": 0.0, "k2": gap**2 / 2, "k3": math.exp(gap) - 1 - gap}[kl]
            per_token = {
                "grpo": 1 / len(scorable) / lengths[i],
                "dr_grpo": 1 / len(scorable) / T_MAX,
                "dapo": 1 / tokens,
            }
            loss += one * per_token[variant]
    return loss


def oracle_gradient(variant, logp, *rest):
    """By central differences; every token has its own term, so no more than rounding is left of a step of 1e-5."""
    gradient = np.zeros(logp.shape)
    for at in np.ndindex(logp.shape):
        ends = []
        for h in (1e-5, -1e-5):
            moved = logp.astype(np.float64)
            moved[at] += h
            ends.append(oracle_loss(variant, moved, *rest))
        gradient[at] = (ends[0] - ends[1]) / 2e-5
    return gradient


def updates_of(variant, rollout, reference, kl, shape, rewards=REWARDS):
    v = grpo.VARIANTS[variant]
    groups = grpo.advantages(rewards, by_std=v.by_std)
    mask_BT = rollout.response_mask_BT & (np.array(LENGTHS[: rewards.size]) > 0)[:, None]
    weight_BT = grpo.token_weights(mask_BT, groups, v.share, T_MAX)
    return grpo.make_updates(rollout, groups, weight_BT, () if kl == "none" else (reference,), shape), weight_BT


def loss_and_gradient(variant, rollout, logp, reference, kl, kl_weight, shape):
    updates, weight_BT = updates_of(variant, rollout, reference, kl, shape)
    packed = packing.pack(rollout, np.flatnonzero(weight_BT.any(axis=1)), shape)
    objective = grpo.objective(grpo.VARIANTS[variant].clip, kl, kl_weight)

    def total(logp_BT):
        parts = [
            objective(jnp.where(u.packed.slot_mask_RS, logp_BT[packed.row_MRS[m], packed.column_MRS[m]], jnp.nan), u)
            for m, u in enumerate(updates)
        ]
        return sum(loss for loss, _ in parts), jax.tree.map(lambda *x: sum(x), *(sums for _, sums in parts))

    (loss, sums), gradient = jax.value_and_grad(total, has_aux=True)(jnp.asarray(logp))
    return float(loss), np.asarray(gradient), jax.device_get(sums), len(updates)


@pytest.mark.parametrize(
    "variant, kl, kl_weight",
    [("grpo", "none", 0.0), ("grpo", "k3", 0.3), ("grpo", "k2", 0.3), ("dr_grpo", "k3", 0.04), ("dapo", "none", 0.0)],
)
def test_loss_and_gradient_are_those_of_the_plain_loop_in_micro_batches_of_any_shape(variant, kl, kl_weight):
    rollout, logp, reference = drawn()
    rest = rollout.sampler_logp_BT, reference, kl, kl_weight
    expected, gradient = oracle_loss(variant, logp, *rest), oracle_gradient(variant, logp, *rest)
    assert abs(expected) > 1e-3 and np.abs(gradient).max() > 1e-2
    micro_batches = set()

    def apart(a, b):
        return sum(float(np.sum(a[i, : LENGTHS[i]] - b[i, : LENGTHS[i]], dtype=np.float64)) for i in (0, 1, 2, 4, 5))

    for shape in SHAPES:
        loss, found, sums, count = loss_and_gradient(variant, rollout, logp, reference, kl, kl_weight, shape)
        assert loss == pytest.approx(expected, abs=1e-6)
        np.testing.assert_allclose(found, gradient, atol=1e-6)
        assert sums["tokens"] == 3 + 5 + 1 + 5  # of the answers that train
        assert 0 < sums["clipped"] < sums["tokens"]
        assert sums["sampler_kl"] == pytest.approx(apart(rollout.sampler_logp_BT, logp), abs=1e-5)
        assert sums.get("reference_kl", 0.0) == pytest.approx(apart(logp, reference) if kl_weight else 0.0, abs=1e-5)
        if kl == "none":
            assert sums["clipped"] == sums["tokens"] - np.count_nonzero(gradient)
        micro_batches.add(count)
    assert len(micro_batches) > 1


def test_advantages_by_hand():
    groups = grpo.advantages(REWARDS, by_std=True)
    # (1, 0, 0.4): mean 7/15, deviations 8/15, -7/15, -1/15, std sqrt((64 + 49 + 1) / 225 / 2) = 0.503322.
    std = math.sqrt(114 / 450)
    np.testing.assert_allclose(groups.advantage_NG[0], np.array([8, -7, -1]) / 15 / (std + 1e-4), rtol=1e-12)
    # (0.2, 1): mean 0.6, std 0.4 sqrt 2.
    np.testing.assert_allclose(groups.advantage_NG[1], np.array([0, -0.4, 0.4]) / (0.4 * math.sqrt(2) + 1e-4))
    np.testing.assert_array_equal(groups.advantage_NG[2:], 0.0)
    np.testing.assert_array_equal(groups.trains_NG, [[1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]])
    assert groups.figures() == {"groups": 4, "groups_few": 1, "groups_flat": 1, "unscorable": 3}
    np.testing.assert_allclose(grpo.advantages(REWARDS, by_std=False).advantage_NG[1], [0, -0.4, 0.4])
    assert grpo.to_draw_again(groups).tolist() == [2, 3]


def test_equal_rewards_have_no_spread_whatever_rounding_makes_of_their_mean():
    rewards = np.full((1, 3), 0.1)
    assert rewards.mean() != 0.1
    groups = grpo.advantages(rewards, by_std=False)
    assert groups.flat_N.all() and not groups.advantage_NG.any()


def test_an_infinite_reward_is_refused():
    with pytest.raises(ValueError, match=r"^the reward of answer 2 of group 1 is -inf: allowed are numbers, and NaN"):
        grpo.advantages(np.array([[0.0, 1.0, NAN], [0.0, 1.0, -math.inf]]), by_std=True)


def test_an_unscorable_answer_is_as_if_it_had_not_been_drawn():
    rollout, _, _ = drawn()
    for share in (v.share for v in grpo.VARIANTS.values()):
        with_it = np.array([[NAN, 0.2, 1.0], [0.5, NAN, 0.0]])
        without = np.array([[0.2, 1.0], [0.5, 0.0]])
        kept = [1, 2, 3, 5]
        mask = rollout.response_mask_BT[:6] | (np.arange(5) < 1)
        groups, fewer = (grpo.advantages(r, by_std=True) for r in (with_it, without))
        np.testing.assert_array_equal(groups.advantage_NG.reshape(-1)[kept], fewer.advantage_NG.reshape(-1))
        found = grpo.token_weights(mask, groups, share, T_MAX)
        np.testing.assert_array_equal(found[kept], grpo.token_weights(mask[kept], fewer, share, T_MAX))
        assert not found[[0, 4]].any()


def test_a_batch_without_any_advantage_or_token_is_no_update():
    rollout, _, reference = drawn()
    for variant in grpo.VARIANTS:
        for rewards in (np.ones((4, 3)), np.full((4, 3), NAN)):
            updates, weight_BT = updates_of(variant, rollout, reference, "k3", SHAPE, rewards)
            assert updates == [] and not weight_BT.any()
        groups = grpo.advantages(np.array([[0.0, 1.0]]), by_std=True)
        nothing = grpo.token_weights(np.zeros((2, 4), bool), groups, grpo.VARIANTS[variant].share, T_MAX)
        np.testing.assert_array_equal(nothing, 0.0)


def test_the_kl_inside_the_reward_by_hand():
    rollout = a_rollout(prompt_lengths=(2, 2), response_lengths=(2, 1))
    rollout = rollout.replace(sampler_logp_BT=np.array([[-1.0, -2.0], [-3.0, 99.0]], np.float32))
    reference = np.array([[-2.0, -2.5], [-1.0, 0.0]], np.float32)
    found = grpo.with_kl(np.array([[0.5, NAN]]), rollout, reference, 0.1)
    np.testing.assert_allclose(found, [[0.5 - 0.1 * 1.5, NAN]])
    np.testing.assert_allclose(grpo.with_kl(np.array([[0.5, 1.0]]), rollout, reference, 0.1), [[0.35, 1.0 + 0.2]])


def test_clipping_by_hand():
    rho = np.array([0.5, 0.5, 1.5, 1.5, 1.0, 1.25])
    advantage = np.array([2.0, -2.0, 2.0, -2.0, 2.0, 2.0])

    def loss(logp):
        return policy.clipped_surrogate(logp, jnp.full(6, -1.0), advantage, (0.2, 0.28))

    logp = jnp.asarray(np.log(rho) - 1.0)
    np.testing.assert_allclose(loss(logp), [-1.0, 1.6, -2.56, 3.0, -2.0, -2.5], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(loss(x)))(logp)
    np.testing.assert_allclose(gradient, [-1.0, 0.0, 0.0, 3.0, -2.0, -2.5], rtol=1e-6)
    beyond = policy.clipped(logp, -1.0, advantage, (0.2, 0.28))
    np.testing.assert_array_equal(beyond, [False, True, True, False, False, False])
    far = jax.value_and_grad(lambda x: policy.clipped_surrogate(x, -100.0, 1.0, (0.2, 0.28)))(0.0)
    np.testing.assert_allclose(far, (-1.28, 0.0), rtol=1e-6)


def test_records_of_other_policies_are_constants():
    def loss(sampler, reference, advantage):
        logp = jnp.array([-1.0, -1.1])
        kl = sum(f(logp, reference) for f in policy.KL_LOSSES.values())
        return jnp.sum(policy.clipped_surrogate(logp, sampler, advantage, (0.2, 0.2)) + kl)

    at = jnp.array([-1.05, -1.0]), jnp.array([-2.0, -0.3]), jnp.array([1.0, -1.0])
    for gradient in jax.grad(loss, argnums=(0, 1, 2))(*at):
        np.testing.assert_array_equal(gradient, 0.0)


def test_the_means_of_the_kl_losses_and_of_their_gradients_over_the_policy():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    logits, reference = jnp.log(p), jnp.log(q)

    def mean(loss):
        """Over tokens that the policy sampled: the gradient goes through the loss alone."""
        return lambda x: jnp.sum(p * loss(jax.nn.log_softmax(x), reference))

    reverse = lambda x: jnp.sum(jax.nn.softmax(x) * (jax.nn.log_softmax(x) - reference))  # noqa: E731
    forward = lambda x: jnp.sum(q * (reference - jax.nn.log_softmax(x)))  # noqa: E731
    np.testing.assert_allclose(mean(policy.k3_token_loss)(logits), np.sum(p * np.log(p / q)), rtol=1e-5)
    np.testing.assert_allclose(mean(policy.k2_token_loss)(logits), np.sum(p * np.log(p / q) ** 2) / 2, rtol=1e-5)
    k2, k3 = (jax.grad(mean(loss))(logits) for loss in policy.KL_LOSSES.values())
    np.testing.assert_allclose(k2, jax.grad(reverse)(logits), atol=1e-6)
    np.testing.assert_allclose(k3, jax.grad(forward)(logits), atol=1e-6)


def settings(**changes):
    own = {"variant": "grpo", "group_size": 8, "clip": (0.2, 0.2), "loss_kl": "k3"}
    return ConfigDict(own | {"loss_kl_weight": 0.04, "reward_kl_weight": 0.0} | changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"loss_kl": "k1"},
            r"grpo.loss_kl = 'k1': .* the gradient of log pi - log pi_ref .* ignores the reference; ",
        ),
        ({"loss_kl": "k4"}, r"grpo.loss_kl = 'k4': .* allowed are 'none', 'k2', 'k3'$"),
        ({"variant": "ppo"}, r"grpo.variant = 'ppo': allowed are 'grpo', 'dr_grpo', 'dapo'$"),
        ({"variant": "dapo"}, r"grpo.variant = 'dapo': has no KL to a reference; allowed are loss_kl = 'none'"),
        ({"group_size": 1}, r"grpo.group_size = 1: .* allowed is 2 or more$"),
        ({"clip": (1.2, 0.2)}, r"grpo.clip = \(1.2, 0.2\): allowed are \(below, above\)"),
        ({"loss_kl": "none"}, r"grpo.loss_kl_weight = 0.04: with loss_kl = 'none' allowed is 0$"),
        ({"reward_kl_weight": -1.0}, r"grpo.reward_kl_weight = -1.0: allowed is 0 or more$"),
    ],
)
def test_settings_that_are_refused(changes, message):
    grpo.check(settings())
    grpo.check(settings(variant="dapo", loss_kl="none", loss_kl_weight=0.0))
    with pytest.raises(ValueError, match="^config." + message) as error:
        grpo.check(settings(**changes))
    assert "\n" not in str(error.value)


@jax.jit
def plain(params, reference_params, tokens_L, sampler_T, advantage):
    """-min(rho A, clip(rho) A) + 0.3 k3, summed over an answer's 3 tokens, and its gradient."""

    def loss(params):
        logp, reference = all_logp(params, tokens_L)[-3:], all_logp(reference_params, tokens_L)[-3:]
        rho = jnp.exp(logp - sampler_T)
        best = jnp.minimum(rho * advantage, jnp.clip(rho, 0.8, 1.2) * advantage)
        return jnp.sum(0.3 * (jnp.exp(reference - logp) - 1 - (reference - logp)) - best)

    return jax.value_and_grad(loss)(params)


def test_the_gradient_of_a_models_weights_is_that_of_unpacked_answers():
    rewards, weights, reference_weights = np.array([[1.0, 0.0, 0.4]]), random_weights(0), random_weights(1)
    rollout = a_rollout(prompt_lengths=(4, 4, 4), response_lengths=(3, 3, 3))
    answers = [sequence(rollout, b)[0] for b in range(3)]
    sampler = noise(rollout, 7, 0.3) + np.stack([plain_logp(weights, tokens)[-3:] for tokens in answers])
    rollout = rollout.replace(sampler_logp_BT=sampler)

    engine = an_engine()
    updates, _ = updates_of("grpo", rollout, engine.score(reference_weights, rollout), "k3", SHAPE, rewards)
    assert len(updates) == 2
    steps = steps_of.build_steps(
        engine.scorer(TAU, "none", grpo.score), engine.shapes, mesh(), decoder.AXES,
        grpo.objective((0.2, 0.2), "k3", 0.3), steps_of.make_optimizer(**SGD), {},
    )  # fmt: skip

    def gradient_at(params):
        grads, loss = steps.zeros(), 0.0
        for update in updates:
            grads, sums = steps.micro(params, grads, update, {})
            loss += float(sums["loss"])
        return grads, loss

    advantages = np.array([8, -7, -1]) / 15 / (math.sqrt(114 / 450) + 1e-4)
    params = weights
    for _ in range(2):  # in the second update on the same answers rho is still against the policy that sampled
        grads, loss = gradient_at(params)
        parts = [plain(params, reference_weights, *of) for of in zip(answers, sampler, advantages, strict=True)]
        assert loss == pytest.approx(sum(float(value) for value, _ in parts) / 9, rel=1e-4)
        gradient = jax.tree.map(lambda *x: sum(x) / 9, *(g for _, g in parts))
        for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-4 * np.abs(want).max())
        params = jax.tree.map(lambda x, g: x - 0.1 * np.asarray(g), params, gradient)
