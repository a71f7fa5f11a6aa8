"""Rows of CSV files, plain or gzip, one at a time, with the line where each begins."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from camopd_jax.sources import TextError

_LONGEST = 2**31 - 1  # characters of a field; the csv module's own limit is 131,072, which notes pass
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as `surrogateescape` reads them


def find(directory: Path, name: str, needed: bool = True) -> Path | None:
    """NAME or NAME.gz in a directory.

    Raises:
      ValueError: neither is there, and it is needed.
    """
    for file in (directory / name, directory / f"{name}.gz"):
        if file.is_file():
            return file
    if needed:
        raise ValueError(f"{directory}: there is neither {name} nor {name}.gz in it; name the directory that has it")
    return None


def rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """FILE:LINE where each row begins, and the columns asked for, by their names in lower case.

    Raises:
      ValueError: the file lacks a column, a row is not as long as the header, or it is no CSV in UTF-8.
    """
    csv.field_size_limit(_LONGEST)  # of the process; to put it back would cut short who reads beside this one
    try:
        with _opened(file) as text:
            yield from _rows(file, text, columns)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: it cannot be read to its end ({error}); fetch it again") from error


def decoded(text: str, where: str, file: Path) -> str:
    """A text that was read with `surrogateescape`, if all its bytes were UTF-8.

    Raises:
      ValueError: they were not; with the byte, and the command that converts a file in Latin-1.
    """
    found = None if text.isascii() else _ESCAPED.search(text)
    if found:
        raise ValueError(
            f"{where}: byte 0x{ord(found[0]) - 0xDC00:02x} is not UTF-8; if the file is in Latin-1, convert it: "
            f"iconv -f LATIN1 -t UTF-8 {file.name} > utf8-{file.name}"
        )
    return text


def _opened(file: Path) -> io.TextIOWrapper:
    raw = gzip.open(file) if file.suffix == ".gz" else file.open("rb")
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _rows(file: Path, text: io.TextIOWrapper, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.reader(text, strict=True)
    line = 1
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if missing := [name for name in columns if name not in header]:
            raise ValueError(f"{file}:1: no column {', '.join(missing)}; its columns are {', '.join(header) or 'none'}")
        places = [(name, header.index(name)) for name in columns]
        line = reader.line_num + 1
        for row in reader:
            where, line = f"{file}:{line}", reader.line_num + 1
            if not row:
                continue
            if len(row) != len(header):
                raise TextError(where, f"{len(row)} fields; allowed are the {len(header)} of the header")
            yield where, {name: decoded(row[i], f"{where}: column {name}", file) for name, i in places}
    except csv.Error as error:
        raise TextError(f"{file}:{line}", f"not CSV ({error}); allowed is what PhysioNet publishes") from error
