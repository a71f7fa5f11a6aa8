"""CaMOPD's update against eq. 7 written out: plain loops, gradients on unpacked sequences, AdamW in NumPy."""

import gc
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain import (
    BAND,
    SGD,
    SHAPE,
    TAU,
    a_rollout,
    an_engine,
    mesh,
    noise,
    options,
    plain_grad,
    plain_logp,
    random_weights,
    sequence,
)

from camopd_jax import data, loop, metrics, packing, sharding
from camopd_jax import step as steps_of
from camopd_jax.camopd import system
from camopd_jax.engine import Policy
from camopd_jax.models import decoder
from camopd_jax.models.weights import of_params
from camopd_jax.packing import PackShape
from camopd_jax.types import Experience, Rollout


def _plain_equation_7(rollout, logp, gap, scale, selected):
    """The loss and its gradient in log pi, in float64, a token at a time."""
    loss, gradient = 0.0, np.zeros(logp.shape)
    for i in selected:
        length = int(rollout.response_mask_BT[i].sum())
        for t in range(length):
            w = np.exp(float(logp[i, t]) - float(rollout.sampler_logp_BT[i, t]))
            w = w if BAND[0] <= w <= BAND[1] else 0.0
            gradient[i, t] = -w * scale * float(gap[i, t]) / length / len(selected)
            loss += gradient[i, t] * float(logp[i, t])
    return loss, gradient


@pytest.mark.parametrize("shape", [SHAPE, PackShape(2, 9, 5), PackShape(3, 40, 30), PackShape(1, 100, 60)])
def test_the_micro_batches_sum_to_equation_7_and_its_gradient(shape):
    rollout = a_rollout()
    logp, gap = noise(rollout, 1, 1.0, -3.0), noise(rollout, 2, 1.0)
    rollout = Rollout(rollout.tokens_BL, rollout.prompt_mask_BP, rollout.response_mask_BT, logp + noise(rollout, 3, 1))
    selected = np.array([3, 0, 1, 4])
    updates = system.make_updates(rollout, 2.0 * gap, selected, len(selected), shape)
    packed = packing.pack(rollout, selected, shape)
    assert len(updates) == len(packed.batches)
    objective = system.objective(BAND)

    def total(logp_BT):
        loss, tokens, kept = 0.0, 0, 0
        for m, update in enumerate(updates):
            value, sums = objective(logp_BT[packed.row_MRS[m], packed.column_MRS[m]], update)
            loss, tokens, kept = loss + value, tokens + sums["tokens"], kept + sums["w_kept"]
        return loss, (tokens, kept)

    (loss, (tokens, kept)), gradient = jax.value_and_grad(total, has_aux=True)(jnp.asarray(logp))
    expected_loss, expected_gradient = _plain_equation_7(rollout, logp, gap, 2.0, selected)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-7)
    assert int(tokens) == 3 + 5 + 4 + 2
    assert 0 < int(kept) == np.count_nonzero(expected_gradient) < int(tokens)


def test_weights_are_shares_of_the_global_batch_however_it_is_split():
    rollout = a_rollout()
    gap = noise(rollout, 2, 1.0)
    expected = np.zeros(gap.shape)
    for i, length in ((3, 4), (2, 1), (1, 5)):
        expected[i, :length] = 1 / 3 / length
    counts = set()
    for shape in (SHAPE, PackShape(2, 9, 5), PackShape(1, 100, 60)):
        updates = system.make_updates(rollout, gap, np.array([3, 2, 1]), 3, shape)
        packed = packing.pack(rollout, [3, 2, 1], shape)
        weights = packed.scatter(np.stack([u.weight_RS for u in updates]), gap.shape)
        np.testing.assert_allclose(weights, expected, rtol=1e-6)
        assert sum(float(u.weight_RS.sum()) for u in updates) == pytest.approx(1.0)
        counts.add(len(updates))
    assert len(counts) > 1


def test_nothing_selected_is_no_update():
    rollout = a_rollout()
    assert system.make_updates(rollout, noise(rollout, 2, 1.0), np.array([], int), 0, SHAPE) == []


@pytest.fixture(scope="module")
def tiny():
    """Steps of the tiny model, its graph and parameters; micro-batches have SHAPE."""
    engine, optimizer = an_engine(), steps_of.make_optimizer(**SGD)
    steps = steps_of.build_steps(
        engine.scorer(TAU, "none"), engine.shapes, mesh(), decoder.AXES, system.objective(BAND), optimizer, {}
    )
    return steps, random_weights(0)


