"""Values that are not finite: which tensors and layers they are in, and which samples they come from."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from camopd_jax.step import Steps


def where(finite: Any) -> str:
    """Names of the tensors, and of the layers of stacked ones, that are not finite; "": all are.

    Args:
      finite: a tree of booleans, what `Steps.finite_parts` gives.
    """
    leaves, found = jax.tree_util.tree_leaves_with_path(finite), []
    if leaves and not any(np.any(good) for _, good in leaves):
        return "every tensor"
    for path, good in leaves:
        keys = [key.key if hasattr(key, "key") else getattr(key, "name", "") for key in path]
        name = " of ".join(str(key) for key in keys if key not in ("", "layers"))
        bad = np.flatnonzero(~np.asarray(good))
        if good.ndim and 0 < len(bad):
            found.append(f"{'layers' if len(bad) > 1 else 'layer'} {spans(bad, range(len(good)))} of {name}")
        elif len(bad):
            found.append(name)
    return listed(found)


def listed(names: Sequence[str], at_most: int = 8) -> str:
    """Names with commas, the first ones where there are many."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def blame(losses: Sequence[float], alone: Callable[[int], Any], samples: Sequence[Sequence[str]]) -> str:
    """Which micro-batch of a step makes its gradient not finite, in which tensors, and the prompts in it.

    Args:
      losses: of the micro-batches.
      alone: gives `Steps.finite_parts` of a micro-batch's own gradient, by its place.
      samples: ids of the prompts in each micro-batch; () where they are not known.
    """
    for place, loss in enumerate(losses):
        tensors = where(alone(place))
        if tensors or not math.isfinite(loss):
            said = f"in micro-batch {place + 1} of {len(losses)}, with loss {loss:.3g}, the gradient is not finite in "
            return said + (tensors or "no tensor") + (f"; its prompts: {listed(samples[place])}" if samples else "")
    return "each micro-batch by itself is finite, and their sum is too large"


@contextmanager
def traced(steps: Steps, params: Callable[[], Any]) -> Iterator[None]:
    """Add to a FloatingPointError which parameters are not finite, if they still are there and some are not."""
    try:
        yield
    except FloatingPointError as error:
        now = params()
        deleted = any(x.is_deleted() for x in jax.tree.leaves(now))
        tensors = "" if deleted else where(jax.device_get(steps.finite_parts(now)))
        raise FloatingPointError(f"{error}{tensors and f'; not finite in the parameters: {tensors}'}") from None


def check_rows(rows: Sequence[dict], step: int) -> list[dict]:
    """The rows of an evaluation.

    Raises:
      FloatingPointError: if a value is not finite.
    """
    for row in rows:
        if not math.isfinite(row["value"]):
            raise FloatingPointError(f"step {step}, evaluation: {row['metric']} of {row['task']} is {row['value']}")
    return rows


def spans(places: Sequence[int], names: Sequence[int]) -> str:
    """Ascending places as text, by their names: spans((0, 1, 2, 4), (1, 2, 5, 6, 9)) is "1 to 5, 9"."""
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return ", ".join(f"{names[r[0]]} to {names[r[-1]]}" if len(r) > 1 else f"{names[r[0]]}" for r in runs)
