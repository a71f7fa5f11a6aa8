"""The experiment: its cells and their flags, and the runner, with a program in the place of bin/train.py."""

import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from camopd_jax import rules
from camopd_jax.experiment import grid, report, runner
from camopd_jax.experiment.grid import Cell, Grid

ROOT = Path(__file__).parent.parent
# Stands in for bin/train.py: fails where the workdir's cell has a file `fail` in the working directory, waits where it
# has a file `wait`, and counts its starts.
FAKE = """
    import os, pathlib, signal, sys, time
    workdir = pathlib.Path(next(a for a in sys.argv if a.startswith("--workdir=")).partition("=")[2])
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "starts", "a") as f: f.write(" ".join(sys.argv[1:]) + "\\n")
    seen = []
    for s in (signal.SIGTERM, signal.SIGINT): signal.signal(s, lambda n, _: seen.append(n))
    cell = workdir.parent.name
    print("step 1 of", cell, flush=True)
    if os.path.exists(f"{cell}.fail"):
        print("error: config.steps = 0", file=sys.stderr)
        sys.exit(int(open(f"{cell}.fail").read()))
    if os.path.exists(f"{cell}.wait"):
        (workdir / "ready.tmp").write_text(str(os.getpid()))
        (workdir / "ready.tmp").rename(workdir / "ready")
        for _ in range(6000):  # a minute
            if not seen: time.sleep(0.01)
        time.sleep(0.2)
        (workdir / "signals").write_text(str(seen))
        sys.exit(128 + seen[0])
    (workdir / "checkpoints").mkdir()
    (workdir / "evaluation.json").write_text("{}")
"""


def medical(preset="tiny"):
    return runpy.run_path(str(ROOT / "configs" / "medical.py"))["get_config"](preset)


def a_grid(names=("camopd", "mix"), seeds=(0, 1)):
    config = medical()
    return grid.make("configs/medical.py:tiny", {"steps": 8}, config, grid.method_cells(list(names)), seeds)


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(textwrap.dedent(FAKE))
    return tmp_path / "train.py"


def run(train, asked=None, keep_going=False, drop_weights=False):
    return runner.run(asked or a_grid(), Path("out"), train, keep_going=keep_going, drop_weights=drop_weights)


def starts(cell, seed):
    file = Path("out") / cell / f"seed{seed}" / "starts"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("cells", [grid.method_cells(["camopd", "mix"]), grid.sweep_cells(medical())])
def test_train_makes_of_the_flags_of_a_cell_the_config_that_was_checked(cells, monkeypatch):
    monkeypatch.chdir(ROOT)
    set_by_user = {"steps": 5, "chat.system": "Be brief, and kind.", "lora.targets": ("q",), "optim.eps": 1e-7}
    base = medical()
    base.update_from_flattened_dict(set_by_user)
    asked = grid.make("configs/medical.py:tiny", set_by_user, base, cells, (3,))
    for cell in cells:
        argv = ["train.py", *grid.flags(asked, Path("out"), cell, 3)]
        values = flags.FlagValues()
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
        values(argv)
        sys.modules.pop("config_config", None)
        changed = grid.configured(base, cell, 3)
        assert values.config.to_dict() == changed.to_dict() != base.to_dict()
        assert values.workdir == f"out/{cell.name}/seed3"
        rules.check_config(changed)


def test_the_sweep_is_the_papers_and_starts_with_its_choice():
    cells = grid.sweep_cells(medical())
    assert [c.name for c in cells] == [
        *("3-1_r2_rho0.8", "1-1_r2_rho0.8", "5-1_r2_rho0.8", "3-1_r1_rho0.6"),
        *("3-1_r1_rho0.8", "3-1_r2_rho0.6", "3-1_r3_rho0.6", "3-1_r3_rho0.8"),
    ]
    assert cells[1].overrides == {
        "camopd.cycle": ("general", "domain"),
        "camopd.scale.general": 2.0,
        "camopd.rho.general": 0.8,
        "camopd.rho.domain": 0.8,
    }
    with pytest.raises(ValueError, match="allowed are general and one other"):
        grid.sweep_cells(medical("three"))


