"""What a reinforcement run is made of, read and checked before anything is computed: model, instances, evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from camopd_jax import chat, data, hosts, inputs, sharding
from camopd_jax.chat import Chat
from camopd_jax.data import Prompt
from camopd_jax.distraction import benchmark, files, rewards
from camopd_jax.distraction.instance import Instance
from camopd_jax.distraction.questions import Question, questions
from camopd_jax.distraction.rewards import Reward
from camopd_jax.distraction.system import Asked, Pairs
from camopd_jax.engine import Engine
from camopd_jax.evals import cached, suite
from camopd_jax.models import load
from camopd_jax.models.load import Model
from camopd_jax.reinforce.rules import BUILTIN, REFERENCE

SHARE = 4  # instances are made so many times as many as wanted, until there are enough of the wanted operations


@dataclass(frozen=True)
class Inputs:
    """What the stages of a run share."""

    config: ConfigDict
    engine: Engine
    models: dict[str, Model]  # the reference, as which the student starts
    train: Asked
    heldout: Asked  # of the full evaluation: all paradigms and controls of an instance together
    pairs: Pairs  # of the held-out questions with distractors
    short: Pairs  # of these, those of the short evaluations
    instructions: suite.Task
    reward: Reward

    @property
    def base(self) -> Model:
        """The model as which the student starts."""
        return self.models[REFERENCE]

    def digests(self) -> dict[str, str]:
        """What names the prompts that train, as token ids."""
        return {"train": cached.digest([x.tolist() for x in self.train.prompts])}


def read(config: ConfigDict) -> Inputs:
    """Open model, instances and mesh.

    Raises:
      ValueError: naming what is wrong, where, and what is allowed.
    """
    mesh, rollout, e = sharding.make_mesh(**config.mesh), config.rollout, config.eval
    reward = rewards.load(config.grpo.reward)
    load.check(config.teachers[REFERENCE])
    made = {
        part: _instances(config, part, split, seed)
        for part, split, seed in (("train", "dev", config.seed + 1000), ("heldout", "test", e.seed))
    }
    check_apart(made["train"], made["heldout"])
    answer = max(rollout.max_new_tokens, e.max_instruction_tokens)
    model = hosts.in_turn(lambda: load.load(config.teachers[REFERENCE]))
    inputs.check_architecture(config, mesh, REFERENCE, model.source, model.cfg, answer)
    engine = inputs.engine_of(config, mesh, model)
    of_part = {
        part: _asked(config, engine, part, questions(found, config.data[part].paradigms, config.data[part].controls))
        for part, found in made.items()
    }
    distracted = [n for n, q in enumerate(of_part["heldout"].questions) if q.control == "distracted"]
    pairs = _pairs(engine, _some(of_part["heldout"], distracted), config)
    first = {x.id for x in made["heldout"][: e.prompts]}
    in_short = [n for n, q in enumerate(pairs.asked.questions) if q.instance.id in first]
    short = Pairs(_some(pairs.asked, in_short), *([side[n] for n in in_short] for side in (pairs.gold, pairs.bad)))
    return Inputs(
        config,
        engine,
        {REFERENCE: model},
        of_part["train"],
        of_part["heldout"],
        pairs,
        short,
        _task(config, engine),
        reward,
    )


def _instances(config: ConfigDict, part: str, split: str, seed: int) -> list[Instance]:
    """The instances of a part of the data, of the operations that are wanted."""
    d, wanted = config.data[part], set(config.data.operations)
    if d.source != BUILTIN:
        found = files.read(Path(d.source.removeprefix("path:")).expanduser())
        if len(found) < d.count:
            raise ValueError(f"config.data.{part}.count = {d.count}: {d.source} has {len(found)} instances")
        return found[: d.count]
    made = d.count
    while True:  # a longer benchmark begins with the shorter one
        found = [
            x
            for x in benchmark.make(split, made, seed=seed, level=config.data.level)
            if not wanted or operation_of(x) in wanted
        ]
        if len(found) >= d.count:
            return found[: d.count]
        if made > SHARE * d.count and not found:
            raise ValueError(f"config.data.operations = {tuple(wanted)}: the {split} split has none of them")
        made *= SHARE


def operation_of(instance: Instance) -> str:
    """What the template of a built instance asks for, such as "fact"."""
    return instance.template.rpartition("-")[2]


def check_apart(train: Sequence[Instance], heldout: Sequence[Instance]) -> None:
    """Raise ValueError if what trains shares a pattern, template or genre with what is held out."""
    for name in ("patterns", "template", "genre"):
        ours, theirs = ({v for x in part for v in _values(x, name)} for part in (train, heldout))
        if both := sorted(ours & theirs):
            raise ValueError(
                f"config.data.heldout.source: shares {name} with data.train.source, such as {both[0]!r}; what a model "
                "was trained on says nothing of others: allowed are instances of other patterns, templates and genres"
            )


def _values(instance: Instance, name: str) -> tuple[str, ...]:
    value = getattr(instance, name)
    return value if isinstance(value, tuple) else (value,)


def _some(asked: Asked, which: Sequence[int]) -> Asked:
    return Asked([asked.questions[n] for n in which], [asked.prompts[n] for n in which])


def _asked(config: ConfigDict, engine: Engine, part: str, asked: list[Question]) -> Asked:
    prompts = [Prompt(q.id, q.messages) for q in asked]
    loaded = data.Loaded(config.data[part].source, part, len(asked), 0, len(asked), prompts)
    encoded = chat.encode_prompts(
        engine.tokenizer, loaded, Chat(**config.chat), limit=config.rollout.max_prompt_tokens, long_prompts="error"
    )
    return Asked(asked, encoded.tokens)


def _pairs(engine: Engine, asked: Asked, config: ConfigDict) -> Pairs:
    """Raise ValueError if a gold or bad answer does not fit a packed row."""
    sides = [
        chat.encode_answers(
            engine.tokenizer, [Prompt(q.id, q.messages, getattr(q.instance, side)) for q in asked.questions],
            engine.stop_ids[0],
        )
        for side in ("gold", "bad")
    ]  # fmt: skip
    micro = config.micro
    for q, prompt, *answers in zip(asked.questions, asked.prompts, *sides, strict=True):
        longest = max(map(len, answers))
        if longest > micro.slots or len(prompt) + longest > micro.width:
            raise ValueError(
                f"question {q.id} has {len(prompt)} prompt tokens and up to {longest} of a given answer; allowed are "
                f"config.micro.width = {micro.width} together and config.micro.slots = {micro.slots} of answer"
            )
    return Pairs(asked, *sides)


def _task(config: ConfigDict, engine: Engine) -> suite.Task:
    """Held-out prompts whose answers tell whether instructions are still followed."""
    e = config.eval
    loaded = data.load_prompts(
        "builtin:instructions", "heldout", count=e.instructions, at_most=False, candidates=2, seed=e.seed,
        heldout_share=0.0,
    )  # fmt: skip
    encoded = chat.encode_prompts(
        engine.tokenizer, loaded, Chat(**config.chat), limit=config.rollout.max_prompt_tokens, long_prompts="error"
    )
    return suite.Task(loaded.source, encoded.prompts, encoded.tokens, e.max_instruction_tokens)


def lines(read: Inputs) -> Iterator[str]:
    """What the data are, for the page of checks."""
    for part in ("train", "heldout"):
        asked = getattr(read, part)
        instances = {q.instance.id: q.instance for q in asked.questions}.values()
        kinds = {name: len({v for x in instances for v in _values(x, name)}) for name in ("patterns", "families")}
        sizes = [len(x) for x in asked.prompts]
        yield (
            f"data.{part} {read.config.data[part].source}: {len(instances):,} instances, {kinds['patterns']} patterns "
            f"of {kinds['families']} families, {len({x.template for x in instances})} templates, "
            f"{len({x.genre for x in instances})} genres; {len(asked.questions):,} questions of "
            f"{np.mean(sizes):.0f} tokens on average, the longest {max(sizes)}"
        )
    yield "no pattern, template or genre that trains is held out"
    yield f"eval.instructions builtin:instructions: {len(read.instructions.prompts)} prompts"
