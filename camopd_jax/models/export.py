"""Write a model in Hugging Face layout: transformers, vLLM and `path:` sources load it."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast

from camopd_jax.models.decoder import DecoderConfig, tensors_of
from camopd_jax.models.huggingface import config_to_hf, tensor_name
from camopd_jax.models.weights import WHOLE, Read

SHARD_BYTES = 4_000_000_000  # of one safetensors file; that much is held on the host while writing


def save_directory(
    directory: Path, cfg: DecoderConfig, read: Read, tokenizer: PreTrainedTokenizerFast, *, stop_ids: Sequence[int],
    dtype: str, shard_bytes: int = SHARD_BYTES, write: bool = True,
) -> None:  # fmt: skip
    """Write config, tokenizer with chat template, generation config and safetensors, in the place of what is there.

    The directory appears whole or not at all. `dtype` is "float32" or "bfloat16"; `read` gives merged weights. Where
    these are spread over several processes all of them must call this, and one without `write` only reads.
    """
    cfg = replace(cfg, lora=None)
    if not write:
        for name, layer, _ in tensors_of(cfg):
            read(name, layer, WHOLE)
        return
    with writing(directory) as staged:
        tokenizer.save_pretrained(staged)
        _name_tokenizer_class(staged / "tokenizer_config.json")
        ids = {"bos_id": tokenizer.bos_token_id, "eos_ids": list(stop_ids), "pad_id": tokenizer.pad_token_id}
        _write_json(staged / "config.json", config_to_hf(cfg, dtype=dtype, **ids))
        _write_json(
            staged / "generation_config.json",
            {"bos_token_id": ids["bos_id"], "eos_token_id": ids["eos_ids"], "pad_token_id": ids["pad_id"]},
        )
        _write_weights(staged, cfg, read, jnp.dtype(dtype), shard_bytes)


@contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """A new directory to fill, which takes the place of `directory` when it is whole; a failure leaves nothing."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".writing-"))
    try:
        staged = scratch / "new"
        staged.mkdir()
        yield staged
        if directory.is_symlink():
            directory.unlink()
        elif directory.exists():
            directory.rename(scratch / "replaced")
        staged.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _name_tokenizer_class(file: Path) -> None:
    """The name that every version of transformers knows: version 4 does not know the one that version 5 writes."""
    _write_json(file, json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _write_weights(directory: Path, cfg: DecoderConfig, read: Read, dtype: np.dtype, shard_bytes: int) -> None:
    files, held = [[]], 0
    for name, layer, shape in tensors_of(cfg):
        size = int(np.prod(shape)) * dtype.itemsize
        if held and held + size > shard_bytes:
            files.append([])
            held = 0
        files[-1].append((name, layer))
        held += size
    names = ["model.safetensors"]
    if len(files) > 1:
        names = [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    index, total = {}, 0
    for file, members in zip(names, files, strict=True):
        shard = {
            tensor_name(n, layer): np.ascontiguousarray(read(n, layer, WHOLE)).astype(dtype) for n, layer in members
        }
        save_file(shard, directory / file, metadata={"format": "pt"})
        total += sum(t.nbytes for t in shard.values())
        index |= dict.fromkeys(shard, file)
    if len(files) > 1:
        _write_json(
            directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index}
        )


def _write_json(path: Path, what: dict) -> None:
    path.write_text(json.dumps(what, indent=2) + "\n")
