"""The sections of the report of a recovery run."""

from collections.abc import Sequence
from pathlib import Path

from camopd_jax import guards, sections, summary, verdict
from camopd_jax.sections import cells, rounded, section

NEEDED = {  # of every line of a file
    "metrics.jsonl": sections.STEP | {"branches"},
    "eval.jsonl": sections.EVALUATION,
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
RATIOS = (
    "Recovery is (after − start) / (teacher − start), retention after / start. The intervals are bootstrap intervals "
    "over held-out prompts: they do not cover another seed or other data."
)


def content(workdir: Path, record: dict) -> dict:
    """What the page shows of a run with this config.json."""
    found = sections.lines(workdir, NEEDED)
    held = [row for row in found["eval"] if row["metric"] == "short_reverse_kl"]
    path = workdir / "evaluation.json"
    evaluation = verdict.read(path) if path.exists() else None
    run = settings(record, workdir)
    if evaluation:
        words = verdict.of_evaluation(evaluation) | {"note": RATIOS}
    else:
        words = verdict.going_on(found["metrics"], run["steps"], _by_teacher(held)) | {"note": ""}
    there = {name: bool(evaluation) if name == "evaluation" else bool(found[name]) for name in ABSENT}
    absent = {name: why for name, why in ABSENT.items() if not there[name]}
    return {
        "title": f"{run['title']}, seed {run['seed']}",
        "sections": _sections(absent),
        "verdict": words,
        "warnings": guards.summary(found["metrics"]),
        "cost": cost(found["metrics"], run),
        "tables": tables(evaluation) if evaluation else [],
        "clip_norm": rounded(run["clip_norm"]),
        "metrics": rounded(found["metrics"]),
        "held": rounded(held),
        "diagnostics": rounded(found["diagnostics"]),
        "rollouts": rounded(found["rollouts"]),
        "answers": answers(found["answers"], verdict.start_of(run["student"])),
        "absent": absent,
    }


def _sections(absent: dict[str, str]) -> list[dict]:
    return [
        section("verdict", "Did it work?", "verdict", None),
        section("cost", "What it cost", "cost", None),
        section("examples", "Three examples", "examples", absent.get("answers")),
        section("table", "All measures", "tables", absent.get("evaluation")),
        section("curves", "Curves", "curves", absent.get("metrics")),
        section("diagnostics", "Gradients", "diagnostics", absent.get("diagnostics")),
        section("rollouts", "Training rollouts", "rollouts", absent.get("rollouts")),
        section("answers", "Held-out answers", "answers", absent.get("answers")),
        section("config", "Config and versions", "record", None),
    ]


def settings(record: dict, workdir: Path) -> dict:
    """What the page says of a run's config.json."""
    try:
        c = record["config"]
        return {"title": f"{c['name']}:{c['preset']}", "seed": c["seed"], "steps": c["steps"], "student": c["student"],
                "method": c["camopd"]["method"], "clip_norm": c["optim"]["clip_norm"],
                "devices": record["devices"]}  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"{workdir}: config.json has no {error}: not what a run of this version writes") from None


def _by_teacher(held: Sequence[dict]) -> dict[str, list[dict]]:
    return {
        f"Reverse KL to the {task} teacher, nats a token": [row for row in held if row["task"] == task]
        for task in dict.fromkeys(row["task"] for row in held)
    }


def cost(steps: Sequence[dict], run: dict) -> dict:
    """{"facts": [[name, words]], "stages": [[name, seconds]], "note"} of the steps of a run."""
    facts = [["Method", run["method"]], *sections.facts_of(run, steps, "Responses selected")]
    note = "The steps alone: making the domain teacher, evaluations and start-up come on top."
    return {"facts": facts, "stages": sections.stages_of(steps), "note": note}


def tables(found: verdict.Evaluation) -> list[dict]:
    """{"title", "rows", "note"} of each table."""
    return [
        {"title": "Held-out measures", "rows": cells(summary.table(found.models, found.lines)),
         "note": "± one standard error over held-out prompts."},
        {"title": "Ratios", "rows": cells(summary.ratio_table(found.ratios())),
         "note": "“undefined”: the 95 % interval of the denominator contains 0, so the ratio says nothing."},
    ]  # fmt: skip


def answers(rows: Sequence[dict], start: str) -> dict:
    """The answers by prompt, as `sections.side_by_side` has them, and how the page shows them.

    Examples are the places of up to three items: those that were fixed come first, and among these those that the
    general teacher passes.
    """
    entries = [
        ((row["task"], row["id"]), row["model"], {key: row[key] for key in ("task", "id", "prompt")},
         [row["answer"], row["passed"]])
        for row in rows
    ]  # fmt: skip
    models, found = sections.side_by_side(entries, start, verdict.AFTER)
    before, after = (models.index(m) if m in models else None for m in (start, verdict.AFTER))

    def rank(i: int) -> tuple:
        teacher = found[i]["answers"][0]
        return found[i]["change"] != "fixed", not (teacher and teacher[1]), i

    examples = sorted((i for i, item in enumerate(found) if item["change"]), key=rank)[:3]
    shown = [i for i, m in enumerate(models) if verdict.is_teacher(m) or i == after]
    return {"models": models, "start": before, "after": after, "shown": shown, "items": found, "examples": examples,
            "filters": [["task", "Task"]], "note": "Greedy answers. From start to recovered"}  # fmt: skip
