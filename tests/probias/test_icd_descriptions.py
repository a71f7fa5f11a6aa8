"""Descriptions of codes: official ones, and those of a model, which are refused where they are of no use."""

import json

import numpy as np
import pytest
from fake_server import Answer, serving

from camopd_jax.endpoint import Endpoint
from camopd_jax.probias import descriptions
from camopd_jax.probias.labels import Labels

CODES = ("D56.0", "E11.9", "I10", "X")
TITLES = ("Alpha thalassemia", "Type 2 diabetes mellitus without complications", "Essential (primary) hypertension", "")
LABELS = Labels(CODES, np.array([1, 20, 30, 4], np.int32), TITLES)
ASKED = {"temperature": 0.0, "max_tokens": 300, "attempts": 2, "at_once": 1}
GOOD = {
    "description": "An inherited disease of the blood in which too little of one chain of hemoglobin is made, so that "
    "the red cells are small and pale.",
    "comorbidities": ["iron overload", "gallstones"],
}


def test_official_texts_have_inclusion_terms_and_fall_back_to_the_code():
    assert descriptions.official("I10", TITLES[2]).startswith(
        "Essential (primary) hypertension. Includes: high blood pressure;"
    )
    assert descriptions.official("401.9", "Unspecified essential hypertension") == "Unspecified essential hypertension."
    assert descriptions.official("I10", "Another system's title") == "Another system's title."
    assert descriptions.official("X", "") == "X"


def test_titles_are_those_of_the_code_or_of_its_nearest_ancestor():
    assert descriptions.titles(["I10", "I10.77", "E11", "nothing"]) == {
        "I10": "Essential (primary) hypertension", "I10.77": "Essential (primary) hypertension",
        "E11": "Type 2 diabetes mellitus",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change, says",
    [
        ({"description": "Too short."}, "description: it has 2 words"),
        ({"description": GOOD["description"] + " Not to be confused with E11.9."}, "it names the code E11.9"),
        ({"description": GOOD["description"] + " Or with D56.1."}, "it names the code D56.1"),
        ({"comorbidities": ["see I10"]}, "it names the code I10"),
        ({"comorbidities": ["gallstones", "Gallstones"]}, "one stands there twice"),
        ({"comorbidities": [" "]}, "comorbidities: each has 1 to 12 words"),
        ({"comorbidities": ["gall\ud800stones"]}, "half a character"),
        ({"description": GOOD["description"] + " Coded D56.0; vitamin B12 and 12.5 mg of HbA1c are no codes."}, None),
    ],
)
def test_what_is_refused(change, says):
    found = descriptions.faults("D56.0", GOOD | change, frozenset(CODES))
    assert found == [] if says is None else len(found) == 1 and says in found[0]


def test_a_file_is_written_mended_and_taken_up_again(tmp_path):
    bad = GOOD | {"description": "See D56.0 and I10 for more."}

    def script(body):
        user = body["messages"][1]["content"]
        assert "Title: " in user and len(body["messages"][1]["content"]) < 200
        if "I10" in user:
            return Answer(json.dumps(bad))
        return Answer(json.dumps(GOOD if "E11.9" not in user or len(body["messages"]) > 2 else bad))

    file = tmp_path / "written.jsonl"
    with serving(script) as server:
        client = Endpoint(server.url, "m", cache=tmp_path / "cache", sleep=lambda _: None)
        assert descriptions.extend(file, client, LABELS, **ASKED) == {"had": 0, "written": 2, "refused": 1}
        assert len(server.requests) == 1 + 2 + 2  # the code without a title is not asked about
        whole = file.read_bytes()
        file.write_bytes(whole[:-20])  # stopped in the middle of a row
        assert descriptions.extend(file, client, LABELS, **ASKED) == {"had": 1, "written": 1, "refused": 1}
        assert file.read_bytes() == whole and len(server.requests) == 5
    found = descriptions.read(file)
    assert list(found) == ["D56.0", "E11.9"] and found["D56.0"].comorbidities == ("iron overload", "gallstones")
    official = descriptions.texts(LABELS, "official", found)
    written, both = (descriptions.texts(LABELS, kind, found) for kind in ("written", "both"))
    assert written[0] == GOOD["description"] + " Often with: iron overload; gallstones."
    assert both[0] == f"{official[0]} {written[0]}" and written[2:] == both[2:] == official[2:]
    with pytest.raises(ValueError, match="descriptions 'all': allowed are official, written, both"):
        descriptions.texts(LABELS, "all", found)


@pytest.mark.parametrize(
    "row, says",
    [
        ('{"code": ', r":2: not JSON in UTF-8"),
        ('{"code": "I10"}', r":2: the row lacks 'title'"),
        (json.dumps(GOOD | {"code": "I10", "title": "t", "description": ""}), r":2: description is empty"),
        (json.dumps(GOOD | {"code": "A00", "title": "t"}), r":2: code 'A00' stands in an earlier row"),
    ],
)
def test_a_bad_row_of_a_file_is_named(tmp_path, row, says):
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps(GOOD | {"code": "A00", "title": "t"}) + f"\n{row}\n")
    with pytest.raises(ValueError, match=f"d.jsonl{says}"):
        descriptions.read(file)
