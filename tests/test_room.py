"""Room on disks and in memory: bytes by hand, made-up disks, kernels and control groups."""

import runpy
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from camopd_jax import footprint, room
from camopd_jax.footprint import PARTS, Phase
from camopd_jax.models import tiny
from camopd_jax.models.decoder import Lora

CONFIG = Path(__file__).parents[1] / "configs" / "medical.py"
WEIGHTS = footprint.parameters(tiny.CONFIG)
STATE = 12 * WEIGHTS  # float32, and two moments


def read(made_at=None, cfg=tiny.CONFIG, **changes):
    """What `written` sees of a run of the tiny preset; __ stands for a dot."""
    config = runpy.run_path(str(CONFIG))["get_config"]("tiny")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return SimpleNamespace(config=config, engine=SimpleNamespace(cfg=cfg), made_at=lambda workdir: made_at)


def parts(tmp_path, **options):
    work, cache = room.written(read(**options), tmp_path / "run")
    return work.parts | cache.parts


def test_what_a_run_writes_by_hand(tmp_path):
    made = {"made_at": tmp_path / "teacher"}
    # 8 updates, saved every 2: 4 checkpoints, of which 2 + 1 are kept and one more is being written
    assert parts(tmp_path) == {"checkpoints": 4 * STATE, "export": 4 * WEIGHTS, "logs": room.LOGS}
    assert parts(tmp_path, checkpoint__keep_best=0)["checkpoints"] == 3 * STATE
    assert parts(tmp_path, eval__every=0)["checkpoints"] == 3 * STATE  # then none is the best
    assert parts(tmp_path, checkpoint__every=8)["checkpoints"] == STATE  # there is but one
    assert parts(tmp_path, checkpoint__keep_best=0, optim__name="sgd")["checkpoints"] == 3 * 4 * WEIGHTS
    assert parts(tmp_path, export__dtype="bfloat16")["export"] == 2 * WEIGHTS
    assert parts(tmp_path, **made)["domain teacher"] == 4 * WEIGHTS
    # the specialisation's two checkpoints are larger than the recovery's one and the export, and gone before
    assert parts(tmp_path, checkpoint__every=8, **made)["checkpoints"] == 2 * STATE - 4 * WEIGHTS
    (tmp_path / "teacher").mkdir()
    assert "domain teacher" not in parts(tmp_path, **made)


def test_checkpoints_that_are_there_are_not_written_again(tmp_path):
    kept = tmp_path / "run" / "checkpoints" / "6"
    kept.mkdir(parents=True)
    (kept / "data").write_bytes(bytes(1000))
    assert parts(tmp_path)["checkpoints"] == 4 * STATE - 1000


def test_an_adapter_has_small_checkpoints(tmp_path):
    cfg = replace(tiny.CONFIG, lora=Lora(rank=2, alpha=4.0, targets=("q",)))
    found = parts(tmp_path, cfg=cfg)
    adapter = 2 * (2 * 32 + 2 * 32)  # 2 layers; rank 2 into and out of 32 numbers
    assert found["checkpoints"] == 4 * 12 * adapter and found["export"] == 4 * WEIGHTS


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_too_small_is_refused_also_if_two_directories_share_it(tmp_path, monkeypatch):
    free = 1000
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - free, free))
    work = room.Written("--workdir=run", tmp_path / "not" / "yet", {"checkpoints": 600.0, "export": 0.0})
    cache = room.Written("CAMOPD_CACHE", tmp_path, {"domain teacher": 400.0})
    first, _ = room.check_disks([work, cache])
    assert "--workdir=run checkpoints 6e-07 GB to write" in first and "export" not in first
    with pytest.raises(ValueError, match=r"CAMOPD_CACHE: the run writes up to 1.1e-06 GB .* has 1e-06 GB free"):
        room.check_disks([work, room.Written("CAMOPD_CACHE", tmp_path, {"domain teacher": 500.0})])
    with pytest.raises(ValueError, match=r"--workdir=run: .*lower checkpoint.keep_last"):
        room.check_disks([room.Written("--workdir=run", tmp_path, {"checkpoints": 1001.0})])


MEMINFO = "MemTotal: 1000 kB\nMemAvailable: 600 kB\nSwapFree: 100 kB\n"


