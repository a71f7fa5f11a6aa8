"""What a run goes on from: the newest whole checkpoint, whole logs, its own config; and what a late fault says."""

import shutil
from pathlib import Path

import kept
import mistakes
import pytest
from kept import CONFIG, DATA, MODELS, STEPS, logged, start
from test_checkpoint import files_of_at_most, largest

from camopd_jax import cli, hosts, metrics, recover, resume, workdirs
from camopd_jax.checkpoint import UNFINISHED
from camopd_jax.models import export


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    return kept.make(tmp_path_factory.mktemp("earlier") / "run")


@pytest.fixture
def run(earlier, tmp_path, monkeypatch):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(earlier, tmp_path / "run"))


def damage(run: Path, *steps: int) -> None:
    for step in steps:
        file = largest(run / "checkpoints" / str(step) / "default")
        file.write_bytes(bytes(file.stat().st_size))


def test_nothing_is_said_or_moved_where_all_is_whole(run, capsys):
    assert start(CONFIG, run) == list(STEPS)
    assert capsys.readouterr().out == ""
    assert {p.name for p in run.iterdir()} == {"config.json", "metrics.jsonl", "checkpoints"}


@pytest.mark.parametrize("damaged, goes_on", [((6,), 4), ((6, 4), 2)])
def test_a_damaged_checkpoint_is_set_aside_with_one_line_that_says_what_follows(run, capsys, damaged, goes_on):
    damage(run, *damaged)
    assert resume.find(run).step == goes_on
    assert workdirs.saved_steps(run) == list(STEPS), "to look changes nothing"
    assert start(CONFIG, run) == [s for s in STEPS if s not in damaged]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(damaged)
    for step, line in zip(damaged, lines, strict=True):
        assert line.startswith(
            f"WARNING: the checkpoint {run / 'checkpoints' / str(step)} is damaged (the contents of "
        )
        assert f"goes on from step {goes_on} and does steps {goes_on + 1} to {step} again" in line
        assert (run / resume.DAMAGED / str(step) / "default").is_dir()


def test_a_second_damaged_one_of_the_same_step_takes_the_place_of_none(run):
    copy = shutil.copytree(run / "checkpoints" / "6", run / "copy")
    damage(run, 6)
    start(CONFIG, run)
    Path(copy).rename(run / "checkpoints" / "6")
    damage(run, 6)
    start(CONFIG, run)
    assert sorted(p.name for p in (run / resume.DAMAGED).iterdir()) == ["6", "6-again"]


def test_a_good_one_of_before_that_is_damaged_is_moved_and_not_gone_back_to(run, capsys):
    (run / "checkpoints" / "2" / "metrics" / "metrics").write_text("{")  # Orbax ends a start that finds this
    assert start(CONFIG, run) == [4, 6]
    assert "goes on from step 6 and does not need it" in capsys.readouterr().out


def test_no_whole_checkpoint_is_a_mistake_and_nothing_is_touched(run):
    damage(run, *STEPS)
    (run / f"8{UNFINISHED}").mkdir()
    before = sorted(run.rglob("*"))
    with pytest.raises(ValueError, match=r"no whole checkpoint is left there .step 6: .* step 2: ") as error:
        start(CONFIG, run)
    assert "\n" not in str(error.value)
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("rows, goes_on", [
    ((1, 2, 3, 4, 5), 4), ((1, 2, 3, 5, 6), 2), ((1, 2, 3, 4, 4, 5, 6), 4), ((1, 2, 3, 4, 5, 6, 7, 8), 6),
])  # fmt: skip
def test_a_checkpoint_counts_only_with_every_step_before_it_in_the_metrics(run, capsys, rows, goes_on):
    logged(run, rows)
    if len(rows) != len(set(rows)):
        with pytest.raises(ValueError, match=r"metrics.jsonl:5 comes twice"):
            start(CONFIG, run)
        return
    assert start(CONFIG, run)[-1] == goes_on
    assert ("metrics.jsonl has the rows of steps 1 to" in capsys.readouterr().out) == (goes_on < 6)
    log = metrics.RunLog(run, goes_on)
    log.step({"step": goes_on + 1, "branch": "general"}, [])
    log.close()
    assert [row["step"] for row in metrics.read_jsonl(run / "metrics.jsonl")] == [*range(1, goes_on + 2)]


def test_a_damaged_specialisation_begins_again(run, capsys):
    stage = run / "specialise" / "abc"
    stage.mkdir(parents=True)
    shutil.move(run / "checkpoints", stage)
    shutil.copy(run / "metrics.jsonl", stage)
    damage(stage, *STEPS)
    start(CONFIG, run)
    assert workdirs.saved_steps(stage) == []
    assert "there is none before it, and steps 1 to 6 are done again" in capsys.readouterr().out


