"""bin/margin.py: how much each of some models prefers the gold answers to the distracted ones, model by model."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from camopd_jax import lock, metrics, sharding, shown
from camopd_jax.chat import Chat, encode_answers
from camopd_jax.data import Prompt
from camopd_jax.distraction import chosen, margin, questions, results
from camopd_jax.distraction import margin_drawing as drawing
from camopd_jax.distraction.questions import Question
from camopd_jax.evals import answering, asking, likelihood
from camopd_jax.models import load, lora
from camopd_jax.models.conversion import cache_dir
from camopd_jax.packing import PackShape

ROWS, RESULT = "rows.jsonl", "margin.json"
PART = 4  # batches between two lines of progress
COLUMNS = 32  # packed rows have a multiple of so many tokens


def run(values: flags.FlagValues, out: Path, sources: Sequence[str]) -> None:
    """Score the models that are not scored yet, then write and print what they prefer.

    Raises:
      ValueError: if a flag has a value that is not allowed, or `out` holds something else.
    """
    paradigms = chosen.some_of("paradigms", values.paradigms, chosen.PARADIGMS)
    name, instances = chosen.instances(values, values.limit)
    asked = questions.questions(instances, paradigms, ["distracted"])
    setting = {"instances": name, "questions": questions.digest(asked), "dtype": values.dtype,
               "thinking": values.thinking, "date": values.date}  # fmt: skip
    if values.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32 on every backend
    models = [load.load(source) for source in sources]
    encoded = [_encode(model, Chat("", values.thinking, values.date), asked) for model in models]
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    held = lock.take(out / "lock", f"--out={out} is in use")
    try:
        asking.prepare(out, setting)
        found = []
        for model, (prompts, gold, bad) in zip(models, encoded, strict=True):
            place = out / f"{re.sub(r'[^A-Za-z0-9.=-]+', '_', model.source)}-{model.fingerprint}"
            if (place / RESULT).is_file():
                print(f"{model.source}: scored already", flush=True)
            else:
                place.mkdir(exist_ok=True)
                rows, parameters = _score(values, model, asked, prompts, gold, bad)
                metrics.write_jsonl(place / ROWS, rows)
                metrics.write_json(place / RESULT, _result(model, parameters, rows), indent=2)
                drawing.of_model(place / "margin.png", model.source, rows)
            result = json.loads((place / RESULT).read_text(encoding="utf-8"))
            found.append((result, metrics.read_jsonl(place / ROWS)))
        differences = [_difference(rows, found[0][1]) for _, rows in found[1:]]
        text = summary(name, [result for result, _ in found], differences)
        whole = {"setting": setting, "models": [result for result, _ in found], "less_the_first": differences}
        metrics.write_json(out / RESULT, whole, indent=2)
        metrics.put(out / "summary.md", text)
        drawing.of_models(out / "models.png", whole["models"])
    finally:
        held.release()
    print(results.console(text))
    print(f"{RESULT}, summary.md, plots, and the figures of every instance of each model are in {out}")


def _encode(
    model: load.Model, chat: Chat, asked: Sequence[Question]
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """Token ids of the prompts, and of both answers to each."""
    prompts = answering.encode(model.tokenizer, chat, asked)
    gold, bad = (
        encode_answers(model.tokenizer, [Prompt(q.id, q.messages, text(q)) for q in asked], model.stop_ids[0])
        for text in (lambda q: q.instance.gold, lambda q: q.instance.bad)
    )
    longest = max(len(ids) for ids in (*gold, *bad))
    answering.check_room(prompts, longest, model.cfg.max_positions, f"--models: {model.source}")
    return [prompts[q.id] for q in asked], gold, bad


def _score(values: flags.FlagValues, model, asked: Sequence[Question], prompts, gold, bad) -> tuple[list[dict], int]:
    """A row a question, and how many parameters the model has."""
    mesh = sharding.make_mesh(-1, 1, values.tensor)
    shards = sharding.data_shards(mesh)
    both = list(zip(prompts, gold, bad, strict=True))
    slots = max(len(a) + len(b) for a, b in zip(gold, bad, strict=True))
    longest = max(len(prompt) + len(a) + len(b) for prompt, a, b in both)  # one copy of the prompt for both
    shape = PackShape(-(-values.batch_size // shards) * shards, -(-longest // COLUMNS) * COLUMNS, slots)
    engine = likelihood.engine_of(model, mesh, values.dtype, likelihood.LOGIT_CHUNK, shape)
    params = engine.place(model.read, values.dtype)
    progress, rows = metrics.Progress(model.source, len(asked), 0), []
    part = max(PART * values.batch_size // 2, 1)
    for start in range(0, len(asked), part):
        some = both[start : start + part]
        twice = [prompt for prompt, _, _ in some] * 2
        given = [a for _, a, _ in some] + [b for _, _, b in some]
        scores = margin.likelihoods(engine, params, twice, given, len(given))
        rows += [_row(q, scores, n, n + len(some)) for n, q in enumerate(asked[start : start + part])]
        progress.show(len(rows), f"RMR so far {math.exp(np.mean([row['log_rmr'] for row in rows])):.3f}")
    progress.close()
    return rows, sum(math.prod(s.shape) for s in jax.tree.leaves(lora.split(engine.shapes)[0]))


def _row(q: Question, scores: margin.Likelihood, gold: int, bad: int) -> dict:
    x, log_ppl = q.instance, scores.log_ppl_M
    return {
        "id": q.id, "instance": x.id, "paradigm": q.paradigm, "category": x.category, "template": x.template,
        "genre": x.genre, "families": list(x.families), "places": list(x.places),
        "gold_log_likelihood": float(scores.total_M[gold]), "gold_tokens": int(scores.tokens_M[gold]),
        "bad_log_likelihood": float(scores.total_M[bad]), "bad_tokens": int(scores.tokens_M[bad]),
        "gold_log_ppl": float(log_ppl[gold]), "bad_log_ppl": float(log_ppl[bad]),
        "log_rmr": float(log_ppl[bad] - log_ppl[gold]),
    }  # fmt: skip


def of_rows(rows: Sequence[Mapping]) -> margin.Margin:
    """The margin of rows; the paradigms of an instance are drawn together."""
    gold, bad = (
        margin.Likelihood(
            np.array([row[f"{name}_log_likelihood"] for row in rows]), np.array([row[f"{name}_tokens"] for row in rows])
        )
        for name in ("gold", "bad")
    )
    return margin.margin(gold, bad, np.array([row["instance"] for row in rows]), results.RESAMPLES, results.SEED)


def _result(model: load.Model, parameters: int, rows: Sequence[Mapping]) -> dict:
    groups = {"all": rows} | {
        row[what]: [r for r in rows if r[what] == row[what]] for what in ("paradigm", "category") for row in rows
    }
    return {
        "model": model.source, "fingerprint": model.fingerprint, "parameters": parameters,
        "margin": {name: dataclasses.asdict(of_rows(some)) for name, some in groups.items()},
    }  # fmt: skip


def _difference(rows: Sequence[Mapping], first: Sequence[Mapping]) -> dict:
    """Mean log RMR less that of the first model, on the same questions."""
    mine, its = (np.array([row["log_rmr"] for row in some]) for some in (rows, first))
    return dataclasses.asdict(
        margin.difference(mine, its, np.array([r["instance"] for r in rows]), results.RESAMPLES, results.SEED)
    )


def summary(name: str, models: Sequence[Mapping], differences: Sequence[Mapping]) -> str:
    """The table as Markdown: RMR are shown as ratios, differences as nats."""
    lines = [
        f"# Likelihood margin, {shown.markdown(name)}",
        "",
        "RMR = PPL(distracted answer) / PPL(gold answer); above 1 the robust answer is preferred. In brackets: 95 % "
        "intervals over resampled instances.",
        "",
        "| model | parameters | of | RMR, geometric mean | ratio of mean PPLs | log-likelihood difference, nats "
        "| share RMR > 1 |",
        "|---" * 7 + "|",
    ]
    for result in models:
        for of, m in result["margin"].items():
            cells = [_cell(m["log_rmr"], math.exp), _cell(m["log_ratio_of_means"], math.exp),
                     _cell(m["log_likelihood_difference"], float), _cell(m["preferred"], float)]  # fmt: skip
            head = [shown.markdown(result["model"]), f"{result['parameters'] / 1e6:,.1f}M", shown.markdown(of)]
            lines.append(f"| {' | '.join([*head, *cells])} |")
    if differences:
        lines += ["", "| model, less the first | mean log RMR, nats a token, paired |", "|---|---|"]
        for result, of in zip(models[1:], differences, strict=True):
            lines.append(f"| {shown.markdown(result['model'])} | {_cell(of, float)} |")
    return "\n".join(lines) + "\n"


def _cell(estimate: Mapping, form) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*(form(estimate[key]) for key in ("value", "low", "high")))
