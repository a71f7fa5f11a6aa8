"""Pack rollouts of any lengths into micro-batches of one shape, and carry per-token figures in and out.

One compiled shape serves scoring and training whatever the lengths and however many rows were selected:
whole sequences are laid end to end in rows of W tokens, and a micro-batch is R such rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from camopd_jax.types import PackedTokens, Rollout, Update


@dataclass(frozen=True)
class PackShape:
    """The shape of every micro-batch."""

    rows: int  # R, over all devices
    width: int  # W, tokens of a row
    slots: int  # S, response tokens of a row


@dataclass(frozen=True)
class Packing:
    """Micro-batches, and for each slot the (row, response column) of the rollout that it came from."""

    batches: list[PackedTokens]
    row_MRS: np.ndarray  # -1 in empty slots
    column_MRS: np.ndarray

    def gather(self, x_BT: np.ndarray) -> np.ndarray:
        """[B, T] -> [M, R, S], 0 in empty slots."""
        return np.where(self.row_MRS >= 0, x_BT[self.row_MRS, self.column_MRS], 0)

    def scatter(self, x_MRS: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """[M, R, S] -> [B, T], 0 where no slot came from."""
        out = np.zeros(shape, np.float32)
        used = self.row_MRS >= 0
        out[self.row_MRS[used], self.column_MRS[used]] = np.asarray(x_MRS)[used]
        return out


def updates(
    rollout: Rollout, which: Sequence[int], shape: PackShape, credit_BT: np.ndarray, weight_BT: np.ndarray,
    teacher: Sequence[np.ndarray] = (),
) -> list[Update]:  # fmt: skip
    """Micro-batches of the chosen rows, with the credit and the weight of each of their tokens.

    Args:
      teacher: figures [B, T] of another model, which the updates carry in their `teacher`.
    """
    if not len(which):
        return []
    packed = pack(rollout, which, shape)
    fields = [packed.gather(x.astype(np.float32)) for x in (credit_BT, weight_BT, rollout.sampler_logp_BT)]
    more = [packed.gather(x.astype(np.float32)) for x in teacher]
    return [Update(batch, *(f[m] for f in fields), tuple(f[m] for f in more)) for m, batch in enumerate(packed.batches)]


def pack(rollout: Rollout, which: Sequence[int], shape: PackShape) -> Packing:
    """Lay the chosen rows of a rollout into micro-batches, the longest first, each where it first fits.

    Raises:
      ValueError: if a sequence is longer than a packed row, or its response than the row's slots.
    """
    return _lay(rollout, _bins(rollout, which, shape), shape)


def members(rollout: Rollout, which: Sequence[int], shape: PackShape) -> list[list[int]]:
    """The rows of a rollout in each micro-batch that `pack` makes of the chosen ones."""
    bins = _bins(rollout, which, shape)
    return [list(chain(*bins[i : i + shape.rows])) for i in range(0, len(bins), shape.rows)]


def _bins(rollout: Rollout, which: Sequence[int], shape: PackShape) -> list[list[int]]:
    prompt_length = rollout.prompt_mask_BP.sum(axis=1)
    response_length = rollout.response_mask_BT.sum(axis=1)
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []
    for b in sorted(which, key=lambda b: (-int(prompt_length[b] + response_length[b]), b)):
        tokens, slots = int(prompt_length[b] + response_length[b]), int(response_length[b])
        if tokens > shape.width or slots > shape.slots:
            raise ValueError(
                f"a sequence of {tokens} tokens ({slots} of response) does not fit a packed row of "
                f"{shape.width} tokens and {shape.slots} response slots"
            )
        home = next((i for i, (w, s) in enumerate(free) if tokens <= w and slots <= s), None)
        if home is None:
            home = len(bins)
            bins.append([])
            free.append((shape.width, shape.slots))
        bins[home].append(b)
        free[home] = (free[home][0] - tokens, free[home][1] - slots)
    return bins


def _lay(rollout: Rollout, bins: list[list[int]], shape: PackShape) -> Packing:
    n = -(-len(bins) // shape.rows) * shape.rows
    tokens, positions, segments = (np.zeros((n, shape.width), np.int32) for _ in range(3))
    source, labels, column = (np.zeros((n, shape.slots), np.int32) for _ in range(3))
    row = np.full((n, shape.slots), -1, np.int32)
    prompt_width = rollout.prompt_mask_BP.shape[1]
    for i, members in enumerate(bins):
        at, slot = 0, 0
        for segment, b in enumerate(members, start=1):
            start = prompt_width - int(rollout.prompt_mask_BP[b].sum())
            response = int(rollout.response_mask_BT[b].sum())
            sequence = rollout.tokens_BL[b, start : prompt_width + response]
            end, first = at + len(sequence), at + prompt_width - start
            tokens[i, at:end], positions[i, at:end], segments[i, at:end] = sequence, np.arange(end - at), segment
            here = slice(slot, slot + response)
            source[i, here] = np.arange(first - 1, first - 1 + response)
            labels[i, here] = sequence[first - at :]
            row[i, here], column[i, here] = b, np.arange(response)
            at, slot = end, slot + response

    def split(x):
        return x.reshape(n // shape.rows, shape.rows, -1)

    arrays = [split(x) for x in (tokens, positions, segments, source, labels, row >= 0)]
    return Packing([PackedTokens(*parts) for parts in zip(*arrays, strict=True)], split(row), split(column))
