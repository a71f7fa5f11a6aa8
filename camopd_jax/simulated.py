"""A stand-in for a model and its devices: with it a run's own code goes through its steps at full size anywhere.

The stand-in has one parameter for each of CLASSES kinds of tokens: log pi(y_t | h_t) is their log-softmax, whatever was
said before. A row's response, its length first, is drawn from the row's key, as that of a model is. The host's part of
sampling (batching), scoring (packing) and training is the real one; programs for the devices are replaced here.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from camopd_jax import batching, scoring, sharding
from camopd_jax.bench import batch
from camopd_jax.engine import Engine
from camopd_jax.models import decoder
from camopd_jax.sampling import Inserts
from camopd_jax.types import PackedTokens, Params, Rollout

CLASSES = 64
NAME = "norm"  # of the parameters: one whose logical axes every device has whole
Length = Callable[[np.random.Generator, int], int]  # tokens that a row would say, of so many at most


def heavy(rng: np.random.Generator, longest: int) -> int:
    """A length with the heavy tail of `bench.batch`: the mean is longest / 4, and one in 16 is cut at the longest."""
    return int(batch.lomax(1 - rng.random(), longest))


def longest(rng: np.random.Generator, longest: int) -> int:
    """The longest: no response ends by itself."""
    del rng
    return longest + 1


LENGTHS: dict[str, Length] = {"heavy": heavy, "longest": longest}


@dataclass
class Drawn:
    """What one rollout took."""

    prompts: int
    rows: int  # decoded together
    iterations: int = 0  # times that all rows draw a token
    tokens: int = 0  # of these draws, those of a row that is not finished; the first token of a response comes before
    columns: int = 0  # of the cache, summed over iterations
    widest: int = 0  # columns of the cache at the end
    pauses: int = 0  # times that the host reads what is finished
    reads: int = 0  # times that prompts are read ahead

    @property
    def occupancy(self) -> float:
        """The share of places in the iterations that belong to rows which are not finished."""
        return self.tokens / max(1, self.rows * self.iterations)


@dataclass
class Rows:
    """`sampling.Decoding` without a cache; all of a row's response is there from the start, `count` of it is drawn."""

    column: int
    alive_B: np.ndarray
    count_B: np.ndarray
    length_B: np.ndarray
    response_BT: np.ndarray
    logp_BT: np.ndarray


