"""The files that the rows of docs/errors.md name: configs, data, models and runs, each with one thing wrong."""

import json
import shutil
from pathlib import Path

import icd_files
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
from ml_collections import ConfigDict
from pyarrow import parquet
from safetensors.numpy import load_file, save_file

from camopd_jax import lock, metrics, recover, resume
from camopd_jax.experiment import grid
from camopd_jax.models import export, load
from camopd_jax.types import TrainState

ROOT = Path(__file__).parent.parent
OWN = """
import runpy

def get_config():
    c = runpy.run_path("configs/medical.py")["get_config"]("three").unlock()
    {}
    return c
"""
LAW = "c.teachers.law = 'random:llama:2'; c.data.law = c.data.second; c.camopd.demand.law = 'positive'; "
CONFIGS = {
    "broken.py": "def get_config():\n    return (\n",
    "nothing.py": "steps = 3\n",
    "plain.py": "def get_config():\n    return {'steps': 3}\n",
    "imports.py": "import no_such_package\n",
    "medical.yaml": "steps: 3\n",
    "no_data.py": OWN.format("c.teachers.law = 'random:llama:2'"),
    "no_demand.py": OWN.format("c.teachers.law = 'random:llama:2'; c.data.law = c.data.second"),
    "length.py": OWN.format("c.teachers.length = 'random:llama:2'"),
    "slash.py": OWN.format("c.teachers['law/old'] = 'random:llama:2'"),
    "no_general.py": OWN.format("del c.teachers.general"),
    "path_name.py": OWN.format("c.name = '../../out'"),
    "missing_key.py": OWN.format("del c.chat.system"),
    "own_typo.py": OWN.format("c.rollout.batchsize = 16"),
    "quoted.py": OWN.format("c.optim = {**c.optim, 'learning_rate': '1e-5'}"),
    "true.py": OWN.format("c.optim = {**c.optim, 'learning_rate': True}"),
    "letters.py": OWN.format("c.eval = {**c.eval, 'interpolation': ''}"),
    "half.py": OWN.format("c.rollout = {**c.rollout, 'batch_size': 8.5}"),
}
HELD = []  # by this process, as by a run that is going on
USER = {"role": "user", "content": "What is a fever?"}
ANSWER = {"role": "assistant", "content": "A temperature above 38 degrees."}
ROWS = {  # one row of each file; the others are in order
    "list.jsonl": [USER],
    "alpaca.jsonl": {"instruction": "What is a fever?", "output": "A high temperature."},
    "sharegpt.jsonl": {"messages": [{"role": "human", "content": "What is a fever?"}]},
    "text.jsonl": {"messages": "What is a fever?"},
    "parts.jsonl": {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is a fever?"}]}]},
    "two_users.jsonl": {"messages": [USER, USER]},
    "blank.jsonl": {"messages": [{"role": "user", "content": " "}, ANSWER]},
    "no_user.jsonl": {"messages": [{"role": "system", "content": "Be brief."}]},
    "two_systems.jsonl": {"system": "Be kind.", "messages": [{"role": "system", "content": "Be brief."}, USER]},
    "check_nested.jsonl": {"prompt": "What is a fever?", "checks": [{"kind": "mentions_any", "words": [["heat"]]}]},
    "check_text.jsonl": {"prompt": "What is a fever?", "checks": "short"},
    "long_prompt.jsonl": {"prompt": "What is a fever? " * 60, "answer": "A high temperature."},
}
CHECKS = {  # in every row, as held-out prompts alone are checked
    "checks.jsonl": {"kind": "max_word", "n": 20},
    "check_void.jsonl": {"kind": "mentions_any", "words": []},
    "check_words.jsonl": {"kind": "mentions_any", "words": [38]},
    "check_criterion.jsonl": {"kind": "max_words", "n": 20, "criterion": "form/length"},
}


def build(home: Path) -> None:
    """Make all files in a directory."""
    (home / "configs").mkdir()
    shutil.copy(ROOT / "configs" / "medical.py", home / "configs")
    shutil.copy(ROOT / "configs" / "roleplay.py", home / "configs")
    shutil.copy(ROOT / "configs" / "distraction.py", home / "configs")
    shutil.copy(ROOT / "configs" / "icd.py", home / "configs")
    (home / "notes.txt").write_text("mine\n")
    for name, text in CONFIGS.items():
        (home / name).write_text(text)
    _data(home)
    _models(home)
    _runs(home)
    icd_files.build(home)


def _rows(n: int) -> list[dict]:
    return [{"messages": [{"role": "user", "content": f"What is {i} + 1?"}, ANSWER]} for i in range(n)]


def _questions(n: int) -> list[dict]:
    return [{"prompt": f"What is {i} + 1?"} for i in range(n)]


def _data(home: Path) -> None:
    def lines(name, rows):
        (home / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    lines("prompts.jsonl", _rows(12))
    lines("one.jsonl", _rows(1))
    lines("few.jsonl", _rows(3))
    lines("no_answers.jsonl", _questions(60))
    lines("long_answer.jsonl", [row | {"answer": "It is more. " * 20} for row in _questions(60)])
    lines("hidden.jsonl", [{"messages": [USER | {"content": "-"}, ANSWER]}] * 13)
    for name, row in ROWS.items():
        good = _rows(12)
        lines(name, [good[0], row, *good[1:]] if name == "list.jsonl" else [row, *good])
    lines("alike.jsonl", [{"prompt": f"{'What is a fever? ' * 60}{i}"} for i in range(12)])
    for name, check in CHECKS.items():
        lines(name, [row | {"checks": [check]} for row in _rows(60)])
    (home / "empty.jsonl").write_text("")
    (home / "prompts.csv").write_text("prompt\nWhat is a fever?\n")
    (home / "prompts.json").write_text(json.dumps(_rows(12)))
    (home / "indented.jsonl").write_text(json.dumps(_rows(1)[0], indent=2))
    text = (home / "prompts.jsonl").read_text().splitlines()
    (home / "not_json.jsonl").write_text("\n".join([*text[:2], text[2][:-1], *text[3:]]))
    (home / "latin1.jsonl").write_bytes('{"prompt": "Was hei\xdft das?"}\n'.encode("latin1"))
    (home / "damaged.parquet").write_bytes(b"PAR1 and then nothing")
    parquet.write_table(pyarrow.table({"question": ["What is a fever?"]}), home / "columns.parquet")


def _models(home: Path) -> None:
    model = load.load("random:llama")
    sound = home / "model"
    export.save_directory(
        sound, model.cfg, model.read, model.tokenizer, stop_ids=model.stop_ids, dtype="float32", shard_bytes=10**9
    )

    def copy(name: str, *without: str) -> Path:
        shutil.copytree(sound, home / name)
        for file in without:
            (home / name / file).unlink()
        return home / name

    def config(name: str, **changes) -> Path:
        directory = copy(name)
        _edit(directory / "config.json", **changes)
        return directory

    def tensors(name: str, change) -> Path:
        directory = copy(name)
        weights = load_file(directory / "model.safetensors")
        change(weights)
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    (copy("adapter", "config.json") / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    copy("no_tokenizer", "tokenizer.json")
    copy("pytorch", "model.safetensors").joinpath("pytorch_model.bin").write_bytes(b"PK")
    (copy("bad_config") / "config.json").write_text('{"model_type": "llama",')
    (copy("list_config") / "config.json").write_text('["llama"]')
    (copy("bad_generation") / "generation_config.json").write_text("{")
    config("no_layers", num_hidden_layers=None)
    config("no_heads", num_attention_heads=0, head_dim=None)
    config("gpt2", model_type="gpt2")
    config("experts", num_experts=8)
    config("own_code", auto_map={"AutoModelForCausalLM": "modeling_llama.Llama"})
    _edit(copy("own_tokenizer_code") / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenizer.T", None]})
    config("many_layers", num_hidden_layers=10**9)
    with (copy("long_header") / "model.safetensors").open("r+b") as file:
        file.write((4 * 10**9).to_bytes(8, "little"))
    config("dynamic_rope", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    level = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}
    config("level_rope", rope_scaling=level)
    config("word_eps", rms_norm_eps="small")
    config("quantised", quantization_config={"quant_method": "gptq", "bits": 4})
    config("short_context", max_position_embeddings=256)
    tensors("missing_tensor", lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    tensors("wrong_shape", lambda w: w.update({"model.norm.weight": w["model.norm.weight"][:16]}))
    tensors("extra_bias", lambda w: w.update({"model.layers.0.mlp.up_proj.bias": np.zeros(64, np.float32)}))
    tensors("integers", lambda w: w.update({"model.norm.weight": w["model.norm.weight"].astype(np.int8)}))
    tensors(
        "nan_weights", lambda w: w["model.layers.1.self_attn.o_proj.weight"][0].__setitem__([3, 5], (np.nan, np.inf))
    )

    embed = "model.embed_tokens.weight"
    for name, rows in (("few_rows", 200), ("odd_rows", 258)):
        tensors(name, lambda w, rows=rows: w.update({embed: np.ascontiguousarray(w[embed][:rows])}))
        _edit(home / name / "config.json", vocab_size=rows)

    truncated = copy("truncated") / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 129000\n"
    (copy("lfs_pointer") / "model.safetensors").write_text(pointer)
    index = "model.safetensors.index.json"
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    lost = copy("lost_shard")
    (lost / "model.safetensors").rename(lost / shards["a"])
    (lost / index).write_text(json.dumps({"weight_map": shards}))
    (copy("bad_index") / index).write_text("{}")
    (copy("far_shard") / index).write_text(json.dumps({"weight_map": {"a": "../model/model.safetensors"}}))

    copy("no_template", "chat_template.jinja")
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    (copy("refuses_system") / "chat_template.jinja").write_text(template)
    (copy("bad_template") / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}")
    for name, text in (
        ("endless", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        ("large", "{{ 'a' * 10**10 }}"),
        ("escaping", "{{ messages.__class__.__init__.__globals__ }}"),
    ):
        (copy(f"{name}_template") / "chat_template.jinja").write_text(text)
    (copy("damaged_tokenizer") / "tokenizer.json").write_text('{"version": "1.0", "model"')
    other = copy("other_tokens") / "tokenizer.json"
    other.write_text(other.read_text().replace("<|im_end|>", "<|eot_id|>"))
    _edit(home / "other_tokens" / "tokenizer_config.json", eos_token="<|eot_id|>", pad_token="<|eot_id|>")
    _edit(copy("other_stop") / "tokenizer_config.json", eos_token="<|im_start|>")
    _edit(home / "other_stop" / "generation_config.json", eos_token_id=256)
    _edit(copy("no_eos") / "tokenizer_config.json", eos_token=None, pad_token=None)
    _edit(home / "no_eos" / "generation_config.json", eos_token_id=None)

    (home / "notes.gguf").write_text("not a model\n")
    (home / "short.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\x05" + bytes(7) + b"\x01" + bytes(7))


def _edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _runs(home: Path) -> None:
    """Workdirs as a run leaves them, made by what a run writes them with."""
    config = tiny(home)
    earlier = home / "earlier"
    earlier.mkdir()
    model = load.load("random:llama")
    metrics.write_config(earlier, config, {"general": [model.source, model.fingerprint]}, {}, [])
    (earlier / "metrics.jsonl").write_text("".join(json.dumps({"step": i}) + "\n" for i in range(1, 5)))
    with recover.checkpoints_of(config, earlier) as checkpoints:
        for step in (2, 4):
            checkpoints.save(state(), step, {recover.BEST: 1.0})

    def copy(name: str) -> Path:
        return Path(shutil.copytree(earlier, home / name))

    (copy("damaged_record") / "config.json").write_text('{"config": {')
    (copy("lost_record") / "config.json").unlink()
    record = json.loads((earlier / "config.json").read_text())
    record["models"]["general"][1] = "0123456789abcdef"
    (copy("other_weights") / "config.json").write_text(json.dumps(record))
    record["models"]["general"][1], record["data"] = model.fingerprint, {"general": "0123456789abcdef"}
    (copy("other_data") / "config.json").write_text(json.dumps(record))
    record["config"]["grpo"] = {}
    (copy("reinforced") / "config.json").write_text(json.dumps(record))
    (copy("coding_run") / "config.json").write_text(json.dumps(record | {"config": {"protocol": {}}}))
    (home / "coding_run" / "export").mkdir()
    (home / "coding_run" / "export" / "icd.json").write_text("{}")
    shutil.rmtree(copy("damaged_checkpoint") / "checkpoints" / "4" / "default")
    shutil.copytree(home / "damaged_checkpoint", home / "damaged_checkpoints")
    first = home / "damaged_checkpoints" / "checkpoints" / "2" / "default" / "_METADATA"
    first.write_bytes(bytes(first.stat().st_size))
    (copy("short_metrics") / "metrics.jsonl").write_text('{"step": 1}\n')
    (copy("twice_evaluated") / "eval.jsonl").write_text('{"step": 4}\n' * 2)
    record = json.loads((earlier / "config.json").read_text())
    del record["config"]["lora"]["rank"]
    (copy("older") / "config.json").write_text(json.dumps(record))
    HELD.append(lock.take(copy("running") / resume.LOCK, ""))
    shutil.rmtree(copy("file_checkpoints") / "checkpoints")
    (home / "file_checkpoints" / "checkpoints").write_text("")
    shutil.rmtree(copy("no_checkpoint") / "checkpoints")
    (home / "no_checkpoint" / "checkpoints").mkdir()
    shutil.copytree(earlier, home / "taken" / "camopd" / "seed0")
    asked = grid.make("configs/medical.py:tiny", {}, config, grid.method_cells(["camopd", "mix"]), (0,))
    grid.write(asked, home / "grid")
    shutil.copytree(home / "grid", home / "damaged_grid")
    (home / "damaged_grid" / grid.RECORD).write_text('{"cells": [')

    broken = copy("damaged_metrics") / "metrics.jsonl"
    broken.write_text('{"step": 1\n' + broken.read_text())
    for name in ("damaged_evaluation", "directory_report"):
        (copy(name) / "metrics.jsonl").unlink()
    (home / "damaged_evaluation" / "evaluation.json").write_text('{"models": {}}')
    (home / "directory_report" / "report.html").mkdir()


def state() -> TrainState:
    return TrainState({"w": jnp.zeros(4)}, {"m": jnp.zeros(4)}, jnp.int32(4), jax.random.key(0))


def tiny(home: Path) -> ConfigDict:
    """The preset of the rows that name no other."""
    namespace = {}
    exec((home / "configs" / "medical.py").read_text(), namespace)
    return namespace["get_config"]("tiny")
