"""CaMOPD, its ablations and its rivals: which branches a step visits, which samples train, and their credit.

A method is a few functions in the one shell of system.py. Sources: CaMOPD and its ablations, arXiv 2605.27115.
"relaxed" is after Relaxed OPD (arXiv 2603.11137), "selectkd" after SelecTKD (arXiv 2510.24021): both are known to us in
outline, so inspired by them and no more.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from camopd_jax.camopd import select


@dataclass(frozen=True)
class Turn:
    """A branch's part in a step."""

    branch: str
    visit: int  # earlier batches of the branch
    rows: int  # prompts of the branch in this step


def alternating(cycle: Sequence[str], step: int, batch: int) -> list[Turn]:
    """One branch a step, in the order of the cycle (eq. 3)."""
    branch, visit = select.schedule(cycle, step)
    return [Turn(branch, visit, batch)]


def halves(cycle: Sequence[str], step: int, batch: int) -> list[Turn]:
    """Every branch of the cycle in every step, with equal parts of the batch."""
    names = tuple(dict.fromkeys(cycle))
    return [Turn(name, step, batch // len(names)) for name in names]


def mixed(cycle: Sequence[str], step: int, batch: int) -> list[Turn]:
    """Every branch of the cycle in every step, with a part of the batch as large as its part of the cycle."""
    return [Turn(name, step, batch * cycle.count(name) // len(cycle)) for name in dict.fromkeys(cycle)]


def general_alone(cycle: Sequence[str], step: int, batch: int) -> list[Turn]:
    """The general branch in every step."""
    del cycle
    return [Turn("general", step, batch)]


def selected_alone(score_B: np.ndarray, rho: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The samples that train and the factor of each: those of eq. 6, times r_b (eq. 7)."""
    rows = select.smallest_prefix(score_B, rho)
    return rows, np.full(len(rows), scale)


def all_selected_scaled(score_B: np.ndarray, rho: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The whole batch; r_b for the samples of eq. 6, and 1 for the others (the ablation "- selection")."""
    factor_B = np.ones(len(score_B))
    factor_B[select.smallest_prefix(score_B, rho)] = scale
    return np.arange(len(score_B)), factor_B


def all_alike(score_B: np.ndarray, rho: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The whole batch, each sample with the factor 1 (eq. 2)."""
    del rho, scale
    return np.arange(len(score_B)), np.ones(len(score_B))


@dataclass(frozen=True)
class Signal:
    """What a credit is made of: one branch's responses [B, T]."""

    gap_BT: np.ndarray  # Delta_t, nats; 0 outside the mask
    mask_BT: np.ndarray
    entropy_BT: np.ndarray | None  # of the student, nats
    teacher_rank_BT: np.ndarray | None  # of the sampled token: 0 is the teacher's most likely one
    progress: float  # share of the run's steps that are done, 0 to 1
    seed: tuple[int, ...]  # of the branch's random numbers in this step


def relaxed_credit(
    gap_BT: np.ndarray, entropy_BT: np.ndarray, mask_BT: np.ndarray, mixture: float, fraction: float
) -> np.ndarray:
    """max(Delta_t, log(lambda / (1 - lambda))) on the tokens of highest student entropy, 0 on the others.

    Relaxed-OPD-inspired (arXiv 2603.11137): the reward of a token is bounded from below, and the `fraction` of the
    batch's tokens (at least one; ties with the last one stay) at which the student is least sure train.

    Args:
      mixture: lambda, above 0 and below 1/2; fraction: above 0 and at most 1.
    """
    entropies = np.sort(entropy_BT[mask_BT])[::-1]
    least = entropies[math.ceil(fraction * len(entropies)) - 1]
    return np.where(mask_BT & (entropy_BT >= least), np.maximum(gap_BT, math.log(mixture / (1 - mixture))), 0.0)


def accepted_credit(gap_BT: np.ndarray, accepted_BT: np.ndarray, beta: float) -> np.ndarray:
    """Delta_t where the teacher accepts the student's token, beta Delta_t where not (SelecTKD-inspired)."""
    return np.where(accepted_BT, gap_BT, beta * gap_BT)


def _gap(signal: Signal, options: ConfigDict) -> np.ndarray:
    del options
    return signal.gap_BT


def _relaxed(signal: Signal, options: ConfigDict) -> np.ndarray:
    o = options.relaxed
    fraction = o.first_fraction + (o.last_fraction - o.first_fraction) * signal.progress
    return relaxed_credit(signal.gap_BT, signal.entropy_BT, signal.mask_BT, o.mixture, fraction)


def _accepted(signal: Signal, options: ConfigDict) -> np.ndarray:
    """Accepted by rank, or with the probability min(1, pi_T / pi_theta) of speculative sampling."""
    o = options.selectkd
    accepted_BT = signal.teacher_rank_BT < o.top_k
    if o.test == "speculative":
        accepted_BT = np.log(np.random.default_rng(signal.seed).random(signal.gap_BT.shape)) < signal.gap_BT
    return accepted_credit(signal.gap_BT, accepted_BT, o.beta)


@dataclass(frozen=True)
class Method:
    """How a step is made; everything else is the same for all methods."""

    turns: Callable[[Sequence[str], int, int], list[Turn]] = alternating
    select: Callable[[np.ndarray, float, float], tuple[np.ndarray, np.ndarray]] = all_alike
    credit: Callable[[Signal, ConfigDict], np.ndarray] = _gap
    student_entropy: bool = False  # whether the credit needs it
    teacher_rank: bool = False
    teacher_answers: bool = False  # the teachers answer the prompts, and the student imitates (off-policy)

    @property
    def pooled(self) -> bool:
        """Whether one mean is taken over the samples of all branches, and not one for each branch."""
        return self.turns is mixed


METHODS = {
    "camopd": Method(select=selected_alone),
    "no_selection": Method(select=all_selected_scaled),
    "no_scaling": Method(),
    "mix": Method(turns=mixed),
    "vanilla_mopd": Method(turns=halves),
    "relaxed_opd": Method(turns=halves, credit=_relaxed, student_entropy=True),
    "selectkd": Method(turns=halves, credit=_accepted, teacher_rank=True),
    "off_policy_kd": Method(turns=halves, teacher_answers=True),
    "general_only": Method(turns=general_alone, select=selected_alone),
}
SCHEDULES = {"alternating": alternating, "halves": halves, "mixed": mixed}
OWN_SCHEDULE = "method"
LOSSES = ("sampled", "full", "top_k")
TESTS = ("top_k", "speculative")  # of SelecTKD


def method_of(c: ConfigDict) -> Method:
    """The method that config.camopd names, on its own schedule or on the one that is asked for."""
    method = METHODS[c.method]
    return method if c.schedule == OWN_SCHEDULE else dataclasses.replace(method, turns=SCHEDULES[c.schedule])


def steps_in_words(c: ConfigDict, batch: int) -> str:
    """What the steps of a run visit, for config.camopd."""
    method, cycle = method_of(c), tuple(c.cycle)
    if method.turns is alternating:
        return f"in cycles of {' + '.join(f'{cycle.count(n)} {n}' for n in dict.fromkeys(cycle))} steps"
    parts = [f"{turn.rows} {turn.branch}" for turn in method.turns(cycle, 0, batch)]
    return f"each of {' + '.join(parts)} prompts"


def check(config: ConfigDict) -> None:
    """Raise ValueError if the keys of camopd.* do not go together."""
    c, batch = config.camopd, config.rollout.batch_size
    method, names = method_of(c), dict.fromkeys(c.cycle)
    if c.loss != "sampled" and (method.credit is not _gap or method.teacher_answers):
        raise ValueError(
            f"config.camopd.loss = {c.loss!r}: camopd.method = {c.method!r} weighs sampled tokens; allowed is 'sampled'"
        )
    if c.method == "general_only" and c.schedule != OWN_SCHEDULE:
        raise ValueError(
            f"config.camopd.schedule = {c.schedule!r}: general_only has one branch; allowed is {OWN_SCHEDULE!r}"
        )
    if method.turns in (halves, mixed) and len(names) < 2:
        raise ValueError(
            f"config.camopd.cycle = {tuple(c.cycle)}: camopd.method = {c.method!r} visits all its branches in each "
            "step; allowed are two branches or more"
        )
    parts = {halves: len(names), mixed: len(c.cycle)}.get(method.turns, 1)
    if batch % parts:
        raise ValueError(
            f"config.rollout.batch_size = {batch}: camopd.method = {c.method!r} parts each batch among the branches of "
            f"camopd.cycle; allowed is a multiple of {parts}"
        )
