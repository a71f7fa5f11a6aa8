"""ProBias and its ablations in one shell: text encoder, code graph, label attention (method.md, section 3).

N notes     K chunks of a note     T tokens of a chunk     C codes     E width of a description's embedding
D width of codes and of the text as label attention reads it     R rare codes     Kc common codes
"""

from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from camopd_jax.models import encoder
from camopd_jax.models.encoder import Encoder, EncoderConfig, dropped, full, layer_norm
from camopd_jax.probias import attention, graph
from camopd_jax.types import Params

DIRECTIONS = ("directed", "undirected", "none")
BIASES = ("bucket", "continuous", "none")
QUERIES = ("described", "learned")  # PLM-ICD has a learned query for each code, and no graph
START = -4.0  # logit of a code at the start: most codes are absent from most notes

# Logical axes of each parameter that is not the encoder's; sharding.py maps them to the mesh.
AXES = encoder.AXES | {
    **{name: ("norm", "norm") for name in ("start", "q0", "graph_q", "graph_k", "graph_v", "graph_o", "graph_up",
                                           "graph_down", "bucket_bias", "key", "value", "query", "output", "gate")},
    **{name: ("norm",) for name in ("graph_norm", "graph_norm_bias", "graph_mlp_norm", "graph_mlp_norm_bias",
                                    "log_scale", "gate_bias", "code_bias")},
}  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """What is computed; the codes, their graph and their descriptions are arrays (`Codes`)."""

    text: EncoderConfig
    codes: int
    described: int  # E
    width: int  # D
    heads: int  # of the graph and of label attention
    mlp_width: int  # of the graph
    direction: str  # of DIRECTIONS
    bias: str  # of BIASES
    bias_scale: float  # what the learned biases are multiplied by: so many times faster do they learn
    gate: bool  # whether each code weighs what the graph says of it against its own description
    queries: str  # of QUERIES
    dropout: float
    code_block: int  # codes that label attention looks at together
    rare_block: int  # rare codes that attend to the common ones together
    remat: bool  # of the encoder's layers


@flax.struct.dataclass
class Codes:
    """What does not train."""

    described_CE: jax.Array
    common_K: jax.Array
    rare_R: jax.Array
    bucket_RK: jax.Array  # graph.NO_EDGE: no edge
    log_p_RK: jax.Array  # where `bias` is "continuous"; else [0, 0]


@flax.struct.dataclass
class Notes:
    """A batch, with its truth; chunks without tokens fill up those of shorter notes."""

    token_NKT: jax.Array
    mask_NKT: jax.Array
    truth_NC: jax.Array  # float32
    weight_N: jax.Array  # of a note in the batch's mean; 0: it fills up the batch
    draw_N: jax.Array  # uint32: which drawing of dropout this is, the same for all


def codes_of(cfg: ModelConfig, made: graph.Graph, described_CE) -> Codes:
    """The arrays of a graph and of the descriptions' embeddings."""
    continuous = cfg.bias == "continuous"
    p_RK = made.probability_RK
    log_p = np.log(np.where(p_RK > 0, p_RK, 1)) if continuous else np.zeros((0, 0))
    return Codes(
        np.asarray(described_CE, np.float32), made.common_K.astype(np.int32), made.rare_R.astype(np.int32),
        made.bucket_RK, log_p.astype(np.float32),
    )  # fmt: skip


