"""The records that travel between the parts, and the dimension key. No logic.

A tensor's name ends in its dimensions:

    B prompts (one response each)     P prompt tokens      T response tokens     L = P + T
    R packed rows of a micro-batch    W tokens of a packed row     S response slots of a packed row
    N tokens, flattened               V vocabulary         D model width         K attended positions

Log-probabilities are natural logs (nats) in float32. Masks are boolean, True where the token counts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flax.struct
import jax
import numpy as np

Params = Any  # a nested dict of arrays, the state of a split NNX module


@flax.struct.dataclass
class Rollout:
    """Prompts with one response each, on the host. Prompts end, and responses begin, at column P."""

    tokens_BL: np.ndarray  # int32, prompt left-padded, response right-padded
    prompt_mask_BP: np.ndarray
    response_mask_BT: np.ndarray  # by length: the EOS that ends a response counts, padding does not
    sampler_logp_BT: np.ndarray  # log mu(y_t | h_t) as sampled; 0 outside the mask


@flax.struct.dataclass
class PackedTokens:
    """Whole sequences laid end to end in rows of W tokens; what a model is given to score."""

    tokens_RW: jax.Array
    positions_RW: jax.Array  # position inside the own sequence; an answer's go on from its prompt's
    segments_RW: jax.Array  # 1, 2, ... a sequence, or a shared prompt and each of its answers; 0 padding
    source_RS: jax.Array  # column of W whose hidden state predicts the slot's token
    labels_RS: jax.Array  # the token to score
    slot_mask_RS: jax.Array
    # The segment that a token sees beside its own: of an answer, the prompt that it shares; elsewhere its own again.
    prefix_RW: jax.Array | None = None  # None: nothing is shared


@flax.struct.dataclass
class Update:
    """The tokens that train in one micro-step, with what the objective needs of each."""

    packed: PackedTokens
    credit_RS: jax.Array  # A_t, constant under the gradient
    weight_RS: jax.Array  # the sequence's share of the mean, over its length; 0 in empty slots
    sampler_logp_RS: jax.Array
    # What a loss needs of another model: arrays of a divergence over the vocabulary, or a reference's log pi [R, S].
    teacher: tuple[jax.Array, ...] = ()


@flax.struct.dataclass
class TrainState:
    """All that a checkpoint needs."""

    params: Params
    opt_state: Any
    step: jax.Array  # int32 scalar: updates done, skipped ones included
    key: jax.Array


@dataclass(frozen=True)
class Experience:
    """What a system collected for one step: micro-batches to train on, and figures for the log."""

    branch: str  # or several, joined by "+"
    updates: list[Update]
    metrics: dict[str, Any]
    rollouts: list[dict] = field(default_factory=list)  # some of the responses, as rows of rollouts.jsonl
    # Gives an update by its place with what its loss needs of a teacher: made when it trains, so that of a step's
    # hidden states only one micro-batch's are on the devices. None: the updates are whole as they are.
    complete: Callable[[int], Update] | None = None
    samples: list[list[str]] = field(default_factory=list)  # ids of the prompts in each update, for errors
    epochs: int = 1  # times that the parameters are updated with all of it


@dataclass(frozen=True)
class System:
    """What tells one training method from another, its objective (in `Steps`) aside; the loop is the same for all."""

    collect: Callable[[TrainState, int], Experience]
    evaluate: Callable[[Params, int], list[dict]]  # rows of eval.jsonl
    diagnose: Callable[[TrainState, int], list[dict]]  # rows of diagnostics.jsonl
