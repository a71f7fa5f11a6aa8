"""Bytes on one device, phase by phase, for a run that is only planned: nothing here touches a device.

What a run keeps is exact, from the shapes of its arrays and how they are sharded. What a phase adds while it computes
depends on the compiler; the formulas of `forward_bytes` and its neighbours count the arrays that it cannot do without.
"""

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from camopd_jax import batching, rules, sharding
from camopd_jax.models import decoder, lora
from camopd_jax.models.attention import BLOCK
from camopd_jax.models.decoder import DecoderConfig

RECORD = 100  # bytes of a token that was sampled, on the host (bin/simulate.py --lengths=longest measures it)
MOMENTS = {"adamw": 8, "sgd": 0}  # bytes of a parameter's moments, by optimiser
PARTS = ("weights", "moments", "gradients", "copies", "teacher", "KV cache", "activations", "gathered")


@dataclass(frozen=True)
class Setup:
    """A resolved config: who is whose architecture, on which mesh."""

    config: ConfigDict
    mesh: AbstractMesh
    student: DecoderConfig  # with its adapter, where one trains
    teachers: dict[str, DecoderConfig]  # by branch; the one that the run makes has the student's

    @property
    def shards(self) -> int:
        return sharding.data_shards(self.mesh)

    @property
    def tensor(self) -> int:
        return sharding.tensor_shards(self.mesh)

    @property
    def gathers(self) -> int:
        return sharding.weight_shards(self.mesh)

    @property
    def width(self) -> int:
        """Bytes of a number in a forward pass."""
        return 2 if self.config.precision == "bfloat16" else 4


@dataclass(frozen=True)
class Elements:
    """Parameters on one device."""

    base: int  # all but adapters
    layers: int  # of these, those in layers
    adapter: int
    largest: int  # one layer, or the embedding if that is larger, whole but for the tensor axis
    whole: int  # `base`, whole but for the tensor axis


@dataclass(frozen=True)
class Phase:
    """What one device holds at the fullest moment of a phase, bytes by part."""

    name: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@functools.cache
def elements(cfg: DecoderConfig, mesh: AbstractMesh) -> Elements:
    """Parameters of a model on one device of a mesh.

    Raises:
      ValueError: if the mesh does not divide them.
    """
    shapes = decoder.split(cfg)[1]

    def count(mesh: AbstractMesh, tree) -> int:
        at = sharding.param_shardings(mesh, tree, decoder.AXES)
        sizes = jax.tree.map(lambda s, at: int(np.prod(at.shard_shape(s.shape))), tree, at)
        return sum(jax.tree.leaves(sizes))

    base, adapter = lora.split(shapes)
    ungathered = sharding.abstract_mesh(1, 1, sharding.tensor_shards(mesh), sharding.tensor_shards(mesh))
    layer = count(ungathered, {"layers": base["layers"]}) // cfg.layers
    return Elements(
        base=count(mesh, base),
        layers=count(mesh, {"layers": base["layers"]}),
        adapter=count(mesh, adapter),
        largest=max(layer, count(ungathered, {"embed": base["embed"]})),
        whole=count(ungathered, base),
    )


def parameters(cfg: DecoderConfig) -> int:
    """Parameters of a model, its adapter aside."""
    return elements(replace(cfg, lora=None), sharding.abstract_mesh(1, 1, 1, 1)).base


def kv_bytes(setup: Setup, cfg: DecoderConfig) -> float:
    """Keys and values of one token on one device: 2 x layers x kv_heads x head_dim numbers, the heads over `tensor`."""
    heads = cfg.kv_heads // setup.tensor if cfg.kv_heads % setup.tensor == 0 else cfg.kv_heads
    return 2 * cfg.layers * heads * cfg.head_dim * setup.width


def record_bytes(config: ConfigDict) -> float:
    """Host memory of one step's responses, at most, on each host: about RECORD bytes a place of [B, P + T].

    Tokens, masks, log-probabilities of sampler, student and teacher, gap, credit and weights in float64, packed rows.
    """
    rollout = config.rollout
    return RECORD * rollout.batch_size * (rollout.max_prompt_tokens + rollout.max_new_tokens)


