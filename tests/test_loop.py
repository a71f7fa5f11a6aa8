"""The training loop and signals: the state is saved at once, and what was due is made up for when the run goes on."""

import json
import os
import signal
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding
from test_checkpoint import largest

from camopd_jax import loop, metrics, resume, sums, workdirs
from camopd_jax.checkpoint import Checkpoints
from camopd_jax.types import Experience, System, TrainState

PLAN = loop.Plan("test", steps=4, evaluate_every=2, checkpoint_every=3, diagnose_every=2)


def state_of(params, key):
    return TrainState(params, (), jnp.int32(0), key)


def run(workdir, signal_in=None, plan=PLAN, best=None):
    """Steps that each halve one weight; a signal comes in one of them or in an evaluation. Gives what was measured.

    best: the step whose evaluation is the best; None: no checkpoint is kept for that.
    """
    measured = []

    def at(place):
        if place == signal_in:
            os.kill(os.getpid(), signal.SIGTERM)

    def row(kind, params, step):
        measured.append((kind, step))
        at((kind, step))
        value = float(params["w"][0]) if best is None else abs(step - best)
        return [{"step": step, "model": "student", "task": kind, "metric": "w", "value": value}]

    def collect(state, step):
        at(("step", step + 1))
        return Experience("general", [], {"response_tokens": 1})

    start = {"w": jnp.ones(2)}
    here = SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here),
        jax.eval_shape(state_of, start, jax.random.key(0)),
    )
    steps = SimpleNamespace(
        init=state_of,
        skip=lambda s: s.replace(params={"w": s.params["w"] / 2}, step=s.step + 1),
        abstract=abstract,
    )
    system = System(collect, lambda p, step: row("eval", p, step), lambda s, step: row("diagnosis", s.params, step))
    keep = {"keep_last": 2, "keep_best": 0 if best is None else 1, "best_metric": "eval/w"}
    with Checkpoints(workdir / "checkpoints", **keep) as checkpoints:
        try:
            loop.run(system, steps, plan, workdir, checkpoints, lambda: start, jax.random.key(0))
        except loop.Interrupted:
            if not signal_in:
                raise
    return measured


def files(workdir):
    names = ("eval.jsonl", "diagnostics.jsonl")
    return [[json.loads(line) for line in (workdir / name).read_text().splitlines()] for name in names]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    assert run(workdir) == [(kind, step) for step in (0, 2, 4) for kind in ("eval", "diagnosis")]
    return files(workdir)


@pytest.mark.parametrize("step", [1, 2, 4])  # with nothing due, with something due, at the end
def test_a_signal_saves_before_what_is_due_and_the_next_run_makes_up_for_it(undisturbed, tmp_path, step):
    before = run(tmp_path, ("step", step))
    assert max(done for _, done in before) < step
    assert (tmp_path / "checkpoints" / str(step)).is_dir()
    after = run(tmp_path)
    assert not set(before) & set(after)
    assert files(tmp_path) == undisturbed


def test_an_evaluation_in_which_a_signal_comes_is_not_made_twice(undisturbed, tmp_path):
    before = run(tmp_path, ("eval", 2))
    assert before[-2:] == [("eval", 2), ("diagnosis", 2)]
    assert run(tmp_path) == [("eval", 4), ("diagnosis", 4)]
    assert files(tmp_path) == undisturbed


