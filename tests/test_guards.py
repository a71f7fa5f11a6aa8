"""Guards of a run in flight: by hand on rows, and through the loop with a tiny model whose values are spoiled."""

import functools
import json
import math
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from plain import SHAPE, a_rollout, an_engine, mesh, random_weights

from camopd_jax import finite, guards, loop, packing, sft, workdirs
from camopd_jax import step as steps_of
from camopd_jax.checkpoint import Checkpoints
from camopd_jax.models import decoder
from camopd_jax.types import Experience, System

LIMITS = replace(guards.OFF, spiking=("grad_norm",), spike_factor=3.0, spike_window=3, spike_after=2, steps=2)


def an_update(norm, branch="general", **more):
    return {"step": 0, "branch": branch, "grad_norm": norm, "micro_steps": 1, **more}


# Spikes


def test_a_spike_is_told_by_the_median_of_the_last_updates_of_its_branch():
    no_update = {"step": 0, "branch": "general", "loss": 0.0}
    rows = [an_update(n) for n in (90, 90, 90, 4, 2, 8)] + [an_update(900, "domain")] * 9 + [no_update] * 9
    assert guards.spikes({"grad_norm": 12.0}, "general", rows, LIMITS) == {}  # 3 times the median of 4, 2 and 8
    found = guards.spikes({"grad_norm": 12.1}, "general", rows, LIMITS)
    assert found == {"grad_norm": "grad_norm is 12.1, 3 times the median of the updates before"}
    assert guards.spikes({"grad_norm": 12.1, "loss": 0.0}, "domain", rows, LIMITS) == {}
    assert guards.spikes({"grad_norm": 3000.0}, "domain", rows, LIMITS)


def test_a_spike_needs_updates_to_be_compared_with():
    assert not guards.spikes({"grad_norm": 1e9}, "general", [an_update(1.0)], LIMITS)
    assert guards.spikes({"grad_norm": 1e9}, "general", [an_update(1.0)] * 2, LIMITS)


def test_a_loss_is_judged_where_it_is_no_surrogate():
    rows = [an_update(1.0, loss=0.1)] * 4
    assert not guards.spikes({"grad_norm": 1.0, "loss": 9.0}, "general", rows, LIMITS)
    both = replace(LIMITS, spiking=("grad_norm", "loss"))
    assert list(guards.spikes({"grad_norm": 1.0, "loss": 9.0}, "general", rows, both)) == ["loss"]


def test_what_lasts_is_a_spike_no_more():
    """Updates that are left out count in the median, or a new level would never be accepted."""
    rows = [an_update(1.0)] * 5
    said = []
    for _ in range(4):
        said.append(bool(guards.spikes({"grad_norm": 10.0}, "general", rows, LIMITS)))
        rows.append(an_update(10.0, skipped=1))
    assert said == [True, True, False, False]


@pytest.mark.parametrize(("on_spike", "expected"), [("warn", False), ("skip", True)])
def test_an_update_is_left_out_on_demand(on_spike, expected):
    watch = guards.Watch(replace(LIMITS, on_spike=on_spike), [an_update(1.0)] * 2)
    assert watch.left_out({"grad_norm": 3.1}, "general", 9) == expected
    assert not watch.left_out({"grad_norm": 3.0}, "general", 9)


def test_a_spike_stops_the_run_on_demand():
    watch = guards.Watch(replace(LIMITS, on_spike="stop"), [an_update(1.0)] * 2)
    with pytest.raises(FloatingPointError, match="step 9, branch general: grad_norm is 31, 31 times the median"):
        watch.left_out({"grad_norm": 31.0}, "general", 9)


# Figures that are watched


def a_row(step, branch="general", w_kept=1.0, **figures):
    own = {"eos_rate": 0.5, "entropy": 1.0, "response_tokens": 80, "batch": 8} | figures
    return {"step": step, "branch": branch, "w_kept": w_kept, **own, "branches": {branch: own}}


