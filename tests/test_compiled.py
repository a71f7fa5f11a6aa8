"""What the compiler says of a step's programs against the plan, on simulated devices; and how that is read."""

import runpy
from pathlib import Path

import jax
import pytest

from camopd_jax import compiled, exchanged, footprint, sharding
from camopd_jax.models.decoder import DecoderConfig, Lora

GET_CONFIG = runpy.run_path(str(Path(__file__).parent.parent / "configs" / "medical.py"))["get_config"]
CFG = DecoderConfig(2048, 256, 1024, 2, 8, 4, 64, 1e4, 1e-6, False, 4096, qk_norm=True)


def setup(mesh, cfg=CFG):
    c = GET_CONFIG("small")
    c.rollout.update(batch_size=16, rows_at_once=16, max_prompt_tokens=64, max_new_tokens=64)
    c.micro.update(rows=1, width=512, slots=256)
    mesh = sharding.abstract_mesh(*mesh, int(mesh[0] * mesh[1] * mesh[2]))
    return footprint.Setup(c, mesh, cfg, {"general": CFG, "domain": CFG})


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 1, 4), (1, 4, 2)])
def test_the_compiler_agrees_with_the_plan(mesh):
    s = setup(mesh)
    plan, found = compiled.planned(s), dict(compiled.measured(s, jax.devices("cpu")[: s.mesh.size]))
    assert set(plan) == set(found) == set(compiled.PROGRAMS)
    for name, ours in plan.items():
        theirs = found[name]
        # Prompts are read without the head, of 2048 x 256 numbers here; small things show in a small rollout.
        small = name in ("prefill", "decode")
        assert theirs.held == pytest.approx(ours.held, rel=0.16 if name == "prefill" else 0.03), name
        assert (0.4 if small else 0.5) * ours.temporary < theirs.temporary, name
        assert theirs.temporary < 1.2 * ours.temporary + 2e6 * small, name
        if name != "optimiser":
            assert theirs.flops == pytest.approx(ours.flops, rel=0.1), name
            assert theirs.link == pytest.approx(ours.link, rel=0.6 if small else 0.35, abs=2e4), name


def test_an_adapter_is_all_that_is_summed_and_moved():
    s = setup((8, 1, 1), DecoderConfig(**{**vars(CFG), "lora": Lora(4, 8.0, ("q", "down"))}))
    adapter = 4 * 2 * 4 * (256 + 512 + 1024 + 256)
    plan = compiled.planned(s)
    assert plan["optimiser"].held == 4 * adapter  # the adapter, its gradients, two moments
    update = compiled.programs(s, jax.devices("cpu"))["update"]()
    memory = update.memory_analysis()
    assert memory.alias_size_in_bytes == adapter  # the sum of gradients takes the place of the one before
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - adapter
    assert held == pytest.approx(plan["update"].held, rel=0.02)


def test_bytes_that_a_program_receives():
    text = """
      %a = (f32[4,8]{1,0}, /*index=1*/bf16[]) all-reduce(%x, %y), replica_groups=mesh['i'=2,'j'=4] {'j'}, to_apply=%add
      %b = f32[16]{0} all-gather(%a), replica_groups=[2,4]<=[8], dimensions={0}
      %c = bf16[16]{0} reduce-scatter(%b), replica_groups={{0,1},{2,3}}
      %d = (f32[4]{0}, f32[16]{0}) all-gather-start(%c), replica_groups={{0,1,2,3}}
      %e = f32[16]{0} all-gather-done(%d)
      %f = f32[10]{0} collective-permute(%e), source_target_pairs={{0,1}}
      %g = f32[9]{0} get-tuple-element(%all-reduce.3), index=0
    """
    sums = 2 * 3 / 4 * (4 * 32 + 2)
    assert exchanged.received(text) == sums + 3 / 4 * 64 + 1 * 32 + 3 / 4 * 64 + 40


def test_slices_of_tpus_by_their_shape():
    assert [compiled.topology("v5e", n) for n in (1, 4, 8, 64)] == ["v5e:2x2", "v5e:2x2", "v5e:2x4", "v5e:8x8"]
    assert [compiled.topology("v5p", n) for n in (4, 8, 64)] == ["v5p:2x2x1", "v5p:2x2x2", "v5p:4x4x4"]
    with pytest.raises(ValueError, match="a power of two"):
        compiled.topology("v5e", 12)


def test_devices_without_a_compiler_are_refused_before_anything_starts():
    for name in ("h100-8", "v4-8", "l4-1"):
        with pytest.raises(ValueError, match="allowed are cpu-NUMBER, v5e-NUMBER"):
            compiled.prepare(name)
    with pytest.raises(ValueError, match="allowed is no more"):
        compiled.prepare("cpu-9")()
    assert len(compiled.prepare("cpu-4")()) == 4
