"""The made corpus: what is planted is there, at each strength, and test sentences are none of training."""

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest

from camopd_jax.probias import corpus, phrases, synthetic, terms
from camopd_jax.probias.protocols import Protocol
from camopd_jax.probias.synthetic import Shape

SHAPE = Shape(
    seed=3, codes=96, rare_share=0.5, siblings=4, rarest=1, notes=(700, 100, 200), most=0.25, zipf=0.75,
    rare_notes=(1, 4), comorbid=3, likely=0.9, strength=1.0, clear=0.15, silent=0.1, abbreviated=0.15, negated=1.5,
    noise=3,
)  # fmt: skip
GIVEN = Protocol("given", "", 10, 50, (0.7, 0.1, 0.2), 0)


def made(split="train", **changes):
    shape = dataclasses.replace(SHAPE, **changes)
    planned = synthetic.plan(shape)
    return planned, synthetic.make(shape, planned, split)


def share(notes, code, given=None):
    mine = [n for n in notes if given is None or given in n.codes]
    return np.mean([code in n.codes for n in mine])


def test_reruns_are_identical_and_seeds_differ():
    assert made("test") == made("test")
    assert made("test")[1] != made("test", seed=4)[1]
    assert made("train")[0] == made("train", strength=0.0)[0]  # the same plan at each strength


def test_frequencies_are_those_of_the_plan():
    planned, notes = made()
    count = Counter(code for n in notes for code in n.codes)
    assert {code: count[code] for code in planned.rare} == planned.frequency
    assert set(planned.frequency.values()) == set(range(1, 11)) and len(planned.rare) == 48
    assert all(count[one.code] > 10 for one in planned.common) and len(planned.common) == 48
    first, last = planned.common[0].code, planned.common[-1].code
    assert count[first] >= 0.25 * 700 and count[last] < 60
    _, test = made("test")
    assert {code: sum(code in n.codes for n in test) for code in planned.rare} == dict.fromkeys(planned.rare, 4)
    assert set(made(rarest=4)[0].frequency.values()) == set(range(4, 11))


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("split", ["train", "test"])
def test_comorbidity_is_as_strong_as_planned(strength, split):
    planned, notes = made(split, strength=strength, notes=(1400, 100, 400), rare_notes=(1, 12))
    pairs = [(rare, code) for rare, codes in planned.comorbid.items() for code in codes]
    n = np.array([sum(rare in note.codes for note in notes) for rare, _ in pairs])
    found = np.average([share(notes, code, rare) for rare, code in pairs], weights=n)
    base = np.average([planned.rate[code] for _, code in pairs], weights=n)
    assert abs(found - (base + strength * (0.9 - base))) < 4 * np.sqrt(0.25 / n.sum())


@pytest.mark.parametrize("strength, expected", [(0.0, 0.5), (0.5, 0.7), (1.0, 0.9)])
def test_strength_by_hand(strength, expected):
    assert 0.5 + 0.5 * synthetic.added(0.5, 0.9, strength) == pytest.approx(expected)
    assert synthetic.added(0.95, 0.9, strength) == 0


def test_at_strength_0_siblings_have_nothing_that_tells_them_apart():
    planned, notes = made(strength=0.0, notes=(1400, 100, 400))
    with_rare = [n for n in notes if set(n.codes) & set(planned.rare)]
    for one in planned.common:
        by_itself = planned.rate[one.code]
        bound = 4 * np.sqrt(by_itself * (1 - by_itself) / len(with_rare))
        assert abs(share(with_rare, one.code) - share(notes, one.code)) < bound


def test_siblings_share_no_comorbid_code_and_no_category_with_common_ones():
    planned, _ = made()
    for family in planned.family:
        codes = [c for code, _ in family.members for c in planned.comorbid[code]]
        assert len(set(codes)) == len(codes) == 12
    assert not {one.code[:3] for one in planned.common} & {code[:3] for code in planned.rare}
    assert all(terms.title(code).lower() == title.lower() for f in planned.family for code, title in f.members)


