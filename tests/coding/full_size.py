"""A model of MIMIC-IV-ICD-10's size without its notes: what it needs.

    python tests/coding/full_size.py plan              the memory plan of configs/icd.py:paper on one GPU
    python tests/coding/full_size.py steps [NOTES]     two updates of so many notes (8) at small width, and their memory

26,096 codes, of which 18,000 are taken to be rare; notes of 6,120 tokens, the most that are read (23 chunks).
"""

import resource
import runpy
import sys
import time
from pathlib import Path

import jax
import numpy as np

from camopd_jax import sharding, step
from camopd_jax.coding import footprint
from camopd_jax.coding.footprint import Size
from camopd_jax.models.encoder import EncoderConfig
from camopd_jax.probias import graph, model, system
from camopd_jax.probias.graph import Graph
from camopd_jax.probias.model import ModelConfig

CODES, RARE, TOKENS = 26_096, 18_000, 6_120
GATORTRON = EncoderConfig(  # UFNLP/gatortron-base
    "megatron-bert", 50_176, 1024, 4096, 24, 16, max_positions=512, first_position=0, types=2, norm_eps=1e-12
)
SMALL = EncoderConfig("bert", 1000, 32, 64, 1, 2, max_positions=512, first_position=0, types=1, norm_eps=1e-12)


def paper():
    config = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "icd.py"))["get_config"]("paper")
    return config.unlock()


def model_config(config, text: EncoderConfig) -> ModelConfig:
    return ModelConfig(
        text=text, codes=CODES, described=text.width, width=config.labels.width, heads=config.labels.heads,
        mlp_width=config.graph.mlp_width, direction=config.graph.direction, bias=config.graph.bias,
        bias_scale=config.graph.bias_scale, gate=config.graph.gate, queries=config.labels.queries,
        dropout=config.dropout, code_block=config.labels.code_block, rare_block=config.graph.rare_block,
        remat=config.text.remat,
    )  # fmt: skip


def plan() -> list[footprint.Phase]:
    """The phases of the paper's preset on one device."""
    config = paper()
    return footprint.phases(config, Size(model_config(config, GATORTRON), RARE, CODES - RARE, TOKENS, 1))


def small(notes: int):
    """The paper's preset with small widths, all notes of an update in one micro-batch."""
    config = paper()
    config.labels.width, config.labels.heads, config.graph.mlp_width, config.labels.code_block = 32, 2, 32, 256
    config.precision, config.micro.notes, config.data.batch_size = "float32", notes, notes
    return config


def steps(notes: int) -> None:
    """Two updates; prints the loss, the time and the most memory that the process had."""
    config = small(notes)
    cfg, rng = model_config(config, SMALL), np.random.default_rng(0)
    p_RK = np.where(rng.random((RARE, CODES - RARE)) < 0.003, rng.random((RARE, CODES - RARE)), 0).astype(np.float32)
    made = Graph(np.arange(RARE, CODES), np.arange(RARE), graph.buckets(p_RK), p_RK)
    codes = model.codes_of(cfg, made, rng.normal(size=(CODES, SMALL.width)))
    del p_RK, made
    static, shapes = model.split(cfg)
    mesh = sharding.make_mesh(1, 1, 1)
    loss, logits = system.objective(static, np.zeros(CODES, np.float32), "float32")
    built = step.of_loss(
        loss, logits, sharding.by_rows(mesh), shapes, mesh, model.AXES,
        step.make_optimizer(**config.optim, decay_steps=100), codes,
    )  # fmt: skip
    chunks, length = config.text.max_chunks, config.text.chunk_tokens + 2
    batch = model.Notes(
        rng.integers(5, 1000, (notes, chunks, length)).astype(np.int32), np.ones((notes, chunks, length), bool),
        (rng.random((notes, CODES)) < 15 / CODES).astype(np.float32), np.full(notes, 1 / notes, np.float32),
        np.zeros(notes, np.uint32),
    )  # fmt: skip
    state = built.init(model.random_params(cfg, 0), jax.random.key(0))
    planned = max(phase.total / 1e9 for phase in footprint.phases(config, Size(cfg, RARE, CODES - RARE, TOKENS, 1)))
    for number in (1, 2):
        clock = time.monotonic()
        grads, sums = built.micro(state.params, built.zeros(), batch, codes)
        state = built.apply(state, grads)
        value = float(sums["loss"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(
            f"step {number}: {notes} notes x {CODES:,} codes x {TOKENS:,} tokens, loss {value:.4f}, "
            f"{time.monotonic() - clock:.0f} s; peak memory {peak:.1f} GB (planned {planned:.1f})", flush=True,
        )  # fmt: skip


def main(argv: list[str]) -> None:
    if argv[:1] == ["steps"]:
        steps(int(argv[1]) if argv[1:] else 8)
        return
    for phase in plan():
        parts = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in phase.parts.items() if value)
        print(f"{phase.name}: {phase.total / 1e9:.1f} GB ({parts})")


if __name__ == "__main__":
    main(sys.argv[1:])
