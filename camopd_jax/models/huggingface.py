"""Hugging Face's config.json and tensor names of the Llama, Mistral (without its window), Qwen2 and Qwen3 families.

Configs are plain dicts, as json.loads gives them; semantics are those of transformers 5 (configuration_*.py and
modeling_rope_utils.py), which reads what version 4 wrote.
"""

import math

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


def config_from_hf(hf: dict) -> DecoderConfig:
    """What config.json says, as transformers would understand it.

    Raises:
      ValueError: one line with the key, its value and what is supported, if a key is missing or asks for something
        that the decoder does not compute.
    """
    kind = hf.get("model_type")
    if kind not in ARCHITECTURES:
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
        head_dim=hf.get("head_dim") or HEAD_DIM[kind] or _integer(hf, "hidden_size") // heads,
        rope_theta=theta,
        norm_eps=float(hf.get("rms_norm_eps", 1e-6)),
        tied_head=bool(hf.get("tie_word_embeddings", False)),
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
    if any(layer != "full_attention" for layer in hf.get("layer_types") or ()):
        raise _refusal("layer_types", sorted(set(hf["layer_types"])), "full_attention in every layer")
    if hf.get("hidden_act", "silu") != "silu":
        raise _refusal("hidden_act", hf["hidden_act"], "silu")
    if hf.get("partial_rotary_factor", 1) != 1:
        raise _refusal("partial_rotary_factor", hf["partial_rotary_factor"], "1")
    if hf.get("quantization_config"):
        method = hf["quantization_config"].get("quant_method")
        raise _refusal("quantization_config.quant_method", method, "weights that are not quantised")


def _integer(hf: dict, key: str) -> int:
    if type(hf.get(key)) is not int or hf[key] < 1:
        raise _refusal(key, hf.get(key), "a whole number above 0")
    return hf[key]


def _kv_heads(hf: dict, kind: str, heads: int) -> int:
    kv_heads = hf.get("num_key_value_heads", KV_HEADS[kind]) or heads
    if type(kv_heads) is not int or kv_heads < 1 or heads % kv_heads:
        raise _refusal("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads = {heads}")
    return kv_heads


def _max_positions(hf: dict, kind: str) -> int:
    return hf.get("max_position_embeddings") or MAX_POSITIONS[kind]


def _rope(hf: dict, kind: str) -> tuple[float, RopeScaling | None]:
    """theta and scaling from rope_scaling (transformers 4) or rope_parameters (5), in transformers' order."""
    key = "rope_scaling" if hf.get("rope_scaling") else "rope_parameters"
    rope = hf.get(key) or {}
    if any(isinstance(value, dict) for value in rope.values()):
        raise _refusal(key, rope, "the same for all layers")
    if rope.get("partial_rotary_factor", 1) != 1:
        raise _refusal(f"{key}.partial_rotary_factor", rope["partial_rotary_factor"], "1")
    theta = float(rope.get("rope_theta") or hf.get("rope_theta") or 10_000.0)
    rope_type = rope.get("rope_type", rope.get("type", None if "factor" in rope else "default"))
    if rope_type == "default":
        return theta, None
    if rope_type not in KINDS:
        raise _refusal(f"{key}.rope_type", rope_type, ", ".join(("default", *KINDS)))

    def number(name: str) -> float:
        if not isinstance(rope.get(name), (int, float)):
            raise _refusal(f"{key}.{name}", rope.get(name), f"a number, for rope_type {rope_type!r}")
        return float(rope[name])

    original = (
        hf.get("original_max_position_embeddings")
        or rope.get("original_max_position_embeddings")
        or _max_positions(hf, kind)
    )
    factor = number("factor")
    if rope_type == "linear":
        return theta, RopeScaling("linear", factor)
    if rope_type == "llama3":
        low, high = number("low_freq_factor"), number("high_freq_factor")
        return theta, RopeScaling("llama3", factor, original, low_freq_factor=low, high_freq_factor=high)
    return theta, RopeScaling(
        "yarn", factor, original,
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        attention_factor=_attention_factor(rope, factor),
        truncate=rope.get("truncate", True),
    )  # fmt: skip


def _attention_factor(rope: dict, factor: float) -> float:
    """YaRN's factor of cosine and sine: given, or 0.1 ln(factor) + 1 (Peng et al. 2023), or a ratio of two such."""

    def size(mscale):
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return size(rope["mscale"]) / size(rope["mscale_all_dim"])
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
