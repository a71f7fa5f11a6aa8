"""A grid of runs: its cells and seeds, the flags of each run, and the record that keeps them together."""

import difflib
import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from camopd_jax import metrics, rules, workdirs
from camopd_jax.camopd.methods import METHODS

RECORD = "experiment.json"
FINISHED = "evaluation.json"  # the last file that a run writes
SWEEP = (  # the paper's: general steps for one domain step, factor on the general credit, rho of both branches
    *((3, 2.0, 0.8), (1, 2.0, 0.8), (5, 2.0, 0.8)),
    *((3, 1.0, 0.6), (3, 1.0, 0.8), (3, 2.0, 0.6), (3, 3.0, 0.6), (3, 3.0, 0.8)),
)


@dataclass(frozen=True)
class Cell:
    """A variant of the base config."""

    name: str
    kind: str  # "method" or "sweep"
    overrides: dict[str, Any]  # config key -> value


@dataclass(frozen=True)
class Grid:
    """Cells x seeds over one base config."""

    config: str  # as --config names it
    overrides: dict[str, Any]  # of the base config, from the command line
    base: dict[str, Any]  # the base config, resolved
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]

    def runs(self) -> list[tuple[Cell, int]]:
        """All cells of one seed before the next seed, so that a part of the grid compares them already."""
        return [(cell, seed) for seed in self.seeds for cell in self.cells]


def method_cells(names: list[str]) -> tuple[Cell, ...]:
    """A cell a method of recovery.

    Raises:
      ValueError: for a name that is unknown or stands twice.
    """
    if not names:
        raise ValueError(f"--methods is empty: allowed are {', '.join(METHODS)}")
    for name in names:
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"--methods: there is no method {name!r}{meant} Allowed are {', '.join(METHODS)}")
    _once("--methods", names)
    return tuple(Cell(name, "method", {"camopd.method": name}) for name in names)


def sweep_cells(config: ConfigDict) -> tuple[Cell, ...]:
    """The paper's sweep: the cycle at its r and rho, and r and rho at its cycle; the paper's choice comes first.

    Raises:
      ValueError: if the config has more than one domain.
    """
    names = rules.branches(config)
    if len(names) != 2:
        raise ValueError(f"--sweep: the config has the teachers {', '.join(names)}; allowed are general and one other")
    return tuple(
        Cell(
            f"{n}-1_r{r:g}_rho{rho:g}",
            "sweep",
            {"camopd.cycle": ("general",) * n + (names[1],), "camopd.scale.general": r}
            | {f"camopd.rho.{name}": rho for name in names},
        )
        for n, r, rho in SWEEP
    )


def seeds(words: list[str]) -> tuple[int, ...]:
    """The seeds of --seeds=0,1,2.

    Raises:
      ValueError: unless they are whole numbers, 0 or more, at least one, each once.
    """
    if not words:
        raise ValueError("--seeds is empty: allowed are whole numbers, such as --seeds=0,1,2")
    for word in words:
        if not word.isdecimal():
            raise ValueError(f"--seeds: {word!r}: allowed are whole numbers, 0 or more, such as --seeds=0,1,2")
    numbers = [int(word) for word in words]
    _once("--seeds", numbers)
    return tuple(numbers)


def make(name: str, overrides: dict[str, Any], config: ConfigDict, cells: tuple[Cell, ...], numbers: tuple) -> Grid:
    """The grid of a config as the command line gives it.

    Raises:
      ValueError: where the command line sets what cells or seeds set.
    """
    for cell in cells:
        for key in overrides.keys() & {*cell.overrides, "seed"}:
            by = "--seeds" if key == "seed" else "--methods" if cell.kind == "method" else "--sweep"
            raise ValueError(f"--config.{key}={overrides[key]}: {by} sets it in an experiment; leave it out")
    return Grid(name, overrides, plain(config.to_dict()), cells, numbers)


