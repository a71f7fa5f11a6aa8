"""config.json read as transformers reads it, written so that it is read back; what is not computed is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoConfig

from camopd_jax.models import decoder, huggingface
from camopd_jax.models.decoder import Lora
from camopd_jax.models.huggingface import config_from_hf, config_to_hf, tensor_name
from camopd_jax.models.rope import RopeScaling, frequencies
from camopd_jax.models.tiny import CONFIG as TINY

SCALINGS = {
    "plain": None,
    "linear": RopeScaling("linear", 4.0),
    "llama3": RopeScaling("llama3", 8.0, 1024, low_freq_factor=1.0, high_freq_factor=4.0),
    "yarn": RopeScaling("yarn", 4.0, 2048, beta_fast=32.0, beta_slow=1.0, attention_factor=1.2, truncate=True),
}
CONFIGS = {
    **{name: replace(TINY, rope_scaling=scaling) for name, scaling in SCALINGS.items()},
    "qwen2": replace(TINY, qkv_bias=True),
    "qwen3": replace(TINY, qk_norm=True, tied_head=False, head_dim=12, rope_scaling=SCALINGS["yarn"]),
}
SMOLLM2 = dict(
    model_type="llama", vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
    num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5,
    rope_theta=100000, rope_scaling=None, tie_word_embeddings=True, hidden_act="silu", attention_bias=False,
)  # fmt: skip
NEW_LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip

LINEAR = {"rope_type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "beta_fast": 32, "beta_slow": 1,
        "attention_factor": 1.2, "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": True}  # fmt: skip
ODD = [None, True, False, "x", "", 0, -1, 1.5, 10**400, float("nan"), float("inf"), [], [1], [[]], {}, {"a": 1}]


def without(config, *keys):
    return {k: v for k, v in config.items() if k not in keys}


def to_hf(cfg):
    return config_to_hf(cfg, dtype="bfloat16", bos_id=1, eos_ids=(2, 3), pad_id=None)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_written_config_is_read_back_by_us_and_by_transformers(tmp_path, name):
    cfg = CONFIGS[name]
    text = json.dumps(to_hf(cfg))
    assert config_from_hf(json.loads(text)) == cfg
    (tmp_path / "config.json").write_text(text)
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert (theirs.head_dim, theirs.eos_token_id, theirs.pad_token_id) == (cfg.head_dim, [2, 3], None)
    assert theirs.tie_word_embeddings == cfg.tied_head
    assert theirs.rope_parameters["rope_theta"] == cfg.rope_theta
    theirs.save_pretrained(tmp_path / "again")  # and in their own words
    assert config_from_hf(json.loads((tmp_path / "again" / "config.json").read_text())) == cfg


@pytest.mark.parametrize("drop", ["rope_parameters", "rope_theta rope_scaling"])
@pytest.mark.parametrize("name", CONFIGS)
def test_old_and_new_keys_of_the_rotary_positions_say_the_same(name, drop):
    assert config_from_hf(without(to_hf(CONFIGS[name]), *drop.split())) == CONFIGS[name]


def test_a_smollm2_config_by_hand():
    expected = decoder.DecoderConfig(49152, 576, 1536, 30, 9, 3, 64, 1e5, 1e-5, True, 8192)
    assert config_from_hf(SMOLLM2) == expected
    new = without(SMOLLM2, "rope_theta", "rope_scaling") | {"rope_parameters": NEW_LLAMA3}
    scaling = RopeScaling("llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
    assert config_from_hf(new) == replace(expected, rope_theta=5e5, rope_scaling=scaling)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_absent_keys_mean_what_transformers_takes_them_for(kind):
    small = dict(model_type=kind, vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
                 num_attention_heads=32, sliding_window=None)  # fmt: skip
    cfg, theirs = config_from_hf(small), AutoConfig.for_model(**small)
    assert cfg.kv_heads == theirs.num_key_value_heads
    assert cfg.head_dim == (getattr(theirs, "head_dim", None) or 2)
    assert cfg.norm_eps == theirs.rms_norm_eps
    assert cfg.rope_theta == theirs.rope_parameters["rope_theta"]
    assert cfg.max_positions == theirs.max_position_embeddings
    assert cfg.tied_head == theirs.tie_word_embeddings
    assert (cfg.qk_norm, cfg.qkv_bias) == (kind == "qwen3", kind == "qwen2")


def test_yarn_works_out_what_its_config_leaves_open():
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    assert config_from_hf(SMOLLM2 | {"rope_scaling": yarn}).rope_scaling == RopeScaling(
        "yarn", 4.0, 2048, beta_fast=32.0, beta_slow=1.0, attention_factor=pytest.approx(1.138629436), truncate=True
    )
    both = yarn | {"mscale": 1.0, "mscale_all_dim": 0.5}
    scaling = config_from_hf(SMOLLM2 | {"rope_scaling": both}).rope_scaling
    assert scaling.attention_factor == pytest.approx(1.138629436 / 1.069314718)
    del yarn["original_max_position_embeddings"]
    assert config_from_hf(SMOLLM2 | {"rope_scaling": yarn}).rope_scaling.original_positions == 8192


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": "gpt2"}, "model_type = 'gpt2' ... llama, mistral, qwen2, qwen3"),
        ({"model_type": "qwen3_moe"}, "model_type = 'qwen3_moe'"),
        ({"num_local_experts": 8}, "num_local_experts = 8"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' ... silu"),
        ({"model_type": "mistral", "sliding_window": 1024}, "sliding_window = 1024 ... null"),
        ({"model_type": "mistral"}, "sliding_window = 4096 ... null"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window = True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types = ['full_attention', 'sliding"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type = 'dynamic' ... yarn"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling.rope_type = None ... linear"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type = 'longrope'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor = None"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters = "),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method = 'awq'"),
        ({"num_key_value_heads": 4}, "num_key_value_heads = 4 ... num_attention_heads = 9"),
        ({"hidden_size": None}, "hidden_size = None"),
        ({"model_type": ["llama"]}, "model_type = ['llama']"),
        ({"rms_norm_eps": None}, "rms_norm_eps = None ... a number above 0"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false'"),
        ({"head_dim": 1.5}, "head_dim = 1.5"),
        ({"head_dim": 63}, "head_dim = 63 ... even"),
        ({"hidden_size": 8}, "head_dim = 0"),
        ({"max_position_embeddings": 8192.0}, "max_position_embeddings = 8192.0"),
        ({"layer_types": 3}, "layer_types = 3"),
        ({"quantization_config": "awq"}, "quantization_config = 'awq' ... an object"),
        ({"rope_scaling": "yarn"}, "rope_scaling = 'yarn' ... an object"),
        ({"rope_parameters": [1]}, "rope_parameters = [1] ... an object"),
        ({"rope_parameters": {"rope_theta": 1}}, "rope_parameters.rope_theta = 1 ... a number above 1"),
        ({"rope_scaling": LINEAR | {"factor": 0}}, "rope_scaling.factor = 0 ... a number above 0"),
        ({"rope_scaling": YARN | {"factor": -2.0}}, "rope_scaling.factor = -2.0"),
        ({"rope_scaling": YARN | {"factor": True}}, "rope_scaling.factor = True"),
        ({"rope_scaling": YARN | {"beta_slow": 32}}, "rope_scaling.beta_fast = 32.0 ... above beta_slow = 32"),
        ({"rope_scaling": YARN | {"truncate": "no"}}, "rope_scaling.truncate = 'no'"),
        ({"rope_scaling": NEW_LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor = 1.0 ... low_freq_factor = 1"),
    ],
)
def test_what_is_not_computed_is_refused_in_one_line(change, words):
    with pytest.raises(ValueError) as error:
        config_from_hf(SMOLLM2 | change)
    message = str(error.value)
    assert message.startswith("config.json: ") and "; supported: " in message and "\n" not in message
    assert all(word in message for word in words.split(" ... "))


@pytest.mark.parametrize("rope", [{}, LINEAR, YARN, without(YARN, "attention_factor"), NEW_LLAMA3])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(kind, rope):
    """What is taken makes finite positions of a model with whole sizes."""
    config = to_hf(TINY) | {"model_type": kind, "rope_scaling": rope, "layer_types": ["full_attention"],
                            "quantization_config": None, "num_experts": None, "sliding_window": None}  # fmt: skip
    changed = [config | {key: odd} for key in config for odd in ODD]
    changed += [config | {"rope_scaling": rope | {key: odd}} for key in rope for odd in ODD]
    changed += [config, *([], "llama", None)]
    taken = 0
    for hf in changed:
        try:
            cfg = config_from_hf(hf)
        except ValueError as error:
            assert str(error).startswith("config.json") and "\n" not in str(error)
            continue
        taken += 1
        sizes = cfg.vocab_size, cfg.width, cfg.mlp_width, cfg.layers, cfg.heads, cfg.kv_heads, cfg.head_dim
        assert all(type(size) is int and size > 0 for size in (*sizes, cfg.max_positions))
        assert type(cfg.tied_head) is bool and type(cfg.norm_eps) is float and cfg.norm_eps > 0
        assert np.isfinite(frequencies(cfg.head_dim, cfg.rope_theta, cfg.rope_scaling)).all()
    assert 0 < taken < len(changed)


@pytest.mark.parametrize("change, word", [
    ({"qk_norm": True, "qkv_bias": True}, "qkv_bias"), ({"lora": Lora(2, 1.0, ("q",))}, "merge"),
])  # fmt: skip
def test_a_config_without_a_counterpart_is_not_written(change, word):
    with pytest.raises(ValueError, match=word):
        to_hf(replace(TINY, **change))


def test_every_parameter_has_a_name_of_its_own():
    shapes = decoder.split(replace(TINY, tied_head=False, qk_norm=True, qkv_bias=True))[1]
    names = {tensor_name(k, None) for k in shapes if k != "layers"}
    names |= {tensor_name(k, i) for k in shapes["layers"] for i in (0, 11)}
    assert len(names) == len(shapes) - 1 + 2 * len(shapes["layers"])
    assert {"lm_head.weight", "model.layers.11.self_attn.k_proj.bias", "model.layers.0.mlp.up_proj.weight"} <= names
    assert set(huggingface.LAYER_NAMES) == set(shapes["layers"])
