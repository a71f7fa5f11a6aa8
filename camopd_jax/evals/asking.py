"""Put questions to a model and keep its judged answers as they come: what was answered is not asked again."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from camopd_jax import metrics

ANSWERS, SETTING = "answers.jsonl", "setting.json"


class Question(Protocol):
    """What a model is asked."""

    @property
    def id(self) -> str: ...

    @property
    def messages(self) -> list[dict]: ...


class Said(NamedTuple):
    """What a model answered."""

    text: str
    cut: bool  # at the limit of tokens, rather than ended by itself


# Answers in parts, as they come: of all the questions, in any order.
Answer = Callable[[Sequence[Question]], Iterable[list[tuple[Question, Said]]]]


def prepare(out: Path, setting: Mapping[str, object]) -> None:
    """Make the directory of an evaluation, or see that the one that is there is of the same setting.

    Raises:
      ValueError: if it is of another setting (which key, before and now), or holds something else.
    """
    file = out / SETTING
    if not file.is_file():
        if out.exists() and (not out.is_dir() or any(p.name != "lock" for p in out.iterdir())):
            raise ValueError(f"--out={out}: is there already, and no evaluation by this program; give another name")
        out.mkdir(parents=True, exist_ok=True)
        metrics.write_json(file, dict(setting), indent=2)
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{file} is damaged; give another --out") from None
    for key, now in setting.items():
        if key != "model" and before.get(key) != now:  # a directory that was moved is the same model
            raise ValueError(
                f"--out={out} holds the answers of another evaluation: {key} was {before.get(key)!r} and is {now!r}; "
                "allowed are the same, which goes on, and another --out"
            )


def answered(out: Path) -> list[dict]:
    """The rows that are kept; raises as `whole`."""
    return whole(out / ANSWERS, ("id", "passed"), "delete the line, and its question is asked again")


def whole(file: Path, names: Sequence[str], then: str) -> list[dict]:
    """The rows of a file of JSON lines, if it is there; one that was cut short by a kill is left out.

    Args:
      names: that each row has; then: what to do where one is damaged.

    Raises:
      ValueError: if a line before the last is damaged.
    """
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not all(name in row for name in names):
            raise ValueError(f"{file}:{number} is damaged; {then}")
        rows.append(row)
    return rows


def append(file: Path, rows: Iterable[Mapping]) -> None:
    """Add rows to a file of JSON lines; on the disk when this returns."""
    with file.open("ab") as opened:
        opened.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        opened.flush()
        os.fsync(opened.fileno())


def ask(
    questions: Sequence[Question], answer: Answer, judged: Callable[[Question, str], dict], out: Path, keep_text: bool
) -> list[dict]:
    """The rows of all questions, each as `judged` makes it, with "cut"; those that `out` has are not asked.

    Args:
      judged: the row of an answer, with "id", "answer" and whether it "passed".
      keep_text: whether rows have the text of the answer, or "" in its place.
    """
    rows = {row["id"]: row for row in answered(out)}
    missing = [q for q in questions if q.id not in rows]
    print(f"{len(questions):,} questions, {len(questions) - len(missing):,} of them answered already", flush=True)
    if not missing:
        return [rows[q.id] for q in questions]
    metrics.write_jsonl(out / ANSWERS, list(rows.values()))  # without a last line that was cut short
    progress = metrics.Progress("answering", len(questions), len(questions) - len(missing))
    for part in answer(missing):
        new = [judged(question, said.text) | {"cut": said.cut} for question, said in part]
        new = new if keep_text else [row | {"answer": ""} for row in new]
        append(out / ANSWERS, new)
        rows |= {row["id"]: row for row in new}
        progress.show(len(rows), f"right so far {sum(row['passed'] for row in rows.values()) / len(rows):.3f}")
    progress.close()
    return [rows[q.id] for q in questions]
