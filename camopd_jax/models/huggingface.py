"""Hugging Face's config.json and tensor names of the Llama, Mistral (without its window), Qwen2 and Qwen3 families.

Configs are plain dicts, as json.loads gives them; semantics are those of transformers 5 (configuration_*.py and
modeling_rope_utils.py), which reads what version 4 wrote.
"""

import json
import math
from pathlib import Path

from camopd_jax.models.decoder import DecoderConfig
from camopd_jax.models.rope import KINDS, RopeScaling

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# What a model_type means where its config.json has no such key (or null); None: worked out from other keys.
HEAD_DIM = {"llama": None, "mistral": None, "qwen2": None, "qwen3": 128}
KV_HEADS = {"llama": None, "mistral": 8, "qwen2": 32, "qwen3": 32}
MAX_POSITIONS = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
SLIDING_WINDOW = {"mistral": 4096}
LARGEST = 1e30  # a float32 holds it
JSON_BYTES = 50_000_000  # of config, index and the like; an index of 100,000 tensors has a fifth of it

LAYER_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
TOP_NAMES = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}


def tensor_name(name: str, layer: int | None) -> str:
    """Hugging Face's name of our parameter: of layer number `layer`, or None for those outside the layers."""
    return TOP_NAMES[name] if layer is None else f"model.layers.{layer}.{LAYER_NAMES[name]}"


def read_json(file: Path) -> dict:
    """The object that a JSON file holds; ValueError, naming the file, where it holds none."""
    if (size := file.stat().st_size) > JSON_BYTES:
        raise ValueError(f"{file.name} has {size:,} bytes; allowed are {JSON_BYTES:,}")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} is {value!r:.40}; allowed is a JSON object")
    return value


def config_from_hf(hf: dict) -> DecoderConfig:
    """What config.json says, as transformers would understand it.

    Raises:
      ValueError: one line with the key, its value and what is supported, if a key is missing or asks for something
        that the decoder does not compute.
    """
    if not isinstance(hf, dict):
        raise ValueError(f"config.json is {hf!r:.40}; allowed is a JSON object")
    kind = hf.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise _refusal("model_type", kind, ", ".join(ARCHITECTURES))
    _refuse_what_is_not_computed(hf, kind)
    heads = _integer(hf, "num_attention_heads")
    theta, scaling = _rope(hf, kind)
    return DecoderConfig(
        vocab_size=_integer(hf, "vocab_size"),
        width=_integer(hf, "hidden_size"),
        mlp_width=_integer(hf, "intermediate_size"),
        layers=_integer(hf, "num_hidden_layers"),
        heads=heads,
        kv_heads=_kv_heads(hf, kind, heads),
        head_dim=_head_dim(hf, kind, heads),
        rope_theta=theta,
        norm_eps=_number({"rms_norm_eps": 1e-6} | hf, "rms_norm_eps"),
        tied_head=_tied_head(hf),
        max_positions=_max_positions(hf, kind),
        qk_norm=kind == "qwen3",
        qkv_bias=kind == "qwen2",
        rope_scaling=scaling,
    )


def config_to_hf(
    cfg: DecoderConfig, *, dtype: str, bos_id: int | None, eos_ids: tuple[int, ...], pad_id: int | None
) -> dict:
    """config.json for transformers 4 and 5 and vLLM: old and new keys say the same. `dtype` is the weights' own.

    Raises:
      ValueError: if no architecture has what the config asks for, or low-rank parameters are not merged.
    """
    if cfg.qk_norm and cfg.qkv_bias:
        raise ValueError("qk_norm and qkv_bias together: no supported Hugging Face architecture has both")
    if cfg.lora:
        raise ValueError("a config with lora has no config.json: merge the low-rank parameters first")
    kind = "qwen3" if cfg.qk_norm else "qwen2" if cfg.qkv_bias else "llama"
    scaling = _scaling_to_hf(cfg.rope_scaling)
    config = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.width,
        "intermediate_size": cfg.mlp_width,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "max_position_embeddings": cfg.max_positions,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_theta": cfg.rope_theta, **(scaling or {"rope_type": "default"})},
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied_head,
        "hidden_act": "silu",
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": bos_id,
        "eos_token_id": eos_ids[0] if len(eos_ids) == 1 else list(eos_ids),
        "pad_token_id": pad_id,
    }
    return config | ({"use_sliding_window": False} if kind.startswith("qwen") else {"attention_bias": False})


def _refusal(key: str, value, supported: str) -> ValueError:
    return ValueError(f"config.json: {key} = {value!r} is not supported; supported: {supported}")


def _refuse_what_is_not_computed(hf: dict, kind: str) -> None:
    for key in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if hf.get(key) and not (key == "attention_bias" and kind in ("qwen2", "mistral")):  # those have no such key
            raise _refusal(key, hf[key], "false")
    window = hf.get("sliding_window", SLIDING_WINDOW.get(kind)) if kind in SLIDING_WINDOW else None
    if window is not None:
        raise _refusal("sliding_window", window, "null, written out (without the key it is 4096)")
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if hf.get(key):
            raise _refusal(key, hf[key], "dense models, without the key")
    layers = hf.get("layer_types")
    if layers is not None and not (isinstance(layers, list) and all(layer == "full_attention" for layer in layers)):
        found = sorted(set(map(str, layers))) if isinstance(layers, list) else layers
        raise _refusal("layer_types", found, "a list, full_attention in every layer")
    if hf.get("hidden_act", "silu") != "silu":
        raise _refusal("hidden_act", hf["hidden_act"], "silu")
    if hf.get("partial_rotary_factor", 1) != 1:
        raise _refusal("partial_rotary_factor", hf["partial_rotary_factor"], "1")
    if quantised := _object(hf, "quantization_config"):
        method = quantised.get("quant_method")
        raise _refusal("quantization_config.quant_method", method, "weights that are not quantised")


