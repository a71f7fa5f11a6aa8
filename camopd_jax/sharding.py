"""The mesh, and which logical axis lies on which mesh axis. No other file knows the mesh axes' names."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from camopd_jax.types import Params

MESH_AXES = ("replica", "fsdp", "tensor")
DATA_AXES = ("replica", "fsdp")  # rows of a batch are spread over both

DEVICE, HOST = "device", "pinned_host"  # kinds of memory; all backends have both

# Logical axis of a parameter -> mesh axis (None: every device holds all of it).
RULES = {
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "embed": "fsdp",
    "norm": None,
    "layers": None,
    "lora": None,  # a low rank
}
# Logical axis of an activation -> mesh axes; those that a caller does not name are whole.
ACTIVATIONS = {"rows": DATA_AXES, "copies": "replica", "embed": "fsdp", "vocab": "tensor", None: None}


def make_mesh(replica: int, fsdp: int, tensor: int) -> Mesh:
    """A mesh over all devices; one of the sizes may be -1: whatever is left.

    Raises:
      ValueError: if the sizes do not multiply to the number of devices.
    """
    sizes = _sizes(replica, fsdp, tensor, jax.device_count())
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)


def abstract_mesh(replica: int, fsdp: int, tensor: int, devices: int) -> AbstractMesh:
    """The mesh that `make_mesh` would make of so many devices, none of which need be here.

    Raises:
      ValueError: as `make_mesh`.
    """
    return AbstractMesh(_sizes(replica, fsdp, tensor, devices), MESH_AXES)


def _sizes(replica: int, fsdp: int, tensor: int, devices: int) -> tuple[int, ...]:
    sizes = [replica, fsdp, tensor]
    if sizes.count(-1) == 1:
        known = int(np.prod([s for s in sizes if s != -1]))
        sizes[sizes.index(-1)] = devices // known if known > 0 else 0
    if min(sizes) < 1 or int(np.prod(sizes)) != devices:
        raise ValueError(
            f"mesh: replica={replica}, fsdp={fsdp}, tensor={tensor} do not multiply to the {devices} devices here "
            "(one of them may be -1: whatever is left)"
        )
    return tuple(sizes)


def data_shards(mesh: Mesh | AbstractMesh) -> int:
    """Over how many devices the rows of a batch are spread."""
    return int(np.prod([mesh.shape[a] for a in DATA_AXES]))


def weight_shards(mesh: Mesh | AbstractMesh) -> int:
    """Over how many devices a weight is spread that is gathered before it is used."""
    return mesh.shape["fsdp"]


def tensor_shards(mesh: Mesh | AbstractMesh) -> int:
    """Over how many devices heads, MLP and vocabulary are spread, and computed."""
    return mesh.shape["tensor"]


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The first axis over the data axes, the others whole."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXES))


def by_rows_and_heads(mesh: Mesh, heads: int) -> NamedSharding:
    """The first axis over the data axes; the second, of so many heads, over `tensor` where that divides it."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXES, None if heads % tensor_shards(mesh) else "tensor"))


def of_one_layer(at: NamedSharding) -> NamedSharding:
    """The sharding of one layer of weights that are stacked along the first axis."""
    return NamedSharding(at.mesh, PartitionSpec(*at.spec[1:]))


def constrain(x: jax.Array, mesh: Mesh | None, *axes: str | None) -> jax.Array:
    """The same array, and its gradient, spread by the logical axes of its first dimensions; the others are whole.

    Without a mesh, as it is.
    """
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*[ACTIVATIONS[a] for a in axes])))


def spread(tree: Any, at: NamedSharding) -> Any:
    """Put NumPy arrays that every process holds whole onto the devices; arrays that are there already stay."""

    def one(x):
        return x if isinstance(x, jax.Array) else jax.make_array_from_callback(x.shape, at, lambda index: x[index])

    return tree if jax.process_count() == 1 else jax.tree.map(one, tree)  # one process's are placed by what takes them


def fetch(tree: Any) -> Any:
    """The arrays of a tree as NumPy arrays, also those that are spread over several processes, which all must call."""

    def one(x):
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            x = _gathered(x.sharding.mesh)(x)
        return np.asarray(x)

    return jax.tree.map(one, tree)


@functools.cache
def _gathered(mesh: Mesh):
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))


def on_host(x: Any) -> Any:
    """Copies of arrays in the memory of the host, spread as they are; returns before they are there."""
    return jax.device_put(x, jax.tree.map(lambda a: a.sharding.with_memory_kind(HOST), x))


def on_devices(x: Any) -> Any:
    """Copies on their devices of arrays that `on_host` made; returns before they are there."""
    return jax.device_put(x, jax.tree.map(lambda a: a.sharding.with_memory_kind(DEVICE), x))


def param_shardings(mesh: Mesh | AbstractMesh, shapes: Params, axes: Mapping[str, tuple[str, ...]]) -> Params:
    """The sharding of each parameter, from its logical axes (`axes`, by the parameter's own name).

    Raises:
      ValueError: if a dimension is not a multiple of the mesh axis that it lies on.
    """

    def one(path, leaf):
        name = path[-1].key
        spec = [RULES[a] for a in axes[name]]
        for size, axis, mesh_axis in zip(leaf.shape, axes[name], spec, strict=True):
            if mesh_axis and size % mesh.shape[mesh_axis]:
                raise ValueError(
                    f"mesh.{mesh_axis} = {mesh.shape[mesh_axis]} does not divide {axis} = {size} of parameter {name}"
                )
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(one, shapes)


def optimizer_shardings(mesh: Mesh, tx: optax.GradientTransformation, shapes: Params, shardings: Params) -> Any:
    """Moments lie where their parameters lie; the rest of the optimiser's state is replicated."""
    return optax.tree_map_params(
        tx,
        lambda _, sharding: sharding,
        jax.eval_shape(tx.init, shapes),
        shardings,
        transform_non_params=lambda _: replicated(mesh),
    )