def decoded_rows(setup: Setup, prompts: int, at_once: int) -> int:
    """Rows that one device decodes together."""
    return batching.rows_of_shard(prompts, at_once, setup.shards)


def forward_bytes(setup: Setup, rows: int, columns: int) -> float:
    """Working set of one layer's forward pass over rows x columns tokens.

    Residual stream, its norm (float32) and the sum, and the larger of: queries, keys, values, their outcome, float32
    keys and values, and float32 arrays of one block's logits; or the three MLP arrays. XLA on CPU holds two such
    arrays where the row is one block, and about three where it goes block by block; on TPU fewer.
    """
    cfg, t, width, tokens = setup.student, setup.tensor, setup.width, rows * columns
    stream = tokens * cfg.width * (3 * width + 4)
    logits = 2 if columns <= BLOCK else 3
    return stream + max(_attention_bytes(setup, rows, columns, 1, logits), tokens * 3 * cfg.mlp_width * width / t)


def _attention_bytes(setup: Setup, rows: int, columns: int, copies: int, logits: int) -> float:
    """`copies` of queries, keys, values and their outcome, and as many float32 arrays of one block's `logits`."""
    cfg, width = setup.student, setup.width
    heads = 2 * (cfg.heads + cfg.kv_heads) * width + 2 * cfg.kv_heads * 4
    block = rows * cfg.heads * min(BLOCK, columns) * columns * 4
    return (copies * rows * columns * heads * cfg.head_dim + logits * block) / setup.tensor


def saved_bytes(setup: Setup, rows: int, columns: int, remat: str) -> float:
    """What a forward pass keeps of all layers for the backward pass.

    Numbers a token and layer: "full" the residual stream, D; "dots" that and the outcomes of the seven products,
    3 D + (H + 2 K) h + 2 M; "none" about 14 D + 4 (H + K) h + 4 M, and in one block also the attention's
    probabilities twice (D width, H and K heads of h, M the MLP's width).
    """
    cfg, t, tokens = setup.student, setup.tensor, rows * columns
    numbers = cfg.width
    if remat == "dots":
        numbers = 3 * cfg.width + ((cfg.heads + 2 * cfg.kv_heads) * cfg.head_dim + 2 * cfg.mlp_width) / t
    if remat == "none":
        numbers = 14 * cfg.width + (4 * (cfg.heads + cfg.kv_heads) * cfg.head_dim + 4 * cfg.mlp_width) / t
    kept = cfg.layers * tokens * numbers * setup.width
    if remat == "none" and columns <= BLOCK:
        kept += cfg.layers * tokens * cfg.heads * columns * 2 * 4 / t
    return kept


def backward_bytes(setup: Setup, rows: int, columns: int) -> float:
    """Working set of one layer's backward pass: what its forward pass makes, and a gradient of each.

    XLA on CPU holds four arrays of a block's logits where the row is one block, and five where it goes block by block.
    """
    cfg, t, width, tokens = setup.student, setup.tensor, setup.width, rows * columns
    mlp = 2 * tokens * 3 * cfg.mlp_width * width / t
    logits = 4 if columns <= BLOCK else 5
    return tokens * cfg.width * (6 * width + 8) + _attention_bytes(setup, rows, columns, 2, logits) + mlp


def head_bytes(setup: Setup, slots: int, arrays: int) -> float:
    """Hidden states of the scored tokens, and so many float32 arrays of a chunk's logits."""
    cfg, micro = setup.student, setup.config.micro
    chunk = arrays * 4 * min(micro.logit_chunk, slots) * cfg.vocab_size / setup.tensor
    return 2 * slots * cfg.width * setup.width + chunk


def scoring_bytes(setup: Setup) -> float:
    """Activations of a micro-batch that is scored: the larger of one layer's and the head's forward pass."""
    micro = setup.config.micro
    head = head_bytes(setup, micro.rows * micro.slots, arrays=1)
    return max(forward_bytes(setup, micro.rows, micro.width), head)


