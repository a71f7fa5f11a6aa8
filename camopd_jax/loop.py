"""The only training loop: collect, micro-steps, guard, apply, log, evaluate, checkpoint."""

import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax

from camopd_jax import finite, guards, hosts, metrics, sharding
from camopd_jax.checkpoint import Checkpoints
from camopd_jax.step import Steps
from camopd_jax.types import Experience, Params, System, TrainState


class Interrupted(Exception):
    """SIGTERM or Ctrl-C came; the state is saved. Carries the signal's number."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}; the state is saved")
        self.signum = signum


@dataclass(frozen=True)
class Plan:
    """How long a run is, and how often it evaluates and saves."""

    title: str
    steps: int
    evaluate_every: int  # steps; 0: never
    checkpoint_every: int  # steps
    diagnose_every: int = 0  # steps; 0: never
    limits: guards.Limits = guards.OFF  # of what is watched; values that are not finite stop a run in any case
    patience: int = 0  # evaluations without a new best of `metric` after which a run ends early; 0: it does not
    metric: str = ""  # TASK/METRIC, of which more is better

    def due(self, step: int, every: int) -> bool:
        """Whether what comes every so many steps comes after this one; the last step has everything."""
        return every > 0 and (step % every == 0 or step == self.steps)

    def enough(self, scores: Sequence[float]) -> bool:
        """Whether the last `patience` of these evaluations brought no new best."""
        best = scores.index(max(scores)) if scores else 0
        return self.patience > 0 and len(scores) - 1 - best >= self.patience


@contextmanager
def _signals():
    """Turn SIGTERM and SIGINT into a list that fills; a second Ctrl-C interrupts at once."""
    seen: list[int] = []

    def note(signum, frame):
        del frame
        if seen and signum == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(signum)

    before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield seen
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def run(
    system: System,
    steps: Steps,
    plan: Plan,
    workdir: Path,
    checkpoints: Checkpoints,
    start: Callable[[], Params],
    key: jax.Array,
) -> TrainState:
    """Train for `plan.steps` updates, going on from the newest checkpoint in the workdir if there is one.

    Raises:
      Interrupted: after SIGTERM or Ctrl-C, with the state saved.
      FloatingPointError: if a score, loss or gradient is not finite, before it touches the parameters; if these are
        not finite after an update or an evaluation is not, before it is saved; at a spike that is to stop the run.
    """
    done = checkpoints.latest()
    if done is None:
        state, done, kept = steps.init(start(), key), 0, -1
    else:
        state, kept = checkpoints.restore(steps.abstract), done
        print(f"{plan.title}: going on from the checkpoint at step {done}", flush=True)
    found = _found(workdir, plan.metric, kept)
    watch = guards.Watch(plan.limits, guards.history(workdir / "metrics.jsonl", done))
    log = metrics.RunLog(workdir, kept) if hosts.writer() else metrics.NoLog()
    progress = metrics.Progress(plan.title, plan.steps, done)
    with ExitStack() as ending:  # each of these, whatever the others raise
        for close in (checkpoints.wait, log.close, progress.close):
            ending.callback(close)
        with (
            _signals() as seen,
            guards.watchdog(workdir, plan.limits.stall_seconds, f"step {done}, evaluation") as now,
            finite.traced(steps, lambda: state.params),
        ):
            evaluated, diagnosed = hosts.gather(_made(workdir, done))[0][0]  # what the writer sees
            if plan.due(done, plan.evaluate_every) and not evaluated:  # at the start, or left out for a signal
                rows = finite.check_rows(system.evaluate(state.params, done), done)
                log.evaluation(rows)
                found += _of(_scores(rows), plan.metric)
                checkpoints.score(state, done, _scores(rows))
            if plan.due(done, plan.diagnose_every) and not diagnosed:
                log.diagnosis(system.diagnose(state, done))
            log.sync()
            for step in () if plan.enough(found) else range(done, plan.steps):
                now(f"step {step + 1}")
                clock, compiled = time.perf_counter(), metrics.compilations()
                experience = system.collect(state, step)
                checkpoints.wait()  # a save that still holds its copy of the state would double the update's memory
                try:
                    state, figures = update(steps, state, experience, step, watch.left_out)
                except guards.Stopped:  # the steps before are good
                    if step > (checkpoints.latest() or 0):
                        log.sync()
                        checkpoints.save(state, step)
                    raise
                row = {"step": step + 1, "branch": experience.branch, **figures, **experience.metrics}
                row["compilations"] = metrics.compilations() - compiled
                row["seconds"] = time.perf_counter() - clock
                row["tokens_per_second"] = row.get("response_tokens", row.get("trained_tokens", 0)) / row["seconds"]
                begun = watch.warn(row)
                log.step(row, experience.rollouts)
                del experience  # of the step; it may hold arrays on the devices
                progress.show(step + 1, describe(row))
                for line in begun:
                    progress.say(line)
                now(f"step {step + 1}, evaluation")
                evaluated, signum = None, _signal(seen)
                if not signum:  # who sent one may wait for seconds only; the run that goes on makes up for it
                    if plan.due(step + 1, plan.evaluate_every):
                        rows = finite.check_rows(system.evaluate(state.params, step + 1), step + 1)
                        log.evaluation(rows)
                        evaluated = _scores(rows)
                        found += _of(evaluated, plan.metric)
                    if plan.due(step + 1, plan.diagnose_every):
                        log.diagnosis(system.diagnose(state, step + 1))
                    signum = _signal(seen)
                ends = evaluated is not None and plan.enough(found)
                if signum or ends or plan.due(step + 1, plan.checkpoint_every):
                    log.sync()
                    checkpoints.save(state, step + 1, evaluated)
                if signum:
                    checkpoints.wait()  # here, where another signal does not end the process
                    raise Interrupted(signum, step + 1)
                if ends:
                    why = f"{plan.metric} had no new best in {plan.patience} evaluations"
                    progress.say(f"{why}: enough, after step {step + 1}")
                    break
            checkpoints.wait()
            signum = _signal(seen)
            if signum:
                raise Interrupted(signum, plan.steps)
    return state


def _signal(seen: list[int]) -> int:
    """The signal that came to this process or to another one; 0: none."""
    return hosts.agreed(seen[0] if seen else 0)


def _made(workdir: Path, step: int) -> list[bool]:
    """On the writer, whether the evaluation and the diagnosis of a step are in the logs."""
    files = [workdir / f"{name}.jsonl" for name in ("eval", "diagnostics")] if hosts.writer() else []
    return [any(row["step"] == step for row in metrics.read_jsonl(file)) for file in files]


def _of(scores: dict[str, float], metric: str) -> list[float]:
    return [scores[metric]] if metric else []


def _found(workdir: Path, metric: str, step: int) -> list[float]:
    """The values of a metric in the evaluations up to a step, as the writer has them, on every process."""
    rows = metrics.read_jsonl(workdir / "eval.jsonl") if hosts.writer() and metric else []
    values = [row["value"] for row in rows if row["step"] <= step and f"{row['task']}/{row['metric']}" == metric]
    return json.loads(hosts.from_writer(json.dumps(values).encode()))


def _scores(rows: list[dict]) -> dict[str, float]:
    return {f"{row['task']}/{row['metric']}": row["value"] for row in rows}


def update(
    steps: Steps, state: TrainState, experience: Experience, step: int,
    left_out: Callable[[dict, str, int], bool] = lambda figures, branch, step: False,
) -> tuple[TrainState, dict]:  # fmt: skip
    """Sum the gradients of the micro-batches and apply them, once for each epoch; the figures are the last one's.

    Without micro-batches only the step advances; so it does where left_out(figures of the loss and the gradient,
    branch, number of the step) is true.

    Raises:
      FloatingPointError: if the loss or the gradient is not finite, with the state as it was; if parameters or
        moments are not finite afterwards, with no state left.
    """
    clock = time.perf_counter()
    if not experience.updates:
        return steps.skip(state), {"loss": 0.0, "seconds_update": 0.0}
    for _ in range(experience.epochs):
        state, figures = _epoch(steps, state, experience, step, left_out)
    return state, figures | {"seconds_update": time.perf_counter() - clock}


def _epoch(
    steps: Steps, state: TrainState, experience: Experience, step: int, left_out: Callable[[dict, str, int], bool]
) -> tuple[TrainState, dict]:
    def added(grads: Params, place: int) -> tuple[Params, dict]:
        micro = experience.complete(place) if experience.complete else experience.updates[place]
        return steps.micro(state.params, grads, sharding.spread(micro, steps.rows), steps.frozen)

    grads, sums = steps.zeros(), []
    for place in range(len(experience.updates)):
        grads, new = added(grads, place)
        sums.append(new)
    figures = {k: float(v) for k, v in jax.device_get(steps.measure(state, grads)).items()}
    sums = jax.device_get(sums)
    totals = {name: float(sum(s[name] for s in sums)) for name in sums[0]}
    where = f"step {step + 1}, branch {experience.branch}"
    if not math.isfinite(totals["loss"]) or not math.isfinite(figures["grad_norm"]):
        del grads  # room for those of one micro-batch
        why = finite.blame(
            [float(s["loss"]) for s in sums],
            lambda place: jax.device_get(steps.finite_parts(added(steps.zeros(), place)[0])),
            experience.samples,
        )
        raise FloatingPointError(f"{where}: loss {totals['loss']:.3g}, gradient norm {figures['grad_norm']:.3g}: {why}")
    tokens, loss = totals.pop("tokens"), totals.pop("loss")
    figures |= {"loss": loss} | {name: total / tokens for name, total in totals.items()}
    figures |= {"trained_tokens": int(tokens), "micro_steps": len(sums)}
    if left_out(figures, experience.branch, step + 1):
        state, figures = steps.skip(state), figures | {"trained_tokens": 0, "skipped": 1}
    else:
        state = steps.apply(state, grads)
        if not jax.device_get(steps.finite(state)):
            tensors = finite.where(jax.device_get(steps.finite_parts((state.params, state.opt_state))))
            raise FloatingPointError(f"{where}: after the update not finite: {tensors}")
    return state, figures


def describe(row: dict) -> str:
    """The figures of a step that a person watches."""
    parts = [f"{row['branch']:8s}"]
    if "reverse_kl" in row:
        parts.append(f"reverse KL {row['reverse_kl']:.3f}  selected {row['selected']}/{row['batch']}")
    elif "reward" in row:
        parts.append(f"reward {row['reward']:.3f}  passed {row['passed']:.3f}")
    else:
        parts.append(f"loss {row['loss']:.3f}")
    parts.append(f"{row['tokens_per_second']:.0f} tok/s")
    return "  ".join(parts)
