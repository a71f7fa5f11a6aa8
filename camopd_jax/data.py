"""Prompt sources, chat templates and tokens; which prompts a step sees is a pure function of seed and visit."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

import numpy as np
from transformers import PreTrainedTokenizerFast

from camopd_jax import icd10
from camopd_jax.types import Rollout


@dataclass(frozen=True)
class Prompt:
    """One conversation to answer, with what its evaluation needs."""

    id: str
    messages: list[dict]
    answer: str = ""  # the reference response, for supervised learning
    code: str = ""  # the ICD-10-CM code that the answer must name
    checks: list[dict] = field(default_factory=list)  # of the instruction-following task


def load_prompts(source: str, split: str, *, count: int, candidates: int, seed: int) -> list[Prompt]:
    """The prompts of a source and split ("train" or "heldout"), the first `count` of them (0: all).

    `candidates` and `seed` shape the questions of builtin:icd10, which needs a count.

    Raises:
      ValueError: if the source is unknown, or holds fewer prompts than asked for.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split {split!r}: allowed are 'train', 'heldout'")
    if source == "builtin:icd10":
        questions = icd10.make_questions(split, count, candidates, seed)
        return [Prompt(f"icd10-{split}-{i}", q.messages, answer=q.answer, code=q.code) for i, q in enumerate(questions)]
    if source == "builtin:general":
        prompts = [Prompt(r["id"], r["messages"]) for r in _asset("general.jsonl") if r["split"] == split]
    elif source == "builtin:instructions":  # held out as a whole, whatever the split
        prompts = [Prompt(r["id"], r["messages"], checks=r["checks"]) for r in _asset("instructions.jsonl")]
    else:
        raise ValueError(f"data source {source!r}: allowed are builtin:general, builtin:icd10, builtin:instructions")
    if count > len(prompts):
        raise ValueError(f"data source {source}: {count} prompts asked for, the {split} split has {len(prompts)}")
    if count:
        keep = np.sort(np.random.default_rng(0).permutation(len(prompts))[:count])
        prompts = [prompts[i] for i in keep]
    return prompts


def _asset(name: str) -> list[dict]:
    text = (resources.files("camopd_jax") / "assets" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def encode_prompts(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt], limit: int) -> list[np.ndarray]:
    """Token ids of each conversation in the tokenizer's chat template, up to where the answer begins.

    Raises:
      ValueError: if a prompt is longer than `limit` tokens; cutting it here would train on another prompt than
        the one that is read.
    """
    encoded = []
    for prompt in prompts:
        ids = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True)["input_ids"]
        if len(ids) > limit:
            raise ValueError(f"prompt {prompt.id} has {len(ids)} tokens, rollout.max_prompt_tokens allows {limit}")
        encoded.append(np.asarray(ids, np.int32))
    return encoded


def encode_answers(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt]) -> list[np.ndarray]:
    """Token ids of each reference response, the end-of-turn token included."""
    end = [tokenizer.eos_token_id]
    return [np.asarray(tokenizer(p.answer, add_special_tokens=False)["input_ids"] + end, np.int32) for p in prompts]


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
