"""The flags of programs that ask an OpenAI-compatible server, and the client that they mean."""

import math
from pathlib import Path

from absl import flags

from camopd_jax.endpoint import ATTEMPTS, TIMEOUT, Endpoint, Prices

SENT = (
    "What is asked goes to that server: your own texts or those of the benchmark, never those of data.licensed.\n"
    "The key is read from the environment (--key_variable), and is in no file, log or message."
)


def define(values: flags.FlagValues, prefix: str = "") -> None:
    """Define --server, --model and what belongs to them; with a prefix those of one more server, such as a judge's."""

    def flag(kind, name, default, text):
        kind(f"{prefix}{name}", default, text, flag_values=values)

    flag(flags.DEFINE_string, "server", None, "Base of its API, such as http://localhost:8000/v1.")
    flag(flags.DEFINE_string, "model", None, "The model's name at the server.")
    flag(flags.DEFINE_string, "key_variable", "OPENAI_API_KEY", "The environment variable of the key; '': send none.")
    flag(flags.DEFINE_float, "price_in", None, "Money for a million tokens of prompts.")
    flag(flags.DEFINE_float, "price_out", None, "Money for a million tokens of answers.")
    flag(flags.DEFINE_float, "max_cost", None, "Of that money: nothing is asked that might pass it.")
    if not prefix:
        flag(flags.DEFINE_integer, "concurrency", 4, "Requests at a time.")
        flag(flags.DEFINE_float, "timeout", TIMEOUT, "Seconds without a byte, after which a request is made again.")
        flag(flags.DEFINE_integer, "retries", ATTEMPTS, "Attempts at a request that fails, with growing pauses.")


def client(values: flags.FlagValues, cache: Path | None, prefix: str = "") -> Endpoint:
    """The client that the flags mean; nothing is asked yet.

    Raises:
      ValueError: one line: a flag is missing, or has a value that is not allowed.
    """

    def of(name: str):
        return values[f"{prefix}{name}"].value

    if of("server") is None:
        raise ValueError(f"--{prefix}server is missing: the base of the server's API, such as http://localhost:8000/v1")
    if of("model") is None:
        raise ValueError(f"--{prefix}model is missing: the model's name at the server")
    for name in ("concurrency", "retries"):
        if values[name].value < 1:
            raise ValueError(f"--{name}={values[name].value}: allowed is a whole number, 1 or more")
    if not 0 < values.timeout < math.inf:
        raise ValueError(f"--timeout={values.timeout}: allowed is a number of seconds above 0")
    for name in ("price_in", "price_out", "max_cost"):
        if of(name) is not None and not 0 <= of(name) < math.inf:
            raise ValueError(f"--{prefix}{name}={of(name)}: allowed is a number, 0 or more")
    if (of("price_in") is None) != (of("price_out") is None):
        raise ValueError(f"--{prefix}price_in and --{prefix}price_out belong together: give both, or neither")
    if of("max_cost") is not None and of("price_in") is None:
        raise ValueError(
            f"--{prefix}max_cost needs --{prefix}price_in and --{prefix}price_out, by which money is counted"
        )
    if cache is not None and cache.exists() and not cache.is_dir():
        raise ValueError(f"{cache}: is no directory; allowed is one for the answers of the server")
    prices = None if of("price_in") is None else Prices(of("price_in"), of("price_out"))
    return Endpoint(
        of("server"), of("model"), key_variable=of("key_variable"), cache=cache, prices=prices,
        limit=of("max_cost"), timeout=values.timeout, attempts=values.retries,
    )  # fmt: skip
