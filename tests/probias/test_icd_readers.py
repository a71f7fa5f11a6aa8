"""Notes and codes out of files: hand-written ones in the shape of MIMIC and CodiEsp, and what is wrong with a row."""

import gzip
import json
import re
import tracemalloc

import pytest

from camopd_jax.probias import cases, corpus, mimic, protocols
from camopd_jax.probias.codes import normalised, truncated
from camopd_jax.probias.notes import Notes, Spool

GIVEN = protocols.Protocol("given", "", 10, 50, (0.7, 0.1, 0.2), 0)
EVENTS = "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,DESCRIPTION,CGID,ISERROR,TEXT"
# An admission with a report and two addenda, out of order; another with two reports; what is no discharge summary.
NOTES3 = """\
11,7,100,2101-01-05,,,Discharge summary,Addendum,,,"second
addendum, with a ""quote\"""
12,7,100,2101-01-03,,,Discharge summary,Addendum,,,first addendum
13,7,100,2101-01-03,,,Discharge summary,Report,,,the report
14,7,100,2101-01-03,,,Nursing,Report,,,not this one
15,8,200,2102-02-02,,,Discharge summary,Report,,,report A
16,8,200,2102-02-01,,,Discharge summary,Report,,,report B
17,8,200,2102-02-01,,,Discharge summary,Report,,,report B
18,9,300,2103-01-01,,,Discharge summary,Report,,,coded by nobody
19,9,,2103-01-01,,,Discharge summary,Report,,,of no admission
20,9,301,2103-01-01,,,Discharge summary,Report,,,"  "
"""
DIAGNOSES3 = """\
1,7,100,1,"0389"
2,7,100,2,"4019"
3,7,100,2,"4019"
4,7,100,3,"E8120"
5,8,200,1,"V1005"
6,8,200,2,"486"
7,7,100,4,
8,9,999,1,"4019"
"""
PROCEDURES3 = """\
1,7,100,1,"0331"
2,8,200,1,"966"
"""


def mimic3(directory, notes=NOTES3, diagnoses=DIAGNOSES3, procedures=PROCEDURES3):
    (directory / "NOTEEVENTS.csv").write_text(f"{EVENTS}\n{notes}")
    header = '"ROW_ID","SUBJECT_ID","HADM_ID","SEQ_NUM","ICD9_CODE"\n'
    (directory / "DIAGNOSES_ICD.csv").write_text(header + diagnoses)
    (directory / "PROCEDURES_ICD.csv").write_text(header + procedures)
    return directory


def table(found, spool):
    return [(n.id, n.patient, n.codes, n.text) for n in Notes(found.entries, spool)]