def _micro_sum(tiny, updates):
    steps, params = tiny
    grads, loss, kept = steps.zeros(), 0.0, 0
    for update in updates:
        grads, sums = steps.micro(params, grads, update, {})
        loss, kept = loss + float(sums["loss"]), kept + int(sums["w_kept"])
    return grads, loss, kept


def test_summed_micro_step_gradients_are_those_of_unpacked_sequences(tiny):
    rollout, selected = a_rollout(), [3, 0, 1, 4]
    gap = noise(rollout, 2, 1.0)
    sampler_logp = noise(rollout, 3, 0.6)
    for b in selected:
        tokens, prompt = sequence(rollout, b)
        sampler_logp[b, : len(tokens) - prompt] += np.asarray(plain_logp(tiny[1], tokens))[prompt - 1 :]
    rollout = Rollout(rollout.tokens_BL, rollout.prompt_mask_BP, rollout.response_mask_BT, sampler_logp)

    updates = system.make_updates(rollout, 2.0 * gap, np.array(selected), len(selected), SHAPE)
    assert len(updates) == 2
    grads, loss, kept = _micro_sum(tiny, updates)

    expected, expected_loss, expected_kept = jax.tree.map(np.zeros_like, tiny[1]), 0.0, 0
    for b in selected:
        tokens, prompt = sequence(rollout, b)
        length = len(tokens) - prompt
        sampler, factor = np.zeros((2, len(tokens)), np.float32)
        sampler[prompt:] = sampler_logp[b, :length]
        factor[prompt:] = 2.0 * gap[b, :length] / length / len(selected)
        (value, n), new = plain_grad(tiny[1], tokens, sampler, factor)
        expected = jax.tree.map(np.add, expected, jax.device_get(new))
        expected_loss, expected_kept = expected_loss + float(value), expected_kept + int(n)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert 0 < kept == expected_kept < 14
    for (path, got), want in zip(jax.tree.leaves_with_path(grads), jax.tree.leaves(expected), strict=True):
        assert np.abs(want).max() > 1e-4, path
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max(), err_msg=str(path))


def test_zero_credit_gives_exactly_zero_gradient(tiny):
    rollout = a_rollout()
    updates = system.make_updates(rollout, np.zeros(rollout.response_mask_BT.shape), np.arange(5), 5, SHAPE)
    grads, loss, _ = _micro_sum(tiny, updates)
    assert loss == 0
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, 0.0)


PROMPTS = [np.arange(1, 5, dtype=np.int32) * k for k in (1, 3, 7, 11, 13, 17)]
PROMPTS = [p[: 2 + i % 3] for i, p in enumerate(PROMPTS)]
ROLLOUTS = system.RolloutShape(batch_size=4, rows_at_once=4, max_new_tokens=4)


def _collector(engine, teachers, branches, cycle):
    return system.collector(
        engine, teachers, branches, options(cycle), ROLLOUTS, 9, 3, lambda params: params, lambda *_: [], 0
    )


def _teachers(engine, weights, idle="reread"):
    """Teachers whose weights are read, as a model source's are, when they are needed."""

    def policy(read):
        return Policy(engine, lambda: engine.place(of_params(read()), "float32"))

    return system.Teachers({name: policy(read) for name, read in weights.items()}, idle)


@pytest.fixture(scope="module")
def collected():
    """A collector whose general teacher differs from the student and whose domain teacher is the student."""
    engine = an_engine()
    names = [f"p{i}" for i in range(len(PROMPTS))]
    branches = {
        "general": system.Branch("general", 0, PROMPTS, names, PROMPTS[:4], "absolute", 0.6, 2.0),
        "domain": system.Branch("domain", 1, PROMPTS, names, PROMPTS[:4], "positive", 0.8, 1.0),
    }
    student, other = random_weights(0), random_weights(1)
    teachers = _teachers(engine, {"general": lambda: other, "domain": lambda: student})
    collect = _collector(engine, teachers, branches, ("general", "domain"))
    return engine, branches, collect, student, other


def _state(tiny, key=5):
    return tiny[0].init(jax.tree.map(jnp.array, tiny[1]), jax.random.key(key))


def _trained(updates):
    """{tokens of a sequence: (credit of its response, weight of each of its tokens)} from the packed arrays."""
    found = {}
    for update in updates:
        packed = update.packed
        for r, segments in enumerate(packed.segments_RW):
            for segment in range(1, segments.max() + 1):
                slots = packed.slot_mask_RS[r] & (segments[packed.source_RS[r]] == segment)
                key = tuple(packed.tokens_RW[r][segments == segment].tolist())
                assert key not in found
                found[key] = (update.credit_RS[r][slots], update.weight_RS[r][slots])
    return found


