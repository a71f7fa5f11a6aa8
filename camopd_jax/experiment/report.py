"""results.md, results.json and the figures of an experiment, made of what is finished."""

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from camopd_jax import metrics, workdirs
from camopd_jax.experiment import charts, grid, tables, verdicts, words
from camopd_jax.experiment import results as found
from camopd_jax.experiment.charts import Chart
from camopd_jax.experiment.results import Results, Run

HOW_TO_READ = """\
Values of a method: mean over seeds (their number in brackets behind the name) {over_seeds};
of a model that did not train here: value [95 % bootstrap interval over held-out items]. KL in nats a token. Recovery is
(after - start) / (general teacher - start), retention after / start; undefined where the interval of what stands below
the line contains 0. All runs answer the same held-out prompts."""
HOW_TESTED = """\
Differences are paired by seed and by held-out item. Interval and p come from a bootstrap that resamples items, jointly
for all seeds, and seeds, with Student's t at Satterthwaite's degrees of freedom; beside them stands the paired t over
seeds alone. p is corrected (Holm) over the rows of one measure, intervals are not. "Better" and "worse" mean a
corrected p below 0.05, and "not told apart" is no proof of equality. Recovery and retention are the same measures on
another scale and not tested again; of EOS rate and length neither more nor less is better."""


def write(out: Path, docs: Path | None) -> None:
    """Write the results of an experiment into its directory, and to a page of the documentation.

    Args:
      docs: this page gets the same text, its figures go to the directory of its name beside it, and PAGE-notes.md, if
        there, is taken in.

    Raises:
      ValueError: if nothing is finished, or a file cannot be read.
    """
    results = found.read(out)
    drawn = charts.draw(results, out / "figures")
    against = verdicts.against_first(results), verdicts.first_against_references(results)
    orderings = verdicts.orderings(results)
    metrics.write_json(out / "results.json", _numbers(results, *against, orderings), indent=2)
    metrics.put(out / "results.md", page(results, *against, orderings, drawn, "figures", None))
    print(f"{out / 'results.md'}, {out / 'results.json'} and {out / 'figures'} are written")
    if docs is None:
        return
    home = docs.with_suffix("")
    home.mkdir(parents=True, exist_ok=True)
    for chart in drawn:
        (home / chart.file).unlink(missing_ok=True)
        if not chart.missing:
            shutil.copy(out / "figures" / chart.file, home)
    metrics.put(docs, page(results, *against, orderings, drawn, home.name, docs))
    print(f"{docs} and {home} are written")


def page(
    results: Results,
    against: list[verdicts.Comparison],
    free: list[verdicts.Comparison],
    orderings: list[verdicts.Ordering],
    drawn: list[Chart],
    folder: str,
    docs: Path | None,
) -> str:
    """The whole text of results.md."""
    base, cells = results.grid.base, results.grid.cells
    first, numbers = cells[0].name, ", ".join(map(str, results.grid.seeds))
    one = len(cells) == 1
    count = "1 cell" if one else f"{len(cells)} cells"
    if all(o.verdict == "not run" for o in orderings):
        orderings = []
    several = any(len(runs) > 1 for runs in results.runs.values())
    over_seeds = "[95 % t-interval over seeds]" if several else "- here of one seed, without an interval"
    others = tables.differences(against) if against else "No other cell is finished on a seed of it."
    parts = [
        f"# Results: {base['name']}, preset {base['preset']}: {count}, seeds {numbers}",
        "\n".join(_what_was_run(results, docs)),
        "## What the numbers say",
        "Made from the tables below by the rule that stands there.",
        *_list(f"Compared with {first}", words.compared(against)),
        *_list(f"{first} and what costs no training", words.compared(free)),
        *_list("The paper's orderings (arXiv 2605.27115)", words.ordered(orderings)),
        *_list("Counteraction (in the paper negative for most of training)", words.counteraction(results)),
        *_list("Gradient coherence", words.coherence(results)),
        *_notes(docs),
        "## Measures",
        HOW_TO_READ.format(over_seeds=over_seeds),
        tables.quality(results),
        "## Cost",
        "Mean over seeds. Minutes are wall clock of a whole run, evaluation included; the first run on a machine makes "
        "the teacher and evaluates the teachers, the others take both from the cache.",
        tables.cost(results),
        *_pictures(drawn, folder),
        *([] if one else [f"## Differences from {first}", HOW_TESTED, others]),
        f"## {first} and what costs no training",
        *([HOW_TESTED] if one else []),
        tables.differences(free) if free else f"{first} is not finished.",
    ]
    if orderings:
        parts += [
            "## The paper's orderings",
            "Each ordering of two averages in the paper, and the difference of the same two here, in the measures that "
            "stand nearest to the paper's benchmarks; corrected over the orderings of one measure.",
            tables.orderings(orderings),
        ]
    return "\n\n".join(parts) + "\n"


