"""What the compiler says of the programs of a run, beside what the plan says of them: memory and operations.

Nothing runs and no weights exist: the functions that a run jits are compiled for shapes, on simulated devices of a CPU,
on the devices that are here, or for TPUs that are not (libtpu compiles without one).
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from camopd_jax import batching, chips, exchanged, footprint, forecast, scoring, sharding
from camopd_jax.camopd import system
from camopd_jax.engine import Engine, Numerics
from camopd_jax.footprint import Setup
from camopd_jax.models import decoder, lora
from camopd_jax.models.attention import BLOCK, GROUPS
from camopd_jax.packing import PackShape
from camopd_jax.phases import of_recovery
from camopd_jax.step import build_steps, make_optimizer
from camopd_jax.types import PackedTokens, Update

TPUS = ("v5e", "v5p", "v6e")  # whose devices libtpu names as JAX counts them
FLAT = ("v5e", "v6e")  # their slices have two dimensions
# Without a TPU libtpu asks nobody what machine this is; nothing is held that a second process could not share.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5p-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}  # fmt: skip
PROGRAMS = ("update", "optimiser", "scoring", "prefill", "decode")  # of a micro-batch, a step, a micro-batch, prompts


@dataclass(frozen=True)
class Figures:
    """Of one program on one device."""

    held: float  # bytes of its arguments, and of results that take the place of none
    temporary: float  # bytes
    flops: float  # of a program of one layer
    link: float  # bytes from other devices, in a program of one layer


def prepare(name: str | None) -> Callable[[], list]:
    """Check that a compiler for these devices can be had, before any device is touched; a call gives the devices.

    Args:
      name: as chips.parse takes it; None: what is here.

    Raises:
      ValueError: if it cannot be had without such a device.
    """
    if name is None:
        return jax.devices
    kind, count = name.rpartition("-")[::2]
    if kind == "cpu":
        try:
            jax.config.update("jax_num_cpu_devices", int(count))
        except RuntimeError:  # JAX is running already, with as many as it has
            pass
        return lambda: _first(jax.devices("cpu"), int(count), name)
    if kind not in TPUS:
        raise ValueError(
            f"--compile --devices={name}: there is no compiler for these without one of them; allowed are cpu-NUMBER, "
            f"{', '.join(f'{tpu}-NUMBER' for tpu in TPUS)} (with libtpu), or no --devices on a machine that has them"
        )
    return lambda: _tpus(kind, chips.parse(name).count, name)


def _tpus(kind: str, count: int, name: str) -> list:
    """Descriptions of TPU devices, for which XLA compiles."""
    from jax.experimental import topologies

    for key, value in LIBTPU.items():
        os.environ.setdefault(key, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology(kind, count))
    except Exception as error:  # of many types, by what is missing
        raise ValueError(
            f"--compile --devices={name}: needs the compiler of TPUs (pip install libtpu): "
            f"{' '.join(str(error).split())[:200]}"
        ) from None
    return _first(found.devices, count, name)


def topology(kind: str, count: int) -> str:
    """A slice that has at least `count` devices, a host of four at least, as libtpu names it: "v5p:2x2x4".

    Raises:
      ValueError: if no slice has so many.
    """
    sides = [2, 2] if kind in FLAT else [2, 2, 1]
    while math.prod(sides) < count:
        sides[sides.index(min(sides))] *= 2
    if math.prod(sides) != count and count not in (1, 2):
        raise ValueError(f"--compile of {count} {kind} devices: allowed is a power of two")
    return f"{kind}:{'x'.join(map(str, sides if 1 in sides else sorted(sides)))}"


def _first(devices: list, count: int, name: str) -> list:
    if len(devices) < count:
        raise ValueError(f"--compile --devices={name}: JAX was started with {len(devices)} devices; allowed is no more")
    return list(devices[:count])


def programs(setup: Setup, devices: list) -> dict[str, Callable[[], jax.stages.Compiled]]:
    """The programs of a recovery step, by PROGRAMS' names; a call compiles one.

    The sampler's are those of rollout.rows_at_once rows, with the whole cache.
    """
    config, cfg = setup.config, setup.student
    mesh = Mesh(
        np.array(devices).reshape(tuple(setup.mesh.shape.values())), setup.mesh.axis_names,
        axis_types=(jax.sharding.AxisType.Auto,) * len(setup.mesh.axis_names),
    )  # fmt: skip
    micro, shards, rows_at = config.micro, setup.shards, sharding.by_rows(mesh)
    shape = PackShape(micro.rows * shards, micro.width, micro.slots)
    numerics = Numerics(config.rollout.temperature, micro.logit_chunk, config.precision, cfg.vocab_size)
    engine = Engine(cfg, mesh, SimpleNamespace(pad_token_id=0), (0,), shape, numerics)

    def of(shapes, at, dtype: str):
        return jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, dtype, sharding=at), shapes, at)

    def rows(n: int, columns: int, dtype=jnp.int32):
        return jax.ShapeDtypeStruct((n, columns), dtype, sharding=rows_at)

    (base, adapter), (base_at, adapter_at) = lora.split(engine.shapes), lora.split(engine.params_at)
    trained = of(adapter, adapter_at, "float32") if cfg.lora else of(base, base_at, "float32")
    frozen = of(base, base_at, config.precision) if cfg.lora else {}
    whole = lora.join(frozen, trained) if cfg.lora else trained
    packed = PackedTokens(
        *[rows(shape.rows, shape.width)] * 3, *[rows(shape.rows, shape.slots)] * 2,
        rows(shape.rows, shape.slots, jnp.bool),
    )  # fmt: skip
    slots = rows(shape.rows, shape.slots, jnp.float32)
    function, objective = system.scored_by(config.camopd)
    if function is not scoring.score:  # a divergence needs a teacher's figures as well
        function, objective = scoring.score, system.objective(tuple(config.camopd.weight_band))
    steps = build_steps(
        engine.scorer(numerics.temperature, micro.remat, function), adapter if cfg.lora else engine.shapes, mesh,
        decoder.AXES, objective, make_optimizer(**config.optim, decay_steps=0), frozen,
    )  # fmt: skip
    rollout = config.rollout
    drawn = footprint.decoded_rows(setup, rollout.batch_size, rollout.rows_at_once) * shards
    sampler = engine._sampler(
        batching.Shape(drawn, rollout.max_prompt_tokens, rollout.max_new_tokens, numerics.temperature)
    )
    score = engine._compiled(scoring.score, 0, ())
    lowered = {
        "update": lambda: steps.micro.lower(trained, trained, Update(packed, slots, slots, slots), frozen),
        "optimiser": lambda: steps.apply.lower(steps.abstract, trained),
        "scoring": lambda: score.lower(whole, packed),
    } | sampler.lower(whole)

    def compile(lower: Callable) -> jax.stages.Compiled:
        # As recover.run: float32 means float32 on every backend.
        with jax.default_matmul_precision("highest" if config.precision == "float32" else "default"):
            return lower().compile()

    return {name: lambda lower=lowered[name]: compile(lower) for name in PROGRAMS}


def one_layer(setup: Setup) -> Setup:
    """The same with one layer, one chunk of logits and blocks of attention that no loop goes over.

    The compiler counts what a loop does once, however often it goes round; this leaves the loop over tokens alone.
    """
    config = setup.config.copy_and_resolve_references()
    longest = BLOCK * GROUPS
    config.rollout.max_prompt_tokens = min(config.rollout.max_prompt_tokens, longest)
    config.micro.width = min(config.micro.width, longest)
    config.micro.slots = min(config.micro.slots, config.micro.width)
    config.micro.logit_chunk = config.micro.rows * config.micro.slots * setup.shards
    return replace(setup, config=config, student=replace(setup.student, layers=1))


def planned(setup: Setup) -> dict[str, Figures]:
    """What the plan says of each program."""
    phases = {phase.name.partition(" ")[0]: phase for phase in of_recovery(setup)}
    own = footprint.elements(setup.student, setup.mesh)
    trained = own.adapter if setup.student.lora else own.base
    single, rollout = one_layer(setup), setup.config.rollout
    drawn = footprint.decoded_rows(setup, rollout.batch_size, rollout.rows_at_once)
    ahead, columns = batching.read_ahead(drawn), single.config.rollout.max_prompt_tokens + rollout.max_new_tokens
    works = {
        "update": [forecast.micro_batch(single, "training")],
        "optimiser": [],
        "scoring": [forecast.micro_batch(single, "scoring")],
        "prefill": [forecast.prefill(single, ahead)],
        "decode": [forecast.token(single, drawn, columns)],
    }
    held, temporary = _bytes(setup, phases, trained, ahead, drawn)
    found = {}
    for name in PROGRAMS:
        flops, link = sum(work.flops for work in works[name]), sum(sum(work.link.values()) for work in works[name])
        found[name] = Figures(held[name], temporary[name], flops, link)
    return found


def _bytes(setup: Setup, phases: dict, trained: int, ahead: int, drawn: int) -> tuple[dict, dict]:
    """What each program holds, and what it adds."""
    update, scoring, rollout = (phases[name].parts for name in ("update", "scoring", "rollout"))
    weights, config = update["weights"], setup.config.rollout
    read = ahead * config.max_prompt_tokens * footprint.kv_bytes(setup, setup.student)
    cast = scoring["copies"]  # the parameters that train, in the type of the forward pass
    held = {
        "update": weights + 4 * trained,  # the sum of gradients
        "optimiser": 2 * 4 * trained + update["moments"],
        "scoring": weights,
        "prefill": weights + read,
        "decode": rollout["copies"] - cast + rollout["KV cache"] - read,
    }
    temporary = {
        "update": phases["update"].total - held["update"] - update["moments"] - update["teacher"],
        "optimiser": 4 * trained,  # what is added to the parameters
        "scoring": phases["scoring"].total - weights - scoring["moments"] - scoring["teacher"],
        "prefill": cast + footprint.forward_bytes(setup, ahead, config.max_prompt_tokens) + rollout["gathered"],
        "decode": footprint.drawing_bytes(setup, drawn, config.max_new_tokens),
    }
    return held, temporary


def measured(setup: Setup, devices: list) -> Iterator[tuple[str, Figures]]:
    """What the compiler says of each program, one after another: each is compiled twice."""
    whole, single = programs(setup, devices), programs(one_layer(setup), devices)
    for name in PROGRAMS:
        memory, layer = whole[name]().memory_analysis(), single[name]()
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        flops = layer.cost_analysis()["flops"]
        yield name, Figures(held, memory.temp_size_in_bytes, flops, exchanged.received(layer.as_text()))


def table(setup: Setup, devices: list) -> Iterator[str]:
    """Plan, compiler and their ratio, a line a program."""
    config, plan = setup.config, planned(setup)
    heads = ("GB held", "GB temporary", "GFLOP of a layer*", "MB linked of it*")
    yield ""
    yield (
        f"Compiled for {len(devices)} x {devices[0].device_kind}, {config.precision}: plan, compiler, compiler / plan, "
        "of one device"
    )
    yield f"{'':10s}" + "".join(f"{head:>26s}" for head in heads)
    for name, found in measured(setup, devices):
        line = f"{name:10s}"
        for part, unit in (("held", 1e9), ("temporary", 1e9), ("flops", 1e9), ("link", 1e6)):
            ours, theirs = getattr(plan[name], part) / unit, getattr(found, part) / unit
            ratio = f"{theirs / ours:.2f}" if ours else "-"
            line += f"{ours:10.4g}{theirs:10.4g}{ratio:>6s}"
        yield line
    yield (
        "* of the same program with one layer and its logits in one chunk, a rollout's with one token: the compiler "
        "counts a loop once"
    )
