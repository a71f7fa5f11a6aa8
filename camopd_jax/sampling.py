"""Prompts to responses: the pure function that is jitted.

It uses the forward pass and the temperature of `scoring`, so that a sampled token's log-probability and the same
token rescored under the same weights agree to rounding.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from camopd_jax import losses
from camopd_jax.models import decoder as decoders
from camopd_jax.types import Params


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


def sample(
    graph: nnx.GraphDef,
    params: Params,
    prompt_BP: jax.Array,
    prompt_mask_BP: jax.Array,
    row_keys_B: jax.Array,
    *,
    max_new_tokens: int,
    temperature: float,
    stop_ids: tuple[int, ...],
    pad_id: int,
    dtype: str,
    vocab: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sample one response per prompt from softmax(logits / temperature); temperature 0 is greedy.

    Every row draws from its own key, so its response does not depend on the rows beside it. Decoding ends
    when every row has emitted a stop id or T = max_new_tokens tokens exist.

    Args:
      prompt_BP: token ids, left-padded; prompt_mask_BP: True at prompt tokens.
      row_keys_B: one typed PRNG key a row.
      dtype: of weights and activations; vocab: ids from here on have no probability (None: all have).

    Returns:
      response_BT (pad_id after the end), response_mask_BT (the stop token included) and sampler_logp_BT:
      log-probabilities in nats under the distribution sampled from (for greedy: at temperature 1), 0 outside
      the mask.
    """
    decoder = nnx.merge(graph, decoders.in_dtype(params, dtype))
    batch, prompt_length = prompt_BP.shape
    steps = max_new_tokens

    positions_BP = jnp.maximum(jnp.cumsum(prompt_mask_BP, axis=1) - 1, 0)
    hidden_BPD, (k, v) = decoder(prompt_BP, positions_BP, prompt_mask_BP.astype(jnp.int32))
    room = ((0, 0), (0, steps), (0, 0), (0, 0))
    cache = [(jnp.pad(k[i], room), jnp.pad(v[i], room)) for i in range(decoder.cfg.layers)]
    layers = decoder.layer_list()
    next_position_B = jnp.sum(prompt_mask_BP, axis=1)
    stop = jnp.asarray(stop_ids)

    def draw(hidden_BD, t):
        logits_BV = jnp.einsum("bd,vd->bv", hidden_BD, decoder.head_VD(), preferred_element_type=jnp.float32)
        logits_BV = losses.known_tokens(logits_BV, vocab)
        if temperature == 0:
            token_B = jnp.argmax(logits_BV, axis=-1)
        else:
            logits_BV = logits_BV / temperature
            step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(row_keys_B, t)
            token_B = categorical(logits_BV, jax.vmap(jax.random.uniform)(step_keys_B))
        picked_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
        return token_B.astype(jnp.int32), picked_B - jax.nn.logsumexp(logits_BV, axis=1)

    def emit(out, token_B, logp_B, alive_B, t):
        response_BT, mask_BT, logp_BT = out
        return (
            response_BT.at[:, t].set(jnp.where(alive_B, token_B, pad_id)),
            mask_BT.at[:, t].set(alive_B),
            logp_BT.at[:, t].set(jnp.where(alive_B, logp_B, 0.0)),
        )

    def unfinished(carry):
        t, _, alive_B, *_ = carry
        return (t < steps) & jnp.any(alive_B)

    def step(carry):
        t, token_B, alive_B, cache, out = carry
        column = prompt_length + t - 1
        earlier_K = jnp.arange(steps) < t
        mask_BK = jnp.concatenate([prompt_mask_BP, jnp.broadcast_to(earlier_K, (batch, steps))], axis=1)
        hidden_BD, cache = decoder.decode(layers, token_B, next_position_B + t - 1, mask_BK, cache, column)
        token_B, logp_B = draw(hidden_BD, t)
        out = emit(out, token_B, logp_B, alive_B, t)
        return t + 1, token_B, alive_B & ~jnp.isin(token_B, stop), cache, out

    token_B, logp_B = draw(hidden_BPD[:, -1], 0)
    alive_B = jnp.ones(batch, bool)
    empty = (
        jnp.full((batch, steps), pad_id, jnp.int32),
        jnp.zeros((batch, steps), bool),
        jnp.zeros((batch, steps), jnp.float32),
    )
    out = emit(empty, token_B, logp_B, alive_B, 0)
    carry = (jnp.int32(1), token_B, ~jnp.isin(token_B, stop), cache, out)
    return jax.lax.while_loop(unfinished, step, carry)[-1]
