"""Plan before you pay: what a config would hold and take on devices that need not be here. Loads no model."""

import math
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from camopd_jax import advice, chips, footprint, forecast, room, rules
from camopd_jax.advice import USABLE, digits, resolve
from camopd_jax.chips import Devices
from camopd_jax.footprint import PARTS, Setup
from camopd_jax.phases import of_recovery

SHORT = 0.25  # of the longest prompts and responses: the second column of times
GB = 1e9
DISK = 1e9  # bytes/s, assumed


def lines(config: ConfigDict, devices: str | None, compile: bool) -> Iterator[str]:
    """The plan of a run, a line of text after another; those of the compiler take minutes.

    Args:
      devices: such as "v5p-16" (chips.HELP); None: those of this machine.
      compile: whether the programs of a step are compiled for these devices, to compare (compiled.table).

    Raises:
      ValueError: if a value of the config, a model source or the devices' name is wrong, the mesh does not fit, or
        these devices have no compiler here.
    """
    rules.check_config(config)
    table = ()
    if compile:
        from camopd_jax import compiled  # slow to import

        find = compiled.prepare(devices)
    on = chips.parse(devices) if devices else chips.here()
    setup = resolve(config, on.count)
    if compile:
        table = compiled.table(setup, find())
    yield from _header(setup, on)
    yield from _memory(setup, on)
    yield from _hosts(setup)
    yield from _time(setup, on)
    yield from advice.lines(setup, on)
    yield from table


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
        what = made if source == rules.SPECIALISE else source
        yield f"  {name} teacher: {what}, {digits(footprint.parameters(cfg) / 1e6)} million parameters{start}"
    trains = f"an adapter of rank {config.lora.rank}" if config.lora.rank else "all weights"
    yield (
        f"  training {trains} of the student, {config.optim.name}, float32; mesh "
        + " x ".join(f"{axis} {size}" for axis, size in setup.mesh.shape.items())
    )
    rows = footprint.decoded_rows(setup, rollout.batch_size, rollout.rows_at_once)
    yield (
        f"  {config.steps} updates of {rollout.batch_size} prompts, up to {rollout.max_prompt_tokens} tokens long; "
        f"responses up to {rollout.max_new_tokens}"
    )
    waves = advice.count(rollout.batch_size, rollout.rows_at_once)
    yield (
        f"  a rollout: {waves} of {rows * setup.shards} rows, {rows} a data shard; a row's cache grows to "
        f"{rollout.max_prompt_tokens + rollout.max_new_tokens} columns"
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
    phases = of_recovery(setup)
    yield ""
    columns = {part: max(9, len(part) + 2) for part in (*PARTS, "together")}
    yield f"{'GB on one device':20s}" + "".join(f"{part:>{wide}s}" for part, wide in columns.items())
    for phase in phases:
        figures = phase.parts | {"together": phase.total}
        yield f"{phase.name:20s}" + "".join(f"{digits(figures[p] / GB):>{wide}s}" for p, wide in columns.items())
    peak, room = max(phases, key=lambda p: p.total), USABLE * on.chip.memory
    state = f"fits, {(room - peak.total) / GB:.3g} GB to spare"
    if peak.total > room:
        state = f"DOES NOT FIT: {(peak.total - room) / GB:.3g} GB too much"
    yield (
        f"peak {peak.total / GB:.3g} GB ({peak.name}) of {room / GB:.3g} GB that can be used ({USABLE:.0%} of the "
        f"memory): {state}"
    )


def _hosts(setup: Setup) -> Iterator[str]:
    config, every = setup.config, setup.config.checkpoint.every
    idle, saved = room.parked(setup) * setup.mesh.size, room.checkpoint_bytes(setup)
    yield (
        f"host memory, of all hosts together: {digits(idle / GB)} GB of teachers that wait, {digits(saved / GB)} GB of "
        f"a checkpoint on its way; of each host: {digits(footprint.record_bytes(config) / GB)} GB of a step's records"
    )
    disk = room.of_run(config, setup.student, Path("nothing is there")).parts
    yield (
        f"disk: {math.ceil(config.steps / every)} checkpoints, {digits(disk['checkpoints'] / GB)} GB at a time and "
        f"{digits(disk['export'] / GB)} GB of export; a checkpoint takes {digits(saved / DISK)} s at an assumed "
        f"{DISK / GB:g} GB/s, while the next step samples"
    )


def _time(setup: Setup, on: Devices) -> Iterator[str]:
    longest, shorter = forecast.stages(setup, 1.0), forecast.stages(setup, SHORT)
    precision, s = setup.config.precision, on.shares
    totals = [sum(stage.seconds(on, precision) for stage in stages) for stages in (longest, shorter)]
    unit, size = ("hours", 3600) if totals[0] > 3 * 3600 else ("minutes", 60)
    yield ""
    yield (
        f"{'each time':24s}{'times':>7s}{'PFLOP':>11s}{'GB read*':>14s}{'GB linked*':>12s}{'seconds':>10s}{unit:>10s}"
        f"{f'{unit} at {SHORT:g}':>16s}"
    )
    for stage, less in zip(longest, shorter, strict=True):
        seconds = stage.seconds(on, precision)
        yield (
            f"{stage.name:24s}{stage.times:7.0f}{digits(stage.flops * on.count / 1e15):>11s}"
            f"{digits(stage.read / GB):>14s}{digits(stage.link / GB):>12s}"
            f"{digits(seconds / stage.times):>10s}{digits(seconds / size):>10s}"
            f"{digits(less.seconds(on, precision) / size):>16s}"
        )
    whole, part = (f"{digits(t / size)} {unit}, {digits(on.count * t / 3600)} device-hours" for t in totals)
    yield f"together {whole} with the longest prompts and responses; at {SHORT:g} of that length {part}"
    yield "  a rollout's cache is counted as it grows, half of the response on average; rows at unlike places read all"
    yield (
        f"* of one device. An estimate, not checked on such devices, at assumed shares of their peaks: training "
        f"{s.training:g}, scoring {s.scoring:g},"
    )
    yield (
        f"  decoding {s.decoding:g}, memory {s.bandwidth:g}, link {s.link:g}; compiling, reading and saving weights "
        "come on top"
    )
