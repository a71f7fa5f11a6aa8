"""Prompts to responses: the pure functions that are jitted. `batching` calls them in turn.

Every row writes the keys and values of its next token into the same column of a ring of C columns, and sees those
columns that it wrote itself: a row's prompt is laid in front of the present column, wherever that is, so that a
finished row is replaced while the others go on. Drawing uses the forward pass and the temperature of `scoring`, so
that a sampled token's log-probability and the same token rescored under the same weights agree to rounding.

    I rows that are put in at once     C columns of the cache     H numbers of a head     N heads of keys and values
"""

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from camopd_jax import losses
from camopd_jax.models import decoder as decoders
from camopd_jax.types import Params

KEYS = "threefry2x32"  # the kind of a row's key, of two words


@flax.struct.dataclass
class Prefilled:
    """Prompts that were read, right-aligned in P columns."""

    hidden_RD: jax.Array  # of the last token
    cache: list[tuple[jax.Array, jax.Array]]  # of each layer, keys [R, N, H, P] and values [R, N, P, H]
    length_R: jax.Array


@flax.struct.dataclass
class Decoding:
    """Rows in the midst of their responses. Columns are counted from the first one ever; c lies at c mod C."""

    cache: list[tuple[jax.Array, jax.Array]]  # of each layer, keys [B, N, H, C] and values [B, N, C, H]
    column: jax.Array  # int32: the next one to be written
    start_B: jax.Array  # the row's first column
    token_B: jax.Array  # drawn last, not yet in the cache
    count_B: jax.Array  # tokens drawn
    limit_B: jax.Array  # tokens at most
    alive_B: jax.Array  # False: finished, or never filled
    key_B2: jax.Array  # raw key of the row
    response_BT: jax.Array
    logp_BT: jax.Array  # of the tokens drawn, nats


@flax.struct.dataclass
class Inserts:
    """Rows to put in; S data shards, I / S rows of each, and places are counted inside a shard."""

    source_SI: jax.Array  # place among the prefilled prompts
    slot_SI: jax.Array  # place among the rows; beyond the last: nothing is put in
    key_SI2: jax.Array
    limit_SI: jax.Array


