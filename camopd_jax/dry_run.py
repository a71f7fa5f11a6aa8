"""Plan before you pay: what a config would hold and take on devices that need not be here. Loads no model."""

from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from camopd_jax import chips, footprint, forecast, inputs, preflight, sharding
from camopd_jax.chips import Devices
from camopd_jax.footprint import PARTS, Setup
from camopd_jax.models import known

USABLE = 0.9  # of a device's memory; the rest is for the runtime, fragments, and what the formulas do not see
SHORT = 0.25  # of the longest prompts and responses: the second column of times
WORTH = 0.9  # another mesh is named where it takes at most this share of the time
MOST = 1024  # devices that advice goes up to
TENSOR = (1, 2, 4, 8)  # sizes of that axis that advice tries
GB = 1e9


def page(config: ConfigDict, devices: str | None) -> str:
    """The plan of a run, a line of text each.

    Args:
      devices: such as "v5p-16" (chips.HELP); None: those of this machine.

    Raises:
      ValueError: if a value of the config, a model source or the devices' name is wrong, or the mesh does not fit.
    """
    preflight.check_config(config)
    on = chips.parse(devices) if devices else chips.here()
    setup = resolve(config, on.count)
    return "\n".join([*_header(setup, on), *_memory(setup, on), *_time(setup, on), *advice(setup, on)])


def resolve(config: ConfigDict, count: int) -> Setup:
    """Architectures and mesh of a config on so many devices.

    Raises:
      ValueError: if a source is unknown, the mesh does not divide rows or weights, or lengths or vocabularies differ.
    """
    return _setup(config, count, checked=True)


def _setup(config: ConfigDict, count: int, checked: bool) -> Setup:
    mesh = sharding.abstract_mesh(**config.mesh, devices=count)
    preflight.check_devices(config, sharding.data_shards(mesh))
    base, made = footprint.base_source(config), preflight.SPECIALISE
    sources = {name: config.teachers[name] for name in preflight.branches(config)}
    teachers = {name: known.architecture(base if s == made else s) for name, s in sources.items()}
    for name, source in sources.items():
        if checked and source != made:  # that one has the architecture of its base, which is a teacher too
            inputs.check_architecture(config, mesh, name, source, teachers[name])
    student = inputs.with_adapter(config, known.architecture(base))
    for cfg in (student, *teachers.values()):
        footprint.elements(cfg, mesh)  # the mesh must divide them
    return Setup(config, mesh, student, teachers)


def _header(setup: Setup, on: Devices) -> Iterator[str]:
    config, micro, rollout, chip = setup.config, setup.config.micro, setup.config.rollout, on.chip
    rate = on.flops(config.precision) / 1e12
    yield (
        f"Plan of {config.name}:{config.preset} on {on.count} x {chip.name} ({rate:.3g} TFLOP/s in {config.precision}, "
        f"{chip.memory / GB:.0f} GB at {chip.bandwidth / GB:.0f} GB/s, link {chip.link / GB:.0f} GB/s)"
    )
    for name, cfg in setup.teachers.items():
        source = config.teachers[name]
        made = f"made by {config.specialise.steps} updates of {config.specialise.batch_size} examples"
        start = ", the start of the student" if name == config.student else ""
        what = made if source == preflight.SPECIALISE else source
        yield f"  {name} teacher: {what}, {_short(footprint.parameters(cfg) / 1e6)} million parameters{start}"
    trains = f"an adapter of rank {config.lora.rank}" if config.lora.rank else "all weights"
    yield (
        f"  training {trains} of the student, {config.optim.name}, float32; mesh "
        + " x ".join(f"{axis} {size}" for axis, size in setup.mesh.shape.items())
    )
    yield (
        f"  {config.steps} updates of {rollout.batch_size} prompts, {rollout.rows_at_once} decoded together; prompts "
        f"up to {rollout.max_prompt_tokens} tokens, responses up to {rollout.max_new_tokens}"
    )
    yield (
        f"  a micro-batch: {micro.rows * setup.shards} packed rows of {micro.width} tokens, {micro.slots} of response; "
        f"{micro.rows} a data shard, remat {micro.remat!r}"
    )
    for name in setup.teachers:
        yield f"  data.{name}: {_data(config.data[name].source)}"
    yield "  in order: keys, mesh, lengths, shapes. Checked when the run starts: tokenizers, templates, data, disk"


def _data(source: str) -> str:
    scheme, _, rest = source.partition(":")
    missing = scheme == "path" and not Path(rest).expanduser().exists()
    return f"{source}, {'NOT THERE YET, and ' if missing else ''}not read in a dry run"


