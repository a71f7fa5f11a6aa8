"""Write a model in Hugging Face layout: transformers, vLLM and `path:` sources load it."""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast

from camopd_jax.models.decoder import DecoderConfig, tensors_of
from camopd_jax.models.huggingface import config_to_hf, tensor_name
from camopd_jax.models.weights import WHOLE, Read

STAGED = ".writing-"  # begins the name of what is not whole yet
FORGOTTEN = 24 * 3600  # seconds after which nobody writes any more what is not whole yet
SHARD_BYTES = 4_000_000_000  # of one safetensors file; that much is held on the host while writing


def save_directory(
    directory: Path, cfg: DecoderConfig, read: Read, tokenizer: PreTrainedTokenizerFast, *, stop_ids: Sequence[int],
    dtype: str, shard_bytes: int = SHARD_BYTES, write: bool = True, replace: bool = True,
) -> None:  # fmt: skip
    """Write config, tokenizer with chat template, generation config and safetensors, as `writing` does.

    The directory appears whole or not at all. `dtype` is "float32" or "bfloat16"; `read` gives merged weights. Where
    these are spread over several processes all of them must call this, and one without `write` only reads.
    """
    cfg = dataclasses.replace(cfg, lora=None)
    if not write:
        for name, layer, _ in tensors_of(cfg):
            read(name, layer, WHOLE)
        return
    with writing(directory, replace) as staged:
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
def writing(directory: Path, replace: bool) -> Iterator[Path]:
    """A new directory to fill, which gets its name when it is whole and on the disk; a failure leaves nothing.

    Args:
      replace: put it in the place of a directory that is there by then; without it that one stays, as of another run
        that made the same at once and may be reading it.

    Raises:
      OSError: if the disk does not take it.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=STAGED))
    try:
        staged = scratch / "new"
        staged.mkdir()
        try:
            yield staged
        except SafetensorError as error:
            raise OSError(f"{directory} could not be written ({error})") from error
        for path in [p for p in staged.rglob("*") if p.is_file()] + [staged]:
            sync(path)
        while replace or not directory.is_dir():
            if directory.is_symlink():
                directory.unlink(missing_ok=True)
            elif directory.exists():
                with contextlib.suppress(FileNotFoundError):  # another run has just done so
                    directory.rename(Path(tempfile.mkdtemp(dir=scratch)) / "replaced")
            with contextlib.suppress(FileExistsError, IsADirectoryError):  # another run was faster
                _rename(staged, directory)
                sync(directory.parent)
                break
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _rename(staged: Path, directory: Path) -> None:
    try:
        staged.rename(directory)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(error.errno, error.strerror, str(directory)) from None
        raise


def sync(path: Path) -> None:
    """Return when a file, or the list of a directory's files, is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def clean(directory: Path, older: float) -> None:
    """Remove what killed processes left half written in a directory, last changed so many seconds ago or more."""
    for path in directory.glob(f"{STAGED}*"):
        with contextlib.suppress(OSError):  # of another user, or gone by now
            if time.time() - path.stat().st_mtime >= older:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


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
