"""Whether the sampler's log-probabilities of its tokens are those that scoring, or training, gives them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

FLAT = 0.05  # nats: where a doubled temperature moves a token's log-probability less, no temperature can be told


@dataclass(frozen=True)
class Allowed:
    mean: float  # |difference|, nats at temperature 1; at lower ones as much more
    most: float  # the same, of any token
    warmer: float  # how far the temperature that fits may be off, as a share of it


def slope(score_BT: np.ndarray, halved_BT: np.ndarray) -> np.ndarray:
    """d(log p) / d(ln 1 / tau) about [B, T], from scores and from those with all logits halved, which is exact."""
    return (score_BT - halved_BT) / math.log(2)


def figures(scored: Iterable[np.ndarray], sampled: Iterable[np.ndarray], slopes: Iterable[np.ndarray]) -> dict:
    """What `line` looks at.

    A token's log-probability is log p = z / tau - log sum exp(z / tau). Scores at a temperature tau' that is not the
    sampler's tau are off by about ln(tau / tau') d(log p) / d(ln 1 / tau), at each token by another amount and sign.
    Least squares over the tokens give ln(tau / tau'), of which rounding takes part in proportion to 1 / sqrt(tokens).

    Args:
      scored, sampled: log-probabilities of the same tokens, arrays of any shapes, 0 at what is no token.
      slopes: of the same tokens.
    """
    scored, sampled, steep = (np.concatenate([np.ravel(x) for x in xs]) for xs in (scored, sampled, slopes))
    is_token = sampled != 0
    off, steep = (scored - sampled).astype(np.float64), steep.astype(np.float64)
    tokens, square = int(is_token.sum()), float(steep @ steep)
    told = square > FLAT**2 * tokens or not np.isfinite(square)
    return {
        "tokens": tokens,
        "mean": float(np.abs(off).sum()) / max(tokens, 1),
        "most": float(np.abs(off).max()),
        "warmer": float(off @ steep) / square if told else None,
    }


def line(what: str, found: dict, allowed: Allowed, temperature: float) -> tuple[bool, str]:
    """Whether what `figures` found is allowed, and a line that says it."""
    colder = 1 / min(temperature, 1.0)
    mean, most, warmer = allowed.mean * colder, allowed.most * colder, found["warmer"]
    fits = warmer is None or abs(warmer) <= allowed.warmer
    told = "cannot be told, as all tokens are about as likely"
    if warmer is not None:
        told = f"fits to {abs(warmer):.2g} of it (allowed {allowed.warmer:.2g})"
    return (
        found["tokens"] > 0 and found["mean"] <= mean and found["most"] <= most and fits,
        f"{what} gives the {found['tokens']} sampled tokens the sampler's log-probabilities, but for "
        f"{found['mean']:.2g} nats on average and {found['most']:.2g} at most (allowed {mean:.2g} and {most:.2g}); "
        f"the temperature {told}",
    )
