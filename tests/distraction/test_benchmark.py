"""The benchmark: what it is made of, what is right by hand, and what holds for every instance."""

import dataclasses
import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from camopd_jax.distraction import benchmark, content, files, rubric
from camopd_jax.distraction.content import CATEGORIES, LEVELS, SPLITS
from camopd_jax.distraction.instance import CONTROLS, PARADIGMS, obeying, render, validate

COUNT = 300
SETS = list(itertools.product(SPLITS, LEVELS))


@cache
def made(split, level):
    return benchmark.make(split, COUNT, 0, level)


def every():
    return [x for split, level in SETS for x in made(split, level)]


def test_there_is_enough_of_everything():
    patterns = [p for split in SPLITS for p in content.patterns(split)]
    templates = [t for split, level in SETS for t in content.templates(split, level)]
    genres = [g for split in SPLITS for g in content.genres(split)]
    families = Counter(p.family for p in patterns)
    assert len({p.pattern for p in patterns}) == len(patterns) >= 48
    assert len(families) >= 8 and min(families.values()) >= 6
    assert {"editor", "todo", "interface", "forwarded", "style", "format", "trace", "conversation"} <= set(families)
    assert all(len(p.texts) >= 3 or p.action["kind"] == "append" for p in patterns)
    assert len({t.template for t in templates}) == len(templates) >= 40
    assert len({g.genre for g in genres}) == len(genres) >= 12
    for split, level in SETS:
        assert min(Counter(t.category for t in content.templates(split, level)).values()) >= 3


