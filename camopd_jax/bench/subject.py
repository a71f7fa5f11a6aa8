"""The model that is measured: a model source, or random weights of an architecture that is known by name."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from transformers import PreTrainedTokenizerFast

from camopd_jax.engine import Engine
from camopd_jax.models import known, load, tiny
from camopd_jax.models.decoder import DecoderConfig
from camopd_jax.types import Params

# As in random:qwen3-1.7b; random:llama is a model source of its own.
ARCHITECTURES = {
    source.rpartition("/")[2].lower(): cfg for source, cfg in known.KNOWN.items() if source.startswith("hf:")
}


@dataclass(frozen=True)
class Subject:
    """A model whose weights come onto the mesh of an engine in a dtype."""

    source: str
    fingerprint: str | None  # None: random weights
    cfg: DecoderConfig
    tokenizer: PreTrainedTokenizerFast
    vocab: int  # ids below are tokens
    place: Callable[[Engine, str], Params]


def check(source: str) -> None:
    """Raise ValueError unless a model can be there, as far as that takes no download."""
    if source.startswith("random:") and not source.startswith("random:llama"):
        if source.removeprefix("random:").lower() not in ARCHITECTURES:
            raise ValueError(
                f"--model={source}: no such architecture is known; allowed are a model source, random:llama, and "
                f"random: with one of {', '.join(ARCHITECTURES)}"
            )
    else:
        load.check(source)


def find(source: str) -> Subject:
    """Open a model; nothing is placed yet.

    Raises:
      ValueError: as `load.load`.
    """
    cfg = ARCHITECTURES.get(source.removeprefix("random:").lower()) if source.startswith("random:") else None
    if cfg is not None:
        return Subject(source, None, cfg, tiny.tokenizer(), cfg.vocab_size, random)
    model = load.load(source)
    return Subject(
        model.source, model.fingerprint, model.cfg, model.tokenizer, load.token_count(model),
        lambda engine, dtype: engine.place(model.read, dtype),
    )  # fmt: skip


def random(engine: Engine, dtype: str) -> Params:
    """Random weights, made on the devices: norms are 1, biases 0, all others normal with deviation 0.02."""

    def one(path, shape):
        name = path[-1].key
        if name.endswith("norm"):
            return jnp.ones(shape.shape, dtype)
        if name.endswith("bias"):
            return jnp.zeros(shape.shape, dtype)
        key = jax.random.key(zlib.crc32(name.encode()))
        return 0.02 * jax.random.normal(key, shape.shape, dtype)

    make = jax.jit(lambda: jax.tree_util.tree_map_with_path(one, engine.shapes), out_shardings=engine.params_at)
    return make()