def categorical(logits_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """One index per row from softmax(logits), by inverting its distribution function at a uniform number.

    Two levels (blocks, then inside one block) keep the running sums short and cheap; Gumbel noise for every
    entry of the vocabulary costs ten times as much on CPU.
    """
    batch, vocab = logits_BV.shape
    block = 256
    padded_BV = jnp.pad(logits_BV, ((0, 0), (0, -vocab % block)), constant_values=-jnp.inf)
    mass_BnC = jnp.exp(padded_BV - jnp.max(padded_BV, axis=1, keepdims=True)).reshape(batch, -1, block)
    ends_Bn = jnp.cumsum(jnp.sum(mass_BnC, axis=2), axis=1)
    target_B = uniform_B * ends_Bn[:, -1]

    def first_above(ends_Bm, target_B, mass_Bm):
        """The first entry whose running sum exceeds the target, never one without mass."""
        index_B = jnp.sum(ends_Bm <= target_B[:, None], axis=1)
        last_B = mass_Bm.shape[1] - 1 - jnp.argmax(mass_Bm[:, ::-1] > 0, axis=1)
        return jnp.minimum(index_B, last_B)

    block_B = first_above(ends_Bn, target_B, jnp.sum(mass_BnC, axis=2))
    inside_BC = jnp.take_along_axis(mass_BnC, block_B[:, None, None], axis=1)[:, 0]
    before_B = jnp.where(block_B > 0, jnp.take_along_axis(ends_Bn, block_B[:, None] - 1, axis=1)[:, 0], 0.0)
    return block_B * block + first_above(jnp.cumsum(inside_BC, axis=1), target_B - before_B, inside_BC)


def draw(
    hidden_ND: jax.Array, head_VD: jax.Array, key_N2: jax.Array, count_N: jax.Array, temperature: float,
    vocab: int | None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The next token [N] of each row from softmax(logits / temperature), and its log-probability, nats.

    A row draws its token number `count` from fold_in(its key, count), so that its response does not depend on the
    rows beside it. Temperature 0 is greedy, with log-probabilities at temperature 1; ids from `vocab` on have none.
    """
    logits_NV = jnp.einsum("nd,vd->nv", hidden_ND, head_VD, preferred_element_type=jnp.float32)
    logits_NV = losses.known_tokens(logits_NV, vocab)
    if temperature == 0:
        token_N = jnp.argmax(logits_NV, axis=-1)
    else:
        logits_NV = logits_NV / temperature
        keys_N = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(key_N2, impl=KEYS), count_N)
        token_N = categorical(logits_NV, jax.vmap(jax.random.uniform)(keys_N))
    picked_N = jnp.take_along_axis(logits_NV, token_N[:, None], axis=1)[:, 0]
    return token_N.astype(jnp.int32), picked_N - jax.nn.logsumexp(logits_NV, axis=1)


def prefill(
    graph: nnx.GraphDef, params: Params, prompt_RP: jax.Array, mask_RP: jax.Array, *, dtype: str, mesh: Mesh | None
) -> Prefilled:
    """Read prompts, left-padded (mask_RP: True at prompt tokens), with weights and activations of `dtype`."""
    decoder = nnx.merge(graph, decoders.in_dtype(params, dtype))
    positions_RP = jnp.maximum(jnp.cumsum(mask_RP, axis=1) - 1, 0)
    hidden_RPD, (k, v) = decoder(prompt_RP, positions_RP, mask_RP.astype(jnp.int32), mesh=mesh)
    k, v = k.transpose(0, 1, 3, 4, 2), v.transpose(0, 1, 3, 2, 4)
    return Prefilled(hidden_RPD[:, -1], list(zip(k, v, strict=True)), jnp.sum(mask_RP, axis=1))


def empty(cfg: decoders.DecoderConfig, rows: int, columns: int, width: int, steps: int, pad_id: int, dtype: str):
    """A `Decoding` of so many rows, none of them filled, whose prompts have `width` columns and responses `steps`."""
    keys = (rows, cfg.kv_heads, cfg.head_dim, columns)
    values = (rows, cfg.kv_heads, columns, cfg.head_dim)
    zeros = jnp.zeros(rows, jnp.int32)
    return Decoding(
        cache=[(jnp.zeros(keys, dtype), jnp.zeros(values, dtype)) for _ in range(cfg.layers)],
        column=jnp.int32(width),
        start_B=zeros, token_B=zeros, count_B=zeros, limit_B=zeros,
        alive_B=jnp.zeros(rows, bool),
        key_B2=jnp.zeros((rows, 2), jnp.uint32),
        response_BT=jnp.full((rows, steps), pad_id, jnp.int32),
        logp_BT=jnp.zeros((rows, steps), jnp.float32),
    )  # fmt: skip


def insert(
    state: Decoding, read: Prefilled, new: Inserts, head_VD: jax.Array, *, temperature: float,
    stop_ids: tuple[int, ...], pad_id: int, vocab: int | None,
) -> Decoding:  # fmt: skip
    """Put prefilled prompts into rows, and draw the first token of each."""
    shards = len(new.slot_SI)

    def taken(x_R):
        """Rows of the prefilled prompts [I, ...]; each shard has its own."""
        rows_SI = jax.vmap(lambda x, source: x[source])(_by_shard(x_R, shards), new.source_SI)
        return rows_SI.reshape(-1, *x_R.shape[1:])

    def put(x_B, new_I):
        """Rows [B, ...] with the new ones at their slots."""
        by_shard = (_by_shard(x_B, shards), new.slot_SI, _by_shard(new_I, shards))
        return jax.vmap(lambda x, slot, y: x.at[slot].set(y, mode="drop"))(*by_shard).reshape(x_B.shape)

    def laid(x_I, axis):
        """P columns, widened to C so that the last one comes to lie before the present column."""
        columns = state.cache[0][0].shape[-1]
        room = [(0, columns - x_I.shape[a] if a == axis else 0) for a in range(x_I.ndim)]
        return jnp.roll(jnp.pad(x_I, room), state.column - x_I.shape[axis], axis)

    key_I2, limit_I, length_I = new.key_SI2.reshape(-1, 2), new.limit_SI.reshape(-1), taken(read.length_R)
    count_I = jnp.zeros_like(limit_I)
    token_I, logp_I = draw(taken(read.hidden_RD), head_VD, key_I2, count_I, temperature, vocab)
    response_IT = jnp.full((len(token_I), state.response_BT.shape[1]), pad_id, jnp.int32).at[:, 0].set(token_I)
    logp_IT = jnp.zeros((len(token_I), state.logp_BT.shape[1]), jnp.float32).at[:, 0].set(logp_I)
    return Decoding(
        cache=[
            (put(k, laid(taken(new_k), 3)), put(v, laid(taken(new_v), 2)))
            for (k, v), (new_k, new_v) in zip(state.cache, read.cache, strict=True)
        ],
        column=state.column,
        start_B=put(state.start_B, state.column - length_I),
        token_B=put(state.token_B, token_I),
        count_B=put(state.count_B, count_I + 1),
        limit_B=put(state.limit_B, limit_I),
        alive_B=put(state.alive_B, _goes_on(token_I, count_I + 1, limit_I, stop_ids)),
        key_B2=put(state.key_B2, key_I2),
        response_BT=put(state.response_BT, response_IT),
        logp_BT=put(state.logp_BT, logp_IT),
    )


def decode(
    graph: nnx.GraphDef, weights: Params, state: Decoding, enough: jax.Array, last: jax.Array, *, temperature: float,
    stop_ids: tuple[int, ...], vocab: int | None,
) -> Decoding:  # fmt: skip
    """Draw tokens until `enough` rows are not alive, or column `last` would be written; all on the devices.

    Args:
      weights: of `decoder.unstacked`.
    """
    decoder, layers = decoders.of_unstacked(graph, weights)
    columns, rows = state.cache[0][0].shape[-1], jnp.arange(len(state.alive_B))

    def unfinished(state: Decoding):
        return (jnp.sum(~state.alive_B) < enough) & (state.column < last)

    def step(state: Decoding) -> Decoding:
        age_C = (state.column - jnp.arange(columns)) % columns  # 0: the column that is written now
        visible_BC = age_C[None] <= (state.column - state.start_B)[:, None]
        hidden_BD, cache = decoder.decode(
            layers, state.token_B, state.column - state.start_B, visible_BC, state.cache, state.column % columns
        )
        token_B, logp_B = draw(hidden_BD, decoder.head_VD(), state.key_B2, state.count_B, temperature, vocab)
        # A row that is not alive writes beyond its last token, which drops it.
        place_B = jnp.where(state.alive_B, state.count_B, state.response_BT.shape[1])
        count_B = state.count_B + state.alive_B
        return state.replace(
            cache=cache,
            column=state.column + 1,
            token_B=token_B,
            count_B=count_B,
            alive_B=state.alive_B & _goes_on(token_B, count_B, state.limit_B, stop_ids),
            response_BT=state.response_BT.at[rows, place_B].set(token_B, mode="drop"),
            logp_BT=state.logp_BT.at[rows, place_B].set(logp_B, mode="drop"),
        )

    return jax.lax.while_loop(unfinished, step, state)


def widen(layer: tuple[jax.Array, jax.Array], column: jax.Array, columns: int) -> tuple[jax.Array, jax.Array]:
    """One layer's keys and values in a ring of more columns, before column `column` is written."""
    k, v = layer
    before = k.shape[-1]
    newest_C = column - 1 - (column - 1 - jnp.arange(columns)) % columns  # the column that lies there
    place_C = newest_C % before  # of columns that are gone, anything: nobody sees them
    return jnp.take(k, place_C, axis=3), jnp.take(v, place_C, axis=2)


def _goes_on(token_N: jax.Array, count_N: jax.Array, limit_N: jax.Array, stop_ids: tuple[int, ...]) -> jax.Array:
    """Whether a row draws again after its token number `count`."""
    return ~jnp.isin(token_N, jnp.asarray(stop_ids, jnp.int32)) & (count_N < limit_N)


def _by_shard(x: jax.Array, shards: int) -> jax.Array:
    return x.reshape(shards, -1, *x.shape[1:])
