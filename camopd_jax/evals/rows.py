"""The rows of a published test set, from a file or from the hub, as they are: small enough to be read at once."""

import json
from collections.abc import Sequence
from pathlib import Path

from camopd_jax import shown, sources

FORMS = "path:FILE.jsonl, path:FILE.json, path:FILE.parquet, hf:NAME[@REVISION][:CONFIG]:SPLIT, hf:NAME:FILE.json"
SUFFIXES = (".jsonl", ".json", ".parquet")


def read(source: str, columns: Sequence[str], flag: str) -> list[tuple[str, dict]]:
    """Where each row stands (FILE:LINE, or the source and the row, counted from 1), and the row.

    Args:
      columns: that every row must have; of others no more is known.
      flag: of the command line that names the source.

    Raises:
      ValueError: one line: the source is of no known form, cannot be read, has no rows, or lacks a column.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "path":
        found = _file(Path(rest).expanduser(), source, flag)
    elif scheme == "hf" and 1 <= rest.count(":") <= 2:
        found = _hub(source, rest, flag)
    else:
        raise ValueError(f"--{flag}={source}: allowed are {FORMS}")
    if not found:
        raise ValueError(f"--{flag}={source}: it has no rows")
    for where, row in found:
        if not isinstance(row, dict):
            raise ValueError(f"{where}: no JSON object; allowed is one with the columns {', '.join(columns)}")
        if lacking := [name for name in columns if row.get(name) is None]:
            has = ", ".join(map(str, row)) or "none"
            raise ValueError(f"{where}: there is no column {lacking[0]!r}, or it is null; the columns are {has}")
    return found


def _file(path: Path, source: str, flag: str) -> list[tuple[str, object]]:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--{flag}={source}: allowed are files that end in {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet  # only those who use it pay for its import

            rows = parquet.read_table(path).to_pylist()
            return [(f"{path} row {n}", row) for n, row in enumerate(rows, 1)]
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # of pyarrow too
        raise ValueError(f"--{flag}={source}: it cannot be read ({sources.reason(error)})") from None
    if path.suffix == ".json":
        rows = _parsed(text, str(path), "an array of objects")
        if not isinstance(rows, list):
            raise ValueError(f"{path}: no array; allowed is an array of objects")
        return [(f"{path} item {n}", row) for n, row in enumerate(rows, 1)]
    lines = [(f"{path}:{n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [(where, _parsed(line, where, "one object a line")) for where, line in lines]


def _hub(source: str, rest: str, flag: str) -> list[tuple[str, object]]:
    (name, _, revision), *middle, split = rest.split(":")[0].partition("@"), *rest.split(":")[1:]
    try:
        if split.endswith(SUFFIXES):
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(name, split, repo_type="dataset", revision=revision or None))
        else:
            import datasets

            rows = datasets.load_dataset(name, *middle, split=split, revision=revision or None)
            return [(f"{source} row {n}", row) for n, row in enumerate(rows, 1)]
    except Exception as error:  # of many libraries, whose errors share no base
        raise ValueError(
            f"--{flag}={source}: {shown.line(sources.reason(error))}; check the name, the split and the network, or "
            "give a file: path:FILE"
        ) from None
    return _file(path, source, flag)


def _parsed(text: str, where: str, allowed: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({sources.reason(error)}); allowed is {allowed}") from None
