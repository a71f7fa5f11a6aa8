"""What an evaluation says about a run, in words, and whether each claim is told apart from chance."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camopd_jax import summary
from camopd_jax.evals.suite import Line, Measure

AFTER = "recovered"
Interval = tuple[float, float, float] | None  # value, low, high; None: undefined


@dataclass(frozen=True)
class Evaluation:
    """evaluation.json: the measures of all models, the general teacher's first."""

    lines: list[Line]
    models: dict[str, dict[str, Measure]]
    student: str  # the branch whose teacher the student starts as
    checked: list[str]  # branches that have a retention

    @property
    def start(self) -> str:
        return start_of(self.student)

    def ratios(self) -> dict[str, dict[str, Interval]]:
        """The ratios of what is no teacher, by model."""
        after = {title: m for title, m in self.models.items() if not is_teacher(title)}
        general = next(iter(self.models.values()))
        return summary.ratios(self.models[self.start], general, after, self.checked)


def start_of(student: str) -> str:
    """The title of the model that a student starts as."""
    return f"{student} teacher = start"


def is_teacher(title: str) -> bool:
    return title.endswith((" teacher", " teacher = start"))


def read(path: Path) -> Evaluation:
    """evaluation.json.

    Raises:
      ValueError: if it is not what a finished run writes.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        models = {
            title: {name: Measure(*(np.asarray(m[k], np.float64) for k in ("numerator", "denominator")))
                    for name, m in measures.items()}
            for title, measures in found["models"].items()
        }  # fmt: skip
        evaluation = Evaluation([Line(**x) for x in found["lines"]], models, found["student"], found["checked"])
        evaluation.models[evaluation.start], evaluation.models[AFTER]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is not what a finished run of this version writes ({error!r}); run it again"
        ) from None
    return evaluation


def of_evaluation(found: Evaluation) -> dict:
    """{"headline", "tone": good | mixed | open | bad, "points": [{"badge", "tone", "text"}]} of a finished run."""
    ratios = found.ratios()
    mine = ratios[AFTER]
    general, start, after = next(iter(found.models.values())), found.models[found.start], found.models[AFTER]
    label = {"reverse_kl": "Distance to the general teacher (reverse KL, nats a token)",
             "instructions": "Instruction following (pass rate)"}  # fmt: skip
    ratio = {"reverse_kl": "recovery of reverse KL", "instructions": "recovery of instruction following"}
    points = []
    for name, title in label.items():
        values = (m[name].value() for m in (start, after, general))
        points.append(recovery(title, *values, len(after[name].numerator), mine[ratio[name]]))
    for line in found.lines:
        if line.measure in found.checked:
            values = (m[line.measure].value() for m in (start, after))
            points.append(retention(line.label, *values, len(after[line.measure].numerator),
                                    mine[f"{line.measure} retention"]))  # fmt: skip
        elif line.measure == line.task and line.metric == "reverse_kl":
            points.append(_unchecked(line, start, after))
    points += [_other(title, found_for) for title, found_for in ratios.items() if title != AFTER]
    kept = {name: mine[f"{name} retention"] for name in found.checked}
    return {"headline": _headline(mine[ratio["reverse_kl"]], kept), "tone": _tone(points), "points": points}


def told(interval: tuple[float, float, float], null: float) -> int:
    """1 or -1: the interval lies above or below a value; 0: it holds it."""
    _, low, high = interval
    return int(low > null) - int(high < null)


def recovery(title: str, start: float, after: float, teacher: float, n: int, interval: Interval) -> dict:
    """The point of a recovery (after - start) / (teacher - start)."""
    moved = f"{title}: {start:.3f} at the start, {after:.3f} recovered, {teacher:.3f} the general teacher, " \
            f"on {n} held-out prompts."  # fmt: skip
    if interval is None:
        why = "the start is not told apart from the general teacher, so there is nothing to divide by"
        return point("undefined", "open", f"{moved} Recovery is undefined: {why}.")
    says = {
        1: ("recovered", "good", "told apart from zero"),
        0: ("unclear", "open", "not told apart from zero"),
        -1: ("worse", "bad", "told apart from zero, and in the wrong direction"),
    }
    badge, tone, words = says[told(interval, 0.0)]
    if badge == "recovered":
        words += {1: ", and beyond full recovery", 0: ", not from full recovery", -1: " and from full recovery"}[
            told(interval, 1.0)
        ]
    return point(badge, tone, f"{moved} Recovery {_percent(interval)}: {words}.")


def retention(title: str, start: float, after: float, n: int, interval: Interval) -> dict:
    """The point of a retention after / start."""
    moved = f"{title}: {start:.3f} at the start, {after:.3f} recovered, on {n} held-out prompts."
    if interval is None:
        return point("undefined", "open", f"{moved} Retention is undefined: the start is not told apart from zero.")
    says = {
        1: ("gain", "good", "a gain, told apart from no change"),
        0: ("no loss seen", "good", "a loss is not told apart from no change"),
        -1: ("loss", "mixed", "a loss, told apart from no change"),
    }
    badge, tone, words = says[told(interval, 1.0)]
    return point(badge, tone, f"{moved} Retention {_percent(interval)}: {words}.")


def going_on(steps: Sequence[dict], wanted: int, held: Mapping[str, Sequence[dict]]) -> dict:
    """The verdict's place while there is no evaluation.json; `held` are the evaluations during the run, by label."""
    done = steps[-1]["step"] if steps else 0
    points = []
    for label, mine in held.items():
        ends = mine if len(mine) == 1 else (mine[0], mine[-1])
        said = ", ".join(f"{r['value']:.3f} ± {r['stderr']:.3f} at step {r['step']}" for r in ends)
        points.append(point("so far", "open", f"{label}, on {mine[0]['n']} held-out prompts (± one standard error): "
                            f"{said}."))  # fmt: skip
    headline = f"Not finished: {done} of {wanted} steps are done, and the final evaluation is not there yet"
    return {"headline": headline, "tone": "open", "points": points}


