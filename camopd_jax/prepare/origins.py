"""Where the rows of a published dataset come from, the hub or files of a mirror: batches, from any place on."""

import functools
import glob
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from camopd_jax import sources
from camopd_jax.sources import TextError

FORMS = "hf:NAME[@REVISION][:CONFIG]:SPLIT, hf:NAME[@REVISION]:FILE, path:FILE, path:DIR, path:PATTERN"
SUFFIXES = (".jsonl", ".json", ".parquet")
BATCH = 1000  # rows
CHUNK = 1 << 20  # characters of a JSON array that are read at a time
LARGEST = 1 << 26  # characters of one of its items
NOT_CHECKED = "not checked here"

Place = object  # where a reader goes on: JSON
Batches = Iterator[tuple[list[dict], Place]]  # rows, and the place after them


@dataclass(frozen=True)
class Origin:
    """An opened source of rows."""

    name: str  # that the recipe has for it
    source: str  # as it was given
    revision: str | None  # the commit of the hub; None: local files
    licence: str  # as its card has it
    files: list[tuple[str, int]]  # local files and their bytes
    batches: Callable[
        [Place | None], Batches
    ]  # the rows from a place on, with the wanted columns; None: from the first


def open_(
    name: str, source: str, wanted: Sequence[str], columns: dict[str, str], revision: str | None = None
) -> Origin:  # fmt: skip
    """Open a source, of which nothing is read yet but its description.

    Args:
      name: of the source, as a user's --column=NAME.WANTED=FOUND has it.
      wanted: columns that the rows get; all must be there.
      columns: FOUND of such a column, where it has another name; "" where there is none and its value is null.
      revision: the commit of an earlier part of the work, which goes before what `source` says.

    Raises:
      ValueError: one line: the source is of no known form, is not there, or cannot be reached.
    """
    names = {column: columns.get(column, column) for column in wanted}
    scheme, _, rest = source.partition(":")
    if scheme == "path":
        files = _files(source, rest)
        sizes = [(str(f), f.stat().st_size) for f in files]
        return Origin(name, source, None, NOT_CHECKED, sizes, functools.partial(_of_files, name, source, files, names))
    match = sources.HUB.fullmatch(rest) if scheme == "hf" else None
    if match is None:
        raise ValueError(f"--{name}={source}: allowed are {FORMS}")
    where = match.groupdict()
    commit, licence = describe(source, where["name"], revision or where["revision"])
    if where["split"].endswith(SUFFIXES):
        files = [_download(source, where["name"], commit, where["split"])]
        batches = functools.partial(_of_files, name, source, files, names)
    else:
        place = (where["name"], where["config"], where["split"], commit)
        batches = functools.partial(_of_hub, name, source, place, names)
    return Origin(name, source, commit, licence, [], batches)


def describe(source: str, name: str, revision: str | None) -> tuple[str, str]:
    """The commit that a revision of a hub dataset is now, and the licence that its card states."""
    from huggingface_hub import HfApi  # only those who use it pay for its import

    try:
        info = HfApi().dataset_info(name, revision=revision)
    except Exception as error:  # of many libraries, whose errors share no base
        raise sources.of_hub(source, error) from error
    licence = (info.card_data.to_dict() if info.card_data else {}).get("license")
    return info.sha, " ".join(licence) if isinstance(licence, list) else licence or "its card states none"


def _download(source: str, name: str, revision: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))
    except Exception as error:
        raise sources.of_hub(source, error) from error


def _of_hub(name: str, source: str, where: tuple, names: dict[str, str], place: Place | None) -> Batches:
    import datasets

    dataset, config, split, revision = where
    found = [column for column in names.values() if column]
    try:
        rows = datasets.load_dataset(dataset, config, split=split, revision=revision, streaming=True)
        if rows.column_names:  # of JSON they are not known before it is read
            _check(name, source, names, rows.column_names)
            rows = rows.select_columns(found)
        rows = rows.with_format("arrow")
        if place:
            rows.load_state_dict(place)
        for table in rows.iter(batch_size=BATCH):
            _check(name, source, names, table.column_names)
            yield _renamed(table.to_pylist(), names), rows.state_dict()
    except TextError:
        raise
    except Exception as error:  # of many libraries, whose errors share no base
        raise sources.of_hub(source, error) from error


def _files(source: str, rest: str) -> list[Path]:
    path = Path(rest).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
    else:
        found = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    if not found or not all(p.suffix in SUFFIXES for p in found):
        raise ValueError(
            f"data source {source}: no file is there that ends in {', '.join(SUFFIXES)}; allowed is such a file, a "
            "directory that has some, or a pattern such as path:DIR/chat-*.parquet"
        )
    return found


