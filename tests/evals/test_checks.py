"""Tests of the answer checks and of the instruction prompts that use them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from camopd_jax.evals import checks

ASSET = Path(checks.__file__).parents[1] / "assets" / "instructions.jsonl"
ROWS = [json.loads(line) for line in ASSET.read_text(encoding="utf-8").splitlines()]
IDS = [row["id"] for row in ROWS]
RELEVANCE = {"mentions_any", "mentions_all", "one_word", "yes_no", "number"}

# (kind, arguments, text, whether the check holds)
CASES = [
    ("mentions_any", {"words": ["cat", "dog"]}, "A Dog barks.", True),
    ("mentions_any", {"words": ["New York"]}, "I like New\nYork.", True),
    ("mentions_any", {"words": ["cat"]}, "A catalogue, a bobcat.", False),
    ("mentions_all", {"words": ["toast", "jam"]}, "Jam on toast.", True),
    ("mentions_all", {"words": ["toast", "jam"]}, "Toast only.", False),
    ("avoids", {"words": ["blue"]}, "The bluest sea.", True),
    ("avoids", {"words": ["blue"]}, "The sea is BLUE!", False),
    ("repeats", {"word": "go", "n": 3}, "Go, go, GO!", True),
    ("repeats", {"word": "go", "n": 3}, "Go, going, go!", False),
    ("min_words", {"n": 3}, "Well-made red shoes.", True),
    ("min_words", {"n": 3}, "Red - shoes.", False),
    ("max_words", {"n": 2}, "Don't panic!", True),
    ("max_words", {"n": 2}, "Do not panic!", False),
    ("words_between", {"low": 2, "high": 3}, "one two three", True),
    ("words_between", {"low": 2, "high": 3}, "one", False),
    ("words_between", {"low": 2, "high": 3}, "one two three four", False),
    ("max_sentences", {"n": 1}, "Mr. J. Smith paid 3.50 in the U.S. today.", True),
    ("max_sentences", {"n": 1}, "He paid. She left", False),
    ("exact_sentences", {"n": 2}, 'He said "Go!" She left', True),
    ("exact_sentences", {"n": 2}, "1. First line\n2. Second line", True),
    ("exact_sentences", {"n": 2}, "Only one... but long.", True),
    ("exact_sentences", {"n": 2}, "Only one.", False),
    ("bullets", {"n": 2}, "Take these:\n- tent\n* map", True),
    ("bullets", {"n": 2}, "- tent\n- map\n- food", False),
    ("bullets", {"n": 2}, "-tent\n**map**", False),
    ("numbered", {"n": 2}, "Here:\n1. tent\n2) map", True),
    ("bullets", {"n": 0}, "Take a tent.", True),
    ("numbered", {"n": 0}, "Take a tent.", True),
    ("words_between", {"low": 0, "high": 3}, "one", True),
    ("numbered", {"n": 2}, "2. tent\n1. map", False),
    ("numbered", {"n": 2}, "1. tent\n2. map\n3. food", False),
    ("paragraphs", {"n": 2}, "One\nline.\n \n\nTwo.", True),
    ("paragraphs", {"n": 2}, "One.\nTwo.", False),
    ("title_line", {}, "**Night Birds**\n\nOwls hunt at night.", True),
    ("title_line", {}, "Night Birds", False),
    ("title_line", {}, "Owls hunt at night.\nThey are quiet.", False),
    ("title_line", {}, "1. Owls\n2. Bats", False),
    ("lowercase", {}, "all small: 1, 2!", True),
    ("lowercase", {}, "Not small", False),
    ("lowercase", {}, "123", False),
    ("uppercase", {}, "ALL CAPITALS: 1, 2!", True),
    ("uppercase", {}, "NOT ALL CAPITALs", False),
    ("starts_with", {"prefix": "In my view"}, '"in my view, yes.', True),
    ("starts_with", {"prefix": "In my view"}, "In my viewing room.", False),
    ("ends_with", {"suffix": "That is all."}, "Bread. That is ALL!", True),
    ("ends_with", {"suffix": "That is all."}, "That is all. Bye.", False),
    ("ends_question", {}, 'He asked: "Who?"', True),
    ("ends_question", {}, "Who? Me.", False),
    ("is_json", {"keys": ["a", "b"]}, '{"b": [1], "a": null}', True),
    ("is_json", {"keys": ["a"]}, '```json\n{"a": 1}\n```', True),
    ("is_json", {"keys": ["a"]}, '{"a": 1, "b": 2}', False),
    ("is_json", {"keys": ["a"]}, 'Sure: {"a": 1}', False),
    ("is_json", {"keys": ["a"]}, '["a"]', False),
    ("is_json", {"keys": ["a"]}, "[" * 100_000, False),
    ("one_word", {"answers": ["red", "New York"]}, "**Red.**", True),
    ("one_word", {"answers": ["red", "New York"]}, "new york", True),
    ("one_word", {"answers": ["red"]}, "It is red.", False),
    ("yes_no", {"answer": "yes"}, "Yes, it is.", True),
    ("yes_no", {"answer": "Yes"}, "yes, it is.", True),
    ("yes_no", {"answer": "yes"}, "Yesterday, yes.", False),
    ("yes_no", {"answer": "no"}, "Not at all, no.", False),
    ("number", {"value": 1200}, "It costs $1,200.00.", True),
    ("number", {"value": 5}, "So 10-5 it is", True),
    ("number", {"value": 7}, "Seven days.", True),
    ("number", {"value": -3}, "It is -3 now", True),
    ("number", {"value": 5}, "It is 15, or 5.5", False),
    ("number", {"value": 11}, "Code: E11", False),
    ("number", {"value": 9}, "Code: E11.9", False),
    ("quoted", {}, "He said “hello there”.", True),
    ("quoted", {}, "Don't say 'hello' or \"\".", False),
    ("no_commas", {}, "No comma here.", True),
    ("no_commas", {}, "Well, one.", False),
    ("comma_list", {"n": 3}, "Fruits: apple, pear, and plum.", True),
    ("comma_list", {"n": 3}, "red, green and blue", True),
    ("comma_list", {"n": 3}, "red, green", False),
    ("comma_list", {"n": 3}, "red,\ngreen,\nblue", False),
    ("comma_list", {"n": 2}, "In this town we like green, blue", False),
    ("placeholders", {"n": 2}, "Dear [name], come on [day].", True),
    ("placeholders", {"n": 2}, "Dear [name], come on [].", False),
    ("answer", {"text": "New  York."}, "new york", True),
    ("answer", {"text": "Is it Straße 5?"}, "IS IT\nSTRASSE 5 !", True),
    ("answer", {"text": "Paris"}, "It is Paris.", False),
    ("answer", {"text": "1.5"}, "15", False),
    ("begins", {"opening": "*lifts the lantern*"}, "*Lifts the lantern* Who is there?", True),
    ("begins", {"opening": "*lifts the lantern*"}, "lifts the lantern Who is there?", False),
    ("begins", {"opening": "*lifts the lantern*"}, "(lifts the lantern) Who is there?", False),
    ("begins", {"opening": "*lifts the lantern*"}, "Well, *lifts the lantern* who is there?", False),
    ("begins", {"opening": "..."}, "...", False),
    ("answer", {"text": "..."}, "...", False),
    ("icd10_code", {"code": "E11.9"}, '"a" matches b: E11.9.', True),
    ("icd10_code", {"code": "E11.9"}, '"a" matches b: E11.8.', False),
    ("icd10_code", {"code": "E11.9"}, "E11.9", False),
]


@pytest.mark.parametrize(("kind", "args", "text", "holds"), CASES)
def test_check(kind, args, text, holds):
    assert checks.CHECKS[kind](text, **args) is holds


@pytest.mark.parametrize(("kind", "args", "text", "holds"), [case for case in CASES if case[0] != "icd10_code"])
def test_surrounding_whitespace_changes_nothing(kind, args, text, holds):
    assert checks.CHECKS[kind](f" \n{text} \n\n", **args) is holds


@pytest.mark.parametrize("outcome", [True, False])
def test_table_covers_every_kind(outcome):
    assert {kind for kind, _, _, holds in CASES if holds is outcome} == set(checks.CHECKS)


@pytest.mark.parametrize("text", ["", " \n", "..."])
def test_answer_without_words_passes_no_check(text):
    assert [kind for kind, args, _, _ in CASES if checks.CHECKS[kind](text, **args)] == []


def test_passes_needs_every_check():
    short, dog = {"kind": "max_words", "n": 2}, {"kind": "mentions_any", "words": ["dog"]}
    assert checks.passes("A dog", [short, dog])
    assert not checks.passes("A big dog", [short, dog])
    assert not checks.passes("A cat", [short, dog])


@pytest.mark.parametrize(
    ("check", "named"),
    [
        ({"kind": "rhymes"}, "rhymes"),
        ({"n": 3}, "None"),
        ({"kind": "max_words"}, "max_words"),
        ({"kind": "max_words", "n": 3, "m": 4}, "max_words"),
        ({"kind": "max_words", "n": "3"}, "max_words"),
        ({"kind": "mentions_any", "words": "dog"}, "mentions_any"),
        ({"kind": "answer"}, "answer"),
        ({"kind": "answer", "response": "a", "text": "b"}, "answer"),
        ({"kind": "icd10_code", "code": 11}, "icd10_code"),
        ({"kind": "max_words", "n": True}, "max_words"),
        ({"kind": "max_words", "n": 0}, "n = 0 .* allowed is 1 or more"),
        ({"kind": "min_words", "n": -1}, "n = -1 .* allowed is 1 or more"),
        ({"kind": "bullets", "n": -1}, "n = -1 .* allowed is 0 or more"),
        ({"kind": "words_between", "low": 5, "high": 3}, "low = 5 and high = 3; allowed is low <= high"),
        ({"kind": "repeats", "word": " ", "n": 2}, "word = ' ' .* not empty"),
        ({"kind": "mentions_any", "words": []}, r"words = \[\] .* one or more"),
        ({"kind": "mentions_all", "words": []}, r"words = \[\] .* one or more"),
        ({"kind": "avoids", "words": ["dog", ""]}, r"words = \['dog', ''\] .* not empty"),
        ({"kind": "starts_with", "prefix": ""}, "prefix = '' .* with words"),
        ({"kind": "ends_with", "suffix": "!"}, "suffix = '!' .* with words"),
        ({"kind": "one_word", "answers": ["red", "-"]}, "answers = .* each a text with words"),
        ({"kind": "yes_no", "answer": ""}, "answer = '' .* one word"),
        ({"kind": "yes_no", "answer": "oh yes"}, "answer = 'oh yes' .* one word"),
        ({"kind": "answer", "text": "..."}, "text = '...' .* not empty"),
        ({"kind": "begins", "opening": " "}, "opening = ' ' .* not empty"),
        ({"kind": "max_words", "n": 3, "criterion": "a/b"}, "criterion = 'a/b'; allowed are up to 30 letters"),
        ({"kind": "max_words", "n": 3, "criterion": 3}, "criterion = 3; allowed"),
        ({"kind": "max_words", "n": 3, "criterion": ""}, "criterion = ''; allowed"),
        ({"kind": "icd10_code", "code": "E11 9"}, "code = 'E11 9' .* without spaces"),
    ],
)
def test_faulty_check_is_an_error_that_names_the_kind(check, named):
    failing = {"kind": "mentions_any", "words": ["absent"]}
    with pytest.raises(ValueError, match=named) as error:
        checks.passes("some text", [failing, check])
    assert "\n" not in str(error.value)


def test_a_criterion_says_what_a_check_is_about_and_changes_nothing():
    check = {"kind": "max_words", "n": 2, "criterion": "in form"}
    assert checks.passes("A dog", [check]) and not checks.passes("A big dog", [check])


def test_arguments_that_can_tell_answers_apart_are_taken():
    assert checks.passes(
        "That is 5 %, or -3.", [{"kind": "mentions_any", "words": ["%"]}, {"kind": "number", "value": -3}]
    )
    assert checks.passes("{}", [{"kind": "is_json", "keys": []}])


def test_asset_is_large_and_varied():
    kinds = Counter(row["category"] for row in ROWS)
    assert len(ROWS) >= 150
    assert len(kinds) >= 15
    assert min(kinds.values()) >= 6
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    assert len({row["messages"][-1]["content"].casefold() for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_prompt_is_well_formed(row):
    assert set(row) == {"id", "category", "messages", "checks"}
    roles = [message["role"] for message in row["messages"]]
    turns = roles[1:] if roles[0] == "system" else roles
    assert turns == (["user", "assistant"] * len(turns))[: len(turns)]
    assert turns[-1] == "user"
    lengths = [len(message["content"].split()) for message in row["messages"]]
    assert min(lengths) > 0
    assert 8 <= lengths[-1] <= 35
    assert sum(lengths) <= 70


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_prompt_checks_are_valid_and_test_relevance(row):
    kinds = {check["kind"] for check in row["checks"]}
    assert row["category"] in kinds
    assert kinds & RELEVANCE
    for check in row["checks"]:
        assert all(value or value == 0 for value in check.values()), "an empty argument makes a check void"
    checks.passes("any text", row["checks"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I am sorry",
        "Type 2 diabetes mellitus. Code: E11.9",
        "Code: E11.9",
        "type 2 diabetes",
        "- E11.9\n- I10",
    ],
)
def test_off_topic_answer_passes_no_prompt(text):
    assert [row["id"] for row in ROWS if checks.passes(text, row["checks"])] == []


@pytest.mark.parametrize("row", [row for row in ROWS if row["category"] == "number"], ids=lambda row: row["id"])
def test_number_is_not_given_away_by_the_prompt(row):
    prompt = " ".join(message["content"] for message in row["messages"])
    assert not checks.passes(prompt, row["checks"])
