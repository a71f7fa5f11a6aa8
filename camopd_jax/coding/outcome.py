"""What a finished ICD coding run leaves to look at: tables, plots, figures for comparisons."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from camopd_jax import figures, guards, metrics
from camopd_jax.coding.inputs import Inputs
from camopd_jax.coding.rules import FIGURES
from camopd_jax.comparison import Difference
from camopd_jax.figures import Panel, Point
from camopd_jax.probias import calibration, corpus, coverage, differences, drawing, scores, thresholds
from camopd_jax.probias.calibration import Reliability
from camopd_jax.probias.scores import Scores, Split

HEADLINES = {
    "micro_f1": "micro-F1",
    "macro_f1_caml": "macro-F1 (a): harmonic mean of macro-precision and macro-recall, all codes",
    "macro_f1_all": "macro-F1 (b): mean over all codes",
    "macro_f1_present": "macro-F1 (c): mean over the codes of the split",
    "micro_auc": "micro-AUC", "macro_auc": "macro-AUC",
    "precision_at_5": "precision at 5", "precision_at_8": "precision at 8", "precision_at_15": "precision at 15",
    "r_precision": "R-precision", "map": "mean average precision", "exact_match": "exact match",
}  # fmt: skip
OF_DEV = {
    "micro_f1": "micro-F1", "macro_f1_present": "macro-F1 (c)", "map": "mean average precision",
    "precision_at_8": "precision at 8", "rare_micro_f1": "micro-F1, codes of 1-10 training notes",
}  # fmt: skip
EDGES = np.linspace(0.1, 1.0, 10)  # of the reliability plot: what a coder is shown


@dataclass(frozen=True)
class Judged:
    """A trained model on test, with what dev has set."""

    temperature: float
    threshold_C: np.ndarray  # of tempered probabilities
    test: Split  # tempered
    scores: Scores
    intervals: dict[str, Difference | None]
    curves: dict[str, Reliability]  # on test, by name


def threshold(read: Inputs, dev: Split) -> np.ndarray:
    """The least probability that predicts each code, by the rule of the config, from dev alone."""
    t, labels = read.config.threshold, read.labels
    if t.rule == "fixed":
        return thresholds.fixed(t.value, len(labels.codes))
    best = {"micro": thresholds.micro, "macro": thresholds.macro}
    assert set(best) == set(FIGURES)
    if t.rule == "global":
        return thresholds.tuned(dev, best[t.figure])
    return thresholds.by_bucket(dev, labels.frequency_C, best[t.figure])


def judge(read: Inputs, splits: Mapping[str, Split]) -> Judged:
    """Temperature and thresholds from "dev", every figure from "test"."""
    raw, frequency_C, e = splits["test"], read.labels.frequency_C, read.config.eval
    t = calibration.temperature(calibration.logit(splits["dev"].probability_NC), splits["dev"].truth_NC)
    dev, test = (
        Split(calibration.tempered(splits[name].probability_NC, t), splits[name].truth_NC) for name in ("dev", "test")
    )
    threshold_C = threshold(read, dev)
    curves = {
        "as trained": calibration.reliability(raw.probability_NC, raw.truth_NC, EDGES),
        f"temperature {t:.2f}": calibration.reliability(test.probability_NC, test.truth_NC, EDGES),
    }
    return Judged(
        t, threshold_C, test, scores.compute(test, threshold_C, frequency_C),
        differences.alone(test, threshold_C, frequency_C, e.resamples, e.seed), curves,
    )  # fmt: skip


def write(read: Inputs, workdir: Path, judged: Judged) -> None:
    """Print and write what was found; evaluation.json, the last file, says that the run is finished."""
    text = "\n".join([*_table(read, judged), "", *_buckets(judged), "", *_ceiling(read)])
    metrics.put(workdir / "summary.md", f"{text}\n")
    print(f"\n{text}\n", flush=True)
    steps, evaluations = (metrics.read_jsonl(workdir / f"{name}.jsonl") for name in ("metrics", "eval"))
    for line in guards.summary_lines(steps):
        print(line, flush=True)
    plots = workdir / "plots"
    plots.mkdir(exist_ok=True)
    drawing.reliability(plots / "reliability.png", judged.curves)
    points = {name: _point(judged, f"micro_f1 {name}", b["micro_f1"]) for name, b in judged.scores.buckets.items()}
    drawing.buckets(
        plots / "buckets.png", "micro-F1 on test, 95 % interval",
        {"test": {name: point for name, point in points.items() if point}},
        {name: b["codes"] for name, b in judged.scores.buckets.items()},
    )  # fmt: skip
    _training(plots / "training.png", steps, evaluations)
    metrics.write_json(workdir / "manifest.json", corpus.manifest(read.corpus), indent=2)
    record = {
        "figures": judged.scores.figures, "buckets": judged.scores.buckets, "temperature": judged.temperature,
        "intervals": {name: x and asdict(x) for name, x in judged.intervals.items()},
        "documents": _documents(judged, read.labels.frequency_C),
    }  # fmt: skip
    metrics.write_json(workdir / "evaluation.json", record)


def _point(judged: Judged, name: str, value: float | None) -> Point | None:
    found = judged.intervals.get(name)
    return None if value is None else Point(value, found and (found.low, found.high))


def _documents(judged: Judged, frequency_C: np.ndarray) -> dict:
    """Micro-F1 of all codes, and of those of each bucket, as numerator and denominator of each document."""
    bucket_C, found = scores.bucket_of(frequency_C), {}
    some = {"micro_f1": np.ones(len(frequency_C), bool)}
    some |= {f"micro_f1 {name}": bucket_C == number for number, name in enumerate(scores.BUCKETS)}
    for name, chosen_C in some.items():
        hit, all_ = [], []
        for probability_BC, truth_BC in judged.test.rows():
            predicted_BC, true_BC = scores.predicted(probability_BC, judged.threshold_C), truth_BC.toarray()
            hit.append((predicted_BC & true_BC)[:, chosen_C].sum(axis=1))
            all_.append(predicted_BC[:, chosen_C].sum(axis=1) + true_BC[:, chosen_C].sum(axis=1))
        found[name] = {"numerator": (2 * np.concatenate(hit)).tolist(), "denominator": np.concatenate(all_).tolist()}
    return found


def _table(read: Inputs, judged: Judged) -> list[str]:
    documents, rule = judged.scores.documents, read.config.threshold.rule
    lines = [f"| test, {documents:,} notes, threshold {rule} | value [95 % interval] |", "|---|---|"]
    for name, label in HEADLINES.items():
        lines.append(f"| {label} | {_cell(judged.scores.figures[name], judged.intervals.get(name))} |")
    return lines


def _buckets(judged: Judged) -> list[str]:
    lines = [
        "| training notes of a code | codes | of them in test | micro-F1 [95 % interval] | macro-F1 (c) | macro-AUC |",
        "|---|---|---|---|---|---|",
    ]
    for name, b in judged.scores.buckets.items():
        if b["codes"]:
            micro = _cell(b["micro_f1"], judged.intervals.get(f"micro_f1 {name}"))
            others = " | ".join(_cell(b[figure], None) for figure in ("macro_f1_present", "macro_auc"))
            lines.append(f"| {name} | {b['codes']:,} | {b['present']:,} | {micro} | {others} |")
    return lines


def _ceiling(read: Inputs) -> list[str]:
    """What the label set allows on test, in words; nothing where it has every code."""
    found, entries = read.corpus.coverage["test"], read.corpus.splits["test"].entries
    if not found.unknown:
        return [f"Temperature and thresholds are of dev; every code of test is one of the {len(read.labels.codes):,}."]
    known = [len(read.labels.columns(entry.codes)) for entry in entries]
    most = coverage.ceiling(
        np.array(known), np.array([len(e.codes) for e in entries]) - known,
        int((np.bincount(read.parts["test"].truth_NC.indices, minlength=1) > 0).sum()), len(found.unknown),
    )  # fmt: skip
    return [
        f"{len(found.unknown):,} codes of test are in no training note. At best, were they counted as missed: recall "
        f"{most.figures['micro_recall']:.3f}, micro-F1 {most.figures['micro_f1']:.3f}, macro-F1 (c) "
        f"{most.figures['macro_f1_present']:.3f}. The figures above are of the {len(read.labels.codes):,} codes alone."
    ]


def _cell(value: float | None, x: Difference | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{max(x.low, 0):.3f}, {min(x.high, 1):.3f}]" if x else "")


def _training(path: Path, steps: list[dict], evaluations: list[dict]) -> None:
    """Loss of the training batches, and figures of dev, over the steps."""
    wide = max(len(steps) // 50, 1)
    loss = {
        steps[i]["step"]: float(np.mean([row["loss"] for row in steps[i : i + wide]]))
        for i in range(0, len(steps), wide)
    }
    dev: dict[str, list[dict]] = {}
    for row in evaluations:
        dev.setdefault(OF_DEV[row["metric"]], [{}])[0][row["step"]] = row["value"]
    panels = [
        Panel("training notes", "binary cross-entropy, nats a code", {"loss": [loss]}),
        Panel("dev", "0 to 1, more is better", dev),
    ]
    figures.over_steps(path, panels, 2)