def _integer(section: dict, key: str, where: str = "") -> int:
    value = section.get(key)
    if type(value) is not int or not 0 < value < 2**31:
        raise _refusal(where + key, value, "a whole number above 0")
    return value


def _number(section: dict, key: str, where: str = "", above: float = 0.0) -> float:
    value = section.get(key)
    if type(value) not in (int, float) or not above < value < LARGEST:
        raise _refusal(where + key, value, f"a number above {above:g}")
    return float(value)


def _object(hf: dict, key: str) -> dict:
    value = hf.get(key)
    if not isinstance(value, dict | None):
        raise _refusal(key, value, "an object, or null")
    return value or {}


def _tied_head(hf: dict) -> bool:
    tied = hf.get("tie_word_embeddings")
    if not isinstance(tied, bool | None):
        raise _refusal("tie_word_embeddings", tied, "true, or false")
    return bool(tied)


def _head_dim(hf: dict, kind: str, heads: int) -> int:
    by_width = {"head_dim": HEAD_DIM[kind] or _integer(hf, "hidden_size") // heads}
    head_dim = _integer(by_width | _given(hf), "head_dim")
    if head_dim % 2:
        raise _refusal("head_dim", head_dim, "an even number, for rotary positions")
    return head_dim


def _kv_heads(hf: dict, kind: str, heads: int) -> int:
    kv_heads = hf.get("num_key_value_heads", KV_HEADS[kind])
    if kv_heads is None:
        return heads
    if type(kv_heads) is not int or kv_heads < 1 or heads % kv_heads:
        raise _refusal("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads = {heads}")
    return kv_heads


def _max_positions(hf: dict, kind: str) -> int:
    return _integer({"max_position_embeddings": MAX_POSITIONS[kind]} | _given(hf), "max_position_embeddings")


def _given(section: dict) -> dict:
    """Without the keys that are null."""
    return {key: value for key, value in section.items() if value is not None}


def _rope(hf: dict, kind: str) -> tuple[float, RopeScaling | None]:
    """theta and scaling from rope_scaling (transformers 4) or rope_parameters (5), in transformers' order."""
    key = "rope_scaling" if _object(hf, "rope_scaling") else "rope_parameters"
    rope = _given(_object(hf, key))
    if any(isinstance(value, dict) for value in rope.values()):
        raise _refusal(key, rope, "the same for all layers")
    if rope.get("partial_rotary_factor", 1) != 1:
        raise _refusal(f"{key}.partial_rotary_factor", rope["partial_rotary_factor"], "1")
    where = f"{key}." if "rope_theta" in rope else ""
    theta = _number({"rope_theta": 10_000.0} | _given(hf) | rope, "rope_theta", where, above=1.0)
    rope_type = rope.get("rope_type", rope.get("type", None if "factor" in rope else "default"))
    if rope_type == "default":
        return theta, None
    if rope_type not in KINDS:
        raise _refusal(f"{key}.rope_type", rope_type, ", ".join(("default", *KINDS)))
    factor = _number(rope, "factor", f"{key}.")
    if rope_type == "linear":
        return theta, RopeScaling("linear", factor)
    original = {"original_max_position_embeddings": _max_positions(hf, kind)} | rope | _given(hf)
    positions = _integer(original, "original_max_position_embeddings")
    if rope_type == "llama3":
        low, high = _ordered(rope, "low_freq_factor", "high_freq_factor", f"{key}.")
        return theta, RopeScaling("llama3", factor, positions, low_freq_factor=low, high_freq_factor=high)
    rope = {"beta_fast": 32, "beta_slow": 1, "truncate": True} | rope
    slow, fast = _ordered(rope, "beta_slow", "beta_fast", f"{key}.")
    if not isinstance(rope["truncate"], bool):
        raise _refusal(f"{key}.truncate", rope["truncate"], "true, or false")
    return theta, RopeScaling(
        "yarn", factor, positions,
        beta_fast=fast,
        beta_slow=slow,
        attention_factor=_attention_factor(rope, factor, f"{key}."),
        truncate=rope["truncate"],
    )  # fmt: skip


def _ordered(rope: dict, less: str, more: str, where: str) -> tuple[float, float]:
    low, high = (_number(rope, key, where) for key in (less, more))
    if low >= high:
        raise _refusal(where + more, high, f"a number above {less} = {low:g}")
    return low, high


def _attention_factor(rope: dict, factor: float, where: str) -> float:
    """YaRN's factor of cosine and sine: given, or 0.1 ln(factor) + 1 (Peng et al. 2023), or a ratio of two such."""

    def size(mscale):
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if "attention_factor" in rope:
        return _number(rope, "attention_factor", where)
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return size(_number(rope, "mscale", where)) / size(_number(rope, "mscale_all_dim", where))
    return size(1)


def _scaling_to_hf(scaling: RopeScaling | None) -> dict | None:
    if scaling is None:
        return None
    values = {
        "rope_type": scaling.kind,
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_positions,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "attention_factor": scaling.attention_factor,
        "truncate": scaling.truncate,
    }
    return {key: value for key, value in values.items() if value is not None}
