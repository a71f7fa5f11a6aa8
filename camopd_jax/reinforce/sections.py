"""The sections of the report of a reinforcement run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from camopd_jax import guards, sections, verdict
from camopd_jax.distraction import scoring
from camopd_jax.distraction.intervals import LEVEL, Estimate
from camopd_jax.reinforce import evaluation
from camopd_jax.reinforce.evaluation import START, TRAINED, Evaluation
from camopd_jax.sections import cells, rounded, section

NEEDED = {  # of every line of a file
    "metrics.jsonl": sections.STEP | {"reward", "passed", "entropy", "eos_rate", "groups", "groups_few", "groups_flat",
                                      "groups_again", "unscorable"},
    "eval.jsonl": sections.EVALUATION,
    "rollouts.jsonl": {"step", "id", "group", "prompt", "answer", "reward", "advantage", "ended"},
    "answers.jsonl": {"id", "paradigm", "control", "category", "families", "criteria", "obeyed", "passed", "answer",
                      "model", "prompt", "distractors", "gold"},
}  # fmt: skip
ABSENT = {  # why a section is left out
    "metrics": "metrics.jsonl has no step yet.",
    "evaluation": "There is no evaluation.json: it is written when a run is finished.",
    "rollouts": "There is no rollouts.jsonl: this run keeps no training answers, or has not come to the first.",
    "answers": "There is no answers.jsonl: the held-out questions are answered when a run is evaluated.",
}
HELD = {
    "short_log_rmr": "Margin, mean log RMR, nats a token",
    "short_pass_rate": "Conjunctive pass",
}  # of eval.jsonl
INTERVALS = (
    f"{100 * (1 - LEVEL):.0f} % bootstrap intervals over held-out instances (prompts for instruction following): "
    "they do not cover another seed or other data; bin/seeds.py compares runs."
)
CLAIMS = {
    "log_rmr": "The margin (mean log RMR, nats a token)",
    "passed": "Conjunctive pass (all five criteria hold)",
    "clean": "Clean accuracy (task and form without distractors)",
    "instructions": "Instruction following (pass rate)",
}
TOWARDS = ("log_rmr", "passed")  # what the training is for; of the others nothing is to be lost


def content(workdir: Path, record: dict) -> dict:
    """What the page shows of a run with this config.json."""
    found = sections.lines(workdir, NEEDED)
    path = workdir / "evaluation.json"
    finished = evaluation.read(path) if path.exists() else None
    run = settings(record, workdir)
    held = [row for row in found["eval"] if row["metric"] in HELD]
    if finished:
        words = verdict_of(finished, run)
    else:
        by_metric = {label: [row for row in held if row["metric"] == name] for name, label in HELD.items()}
        known = {label: rows for label, rows in by_metric.items() if rows}
        words = verdict.going_on(found["metrics"], run["steps"], known) | {"note": ""}
    there = {name: bool(finished) if name == "evaluation" else bool(found[name]) for name in ABSENT}
    absent = {name: why for name, why in ABSENT.items() if not there[name]}
    return {
        "title": f"{run['title']}, seed {run['seed']}",
        "sections": _sections(absent),
        "verdict": words,
        "warnings": guards.summary(found["metrics"]),
        "cost": cost(found["metrics"], run),
        "tables": tables(finished) if finished else [],
        "margins": rounded([list(margin) for margin in finished.margins]) if finished else [],
        "clip_norm": rounded(run["clip_norm"]),
        "metrics": rounded(found["metrics"]),
        "held": rounded(held),
        "groups": rounded(groups(found["rollouts"], run["group_size"])),
        "answers": answers(found["answers"]),
        "absent": absent,
    }


def _sections(absent: Mapping[str, str]) -> list[dict]:
    return [
        section("verdict", "Did it work?", "verdict", None),
        section("table", "All measures", "tables", absent.get("evaluation")),
        section("cost", "The run and its cost", "cost", None),
        section("examples", "Three examples", "examples", absent.get("answers")),
        section("curves", "Curves", "rewardCurves", absent.get("metrics")),
        section("margin", "Margin of each question", "margins", absent.get("evaluation")),
        section("rollouts", "Training answers", "groups", absent.get("rollouts")),
        section("answers", "Held-out answers", "answers", absent.get("answers")),
        section("config", "Config and versions", "record", None),
    ]


def settings(record: dict, workdir: Path) -> dict:
    """What the page says of a run's config.json."""
    try:
        c = record["config"]
        g, rollout, optim = c["grpo"], c["rollout"], c["optim"]
        again = f", groups drawn again up to {g['redraws']} times" if g["redraws"] else ""
        kls = [
            f"{weight:g} of {kl}"
            for kl, weight in ((f"{g['loss_kl']} as a loss", g["loss_kl_weight"]),
                               ("k1 in the reward", g["reward_kl_weight"]))
            if weight
        ]  # fmt: skip
        facts = [
            ["Method", g["variant"] + again],
            ["Reward", g["reward"] + (", dealt out by chance" if g["shuffle_rewards"] else "")],
            ["A step", f"{rollout['batch_size']} questions × {g['group_size']} answers, {g['epochs']} "
                       f"update{'s' if g['epochs'] > 1 else ''}"],
            ["KL to the start", " and ".join(kls) or "none"],
            ["Ratio clipped to", f"{1 - g['clip'][0]:g} to {1 + g['clip'][1]:g}"],
            ["Learning rate", f"{optim['learning_rate']:g}, after {optim['warmup_steps']} updates of warm-up"],
            ["Weights that train", f"an adapter of rank {c['lora']['rank']}" if c["lora"]["rank"] else "all"],
            ["Start", c["teachers"][c["student"]]],
        ]  # fmt: skip
        return {"title": f"{c['name']}:{c['preset']}", "seed": c["seed"], "steps": c["steps"], "facts": facts,
                "clip_norm": optim["clip_norm"], "group_size": g["group_size"], "shuffled": g["shuffle_rewards"],
                "devices": record["devices"]}  # fmt: skip
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{workdir}: config.json has no {error}: not what a run of this version writes") from None