def machine(home, groups, files):
    """A /proc and a /sys/fs/cgroup."""
    (home / "proc" / "self").mkdir(parents=True)
    (home / "proc" / "meminfo").write_text(MEMINFO)
    (home / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        path = home / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return room.available(home / "proc", home / "cgroup")


@pytest.mark.parametrize(
    "groups, files, expected",
    [
        ("0::/\n", {}, 700 * 1024),  # memory and swap of the kernel
        ("0::/a/b\n", {"a/b/memory.max": "max"}, 700 * 1024),
        (  # the limit of the group above; what it has read from files can be taken back
            "0::/a/b\n",
            {"a/memory.max": "500000", "a/memory.current": "400000", "a/memory.stat": "anon 1\ninactive_file 50000\n"},
            150_000,
        ),
        (  # inside a container, whose own group is the top
            "0::/docker/77\n",
            {"memory.max": "300000", "memory.current": "100000", "memory.stat": "inactive_file 0\n"},
            200_000,
        ),
        (
            "9:cpu,memory:/job\n1:name=systemd:/\n",
            {
                "memory/job/memory.limit_in_bytes": "500000",
                "memory/job/memory.usage_in_bytes": "450000",
                "memory/job/memory.stat": "total_inactive_file 7\n",
            },
            50_007,
        ),
        (  # version 1 without a limit
            "9:memory:/job\n",
            {
                "memory/job/memory.limit_in_bytes": str(2**63 - 4096),
                "memory/job/memory.usage_in_bytes": "450000",
                "memory/job/memory.stat": "",
            },
            700 * 1024,
        ),
    ],
)
def test_available_memory_by_hand(tmp_path, groups, files, expected):
    assert machine(tmp_path, groups, files) == expected


def test_where_the_system_does_not_say(tmp_path):
    assert room.available(tmp_path, tmp_path) is None
    line, warning = room.check_memory([phase("update", weights=5)], None, "memory")
    assert "not known" in line and warning is None


def phase(name, **parts):
    return Phase(name, dict.fromkeys(PARTS, 0.0) | {part: size * room.GB for part, size in parts.items()})


def test_memory_is_refused_for_what_is_certain_and_warned_of_for_what_is_estimated():
    update = phase("update", weights=1, moments=2, gradients=2, activations=3)
    rollout = phase("rollout", weights=1, moments=2, teacher=1, copies=1)
    line, warning = room.check_memory([rollout, update], 9 * room.GB, "memory")
    assert line == "memory: about 8 GB at the fullest (update), 9 GB there" and warning is None
    _, warning = room.check_memory([rollout, update], 8.5 * room.GB, "memory")  # a tenth is not counted on
    assert warning.startswith("memory: about 8 GB") and "may end for want of memory" in warning
    room.check_memory([rollout, update], 5.1 * room.GB, "memory")
    with pytest.raises(ValueError, match=r"memory: weights, .* alone take 5 GB \(update\), and there are 4.9 GB"):
        room.check_memory([rollout, update], 4.9 * room.GB, "memory")


@pytest.mark.parametrize(
    "stats, says", [({"bytes_limit": 10**10}, "10 GB there"), (None, "not known here"), ({}, "not known here")]
)
def test_devices_with_a_memory_of_their_own_and_their_host(monkeypatch, stats, says):
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: stats)
    monkeypatch.setattr(room.jax, "local_devices", lambda: [device])
    monkeypatch.setattr(room, "available", lambda: 50 * room.GB)
    tiny_run = read(camopd__idle_teachers="host")
    tiny_run.engine.mesh = SimpleNamespace(size=1)
    tiny_run.models, tiny_run.base = {}, SimpleNamespace(cfg=tiny.CONFIG)
    (own, host), warnings = room.memory(tiny_run)
    assert own.startswith("device memory: about ") and says in own and not warnings
    assert host == "host memory: about 4 GB at the fullest (teachers, checkpoint and export), 50 GB there"
    setup = room.setup_of(tiny_run)
    on_host = room._on_host(setup, 1, room.parked(setup)).parts
    assert on_host["teacher"] == 2 * 4 * WEIGHTS and on_host["copies"] == room.STREAMED + STATE
    stats = {"bytes_limit": 10**5}
    with pytest.raises(ValueError, match=r"device memory: weights, .* alone take .*--dry_run shows"):
        room.memory(tiny_run)