def test_a_signal_while_the_last_checkpoint_is_written_waits_for_it(undisturbed, tmp_path, monkeypatch):
    real = sums.write

    def write(directory, step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        real(directory, step)

    monkeypatch.setattr(sums, "write", write)
    late = []  # what would end the process
    before = signal.signal(signal.SIGTERM, lambda *_: late.append("killed"))
    try:
        with pytest.raises(loop.Interrupted, match="at step 4; the state is saved"):
            run(tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not late
    assert resume.find(tmp_path).step == 4
    assert files(tmp_path) == undisturbed


def test_the_best_checkpoint_is_kept_although_a_signal_came_before_its_evaluation(tmp_path):
    plan = loop.Plan("test", steps=8, evaluate_every=2, checkpoint_every=2)
    for name, signals in (("undisturbed", ()), ("stopped", [("step", 4)])):
        for signal_in in (*signals, None):
            run(tmp_path / name, signal_in, plan, best=4)
        assert workdirs.saved_steps(tmp_path / name) == [4, 6, 8]
        assert files(tmp_path / name)[0] == files(tmp_path / "undisturbed")[0]


@pytest.mark.parametrize("tail", [b"\0" * 40 + b"\n", b'{"step": 4, "bra', b"\xff\n"])
def test_what_a_power_loss_leaves_behind_the_checkpoint_s_rows_does_not_matter(undisturbed, tmp_path, tail):
    run(tmp_path, ("step", 3))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    run(tmp_path)
    assert files(tmp_path) == undisturbed
    assert metrics.steps_logged(tmp_path / "metrics.jsonl") == 4


def test_rows_are_on_the_disk_before_a_checkpoint_is_saved(tmp_path, monkeypatch):
    done = []
    save, sync = Checkpoints.save, metrics.RunLog.sync
    monkeypatch.setattr(Checkpoints, "save", lambda self, *a: (done.append("save"), save(self, *a)))
    monkeypatch.setattr(metrics.RunLog, "sync", lambda self: (done.append("sync"), sync(self)))
    run(tmp_path)
    assert done == ["sync"] + ["sync", "save"] * 2  # the first: what a run that goes on makes up for


def test_from_the_checkpoint_before_a_damaged_one_the_run_comes_to_the_same_end(undisturbed, tmp_path):
    run(tmp_path)
    rows = [{k: r[k] for k in ("step", "loss")} for r in metrics.read_jsonl(tmp_path / "metrics.jsonl")]
    file = largest(tmp_path / "checkpoints" / "4" / "default")
    file.write_bytes(bytes(file.stat().st_size))
    resume._set_aside(tmp_path, resume.find(tmp_path))
    assert run(tmp_path) == [("eval", 4), ("diagnosis", 4)]
    assert files(tmp_path) == undisturbed
    again = [{k: r[k] for k in ("step", "loss")} for r in metrics.read_jsonl(tmp_path / "metrics.jsonl")]
    assert again == rows and resume.find(tmp_path) == resume.Found(4, {})


def test_a_checkpoint_that_does_not_fit_ends_the_run_and_more_room_lets_it_go_on(undisturbed, tmp_path, monkeypatch):
    def write(directory, step):
        if step == 4 and not seen:
            seen.append(step)
            raise OSError(28, "No space left on device")
        real(directory, step)

    seen, real = [], sums.write
    monkeypatch.setattr(sums, "write", write)
    with pytest.raises(OSError, match=r"step 4 could not be written: .*No space left on device"):
        run(tmp_path)
    assert resume.find(tmp_path) == resume.Found(3, {})
    run(tmp_path)
    assert files(tmp_path) == undisturbed and resume.find(tmp_path) == resume.Found(4, {})


def test_a_step_of_several_epochs_updates_so_many_times_with_the_same_answers():
    seen = []

    def micro(params, grads, update, frozen):
        seen.append((float(params), update["x"]))
        return grads + params * update["x"], {"loss": params, "tokens": jnp.float32(2), "clipped": jnp.float32(1)}

    steps = SimpleNamespace(
        zeros=lambda: jnp.float32(0), micro=micro, frozen=None, rows=SingleDeviceSharding(jax.devices()[0]),
        measure=lambda state, grads: {"grad_norm": abs(grads)},
        apply=lambda state, grads: state.replace(params=state.params - grads / 4, step=state.step + 1),
        skip=lambda state: state.replace(step=state.step + 1), finite=lambda state: jnp.bool_(True),
    )  # fmt: skip
    experience = Experience("d", [{"x": 1}, {"x": 1}], {}, epochs=3)
    state, figures = loop.update(steps, state_of(jnp.float32(8), jax.random.key(0)), experience, 0)
    assert float(state.params) == 1 and int(state.step) == 3  # each epoch halves it: twice 1/4
    assert seen == [(8, 1), (8, 1), (4, 1), (4, 1), (2, 1), (2, 1)]
    assert figures["loss"] == 4 and figures["grad_norm"] == 4, "the figures are the last epoch's"
    assert figures["clipped"] == 0.5 and figures["trained_tokens"] == 4, "sums are means over the tokens that trained"
    left, figures = loop.update(steps, state, experience, 0, lambda figures, branch, step: True)
    assert float(left.params) == 1 and int(left.step) == 6 and figures["skipped"] == 1


@pytest.mark.parametrize("kill", [None, ("step", 3), ("eval", 4)])
def test_a_run_ends_when_its_patience_does_wherever_it_was_stopped(tmp_path, kill):
    plan = loop.Plan("test", steps=8, evaluate_every=2, checkpoint_every=3, patience=2, metric="eval/w")  # 1, 1/4, 1/16
    run(tmp_path, kill, plan)
    run(tmp_path, None, plan)
    assert run(tmp_path, None, plan) == []  # it is over
    assert [row["step"] for row in files_of(tmp_path, "eval")] == [0, 2, 4]
    assert [row["step"] for row in files_of(tmp_path, "metrics")] == [1, 2, 3, 4]


def files_of(workdir, name):
    return [json.loads(line) for line in (workdir / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "patience, scores, enough",
    [(0, [3, 2, 1], False), (2, [], False), (2, [1, 3, 2], False), (2, [1, 3, 2, 3], True), (2, [3, 1, 4], False)],
)
def test_patience_counts_evaluations_without_a_new_best(patience, scores, enough):
    assert loop.Plan("test", 9, 1, 1, patience=patience).enough(scores) is enough
