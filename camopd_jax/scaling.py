"""What a plan predicts for the same run on more and more devices."""

import runpy
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from camopd_jax import advice, chips, forecast

STAGES = {"recover, a rollout": "rollout", "recover, its scores": "scores", "recover, an update": "update"}


@dataclass(frozen=True)
class Point:
    """One step of the recovery on one set of devices."""

    chip: str
    count: int
    mesh: tuple[int, ...]
    rows: int  # rollout.rows_at_once
    waves: int
    seconds: dict[str, float]  # by STAGES' values
    linked: float  # share of these seconds in which bytes of other devices are waited for
    tokens: float  # of responses, a second of a step

    def line(self) -> str:
        mesh = " x ".join(map(str, self.mesh))
        figures = "".join(f"{advice.digits(s):>12s}" for s in self.seconds.values())
        return (
            f"{mesh:>14s} {self.rows:14d} {self.waves:7d}  {figures}{advice.digits(self.tokens):>10s}{self.linked:8.0%}"
        )


def config_of(file: Path, preset: str) -> ConfigDict:
    return runpy.run_path(str(file))["get_config"](preset)


def best(config: ConfigDict, devices: str) -> Point | None:
    """The fastest mesh that fits, each with as many rows at once as fit it; None: none fits.

    Raises:
      ValueError: if the devices have no such name.
    """
    on = chips.parse(devices)
    room, found = advice.USABLE * on.chip.memory, []
    small = config.copy_and_resolve_references()
    small.update_from_flattened_dict({"rollout.rows_at_once": 1, "mesh.replica": 1, "mesh.fsdp": -1, "mesh.tensor": 1})
    for tensor in (t for t in advice.TENSOR if on.count % t == 0):
        small.mesh.tensor = tensor
        try:
            start = advice.resolve(small, on.count)
        except ValueError:  # it does not divide rows or weights
            continue
        break
    else:
        return None
    for setup in advice.meshes(start, on):
        rows = advice.most_rows(setup, room)
        setup = advice.changed(setup, {"rollout.rows_at_once": rows})
        found.append((advice.hours(setup, on), setup))
    if not found:
        return None
    setup = min(found, key=lambda pair: pair[0])[1]
    precision, rollout = config.precision, config.rollout
    stages = [s for s in forecast.stages(setup, 1.0) if s.name in STAGES]
    seconds = {STAGES[s.name]: s.seconds(on, precision) / s.times for s in stages}
    alone = sum(w.seconds(on, precision) - w.waiting(on) for s in stages for w in s.work)
    whole = sum(seconds.values())
    rows = setup.config.rollout.rows_at_once
    mesh, waves = tuple(setup.mesh.shape.values()), forecast.waves(rollout.batch_size, rows)
    tokens = rollout.batch_size * rollout.max_new_tokens / whole
    return Point(on.chip.name, on.count, mesh, rows, waves, seconds, 1 - alone / whole, tokens)


def draw(found: dict[tuple[str, str], list[Point]], out: Path) -> None:
    """Tokens a second against devices, both on logarithmic axes; dashed: in proportion to the first point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    models = list(dict.fromkeys(model for model, _ in found))
    for place, model in enumerate(models):
        axes = figure.add_subplot(1, len(models), place + 1)
        for (of, chip), points in found.items():
            if of == model:
                counts, tokens = [p.count for p in points], [p.tokens for p in points]
                (line,) = axes.plot(counts, tokens, "o-", label=chip)
                axes.plot(counts, [tokens[0] * n / counts[0] for n in counts], "--", color=line.get_color(), alpha=0.4)
        axes.set(xscale="log", yscale="log", xlabel="devices", title=model)
        axes.set_ylabel("response tokens a second, whole step (predicted)" if place == 0 else "")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(out, dpi=110)
