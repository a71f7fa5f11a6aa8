"""Whether the branches' gradients oppose each other, and whether selection makes them agree within a branch.

The diagnostics of arXiv 2605.27115 (figures 1 and 3), of the same measure for every method: per-sample gradients of
eq. 2 (r = 1) on a fixed batch of held-out prompts, which the student answers anew. On the devices are at most one
per-sample gradient and a sum for each branch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from camopd_jax import losses, sharding
from camopd_jax import step as steps_of
from camopd_jax.camopd import select
from camopd_jax.camopd.system import (
    Branch,
    RolloutShape,
    Teachers,
    check_scores,
    gap_and_demand,
    make_updates,
    sample_prompts,
)
from camopd_jax.engine import Engine
from camopd_jax.models import decoder, lora
from camopd_jax.packing import PackShape
from camopd_jax.types import Params, Rollout, TrainState, Update

# Edges of the gap histogram's bins, nats; the first and the last bin are open.
GAP_EDGES = (-8.0, -4.0, -2.0, -1.0, -0.5, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)


def inner(a: Params, b: Params) -> jax.Array:
    """Inner products of two gradients [layers + 1], layer by layer; the last entry is of all outside the layers."""

    def by_layer(x, y):  # without a reshape, for which arrays that are spread over a mesh would be gathered
        return jnp.sum(x * y, axis=tuple(range(1, x.ndim)))

    layers = jax.tree.leaves(jax.tree.map(by_layer, a["layers"], b["layers"]))
    outside = [jnp.sum(a[name] * b[name]) for name in a if name != "layers"]
    return jnp.append(sum(layers), sum(outside, jnp.float32(0)))


def coherence(squared_sum: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Coh(A) = ||sum_i g_i|| / sum_i ||g_i||: 1 for gradients of one direction, 0 for such as cancel.

    Args:
      squared_sum: ||sum_i g_i||^2, any shape; norms: sum_i ||g_i||, of the same shape. 0 where all gradients are 0.
    """
    return np.sqrt(np.maximum(squared_sum, 0)) / np.where(norms > 0, norms, 1.0)


def cosine(dot: float, squared_a: float, squared_b: float) -> float | None:
    """<a, b> / (||a|| ||b||); None where one of them is 0."""
    size = float(np.sqrt(squared_a * squared_b))
    return float(dot) / size if size > 0 else None


@dataclass(frozen=True)
class _Branch:
    """What was found of a branch: the sum of its gradients, and inner products by layer in float64."""

    total: Params
    squared: np.ndarray  # of the sum [layers + 1]
    row: dict


