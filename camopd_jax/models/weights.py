"""Weights as a function that reads one tensor, or a part of one, at a time; and how they come onto a mesh.

    read(name, layer, index) -> array

`name` is a parameter of ours ("q", "embed", ...), `layer` its layer or None, `index` a tuple of slices of that
tensor. A model is never held on the host: what reads lazily can be placed, mixed, merged and written lazily.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from camopd_jax import sharding
from camopd_jax.models.decoder import Lora
from camopd_jax.types import Params

Read = Callable[[str, int | None, tuple[slice, ...]], np.ndarray]
WHOLE = (slice(None), slice(None))


def place(read: Read, shapes: Params, shardings: Params, dtype: Any) -> Params:
    """Stream weights onto a mesh, stacked over layers: the host holds one tensor of one layer at a time.

    Each process reads only the parts that its own devices hold.

    Args:
      shapes: the parameters' shapes, as `decoder.split` gives them; shardings: where each lies.
      dtype: what they are converted to.
    """

    def tensor(name, layer, shape, at):
        part = functools.cache(
            lambda bounds: np.asarray(read(name, layer, tuple(slice(*b) for b in bounds))).astype(dtype)
        )
        return jax.make_array_from_callback(
            shape, at, lambda index: part(tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True)))
        )

    def parameter(path, shape, at):
        name = path[-1].key
        if path[0].key != "layers":
            return tensor(name, None, shape.shape, at)
        put, stacked = _putter(at), jnp.zeros(shape.shape, dtype, device=at)
        one_at = NamedSharding(at.mesh, PartitionSpec(*at.spec[1:]))
        for layer in range(shape.shape[0]):
            stacked = put(stacked, tensor(name, layer, shape.shape[1:], one_at), layer)
            jax.block_until_ready(stacked)  # or reading would run ahead, and the host hold what waits
        return stacked

    return jax.tree_util.tree_map_with_path(parameter, shapes, shardings)


@functools.cache
def _putter(at: NamedSharding):
    def put(stacked, one, layer):
        return jax.lax.dynamic_update_index_in_dim(stacked, one, layer, 0)

    return jax.jit(put, donate_argnums=0, out_shardings=at)


def of_params(params: Params) -> Read:
    """Read parameters that are in memory or on a mesh."""

    def read(name, layer, index):
        leaf = params[name] if layer is None else params["layers"][name][layer]
        return sharding.fetch(leaf)[index[: leaf.ndim]]

    return read


def merged(base: Read, adapter: Params, lora: Lora) -> Read:
    """A base's weights with an adapter merged into them: W + alpha / rank B A in float32 (Hu et al. 2021)."""

    def read(name, layer, index):
        weight = np.asarray(base(name, layer, index))
        if layer is None or f"{name}_lora_a" not in adapter["layers"]:
            return weight
        a, b = sharding.fetch([adapter["layers"][f"{name}_lora_{part}"][layer] for part in "ab"])
        a, b = a.astype(np.float32), b.astype(np.float32)
        return weight.astype(np.float32) + (lora.alpha / lora.rank * (b @ a))[index]

    return read


def between(first: Read, second: Read, alpha: float) -> Read:
    """alpha times the first model's weights plus (1 - alpha) times the second's."""

    def read(name, layer, index):
        a, b = (np.asarray(r(name, layer, index), np.float32) for r in (first, second))
        return alpha * a + (1 - alpha) * b

    return read
