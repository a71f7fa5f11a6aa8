"""What a model is asked of the instances, and what of its answers is kept: the rows that every table is made of."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from camopd_jax.distraction import rubric
from camopd_jax.distraction.instance import Instance, render


@dataclass(frozen=True)
class Question:
    """An instance in one paradigm and under one control, as `instance.render` has them."""

    instance: Instance
    paradigm: str
    control: str

    @property
    def id(self) -> str:
        """Its name, of instance, paradigm and control."""
        return f"{self.instance.id}/{self.paradigm}/{self.control}"

    @property
    def messages(self) -> list[dict]:
        """The conversation that is put to a model."""
        return render(self.instance, self.paradigm, self.control)


def questions(instances: Iterable[Instance], paradigms: Sequence[str], controls: Sequence[str]) -> list[Question]:
    """All of them, an instance's together."""
    return [Question(x, p, c) for x in instances for p in paradigms for c in controls]


def digest(questions: Sequence[Question]) -> str:
    """Sixteen hex digits of what is asked, of how it is judged, and of the two outputs that are known."""
    found = hashlib.sha256()
    for question in questions:
        x = question.instance
        found.update(json.dumps([question.id, question.messages, x.rubric, x.gold, x.bad]).encode())
    return found.hexdigest()[:16]


def judged(question: Question, answer: str) -> dict:
    """The row of an answer: what was asked, "criteria" (five of 0 or 1, see `rubric.Criteria`), "obeyed", "passed".

    "passed" is the conjunction of the five; without distractors (control "clean") that the task is done in its form,
    whatever an answer happens to have of a distractor that it never saw; of a real instruction ("legitimate-N") that
    the task is done and the instruction followed, with "criteria" None and "obeyed" whether it was followed.
    """
    x, criteria, obeyed = question.instance, None, None
    if question.control.startswith("legitimate"):
        done, obeyed = rubric.legitimate(x, int(question.control[-1]) - 1, answer)
        passed = done and obeyed
    else:
        found = rubric.criteria(x, answer)
        criteria = [int(c) for c in found]
        passed = found.task and found.form if question.control == "clean" else found.passed
    return {
        "id": question.id, "instance": x.id, "paradigm": question.paradigm, "control": question.control,
        "category": x.category, "template": x.template, "genre": x.genre, "patterns": list(x.patterns),
        "families": list(x.families), "places": list(x.places), "criteria": criteria, "obeyed": obeyed,
        "passed": bool(passed), "answer": answer,
    }  # fmt: skip