def training_bytes(setup: Setup) -> float:
    """Activations of a micro-step: what all layers keep, and the larger of one layer's and the head's backward pass."""
    cfg, micro = setup.student, setup.config.micro
    head = head_bytes(setup, micro.rows * micro.slots, arrays=3)
    if not cfg.lora:
        head += 2 * 4 * cfg.vocab_size * cfg.width / (setup.gathers * setup.tensor)  # its gradient, summed over chunks
    layer = backward_bytes(setup, micro.rows, micro.width)
    return saved_bytes(setup, micro.rows, micro.width, micro.remat) + max(layer, head)


def decoding(setup: Setup, prompts: int, at_once: int, new_tokens: int) -> dict[str, float]:
    """Sampling: the cache, the keys and values of prompts that are read ahead, and what reads them or draws tokens."""
    cfg, prompt = setup.student, setup.config.rollout.max_prompt_tokens
    rows = decoded_rows(setup, prompts, at_once)
    columns = rows * (prompt + new_tokens) + batching.read_ahead(rows) * prompt
    reading, drawing = forward_bytes(setup, batching.read_ahead(rows), prompt), drawing_bytes(setup, rows, new_tokens)
    return {"KV cache": columns * kv_bytes(setup, cfg), "activations": max(reading, drawing)}


def drawing_bytes(setup: Setup, rows: int, new_tokens: int) -> float:
    """What drawing a token for each row adds: float32 logits and their distribution, and one layer's attention."""
    columns = setup.config.rollout.max_prompt_tokens + new_tokens
    logits = 4 * 4 * rows * setup.student.vocab_size / setup.tensor
    return logits + rows * setup.student.heads * columns * 2 * 4 / setup.tensor


class Parts(NamedTuple):
    """What a device holds of a student, and what each kind of work with it adds."""

    state: dict[str, float]
    alone: dict[str, float]  # without moments, when nothing trains any more
    sampling: dict[str, float]
    scoring: dict[str, float]
    update: dict[str, float]


def of_student(setup: Setup) -> Parts:
    """The parts that all kinds of run share."""
    config, width, own = setup.config, setup.width, elements(setup.student, setup.mesh)
    adapters = setup.student.lora is not None
    trained = own.adapter if adapters else own.base
    weights = 4 * trained + (width * own.base if adapters else 0)
    copy = width * trained if width != 4 else 0  # the parameters that train, as the forward pass computes with them
    state = {"weights": weights, "moments": MOMENTS[config.optim.name] * trained, "copies": copy}
    gathered = width * own.largest * 2 if setup.gathers > 1 else 0  # of this layer and the next
    scoring = {"activations": scoring_bytes(setup), "gathered": gathered}
    update = {
        "gradients": (4 + width) * trained,  # their sum, and those of a micro-batch
        "activations": training_bytes(setup),
        "gathered": 2 * gathered,  # and their gradients
    }
    sampling = {"copies": copy + width * (own.base + own.adapter), "gathered": gathered}  # cut into layers; for prompts
    return Parts(state, {"weights": weights, "copies": copy}, sampling, scoring, update)


def phase(name: str, *parts: dict[str, float]) -> Phase:
    """Later parts take the place of earlier ones of the same name."""
    merged = functools.reduce(lambda a, b: a | b, parts)
    return Phase(name, {part: merged.get(part, 0) for part in PARTS})


def teacher_bytes(setup: Setup, name: str, own: Elements) -> float:
    """Of a teacher on the devices: an adapter alone where it shares the student's base."""
    if setup.student.lora and shares_base(setup, name):
        return setup.width * own.adapter
    return setup.width * elements(setup.teachers[name], setup.mesh).base


def shares_base(setup: Setup, name: str) -> bool:
    """Whether a teacher is the student's base, or is made from it."""
    return setup.config.teachers[name] in (rules.SPECIALISE, base_source(setup.config))


def base_source(config: ConfigDict) -> str:
    """The source of the model from which the student, or its specialisation, starts."""
    return config.teachers[rules.base_branch(config)]
