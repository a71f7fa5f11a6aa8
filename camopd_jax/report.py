"""report.html of a run: whether it worked, what it cost, examples and curves; one file that needs nothing else."""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from camopd_jax import guards, metrics, summary, verdict, workdirs

ASSETS = Path(__file__).parent / "assets" / "report"
SCRIPTS = ("dom.js", "filters.js", "chart.js", "heat.js", "overview.js", "curves.js", "diagnostics.js", "rollouts.js",
           "answers.js", "main.js")  # fmt: skip
STAGES = ("rollout", "score", "update")
NEEDED = {  # of every line of a file
    "metrics.jsonl": {"step", "branch", "branches", "seconds", "selected", "batch", "response_tokens"},
    "eval.jsonl": {"step", "model", "task", "metric", "value", "n", "stderr"},
    "rollouts.jsonl": {"step", "branch", "id", "prompt", "tokens", "student_logp", "teacher_logp", "weight", "score",
                       "selected", "ended"},
    "diagnostics.jsonl": {"step", "pairs", "branches", "gap_edges"},
    "answers.jsonl": {"task", "id", "prompt", "model", "answer", "passed"},
}  # fmt: skip
ABSENT = {  # why a section is left out
    "metrics": "metrics.jsonl has no step yet.",
    "evaluation": "There is no evaluation.json: it is written when a run is finished.",
    "diagnostics": "There is no diagnostics.jsonl: this run takes no diagnostics, or has not come to the first.",
    "rollouts": "There is no rollouts.jsonl: this run keeps no rollouts, or has not come to the first.",
    "answers": "There is no answers.jsonl: the held-out prompts are answered when a run is evaluated.",
}


def write(workdir: Path) -> Path:
    """Make report.html from the files of a workdir, also of a run that is going on; whole or not at all.

    Raises:
      ValueError: if the workdir is none, or a file of it is not what a run of this version writes.
    """
    if not (workdir / "config.json").exists():
        raise ValueError(f"{workdir} is not the workdir of a run: there is no config.json")
    path = workdir / "report.html"
    if path.is_dir():
        raise ValueError(f"{path} is a directory; move it away")
    metrics.put(path, page(content(workdir)))
    return path


def content(workdir: Path) -> dict:
    """All that the page shows, as JSON has it."""
    record = workdirs.read_record(workdir)
    if "grpo" in record["config"]:
        raise ValueError(f"{workdir} is a reinforcement run, which has summary.md and plots; allowed is a recovery")
    found = {name.removesuffix(".jsonl"): _rows(workdir / name) for name in NEEDED}
    held = [row for row in found["eval"] if row["metric"] == "short_reverse_kl"]
    path = workdir / "evaluation.json"
    evaluation = verdict.read(path) if path.exists() else None
    run = settings(record, workdir)
    if evaluation:
        words = verdict.of_evaluation(evaluation)
        tables = [summary.table(evaluation.models, evaluation.lines), summary.ratio_table(evaluation.ratios())]
    else:
        words, tables = verdict.going_on(found["metrics"], run["steps"], held), []
    return {
        "title": f"{run['title']}, seed {run['seed']}",
        "workdir": workdir.absolute().name,
        "verdict": words,
        "warnings": guards.summary(found["metrics"]),
        "cost": cost(found["metrics"], run),
        "tables": [cells(table) for table in tables],
        "clip_norm": rounded(run["clip_norm"]),
        "metrics": rounded(found["metrics"]),
        "held": rounded(held),
        "diagnostics": rounded(found["diagnostics"]),
        "rollouts": rounded(found["rollouts"]),
        "answers": answers(found["answers"], verdict.start_of(run["student"])),
        "record": list(flat(record, "")),
        "absent": {n: why for n, why in ABSENT.items() if not (tables if n == "evaluation" else found[n])},
    }


def settings(record: dict, workdir: Path) -> dict:
    """What the page says of a run's config.json."""
    try:
        c = record["config"]
        return {"title": f"{c['name']}:{c['preset']}", "seed": c["seed"], "steps": c["steps"], "student": c["student"],
                "method": c["camopd"]["method"], "clip_norm": c["optim"]["clip_norm"],
                "devices": record["devices"]}  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"{workdir}: config.json has no {error}: not what a run of this version writes") from None


