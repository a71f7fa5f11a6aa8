"""One architecture on one mesh: the jitted sampler and scorer, and rollouts between host and devices."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from camopd_jax import batching, packing, scoring, sharding
from camopd_jax.models import decoder, lora, weights
from camopd_jax.models.decoder import DecoderConfig
from camopd_jax.models.weights import Read
from camopd_jax.packing import PackShape
from camopd_jax.types import PackedTokens, Params, Rollout


@dataclass(frozen=True)
class Numerics:
    """How logits are computed, the same for sampler, scores and updates."""

    temperature: float
    logit_chunk: int  # as many logits exist at a time, on a data shard, as so many tokens have
    dtype: str  # of weights and activations in every forward pass: "float32" or "bfloat16"
    vocab: int  # ids from here on pad the embedding and have no probability


class Engine:
    """Samples and scores with any weights of one architecture.

    Prompts and rollouts are NumPy arrays on the host; weights are placed once with `place`.
    """

    def __init__(
        self, cfg: DecoderConfig, mesh, tokenizer, stop_ids: Sequence[int], shape: PackShape, numerics: Numerics
    ):
        if shape.rows % sharding.data_shards(mesh):
            raise ValueError(f"{shape.rows} packed rows do not divide by {sharding.data_shards(mesh)} data shards")
        self.cfg, self.mesh, self.tokenizer, self.shape, self.numerics = cfg, mesh, tokenizer, shape, numerics
        self.stop_ids = tuple(stop_ids)
        self.graph, self.shapes = decoder.split(cfg)
        self.params_at = sharding.param_shardings(mesh, self.shapes, decoder.AXES)
        self._rows = sharding.by_rows(mesh)
        self._sampler = functools.cache(self._build_sampler)
        self._other = functools.cache(lambda other: Engine(other, mesh, tokenizer, stop_ids, shape, numerics))
        self._compiled = functools.cache(self._build)

    def scorer(self, temperature: float, remat: str, function: Callable = scoring.score) -> Callable[..., jax.Array]:
        """A function of `scoring` that is left with (parameters, packed tokens, ...); scoring and training share it."""
        n = self.numerics
        return functools.partial(
            function,
            self.graph,
            temperature=temperature,
            chunk=n.logit_chunk,
            dtype=n.dtype,
            vocab=n.vocab,
            remat=remat,
            mesh=self.mesh,
        )

    def on_packed(self, function: Callable, params: Params, packed: PackedTokens, *more: jax.Array, **options) -> Any:
        """What a function of `scoring` gives at the temperature of the run, on the devices; compiled once."""
        packed, more = sharding.spread((packed, more), self._rows)
        return self._compiled(function, len(more), tuple(options.items()))(params, packed, *more)

    def _build(self, function: Callable, more: int, options: tuple) -> Callable:
        if function is scoring.hidden:
            pure = functools.partial(function, self.graph, dtype=self.numerics.dtype, mesh=self.mesh)
        else:
            pure = functools.partial(self.scorer(self.numerics.temperature, "none", function), **dict(options))
        shardings = (self.params_at, *[self._rows] * (1 + more))
        return jax.jit(pure, in_shardings=shardings, out_shardings=self._rows)

    def of(self, cfg: DecoderConfig) -> "Engine":
        """An engine for an architecture with the same tokenizer, mesh and numerics: itself, where it is the same."""
        return self if cfg == self.cfg else self._other(cfg)

    def place(self, read: Read, dtype: str) -> Params:
        """Stream weights onto the mesh; where the architecture has adapters, they are zero and change nothing."""
        shapes, at = lora.split(self.shapes)[0], lora.split(self.params_at)[0]
        return lora.join(weights.place(read, shapes, at, dtype), self.no_adapter(dtype))

    def no_adapter(self, dtype: str) -> Params:
        """The adapter that is zero; without layers' entries where the architecture has none."""
        shapes, at = lora.split(self.shapes)[1], lora.split(self.params_at)[1]
        return jax.tree.map(lambda s, at: jnp.zeros(s.shape, dtype, device=at), shapes, at)

    def _build_sampler(self, shape: batching.Shape) -> batching.Sampler:
        n = self.numerics
        return batching.Sampler(
            self.cfg, self.graph, self.mesh, self.params_at, shape,
            stop_ids=self.stop_ids, pad_id=self.tokenizer.pad_token_id, dtype=n.dtype, vocab=n.vocab,
        )  # fmt: skip

    def sample(
        self, params: Params, prompts: Sequence[np.ndarray], key: jax.Array, *, width: int, batch: int,
        max_new_tokens: int, temperature: float, limits: Sequence[int] | None = None,
    ) -> Rollout:  # fmt: skip
        """One response per prompt; at most `batch` rows (rounded up to fill the devices) are decoded together.

        Row i draws from fold_in(key, i), whatever is decoded beside it. `limits`: tokens of each response at most,
        1 to max_new_tokens (None: the latter).

        Raises:
          ValueError: if a limit is none of these.
        """
        shards = sharding.data_shards(self.mesh)
        rows = batching.rows_of_shard(len(prompts), batch, shards) * shards
        key = jax.random.wrap_key_data(sharding.fetch(jax.random.key_data(key)), impl=jax.random.key_impl(key))
        keys = jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(prompts))))[:, -2:]
        sampler = self._sampler(batching.Shape(rows, width, max_new_tokens, temperature))
        limits = [max_new_tokens] * len(prompts) if limits is None else limits
        if not 1 <= min(limits) <= max(limits) <= max_new_tokens:
            raise ValueError(f"limits of {min(limits)} to {max(limits)} tokens: allowed are 1 to {max_new_tokens}")
        return sampler(params, prompts, np.asarray(keys), limits)

    def score(self, params: Params, rollout: Rollout, *, shared: bool = False, **options) -> np.ndarray:
        """log pi(y_t | h_t) [B, T] of the rollout's responses, nats; 0 outside the mask.

        Args:
          shared: equal prompts are computed once for several responses, as `packing.pack` has it.
          options: of `scoring.score`, as another temperature than the run's.
        """
        return self._on_rollout(scoring.score, params, rollout, shared, **options)[0]

    def examine(self, params: Params, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
        """Entropy (nats) of the model's distribution at each response token, and the token's rank in it, [B, T]."""
        entropy_BT, rank_BT = self._on_rollout(scoring.examine, params, rollout, False)
        return entropy_BT, rank_BT

    def _on_rollout(
        self, function: Callable, params: Params, rollout: Rollout, shared: bool, **options
    ) -> list[np.ndarray]:
        packed = packing.pack(rollout, range(len(rollout.tokens_BL)), self.shape, shared=shared)
        pending = [jax.tree.leaves(self.on_packed(function, params, batch, **options)) for batch in packed.batches]
        shape = rollout.response_mask_BT.shape
        return [packed.scatter(np.stack(sharding.fetch(one)), shape) for one in zip(*pending, strict=True)]

    def texts(self, rollout: Rollout) -> list[str]:
        """The responses as text, without special tokens."""
        width = rollout.prompt_mask_BP.shape[1]
        ids = [row[width:][mask] for row, mask in zip(rollout.tokens_BL, rollout.response_mask_BT, strict=True)]
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def ended(self, rollout: Rollout) -> np.ndarray:
        """[B], True where the response ends in a stop token rather than at the length limit."""
        width = rollout.prompt_mask_BP.shape[1]
        last = rollout.response_mask_BT.sum(axis=1) - 1
        return np.isin(rollout.tokens_BL[np.arange(len(last)), width + last], self.stop_ids)


@dataclass(frozen=True)
class Policy:
    """A model that samples and scores: an engine, and how its weights come onto the mesh."""

    engine: Engine
    place: Callable[[], Params]
    held: bool = False  # the weights are on the mesh anyway, an adapter aside, and `place` reads no source
