"""Gradients of a micro-batch, and their application: pure functions, jitted once with shardings and donation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from camopd_jax import sharding
from camopd_jax.models import lora
from camopd_jax.types import Params, TrainState, Update


@dataclass(frozen=True)
class Optimizer:
    """An update rule whose learning rate follows the run's step, not the number of updates made.

    A step without selected samples leaves parameters and moments alone and still advances the schedule.
    """

    tx: optax.GradientTransformation
    learning_rate: optax.Schedule
    clip_norm: float


def make_optimizer(
    *, name: str, learning_rate: float, warmup_steps: int, decay_steps: int, b1: float, b2: float, eps: float,
    weight_decay: float, clip_norm: float,
) -> Optimizer:  # fmt: skip
    """AdamW or SGD behind clipping by global norm; linear warm-up, then constant, or linear to 0 in decay_steps.

    Raises:
      ValueError: if name is neither "adamw" nor "sgd".
    """
    if name not in ("adamw", "sgd"):
        raise ValueError(f"optim.name = {name!r}: allowed are 'adamw', 'sgd'")
    rule = [optax.scale_by_adam(b1, b2, eps), optax.add_decayed_weights(weight_decay)] if name == "adamw" else []

    def rate(step):
        warm = jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))
        left = jnp.maximum(0.0, 1.0 - step / decay_steps) if decay_steps else 1.0
        return learning_rate * jnp.minimum(warm, left)

    return Optimizer(optax.chain(optax.clip_by_global_norm(clip_norm), *rule), rate, clip_norm)


def first_moment(state: TrainState) -> Params | None:
    """Adam's running mean of the gradients; None where the optimiser keeps none."""
    return next((s.mu for s in state.opt_state if hasattr(s, "mu")), None)


@dataclass(frozen=True)
class Steps:
    """The jitted pieces of one update."""

    init: Callable[[Params, jax.Array], TrainState]  # donates the parameters
    zeros: Callable[[], Params]
    score: Callable[[Params, Update, Params], jax.Array]  # what `micro` differentiates, [R, S]
    micro: Callable[[Params, Params, Update, Params], tuple[Params, dict]]  # donates the gradient sum
    measure: Callable[[TrainState, Params], dict]
    apply: Callable[[TrainState, Params], TrainState]  # donates the state
    skip: Callable[[TrainState], TrainState]
    finite: Callable[[TrainState], jax.Array]  # whether parameters and moments are, and their sums of squares
    finite_parts: Callable[
        [Any], Any
    ]  # so for each tensor of a tree, and each layer of a stacked one; for errors alone
    abstract: TrainState  # shapes and shardings, for restoring
    frozen: Params  # the last argument of `micro`: what an adapter trains beside, {} where all parameters train
    rows: NamedSharding  # of an update's arrays


def build_steps(
    score: Callable[..., jax.Array],
    shapes: Params,
    mesh: Mesh,
    axes: dict,
    objective: Callable[[jax.Array, Update], tuple[jax.Array, dict]],
    optimizer: Optimizer,
    frozen: Params,
) -> Steps:
    """Compile-once functions for one model, mesh and objective.

    Args:
      score: (all parameters, packed tokens, *update.teacher) -> a figure of each slot [R, S], its log-probability or a
        divergence; what is differentiated.
      shapes: of the parameters that train, whose logical axes are in `axes`.
      objective: (those figures, update) -> the micro-batch's share of the loss, and a dict of sums for the log.
      frozen: parameters beside which an adapter trains; {} where all train.
    """

    def figures(params, update, frozen):
        params = lora.join(frozen, params) if frozen else params
        return score(params, update.packed, *update.teacher)

    def loss(params, update, frozen):
        return objective(figures(params, update, frozen), update)

    rows = sharding.by_rows(mesh)
    return of_loss(loss, figures, Update(rows, rows, rows, rows, teacher=None), shapes, mesh, axes, optimizer, frozen)


