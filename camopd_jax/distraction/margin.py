"""The likelihood margin of DistractionIF: how much a model prefers the gold answer to the distracted one.

Arrays in, numbers out; M instances, each a gold and a bad answer to the same prompt. Ratios stay logarithms in float64,
so that none overflows: a likelihood of 200 tokens does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from camopd_jax import data
from camopd_jax.distraction import intervals
from camopd_jax.distraction.intervals import Estimate
from camopd_jax.engine import Engine
from camopd_jax.types import Params


@dataclass(frozen=True)
class Likelihood:
    """Of M answers under one model."""

    total_M: np.ndarray  # log pi of the whole answer, its EOS included: float64, nats
    tokens_M: np.ndarray  # the EOS included

    @property
    def log_ppl_M(self) -> np.ndarray:
        """log PPL = -total / tokens, nats a token."""
        return -self.total_M / self.tokens_M


def of_tokens(logp_MT: np.ndarray, mask_MT: np.ndarray) -> Likelihood:
    """The sums of the answers' log-probabilities of tokens.

    Raises:
      ValueError: if an answer has no token, or a sum that is not finite (its row is named).
    """
    tokens_M = mask_MT.sum(axis=1)
    total_M = np.where(mask_MT, logp_MT, 0.0).sum(axis=1, dtype=np.float64)
    for row in np.flatnonzero(tokens_M == 0):
        raise ValueError(f"answer {row} has no tokens: an answer has its EOS at least")
    for row in np.flatnonzero(~np.isfinite(total_M)):
        raise ValueError(f"answer {row} has the log-likelihood {total_M[row]}: the model gives one of its tokens none")
    return Likelihood(total_M, tokens_M)


def likelihoods(
    engine: Engine, params: Params, prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], batch: int
) -> Likelihood:
    """Score given answers, EOS included, behind their prompts: token ids, at temperature 1 whatever the run's.

    Args:
      batch: answers that are laid into packed rows together, those to equal prompts behind one copy of it; the figures
        do not depend on it.

    Raises:
      ValueError: if prompt and answer do not fit a row of the engine's PackShape, or as `of_tokens` does.
    """
    options = {} if engine.numerics.temperature == 1 else {"temperature": 1.0}
    pad_id, parts = engine.tokenizer.pad_token_id, []
    for start in range(0, len(answers), batch):
        rollout = data.given_responses(prompts[start : start + batch], answers[start : start + batch], pad_id)
        parts.append(of_tokens(engine.score(params, rollout, shared=True, **options), rollout.response_mask_BT))
    return Likelihood(np.concatenate([p.total_M for p in parts]), np.concatenate([p.tokens_M for p in parts]))


def log_rmr(gold: Likelihood, bad: Likelihood) -> np.ndarray:
    """log RMR [M] = log PPL(bad) - log PPL(gold); above 0 the model prefers the robust answer."""
    return bad.log_ppl_M - gold.log_ppl_M


def rmr(gold: Likelihood, bad: Likelihood) -> np.ndarray:
    """RMR [M] = PPL(bad) / PPL(gold), arXiv 2605.29491; inf where float64 ends."""
    with np.errstate(over="ignore"):
        return np.exp(log_rmr(gold, bad))


def log_likelihood_difference(gold: Likelihood, bad: Likelihood) -> np.ndarray:
    """log pi(gold) - log pi(bad) [M] of the whole answers, whatever their lengths, nats."""
    return gold.total_M - bad.total_M


@dataclass(frozen=True)
class Margin:
    """The margin of a model over M instances."""

    instances: int
    log_rmr: Estimate  # mean log RMR; its exp, the geometric mean of the RMR, is the headline
    log_ratio_of_means: Estimate  # log (mean PPL(bad) / mean PPL(gold)): few instances of high PPL decide it
    log_likelihood_difference: Estimate  # mean, nats
    preferred: Estimate  # share of instances with RMR > 1


def margin(gold: Likelihood, bad: Likelihood, together_M: np.ndarray, resamples: int, seed: int) -> Margin:
    """All forms of the margin, with percentile intervals (Efron 1979) over resampled instances.

    Args:
      together_M: instances of equal number here, as the renderings of one, are drawn together.

    Raises:
      ValueError: if the two are not of the same number of answers.
    """
    if not len(gold.total_M) == len(bad.total_M) == len(together_M):
        raise ValueError(
            f"{len(gold.total_M)} gold and {len(bad.total_M)} bad answers of {len(together_M)} instances: allowed is "
            "one of each for each instance"
        )
    place_M, log_rmr_M = intervals.places(together_M), log_rmr(gold, bad)
    clusters = int(place_M.max()) + 1

    def mean(x_M: np.ndarray) -> Estimate:
        return intervals.mean(x_M, together_M, resamples, seed)

    def log_sums(x_M: np.ndarray) -> np.ndarray:
        out_C = np.full(clusters, -np.inf)
        np.logaddexp.at(out_C, place_M, x_M)
        return out_C

    bad_C, gold_C = log_sums(bad.log_ppl_M), log_sums(gold.log_ppl_M)

    def ratio_of_means(at: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(bad_C[at], axis=-1) - np.logaddexp.reduce(gold_C[at], axis=-1)

    return Margin(
        instances=len(place_M),
        log_rmr=mean(log_rmr_M),
        log_ratio_of_means=intervals.estimate(ratio_of_means, clusters, resamples, seed),
        log_likelihood_difference=mean(log_likelihood_difference(gold, bad)),
        preferred=mean((log_rmr_M > 0).astype(np.float64)),
    )


def difference(
    log_rmr_M: np.ndarray, other_M: np.ndarray, together_M: np.ndarray, resamples: int, seed: int
) -> Estimate:  # fmt: skip
    """Mean log RMR of a model less that of another on the same M instances, paired; arguments as of `margin`."""
    return intervals.mean(log_rmr_M - other_M, together_M, resamples, seed)