def cost(steps: Sequence[dict], run: Mapping) -> dict:
    """{"facts": [[name, words]], "stages": [[name, seconds]], "note"} of the steps of a run."""
    facts = run["facts"] + sections.facts_of(run, steps, "Answers in groups with spread")
    note = "The steps alone: evaluations and start-up come on top."
    return {"facts": facts, "stages": sections.stages_of(steps), "note": note}


def verdict_of(found: Evaluation, run: Mapping) -> dict:
    """{"headline", "tone", "points", "note"} of a finished run."""
    figures, differences = found.figures(), found.differences()
    signs = {name: evaluation.direction(differences[name]) for name in evaluation.HEADLINE}
    points = [
        _point(
            name,
            len(found.models[START][name].numerator),
            *(figures[t][name] for t in (START, TRAINED)),
            differences[name],
        )
        for name in CLAIMS
    ]
    points.insert(1, verdict.point("to compare", "open", evaluation.rmr(found) + " Above 1 the model finds the gold "
                                   "output likelier than the one that obeys the distractors."))  # fmt: skip
    if run["shuffled"]:
        points.append(verdict.point("control", "open", "The rewards of a step were dealt out by chance "
                                    "(grpo.shuffle_rewards): what changed was not learnt from them."))  # fmt: skip
    return {"headline": _headline(signs), "tone": _tone(signs), "points": points, "note": INTERVALS}


def _point(name: str, n: int, start: Estimate, trained: Estimate, x: Estimate) -> dict:
    sign, wanted = evaluation.direction(x), name in TOWARDS
    badge, tone = {
        1: ("rose", "good"),
        0: ("unclear", "open") if wanted else ("no loss seen", "good"),
        -1: ("fell", "bad" if wanted else "mixed"),
    }[sign]
    if not sign and not wanted and start.value == 0:
        badge, tone = "nothing to lose", "open"
    moved = f"{start.value:.3f} at the start, {trained.value:.3f} trained"
    items = "prompts" if name == "instructions" else "instances"
    says = f"{'' if sign else 'not '}told apart from no change"
    text = f"{CLAIMS[name]}: {moved}, on {n} held-out {items}. Difference {evaluation.cell(x, '+')}: {says}."
    return verdict.point(badge, tone, text)


