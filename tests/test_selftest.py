"""The self-tests of a start on the tiny model: passed for methods and losses of all kinds, failed by what is broken."""

import gc
import runpy
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camopd_jax import agreement, inputs, judged, losses, scoring, selftest, stops, student
from camopd_jax.camopd import methods
from camopd_jax.camopd import system as camopd
from camopd_jax.engine import Engine
from camopd_jax.models import weights

CONFIG = Path(__file__).parents[1] / "configs" / "medical.py"
HALF = {"precision": "bfloat16"}
MESH = {"mesh__replica": 2, "mesh__fsdp": 2, "mesh__tensor": 2}
ADAPTER = {"lora__rank": 4}


def read(preset="tiny", **changes):
    """The inputs of a run on few prompts; __ stands for a dot."""
    config = runpy.run_path(str(CONFIG))["get_config"](preset)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return inputs.read(config)


def judged_of(read):
    found = selftest.figures(read)
    return found, judged.judge(found, read.config.precision, read.config.rollout.temperature)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"camopd__loss": "full", **MESH, **ADAPTER, **HALF},
        {"preset": "three", "camopd__loss": "top_k", **HALF, "rollout__temperature": 0.5},
        {"camopd__method": "selectkd", **ADAPTER, **MESH},
        {"camopd__method": "off_policy_kd", **HALF, **MESH, "rollout__temperature": 0.5},
    ],
    ids=lambda changes: ",".join(f"{k.split('__')[-1]}={v}" for k, v in changes.items()) or "tiny",
)
def test_every_kind_of_run_passes_and_leaves_nothing_on_the_devices(changes, monkeypatch):
    inputs_, placed, place = read(**changes), [], weights.place
    monkeypatch.setattr(weights, "place", lambda *a: placed.append(a) or place(*a))
    gc.collect()
    before = {id(x) for x in jax.live_arrays()}
    found, lines = judged_of(inputs_)
    large = [x for x in jax.live_arrays() if id(x) not in before and x.size > 100]
    others = ["second"] if "preset" in changes else []
    assert not large and len(placed) == 1 + len(others), "beside the student there is the other teacher's norm alone"
    without = 1 if found["still"] is None else "trained" not in found
    assert len(lines) == 9 - without + len(others) and list(found["teachers"]) == others
    assert not [line for line in lines if line.startswith("warning: ")]
    assert all(abs(gap) > 1e-3 for gap in found["teachers"].values())
    visited = ["general+domain"] if "camopd__method" in changes else ["general", "domain", *others]
    assert list(found["moved"]) == visited and min(found["moved"].values()) > 0
    assert found["gap"] < 1e-6 if found["still"] is not None else found["still"] is None
    assert found["ends"]["ends"] == found["ends"]["padded"] == found["ends"]["responses"] >= 2
    assert found["scored"]["tokens"] > 8


AGREES = {"tokens": 40, "mean": 1e-5, "most": 2e-5, "warmer": -0.002}
GOOD = {
    "gap": 0.0,
    "still": 0.0,
    "follows": 1e-7,
    "moved": {"general": 2.0, "domain": 1.0},
    "asked": 0.0,
    "scored": AGREES,
    "trained": AGREES | {"warmer": None},
    "stopped": {"responses": 4, "ended": 3, "right": 4},
    "ends": {"responses": 2, "ends": 2, "padded": 2, "slots": 9, "tokens": 9},
    "teachers": {"second": -0.25},
}
REJECTED = "warning: whether a teacher moves the student is not known: all sampled tokens are rejected"


def test_the_figures_are_said_by_hand():
    gives = "gives the 40 sampled tokens the sampler's log-probabilities, but for 1e-05 nats on average and 2e-05 at "
    gives += "most (allowed 0.001 and 0.01); the temperature"
    assert judged.judge(GOOD, "float32", 1.0) == [
        "with the student as its own teacher: the two differ by 0 nats at any token (allowed 0.0001)",
        "with a teacher that is surer or less sure: a gradient of 2 on general, 1 on domain (must be above 0)",
        "with the student as its own teacher: 0 of that gradient is left (allowed 0.001)",
        "with what that teacher says halved and turned round: so is the gradient, but for 1e-07 of it (allowed 0.001)",
        "each branch is compared with its own teacher, but for 0 of the difference (allowed 0.1)",
        f"scoring {gives} fits to 0.002 of it (allowed 0.01)",
        f"training {gives} cannot be told, as all tokens are about as likely",
        "the sampler stops at a stop token, which belongs to the response: 4 of 4 responses, 3 of them ended so",
        "the token that ends a response trains: in 2 of 2 responses, and in 2 whose padding is that token; 9 of 9 "
        "tokens train",
        "second teacher: mean gap to the student -0.25 nats a token",
    ]


