"""bin/margin.py: rows that no batch changes, models that are scored once, and the table of several."""

import importlib.util
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from plain import mesh

from camopd_jax.chat import Chat
from camopd_jax.distraction import benchmark, margin, preference, questions
from camopd_jax.evals import answering, likelihood
from camopd_jax.models import load
from camopd_jax.packing import PackShape

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("margin_program", ROOT / "bin" / "margin.py")
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)


def run(out, models, *flags):
    return program.main(["margin", f"--models={models}", "--limit=2", "--split=dev", f"--out={out}", *flags])


def rows_of(out):
    (file,) = out.glob("random_llama-*/rows.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_models_are_scored_once_and_no_batch_changes_a_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    assert run(out, "random:llama", "--batch_size=3") == 0
    assert not (out / "models.png").exists(), "of one model there is nothing to compare"
    assert run(out, "random:llama,random:llama:2") == 0
    assert "random:llama: scored already" in capsys.readouterr().out
    monkeypatch.setattr(margin, "likelihoods", lambda *_: pytest.fail("a model that is done is scored again"))
    assert run(out, "random:llama,random:llama:2") == 0
    assert (out / "models.png").is_file() and len(list(out.glob("*/margin.png"))) == 2
    assert run(out, "random:llama,random:llama") == 2
    assert "--models=random:llama,random:llama: allowed is each model once" in capsys.readouterr().err
    assert run(out, "random:llama", "--paradigms=single") == 2
    assert "holds the answers of another evaluation: questions was" in capsys.readouterr().err
    monkeypatch.undo()

    model = load.load("random:llama")
    asked = questions.questions(benchmark.make("dev", 2, 0, "short"), ("single", "multi", "system"), ["distracted"])
    prompts = answering.encode(model.tokenizer, Chat("", "template", "2026-01-01"), asked)
    engine = likelihood.engine_of(model, mesh(), "float32", 64, PackShape(1, 1024, 512))
    params = engine.place(model.read, "float32")
    rows = rows_of(out)
    assert [row["id"] for row in rows] == [q.id for q in asked]
    for q, row in zip(asked, rows, strict=True):
        for name, text in (("gold", q.instance.gold), ("bad", q.instance.bad)):
            ids = np.append(model.tokenizer(text, add_special_tokens=False)["input_ids"], model.stop_ids[0])
            one = margin.likelihoods(engine, params, [prompts[q.id]], [ids.astype(np.int32)], 1)
            assert row[f"{name}_tokens"] == one.tokens_M[0] == len(ids)
            assert row[f"{name}_log_likelihood"] == pytest.approx(one.total_M[0], rel=1e-5)
        log_ppl = {name: -row[f"{name}_log_likelihood"] / row[f"{name}_tokens"] for name in ("gold", "bad")}
        assert row["log_rmr"] == pytest.approx(log_ppl["bad"] - log_ppl["gold"])
    found = json.loads((out / "margin.json").read_text())
    first, second = found["models"]
    assert first["margin"]["all"]["log_rmr"]["value"] == pytest.approx(np.mean([row["log_rmr"] for row in rows]))
    assert set(first["margin"]) >= {"all", "single", "multi", "system"}
    assert first["parameters"] == sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    gap = second["margin"]["all"]["log_rmr"]["value"] - first["margin"]["all"]["log_rmr"]["value"]
    assert found["less_the_first"][0]["value"] == pytest.approx(gap)
    shown = f"{math.exp(first['margin']['all']['log_rmr']['value']):.3f} ["
    assert f"| random:llama | {first['parameters'] / 1e6:,.1f}M | all | {shown}" in (out / "summary.md").read_text()


def test_a_difference_of_margins_is_paired_and_by_instance():
    rng = np.random.default_rng(0)
    hard_M = np.repeat(rng.normal(0, 3, 100), 2)
    gain_M = np.repeat(rng.normal(0.2, 0.5, 100), 2)
    together_M = np.repeat(np.arange(100), 2)
    found = margin.difference(hard_M + gain_M, hard_M, together_M, 2000, 0)
    half = 1.96 * gain_M.std() / math.sqrt(100)
    assert found.value == pytest.approx(gain_M.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert margin.difference(hard_M, hard_M + gain_M, together_M, 2000, 0).value == pytest.approx(-gain_M.mean())


def test_the_margin_of_rows_draws_paradigms_together():
    def rows(times):
        return [
            {"instance": i, "gold_log_likelihood": -4.0, "gold_tokens": 2, "bad_log_likelihood": -3.0 * (i + 1),
             "bad_tokens": 3} for i in range(8) for _ in range(times)
        ]  # fmt: skip

    once, thrice = preference.of_rows(rows(1)), preference.of_rows(rows(3))
    assert once.log_rmr.value == pytest.approx(np.mean([i + 1 - 2 for i in range(8)]))
    assert (thrice.log_rmr.low, thrice.log_rmr.high) == pytest.approx((once.log_rmr.low, once.log_rmr.high))
    assert once.preferred.value == 6 / 8