class CodeGraph(nnx.Module):
    """One layer of attention from each rare code to the common ones; a common code's value is its own.

    Post-norm: x = norm(q0 + W_o value), then norm(x + MLP(x)). A rare code without an edge is treated as a common one.
    """

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        d = cfg.width
        self.graph_q, self.graph_k, self.graph_v, self.graph_o = (glorot(rngs, d, d) for _ in range(4))
        self.graph_up, self.graph_down = glorot(rngs, cfg.mlp_width, d), glorot(rngs, d, cfg.mlp_width)
        self.graph_norm, self.graph_norm_bias = full(1, d), full(0, d)
        self.graph_mlp_norm, self.graph_mlp_norm_bias = full(1, d), full(0, d)
        if cfg.bias == "bucket":
            self.bucket_bias = full(0, graph.BUCKETS, cfg.heads)
        if cfg.bias == "continuous":
            self.log_scale = full(0, cfg.heads)
        if cfg.gate:
            self.gate, self.gate_bias = glorot(rngs, d, 2 * d), full(0, d)

    def bias(self, bucket_rK: jax.Array, log_p_rK: jax.Array) -> jax.Array | float:
        """What is added to the scores of each head [H, r, K] (co-occurrence encoding)."""
        scale = self.cfg.bias_scale
        if self.cfg.bias == "bucket":
            table_bH = self.bucket_bias[...]
            return scale * jnp.moveaxis(table_bH[jnp.maximum(bucket_rK, 0)], -1, 0)
        if self.cfg.bias == "continuous":
            return scale * self.log_scale[...][:, None, None] * log_p_rK
        return 0.0

    def attend(self, query_rHd, key_KHd, value_KHd, bucket_rK, log_p_rK) -> jax.Array:
        """softmax(q k^T / sqrt(d) + bias, without an edge masked) v [r, D]."""
        score_HrK = jnp.einsum("rhd,khd->hrk", query_rHd, key_KHd, preferred_element_type=jnp.float32)
        score_HrK = score_HrK / query_rHd.shape[-1] ** 0.5 + self.bias(bucket_rK, log_p_rK)
        score_HrK = jnp.where(bucket_rK[None] == graph.NO_EDGE, attention.MASKED, score_HrK)
        weight_HrK = jax.nn.softmax(score_HrK, axis=-1).astype(value_KHd.dtype)
        return jnp.einsum("hrk,khd->rhd", weight_HrK, value_KHd).reshape(len(query_rHd), -1)

    def __call__(self, q0_CD: jax.Array, codes: Codes, key: jax.Array | None) -> jax.Array:
        """Queries of label attention [C, D]."""
        cfg = self.cfg
        query, key_, value = (q0_CD @ getattr(self, f"graph_{n}")[...].T for n in "qkv")
        common, rare = codes.common_K, codes.rare_R
        edge_RK = codes.bucket_RK != graph.NO_EDGE
        mixed_CD = value
        if len(common) and len(rare):
            found = self.of_rare(query[rare], key_[common], value[common], codes)
            mixed_CD = mixed_CD.at[rare].set(jnp.where(edge_RK.any(axis=1)[:, None], found, value[rare]))
            if cfg.direction == "undirected":
                back = self.of_rare(query[common], key_[rare], value[rare], codes.replace(
                    bucket_RK=codes.bucket_RK.T, log_p_RK=codes.log_p_RK.T))  # fmt: skip
                mixed_CD = mixed_CD.at[common].set(jnp.where(edge_RK.any(axis=0)[:, None], back, value[common]))
        first, second = (None, None) if key is None else jax.random.split(key)
        x_CD = q0_CD + dropped(mixed_CD @ self.graph_o[...].T, cfg.dropout, first)
        x_CD = layer_norm(x_CD, self.graph_norm[...], self.graph_norm_bias[...], 1e-5)
        mlp_CD = jax.nn.gelu(x_CD @ self.graph_up[...].T, approximate=False) @ self.graph_down[...].T
        x_CD = x_CD + dropped(mlp_CD, cfg.dropout, second)
        x_CD = layer_norm(x_CD, self.graph_mlp_norm[...], self.graph_mlp_norm_bias[...], 1e-5)
        if cfg.gate:
            both = jnp.concatenate([q0_CD, x_CD], axis=1)
            share_CD = jax.nn.sigmoid(both @ self.gate[...].T + self.gate_bias[...])
            x_CD = share_CD * x_CD + (1 - share_CD) * q0_CD
        return x_CD

    def of_rare(self, query_RD, key_KD, value_KD, codes: Codes) -> jax.Array:
        """`attend` of all rare codes, in blocks that the backward pass computes again."""
        heads, block, rows = self.cfg.heads, self.cfg.rare_block, len(query_RD)
        count = -(-rows // block)

        def blocks(x_Rn, fill=0):
            padded = jnp.pad(x_Rn, ((0, count * block - rows), (0, 0)), constant_values=fill)
            return padded.reshape(count, block, x_Rn.shape[1])

        query, key, value = (x.reshape(len(x), heads, -1) for x in (query_RD, key_KD, value_KD))
        log_p_RK = codes.log_p_RK if self.cfg.bias == "continuous" else jnp.zeros((rows, 0))

        @jax.checkpoint
        def one(x):
            query_rD, bucket_rK, log_p_rK = x
            return self.attend(query_rD.reshape(block, heads, -1), key, value, bucket_rK, log_p_rK)

        found = jax.lax.map(one, (blocks(query.reshape(rows, -1)), blocks(codes.bucket_RK), blocks(log_p_RK)))
        return found.reshape(count * block, -1)[:rows]


class ProBias(nnx.Module):
    """Notes to a logit of each code."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        d = cfg.width
        self.text = Encoder(cfg.text, rngs)
        if cfg.queries == "learned":
            self.start = glorot(rngs, cfg.codes, d)
        else:
            self.q0 = glorot(rngs, d, cfg.described)
            if cfg.direction != "none":
                self.graph = CodeGraph(cfg, rngs)
        self.key, self.value = glorot(rngs, d, cfg.text.width), glorot(rngs, d, cfg.text.width)
        self.query, self.output = glorot(rngs, d, d), glorot(rngs, d, d)
        self.code_bias = full(START, 1)

    def queries(self, codes: Codes, key: jax.Array | None) -> jax.Array:
        """What stands for each code [C, D]."""
        if self.cfg.queries == "learned":
            return self.start[...]
        q0_CD = jnp.tanh(codes.described_CE.astype(self.q0[...].dtype) @ self.q0[...].T)
        return q0_CD if self.cfg.direction == "none" else self.graph(q0_CD, codes, key)

    def read(self, token_MT, mask_MT, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Keys and values of label attention [M, T, D]."""
        cfg = self.cfg
        first, second = (None, None) if key is None else jax.random.split(key)
        x_MTD = self.text(token_MT, mask_MT, dropout=cfg.dropout, key=first, remat=cfg.remat)
        x_MTD = dropped(x_MTD, cfg.dropout, second)
        return jnp.tanh(x_MTD @ self.key[...].T), jnp.tanh(x_MTD @ self.value[...].T)

    def __call__(self, token_NKT, mask_NKT, codes: Codes, key: jax.Array | None = None) -> jax.Array:
        """Logits [N, C], float32; with a key, with dropout."""
        cfg = self.cfg
        first, second = (None, None) if key is None else jax.random.split(key)
        _, chunks, length = token_NKT.shape
        mask_MT = mask_NKT.reshape(-1, length)
        key_MTD, value_MTD = self.read(token_NKT.reshape(-1, length), mask_MT, first)
        query_CD = self.queries(codes, second)
        logit_MC = attention.label_logits(
            key_MTD, value_MTD, mask_MT, query_CD @ self.query[...].T, query_CD @ self.output[...].T,
            heads=cfg.heads, block=min(cfg.code_block, cfg.codes),
        )  # fmt: skip
        return attention.over_chunks(logit_MC, chunks) + self.code_bias[...]


def glorot(rngs: nnx.Rngs, out: int, into: int) -> nnx.Param:
    return nnx.Param(nnx.initializers.glorot_uniform()(rngs.params(), (out, into), jnp.float32))


def split(cfg: ModelConfig) -> tuple[nnx.GraphDef, Params]:
    """The static graph of a model and the shapes of its parameters (nothing is allocated)."""
    static, shapes = nnx.split(nnx.eval_shape(lambda: ProBias(cfg, nnx.Rngs(0))))
    return static, nnx.to_pure_dict(shapes)


def random_params(cfg: ModelConfig, seed: int) -> Params:
    """Parameters to start from; those of a pretrained encoder take the place of `text`."""
    return nnx.to_pure_dict(nnx.state(ProBias(cfg, nnx.Rngs(seed))))


def logits(static: nnx.GraphDef, params: Params, notes: Notes, codes: Codes, key: jax.Array | None, dtype: str):
    """`ProBias` of a batch with parameters and activations of a dtype; pure."""
    model = nnx.merge(static, jax.tree.map(lambda p: p.astype(dtype), params))
    return model(notes.token_NKT, notes.mask_NKT, codes, key)


def loss(logit_NC: jax.Array, notes: Notes, shift_C: jax.Array) -> jax.Array:
    """Binary cross-entropy, the mean over codes of each note weighed by weight_N, nats.

    Args:
      shift_C: added to the logits of training alone: 0, or tau (log f - log(1 - f)) of a code's share f of the training
        notes, logit adjustment (Menon et al. 2021), which lets a rare code do without the prior against it.
    """
    x_NC = logit_NC + shift_C
    return jnp.sum(notes.weight_N * jnp.mean(jax.nn.softplus(x_NC) - notes.truth_NC * x_NC, axis=1))
