"""A client of OpenAI-compatible chat servers: answers are kept on disk as they come, and their cost is counted.

The key comes from the environment and goes into one header: no file, log or message has it. Whatever is asked leaves
the machine, so licensed text (licensed.py) is asked nowhere unless its user named the server for it.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from camopd_jax import wire
from camopd_jax.wire import Refused

TIMEOUT = 300.0  # seconds
ATTEMPTS = 6
NO_SCHEMA = frozenset((400, 404, 415, 422, 501))  # of servers that do not know response_format
CHARACTERS = 3  # of a token, where no server has counted: English has about 4, so this is many tokens rather than few
MESSAGE = 8  # tokens around a message, likewise
_OWN = ("model", "messages", "temperature", "max_tokens", "response_format", "stream", "n")

In, Out = TypeVar("In"), TypeVar("Out")


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool  # at max_tokens


class Tokens(NamedTuple):
    """Numbers of tokens."""

    prompt: int
    completion: int

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)

    def __sub__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.prompt - other.prompt, self.completion - other.completion)


class Prices(NamedTuple):
    """Money for a million tokens."""

    prompt: float
    completion: float


class Endpoint:
    """A model of a server, which several threads may ask at a time.

    Args:
      base_url: with the version, such as http://localhost:8000/v1.
      model: its name there.
      key_variable: the environment variable that has the key; unset or "": no key is sent.
      cache: a directory in which each answer is kept, under a hash of all that was asked, once it is there.
      options: further fields of every request, such as {"seed": 1, "top_p": 0.9}.
      prices: by which money is counted.
      limit: of that money over this object's life; a request that might pass it is not made.
      timeout: seconds without a byte of an answer.
      attempts: at each request, with growing pauses between them.

    Raises:
      ValueError: one line: the address, the key, the options or the limit cannot be used.
    """

    def __init__(
        self, base_url: str, model: str, *, key_variable: str = "OPENAI_API_KEY", cache: Path | None = None,
        options: dict | None = None, prices: Prices | None = None, limit: float | None = None,
        timeout: float = TIMEOUT, attempts: int = ATTEMPTS, sleep: Callable[[float], None] = time.sleep,
    ):  # fmt: skip
        if limit is not None and prices is None:
            raise ValueError(f"a limit of {limit} without the prices of tokens; allowed are both, or no limit")
        if own := sorted(set(options or ()) & set(_OWN)):
            raise ValueError(f"options: {', '.join(own)} cannot be set there; allowed are other fields of a request")
        self.base_url, self.model, self.prices, self.limit = base_url.rstrip("/"), model, prices, limit
        self._server = wire.Server(self.base_url, key_variable, timeout, attempts, sleep)
        self._cache, self._options = cache, dict(options or {})
        self._lock = threading.Lock()
        self._spent = self._asking = Tokens(0, 0)
        self._schemas = True  # until the server has shown that it does not know them
        self._most_name = "max_tokens"

    def chat(self, messages: list[dict], *, temperature: float, max_tokens: int, schema: dict | None = None) -> Reply:
        """The answer to a conversation; from the cache, if it was asked before.

        Args:
          messages: each with role and content.
          schema: a JSON schema that the server shall keep to; where it does not know response_format, the last
            message asks for it. `structured.parse` reads the answer, which may still be anything.

        Raises:
          ValueError: one line: the server refuses, it is none of this kind, or the limit would be passed.
          ConnectionError: one line: it is not there, or failed each time.
        """
        asked = self._asked(messages, temperature, max_tokens, schema)
        kept = self._kept(asked)
        if kept is not None:
            return kept
        most = Tokens(rough(messages, schema), max_tokens)
        with self._lock:
            self._check(self._asking + most)
            self._asking += most
        try:
            reply = self._reply(self._answer(asked, schema), messages)
            with self._lock:
                self._spent += Tokens(reply.prompt_tokens, reply.completion_tokens)
        finally:
            with self._lock:
                self._asking -= most
        self._keep(asked, reply)
        return reply

    def estimate(
        self, conversations: Iterable[list[dict]], *, temperature: float, max_tokens: int, schema: dict | None = None
    ) -> Tokens:
        """At most about so many, by a count of characters, for those that the cache does not have."""
        total = Tokens(0, 0)
        for messages in conversations:
            if self._kept(self._asked(messages, temperature, max_tokens, schema)) is None:
                total += Tokens(rough(messages, schema), max_tokens)
        return total

    def check(self, tokens: Tokens) -> None:
        """Whether so many more may be spent.

        Raises:
          ValueError: they would pass the limit.
        """
        with self._lock:
            self._check(tokens)

    @property
    def spent(self) -> Tokens:
        """Of all that was asked; what the cache had costs nothing."""
        return self._spent

    def priced(self, tokens: Tokens) -> str:
        """Tokens, and money where there are prices, in words."""
        text = f"{tokens.prompt:,} tokens in, {tokens.completion:,} out"
        return text if self.prices is None else f"{text}, {self._money(tokens):,.4f} in money"

    def _money(self, tokens: Tokens) -> float:
        return (tokens.prompt * self.prices.prompt + tokens.completion * self.prices.completion) / 1e6

    def _check(self, more: Tokens) -> None:
        if self.limit is not None and self._money(self._spent + more) > self.limit:
            raise ValueError(
                f"{self.base_url}: spent {self.priced(self._spent)}; up to {self.priced(more)} more may pass the limit "
                f"of {self.limit:,}: raise it, or ask for less"
            )

    def _asked(self, messages: list[dict], temperature: float, max_tokens: int, schema: dict | None) -> dict:
        asked = {"model": self.model, "messages": messages, "temperature": temperature, "max_tokens": max_tokens}
        return asked | self._options | ({} if schema is None else {"schema": schema})

    def _file(self, asked: dict) -> Path:
        text = json.dumps([self.base_url, asked], sort_keys=True)
        return self._cache / f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def _kept(self, asked: dict) -> Reply | None:
        """What the cache has; a damaged file is as none."""
        try:
            return None if self._cache is None else Reply(**json.loads(self._file(asked).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _keep(self, asked: dict, reply: Reply) -> None:
        """Put an answer in the cache, whole or not at all."""
        if self._cache is not None:
            self._cache.mkdir(parents=True, exist_ok=True)
            file = self._file(asked)
            staged = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
            staged.write_text(json.dumps(asdict(reply)), encoding="utf-8")
            os.replace(staged, file)

    def _answer(self, asked: dict, schema: dict | None) -> dict:
        body = {key: value for key, value in asked.items() if key != "schema"}
        if schema is None:
            return self._post(body)
        if self._schemas:
            form = {"name": "answer", "strict": True, "schema": schema}
            try:
                return self._post(body | {"response_format": {"type": "json_schema", "json_schema": form}})
            except Refused as error:
                if error.status not in NO_SCHEMA:
                    raise
        *before, last = asked["messages"]
        told = f"Answer with one JSON object that fits this JSON schema, and with nothing else:\n{json.dumps(schema)}"
        found = self._post(body | {"messages": [*before, last | {"content": f"{last['content']}\n\n{told}"}]})
        self._schemas = False  # it was the schema, since without it there is an answer
        return found

    def _post(self, body: dict) -> dict:
        def named() -> dict:
            return {self._most_name if key == "max_tokens" else key: value for key, value in body.items()}

        name = self._most_name
        try:
            return self._server.post("/chat/completions", named())
        except Refused as error:
            # Newer models of OpenAI have another name for it, which their refusal of this one tells.
            if error.status != 400 or name != "max_tokens" or "max_completion_tokens" not in str(error):
                raise
        self._most_name = "max_completion_tokens"
        return self._server.post("/chat/completions", named())

    def _reply(self, found: dict, messages: list[dict]) -> Reply:
        try:
            choice = found["choices"][0]
            text = choice["message"].get("content") or ""  # None where a model thought to the end, or refused
            used = found.get("usage") or {}
            prompt, completion = used.get("prompt_tokens"), used.get("completion_tokens")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise Refused(200, f"{self.base_url}: it answered without choices[0].message.content") from None
        if not isinstance(text, str):
            raise Refused(200, f"{self.base_url}: it answered with something else than a text")
        return Reply(
            text.encode("utf-8", "replace").decode(),  # half a character could not be written to a file
            prompt if isinstance(prompt, int) else rough(messages, None),
            completion if isinstance(completion, int) else -(-len(text) // CHARACTERS),
            choice.get("finish_reason") == "length",
        )


def rough(messages: list[dict], schema: dict | None) -> int:
    """About how many tokens a conversation has, rather too many."""
    texts = [str(m["content"]) for m in messages] + ([] if schema is None else [json.dumps(schema)])
    return sum(MESSAGE + -(-len(text.encode("utf-8", "replace")) // CHARACTERS) for text in texts)


def each(ask: Callable[[In], Out], items: Iterable[In], at_once: int) -> Iterator[Out]:
    """ask(item) of all items, in their order, so many at a time; after an error no further one is begun."""
    pool = ThreadPoolExecutor(at_once)
    try:
        yield from pool.map(ask, items)
    finally:
        pool.shutdown(cancel_futures=True)
