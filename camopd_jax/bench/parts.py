"""The parts of an on-policy step, each timed: the engine, the update and the loop's own pieces, nothing rewritten."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from ml_collections import ConfigDict

from camopd_jax import loop, sharding
from camopd_jax.bench import batch, floors, meter
from camopd_jax.bench.floors import Work
from camopd_jax.bench.setting import Setting
from camopd_jax.bench.subject import Subject
from camopd_jax.camopd import system as camopd
from camopd_jax.camopd.records import Branch
from camopd_jax.camopd.teachers import Teachers
from camopd_jax.engine import Engine, Policy
from camopd_jax.models import decoder
from camopd_jax.step import Steps, build_steps, make_optimizer
from camopd_jax.student import MASTER
from camopd_jax.types import Experience, Rollout, TrainState

BAND = (0.5, 5.0)  # of the importance weights, as in the presets
RHO = 0.8  # share of the demand that the selected samples hold
OPTIMIZER = dict(
    name="adamw", learning_rate=1e-6, warmup_steps=0, decay_steps=0, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0,
    clip_norm=1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What was measured of a part. Several works follow one another, each bound by what it is bound by."""

    name: str
    tokens: int  # that tokens/s count
    seconds: list[float]  # of each repeat
    works: list[Work]
    more: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """The model on its mesh, and what it is given to do."""

    s: Setting
    subject: Subject
    engine: Engine
    prompts: list[np.ndarray]
    responses: np.ndarray  # tokens of each
    rollout: Rollout

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence, prompt and response."""
        return [len(p) + int(n) for p, n in zip(self.prompts, self.responses, strict=True)]

    @property
    def copies(self) -> int:
        return sharding.data_shards(self.engine.mesh)

    def answering(self, responses: Sequence[int]) -> list[Work]:
        """Prefill, then decoding."""
        cfg, s, prompts, responses = self.subject.cfg, self.s, [len(p) for p in self.prompts], list(map(int, responses))
        first = floors.prefill(cfg, prompts, s.rows_at_once, s.size, self.copies)
        return [first, floors.decode(cfg, prompts, responses, s.rows_at_once, s.size, self.copies)]

    def scoring(self, lengths: Sequence[int]) -> Work:
        return floors.scoring(self.subject.cfg, lengths, self.s.size, self.copies)

    def training(self, lengths: Sequence[int]) -> Work:
        return floors.training(self.subject.cfg, lengths, self.copies)


def rollout(b: Bench) -> list[Row]:
    """Prefill and decoding together, and decoding alone: the time of all tokens less that of one token a response."""
    s, engine = b.s, b.engine
    params = b.subject.place(engine, s.precision)

    def sample(prompts: Sequence[np.ndarray], new_tokens: int, limits: np.ndarray | None) -> Callable[[], Rollout]:
        how = {} if limits is None else {"limits": [int(n) for n in limits]}
        return lambda: engine.sample(
            params, prompts, jax.random.key(s.seed), width=-(-s.prompt_tokens // 8) * 8, batch=s.rows_at_once,
            max_new_tokens=new_tokens, temperature=engine.numerics.temperature, **how,
        )  # fmt: skip

    if s.lengths == "heavy":
        return _heavy(b, sample)
    first, whole = meter.interleaved(s.repeats, [sample(b.prompts, 1, None), sample(b.prompts, s.new_tokens, None)])
    alone = [two - one for one, two in zip(first, whole, strict=True)]
    prefill, decode = b.answering(b.responses)
    prompt_tokens, tokens = s.prompts * s.prompt_tokens, int(b.responses.sum())
    return [
        Row("rollout", tokens, whole, [prefill, decode]),
        Row("  prefill", prompt_tokens, first, [prefill]),
        Row("  decode", tokens - s.prompts, alone, [decode]),
    ]


def _heavy(b: Bench, sample: Callable) -> list[Row]:
    """Responses of many lengths: static batches, each as long as its longest row, and refilled rows."""
    s, n = b.s, b.s.rows_at_once
    groups = [slice(start, start + n) for start in range(0, s.prompts, n)]
    static = [sample(b.prompts[g], s.new_tokens, b.responses[g]) for g in groups]
    calls = [lambda: [call() for call in static], sample(b.prompts, s.new_tokens, b.responses)]
    seconds = meter.interleaved(s.repeats, calls)
    tokens, steps = int(b.responses.sum()), sum(int(b.responses[g].max()) * len(b.responses[g]) for g in groups)
    gain = meter.median(seconds[0]) / meter.median(seconds[1])
    return [
        Row("rollout, static", tokens, seconds[0], b.answering(b.responses), {"idle": 1 - tokens / steps}),
        Row("rollout, refilled", tokens, seconds[1], b.answering(b.responses), {"over_static": gain}),
    ]


def scoring(b: Bench) -> list[Row]:
    """Log-probabilities of the responses, as the loop takes them from student and teacher."""
    params = b.subject.place(b.engine, b.s.precision)
    (seconds,) = meter.interleaved(b.s.repeats, [lambda: b.engine.score(params, b.rollout)])
    return [Row("scoring", sum(b.lengths), seconds, [b.scoring(b.lengths)], _of_packing(b, 1))]


def training(b: Bench) -> list[Row]:
    """One update: zeros, micro-steps, figures and the optimiser's step."""
    steps, state = _student(b)
    seconds, _ = _updates(b, steps, state, [b.s.prompts])
    return [Row("training", sum(b.lengths), seconds[0], [b.training(b.lengths)], _of_packing(b, 3))]


