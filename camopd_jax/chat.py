"""Conversations as tokens: the chat template and its options, prompts that are too long, reference answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerFast

from camopd_jax import hosts, templates
from camopd_jax.data import Loaded, Prompt
from camopd_jax.sources import TextError

THINKING = {"template": {}, "on": {"enable_thinking": True}, "off": {"enable_thinking": False}}
LONG_PROMPTS = ("error", "drop", "cut")


@dataclass(frozen=True)
class Chat:
    """How conversations are laid out in a tokenizer's chat template; the same for all models of a run."""

    system: str  # put in front of a conversation without a system message; "": nothing
    thinking: str  # "template": as the template has it, "on", "off"
    date: str  # YYYY-MM-DD, what templates that ask for today's date are told

    def __post_init__(self):
        if self.thinking not in THINKING:
            raise ValueError(f"chat.thinking = {self.thinking!r}: allowed are {', '.join(THINKING)}")

    def render(self, tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> str:
        """The prompt's text up to where the answer begins; raises as `render_all`."""
        (text,) = self.render_all(tokenizer, [prompt])
        return text

    def render_all(self, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt]) -> list[str]:
        """Each prompt's text up to where the answer begins.

        Raises:
          ValueError: if the tokenizer has no chat template, or it refuses a conversation or takes too much for it.
        """
        if not tokenizer.chat_template:
            raise ValueError(f"prompt {prompts[0].id}: the tokenizer has no chat template; needed is one in its files")
        system = [{"role": "system", "content": self.system}]
        given = [
            [*system, *p.messages] if self.system and p.messages[0]["role"] != "system" else p.messages for p in prompts
        ]
        try:
            return fill(tokenizer, given, date=self.date, add_generation_prompt=True, **THINKING[self.thinking])
        except templates.Refused as error:
            where = f"prompt {prompts[error.place].id}"
            raise TextError(where, f"the chat template refuses it ({error})") from None


def fill(tokenizer: PreTrainedTokenizerFast, conversations: Sequence[list[dict]], *, date: str, **options) -> list[str]:
    """Conversations in a tokenizer's chat template, as its apply_chat_template has them, with limits.

    Args:
      date: YYYY-MM-DD, today for a template that asks.

    Raises:
      templates.Refused: if the template refuses a conversation, or takes too much for it.
    """
    options = {**tokenizer.special_tokens_map, **options}
    return templates.render(tokenizer.get_chat_template(), conversations, options, date)


@dataclass(frozen=True)
class Statistics:
    """What became of a source's rows; lengths in tokens."""

    source: str
    split: str
    rows: int
    duplicates: int
    available: int  # prompts in the split
    kept_out: int  # prompts left out, as they are held out elsewhere
    dropped: int  # prompts left out, as they are too long
    cut: int
    limit: int
    used: int  # prompts
    tokens: int
    longest: int

    def describe(self, key: str) -> str:
        """One line, which begins with the config key of the source."""
        parts = [f"{self.rows:,} rows"]
        if self.duplicates:
            parts.append(f"{self.duplicates:,} duplicates removed")
        if self.available != self.rows - self.duplicates:
            parts.append(f"{self.available:,} {'held out' if self.split == 'heldout' else 'to train on'}")
        if self.kept_out:
            parts.append(f"{self.kept_out:,} left out, as they are held-out prompts elsewhere")
        if self.dropped:
            parts.append(f"{self.dropped:,} longer than {self.limit:,} tokens left out")
        if self.cut:
            parts.append(f"{self.cut:,} cut to {self.limit:,} tokens")
        mean = self.tokens / self.used
        lengths = f"{self.used:,} prompts of {mean:.0f} tokens on average, the longest {self.longest:,}"
        return f"{key} {self.source}: {', '.join(parts)}; {lengths}"


@dataclass(frozen=True)
class Encoded:
    """Prompts, and the token ids of each (int32), which end where the answer begins."""

    prompts: list[Prompt]  # as they were encoded: a prompt that was cut is cut here too
    tokens: list[np.ndarray]
    statistics: Statistics


