"""Continuous batching: a queue of prompts, and a fixed number of rows that are refilled as they finish.

The host only decides what is read next and which row it goes to; between two decisions the devices draw tokens by
themselves. Prompts are read ahead, a few at a time, and equal neighbours in the queue are read once.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from camopd_jax import data, sampling, sharding
from camopd_jax.models import decoder
from camopd_jax.models.decoder import DecoderConfig
from camopd_jax.sampling import Decoding, Inserts, Prefilled
from camopd_jax.types import Params, Rollout

FIRST_ROOM = 64  # columns beyond the prompt that the cache begins with; it doubles when a row needs more
AHEAD = 4  # one part in so many of the rows is read ahead together
FREE = 8  # decoding pauses when one part in so many has finished while prompts are waiting


def rows_of_shard(prompts: int, at_once: int, shards: int) -> int:
    """Rows that one data shard decodes together: of `at_once`, or of as many as there are prompts, rounded up."""
    return -(-min(prompts, at_once) // shards)


def read_ahead(rows: int) -> int:
    """Prompts that one data shard reads at a time, of so many rows that it decodes."""
    return -(-rows // AHEAD)


@dataclass(frozen=True)
class Shape:
    """What a sampler is compiled for."""

    rows: int  # decoded together, over all data shards
    width: int  # columns of a prompt
    steps: int  # tokens of a response, at most
    temperature: float  # 0: greedy

    def columns(self) -> list[int]:
        """The sizes that the cache may have: the prompt's width and 64, 128, ... more, up to a whole response."""
        room = [min(FIRST_ROOM, self.steps)]
        while room[-1] < self.steps:
            room.append(min(2 * room[-1], self.steps))
        return [self.width + r for r in room]


