"""Pack rollouts of any lengths into micro-batches of one shape, and carry per-token figures in and out.

One compiled shape serves scoring and training whatever the lengths and however many rows were selected:
whole sequences are laid end to end in rows of W tokens, and a micro-batch is R such rows. Responses to one prompt
may stand behind a single copy of it, which is then computed once.
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
    teacher: Sequence[np.ndarray] = (), *, shared: bool = False,
) -> list[Update]:  # fmt: skip
    """Micro-batches of the chosen rows, with the credit and the weight of each of their tokens.

    Args:
      teacher: figures [B, T] of another model, which the updates carry in their `teacher`.
      shared: as `pack` has it.
    """
    if not len(which):
        return []
    packed = pack(rollout, which, shape, shared=shared)
    fields = [packed.gather(x.astype(np.float32)) for x in (credit_BT, weight_BT, rollout.sampler_logp_BT)]
    more = [packed.gather(x.astype(np.float32)) for x in teacher]
    return [Update(batch, *(f[m] for f in fields), tuple(f[m] for f in more)) for m, batch in enumerate(packed.batches)]


def pack(rollout: Rollout, which: Sequence[int], shape: PackShape, *, shared: bool = False) -> Packing:
    """Lay the chosen rows of a rollout into micro-batches, the longest first, each where it first fits.

    Args:
      shared: responses to equal prompts stand behind one copy of it, as many as a packed row has room for; a group that
        is too large for one row has a copy in each of several.

    Raises:
      ValueError: if a sequence is longer than a packed row, or its response than the row's slots.
    """
    return _lay(rollout, _bins(rollout, which, shape, shared), shape, shared)


def members(rollout: Rollout, which: Sequence[int], shape: PackShape, *, shared: bool = False) -> list[list[int]]:
    """The rows of a rollout in each micro-batch that `pack` makes of the chosen ones."""
    bins = _bins(rollout, which, shape, shared)
    return [list(chain(*chain(*bins[i : i + shape.rows]))) for i in range(0, len(bins), shape.rows)]


def _bins(rollout: Rollout, which: Sequence[int], shape: PackShape, shared: bool) -> list[list[list[int]]]:
    """What each packed row holds: pieces, each of rows of the rollout that stand behind one copy of their prompt."""
    prompt_B, response_B = rollout.prompt_mask_BP.sum(axis=1).tolist(), rollout.response_mask_BT.sum(axis=1).tolist()
    which, pieces = sorted(which), []
    for b in sorted(which, key=lambda b: -prompt_B[b] - response_B[b]):
        tokens, slots = prompt_B[b] + response_B[b], response_B[b]
        if tokens > shape.width or slots > shape.slots:
            raise ValueError(
                f"a sequence of {tokens} tokens ({slots} of response) does not fit a packed row of "
                f"{shape.width} tokens and {shape.slots} response slots"
            )
    for group in _of_one_prompt(rollout, which) if shared else [[b] for b in which]:
        room = shape.width - prompt_B[group[0]], shape.slots
        parts = _first_fit([(response_B[b],) * 2 for b in group], room)
        pieces += [[group[i] for i in part] for part in parts]
    slots = [sum(response_B[b] for b in piece) for piece in pieces]
    sizes = [(prompt_B[piece[0]] + n, n) for piece, n in zip(pieces, slots, strict=True)]
    return [[pieces[i] for i in part] for part in _first_fit(sizes, (shape.width, shape.slots))]


def _of_one_prompt(rollout: Rollout, which: Sequence[int]) -> list[list[int]]:
    """The rows with equal prompts together, in the order of the first of each."""
    groups: dict[bytes, list[int]] = {}
    for b in which:
        prompt = rollout.tokens_BL[b, : rollout.prompt_mask_BP.shape[1]][rollout.prompt_mask_BP[b]]
        groups.setdefault(prompt.tobytes(), []).append(b)
    return list(groups.values())


def _first_fit(sizes: Sequence[tuple[int, int]], room: tuple[int, int]) -> list[list[int]]:
    """The items of each bin, by their places: those of most tokens first, each where it first fits.

    Args:
      sizes, room: (tokens, slots) of an item, and of an empty bin.
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i][0]):
        tokens, slots = sizes[i]
        home = next((h for h, (w, s) in enumerate(free) if tokens <= w and slots <= s), None)
        if home is None:
            home = len(bins)
            bins.append([])
            free.append(room)
        bins[home].append(i)
        free[home] = (free[home][0] - tokens, free[home][1] - slots)
    return bins


def _lay(rollout: Rollout, bins: list[list[list[int]]], shape: PackShape, shared: bool) -> Packing:
    n = -(-len(bins) // shape.rows) * shape.rows
    tokens, positions, segments, prefix = (np.zeros((n, shape.width), np.int32) for _ in range(4))
    source, labels, column = (np.zeros((n, shape.slots), np.int32) for _ in range(3))
    row = np.full((n, shape.slots), -1, np.int32)
    prompt_width = rollout.prompt_mask_BP.shape[1]
    for i, pieces in enumerate(bins):
        at, slot, segment = 0, 0, 0
        for piece in pieces:
            prompt = int(rollout.prompt_mask_BP[piece[0]].sum())
            segment, end = segment + 1, at + prompt
            tokens[i, at:end] = rollout.tokens_BL[piece[0], prompt_width - prompt : prompt_width]
            positions[i, at:end], segments[i, at:end], prefix[i, at:end] = np.arange(prompt), segment, segment
            at, opening = end, segment
            for b in piece:
                response = int(rollout.response_mask_BT[b].sum())
                answer = rollout.tokens_BL[b, prompt_width : prompt_width + response]
                segment += shared  # else prompt and answer are one segment
                there, here = slice(at, at + response), slice(slot, slot + response)
                tokens[i, there], segments[i, there], prefix[i, there] = answer, segment, opening
                positions[i, there] = np.arange(prompt, prompt + response)
                source[i, here] = np.arange(at - 1, at + response - 1)
                source[i, slot : slot + min(response, 1)] = end - 1  # of the first, the prompt's last token
                labels[i, here] = answer
                row[i, here], column[i, here] = b, np.arange(response)
                at, slot = there.stop, here.stop

    def split(x):
        return x.reshape(n // shape.rows, shape.rows, -1)

    arrays = [split(x) for x in (tokens, positions, segments, source, labels, row >= 0)]
    arrays += [split(prefix)] if shared else []
    return Packing([PackedTokens(*parts) for parts in zip(*arrays, strict=True)], split(row), split(column))
