"""Rows of a user's own data: the same from every kind of source, and each mistake in one line that says where."""

import json
import os
import subprocess
import sys

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from camopd_jax import sources

USER, ASSISTANT = {"role": "user", "content": "Hé?"}, {"role": "assistant", "content": "Oui."}
SYSTEM = {"role": "system", "content": "Be brief."}
ROWS = [
    {"messages": [SYSTEM, USER, ASSISTANT], "id": "first", "unknown": {"a": 1}},
    {"prompt": "Why?", "system": "Be brief.", "id": 2, "answer": "So.", "checks": [{"kind": "max_words", "n": 3}]},
    {"prompt": "When?", "messages": None, "id": None},
]


def as_jsonl(folder):
    (folder / "x.jsonl").write_text("\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    return f"path:{folder / 'x.jsonl'}"


def as_parquet(folder, name="x.parquet"):
    # One column holds one type, and what a row has not is null.
    rows = [{**row, "id": row.get("id") and str(row["id"]), "image": b"\x89"} for row in ROWS]
    rows[1]["checks"] = [{"kind": "max_words", "n": 3, "words": None}]
    schema = pa.schema(
        [
            ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())]))),
            *((name, pa.string()) for name in ("id", "prompt", "system", "answer")),
            (
                "checks",
                pa.list_(pa.struct([("kind", pa.string()), ("n", pa.int64()), ("words", pa.list_(pa.string()))])),
            ),
            ("image", pa.binary()),
        ]
    )
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), folder / name)
    return f"path:{folder / name}"


def as_dataset(folder):
    (folder / "set").mkdir()
    as_parquet(folder / "set", "validation.parquet")
    return f"hf:{folder / 'set'}:validation"


@pytest.fixture(autouse=True)
def no_shared_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    "make, where, ids",
    [
        (as_jsonl, [":1", ":3", ":5"], ["first", "2", "x.jsonl:5"]),
        (as_parquet, [" row 1", " row 2", " row 3"], ["first", "2", "x.parquet:3"]),
        (as_dataset, [" row 1", " row 2", " row 3"], ["first", "2", "set:3"]),
    ],
)
def test_every_kind_of_source_gives_the_same_conversations(tmp_path, make, where, ids):
    source = make(tmp_path)
    found = sources.read(source)
    assert [r.messages for r in found] == [
        [SYSTEM, USER, ASSISTANT],
        [SYSTEM, {"role": "user", "content": "Why?"}],
        [{"role": "user", "content": "When?"}],
    ]
    assert [r.answer for r in found] == ["", "So.", ""]
    assert [r.checks for r in found] == [[], [{"kind": "max_words", "n": 3}], []]
    assert [r.where for r in found] == [source.removeprefix("path:") + w for w in where]
    assert [r.id.removeprefix(f"{tmp_path}/") for r in found] == ids


def test_a_system_text_goes_in_front_of_messages_too(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": [USER], "system": "Be brief."}))
    assert sources.read(f"path:{tmp_path / 'x.jsonl'}")[0].messages == [SYSTEM, USER]


TURNS = "allowed is a system message, or none, then user and assistant by turns"
BAD_ROWS = [
    (3, "a number; allowed is an object with messages or prompt"),
    ({"text": "a"}, "neither messages nor prompt"),
    ({"prompt": ["a"]}, "prompt is a list; allowed is a string"),
    ({"prompt": " \n"}, "prompt is empty"),
    ({"prompt": "\ud83d"}, "prompt has half a surrogate pair at character 0"),
    ({"prompt": "a", "system": 1}, "system is a number; allowed is a string"),
    ({"prompt": "a", "id": True}, "id is true or false; allowed is a string or a number"),
    ({"prompt": "a", "answer": ""}, "answer is empty"),
    ({"prompt": "a", "checks": ["short"]}, "checks is not a list of objects such as"),
    ({"prompt": "a", "checks": [{"n": 3}]}, "checks is not a list of objects such as"),
    ({"messages": "a"}, "messages is a string; allowed is a list of objects"),
    ({"messages": [USER, "a"]}, "messages is a list that holds other things than objects"),
    ({"messages": []}, "no user message"),
    ({"messages": [SYSTEM]}, "no user message"),
    (
        {"messages": [{"role": "tool", "content": "a"}]},
        "messages[0].role is 'tool'; allowed are system, user, assistant",
    ),
    ({"messages": [{"role": [], "content": "a"}]}, "messages[0].role is []; allowed are system, user, assistant"),
    ({"messages": [{"content": "a"}]}, "messages[0].role is None; allowed are"),
    ({"messages": [USER, SYSTEM]}, f"messages[1].role is 'system' where 'assistant' is expected; {TURNS}"),
    ({"messages": [SYSTEM, SYSTEM, USER]}, f"messages[1].role is 'system' where 'user' is expected; {TURNS}"),
    ({"messages": [USER, USER]}, f"messages[1].role is 'user' where 'assistant' is expected; {TURNS}"),
    ({"messages": [ASSISTANT, USER]}, f"messages[0].role is 'assistant' where 'user' is expected; {TURNS}"),
    ({"messages": [SYSTEM, USER], "system": "a"}, "system, and a system message in messages"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content is a list; allowed is a string"),
    ({"messages": [{"role": "user"}]}, "messages[0].content is missing or null; allowed is a string"),
    ({"messages": [USER, {"role": "assistant", "content": ""}]}, "messages[1].content is empty"),
]


def says(source):
    """The one line that reading a source ends in."""
    with pytest.raises(ValueError) as error:
        sources.read(source)
    assert type(error.value) in (ValueError, sources.TextError) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("row, message", BAD_ROWS)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, row, message):
    (tmp_path / "x.jsonl").write_text(f'{{"prompt": "fine"}}\n\n{json.dumps(row)}\n')
    assert says(f"path:{tmp_path / 'x.jsonl'}").startswith(f"{tmp_path / 'x.jsonl'}:3: {message}")


def test_a_bad_row_of_parquet_or_a_dataset_is_named_by_its_number(tmp_path):
    table = pa.table({"prompt": ["a"] * 1500 + [None]})
    (tmp_path / "set").mkdir()
    parquet.write_table(table, tmp_path / "set" / "train.parquet")
    file = tmp_path / "set" / "train.parquet"
    assert says(f"path:{file}") == f"{file} row 1501: neither messages nor prompt; one of them is needed"
    source = f"hf:{tmp_path / 'set'}:train"
    assert says(source) == f"{source} row 1501: neither messages nor prompt; one of them is needed"


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"prompt": "a"}\n{"prompt": "b"\n', ":2: not JSON (Expecting ',' delimiter: line 1 column 15 (char 14));"),
        (b'{"prompt": "a"}\n{"prompt": "\xe9"}\n', ":2: not UTF-8 (byte 12 of the line); allowed is UTF-8 text"),
        (b'\xff\xfe{\x00"\x00', ":1: not UTF-8 (byte 0 of the line)"),
        (b"[" * 100_000, ":1: not JSON ("),
        (b'[{"prompt": "a"}]', ":1: a list; allowed is an object with messages or prompt"),
    ],
)
def test_a_broken_line_is_named(tmp_path, content, message):
    (tmp_path / "x.jsonl").write_bytes(content)
    assert says(f"path:{tmp_path / 'x.jsonl'}").startswith(f"{tmp_path / 'x.jsonl'}{message}")


