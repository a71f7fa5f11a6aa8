"""Whether the chat templates of a run's models lay out the same conversation as the same tokens."""

from itertools import zip_longest

import numpy as np
from transformers import PreTrainedTokenizerFast

from camopd_jax.chat import Chat
from camopd_jax.data import Prompt

_QUESTION = {"role": "user", "content": "What is a fever, and when does it need a doctor?"}
SAMPLES = {
    "a question": [_QUESTION],
    "a question below a system message": [{"role": "system", "content": "Answer in one sentence."}, _QUESTION],
    "a question after an answer": [
        {"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello. How can I help?"}, _QUESTION
    ],
}  # fmt: skip
BEFORE, FROM = 3, 3  # tokens that are shown in front of a difference, and from it on


def tokens(tokenizer: PreTrainedTokenizerFast, chat: Chat, what: str) -> list[int] | str:
    """Token ids of a sample conversation, up to where the answer begins; or why the template refuses it."""
    try:
        text = chat.render(tokenizer, Prompt(what, SAMPLES[what]))
    except ValueError as error:
        return str(error).removeprefix(f"prompt {what}: ")
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def prompts(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> list[np.ndarray]:
    """The sample conversations that a template takes, as token ids (int32).

    Raises:
      ValueError: if it refuses all of them.
    """
    rendered = [tokens(tokenizer, chat, what) for what in SAMPLES]
    taken = [np.asarray(ids, np.int32) for ids in rendered if not isinstance(ids, str)]
    if not taken:
        raise ValueError(f"the student's tokenizer, and a plain question: {rendered[0]}")
    return taken


def difference(ours: PreTrainedTokenizerFast, theirs: PreTrainedTokenizerFast, chat: Chat) -> str | None:
    """The first sample conversation that two tokenizers lay out otherwise, and where; None: all are alike.

    Conversations that the first one's template refuses do not come up in a run, and are not compared.
    """
    for what in SAMPLES:
        here, there = tokens(ours, chat, what), tokens(theirs, chat, what)
        if isinstance(here, str) or here == there:
            continue
        if isinstance(there, str):
            return f"{what}: {there}"
        at = next(i for i, (a, b) in enumerate(zip_longest(here, there)) if a != b)
        after = f"after {ours.decode(here[max(at - BEFORE, 0) : at])!r}" if at else "at the very beginning"
        return f"{what}: token {at} is {_shown(theirs, there[at:])} there and {_shown(ours, here[at:])} here, {after}"
    return None


def _shown(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """The first tokens, each with its id."""
    return ", ".join(f"{tokenizer.decode([i])!r} ({i})" for i in ids[:FROM]) or "none, as it ends"
