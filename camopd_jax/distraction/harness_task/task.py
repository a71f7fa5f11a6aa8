"""What distractionif.yaml calls: the questions as documents, put as conversations, judged as everywhere."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence

import datasets
from lm_eval.api.task import ConfigurableTask

from camopd_jax.distraction import benchmark, files, scoring
from camopd_jax.distraction.instance import Instance
from camopd_jax.distraction.questions import Question, judged, questions

_TUPLES = ("patterns", "families", "places", "requests")


class DistractionIF(ConfigurableTask):
    """A question is a whole conversation, so there are neither examples nor a system instruction in front of it."""

    def __init__(self, config: dict):
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def fewshot_context(
        self, doc: dict, num_fewshot: int, system_instruction: str | None = None, apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = False, chat_template: Callable | None = None, gen_prefix: str | None = None,
    ) -> str:  # fmt: skip
        """The conversation in the model's chat template.

        Raises:
          ValueError: if something else is asked for.
        """
        del num_fewshot, fewshot_as_multiturn, gen_prefix  # lm_eval leaves the first at the 0 of the YAML file
        if system_instruction:
            raise ValueError("distractionif has no system instruction of its own; leave it out")
        if not apply_chat_template:
            raise ValueError("distractionif is put as conversations; give --apply_chat_template")
        return chat_template(_question(doc["question"]).messages, add_generation_prompt=True)


def dataset(
    *, split: str, level: str, count: int, seed: int, paradigms: Sequence[str], controls: Sequence[str],
    instances: str | None = None, **_,
) -> dict:  # fmt: skip
    """{"test": documents}, one a question: of the benchmark, or of a file of instances.

    Raises:
      ValueError: if an argument has a value that is not allowed.
    """
    some = files.read(instances) if instances else benchmark.make(split, count, seed, level)
    rows = [
        {"id": q.id, "gold": q.instance.gold,
         "question": json.dumps([dataclasses.asdict(q.instance), q.paradigm, q.control])}
        for q in questions(some, paradigms, controls)
    ]  # fmt: skip
    return {"test": datasets.Dataset.from_list(rows)}


def process_results(doc: dict, results: Sequence[str]) -> dict[str, float]:
    """The scores of one answer: those of `scoring.MEASURES` that its control has."""
    return scoring.of_answer(judged(_question(doc["question"]), results[0]))


@functools.lru_cache(maxsize=1)
def _question(text: str) -> Question:
    fields, paradigm, control = json.loads(text)
    triples = {name: tuple(fields[name]) for name in _TUPLES}
    positions = tuple(tuple(pair) for pair in fields["positions"])
    return Question(Instance(**{**fields, **triples, "positions": positions}), paradigm, control)