def fraction(b: Bench) -> list[Row]:
    """Updates on fractions of the batch, and the line through their times.

    An update costs `fixed` seconds without any micro-step: gradients set to zero, their figures, the optimiser's step.
    What is left of the whole batch's time, `variable`, should shrink with the fraction: slope = (the fitted line's
    seconds per batch) / variable is 1 where it does.
    """
    counts = sorted({max(1, round(f * b.s.prompts)) for f in b.s.selected})
    steps, state = _student(b)
    seconds, fixed = _updates(b, steps, state, counts)
    rows = []
    for count, own in zip(counts, seconds, strict=True):
        lengths = b.lengths[:count]
        rows.append(Row(f"update of {count}", sum(lengths), own, [b.training(lengths)], {"sequences": count}))
    line = fit([sum(b.lengths[:n]) / sum(b.lengths) for n in counts], [meter.median(x) for x in seconds], fixed)
    return [*rows[:-1], Row(rows[-1].name, rows[-1].tokens, seconds[-1], rows[-1].works, rows[-1].more | line)]


def fit(fractions: Sequence[float], seconds: Sequence[float], fixed: float) -> dict[str, float]:
    """The least-squares line of seconds over fractions, the last of which is 1 (see `fraction`)."""
    per_batch, _ = np.polyfit(fractions, seconds, 1)
    return {
        "slope": float(per_batch / (seconds[-1] - fixed)),
        "slope_with_fixed": float(per_batch / seconds[-1]),
        "seconds_fixed": fixed,
    }


def step(b: Bench) -> list[Row]:
    """The whole on-policy step with responses of one length: roll out, score twice, select, update."""
    s, engine = b.s, b.engine
    steps, state = _student(b)
    # A teacher that the student is not: with its weights alone no sample would have a demand.
    teacher = Policy(engine, lambda: jax.tree.map(lambda p: 1.02 * p, b.subject.place(engine, s.precision)))
    branch = Branch("general", 0, b.prompts, [str(i) for i in range(s.prompts)], [], "absolute", RHO, 2.0)
    c = ConfigDict({"method": "camopd", "schedule": "method", "cycle": ("general",), "loss": "sampled"})
    collect = camopd.collector(
        engine, Teachers({"general": teacher}, "reread"), {"general": branch}, c,
        camopd.RolloutShape(s.prompts, s.rows_at_once, s.new_tokens), s.repeats + 1, s.seed, lambda params: params,
        lambda answers, rows, n: [], 0,
    )  # fmt: skip
    seconds, figures = [], []
    for number in range(s.repeats + 1):  # the first one compiles
        clock = time.perf_counter()
        experience = collect(state, number)
        state, of_update = loop.update(steps, state, experience, number)
        seconds.append(time.perf_counter() - clock)
        figures.append(experience.metrics | of_update)
    one, figures = s.prompt_tokens + s.new_tokens, figures[1:]
    selected = round(meter.median([f["selected"] for f in figures]))
    works = b.answering([s.new_tokens] * s.prompts) + 2 * [b.scoring([one] * s.prompts)]
    split = {name: meter.median([f[name] for f in figures]) for name in figures[0] if name.startswith("seconds_")}
    return [
        Row(
            "whole step", s.prompts * s.new_tokens, seconds[1:], [*works, b.training([one] * selected)],
            {"selected": selected, "batch": s.prompts, **split},
        )
    ]  # fmt: skip


def _student(b: Bench) -> tuple[Steps, TrainState]:
    engine = b.engine
    score = engine.scorer(engine.numerics.temperature, b.s.remat)
    optimizer = make_optimizer(**OPTIMIZER)
    steps = build_steps(score, engine.shapes, engine.mesh, decoder.AXES, camopd.objective(BAND), optimizer, {})
    return steps, steps.init(b.subject.place(engine, MASTER), jax.random.key(b.s.seed))


def _updates(b: Bench, steps: Steps, state: TrainState, counts: Sequence[int]) -> tuple[list[list[float]], float]:
    """Seconds of updates on the first so many sequences, and of one without micro-steps."""
    held = [state]  # each update takes the state over

    def one(micros: list) -> Callable[[], TrainState]:
        def call():
            held[0], _ = loop.update(steps, held[0], Experience("bench", micros, {}), 0)
            return held[0]

        return call

    def none():
        grads = steps.zeros()
        jax.device_get(steps.measure(held[0], grads))
        held[0] = steps.apply(held[0], grads)
        return held[0]

    calls = [one(batch.updates(b.rollout, count, b.engine.shape)) for count in counts]
    *seconds, fixed = meter.interleaved(b.s.repeats, [*calls, none])
    return seconds, meter.median(fixed)


def _of_packing(b: Bench, passes: int) -> dict[str, float]:
    unread = passes * floors.unread_head(b.subject.cfg, int(b.rollout.prompt_mask_BP.sum()))
    return {"padding": batch.padding(b.rollout, b.engine.shape), "flops_unneeded": unread}


ALL = {"rollout": rollout, "scoring": scoring, "training": training, "fraction": fraction, "step": step}
