"""Applying gradients: AdamW and SGD against NumPy, clipping, learning rate, and what a skipped step leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camopd_jax import sharding
from camopd_jax import step as steps_of


def _mesh():
    return jax.make_mesh(
        (1, 1, 1), sharding.MESH_AXES, devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,) * 3
    )


SMALL = {"embed": jax.ShapeDtypeStruct((3, 2), jnp.float32), "norm": jax.ShapeDtypeStruct((4,), jnp.float32)}
SMALL_AXES = {"embed": ("vocab", "embed"), "norm": ("norm",)}
OPTIM = dict(name="adamw", learning_rate=0.1, warmup_steps=4, decay_steps=0)
OPTIM |= dict(b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.05, clip_norm=1.0)


def _steps(**changes):
    optimizer = steps_of.make_optimizer(**OPTIM | changes)
    return steps_of.build_steps(None, SMALL, _mesh(), SMALL_AXES, None, optimizer, {})


def _tree(seed, norm=None):
    """Random arrays; scaled to a global norm, if one is given."""
    rng = np.random.default_rng(seed)
    tree = {name: rng.normal(size=s.shape) for name, s in SMALL.items()}
    size = np.sqrt(sum((x**2).sum() for x in tree.values()))
    return {name: (x * norm / size if norm else x).astype(np.float32) for name, x in tree.items()}


def _device(tree):
    return {name: jnp.array(x) for name, x in tree.items()}


class PlainAdamW:
    """AdamW with clipping and warm-up, an array at a time in float64; as published (arXiv 1711.05101)."""

    def __init__(self, params):
        self.params = {k: x.astype(np.float64) for k, x in params.items()}
        self.m, self.v, self.count = ({k: 0.0 for k in params}, {k: 0.0 for k in params}, 0)

    def update(self, grads, step):
        rate = 0.1 * min(1.0, (step + 1) / 4)
        self.count += 1
        size = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
        for k, p in self.params.items():
            g = grads[k] / max(1.0, size)
            self.m[k] = 0.8 * self.m[k] + 0.2 * g
            self.v[k] = 0.95 * self.v[k] + 0.05 * g**2
            m, v = self.m[k] / (1 - 0.8**self.count), self.v[k] / (1 - 0.95**self.count)
            self.params[k] = p - rate * (m / (np.sqrt(v) + 1e-3) + 0.05 * p)


def _same(got, want):
    for name in SMALL:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_adamw_with_clipping_warm_up_and_a_skipped_step():
    steps, params = _steps(), _tree(0)
    plain = PlainAdamW(params)
    state = steps.init(_device(params), jax.random.key(0))
    for at, norm in enumerate((3.0, 0.5, None, 2.0, 0.01, 5.0, 0.9)):
        if norm is None:
            before = jax.device_get((state.params, state.opt_state))
            state = steps.skip(state)
            jax.tree.map(np.testing.assert_array_equal, (state.params, state.opt_state), before)
        else:
            grads = _tree(10 + at, norm)
            state = steps.apply(state, _device(grads))
            plain.update(grads, at)
        assert int(state.step) == at + 1
        _same(state.params, plain.params)


def test_a_first_step_of_adamw_by_hand():
    # Without decay and eps, the first step moves each entry by the learning rate against the gradient's sign.
    steps, params, grads = _steps(eps=1e-12, weight_decay=0.0, warmup_steps=0), _tree(0), _tree(1)
    state = steps.apply(steps.init(_device(params), jax.random.key(0)), _device(grads))
    _same(state.params, {k: params[k] - 0.1 * np.sign(grads[k]) for k in params})


@pytest.mark.parametrize(("norm", "factor"), [(4.0, 0.25), (0.5, 1.0)])
def test_sgd_clips_by_global_norm(norm, factor):
    steps, params, grads = _steps(name="sgd", warmup_steps=0), _tree(0), _tree(1, norm)
    state = steps.apply(steps.init(_device(params), jax.random.key(0)), _device(grads))
    _same(state.params, {k: params[k] - 0.1 * factor * grads[k] for k in params})


@pytest.mark.parametrize(
    ("warmup", "decay", "expected"),
    [
        (0, 0, [1, 1, 1, 1, 1, 1]),
        (4, 0, [0.25, 0.5, 0.75, 1, 1, 1]),
        (0, 5, [1, 0.8, 0.6, 0.4, 0.2, 0]),
        (2, 5, [0.5, 0.8, 0.6, 0.4, 0.2, 0]),
    ],
)
def test_learning_rate(warmup, decay, expected):
    rate = steps_of.make_optimizer(**OPTIM | {"warmup_steps": warmup, "decay_steps": decay}).learning_rate
    np.testing.assert_allclose([rate(at) for at in range(6)], 0.1 * np.array(expected), rtol=1e-6, atol=1e-9)


def test_measure_by_hand():
    steps = _steps()
    state = steps.init(_device(_tree(0)), jax.random.key(0))
    first, second = _tree(1, 0.5), _tree(2, 3.0)
    figures = steps.measure(state, _device(first))
    assert float(figures["grad_norm"]) == pytest.approx(0.5)
    assert (float(figures["clip_rate"]), float(figures["moment_cosine"])) == (0.0, 0.0)
    assert float(figures["lr"]) == pytest.approx(0.025)
    state = steps.apply(state, _device(first))  # the moment is now 0.2 times the first gradient
    figures = steps.measure(state, _device(second))
    cosine = sum((first[k] * second[k]).sum() for k in first) / (0.5 * 3.0)
    assert float(figures["clip_rate"]) == 1.0
    assert float(figures["moment_cosine"]) == pytest.approx(cosine, abs=1e-5)


def test_zeros_have_the_shapes_of_the_parameters():
    zeros = _steps().zeros()
    for name, shape in SMALL.items():
        np.testing.assert_array_equal(zeros[name], np.zeros(shape.shape, np.float32), strict=True)


def test_another_rule_is_refused():
    with pytest.raises(ValueError, match="'lion'"):
        steps_of.make_optimizer(**OPTIM | {"name": "lion"})
