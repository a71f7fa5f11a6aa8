"""CoSER's conversations in two files that share none: those with the most turns as prompts, the rest to learn from.

What a conversation is known by: its turns, without the system message and without [thoughts], for CoSER has the same
dialogue with several of the one and with or without the other. The turns are hashed in a chain, so that every beginning
of a conversation has a hash too.
"""

import hashlib
import heapq
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from camopd_jax import metrics
from camopd_jax.prepare import sample, work
from camopd_jax.prepare.recipes import Messages, names_next_speaker
from camopd_jax.prepare.work import Order

BUCKETS = 64  # files of unfinished work; what one of them holds is in memory at a time
_THOUGHT = re.compile(r"\[[^\]]*\]")


def said(text: str) -> str:
    """A text without [thoughts], as the other characters hear it, and without what white space it has."""
    return " ".join(_THOUGHT.sub(" ", text).split())


def chain(messages: Messages) -> list[str]:
    """The hash of each beginning of a conversation that ends with a turn of its assistant; the last is its own."""
    state, found = "", []
    for m in messages[messages[0]["role"] == "system" :]:
        state = hashlib.sha256(json.dumps([state, m["role"], said(m["content"])]).encode()).hexdigest()
        if m["role"] == "assistant":
            found.append(state)
    return found


def paragraphs(text: str) -> set[str]:
    """What is said in a turn, a line of a character each."""
    return {said(part) for part in text.split("\n\n")} - {""}


@dataclass(frozen=True)
class Conversation:
    """One of the source."""

    messages: Messages
    key: str  # its place in a random order
    hashes: list[str]  # of its beginnings and, last, of itself

    @property
    def turns(self) -> int:
        return len(self.messages) - (self.messages[0]["role"] == "system")

    @property
    def rank(self) -> tuple[int, str, str]:
        """Smallest for the most turns; of equally many the same dialogues come together."""
        return -self.turns, self.hashes[-1], self.key


def make(order: Order) -> None:
    """Write prompts, conversations to learn from, and the manifest with the proof that they share none.

    Raises:
      ValueError: one line: the source cannot be read, or has too few conversations.
    """
    with work.begun(order) as place:
        stream = order.streams[0]
        state, counts = _read(order, place), Counter()
        spoken = _in_character(_different(place, order.seed), counts)
        prompts = heapq.nsmallest(order.count, spoken, key=lambda c: c.rank)
        if len(prompts) < order.count or counts["different"] == len(prompts):
            (place / "coser.json").unlink()
            otherwise = "ask for fewer with --count, which must leave some to learn from, or name another --coser"
            raise work.too_few(stream, state, counts["different"], order.count, otherwise)
        left_out: Counter = Counter()
        rows = ({"id": _id(c), "dialogue": c.hashes[-1], "messages": c.messages[:-1]} for c in prompts)
        outputs = [
            work.write_rows(order.outputs[0], rows),
            work.write_rows(order.outputs[1], _rest(_different(place, order.seed), prompts, left_out)),
        ]
        record = work.source_record(state, **counts, kept_out_of_both=dict(sorted(left_out.items())))
        work.write_manifest(order, outputs, {"coser": record}, disjoint=proof(*order.outputs, prompts))
    print(f"{outputs[0]['rows']:,} prompts: {order.outputs[0]}; {outputs[1]['rows']:,} conversations to learn from: "
          f"{order.outputs[1]}; {order.manifest}", flush=True)  # fmt: skip


def _id(conversation: Conversation) -> str:
    return f"coser-{conversation.key[:16]}"


def _read(order: Order, place: Path) -> dict:
    """Put all conversations of the source into buckets; what an earlier command has done is not done again."""
    stream = order.streams[0]
    state = work.left(place / "coser.json", stream) or work.fresh(stream) | {"sizes": [0] * BUCKETS}
    if state["done"]:
        return state
    origin = work.opened(order, stream, state)
    files = [(place / f"{i:02d}.rows").open("ab") for i in range(BUCKETS)]
    for file, size in zip(files, state["sizes"], strict=True):
        file.truncate(size)

    def use(messages: Messages) -> None:
        file = files[int(chain(messages)[-1][:8], 16) % BUCKETS]
        file.write((json.dumps(messages) + "\n").encode())

    def save() -> None:
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        state["sizes"] = [os.fstat(file.fileno()).st_size for file in files]
        metrics.write_json(place / "coser.json", state)

    try:
        work.read(order, stream, origin, state, use, save)
    finally:
        for file in files:
            file.close()
    return state


def _different(place: Path, seed: int) -> Iterator[Conversation]:
    """The different conversations of the buckets, in an order that no source has."""
    for i in range(BUCKETS):
        with (place / f"{i:02d}.rows").open(encoding="utf-8") as file:
            rows = {sample.key_of(m, seed): m for m in map(json.loads, file)}
        found = [Conversation(m, key, chain(m)) for key, m in rows.items()]
        yield from sorted(found, key=lambda c: (c.hashes[-1], c.key))


def _in_character(conversations: Iterable[Conversation], counts: Counter) -> Iterator[Conversation]:
    """Those in which a character speaks."""
    for conversation in conversations:
        named = names_next_speaker(conversation.messages)
        counts["different"] += 1
        counts["naming_the_next_speaker"] += named
        if not named:
            yield conversation


def _rest(all_: Iterable[Conversation], prompts: list[Conversation], left_out: Counter) -> Iterator[dict]:
    """The rows to learn from; counts those that stay out of both files."""
    keys, whole = {c.key for c in prompts}, {c.hashes[-1] for c in prompts}
    beginnings = {h for c in prompts for h in c.hashes[:-1]}
    for c in all_:
        if c.key in keys:
            continue
        if c.hashes[-1] in whole:
            left_out["the dialogue of a prompt"] += 1
        elif c.hashes[-1] in beginnings:
            left_out["the beginning of a prompt"] += 1
        elif whole.intersection(c.hashes[:-1]):
            left_out["begins with a prompt"] += 1
        else:
            yield {"id": _id(c), "messages": c.messages}


def proof(prompts: Path, rest: Path, chosen: list[Conversation]) -> dict:
    """What the two files share, from reading them again: no conversation, and none is the beginning of another's.

    Args:
      chosen: the conversations of the prompts with their last turns, which are in no file.
    """
    rows = list(_rows(prompts))
    whole = {row["dialogue"] for row in rows}
    beginnings = {h for row in rows for h in chain(row["messages"])}
    last = [paragraphs(c.messages[-1]["content"]) for c in chosen]
    sought, heard = set().union(*last), set()
    found, learned = Counter(shared=0, prompts_that_begin_another=0, others_that_begin_a_prompt=0), []
    for row in _rows(rest):
        *before, own = chain(row["messages"])
        learned.append(own)
        found["shared"] += own in whole
        found["prompts_that_begin_another"] += bool(whole.intersection(before))
        found["others_that_begin_a_prompt"] += own in beginnings
        for m in row["messages"]:
            heard |= paragraphs(m["content"]) & sought
    if found.total():
        raise RuntimeError(f"{prompts} and {rest} share conversations: {dict(found)}")
    return {
        "of": "SHA-256 chained over roles and contents of the turns, without system message and [thoughts]",
        **found,
        "prompts": len(rows), "dialogues_of_prompts": len(whole), "prompts_sha256": _digest(whole),
        "to_learn_from": len(learned), "to_learn_from_sha256": _digest(learned),
        "prompts_whose_last_turn_is_heard_in_another": sum(bool(said) and said <= heard for said in last),
    }  # fmt: skip


def _rows(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _digest(hashes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()
