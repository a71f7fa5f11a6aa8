"""bench.py: floors worked by hand, lengths, shapes, the fitted line, and a tiny model end to end."""

import json

import jax
import numpy as np
import plain
import pytest

from camopd_jax.bench import batch, floors, meter, report, subject
from camopd_jax.bench import parts as bench_parts
from camopd_jax.bench import run as bench
from camopd_jax.bench.floors import Work
from camopd_jax.bench.limits import Machine, Rates, Sizes
from camopd_jax.bench.parts import Row
from camopd_jax.bench.setting import PARTS, Setting
from camopd_jax.models import decoder
from camopd_jax.models.decoder import DecoderConfig
from camopd_jax.models.tiny import CONFIG as TINY

SIZES = Sizes(square=64, chain=2, numbers=4096)
# A layer: q 2x4, k and v 2x2 each, o 4x2, and 3 x 2x3 = 42 weights; with the head 5x2 that is N = 52.
SMALL = DecoderConfig(
    vocab_size=5, width=2, mlp_width=3, layers=1, heads=2, kv_heads=1, head_dim=2, rope_theta=1e4, norm_eps=1e-5,
    tied_head=True, max_positions=64,
)  # fmt: skip


def setting(**changes):
    own = dict(
        model="random:llama", prompts=8, prompt_tokens=8, new_tokens=6, rows_at_once=8, precision="float32",
        mesh=(-1, 1, 1), lengths="fixed", selected=(1.0, 0.5), repeats=1, parts=PARTS, micro_tokens=64, micro_rows=0,
        width=0, slots=0, logit_chunk=0, remat="full", seed=0, out=None,
    )  # fmt: skip
    return Setting(**(own | changes))


@pytest.fixture(autouse=True)
def precision():
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


def test_operations_and_bytes_by_hand():
    # Attention: 4 x 1 layer x 2 heads x 2 = 16 operations a pair; keys and values: 2 x 1 x 1 x 2 = 4 numbers a token.
    assert floors.causal_pairs([3, 2]) == 6 + 3
    # Two prompts of 3 and 2: body 2 x 42 x 5, head 2 x 10 x 2, nine pairs; weights once, or twice row by row.
    assert floors.prefill(SMALL, [3, 2], 2, 4, 1) == Work(420 + 40 + 144, 208 + 5 * 16)
    assert floors.prefill(SMALL, [3, 2], 1, 2, 1) == Work(604, 2 * 104 + 5 * 8)
    # Responses of 3 and 1: two token steps of the first row, which attend to 4 and 5 positions.
    assert floors.decode(SMALL, [3, 2], [3, 1], 2, 4, 1) == Work(2 * 104 + 9 * 16, 2 * 208 + 9 * 16)
    # Six tokens to decode on at most two rows: three steps though the longest response has two; on two copies.
    pairs = 3 * (2 + 3)
    assert floors.decode(SMALL, [1] * 3, [3] * 3, 2, 4, 2) == Work(6 * 104 + pairs * 16, 3 * 2 * 208 + pairs * 16)
    assert floors.scoring(SMALL, [3], 2, 1) == Work(3 * 104 + 6 * 16, 104)
    assert floors.training(SMALL, [3], 1) == Work(3 * (3 * 104 + 6 * 16), 8 * 208)
    assert floors.unread_head(SMALL, 3) == 3 * 20


def test_a_floor_is_the_slower_of_computing_and_moving():
    assert Work(60.0, 10.0).seconds(20.0, 10.0) == 3.0 and Work(60.0, 10.0).bound(20.0, 10.0) == "compute"
    assert Work(60.0, 80.0).seconds(20.0, 10.0) == 8.0 and Work(60.0, 80.0).bound(20.0, 10.0) == "memory"


def test_a_record_by_hand():
    # Floors of 3 s (computing) and 8 s (moving) against a median of 22 s; of 7 operations nobody needs 20.
    row = Row("x", 44, [30.0, 22.0, 5.0], [Work(60.0, 10.0), Work(60.0, 80.0)], {"padding": 0.1, "flops_unneeded": 20})
    found = report.record(row, Rates(20.0, 10.0), Rates(40.0, 30.0))
    assert found["tokens_per_second"] == 2.0 and found["seconds"] == 22.0
    assert found["fraction_of_limit"] == 0.5 and found["bound"] == "memory"
    assert found["mfu"] == pytest.approx(120 / 22 / 40) and found["bandwidth_of_peak"] == pytest.approx(90 / 22 / 30)
    assert found["fraction_needed"] == pytest.approx(100 / 20 / 22)
    assert report.record(row, Rates(20.0, 10.0), None)["mfu"] is None


@pytest.mark.parametrize("count, longest", [(128, 64), (64, 1024), (33, 16)])
def test_heavy_lengths_have_a_quarter_of_the_longest_as_mean(count, longest):
    lengths = batch.heavy(count, longest, seed=3)
    assert lengths.mean() == pytest.approx(longest / 4, rel=0.05)
    assert lengths.min() >= 1 and lengths.max() == longest
    assert np.mean(lengths == longest) == pytest.approx(1 / 16, abs=0.04)
    assert np.median(lengths) < 0.6 * lengths.mean(), "no heavy tail"
    assert (lengths == batch.heavy(count, longest, seed=3)).all()
    assert (lengths != batch.heavy(count, longest, seed=4)).any()