class Diagnostics:
    """`diagnose` of the CaMOPD System: rows of diagnostics.jsonl."""

    def __init__(
        self, engine: Engine, teachers: Teachers, branches: Mapping[str, Branch], shape: RolloutShape, *, prompts: int,
        seed: int, shapes: Params, frozen: Callable[[], Params], whole: Callable[[Params], Params],
    ):  # fmt: skip
        """
        Args:
          prompts: held-out prompts of each branch that are probed; shapes: of the parameters that train.
          frozen, whole: of the student (`student.Student`).
        """
        self._engine, self._teachers, self._branches, self._shape = engine, teachers, branches, shape
        self._prompts, self._seed, self._frozen, self._whole = prompts, seed, frozen, whole
        at = sharding.param_shardings(engine.mesh, shapes, decoder.AXES)
        rows, none = sharding.by_rows(engine.mesh), sharding.replicated(engine.mesh)
        score = engine.scorer(engine.numerics.temperature, "none")

        def loss(params, update: Update, frozen):
            params = lora.join(frozen, params) if frozen else params
            logp_RS = score(params, update.packed)
            return losses.weighted_sum(-update.credit_RS * logp_RS, update.weight_RS)  # w = 1: it is on policy

        def add(total, gradient):
            return jax.tree.map(jnp.add, total, gradient), inner(gradient, gradient)

        self._zeros = jax.jit(lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), out_shardings=at)
        self._gradient = jax.jit(
            jax.grad(loss), in_shardings=(at, Update(rows, rows, rows, rows, teacher=None), None), out_shardings=at
        )
        self._add = jax.jit(add, in_shardings=(at, at), out_shardings=(at, none), donate_argnums=0)
        self._inner = jax.jit(inner, in_shardings=(at, at), out_shardings=none)

    def __call__(self, state: TrainState, step: int) -> list[dict]:
        found = {}
        for name, branch in self._branches.items():
            rollout, gap_BT, score_B = self._probe(state.params, branch, step)
            found[name] = self.of_batch(state, branch, rollout, gap_BT, score_B)
        pairs = {}
        for other in found:
            if other != "general":
                a, b = found["general"], found[other]
                dot = self._dot(a.total, b.total)
                pairs[f"general/{other}"] = {
                    "dot": float(dot.sum()),
                    "cosine": cosine(dot.sum(), a.squared.sum(), b.squared.sum()),
                    "cosine_by_layer": [cosine(*x) for x in zip(dot[:-1], a.squared, b.squared, strict=False)],
                }
        return [
            {
                "step": step,
                "pairs": pairs,
                "branches": {name: f.row for name, f in found.items()},
                "gap_edges": list(GAP_EDGES),
            }
        ]

    def _probe(self, params: Params, branch: Branch, step: int) -> tuple[Rollout, np.ndarray, np.ndarray]:
        """The student's answers to the probed prompts, their gap and their scores."""
        student, key = self._whole(params), jax.random.key(self._seed)
        sampled = sample_prompts(self._engine, student, branch, branch.heldout, key, self._shape)
        student_BT, teacher_BT = self._engine.score(student, sampled), self._teachers.score(branch.name, sampled)
        measured = gap_and_demand(branch.demand, teacher_BT, student_BT, sampled.response_mask_BT)
        rollout, gap_BT, score_B = jax.tree.map(lambda x: np.asarray(x)[: self._prompts], (sampled, *measured))
        check_scores(score_B, step, branch.name, [f"{i} of the held-out ones" for i in range(len(score_B))])
        return rollout, gap_BT, score_B

    def of_batch(self, state: TrainState, branch: Branch, rollout: Rollout, gap_BT, score_B) -> _Branch:
        """The figures of a batch of answers, from one gradient after the other."""
        selected = select.smallest_prefix(score_B, branch.rho)
        others = np.setdiff1d(np.arange(len(score_B)), selected)
        total, norms, of_selected = self._zeros(), [], None
        for row in (*selected, *others):  # the selected ones first, so that one sum serves both
            (update,) = make_updates(rollout, gap_BT, np.array([row]), 1, self._one(branch))
            update = sharding.spread(update, sharding.by_rows(self._engine.mesh))
            total, squared = self._add(total, self._gradient(state.params, update, self._frozen()))
            norms.append(np.asarray(squared, np.float64))
            if len(norms) == len(selected):
                of_selected = self._coherence(total, norms)
        squared = self._dot(total, total)
        full, moment = self._coherence(total, norms), steps_of.first_moment(state)
        with_moment = None
        if moment is not None:
            with_moment = cosine(self._dot(total, moment).sum(), squared.sum(), self._dot(moment, moment).sum())
        places = np.digitize(gap_BT[rollout.response_mask_BT], GAP_EDGES)
        row = {
            "coherence": full and full[0],
            "coherence_selected": of_selected and of_selected[0],
            "gain": 100 * (of_selected[0] - full[0]) / full[0] if of_selected and full[0] else None,
            "selected": len(selected),
            "batch": len(score_B),
            "gradient_norm": float(np.sqrt(squared.sum())) / len(score_B),
            "moment_cosine": with_moment,
            "coherence_by_layer": full and full[1],
            "gap_histogram": np.bincount(places, minlength=len(GAP_EDGES) + 1).tolist(),
        }
        return _Branch(total, squared, row)

    def _coherence(self, total: Params, squared_norms: Sequence[np.ndarray]) -> tuple[float, list[float]] | None:
        """Coherence over all parameters, and in each layer; None where all gradients are 0."""
        squared, each = self._dot(total, total), np.stack(squared_norms)
        if not each.any():
            return None
        whole = coherence(squared.sum(), np.sqrt(each.sum(axis=1)).sum())
        return float(whole), coherence(squared, np.sqrt(each).sum(axis=0))[:-1].tolist()

    def _dot(self, a: Params, b: Params) -> np.ndarray:
        return np.asarray(self._inner(a, b), np.float64)

    def _one(self, branch: Branch) -> PackShape:
        """The shape that holds the longest sequence of a branch's probe, on each data shard."""
        longest = max(map(len, branch.heldout)) + self._shape.max_new_tokens
        return PackShape(sharding.data_shards(self._engine.mesh), longest, self._shape.max_new_tokens)
