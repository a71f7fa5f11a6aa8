"""What a simulation says: what is simulated, what the run's own code did, and what that takes on planned devices."""

from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from camopd_jax import advice, batching, chips, forecast
from camopd_jax.advice import digits
from camopd_jax.chips import Devices
from camopd_jax.footprint import Setup
from camopd_jax.simulation import Run, Step

SHOWN = 12  # rows of the table, about
LAWS = {
    "heavy": "with a heavy tail (mean a quarter of the longest, one in 16 is cut there)",
    "longest": "all the longest",
}


def header(config: ConfigDict, lengths: str) -> Iterator[str]:
    """What is simulated, and what is not."""
    rollout = config.rollout
    yield (
        f"Simulation of {config.name}:{config.preset}: {config.steps} steps of {rollout.batch_size} prompts of up to "
        f"{rollout.max_prompt_tokens} tokens, responses up to {rollout.max_new_tokens}, {LAWS[lengths]}"
    )
    yield (
        "Simulated: the model (64 numbers give a token's log-probability), its cache and the lengths of prompts and "
        "responses, on one data shard. Real: schedule, prompts of a step, refilling of rows, scores packed and "
        "unpacked, selection, micro-batches, update, guards, logs, checkpoints, resume."
    )


def table(run: Run) -> Iterator[str]:
    """Some of the steps, and all of them together."""
    steps = run.steps
    every = max(1, len(steps) // SHOWN)
    yield ""
    yield (
        f"{'step':>6s}{'iterations':>12s}{'occupied':>10s}{'pauses':>8s}{'tokens':>12s}{'ended':>8s}{'scored':>8s}"
        f"{'selected':>10s}{'trained':>9s}{'host s':>8s}{'GB ever':>9s}"
    )
    for step in steps[every - 1 :: every]:
        yield _row(f"{step.number}", [step])
    yield _row("mean", steps)
    rollout = run.config.rollout
    most = forecast.waves(rollout.batch_size, rollout.rows_at_once) * rollout.max_new_tokens
    yield (
        f"  iterations: tokens drawn for all {rollout.rows_at_once} rows together, {most:,} if all responses were the "
        "longest or rows were not refilled; occupied: by rows that have not finished;"
    )
    yield (
        "  scored and trained: micro-batches, the former by student and teacher; host s: rollout, scores and packing "
        "of one step; GB ever: what this process held at most, libraries included"
    )


def _row(name: str, steps: Sequence[Step]) -> str:
    def mean(values) -> float:
        return sum(values) / len(steps)

    drawn = [step.drawn for step in steps]
    places = sum(d.rows * d.iterations for d in drawn)
    return (
        f"{name:>6s}{mean(d.iterations for d in drawn):12,.0f}{sum(d.tokens for d in drawn) / max(1, places):10.2f}"
        f"{mean(d.pauses for d in drawn):8.0f}{mean(d.tokens + d.prompts for d in drawn):12,.0f}"
        f"{mean(s.ended for s in steps):8.2f}{mean(s.scored for s in steps):8.0f}"
        f"{mean(s.selected / s.batch for s in steps):10.2f}{mean(s.trained for s in steps):9.0f}"
        f"{mean(s.seconds for s in steps):8.1f}{max(s.memory for s in steps) / 1e9:9.2f}"
    )


def planned(config: ConfigDict, devices: str) -> tuple[Setup, Devices]:
    """The plan for devices on which the steps of a simulation are priced.

    Raises:
      ValueError: as the dry run; if the config has more than one data shard there.
    """
    on = chips.parse(devices)
    setup = advice.resolve(config, on.count)
    if setup.shards > 1:
        raise ValueError(
            f"--devices={devices}: the mesh has {setup.shards} data shards there; allowed is one, as in the simulation "
            f"(--config.mesh.tensor={on.count} where that divides the model)"
        )
    return setup, on


def priced(run: Run, setup: Setup, on: Devices) -> Iterator[str]:
    """Seconds of the steps' work on devices, at the rates of the plan."""
    precision, rows = setup.config.precision, batching.read_ahead(setup.config.rollout.rows_at_once)
    rollout = scores = update = 0.0
    for step in run.steps:
        d = step.drawn
        token = forecast.token(setup, d.rows, d.columns / max(1, d.iterations)).times(d.iterations)
        rollout += token.seconds(on, precision) + d.reads * forecast.prefill(setup, rows).seconds(on, precision)
        scores += step.scored * forecast.micro_batch(setup, "scoring").seconds(on, precision)
        update += step.trained * forecast.micro_batch(setup, "training").seconds(on, precision)
    hours, n = (rollout + scores + update) / 3600, len(run.steps)
    yield ""
    yield (
        f"This work on {on.count} x {on.chip.name} at the rates of --dry_run (assumed shares of peaks, not measured): "
        f"a step's rollout {digits(rollout / n)} s, scores {digits(scores / n)} s, update {digits(update / n)} s; the "
        f"{n} steps {digits(hours)} hours, {digits(on.count * hours)} device-hours, evaluations aside"
    )


def compared(stopped: Run, found: Sequence[str]) -> Iterator[str]:
    """Whether a run that was stopped is the undisturbed one."""
    yield ""
    how = ", ".join(f"{step} ({('SIGTERM', 'cut off')[i % 2]})" for i, step in enumerate(stopped.stops))
    yield f"Again, stopped in the steps {how}, and started again each time:"
    if found:
        yield f"NOT THE SAME: {'; '.join(found)}"
    else:
        yield "metrics.jsonl (timing aside), eval.jsonl, rollouts.jsonl and the parameters at the end are the same"
