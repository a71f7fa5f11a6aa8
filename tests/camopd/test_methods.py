"""Each method's update against one independent loop: full logits, one sequence at a time, no package code."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from plain import SGD, TAU, TINY, an_engine, mesh, options, plain_grad, random_weights, sequence

from camopd_jax import data
from camopd_jax import step as steps_of
from camopd_jax.camopd import methods, system
from camopd_jax.engine import Policy
from camopd_jax.models import decoder
from camopd_jax.models.weights import of_params

CYCLE = ("general", "general", "general", "domain")
PROMPTS = [np.arange(1, 5, dtype=np.int32)[: 2 + i % 3] * k for i, k in enumerate((1, 3, 7, 11, 13, 17, 19, 23))]
SHAPE = system.RolloutShape(batch_size=8, rows_at_once=8, max_new_tokens=4)
STEPS, STEP, SEED = 5, 3, 3  # step 3 is the domain's on the cycle
RHO, SCALE = {"general": 0.6, "domain": 0.7}, {"general": 2.0, "domain": 1.5}


@functools.cache
def models():
    """Engine, and the weights of student, general and domain teacher, which all differ."""
    return an_engine(), {"student": random_weights(0), "general": random_weights(1), "domain": random_weights(2)}


@jax.jit
def full_logp(params, tokens_L):
    """log pi over the vocabulary after each token of a sequence [L, V]."""
    model = nnx.merge(decoder.split(TINY)[0], params)
    length = len(tokens_L)
    hidden, _ = model(tokens_L[None], np.arange(length)[None], np.ones((1, length), int))
    return jax.nn.log_softmax(hidden[0] @ params["embed"].T / TAU, axis=-1)


def divergence_grad(params, teacher, tokens_L, factor_L, top_k):
    """sum_t factor_t KL(pi_theta || pi_T) before token t, and its gradient; top_k: over so many tokens and the rest."""
    order = np.argsort(-np.asarray(full_logp(params, tokens_L)), axis=1)[:, :top_k]

    def loss(params):
        logp_LV, teacher_LV = full_logp(params, tokens_L), full_logp(teacher, tokens_L)
        p_LV, q_LV = jnp.exp(logp_LV), jnp.exp(teacher_LV)
        if top_k:
            p_LV, q_LV = (jnp.take_along_axis(x, order, axis=1) for x in (p_LV, q_LV))
            p_LV, q_LV = (jnp.append(x, 1 - x.sum(axis=1, keepdims=True), axis=1) for x in (p_LV, q_LV))
        kl_L = jnp.sum(p_LV * jnp.log(p_LV / q_LV), axis=1)
        return jnp.sum(kl_L[:-1] * factor_L[1:])

    return jax.value_and_grad(loss)(params)


def collect(method, step=STEP, rho=RHO, scale=SCALE, demands=("absolute", "positive"), **changes):
    """A collected step, and each branch's answers as they were scored."""
    engine, weights = models()
    c, names, seen = options(CYCLE, method=method, **changes), [f"p{i}" for i in range(len(PROMPTS))], []
    branches = {
        name: system.Branch(name, i, PROMPTS, names, PROMPTS[:4], demand, rho[name], scale[name])
        for i, (name, demand) in enumerate(zip(RHO, demands, strict=True))
    }
    teachers = system.Teachers(
        {n: Policy(engine, lambda n=n: engine.place(of_params(weights[n]), "float32")) for n in branches}, "reread"
    )
    record = lambda answers, rows, n: seen.append(answers) or []  # noqa: E731
    collector = system.collector(engine, teachers, branches, c, SHAPE, STEPS, SEED, lambda params: params, record, 9)
    optimizer = steps_of.make_optimizer(**SGD)
    function, objective = system.scored_by(c)
    steps = steps_of.build_steps(
        engine.scorer(TAU, "none", function), engine.shapes, mesh(), decoder.AXES, objective, optimizer, {}
    )
    state = steps.init(jax.tree.map(jnp.array, weights["student"]), jax.random.key(5))
    experience = collector(state, step)
    grads, loss = steps.zeros(), 0.0
    for place in range(len(experience.updates)):
        grads, sums = steps.micro(state.params, grads, experience.complete(place), {})
        loss += float(sums["loss"])
    return experience, {a.branch.name: a for a in seen}, loss, jax.device_get(grads)


def prefix(score, rho):
    order = sorted(range(len(score)), key=lambda b: -score[b])
    for k in range(1, len(order) + 1):
        if sum(score[b] for b in order[:k]) >= rho * sum(score):
            return order[:k]


