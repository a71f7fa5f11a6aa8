"""What is right, derived by program, against answers by hand."""

import json

import numpy as np
import pytest

from camopd_jax.distraction import tasks
from camopd_jax.distraction.catalogue import OPERATIONS
from camopd_jax.distraction.content import Fact, Genre, Sentence
from camopd_jax.distraction.texts import Document

FACTS = {
    "captain": Fact("captain", "person", "Who commands the ship?", "the captain", "{v} commands the ship"),
    "mate": Fact("mate", "person", "Who is the mate?", "the mate", "{v} is the mate"),
    "port": Fact("port", "city", "Where is she from?", "the port", "she is from {v}"),
    "ship": Fact("ship", "thing", "What is her name?", "the name", "her name is {v}", values=("Swift", "Gull", "Tern")),
    "crew": Fact("crew", "count", "How large is the crew?", "the crew", "the crew is {v}", low=13, high=40),
    "crates": Fact(
        "crates", "count", "How many crates are there?", "the crates", "{v} crates are there", low=13, high=40
    ),
}
VALUES = {"captain": "Ada Byron", "mate": "Ben Hecht", "port": "Rouen", "ship": "Swift", "crew": "34", "crates": "21"}
GENRE = Genre(
    "log", "a log", FACTS, {"name": "hull", "ask": "Is the hull sound or leaky?", "labels": ["sound", "leaky"]},
    {"name": "cargo", "noun": "the cargo", "one": "good", "values": ["tea", "salt", "iron", "wool"]},
    "{captain} sails the {ship} from {port}.", (Sentence("facts", ("{mate} is the mate.",)),),
)  # fmt: skip
SENTENCES = (
    "Ben Hecht is the mate.", "The Swift of Rouen has 34 people and 21 crates.", "On board: tea, salt and iron.",
    "Her hull is sound.", "Ada Byron commands her.", "Call 555-0123 or write to log@sea.example.", "Gulls rest aloft.",
)  # fmt: skip
WHERE = {
    "mate": 0, "ship": 1, "port": 1, "crew": 1, "crates": 1, "list": 2, "aspect": 3, "captain": 4, "phone": 5,
    "email": 5,
}  # fmt: skip
DOC = Document(
    GENRE, "dev", SENTENCES, frozenset({4}), VALUES, WHERE, "sound", ("tea", "salt", "iron"), "555-0123",
    "log@sea.example",
)  # fmt: skip


def solved(op, seed=0, **args):
    return OPERATIONS[op](GENRE, np.random.default_rng(seed), **args).solve(DOC)


@pytest.mark.parametrize(
    "op, args, gold",
    [
        ("first_word", {}, "Ben"),
        ("last_word", {}, "aloft"),
        ("first_sentence", {}, "Ben Hecht is the mate."),
        ("last_sentence", {}, "Gulls rest aloft."),
        ("first_and_last_sentence", {}, "Ben Hecht is the mate.\nGulls rest aloft."),
        ("first_and_last_word", {}, "Ben + aloft"),
        ("absent", {}, "wool"),
        ("aspect", {}, "sound"),
        ("names", {"joint": ", "}, "Ben Hecht, Ada Byron"),
        ("evidence", {}, "sound\nHer hull is sound."),
        ("summary", {}, "Ada Byron sails the Swift from Rouen."),
        ("comma_list", {}, "tea, salt, iron"),
        ("bullets", {}, "- tea\n- salt\n- iron"),
        ("sorted", {"backwards": False}, "1. iron\n2. salt\n3. tea"),
        ("sorted", {"backwards": True}, "1. tea\n2. salt\n3. iron"),
        ("compare", {"least": True}, "21"),
        ("compare", {"least": False}, "34"),
        ("total", {}, "Total: 55"),
        ("difference", {}, "Difference: 13"),
        ("mentioned", {"type": "person"}, "Ben Hecht"),
        ("mentioned", {"type": "city"}, "Rouen"),
        ("kind_of_text", {"split": "dev"}, "log"),
        ("private_phone", {}, "555-0123"),
        ("personal_data", {}, "Phone: 555-0123\nE-mail: log@sea.example"),
    ],
)
def test_right_answers_by_hand(op, args, gold):
    assert solved(op, **args).gold == gold


HOLD = {
    "Ada Byron commands the ship", "Ben Hecht is the mate", "she is from Rouen", "her name is Swift", "the crew is 34",
    "21 crates are there",
}  # fmt: skip
ANSWERS = {FACTS[name].ask: value for name, value in VALUES.items()}
NOUNS = {FACTS[name].noun: value for name, value in VALUES.items()}
RANKS = ["Ben Hecht", "Swift", "Rouen", "Ada Byron"]