def configured(config: ConfigDict, cell: Cell, seed: int) -> ConfigDict:
    """The config of one run.

    Raises:
      ValueError: if the base config lacks a key of the cell.
    """
    changed = ConfigDict(config.to_dict())
    for key, value in (cell.overrides | {"seed": seed}).items():
        *sections, last = key.split(".")
        place = changed
        for section in sections:
            place = place.get(section, ConfigDict())
        if last not in place:
            raise ValueError(f"config.{key} is missing: {cell.name} sets it")
        place[last] = value
    return changed


def workdir(out: Path, cell: Cell, seed: int) -> Path:
    return out / cell.name / f"seed{seed}"


def finished(out: Path, cell: Cell, seed: int) -> bool:
    return (workdir(out, cell, seed) / FINISHED).is_file()


def flags(grid: Grid, out: Path, cell: Cell, seed: int) -> list[str]:
    """What bin/train.py is called with."""
    values = grid.overrides | cell.overrides | {"seed": seed}
    return [f"--config={grid.config}", f"--workdir={workdir(out, cell, seed)}", *map(_flag, values, values.values())]


def commands(grid: Grid, out: Path) -> list[str]:
    """The commands that make the grid: of its methods, and of its sweep."""
    kinds = {cell.kind for cell in grid.cells}
    methods = ",".join(cell.name for cell in grid.cells if cell.kind == "method")
    what = [f"--methods={methods}"] * ("method" in kinds) + ["--sweep"] * ("sweep" in kinds)
    tail = [f"--seeds={','.join(map(str, grid.seeds))}", *map(_flag, grid.overrides, grid.overrides.values())]
    head = ["python", "bin/experiment.py", f"--config={grid.config}", f"--out={out}"]
    return [shlex.join([*head, word, *tail]) for word in what]


def check(grid: Grid, config: ConfigDict, out: Path, check_config: Callable[[ConfigDict], int]) -> None:
    """Validate the config of every cell and the workdir of every run, before the first one starts.

    Raises:
      ValueError: that begins with the cell's name.
    """
    workdirs.check_writable(f"--out={out}", out)
    for cell, seed in grid.runs():
        try:
            changed = configured(config, cell, seed)
            check_config(changed)
            workdirs.check_workdir(changed, workdir(out, cell, seed), ())
        except ValueError as error:
            raise ValueError(f"{cell.name}, seed {seed}: {error}") from None


def read(out: Path) -> Grid:
    """The grid that a directory holds.

    Raises:
      ValueError: if it holds none.
    """
    path = out / RECORD
    if not path.is_file():
        raise ValueError(f"--out={out}: there is no {RECORD} in it; allowed is the --out of an experiment")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        cells = tuple(Cell(c["name"], c["kind"], _tuples(c["overrides"])) for c in record["cells"])
        return Grid(record["config"], _tuples(record["overrides"]), record["base"], cells, tuple(record["seeds"]))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no record of an experiment ({error}); give another --out") from None


def joined(grid: Grid, out: Path) -> Grid:
    """The grid and what the directory holds already: cells and seeds may be added, the base config may not change.

    Raises:
      ValueError: naming the first key that differs.
    """
    if not (out / RECORD).exists():
        return grid
    before = read(out)
    was, now = dict(workdirs.flat(before.base)), dict(workdirs.flat(grid.base))
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            raise ValueError(
                f"config.{key} = {now.get(key)!r}: the experiment in {out} was made with {was.get(key)!r}; set it "
                "back, or give another --out"
            )
    cells = {cell.name: cell for cell in before.cells}
    for cell in grid.cells:
        if plain(cells.setdefault(cell.name, cell).overrides) != plain(cell.overrides):
            raise ValueError(f"--out={out}: {cell.name} is another cell there; give another --out")
    numbers = dict.fromkeys((*before.seeds, *grid.seeds))
    return Grid(grid.config, grid.overrides, grid.base, tuple(cells.values()), tuple(numbers))


def write(grid: Grid, out: Path) -> None:
    """Put the record in its place, whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    record = asdict(grid) | {"commands": commands(grid, out)}
    metrics.write_json(out / RECORD, record, indent=2)


def plain(tree: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(tree))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Values of config keys as they were before JSON."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _flag(key: str, value: Any) -> str:
    return f"--config.{key}={value}"


def _once(flag: str, values: list) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{flag}: {value} stands there twice; allowed is once")
