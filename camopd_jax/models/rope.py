"""Rotary positions (Su et al. 2021, half-split form) and how Hugging Face configs stretch them to longer contexts."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeScaling:
    """A change of the rotary frequencies, meaning what rope_type = `kind` means in a Hugging Face config.

    linear: all frequencies divided by `factor` (position interpolation, Chen et al. 2023). llama3: the slow ones
    alone, with a smooth passage (Llama 3.1). yarn: a ramp over the frequencies, and cosine and sine multiplied by
    `attention_factor` (Peng et al. 2023). Fields that the kind does not use are None.
    """

    kind: str
    factor: float
    original_positions: int | None = None  # llama3, yarn: context length before the stretching
    low_freq_factor: float | None = None  # llama3
    high_freq_factor: float | None = None  # llama3
    beta_fast: float | None = None  # yarn: turns in the original context above which a frequency stays
    beta_slow: float | None = None  # yarn: turns below which it is divided by the factor
    attention_factor: float | None = None  # yarn
    truncate: bool | None = None  # yarn: the ramp's ends are rounded to whole frequencies


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Radians a position [head_dim / 2], float32, in the order of operations of Hugging Face's code.

    At position 32,767 one unit in the last place is two thousandths of a radian: constants made in NumPy are the
    same on every backend.
    """
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    period = (theta**exponent).astype(np.float32)
    plain = np.float32(1) / period
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / np.float32(scaling.factor)
    if scaling.kind == "llama3":
        return _llama3(plain, scaling)
    if scaling.kind == "yarn":
        return _yarn(period, plain, head_dim, theta, scaling)
    raise ValueError(f"rope scaling {scaling.kind!r} is unknown: {', '.join(KINDS)} are known")


def _llama3(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    turns = scaling.original_positions * plain / np.float32(2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    share = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)  # 1: as it was, 0: divided
    return (1 - share) * plain / np.float32(scaling.factor) + share * plain


def _yarn(period: np.ndarray, plain: np.ndarray, head_dim: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    def index_of(turns):
        """Index of the frequency (not a whole number) that makes so many turns in the original context."""
        return head_dim * math.log(scaling.original_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = index_of(scaling.beta_fast), index_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001
    divided = np.clip((np.arange(len(plain), dtype=np.float32) - first) / width, 0, 1).astype(np.float32)
    return divided / (np.float32(scaling.factor) * period) + plain * (1 - divided)


def rotation(
    positions_BL: jax.Array, head_dim: int, theta: float, scaling: RopeScaling | None
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of each position's angles, [B, L, 1, head_dim / 2], float32."""
    angle = positions_BL[:, :, None, None].astype(jnp.float32) * frequencies(head_dim, theta, scaling)
    size = 1.0 if scaling is None or scaling.attention_factor is None else scaling.attention_factor
    return jnp.cos(angle) * size, jnp.sin(angle) * size


def rotate(x_BLHD: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the two halves of each head by the angles of its position, in float32."""
    cos, sin = rotation
    a, b = jnp.split(x_BLHD.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BLHD.dtype)