def test_a_bad_cell_is_found_before_the_first_run(tmp_path):
    config = medical()
    cells = (Cell("good", "method", {}), Cell("bad", "method", {"camopd.rho.general": 80.0}))
    with pytest.raises(ValueError, match=r"bad, seed 0: config.camopd.rho.general = 80.0: allowed is above 0"):
        grid.check(grid.make("c.py", {}, config, cells, (0,)), config, tmp_path / "out", rules.check_config)
    cells = (Cell("typo", "method", {"camopd.rho.generla": 0.5}),)
    with pytest.raises(ValueError, match=r"typo, seed 0: config.camopd.rho.generla is missing"):
        grid.check(grid.make("c.py", {}, config, cells, (0,)), config, tmp_path / "out", rules.check_config)
    assert not list(tmp_path.iterdir())


def test_all_runs_are_made_once_seed_by_seed(train, capsys):
    assert run(train, drop_weights=True) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("step 1")] == ["step 1 of camopd", "step 1 of mix"] * 2
    assert "4 runs in out: 2 cells x 2 seeds; 0 finished" in out
    assert starts("mix", 1) == [
        "--config=configs/medical.py:tiny --workdir=out/mix/seed1 --config.steps=8 --config.camopd.method=mix "
        "--config.seed=1"
    ]
    assert Path("out/mix/seed1.log").read_text() == "step 1 of mix\n"
    assert not Path("out/mix/seed1/checkpoints").exists()
    assert runner.minutes(Path("out"), a_grid().cells[0], 0) > 0
    assert run(train) == 0
    assert "4 finished" in capsys.readouterr().out
    assert all(len(starts(cell, seed)) == 1 for cell in ("camopd", "mix") for seed in (0, 1))


def test_a_failure_stops_with_the_tail_of_the_log_and_the_next_start_goes_on(train, capsys):
    Path("mix.fail").write_text("2")
    assert run(train) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "error: mix, seed 0 (exit code 2); the end of out/mix/seed0.log:"
    assert errors[1:] == ["  step 1 of mix", "  error: config.steps = 0"]
    assert len(starts("camopd", 0)) == 1 and not starts("camopd", 1)
    Path("mix.fail").unlink()
    assert run(train) == 0
    assert [len(starts(c, s)) for c in ("camopd", "mix") for s in (0, 1)] == [1, 1, 2, 1]


def test_keep_going_makes_the_others_and_ends_with_a_list(train, capsys):
    Path("camopd.fail").write_text("1")
    assert run(train, keep_going=True) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: 2 of 4 runs failed: camopd, seed 0 (exit code 1); camopd, seed 1 (exit code 1)"
    assert starts("mix", 0) and starts("mix", 1)


def test_a_run_that_ends_well_and_leaves_no_evaluation_has_failed(train, capsys):
    train.write_text("print('nothing')")
    assert run(train) == 1
    assert "camopd, seed 0 (ended without evaluation.json)" in capsys.readouterr().err


PROGRAM = """
import sys
from pathlib import Path
from camopd_jax.experiment import grid, report, runner
asked = grid.Grid("c.py", {}, {}, grid.method_cells(["camopd", "mix"]), (0,))
sys.exit(runner.run(asked, Path("out"), Path("train.py"), keep_going=True, drop_weights=False))
"""


@pytest.fixture
def waiting(train):
    """An experiment in a process group of its own, whose second run waits for a signal."""
    Path("mix.wait").touch()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, text=True, stdout=subprocess.PIPE, process_group=0
    )
    deadline = time.monotonic() + 120
    while not Path("out/mix/seed0/ready").exists():
        assert process.poll() is None and time.monotonic() < deadline, "the second run did not start"
        time.sleep(0.02)
    yield process
    process.kill()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_child_once_and_is_waited_for(waiting, signum):
    os.killpg(waiting.pid, signum)  # as a terminal sends Ctrl-C: to the whole group
    output, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 128 + signum
    assert f"stopped by {signum.name} in mix, seed 0; the same command goes on from there." in output
    assert Path("out/mix/seed0/signals").read_text() == str([int(signum)])


def test_a_second_experiment_keeps_out_while_one_is_at_work(waiting, train):
    with pytest.raises(ValueError, match="--out=out: another experiment"):
        run(train)
    waiting.terminate()
    waiting.communicate(timeout=60)
    Path("mix.wait").unlink()
    Path("out/experiment.json").unlink()  # of another base config
    assert run(train) == 0