@pytest.mark.parametrize(
    ("limit", "good", "bad", "words"),
    [
        ({"w_kept": 0.9}, {"w_kept": 0.8}, {"w_kept": 0.79}, "w_kept: 89.5% of the tokens"),  # 1 and 0.79: 0.895
        ({"eos_rate": 0.3}, {"eos_rate": 0.1}, {"eos_rate": 0.09}, "eos_rate: 29.5% of the responses"),
        # The branch's first two steps have 10 tokens a response, the last two 10 and the step's.
        (
            {"length_ratio": (0.7, 2.0)},
            {"response_tokens": 32},
            {"response_tokens": 31},
            "length: a response has 7 tok",
        ),
        ({"length_ratio": (0.7, 2.0)}, {"response_tokens": 240}, {"response_tokens": 242}, "length: a response has 20"),
        ({"entropy": 4.0}, {"entropy": 7.0}, {"entropy": 7.1}, "entropy: the entropy is 4.05 nats"),
        (
            {"entropy_left": 0.6},
            {"entropy": 0.2},
            {"entropy": 0.19},
            "entropy: the entropy is 0.59 nats a token, 59.5%",
        ),
    ],
)
def test_a_figure_is_the_mean_of_the_last_steps_of_its_branch(limit, good, bad, words):
    other = a_row(0, "domain", w_kept=0.0, eos_rate=0.0, entropy=50.0, response_tokens=1)
    rows, limits = [a_row(1), a_row(2), a_row(3), other], replace(LIMITS, **limit)
    assert guards.warnings(a_row(5, **good), rows, limits) == {}
    ((name, said),) = guards.warnings(a_row(5, **bad), rows, limits).items()
    assert f"{name}: {said}".startswith(f"general/{words}")
    assert guards.warnings(a_row(5, **bad), [other], limits) == {}  # the first step of its branch


def test_a_step_on_two_branches_has_warnings_of_each_and_of_both():
    def row(w_kept, general, domain):
        parts = {"general": general, "domain": domain}
        parts = {name: {"eos_rate": rate, "response_tokens": 8, "batch": 4} for name, rate in parts.items()}
        return {"step": 1, "branch": "general+domain", "w_kept": w_kept, "eos_rate": 0.0, "branches": parts}

    limits = replace(LIMITS, steps=1, w_kept=0.9, eos_rate=0.3)
    assert list(guards.warnings(row(0.5, 0.2, 0.4), [], limits)) == ["general/eos_rate", "general+domain/w_kept"]
    assert list(guards.warnings(row(1.0, 0.4, 0.2), [], limits)) == ["domain/eos_rate"]


def test_given_answers_are_not_judged_as_if_they_were_sampled():
    rows = [{"step": i, "branch": "sft", "response_tokens": 10 * 50**i, "batch": 1} for i in range(4)]
    assert guards.warnings(rows[3], rows[:3], replace(LIMITS, length_ratio=(0.9, 1.1))) == {}


def test_a_warning_is_said_when_it_begins_and_again_when_it_comes_back():
    watch = guards.Watch(replace(LIMITS, steps=1, w_kept=0.9), [])
    kept = [("general", 0.5), ("domain", 1.0), ("general", 0.6), ("domain", 0.2), ("general", 1.0), ("general", 0.7)]
    said = [watch.warn(a_row(i, branch, w_kept=x)) for i, (branch, x) in enumerate(kept)]
    assert [len(lines) for lines in said] == [1, 0, 0, 1, 0, 1]
    assert said[0][0].startswith("warning at step 0, branch general: 50.0% of the tokens that train have an importance")
    assert said[0][0].endswith(guards.MEANS["w_kept"])


def test_the_warnings_of_a_run_by_the_steps_of_their_branch():
    named = {
        2: ["general/length"],
        3: ["general/length"],
        4: ["domain/loss"],
        5: ["general/length"],
        7: ["general/loss"],
    }
    rows = [a_row(i, "domain" if i in (4, 8) else "general") | {"warnings": named.get(i, [])} for i in range(1, 9)]
    del rows[0]["warnings"]  # of an older version
    found = guards.summary([*rows, a_row(9) | {"warnings": ["general/length"]}])
    assert [(w["branch"], w["name"], w["steps"]) for w in found] == [
        ("general", "length", "2 to 5, 9"), ("domain", "loss", "4"), ("general", "loss", "7"),
    ]  # fmt: skip
    assert found[0]["means"] == guards.MEANS["length"]
    assert guards.summary_lines(rows)[1] == f"warning: loss of domain at step 4. {guards.MEANS['loss']}"
    assert guards.summary_lines([a_row(1) | {"warnings": []}]) == []


# Which tensors and samples