def _memory(setup: Setup, on: Devices) -> Iterator[str]:
    phases = footprint.phases(setup)
    yield ""
    columns = {part: max(9, len(part) + 2) for part in (*PARTS, "together")}
    yield f"{'GB on one device':20s}" + "".join(f"{part:>{wide}s}" for part, wide in columns.items())
    for phase in phases:
        figures = phase.parts | {"together": phase.total}
        yield f"{phase.name:20s}" + "".join(f"{_short(figures[p] / GB):>{wide}s}" for p, wide in columns.items())
    peak, room = max(phases, key=lambda p: p.total), USABLE * on.chip.memory
    state = f"fits, {(room - peak.total) / GB:.3g} GB to spare"
    if peak.total > room:
        state = f"DOES NOT FIT: {(peak.total - room) / GB:.3g} GB too much"
    yield (
        f"peak {peak.total / GB:.3g} GB ({peak.name}) of {room / GB:.3g} GB that can be used ({USABLE:.0%} of the "
        f"memory): {state}"
    )


def _time(setup: Setup, on: Devices) -> Iterator[str]:
    longest, short = forecast.stages(setup, 1.0), forecast.stages(setup, SHORT)
    precision, s = setup.config.precision, on.shares
    totals = [sum(stage.seconds(on, precision) for stage in stages) for stages in (longest, short)]
    unit, size = ("hours", 3600) if totals[0] > 3 * 3600 else ("minutes", 60)
    yield ""
    yield (
        f"{'each time':24s}{'times':>7s}{'PFLOP':>11s}{'GB read*':>14s}{'GB linked*':>12s}{'seconds':>10s}{unit:>10s}"
        f"{f'{unit} at {SHORT:g}':>16s}"
    )
    for stage, shorter in zip(longest, short, strict=True):
        seconds = stage.seconds(on, precision)
        yield (
            f"{stage.name:24s}{stage.times:7.0f}{_short(stage.flops * on.count / 1e15):>11s}"
            f"{_short(stage.read / GB):>14s}{_short(stage.link / GB):>12s}"
            f"{_short(seconds / stage.times):>10s}{_short(seconds / size):>10s}"
            f"{_short(shorter.seconds(on, precision) / size):>16s}"
        )
    whole, part = (f"{_short(t / size)} {unit}, {_short(on.count * t / 3600)} device-hours" for t in totals)
    yield f"together {whole} with the longest prompts and responses; at {SHORT:g} of that length {part}"
    yield (
        f"* of one device. An estimate, not checked on such devices, at assumed shares of their peaks: training "
        f"{s.training:g}, scoring {s.scoring:g},"
    )
    yield (
        f"  decoding {s.decoding:g}, memory {s.bandwidth:g}, link {s.link:g}; compiling, reading and saving weights "
        "come on top"
    )


def advice(setup: Setup, on: Devices) -> Iterator[str]:
    """What to change so that a run fits, or goes faster."""
    yield ""
    room = USABLE * on.chip.memory
    if not fits(setup, room):
        changes = changes_that_fit(setup, room)
        if changes:
            yield f"To make it fit: {_flags(changes)}"
        else:
            count, changes = _more_devices(setup, room)
            more = (
                f"; on {count} of these devices: {_flags(changes)}"
                if count
                else " here; shorten rollout.max_new_tokens and micro.width"
            )
            yield f"No smaller rows, micro-batches or numbers make it fit{more}"
    rows = most_rows(setup, room)
    yield (
        f"The largest rollout.rows_at_once that fits: {rows}"
        if rows
        else "No rollout.rows_at_once fits: the rest of a rollout is too large already"
    )
    faster = _faster_mesh(setup, on)
    if faster:
        changes, hours = faster
        yield f"Faster: {_flags(changes)}, for a recovery of {_short(hours[1])} instead of {_short(hours[0])} hours"
    if on.chip.near:
        yield f"JAX takes 75% of a GPU's memory by itself: set XLA_PYTHON_CLIENT_MEM_FRACTION={USABLE + 0.02:g}"


def fits(setup: Setup, room: float) -> bool:
    """Whether no phase holds more bytes on a device than there are."""
    return max(phase.total for phase in footprint.phases(setup)) <= room


