"""What an answer is worth: the rubric, or any Python function of the user's."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from camopd_jax.distraction import rubric
from camopd_jax.distraction.questions import Question, judged

Reward = Callable[[Question, str], float]  # NaN: this answer cannot be scored


def conjunctive(question: Question, answer: str) -> float:
    """1 where the answer passes as `questions.judged` has it, else 0."""
    return float(judged(question, answer)["passed"])


def mean(question: Question, answer: str) -> float:
    """The share of the criteria that hold, 0 to 1: a shaped reward, which an answer off the topic has a part of.

    Without distractors it is that of task and form; of a real instruction, that of task and obedience.
    """
    if question.control.startswith("legitimate"):
        return sum(rubric.legitimate(question.instance, int(question.control[-1]) - 1, answer)) / 2
    task, *resisted, form = rubric.criteria(question.instance, answer)
    parts = [task, form] if question.control == "clean" else [task, *resisted, form]
    return sum(parts) / len(parts)


BUILTIN = {"conjunctive": conjunctive, "mean": mean}
ALLOWED = f"{' or '.join(map(repr, BUILTIN))}, or 'FILE.py:FUNCTION' with FUNCTION(question, answer) -> a number"


def load(name: str) -> Reward:
    """The reward that config.grpo.reward names; a file of the user's is run, as a config file is.

    Raises:
      ValueError: if it names none.
    """
    if name in BUILTIN:
        return BUILTIN[name]
    file, _, function = name.rpartition(":")
    where = f"config.grpo.reward = {name!r}"
    if not file.endswith(".py") or not function.isidentifier():
        raise ValueError(f"{where}: allowed is {ALLOWED}")
    if not Path(file).is_file():
        raise ValueError(f"{where}: there is no file {file}")
    spec = importlib.util.spec_from_file_location(f"reward_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is a program of the user's
        raise ValueError(f"{where}: the file cannot be run ({type(error).__name__}: {error})") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ValueError(f"{where}: the file has no function {function}")
    return found


def of(reward: Reward, questions: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """The rewards [B], float64.

    Raises:
      ValueError: if one is no number; the question is named.
    """
    return np.array([_number(reward(q, a), q) for q, a in zip(questions, answers, strict=True)])


def _number(value, question: Question) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.inf
    if math.isinf(number):
        raise ValueError(
            f"the reward of an answer to {question.id} is {value!r}: allowed are numbers, and NaN for an answer that "
            "cannot be scored"
        )
    return number
