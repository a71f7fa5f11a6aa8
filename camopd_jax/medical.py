"""How a medical question is put to a model, in training as in tests: a system message, the options, and a request."""

from collections.abc import Mapping

CAREFUL = (
    "You are a careful medical assistant. Weigh the findings before you decide, rely on established medical knowledge, "
    "and say where something is uncertain."
)
ASK_LETTER = 'Reason step by step. Then end with a line "Answer: X", where X is the letter of your choice.'
ASK_OPEN = 'Reason step by step. Then end with a line that begins with "Answer:" and gives your final answer.'


def messages(question: str, options: str, ask: str) -> list[dict]:
    """The conversation of a question with the text of its options ("": it has none) and a request."""
    user = "\n\n".join(part for part in (question.strip(), options, ask) if part)
    return [{"role": "system", "content": CAREFUL}, {"role": "user", "content": user}]


def lines(options: Mapping[str, str]) -> str:
    """A line for each option that has a text, in the order of their letters."""
    given = {letter: text.strip() for letter, text in sorted(options.items())}
    return "\n".join(f"{letter}. {text}" for letter, text in given.items() if text)