def encode_prompts(
    tokenizer: PreTrainedTokenizerFast, loaded: Loaded, chat: Chat, *, limit: int, long_prompts: str
) -> Encoded:
    """Prompts in the tokenizer's chat template, none longer than `limit` tokens; each process makes its share of them.

    Of a prompt that is longer, "cut" takes tokens from the end of its longest message, "drop" leaves it out.

    Raises:
      ValueError: if a prompt cannot be rendered, is longer with long_prompts = "error", or too long even with its
        longest message empty; if none is left.
    """
    if long_prompts not in LONG_PROMPTS:
        raise ValueError(f"rollout.long_prompts = {long_prompts!r}: allowed are {', '.join(LONG_PROMPTS)}")

    def items(which: slice) -> Iterator[hosts.Item]:
        mine = loaded.prompts[which]
        for prompt, ids in zip(mine, _rendered(tokenizer, chat, mine), strict=True):
            if len(ids) <= limit:
                yield "whole", ids
            elif long_prompts == "error":
                raise ValueError(
                    f"prompt {prompt.id} has {len(ids)} tokens, rollout.max_prompt_tokens allows {limit}; "
                    "rollout.long_prompts = 'drop' or 'cut' goes on without it or its end"
                )
            elif long_prompts == "drop":
                yield "dropped", hosts.EMPTY
            else:
                shortened, ids = _cut(tokenizer, prompt, chat, len(ids), limit)
                yield shortened.messages, ids

    prompts, tokens, dropped, cut = [], [], 0, 0
    for prompt, (what, ids) in zip(loaded.prompts, hosts.shared(lambda which: list(items(which))), strict=True):
        if what == "dropped":
            dropped += 1
            continue
        if what != "whole":
            prompt = replace(prompt, messages=what)
            cut += 1
        prompts.append(prompt)
        tokens.append(ids)
    if not prompts:
        left = f"all {dropped} prompts are longer than rollout.max_prompt_tokens = {limit}" if dropped else "no prompts"
        raise ValueError(f"data source {loaded.source}: {left}")
    lengths = [len(ids) for ids in tokens]
    statistics = Statistics(
        loaded.source, loaded.split, loaded.rows, loaded.duplicates, loaded.available, loaded.kept_out, dropped, cut,
        limit,
        used=len(prompts), tokens=sum(lengths), longest=max(lengths),
    )  # fmt: skip
    return Encoded(prompts, tokens, statistics)


def encode_answers(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt], end_id: int) -> list[np.ndarray]:
    """Token ids of each reference response, the end-of-turn token `end_id` included; each process makes its share."""

    def items(which: slice) -> list[hosts.Item]:
        return [(None, ids) for ids in _tokenize(tokenizer, [p.answer for p in prompts[which]])]

    return [np.append(ids, np.int32(end_id)) for _, ids in hosts.shared(items)]


def _rendered(tokenizer: PreTrainedTokenizerFast, chat: Chat, prompts: Sequence[Prompt]) -> Iterator[np.ndarray]:
    """Token ids of each prompt; no more than a part of the texts exists at a time."""
    for start in range(0, len(prompts), templates.PART):
        yield from _tokenize(tokenizer, chat.render_all(tokenizer, prompts[start : start + templates.PART]))


def _tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Iterator[np.ndarray]:
    """Token ids of each text, made a thousand texts at a time, which the tokenizer spreads over the cores."""
    for start in range(0, len(texts), 1000):
        some = texts[start : start + 1000]
        for ids in tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
            yield np.asarray(ids, np.int32)


def _cut(
    tokenizer: PreTrainedTokenizerFast, prompt: Prompt, chat: Chat, length: int, limit: int
) -> tuple[Prompt, np.ndarray]:
    """The prompt of `length` tokens with its longest message cut short, between two tokens, to fit the limit.

    The message is cut as text and rendered again, so that the template's tokens stay whole.
    """
    contents = [m["content"] for m in prompt.messages]
    encoded = tokenizer(contents, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    number = max(range(len(contents)), key=lambda i: len(encoded["input_ids"][i]))
    message, ends = prompt.messages[number], [end for _, end in encoded["offset_mapping"][number]]
    keep = len(ends)
    while length > limit and keep:
        keep = max(keep - (length - limit), 0)
        shorter = {**message, "content": message["content"][: ends[keep - 1] if keep else 0]}
        shortened = replace(prompt, messages=[*prompt.messages[:number], shorter, *prompt.messages[number + 1 :]])
        (ids,) = _rendered(tokenizer, chat, [shortened])
        length = len(ids)
    if length > limit:
        raise ValueError(
            f"prompt {prompt.id} has {length} tokens even with its longest message empty, rollout.max_prompt_tokens "
            f"allows {limit}"
        )
    return shortened, ids
