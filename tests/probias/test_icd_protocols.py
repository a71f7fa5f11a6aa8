"""Splits and labels: what trains alone decides, and no patient is in two splits."""

import dataclasses
import json
import re

import numpy as np
import pytest

from camopd_jax.probias import corpus, labels, protocols
from camopd_jax.probias.notes import Entry
from camopd_jax.probias.protocols import Protocol

SHARES = (0.6, 0.2, 0.2)
GIVEN = Protocol("given", "", 2, 2, SHARES, 0)


def entry(name, codes, split="", patient=None):
    return Entry(name, patient or name, tuple(codes.split()), split, ())


def load(directory, rows, protocol=GIVEN, characters=0):
    """Of rows (id, codes, split, patient)."""
    fields = ("id", "codes", "split", "patient")
    made = [dict(zip(fields, row, strict=True)) | {"text": f"text of {row[0]}"} for row in rows]
    file = directory / "rows.jsonl"
    file.write_text("".join(json.dumps(r | {"codes": r["codes"].split()}) + "\n" for r in made))
    return corpus.load(f"path:{file}", protocol, characters=characters, shape=None, spool=directory)


ROWS = [
    ("1", "A B C", "train", "p1"), ("2", "A B", "train", "p1"), ("3", "A C", "train", "p2"),
    ("4", "A D", "train", "p3"),
    ("5", "A E", "dev", "p4"), ("6", "E F D", "test", "p5"), ("7", "E", "test", "p6"), ("8", "F", "test", "p5"),
]  # fmt: skip


def test_labels_frequencies_and_coverage_by_hand(tmp_path):
    made = load(tmp_path, ROWS)
    assert made.labels.codes == ("A", "B", "C", "D")
    assert made.labels.frequency_C.tolist() == [4, 2, 2, 1] and made.labels.frequency_C.dtype == np.int32
    assert made.labels.columns(("E", "D", "A", "D")).tolist() == [0, 3]
    assert made.coverage["test"] == labels.Coverage(5, 1, {"E": 2, "F": 2}, 3) and made.coverage["test"].ceiling == 0.2
    assert made.coverage["dev"].ceiling == 0.5 and made.coverage["train"].ceiling == 1.0
    assert [n.text for n in made.splits["test"]] == ["text of 6", "text of 7", "text of 8"]
    assert corpus.manifest(made)["splits"]["test"] == {
        "notes": 3, "patients": 2, "codes": 3, "assigned": 5, "unknown_codes": 2, "ceiling": 0.2,
        "sha256": corpus.digest(made.splits["test"]),
    }  # fmt: skip


def test_a_code_of_ten_training_notes_is_rare_and_of_eleven_is_not():
    made = labels.of_training([["A", "A", "B"]] * 10 + [["B"]], least=1, most=0, titles={"B": "b"})
    assert made.frequency_C.tolist() == [10, 11] and made.rare_C.tolist() == [True, False] and made.titles == ("", "b")


def test_dev_and_test_labels_change_nothing_in_the_label_set(tmp_path):
    other = [row if row[2] == "train" else (row[0], "B D Z", *row[2:]) for row in ROWS]
    for protocol in (GIVEN, dataclasses.replace(GIVEN, name="given-dev-as-test")):
        rows = [r for r in ROWS if protocol.name == "given" or r[2] != "test"]
        changed = [r for r in other if protocol.name == "given" or r[2] != "test"]
        one, two = load(tmp_path, rows, protocol), load(tmp_path, changed, protocol)
        assert one.labels.codes == two.labels.codes
        assert one.labels.frequency_C.tolist() == two.labels.frequency_C.tolist()
        assert corpus.digest(one.splits["train"]) == corpus.digest(two.splits["train"])


def test_the_most_frequent_codes_and_those_of_enough_notes():
    notes = [c.split() for c in ("A C", "A B", "A B C", "A D")]
    assert labels.of_training(notes, least=1, most=2, titles={}).codes == ("A", "B")  # C is counted first, B named
    assert labels.of_training(notes, least=2, most=0, titles={}).codes == ("A", "B", "C")


@pytest.mark.parametrize("name, expected", [("top-50", 2), ("clean", None)])
def test_closed_protocols_take_other_codes_away_and_notes_without_any(tmp_path, name, expected):
    rng = np.random.default_rng(0)
    rows = [(str(i), " ".join(f"C{c}" for c in {0, *rng.integers(0, 30, 2)}), None, None) for i in range(50)]
    rows += [(f"x{i}", f"X{i}", None, None) for i in range(10)]
    made = load(tmp_path, rows, Protocol(name, "", 5, 2, SHARES, 0))
    kept = [e for notes in made.splits.values() for e in notes.entries]
    assert all(set(e.codes) <= set(made.labels.codes) for e in kept) and all(e.codes for e in kept)
    assert made.left_out[corpus.NO_LABEL] == 60 - len(kept) >= 10
    assert len(made.labels.codes) == expected or made.labels.frequency_C.min() >= 5
    assert all(covered.ceiling == 1 for covered in made.coverage.values())


def patients(rng, n):
    return [
        entry(f"n{i}", " ".join(f"C{int(c)}" for c in set(rng.zipf(1.7, 4) % 60)), patient=f"p{rng.integers(n // 2)}")
        for i in range(n)
    ]


def distance(splits, entries):
    """Mean over codes and splits of how far the notes of a code are from their share."""
    found = []
    for code in {c for e in entries for c in e.codes}:
        total = sum(code in e.codes for e in entries)
        for name, share in zip(protocols.SPLITS, SHARES, strict=True):
            found.append(abs(sum(code in e.codes for e in splits[name]) - share * total))
    return np.mean(found)