def test_what_could_not_be_tested_is_a_warning():
    lines = judged.judge(GOOD | {"moved": {"general": None, "domain": 1.0}}, "float32", 1.0)
    assert lines[1] == "with a teacher that is surer or less sure: a gradient of 1 on domain (must be above 0)"
    lines = judged.judge(GOOD | {"moved": {"general": None}}, "float32", 1.0)
    assert lines[1] == REJECTED and len(lines) == 8, "no gradient to compare with"
    lines = judged.judge(GOOD | {"stopped": {"responses": 4, "ended": 0, "right": 4}}, "float32", 1.0)
    assert "warning: whether the sampler stops at a stop token is not known: none came" in lines


@pytest.mark.parametrize(
    "broken, says",
    [
        ({"gap": 1.1e-4}, "student and teacher are not scored alike"),
        ({"gap": float("nan")}, "student and teacher are not scored alike"),
        ({"moved": {"general": 1.0, "domain": 0.0}}, "does not reach the student"),
        ({"moved": {"general": float("inf")}}, "does not reach the student"),
        ({"still": 1.1e-3}, "moves a student that agrees"),
        ({"follows": 1.1e-3}, "does not learn what the teacher says"),
        ({"asked": 0.11}, "learns from the teacher of another"),
        ({"scored": AGREES | {"mean": 1.1e-3}}, "importance weights would be wrong"),
        ({"scored": AGREES | {"most": 0.011}}, "importance weights would be wrong"),
        ({"trained": AGREES | {"most": 0.011}}, "importance weights would be wrong"),
        ({"trained": AGREES | {"warmer": -0.06}}, "importance weights would be wrong"),
        ({"scored": AGREES | {"warmer": float("nan")}}, "importance weights would be wrong"),
        ({"stopped": {"responses": 4, "ended": 0, "right": 3}}, "responses have no end"),
        ({"ends": GOOD["ends"] | {"ends": 1}}, "would not learn to stop"),
        ({"ends": GOOD["ends"] | {"padded": 1}}, "would not learn to stop"),
        ({"ends": GOOD["ends"] | {"slots": 10}}, "would not learn to stop"),
        ({"teachers": {"second": float("nan")}}, "second teacher: mean gap to the student nan"),
    ],
)
def test_each_figure_can_fail(broken, says):
    with pytest.raises(ValueError, match=r"^self-test failed, on 8 x cpu in float32: ") as error:
        judged.judge(GOOD | broken, "float32", 1.0)
    assert says in str(error.value) and "\n" not in str(error.value)
    if "1.1e-3" in str(broken) or "0.011" in str(broken):
        judged.judge(GOOD | broken, "bfloat16", 1.0)
        judged.judge(GOOD | broken, "float32", 0.5)  # logits are twice as large, and so is what rounding does


def test_the_temperature_that_fits_by_hand():
    sampled, slopes = np.array([[-1.0, -2.0, 0.0]]), np.array([[2.0, -1.0, 0.0]])
    found = agreement.figures([sampled + 0.1 * slopes, sampled], [sampled, sampled], [slopes, 0 * slopes])
    # least squares: (0.2 x 2 + 0.1 x 1) / (4 + 1) = 0.1
    assert found == {
        "tokens": 4,
        "mean": pytest.approx(0.075),
        "most": pytest.approx(0.2),
        "warmer": pytest.approx(0.1),
    }
    assert agreement.figures([sampled + 0.1], [sampled], [slopes / 40])["warmer"] is None, "flat"
    np.testing.assert_allclose(agreement.slope(np.log([0.5]), np.log([0.25])), 1.0)


def rejected(here, says):
    with pytest.raises(ValueError, match=says):
        judged.judge(selftest.figures(here), here.config.precision, here.config.rollout.temperature)


def scoring_at_1(patched):
    score = scoring.score
    patched.setattr("camopd_jax.engine.scoring.score", lambda *a, **how: score(*a, **how | {"temperature": 1.0}))


def training_at_1(patched):
    build = student.steps_of
    patched.setattr(student, "steps_of", lambda *a: build(*a[:4], 1.0, *a[5:]))