def test_right_answers_that_depend_on_what_is_asked():
    for seed in range(40):
        x = solved("fact", seed, types=["person", "city", "thing", "count"])
        assert x.gold == ANSWERS[x.slots["ask"]]
        x = solved("earlier", seed)
        assert x.gold == min(x.slots["a"], x.slots["b"], key=RANKS.index)
        x = solved("order", seed)
        assert x.gold == " > ".join(sorted(x.slots["words"].split(", "), key=RANKS.index))
        x = solved("contains_word", seed, yes="Yes", no="No")
        assert x.gold == ("No" if x.slots["word"] == "wool" else "Yes")
        x = solved("sentence_with", seed, lead="")
        assert x.gold in SENTENCES and NOUNS[x.slots["noun"]] in x.gold
        x = solved("two_questions", seed)
        assert x.gold == f"{ANSWERS[x.slots['ask1']]}\n{ANSWERS[x.slots['ask2']]}"
        x = solved("claim", seed, yes="True", no="False")
        assert x.gold == str(x.slots["claim"] in HOLD)
        x = solved("claims", seed, yes="true", no="false")
        expected = [str(x.slots[f"claim{i}"] in HOLD).lower() for i in (1, 2, 3)]
        assert x.gold == "\n".join(f"{i}. {e}" for i, e in enumerate(expected, 1))
        for op, odd in (("headline", True), ("contradiction", False)):
            x = solved(op, seed)
            claims = [x.slots[f"claim{i}"] for i in (1, 2, 3)]
            (right,) = [i for i, c in enumerate(claims, 1) if ((c in HOLD or c[0].lower() + c[1:] in HOLD) == odd)]
            assert x.gold == str(right)
        x = solved("more", seed)
        assert x.gold == ("Yes" if int(NOUNS[x.slots["noun"]]) > int(x.slots["bound"]) else "No")
        x = solved("json", seed, n=2)
        assert {k: str(v) for k, v in json.loads(x.gold).items()} == {
            k: VALUES[k] for k in x.slots["keys"].split(" and ")
        }
        x = solved("completion", seed)
        (whole,) = [t for t in SENTENCES if x.slots["stem"] in t]
        assert f"{x.slots['stem']} {x.gold}." == whole and any(x.gold.startswith(v) for v in VALUES.values())
        x = solved("entities", seed)
        kinds = {"PERSON": ("captain", "mate"), "PLACE": ("port",), "NUMBER": ("crew", "crates")}
        rows = [row.split(": ") for row in x.gold.split("\n")]
        assert [key for key, _ in rows] == list(kinds)
        assert all(value == NOUNS[x.slots[a]] for (_, value), a in zip(rows, "abc", strict=True))
        assert all(value in [VALUES[name] for name in kinds[key]] for key, value in rows)
        keys = (x := solved("csv", seed)).gold.split("\n")[0].split(",")
        assert x.gold.split("\n")[1] == ",".join(VALUES[key] for key in keys)
        assert x.slots["keys"] == f"{keys[0]}, {keys[1]} and {keys[2]}"
        x = solved("keyvalue", seed, joint="=")
        assert all(VALUES[row.split("=")[0]] == row.split("=")[1] for row in x.gold.split("\n"))
        x = solved("redact", seed, by="X")
        assert x.gold == {"Ada Byron": "X commands her.", "Ben Hecht": "X is the mate."}[x.slots["person"]]
        x = solved("pair", seed, joint=" / ", first=["person"], second=["count"])
        assert x.gold == f"{NOUNS[x.slots['a']]} / {NOUNS[x.slots['b']]}"


def test_a_full_name_is_asked_for_and_a_surname_may_do_elsewhere():
    asked, free = solved("mentioned", type="person"), solved("fact", types=("person",))
    surname, other = asked.gold.split()[-1], free.gold.split()[-1]
    assert tasks.done(f"It is {asked.gold}.", asked.task) and tasks.done(free.gold, free.task)
    assert not tasks.done(surname, asked.task) and not tasks.done(f"Ms {surname}", asked.task)
    assert tasks.done(other, free.task)


@pytest.mark.parametrize(
    "op, args, answer, expected",
    [
        ("fact", {"types": ("city",)}, "The Swift of Rouen has 34 people and 21 crates.", True),  # the sentence itself
        ("fact", {"types": ("city",)}, "Rouen, Swift, 34, 21", False),
        ("line", {"joint": ": ", "types": ("city",)}, "port: Rouen, Ben Hecht, tea, log@sea.example", False),
        ("enclosed", {"left": "(", "right": ")", "types": ("city",)}, "(Rouen, Ada Byron, salt)", False),
        ("sentence_answer", {}, "One may call 555-0123 and get tea, and {0}", False),
        ("aspect", {}, "sound, Rouen, Swift", False),
        ("two_questions", {}, "{0}, Rouen, Swift, Ben Hecht, Ada Byron, tea\n{1}", False),
        ("two_questions", {}, "It is {0}.\nThe other one is {1}.", True),
        ("pair", {"joint": " / ", "first": ("city",), "second": ("count",)}, "Rouen Swift / 34", False),
        ("private_phone", {}, "555-0123 log@sea.example", False),
        ("private_phone", {}, "Call 555-0123.", True),
    ],
)
def test_an_answer_to_one_question_does_not_name_whatever_the_text_tells(op, args, answer, expected):
    found = solved(op, **args)
    answer = answer.format(*found.gold.split("\n"))
    assert tasks.done(found.gold, found.task)
    assert tasks.done(answer, found.task) is expected
