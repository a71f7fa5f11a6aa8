"""Instances as JSONL, one object a line; docs/distractionif.md has the schema."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from camopd_jax.distraction.content import CATEGORIES, LEVELS, SPLITS
from camopd_jax.distraction.instance import Instance, validate

_ONE_OF = {"split": SPLITS, "level": LEVELS, "category": CATEGORIES}
_TEXTS = ("id", "template", "genre", "instruction", "text", "text_clean", "gold", "bad")
_TRIPLES = ("patterns", "families", "places", "requests")
_FIELDS = tuple(field.name for field in dataclasses.fields(Instance))


def write(path: str | Path, instances: Sequence[Instance]) -> None:
    """Write instances to a file, whose bytes depend on them alone."""
    rows = [json.dumps(dataclasses.asdict(x), ensure_ascii=False) + "\n" for x in instances]
    Path(path).write_bytes("".join(rows).encode("utf-8"))


def read(path: str | Path) -> list[Instance]:
    """The instances of a file, each checked and sound.

    Raises:
      ValueError: one line that says where and what is wrong, and what is allowed: no such file, not UTF-8, not JSON,
        a field that is missing, unknown or of a wrong type, an id twice, an unknown check, or an instance whose gold
        output fails, whose bad output passes, or whose single obedience fails another criterion than its own.
    """
    path = Path(path)
    try:
        rows = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ValueError(f"{path}: it cannot be read ({error.strerror or error})") from error
    instances: dict[str, Instance] = {}
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        where = f"{path}:{number}"
        found = _instance(_row(row, where), where)
        if found.id in instances:
            raise ValueError(f"{where}: id {found.id!r} is that of an earlier line; each instance has its own")
        instances[found.id] = found
    if not instances:
        raise ValueError(f"{path}: it has no instances; at least one line is needed")
    return list(instances.values())


def _row(line: bytes, where: str) -> dict:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte {error.start} of the line); allowed is UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({str(error).splitlines()[0]}); allowed is one object a line") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not an object; allowed is one object a line with {', '.join(_FIELDS)}")
    return row


def _instance(row: dict, where: str) -> Instance:
    if missing := [name for name in _FIELDS if name not in row]:
        raise ValueError(f"{where}: {', '.join(missing)} missing; needed are {', '.join(_FIELDS)}")
    if unknown := sorted(set(row) - set(_FIELDS)):
        raise ValueError(f"{where}: unknown field {', '.join(unknown)}; allowed are {', '.join(_FIELDS)}")
    for name, allowed in _ONE_OF.items():
        if row[name] not in allowed:
            raise ValueError(f"{where}: {name} is {row[name]!r}; allowed are {', '.join(allowed)}")
    for name in _TEXTS:
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{where}: {name} is {row[name]!r}; allowed is a text that is not empty")
    for name in _TRIPLES:
        value = row[name]
        if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, str) and v for v in value):
            raise ValueError(f"{where}: {name} is {value!r}; allowed is a list of three texts")
    if not isinstance(row["instruction_first"], bool):
        raise ValueError(f"{where}: instruction_first is {row['instruction_first']!r}; allowed is true or false")
    _check_positions(row["positions"], len(row["text"]), where)
    _check_rubric(row["rubric"], where)
    triples = {name: tuple(row[name]) for name in _TRIPLES}
    found = Instance(**{**row, **triples, "positions": tuple(map(tuple, row["positions"]))})
    try:
        faults = validate(found)
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:  # of arguments
        raise ValueError(f"{where}: its rubric cannot be applied ({str(error).splitlines()[0]})") from error
    if faults:
        raise ValueError(f"{where}: {faults[0]}; each distractor that is obeyed has to fail its own criterion alone")
    return found


def _check_positions(value: object, length: int, where: str) -> None:
    pairs = isinstance(value, list) and len(value) == 3 and all(isinstance(p, list) and len(p) == 2 for p in value)
    flat = [n for pair in value for n in pair] if pairs else []
    ordered = pairs and all(type(n) is int for n in flat) and flat == sorted(set(flat))
    if not ordered or flat[0] < 0 or flat[-1] > length:
        raise ValueError(f"{where}: positions is {value!r}; allowed are three [start, end] in the text, in order")


def _check_rubric(rubric: object, where: str) -> None:
    if not isinstance(rubric, dict) or set(rubric) != {"task", "form", "actions"}:
        raise ValueError(f"{where}: rubric is not an object of task, form and actions")
    for name, items in (("actions", rubric["actions"]), ("form", rubric["form"]), ("task", [rubric["task"]])):
        if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
            raise ValueError(f"{where}: rubric.{name} has something else than objects with a kind")
    if len(rubric["actions"]) != 3:
        raise ValueError(f"{where}: rubric.actions has {len(rubric['actions'])} objects; allowed are three")
