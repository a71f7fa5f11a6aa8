"""Read a GGUF file: weights in our layout, dequantised one at a time, and the tokenizer that it carries."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from transformers import PreTrainedTokenizerFast

from camopd_jax.models import gguf_header, gguf_tokenizer
from camopd_jax.models.decoder import DecoderConfig, tensors_of
from camopd_jax.models.gguf_header import Tensor
from camopd_jax.models.rope import RopeScaling, frequencies

VERSION = 2  # raise it when a conversion gives other weights or another tokenizer

ARCHITECTURES = ("llama", "qwen2", "qwen3")

NAMES = {
    "embed": "token_embd.weight", "head": "output.weight", "norm": "output_norm.weight",
    "attn_norm": "blk.{}.attn_norm.weight", "mlp_norm": "blk.{}.ffn_norm.weight",
    "q": "blk.{}.attn_q.weight", "k": "blk.{}.attn_k.weight", "v": "blk.{}.attn_v.weight",
    "q_bias": "blk.{}.attn_q.bias", "k_bias": "blk.{}.attn_k.bias", "v_bias": "blk.{}.attn_v.bias",
    "q_norm": "blk.{}.attn_q_norm.weight", "k_norm": "blk.{}.attn_k_norm.weight", "o": "blk.{}.attn_output.weight",
    "gate": "blk.{}.ffn_gate.weight", "up": "blk.{}.ffn_up.weight", "down": "blk.{}.ffn_down.weight",
}  # fmt: skip
ROPE_FACTORS = "rope_freqs.weight"

# Keys of an architecture that would change the computation, with the value at which they do not.
NEUTRAL = {
    "expert_count": 0, "attention.causal": True, "attention.sliding_window": 0, "attention.scale": 0.0,
    "rope.scaling.attn_factor": 1.0, "rope.scaling.yarn_attn_factor": 1.0, "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class GgufModel:
    """A model in a GGUF file; its weights stay there until they are read."""

    cfg: DecoderConfig
    tokenizer: PreTrainedTokenizerFast
    stop_ids: tuple[int, ...]  # tokens that end an answer
    read: Callable[[str, int | None], np.ndarray]  # (name in NAMES, layer or None) -> float32 [out, in], or [out]


def open_gguf(file: Path) -> GgufModel:
    """Open a dense GGUF file of the architecture llama, qwen2 or qwen3, in any quantisation of gguf.quants.

    Raises:
      ValueError: if the file is damaged or incomplete, or holds a model that the decoder cannot compute.
    """
    try:
        metadata, tensors = gguf_header.read_header(file)
        data = np.memmap(file, np.uint8, "r")
        for name, tensor in tensors.items():
            _check_stored(name, tensor, len(data))
        cfg = _config(metadata, tensors, data)
        _check_shapes(cfg, tensors)
        tokenizer, stop_ids = gguf_tokenizer.read_tokenizer(metadata)
        if cfg.vocab_size < len(metadata["tokenizer.ggml.tokens"]):
            raise ValueError(f"its vocabulary is larger than its embedding of {cfg.vocab_size} rows")
    except ValueError as error:
        raise ValueError(f"GGUF file {file}: {error}") from None
    except (TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:  # a value of another kind
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"GGUF file {file}: its metadata is damaged ({why})") from None
    interleaved = {"q": cfg.heads, "k": cfg.kv_heads} if metadata["general.architecture"] == "llama" else {}

    def read(name: str, layer: int | None) -> np.ndarray:
        weight = _dequantised(data, tensors[NAMES[name].format(layer)])
        return half_split(weight, interleaved[name]) if name in interleaved else weight

    return GgufModel(cfg, tokenizer, stop_ids, read)


def half_split(w: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp interleaves the two halves of each head's rotary pairs in the llama architecture; put them back."""
    return w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def _config(metadata: dict[str, Any], tensors: dict[str, Tensor], data: np.ndarray) -> DecoderConfig:
    arch = metadata.get("general.architecture")
    if arch not in ARCHITECTURES:
        raise ValueError(f"its architecture is {arch!r}; allowed are {', '.join(ARCHITECTURES)}")
    if metadata.get("split.count", 1) > 1:
        raise ValueError("it is one part of several; allowed is a whole one (join them: llama-gguf-split --merge)")
    own = {key.removeprefix(f"{arch}."): value for key, value in metadata.items() if key.startswith(f"{arch}.")}
    for key, neutral in NEUTRAL.items():
        if own.get(key, neutral) != neutral:
            raise ValueError(f"{key} is {own[key]}; allowed is {neutral} (dense, causal, full attention)")
    width, heads = _size(own, "embedding_length"), _size(own, "attention.head_count")
    rotary = _size(own, "rope.dimension_count", own.get("attention.key_length", width // heads))
    head_dim = _size(own, "attention.key_length", rotary)
    if rotary != head_dim or own.get("attention.value_length", head_dim) != head_dim or head_dim % 2:
        raise ValueError(f"its keys have {head_dim} dimensions, {rotary} rotary; allowed is an even number, all rotary")
    if NAMES["embed"] not in tensors:
        raise ValueError(f"the tensor {NAMES['embed']} is missing")
    theta = _number(own, "rope.freq_base", 10000.0)
    factors = _dequantised(data, tensors[ROPE_FACTORS]) if ROPE_FACTORS in tensors else None
    return DecoderConfig(
        vocab_size=tensors[NAMES["embed"]].shape[0],
        width=width,
        mlp_width=_size(own, "feed_forward_length"),
        layers=_size(own, "block_count"),
        heads=heads,
        kv_heads=_size(own, "attention.head_count_kv", heads),
        head_dim=head_dim,
        rope_theta=theta,
        norm_eps=_number(own, "attention.layer_norm_rms_epsilon", None),
        tied_head=NAMES["head"] not in tensors,
        max_positions=_size(own, "context_length"),
        qk_norm=arch == "qwen3",
        qkv_bias=arch == "qwen2",
        rope_scaling=_rope_scaling(own) if factors is None else _llama3_scaling(own, factors, head_dim, theta),
    )


def _rope_scaling(own: dict[str, Any]) -> RopeScaling | None:
    kind = own.get("rope.scaling.type", "linear")  # with the factor 1, which is llama.cpp's default
    if kind not in ("none", "linear", "yarn"):
        raise ValueError(f"rope.scaling.type is {kind!r}; allowed are none, linear, yarn")
    factor = _number(own, "rope.scaling.factor", own.get("rope.scale_linear", 1.0))
    if kind == "none" or factor in (0.0, 1.0):
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=factor)
    original = _size(own, "rope.scaling.original_context_length", own["context_length"])
    attention = 1 + 0.1 * math.log(factor)  # what llama.cpp computes, and Hugging Face's default
    return RopeScaling(
        "yarn", factor, original, beta_fast=32.0, beta_slow=1.0, attention_factor=attention, truncate=True
    )


def _llama3_scaling(own: dict[str, Any], factors: np.ndarray, head_dim: int, theta: float) -> RopeScaling | None:
    """The scaling that divides the frequencies by `factors`, as llama.cpp stores Llama 3's."""
    scaling = RopeScaling("llama3", float(factors.max()), 8192, low_freq_factor=1.0, high_freq_factor=4.0)
    expected = frequencies(head_dim, theta, None) / frequencies(head_dim, theta, scaling)
    same = factors.shape == expected.shape and np.allclose(factors, expected, rtol=1e-4, atol=0)
    if not same or _rope_scaling(own):
        raise ValueError(f"the tensor {ROPE_FACTORS} is not Llama 3's; allowed are its factors (low 1, high 4, 8192)")
    return None if scaling.factor == 1.0 else scaling


def _size(own: dict[str, Any], key: str, default: int | None = None) -> int:
    value = own.get(key, default)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is {'missing' if value is None else value}; allowed is one whole number above 0")
    return value


def _number(own: dict[str, Any], key: str, default: float | None) -> float:
    value = own.get(key, default)
    if not isinstance(value, int | float):
        raise ValueError(f"{key} is {'missing' if value is None else value}; allowed is a number")
    return float(str(np.float32(value)))  # 1e-5 as it was written, not the float32 nearest to it


def _check_stored(name: str, tensor: Tensor, file_size: int) -> None:
    """That the values of a tensor are in the file and can be dequantised."""
    try:
        kind = GGMLQuantizationType(tensor.kind)
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (ValueError, NotImplementedError):
        raise ValueError(f"the tensor {name} has the type {tensor.kind}, which gguf.quants cannot dequantise") from None
    block, _ = GGML_QUANT_SIZES[kind]
    if not tensor.shape or tensor.shape[-1] % block:
        raise ValueError(f"the tensor {name} is {tensor.shape}; {kind.name} stores rows of whole blocks of {block}")
    if (end := tensor.offset + _stored_bytes(tensor)) > file_size:
        raise ValueError(f"it is truncated: {name} ends at byte {end}, the file at {file_size}")


def _check_shapes(cfg: DecoderConfig, tensors: dict[str, Tensor]) -> None:
    """That the file has each tensor of the model in its shape, and no others."""
    if cfg.layers > len(tensors):  # or the names of a billion layers would fill the memory
        raise ValueError(f"block_count is {cfg.layers}, and there are {len(tensors)} tensors")
    expected = {NAMES[name].format(layer): shape for name, layer, shape in tensors_of(cfg)}
    for name, shape in expected.items():
        if name not in tensors:
            raise ValueError(f"the tensor {name} is missing")
        if tensors[name].shape != shape:
            raise ValueError(f"the tensor {name} is {tensors[name].shape}, expected {shape}")
    if strange := sorted(tensors.keys() - expected.keys() - {ROPE_FACTORS}):
        raise ValueError(f"it holds the tensor {strange[0]}, for which the decoder has no place")


def _stored_bytes(tensor: Tensor) -> int:
    block, block_bytes = GGML_QUANT_SIZES[tensor.kind]
    return math.prod(tensor.shape) // block * block_bytes


def _dequantised(data: np.ndarray, tensor: Tensor) -> np.ndarray:
    stored = data[tensor.offset : tensor.offset + _stored_bytes(tensor)]
    rows = stored.reshape(math.prod(tensor.shape[:-1]), -1)
    return np.array(dequantize(rows, GGMLQuantizationType(tensor.kind)), np.float32).reshape(tensor.shape)
