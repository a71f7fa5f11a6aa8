"""Weights onto a mesh, a tensor at a time: the same numbers as stacking them on the host, and little host memory."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camopd_jax import sharding
from camopd_jax.models import decoder, weights
from camopd_jax.models.decoder import Lora
from camopd_jax.models.tiny import CONFIG as TINY
from camopd_jax.models.weights import WHOLE

CFG = replace(TINY, tied_head=False, layers=3, qk_norm=True, heads=8, kv_heads=8)
SHAPES = decoder.split(CFG)[1]
MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2)]


def random_weights(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


STACKED = random_weights(0)


def plain_read(name, layer, index):
    whole = STACKED[name] if layer is None else STACKED["layers"][name][layer]
    return whole[index]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sizes", MESHES)
def test_placed_weights_are_the_stacked_ones_where_they_should_lie(sizes, dtype):
    at = sharding.param_shardings(sharding.make_mesh(*sizes), SHAPES, decoder.AXES)
    placed = weights.place(plain_read, SHAPES, at, dtype)
    assert jax.tree.structure(placed) == jax.tree.structure(STACKED)
    for got, expected, where in zip(*map(jax.tree.leaves, (placed, STACKED, at)), strict=True):
        assert (got.dtype, got.shape) == (jnp.dtype(dtype), expected.shape)
        assert got.sharding == where
        np.testing.assert_array_equal(np.asarray(got), expected.astype(dtype))


@pytest.mark.parametrize("sizes", MESHES)
def test_each_part_is_read_once_and_one_tensor_after_the_other(sizes):
    reads = []

    def read(name, layer, index):
        part = tuple(s.indices(n)[:2] for s, n in zip(index, export_shapes[name, layer], strict=True))
        reads.append((name, layer, part))
        return plain_read(name, layer, index)

    export_shapes = {(name, layer): shape for name, layer, shape in decoder.tensors_of(CFG)}
    at = sharding.param_shardings(sharding.make_mesh(*sizes), SHAPES, decoder.AXES)
    jax.block_until_ready(weights.place(read, SHAPES, at, "float32"))
    assert max(Counter(reads).values()) == 1
    tensors = [(name, layer) for name, layer, _ in reads]
    visits = [t for i, t in enumerate(tensors) if i == 0 or tensors[i - 1] != t]
    assert sorted(visits, key=str) == sorted(export_shapes, key=str)  # each tensor once, without another in between
    for tensor, shape in export_shapes.items():  # what was read covers the tensor, and no part of it twice
        sizes_read = [np.prod([b - a for a, b in part]) for *t, part in reads if tuple(t) == tensor]
        where = at[tensor[0]] if tensor[1] is None else at["layers"][tensor[0]]
        split = np.prod([where.mesh.shape[axis] for axis in where.spec if axis])
        assert len(sizes_read) == split and sum(sizes_read) == np.prod(shape)


def test_between_by_hand():
    first, second = (lambda name, layer, index, x=x: np.full((2, 2), x, np.float32)[index] for x in (10.0, 2.0))
    read = weights.between(first, second, 0.75)
    np.testing.assert_array_equal(read("q", 0, (slice(0, 1), slice(None))), [[8.0, 8.0]])
    for alpha, same in ((1.0, 10.0), (0.0, 2.0)):
        np.testing.assert_array_equal(weights.between(first, second, alpha)("q", 0, WHOLE), np.full((2, 2), same))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_between_models_of_16_bits_is_computed_in_float32(dtype):
    step = float(jnp.finfo(dtype).eps)  # from 1 to its neighbour
    first, second = (lambda *_, x=x: np.full(1, x, dtype) for x in (1.0, 1.0 + step))
    got = weights.between(first, second, 0.5)("norm", None, WHOLE)
    assert got.dtype == np.float32 and got[0] == 1.0 + step / 2


@pytest.mark.parametrize("on_mesh", [False, True])
def test_read_from_memory_merges_the_adapter(on_mesh):
    how = Lora(rank=2, alpha=5.0, targets=("q", "down"))
    cfg = replace(CFG, lora=how)
    shapes = decoder.split(cfg)[1]
    params = random_weights(1, shapes)
    if on_mesh:
        at = sharding.param_shardings(sharding.make_mesh(2, 2, 2), shapes, decoder.AXES)
        params = jax.device_put(params, at)
    plain = weights.of_params(params)
    merged = weights.merged(plain, params, how)
    layers = jax.tree.map(lambda x: np.asarray(x, np.float64), params["layers"])
    for name, layer, _ in decoder.tensors_of(cfg):
        expected = np.asarray(params[name], np.float64) if layer is None else layers[name][layer]
        np.testing.assert_array_equal(plain(name, layer, WHOLE), expected)
        if name in how.targets:
            expected = expected + 5.0 / 2 * layers[f"{name}_lora_b"][layer] @ layers[f"{name}_lora_a"][layer]
        got = merged(name, layer, WHOLE)
        np.testing.assert_allclose(got, expected, atol=2e-6, rtol=1e-6)
        part = tuple(slice(1, n - 1) for n in got.shape)
        np.testing.assert_array_equal(merged(name, layer, part), got[part])


def test_a_model_on_a_mesh_is_placed_again_as_it_was():
    at = sharding.param_shardings(sharding.make_mesh(1, 4, 2), SHAPES, decoder.AXES)
    once = weights.place(plain_read, SHAPES, at, "bfloat16")
    again = weights.place(weights.of_params(once), SHAPES, at, "float32")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b, np.float32)), again, once)


def large(*arguments):
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    command = [sys.executable, Path(__file__).with_name("large.py"), *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_shards_load_with_little_more_than_the_devices_hold(tmp_path):
    """Simulated devices hold their arrays in host memory: what comes on top is what a host beside devices needs."""
    size = 500_000_000
    large("write", tmp_path / "model", size)
    found = json.loads(large("place", tmp_path / "model", "1x8x1").splitlines()[-1])
    shutil.rmtree(tmp_path / "model")
    assert len(found["files"]) == 2 and sum(found["files"]) == pytest.approx(size, rel=0.05)
    assert found["device_bytes"] == pytest.approx(size, rel=0.05)
    assert found["numpy_peak"] < 3 * found["largest_tensor"] < size / 8
    on_top = found["anonymous_peak"] - found["anonymous_before"] - found["device_bytes"]
    assert 0 < on_top < size / 4