def test_tensors_and_layers_are_named():
    params = jax.tree.map(np.zeros_like, random_weights(0))
    layers = len(params["layers"]["q"])
    assert layers == 2 and finite.where(finite_parts(params)) == ""
    params["layers"]["q"][1, 0, 0] = np.nan
    params["layers"]["down"][:, 0] = np.inf
    params["embed"][3, 1] = -np.inf
    assert finite.where(finite_parts(params)) == "embed, layers 0 to 1 of down, layer 1 of q"
    good = {"layers": {"q": np.arange(30) < 12}, "embed": np.array(True)}
    assert finite.where(good) == "layers 12 to 29 of q"
    spoiled = jax.tree.map(lambda x: np.full_like(x, np.nan), params)
    assert finite.where(finite_parts(spoiled)) == "every tensor"


def test_the_moments_are_named_and_a_state_with_one_that_is_not_finite_is_none():
    state = a_steps().init(jax.tree.map(jax.numpy.array, random_weights(0)), jax.random.key(0))
    assert a_steps().finite(state)
    nu = state.opt_state[1].nu
    nu["layers"]["q"] = nu["layers"]["q"].at[1, 0, 0].set(np.inf)
    assert not a_steps().finite(state)
    assert finite.where(jax.device_get(a_steps().finite_parts(state.opt_state))) == "layer 1 of nu of q"


