"""A run at full size without a model: the stand-in's sampler beside the real one, and a run that is stopped."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from plain import SHAPE, mesh, random_weights

from camopd_jax import batching, footprint, packing, simulated, simulated_page, simulation
from camopd_jax.engine import Engine, Numerics
from camopd_jax.models.load import load
from camopd_jax.models.tiny import CONFIG as TINY

ROOT = Path(__file__).parent.parent
GET_CONFIG = runpy.run_path(str(ROOT / "configs" / "medical.py"))["get_config"]
NEVER = 100_000  # no token
STEPS, ROWS, WIDTH = 150, 5, 8
PROMPTS = [np.arange(1, 2 + n % WIDTH, dtype=np.int32) for n in (3, 7, 0, 5, 2, 6, 1, 4, 7, 3, 5, 0, 2)]
LIMITS = [90, 1, 150, 7, 33, 150, 2, 64, 65, 128, 5, 12, 40]


def watched(sampler):
    """Calls of a sampler's programs, in order: the name, and the column and the rows that are alive after it."""
    seen = []

    def note(name):
        real = getattr(sampler, name)

        def call(*args):
            result = real(*args)
            if name == "_decode":
                column, alive, count, *_ = (np.asarray(x).tolist() for x in result[1])
                seen.append((name, column, alive, count))
            else:
                seen.append((name, *([args[-1]] if name == "_widen" else [])))
            return result

        setattr(sampler, name, call)

    for name in ("_empty", "_prefill", "_insert", "_decode", "_widen"):
        note(name)
    return seen


def test_the_scripted_rows_are_decoded_as_those_of_the_real_sampler():
    model = load("random:llama")
    real = Engine(TINY, mesh(), model.tokenizer, (NEVER,), SHAPE, Numerics(1.0, 5, "float32", TINY.vocab_size))
    shape, key = batching.Shape(ROWS, WIDTH, STEPS, 1.0), jax.random.key(3)
    how = dict(width=WIDTH, batch=ROWS, max_new_tokens=STEPS, temperature=1.0, limits=LIMITS)
    params = jax.device_put(random_weights(0), real.params_at)
    real.sample(params, PROMPTS, key, **how)  # compiles
    expected = watched(real._sampler(shape))
    rollout = real.sample(params, PROMPTS, key, **how)

    scripted = simulated.ScriptedEngine(real, simulated.longest)
    found = watched(scripted._sampler(shape))
    ours = scripted.sample(scripted.parameters(0), PROMPTS, key, **how)
    assert found == expected
    assert sum(name == "_widen" for name, *_ in found) == 2
    np.testing.assert_array_equal(ours.response_mask_BT, rollout.response_mask_BT)
    assert ours.response_mask_BT.sum(axis=1).tolist() == LIMITS
    (drawn,) = scripted.drawn
    assert drawn.tokens == sum(LIMITS) - len(LIMITS)
    assert drawn.iterations == found[-1][1] - WIDTH
    assert drawn.reads == sum(name == "_prefill" for name, *_ in found)


def test_sampled_and_scored_log_probabilities_agree():
    model = load("random:llama")
    like = Engine(TINY, mesh(), model.tokenizer, model.stop_ids, SHAPE, Numerics(1.0, 5, "float32", TINY.vocab_size))
    engine = simulated.ScriptedEngine(like, simulated.heavy)
    params = engine.parameters(1)
    rollout = engine.sample(params, PROMPTS, jax.random.key(0), width=WIDTH, batch=4, max_new_tokens=8, temperature=1.0)
    scored = engine.score(params, rollout)
    assert engine.scored == len(packing.pack(rollout, range(len(PROMPTS)), engine.shape).batches)
    np.testing.assert_allclose(scored, rollout.sampler_logp_BT, atol=1e-6)
    assert 0 < engine.ended(rollout).mean() <= 1


def test_lengths_have_the_mean_and_the_tail_that_they_should():
    rng = np.random.default_rng(0)
    lengths = np.array([simulated.heavy(rng, 32768) for _ in range(20_000)])
    assert lengths.min() >= 1 and lengths.max() == 32768
    assert lengths.mean() / 32768 == pytest.approx(1 / 4, abs=0.01)
    assert (lengths == 32768).mean() == pytest.approx(1 / 16, abs=0.006)


def tiny(steps, **values):
    config = GET_CONFIG("tiny")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return simulation.adapted(config, steps)


def run(config, workdir, stops=()):
    return simulation.drive(simulation.Run(config, simulated.heavy, workdir, list(stops)))


def test_a_run_stopped_anywhere_leaves_what_the_undisturbed_one_leaves(tmp_path):
    config = tiny(6, checkpoint__every=3, eval__every=2, rollout__rows_at_once=3)
    one = run(config, tmp_path / "one")
    assert [step.number for step in one.steps] == [1, 2, 3, 4, 5, 6]
    # 2 is saved and 3 begins again; 4 is saved; of 6, which has 5 before it in the logs and not in a checkpoint, both
    # are made again
    stops = [2, 3, 4, 6]
    other = run(config, tmp_path / "other", stops)
    assert [step.number for step in other.steps] == [1, 2, 3, 4, 5, 5, 6]
    assert simulation.differences(one, other) == []
    assert "are the same" in "\n".join(simulated_page.compared(other, []))
    rows = (tmp_path / "other" / "metrics.jsonl").read_text().splitlines()
    rows[3:] = [rows[3].replace('"selected"', '"chosen"'), ""]
    (tmp_path / "other" / "metrics.jsonl").write_text("\n".join(rows))
    other.params = {"norm": np.zeros(simulated.CLASSES)}
    assert simulation.differences(one, other) == [
        "metrics.jsonl: 6 and 4 rows", "metrics.jsonl, row 4", "the parameters at the end"
    ]  # fmt: skip
    assert "NOT THE SAME" in "\n".join(simulated_page.compared(other, ["x"]))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "bin/simulate.py", *arguments], cwd=ROOT, text=True, capture_output=True, timeout=600
    )


def test_two_steps_of_the_paper_at_full_size(tmp_path):
    config = GET_CONFIG("paper")
    done = command("--config=configs/medical.py:paper", "--steps=2", "--devices=v5p-16", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any("512 prompts of up to 4096 tokens, responses up to 32768" in line for line in lines)
    mean = next(line.split() for line in lines if line.split()[:1] == ["mean"])
    iterations, occupied, held = int(mean[1].replace(",", "")), float(mean[2]), float(mean[-1])
    assert 32768 < iterations < 8 * 32768  # at least one response is as long, and rows are refilled
    assert 0.5 < occupied < 1
    assert held < 1.0 + footprint.record_bytes(config) / 1e9  # a gigabyte for the libraries
    rows = [json.loads(line) for line in (tmp_path / "out/undisturbed/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["batch"] == 512 and 0 < row["selected"] < 512
        assert row["w_kept"] == 1.0 and row["compilations"] < 40
        # every micro-batch but the last is fuller than half: no two of them go together
        assert row["trained_tokens"] / 36864 <= row["micro_steps"] <= 2 * (row["trained_tokens"] + 512 * 4096) / 36864


def test_all_the_longest_take_the_waves_of_the_plan(tmp_path):
    config = tiny(1, rollout__rows_at_once=4, rollout__batch_size=8)
    one = simulation.drive(simulation.Run(config, simulated.longest, tmp_path / "run"))
    (step,) = one.steps
    # two waves of eight tokens; the first token of each comes with its prompt
    assert step.drawn.iterations == 2 * (8 - 1)
    assert step.drawn.occupancy == 1.0 and step.ended == 0.0
