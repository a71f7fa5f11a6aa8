"""Instances in a file: what is written is read again, and what is wrong is named."""

import dataclasses
import json

import pytest

from camopd_jax.distraction import benchmark, files


def rows_of(tmp_path, change=None):
    path = tmp_path / "x.jsonl"
    files.write(path, benchmark.make("dev", 2, 0, "short"))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if change:
        change(rows[1])
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_what_is_written_is_read_again(tmp_path):
    sets = [(split, level) for split in benchmark.SPLITS for level in benchmark.LEVELS]
    everything = [x for split, level in sets for x in benchmark.make(split, 10, 0, level)]
    files.write(tmp_path / "a.jsonl", everything)
    assert [dataclasses.asdict(x) for x in files.read(tmp_path / "a.jsonl")] == [
        dataclasses.asdict(x) for x in everything
    ]


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda r: r.pop("gold"), "gold missing"),
        (lambda r: r.update(note=1), "unknown field note"),
        (lambda r: r.update(split="train"), "split is 'train'; allowed are dev, test"),
        (lambda r: r.update(text=""), "text is ''"),
        (lambda r: r.update(places=["start"]), "places is"),
        (lambda r: r.update(instruction_first=1), "instruction_first is 1"),
        (lambda r: r.update(positions=[[0, 1], [1, 2], [2, 99999]]), "positions is"),
        (lambda r: r.update(id="dev-short-0-00000"), "id 'dev-short-0-00000' is that of an earlier line"),
        (lambda r: r.update(rubric={}), "rubric is not an object of task, form and actions"),
        (lambda r: r["rubric"]["actions"].pop(), "rubric.actions has 2 objects"),
        (lambda r: r["rubric"]["actions"][0].update(kind="sing"), "action kind 'sing' is unknown"),
        (lambda r: r["rubric"]["task"].update(kind="sing"), "task kind 'sing' is unknown"),
        (lambda r: r["rubric"]["form"][0].update(kind="sing"), "check kind 'sing' is unknown"),
        (lambda r: r["rubric"]["form"][0].update(m=1), "form 'plain_line' takes"),
        (lambda r: r.update(gold="Something else"), r"obeying distractors \[\] gives \[0, "),
        (lambda r: r.update(bad=r["gold"]), "its bad output does not obey"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, change, named):
    path = rows_of(tmp_path, change)
    with pytest.raises(ValueError, match=named) as error:
        files.read(path)
    assert str(error.value).startswith(f"{path}:2: ") and "\n" not in str(error.value)


def test_a_file_that_holds_no_instances_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl: it cannot be read"):
        files.read(tmp_path / "none.jsonl")
    for content_, named in (
        (b"", "no instances"),
        (b"{", "1: not JSON"),
        (b"[]", "1: not an object"),
        (b"\xff", "UTF-8"),
    ):
        (tmp_path / "bad.jsonl").write_bytes(content_)
        with pytest.raises(ValueError, match=named):
            files.read(tmp_path / "bad.jsonl")