@pytest.mark.parametrize("split, level", SETS)
def test_each_set_uses_all_that_its_split_has(split, level):
    instances = made(split, level)
    assert len({x.id for x in instances}) == len({x.text for x in instances}) == COUNT
    assert Counter(x.category for x in instances) == dict.fromkeys(CATEGORIES, COUNT // 4)
    assert {x.template for x in instances} == {t.template for t in content.templates(split, level)}
    assert {x.genre for x in instances} == {g.genre for g in content.genres(split)}
    assert {f for x in instances for f in x.families} == {p.family for p in content.patterns(split)}
    used = Counter(p for x in instances for p in x.patterns)
    assert len(used) >= 0.85 * len(content.patterns(split))  # some patterns fit the answers of one level alone
    places = Counter(p for x in instances for p in x.places)
    assert min(places[p] for p in ("start", "middle", "end")) >= COUNT / 4


def test_each_pattern_of_a_split_is_used_at_one_level_at_least():
    for split in SPLITS:
        used = {p for level in LEVELS for x in made(split, level) for p in x.patterns}
        assert used == {p.pattern for p in content.patterns(split)}


def test_who_obeys_some_distractors_fails_their_criteria_alone():
    for x in every():
        for size in range(4):
            for numbers in itertools.combinations(range(3), size):
                expected = (True, 0 not in numbers, 1 not in numbers, 2 not in numbers, True)
                assert rubric.criteria(x, obeying(x, numbers)) == expected, (x.id, numbers)
        assert rubric.criteria(x, x.gold).passed
        assert x.bad == obeying(x, range(3)) and sum(rubric.criteria(x, x.bad)) == 2


def test_obedience_is_seen_in_the_control_and_the_gold_output_is_none():
    for x in every():
        for number in range(3):
            assert rubric.legitimate(x, number, obeying(x, [number])) == (True, True)
            assert rubric.legitimate(x, number, x.gold) == (True, False)


def test_distractors_stand_between_the_sentences_of_the_clean_text():
    for x in every():
        assert len(set(x.patterns)) == len(set(x.families)) == 3
        rest = x.text
        for start, end in reversed(x.positions):
            rest = rest[:start] + rest[end:]
        assert rest.split() == x.text_clean.split()
        for pattern, residue in zip(x.patterns, x.residues, strict=True):
            (p,) = [p for p in content.patterns(x.split) if p.pattern == pattern]
            wordings = [re.escape(t).replace(re.escape("{mark}"), ".+") for t in p.texts]
            assert any(re.fullmatch(w, residue) for w in wordings)
        for (start, _), place in zip(x.positions, x.places, strict=True):
            before = x.text[:start]
            for a, b in x.positions:
                before = before.replace(x.text[a:b], "")
            clean = len("".join(before.split())) / len("".join(x.text_clean.split()))
            assert place == ("start" if clean == 0 else "end" if clean == 1 else "middle")


def test_no_distractor_stands_where_the_task_looks():
    begins = ("first_word", "first_sentence", "first_and_last_word", "first_and_last_sentence")
    ends = ("last_word", "last_sentence", "first_and_last_word", "first_and_last_sentence")
    for x in every():
        op = x.template.split("-")[3]
        assert not (op in begins and "start" in x.places)
        assert not (op in ends and "end" in x.places)


def test_the_text_is_identical_in_every_paradigm_and_clean_in_the_controls():
    for x in every()[::7]:
        for paradigm, control in itertools.product(PARADIGMS, CONTROLS):
            messages = render(x, paradigm, control)
            (holder,) = [m for m in messages if x.text_clean.split()[-1] in m["content"] and m["content"].count("\n")]
            assert (x.text in holder["content"]) == (control == "distracted")
            assert (x.text_clean in holder["content"]) == (control != "distracted")
            assert x.instruction in messages[-1]["content"]
            requested = [r in messages[-1]["content"] for r in x.requests]
            if control.startswith("legitimate"):
                assert requested[int(control[-1]) - 1]
            roles = [m["role"] for m in messages]
            assert roles == {
                "single": ["user"], "multi": ["user", "assistant", "user"], "system": ["system", "user"],
            }[paradigm]  # fmt: skip


def test_short_instances_are_short():
    for split in SPLITS:
        for x in made(split, "short"):
            assert 3 <= len(re.findall(r"[.!?](?:\s|$)", x.text_clean)) <= 4
            assert all(benchmark.pieces(render(x, p, c)) <= 94 for p in PARADIGMS for c in CONTROLS)
            assert len(re.findall(r"\w+", x.gold)) <= 12


def grams(split):
    texts = set()
    for level in LEVELS:
        for x in made(split, level):
            texts |= {m["content"] for p in PARADIGMS for c in CONTROLS for m in render(x, p, c)} | {x.gold, x.bad}
    found = set()
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        found |= {tuple(words[i : i + 8]) for i in range(len(words) - 7)}
    return found


def test_the_splits_share_no_instance_and_no_eight_words():
    assert not grams("dev") & grams("test")


def test_the_splits_share_no_pattern_family_mark_template_genre_or_value():
    def parts(split):
        patterns, genres = content.patterns(split), content.genres(split)
        templates = [t for level in LEVELS for t in content.templates(split, level)]
        return (
            {p.pattern for p in patterns} | {p.family for p in patterns} | {t for p in patterns for t in p.texts},
            {m for p in patterns for m in p.marks} | {p.request for p in patterns},
            {t.template for t in templates} | {text for t in templates for text in t.texts},
            {g.genre for g in genres} | {t for g in genres for s in g.sentences for t in s.texts},
            {v for kind in ("person", "city", "email") for v in content.pool(split, kind)},
        )

    assert all(not dev & test for dev, test in zip(parts("dev"), parts("test"), strict=True))


def test_no_mark_is_part_of_another_of_its_split():
    for split in SPLITS:
        marks = [tuple(re.findall(r"\w+", m.lower())) for p in content.patterns(split) for m in p.marks]
        for a, b in itertools.permutations([m for m in marks if m], 2):
            assert a not in [b[: len(a)], b[-len(a) :]], (a, b)


def test_a_rerun_is_byte_identical_and_a_longer_one_begins_with_it(tmp_path):
    files.write(tmp_path / "a.jsonl", made("dev", "short")[:20] + made("test", "full")[:20])
    program = (
        "import sys; from camopd_jax.distraction import benchmark, files\n"
        "files.write(sys.argv[1], benchmark.make('dev', 20, 0, 'short') + benchmark.make('test', 20, 0, 'full'))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "b.jsonl")], check=True, env=environment)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    other = benchmark.make("dev", 20, 1, "short")
    assert not {x.text for x in other} & {x.text for x in made("dev", "short")}


@pytest.mark.parametrize(
    "arguments, named",
    [
        (("train", 1, 0, "short"), "split 'train': allowed are dev, test"),
        (("dev", 1, 0, "long"), "level 'long': allowed are short, full"),
        (("dev", 0, 0, "short"), "count = 0"),
        (("dev", 1, -1, "short"), "seed = -1"),
    ],
)
def test_what_cannot_be_made_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        benchmark.make(*arguments)


def test_what_cannot_be_rendered_is_named():
    x = made("dev", "short")[0]
    with pytest.raises(ValueError, match="paradigm 'tool': allowed are single, multi, system"):
        render(x, "tool", "clean")
    with pytest.raises(ValueError, match="control 'none': allowed are distracted, clean"):
        render(x, "single", "none")


def fault(x, **changes):
    return validate(dataclasses.replace(x, **changes))


def test_the_validator_finds_each_fault():
    x = made("dev", "short")[5]
    first, second, _ = x.rubric["actions"]
    assert validate(x) == []
    assert fault(x, gold="Something else")
    assert fault(x, bad=x.gold)
    assert fault(x, text_clean=x.text_clean + " More.")
    assert fault(x, patterns=(x.patterns[0], x.patterns[0], x.patterns[2]))
    assert fault(x, rubric={**x.rubric, "actions": [first, second, second]})
    assert fault(x, rubric={**x.rubric, "form": [{"kind": "max_words", "n": len(x.gold.split()) - 1 or 1}, *BULLET]})
    # A mark that the right answer has anyway.
    assert fault(x, rubric={**x.rubric, "actions": [first, second, {"kind": "append", "text": x.gold, "sep": " "}]})


BULLET = [{"kind": "bullets", "n": 1}]
