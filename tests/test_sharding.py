"""One device against eight simulated ones: the same figures, the same selection, the same update."""

import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain import options

from camopd_jax import data, sharding
from camopd_jax.camopd import system
from camopd_jax.camopd.diagnostics import Diagnostics
from camopd_jax.engine import Engine, Numerics, Policy
from camopd_jax.models import decoder
from camopd_jax.models.load import load
from camopd_jax.models.tiny import CONFIG as TINY
from camopd_jax.models.weights import of_params
from camopd_jax.packing import PackShape
from camopd_jax.step import build_steps, make_optimizer
from camopd_jax.types import TrainState

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2)]
BATCH, PAD = 16, 0
SGD = {
    "name": "sgd", "learning_rate": 0.5, "warmup_steps": 0, "decay_steps": 0, "b1": 0.9, "b2": 0.999, "eps": 1e-8,
    "weight_decay": 0.0, "clip_norm": 0.1,
}  # fmt: skip


def random_weights(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) * 0.2, decoder.split(TINY)[1])


def fixed_rollout(student_logp=None):
    """Sixteen prompts with responses of 1 to 9 tokens; the sampler is a little off the student."""
    rng = np.random.default_rng(0)
    prompts, answers = (
        [rng.integers(1, TINY.vocab_size, size=rng.integers(1, n)).astype(np.int32) for _ in range(BATCH)]
        for n in (8, 10)
    )
    rollout = data.given_responses(prompts, answers, PAD)
    if student_logp is None:
        return rollout
    noise = rng.uniform(-0.1, 0.1, size=student_logp.shape).astype(np.float32)
    return rollout.replace(sampler_logp_BT=np.where(rollout.response_mask_BT, student_logp + noise, 0))


def run(mesh, monkeypatch, rollout, loss="sampled"):
    """Scores, selection, gradients and the weights after one step of SGD, all as host arrays."""
    tokenizer = SimpleNamespace(eos_token_id=PAD, pad_token_id=PAD)
    engine = Engine(TINY, mesh, tokenizer, [PAD], PackShape(8, 32, 16), Numerics(0.8, 16, "float32", TINY.vocab_size))
    student, teacher = random_weights(1), random_weights(2)
    prompts = [np.ones(3, np.int32)] * BATCH
    branch = system.Branch("general", 0, prompts, ["id"] * BATCH, prompts, "absolute", rho=0.6, scale=2.0)
    monkeypatch.setattr(system, "sample_prompts", lambda *_: rollout)
    shape = system.RolloutShape(BATCH, BATCH, rollout.response_mask_BT.shape[1])

    def place(params):
        return engine.place(of_params(params), "float32")

    teachers = system.Teachers({"general": Policy(engine, lambda: place(teacher))}, "reread")
    c = options(("general",), loss=loss, weight_band=(0.5, 5.0))
    collect = system.collector(
        engine, teachers, {"general": branch}, c, shape, 9, 0, lambda params: params, lambda *_: [], 0
    )
    function, objective = system.scored_by(c)
    steps = build_steps(
        engine.scorer(0.8, "full", function), engine.shapes, mesh, decoder.AXES, objective, make_optimizer(**SGD), {},
    )  # fmt: skip
    state = steps.init(place(student), jax.random.key(0))
    logp_BT = engine.score(state.params, rollout)
    experience = collect(state, 0)
    grads, loss = steps.zeros(), 0.0
    for place in range(len(experience.updates)):
        grads, figures = steps.micro(state.params, grads, experience.complete(place), {})
        loss += float(figures["loss"])
    gradients = jax.device_get(grads)
    after = jax.device_get(steps.apply(state, grads).params)
    return {"logp": logp_BT, "experience": experience, "loss": loss, "gradients": gradients, "after": after}


