"""The rows of answers: each control has its own meaning of passed."""

import pytest

from camopd_jax.distraction import benchmark, questions
from camopd_jax.distraction.instance import CONTROLS, PARADIGMS, obeying

INSTANCE = benchmark.make("dev", 1, seed=3, level="short")[0]


def row(control, answer):
    return questions.judged(questions.Question(INSTANCE, "single", control), answer)


def test_all_questions_of_an_instance_stand_together_each_with_a_name_of_its_own():
    two = benchmark.make("dev", 2, seed=3, level="short")
    found = questions.questions(two, PARADIGMS, CONTROLS)
    assert [q.instance.id for q in found] == [x.id for x in two for _ in range(15)]
    assert len({q.id for q in found}) == 30
    assert found[1].messages == benchmark.render(two[0], "single", "clean")


@pytest.mark.parametrize("number", range(3))
def test_who_obeys_fails_its_own_criterion_passes_clean_and_passes_where_it_was_told_to(number):
    obeyed = obeying(INSTANCE, [number])
    criteria = [int(i != 1 + number) for i in range(5)]
    assert row("distracted", obeyed)["criteria"] == criteria and not row("distracted", obeyed)["passed"]
    assert row("clean", obeyed)["criteria"] == criteria and row("clean", obeyed)["passed"]
    told = row(f"legitimate-{number + 1}", obeyed)
    assert told["passed"] and told["obeyed"] is True and told["criteria"] is None


def test_gold_passes_but_not_where_an_instruction_is_real_and_nothing_passes_nowhere():
    assert row("distracted", INSTANCE.gold)["passed"] and row("clean", INSTANCE.gold)["passed"]
    assert not row("legitimate-1", INSTANCE.gold)["passed"] and row("legitimate-1", INSTANCE.gold)["obeyed"] is False
    assert not any(row(control, " ")["passed"] for control in CONTROLS)
