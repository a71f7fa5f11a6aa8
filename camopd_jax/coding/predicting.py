"""Codes of notes by a saved model, with the passages that label attention points to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from camopd_jax.coding.saved import Saved
from camopd_jax.probias import attention, chunks, evidence, model, system
from camopd_jax.probias.model import Codes, ProBias
from camopd_jax.probias.view import Prediction
from camopd_jax.types import Params

CHARACTERS_A_TOKEN = 40  # a text is read up to so many characters for each token that can be read


@dataclass(frozen=True)
class Coded:
    """A note with its codes."""

    predictions: list[Prediction]  # the suggested ones, and the most probable others; by falling probability
    read: int  # characters that the model has read


class Predictor:
    """Predicts with one model; the codes' queries are computed once."""

    def __init__(self, saved: Saved):
        self.saved = saved
        static, _ = model.split(saved.cfg)
        dtype = saved.precision
        self._params = jax.tree.map(jnp.asarray, saved.params)
        self._logits = jax.jit(lambda params, notes, codes: model.logits(static, params, notes, codes, None, dtype))
        self._weights = jax.jit(partial(_weights, static, dtype))

    def code(self, text: str, others: int, passages: int) -> Coded:
        """The codes of a note.

        Args:
          others: codes below their threshold that are shown too, at most.
          passages: of each code, at most.
        """
        saved, chunking = self.saved, self.saved.chunking
        whole, text = len(text), text[: CHARACTERS_A_TOKEN * chunking.reach]
        tokens = chunks.tokenize(saved.tokenizer, [text], chunking)[0]
        ids = tokens.ids
        place_T2 = chunks.offsets(saved.tokenizer, text)[: len(ids)]
        probability_C = self.probabilities([ids])[0]
        order_C = np.argsort(-probability_C, kind="stable")
        shown = [int(c) for c in order_C if probability_C[c] >= saved.threshold_C[c]]
        shown += [int(c) for c in order_C if probability_C[c] < saved.threshold_C[c]][:others]
        weight_cT = self._read_by(ids, shown) if passages else np.zeros((len(shown), len(ids)))
        found = [
            Prediction(
                saved.labels[c], saved.titles[c], float(probability_C[c]), float(saved.threshold_C[c]),
                tuple(evidence.passages(text, place_T2, weight_T, passages)) if passages else (),
            )
            for c, weight_T in zip(shown, weight_cT, strict=True)
        ]  # fmt: skip
        return Coded(found, int(place_T2[:, 1].max(initial=0)) if tokens.cut or len(text) < whole else whole)

    def probabilities(self, ids: Sequence[np.ndarray]) -> np.ndarray:
        """Calibrated probabilities [N, C] of some notes' tokens."""
        logit_NC = np.asarray(self._logits(self._params, self._batch(ids), self.saved.codes), np.float64)[: len(ids)]
        return 1 / (1 + np.exp(-np.clip(logit_NC / self.saved.temperature, -80, 80)))

    def many(self, texts: Sequence[str], batch_size: int) -> Iterator[list[Prediction]]:
        """The suggested codes of each of many notes, without passages."""
        saved = self.saved
        for start in range(0, len(texts), batch_size):
            cut = [text[: CHARACTERS_A_TOKEN * saved.chunking.reach] for text in texts[start : start + batch_size]]
            ids = [t.ids for t in chunks.tokenize(saved.tokenizer, cut, saved.chunking)]
            for p_C in self.probabilities(ids):
                suggested = np.flatnonzero(p_C >= saved.threshold_C)
                yield [
                    Prediction(saved.labels[c], saved.titles[c], float(p_C[c]), float(saved.threshold_C[c]), ())
                    for c in suggested[np.argsort(-p_C[suggested], kind="stable")].tolist()
                ]

    def _batch(self, ids: Sequence[np.ndarray]) -> model.Notes:
        nothing = np.zeros((len(ids), self.saved.cfg.codes), np.float32)
        rows = 1 << (len(ids) - 1).bit_length()  # few shapes are compiled
        return system.batch_of(list(ids), nothing, 0.0, rows, 0, self.saved.tokenizer, self.saved.chunking)

    def _read_by(self, ids: np.ndarray, codes: Sequence[int]) -> np.ndarray:
        """What some codes read of each token of a note [c, T]: the mean over heads, in the chunk that decides."""
        if not codes:
            return np.zeros((0, len(ids)))
        notes, chosen = self._batch([ids]), np.resize(np.array(codes), 1 << (len(codes) - 1).bit_length())
        weight_KcL, best_c = (np.asarray(x) for x in self._weights(self._params, notes, self.saved.codes, chosen))
        found_cT = np.zeros((len(codes), len(ids)))
        starts = self.saved.chunking.starts(len(ids))
        for row, k in enumerate(best_c[: len(codes)].tolist()):
            part = ids[starts[k] : starts[k] + self.saved.chunking.tokens]
            found_cT[row, starts[k] : starts[k] + len(part)] = weight_KcL[k, row, 1 : 1 + len(part)]  # CLS is before
        return found_cT


def _weights(static: nnx.GraphDef, dtype: str, params: Params, notes: model.Notes, codes: Codes, chosen_c: jax.Array):
    """What some codes read of one note's tokens [K, c, L], the mean over heads, and the chunk of the highest logit."""
    made: ProBias = nnx.merge(static, jax.tree.map(lambda p: p.astype(dtype), params))
    heads, mask_KL = made.cfg.heads, notes.mask_NKT[0]
    key_KLD, value_KLD = made.read(notes.token_NKT[0], mask_KL, None)
    query_CD = made.queries(codes, None)[chosen_c]
    query_cHd, weight_cHd = ((query_CD @ w[...].T).reshape(len(chosen_c), heads, -1) for w in (made.query, made.output))
    logit_Kc = attention.label_logits(
        key_KLD, value_KLD, mask_KL, query_cHd.reshape(len(chosen_c), -1), weight_cHd.reshape(len(chosen_c), -1),
        heads=heads, block=len(chosen_c),
    )  # fmt: skip
    key_KLHd = key_KLD.reshape(*key_KLD.shape[:2], heads, -1)
    return attention.token_weights(key_KLHd, mask_KL, query_cHd).mean(axis=1), logit_Kc.argmax(axis=0)
