"""Put questions to a model and keep its judged answers as they come: what was answered is not asked again."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from camopd_jax import metrics
from camopd_jax.distraction.questions import Question, judged

ANSWERS, SETTING = "answers.jsonl", "setting.json"


class Said(NamedTuple):
    """What a model answered."""

    text: str
    cut: bool  # at the limit of tokens, rather than ended by itself


# Answers in parts, as they come: of all the questions, in any order.
Answer = Callable[[Sequence[Question]], Iterable[list[tuple[Question, Said]]]]


def digest(questions: Sequence[Question]) -> str:
    """Sixteen hex digits of what is asked, of how it is judged, and of the two outputs that are known."""
    found = hashlib.sha256()
    for question in questions:
        x = question.instance
        found.update(json.dumps([question.id, question.messages, x.rubric, x.gold, x.bad]).encode())
    return found.hexdigest()[:16]


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
    """The rows that are kept; one that was cut short by a kill is left out.

    Raises:
      ValueError: if a line before the last is damaged.
    """
    file = out / ANSWERS
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or "id" not in row or "passed" not in row:
            raise ValueError(f"{file}:{number} is damaged; delete the line, and its question is asked again")
        rows.append(row)
    return rows


def ask(questions: Sequence[Question], answer: Answer, out: Path, keep_text: bool) -> list[dict]:
    """The rows of all questions (`questions.judged`, with "cut"); those that `out` has are not asked.

    Args:
      keep_text: whether rows have the text of the answer, or "" in its place.
    """
    rows = {row["id"]: row for row in answered(out)}
    missing = [q for q in questions if q.id not in rows]
    print(f"{len(questions):,} questions, {len(questions) - len(missing):,} of them answered already", flush=True)
    if not missing:
        return [rows[q.id] for q in questions]
    metrics.write_jsonl(out / ANSWERS, list(rows.values()))  # without a last line that was cut short
    progress = metrics.Progress("answering", len(questions), len(questions) - len(missing))
    with (out / ANSWERS).open("ab") as file:
        for part in answer(missing):
            new = [judged(question, said.text) | {"cut": said.cut} for question, said in part]
            new = new if keep_text else [row | {"answer": ""} for row in new]
            file.write("".join(json.dumps(row) + "\n" for row in new).encode())
            file.flush()
            os.fsync(file.fileno())
            rows |= {row["id"]: row for row in new}
            progress.show(len(rows), f"right so far {sum(row['passed'] for row in rows.values()) / len(rows):.3f}")
    progress.close()
    return [rows[q.id] for q in questions]
