"""What the paper measured and found (assets/paper.json), and our results beside it (CaMOPD, arXiv 2605.27115)."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from camopd_jax import shown

SCENARIOS = ("medical", "roleplay")
ELSEWHERE = "scores.json"  # of benchmarks that were run with other programs
ACTING = "coser_gca"  # the task of results.json whose figures are points of 100


@dataclass(frozen=True)
class Figure:
    """A result in points of 100."""

    value: float
    n: int | None  # items
    stderr: float | None

    def cell(self) -> str:
        error = "" if self.stderr is None else f" ± {self.stderr:.2f}"
        return f"{self.value:.2f}{error}" + ("" if self.n is None else f" (n {self.n:,})")


Figures = Mapping[str, Figure]  # by the name of the benchmark


def paper() -> dict:
    """The published averages (general, domain) by scenario and row, and the benchmarks with their settings."""
    return json.loads((resources.files("camopd_jax") / "assets" / "paper.json").read_text(encoding="utf-8"))


def averages() -> dict[str, dict[str, tuple[float, float]]]:
    """(general, domain) by scenario and row."""
    return {place: {name: tuple(x) for name, x in of.items()} for place, of in paper()["averages"].items()}


def figures(directories: Sequence[str]) -> dict[str, Figure]:
    """The results below directories: those of bin/evaluate.py and bin/act.py (results.json), and scores.json.

    scores.json has those of other programs, in points of 100: {"hmmt25": {"value": 41.2, "n": 30, "stderr": 3.1}}.

    Raises:
      ValueError: one line: a directory has no result, a file is none of these, or a benchmark comes twice.
    """
    found: dict[str, Figure] = {}
    for directory in directories:
        files = sorted(p for name in ("results.json", ELSEWHERE) for p in Path(directory).expanduser().rglob(name))
        if not files:
            raise ValueError(f"{directory}: there is no results.json or {ELSEWHERE} below it")
        for file in files:
            for name, figure in _of_file(file).items():
                if name in found:
                    raise ValueError(f"{file}: a result of {name} comes twice for one model; allowed is one")
                found[name] = figure
    return found


def _of_file(file: Path) -> dict[str, Figure]:
    benchmarks = [b for group in paper()["benchmarks"].values() for b in group]
    names = [b["name"] for b in benchmarks]
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        if file.name == ELSEWHERE:
            if odd := [name for name in body if name not in names]:
                raise ValueError(f"{file}: there is no benchmark {odd[0]!r}; allowed are {', '.join(names)}")
            return {name: _figure(of, 1) for name, of in body.items()}
        if body.get("task") == ACTING:
            return {name: _figure(of, 1) for name, of in body["figures"].items() if name in names}
        if body.get("task") in names:
            return {body["task"]: _figure(body["figures"]["accuracy"], 100)}
        results = body["results"]
        of_lm_eval = [b for b in benchmarks if b.get("lm_eval") in results]
        return {b["name"]: _of_lm_eval(body, b["lm_eval"], *b["metric"].split(",")) for b in of_lm_eval}
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(
            f"{file}: no results of bin/evaluate.py (a benchmark of the paper) or bin/act.py, and no {ELSEWHERE} with "
            "value, n and stderr (or null) of each"
        ) from None


def _figure(of: Mapping, scale: float) -> Figure:
    value, n, error = of["value"], of.get("n"), of.get("stderr")
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in (value, n, error) if x is not None):
        raise TypeError
    return Figure(scale * value, n, None if error is None else scale * error)


def _of_lm_eval(body: Mapping, task: str, metric: str, filter_: str) -> Figure:
    of = body["results"][task]
    error = of.get(f"{metric}_stderr,{filter_}")
    n = body.get("n-samples", {}).get(task, {}).get("effective")
    known = error if isinstance(error, int | float) else None  # "N/A" where there is none
    return _figure({"value": of[f"{metric},{filter_}"], "n": n, "stderr": known}, 100)


def average(found: Figures, names: Sequence[str]) -> str:
    """The unweighted mean of some benchmarks, with its standard error where all are known; of how many, if not all."""
    some = [found[name] for name in names if name in found]
    if not some:
        return "-"
    errors = [figure.stderr for figure in some]
    error = None if None in errors else math.sqrt(sum(e * e for e in errors)) / len(some)
    part = "" if len(some) == len(names) else f" ({len(some)} of {len(names)})"
    return Figure(sum(figure.value for figure in some) / len(some), None, error).cell() + part


def table(scenario: str, models: Mapping[str, Figures]) -> str:
    """Markdown: the paper's averages beside ours, then ours by benchmark; what is missing is "-".

    Args:
      models: results of each model; one that has the name of a row of the paper stands beside it.
    """
    known = paper()
    of = {aspect: [b["name"] for b in known["benchmarks"][aspect]] for aspect in ("general", scenario)}
    labels = {b["name"]: b["label"] for aspect in of for b in known["benchmarks"][aspect]}
    lines = [
        f"# {scenario}: the paper ({known['source']}) beside ours",
        "",
        "Points of 100, ± one standard error over items; averages are unweighted means over benchmarks.",
        "",
        "| model | general, paper | general, ours | domain, paper | domain, ours |",
        "|---|---|---|---|---|",
    ]
    for name in [*known["rows"], *(name for name in models if name not in known["rows"])]:
        theirs = [f"{x:.2f}" for x in known["averages"][scenario].get(name, ())] or ["-", "-"]
        ours = [average(models.get(name, {}), of[aspect]) for aspect in ("general", scenario)]
        cells = [known["rows"].get(name, shown.markdown(name)), theirs[0], ours[0], theirs[1], ours[1]]
        lines.append(f"| {' | '.join(cells)} |")
    if not models:
        return "\n".join(lines) + "\n"
    heads = [known["rows"].get(name, shown.markdown(name)) for name in models]
    lines += ["", f"| ours, by benchmark | {' | '.join(heads)} |", "|---" * (1 + len(models)) + "|"]
    for name, label in labels.items():
        cells = [m[name].cell() if name in m else "-" for m in models.values()]
        lines.append(f"| {' | '.join([label, *cells])} |")
    return "\n".join(lines) + "\n"


def commands(scenario: str, model: str, out: str) -> str:
    """The commands that fill the table for one model, a line each; a comment says what another program runs."""
    known, lines = paper(), []
    tokens, temperature = known["max_new_tokens"], known["temperature"][scenario]
    ours = ["python", "bin/evaluate.py", f"--model={model}", "--dtype=bfloat16"]
    for b in known["benchmarks"]["general"]:
        if b["lm_eval"] is None:
            lines.append(f"# {b['label']}: not in lm_eval {known['lm_eval_version']}: {b['note']}")
            continue
        settings = f"max_gen_toks={tokens},do_sample=True,temperature={temperature}"
        words = [*ours, f"--tasks={b['lm_eval']}", "--apply_chat_template", f"--gen_kwargs={settings}"]
        lines.append(f"# {b['label']}: {b['note']}")
        lines.append(shlex.join([*words, f"--out={out}/{b['name']}"]))
    if scenario == "medical":
        for b in known["benchmarks"]["medical"]:
            words = [*ours, f"--tasks={b['name']}", f"--max_new_tokens={tokens}", f"--temperature={temperature}"]
            lines.append(shlex.join([*words, f"--out={out}/{b['name']}"]))
    else:
        words = ["python", "bin/act.py", f"--model={model}", "--dtype=bfloat16", f"--out={out}/{ACTING}"]
        lines.append(f"{shlex.join(words)} --judge_server=URL --judge_model=NAME")
    return "\n".join([*lines, f"# of other programs: their scores in {shlex.quote(out)}/{ELSEWHERE}"])