def no_ends_in_the_mask(patched):
    sample = Engine.sample

    def without(engine, *a, **how):
        rollout = sample(engine, *a, **how)
        response_BT = rollout.tokens_BL[:, rollout.prompt_mask_BP.shape[1] :]
        mask_BT = rollout.response_mask_BT & ~np.isin(response_BT, engine.stop_ids)
        return rollout.replace(response_mask_BT=mask_BT, sampler_logp_BT=rollout.sampler_logp_BT * mask_BT)

    patched.setattr(Engine, "sample", without)


def no_teacher_in_the_loss(patched):
    loss = losses.policy_token_loss
    patched.setattr(losses, "policy_token_loss", lambda p, q, credit, band: loss(p, q, jnp.ones_like(credit), band))


def sign_alone(patched):
    loss = losses.policy_token_loss
    patched.setattr(losses, "policy_token_loss", lambda p, q, credit, band: loss(p, q, jnp.sign(credit), band))


def general_asked_always(patched):
    score = selftest._ScaledTeachers.score
    patched.setattr(selftest._ScaledTeachers, "score", lambda self, name, rollout: score(self, "general", rollout))


FAULTS = (
    (no_teacher_in_the_loss, "moves a student that agrees", {}),
    (sign_alone, "does not learn what the teacher says", {}),
    (general_asked_always, "learns from the teacher of another", HALF),
    (scoring_at_1, "importance weights would be wrong", {"rollout__temperature": 0.9} | HALF),
    (training_at_1, "training gives .* importance weights", {"rollout__temperature": 0.5} | HALF),
    (no_ends_in_the_mask, "responses have no end", {}),
)


@pytest.mark.parametrize("fault, says, changes", FAULTS, ids=[fault.__name__ for fault, *_ in FAULTS])
def test_a_fault_is_seen(fault, says, changes, monkeypatch):
    here = read(**changes)
    fault(monkeypatch)
    rejected(here, says)


def test_a_teacher_without_effect_and_ends_that_do_not_train_are_seen(monkeypatch):
    here = read()
    monkeypatch.setattr(selftest, "SCALES", (1.0, 1.0))
    make = camopd.make_updates

    def without_ends(rollout, credit_BT, *rest):
        return [
            u.replace(weight_RS=np.where(u.packed.source_RS == u.packed.source_RS.max(), 0, u.weight_RS))
            for u in make(rollout, credit_BT, *rest)
        ]

    monkeypatch.setattr(camopd, "make_updates", without_ends)
    monkeypatch.setattr(stops.camopd, "make_updates", without_ends)
    found = selftest.figures(here)
    assert set(found["moved"].values()) == {0.0}
    assert found["ends"]["ends"] == found["ends"]["padded"] < found["ends"]["responses"]


def test_weights_that_cannot_be_computed_with_are_said_in_one_line():
    here = read()
    base = here.models["general"]

    def none(name, layer, index):
        return np.asarray(base.read(name, layer, index)) * np.float32("nan" if name == "norm" else 1)

    with pytest.raises(ValueError, match=r"self-test: .*the weights of random:llama cannot be computed with"):
        selftest.figures(replace(here, models={"general": replace(base, read=none)}))


@pytest.mark.parametrize(
    "method, cycle, shards, batch, steps",
    [
        ("camopd", "ggdg", 1, 2, [0, 2]),
        ("camopd", "ggdg", 8, 8, [0, 2]),
        ("camopd", "dd", 3, 3, [0]),
        ("vanilla_mopd", "gd", 1, 4, [0]),  # two of each branch
        ("vanilla_mopd", "gd", 4, 8, [0]),
        ("mix", "gggd", 1, 8, [0]),  # 6 and 2
        ("general_only", "gd", 1, 2, [0]),
    ],
)
def test_the_fewest_prompts_and_steps_by_hand(method, cycle, shards, batch, steps):
    c = runpy.run_path(str(CONFIG))["get_config"]("tiny").camopd.unlock()
    c.method, c.cycle = method, tuple({"g": "general", "d": "domain"}[name] for name in cycle)
    assert method in methods.METHODS
    assert selftest.batch_of(c, shards) == batch
    assert list(selftest.visits(c, batch)) == steps


def test_the_examples_of_a_specialisation_end():
    here = read()
    assert stops.of_examples(here) == "specialise: 4 ends in the loss of the first 4 answers"
    cut = replace(here, examples=replace(here.examples, answers=[a[:-1] for a in here.examples.answers]))
    with pytest.raises(ValueError, match="specialise: 0 ends in the loss of the first 4"):
        stops.of_examples(cut)
