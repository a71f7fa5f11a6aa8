"""The sections of report.html: what those of every kind of run share.

A page is a list of sections. Each has an id, a title, the name of the function that draws it (RENDERERS of
assets/report/main.js) out of the page's data, and why it is left out, if it is.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from camopd_jax import metrics

STAGES = ("rollout", "score", "update")
STEP = {"step", "branch", "seconds", "selected", "batch", "response_tokens"}  # of every line of metrics.jsonl
EVALUATION = {"step", "model", "task", "metric", "value", "n", "stderr"}  # of every line of eval.jsonl


def section(name: str, title: str, draw: str, absent: str | None) -> dict:
    """A section of the page; `absent` says why it is left out, None: it is there."""
    return {"id": name, "title": title, "draw": draw, "absent": absent}


def lines(workdir: Path, needed: Mapping[str, set[str]]) -> dict[str, list[dict]]:
    """The rows of files of a workdir, by the file's name without its ending; [] where there is none.

    Args:
      needed: keys that every line of a file has.

    Raises:
      ValueError: if a file is damaged, or lacks a key.
    """
    return {name.removesuffix(".jsonl"): _rows(workdir / name, keys) for name, keys in needed.items()}


def _rows(path: Path, needed: set[str]) -> list[dict]:
    try:
        rows = metrics.read_jsonl(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete the line that is no JSON") from None
    for number, row in enumerate(rows, 1):
        lacks = sorted(needed - row.keys())
        if lacks:
            raise ValueError(f"{path}:{number} has no {', '.join(lacks)}: not what a run of this version writes")
    return rows


def rounded(x):
    """Five digits of every number of a JSON value; None for what is not finite, which JSON does not have."""
    if isinstance(x, float):
        return float(f"{x:.5g}") if math.isfinite(x) else None
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    return [rounded(value) for value in x] if isinstance(x, list) else x


def flat(tree: dict, prefix: str) -> Iterator[list[str]]:
    """[dotted key, value as JSON] of each leaf."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield [prefix + key, json.dumps(value, ensure_ascii=False)]


def cells(markdown: str) -> list[list[str]]:
    """The rows of a Markdown table, the head first."""
    head, _, *rows = (line.strip("| ").split(" | ") for line in markdown.splitlines())
    return [head, *rows]


def facts_of(run: Mapping, steps: Sequence[dict], selected: str) -> list[list[str]]:
    """[name, words] of what the steps of a run were and cost; `selected` names the responses that train."""
    sampled = sum(row["response_tokens"] for row in steps)
    trained = sum(row.get("trained_tokens", 0) for row in steps)  # a step whose scores are all 0 trains nothing
    facts = [["Preset", run["title"]], ["Seed", str(run["seed"])], ["Steps", f"{len(steps)} of {run['steps']}"]]
    if steps:
        seconds, chosen, batch = (sum(row[key] for row in steps) for key in ("seconds", "selected", "batch"))
        facts += [
            ["Time in the steps", f"{duration(seconds)}, {seconds / len(steps):.1f} s a step"],
            ["Tokens sampled", f"{sampled:,}"],
            ["Tokens trained", f"{trained:,} ({100 * trained / max(sampled, 1):.0f} %)"],
            [selected, f"{chosen:,} of {batch:,} ({100 * chosen / max(batch, 1):.0f} %)"],
        ]
    devices = run["devices"]
    facts.append(["Devices", f"{len(devices)} ({', '.join(devices[:2])}{', …' if len(devices) > 2 else ''})"])
    return facts


def stages_of(steps: Sequence[dict]) -> list[list]:
    """[stage, seconds] of the steps of a run."""
    stages = [[s, sum(row.get(f"seconds_{s}", 0) for row in steps)] for s in STAGES]  # off-policy: nothing is sampled
    left = sum(row["seconds"] for row in steps) - sum(spent for _, spent in stages)
    return [*stages, ["other", max(left, 0)]]


def duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60:.0f} s" if minutes else f"{seconds:.1f} s"


def side_by_side(
    entries: Sequence[tuple[tuple, str, dict, list]], before: str, after: str
) -> tuple[list[str], list[dict]]:
    """The models, and the answers by question: {..., "answers", "change"}.

    A question's answers are in the order of the models, None where there is none; its change from `before` to `after`
    is fixed, broken, same, or "" where one is not there.

    Args:
      entries: of each answer what names its question, its model, what the page says of the question, and [text,
        whether it passes, ...].
    """
    models = list(dict.fromkeys(model for _, model, _, _ in entries))
    items: dict[tuple, dict] = {}
    for name, model, told, answer in entries:
        item = items.setdefault(name, told | {"answers": [None] * len(models)})
        item["answers"][models.index(model)] = answer
    ends = [models.index(m) if m in models else None for m in (before, after)]
    return models, [item | {"change": _change(item["answers"], *ends)} for item in items.values()]


def _change(given: list, before: int | None, after: int | None) -> str:
    if before is None or after is None or not (given[before] and given[after]):
        return ""
    was, now = given[before][1], given[after][1]
    return "same" if was == now else "fixed" if now else "broken"
