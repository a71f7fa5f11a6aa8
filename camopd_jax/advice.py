"""What to change in a planned run so that it fits its devices, or goes faster."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from camopd_jax import footprint, forecast, inputs, rules, sharding
from camopd_jax.chips import Devices
from camopd_jax.footprint import Setup
from camopd_jax.models import known
from camopd_jax.phases import of_recovery

USABLE = 0.9  # of a device's memory; the rest is for the runtime, fragments, and what the formulas do not see
WORTH = 0.9  # another mesh is named where it takes at most this share of the time
MOST = 1024  # devices that advice goes up to
TENSOR = (1, 2, 4, 8)  # sizes of that axis that advice tries


def resolve(config: ConfigDict, count: int) -> Setup:
    """Architectures and mesh of a config on so many devices.

    Raises:
      ValueError: if a source is unknown, the mesh does not divide rows or weights, or lengths or vocabularies differ.
    """
    return _setup(config, count, checked=True)


def _setup(config: ConfigDict, count: int, checked: bool) -> Setup:
    mesh = sharding.abstract_mesh(**config.mesh, devices=count)
    rules.check_devices(config, sharding.data_shards(mesh))
    base, made = footprint.base_source(config), rules.SPECIALISE
    sources = {name: config.teachers[name] for name in rules.branches(config)}
    teachers = {name: known.architecture(base if s == made else s) for name, s in sources.items()}
    for name, source in sources.items():
        if checked and source != made:  # that one has the architecture of its base, which is a teacher too
            inputs.check_architecture(config, mesh, name, source, teachers[name], inputs.longest_response(config))
    student = inputs.with_adapter(config, known.architecture(base))
    for cfg in (student, *teachers.values()):
        footprint.elements(cfg, mesh)  # the mesh must divide them
    return Setup(config, mesh, student, teachers)


def lines(setup: Setup, on: Devices) -> Iterator[str]:
    """What to change so that a run fits, or goes faster."""
    yield ""
    room = USABLE * on.chip.memory
    if not fits(setup, room):
        changes = changes_that_fit(setup, room)
        if changes:
            yield f"To make it fit: {_flags(changes)}"
        else:
            number, changes = _more_devices(setup, room)
            more = (
                f"; on {number} of these devices: {_flags(changes)}"
                if number
                else " here; shorten rollout.max_new_tokens and micro.width"
            )
            yield f"No smaller rows, micro-batches or numbers make it fit{more}"
    rows = most_rows(setup, room)
    batch = setup.config.rollout.batch_size
    yield (
        f"The largest rollout.rows_at_once that fits: {rows}, so that {batch} prompts take {count(batch, rows)}"
        if rows
        else "No rollout.rows_at_once fits: the rest of a rollout is too large already"
    )
    faster = _faster_mesh(setup, on)
    if faster:
        changes, hours = faster
        yield f"Faster: {_flags(changes)}, for a recovery of {digits(hours[1])} instead of {digits(hours[0])} hours"
    if on.chip.near:
        yield f"JAX takes 75% of a GPU's memory by itself: set XLA_PYTHON_CLIENT_MEM_FRACTION={USABLE + 0.02:g}"


def count(prompts: int, at_once: int) -> str:
    """In words, how often the rows that are decoded together are filled."""
    waves = forecast.waves(prompts, at_once)
    return f"{waves} waves" if waves > 1 else "one wave"


def fits(setup: Setup, room: float) -> bool:
    """Whether no phase holds more bytes on a device than there are."""
    return max(phase.total for phase in of_recovery(setup)) <= room


def most_rows(setup: Setup, room: float) -> int:
    """The largest rollout.rows_at_once with which the rollouts fit; 0: none does."""

    def rollouts_fit(rows: int) -> bool:
        phases = of_recovery(changed(setup, {"rollout.rows_at_once": rows}))
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
        if fits(changed(setup, changes), room):
            break
    else:
        return {}
    for key in [key for key in changes if not key.startswith("mesh.")]:
        fewer = {k: v for k, v in changes.items() if k != key}
        if fits(changed(setup, fewer), room):
            changes = fewer
    return changes


def _most_evaluated(setup: Setup, room: float) -> int:
    rows = setup.config.eval.batch_size
    while rows > setup.shards and of_recovery(changed(setup, {"eval.batch_size": rows}))[-1].total > room:
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
                more = changed(setup, changes, count)
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
    now = hours(setup, on)
    best = min(((hours(other, on), other) for other in meshes(setup, on)), key=lambda pair: pair[0], default=None)
    if best is None or best[0] > WORTH * now:
        return None
    sizes = {f"mesh.{axis}": size for axis, size in setup.mesh.shape.items()}
    changes = {f"mesh.{axis}": size for axis, size in best[1].mesh.shape.items() if sizes[f"mesh.{axis}"] != size}
    return changes, (now, best[0])


def hours(setup: Setup, on: Devices) -> float:
    """Of the recovery, evaluations aside, with the longest prompts and responses."""
    stages = [s for s in forecast.stages(setup, 1.0) if s.name.startswith("recover")]
    return sum(s.seconds(on, setup.config.precision) for s in stages) / 3600


def meshes(setup: Setup, on: Devices) -> Iterator[Setup]:
    """The same run on every other mesh of these devices that divides its rows and weights, and on which it fits."""
    for tensor in TENSOR:
        for replica in (1, 2, 4, 8, 16):
            if setup.student.kv_heads % tensor or on.count % (tensor * replica):
                continue
            mesh = {"mesh.replica": replica, "mesh.fsdp": on.count // (tensor * replica), "mesh.tensor": tensor}
            try:
                other = changed(setup, mesh)
            except ValueError:  # it does not divide rows or weights
                continue
            if fits(other, USABLE * on.chip.memory):
                yield other


def changed(setup: Setup, values: dict, count: int | None = None) -> Setup:
    config = setup.config.copy_and_resolve_references()
    config.update_from_flattened_dict(values)
    return _setup(config, count or setup.mesh.size, checked=False)  # slow, and these keys shorten no model


def _value(config: ConfigDict, key: str):
    for part in key.split("."):
        config = config[part]
    return config


def _flags(changes: dict) -> str:
    return " ".join(f"--config.{key}={value}" for key, value in changes.items())


def digits(x: float) -> str:
    """Three digits, without an exponent where that is readable."""
    return "-" if x == 0 else f"{x:.3g}" if x < 1000 else f"{x:,.0f}"
