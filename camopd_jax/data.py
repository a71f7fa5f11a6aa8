"""Prompt sources, their train and held-out splits; which prompts a step sees is a pure function of seed and visit."""

import hashlib
import json
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from importlib import resources

import numpy as np

from camopd_jax import icd10, personas, sources
from camopd_jax.sources import Record
from camopd_jax.types import Rollout

SPLITS = ("train", "heldout")
Reader = Callable[[str], list[Record]]


@dataclass(frozen=True)
class Prompt:
    """One conversation to answer, with what its evaluation needs."""

    id: str
    messages: list[dict]
    answer: str = ""  # the reference response
    checks: list[dict] = field(default_factory=list)  # that a right response passes, see evals/checks.py


@dataclass(frozen=True)
class Loaded:
    """The prompts that a source gave, and of how many they are."""

    source: str
    split: str
    rows: int  # of the source, all splits together
    duplicates: int  # left out, as an earlier one is the same
    available: int  # in the split
    prompts: list[Prompt]  # of those, as many as were asked for
    kept_out: int = 0  # left out, as they are held-out prompts of this or another branch

    def without(self, held: Set[str]) -> "Loaded":
        """What is left without the conversations whose content hash is in `held`."""
        left = [p for p in self.prompts if content_hash(p.messages) not in held]
        return replace(self, prompts=left, kept_out=self.kept_out + len(self.prompts) - len(left))


def _codings(split: str, count: int, candidates: int, seed: int) -> list[Prompt]:
    return [
        Prompt(f"icd10-{split}-{i}", q.messages, q.answer, [{"kind": "icd10_code", "code": q.code}])
        for i, q in enumerate(icd10.make_questions(split, count, candidates, seed))
    ]


def _dialogues(split: str, count: int, candidates: int, seed: int) -> list[Prompt]:
    del candidates  # of the other source
    return [
        Prompt(f"personas-{split}-{i}", d.messages, d.answer, d.checks)
        for i, d in enumerate(personas.make_dialogues(split, count, seed))
    ]


MADE = {"builtin:icd10": _codings, "builtin:personas": _dialogues}  # drawn without end, with answers to imitate
BUILTIN = ("builtin:general", *MADE, "builtin:instructions")


def load_prompts(
    source: str, split: str, *, count: int, at_most: bool, candidates: int, seed: int, heldout_share: float,
    read: Reader = sources.read,
) -> Loaded:  # fmt: skip
    """The prompts of a source and split ("train" or "heldout"), the first `count` of a fixed permutation (0: all).

    An assistant message at the end of a conversation is its answer, no part of the prompt. The built-in sources have
    splits of their own (builtin:instructions is held out as a whole, whatever the split). Of another source, whose
    prompts are taken once each, the round(heldout_share * n) whose content has the smallest SHA-256 are held out: no
    prompt is in both splits, and a row that is appended moves at most one other. With heldout_share = 0 both splits
    are the whole source. `at_most` allows fewer than `count`. The sources in MADE draw as many prompts as `count` says,
    by `seed`; `candidates` shapes the questions of builtin:icd10. `read` reads the rows of a source: a caller that
    takes several parts of one may remember them.

    Raises:
      ValueError: if the source is unknown, cannot be read, or holds fewer prompts than asked for.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: allowed are 'train', 'heldout'")
    if source in BUILTIN:
        return _builtin(source, split, count, at_most, candidates, seed)
    records = _read(source, read)
    unique = _unique(records)
    held = _held_out(set(unique), heldout_share, source)
    if heldout_share:
        prompts = [p for key, p in unique.items() if (key in held) == (split == "heldout")]
    else:
        prompts = list(unique.values())
    chosen = _choose(prompts, count, at_most, f"data source {source}", split)
    return Loaded(source, split, len(records), len(records) - len(unique), len(prompts), chosen)


def load_conversations(
    source: str, *, count: int, at_most: bool, candidates: int, seed: int, heldout_share: float,
    read: Reader = sources.read,
) -> Loaded:  # fmt: skip
    """Examples to imitate: every assistant message is the answer to the messages before it.

    So is `answer` to a prompt that ends in a user message. What `load_prompts` holds out of the same source at the
    same share is left out. The arguments are those of `load_prompts`.

    Raises:
      ValueError: as `load_prompts`, and if a row or source has nothing to imitate.
    """
    if source in MADE:
        return _builtin(source, "train", count, at_most, candidates, seed)
    if source in BUILTIN:
        raise ValueError(
            f"data source {source}: it has no answers to imitate; allowed are {', '.join(MADE)}, {sources.FORMS}"
        )
    records = _read(source, read)
    held = _held_out(set(_unique(records)), heldout_share, source)
    unique, total = {}, 0
    for record in records:
        examples = _examples(record)
        if not examples:
            raise ValueError(f"{record.where}: no assistant message and no answer; one of them is needed to imitate")
        if content_hash(_prompt(record).messages) in held:
            continue
        for example in examples:
            prompt = content_hash(example.messages)
            if prompt not in held:  # an early turn of this conversation can be another's whole prompt
                total += 1
                unique.setdefault((prompt, example.answer), example)
    chosen = _choose(list(unique.values()), count, at_most, f"data source {source}", "train")
    return Loaded(source, "train", len(records), total - len(unique), len(unique), chosen)


def content_hash(messages: list[dict]) -> str:
    """SHA-256 of a conversation: equal for equal roles and contents."""
    return hashlib.sha256(json.dumps([[m["role"], m["content"]] for m in messages]).encode()).hexdigest()


def _builtin(source: str, split: str, count: int, at_most: bool, candidates: int, seed: int) -> Loaded:
    if source in MADE:
        return Loaded(source, split, count, 0, count, MADE[source](split, count, candidates, seed))
    rows = _asset(f"{source.removeprefix('builtin:')}.jsonl")
    prompts = [
        Prompt(r["id"], r["messages"], checks=r.get("checks", [])) for r in rows if r.get("split", split) == split
    ]
    return Loaded(
        source, split, len(rows), 0, len(prompts), _choose(prompts, count, at_most, f"data source {source}", split)
    )


def _asset(name: str) -> list[dict]:
    text = (resources.files("camopd_jax") / "assets" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _read(source: str, read: Reader) -> list[Record]:
    if source.partition(":")[0] not in ("path", "hf"):
        raise ValueError(f"data source {source!r}: allowed are {', '.join(BUILTIN)}, {sources.FORMS}")
    return read(source)


def _prompt(record: Record) -> Prompt:
    """The conversation up to its last user message; a field `answer` without `checks` is itself the check."""
    *before, last = record.messages
    checks = record.checks or ([{"kind": "answer", "text": record.answer}] if record.answer else [])
    if last["role"] == "user":
        return Prompt(record.id, record.messages, record.answer, checks)
    return Prompt(record.id, before, record.answer or last["content"], checks)


def _examples(record: Record) -> list[Prompt]:
    messages = record.messages
    if record.answer and messages[-1]["role"] == "user":
        messages = [*messages, {"role": "assistant", "content": record.answer}]
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    examples = [Prompt(f"{record.id}/{n}", messages[:i], messages[i]["content"]) for n, i in enumerate(turns, 1)]
    return examples if len(examples) > 1 else [replace(e, id=record.id) for e in examples]


def _unique(records: Sequence[Record]) -> dict[str, Prompt]:
    """Content hash -> prompt, in the records' order; of equal prompts the first."""
    unique = {}
    for prompt in map(_prompt, records):
        unique.setdefault(content_hash(prompt.messages), prompt)
    return unique


