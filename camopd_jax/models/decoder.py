"""A causal decoder of the Llama/Qwen family in Flax NNX: GQA, RoPE, RMSNorm, SwiGLU.

One forward pass serves sampling (with a key-value cache), scoring and training (packed sequences).
Weights are stacked over layers and stored as [out, in], as Hugging Face does: a product of a few rows with
such a matrix, which is what decoding is made of, measured a quarter faster on CPU.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from camopd_jax import sharding
from camopd_jax.models.attention import attend, attend_one
from camopd_jax.models.product import product
from camopd_jax.models.rope import RopeScaling, rotate, rotation
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
    "q_bias": ("layers", "heads"),
    "k_bias": ("layers", "kv_heads"),
    "v_bias": ("layers", "kv_heads"),
    "q": ("layers", "heads", "embed"),
    "k": ("layers", "kv_heads", "embed"),
    "v": ("layers", "kv_heads", "embed"),
    "o": ("layers", "embed", "heads"),
    "gate": ("layers", "mlp", "embed"),
    "up": ("layers", "mlp", "embed"),
    "down": ("layers", "embed", "mlp"),
}
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")  # what may have a low-rank update
AXES |= {f"{t}_lora_a": ("layers", "lora", AXES[t][2]) for t in TARGETS}
AXES |= {f"{t}_lora_b": ("layers", AXES[t][1], "lora") for t in TARGETS}

REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.save_only_these_names("product"),
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclass(frozen=True)
class Lora:
    """Low-rank updates: W x becomes W x + (alpha / rank) B A x (Hu et al. 2021, eq. 3).

    Raises:
      ValueError: if the rank is not positive or a target is none of a layer's matrices.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"lora.rank = {self.rank}: must be at least 1")
        if not self.targets or not set(self.targets) <= set(TARGETS):
            raise ValueError(f"lora.targets = {self.targets}: allowed are one or more of {', '.join(TARGETS)}")


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
    qkv_bias: bool = False  # Qwen2: queries, keys and values have a bias
    rope_scaling: RopeScaling | None = None
    lora: Lora | None = None


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32 (Zhang & Sennrich 2019)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return x32.astype(x.dtype) * scale.astype(x.dtype)


class Block(nnx.Module):
    """One layer: attention and SwiGLU, each behind an RMSNorm and a residual."""

    def __init__(self, cfg: DecoderConfig, rngs: nnx.Rngs):
        self.cfg = cfg

        def weight(*shape):
            return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), shape, jnp.float32))

        def ones(n):
            return nnx.Param(jnp.ones((n,), jnp.float32))

        def zeros(*shape):
            return nnx.Param(jnp.zeros(shape, jnp.float32))

        q_out, kv_out = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
        self.attn_norm, self.mlp_norm = ones(cfg.width), ones(cfg.width)
        self.q, self.k, self.v = weight(q_out, cfg.width), weight(kv_out, cfg.width), weight(kv_out, cfg.width)
        self.o = weight(cfg.width, q_out)
        self.gate, self.up = weight(cfg.mlp_width, cfg.width), weight(cfg.mlp_width, cfg.width)
        self.down = weight(cfg.width, cfg.mlp_width)
        if cfg.qk_norm:
            self.q_norm, self.k_norm = ones(cfg.head_dim), ones(cfg.head_dim)
        if cfg.qkv_bias:
            self.q_bias, self.k_bias, self.v_bias = zeros(q_out), zeros(kv_out), zeros(kv_out)
        for target in cfg.lora.targets if cfg.lora else ():
            out, into = getattr(self, target).shape
            setattr(self, f"{target}_lora_a", weight(cfg.lora.rank, into))  # lora.start has the values
            setattr(self, f"{target}_lora_b", zeros(out, cfg.lora.rank))

    def product(self, name: str, x: jax.Array) -> jax.Array:
        """x W^T, with the bias and the low-rank update that the config gives this weight."""
        y = checkpoint_name(product(x, getattr(self, name)[...]), "product")
        if self.cfg.qkv_bias and name in ("q", "k", "v"):
            y = y + getattr(self, f"{name}_bias")[...]
        lora = self.cfg.lora
        if lora and name in lora.targets:
            # Adapters may be float32 beside weights of another type; the residual stream keeps the latter's.
            a, b = (getattr(self, f"{name}_lora_{part}")[...].astype(x.dtype) for part in "ab")
            y = y + (lora.alpha / lora.rank) * ((x @ a.T) @ b.T)
        return y

    def heads(self, x_BLD, turn):
        """Queries, keys and values [B, L, heads, head_dim], the first two normed and turned."""
        cfg = self.cfg
        h = rms_norm(x_BLD, self.attn_norm[...], cfg.norm_eps)
        q, k, v = (self.product(name, h).reshape(*x_BLD.shape[:2], -1, cfg.head_dim) for name in ("q", "k", "v"))
        if cfg.qk_norm:
            q = rms_norm(q, self.q_norm[...], cfg.norm_eps)
            k = rms_norm(k, self.k_norm[...], cfg.norm_eps)
        return rotate(q, turn), rotate(k, turn), v

    def rest(self, x_BLD, attended_BLHD):
        """What follows the attention: output projection and SwiGLU, each added to the residual stream."""
        x_BLD = x_BLD + self.product("o", attended_BLHD.reshape(*x_BLD.shape[:2], -1))
        h = rms_norm(x_BLD, self.mlp_norm[...], self.cfg.norm_eps)
        return x_BLD + self.product("down", jax.nn.silu(self.product("gate", h)) * self.product("up", h))

    def __call__(self, x_BLD, turn, segments_BL, prefix_BL):
        """The block's output for whole sequences, and their keys and values."""
        q, k, v = self.heads(x_BLD, turn)
        return self.rest(x_BLD, attend(q, k, v, segments_BL, prefix_BL)), (k, v)

    def decode(self, x_BLD, turn, visible_BC, cache, column):
        """The same for one new token a row (L = 1), whose key and value go to one column of the cache.

        A row attends to the columns that are visible to it. Keys are [B, N, head_dim, C], values [B, N, C, head_dim].
        """
        q, k, v = self.heads(x_BLD, turn)
        k = jax.lax.dynamic_update_slice_in_dim(cache[0], k.transpose(0, 2, 3, 1), column, axis=3)
        v = jax.lax.dynamic_update_slice_in_dim(cache[1], v.transpose(0, 2, 1, 3), column, axis=2)
        return self.rest(x_BLD, attend_one(q[:, 0], k, v, visible_BC)), (k, v)


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

    def turn(self, positions_BL):
        cfg = self.cfg
        return rotation(positions_BL, cfg.head_dim, cfg.rope_theta, cfg.rope_scaling)

    def __call__(
        self, tokens_BL, positions_BL, segments_BL, remat="none", mesh: Mesh | None = None, prefix_BL=None
    ):  # fmt: skip
        """Hidden states [B, L, D] of whole sequences, each token seeing the earlier ones of its segment (0: padding).

        Also each layer's keys and values, stacked [layers, B, L, heads, head_dim]. Hidden states are of the
        parameters' dtype (float32 or bfloat16). On a mesh every row stays on its data shard, and a layer's weights come
        to the rows while the layer is computed; left alone, XLA moves the rows.

        Args:
          prefix_BL: a segment that a token sees beside its own: of an answer, the prompt that it shares with others.
        """
        graph, stacked = nnx.split(self.layers)
        turn = self.turn(positions_BL)

        def layer(x, params):
            x, kv = nnx.merge(graph, params)(x, turn, segments_BL, prefix_BL)
            return sharding.constrain(x, mesh, "rows"), kv

        if REMAT[remat] is not None:
            layer = jax.checkpoint(layer, policy=REMAT[remat])
        # Every device looks up its own columns for the rows of its neighbours too; then each gets its rows whole.
        x_BLD = sharding.constrain(self.embed[...][tokens_BL], mesh, "copies", None, "embed")
        x_BLD = sharding.constrain(x_BLD, mesh, "rows")
        x_BLD, kv = jax.lax.scan(layer, x_BLD, stacked)
        return rms_norm(x_BLD, self.norm[...], self.cfg.norm_eps), kv

    def decode(self, layers: Sequence[Block], token_B, position_B, visible_BC, cache, column):
        """One token a row against the cache: hidden states [B, D] and the new cache."""
        x_BLD, turn = self.embed[...][token_B[:, None]], self.turn(position_B[:, None])
        new_cache = []
        for layer, layer_cache in zip(layers, cache, strict=True):
            x_BLD, kv = layer.decode(x_BLD, turn, visible_BC, layer_cache, column)
            new_cache.append(kv)
        return rms_norm(x_BLD, self.norm[...], self.cfg.norm_eps)[:, 0], new_cache


