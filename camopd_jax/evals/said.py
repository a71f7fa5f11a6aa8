"""What a model said: the text of an answer's tokens, without what it thought before."""

from collections.abc import Container

from transformers import PreTrainedTokenizerFast


def said(tokenizer: PreTrainedTokenizerFast, ids: list[int], stop_ids: Container[int], think_end: str) -> str:
    """An answer: after the last end of thinking and before the end of the turn.

    Args:
      ids: of one response or more tokens, a stop token at its end if it ended by itself.
      think_end: what ends the thinking, one token of the vocabulary or a text; "": the answer is whole.
    """
    ids = ids[:-1] if ids[-1] in stop_ids else ids
    think_id = tokenizer.get_vocab().get(think_end)
    thought = think_id in ids
    if thought:
        ids = ids[len(ids) - ids[::-1].index(think_id) :]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    if think_end and think_end in text:
        thought, text = True, text.rpartition(think_end)[2]
    return text.lstrip() if thought else text
