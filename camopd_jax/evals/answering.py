"""Who answers questions: a model on the devices of this machine, or one of a server."""

import functools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from absl import flags

from camopd_jax import sharding, templates
from camopd_jax.chat import THINKING, Chat
from camopd_jax.data import Prompt
from camopd_jax.endpoint import Endpoint, each
from camopd_jax.engine import Policy
from camopd_jax.evals import likelihood
from camopd_jax.evals.asking import Answer, Question, Said
from camopd_jax.evals.said import said
from camopd_jax.models import load
from camopd_jax.models.conversion import cache_dir

PART = 2  # batches whose answers are kept together: rows that end early make room for others within it
COLUMNS = 16  # prompts are padded to a multiple of this


@dataclass(frozen=True)
class How:
    """How a model answers."""

    max_new_tokens: int
    temperature: float  # 0: greedy
    think_end: str  # an answer begins after the last of these; "": it is whole


def define(values: flags.FlagValues, tokens: str) -> None:
    """Define the flags that say how a model answers; `tokens` are in words, of those at most."""

    def flag(kind, name, *rest):
        kind(name, *rest, flag_values=values)

    flag(flags.DEFINE_enum, "thinking", "template", list(THINKING), "What the chat template is told.")
    flag(flags.DEFINE_string, "date", "2026-01-01", "Today, for a chat template that asks, so that results stay.")
    flag(flags.DEFINE_string, "think_end_token", "</think>", "An answer begins after the last of these; '': is whole.")
    flag(flags.DEFINE_integer, "batch_size", 16, "Rows of a batch, over all devices.")
    flag(flags.DEFINE_enum, "dtype", "float32", ["float32", "bfloat16"], "Of weights and activations.")
    flag(flags.DEFINE_integer, "tensor", 1, "Devices that share heads, MLP and vocabulary; the others hold copies.")
    flag(flags.DEFINE_integer, "seed", 0, "Of sampled answers.")
    flag(flags.DEFINE_integer, "max_new_tokens", None, f"Of an answer ({tokens}).")
    flag(flags.DEFINE_float, "temperature", 0.0, "Of answers; 0 is greedy.")


def check(values: flags.FlagValues) -> None:
    """Raise ValueError if one of those that are for every task has a value that is not allowed."""
    for name in ("batch_size", "tensor"):
        if values[name].value < 1:
            raise ValueError(f"--{name}={values[name].value}: allowed is a whole number, 1 or more")
    if not templates.is_date(values.date):
        raise ValueError(f"--date={values.date}: allowed is a day as in 2026-01-01")


def how(values: flags.FlagValues, tokens: int) -> How:
    """What the flags say of it; `tokens` at most, where they do not say how many.

    Raises:
      ValueError: if one has a value that is not allowed.
    """
    most = tokens if values.max_new_tokens is None else values.max_new_tokens
    if most < 1:
        raise ValueError(f"--max_new_tokens={values.max_new_tokens}: allowed is a whole number, 1 or more")
    if not 0 <= values.temperature < float("inf"):
        raise ValueError(f"--temperature={values.temperature}: allowed is 0 (greedy) or more")
    return How(most, values.temperature, values.think_end_token)


@dataclass(frozen=True)
class Loaded:
    """A model on the devices of this machine; its weights are placed at the first question."""

    source: str
    policy: Policy
    chat: Chat
    names: dict  # what names it and how it is run

    def encode(self, asked: Sequence[Question], how: How) -> dict[str, np.ndarray]:
        """Token ids of each question, by its id.

        Raises:
          ValueError: as `encode` and `check_room`.
        """
        prompts = encode(self.policy.engine.tokenizer, self.chat, asked)
        check_room(prompts, how.max_new_tokens, self.policy.engine.cfg.max_positions, f"--model={self.source}")
        return prompts


