"""Conversations from a user's own data: a JSONL or Parquet file, or a dataset of the Hugging Face hub.

One row is one conversation, with these fields; all others are ignored, and null counts as missing:

- `messages`: [{"role": "system" | "user" | "assistant", "content": text}, ...], the system message, if any, first, then
  user and assistant by turns; or `prompt`: the text of one user message (ignored beside `messages`)
- `system`: the text of a system message to put in front
- `id`: a string or number that names the row in messages and metrics
- `answer`: the reference response; without it, the last assistant message of `messages` is
- `checks`: programmatic checks of a response, [{"kind": ..., ...}, ...] (evals/checks.py)
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from camopd_jax import hosts, shown

FORMS = "path:FILE.jsonl, path:FILE.parquet, hf:NAME[@REVISION][:CONFIG]:SPLIT"
FIELDS = ("id", "messages", "prompt", "system", "answer", "checks")
ROLES = ("system", "user", "assistant")
HUB = re.compile(r"(?P<name>[^:@]+)(@(?P<revision>[^:@]+))?(:(?P<config>[^:]+))?:(?P<split>[^:\[]+(\[.*\])?)")


@dataclass(frozen=True)
class Record:
    """One conversation as it was given; it may end in an assistant message."""

    where: str  # FILE:LINE, or the source and the row, counted from 1
    id: str
    messages: list[dict]
    answer: str  # of the field of that name; "" without one
    checks: list[dict]


class TextError(ValueError):
    """What is wrong with a row, which may quote it; `where` names the row, and quotes nothing but its id."""

    def __init__(self, where: str, what: str):
        super().__init__(f"{where}: {what}")
        self.where = where


def read(source: str) -> list[Record]:
    """All rows of a path: or hf: source, checked, in order; of several processes each reads its share of them.

    Raises:
      ValueError: one line that says where and what is wrong, and what is allowed.
    """

    def items(which: slice) -> list[hosts.Item]:
        return [(record and dataclasses.asdict(record), hosts.EMPTY) for record in _share(source, which)]

    records = [Record(**fields) for fields, _ in hosts.shared(items) if fields]
    if not records:
        raise ValueError(f"data source {source}: it has no rows; at least one conversation is needed")
    return records


def _share(source: str, which: slice) -> Iterator[Record | None]:
    """Some rows of a source; None for a blank line."""
    scheme, _, rest = source.partition(":")
    if scheme == "path":
        rows = _file(source, Path(rest).expanduser(), which)
    elif scheme == "hf" and (match := HUB.fullmatch(rest)):
        rows = _hub(source, which, **match.groupdict())
    else:
        raise ValueError(f"data source {source!r}: allowed are {FORMS}")
    return (_checked(*row) if row else None for row in rows)


Rows = Iterator[tuple[object, str, str] | None]  # fields, where, id of a row that has none


def _file(source: str, path: Path, which: slice) -> Rows:
    rows = {".jsonl": _jsonl, ".parquet": _parquet}.get(path.suffix.lower())
    if rows is None:
        raise ValueError(f"data source {source!r}: allowed are files that end in .jsonl or .parquet")
    if not path.is_file():
        raise ValueError(f"data source {source}: there is no such file")
    return rows(path, which)


def _jsonl(path: Path, which: slice) -> Rows:
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ValueError(f"data source path:{path}: it cannot be read ({reason(error)})") from error
    for number, line in list(enumerate(lines, 1))[which]:
        where = f"{path}:{number}"
        yield (json_of(line, where), where, f"{path.name}:{number}") if line.strip() else None


def json_of(line: bytes, where: str) -> object:
    """What a line of JSON holds.

    Raises:
      ValueError: one line that begins with `where`.
    """
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte {error.start} of the line); allowed is UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({reason(error)}); allowed is one object a line") from error


def _parquet(path: Path, which: slice) -> Rows:
    import pyarrow  # only those who use it pay for its import
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
        columns = _columns(f"data source path:{path}", table.schema_arrow.names)
        before = 0
        for batch in table.iter_batches(batch_size=1000, columns=columns):
            mine = range(table.metadata.num_rows)[which]
            mine = [i for i in range(before, before + len(batch)) if i in mine]
            for i, row in zip(mine, batch.take([i - before for i in mine]).to_pylist(), strict=True):
                yield row, f"{path} row {i + 1}", f"{path.name}:{i + 1}"
            before += len(batch)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TextError(f"data source path:{path}", f"not readable as Parquet ({reason(error)})") from error


def _hub(source: str, which: slice, name: str, revision: str | None, config: str | None, split: str) -> Rows:
    import datasets  # only those who use it pay for its import

    try:
        dataset = datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # of many libraries, whose errors share no base
        if isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__:
            error = error.__cause__
        raise of_hub(source, error) from error
    columns = _columns(f"data source {source}", dataset.column_names)
    numbers = range(len(dataset))[which]
    tables = dataset.select(numbers).select_columns(columns).with_format("arrow").iter(batch_size=1000)
    rows = itertools.chain.from_iterable(table.to_pylist() for table in tables)
    for i, row in zip(numbers, rows, strict=True):
        yield row, f"{source} row {i + 1}", f"{name}:{i + 1}"


def of_hub(source: str, error: BaseException) -> TextError:
    """What a library says of a dataset of the hub, in one line, with what to check."""
    return TextError(
        f"data source {source}",
        f"{shown.line(reason(error))}; check the name, the split, the network and, for a private dataset, the token in "
        "HF_TOKEN",
    )


def _columns(where: str, names: list[str]) -> list[str]:
    """The columns that are used; others, such as images, are not read at all."""
    if not {"messages", "prompt"} & set(names):
        raise ValueError(f"{where}: its columns are {', '.join(names) or 'none'}; needed is messages or prompt")
    return [name for name in FIELDS if name in names]


def reason(error: BaseException) -> str:
    """An error of a library in one line."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _checked(row: object, where: str, default_id: str) -> Record:
    try:
        return _record(row, where, default_id)
    except ValueError as error:
        raise TextError(where, str(error).removeprefix(f"{where}: ")) from None


