"""The prompts of a recovery run: read from their sources, held apart, and turned into tokens."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from camopd_jax import chat, data, licensed, rules, sources
from camopd_jax.camopd.system import Branch
from camopd_jax.chat import Chat, Encoded, Statistics
from camopd_jax.data import Reader
from camopd_jax.engine import Engine
from camopd_jax.evals import checks, suite

LEAST_HELDOUT = 2  # prompts without which no error bar can be given


@dataclass(frozen=True)
class Examples:
    """What the specialisation stage learns: token ids of prompts and of their answers."""

    prompts: list[np.ndarray]
    answers: list[np.ndarray]
    ids: list[str]


@dataclass(frozen=True)
class Loaded:
    """What the data sources hold, before a tokenizer sees it; no held-out prompt is among those that train."""

    train: dict[str, data.Loaded]  # by branch
    heldout: dict[str, data.Loaded]  # of the short evaluations, by branch
    examples: data.Loaded | None  # of the specialisation
    general: data.Loaded  # of the full evaluation, as those below
    instructions: data.Loaded
    domains: dict[str, data.Loaded]  # by branch


def load(config: ConfigDict, names: Sequence[str]) -> Loaded:
    """Read all data sources of a config whose branches are `names`.

    Raises:
      ValueError: naming what is wrong, where, and what is allowed.
    """
    e, seed = config.eval, config.seed + 1000
    read = functools.cache(sources.read)  # train, held-out and examples are parts of one source, which is read once
    made = rules.specialised(config)
    heldout = {name: _heldout(config, read, name, count=e.prompts, seed=seed) for name in names}
    full = {
        name: _heldout(
            config, read, name, count=e.general_prompts if name == "general" else e.domain_prompts, seed=e.seed
        )
        for name in names
    }
    instructions = _load(
        config, read, "builtin:instructions", "heldout", 0.0, count=e.instructions, at_most=False, seed=e.seed
    )
    evaluated = [*heldout.values(), *full.values(), instructions]
    for name, loaded in full.items():
        with licensed.of(config).errors(name):
            for prompt in loaded.prompts:
                _check_checks(prompt)
    held = {data.content_hash(p.messages) for loaded in evaluated for p in loaded.prompts}
    return Loaded(
        train={name: _train(config, read, name).without(held) for name in names},
        heldout=heldout,
        examples=_examples(config, read, made).without(held) if made else None,
        general=full.pop("general"),
        instructions=instructions,
        domains=full,
    )


def _load(
    config: ConfigDict, read: Reader, source: str, split: str, share: float, *, count: int, at_most: bool, seed: int
) -> data.Loaded:
    return data.load_prompts(
        source, split, count=count, at_most=at_most, candidates=config.icd10.candidates, seed=seed, heldout_share=share,
        read=read,
    )  # fmt: skip


def _train(config: ConfigDict, read: Reader, branch: str) -> data.Loaded:
    d = config.data[branch]
    share = 0.0 if d.heldout else config.data.heldout_share
    with licensed.of(config).errors(branch):
        loaded = _load(config, read, d.source, "train", share, count=d.count, at_most=True, seed=config.seed + 1000)
    if d.count > loaded.available:
        raise ValueError(
            f"config.data.{branch}.count = {d.count}: {d.source} has {loaded.available} prompts to train on; 0: all"
        )
    return loaded


def _heldout(config: ConfigDict, read: Reader, branch: str, *, count: int, seed: int) -> data.Loaded:
    """At most `count` held-out prompts of a branch: of a source of their own, or a share of the branch's."""
    d = config.data[branch]
    share = 0.0 if d.heldout else config.data.heldout_share
    with licensed.of(config).errors(branch):
        return _load(config, read, d.heldout or d.source, "heldout", share, count=count, at_most=True, seed=seed)


def _examples(config: ConfigDict, read: Reader, branch: str) -> data.Loaded:
    """The conversations of the specialisation: `specialise.source`, or the branch's own source."""
    s = config.specialise
    source = s.source or config.data[branch].source
    own_heldout = s.source or config.data[branch].heldout
    with licensed.of(config).errors(branch):
        return data.load_conversations(
            source, count=s.count or (s.steps * s.batch_size if source in data.MADE else 0), at_most=False,
            candidates=config.icd10.candidates, seed=s.seed,
            heldout_share=0.0 if own_heldout else config.data.heldout_share, read=read,
        )  # fmt: skip