class Sampler(batching.Sampler):
    """The host's part of sampling, over rows whose responses are scripted; `drawn` has a record of each rollout."""

    def __init__(self, shape: batching.Shape, mesh: Mesh, stop_id: int, pad_id: int, length: Length):
        self.shape, self._pad, self._stop, self._length = shape, pad_id, stop_id, length
        self._shards, self._rows = sharding.data_shards(mesh), sharding.by_rows(mesh)
        self._ahead = batching.read_ahead(shape.rows // self._shards)
        self._compiled = True
        self._weights = _log_probabilities
        self.drawn: list[Drawn] = []

    def __call__(
        self, params: Params, prompts: Sequence[np.ndarray], keys_N2: np.ndarray, limits_N: Sequence[int]
    ) -> Rollout:
        self.drawn.append(Drawn(len(prompts), self.shape.rows))
        return super().__call__(params, prompts, keys_N2, limits_N)

    def _empty(self) -> Rows:
        rows, self._columns = self.shape.rows, self.shape.columns()[0]
        zeros, wide = np.zeros(rows, int), (rows, self.shape.steps)
        tokens, logp = np.full(wide, self._pad, np.int32), np.zeros(wide, np.float32)
        return Rows(self.shape.width, np.zeros(rows, bool), zeros, zeros.copy(), tokens, logp)

    def _prefill(self, params: Params, *prompts) -> None:
        self.drawn[-1].reads += 1

    def _insert(self, logp_C: np.ndarray, state: Rows, read: None, new: Inserts) -> Rows:
        rows = self.shape.rows // self._shards
        for shard, place in zip(*np.nonzero(new.slot_SI < rows), strict=True):
            b, limit = shard * rows + new.slot_SI[shard, place], int(new.limit_SI[shard, place])
            rng = np.random.default_rng(new.key_SI2[shard, place])
            said = self._length(rng, self.shape.steps)
            n = min(said, limit)
            token_T = np.searchsorted(np.cumsum(np.exp(logp_C[:-1])), rng.random(n)).astype(np.int32)
            if said == n < self.shape.steps:
                token_T[-1] = self._stop
            state.response_BT[b, :n], state.logp_BT[b, :n] = token_T, logp_C[token_T % CLASSES]
            state.count_B[b], state.length_B[b], state.alive_B[b] = 1, n, n > 1
        return state

    def _decode(self, logp_C: np.ndarray, state: Rows, enough: np.int32, last: np.int32) -> tuple[Rows, tuple]:
        left_B, drawn = (state.length_B - state.count_B)[state.alive_B], self.drawn[-1]
        wanted = enough - (len(state.alive_B) - len(left_B))  # rows that are still to finish
        if wanted > 0 and state.column < last:
            steps = int(min(np.sort(left_B)[wanted - 1], last - state.column))
            state.column += steps
            state.count_B[state.alive_B] += np.minimum(steps, left_B)
            drawn.iterations += steps
            drawn.tokens += int(np.minimum(steps, left_B).sum())
            drawn.columns += steps * self._columns
        state.alive_B = state.alive_B & (state.count_B < state.length_B)
        drawn.pauses, drawn.widest = drawn.pauses + 1, self._columns
        return state, (state.column, state.alive_B, state.count_B, state.response_BT, state.logp_BT)

    def _widen(self, state: Rows, column: int, columns: int) -> Rows:
        self._columns = columns
        return state


def _log_probabilities(params: Params) -> np.ndarray:
    return np.asarray(jax.nn.log_softmax(params[NAME]))


def score(params: Params, packed: PackedTokens) -> jax.Array:
    """log pi of the slots' tokens [R, S], nats; 0 in empty slots. Stands for `scoring.score`."""
    logp_RS = jax.nn.log_softmax(params[NAME])[packed.labels_RS % CLASSES]
    return jnp.where(packed.slot_mask_RS, logp_RS, 0.0)


class ScriptedEngine(Engine):
    """An engine whose model is the stand-in. Keeps its samplers, and how many micro-batches were scored."""

    def __init__(self, like: Engine, length: Length):
        """like: gives mesh, tokenizer, stop tokens, micro-batches and numerics."""
        super().__init__(like.cfg, like.mesh, like.tokenizer, like.stop_ids, like.shape, like.numerics)
        self.shapes = {NAME: jax.ShapeDtypeStruct((CLASSES,), np.float32)}
        self.params_at = sharding.param_shardings(like.mesh, self.shapes, decoder.AXES)
        self._length, self.samplers, self.scored = length, [], 0

    def scorer(self, temperature: float, remat: str, function: Callable = scoring.score) -> Callable[..., jax.Array]:
        assert function is scoring.score, function  # `simulation.check` has refused the others
        return score

    def on_packed(self, function: Callable, params: Params, packed: PackedTokens, *more: jax.Array, **options):
        self.scored += 1
        return super().on_packed(function, params, packed, *more, **options)

    def parameters(self, seed: int) -> Params:
        """Those of a stand-in, on the mesh."""
        drawn = np.random.default_rng(seed).normal(0, 0.5, CLASSES).astype(np.float32)
        return jax.tree.map(jax.device_put, {NAME: drawn}, self.params_at)

    @property
    def drawn(self) -> list[Drawn]:
        """Of all rollouts, those of a sampler together."""
        return [one for sampler in self.samplers for one in sampler.drawn]

    def _build_sampler(self, shape: batching.Shape) -> Sampler:
        make = functools.partial(Sampler, stop_id=self.stop_ids[0], pad_id=self.tokenizer.pad_token_id)
        self.samplers.append(make(shape, self.mesh, length=self._length))
        return self.samplers[-1]