def _rows(path: Path) -> list[dict]:
    try:
        rows = metrics.read_jsonl(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete the line that is no JSON") from None
    for number, row in enumerate(rows, 1):
        lacks = sorted(NEEDED[path.name] - row.keys())
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


def cost(steps: Sequence[dict], run: dict) -> dict:
    """{"facts": [[name, words]], "stages": [[name, seconds]]} of the steps of a run."""
    seconds, sampled = (sum(row[key] for row in steps) for key in ("seconds", "response_tokens"))
    trained = sum(row.get("trained_tokens", 0) for row in steps)  # a step whose scores are all 0 trains nothing
    stages = [[s, sum(row.get(f"seconds_{s}", 0) for row in steps)] for s in STAGES]  # off-policy: nothing is sampled
    stages.append(["other", max(seconds - sum(spent for _, spent in stages), 0)])
    facts = [["Method", run["method"]], ["Preset", run["title"]], ["Seed", str(run["seed"])],
             ["Steps", f"{len(steps)} of {run['steps']}"]]  # fmt: skip
    if steps:
        chosen, batch = (sum(row[key] for row in steps) for key in ("selected", "batch"))
        facts += [
            ["Time in the steps", f"{duration(seconds)}, {seconds / len(steps):.1f} s a step"],
            ["Tokens sampled", f"{sampled:,}"],
            ["Tokens trained", f"{trained:,} ({100 * trained / max(sampled, 1):.0f} %)"],
            ["Responses selected", f"{chosen:,} of {batch:,} ({100 * chosen / max(batch, 1):.0f} %)"],
        ]
    devices = run["devices"]
    facts.append(["Devices", f"{len(devices)} ({', '.join(devices[:2])}{', …' if len(devices) > 2 else ''})"])
    return {"facts": facts, "stages": stages}


def duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60:.0f} s" if minutes else f"{seconds:.1f} s"


def cells(markdown: str) -> list[list[str]]:
    """The rows of a Markdown table, the head first."""
    head, _, *rows = (line.strip("| ").split(" | ") for line in markdown.splitlines())
    return [head, *rows]


def answers(rows: Sequence[dict], start: str) -> dict:
    """The answers by prompt: {"models", "start", "after", "items": [{..., "answers", "change"}], "examples"}.

    An item's answers [text, passed] are in the order of the models, None where there is none; its change from start
    to recovered is fixed, broken, same, or "" where one is not there. Examples are the places of up to three items:
    those that were fixed come first, and among these those that the general teacher passes.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    items = {}
    for row in rows:
        empty = {key: row[key] for key in ("task", "id", "prompt")} | {"answers": [None] * len(models)}
        item = items.setdefault((row["task"], row["id"]), empty)
        item["answers"][models.index(row["model"])] = [row["answer"], row["passed"]]
    before, after = (models.index(m) if m in models else None for m in (start, verdict.AFTER))
    found = [item | {"change": _change(item["answers"], before, after)} for item in items.values()]

    def rank(i: int) -> tuple:
        teacher = found[i]["answers"][0]
        return found[i]["change"] != "fixed", not (teacher and teacher[1]), i

    examples = sorted((i for i, item in enumerate(found) if item["change"]), key=rank)[:3]
    shown = [i for i, m in enumerate(models) if verdict.is_teacher(m) or i == after]
    return {"models": models, "start": before, "after": after, "shown": shown, "items": found, "examples": examples}


def _change(given: list, before: int | None, after: int | None) -> str:
    if before is None or after is None or not (given[before] and given[after]):
        return ""
    was, now = given[before][1], given[after][1]
    return "same" if was == now else "fixed" if now else "broken"


def embedded(data) -> str:
    """JSON that can stand inside a script element: ASCII alone, and nothing that HTML reads as markup."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda m: f"\\u{ord(m[0]):04x}", text)


def page(data: dict) -> str:
    """The page that shows `content`."""
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; " \
             "base-uri 'none'; form-action 'none'"  # fmt: skip
    parts = {"title": html.escape(data["title"]), "policy": policy,
             "style": style, "script": script, "data": embedded(data)}  # fmt: skip
    template = (ASSETS / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], template)


def _hash(text: str) -> str:
    """The source expression of a Content Security Policy that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