def independent(method, answers, *, loss="sampled", rho=RHO, scale=SCALE, pooled=False):
    """The loss and gradient of a step, by plain loops."""
    student = models()[1]["student"]
    plans, total = [], 0
    for name, a in answers.items():
        teacher = models()[1][name]
        rows = []
        for b in range(len(a.ids)):
            tokens, prompt = sequence(a.rollout, b)
            assert tokens[:prompt].tolist() == PROMPTS[int(a.ids[b][1:])].tolist()
            own, theirs = np.asarray(full_logp(student, tokens)), np.asarray(full_logp(teacher, tokens))
            at = [(t - 1, tokens[t]) for t in range(prompt, len(tokens))]
            gap = [float(theirs[i] - own[i]) for i in at]
            entropy = [float(-np.sum(np.exp(own[t]) * own[t])) for t, _ in at]
            rank = [int(np.sum(theirs[t] > theirs[t, v])) for t, v in at]
            sampler = [float((theirs if method == "off_policy_kd" else own)[i]) for i in at]
            np.testing.assert_allclose(a.rollout.sampler_logp_BT[b, : len(at)], sampler, atol=1e-4)
            rows.append((tokens, prompt, gap, entropy, rank))
        demand = abs if name == "general" else lambda x: max(x, 0.0)
        kept = prefix([sum(map(demand, gap)) / len(gap) for _, _, gap, *_ in rows], rho[name])
        everything = range(len(rows))
        if method in ("camopd", "general_only"):
            factors = {b: scale[name] for b in kept}
        elif method == "no_selection":
            factors = {b: scale[name] if b in kept else 1.0 for b in everything}
        else:
            factors = dict.fromkeys(everything, 1.0)
        plans.append((teacher, rows, factors))
        total += len(factors)
    value, gradient = 0.0, jax.tree.map(np.zeros_like, student)
    for teacher, rows, factors in plans:
        entropies = sorted((x for _, _, _, entropy, _ in rows for x in entropy), reverse=True)
        for b, factor in factors.items():
            tokens, prompt, gap, entropy, rank = rows[b]
            credit = list(gap)
            if method == "off_policy_kd" or loss != "sampled":
                credit = [1.0] * len(gap)
            if method == "relaxed_opd":
                fraction = 0.5 + 0.5 * STEP / (STEPS - 1)
                least = entropies[math.ceil(fraction * len(entropies)) - 1]
                floor = math.log(0.3 / 0.7)
                credit = [max(g, floor) if e >= least - 1e-6 else 0.0 for g, e in zip(gap, entropy, strict=True)]
            if method == "selectkd":
                credit = [g if r < 9 else 0.25 * g for g, r in zip(gap, rank, strict=True)]
            each = np.zeros(len(tokens), np.float32)
            each[prompt:] = np.array(credit) * factor / len(gap) / (total if pooled else len(factors))
            if loss == "sampled":
                own = np.asarray(full_logp(student, tokens))
                sampler = np.array([0.0, *own[np.arange(len(tokens) - 1), tokens[1:]]], np.float32)  # every w is 1
                (part, _), new = plain_grad(student, tokens, sampler, each)
            else:
                part, new = divergence_grad(student, teacher, tokens, each, 4 if loss == "top_k" else 0)
            value += float(part)
            gradient = jax.tree.map(np.add, gradient, jax.device_get(new))
    return value, gradient


def assert_same(found, expected):
    (loss, grads), (value, gradient) = found, expected
    assert loss == pytest.approx(value, rel=1e-4, abs=1e-5)
    for (path, got), want in zip(jax.tree.leaves_with_path(grads), jax.tree.leaves(gradient), strict=True):
        assert np.abs(want).max() > 1e-4, path
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-4 * np.abs(want).max(), err_msg=str(path))


@pytest.mark.parametrize("method", list(methods.METHODS))
def test_the_update_is_that_of_the_independent_loop(method):
    experience, answers, loss, grads = collect(method)
    alone = {"camopd": "domain", "no_selection": "domain", "no_scaling": "domain", "general_only": "general"}
    assert experience.branch == alone.get(method, "general+domain")
    sizes = {name: len(a.ids) for name, a in answers.items()}
    both = {"general": 6, "domain": 2} if method == "mix" else {"general": 4, "domain": 4}
    assert sizes == ({alone[method]: 8} if method in alone else both)
    assert_same((loss, grads), independent(method, answers, pooled=method == "mix"))