def on_devices(values: flags.FlagValues, source: str) -> Loaded:
    """The model of a source, as --dtype, --tensor, --thinking and --date say.

    Raises:
      ValueError: if it cannot be loaded, or does not fit the devices.
    """
    if values.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32 on every backend
    model = load.load(source)
    mesh = sharding.make_mesh(-1, 1, values.tensor)
    engine = likelihood.engine_of(model, mesh, values.dtype, likelihood.LOGIT_CHUNK)
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    policy = Policy(engine, functools.cache(lambda: engine.place(model.read, values.dtype)))
    names = {"model": source, "fingerprint": model.fingerprint, "dtype": values.dtype, "seed": values.seed,
             "thinking": values.thinking, "date": values.date}  # fmt: skip
    return Loaded(source, policy, Chat("", values.thinking, values.date), names)


def who(
    values: flags.FlagValues, model: str | Endpoint, asked: Sequence[Question], how: How
) -> tuple[Answer, dict]:  # fmt: skip
    """A model of this machine, by its source, or of a server, and what names it and how it is run.

    Raises:
      ValueError: as `on_devices` and `Loaded.encode`.
    """
    if isinstance(model, Endpoint):
        return of_server(model, how, values.concurrency), server_names(model)
    loaded = on_devices(values, model)
    prompts = loaded.encode(asked, how)
    print(f"{model} on {jax.device_count()} {jax.devices()[0].device_kind}, {values.dtype}", flush=True)
    return of_model(loaded.policy, prompts, how, min(values.batch_size, len(asked)), values.seed), loaded.names


def server_names(client: Endpoint) -> dict:
    """What names the model of a server."""
    return {"model": client.model, "fingerprint": f"{client.model} of {client.base_url}"}


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


def of_model(
    policy: Policy, prompts: Mapping[str, np.ndarray], how: How, batch_size: int, seed: int, columns: int = COLUMNS
) -> Answer:
    """A model that answers the encoded prompts; its weights are placed at the first question.

    Args:
      batch_size: rows that are decoded together, over all devices, always as many: the sampler is compiled for them.
      seed: of sampling.
      columns: prompts are padded to a multiple of so many tokens.
    """
    engine = policy.engine
    width = -(-max(map(len, prompts.values())) // columns) * columns

    def answer(questions: Sequence[Question]) -> Iterator[list[tuple[Question, Said]]]:
        params = policy.place()
        for start in range(0, len(questions), PART * batch_size):
            some = list(questions[start : start + PART * batch_size])
            filled = some + some[-1:] * (batch_size - len(some))
            first = zlib.crc32(json.dumps(some[0].id).encode())
            rollout = engine.sample(
                params, [prompts[q.id] for q in filled], jax.random.fold_in(jax.random.key(seed), first),
                width=width, batch=batch_size, max_new_tokens=how.max_new_tokens, temperature=how.temperature,
            )  # fmt: skip
            ended = engine.ended(rollout)
            yield [
                (q, Said(said(engine.tokenizer, _ids(rollout, n, width), engine.stop_ids, how.think_end), not ended[n]))
                for n, q in enumerate(some)
            ]

    return answer


def _ids(rollout, row: int, width: int) -> list[int]:
    return rollout.tokens_BL[row, width:][rollout.response_mask_BT[row]].tolist()


def of_server(client: Endpoint, how: How, at_once: int, quiet: bool = False) -> Answer:
    """A model of a server, of which so many answers are asked at a time; what it may cost at most is said first.

    Args:
      quiet: say nothing of cost, where the questions are few of many.
    """
    options = {"temperature": how.temperature, "max_tokens": how.max_new_tokens}

    def one(question: Question) -> tuple[Question, Said]:
        reply = client.chat(question.messages, **options)
        text = reply.text
        if how.think_end and how.think_end in text:
            text = text.rpartition(how.think_end)[2].lstrip()
        return question, Said(text, reply.cut)

    def answer(questions: Sequence[Question]) -> Iterator[list[tuple[Question, Said]]]:
        if not quiet:
            most = client.estimate((q.messages for q in questions), **options)
            print(f"{client.base_url}, {client.model}: at most about {client.priced(most)}", flush=True)
            client.check(most)
        try:
            for pair in each(one, questions, at_once):
                yield [pair]
        except ConnectionError as error:
            raise ConnectionError(f"{error}; the answers are kept, and the same command goes on") from None
        if not quiet:
            print(f"asked now: {client.priced(client.spent)}", flush=True)

    return answer