def test_a_run_that_outlives_its_experiment_keeps_others_out(waiting, train):
    waiting.kill()
    waiting.communicate(timeout=60)
    with pytest.raises(ValueError, match="a run that it left behind, is at work there"):
        run(train)
    os.kill(int(Path("out/mix/seed0/ready").read_text()), signal.SIGTERM)


def test_cells_and_seeds_may_be_added_and_the_base_may_not_change(train):
    assert run(train, a_grid(["camopd"], (0,))) == 0
    assert run(train, a_grid(["mix"], (1,))) == 0
    kept = grid.read(Path("out"))
    assert [c.name for c in kept.cells] == ["camopd", "mix"] and kept.seeds == (0, 1)
    assert kept.cells == a_grid().cells
    assert not starts("camopd", 1), "only what was asked for runs"
    other = medical()
    other.optim.learning_rate = 1.0
    changed = grid.make("configs/medical.py:tiny", {}, other, grid.method_cells(["mix"]), (0,))
    with pytest.raises(ValueError, match=r"config.optim.learning_rate = 1.0: the experiment in out was made with"):
        run(train, changed)
    same_name = (Cell("mix", "method", {"camopd.method": "camopd"}),)
    with pytest.raises(ValueError, match="mix is another cell there"):
        run(train, grid.make("configs/medical.py:tiny", {}, medical(), same_name, (0,)))


def test_the_commands_in_the_record_make_the_same_grid(tmp_path):
    cells = grid.method_cells(["camopd", "mix"]) + grid.sweep_cells(medical())
    both = Grid("configs/medical.py", {"camopd.weight_band": (0.5, 2.0)}, {}, cells, (0, 2))
    assert grid.commands(both, Path("runs/grid")) == [
        f"python bin/experiment.py --config=configs/medical.py --out=runs/grid {what} --seeds=0,2 "
        "'--config.camopd.weight_band=(0.5, 2.0)'"
        for what in ("--methods=camopd,mix", "--sweep")
    ]
    grid.write(both, tmp_path)
    assert grid.read(tmp_path) == both


def test_the_time_to_go_is_told_from_the_finished_runs(train, capsys):
    asked = a_grid()
    assert run(train, asked) == 0
    Path("out/mix/seed1/evaluation.json").unlink()
    for cell, seed in asked.runs():
        Path(f"out/{cell.name}/seed{seed}.starts.jsonl").write_text(json.dumps({"seconds": 90}) + "\n")
    assert "1 to go, about 2 minutes at 1.5 minutes a run" in runner.plan(asked, Path("out"))


@pytest.mark.parametrize(
    "code, arguments, reported",
    [(0, [], True), (1, ["--keep_going"], True), (1, [], False), (2, [], False), (143, ["--keep_going"], False)],
)
def test_the_program_reports_what_was_made_and_passes_the_exit_code_on(
    code, arguments, reported, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("experiment_program", ROOT / "bin" / "experiment.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    written, asked = [], []
    monkeypatch.setattr(report, "write", lambda *paths: written.append(paths))
    monkeypatch.setattr(runner, "run", lambda *given, **how: asked.append((given, how)) or code)
    argv = ["bin/experiment.py", "--config=configs/medical.py:tiny", f"--out={tmp_path}", "--seeds=0,2"]
    argv += ["--methods=camopd,mix", "--config.camopd.cycle=('domain','general')"]
    argv += ["--drop_weights", "--docs=docs/results.md"]
    assert program.main([*argv, *arguments]) == code
    sys.modules.pop("config_config", None)
    assert written == [(tmp_path, Path("docs/results.md"))] * reported
    (((found, out, train), how),) = asked
    assert train == ROOT / "bin" / "train.py" and out == tmp_path
    assert how == {"keep_going": bool(arguments), "drop_weights": True}
    assert found.seeds == (0, 2) and [c.name for c in found.cells] == ["camopd", "mix"]
    assert found.overrides == {"camopd.cycle": ("domain", "general")}
    assert found.base["camopd"]["cycle"] == ["domain", "general"]