def test_rare_codes_are_mostly_said_in_words_that_siblings_share():
    planned, notes = made()
    said = Counter()
    for note in notes:
        for family in planned.family:
            for code, title in family.members:
                if code in note.codes:
                    own = re.search(rf"(?i)\b{re.escape(title)}", note.text) is not None
                    shared = any(
                        re.search(rf"(?i)\b{re.escape(name)}\b", note.text)
                        for name in (family.name, terms.initials(family.name))
                    )
                    said["own" if own else "shared" if shared else "nothing"] += 1
    total = said.total()
    assert abs(said["own"] / total - 0.15) < 0.08 and abs(said["nothing"] / total - 0.1) < 0.08


def test_common_codes_are_named_and_negated_ones_are_not_coded():
    planned, notes = made()
    named = absent = 0
    for note in notes[:200]:
        for one in planned.common:
            known = [re.escape(t) for t in (*one.terms, terms.initials(one.terms[0]))]
            found = re.search(rf"(?i)\b({'|'.join(known)})\b", note.text) is not None
            if one.code in note.codes:
                named += found
                assert found, (one, note)
            absent += found and one.code not in note.codes
    assert named > 300 and absent > 100


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_code_of_a_note_is_negated_in_it_or_said_of_its_family(split):
    planned, notes = made(split)
    said = {one.code: one.terms for one in planned.common}
    said |= {code: (title, family.name) for family in planned.family for code, title in family.members}
    of = phrases.TEST if split == "test" else phrases.TRAINING
    seen = 0
    for note in notes:
        mine = {term for code in note.codes for term in said[code]}
        for sentence in (*of.negated, *of.family):
            before, after = (re.escape(part) for part in sentence.split("{term}"))
            for found in re.findall(
                rf"(?i)(?:^|(?<=[.:] ))(?:{before})([A-Za-z', -]+?){after}(?=\s|$)", note.text, re.M
            ):
                assert found.lower() not in {term.lower() for term in mine}, note
                seen += 1
    assert seen > len(notes)


def test_no_sentence_of_test_is_one_of_training():
    for field in dataclasses.fields(phrases.Phrases):
        ours, theirs = getattr(phrases.TRAINING, field.name), getattr(phrases.TEST, field.name)
        if field.name == "headings":
            assert ours.keys() == theirs.keys() == set(phrases.SECTIONS)
            ours, theirs = sum(ours.values(), ()), sum(theirs.values(), ())
        assert not set(ours) & set(theirs), field.name


def test_notes_are_short_and_have_sections():
    _, notes = made()
    length = [len(n.text.split()) for n in notes]
    assert 50 < np.mean(length) < 100 and max(length) < 200
    assert all(re.match(r"(HISTORY OF PRESENT ILLNESS|HPI):", n.text) for n in notes)


def test_the_source_loads_with_its_own_splits(tmp_path):
    loaded = corpus.load("builtin:icd10", GIVEN, characters=0, shape=SHAPE, spool=tmp_path)
    assert len(loaded.labels.codes) == 96 and loaded.labels.rare_C.sum() == 48 and all(loaded.labels.titles)
    assert loaded.coverage["test"].ceiling == 1
    seen = [{e.patient for e in loaded.splits[name].entries} for name in ("train", "dev", "test")]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and len(seen[0]) < len(loaded.splits["train"])
    again = corpus.load("builtin:icd10", GIVEN, characters=0, shape=SHAPE, spool=tmp_path)
    assert corpus.manifest(loaded) == corpus.manifest(again) and len(corpus.manifest(loaded)["splits"]) == 3


@pytest.mark.parametrize(
    "change, says",
    [
        ({"strength": 1.5}, "synthetic.strength = 1.5: allowed is 0 to 1"),
        ({"clear": 0.8, "silent": 0.3}, "synthetic.clear + silent = 1.1"),
        ({"siblings": 1}, "synthetic.siblings = 1: allowed is 2 or more"),
        ({"rarest": 11}, "synthetic.rarest = 11: allowed is 1 to 10"),
        ({"codes": 8}, "synthetic.codes = 8: too few"),
        ({"comorbid": 40}, "synthetic.comorbid = 40: allowed"),
        ({"notes": (700, 100, 20)}, "20 notes are too few for 48 rare codes"),
        ({"codes": 3000, "notes": (20000, 5000, 9000)}, "families of 4 are needed, ICD-10-CM has"),
    ],
)
def test_shapes_that_cannot_be_made(change, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        synthetic.plan(dataclasses.replace(SHAPE, **change))
