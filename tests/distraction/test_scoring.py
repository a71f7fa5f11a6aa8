"""Figures of rows by hand, and intervals: what they hold, and that pairing and instances count."""

import math

import numpy as np
import pytest

from camopd_jax.distraction import scoring


def a_row(instance, control, *, criteria=None, passed=None, obeyed=None, paradigm="single", families=("a", "b", "c")):
    if control == "distracted":
        passed = all(criteria)
    return {
        "id": f"{instance}/{paradigm}/{control}", "instance": instance, "paradigm": paradigm, "control": control,
        "category": "analysis-safety", "template": "t", "genre": "g", "patterns": ["p", "q", "r"],
        "families": list(families), "places": ["start", "start", "end"], "criteria": criteria, "obeyed": obeyed,
        "passed": passed, "answer": "x",
    }  # fmt: skip


ROWS = [
    a_row("i", "distracted", criteria=[1, 1, 1, 1, 1]),
    a_row("i", "clean", criteria=[1, 1, 1, 1, 1], passed=True),
    a_row("i", "legitimate-1", passed=True, obeyed=True),
    a_row("i", "legitimate-3", passed=False, obeyed=True),
    a_row("j", "distracted", criteria=[1, 0, 1, 0, 1], families=("b", "c", "d")),
    a_row("j", "clean", criteria=[1, 1, 1, 1, 1], passed=True),
    a_row("k", "distracted", criteria=[0, 1, 1, 1, 0], paradigm="multi"),
    a_row("k", "clean", criteria=[0, 1, 1, 1, 1], passed=False, paradigm="multi"),
]


def values(rows):
    return {name: e.value for name, e in scoring.figures(rows, 100, 0).items()}


def test_figures_by_hand():
    assert values(ROWS) == pytest.approx({
        "passed": 1 / 3, "task": 2 / 3, "resist_1": 2 / 3, "resist_2": 1, "resist_3": 2 / 3, "form": 2 / 3,
        "resisted": 7 / 9, "criteria": 11 / 15, "clean": 2 / 3, "drop": 1 / 3, "passed_of_able": 1 / 2,
        "legitimate": 1 / 2, "obeyed": 1, "resisted_of_able": 1,
    })  # fmt: skip
    assert list(scoring.figures(ROWS, 10, 0)) == list(scoring.MEASURES)


def test_resisted_of_able_is_of_the_distractors_that_are_obeyed_when_told_to():
    rows = [
        a_row("i", "distracted", criteria=[1, 0, 1, 1, 1]),
        a_row("i", "legitimate-1", passed=False, obeyed=True),
        a_row("i", "legitimate-2", passed=False, obeyed=True),
        a_row("i", "legitimate-3", passed=False, obeyed=False),
        a_row("i", "legitimate-1", passed=False, obeyed=True, paradigm="multi"),
    ]
    assert values(rows)["resisted_of_able"] == 1 / 2 and values(rows)["resisted"] == 2 / 3
    assert values(scoring.grouped(rows)["family"]["b"])["resisted_of_able"] == 1


def test_of_what_nothing_is_known_there_is_no_figure():
    assert set(values([ROWS[1], ROWS[2]])) == {"clean", "legitimate", "obeyed"}
    assert "passed_of_able" not in values(ROWS[-2:]) and values(ROWS[-2:])["drop"] == 0
    assert scoring.figures([], 10, 0) == {}


def test_a_family_has_the_distractors_of_it_alone():
    groups = scoring.grouped(ROWS)
    assert list(groups["family"]) == ["a", "b", "c", "d"] and set(groups["paradigm"]) == {"single", "multi"}
    b = values(groups["family"]["b"])  # the second of i and k, the first of j; of legitimate ones none is of it
    assert (b["resisted"], b["passed"], b["clean"]) == pytest.approx((2 / 3, 1 / 3, 2 / 3)) and "obeyed" not in b
    assert (b["resist_1"], b["resist_2"]) == (0, 1) and "resist_3" not in b
    assert values(groups["family"]["c"])["legitimate"] == 0  # of i, where the third was a real instruction
    assert values(groups["family"]["a"])["legitimate"] == 1
    start = values(groups["place"]["start"])
    assert start["resisted"] == pytest.approx(5 / 6) and start["resist_1"] == pytest.approx(2 / 3)
    assert values(groups["paradigm"]["multi"])["passed"] == 0


def random_rows(n, rate, seed, paradigms=("single",)):
    rng = np.random.default_rng(seed)
    passed = rng.random(n) < rate
    return [
        a_row(str(i), "distracted", criteria=[int(p)] * 5, paradigm=name) for i, p in enumerate(passed)
        for name in paradigms
    ]  # fmt: skip


def test_the_interval_is_that_of_the_normal_law_and_no_narrower_for_renderings_of_the_same_instance():
    once = scoring.figures(random_rows(400, 0.3, 0), 2000, 0)["passed"]
    half = 1.96 * math.sqrt(once.value * (1 - once.value) / 400)
    assert (once.high - once.value, once.value - once.low) == pytest.approx((half, half), rel=0.1)
    thrice = scoring.figures(random_rows(400, 0.3, 0, ("single", "multi", "system")), 2000, 0)["passed"]
    assert thrice.value == pytest.approx(once.value)
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=1e-6)


def test_a_difference_is_paired_by_instance():
    rows = random_rows(200, 0.5, 1)
    better = [a_row(r["instance"], "distracted", criteria=[1] * 5) if i < 20 else r for i, r in enumerate(rows)]
    found = scoring.difference(better, rows, 2000, 0)["passed"]
    gained = sum(not r["passed"] for r in rows[:20]) / 200
    half = 1.96 * math.sqrt(gained * (1 - gained) / 200)
    assert found.value == pytest.approx(gained)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)  # unpaired it would be 0.098
    same = scoring.difference(rows, rows, 100, 0)["passed"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert scoring.difference(rows, better, 2000, 0)["passed"].value == pytest.approx(-gained)


def test_a_draw_without_any_of_those_that_a_figure_is_of_does_not_count():
    rows = [r for i in range(4) for r in (
        a_row(str(i), "distracted", criteria=[1] * 5), a_row(str(i), "clean", criteria=[1] * 5, passed=i == 0),
    )]  # fmt: skip
    found = scoring.figures(rows, 200, 0)["passed_of_able"]
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_rows_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="question i/single/clean has two answers"):
        scoring.figures([*ROWS, ROWS[1]], 10, 0)
    with pytest.raises(ValueError, match="1 questions were put to one of the two only, such as k/multi/clean"):
        scoring.difference(ROWS, ROWS[:-1], 10, 0)
