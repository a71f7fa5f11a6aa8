"""A trained model of ICD codes as a directory: weights, codes and tokenizer, all that predicting needs."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerFast

from camopd_jax import metrics, sharding
from camopd_jax.models import export as directories
from camopd_jax.models.encoder import EncoderConfig
from camopd_jax.probias import model
from camopd_jax.probias.chunks import Chunking
from camopd_jax.probias.model import Codes, ModelConfig
from camopd_jax.types import Params

WEIGHTS, CODES, ABOUT = "model.safetensors", "codes.safetensors", "icd.json"


@dataclass(frozen=True)
class Saved:
    """What `export` wrote."""

    cfg: ModelConfig
    params: Params
    codes: Codes
    tokenizer: PreTrainedTokenizerFast
    chunking: Chunking
    labels: tuple[str, ...]
    titles: tuple[str, ...]
    threshold_C: np.ndarray
    temperature: float
    precision: str


def export(directory: Path, read, coder, params: Params, judged, write: bool) -> None:
    """Write a model; all processes must call it, and one without `write` only gives its part of the weights."""
    whole = sharding.fetch(params)
    if not write:
        return
    about = {
        "model": asdict(read.cfg), "chunking": asdict(read.chunking), "precision": read.config.precision,
        "labels": read.labels.codes, "titles": read.labels.titles, "frequency": read.labels.frequency_C.tolist(),
        "threshold": judged.threshold_C.tolist(), "temperature": judged.temperature,
    }  # fmt: skip
    with directories.writing(directory, replace=True) as staged:
        save_file({k: np.ascontiguousarray(v) for k, v in flatten_dict(whole, sep=".").items()}, staged / WEIGHTS)
        codes = {k: np.ascontiguousarray(v) for k, v in vars(jax.device_get(coder.codes)).items()}
        save_file(codes, staged / CODES)
        read.tokenizer.save_pretrained(staged)
        metrics.write_json(staged / ABOUT, about)


def load(directory: Path) -> Saved:
    """Read what `export` wrote.

    Raises:
      ValueError: if it is not there, damaged, or of another shape.
    """
    if not (directory / ABOUT).is_file():
        raise ValueError(
            f"--model={directory}: no {ABOUT} is there; allowed is the export directory of a run of configs/icd.py"
        )
    try:
        about = json.loads((directory / ABOUT).read_text(encoding="utf-8"))
        made = dict(about["model"])
        cfg = ModelConfig(**made | {"text": EncoderConfig(**made["text"])})
        params = unflatten_dict(load_file(directory / WEIGHTS), sep=".")
        codes = Codes(**load_file(directory / CODES))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
        saved = Saved(
            cfg, params, codes, tokenizer, Chunking(**about["chunking"]), tuple(about["labels"]),
            tuple(about["titles"]), np.array(about["threshold"], np.float32), float(about["temperature"]),
            about["precision"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(
            f"--model={directory} cannot be read ({told}); allowed is the export of a finished run"
        ) from None
    _, shapes = model.split(cfg)
    wanted = {k: v.shape for k, v in flatten_dict(shapes, sep=".").items()}
    found = {k: v.shape for k, v in flatten_dict(params, sep=".").items()}
    sizes = {len(x) for x in (saved.labels, saved.titles, saved.threshold_C, codes.described_CE)}
    if wanted != found or sizes != {cfg.codes} or not saved.temperature > 0:
        raise ValueError(f"--model={directory}: its weights are not those of its {ABOUT}; export it again")
    return saved