def most_rows(setup: Setup, room: float) -> int:
    """The largest rollout.rows_at_once with which the rollouts fit; 0: none does."""

    def rollouts_fit(rows: int) -> bool:
        phases = footprint.phases(_changed(setup, {"rollout.rows_at_once": rows}))
        return max(phase.total for phase in phases if phase.name.startswith("rollout")) <= room

    batch, shards = setup.config.rollout.batch_size, setup.shards
    equal = (footprint.decoded_rows(setup, batch, -(-batch // rounds)) * shards for rounds in range(1, batch + 1))
    return next((rows for rows in equal if rollouts_fit(rows)), 0) if rollouts_fit(shards) else 0


def changes_that_fit(setup: Setup, room: float) -> dict:
    """Values of keys with which a run fits: as few as help, the cheapest first; {}: there are none."""
    config, changes = setup.config, {}
    answered = max(config.rollout.max_new_tokens, config.eval.max_new_tokens, config.eval.max_domain_tokens)
    rows = most_rows(setup, room) or setup.shards
    candidates = {
        "rollout.rows_at_once": min(rows, config.rollout.rows_at_once),
        "eval.batch_size": _most_evaluated(setup, room),
        "micro.remat": "full",
        "micro.rows": 1,
        "micro.width": config.rollout.max_prompt_tokens + answered,
        "micro.slots": answered,
        "micro.logit_chunk": min(config.micro.logit_chunk, 128),
        "mesh.fsdp": setup.shards,
        "precision": "bfloat16",
        "lora.rank": config.lora.rank or 32,
    }
    for key, value in candidates.items():
        if _value(config, key) != value and not (key == "mesh.fsdp" and setup.gathers == value):
            changes |= {key: value} | ({"mesh.replica": 1} if key == "mesh.fsdp" else {})
        if fits(_changed(setup, changes), room):
            break
    else:
        return {}
    for key in [key for key in changes if not key.startswith("mesh.")]:
        fewer = {k: v for k, v in changes.items() if k != key}
        if fits(_changed(setup, fewer), room):
            changes = fewer
    return changes


def _most_evaluated(setup: Setup, room: float) -> int:
    rows = setup.config.eval.batch_size
    while rows > setup.shards and footprint.phases(_changed(setup, {"eval.batch_size": rows}))[-1].total > room:
        rows = max(rows - setup.shards, setup.shards)
    return rows


def _more_devices(setup: Setup, room: float) -> tuple[int, dict]:
    """How many devices hold the run, in doublings, and what to change besides; (0, {}): more than MOST."""
    count = setup.mesh.size
    while count < MOST:
        count *= 2
        for tensor in TENSOR:
            changes = {"mesh.replica": 1, "mesh.fsdp": -1, "mesh.tensor": tensor}
            try:
                more = _changed(setup, changes, count)
            except ValueError:  # it does not divide rows or weights
                continue
            if fits(more, room):
                return count, changes
            besides = {} if setup.student.kv_heads % tensor else changes_that_fit(more, room)
            if besides and "lora.rank" not in besides:
                return count, changes | besides
    return 0, {}


def _faster_mesh(setup: Setup, on: Devices) -> tuple[dict, tuple[float, float]] | None:
    """Another `mesh` that fits and takes clearly less time: (its changes, hours of the recovery before and after)."""

    def hours(setup: Setup) -> float:
        stages = [s for s in forecast.stages(setup, 1.0) if s.name.startswith("recover")]
        return sum(s.seconds(on, setup.config.precision) for s in stages) / 3600

    now, room, found = hours(setup), USABLE * on.chip.memory, []
    for tensor in TENSOR:
        for replica in (1, 2, 4, 8, 16):
            if setup.student.kv_heads % tensor or on.count % (tensor * replica):
                continue
            mesh = {"mesh.replica": replica, "mesh.fsdp": on.count // (tensor * replica), "mesh.tensor": tensor}
            try:
                other = _changed(setup, mesh)
            except ValueError:  # it does not divide rows or weights
                continue
            if fits(other, room):
                found.append((hours(other), mesh))
    best = min(found, key=lambda pair: pair[0], default=None)
    if best is None or best[0] > WORTH * now:
        return None
    sizes = {f"mesh.{axis}": size for axis, size in setup.mesh.shape.items()}
    changes = {key: value for key, value in best[1].items() if sizes[key] != value}
    return changes, (now, best[0])


def _changed(setup: Setup, values: dict, count: int | None = None) -> Setup:
    config = setup.config.copy_and_resolve_references()
    config.update_from_flattened_dict(values)
    return _setup(config, count or setup.mesh.size, checked=False)  # slow, and these keys shorten no model


def _value(config: ConfigDict, key: str):
    for part in key.split("."):
        config = config[part]
    return config


def _flags(changes: dict) -> str:
    return " ".join(f"--config.{key}={value}" for key, value in changes.items())


def _short(x: float) -> str:
    """Three digits, without an exponent where that is readable."""
    return "-" if x == 0 else f"{x:.3g}" if x < 1000 else f"{x:,.0f}"
