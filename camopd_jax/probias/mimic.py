"""MIMIC-III and MIMIC-IV from a user's own copy: the discharge summaries of each admission and its codes."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from camopd_jax.probias import tables
from camopd_jax.probias.codes import normalised
from camopd_jax.probias.notes import Entry, Found, Span, Spool, distinct
from camopd_jax.sources import TextError

Noted = Iterator[tuple[str, dict[str, str], tuple]]  # where, the row, and its place in the order of the chart
_DATE = re.compile(r"\d{4}-\d\d-\d\d.*")
# Why a row or an admission is left out.
NO_ADMISSION, BLANK, TWICE = "notes without an admission", "blank notes", "notes that repeat another of their admission"
NO_CODE, NO_NOTE = "admissions with a note and no code", "admissions with codes and no discharge summary"
EMPTY_CODE = "rows of codes without a code"


@dataclass
class _Admission:
    patient: str
    notes: list[tuple[tuple, Span]]  # where it stands in the order of the chart, and its text
    texts: set[int]  # hashes


def mimic3(directory: Path, spool: Spool) -> Found:
    """The admissions of MIMIC-III: Reports and Addenda of CATEGORY Discharge summary in the order of the chart.

    Of one day a Report stands before an Addendum. ICD9_CODE is text, with its leading zeros; who reads it as a number
    gets other procedures, so the number of codes need not be the 8,921 of papers.

    Raises:
      ValueError: a file or column is missing, or a row is malformed (FILE:LINE).
    """
    left_out: Counter[str] = Counter()
    columns = ("row_id", "subject_id", "hadm_id", "chartdate", "charttime", "category", "description", "text")

    def notes() -> Noted:
        for where, row in tables.rows(tables.find(directory, "NOTEEVENTS.csv"), columns):
            if row["category"].strip() == "Discharge summary":
                later = row["description"].strip().lower() == "addendum"
                order = (_date(where, row["chartdate"]), row["charttime"], later, _number(where, row, "row_id"))
                yield where, row, order

    def codes() -> Iterator[tuple[str, str, str]]:
        for name, system in (("DIAGNOSES_ICD.csv", "icd9-diagnosis"), ("PROCEDURES_ICD.csv", "icd9-procedure")):
            for where, row in tables.rows(tables.find(directory, name), ("hadm_id", "icd9_code")):
                yield from _code(where, row["hadm_id"], row["icd9_code"], system, left_out)

    titles: dict[str, str] = {}
    for name, system in (("D_ICD_DIAGNOSES.csv", "icd9-diagnosis"), ("D_ICD_PROCEDURES.csv", "icd9-procedure")):
        if file := tables.find(directory, name, needed=False):
            titles |= _titles(tables.rows(file, ("icd9_code", "long_title")), "icd9_code", lambda row, s=system: s)
    return _joined(_admissions(notes(), spool, left_out), _assigned(codes()), left_out, titles, icd10=False)


def mimic4(directory: Path, version: str, spool: Spool) -> Found:
    """The admissions of MIMIC-IV (note/ and hosp/ of one directory) that are coded in ICD "9" or "10".

    Raises:
      ValueError: a file or column is missing, or a row is malformed (FILE:LINE).
    """
    if not (directory / "note").is_dir() or not (directory / "hosp").is_dir():
        raise ValueError(f"{directory}: needed are note/ of MIMIC-IV-Note and hosp/ of MIMIC-IV in it; links will do")
    left_out: Counter[str] = Counter()
    columns = ("subject_id", "hadm_id", "note_seq", "charttime", "text")
    system = {"diagnoses": f"icd{version}-diagnosis", "procedures": f"icd{version}-procedure"}

    def notes() -> Noted:
        for where, row in tables.rows(tables.find(directory / "note", "discharge.csv"), columns):
            yield where, row, (_date(where, row["charttime"]), _number(where, row, "note_seq"))

    def codes() -> Iterator[tuple[str, str, str]]:
        for kind in ("diagnoses", "procedures"):
            file = tables.find(directory / "hosp", f"{kind}_icd.csv")
            for where, row in tables.rows(file, ("hadm_id", "icd_code", "icd_version")):
                if _version(where, row) == version:
                    yield from _code(where, row["hadm_id"], row["icd_code"], system[kind], left_out)

    titles: dict[str, str] = {}
    for kind in ("diagnoses", "procedures"):
        if file := tables.find(directory / "hosp", f"d_icd_{kind}.csv", needed=False):
            titles |= _titles(
                tables.rows(file, ("icd_code", "icd_version", "long_title")), "icd_code",
                lambda row, s=system[kind]: s if row["icd_version"].strip() == version else None,
            )  # fmt: skip
    return _joined(_admissions(notes(), spool, left_out), _assigned(codes()), left_out, titles, icd10=version == "10")


def _admissions(notes: Noted, spool: Spool, left_out: Counter[str]) -> dict[str, _Admission]:
    found: dict[str, _Admission] = {}
    for where, row, order in notes:
        patient, admission, text = row["subject_id"].strip(), row["hadm_id"].strip(), row["text"].strip()
        if not admission or not text:
            left_out[BLANK if admission else NO_ADMISSION] += 1
            continue
        if not patient:
            raise TextError(where, "subject_id is empty; allowed is the patient's number")
        entry = found.setdefault(admission, _Admission(patient, [], set()))
        if entry.patient != patient:
            raise TextError(where, f"admission {admission} of patients {entry.patient} and {patient}; allowed is one")
        if hash(text) in entry.texts:
            left_out[TWICE] += 1
            continue
        entry.texts.add(hash(text))
        entry.notes.append((order, spool.add(text)))
    return found


def _assigned(codes: Iterator[tuple[str, str, str]]) -> dict[str, list[str]]:
    """Admission -> its codes; equal codes are one object, as there are millions of rows."""
    found, one = defaultdict(list), {}
    for admission, code, system in codes:
        key = (code, system)
        if key not in one:
            one[key] = code
        found[admission].append(one[key])
    return found


def _joined(
    admissions: dict[str, _Admission], codes: dict[str, list[str]], left_out: Counter[str], titles: dict[str, str],
    icd10: bool,
) -> Found:  # fmt: skip
    left_out[NO_CODE] += len(admissions.keys() - codes.keys())
    left_out[NO_NOTE] += len(codes.keys() - admissions.keys())
    entries = tuple(
        Entry(name, a.patient, distinct(codes[name]), "", tuple(span for _, span in sorted(a.notes)))
        for name, a in admissions.items()
        if name in codes
    )
    return Found(entries, {why: n for why, n in left_out.items() if n}, titles, icd10)


def _code(where: str, admission: str, code: str, system: str, left_out: Counter[str]) -> Iterator[tuple[str, str, str]]:
    if not code.strip():  # MIMIC-III has some: an admission of which nothing was coded
        left_out[EMPTY_CODE] += 1
        return
    if not admission.strip():
        raise TextError(where, "hadm_id is empty; allowed is the number of an admission")
    yield admission.strip(), _normalised(where, code, system), system


def _normalised(where: str, code: str, system: str) -> str:
    try:
        return normalised(code, system)
    except ValueError as error:
        raise TextError(where, str(error)) from None


def _titles(rows: Iterator[tuple[str, dict]], column: str, system_of: Callable[[dict], str | None]) -> dict[str, str]:
    return {
        _normalised(where, row[column], system): row["long_title"].strip()
        for where, row in rows
        if (system := system_of(row))
    }


def _date(where: str, value: str) -> str:
    if not _DATE.fullmatch(value.strip()):
        raise TextError(where, f"date {value!r}; allowed is YYYY-MM-DD, with or without a time")
    return value.strip()


def _number(where: str, row: dict[str, str], column: str) -> int:
    if not row[column].strip().isdecimal():
        raise TextError(where, f"{column} {row[column]!r}; allowed is a whole number")
    return int(row[column])


def _version(where: str, row: dict[str, str]) -> str:
    version = row["icd_version"].strip()
    if version not in ("9", "10"):
        raise TextError(where, f"icd_version {version!r}; allowed are 9, 10")
    return version