def _headline(signs: Mapping[str, int]) -> str:
    """What rose, what fell, what is not told apart from the start."""
    parts = []
    for sign, words in ((1, "rose"), (-1, "fell"), (0, "not told apart from the start")):
        names = [evaluation.HEADLINE[name] for name, its in signs.items() if its == sign]
        if names:
            listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
            are = {0: "are " if names[1:] else "is "}.get(sign, "")
            parts.append(f"{listed} {are}{words}")
    headline = "; ".join(parts)
    return headline[0].upper() + headline[1:]


def _tone(signs: Mapping[str, int]) -> str:
    wanted = {signs[name] for name in TOWARDS}
    lost = any(sign < 0 for name, sign in signs.items() if name not in TOWARDS)
    if 1 in wanted:
        return "mixed" if lost or -1 in wanted else "good"
    return "bad" if lost or -1 in wanted else "open"


def tables(found: Evaluation) -> list[dict]:
    """{"title", "rows", "note"} of each table."""
    return [{"title": "Held-out measures", "rows": cells(evaluation.table(found)), "note": INTERVALS}]


def groups(rows: Sequence[dict], size: int) -> list[dict]:
    """The training answers by group: step, id, prompt, marks, mean reward, [answer, reward, advantage, ended] of each.

    Args:
      size: answers that a group had; fewer of the last one of a step may be kept.
    """
    found: dict[tuple[int, int], dict] = {}
    for row in rows:
        empty = {key: row[key] for key in ("step", "group", "id", "prompt")}
        empty |= {"marks": _marks(row.get("distractors", [])), "size": size, "answers": []}
        group = found.setdefault((row["step"], row["group"]), empty)
        group["answers"].append([row["answer"], row["reward"], row["advantage"], row["ended"]])
    for group in found.values():
        known = [reward for _, reward, _, _ in group["answers"] if reward is not None]
        group["mean"] = sum(known) / len(known) if known else None
        group["trains"] = any(advantage for _, _, advantage, _ in group["answers"])
    return list(found.values())


def answers(rows: Sequence[dict]) -> dict:
    """The answers by question, as `sections.side_by_side` has them, and how the page shows them.

    Examples are the places of up to three items: distracted questions that were fixed come first.
    """
    entries = [
        ((row["id"],), row["model"],
         {key: row[key] for key in ("id", "paradigm", "control", "category", "prompt", "gold")}
         | {"marks": _marks(row["distractors"], row["families"])},
         [row["answer"], row["passed"], _criteria(row)])
        for row in rows
    ]  # fmt: skip
    models, found = sections.side_by_side(entries, START, TRAINED)
    before, after = (models.index(m) if m in models else None for m in (START, TRAINED))

    def rank(i: int) -> tuple:
        return found[i]["change"] != "fixed", found[i]["control"] != "distracted", i

    examples = sorted((i for i, item in enumerate(found) if item["change"]), key=rank)[:3]
    kinds = [["paradigm", "Paradigm"], ["control", "Control"], ["category", "Category"]]
    return {"models": models, "start": before, "after": after, "shown": list(range(len(models))), "items": found,
            "examples": examples, "filters": kinds, "note": "Greedy answers. From start to trained"}  # fmt: skip


def _criteria(row: Mapping) -> list[list]:
    """[what was asked, whether it holds] of each criterion by which an answer passes."""
    if row["criteria"] is None:
        return [["request obeyed", bool(row["obeyed"])]]
    held = dict(zip(scoring.CRITERIA, map(bool, row["criteria"]), strict=True))
    resisted = [[f"resists {n}", held[f"resist_{n}"]] for n in (1, 2, 3)]
    return [["task", held["task"]], *(resisted if row["control"] == "distracted" else []), ["form", held["form"]]]


def _marks(distractors: Sequence[str], families: Sequence[str] = ()) -> list[list[str]]:
    """[distractor as it stands in the text, what it is]."""
    known = [f" ({family})" for family in families] or [""] * len(distractors)
    return [
        [text, f"distractor {n}{family}"] for n, (text, family) in enumerate(zip(distractors, known, strict=True), 1)
    ]