def test_the_first_micro_batch_that_is_not_finite_is_named_with_its_prompts():
    good, bad = {"embed": np.array(True), "q": np.array(True)}, {"embed": np.array(False), "q": np.array(True)}
    samples = [["a"], ["b", "c"], ["d"]]
    said = finite.blame([1.0, 2.0, 3.0], [good, bad, bad].__getitem__, samples)
    assert said == "in micro-batch 2 of 3, with loss 2, the gradient is not finite in embed; its prompts: b, c"
    assert "in micro-batch 3 of 3, with loss nan" in finite.blame([1.0, 2.0, math.nan], lambda i: good, samples)
    assert "their sum is too large" in finite.blame([1.0, 2.0, 3.0], lambda i: good, samples)
    assert finite.listed([str(i) for i in range(20)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 12 more"


def test_the_rows_of_each_micro_batch_are_those_that_are_packed():
    rollout, which = a_rollout(), [4, 0, 3, 1]
    shape = packing.PackShape(2, 9, 5)
    packed = packing.pack(rollout, which, shape)
    inside = [{int(b) for b in np.unique(rows) if b >= 0} for rows in packed.row_MRS]
    assert len(inside) > 1 and [set(m) for m in packing.members(rollout, which, shape)] == inside


# Through the loop: supervised steps of the tiny model


def finite_parts(tree):
    return jax.device_get(a_steps().finite_parts(tree))


@functools.cache
def a_steps():
    optimizer = steps_of.make_optimizer(
        name="adamw", learning_rate=1e-3, warmup_steps=0, decay_steps=20, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0,
        clip_norm=1e9,
    )  # fmt: skip
    engine = an_engine()
    return steps_of.build_steps(
        engine.scorer(1.0, "none"), engine.shapes, mesh(), decoder.AXES, sft.objective, optimizer, {}
    )


PROMPTS = [np.arange(1, 4 + i % 3, dtype=np.int32) * (i + 1) % 500 for i in range(12)]
ANSWERS = [np.arange(2, 5 + i % 2, dtype=np.int32) * (i + 2) % 500 for i in range(12)]
IDS = [f"example-{i}" for i in range(12)]
COLLECT = sft.collector(PROMPTS, ANSWERS, IDS, batch_size=4, seed=0, shape=SHAPE, pad_id=2)


def go(workdir, *, limits=guards.OFF, spoil=lambda step, experience: experience, evaluate=None, steps=None, start=None):
    """Six steps with a checkpoint after each second one; the state at the end, as NumPy arrays."""
    system = System(
        lambda state, step: spoil(step + 1, COLLECT(state, step)), evaluate or (lambda params, step: []), None
    )
    plan = loop.Plan("test", 6, 3 if evaluate else 0, 2, limits=limits)
    with Checkpoints(workdir / "checkpoints", keep_last=9, keep_best=0, best_metric="") as checkpoints:
        state = loop.run(
            system, steps or a_steps(), plan, workdir, checkpoints,
            lambda: jax.tree.map(jax.numpy.array, start or random_weights(0)), jax.random.key(0),
        )  # fmt: skip
    return jax.device_get((state.params, state.opt_state, state.step))


def kept(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def rows_of(workdir):
    timing = {"seconds", "seconds_update", "tokens_per_second", "compilations"}
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in timing} for line in lines]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def scaled(at, factor):
    """Spoil a step: the weights of its last micro-batch times a factor."""

    def spoil(step, experience):
        if step != at:
            return experience
        *first, last = experience.updates
        with np.errstate(invalid="ignore"):  # 0 times inf
            weight_RS = last.weight_RS * np.float32(factor)
        return replace(experience, updates=[*first, last.replace(weight_RS=weight_RS)])

    return spoil


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, go(workdir)


def test_limits_that_nothing_crosses_change_nothing(undisturbed, tmp_path):
    same(go(tmp_path, limits=replace(LIMITS, spike_factor=50.0, on_spike="skip", steps=1)), undisturbed[1])
    assert rows_of(tmp_path) == rows_of(undisturbed[0])
    assert [row["warnings"] for row in rows_of(tmp_path)] == [[]] * 6


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_stops_before_the_update_and_names_step_tensors_and_samples(
    undisturbed, tmp_path, factor
):
    micros = COLLECT(None, 3).samples
    assert len(micros) > 1
    with pytest.raises(FloatingPointError) as caught:
        go(tmp_path, spoil=scaled(4, factor))
    said = f"in micro-batch {len(micros)} of {len(micros)}, with loss"
    assert str(caught.value).startswith("step 4, branch sft: loss ") and said in str(caught.value)
    assert str(caught.value).endswith(f"not finite in every tensor; its prompts: {', '.join(micros[-1])}")
    assert kept(tmp_path) == [2] and len(rows_of(tmp_path)) == 3
    same(go(tmp_path), undisturbed[1])  # with data that are well again the run goes on as if nothing had been
    assert rows_of(tmp_path) == rows_of(undisturbed[0])


def test_a_gradient_that_is_not_finite_in_one_layer_is_named(tmp_path):
    def micro(params, grads, update, frozen):
        grads, sums = a_steps().micro(params, grads, update, frozen)
        q = grads["layers"]["q"]
        return grads | {"layers": grads["layers"] | {"q": q.at[1, 0, 0].set(np.inf)}}, sums

    with pytest.raises(FloatingPointError, match=r"step 1, branch sft: .* gradient norm inf: in micro-batch 1 of .* "
                       r"not finite in layer 1 of q; its prompts: example-\d+"):  # fmt: skip
        go(tmp_path, steps=replace(a_steps(), micro=micro))


def test_parameters_that_are_not_finite_after_an_update_are_never_saved(tmp_path):
    def apply(state, grads):
        at = int(state.step)
        state = a_steps().apply(state, grads)
        if at < 3:
            return state
        q = state.params["layers"]["q"]
        return state.replace(params=state.params | {"layers": state.params["layers"] | {"q": q.at[0].set(np.nan)}})

    with pytest.raises(FloatingPointError, match=r"step 4, branch sft: after the update not finite: layer 0 of q$"):
        go(tmp_path, steps=replace(a_steps(), apply=apply))
    assert kept(tmp_path) == [2]


def test_weights_that_are_not_finite_are_named(tmp_path):
    start = random_weights(0)
    start["layers"]["up"][1, 2, 3] = np.nan
    with pytest.raises(FloatingPointError, match=r"step 1, .*; not finite in the parameters: layer 1 of up$"):
        go(tmp_path, start=start)
    assert not kept(tmp_path)


def test_scores_that_are_not_finite_are_told_with_the_parameters(tmp_path):
    def spoil(step, experience):
        raise FloatingPointError("step 1, branch general: the score of prompt p3 is nan")

    with pytest.raises(FloatingPointError, match=r"the score of prompt p3 is nan$"):
        go(tmp_path, spoil=spoil)
    start = random_weights(0)
    start["embed"][0, 0] = np.inf
    with pytest.raises(FloatingPointError, match=r"p3 is nan; not finite in the parameters: embed$"):
        go(tmp_path, spoil=spoil, start=start)


def test_an_evaluation_that_is_not_finite_is_not_written_down(tmp_path):
    def evaluate(params, step):
        row = {"step": step, "model": "student", "task": "general", "metric": "short_reverse_kl", "stderr": 0.1, "n": 2}
        return [row | {"value": math.nan if step == 3 else 1.0}]

    with pytest.raises(FloatingPointError, match="step 3, evaluation: short_reverse_kl of general is nan"):
        go(tmp_path, evaluate=evaluate)
    assert len((tmp_path / "eval.jsonl").read_text().splitlines()) == 1 and kept(tmp_path) == [2]


SPIKY = replace(LIMITS, spiking=("grad_norm", "loss"), spike_factor=20.0, on_spike="skip")


def test_a_spike_that_is_left_out_is_a_step_without_updates_bit_for_bit(undisturbed, tmp_path, capsys):
    state = go(tmp_path / "spike", limits=SPIKY, spoil=scaled(4, 1e4))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]

    def without(step, experience):
        return replace(experience, updates=[]) if step == 4 else experience

    same(state, go(tmp_path / "none", spoil=without))
    assert int(state[2]) == 6 and not np.array_equal(state[0]["embed"], undisturbed[1][0]["embed"])
    row = rows_of(tmp_path / "spike")[3]
    assert (row["skipped"], row["trained_tokens"]) == (1, 0) and row["grad_norm"] > 100
    assert row["warnings"] == ["sft/grad_norm", "sft/loss"]
    assert [line.split(" is ")[0] for line in lines] == [f"warning at step 4, branch sft: {n}" for n in SPIKY.spiking]
    assert all(line.partition(".")[0] and "so this update is left out. " in line for line in lines)


