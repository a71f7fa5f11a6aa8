"""What an ICD coding run holds on a device, and what it writes."""

import math
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from camopd_jax import sharding
from camopd_jax.coding import rules
from camopd_jax.coding.inputs import Inputs
from camopd_jax.footprint import MOMENTS, PARTS, Phase
from camopd_jax.probias import model
from camopd_jax.room import LOGS, Written

BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Size:
    """How large the model and its notes are; `of_run` reads it of a run, and a plan says it of notes that it lacks."""

    cfg: model.ModelConfig
    rare: int  # codes
    common: int
    longest: int  # tokens of the longest note that are read
    shards: int  # of a batch


def of_run(read: Inputs) -> Size:
    """The sizes of a run whose notes are read."""
    longest = max(len(x) for part in read.parts.values() for x in part.ids)
    return Size(
        read.cfg, len(read.graph.rare_R), len(read.graph.common_K), longest, sharding.data_shards(read.mesh)
    )  # fmt: skip


def parameters(cfg: model.ModelConfig) -> int:
    """How many numbers train."""
    return sum(int(np.prod(s.shape)) for s in jax.tree.leaves(model.split(cfg)[1]))


def phases(config: ConfigDict, size: Size) -> list[Phase]:
    """Bytes of an update and of an evaluation on one device; weights and moments as if whole on each."""
    count = parameters(size.cfg)
    state = {"weights": 4.0 * count, "moments": MOMENTS[config.optim.name] * float(count)}
    held = {"copies": float(codes_bytes(size))}
    update = state | {"gradients": 8.0 * count, "activations": activations(config, size, True)} | held
    evaluate = {"weights": 4.0 * count, "activations": activations(config, size, False)} | held
    return [_phase("update", update), _phase("evaluation", evaluate)]


def _phase(name: str, parts: dict[str, float]) -> Phase:
    return Phase(name, dict.fromkeys(PARTS, 0.0) | parts)


def codes_bytes(size: Size) -> int:
    """Descriptions, and the graph's bucket of each pair."""
    cfg = size.cfg
    return 4 * cfg.codes * cfg.described + size.rare * size.common * (5 if cfg.bias == "continuous" else 1)


def activations(config: ConfigDict, size: Size, backward: bool) -> float:
    """The most that the forward pass of a micro-batch, or of a batch of an evaluation, keeps: an upper estimate.

    Args:
      backward: with the backward pass's share; of a micro-batch.
    """
    cfg, text = size.cfg, size.cfg.text
    notes = (config.micro.notes if backward else config.eval.batch_size) // size.shards
    chunking = rules.chunking_of(config)
    wide, length = BYTES[config.precision], chunking.tokens + 2
    chunks = notes * chunking.count(size.longest)
    tokens = chunks * length
    layer = tokens * (wide * (6 * text.width + 2 * text.mlp_width) + text.heads * length * (4 + wide))
    if cfg.remat or not backward:
        kept = tokens * text.width * wide * text.layers * backward + layer * (2 if backward else 1)
    else:
        kept = layer * text.layers * 2
    block = min(cfg.code_block, cfg.codes)
    attention = chunks * cfg.heads * block * length * 4 * (3 if backward else 2)
    logits = chunks * cfg.codes * 4 * 3
    pairs = cfg.heads * min(cfg.rare_block, size.rare) * size.common * 4 * 3
    return float(kept + attention + logits + (pairs if cfg.direction != "none" else 0))


def written(read: Inputs, workdir: Path) -> Written:
    """What the run still writes: checkpoints with their moments, the export, logs."""
    config, size = read.config, parameters(read.cfg)
    c = config.checkpoint
    kept = c.keep_last + (c.keep_best if config.eval.every else 0)
    saved = min(kept + 1, math.ceil(config.steps / c.every)) * (4 + MOMENTS[config.optim.name]) * size
    export = 4 * size + codes_bytes(of_run(read))
    return Written(f"--workdir={workdir}", workdir, {"checkpoints": saved, "export": export, "logs": LOGS})
