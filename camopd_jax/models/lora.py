"""Low-rank adapters beside frozen weights (Hu et al. 2021): split, join, start, save and load.

Parameters with adapters are ordinary parameters whose layers also hold NAME_lora_a and NAME_lora_b; the forward
pass adds alpha / rank (x A^T) B^T. What trains is the adapter; the rest can be shared by any number of models.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from camopd_jax import sharding
from camopd_jax.models.decoder import DecoderConfig, Lora
from camopd_jax.models.export import writing
from camopd_jax.models.huggingface import tensor_name
from camopd_jax.types import Params

FILE = "adapter_model.safetensors"


def is_adapter(name: str) -> bool:
    return name.endswith(("_lora_a", "_lora_b"))


def split(params: Params) -> tuple[Params, Params]:
    """(all other parameters, the adapter); works on any tree of this form: arrays, shapes, shardings."""
    base = params | {"layers": {k: v for k, v in params["layers"].items() if not is_adapter(k)}}
    return base, {"layers": {k: v for k, v in params["layers"].items() if is_adapter(k)}}


def join(base: Params, adapter: Params) -> Params:
    """The parameters of base and adapter together; nothing is copied."""
    return base | {"layers": base["layers"] | adapter["layers"]}


def start(shapes: Params, seed: int) -> Params:
    """A new adapter on the host, which changes nothing yet: A normal with variance 1 / in, B zero."""
    rng = np.random.default_rng(seed)

    def one(name, shape):
        if name.endswith("_lora_b"):
            return np.zeros(shape, np.float32)
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    return {"layers": {name: one(name, s.shape) for name, s in sorted(shapes["layers"].items()) if is_adapter(name)}}


def scaled(adapter: Params, factor: float) -> Params:
    """The adapter whose change of the weights is `factor` times as large."""
    return {"layers": {k: v * factor if k.endswith("_b") else v for k, v in adapter["layers"].items()}}


def save(directory: Path, adapter: Params, lora: Lora, base: str, write: bool = True) -> None:
    """Write an adapter in the layout of the PEFT library; it appears whole or not at all.

    All processes must call it; one without `write` writes nothing.
    """
    tensors = {}
    for name, stacked in adapter["layers"].items():
        for layer, tensor in enumerate(sharding.fetch(stacked)):
            tensors[_peft_name(name, layer)] = np.ascontiguousarray(tensor)
    if not write:
        return
    with writing(directory, replace=True) as staged:
        save_file(tensors, staged / FILE, metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "target_modules": [tensor_name(t, 0).split(".")[-2] for t in lora.targets],
            "lora_dropout": 0.0,
            "bias": "none",
        }
        (staged / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load(directory: Path, cfg: DecoderConfig, shapes: Params) -> Params:
    """The adapter that `save` wrote, stacked over layers, on the host."""
    tensors = load_file(directory / FILE)
    names = [name for name in shapes["layers"] if is_adapter(name)]
    return {"layers": {n: np.stack([tensors[_peft_name(n, i)] for i in range(cfg.layers)]) for n in names}}


def _peft_name(name: str, layer: int) -> str:
    """base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"""
    target, part = name.rsplit("_lora_", 1)
    module = tensor_name(target, layer).removesuffix(".weight")
    return f"base_model.model.{module}.lora_{part.upper()}.weight"


def place(adapter: Params, shardings: Params, dtype: jnp.dtype) -> Params:
    """Copy a host adapter onto the mesh."""
    at = split(shardings)[1]
    return jax.tree.map(lambda x, s: jax.device_put(sharding.spread(np.asarray(x).astype(dtype), s), s), adapter, at)
