"""The self-tests of a start on the tiny model: passed for methods and losses of all kinds, failed by what is broken."""

import gc
import runpy
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from camopd_jax import inputs, scoring, selftest, stops
from camopd_jax.camopd import methods
from camopd_jax.camopd import system as camopd
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


def judged(read):
    found = selftest.figures(read)
    return found, selftest.judge(found, read.config.precision, read.config.rollout.temperature)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"camopd__loss": "full", **MESH, **ADAPTER, **HALF},
        {"preset": "three", "camopd__loss": "top_k", **HALF, "rollout__temperature": 0.5},
        {"camopd__method": "selectkd", **ADAPTER, **MESH},
        {"camopd__method": "off_policy_kd", **HALF, **MESH},
    ],
    ids=lambda changes: ",".join(f"{k.split('__')[-1]}={v}" for k, v in changes.items()) or "tiny",
)
def test_every_kind_of_run_passes_and_leaves_nothing_on_the_devices(changes, monkeypatch):
    inputs_, placed, place = read(**changes), [], weights.place
    monkeypatch.setattr(weights, "place", lambda *a: placed.append(a) or place(*a))
    gc.collect()
    before = {id(x) for x in jax.live_arrays()}
    found, lines = judged(inputs_)
    large = [x for x in jax.live_arrays() if id(x) not in before and x.size > 100]
    others = ["second"] if "preset" in changes else []
    assert not large and len(placed) == 1 + len(others), "beside the student there is the other teacher's norm alone"
    assert len(lines) == 5 + len(others) and list(found["teachers"]) == others
    assert all(abs(gap) > 1e-3 for gap in found["teachers"].values())
    visited = ["general+domain"] if "camopd__method" in changes else ["general", "domain", *others]
    assert list(found["moved"]) == visited and min(found["moved"].values()) > 0
    assert found["gap"] < 1e-6 if found["still"] is not None else found["still"] is None
    assert found["ends"]["ends"] == found["ends"]["padded"] == found["ends"]["responses"] >= 2
    assert found["tokens"] > 8


GOOD = {
    "gap": 0.0,
    "still": 0.0,
    "moved": {"general": 2.0, "domain": 1.0},
    "sampled": 2e-5,
    "off": 4e-4,
    "tokens": 40,
    "ends": {"responses": 2, "ends": 2, "padded": 2, "slots": 9, "tokens": 9},
    "teachers": {"second": -0.25},
}


def test_the_figures_are_said_by_hand():
    assert selftest.judge(GOOD, "float32", 1.0) == [
        "a teacher that is the student: gap 0 nats (allowed 0.0001), gradient 0",
        "a teacher that is surer, or less sure: gradient 2 on general, 1 on domain",
        "of it, where the teacher is the student: 0 (allowed 0.001)",
        "sampler against scores: 1e-05 nats a token, 2e-05 at most, over 40 tokens (allowed 0.001 and 0.01)",
        "the token that ends a response: in the loss of 2 of 2, and of 2 padded with that token; 9 of 9 tokens train",
        "second teacher: mean gap -0.25 nats a token",
    ]


def test_a_branch_whose_tokens_are_all_rejected_has_no_gradient_to_judge():
    lines = selftest.judge(GOOD | {"moved": {"general": None, "domain": 1.0}}, "float32", 1.0)
    assert lines[1] == "a teacher that is surer, or less sure: gradient 1 on domain"
    lines = selftest.judge(GOOD | {"moved": {"general": None}}, "float32", 1.0)
    assert lines[1:3] == [
        "a teacher that is surer, or less sure: gradient none, all tokens are rejected",
        "of it, where the teacher is the student: 0 (allowed 0.001)",
    ]


@pytest.mark.parametrize(
    "broken, says",
    [
        ({"gap": 1.1e-4}, "student and teacher are not scored alike"),
        ({"gap": float("nan")}, "student and teacher are not scored alike"),
        ({"moved": {"general": 1.0, "domain": 0.0}}, "does not reach the student"),
        ({"moved": {"general": float("inf")}}, "does not reach the student"),
        ({"still": 1.1e-3}, "moves a student that agrees"),
        ({"off": 0.041}, "importance weights would be wrong"),
        ({"sampled": 0.011}, "importance weights would be wrong"),
        ({"ends": GOOD["ends"] | {"ends": 1}}, "would not learn to stop"),
        ({"ends": GOOD["ends"] | {"padded": 1}}, "would not learn to stop"),
        ({"ends": GOOD["ends"] | {"slots": 10}}, "would not learn to stop"),
        ({"teachers": {"second": float("nan")}}, "second teacher: mean gap nan"),
    ],
)
def test_each_figure_can_fail(broken, says):
    with pytest.raises(ValueError, match=r"^self-test failed, on 8 x cpu in float32: ") as error:
        selftest.judge(GOOD | broken, "float32", 1.0)
    assert says in str(error.value) and "\n" not in str(error.value)
    if "off" in broken or "sampled" in broken:
        selftest.judge(GOOD | broken, "bfloat16", 1.0)
        selftest.judge(GOOD | broken, "float32", 0.5)  # logits are twice as large, and so is what rounding does


def test_what_is_broken_is_seen(monkeypatch):
    """The temperature of the scores, the teacher's weights, and the end of a response."""
    here = read(rollout__temperature=0.5)
    with monkeypatch.context() as patched:
        score = scoring.score
        patched.setattr("camopd_jax.engine.scoring.score", lambda *a, **how: score(*a, **how | {"temperature": 1.0}))
        found = selftest.figures(here)
        with pytest.raises(ValueError, match="sampler against scores"):
            selftest.judge(found, "float32", 0.5)
    monkeypatch.setattr(selftest, "SCALES", (1.0, 1.0))
    make = camopd.make_updates

    def without_ends(rollout, credit_BT, *rest):
        return [
            u.replace(weight_RS=np.where(u.packed.labels_RS == here.engine.stop_ids[0], 0, u.weight_RS))
            for u in make(rollout, credit_BT, *rest)
        ]

    monkeypatch.setattr(camopd, "make_updates", without_ends)
    found = selftest.figures(here)
    assert set(found["moved"].values()) == {0.0}
    assert found["ends"]["ends"] == found["ends"]["padded"] == 0 < found["ends"]["slots"] < found["ends"]["tokens"]


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
