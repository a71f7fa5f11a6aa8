"""A bidirectional text encoder of the BERT family in Flax NNX: BERT, RoBERTa (norms last) and Megatron-BERT (first).

Absolute positions, GELU of the error function, weights stacked over layers and stored as [out, in], as the decoder's.
Dropout is on the embeddings and on what attention and MLP add; attention weights have none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from camopd_jax.types import Params

# Logical axes of each parameter; sharding.py maps them to the mesh.
AXES = {
    "embed": ("vocab", "embed"),
    "positions": ("norm", "embed"),
    "types": ("norm", "embed"),
    "embed_norm": ("norm",), "embed_norm_bias": ("norm",), "last_norm": ("norm",), "last_norm_bias": ("norm",),
    "q": ("layers", "heads", "embed"), "k": ("layers", "heads", "embed"), "v": ("layers", "heads", "embed"),
    "o": ("layers", "embed", "heads"),
    "up": ("layers", "mlp", "embed"),
    "down": ("layers", "embed", "mlp"),
    **{f"{name}_bias": ("layers", axis) for name, axis in (("q", "heads"), ("k", "heads"), ("v", "heads"))},
    "up_bias": ("layers", "mlp"),
    **{name: ("layers", "norm") for name in ("o_bias", "down_bias")},
    **{f"{part}_norm{bias}": ("layers", "norm") for part in ("attn", "mlp") for bias in ("", "_bias")},
}  # fmt: skip
KINDS = ("bert", "roberta", "megatron-bert")


@dataclass(frozen=True)
class EncoderConfig:
    kind: str  # of KINDS
    vocab_size: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    max_positions: int  # rows of the table
    first_position: int  # row of the first token; RoBERTa leaves out those up to the padding's id
    types: int  # rows of the table of token types, of which the first is used
    norm_eps: float

    @property
    def max_tokens(self) -> int:
        return self.max_positions - self.first_position


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last axis, in float32 (Ba et al. 2016)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return x32.astype(x.dtype) * scale.astype(x.dtype) + bias.astype(x.dtype)


def dropped(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Dropout (Srivastava et al. 2014); without a key, or at rate 0, x."""
    if key is None or not rate:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def weight(rngs: nnx.Rngs, *shape: int) -> nnx.Param:
    return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), shape, jnp.float32))


def full(value: float, *shape: int) -> nnx.Param:
    return nnx.Param(jnp.full(shape, value, jnp.float32))


