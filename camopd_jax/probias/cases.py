"""Notes from CodiEsp (human-coded cases, CC BY 4.0) and from any JSONL file."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from camopd_jax.probias import tables
from camopd_jax.probias.codes import normalised
from camopd_jax.probias.notes import Entry, Found, Spool, distinct
from camopd_jax.sources import TextError

SPLITS = ("train", "dev", "test")
LANGUAGES = ("en", "es")
NO_CODE = "notes without a code"
REPEATED = "rows that repeat another one"


def jsonl(file: Path, system: str, spool: Spool) -> Found:
    """Objects with id, text, codes and, where they are known, patient (default: the id) and split.

    A note without codes is left out and counted: it was not coded, which is no statement that nothing applies.

    Raises:
      ValueError: FILE:LINE, what is wrong with it, and what is allowed.
    """
    rows = ((where, row, row.get("text")) for where, row in _objects(file))
    return _found(rows, system, spool, file)


def codiesp(path: Path, language: str, spool: Spool) -> Found:
    """Cases of CodiEsp with their diagnoses in ICD-10, from a JSONL file or from a directory as it was published.

    The JSONL has id, split, text_en, text_es, codes; a directory has, of each of train, dev and test that is there,
    SPLIT/SPLITD.tsv (case and code a line) and SPLIT/text_files[_en]/CASE.txt. The English texts were translated by
    machine.

    Raises:
      ValueError: FILE:LINE, what is wrong with it, and what is allowed.
    """
    if language not in LANGUAGES:
        raise ValueError(f"source codiesp:{path}:{language}: allowed languages are {', '.join(LANGUAGES)}")
    if path.is_dir():
        return _found(_published(path, language), "icd10-diagnosis", spool, path)
    rows = ((where, row, row.get(f"text_{language}")) for where, row in _objects(path))
    return _found(rows, "icd10-diagnosis", spool, path)


def text_of(file: Path) -> str:
    """The text of one note in a file of its own.

    Raises:
      ValueError: there is no such file, it is empty, or it is not UTF-8.
    """
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file; allowed is a text file with one note")
    text = tables.decoded(file.read_bytes().decode("utf-8-sig", "surrogateescape"), str(file), file)
    if not text.strip():
        raise ValueError(f"{file}: it is empty; allowed is a text file with one note")
    return text


def texts_of(file: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of the notes of a JSONL file; what else its objects have does not matter.

    Raises:
      ValueError: FILE:LINE, what is wrong with it, and what is allowed; or that there is no note.
    """
    where = None
    for where, row in _objects(file):
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise TextError(where, "the text is missing, empty or no string; allowed is a string with text")
        yield _word(row, "id", where), _whole(text, where)
    if where is None:
        raise ValueError(f"{file}: it has no notes; allowed is one object a line, with id and text")


def _found(rows: Iterator[tuple[str, dict, object]], system: str, spool: Spool, path: Path) -> Found:
    entries: dict[str, Entry] = {}
    kept: dict[str, tuple] = {}  # id -> what its row said
    spellings: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for where, row, text in rows:
        name = _word(row, "id", where)
        patient = name if row.get("patient") is None else _word(row, "patient", where)
        split = "" if row.get("split") is None else _word(row, "split", where)
        if split not in ("", *SPLITS):
            raise TextError(where, f"split {split!r}; allowed are {', '.join(SPLITS)}, or none in all rows")
        if not isinstance(text, str) or not text.strip():
            what = "empty" if isinstance(text, str) else "missing or no string"
            raise TextError(where, f"the text is {what}; allowed is a string with text")
        codes = _codes(row, where, system, spellings)
        said = (hash(text), codes, patient, split)
        if name in kept:
            if kept[name] != said:
                raise TextError(where, f"id {name!r} is that of another note; allowed is each id once")
            left_out[REPEATED] += 1
            continue
        kept[name] = said
        if codes:
            entries[name] = Entry(name, patient, codes, split, (spool.add(_whole(text, where)),))
        else:
            left_out[NO_CODE] += 1
    if entries and len({bool(e.split) for e in entries.values()}) > 1:
        raise ValueError(f"{path}: some rows have a split and some have none; allowed is one in all rows, or in none")
    return Found(tuple(entries.values()), dict(left_out), {}, icd10=system == "icd10-diagnosis")


def _codes(row: dict, where: str, system: str, spellings: dict[str, str]) -> tuple[str, ...]:
    codes = row.get("codes")
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise TextError(where, 'codes is no list of strings; allowed is such as ["E11.9", "I10"]')
    try:
        found = distinct([normalised(code, system) for code in codes])
    except ValueError as error:
        raise TextError(where, str(error)) from None
    for code in found if system == "text" else ():
        other = spellings.setdefault(code.upper().replace(".", ""), code)
        if other != code:
            raise TextError(
                where, f"code {code!r} is {other!r} elsewhere; say of which system they are, as in "
                "path:FILE.jsonl:icd10-diagnosis, or write each in one way",
            )  # fmt: skip
    return found


def _objects(file: Path) -> Iterator[tuple[str, dict]]:
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file}:{number}"
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            text = tables.decoded(line.decode("utf-8", "surrogateescape"), where, file)
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise TextError(where, f"not JSON ({error}); allowed is one object a line") from error
            if not isinstance(row, dict):
                raise TextError(where, "no object; allowed is one with id, text and codes")
            yield where, row


def _published(directory: Path, language: str) -> Iterator[tuple[str, dict, str]]:
    splits = [split for split in SPLITS if (directory / split / f"{split}D.tsv").is_file()]
    if not splits:
        raise ValueError(f"{directory}: none of train/trainD.tsv, dev/devD.tsv, test/testD.tsv is there")
    folder = "text_files_en" if language == "en" else "text_files"
    for split in splits:
        texts = directory / split / folder
        if not texts.is_dir():
            raise ValueError(f"{texts}: there is no such directory; it has the texts in {language!r}")
        codes = _lines(directory / split / f"{split}D.tsv")
        files = {file.stem: file for file in sorted(texts.glob("*.txt"))}
        for name, (where, _) in codes.items():
            if name not in files:
                raise TextError(where, f"there is no {texts / name}.txt")
        for name, file in files.items():
            where, found = codes.get(name, (f"{file}:1", []))
            yield where, {"id": name, "split": split, "codes": found}, text_of(file)


def _lines(file: Path) -> dict[str, tuple[str, list[str]]]:
    """Case -> where it first stands, and its codes."""
    found: dict[str, tuple[str, list[str]]] = {}
    lines = file.read_bytes().decode("utf-8-sig", "surrogateescape").splitlines()
    for number, line in enumerate(lines, 1):
        where = f"{file}:{number}"
        fields = tables.decoded(line, where, file).strip().split("\t")
        if fields == [""]:
            continue
        if len(fields) < 2:
            raise TextError(where, "one field; allowed are case and code with a tab between them")
        found.setdefault(fields[0].strip(), (where, []))[1].append(fields[1])
    return found


def _word(row: dict, field: str, where: str) -> str:
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise TextError(where, f"{field} is missing, empty or neither a string nor a whole number")
    return str(value).strip()


def _whole(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
        raise TextError(where, f"the text has half a surrogate pair at character {error.start}") from error
    return text