def _what_was_run(results: Results, docs: Path | None) -> list[str]:
    grid_, base = results.grid, results.grid.base
    to_docs = f" --docs={docs}" if docs else ""
    total = len(grid_.runs())
    lines = ["", "Made by", ""]
    lines += [f"    {command}{to_docs}" for command in grid.commands(grid_, results.out)]
    lines += [f"    python bin/experiment.py --out={results.out} --report{to_docs}    # this page again, of the runs"]
    lines += ["", f"- {total - len(results.missing)} of {total} runs are finished."]
    if results.missing:
        lines[-1] += f" Missing: {'; '.join(results.missing)}."
    lines.append(
        f"- {base['steps']} updates of {base['rollout']['batch_size']} prompts in each run; every value: "
        f"`{grid_.config}`{' with the command line above' if grid_.overrides else ''}."
    )
    if any(cell.kind == "sweep" for cell in grid_.cells):
        lines.append(
            "- Cells of the sweep: general steps for one domain step, r = `camopd.scale.general`, rho of both."
        )
    facts = {
        "models": lambda r: ", ".join(f"{name}: {source} ({print_})" for name, (source, print_) in r["models"].items()),
        "devices": lambda r: _counted(r["devices"]),
        "versions": lambda r: ", ".join(f"{name} {version}" for name, version in r["versions"].items()),
        "git revision": lambda r: r["git_revision"] or "not known",
    }
    lines += [f"- {_fact(results, name, of)}" for name, of in facts.items()]
    if _references_differ(results):
        lines.append(
            "- **The teachers' evaluations differ between the runs** (other machines, or another cache); the tables "
            "show those of the first run."
        )
    return lines[1:]


def _fact(results: Results, name: str, of: Callable[[dict], str]) -> str:
    """One line for all runs, or what each of them has."""
    by_value: dict[str, list[str]] = {}
    for cell, runs in results.runs.items():
        for seed, run in runs.items():
            by_value.setdefault(of(run.record), []).append(f"{cell} seed {seed}")
    if len(by_value) == 1:
        return f"{name}, of all runs: {next(iter(by_value))}"
    return f"{name}: " + "; ".join(f"{value} ({', '.join(runs)})" for value, runs in by_value.items())


def _counted(devices: list[str]) -> str:
    kinds = [re.sub(r"[_:]?\d+(\(.*)?$", "", device) for device in devices]
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def _references_differ(results: Results) -> bool:
    def same(run: Run) -> bool:
        pairs = [(run.models[t][m], x) for t in results.references for m, x in results.models[t].items()]
        return all(np.allclose(a.numerator, b.numerator, atol=1e-6) for a, b in pairs)

    return not all(same(run) for runs in results.runs.values() for run in runs.values())


def _list(title: str, sentences: list[str]) -> list[str]:
    return [f"{title}:", "\n".join(f"- {s}" for s in sentences)] if sentences else []


def _notes(docs: Path | None) -> list[str]:
    """What a person wrote about the results, between marks."""
    if docs is None:
        return []
    path = docs.with_name(f"{docs.stem}-notes.md")
    if not path.is_file():
        return [f"<!-- {path.name} is taken in here, if there -->"]
    return [f"<!-- from {path.name} -->", path.read_text(encoding="utf-8").strip(), f"<!-- end of {path.name} -->"]


def _pictures(drawn: list[Chart], folder: str) -> list[str]:
    parts = ["## Figures"]
    for chart in drawn:
        if chart.missing:
            parts.append(f"{chart.title}: left out, {chart.missing}.")
        else:
            parts += [f"![{chart.title}]({folder}/{chart.file})", f"*{chart.title}.* {chart.caption}"]
    return parts


def _numbers(results: Results, against, free, orderings) -> dict:
    """What results.json holds."""
    cells = {}
    for name, runs in results.runs.items():
        by_column = {column.label: found.by_seed(results, name, column) for column in found.columns(results)}
        cells[name] = {
            "seeds": sorted(runs),
            "measures": {
                label: None if values is None else {"by_seed": values, **dict(zip(("mean", "interval"),
                                                    found.mean(values), strict=True))}
                for label, values in by_column.items()
            },
            "costs": {seed: found.costs(run) for seed, run in runs.items()},
            "git_revisions": {seed: run.record["git_revision"] for seed, run in runs.items()},
        }  # fmt: skip
    references = {
        title: {c.label: found.figure(results, results.models, title, c) for c in found.columns(results)}
        for title in results.references
    }
    return {
        "commands": grid.commands(results.grid, results.out),
        "base": dict(workdirs.flat(results.grid.base)),
        "missing": results.missing,
        "cells": cells,
        "references": references,
        "against_first": [asdict(c) for c in against],
        "against_references": [asdict(c) for c in free],
        "orderings": [asdict(o) | {"verdict": o.verdict} for o in orderings],
    }