@pytest.fixture(scope="module")
def single():
    """The run on one device; the sampler's log-probabilities are made from its scores."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES)
    with pytest.MonkeyPatch.context() as patch:
        logp_BT = run(mesh, patch, fixed_rollout())["logp"]
        rollout = fixed_rollout(logp_BT)
        return rollout, run(mesh, patch, rollout)


@pytest.mark.parametrize("sizes", MESHES)
def test_eight_devices_do_what_one_does(single, sizes, monkeypatch):
    rollout, one = single
    eight = run(sharding.make_mesh(*sizes), monkeypatch, rollout)

    assert np.abs(one["logp"][rollout.response_mask_BT]).min() > 1e-3
    np.testing.assert_allclose(eight["logp"], one["logp"], atol=1e-5, rtol=1e-5)

    a, b = one["experience"], eight["experience"]
    assert 1 < a.metrics["selected"] < BATCH
    for name in ("reverse_kl", "gap_abs", "gap_positive", "mass", "selected", "response_tokens"):
        found = [x.metrics["branches"]["general"][name] for x in (a, b)]
        assert found[1] == pytest.approx(found[0], rel=1e-5), name
    assert len(a.updates) == len(b.updates) > 0
    for x, y in zip(a.updates, b.updates, strict=True):  # the tokens tell which rows were selected
        jax.tree.map(np.testing.assert_array_equal, x.packed, y.packed)
        np.testing.assert_array_equal(x.weight_RS, y.weight_RS)
        np.testing.assert_allclose(x.credit_RS, y.credit_RS, atol=4e-5)

    assert_same_update(one, eight)


def assert_same_update(one, eight):
    assert eight["loss"] == pytest.approx(one["loss"], rel=1e-4)
    before = random_weights(1)
    for path, expected in jax.tree_util.tree_flatten_with_path(one["gradients"])[0]:
        got, name = eight["gradients"], jax.tree_util.keystr(path)
        for key in path:
            got = got[key.key]
        assert np.abs(expected).max() > 0, name
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max(), err_msg=name)
    for start, x, y in zip(*map(jax.tree.leaves, (before, one["after"], eight["after"])), strict=True):
        assert np.abs(x - start).max() > 1e-4
        np.testing.assert_allclose(y, x, atol=1e-5)


@pytest.mark.parametrize("loss", ["full", "top_k"])
def test_a_loss_over_the_vocabulary_is_the_same_on_eight_devices(single, loss, monkeypatch):
    rollout, _ = single
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES)
    one, eight = (run(m, monkeypatch, rollout, loss) for m in (mesh, sharding.make_mesh(2, 2, 2)))
    assert one["loss"] > 0
    assert_same_update(one, eight)


def test_diagnostics_are_the_same_on_eight_devices():
    tokenizer = SimpleNamespace(eos_token_id=PAD, pad_token_id=PAD)
    numerics = Numerics(0.8, 16, "float32", TINY.vocab_size)
    prompts = [np.arange(1, 3 + i % 3, dtype=np.int32) * (i + 1) for i in range(6)]  # no multiple of the data shards
    rows = []
    for mesh in (
        jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES),
        sharding.make_mesh(2, 2, 2),
    ):
        engine = Engine(TINY, mesh, tokenizer, [PAD], PackShape(8, 32, 16), numerics)

        def policy(seed, engine=engine):
            return Policy(engine, lambda: engine.place(of_params(random_weights(seed)), "float32"))

        teachers = system.Teachers({"general": policy(2), "domain": policy(3)}, "reread")
        branches = {
            name: system.Branch(name, i, prompts, ["id"] * 6, prompts, "absolute", 0.6, 1.0)
            for i, name in enumerate(("general", "domain"))
        }
        diagnose = Diagnostics(
            engine, teachers, branches, system.RolloutShape(8, 8, 4), prompts=2, seed=1, shapes=engine.shapes,
            frozen=dict, whole=lambda params: params,
        )  # fmt: skip
        optimizer = make_optimizer(**SGD)
        state = TrainState(policy(1).place(), optimizer.tx.init({}), jnp.int32(0), jax.random.key(0))
        rows += diagnose(state, 0)
    one, eight = rows
    assert one["branches"]["general"]["coherence"] > 0.1
    assert eight["pairs"]["general/domain"]["cosine"] == pytest.approx(
        one["pairs"]["general/domain"]["cosine"], abs=1e-3
    )
    for name, found in one["branches"].items():
        for key in ("coherence", "coherence_selected", "gradient_norm"):
            assert eight["branches"][name][key] == pytest.approx(found[key], rel=1e-3), (name, key)


@pytest.mark.parametrize(
    "sizes, embed, q",
    [
        ((8, 1, 1), (320, 32), (2, 32, 32)),
        ((1, 8, 1), (320, 4), (2, 32, 4)),
        ((2, 2, 2), (160, 16), (2, 16, 16)),
    ],
)
def test_weights_and_moments_are_spread_as_the_mesh_says(sizes, embed, q):
    mesh = sharding.make_mesh(*sizes)
    _, shapes = decoder.split(TINY)
    at = sharding.param_shardings(mesh, shapes, decoder.AXES)
    params = jax.device_put(random_weights(0), at)
    assert params["embed"].addressable_shards[0].data.shape == embed
    assert params["layers"]["q"].addressable_shards[0].data.shape == q
    assert params["norm"].addressable_shards[0].data.shape == (TINY.width,)
    rows = jax.device_put(np.zeros((8, 3)), sharding.by_rows(mesh))
    assert rows.addressable_shards[0].data.shape == (8 // sharding.data_shards(mesh), 3)
    adam = make_optimizer(**SGD | {"name": "adamw"})
    steps = build_steps(lambda *_: None, shapes, mesh, decoder.AXES, lambda *_: (jnp.float32(0), {}), adam, {})
    assert isinstance(steps.abstract, TrainState)
    (moments,) = [s for s in steps.abstract.opt_state if hasattr(s, "mu")]
    for moment in (moments.mu, moments.nu):
        assert jax.tree.map(lambda leaf: leaf.sharding, moment) == at


def test_one_size_may_be_left_open():
    assert dict(sharding.make_mesh(-1, 2, 2).shape) == {"replica": 2, "fsdp": 2, "tensor": 2}
    assert dict(sharding.make_mesh(1, 1, -1).shape) == {"replica": 1, "fsdp": 1, "tensor": 8}
    assert sharding.data_shards(sharding.make_mesh(2, 2, 2)) == 4


@pytest.mark.parametrize("sizes", [(2, 2, 1), (3, -1, 1), (-1, -1, 8), (0, -1, 1), (-2, -4, 1), (16, 1, 1)])
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes):
    with pytest.raises(ValueError, match=rf"replica={sizes[0]}, fsdp={sizes[1]}, tensor={sizes[2]} .* 8 devices"):
        sharding.make_mesh(*sizes)


@pytest.mark.parametrize(
    "change, sizes, message",
    [
        ({"vocab_size": 321}, (1, 1, 8), "mesh.tensor = 8 does not divide vocab = 321 of parameter embed"),
        ({"width": 36}, (1, 8, 1), "mesh.fsdp = 8 does not divide embed = 36 of parameter embed"),
        ({"mlp_width": 60}, (1, 1, 8), "mesh.tensor = 8 does not divide mlp = 60 of parameter"),
    ],
)
def test_a_dimension_that_the_mesh_does_not_divide_is_named(change, sizes, message):
    shapes = decoder.split(replace(TINY, **change))[1]
    with pytest.raises(ValueError, match=re.escape(message)):
        sharding.param_shardings(sharding.make_mesh(*sizes), shapes, decoder.AXES)


def test_rows_that_the_data_shards_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"4 packed rows do not divide by 8 data shards"):
        Engine(TINY, sharding.make_mesh(8, 1, 1), None, [0], PackShape(4, 32, 16), Numerics(1.0, 16, "float32", 320))


def test_sampling_on_eight_devices_equals_one_with_a_key_that_lies_on_the_mesh():
    prompts = [np.arange(3, 3 + n, dtype=np.int32) for n in (4, 2, 6, 3, 5)]
    found = []
    one_device = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES)
    for mesh in (one_device, sharding.make_mesh(8, 1, 1)):
        model = load("random:llama")
        engine = Engine(
            TINY, mesh, model.tokenizer, model.stop_ids, PackShape(8, 32, 16), Numerics(1.0, 16, "float32", 320)
        )
        key = jax.device_put(jax.random.key(0), sharding.replicated(mesh))  # as the training state holds it
        params = engine.place(model.read, "float32")
        found.append(engine.sample(params, prompts, key, width=8, batch=8, max_new_tokens=6, temperature=1.0))
    one, eight = found
    np.testing.assert_array_equal(one.tokens_BL, eight.tokens_BL)
    np.testing.assert_allclose(one.sampler_logp_BT, eight.sampler_logp_BT, atol=1e-5)