def _held_out(hashes: set[str], share: float, source: str) -> set[str]:
    """The hashes of the held-out split: at least 2, and not all."""
    if not 0 <= share < 1:
        raise ValueError(f"heldout_share = {share}: allowed is 0 to below 1, the share of a data source to hold out")
    if share == 0:
        return set()
    if len(hashes) < 4:
        raise ValueError(
            f"data source {source}: {len(hashes)} different prompts are too few to hold some out; needed are 4 or "
            "more, or another source to evaluate on"
        )
    return set(sorted(hashes)[: min(max(round(share * len(hashes)), 2), len(hashes) - 1)])


def _choose(prompts: list[Prompt], count: int, at_most: bool, where: str, split: str) -> list[Prompt]:
    """The first `count` of a fixed permutation, in the order of the source; 0: all."""
    if count < 0 or (count > len(prompts) and not at_most):
        raise ValueError(f"{where}: {count} prompts asked for, the {split} split has {len(prompts)}")
    if not count:
        return prompts
    return [prompts[i] for i in np.sort(np.random.default_rng(0).permutation(len(prompts))[:count])]


def batch_at(size: int, batch: int, visit: int, seed: int) -> np.ndarray:
    """Indices [batch] of the prompts of a branch's visit: every prompt once before any twice.

    A pure function of its arguments, so that a resumed run needs no iterator state.
    """
    position = visit * batch + np.arange(batch)
    epochs = {int(e): np.random.default_rng((seed, int(e))).permutation(size) for e in np.unique(position // size)}
    return np.array([epochs[int(p // size)][p % size] for p in position])


def left_pad(sequences: Sequence[np.ndarray], width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, width] that end at the last column, and their mask."""
    tokens = np.full((len(sequences), width), pad_id, np.int32)
    mask = np.zeros((len(sequences), width), bool)
    for row, sequence in enumerate(sequences):
        tokens[row, width - len(sequence) :] = sequence
        mask[row, width - len(sequence) :] = True
    return tokens, mask


def given_responses(prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], pad_id: int) -> Rollout:
    """Prompts with given responses as a Rollout; there is no sampler, so its log-probabilities are 0."""
    prompt_BP, prompt_mask = left_pad(prompts, max(map(len, prompts)), pad_id)
    reversed_BT, reversed_mask = left_pad([a[::-1] for a in answers], max(map(len, answers)), pad_id)
    response_mask = reversed_mask[:, ::-1]
    return Rollout(
        tokens_BL=np.concatenate([prompt_BP, reversed_BT[:, ::-1]], axis=1),
        prompt_mask_BP=prompt_mask,
        response_mask_BT=response_mask,
        sampler_logp_BT=np.zeros(response_mask.shape, np.float32),
    )