def test_lines_end_where_json_lines_end_and_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n' + '{"prompt": "b\u2028c"}'.encode())
    assert [r.messages[0]["content"] for r in sources.read(f"path:{tmp_path / 'x.jsonl'}")] == ["a", "b\u2028c"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.jsonl", b"\n \n", "it has no rows"),
        ("x.jsonl", None, "there is no such file"),
        ("x.csv", b"prompt\na\n", "allowed are files that end in .jsonl or .parquet"),
        ("x.parquet", b"PAR1 no PAR1", "not readable as Parquet ("),
        ("x.parquet", b"", "not readable as Parquet ("),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = says(f"path:{tmp_path / name}")
    assert str(tmp_path / name) in said and message in said


def test_parquet_without_rows_or_without_the_columns(tmp_path):
    parquet.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    assert "empty.parquet: it has no rows" in says(f"path:{tmp_path / 'empty.parquet'}")
    parquet.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "other.parquet")
    assert "its columns are text, label; needed is messages or prompt" in says(f"path:{tmp_path / 'other.parquet'}")


@pytest.mark.parametrize(
    "rest, expected",
    [
        ("org/name:train", ("org/name", None, None, "train")),
        ("org/name@refs/pr/1:test", ("org/name", None, "refs/pr/1", "test")),
        ("name:config:train[:10%]", ("name", "config", None, "train[:10%]")),
        ("name@v1:config:train+test", ("name", "config", "v1", "train+test")),
    ],
)
def test_the_parts_of_a_hub_source(monkeypatch, rest, expected):
    def load_dataset(name, config, *, split, revision):
        assert (name, config, revision, split) == expected
        return datasets.Dataset.from_list([{"prompt": "a", "label": 3}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [(r.where, r.id) for r in sources.read(f"hf:{rest}")] == [(f"hf:{rest} row 1", f"{expected[0]}:1")]


@pytest.mark.parametrize("source", ["hf:name", "hf:name:", "hf::train", "hf:a:b:c:d", "s3:x", "x.jsonl", ""])
def test_a_source_of_no_known_form(source):
    assert says(source) == f"data source {source!r}: allowed are {sources.FORMS}"


def test_a_missing_split_or_config_of_a_dataset(tmp_path):
    as_dataset(tmp_path)
    folder = tmp_path / "set"
    assert says(f"hf:{folder}:train").startswith(
        f'data source hf:{folder}:train: Unknown split "train". Should be one of'
    )
    assert "BuilderConfig 'c' not found. Available: ['default']; check the name" in says(f"hf:{folder}:c:validation")


def test_errors_of_a_library_are_one_line(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise datasets.exceptions.DatasetGenerationError("An error occurred") from OSError("\n disk full.\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert says("hf:a:b").startswith("data source hf:a:b: disk full; check the name, the split, the network and")


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    """In a process of its own, as the libraries read the variable when they are imported."""
    code = "from camopd_jax import sources; sources.read('hf:nobody/nothing:train')"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "camopd_jax.sources.TextError: data source hf:nobody/nothing:train: Couldn't reach 'nobody/nothing' on the Hub"
    )
    assert last.endswith("check the name, the split, the network and, for a private dataset, the token in HF_TOKEN")