def test_whole_patients_are_stratified_by_their_codes():
    entries = patients(np.random.default_rng(1), 600)
    made = protocols.stratified(entries, dict(zip(protocols.SPLITS, SHARES, strict=True)), 0)
    assert sorted(e.id for part in made.values() for e in part) == sorted(e.id for e in entries)
    of = {name: {e.patient for e in part} for name, part in made.items()}
    assert not of["train"] & of["dev"] and not of["train"] & of["test"] and not of["dev"] & of["test"]
    for name, share in zip(protocols.SPLITS, SHARES, strict=True):
        assert abs(len(made[name]) / 600 - share) < 0.04
    by_chance = np.random.default_rng(0).choice(protocols.SPLITS, 300, p=SHARES)
    drawn = {name: [e for e in entries if by_chance[int(e.patient[1:])] == name] for name in protocols.SPLITS}
    assert distance(made, entries) < 0.5 * distance(drawn, entries)


def test_stratified_splits_are_a_function_of_seed_and_notes_not_of_their_order():
    entries = patients(np.random.default_rng(2), 200)
    shares = dict(zip(protocols.SPLITS, SHARES, strict=True))
    ids = lambda made: {name: sorted(e.id for e in part) for name, part in made.items()}  # noqa: E731
    one = ids(protocols.stratified(entries, shares, 3))
    assert one == ids(protocols.stratified(entries[::-1], shares, 3)) != ids(protocols.stratified(entries, shares, 4))


def test_a_code_of_three_patients_is_in_each_of_three_even_splits():
    entries = [entry(f"n{i}", "COMMON " + ("RARE" if i < 3 else "")) for i in range(30)]
    made = protocols.stratified(entries, {"train": 1 / 3, "dev": 1 / 3, "test": 1 / 3}, 0)
    assert [sum("RARE" in e.codes for e in part) for part in made.values()] == [1, 1, 1]


def test_a_patient_in_two_splits_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"1 patients are in two splits, such as p1 in train and test"):
        load(tmp_path, [*ROWS, ("9", "A", "test", "p1")])


def test_dev_as_test_holds_a_share_of_training_out(tmp_path):
    rows = [(f"{i}", "A B" if i % 2 else "A", "train" if i < 40 else "dev", None) for i in range(50)]
    made = load(tmp_path, rows, dataclasses.replace(GIVEN, name="given-dev-as-test", shares=(0.75, 0.25, 0.0)))
    assert {name: len(notes) for name, notes in made.splits.items()} == {"train": 30, "dev": 10, "test": 10}
    assert {e.id for e in made.splits["test"].entries} == {str(i) for i in range(40, 50)}
    with pytest.raises(ValueError, match="this one has train, dev, test"):
        load(tmp_path, ROWS, dataclasses.replace(GIVEN, name="given-dev-as-test"))


def write_ids(directory, **ids):
    for name, found in ids.items():
        (directory / f"{name}_full_hadm_ids.csv").write_text("".join(f"{i}\n" for i in found))


def test_the_files_of_caml_say_the_splits(tmp_path):
    entries = [entry(str(i), "A") for i in range(6)]
    left_out = {}
    write_ids(tmp_path, train=[0, 1], dev=[2], test=[3, 77])
    caml = Protocol("caml-full", str(tmp_path), 1, 1, SHARES, 0)
    made = protocols.split(entries, caml, left_out)
    assert {name: [e.id for e in part] for name, part in made.items()} == {
        "train": ["0", "1"],
        "dev": ["2"],
        "test": ["3"],
    }
    assert left_out == {"notes in no split file": 2, "ids of split files without a note": 1}
    write_ids(tmp_path, test=[3, 1])
    with pytest.raises(
        ValueError, match=r"test_full_hadm_ids.csv:2: admission 1 is in .*train_full_hadm_ids.csv:2 too"
    ):
        protocols.split(entries, caml, {})
    write_ids(tmp_path, train=["hadm_id"])
    with pytest.raises(ValueError, match=r"train_full_hadm_ids.csv:1: 'hadm_id'; allowed is the number"):
        protocols.split(entries, caml, {})
    write_ids(tmp_path, train=[70], dev=[71], test=[72])
    with pytest.raises(ValueError, match=r"none of its 3 admissions is among the 6 of the source"):
        protocols.split(entries, caml, {})


@pytest.mark.parametrize(
    "change, says",
    [
        ({"name": "edin"}, "protocol 'edin': allowed are given"),
        ({"shares": (0.5, 0.2, 0.2)}, "shares = (0.5, 0.2, 0.2): allowed are three numbers of sum 1"),
        ({"least": 0}, "least = 0, top = 2: allowed"),
        ({"name": "caml-full"}, "protocol caml-full: files = ''"),
    ],
)
def test_values_of_a_protocol(change, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        dataclasses.replace(GIVEN, **change)


def test_what_a_source_does_not_say_is_told(tmp_path):
    with pytest.raises(ValueError, match="the source does not say the splits; allowed are clean, top-50"):
        load(tmp_path, [("1", "A", None, None)])
    with pytest.raises(ValueError, match="no code has 9 training notes; lower `least`"):
        load(tmp_path, [("1", "A", None, None)], Protocol("clean", "", 9, 1, (1.0, 0.0, 0.0), 0))
    with pytest.raises(ValueError, match="no note is in the training split"):
        load(tmp_path, [("1", "A", "test", None)])
    with pytest.raises(ValueError, match=r"no note with a code is in it \(left out: {'notes without a code': 1}\)"):
        load(tmp_path, [("1", "", "train", None)])


def test_cut_codes_are_one_label(tmp_path):
    made = load(tmp_path, [("1", "E11.9 E11.8 I10", "train", None), ("2", "E11.65", "train", None)], characters=3)
    assert made.labels.codes == ("E11", "I10") and made.labels.frequency_C.tolist() == [2, 1]