def test_collect_trains_the_samples_of_largest_demand_with_scaled_credit(tiny, collected):
    engine, branches, collect, student, other = collected
    state = _state(tiny)
    experience = collect(state, 0)
    assert experience.branch == "general"

    chosen = data.batch_at(len(PROMPTS), 4, 0, 3)
    rollout = system.sample_prompts(
        engine, student, branches["general"], [PROMPTS[i] for i in chosen], jax.random.fold_in(state.key, 0), ROLLOUTS
    )
    gaps, drawn = [], []
    for b in range(4):
        tokens, prompt = sequence(rollout, b)
        assert tokens[:prompt].tolist() == PROMPTS[chosen[b]].tolist()
        own = np.asarray(plain_logp(student, tokens))[prompt - 1 :]
        np.testing.assert_allclose(rollout.sampler_logp_BT[b, : len(own)], own, atol=1e-4)
        gaps.append(np.asarray(plain_logp(other, tokens))[prompt - 1 :] - own)
        drawn += own.tolist()
    demand = [sum(abs(float(x)) for x in gap) / len(gap) for gap in gaps]
    order = sorted(range(4), key=lambda b: -demand[b])
    count = next(k for k in range(5) if sum(demand[b] for b in order[:k]) >= 0.6 * sum(demand))
    assert 0 < count < 4

    trained = _trained(experience.updates)
    assert len(trained) == count == experience.metrics["selected"]
    for b in order[:count]:
        credit, weight = trained[tuple(sequence(rollout, b)[0].tolist())]
        np.testing.assert_allclose(credit, 2.0 * gaps[b], atol=1e-3)
        np.testing.assert_allclose(weight, np.full(len(gaps[b]), 1 / count / len(gaps[b])), rtol=1e-6)
    tokens, figures = sum(map(len, gaps)), experience.metrics["branches"]["general"]
    assert experience.metrics["response_tokens"] == tokens
    assert experience.metrics["entropy"] == pytest.approx(-sum(drawn) / len(drawn), abs=1e-3)
    assert sorted(i for ids in experience.samples for i in ids) == sorted(f"p{chosen[b]}" for b in order[:count])
    assert len(experience.samples) == len(experience.updates)
    assert experience.metrics["reverse_kl"] == pytest.approx(-sum(float(g.sum()) for g in gaps) / tokens, abs=1e-3)
    assert figures["gap_abs"] == pytest.approx(sum(np.abs(g).sum() for g in gaps) / tokens, abs=1e-3)
    assert figures["mass"] == pytest.approx(sum(demand[b] for b in order[:count]) / sum(demand), abs=1e-3)


def test_another_teacher_moves_the_student_against_the_gradient(tiny, collected):
    state = _state(tiny)
    experience = collected[2](state, 0)
    grads, _, _ = _micro_sum(tiny, experience.updates)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads)) > 1e-3
    new, figures = loop.update(tiny[0], state, experience, 0)
    assert int(new.step) == 1
    assert figures["micro_steps"] == len(experience.updates)
    for before, after, g in zip(*map(jax.tree.leaves, (tiny[1], new.params, grads)), strict=True):
        np.testing.assert_allclose(after, before - 0.1 * np.asarray(g), rtol=1e-5, atol=1e-6)


def test_a_teacher_equal_to_the_student_changes_nothing_but_the_step(tiny, collected):
    state = _state(tiny)
    key = np.asarray(jax.random.key_data(state.key)).copy()
    experience = collected[2](state, 1)
    assert (experience.branch, experience.updates) == ("domain", [])
    figures = experience.metrics["branches"]["domain"]
    assert {figures[k] for k in ("reverse_kl", "gap_abs", "gap_positive", "selected", "mass")} == {0.0}
    new, figures = loop.update(tiny[0], state, experience, 1)
    assert int(new.step) == 1
    assert figures["loss"] == 0
    np.testing.assert_array_equal(jax.random.key_data(new.key), key)
    jax.tree.map(np.testing.assert_array_equal, new.params, tiny[1])