def _of_files(name: str, source: str, files: list[Path], names: dict[str, str], place: Place | None) -> Batches:
    readers = {".jsonl": _jsonl, ".json": _array, ".parquet": _parquet}
    first, start = place or (0, None)
    for number, path in enumerate(files[first:], first):
        check = functools.partial(_check, name, f"path:{path}", names)
        try:
            for rows, inside in readers[path.suffix](path, start, names, check):
                yield _renamed(rows, names), [number, inside]
        except OSError as error:
            raise TextError(f"data source path:{path}", f"it cannot be read ({sources.reason(error)})") from error
        start = None


def _jsonl(path: Path, place: Place | None, names: dict[str, str], check: Callable) -> Batches:
    offset, number = place or (0, 0)
    with path.open("rb") as file:
        file.seek(offset)
        rows = []
        for line in file:
            line = line.removeprefix(b"\xef\xbb\xbf") if not number else line
            number += 1
            if line.strip():
                rows.append(_object(sources.json_of(line, f"{path}:{number}"), f"{path}:{number}"))
            if len(rows) == BATCH:
                yield _seen(rows, place, check), [file.tell(), number]
                rows, place = [], [file.tell(), number]
        if rows:
            yield _seen(rows, place, check), [file.tell(), number]


def _array(path: Path, place: Place | None, names: dict[str, str], check: Callable) -> Batches:
    """One array of objects, which is never in memory as a whole."""
    done, number, rows = place or 0, 0, []
    for item in _items(path):
        number += 1
        if number <= done:
            continue
        rows.append(_object(item, f"{path} item {number}"))
        if len(rows) == BATCH:
            yield _seen(rows, place, check), number
            rows, place = [], number
    if rows:
        yield _seen(rows, place, check), number


def _items(path: Path) -> Iterator[object]:
    decoder, text, at, number = json.JSONDecoder(), "", 0, 0
    with path.open(encoding="utf-8-sig") as file:
        try:
            text = file.read(CHUNK).lstrip()
            if not text.startswith("["):
                raise ValueError(f"{path}: no array; allowed is one of objects, or .jsonl with an object a line")
            at = 1
            while True:
                at = _after(text, at)
                if text[at : at + 1] == "]":
                    return
                try:
                    item, end = decoder.raw_decode(text, at)
                except (ValueError, RecursionError) as error:
                    more = file.read(max(CHUNK, len(text) - at))
                    if not more or len(text) - at > LARGEST:
                        why = sources.reason(error)
                        raise ValueError(f"{path} item {number + 1}: not JSON ({why}); allowed is an object") from error
                    text, at = text[at:] + more, 0
                    continue
                at, number = end, number + 1
                yield item
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 after item {number}; allowed is UTF-8 text") from error


def _after(text: str, at: int) -> int:
    """The place of what follows white space and commas."""
    while text[at : at + 1] in tuple(" \t\r\n,"):
        at += 1
    return at


def _parquet(path: Path, place: Place | None, names: dict[str, str], check: Callable) -> Batches:
    import pyarrow
    from pyarrow import parquet

    done, before = place or 0, 0
    try:
        file = parquet.ParquetFile(path)
        check(file.schema_arrow.names)
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if before + rows <= done:
                before += rows
                continue
            for batch in file.iter_batches(BATCH, [group], [column for column in names.values() if column]):
                skipped = min(max(done - before, 0), len(batch))
                before += len(batch)
                if skipped < len(batch):
                    yield batch.slice(skipped).to_pylist(), before
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise TextError(f"data source path:{path}", f"not readable as Parquet ({sources.reason(error)})") from error


def _object(row: object, where: str) -> dict:
    if not isinstance(row, dict):
        raise TextError(where, "no JSON object; allowed is one with a value for each column")
    return row


def _seen(rows: list[dict], place: Place | None, check: Callable) -> list[dict]:
    if place is None:  # rows of JSON may each lack columns that are null
        check(dict.fromkeys(column for row in rows for column in row))
    return rows


def _check(name: str, where: str, names: dict[str, str], found: Iterable[str]) -> None:
    found = list(found)
    for wanted, column in names.items():
        if column and column not in found:
            raise TextError(
                f"--{name}, {where}",
                f"there is no column {column!r}; its columns are {', '.join(found) or 'none'}. If {wanted} has another "
                f"name there, say --column={name}.{wanted}=COLUMN",
            )


def _renamed(rows: list[dict], names: dict[str, str]) -> list[dict]:
    return [{wanted: row.get(column) if column else None for wanted, column in names.items()} for row in rows]
