"""How long a run will take on this machine: operations to do, over a rate measured in half a second."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from camopd_jax import chips
from camopd_jax.camopd import methods
from camopd_jax.inputs import Inputs
from camopd_jax.models.decoder import DecoderConfig, layer_products

# Shares of the matrix-product rate that each kind of work reaches, padding and waits included; set so that the
# stages of one run on 2 CPU cores came out right (docs/performance.md).
SCORING, TRAINING, DECODING = 0.75, 0.40, 0.25
SELECTED = 0.7  # of a batch's tokens, where only the samples of largest demand train


@dataclass(frozen=True)
class Work:
    """Tokens of each kind of work; training counts the backward pass, decoding one token a row."""

    scored: float = 0.0
    trained: float = 0.0
    decoded: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.scored + other.scored, self.trained + other.trained, self.decoded + other.decoded)

    def times(self, n: float) -> "Work":
        return Work(n * self.scored, n * self.trained, n * self.decoded)


def matmul_rate(size: int = 2048) -> float:
    """FLOP/s of a square float32 matrix product on one device, the best of three.

    One of several simulated devices of a CPU reaches that of the whole processor.
    """
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / chips.fastest(lambda: product(x).block_until_ready(), 3)


def parameters(cfg: DecoderConfig) -> int:
    """Weights that take part in a product for each token (the tied embedding counts once, as the head)."""
    return cfg.layers * layer_products(cfg) + cfg.vocab_size * cfg.width


def minutes(work: Work, cfg: DecoderConfig, rate: float, devices: int) -> float:
    """2 N operations a token scored or decoded, 8 N a token trained (the forward pass is made twice)."""
    n = parameters(cfg)
    seconds = 2 * n * work.scored / SCORING + 8 * n * work.trained / TRAINING + 2 * n * work.decoded / DECODING
    return seconds / (rate * devices) / 60


def estimate(read: Inputs) -> str:
    """One line for the user: minutes of each stage of a recovery run."""
    config, rate, cfg, evaluation, branches = read.config, matmul_rate(), read.engine.cfg, read.suite, read.branches

    def mean(sequences: Sequence[np.ndarray]) -> float:
        return float(np.mean([len(x) for x in sequences]))

    specialise = Work()
    if read.examples:
        example = mean(read.examples.prompts) + mean(read.examples.answers)
        specialise = Work(trained=config.specialise.steps * config.specialise.batch_size * example)
    evaluate = Work()
    for task in (evaluation.general, evaluation.instructions, *evaluation.domains.values()):
        n = len(task.encoded)
        evaluate += Work(scored=n * task.width, decoded=n * task.max_new_tokens)
    answered = mean(evaluation.general.encoded) + config.eval.max_new_tokens
    evaluate += Work(scored=3 * len(evaluation.general.encoded) * answered)
    share = SELECTED if methods.method_of(config.camopd).select is methods.selected_alone else 1.0
    cycle = Work()
    for name in config.camopd.cycle:
        batch, new, prompts = config.rollout.batch_size, config.rollout.max_new_tokens, branches[name].prompts
        tokens = batch * (mean(prompts) + new)
        cycle += Work(scored=2 * tokens + batch * max(map(len, prompts)), trained=share * tokens, decoded=batch * new)
    recover = cycle.times(config.steps / len(config.camopd.cycle))
    devices = 1 if jax.default_backend() == "cpu" else jax.device_count()  # simulated ones share the processor
    once, teachers, steps, last = (
        f"{minutes(work, cfg, rate, devices):.0f} min"
        for work in (specialise, evaluate.times(len(branches) + len(config.eval.interpolation)), recover, evaluate)
    )
    return (
        f"about {once} to specialise and {teachers} to evaluate the teachers (both once per machine), {steps} to "
        f"recover, {last} to evaluate; compiling comes on top ({rate / 1e9:.0f} GFLOP/s measured here)"
    )