@pytest.mark.parametrize("loss_form", ["full", "top_k"])
def test_a_divergence_over_the_vocabulary_is_that_of_the_independent_loop(loss_form):
    _, answers, loss, grads = collect("camopd", step=0, loss=loss_form)
    assert list(answers) == ["general"]
    assert_same((loss, grads), independent("camopd", answers, loss=loss_form))


@pytest.mark.parametrize(("schedule", "rival"), [("halves", "vanilla_mopd"), ("mixed", "mix")])
def test_camopd_with_rho_1_and_r_1_on_a_joint_schedule_is_its_rival(schedule, rival):
    one, every = dict.fromkeys(RHO, 1.0), ("absolute", "absolute")  # by positive gap, rows without one would not train
    _, answers, loss, grads = collect("camopd", rho=one, scale=one, demands=every, schedule=schedule)
    expected = independent(rival, answers, pooled=schedule == "mixed")
    assert_same((loss, grads), expected)
    _, _, again, gradient = collect(rival, rho=one, scale=one)
    assert again == pytest.approx(loss, rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, gradient)


def test_turns_by_hand():
    turn = methods.Turn
    assert methods.alternating(CYCLE, 7, 8) == [turn("domain", 1, 8)]
    assert methods.alternating(CYCLE, 6, 8) == [turn("general", 5, 8)]
    assert methods.halves(CYCLE, 6, 8) == [turn("general", 6, 4), turn("domain", 6, 4)]
    assert methods.mixed(CYCLE, 6, 8) == [turn("general", 6, 6), turn("domain", 6, 2)]
    assert methods.general_alone(CYCLE, 7, 8) == [turn("general", 7, 8)]


def test_each_turn_has_the_prompts_of_its_visit():
    _, answers, _, _ = collect("mix")
    for number, (name, rows) in enumerate([("general", 6), ("domain", 2)]):
        expected = data.batch_at(len(PROMPTS), rows, STEP, SEED + 7919 * number)
        assert answers[name].ids == [f"p{i}" for i in expected]


def test_which_samples_train_by_hand():
    score = np.array([1.0, 5.0, 0.0, 4.0])
    rows, factor = methods.selected_alone(score, 0.8, 2.0)
    assert (rows.tolist(), factor.tolist()) == ([1, 3], [2.0, 2.0])
    rows, factor = methods.all_selected_scaled(score, 0.8, 2.0)
    assert (rows.tolist(), factor.tolist()) == ([0, 1, 2, 3], [1.0, 2.0, 1.0, 2.0])
    rows, factor = methods.all_alike(score, 0.8, 2.0)
    assert (rows.tolist(), factor.tolist()) == ([0, 1, 2, 3], [1.0] * 4)


def test_relaxed_credit_by_hand():
    gap = np.array([[-5.0, 1.0, -0.5, 0.0], [0.3, -9.0, 2.0, 0.0]])
    entropy = np.array([[0.9, 0.1, 0.5, 9.0], [0.7, 0.8, 0.2, 9.0]])
    mask = np.array([[True, True, True, False], [True, True, True, False]])
    floor = math.log(0.25)  # lambda 0.2
    found = methods.relaxed_credit(gap, entropy, mask, 0.2, 0.5)  # 3 of 6 tokens: entropies 0.9, 0.8, 0.7
    np.testing.assert_allclose(found, [[floor, 0, 0, 0], [0.3, floor, 0, 0]])
    found = methods.relaxed_credit(gap, entropy, mask, 0.2, 1.0)
    np.testing.assert_allclose(found, [[floor, 1.0, -0.5, 0], [0.3, floor, 2.0, 0]])
    assert np.count_nonzero(methods.relaxed_credit(gap, entropy, mask, 0.2, 0.01)) == 1


def test_accepted_credit_by_hand_and_the_speculative_test():
    gap = np.array([[-1.0, 2.0]])
    np.testing.assert_allclose(methods.accepted_credit(gap, np.array([[False, True]]), 0.25), [[-0.25, 2.0]])
    c = options(CYCLE, method="selectkd", selectkd={"test": "speculative", "top_k": 1, "beta": 0.0})
    gap = np.full((1, 20000), math.log(0.3))
    signal = methods.Signal(gap, gap < 0, None, gap * 0 + 99, 0.0, (1, 2, 3))
    kept = methods.METHODS["selectkd"].credit(signal, c) != 0
    assert kept.mean() == pytest.approx(0.3, abs=0.015)  # accepted with the probability pi_T / pi_theta
    sure = methods.Signal(-gap, gap < 0, None, gap * 0 + 99, 0.0, (1, 2, 3))
    assert (methods.METHODS["selectkd"].credit(sure, c) != 0).all()
