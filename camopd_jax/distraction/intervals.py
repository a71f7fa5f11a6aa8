"""A figure with its bootstrap interval."""

from dataclasses import dataclass

LEVEL = 0.05  # two-sided, of the intervals


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