class Layer(nnx.Module):
    """Attention and MLP, each with a residual and a norm: after the sum, or (Megatron) before it is read."""

    def __init__(self, cfg: EncoderConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        width, wide = cfg.width, cfg.mlp_width
        self.q, self.k, self.v, self.o = (weight(rngs, width, width) for _ in range(4))
        self.q_bias, self.k_bias, self.v_bias, self.o_bias = (full(0, width) for _ in range(4))
        self.up, self.up_bias = weight(rngs, wide, width), full(0, wide)
        self.down, self.down_bias = weight(rngs, width, wide), full(0, width)
        self.attn_norm, self.attn_norm_bias = full(1, width), full(0, width)
        self.mlp_norm, self.mlp_norm_bias = full(1, width), full(0, width)

    def linear(self, name: str, x: jax.Array) -> jax.Array:
        return x @ getattr(self, name)[...].T + getattr(self, f"{name}_bias")[...]

    def norm(self, name: str, x: jax.Array) -> jax.Array:
        scale, bias = getattr(self, f"{name}_norm")[...], getattr(self, f"{name}_norm_bias")[...]
        return layer_norm(x, scale, bias, self.cfg.norm_eps)

    def attention(self, x_MTD: jax.Array, mask_MT: jax.Array) -> jax.Array:
        """softmax(q k^T / sqrt(D / H), padding masked) v, projected."""
        heads = self.cfg.heads
        q, k, v = (self.linear(name, x_MTD).reshape(*x_MTD.shape[:2], heads, -1) for name in "qkv")
        score_MHQT = jnp.einsum("mqhd,mthd->mhqt", q, k, preferred_element_type=jnp.float32) / q.shape[-1] ** 0.5
        weight_MHQT = jax.nn.softmax(jnp.where(mask_MT[:, None, None], score_MHQT, -1e30), axis=-1)
        attended = jnp.einsum("mhqt,mthd->mqhd", weight_MHQT.astype(v.dtype), v)
        return self.linear("o", attended.reshape(x_MTD.shape))

    def mlp(self, x_MTD: jax.Array) -> jax.Array:
        return self.linear("down", jax.nn.gelu(self.linear("up", x_MTD), approximate=False))

    def __call__(self, x_MTD, mask_MT, dropout: float, key):
        first, second = (None, None) if key is None else jax.random.split(key)
        if self.cfg.kind == "megatron-bert":
            x_MTD = x_MTD + dropped(self.attention(self.norm("attn", x_MTD), mask_MT), dropout, first)
            return x_MTD + dropped(self.mlp(self.norm("mlp", x_MTD)), dropout, second)
        x_MTD = self.norm("attn", x_MTD + dropped(self.attention(x_MTD, mask_MT), dropout, first))
        return self.norm("mlp", x_MTD + dropped(self.mlp(x_MTD), dropout, second))


class Encoder(nnx.Module):
    """Embeddings and stacked layers."""

    def __init__(self, cfg: EncoderConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        self.embed = weight(rngs, cfg.vocab_size, cfg.width)
        self.positions, self.types = weight(rngs, cfg.max_positions, cfg.width), weight(rngs, cfg.types, cfg.width)
        name = "last" if cfg.kind == "megatron-bert" else "embed"
        setattr(self, f"{name}_norm", full(1, cfg.width))
        setattr(self, f"{name}_norm_bias", full(0, cfg.width))
        self.layers = nnx.vmap(lambda r: Layer(cfg, r))(rngs.split(cfg.layers))

    def __call__(self, token_MT, mask_MT, *, dropout: float = 0.0, key: jax.Array | None = None, remat: bool = False):
        """Hidden states [M, T, D] of right-padded sequences (mask: True at tokens); padding has values of no meaning.

        Args:
          dropout: with `key`, of embeddings and of what each half of a layer adds.
          remat: the backward pass computes each layer again.
        """
        cfg = self.cfg
        rows = slice(cfg.first_position, cfg.first_position + token_MT.shape[1])
        x_MTD = self.embed[...][token_MT] + self.positions[...][rows] + self.types[...][0]
        if cfg.kind != "megatron-bert":
            x_MTD = layer_norm(x_MTD, self.embed_norm[...], self.embed_norm_bias[...], cfg.norm_eps)
        keys = None if key is None else jax.random.split(key, cfg.layers + 1)
        x_MTD = dropped(x_MTD, dropout, None if keys is None else keys[-1])
        graph, stacked = nnx.split(self.layers)

        def layer(x, of_layer):
            params, one = of_layer
            return nnx.merge(graph, params)(x, mask_MT, dropout, one), None

        x_MTD, _ = jax.lax.scan(
            jax.checkpoint(layer) if remat else layer, x_MTD, (stacked, None if keys is None else keys[:-1])
        )
        if cfg.kind == "megatron-bert":
            x_MTD = layer_norm(x_MTD, self.last_norm[...], self.last_norm_bias[...], cfg.norm_eps)
        return x_MTD


def tensors_of(cfg: EncoderConfig) -> Iterator[tuple[str, int | None, tuple[int, ...]]]:
    """(name, layer or None, shape) of each tensor of a model."""
    shapes = shapes_of(cfg)
    for name, shape in shapes.items():
        if name != "layers":
            yield name, None, shape.shape
    for layer in range(cfg.layers):
        for name, shape in shapes["layers"].items():
            yield name, layer, shape.shape[1:]


def shapes_of(cfg: EncoderConfig) -> Params:
    """The shapes of the parameters (nothing is allocated)."""
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Encoder(cfg, nnx.Rngs(0)))))
