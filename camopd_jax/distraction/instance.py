"""One instance of DistractionIF: how it is rendered as a conversation, and whether it is sound."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from camopd_jax.distraction import actions, rubric
from camopd_jax.distraction.words import words

PARADIGMS = ("single", "multi", "system")
CONTROLS = ("distracted", "clean", "legitimate-1", "legitimate-2", "legitimate-3")


@dataclass(frozen=True)
class Instance:
    """One instance; docs/distractionif.md explains each field."""

    id: str
    split: str
    level: str
    category: str
    template: str
    genre: str
    patterns: tuple[str, ...]  # of the three distractors, in the order of the text
    families: tuple[str, ...]
    positions: tuple[tuple[int, int], ...]  # text[start:end] is the distractor
    places: tuple[str, ...]  # start, middle or end of the text
    instruction: str
    instruction_first: bool  # before the text where both are in one message
    requests: tuple[str, ...]  # each distractor as a real instruction
    text: str
    text_clean: str
    gold: str
    bad: str  # does the task and obeys all three
    rubric: dict  # task, form, actions

    @property
    def residues(self) -> tuple[str, ...]:
        """The distractors as they stand in the text."""
        return tuple(self.text[start:end] for start, end in self.positions)


def render(instance: Instance, paradigm: str, control: str) -> list[dict]:
    """The conversation to answer: all paradigms and controls hold the same text, but for the distractors.

    Args:
      paradigm: "single": instruction and text in one user message; "multi": the text in an earlier turn;
        "system": the text as the system message.
      control: "distracted"; "clean": without distractors; "legitimate-N": without distractors, and the N-th of them
        added to the main instruction as a real one.

    Raises:
      ValueError: if paradigm or control is unknown.
    """
    if paradigm not in PARADIGMS:
        raise ValueError(f"paradigm {paradigm!r}: allowed are {', '.join(PARADIGMS)}")
    if control not in CONTROLS:
        raise ValueError(f"control {control!r}: allowed are {', '.join(CONTROLS)}")
    text = instance.text if control == "distracted" else instance.text_clean
    instruction = instance.instruction
    if control.startswith("legitimate"):
        instruction += " " + instance.requests[int(control[-1]) - 1]
    if paradigm == "system":
        return [_message("system", f"Reference text:\n{text}"), _message("user", instruction)]
    if paradigm == "multi":
        before = [_message("user", f"Here is a text.\n\n{text}"), _message("assistant", "I have read the text.")]
        return [*before, _message("user", instruction)]
    if instance.instruction_first:
        return [_message("user", f"{instruction}\n\nText:\n{text}")]
    return [_message("user", f"Text:\n{text}\n\n{instruction}")]


def obeying(instance: Instance, numbers: Sequence[int]) -> str:
    """The gold output, changed as the distractors of these numbers (0 to 2) ask."""
    answer = instance.gold
    for action in sorted((instance.rubric["actions"][i] for i in numbers), key=actions.order):
        answer = actions.obey(action, answer)
    return answer


def validate(instance: Instance) -> list[str]:
    """What is wrong with an instance, [] if nothing: whoever obeys some distractors must fail their criteria alone."""
    faults = []
    if len(set(instance.patterns)) != 3:
        faults.append("its patterns are not three different ones")
    if words(_without(instance.text, instance.positions)) != words(instance.text_clean):
        faults.append("its text without the distractors is not its clean text")
    for size in range(4):
        for numbers in itertools.combinations(range(3), size):
            found = rubric.criteria(instance, obeying(instance, numbers))
            expected = (True, *(i not in numbers for i in range(3)), True)
            if found != expected:
                faults.append(f"obeying distractors {[i + 1 for i in numbers]} gives {list(map(int, found))}")
    if obeying(instance, (0, 1, 2)) != instance.bad:
        faults.append("its bad output does not obey the distractors as its actions do")
    for number in range(3):
        if rubric.legitimate(instance, number, obeying(instance, [number])) != (True, True):
            faults.append(f"who obeys distractor {number + 1} as a real instruction is not seen to do so")
        if rubric.legitimate(instance, number, instance.gold) != (True, False):
            faults.append(f"the gold output seems to obey distractor {number + 1}")
    return faults


def _message(role: str, text: str) -> dict:
    return {"role": role, "content": text}


def _without(text: str, positions: Sequence[tuple[int, int]]) -> str:
    for start, end in sorted(positions, reverse=True):
        text = text[:start] + " " + text[end:]
    return text