MIMIC3_TABLE = [
    ("100", "7", ("03.31", "038.9", "401.9", "E812.0"),
     'the report\nfirst addendum\nsecond\naddendum, with a "quote"'),
    ("200", "8", ("486", "96.6", "V10.05"), "report B\nreport A"),
]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_mimic3_is_the_table_that_was_written_by_hand(tmp_path, packed):
    mimic3(tmp_path)
    if packed:
        for file in list(tmp_path.glob("*.csv")):
            (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    spool = Spool(tmp_path)
    found = mimic.mimic3(tmp_path, spool)
    assert table(found, spool) == MIMIC3_TABLE
    assert found.left_out == {
        mimic.NO_ADMISSION: 1, mimic.BLANK: 1, mimic.TWICE: 1, mimic.NO_CODE: 1, mimic.NO_NOTE: 1, mimic.EMPTY_CODE: 1,
    }  # fmt: skip


def test_titles_of_mimic_are_taken_where_they_are(tmp_path):
    mimic3(tmp_path)
    (tmp_path / "D_ICD_DIAGNOSES.csv").write_text(
        "ROW_ID,ICD9_CODE,SHORT_TITLE,LONG_TITLE\n1,0389,Septicemia,All of it\n"
    )
    assert mimic.mimic3(tmp_path, Spool(tmp_path)).titles == {"038.9": "All of it"}


@pytest.mark.parametrize(
    "version, expected",
    [
        ("9", [("100", "7", ("038.9", "96.6"), "one\ntwo")]),
        ("10", [("200", "8", ("0DTJ4ZZ", "E11.9", "I10"), "three")]),
    ],
)
def test_mimic4_by_version(tmp_path, version, expected):
    (tmp_path / "note").mkdir()
    (tmp_path / "hosp").mkdir()
    notes = (
        "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n"
        "7-DS-2,7,100,DS,2,2180-05-07 00:00:00,,two\n7-DS-1,7,100,DS,1,2180-05-07 00:00:00,,one\n"
        "8-DS-1,8,200,DS,1,2180-05-07 00:00:00,,three\n"
    )
    (tmp_path / "note" / "discharge.csv.gz").write_bytes(gzip.compress(notes.encode()))
    (tmp_path / "hosp" / "diagnoses_icd.csv").write_text(
        "subject_id,hadm_id,seq_num,icd_code,icd_version\n7,100,1,0389 ,9\n8,200,1,E119,10\n8,200,2,I10,10\n"
    )
    (tmp_path / "hosp" / "procedures_icd.csv").write_text(
        "subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version\n7,100,1,,966,9\n8,200,1,,0DTJ4ZZ,10\n"
    )
    spool = Spool(tmp_path)
    found = mimic.mimic4(tmp_path, version, spool)
    assert table(found, spool) == expected
    assert found.icd10 == (version == "10")


def test_mimic4_without_one_of_its_two_parts(tmp_path):
    (tmp_path / "hosp").mkdir()
    with pytest.raises(ValueError, match="needed are note/ of MIMIC-IV-Note and hosp/ of MIMIC-IV in it"):
        mimic.mimic4(tmp_path, "10", Spool(tmp_path))


@pytest.mark.parametrize(
    "file, text, says",
    [
        ("DIAGNOSES_ICD.csv", "1,7,100,1,38.9\n", "DIAGNOSES_ICD.csv:2: code '38.9': its dot stands elsewhere"),
        ("DIAGNOSES_ICD.csv", "1,7,100,1,0389\n1,7,100,2,42\n", "DIAGNOSES_ICD.csv:3: code '42' is no icd9-diagnosis"),
        ("DIAGNOSES_ICD.csv", "1,7,,1,0389\n", "DIAGNOSES_ICD.csv:2: hadm_id is empty"),
        ("DIAGNOSES_ICD.csv", "1,7,100,0389\n", "DIAGNOSES_ICD.csv:2: 4 fields; allowed are the 5 of the header"),
        ("PROCEDURES_ICD.csv", "1,7,100,1,E812\n", "PROCEDURES_ICD.csv:2: code 'E812' is no icd9-procedure"),
        ("NOTEEVENTS.csv", "1,7,100,soon,,,Discharge summary,Report,,,x\n", "NOTEEVENTS.csv:2: date 'soon'"),
        ("NOTEEVENTS.csv", '1,7,1,2101-01-01,,,Discharge summary,Report,,,"a\nb"\n1,8,1,2101-01-01,,,Discharge summary,'
         "Report,,,c\n", "NOTEEVENTS.csv:4: admission 1 of patients 7 and 8"),
        ("NOTEEVENTS.csv", '1,7,100,2101-01-01,,,Discharge summary,Report,,,"open', "NOTEEVENTS.csv:2: not CSV"),
    ],
)  # fmt: skip
def test_a_bad_row_of_mimic_is_named(tmp_path, file, text, says):
    mimic3(tmp_path)
    header = (tmp_path / file).read_text().splitlines()[0]
    (tmp_path / file).write_text(f"{header}\n{text}")
    with pytest.raises(ValueError, match=re.escape(says)):
        mimic.mimic3(tmp_path, Spool(tmp_path))


def test_missing_files_and_columns_are_named(tmp_path):
    mimic3(tmp_path)
    (tmp_path / "PROCEDURES_ICD.csv").write_text("ROW_ID,HADM_ID\n")
    with pytest.raises(ValueError, match=r"PROCEDURES_ICD.csv:1: no column icd9_code; its columns are row_id, hadm_id"):
        mimic.mimic3(tmp_path, Spool(tmp_path))
    (tmp_path / "PROCEDURES_ICD.csv").unlink()
    with pytest.raises(ValueError, match=r"there is neither PROCEDURES_ICD.csv nor PROCEDURES_ICD.csv.gz in it"):
        mimic.mimic3(tmp_path, Spool(tmp_path))
    (tmp_path / "PROCEDURES_ICD.csv.gz").write_bytes(gzip.compress(b"ROW_ID,HADM_ID,ICD9_CODE\n1,2,0331\n")[:-12])
    with pytest.raises(ValueError, match=r"PROCEDURES_ICD.csv.gz: it cannot be read to its end"):
        mimic.mimic3(tmp_path, Spool(tmp_path))


def test_latin1_is_named_with_its_line_and_the_command(tmp_path):
    mimic3(tmp_path)
    row = "1,7,100,2101-01-01,,,Discharge summary,Report,,,fi\xe8vre\n"
    (tmp_path / "NOTEEVENTS.csv").write_bytes(f"{EVENTS}\n{row}".encode("latin-1"))
    with pytest.raises(ValueError, match=r"NOTEEVENTS.csv:2: column text: byte 0xe8 is not UTF-8; .*iconv -f LATIN1"):
        mimic.mimic3(tmp_path, Spool(tmp_path))
    (tmp_path / "notes.jsonl").write_bytes('{"id": 1}\n{"text": "fi\xe8vre"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"notes.jsonl:1: the text is missing"):
        cases.jsonl(tmp_path / "notes.jsonl", "text", Spool(tmp_path))
    (tmp_path / "notes.jsonl").write_bytes('{"text": "fi\xe8vre"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"notes.jsonl:1: byte 0xe8 is not UTF-8"):
        cases.jsonl(tmp_path / "notes.jsonl", "text", Spool(tmp_path))


def test_a_note_of_two_megabytes_is_read_whole(tmp_path):
    long = "word " * 400_000
    mimic3(tmp_path, f'1,7,100,2101-01-01,,,Discharge summary,Report,,,"{long}end"\n')
    spool = Spool(tmp_path)
    (note,) = Notes(mimic.mimic3(tmp_path, spool).entries, spool)
    assert note.text == f"{long}end"


def test_memory_holds_no_more_than_the_note_in_use(tmp_path):
    rows = [f'{i},7,{i},2101-01-01,,,Discharge summary,Report,,,"{i:06d}{"x" * 200_000}"' for i in range(100, 200)]
    mimic3(tmp_path, "\n".join(rows), "".join(f"1,7,{i},1,4019\n" for i in range(100, 200)))
    tracemalloc.start()
    try:
        spool = Spool(tmp_path)
        notes = Notes(mimic.mimic3(tmp_path, spool).entries, spool)
        assert sum(len(note.text) for note in notes) == 100 * 200_006
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_the_text_of_one_note(tmp_path):
    (tmp_path / "note.txt").write_bytes("\ufefffièvre\n".encode())
    assert cases.text_of(tmp_path / "note.txt") == "fièvre\n"
    (tmp_path / "latin.txt").write_bytes("fièvre".encode("latin-1"))
    (tmp_path / "empty.txt").write_text(" \n")
    for name, says in (
        ("latin", "latin.txt: byte 0xe8 is not UTF-8; .*iconv"),
        ("empty", "it is empty"),
        ("no", "no such"),
    ):
        with pytest.raises(ValueError, match=says):
            cases.text_of(tmp_path / f"{name}.txt")


def test_texts_leave_no_file_behind(tmp_path):
    spool = Spool(tmp_path)
    spans = [spool.add("héllo"), spool.add(""), spool.add("b")]
    assert spool.text(spans) == "héllo\n\nb" and spool.text(spans[::-1]) == "b\n\nhéllo"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "code, system, expected",
    [
        ("0389", "icd9-diagnosis", "038.9"), ("038.9", "icd9-diagnosis", "038.9"), ("486", "icd9-diagnosis", "486"),
        ("E8120", "icd9-diagnosis", "E812.0"), ("e812", "icd9-diagnosis", "E812"),
        ("V1005", "icd9-diagnosis", "V10.05"),
        ("0331", "icd9-procedure", "03.31"), ("966", "icd9-procedure", "96.6"),
        ("e119", "icd10-diagnosis", "E11.9"), ("E11.9", "icd10-diagnosis", "E11.9"), ("I10", "icd10-diagnosis", "I10"),
        ("S72001A", "icd10-diagnosis", "S72.001A"), ("0DTJ4ZZ", "icd10-procedure", "0DTJ4ZZ"), (" x-1 ", "text", "x-1"),
    ],
)  # fmt: skip
def test_a_code_has_one_spelling(code, system, expected):
    assert normalised(code, system) == expected


@pytest.mark.parametrize(
    "code, system", [("1", "icd9-diagnosis"), ("E11.9", "icd9-diagnosis"), ("03.312", "icd9-procedure"),
                     ("E1.19", "icd10-diagnosis"), ("0DTJ4Z", "icd10-procedure"), ("a b", "text"), ("", "text")],
)  # fmt: skip
def test_what_is_no_code_of_its_system(code, system):
    with pytest.raises(ValueError, match=r"code .*allowed"):
        normalised(code, system)


@pytest.mark.parametrize(
    "code, n, expected", [("E11.9", 3, "E11"), ("E11.65", 4, "E11.6"), ("E11.65", 0, "E11.65"), ("I10", 4, "I10"),
                          ("0DTJ4ZZ", 3, "0DT"), ("E812.0", 4, "E812")],
)  # fmt: skip
def test_codes_are_cut_without_counting_the_dot(code, n, expected):
    assert truncated(code, n) == expected


def write_rows(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_jsonl_rows(tmp_path):
    file = write_rows(
        tmp_path / "a.jsonl",
        {"id": 1, "text": "one", "codes": ["e119", "E11.9", "I10"]},
        {"id": "2", "text": "two", "codes": ["I10"], "patient": 7, "split": None, "more": "ignored"},
        {"id": "2", "text": "two", "codes": ["I10"], "patient": 7},
        {"id": "3", "text": "three", "codes": []},
    )
    spool = Spool(tmp_path)
    found = cases.jsonl(file, "icd10-diagnosis", spool)
    assert table(found, spool) == [("1", "1", ("E11.9", "I10"), "one"), ("2", "7", ("I10",), "two")]
    assert found.left_out == {cases.REPEATED: 1, cases.NO_CODE: 1}


@pytest.mark.parametrize(
    "row, says",
    [
        ({"id": "b", "text": " ", "codes": ["I10"]}, ":2: the text is empty"),
        ({"id": "b", "codes": ["I10"]}, ":2: the text is missing"),
        ({"text": "x", "codes": ["I10"]}, ":2: id is missing"),
        ({"id": "b", "text": "x", "codes": "I10"}, ":2: codes is no list of strings"),
        ({"id": "b", "text": "x", "codes": ["E119"]}, ":2: code 'E119' is 'E11.9' elsewhere"),
        ({"id": "a", "text": "x", "codes": ["I10"]}, ":2: id 'a' is that of another note"),
        ({"id": "b", "text": "x", "codes": ["I10"], "split": "valid"}, ":2: split 'valid'"),
        ({"id": "b", "text": "x", "codes": ["I10"], "split": "dev"}, "some rows have a split and some have none"),
        ({"id": "b", "text": "x \ud800", "codes": ["I10"]}, ":2: the text has half a surrogate pair"),
        ([], ":2: no object"),
    ],
)
def test_a_bad_row_of_jsonl_is_named(tmp_path, row, says):
    file = write_rows(tmp_path / "a.jsonl", {"id": "a", "text": "one", "codes": ["E11.9"]}, row)
    with pytest.raises(ValueError, match=re.escape(says)):
        cases.jsonl(file, "text", Spool(tmp_path))


def test_codiesp_in_both_layouts(tmp_path):
    rows = [
        {"id": "S1-1", "split": "train", "text_en": "fever", "text_es": "fiebre", "codes": ["R50.9"]},
        {"id": "S2-1", "split": "dev", "text_en": "pain", "text_es": "dolor", "codes": ["R52", "I10"]},
    ]
    file = write_rows(tmp_path / "c.jsonl", *rows)
    for row in rows:
        place = tmp_path / "published" / row["split"]
        for folder, text in (("text_files", row["text_es"]), ("text_files_en", row["text_en"])):
            (place / folder).mkdir(parents=True, exist_ok=True)
            (place / folder / f"{row['id']}.txt").write_text(text)
        (place / f"{row['split']}D.tsv").write_text("".join(f"{row['id']}\t{c.lower()}\n" for c in row["codes"]))
    for language, texts in (("en", ["fever", "pain"]), ("es", ["fiebre", "dolor"])):
        for path in (file, tmp_path / "published"):
            spool = Spool(tmp_path)
            found = cases.codiesp(path, language, spool)
            assert [n.text for n in Notes(found.entries, spool)] == texts
            assert [(e.id, e.codes, e.split) for e in found.entries] == [
                ("S1-1", ("R50.9",), "train"), ("S2-1", ("I10", "R52"), "dev"),
            ]  # fmt: skip
    (tmp_path / "published" / "dev" / "text_files_en" / "S2-1.txt").unlink()
    with pytest.raises(ValueError, match=r"devD.tsv:1: there is no .*S2-1.txt"):
        cases.codiesp(tmp_path / "published", "en", Spool(tmp_path))


@pytest.mark.parametrize(
    "source", ["builtin:icd9", "mimic3:", "mimic4:somewhere", "mimic4:somewhere:icd11", "path:notes.csv", "notes.jsonl"]
)
def test_a_source_of_no_form_is_refused(tmp_path, source):
    with pytest.raises(ValueError, match="allowed are builtin:icd10, mimic3:DIR"):
        corpus.load(source, GIVEN, characters=0, shape=None, spool=tmp_path)


def test_paths_with_a_colon_and_without_an_option(tmp_path):
    place = tmp_path / "a:b"
    place.mkdir()
    write_rows(place / "x.jsonl", {"id": "1", "text": "t", "codes": ["E119"], "split": "train"})
    for suffix, code in (("", "E119"), (":icd10-diagnosis", "E11.9")):
        loaded = corpus.load(f"path:{place}/x.jsonl{suffix}", GIVEN, characters=0, shape=None, spool=tmp_path)
        assert loaded.labels.codes == (code,)
    assert loaded.labels.titles == ("Type 2 diabetes mellitus without complications",)