def of_loss(
    loss: Callable[[Params, Any, Params], tuple[jax.Array, dict]],
    figures: Callable[[Params, Any, Params], jax.Array],
    update_at: Any,
    shapes: Params,
    mesh: Mesh,
    axes: dict,
    optimizer: Optimizer,
    frozen: Params,
) -> Steps:
    """As `build_steps`, for updates of any kind.

    Args:
      loss: (parameters that train, update, frozen) -> the micro-batch's share of the loss, and a dict of sums for the
        log, of which "tokens" are what the others are means over.
      figures: of the same; what the loss is made of.
      update_at: the sharding of an update, or of its parts.
    """
    params_at = sharding.param_shardings(mesh, shapes, axes)
    state_at = TrainState(
        params=params_at,
        opt_state=sharding.optimizer_shardings(mesh, optimizer.tx, shapes, params_at),
        step=sharding.replicated(mesh),
        key=sharding.replicated(mesh),
    )

    def micro(params, grads, update, frozen):
        (value, sums), new = jax.value_and_grad(loss, has_aux=True)(params, update, frozen)
        return jax.tree.map(jnp.add, grads, new), {"loss": value, **sums}

    def measure(state, grads):
        norm = optax.tree.norm(grads)
        moment = first_moment(state)
        figures = {"grad_norm": norm, "lr": optimizer.learning_rate(state.step)}
        figures["clip_rate"] = (norm > optimizer.clip_norm).astype(jnp.float32)
        if moment is not None:
            size = norm * optax.tree.norm(moment)
            figures["moment_cosine"] = optax.tree.vdot(grads, moment) / jnp.maximum(size, 1e-30)
        return figures

    def apply(state, grads):
        updates, opt_state = optimizer.tx.update(grads, state.opt_state, state.params)
        rate = optimizer.learning_rate(state.step)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        return TrainState(params, opt_state, state.step + 1, state.key)

    def finite(state):  # a dot product, as it is the one reduction over all values that is fast on every backend
        squares = [jnp.tensordot(x, x, x.ndim) for x in jax.tree.leaves((state.params, state.opt_state))]
        return jnp.isfinite(jnp.stack(squares)).all()

    def finite_parts(tree):
        def one(path, x):
            stacked = any(getattr(key, "key", None) == "layers" for key in path)
            return jnp.isfinite(jnp.sum(x * x, axis=tuple(range(int(stacked), x.ndim))))

        return jax.tree_util.tree_map_with_path(one, tree)

    def init(params, key):
        return TrainState(params, optimizer.tx.init(params), jnp.int32(0), key)

    def init_of_bits(params, bits):  # a key that one process made is no argument of all of them, its bits are
        return init(params, jax.random.wrap_key_data(bits))

    make = jax.jit(init_of_bits, in_shardings=(params_at, None), out_shardings=state_at, donate_argnums=0)
    rows = sharding.by_rows(mesh)
    abstract = jax.tree.map(
        lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at),
        jax.eval_shape(init, shapes, jax.random.key(0)),
        state_at,
    )
    return Steps(
        init=lambda params, key: make(params, np.asarray(jax.random.key_data(key))),
        zeros=jax.jit(lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), out_shardings=params_at),
        score=jax.jit(figures, in_shardings=(params_at, update_at, None), out_shardings=rows),
        micro=jax.jit(
            micro,
            in_shardings=(params_at, params_at, update_at, None),
            out_shardings=(params_at, sharding.replicated(mesh)),
            donate_argnums=1,
        ),
        measure=jax.jit(measure, in_shardings=(state_at, params_at), out_shardings=sharding.replicated(mesh)),
        apply=jax.jit(apply, in_shardings=(state_at, params_at), out_shardings=state_at, donate_argnums=0),
        skip=jax.jit(lambda state: state.replace(step=state.step + 1), out_shardings=state_at, donate_argnums=0)
        .lower(abstract)
        .compile(),  # rarely used, and then in mid-run, where nothing may compile
        finite=jax.jit(finite, in_shardings=(state_at,), out_shardings=sharding.replicated(mesh)),
        finite_parts=jax.jit(finite_parts, out_shardings=sharding.replicated(mesh)),
        abstract=abstract,
        frozen=frozen,
        rows=rows,
    )
