"""Who answers questions: a model on the devices of this machine, or one of a server."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from camopd_jax.chat import Chat
from camopd_jax.data import Prompt
from camopd_jax.distraction.asking import Answer, Said
from camopd_jax.distraction.questions import Question
from camopd_jax.endpoint import Endpoint, each
from camopd_jax.engine import Policy
from camopd_jax.evals.said import said

PART = 2  # batches whose answers are kept together: rows that end early make room for others within it
COLUMNS = 16  # prompts are padded to a multiple of this


@dataclass(frozen=True)
class How:
    """How a model answers."""

    max_new_tokens: int
    temperature: float  # 0: greedy
    think_end: str  # an answer begins after the last of these; "": it is whole


def encode(tokenizer, chat: Chat, questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """Token ids of each question's conversation, by its id.

    Raises:
      ValueError: if the tokenizer has no chat template, or it refuses a conversation.
    """
    texts = chat.render_all(tokenizer, [Prompt(q.id, q.messages) for q in questions])
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return {q.id: np.asarray(x, np.int32) for q, x in zip(questions, ids, strict=True)}


def check_room(prompts: Mapping[str, np.ndarray], more: int, most: int, what: str) -> None:
    """Raise ValueError unless the longest prompt, with so many tokens more, is one that the model was made for."""
    name, ids = max(prompts.items(), key=lambda item: len(item[1]))
    if len(ids) + more > most:
        raise ValueError(
            f"{what}: question {name} has {len(ids)} tokens, with {more} more of the answer that is above the {most} "
            "that the model was made for"
        )


def of_model(policy: Policy, prompts: Mapping[str, np.ndarray], how: How, batch_size: int, seed: int) -> Answer:
    """A model that answers the encoded prompts; its weights are placed at the first question.

    Args:
      batch_size: rows that are decoded together, over all devices; seed: of sampling.
    """
    engine = policy.engine
    width = -(-max(map(len, prompts.values())) // COLUMNS) * COLUMNS

    def answer(questions: Sequence[Question]) -> Iterator[list[tuple[Question, Said]]]:
        params = policy.place()
        for start in range(0, len(questions), PART * batch_size):
            some = list(questions[start : start + PART * batch_size])
            rows = min(batch_size, len(questions))  # always as many: the sampler is compiled for them
            filled = some + some[-1:] * (rows - len(some))
            first = zlib.crc32(json.dumps(some[0].id).encode())
            rollout = engine.sample(
                params, [prompts[q.id] for q in filled], jax.random.fold_in(jax.random.key(seed), first),
                width=width, batch=rows, max_new_tokens=how.max_new_tokens, temperature=how.temperature,
            )  # fmt: skip
            ended = engine.ended(rollout)
            yield [
                (q, Said(said(engine.tokenizer, _ids(rollout, n, width), engine.stop_ids, how.think_end), not ended[n]))
                for n, q in enumerate(some)
            ]

    return answer


def _ids(rollout, row: int, width: int) -> list[int]:
    return rollout.tokens_BL[row, width:][rollout.response_mask_BT[row]].tolist()


def of_server(client: Endpoint, how: How, at_once: int) -> Answer:
    """A model of a server, of which so many answers are asked at a time; what it may cost at most is said first."""
    options = {"temperature": how.temperature, "max_tokens": how.max_new_tokens}

    def one(question: Question) -> tuple[Question, Said]:
        reply = client.chat(question.messages, **options)
        text = reply.text
        if how.think_end and how.think_end in text:
            text = text.rpartition(how.think_end)[2].lstrip()
        return question, Said(text, reply.cut)

    def answer(questions: Sequence[Question]) -> Iterator[list[tuple[Question, Said]]]:
        most = client.estimate((q.messages for q in questions), **options)
        print(f"{client.base_url}, {client.model}: at most about {client.priced(most)}", flush=True)
        client.check(most)
        try:
            for pair in each(one, questions, at_once):
                yield [pair]
        except ConnectionError as error:
            raise ConnectionError(f"{error}; the answers are kept, and the same command goes on") from None
        print(f"asked now: {client.priced(client.spent)}", flush=True)

    return answer
