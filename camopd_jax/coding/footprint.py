"""What an ICD coding run holds on a device, and what it writes."""

import math
from pathlib import Path

import jax
import numpy as np

from camopd_jax import sharding
from camopd_jax.coding.inputs import Inputs
from camopd_jax.footprint import MOMENTS, PARTS, Phase
from camopd_jax.probias import graph, model
from camopd_jax.room import LOGS, Written

BYTES = {"float32": 4, "bfloat16": 2}


def parameters(read: Inputs) -> int:
    return sum(int(np.prod(s.shape)) for s in jax.tree.leaves(model.split(read.cfg)[1]))


def phases(read: Inputs) -> list[Phase]:
    """Bytes of an update and of an evaluation on one device; weights and moments as if whole on each."""
    config, cfg = read.config, read.cfg
    size = parameters(read)
    shards = sharding.data_shards(read.mesh)
    state = {"weights": 4.0 * size, "moments": MOMENTS[config.optim.name] * float(size)}
    update = state | {"gradients": 8.0 * size, "activations": activations(read, config.micro.notes // shards, True)}
    evaluate = {"weights": 4.0 * size, "activations": activations(read, config.eval.batch_size // shards, False)}
    state_of_codes = {"copies": float(codes_bytes(cfg, read.graph))}
    return [_phase("update", update | state_of_codes), _phase("evaluation", evaluate | state_of_codes)]


def _phase(name: str, parts: dict[str, float]) -> Phase:
    return Phase(name, dict.fromkeys(PARTS, 0.0) | parts)


def codes_bytes(cfg: model.ModelConfig, made: graph.Graph) -> int:
    """Descriptions, and the graph's bucket of each pair."""
    return 4 * cfg.codes * cfg.described + made.bucket_RK.nbytes * (5 if cfg.bias == "continuous" else 1)


def activations(read: Inputs, notes: int, backward: bool) -> float:
    """The most that the forward pass of so many notes keeps, with the backward pass's share: an upper estimate."""
    cfg, text, chunking = read.cfg, read.cfg.text, read.chunking
    wide, length = BYTES[read.config.precision], chunking.tokens + 2
    longest = max(len(x) for part in read.parts.values() for x in part.ids)
    chunks = notes * chunking.count(longest)
    tokens = chunks * length
    layer = tokens * (wide * (6 * text.width + 2 * text.mlp_width) + text.heads * length * (4 + wide))
    if cfg.remat or not backward:
        kept = tokens * text.width * wide * text.layers * backward + layer * (2 if backward else 1)
    else:
        kept = layer * text.layers * 2
    block = min(cfg.code_block, cfg.codes)
    attention = chunks * cfg.heads * block * length * 4 * (3 if backward else 2)
    logits = chunks * cfg.codes * 4 * 3
    pairs = cfg.heads * min(cfg.rare_block, len(read.graph.rare_R)) * len(read.graph.common_K) * 4 * 3
    return float(kept + attention + logits + (pairs if cfg.direction != "none" else 0))


def written(read: Inputs, workdir: Path) -> Written:
    """What the run still writes: checkpoints with their moments, the export, logs."""
    config, size = read.config, parameters(read)
    c = config.checkpoint
    kept = c.keep_last + (c.keep_best if config.eval.every else 0)
    saved = min(kept + 1, math.ceil(config.steps / c.every)) * (4 + MOMENTS[config.optim.name]) * size
    export = 4 * size + codes_bytes(read.cfg, read.graph)
    return Written(f"--workdir={workdir}", workdir, {"checkpoints": saved, "export": export, "logs": LOGS})