def test_a_second_run_is_refused_and_the_first_one_is_not_disturbed(run):
    with resume.owning(CONFIG, run, MODELS, DATA, ()):
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        for again in (lambda: start(CONFIG, run), lambda: resume.check_free(run)):
            with pytest.raises(ValueError, match=r"another run is going on there; .*: process \d+ on "):
                again()
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    start(CONFIG, run)


def test_a_start_that_is_refused_leaves_no_workdir(tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("no")

    monkeypatch.setattr(workdirs, "check_same", refuse)
    with pytest.raises(ValueError, match="no"):
        start(CONFIG, tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_another_one_began_since_the_checks_is_checked_again(run):
    other = CONFIG.copy_and_resolve_references()
    other.seed = 1
    with pytest.raises(ValueError, match=r"config.seed = 1"):
        start(other, run)
    with pytest.raises(ValueError, match=r"config.data.general: its prompts are not"):
        start(CONFIG, run, data={"general": "89ab"})


def test_what_a_killed_run_left_half_written_goes_and_what_is_a_user_s_stays(run, tmp_path):
    left = [run / f"{export.STAGED}metrics.jsonl-host-1", run / "specialise" / "abc" / f"{export.STAGED}x",
            run / "checkpoints" / f"8{UNFINISHED}", run / "cache" / "specialised" / f"{export.STAGED}z"]  # fmt: skip
    others = [tmp_path / "cache" / "specialised" / f"{export.STAGED}y", run / "notes.tmp"]
    for path in left + others:
        path.mkdir(parents=True)
        (path / "part").write_text("")
    start(CONFIG, run)
    assert not any(p.exists() for p in left) and all(p.exists() for p in others)  # of the cache: another run's, now


@pytest.mark.parametrize("error, says", [
    (OSError(28, "No space left on device", "export/a"), "export/a could not be written: No space left on device; in"),
    (OSError(28, "No space left on device"), "device; in RUN the checkpoints up to step 6 are whole: make room, and"),
    (OSError(30, "Read-only file system", "a"), "a could not be written: Read-only file system; in"),
    (OSError(2, "No such file or directory", "model.safetensors"), "model.safetensors: No such file or directory; in"),
    (OSError(27, "File too large", "a"), "raise the limit of file sizes"),
    (ValueError("lines\nof text"), "lines\nof text; in"),
    (hosts.Told("of another process"), "of another process; in"),
], ids=["named", "unnamed", "read-only", "read", "too large", "a value", "told"])  # fmt: skip
def test_a_late_fault_says_what_is_whole_and_has_exit_code_1(run, error, says, capsys, monkeypatch):
    def go(rest):
        with resume.owning(CONFIG, run, MODELS, DATA, ()):
            raise error

    with pytest.raises(resume.Fault, match="the checkpoints up to step 6 are whole") as fault:
        go([])
    assert says.replace("RUN", str(run)) in str(fault.value)
    assert str(fault.value).endswith("the same command goes on from there") == isinstance(error, OSError)
    assert not (run / resume.LOCK).exists()
    left = []
    monkeypatch.setattr(hosts, "leave", lambda error, code, show: left.append((type(error), code)))
    assert cli.main(["train.py"], cli.flags.FlagValues(), "", go) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert left == [(hosts.Told if isinstance(error, hosts.Told) else resume.Fault, 1)]


def test_a_checkpoint_that_cannot_be_read_is_told_with_what_then_goes_on_and_nothing_else(run):
    shutil.rmtree(run / "checkpoints" / "6" / "default" / "d")
    with pytest.raises(resume.Fault) as fault:
        with resume._late(run), recover.checkpoints_of(CONFIG, run) as checkpoints:
            checkpoints.restore(mistakes.state())
    said = str(fault.value)
    assert said.startswith(f"the checkpoint {run / 'checkpoints' / '6'} cannot be read (")
    assert said.endswith("move it away, and the run goes on from step 4") and "whole" not in said


def test_before_the_first_checkpoint_there_is_nothing_to_go_on_from(run, tmp_path):
    def ends(says: str) -> None:
        with pytest.raises(resume.Fault, match=f"{says}$"), resume.owning(CONFIG, tmp_path / "new", MODELS, DATA, ()):
            raise OSError("odd")

    ends("there is no checkpoint of it yet: the same command begins again")
    stage = tmp_path / "new" / "specialise" / "abc"
    stage.mkdir(parents=True)
    shutil.move(run / "checkpoints", stage)
    shutil.copy(run / "metrics.jsonl", stage)
    ends("the checkpoints of the specialisation up to step 6 are whole: the same command goes on from there")


def test_a_full_disk_at_the_start_is_a_mistake_that_leaves_the_run_as_it_was(run):
    before = (run / "config.json").read_bytes()
    with files_of_at_most(1000), pytest.raises(OSError, match=r"File too large: .*config.json"):
        start(CONFIG, run)
    assert (run / "config.json").read_bytes() == before
    assert {p.name for p in run.iterdir()} == {"config.json", "metrics.jsonl", "checkpoints"}
