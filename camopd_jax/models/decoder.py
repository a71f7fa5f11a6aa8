"""A causal decoder of the Llama/Qwen family in Flax NNX: GQA, RoPE, RMSNorm, SwiGLU.

One forward pass serves sampling (with a key-value cache), scoring and training (packed sequences).
Weights are stacked over layers and stored as [out, in], as Hugging Face does: a product of a few rows with
such a matrix, which is what decoding is made of, measured a quarter faster on CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from camopd_jax.types import PackedTokens, Params

# Logical axes of each parameter; sharding.py maps them to the mesh.
AXES = {
    "embed": ("vocab", "embed"),
    "head": ("vocab", "embed"),
    "norm": ("norm",),
    "attn_norm": ("layers", "norm"),
    "mlp_norm": ("layers", "norm"),
    "q_norm": ("layers", "norm"),
    "k_norm": ("layers", "norm"),
    "q": ("layers", "heads", "embed"),
    "k": ("layers", "kv_heads", "embed"),
    "v": ("layers", "kv_heads", "embed"),
    "o": ("layers", "embed", "heads"),
    "gate": ("layers", "mlp", "embed"),
    "up": ("layers", "mlp", "embed"),
    "down": ("layers", "embed", "mlp"),
}

REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclass(frozen=True)
class RopeScaling:
    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 0


@dataclass(frozen=True)
class DecoderConfig:
    vocab_size: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float
    norm_eps: float
    tied_head: bool
    max_positions: int  # context length that the model was made for
    qk_norm: bool = False  # Qwen3: RMSNorm on each query and key head
    qkv_bias: bool = False
    rope_scaling: RopeScaling | None = None


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32 (Zhang & Sennrich 2019)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return x32.astype(x.dtype) * scale.astype(x.dtype)


def rope(x_BLHD: jax.Array, positions_BL: jax.Array, theta: float) -> jax.Array:
    """Rotate the two halves of each head by position * theta^(-2i/D) (Su et al. 2021, half-split form)."""
    half = x_BLHD.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions_BL[:, :, None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x_BLHD.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BLHD.dtype)


class Block(nnx.Module):
    """One layer: attention and SwiGLU, each behind an RMSNorm and a residual."""

    def __init__(self, cfg: DecoderConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        init = nnx.initializers.normal(0.02)

        def weight(*shape):
            return nnx.Param(init(rngs.params(), shape, jnp.float32))

        def ones(n):
            return nnx.Param(jnp.ones((n,), jnp.float32))

        q_out, kv_out = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
        self.attn_norm, self.mlp_norm = ones(cfg.width), ones(cfg.width)
        self.q, self.k, self.v = weight(q_out, cfg.width), weight(kv_out, cfg.width), weight(kv_out, cfg.width)
        self.o = weight(cfg.width, q_out)
        self.gate, self.up = weight(cfg.mlp_width, cfg.width), weight(cfg.mlp_width, cfg.width)
        self.down = weight(cfg.width, cfg.mlp_width)
        if cfg.qk_norm:
            self.q_norm, self.k_norm = ones(cfg.head_dim), ones(cfg.head_dim)

    def __call__(self, x_BLD, positions_BL, mask_BLK, cache=None, write_at=None):
        """Return the block's output and its keys and values.

        Without a cache, keys and values are those of the L tokens given (K = L). With one, they are the
        whole cache with the new tokens written from column `write_at` on (K = cache length).
        """
        cfg = self.cfg
        batch, length, _ = x_BLD.shape

        h = rms_norm(x_BLD, self.attn_norm[...], cfg.norm_eps)
        q = (h @ self.q[...].T).reshape(batch, length, cfg.heads, cfg.head_dim)
        k = (h @ self.k[...].T).reshape(batch, length, cfg.kv_heads, cfg.head_dim)
        v = (h @ self.v[...].T).reshape(batch, length, cfg.kv_heads, cfg.head_dim)
        if cfg.qk_norm:
            q = rms_norm(q, self.q_norm[...], cfg.norm_eps)
            k = rms_norm(k, self.k_norm[...], cfg.norm_eps)
        q, k = rope(q, positions_BL, cfg.rope_theta), rope(k, positions_BL, cfg.rope_theta)
        if cache is not None:
            k = jax.lax.dynamic_update_slice_in_dim(cache[0], k, write_at, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(cache[1], v, write_at, axis=1)
        attended = jax.nn.dot_product_attention(q, k, v, mask=mask_BLK[:, None])
        x_BLD = x_BLD + attended.reshape(batch, length, -1) @ self.o[...].T

        h = rms_norm(x_BLD, self.mlp_norm[...], cfg.norm_eps)
        x_BLD = x_BLD + (jax.nn.silu(h @ self.gate[...].T) * (h @ self.up[...].T)) @ self.down[...].T
        return x_BLD, (k, v)


class Decoder(nnx.Module):
    """Embedding, stacked blocks, final norm, and the output head (tied to the embedding or its own)."""

    def __init__(self, cfg: DecoderConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        init = nnx.initializers.normal(0.02)
        self.embed = nnx.Param(init(rngs.params(), (cfg.vocab_size, cfg.width), jnp.float32))
        self.layers = nnx.vmap(lambda r: Block(cfg, r))(rngs.split(cfg.layers))
        self.norm = nnx.Param(jnp.ones((cfg.width,), jnp.float32))
        if not cfg.tied_head:
            self.head = nnx.Param(init(rngs.params(), (cfg.vocab_size, cfg.width), jnp.float32))

    def head_VD(self) -> jax.Array:
        return self.embed[...] if self.cfg.tied_head else self.head[...]

    def __call__(self, tokens_BL, positions_BL, mask_BLK, remat="none"):
        """Hidden states [B, L, D] and each layer's keys and values, stacked [layers, B, L, heads, head_dim]."""
        graph, stacked = nnx.split(self.layers)

        def layer(x, params):
            return nnx.merge(graph, params)(x, positions_BL, mask_BLK)

        if REMAT[remat] is not None:
            layer = jax.checkpoint(layer, policy=REMAT[remat])
        x_BLD, kv = jax.lax.scan(layer, self.embed[...][tokens_BL], stacked)
        return rms_norm(x_BLD, self.norm[...], self.cfg.norm_eps), kv

    def layer_list(self) -> list[Block]:
        """The blocks one by one: a loop over tokens must not slice the stacked weights again for each."""
        graph, stacked = nnx.split(self.layers)
        return [nnx.merge(graph, jax.tree.map(lambda a, i=i: a[i], stacked)) for i in range(self.cfg.layers)]

    def decode(self, layers: Sequence[Block], token_B, position_B, mask_BK, cache, write_at):
        """One token a row against the cache: hidden states [B, D] and the new cache."""
        x_BLD = self.embed[...][token_B[:, None]]
        new_cache = []
        for layer, layer_cache in zip(layers, cache, strict=True):
            x_BLD, kv = layer(x_BLD, position_B[:, None], mask_BK[:, None], layer_cache, write_at)
            new_cache.append(kv)
        return rms_norm(x_BLD, self.norm[...], self.cfg.norm_eps)[:, 0], new_cache


def split(cfg: DecoderConfig) -> tuple[nnx.GraphDef, Params]:
    """The static graph of a decoder and the shapes of its parameters (nothing is allocated)."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: Decoder(cfg, nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(shapes)


def random_params(cfg: DecoderConfig, seed: int) -> Params:
    """Random weights, for tests and the tiny preset."""
    return nnx.to_pure_dict(nnx.state(Decoder(cfg, nnx.Rngs(seed))))


def causal_mask(segments_BL: jax.Array) -> jax.Array:
    """[B, L, L]: a token attends to itself and to earlier tokens of its own segment; 0 is padding."""
    length = segments_BL.shape[1]
    same_BLK = (segments_BL[:, :, None] == segments_BL[:, None, :]) & (segments_BL[:, None, :] > 0)
    return same_BLK & jnp.tril(jnp.ones((length, length), bool))


def packed_hidden(decoder: Decoder, packed: PackedTokens, remat: str = "none") -> jax.Array:
    """Hidden states [R, S, D] that predict the slots' tokens."""
    hidden_RWD, _ = decoder(packed.tokens_RW, packed.positions_RW, causal_mask(packed.segments_RW), remat)
    return jnp.take_along_axis(hidden_RWD, packed.source_RS[:, :, None], axis=1)
