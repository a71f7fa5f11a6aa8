"""The logs of a run: rows are whole, in order and once each, also after a kill, and on the disk when they must be."""

import json
import os

import pytest
from tensorboardX.proto.event_pb2 import Event
from test_checkpoint import files_of_at_most

from camopd_jax import metrics
from camopd_jax.models import export


def lines(*rows) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def steps(path) -> list[int]:
    return [row["step"] for row in metrics.read_jsonl(path)]


@pytest.mark.parametrize("text, count", [
    ("", 0),
    (lines({"step": 1}, {"step": 2}), 2),
    (lines({"step": 1}, {"step": 2}) + '{"step": 3', 2),  # cut short by a kill
    (lines({"step": 1}, {"step": 3}), 1),
    (lines({"step": 2}), 0),
    (lines({"step": 1}, {"step": 1}, {"step": 2}), 1),
    (lines({"step": 1}, "\0\0\0", {"step": 2}), 1),
    (lines({"step": 1}, "[]", {"step": 2}), 1),
])  # fmt: skip
def test_steps_count_from_the_first_one_on_in_order_and_once(tmp_path, text, count):
    (tmp_path / "metrics.jsonl").write_text(text)
    assert metrics.steps_logged(tmp_path / "metrics.jsonl") == count
    assert metrics.steps_logged(tmp_path / "nothing.jsonl") == 0


@pytest.mark.parametrize("rows, wrong", [
    (({"step": 0}, {"step": 2, "a": 1}, {"step": 2, "a": 2}, {"step": 4}, {"step": 3}, {"step": 5}), None),
    (({"step": 0}, {"step": 2}, "\0\0", {"step": 5}), None),  # after what is kept: what a kill left
    (({"step": 0}, "{", {"step": 2}), "2 is damaged"),
    (({"step": 0}, {"a": 1}, {"step": 2}), "2 is damaged"),
    (({"step": 2}, {"step": 0}), "2 is of step 0, after step 2"),
    (({"step": 0}, {"step": 3}, {"step": 2}), "3 is of step 2, after step 3"),
    (({"step": 2, "a": 1}, {"step": 2, "a": 1}), "2 comes twice"),
])  # fmt: skip
def test_rows_up_to_a_step_are_kept_or_the_line_is_named(tmp_path, rows, wrong):
    path = tmp_path / "eval.jsonl"
    path.write_text(lines(*rows))
    if wrong:
        with pytest.raises(ValueError, match=f"eval.jsonl:{wrong}"):
            metrics.kept_rows(path, 2)
        return
    assert all(row["step"] <= 2 for row in metrics.kept_rows(path, 2))
    log = metrics.Jsonl(path, 2)
    log.write({"step": 3})
    log.close()
    assert steps(path) == [row["step"] for row in rows if isinstance(row, dict) and row["step"] <= 2] + [3]


def test_two_answers_of_a_step_may_be_equal(tmp_path):
    path = tmp_path / metrics.ROLLOUTS
    path.write_text(lines({"step": 1, "prompt": "a"}, {"step": 1, "prompt": "a"}))
    assert len(metrics.kept_rows(path, 1)) == 2


def test_rows_that_do_not_fit_are_not_there_in_part(tmp_path):
    path = tmp_path / "eval.jsonl"
    log = metrics.Jsonl(path, 0)
    log.write({"step": 1})
    before = path.read_bytes()
    with files_of_at_most(100), pytest.raises(OSError, match=r"File too large: .*eval.jsonl"):
        log.write({"step": 2}, {"step": 3, "text": "x" * 200})
    assert path.read_bytes() == before
    log.write({"step": 2})
    log.close()
    assert steps(path) == [1, 2]


def test_a_file_is_put_whole_or_not_at_all_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.json"
    metrics.put(path, "first")
    with files_of_at_most(100), pytest.raises(OSError, match=r"File too large: .*a.json"):
        metrics.put(path, "x" * 200)
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    path.chmod(0o600)
    metrics.put(path, b"second")
    assert path.read_bytes() == b"second" and path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    real = os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.readlink(f"/proc/self/fd/{fd}")))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(str(b)), real(a, b)))
    metrics.put(tmp_path / "a.json", "text")
    assert done[0].startswith(str(tmp_path / export.STAGED))
    assert done[1:] == [str(tmp_path / "a.json"), str(tmp_path)]  # and then the list of the directory's files


def test_tensorboard_is_written_as_it_comes_and_a_full_disk_stops_the_run(tmp_path):
    log = metrics.RunLog(tmp_path / "run", -1)
    log.step({"step": 1, "branch": "general", "loss": 2.0}, [])
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert [(e.step, e.summary.value[0].tag) for e in _events(file.read_bytes()) if e.summary.value] == [
        (1, "general/loss")
    ]
    with files_of_at_most(file.stat().st_size), pytest.raises(OSError, match=r"File too large: .*tensorboard"):
        for step in range(2, 100):  # tensorboardX's own thread would end here unseen, and the run wait for it for ever
            log._board.scalar("general/loss", 1.0, step)


def _events(body: bytes) -> list[Event]:
    """Records of TensorFlow's format: length (8 bytes), its sum (4), the event, its sum (4)."""
    found = []
    while body:
        size = int.from_bytes(body[:8], "little")
        found.append(Event.FromString(body[12 : 12 + size]))
        body = body[16 + size :]
    return found


def test_all_logs_are_synced(tmp_path, monkeypatch):
    log, done = metrics.RunLog(tmp_path, -1), []
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
    log.sync()
    assert sorted(done) == sorted(metrics.LOGS)
    log.close()


@pytest.mark.parametrize("total, first, jump, told", [
    (6, 0, 1, [1, 2, 3, 4, 5, 6]),
    (99, 0, 1, list(range(1, 100))),
    (1250, 0, 1, [1, *range(25, 1251, 25)]),
    (1250, 1230, 1, [1231, 1250]),  # went on
    (1249, 0, 1, [1, *range(24, 1249, 24), 1249]),
    (600, 0, 16, [*range(16, 600, 16), 600]),  # several at once
])  # fmt: skip
def test_progress_without_a_terminal_is_at_most_a_hundred_lines(capsys, total, first, jump, told):
    progress = metrics.Progress("training", total, first)
    for step in (*range(first + jump, total, jump), total):
        progress.show(step, "loss 0.5")
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1].split("/")[0]) for line in lines] == told
    assert all("loss 0.5  ETA " in line for line in lines) and len(lines) <= 101
