"""The answers of a file that an evaluation left, each with its question again."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from camopd_jax.distraction import benchmark
from camopd_jax.distraction.instance import CONTROLS, PARADIGMS, Instance
from camopd_jax.distraction.questions import Question

_OWN = re.compile(r"(dev|test)-(short|full)-(\d+)-(\d{5})")


def read(path: Path, instances: Sequence[Instance] | None) -> list[tuple[Question, str]]:
    """Question and answer of each row (`questions.judged`), in the order of the file.

    Args:
      instances: those that were asked; None: made again by the benchmark, whose ids say how.

    Raises:
      ValueError: one line with FILE:LINE: a row is damaged, has no answer, or is of an instance that is not there.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8; allowed are the answers of an evaluation") from None
    except OSError as error:
        raise ValueError(f"{path}: it cannot be read ({error.strerror or error})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append((f"{path}:{number}", _row(line, f"{path}:{number}")))
    known = {x.id: x for x in instances} if instances is not None else _made(r["instance"] for _, r in rows)
    for where, row in rows:
        if row["instance"] not in known:
            raise ValueError(f"{where}: instance {row['instance']!r} is not among the instances; give its file")
    return [(Question(known[r["instance"]], r["paradigm"], r["control"]), r["answer"]) for _, r in rows]


def _row(line: str, where: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    needed = ("instance", "paradigm", "control", "answer")
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in needed):
        raise ValueError(f"{where}: no row of answers; needed are {', '.join(needed)}, each a text")
    if row["paradigm"] not in PARADIGMS or row["control"] not in CONTROLS:
        raise ValueError(f"{where}: paradigm {row['paradigm']!r} and control {row['control']!r} are not both known")
    return row


def _made(ids) -> dict[str, Instance]:
    """Those of these ids that are the benchmark's own."""
    most: dict[tuple[str, str, int], int] = {}
    for match in filter(None, map(_OWN.fullmatch, set(ids))):
        split, level, seed, number = match[1], match[2], int(match[3]), int(match[4])
        most[split, level, seed] = max(most.get((split, level, seed), 0), number + 1)
    made = [x for (split, level, seed), n in most.items() for x in benchmark.make(split, n, seed, level)]
    return {x.id: x for x in made}
