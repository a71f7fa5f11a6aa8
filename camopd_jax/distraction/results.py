"""results.json, summary.md and the console's tables of an evaluation, from the rows of its answers."""

import dataclasses
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from camopd_jax import metrics, shown
from camopd_jax.distraction import scoring
from camopd_jax.distraction.intervals import Estimate
from camopd_jax.evals import asking

RESAMPLES, SEED = 2000, 0  # of the intervals
ALL = "all"
HEADLINE = ("passed", "clean", "drop", "passed_of_able", "legitimate", "obeyed", "resisted_of_able")
CRITERIA = (*scoring.CRITERIA, "resisted", "criteria")
NAMES = {"passed_of_able": "passed, of able", "resisted_of_able": "resisted, of able", "criteria": "mean of five"}
OF_GROUPS = ("category", "family", "place")  # in the summary; results.json has the others too
SINGLE = "resisted"  # of families and places, beside the headline


def results(setting: Mapping, rows: Sequence[Mapping], before: Sequence[Mapping] | None, against: str) -> dict:
    """What results.json holds: {group: {value: {measure: estimate}}}, and the same of differences.

    Args:
      before: rows of another model or time, of the same questions, whose figures are taken off; `against`: its name.

    Raises:
      ValueError: if those are of other questions.
    """
    found = {
        "setting": dict(setting),
        "questions": len(rows),
        "instances": len({row["instance"] for row in rows}),
        "cut": sum(row["cut"] for row in rows) / len(rows),
        "measures": scoring.MEASURES,
        "figures": {what: _plain(of) for what, of in _figures(rows).items()},
    }
    if before is not None:
        differences = {ALL: {ALL: scoring.difference(rows, before, RESAMPLES, SEED)}}
        then = scoring.grouped(before)
        for what, groups in scoring.grouped(rows).items():
            differences[what] = {
                name: scoring.difference(some, then[what][name], RESAMPLES, SEED) for name, some in groups.items()
            }
        found["against"] = against
        found["differences"] = {what: _plain(of) for what, of in differences.items()}
    return found


def _figures(rows: Sequence[Mapping]) -> dict[str, dict[str, dict[str, Estimate]]]:
    found = {ALL: {ALL: scoring.figures(rows, RESAMPLES, SEED)}}
    for what, groups in scoring.grouped(rows).items():
        found[what] = {name: scoring.figures(some, RESAMPLES, SEED) for name, some in groups.items()}
    return found


def _plain(groups: Mapping[str, Mapping[str, Estimate]]) -> dict:
    return {name: {m: dataclasses.asdict(e) for m, e in of.items()} for name, of in groups.items()}


def write(out: Path, found: Mapping) -> None:
    """results.json and summary.md."""
    metrics.write_json(out / "results.json", dict(found), indent=2)
    metrics.put(out / "summary.md", summary(found))


def summary(found: Mapping) -> str:
    """The tables as Markdown, which a console shows too."""
    figures, setting = found["figures"], found["setting"]
    overall = figures[ALL][ALL]
    lines = [
        f"# DistractionIF, {shown.markdown(setting['instances'])}: {shown.markdown(setting['model'])}",
        "",
        f"{found['questions']:,} questions of {found['instances']:,} instances. In brackets: 95 % intervals over "
        "resampled instances.",
        "",
        *_table(figures, (ALL, "paradigm"), HEADLINE, ""),
        "",
        *_reading(overall, found["cut"]),
        "",
        *_table(figures, (ALL, "paradigm"), CRITERIA, "of five criteria"),
    ]
    for what in OF_GROUPS:
        of = HEADLINE if what == "category" else (SINGLE, *HEADLINE)
        lines += ["", *_table(figures, (what,), of, what)]
    if "differences" in found:
        lines += [
            "",
            f"Less those of {shown.markdown(found['against'])}, paired by instance:",
            "",
            *_table(found["differences"], (ALL, "paradigm", "category"), HEADLINE, ""),
            "",
            *_table(found["differences"], (ALL, "paradigm"), CRITERIA, "of five criteria"),
        ]
    return "\n".join(lines) + "\n"


def _reading(overall: Mapping, cut: float) -> list[str]:
    """What tells 'resisted' from 'could not have done it'."""
    lines = []
    if "clean" in overall and "passed_of_able" in overall:
        lines.append(
            f"Without distractors {overall['clean']['value']:.0%} of the tasks are done; of those, "
            f"{overall['passed_of_able']['value']:.0%} pass with them (passed, of able)."
        )
    if "obeyed" in overall:
        able = overall.get("resisted_of_able")
        lines.append(
            f"A distractor that is a real instruction is obeyed in {overall['obeyed']['value']:.0%}: what a model "
            "cannot do when told to, it has not resisted elsewhere."
            + (f" Of those that it can, it resists {able['value']:.0%} (resisted, of able)." if able else "")
        )
    if cut:
        lines.append(f"{cut:.1%} of the answers were cut at the limit of tokens (--max_new_tokens).")
    return lines


def _table(figures: Mapping, groups: Sequence[str], measures: Sequence[str], corner: str) -> list[str]:
    rows = [(name, of) for what in groups for name, of in figures[what].items()]
    known = [m for m in measures if any(m in of for _, of in rows)]
    head = f"| {corner} | {' | '.join(NAMES.get(m, m) for m in known)} |"
    cells = [[shown.markdown(name), *(_cell(of.get(m)) for m in known)] for name, of in rows]
    return [head, "|---" * (1 + len(known)) + "|", *(f"| {' | '.join(row)} |" for row in cells)]


def _cell(estimate: Mapping | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def console(summary: str) -> str:
    """A summary whose tables have columns of equal width."""
    lines, block = [], []
    for line in [*summary.split("\n"), ""]:
        if line.startswith("|---"):
            continue
        if line.startswith("| "):
            block.append([cell.strip() for cell in line.strip("|").split(" | ")])
            continue
        if block:
            widths = [max(map(len, column)) for column in zip(*block, strict=True)]
            lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in block]
            block = []
        lines.append(line)
    return html.unescape(re.sub(r"\\([^\w\s])", r"\1", "\n".join(lines).strip()))


def earlier(directory: str) -> tuple[str, list[dict]]:
    """Model and rows of an earlier evaluation.

    Raises:
      ValueError: if the directory is none, or of one that has not come to its end.
    """
    place = Path(directory)
    if not (place / "results.json").is_file() or not (place / asking.SETTING).is_file():
        raise ValueError(
            f"--against={directory}: has no results.json and {asking.SETTING} of an evaluation by "
            "--tasks=distractionif; give the --out of one that has come to its end"
        )
    setting = json.loads((place / asking.SETTING).read_text(encoding="utf-8"))
    return f"{setting['model']} ({directory})", asking.answered(place)
