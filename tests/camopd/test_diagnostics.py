"""Coherence, gain and inner products against per-sample gradients taken one by one from full logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain import SGD, TINY, a_rollout, an_engine, noise, plain_grad, plain_logp, random_weights, sequence

from camopd_jax import step as steps_of
from camopd_jax.camopd import diagnostics, system
from camopd_jax.engine import Policy
from camopd_jax.models.weights import of_params
from camopd_jax.types import TrainState

PROMPTS = [np.arange(1, 5, dtype=np.int32)[: 2 + i % 3] * k for i, k in enumerate((1, 3, 7, 11, 13, 17))]
SHAPE = system.RolloutShape(batch_size=4, rows_at_once=4, max_new_tokens=5)
ADAM = SGD | {"name": "adamw"}


@functools.cache
def setup():
    engine = an_engine()
    names = [f"p{i}" for i in range(len(PROMPTS))]
    branches = {
        "general": system.Branch("general", 0, PROMPTS, names, PROMPTS[:4], "absolute", 0.6, 2.0),
        "domain": system.Branch("domain", 1, PROMPTS, names, PROMPTS[1:5], "positive", 0.8, 1.0),
    }
    weights = {"general": random_weights(1), "domain": random_weights(2)}
    teachers = system.Teachers(
        {n: Policy(engine, lambda n=n: engine.place(of_params(weights[n]), "float32")) for n in branches}, "reread"
    )
    diagnose = diagnostics.Diagnostics(
        engine, teachers, branches, SHAPE, prompts=3, seed=7, shapes=engine.shapes, frozen=dict, whole=lambda p: p
    )
    student = random_weights(0)
    tx = steps_of.make_optimizer(**ADAM).tx
    rng = np.random.default_rng(3)
    moment = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), student)
    opt_state = tuple(s._replace(mu=moment) if hasattr(s, "mu") else s for s in tx.init(student))
    state = TrainState(jax.tree.map(jnp.array, student), opt_state, jnp.int32(4), jax.random.key(0))
    return engine, branches, weights, diagnose, state


def by_layer(gradient):
    """A gradient as one vector a layer, and one of all the rest, in float64."""
    layers = [
        np.concatenate([np.asarray(x[i], np.float64).ravel() for x in gradient["layers"].values()])
        for i in range(TINY.layers)
    ]
    return [*layers, np.concatenate([np.asarray(gradient[k], np.float64).ravel() for k in ("embed", "norm")])]


def one_gradient(tokens, prompt, gap):
    """The gradient of -(1/L) sum_t gap_t log pi(y_t|h_t)."""
    student = random_weights(0)
    own = np.asarray(plain_logp(student, tokens))
    factor = np.zeros(len(tokens), np.float32)
    factor[prompt:] = np.array(gap) / len(gap)
    sampler = np.array([0.0, *own], np.float32)
    return by_layer(jax.device_get(plain_grad(student, tokens, sampler, factor)[1]))


def expected_of(name):
    """Gradients of the probed samples of a branch, and which of them are selected."""
    engine, branches, weights, _, state = setup()
    branch = branches[name]
    rollout = system.sample_prompts(engine, state.params, branch, branch.heldout, jax.random.key(7), SHAPE)
    gradients, scores = [], []
    for b in range(3):
        tokens, prompt = sequence(rollout, b)
        own = np.asarray(plain_logp(random_weights(0), tokens))[prompt - 1 :]
        gap = np.asarray(plain_logp(weights[name], tokens))[prompt - 1 :] - own
        gradients.append(one_gradient(tokens, prompt, gap))
        scores.append(np.abs(gap).mean() if name == "general" else np.maximum(gap, 0).mean())
    order = sorted(range(3), key=lambda b: -scores[b])
    kept = next(k for k in range(1, 4) if sum(scores[b] for b in order[:k]) >= branch.rho * sum(scores))
    return gradients, order[:kept]


def coh(vectors):
    return np.linalg.norm(np.sum(vectors, axis=0)) / sum(np.linalg.norm(v) for v in vectors)


def test_figures_agree_with_gradients_taken_one_by_one():
    *_, diagnose, state = setup()
    (row,) = diagnose(state, 4)
    assert row["step"] == 4
    moment = np.concatenate(by_layer(steps_of.first_moment(state)))
    sums = {}
    for name in ("general", "domain"):
        gradients, selected = expected_of(name)
        whole = [np.concatenate(g) for g in gradients]
        found, full, of_selected = row["branches"][name], coh(whole), coh([whole[b] for b in selected])
        assert (found["selected"], found["batch"]) == (len(selected), 3)
        assert found["coherence"] == pytest.approx(full, rel=2e-3)
        assert found["coherence_selected"] == pytest.approx(of_selected, rel=2e-3)
        assert found["gain"] == pytest.approx(100 * (of_selected - full) / full, rel=2e-2, abs=0.3)
        assert found["gradient_norm"] == pytest.approx(np.linalg.norm(np.mean(whole, axis=0)), rel=2e-3)
        np.testing.assert_allclose(
            found["coherence_by_layer"], [coh([g[i] for g in gradients]) for i in range(TINY.layers)], rtol=2e-3
        )
        total = np.sum(whole, axis=0)
        cosine = total @ moment / np.linalg.norm(total) / np.linalg.norm(moment)
        assert found["moment_cosine"] == pytest.approx(cosine, abs=1e-4)
        sums[name] = [np.sum([g[i] for g in gradients], axis=0) for i in range(TINY.layers + 1)]
    a, b = (np.concatenate(sums[name]) for name in ("general", "domain"))
    found = row["pairs"]["general/domain"]
    assert found["dot"] == pytest.approx(a @ b, rel=1e-2, abs=1e-3 * np.linalg.norm(a) * np.linalg.norm(b))
    assert found["cosine"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=2e-3)
    layers = [
        x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(sums["general"], sums["domain"], strict=True)
    ]
    np.testing.assert_allclose(found["cosine_by_layer"], layers[:-1], atol=3e-3)


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 1.0), (-1.0, 0.0)])
def test_two_identical_samples_have_coherence_1_and_two_opposite_ones_0(sign, expected):
    _, branches, _, diagnose, state = setup()
    rollout = jax.tree.map(lambda x: np.repeat(x[:1], 2, axis=0), a_rollout(prompt_lengths=(4,), response_lengths=(5,)))
    gap = noise(rollout, 2, 1.0) * np.array([[1.0], [0.0]], np.float32)
    gap[1] = sign * gap[0]
    found = diagnose.of_batch(state, branches["general"], rollout, gap, np.array([2.0, 2.0])).row
    assert found["coherence"] == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(found["coherence_by_layer"], [expected] * TINY.layers, atol=1e-4)
    assert found["selected"] == 2  # of 0.6 of the demand


def test_the_probe_leaves_the_state_alone_and_repeats_itself():
    *_, diagnose, state = setup()
    before = jax.device_get(state.params)
    assert diagnose(state, 0) == diagnose(state, 0)
    jax.tree.map(np.testing.assert_array_equal, state.params, before)


def test_a_branch_without_a_gap_has_no_direction():
    _, branches, _, diagnose, state = setup()
    rollout = a_rollout(prompt_lengths=(4, 3), response_lengths=(5, 2))
    row = diagnose.of_batch(state, branches["domain"], rollout, np.zeros((2, 5), np.float32), np.zeros(2)).row
    assert row["selected"] == 0
    assert {row[k] for k in ("coherence", "coherence_selected", "gain", "coherence_by_layer", "moment_cosine")} == {
        None
    }
    assert sum(row["gap_histogram"]) == 7


def test_coherence_and_cosine_by_hand():
    assert diagnostics.coherence(np.float64(25.0), np.float64(7.0)) == pytest.approx(5 / 7)  # (3, 0) and (0, 4)
    assert diagnostics.cosine(-6.0, 4.0, 9.0) == -1.0
    assert diagnostics.cosine(0.0, 0.0, 9.0) is None


def test_inner_products_by_hand():
    a = {"layers": {"q": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.array([1.0, 1.0])}, "embed": jnp.array([[2.0]])}
    b = {"layers": {"q": jnp.array([[1.0, 1.0], [1.0, -1.0]]), "b": jnp.array([5.0, 0.0])}, "embed": jnp.array([[3.0]])}
    np.testing.assert_allclose(diagnostics.inner(a, b), [8.0, -1.0, 6.0])
    only_layers = {"layers": {"q": jnp.array([[1.0]])}}  # an adapter
    np.testing.assert_allclose(diagnostics.inner(only_layers, only_layers), [1.0, 0.0])