def test_a_run_that_goes_on_skips_and_warns_like_one_that_was_not_stopped(tmp_path, capsys):
    """The median at step 4 needs the rows before the checkpoint at step 2; what was said before is not said again."""
    limits = replace(SPIKY, spike_after=3, spike_window=3)
    spoil, state = scaled(4, 1e4), None
    state = go(tmp_path / "whole", limits=limits, spoil=spoil)
    said = capsys.readouterr().out.count("warning at step")
    for last in (3, 5):

        def stopped(step, experience, last=last):
            if step > last:
                raise KeyboardInterrupt
            return spoil(step, experience)

        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / str(last), limits=limits, spoil=stopped)
        same(go(tmp_path / str(last), limits=limits, spoil=spoil), state)
        assert rows_of(tmp_path / str(last)) == rows_of(tmp_path / "whole")
        assert capsys.readouterr().out.count("warning at step") == said == 2


def test_a_run_that_a_spike_stopped_can_go_on_without_it(tmp_path):
    assert "guard." in workdirs.MAY_CHANGE  # of a run that goes on
    spoil = scaled(4, 1e4)
    with pytest.raises(FloatingPointError, match=r"step 4, branch sft: grad_norm is .* and guard.on_spike is 'stop'"):
        go(tmp_path / "stopped", limits=replace(SPIKY, on_spike="stop"), spoil=spoil)
    assert kept(tmp_path / "stopped") == [2, 3]  # all the steps before it are kept
    same(go(tmp_path / "stopped", limits=SPIKY, spoil=spoil), go(tmp_path / "skipped", limits=SPIKY, spoil=spoil))


# Stalls


def test_a_stalled_step_leaves_its_stacks_and_the_run_goes_on(undisturbed, tmp_path, capfd):
    def a_host_that_does_not_answer(step, experience):
        time.sleep(1.2 if step == 5 else 0)
        return experience

    state = go(tmp_path, limits=replace(guards.OFF, stall_seconds=0.6), spoil=a_host_that_does_not_answer)
    same(state, undisturbed[1])
    text = (tmp_path / "stalled-0.txt").read_text()
    assert "a_host_that_does_not_answer" in text and "in run" in text
    assert (
        f"step 5 takes longer than 0.6 s; where it stands is in {tmp_path / 'stalled-0.txt'}" in capfd.readouterr().err
    )
    assert not (undisturbed[0] / "stalled-0.txt").exists()


def test_without_a_stall_there_is_no_file(tmp_path, capfd):
    with guards.watchdog(tmp_path, 1.0, "one") as now:
        for _ in range(4):
            time.sleep(0.3)
            now("another")
    time.sleep(1.0)
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err == ""


def test_nor_is_there_one_where_a_fault_ends_the_run(tmp_path):
    with pytest.raises(FloatingPointError), guards.watchdog(tmp_path, 9.0, "one"):
        raise FloatingPointError
    assert list(tmp_path.iterdir()) == []


def test_history_is_what_a_restored_step_has_seen(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert guards.history(path, 3) == []
    path.write_text("".join(json.dumps(a_row(i, entropy=0.1 + i / 3)) + "\n" for i in range(1, 6)) + '{"step": 6, "br')
    assert guards.history(path, 3) == [a_row(i, entropy=0.1 + i / 3) for i in range(1, 4)]


def test_ids_of_experience_are_those_of_its_updates():
    experience = COLLECT(None, 0)
    assert isinstance(experience, Experience) and len(experience.samples) == len(experience.updates)
    assert sorted(i for ids in experience.samples for i in ids) == sorted(
        {i for ids in experience.samples for i in ids}
    )
    assert {i for ids in experience.samples for i in ids} <= set(IDS)