def _record(row: object, where: str, default_id: str) -> Record:
    """The row as a Record, or a ValueError that says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {_kind(row)}; allowed is an object with messages or prompt")
    row = {name: row[name] for name in FIELDS if row.get(name) is not None}
    if "messages" in row:
        messages = _messages(row["messages"], where)
    elif "prompt" in row:
        messages = [{"role": "user", "content": _text(row["prompt"], where, "prompt")}]
    else:
        raise ValueError(f"{where}: neither messages nor prompt; one of them is needed")
    if "system" in row:
        if messages[0]["role"] == "system":
            raise ValueError(f"{where}: system, and a system message in messages; allowed is one of them")
        messages.insert(0, {"role": "system", "content": _text(row["system"], where, "system")})
    name = row.get("id", default_id)
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        raise ValueError(f"{where}: id is {_kind(name)}; allowed is a string or a number")
    answer = _text(row["answer"], where, "answer") if "answer" in row else ""
    return Record(where, str(name), messages, answer, _checks(row.get("checks", []), where))


def _messages(messages: object, where: str) -> list[dict]:
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        found = _kind(messages) if not isinstance(messages, list) else "a list that holds other things than objects"
        raise ValueError(f"{where}: messages is {found}; allowed is a list of objects with role and content")
    for number, message in enumerate(messages):
        if message.get("role") not in ROLES:
            role = message.get("role")
            raise ValueError(f"{where}: messages[{number}].role is {role!r}; allowed are {', '.join(ROLES)}")
    turns = [m["role"] for m in messages if m["role"] != "system"]
    if "user" not in turns:
        raise ValueError(f"{where}: no user message; at least one is needed")
    first = int(messages[0]["role"] == "system")
    for number, message in enumerate(messages[first:], first):
        expected = ROLES[1 + (number - first) % 2]
        if message["role"] != expected:
            raise ValueError(
                f"{where}: messages[{number}].role is {message['role']!r} where {expected!r} is expected; allowed is a "
                "system message, or none, then user and assistant by turns"
            )
    return [
        {"role": m["role"], "content": _text(m.get("content"), where, f"messages[{number}].content")}
        for number, m in enumerate(messages)
    ]


def _text(value: object, where: str, field: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {field} is {_kind(value)}; allowed is a string")
    if not value.strip():
        raise ValueError(f"{where}: {field} is empty; allowed is a string with text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair, which no tokenizer takes
        raise ValueError(f"{where}: {field} has half a surrogate pair at character {error.start}") from error
    return value


def _checks(checks: object, where: str) -> list[dict]:
    listed = isinstance(checks, list) and all(isinstance(c, dict) and isinstance(c.get("kind"), str) for c in checks)
    if not listed:
        raise ValueError(f'{where}: checks is not a list of objects such as {{"kind": "max_words", "n": 20}}')
    values = [x for c in checks for v in c.values() for x in (v if isinstance(v, list) else [v])]
    if any(isinstance(x, dict | list) for x in values):  # however deep: what copies it goes down as far
        raise ValueError(
            f"{where}: checks has an argument that is nested; allowed are text, numbers, and lists of them"
        )
    # The checks of a Parquet column all have the fields of any; those of other kinds are null.
    return [{key: value for key, value in check.items() if value is not None} for check in checks]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "missing or null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