def _unchecked(line: Line, start: dict[str, Measure], after: dict[str, Measure]) -> dict:
    a, b = start[line.measure].value(), after[line.measure].value()
    return point("no check", "open", f"{line.label}: {a:.3f} at the start, {b:.3f} recovered. "
                  "Its prompts carry no check of answers, so there is no retention.")  # fmt: skip


def _other(title: str, ratios: dict[str, Interval]) -> dict:
    parts = [f"{name} {'undefined' if i is None else _percent(i)}" for name, i in ratios.items()]
    return point("to compare", "open", f"{title} (weights averaged, no training): {', '.join(parts)}.")


def _headline(kl: Interval, kept: dict[str, Interval]) -> str:
    if kl is None:
        first = "Recovery is undefined: the start is not told apart from the general teacher"
    else:
        first = {
            1: f"Recovered {_share(kl[0])} of the distance to the general teacher",
            0: "No recovery is told apart from zero",
            -1: "The student moved away from the general teacher",
        }[told(kl, 0.0)]
    parts = [first]
    for name, interval in kept.items():
        if interval is None:
            parts.append(f"{name} retention is undefined")
        else:
            seen = {1: "a gain", 0: "no loss told apart from chance", -1: "a loss told apart from chance"}
            parts.append(f"kept {_share(interval[0])} of the {name} skill ({seen[told(interval, 1.0)]})")
    return "; ".join(parts)


def _tone(points: list[dict]) -> str:
    """Of the whole: the distance decides, and anything worse elsewhere makes a good one mixed."""
    first = points[0]["tone"]
    if first == "good" and any(p["tone"] in ("bad", "mixed") for p in points):
        return "mixed"
    return first


def point(badge: str, tone: str, text: str) -> dict:
    """One of the claims of a verdict; its tone is good, mixed, open or bad."""
    return {"badge": badge, "tone": tone, "text": text}


def _share(x: float) -> str:
    return f"{100 * x:.0f}\N{NO-BREAK SPACE}%"


def _percent(interval: tuple[float, float, float]) -> str:
    value, low, high = interval
    return f"{_share(value)} [95 % interval {100 * low:.0f} to {100 * high:.0f}]"