class Queue:
    """Which prompt goes to which row, and when it is read: the host's part of continuous batching, in plain numbers.

    Each of S data shards has a queue of its own, with B / S rows, and reads `ahead` prompts at a time.
    """

    def __init__(self, prompts: Sequence[np.ndarray], shards: int, rows: int, ahead: int):
        self._prompts, self._ahead = prompts, ahead
        self._queues = [part.tolist() for part in np.array_split(np.arange(len(prompts)), shards)]
        self._places: list[dict[int, int]] = [{} for _ in range(shards)]  # of a prompt among those that were read
        self.owner = np.full((shards, rows // shards), -1)  # the prompt of each row; -1: none
        self.start = np.zeros(self.owner.shape, int)  # first column of each row

    @property
    def waiting(self) -> bool:
        """Whether a prompt has had no row yet."""
        return any(self._queues)

    def to_read(self) -> list[np.ndarray] | None:
        """The prompts to read now, S x ahead of them; None: those that a free row needs are there."""
        needed = [
            bool(queue) and queue[0] not in places and -1 in owner
            for queue, places, owner in zip(self._queues, self._places, self.owner, strict=True)
        ]
        if not any(needed):
            return None
        chosen = []
        for shard, queue in enumerate(self._queues):
            different: list[int] = []
            self._places[shard] = {}
            for n in queue:
                if not different or not np.array_equal(self._prompts[n], self._prompts[different[-1]]):
                    if len(different) == self._ahead:
                        break
                    different.append(n)
                self._places[shard][n] = len(different) - 1
            chosen += (different + [0] * self._ahead)[: self._ahead]
        return [self._prompts[n] for n in chosen]

    def to_insert(self, column: int, keys_N2: np.ndarray, limits_N: Sequence[int]) -> Inserts | None:
        """Give free rows the prompts that were read, in turn, beginning before `column`; None: there are no more."""
        shards, rows = self.owner.shape
        new = _nobody(shards, rows, self._ahead)
        for s, (queue, places) in enumerate(zip(self._queues, self._places, strict=True)):
            for i, row in enumerate(np.flatnonzero(self.owner[s] < 0)[: self._ahead]):
                if not queue or queue[0] not in places:
                    break
                n = queue.pop(0)
                self.owner[s, row], self.start[s, row] = n, column - len(self._prompts[n])
                new.source_SI[s, i], new.slot_SI[s, i] = places[n], row
                new.key_SI2[s, i], new.limit_SI[s, i] = keys_N2[n], limits_N[n]
        return new if (new.slot_SI < rows).any() else None

    def finish(self, alive: np.ndarray) -> list[tuple[int, int]]:
        """Free the rows that are not alive; (row, its prompt) of each."""
        done = (self.owner >= 0) & ~alive.reshape(self.owner.shape)
        freed = list(zip(np.flatnonzero(done).tolist(), self.owner[done].tolist(), strict=True))
        self.owner[done] = -1
        return freed


def _nobody(shards: int, rows: int, ahead: int) -> Inserts:
    """Inserts that put nothing in."""
    source, slot, limit = (np.full((shards, ahead), x, np.int32) for x in (0, rows, 1))
    return Inserts(source, slot, np.zeros((shards, ahead, 2), np.uint32), limit)


class Sampler:
    """Samples responses with any weights of one architecture, at one `Shape`."""

    def __init__(
        self, cfg: DecoderConfig, graph: nnx.GraphDef, mesh, params_at: Params, shape: Shape, *,
        stop_ids: tuple[int, ...], pad_id: int, dtype: str, vocab: int,
    ):  # fmt: skip
        self.shape, self._pad = shape, pad_id
        self._shards = sharding.data_shards(mesh)
        self._ahead = read_ahead(shape.rows // self._shards)
        rows, whole = sharding.by_rows(mesh), sharding.replicated(mesh)
        cache_at = [(sharding.by_rows_and_heads(mesh, cfg.kv_heads),) * 2] * cfg.layers
        state_at = Decoding(cache_at, whole, *[rows] * 8)
        read_at = Prefilled(rows, cache_at, rows)
        weights_at = params_at | {"layers": [jax.tree.map(sharding.of_one_layer, params_at["layers"])] * cfg.layers}
        how = {"temperature": shape.temperature, "stop_ids": stop_ids, "vocab": vocab}
        head = "embed" if cfg.tied_head else "head"

        def weights(params):
            return decoder.unstacked(decoder.in_dtype(params, dtype))

        def empty():
            return sampling.empty(cfg, shape.rows, shape.columns()[0], shape.width, shape.steps, pad_id, dtype)

        def insert(weights, state, read, new):
            return sampling.insert(state, read, new, weights[head], pad_id=pad_id, **how)

        def decode(weights, state, enough, last):
            state = sampling.decode(graph, weights, state, enough, last, **how)
            return state, (state.column, state.alive_B, state.count_B, state.response_BT, state.logp_BT)

        self._weights = jax.jit(weights, in_shardings=(params_at,), out_shardings=weights_at)
        self._empty = jax.jit(empty, out_shardings=state_at)
        self._rows = rows
        self._prefill = jax.jit(
            functools.partial(sampling.prefill, graph, dtype=dtype, mesh=mesh),
            in_shardings=(params_at, rows, rows),
            out_shardings=read_at,
        )
        self._insert = jax.jit(
            insert, in_shardings=(weights_at, state_at, read_at, rows), out_shardings=state_at, donate_argnums=1
        )
        self._decode = jax.jit(
            decode, in_shardings=(weights_at, state_at, None, None), out_shardings=(state_at, whole), donate_argnums=1
        )
        self._widen_layer = jax.jit(
            sampling.widen, static_argnums=2, in_shardings=(cache_at[0], None), out_shardings=cache_at[0]
        )
        self._compiled = False

    def __call__(
        self, params: Params, prompts: Sequence[np.ndarray], keys_N2: np.ndarray, limits_N: Sequence[int]
    ) -> Rollout:
        """A response to each prompt, of at most as many tokens as its limit (at least 1).

        Args:
          keys_N2: a raw key for each prompt; what is drawn for it depends on nothing else.
        """
        shape, sizes = self.shape, self.shape.columns()
        weights = self._weights(params)
        if not self._compiled:
            self._compile(params, weights)
        state = self._empty()
        tokens_BP, prompt_mask_BP = data.left_pad(prompts, shape.width, self._pad)
        response_BT = np.full((len(prompts), shape.steps), self._pad, np.int32)
        mask_BT, logp_BT = np.zeros(response_BT.shape, bool), np.zeros(response_BT.shape, np.float32)
        queue = Queue(prompts, self._shards, shape.rows, self._ahead)
        column, read = shape.width, None
        while queue.waiting or (queue.owner >= 0).any():
            while True:
                if (ahead := queue.to_read()) is not None:
                    read = self._prefill(params, *self._spread(data.left_pad(ahead, shape.width, self._pad)))
                if (new := queue.to_insert(column, keys_N2, limits_N)) is None:
                    break
                state = self._insert(weights, state, read, self._spread(new))
            oldest = int(queue.start[queue.owner >= 0].min())
            if column >= oldest + sizes[0]:
                sizes = sizes[1:]
                state = self._widen(state, column, sizes[0])
            free = int((queue.owner < 0).sum())
            enough = min(free + max(1, shape.rows // FREE), shape.rows) if queue.waiting else shape.rows
            state, seen = self._decode(weights, state, np.int32(enough), np.int32(oldest + sizes[0]))
            column, alive, count, response, logp = (np.asarray(x) for x in seen)
            column = int(column)
            for row, n in queue.finish(alive):
                drawn = slice(0, count[row])
                response_BT[n, drawn], mask_BT[n, drawn] = response[row, drawn], True
                logp_BT[n, drawn] = logp[row, drawn]
        return Rollout(np.concatenate([tokens_BP, response_BT], axis=1), prompt_mask_BP, mask_BT, logp_BT)

    def lower(self, params: Params) -> dict[str, Callable[[], jax.stages.Lowered]]:
        """The programs for shapes of parameters, with the largest cache; a call lowers one."""
        weights, state = jax.eval_shape(self._weights, params), jax.eval_shape(self._empty)
        wider = functools.partial(sampling.widen, columns=self.shape.columns()[-1])
        state = state.replace(cache=[jax.eval_shape(wider, layer, state.column) for layer in state.cache])
        rows, one = (self._ahead * self._shards, self.shape.width), jax.ShapeDtypeStruct((), np.int32)
        prompts = [jax.ShapeDtypeStruct(rows, kind) for kind in (np.int32, bool)]
        return {
            "prefill": lambda: self._prefill.lower(params, *prompts),
            "decode": lambda: self._decode.lower(weights, state, one, one),
        }

    def _spread(self, tree: Any) -> Any:
        return sharding.spread(tree, self._rows)

    def _widen(self, state: Decoding, column: int, columns: int) -> Decoding:
        """The same rows with a cache of more columns; beside both, no more than a layer is held twice."""
        old, new = state.cache, []
        state = state.replace(cache=[])
        while old:
            new.append(self._widen_layer(old.pop(0), np.int32(column), columns))
        return state.replace(cache=new)

    def _compile(self, params: Params, weights: Params) -> None:
        """Compile for all sizes of the cache now: in mid-run, where a longer response comes, nothing may compile."""
        state, width, sizes = self._empty(), self.shape.width, self.shape.columns()
        nobody = self._spread(_nobody(self._shards, self.shape.rows // self._shards, self._ahead))
        rows = (self._ahead * self._shards, width)
        read = self._prefill(params, *self._spread((np.zeros(rows, np.int32), np.ones(rows, bool))))
        for wider in [*sizes[1:], None]:
            state = self._insert(weights, state, read, nobody)
            state, _ = self._decode(weights, state, np.int32(0), np.int32(0))  # 0 rows are enough: draws nothing
            if wider:
                state = self._widen(state, width, wider)
        self._compiled = True
