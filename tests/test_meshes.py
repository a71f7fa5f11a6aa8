"""Every mesh of eight devices computes what one device does, and what eight saved goes on on two and on one."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from camopd_jax import data, losses, packing, sharding
from camopd_jax.checkpoint import Checkpoints
from camopd_jax.engine import Engine, Numerics
from camopd_jax.models import decoder
from camopd_jax.models.tiny import CONFIG as TINY
from camopd_jax.models.weights import of_params
from camopd_jax.packing import PackShape
from camopd_jax.step import build_steps, make_optimizer

MESHES = [(r, f, 8 // r // f) for r in (1, 2, 4, 8) for f in (1, 2, 4, 8) if 8 % (r * f) == 0]
EIGHT_HEADS = replace(TINY, heads=8, kv_heads=8)
PAD, TOKENS = 0, 5
ADAMW = {
    "name": "adamw", "learning_rate": 1e-2, "warmup_steps": 0, "decay_steps": 0, "b1": 0.9, "b2": 0.999, "eps": 1e-3,
    "weight_decay": 0.0, "clip_norm": 1e9,
}  # fmt: skip


def weights():
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: (rng.normal(size=s.shape) * 0.3).astype(np.float32), decoder.split(EIGHT_HEADS)[1])


def rollout():
    rng = np.random.default_rng(0)
    prompts, answers = (
        [rng.integers(1, 320, size=rng.integers(2, n)).astype(np.int32) for _ in range(8)] for n in (7, 9)
    )
    return data.given_responses(prompts, answers, PAD)


class On:
    """The model on so many devices."""

    def __init__(self, sizes, remat="full"):
        devices = jax.devices()[: np.prod(sizes)]
        auto = (jax.sharding.AxisType.Auto,) * 3
        self.mesh = jax.make_mesh(sizes, sharding.MESH_AXES, devices=devices, axis_types=auto)
        tokenizer = SimpleNamespace(eos_token_id=PAD, pad_token_id=PAD)
        numerics = Numerics(0.8, 16, "float32", EIGHT_HEADS.vocab_size - 3)
        self.engine = Engine(EIGHT_HEADS, self.mesh, tokenizer, [PAD], PackShape(8, 16, 12), numerics)
        self.steps = build_steps(
            self.engine.scorer(0.8, remat), self.engine.shapes, self.mesh, decoder.AXES, self.objective,
            make_optimizer(**ADAMW), {},
        )  # fmt: skip

    @staticmethod
    def objective(logp_RS, update):
        return losses.weighted_sum(losses.nll_token_loss(logp_RS, update.credit_RS), update.weight_RS), {}

    def state(self):
        return self.steps.init(self.engine.place(of_params(weights()), "float32"), jax.random.key(0))

    def update(self, state):
        """The state after a step, its loss and its figures."""
        given = rollout()
        share_BT = given.response_mask_BT / given.response_mask_BT.sum()
        (micro,) = packing.updates(given, np.arange(8), self.engine.shape, 1.0 * given.response_mask_BT, share_BT)
        grads, sums = self.steps.micro(state.params, self.steps.zeros(), micro, {})
        figures = self.steps.measure(state, grads)
        return self.steps.apply(state, grads), float(sums["loss"]), float(figures["grad_norm"])


def run(on):
    state, prompts = on.state(), [np.arange(3, 3 + n, dtype=np.int32) for n in (4, 2, 6, 3, 5, 4, 2, 6)]
    greedy = on.engine.sample(
        state.params, prompts, jax.random.key(0), width=8, batch=8, max_new_tokens=TOKENS, temperature=0.0
    )
    logp_BT = on.engine.score(state.params, rollout())
    state, loss, norm = on.update(state)
    return {
        "tokens": greedy.tokens_BL,
        "logp": logp_BT,
        "loss": loss,
        "norm": norm,
        "params": jax.device_get(state.params),
    }


@pytest.fixture(scope="module")
def one():
    return run(On((1, 1, 1)))


def test_there_are_ten_meshes_of_eight_devices():
    assert len(MESHES) == 10 and {(1, 1, 8), (1, 8, 1), (8, 1, 1), (2, 2, 2)} <= set(MESHES)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_every_mesh_of_eight_devices_does_what_one_device_does(one, sizes):
    assert_same(run(On(sizes)), one)


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_what_the_backward_pass_keeps_changes_nothing_on_a_mesh(one, remat):
    on = On((2, 2, 2), remat)
    state, loss, norm = on.update(on.state())
    assert_same({"loss": loss, "norm": norm, "params": jax.device_get(state.params)}, one)


def assert_same(found, one):
    assert found["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert found["norm"] == pytest.approx(one["norm"], rel=1e-4)
    if "tokens" in found:
        assert len(np.unique(one["tokens"][:, 8:])) > 5
        np.testing.assert_array_equal(found["tokens"], one["tokens"])
        np.testing.assert_allclose(found["logp"], one["logp"], atol=2e-5)
    for got, want, start in zip(*map(jax.tree.leaves, (found["params"], one["params"], weights())), strict=True):
        assert np.abs(want - start).max() > 1e-3
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_what_eight_devices_saved_goes_on_on_two_and_on_one(tmp_path):
    eight = On((1, 4, 2))
    state, *_ = eight.update(eight.state())
    (adam,) = [s for s in state.opt_state if hasattr(s, "mu")]
    for moment in (adam.mu, adam.nu):
        jax.tree.map(lambda m, p: np.testing.assert_(m.sharding == p.sharding), moment, state.params)
    assert state.params["embed"].addressable_shards[0].data.shape == (160, 8)
    keep = {"keep_last": 1, "keep_best": 0, "best_metric": ""}
    with Checkpoints(tmp_path, **keep) as checkpoints:
        checkpoints.save(state, 1)
    saved = jax.device_get((state.params, state.opt_state, state.step, jax.random.key_data(state.key)))
    after, loss, norm = eight.update(state)
    after = jax.device_get(after.params)
    for sizes in ((1, 2, 1), (1, 1, 1)):
        fewer = On(sizes)
        with Checkpoints(tmp_path, **keep, read_only=True) as checkpoints:
            got = checkpoints.restore(fewer.steps.abstract)
        assert {d for x in jax.tree.leaves(got.params) for d in x.sharding.device_set} == set(fewer.mesh.devices.flat)
        found = jax.device_get((got.params, got.opt_state, got.step, jax.random.key_data(got.key)))
        jax.tree.map(np.testing.assert_array_equal, found, saved)
        next_state, next_loss, next_norm = fewer.update(got)
        assert next_loss == pytest.approx(loss, rel=1e-5)
        assert next_norm == pytest.approx(norm, rel=1e-4)
        for x, y in zip(*map(jax.tree.leaves, (next_state.params, after)), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-4)
