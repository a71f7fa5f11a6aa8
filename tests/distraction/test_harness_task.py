"""DistractionIF as a task of lm_eval: the same questions, and the same scores of the same answers, item by item."""

import json
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install lm_eval")

from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

import camopd_jax
from camopd_jax.distraction import benchmark, questions, scoring
from camopd_jax.distraction.instance import CONTROLS, PARADIGMS, obeying

DIRECTORY = Path(camopd_jax.__file__).parent / "distraction" / "harness_task"
COUNT = 6


def answer_of(q):
    """Right, obedient and empty answers in turn."""
    kind = (len(q.id) + sum(map(ord, q.id))) % 4
    return [q.instance.gold, q.instance.bad, obeying(q.instance, [0]), ""][kind]


class Given(LM):
    """Says what it is given for each conversation, which is its own chat template."""

    tokenizer_name = "given"

    def __init__(self, answers):
        super().__init__()
        self.answers, self.asked = answers, []

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        assert add_generation_prompt
        return json.dumps(chat_history)

    def chat_template(self, chat_template=False):
        return ""

    def generate_until(self, requests, disable_tqdm=False):
        self.asked += [r.args[0] for r in requests]
        return [self.answers[r.args[0]] for r in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def manager(**metadata):
    return TaskManager(include_path=str(DIRECTORY), metadata=metadata)


def test_scores_are_the_same_item_by_item():
    asked = questions.questions(benchmark.make("dev", COUNT, 3, "short"), PARADIGMS, CONTROLS)
    rows = [questions.judged(q, answer_of(q)) for q in asked]
    lm = Given({json.dumps(q.messages): answer_of(q) for q in asked})
    found = evaluator.simple_evaluate(
        lm, tasks=["distractionif"], apply_chat_template=True, bootstrap_iters=0,
        task_manager=manager(split="dev", count=COUNT, seed=3),
    )  # fmt: skip
    assert sorted(lm.asked) == sorted(json.dumps(q.messages) for q in asked)
    samples = {s["doc"]["id"]: s for s in found["samples"]["distractionif"]}
    names = {"passed", *scoring.CRITERIA, "clean", "legitimate", "obeyed"}
    for row in rows:
        here = samples[row["id"]]
        assert {m: here[m] for m in names & set(here)} == scoring.of_answer(row), row["id"]
    assert len(samples) == len(rows)
    ours = scoring.figures(rows, 10, 0)
    assert 0 < ours["passed"].value < 1 and 0 < ours["obeyed"].value < 1
    for name in names:
        assert found["results"]["distractionif"][f"{name},none"] == pytest.approx(ours[name].value)


@pytest.mark.parametrize(
    "how, says",
    [
        ({"apply_chat_template": False}, "give --apply_chat_template"),
        ({"apply_chat_template": True, "system_instruction": "Be brief."}, "no system instruction of its own"),
    ],
)
def test_what_would_change_the_questions_is_refused(how, says):
    with pytest.raises(ValueError, match=says):
        evaluator.simple_evaluate(Given({}), tasks=["distractionif"], task_manager=manager(count=1), **how)
