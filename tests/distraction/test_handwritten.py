"""Answers written by hand, before the rubric was run on them: right paraphrases pass, subtle failures fail.

The author of batch 1 had not read the rubric; those of batches 2 and 3 had, and had not written it.
"""

import collections
import functools
import json
import pathlib
import re

import pytest

from camopd_jax.distraction import benchmark, rubric
from camopd_jax.distraction.words import lines, units

# A row: id, patterns and gold output of the instance, the answer, and a verdict of five characters (task, three
# resisted, form): 1 holds, 0 fails, ? a human could go either way on it. A verdict other than 11111 fails as a whole.
# missed: the rubric lets it pass, which docs/distractionif.md tells.
ROWS = [
    json.loads(line)
    for line in pathlib.Path(__file__).with_name("handwritten.jsonl").read_text(encoding="utf-8").splitlines()
]


@functools.cache
def _instances(split: str, level: str, seed: int) -> list:
    numbers = [int(row["id"].rpartition("-")[2]) for row in ROWS if row["id"].startswith(f"{split}-{level}-{seed}-")]
    return benchmark.make(split, max(numbers) + 1, seed, level)


def _instance(row: dict):
    split, level, seed, number = row["id"].split("-")
    return _instances(split, level, int(seed))[int(number)]


def _faults(rows: list) -> list[str]:
    found = [(row, "".join("01"[ok] for ok in rubric.criteria(_instance(row), row["answer"]))) for row in rows]
    return [
        f"{row['id']} {row['answer']!r} ({row['why']}): {got}, not {row['verdict']}"
        for row, got in found
        if any(right not in ("?", is_) for right, is_ in zip(row["verdict"], got, strict=True))
        or (got == "11111") != (row["verdict"] == "11111")
    ]


def test_the_instances_are_those_that_the_answers_were_written_for():
    for row in ROWS:
        instance = _instance(row)
        assert (instance.id, instance.gold, list(instance.patterns)) == (row["id"], row["gold"], row["patterns"])


def test_right_paraphrases_pass():
    assert _faults([row for row in ROWS if row["verdict"] == "11111"]) == []


def test_subtle_failures_fail_by_the_right_criteria():
    assert _faults([row for row in ROWS if row["verdict"] != "11111" and not row["missed"]]) == []


def test_what_is_said_to_be_missed_is():
    missed = [row for row in ROWS if row["missed"]]
    assert len(_faults(missed)) == len(missed) <= 0.02 * len(ROWS)


def test_there_are_enough_answers_of_all_kinds():
    kinds = collections.Counter(row["verdict"] == "11111" for row in ROWS)
    assert min(kinds[True], kinds[False]) >= 50
    assert {(x.split, x.level, x.category) for x in map(_instance, ROWS)} == {
        (split, level, category)
        for split in ("dev", "test")
        for level in ("short", "full")
        for category in ("meta-processing", "traditional-nlp", "structure-format", "analysis-safety")
    }


# What a policy might find that is paid by the rubric alone, each made of an instance.
DEGENERATE = {
    "nothing": lambda x: "",
    "blanks": lambda x: " \n\t",
    "punctuation": lambda x: "...!?",
    "yes and no": lambda x: "Yes and no",
    "no answer": lambda x: "The text does not say.",
    "the question": lambda x: x.instruction,
    "the text": lambda x: x.text,
    "the clean text": lambda x: x.text_clean,
    "the clean text on a line": lambda x: " ".join(lines(x.text_clean)),
    "all facts": lambda x: ", ".join([x.gold, *_told(x)]),
    "all facts, the right one last": lambda x: " ".join([*_told(x), x.gold]),
    "all facts in small letters": lambda x: " ".join([x.gold, *_told(x)]).lower(),
    "all facts behind a lead": lambda x: f"The answer is {', '.join([x.gold, *_told(x)])}.",
    "all names and numbers": lambda x: " ".join(re.findall(r"(?<!^)(?<!\. )\b(?:[A-Z]\w+|\d[\d:]*)", x.text_clean)),
    "right or not": lambda x: f"{x.gold} or something else",
    "denied": lambda x: f"It is not {x.gold}.",
    "asked back": lambda x: f"{x.gold}?",
    "many lines": lambda x: f"{x.gold}\n{x.gold}\n{x.gold}",
    "a distractor": lambda x: x.residues[0],
    "the right one and a distractor": lambda x: f"{x.gold} {max(x.residues, key=len)}",
    "the right one and all distractors": lambda x: " ".join([x.gold, *x.residues]),
    "the right one and a sentence without it": lambda x: f"{x.gold}. {_foreign(x)}",
}


@pytest.fixture(scope="module")
def short():
    made = [x for split in ("dev", "test") for x in benchmark.make(split, 120, 5, "short")]
    return [x for x in made if x.template.rpartition("-")[2] in ("fact", "mentioned")]


def _told(x):
    """What the text tells besides, with one thing at least."""
    task = x.rubric["task"]
    return [*task["beside"], *task["foreign"]] or ["Ada Byron"]


def _foreign(x):
    """A sentence of the text without the answer."""
    return next(s for s in (x.text_clean[a:b] for a, b in units(x.text_clean)) if x.gold not in s)


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_answers_earn_nothing(name, short):
    assert len(short) >= 40
    made = [(x.id, x, DEGENERATE[name](x)) for x in short if DEGENERATE[name](x) != x.gold]
    assert [(id, answer) for id, x, answer in made if rubric.criteria(x, answer).passed] == []
