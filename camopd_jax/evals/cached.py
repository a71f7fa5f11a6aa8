"""Evaluations that are made once per machine: kept in the cache under a hash of all that shaped them."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from camopd_jax import hosts, metrics
from camopd_jax.evals.suite import Measure
from camopd_jax.types import Rollout

NO_SUM = b"PK"  # begins what versions before the sum have written: the archive alone
SUM_BYTES = 64  # in front of the archive
VERSION = 1  # raise it when an evaluation's meaning changes


def digest(what: Any) -> str:
    """Sixteen hex digits of the SHA-256 of anything JSON can hold."""
    text = json.dumps([VERSION, what], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _arrays(home: Path, key: Any, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What the writer's cache has, on every process; if it has nothing, all compute."""
    path = home / "evaluations" / f"{digest(key)}.npz"
    body = hosts.from_writer(path.read_bytes() if hosts.writer() and path.exists() else None)
    stored = None if body is None else _stored(body)
    if stored is None:
        arrays = compute()
        if hosts.writer():
            path.parent.mkdir(parents=True, exist_ok=True)
            file = io.BytesIO()
            np.savez(file, **arrays)
            metrics.put(path, _sum(file.getvalue()) + file.getvalue())
        return arrays
    return stored


def _sum(archive: bytes) -> bytes:
    return hashlib.sha256(archive).hexdigest().encode()


def _stored(body: bytes) -> dict[str, np.ndarray] | None:
    """The arrays of a file, which begins with the sum of the rest; None where it is damaged."""
    if not body.startswith(NO_SUM):
        given, body = body[:SUM_BYTES], body[SUM_BYTES:]
        if given != _sum(body):
            return None
    try:
        with np.load(io.BytesIO(body)) as stored:
            return dict(stored)
    except Exception:  # of a damaged one without a sum: NumPy and zipfile raise what the damaged bytes ask for
        return None


Evaluation = tuple[dict[str, Measure], dict[str, list[str]]]  # what Suite.run gives


def evaluation(home: Path, key: Any, compute: Callable[[], Evaluation]) -> Evaluation:
    """The measures of a model and its greedy answers by task, computed unless the cache in `home` has them."""

    def flat():
        measures, answers = compute()
        parts = {
            f"{name}/{part}": getattr(measure, part)
            for name, measure in measures.items()
            for part in ("numerator", "denominator")
        }
        # As JSON: NumPy's own strings lose trailing null characters.
        return parts | {f"answers/{task}": np.array(json.dumps(texts)) for task, texts in answers.items()}

    stored = _arrays(home, ["evaluation", key], flat)
    answers = {k.partition("/")[2]: json.loads(str(stored.pop(k))) for k in list(stored) if k.startswith("answers/")}
    names = dict.fromkeys(k.split("/")[0] for k in stored)
    return {n: Measure(stored[f"{n}/numerator"], stored[f"{n}/denominator"]) for n in names}, answers


def reference(home: Path, key: Any, compute: Callable[[], tuple[Rollout, np.ndarray]]) -> tuple[Rollout, np.ndarray]:
    """The general teacher's responses and their log-probabilities, computed unless the cache in `home` has them."""

    def flat():
        rollout, logp = compute()
        return {
            "tokens": rollout.tokens_BL,
            "prompt_mask": rollout.prompt_mask_BP,
            "response_mask": rollout.response_mask_BT,
            "sampler_logp": rollout.sampler_logp_BT,
            "logp": logp,
        }

    s = _arrays(home, ["reference", key], flat)
    return Rollout(s["tokens"], s["prompt_mask"], s["response_mask"], s["sampler_logp"]), s["logp"]