@pytest.mark.parametrize("lengths", ["fixed", "heavy"])
@pytest.mark.parametrize("prompts, prompt_tokens, new_tokens", [(32, 64, 64), (48, 20, 90), (96, 7, 300)])
def test_micro_batches_have_under_a_tenth_of_padding(lengths, prompts, prompt_tokens, new_tokens):
    s = setting(prompts=prompts, prompt_tokens=prompt_tokens, new_tokens=new_tokens, lengths=lengths, micro_tokens=1024)
    rollout = batch.rollout(batch.prompts(s, 99), batch.responses(s), 99, 0)
    shape = batch.shape_of(s, rollout, plain.mesh())
    assert batch.padding(rollout, shape) < 0.1
    assert sum(u.packed.slot_mask_RS.sum() for u in batch.updates(rollout, prompts, shape)) == batch.responses(s).sum()
    if lengths == "fixed":
        assert shape.width == prompt_tokens + new_tokens and shape.rows * shape.width <= max(1024, shape.width)


def test_the_line_through_updates_of_fractions():
    """2 s whatever trains and 8 s for the whole batch: proportional; then a half that costs as much as all."""
    line = bench_parts.fit([0.25, 0.5, 1.0], [4.0, 6.0, 10.0], fixed=2.0)
    assert line == {
        "slope": pytest.approx(1.0), "slope_with_fixed": pytest.approx(0.8), "seconds_fixed": 2.0,
    }  # fmt: skip
    assert bench_parts.fit([0.5, 1.0], [10.0, 10.0], fixed=2.0)["slope"] == pytest.approx(0.0)


def test_calls_take_turns_and_the_first_time_does_not_count():
    order = []
    seconds = meter.interleaved(2, [lambda: order.append("a"), lambda: order.append("b")])
    assert order == ["a", "b"] * 3 and [len(x) for x in seconds] == [2, 2]


def test_rates_are_those_of_the_machine():
    rates = Machine("bfloat16", SIZES).rates()
    assert 1e6 < rates.flops < 1e15 and 1e6 < rates.bytes < 1e14
    assert Machine("float32", SIZES).peak() is None


@pytest.mark.parametrize("name", ["qwen3-1.7b", "smollm2-135m-instruct"])
def test_architectures_are_known_by_name(name):
    found = subject.find(f"random:{name}")
    assert found.vocab == found.cfg.vocab_size and found.fingerprint is None
    assert found.cfg.layers in (28, 30)


def test_random_weights_are_made_on_the_mesh_in_the_dtype():
    params = subject.random(plain.an_engine(), "bfloat16")
    shapes = decoder.split(TINY)[1]
    assert jax.tree.map(lambda p: p.shape, params) == jax.tree.map(lambda s: s.shape, shapes)
    assert {str(p.dtype) for p in jax.tree.leaves(params)} == {"bfloat16"}
    assert (params["norm"] == 1).all()
    assert float(np.std(np.asarray(params["layers"]["up"], np.float32))) == pytest.approx(0.02, rel=0.1)


def test_end_to_end(tmp_path, capsys):
    out = tmp_path / "speed" / "one.json"
    result = bench.run(setting(out=out, selected=(0.5, 1.0, 0.25)), SIZES)
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    assert {"date", "device", "devices", "versions", "model", "arguments", "micro_batch", "data_sheet", "parts",
            "compilations", "seconds_compiling"} <= result.keys()  # fmt: skip
    names = {part: [row["name"] for row in found["rows"]] for part, found in result["parts"].items()}
    assert names == {
        "rollout": ["rollout", "prefill", "decode"], "scoring": ["scoring"], "training": ["training"],
        "fraction": ["update of 2", "update of 4", "update of 8"], "step": ["whole step"],
    }  # fmt: skip
    tokens = {row["name"]: row["tokens"] for part in result["parts"].values() for row in part["rows"]}
    assert tokens["rollout"] == 8 * 6 and tokens["decode"] == 8 * 5 and tokens["prefill"] == 8 * 8
    assert tokens["scoring"] == tokens["training"] == 8 * 14 and tokens["whole step"] == 8 * 6
    step = result["parts"]["step"]["rows"][0]
    assert 1 <= step["selected"] <= 8 and step["seconds_update"] > 0, "nothing was selected, and nothing trained"
    for part in result["parts"].values():
        assert part["peak_memory"] > 1e8 and part["limits"]["taken"]["flops"] >= part["limits"]["before"]["flops"]
    printed = capsys.readouterr().out
    assert "whole step" in printed and "of proportional" in printed and "bench 5/5  step" in printed


def test_heavy_responses(capsys):
    result = bench.run(setting(prompts=16, lengths="heavy", new_tokens=8, parts=("rollout", "scoring")), SIZES)
    lengths = batch.heavy(16, 8, 0)
    rows = result["parts"]["rollout"]["rows"]
    assert rows[0]["name"] == "rollout, static" and all(row["tokens"] == lengths.sum() for row in rows)
    longest = 8 * lengths[:8].max() + 8 * lengths[8:].max()
    assert rows[0]["idle"] == pytest.approx(1 - lengths.sum() / longest)
    assert "static batches" in capsys.readouterr().out