def _check_checks(prompt: data.Prompt) -> None:
    """Raise ValueError if a check of a prompt is unknown or its arguments are wrong."""
    try:
        checks.passes("", prompt.checks)
    except ValueError as error:
        raise sources.TextError(f"prompt {prompt.id}", str(error)) from None


class Encoder:
    """Turns prompts into tokens as the config says, and keeps what is to be told of them.

    Raises:
      ValueError: if the chat template does not know what the config asks of it.
    """

    def __init__(self, config: ConfigDict, engine: Engine):
        self._config, self._engine = config, engine
        self._chat = Chat(**config.chat)
        if config.chat.thinking != "template" and "enable_thinking" not in engine.tokenizer.chat_template:
            raise ValueError(
                f"config.chat.thinking = {config.chat.thinking!r}: the student's chat template has no enable_thinking; "
                "allowed is 'template'"
            )
        self.statistics: list[tuple[str, Statistics]] = []  # of each part of the data, with its config key

    def _encode(self, key: str, branch: str, loaded: data.Loaded) -> Encoded:
        rollout = self._config.rollout
        if not loaded.prompts:
            raise ValueError(f"{key} {loaded.source}: all its prompts are held-out prompts elsewhere; none is left")
        with licensed.of(self._config).errors(branch):
            encoded = chat.encode_prompts(
                self._engine.tokenizer, loaded, self._chat, limit=rollout.max_prompt_tokens,
                long_prompts=rollout.long_prompts,
            )  # fmt: skip
        self.statistics.append((key, encoded.statistics))
        return encoded

    def _encode_heldout(self, key: str, branch: str, loaded: data.Loaded) -> Encoded:
        encoded = self._encode(key, branch, loaded)
        if len(encoded.tokens) < LEAST_HELDOUT:
            raise ValueError(
                f"{key} {loaded.source}: {len(encoded.tokens)} held-out prompts; {LEAST_HELDOUT} or more are needed"
            )
        return encoded

    def branch(self, name: str, number: int, train: data.Loaded, heldout: data.Loaded) -> Branch:
        config = self._config
        encoded, held = self._encode(f"data.{name}", name, train), self._encode_heldout(f"data.{name}", name, heldout)
        return Branch(
            name=name,
            number=number,
            prompts=encoded.tokens,
            prompt_ids=[p.id for p in encoded.prompts],
            heldout=held.tokens,
            demand=config.camopd.demand[name],
            rho=config.camopd.rho[name],
            scale=config.camopd.scale[name],
        )

    def examples(self, loaded: data.Loaded) -> Examples:
        encoded = self._encode("specialise", rules.specialised(self._config), loaded)
        answers = chat.encode_answers(self._engine.tokenizer, encoded.prompts, self._engine.stop_ids[0])
        width, slots = self._config.micro.width, self._config.micro.slots
        for prompt, tokens, answer in zip(encoded.prompts, encoded.tokens, answers, strict=True):
            if len(answer) > slots or len(tokens) + len(answer) > width:
                raise ValueError(
                    f"specialise: example {prompt.id} has {len(tokens)} prompt and {len(answer)} answer tokens; "
                    f"allowed are config.micro.width = {width} together and config.micro.slots = {slots} of answer"
                )
        return Examples(encoded.tokens, answers, [p.id for p in encoded.prompts])

    def suite(self, loaded: Loaded) -> suite.Suite:
        e = self._config.eval

        def task(key, branch, prompts, max_new_tokens):
            encoded = self._encode_heldout(f"eval.{key}", branch, prompts)
            return suite.Task(prompts.source, encoded.prompts, encoded.tokens, max_new_tokens)

        return suite.Suite(
            general=task("general_prompts", "general", loaded.general, e.max_new_tokens),
            instructions=task("instructions", "instructions", loaded.instructions, e.max_instruction_tokens),
            domains={
                n: task("domain_prompts", n, prompts, e.max_domain_tokens) for n, prompts in loaded.domains.items()
            },
            batch_size=e.batch_size,
            seed=e.seed,
            temperature=self._config.rollout.temperature,
        )