def unstacked(params: Params) -> Params:
    """The parameters with a list of layers: a loop over tokens must not slice stacked weights again for each."""
    layers = range(len(params["layers"]["attn_norm"]))
    return params | {"layers": [jax.tree.map(lambda a, i=i: a[i], params["layers"]) for i in layers]}


def of_unstacked(graph: nnx.GraphDef, weights: Params) -> tuple[Decoder, list[Block]]:
    """A decoder, and its layers one by one, from `unstacked` parameters; its own stack of layers is the first alone."""
    first = jax.tree.map(lambda a: a[None], weights["layers"][0])
    decoder = nnx.merge(graph, weights | {"layers": first})
    block, _ = nnx.split(decoder.layers)
    return decoder, [nnx.merge(block, layer) for layer in weights["layers"]]


def split(cfg: DecoderConfig) -> tuple[nnx.GraphDef, Params]:
    """The static graph of a decoder and the shapes of its parameters (nothing is allocated)."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: Decoder(cfg, nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(shapes)


def tensors_of(cfg: DecoderConfig) -> Iterator[tuple[str, int | None, tuple[int, ...]]]:
    """(name, layer or None, shape) of each tensor of a model, its adapter aside."""
    _, shapes = split(replace(cfg, lora=None))
    for name, shape in shapes.items():
        if name != "layers":
            yield name, None, shape.shape
    for layer in range(cfg.layers):
        for name, shape in shapes["layers"].items():
            yield name, layer, shape.shape[1:]


def layer_products(cfg: DecoderConfig) -> int:
    """Weights of one layer that take part in a product for each token."""
    return cfg.width * cfg.head_dim * 2 * (cfg.heads + cfg.kv_heads) + 3 * cfg.width * cfg.mlp_width


def random_params(cfg: DecoderConfig, seed: int) -> Params:
    """Random weights, for tests and the tiny preset."""
    return nnx.to_pure_dict(nnx.state(Decoder(cfg, nnx.Rngs(seed))))


def packed_hidden(decoder: Decoder, packed: PackedTokens, remat: str = "none", mesh: Mesh | None = None) -> jax.Array:
    """Hidden states [R, S, D] that predict the slots' tokens."""
    hidden_RWD, _ = decoder(
        packed.tokens_RW, packed.positions_RW, packed.segments_RW, remat, mesh, packed.prefix_RW
    )  # fmt: skip
    return jnp.take_along_axis(hidden_RWD, packed.source_RS[:, :, None], axis=1)


def in_dtype(params: Params, dtype: str) -> Params:
    """The parameters as they are computed with; a student's master weights may be of a higher precision."""
    return jax.tree.map(lambda p: p.astype(dtype), params)
