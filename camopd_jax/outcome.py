"""What a finished run leaves to look at: table, ratios, plots, the models' answers, evaluation.json and report.html."""

from pathlib import Path

from camopd_jax import guards, licensed, metrics, report, summary
from camopd_jax.evals import checks
from camopd_jax.evals.cached import Evaluation
from camopd_jax.inputs import Inputs


def write(read: Inputs, workdir: Path, found: dict[str, Evaluation]) -> None:
    """Print and write what the evaluations found; `found` is by the model's title, the general teacher first.

    evaluation.json, the last file but the report, says that the run is finished.
    """
    models = {title: measures for title, (measures, _) in found.items()}
    lines, student = read.suite.lines(), read.config.student
    general, start = next(iter(models.values())), models[f"{student} teacher = start"]
    after = {name: m for name, m in models.items() if "teacher" not in name}
    kept = [name for name, task in read.suite.domains.items() if task.checked]
    ratios = summary.ratios(start, general, after, kept)
    text = f"{summary.table(models, lines)}\n\n{summary.ratio_table(ratios)}\n"
    metrics.put(workdir / "summary.md", text)
    steps, evaluations = (metrics.read_jsonl(workdir / f"{name}.jsonl") for name in ("metrics", "eval"))
    print(f"\n{text}", flush=True)
    for line in guards.summary_lines(steps):
        print(line, flush=True)
    short = [row for row in evaluations if row["metric"] == "short_reverse_kl"]
    full = [
        measures[line.measure].row(name, read.config.steps, line.task, line.metric)
        for name, measures in models.items()
        for line in lines
    ]
    metrics.write_jsonl(workdir / "eval.jsonl", short + full)
    metrics.write_jsonl(workdir / "answers.jsonl", _answers(read, {title: a for title, (_, a) in found.items()}))
    plots = workdir / "plots"
    plots.mkdir(exist_ok=True)
    summary.plot_recovery(plots / "recovery.png", steps, short, list(read.branches))
    summary.plot_gaps(plots / "gaps.png", steps, list(read.branches))
    metrics.write_json(workdir / "evaluation.json", summary.record(models, lines, student, kept))
    report.write(workdir)


def _answers(read: Inputs, models: dict[str, dict[str, list[str]]]) -> list[dict]:
    """Rows of answers.jsonl: what the models answered to the first held-out prompts of each task."""
    rows, licence = [], licensed.of(read.config)
    for name, task in read.suite.checked.items():
        asked, answered = licence.allows(name, "answers"), licence.allows_response(name, "answers")
        for i, prompt in enumerate(task.prompts[: read.config.report.answers]):
            shown = {"task": name, "id": prompt.id, "prompt": licence.text(prompt.messages[-1]["content"], asked)}
            for title, answers in models.items():
                passed = checks.passes(answers[name][i], prompt.checks)
                answer = licence.text(answers[name][i], answered)
                rows.append(shown | {"model": title, "answer": answer, "passed": passed})
    return rows