@pytest.mark.parametrize("idle", ["reread", "host"])
def test_one_teacher_is_resident_and_read_when_it_is_needed(collected, idle):
    engine, reads = collected[0], []
    weights = {"general": random_weights(1), "domain": random_weights(2)}

    def reader(name):
        return lambda: reads.append(name) or weights[name]

    teachers, rollout = _teachers(engine, {name: reader(name) for name in weights}, idle), a_rollout()
    expected = {name: engine.score(engine.place(of_params(weights[name]), "float32"), rollout) for name in weights}
    for name in ("general", "general", "domain", "general", "domain"):
        compiled = metrics.compilations()
        np.testing.assert_array_equal(teachers.score(name, rollout), expected[name])
        assert metrics.compilations() == compiled
        teachers.prefetch(name)  # which is there
    assert reads == ["general", "domain"] + (["general", "domain"] if idle == "reread" else [])


def test_an_adapters_base_is_not_copied_to_the_host(collected):
    engine = collected[0]
    params = engine.place(of_params(random_weights(1)), "float32")
    policies = {name: Policy(engine, lambda: params, held=True) for name in ("general", "domain")}
    before = _live(sharding.HOST)
    teachers = system.Teachers(policies, "host")
    for name in ("general", "domain", "general"):
        assert teachers.placed(name)[1] is params
    assert _live(sharding.HOST) == before


def _live(kind):
    """Bytes of all arrays in a kind of memory."""
    gc.collect()
    return sum(x.nbytes for x in jax.live_arrays() if x.sharding.memory_kind == kind)


@pytest.mark.parametrize("idle", ["reread", "host"])
def test_at_most_one_teacher_is_on_the_devices_in_each_stage_of_a_step(tiny, collected, monkeypatch, idle):
    """Student, optimizer and one teacher; in the update the gradients and, for a moment, a micro-batch's own."""
    engine, branches, *_ = collected
    weights = {"general": random_weights(1), "domain": random_weights(2)}
    size = sum(x.nbytes for x in jax.tree.leaves(weights["general"]))
    seen, reads = {"collect": [], "update": []}, []
    before = {kind: _live(kind) for kind in (sharding.DEVICE, sharding.HOST)}

    def reader(name):
        return lambda: reads.append(name) or weights[name]

    teachers = _teachers(engine, {name: reader(name) for name in weights}, idle)
    collect = _collector(engine, teachers, branches, ("general", "domain"))
    state = _state(tiny)

    def watched(stage, function):
        def call(*args, **kwargs):
            out = function(*args, **kwargs)
            seen[stage].append((_live(sharding.DEVICE) - before[sharding.DEVICE]) / size)
            return out

        return call

    monkeypatch.setattr(engine, "score", watched("collect", engine.score))
    monkeypatch.setattr(engine, "sample", watched("collect", engine.sample))
    steps = replace(tiny[0], micro=watched("update", tiny[0].micro), apply=watched("update", tiny[0].apply))
    for step in range(4):
        experience = collect(state, step)
        assert experience.updates
        state, _ = loop.update(steps, state, experience, step)
        del experience
    moments = sum(x.nbytes for x in jax.tree.leaves(state.opt_state)) / size
    assert len(seen["collect"]) == 12 and len(seen["update"]) >= 8
    assert 1.9 + moments < max(seen["collect"]) < 2.2 + moments  # student, one teacher
    assert 2.9 + moments < max(seen["update"]) < 3.2 + moments  # and the gradients
    parked = (_live(sharding.HOST) - before[sharding.HOST]) / size
    assert parked == pytest.approx(2 if idle == "host" else 0)
    assert len(reads) == (2 if idle == "host" else 4)


def test_a_gap_that_is_not_finite_names_the_prompts(tiny, collected):
    engine, branches, _, _, other = collected
    broken = {**other, "norm": np.full_like(other["norm"], np.nan)}
    teachers = _teachers(engine, {"general": lambda: broken})
    collect = _collector(engine, teachers, branches, ("general",))
    said = r"step 1, branch general: the score of prompt p\d is nan, and so are those of p\d, p\d, p\d$"
    with pytest.raises(FloatingPointError, match=said):
        collect(_state(tiny), 0)


def test_a_loss_that_is_not_finite_touches_no_parameter(tiny):
    rollout = a_rollout()
    gap = noise(rollout, 2, 1.0)
    gap[1, 2] = np.inf
    updates = system.make_updates(rollout, gap, np.array([1]), 1, SHAPE)
    updates = [u.replace(sampler_logp_RS=np.full_like(u.sampler_logp_RS, -6.0)) for u in updates]
    state = _state(tiny)
    with pytest.raises(FloatingPointError, match="step 8, branch general"):
        loop.update(tiny[0], state, Experience("general", updates, {}), 7)
    jax.tree.map(np.testing.assert_array_equal, state.params, tiny[1])
