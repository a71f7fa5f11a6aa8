"""Rows of published datasets: the same from every kind of source, from every place on, and one line for a mistake."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import datasets
import huggingface_hub
import published
import pyarrow as pa
import pytest
from pyarrow import parquet

from camopd_jax.prepare import origins

ROWS = [{"text": f'Zeile {i} ‑ é 漢 🧮 \u2028 "]}}', "other": i} for i in range(25)]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(origins, "BATCH", 4)
    monkeypatch.setattr(origins, "CHUNK", 7)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Two datasets in directories, as if they were on the hub: their commit is "c0ffee"."""
    for name in ("set", "json"):
        (tmp_path / name).mkdir()
    for i, part in enumerate((ROWS[:9], ROWS[9:])):
        parquet.write_table(pa.Table.from_pylist(part), tmp_path / "set" / f"train-{i}.parquet", row_group_size=5)
    published.write(tmp_path / "json" / "train.json", ROWS)
    real, asked = datasets.load_dataset, []

    def load_dataset(name, config, *, split, revision, streaming):
        asked.append((name, config, split, revision, streaming))
        return real(str(tmp_path / name.removeprefix("org/")), split=split, streaming=True)

    def dataset_info(self, name, revision=None):
        card = SimpleNamespace(to_dict=lambda: {"license": ["cc-by-4.0"]})
        return SimpleNamespace(sha={"old": "0dd", "0dd": "0dd"}.get(revision, "c0ffee"), card_data=card)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    return asked


def sources(tmp_path):
    (tmp_path / "both").mkdir()
    published.write(tmp_path / "both" / "a.jsonl", ROWS[:10])
    published.write(tmp_path / "both" / "b.json", ROWS[10:])
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet", row_group_size=9)
    return [
        published.write(tmp_path / "x.jsonl", ROWS), published.write(tmp_path / "x.json", ROWS),
        f"path:{tmp_path / 'x.parquet'}", f"path:{tmp_path / 'both'}", f"path:{tmp_path}/bo*/?.json*",
        "hf:org/set:train", "hf:org/json:train",
    ]  # fmt: skip


def test_every_kind_of_source_gives_the_same_rows_from_every_place_on(tmp_path, hub):
    expected = [{"text": row["text"]} for row in ROWS]
    for source in sources(tmp_path):
        origin = origins.open_("x", source, ["text"], {})
        batches = list(origin.batches(None))
        assert [row for rows, _ in batches for row in rows] == expected, source
        assert len(batches) > 5
        seen = 0
        for rows, place in batches:
            seen += len(rows)
            place = json.loads(json.dumps(place))
            assert [r for rest, _ in origin.batches(place) for r in rest] == expected[seen:], (source, seen)


def test_a_column_under_another_name_and_one_that_is_not_there(tmp_path, hub):
    for source in sources(tmp_path):
        origin = origins.open_("x", source, ["question", "options"], {"question": "text", "options": ""})
        rows = [row for batch, _ in origin.batches(None) for row in batch]
        assert rows == [{"question": row["text"], "options": None} for row in ROWS], source


def test_a_missing_column_is_named_with_those_that_are_there_and_the_way_out(tmp_path, hub):
    for source in sources(tmp_path):
        with pytest.raises(ValueError) as error:
            list(origins.open_("medreason", source, ["text", "question"], {}).batches(None))
        said = str(error.value)
        assert said.startswith("--medreason, ") and "\n" not in said
        assert "there is no column 'question'; its columns are text, other. If question has another name there, say "
        assert said.endswith("--column=medreason.question=COLUMN"), source


def test_a_column_of_jsonl_may_be_left_out_where_it_is_null(tmp_path):
    source = published.write(tmp_path / "x.jsonl", [{"a": 1}, {"a": 2, "b": 3}])
    assert [r for rows, _ in origins.open_("x", source, ["a", "b"], {}).batches(None) for r in rows] == [
        {"a": 1, "b": None}, {"a": 2, "b": 3},
    ]  # fmt: skip


def test_the_commit_that_was_read_and_its_licence_are_known(hub):
    origin = origins.open_("x", "hf:org/set:cfg:train", ["text"], {})
    assert (origin.revision, origin.licence) == ("c0ffee", "cc-by-4.0")
    assert origins.open_("x", "hf:org/set@old:train", ["text"], {}).revision == "0dd"
    assert origins.open_("x", "hf:org/set@main:train", ["text"], {}, "0dd").revision == "0dd", "that of the state"
    list(origin.batches(None))
    assert hub == [("org/set", "cfg", "train", "c0ffee", True)]


def test_a_file_of_the_hub_is_downloaded_at_the_commit(tmp_path, monkeypatch, hub):
    published.write(tmp_path / "x.json", ROWS)

    def download(name, file, *, repo_type, revision):
        assert (name, file, repo_type, revision) == ("org/set", "train/x.json", "dataset", "0dd")
        return str(tmp_path / "x.json")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    origin = origins.open_("x", "hf:org/set@old:train/x.json", ["text"], {})
    assert sum(len(rows) for rows, _ in origin.batches(None)) == 25 and origin.revision == "0dd"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.json", '{"text": "a"}', "x.json: no array; allowed is one of objects"),
        ("x.json", '[{"text": "a"}, {"text": "b"', "x.json item 2: not JSON ("),
        ("x.json", '[{"text": "a"}, 3]', "x.json item 2: no JSON object"),
        ("x.jsonl", '{"text": "a"}\n[3]', "x.jsonl:2: no JSON object"),
        ("x.jsonl", '{"text": "a"}\n{"text"', "x.jsonl:2: not JSON ("),
        ("x.parquet", "PAR1 no PAR1", "x.parquet: not readable as Parquet ("),
        ("x.csv", "text\na", "no file is there that ends in .jsonl, .json, .parquet"),
        ("x.jsonl", None, "no file is there that ends in .jsonl, .json, .parquet"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError) as error:
        list(origins.open_("x", f"path:{tmp_path / name}", ["text"], {}).batches(None))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["hf:name", "s3:x", "x.jsonl", ""])
def test_a_source_of_no_known_form(source):
    with pytest.raises(ValueError, match=r"--chat=.*: allowed are hf:NAME\[@REVISION\]"):
        origins.open_("chat", source, ["text"], {})


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    """In a process of its own, as the libraries read the variable when they are imported."""
    command = [sys.executable, "bin/prepare.py", "coser", f"--out={tmp_path / 'x.jsonl'}"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr
    assert "data source hf:Neph0s/CoSER:train/sft_conversations_sharegpt.json: " in lines[0]
    assert not list(tmp_path.glob("x*"))
