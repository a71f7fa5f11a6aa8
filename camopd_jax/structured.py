"""JSON out of what a model wrote: found in its text, held against a schema, and asked for again with the reasons."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from camopd_jax.endpoint import Endpoint

SHOWN = 80  # characters of a value in a reason
TOLD = 8  # reasons that a model is told at a time
_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)
_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


class Unfit(ValueError):
    """A text without JSON that fits."""

    def __init__(self, faults: list[str]):
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class Found:
    """What came of asking until it fits."""

    value: Any | None  # None: it never did
    faults: tuple[tuple[str, ...], ...]  # of each answer that did not


def ask(
    client: Endpoint, messages: list[dict], schema: dict, check: Callable[[Any], list[str]], *,
    temperature: float, max_tokens: int, attempts: int,
) -> Found:  # fmt: skip
    """Ask until the answer fits the schema and `check` finds no fault in it, each time with what was wrong.

    Raises:
      ValueError, ConnectionError: as `Endpoint.chat`.
    """
    rejected: list[tuple[str, ...]] = []
    for _ in range(attempts):
        reply = client.chat(messages, temperature=temperature, max_tokens=max_tokens, schema=schema)
        try:
            value = parse(reply.text, schema)
            faults = check(value)
        except Unfit as error:
            cut = [f"it was cut at {max_tokens} tokens; be brief"] if reply.cut else []
            faults = cut + error.faults
        if not faults:
            return Found(value, tuple(rejected))
        rejected.append(tuple(faults))
        told = "\n".join(f"- {fault}" for fault in faults[:TOLD])
        again = f"That cannot be used:\n{told}\nAnswer again with the whole JSON object, mended, and with nothing else."
        said = {"role": "assistant", "content": reply.text or "(nothing)"}
        messages = [*messages, said, {"role": "user", "content": again}]
    return Found(None, tuple(rejected))


def parse(text: str, schema: dict) -> Any:
    """The JSON in a text that fits a schema; what a model thought before it, code fences and words around are no harm.

    Raises:
      Unfit: there is none, with the faults of the last one that there is.
    """
    text = _THOUGHT.sub("", text)
    faults = ["there is no JSON object in it"]
    for value in _values(text):
        found = mismatches(value, schema)
        if not found:
            return value
        faults = found
    raise Unfit(faults)


def mismatches(value: Any, schema: dict, where: str = "the answer") -> list[str]:
    """How a value departs from a schema of type, properties, required, items, minItems, maxItems, enum, anyOf.

    A property that the schema does not name is a departure.
    """
    if "anyOf" in schema:
        return _of_any(value, schema["anyOf"], where)
    if "enum" in schema:
        allowed = ", ".join(map(json.dumps, schema["enum"]))
        return [] if value in schema["enum"] else [f"{where} is {_brief(value)}; allowed: {allowed}"]
    kind = _TYPES[schema["type"]]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return [f"{where} is {_brief(value)}; it must be of type {schema['type']}"]
    if isinstance(value, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", len(value))
        if not low <= len(value) <= high:
            return [f"{where} has {len(value)} items; allowed are {low if low == high else f'{low} to {high}'}"]
        return [fault for i, x in enumerate(value) for fault in mismatches(x, schema["items"], f"{where}[{i}]")]
    if isinstance(value, dict):
        named = schema["properties"]
        faults = [f"{where} lacks {name!r}" for name in schema["required"] if name not in value]
        faults += [f"{where} has {name!r}, which it must not" for name in value if name not in named]
        inside = [name for name in value if name in named]
        return faults + [f for name in inside for f in mismatches(value[name], named[name], f"{where}.{name}")]
    return []


def _of_any(value: Any, schemas: list[dict], where: str) -> list[str]:
    """Those of the alternative that is meant: the one of the same kind, or else the nearest."""
    found = [mismatches(value, schema, where) for schema in schemas]
    if not all(found):
        return []
    if isinstance(value, dict):
        kinds = [s.get("properties", {}).get("kind", {}).get("enum", []) for s in schemas]
        same = [faults for faults, kind in zip(found, kinds, strict=True) if value.get("kind") in kind]
        if not same and any(kinds):
            allowed = ", ".join(sorted({k for kind in kinds for k in kind}))
            return [f"{where}.kind is {_brief(value.get('kind'))}; allowed: {allowed}"]
        found = same or found
    return min(found, key=len)


def _values(text: str) -> list[Any]:
    """The outermost JSON objects in a text, in order."""
    decoder, found, place = json.JSONDecoder(), [], text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
            found.append(value)
        except (ValueError, RecursionError):
            end = place + 1
        place = text.find("{", end)
    return found


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
