"""How a medical question is put to a model, in training as in tests: a system message, the options, and a request."""

from collections.abc import Mapping

CAREFUL = (
    "You are a careful medical assistant. Weigh the findings before you decide, rely on established medical knowledge, "
    "and say where something is uncertain."
)
ASK_LETTER = 'Reason step by step. Then end with a line "Answer: X", where X is the letter of your choice.'


def messages(question: str, options: Mapping[str, str]) -> list[dict]:
    """The conversation that asks for the letter of an option; the options stand in the order of their letters."""
    told = "\n".join(f"{letter}. {text.strip()}" for letter, text in sorted(options.items()))
    user = "\n\n".join((question.strip(), told, ASK_LETTER))
    return [{"role": "system", "content": CAREFUL}, {"role": "user", "content": user}]
