"""ICD coding as a System: batches of notes with their codes; the loop has the rest."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from scipy import sparse
from transformers import PreTrainedTokenizerFast

from camopd_jax import data
from camopd_jax.probias import chunks, model, scores
from camopd_jax.probias.chunks import Chunking
from camopd_jax.probias.model import Codes, Notes
from camopd_jax.probias.scores import Accumulator, Split
from camopd_jax.types import Experience, Params, TrainState

BRANCH = "coding"
WIDE = 32  # the tokens of a chunk are padded to a multiple, where all notes of a batch have one chunk


def batch_of(
    ids: Sequence[np.ndarray], truth_NC: np.ndarray, weight: float, rows: int, draw: int,
    tokenizer: PreTrainedTokenizerFast, chunking: Chunking,
) -> Notes:  # fmt: skip
    """Some notes as arrays of `rows` notes, of which those that are over weigh nothing.

    Chunks are filled up to a power of two, or to as many as there can be, so that few shapes are compiled.
    """
    longest = max((len(x) for x in ids), default=0)
    needed, length = chunking.count(longest), chunking.tokens + 2
    if needed == 1:
        length = min(length, -(-(longest + 2) // WIDE) * WIDE)
    count = min(1 << (needed - 1).bit_length(), chunking.most)
    token_NKT, mask_NKT = chunks.batch(ids, chunking, tokenizer, rows=rows, chunks=count, length=length)
    dense_NC = np.zeros((rows, truth_NC.shape[1]), np.float32)
    dense_NC[: len(ids)] = truth_NC
    weight_N = np.where(np.arange(rows) < len(ids), weight, 0).astype(np.float32)
    return Notes(token_NKT, mask_NKT, dense_NC, weight_N, np.full(rows, draw, np.uint32))


def objective(static: nnx.GraphDef, shift_C: np.ndarray, dtype: str) -> tuple[Callable, Callable]:
    """The loss of a micro-batch, and its logits; functions of (parameters, notes, codes).

    No seed is in them: the runs of all seeds are one compiled program.
    """

    def logits(params: Params, notes: Notes, codes: Codes) -> jax.Array:
        return model.logits(static, params, notes, codes, jax.random.key(notes.draw_N[0]), dtype)

    def loss(params: Params, notes: Notes, codes: Codes) -> tuple[jax.Array, dict]:
        value = model.loss(logits(params, notes, codes), notes, shift_C)
        return value, {"tokens": notes.mask_NKT.sum()}

    return loss, logits


def collector(
    ids: Sequence[np.ndarray], truth_NC: sparse.csr_array, names: Sequence[str], *, batch_size: int, micro: int,
    seed: int, tokenizer: PreTrainedTokenizerFast, chunking: Chunking,
) -> Callable[[TrainState, int], Experience]:  # fmt: skip
    """`collect` of the System; notes of like length come into one micro-batch, and each weighs the same."""

    def collect(state: TrainState, step: int) -> Experience:
        del state  # the data do not depend on it
        chosen = data.batch_at(len(ids), batch_size, step, seed)
        chosen = chosen[np.argsort([len(ids[i]) for i in chosen], kind="stable")]
        parts = [chosen[start : start + micro] for start in range(0, batch_size, micro)]
        updates = [
            batch_of(
                [ids[i] for i in part], truth_NC[part].toarray(), 1 / batch_size, micro,
                drawing_of(seed, step * len(parts) + n), tokenizer, chunking,
            )
            for n, part in enumerate(parts)
        ]  # fmt: skip
        return Experience(BRANCH, updates, {"batch": batch_size}, samples=[[names[i] for i in p] for p in parts])

    return collect


def drawing_of(seed: int, number: int) -> int:
    """The drawing of dropout of a run's micro-batch, 32 bits."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def probabilities(
    predict: Callable[[Params, Notes], jax.Array], params: Params, ids: Sequence[np.ndarray],
    truth_NC: sparse.csr_array, *, batch_size: int, tokenizer: PreTrainedTokenizerFast, chunking: Chunking,
    directory: Path,
) -> Split:  # fmt: skip
    """The probability of each code in each note of a split, which is gone through by length.

    Args:
      predict: (parameters, notes) -> logits [N, C], which every process holds whole.
      directory: for the file of `scores.Accumulator`.
    """
    order = np.argsort([len(x) for x in ids], kind="stable")
    taken = Accumulator(truth_NC.shape[1], directory)
    for part in _parts(order, batch_size):
        notes = batch_of([ids[i] for i in part], truth_NC[part].toarray(), 0.0, batch_size, 0, tokenizer, chunking)
        logit_NC = np.asarray(predict(params, notes), np.float64)[: len(part)]
        taken.add((1 / (1 + np.exp(-np.clip(logit_NC, -80, 80)))).astype(np.float32), truth_NC[part])
    back = np.argsort(order)
    split = taken.split()
    return Split(np.asarray(split.probability_NC)[back], scores.truth_csr(truth_NC))


def _parts(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (order[start : start + size] for start in range(0, len(order), size))
