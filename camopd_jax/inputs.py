"""What a recovery run is made of, read and checked before anything is computed: models, mesh, prompts, evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ml_collections import ConfigDict

from camopd_jax import chat, data, preflight, sharding
from camopd_jax.camopd.system import Branch
from camopd_jax.chat import Chat, Encoded
from camopd_jax.engine import Engine, Numerics
from camopd_jax.evals import checks, suite
from camopd_jax.models import decoder, load
from camopd_jax.models.decoder import DecoderConfig, Lora
from camopd_jax.models.load import Model
from camopd_jax.packing import PackShape


@dataclass(frozen=True)
class Examples:
    """What the specialisation stage learns: token ids of prompts and of their answers."""

    prompts: list[np.ndarray]
    answers: list[np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """What the stages of a run share."""

    config: ConfigDict
    engine: Engine  # of the student
    models: dict[str, Model]  # by branch; the one that the run specialises itself is not there yet
    branches: dict[str, Branch]
    suite: suite.Suite
    examples: Examples | None  # None where all teachers are given
    statistics: list[str]  # of the data, a line a source

    @property
    def specialised(self) -> str | None:
        """The branch whose teacher the run makes."""
        return next((b for b in self.branches if b not in self.models), None)

    @property
    def base(self) -> Model:
        return base_of(self.config, self.models)


def read(config: ConfigDict) -> Inputs:
    """Open models, data and mesh; what is cheap to check comes before data are read, and those before models.

    Raises:
      ValueError: naming what is wrong, where, and what is allowed.
    """
    names = preflight.branches(config)
    _mesh(config)
    for source in _sources(config).values():
        load.check(source)
    loaded = _load(config, names)
    models, engine = open_models(config)
    encoder = _Encoder(config, engine)
    branches = {
        name: encoder.branch(name, number, loaded.train[name], loaded.heldout[name])
        for number, name in enumerate(names)
    }
    examples = encoder.examples(loaded.examples) if loaded.examples else None
    return Inputs(config, engine, models, branches, encoder.suite(loaded), examples, encoder.statistics)


def open_models(config: ConfigDict) -> tuple[dict[str, Model], Engine]:
    """The teachers that are given, by branch, and the student's engine on the config's mesh.

    Raises:
      ValueError: if a model cannot be read, the mesh does not fit, or the models do not share their tokens.
    """
    mesh, sources = _mesh(config), _sources(config)
    for source in sources.values():
        load.check(source)
    opened = {source: load.load(source) for source in dict.fromkeys(sources.values())}
    models = {name: opened[source] for name, source in sources.items()}
    for name, model in models.items():
        check_architecture(config, mesh, name, model.source, model.cfg)
    engine = _engine(config, mesh, base_of(config, models))
    _same_tokens(models, engine)
    return models, engine


def _mesh(config: ConfigDict):
    mesh = sharding.make_mesh(**config.mesh)
    preflight.check_devices(config, sharding.data_shards(mesh))
    return mesh


def _sources(config: ConfigDict) -> dict[str, str]:
    """The model sources that are given, by branch."""
    return {n: config.teachers[n] for n in preflight.branches(config) if config.teachers[n] != preflight.SPECIALISE}


def check_architecture(config: ConfigDict, mesh, name: str, source: str, cfg: DecoderConfig) -> None:
    """That a model lies on the mesh and takes the longest prompt and response: teachers score what the student says.

    Raises:
      ValueError: naming the teacher, its source and what does not fit.
    """
    where = f"config.teachers.{name} = {source!r}"
    try:
        sharding.param_shardings(mesh, decoder.split(cfg)[1], decoder.AXES)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    e, rollout = config.eval, config.rollout
    answer = max(rollout.max_new_tokens, e.max_new_tokens, e.max_domain_tokens, e.max_instruction_tokens)
    if rollout.max_prompt_tokens + answer > cfg.max_positions:
        raise ValueError(
            f"{where}: it was made for {cfg.max_positions} tokens; rollout.max_prompt_tokens "
            f"({rollout.max_prompt_tokens}) and the longest response ({answer}) are more"
        )


def base_of(config: ConfigDict, models: dict[str, Model]) -> Model:
    """The model from which the student, or its specialisation, starts."""
    return models.get(config.student, models["general"])


def _engine(config: ConfigDict, mesh, model: Model) -> Engine:
    tokens = max(model.tokenizer.get_vocab().values()) + 1
    if tokens > model.cfg.vocab_size:
        raise ValueError(
            f"model source {model.source}: the tokenizer has ids up to {tokens - 1}, the embedding "
            f"{model.cfg.vocab_size} rows"
        )
    if not model.tokenizer.chat_template:
        raise ValueError(
            f"model source {model.source}: its tokenizer has no chat template; take the model's chat version, or add a "
            "chat_template.jinja"
        )
    cfg = model.cfg
    if config.lora.rank:
        cfg = replace(cfg, lora=Lora(config.lora.rank, config.lora.alpha, tuple(config.lora.targets)))
    micro = config.micro
    shape = PackShape(micro.rows * sharding.data_shards(mesh), micro.width, micro.slots)
    numerics = Numerics(config.rollout.temperature, micro.logit_chunk, config.precision, tokens)
    return Engine(cfg, mesh, model.tokenizer, model.stop_ids, shape, numerics)


def _same_tokens(models: dict[str, Model], engine: Engine) -> None:
    """Teachers score the student's token ids, so all must mean the same by them."""
    ours = engine.tokenizer.get_vocab()
    for name, model in models.items():
        theirs = model.tokenizer.get_vocab()
        if ours != theirs:
            token = min(set(ours.items()) ^ set(theirs.items()))[0]
            raise ValueError(
                f"config.teachers.{name} = {model.source!r}: its tokenizer is not the student's, for example token "
                f"{token!r} is {theirs.get(token)} there and {ours.get(token)} here; all must share one vocabulary"
            )
        if model.cfg.vocab_size < engine.numerics.vocab:
            raise ValueError(
                f"config.teachers.{name} = {model.source!r}: {model.cfg.vocab_size} rows of embedding for "
                f"{engine.numerics.vocab} tokens"
            )


@dataclass(frozen=True)
class _Loaded:
    """What the data sources hold, before a tokenizer sees it."""

    train: dict[str, data.Loaded]  # by branch
    heldout: dict[str, data.Loaded]  # of the short evaluations, by branch
    examples: data.Loaded | None  # of the specialisation
    general: data.Loaded  # of the full evaluation, as those below
    instructions: data.Loaded
    domains: dict[str, data.Loaded]  # by branch


def _load(config: ConfigDict, names: Sequence[str]) -> _Loaded:
    e = config.eval

    def load(source: str, split: str, share: float, *, count: int, at_most: bool, seed: int) -> data.Loaded:
        candidates = config.icd10.candidates
        return data.load_prompts(
            source, split, count=count, at_most=at_most, candidates=candidates, seed=seed, heldout_share=share
        )

    def train(branch: str) -> data.Loaded:
        d = config.data[branch]
        share = 0.0 if d.heldout else config.data.heldout_share
        return load(d.source, "train", share, count=d.count, at_most=False, seed=config.seed + 1000)

    def heldout(branch: str, *, count: int, seed: int) -> data.Loaded:
        """At most `count` held-out prompts of a branch: of a source of their own, or a share of the branch's."""
        d = config.data[branch]
        if d.heldout:
            return load(d.heldout, "train", 0.0, count=count, at_most=True, seed=seed)
        return load(d.source, "heldout", config.data.heldout_share, count=count, at_most=True, seed=seed)

    made = next((n for n in names if config.teachers[n] == preflight.SPECIALISE), None)
    loaded = _Loaded(
        train={name: train(name) for name in names},
        heldout={name: heldout(name, count=e.prompts, seed=config.seed + 1000) for name in names},
        examples=_load_examples(config, made) if made else None,
        general=heldout("general", count=e.general_prompts, seed=e.seed),
        instructions=load("builtin:instructions", "heldout", 0.0, count=e.instructions, at_most=False, seed=e.seed),
        domains={name: heldout(name, count=e.domain_prompts, seed=e.seed) for name in names if name != "general"},
    )
    for prompts in (loaded.general, *loaded.domains.values()):
        for prompt in prompts.prompts:
            _check_checks(prompt)
    return loaded


def _load_examples(config: ConfigDict, branch: str) -> data.Loaded:
    """The conversations of the specialisation: `specialise.source`, or the branch's own source."""
    s = config.specialise
    source = s.source or config.data[branch].source
    own_heldout = s.source or config.data[branch].heldout
    return data.load_conversations(
        source, count=s.count or (s.steps * s.batch_size if source == "builtin:icd10" else 0), at_most=False,
        candidates=config.icd10.candidates, seed=s.seed,
        heldout_share=0.0 if own_heldout else config.data.heldout_share,
    )  # fmt: skip


class _Encoder:
    """Turns prompts into tokens as the config says, and keeps what is to be told of them."""

    def __init__(self, config: ConfigDict, engine: Engine):
        self._config, self._engine = config, engine
        self._chat = Chat(config.chat.system, config.chat.thinking)
        self.statistics: list[str] = []

    def _encode(self, key: str, loaded: data.Loaded) -> Encoded:
        rollout = self._config.rollout
        encoded = chat.encode_prompts(
            self._engine.tokenizer, loaded, self._chat, limit=rollout.max_prompt_tokens,
            long_prompts=rollout.long_prompts,
        )  # fmt: skip
        self.statistics.append(encoded.statistics.describe(key))
        return encoded

    def branch(self, name: str, number: int, train: data.Loaded, heldout: data.Loaded) -> Branch:
        config = self._config
        encoded, held = (self._encode(f"data.{name}", loaded) for loaded in (train, heldout))
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
        encoded = self._encode("specialise", loaded)
        answers = chat.encode_answers(self._engine.tokenizer, encoded.prompts, self._engine.stop_ids[0])
        self._check_lengths(encoded, answers)
        return Examples(encoded.tokens, answers)

    def _check_lengths(self, encoded: Encoded, answers: Sequence[np.ndarray]) -> None:
        width, slots = self._config.micro.width, self._config.micro.slots
        for prompt, tokens, answer in zip(encoded.prompts, encoded.tokens, answers, strict=True):
            if len(answer) > slots or len(tokens) + len(answer) > width:
                raise ValueError(
                    f"specialise: example {prompt.id} has {len(tokens)} prompt and {len(answer)} answer tokens; "
                    f"allowed are config.micro.width = {width} together and config.micro.slots = {slots} of answer"
                )

    def suite(self, loaded: _Loaded) -> suite.Suite:
        e = self._config.eval

        def task(key, prompts, max_new_tokens):
            encoded = self._encode(f"eval.{key}", prompts)
            return suite.Task(encoded.prompts, encoded.tokens, max_new_tokens)

        return suite.Suite(
            general=task("general_prompts", loaded.general, e.max_new_tokens),
            instructions=task("instructions", loaded.instructions, e.max_instruction_tokens),
            domains={n: task("domain_prompts", prompts, e.max_domain_tokens) for n, prompts in loaded.domains.items()},
            batch_size=e.batch_size,
            seed=e.seed,
            temperature=self._config.rollout.temperature,
        )


def _check_checks(prompt: data.Prompt) -> None:
    """Raise ValueError if a check of a prompt is unknown or its arguments are wrong."""
    try:
        checks.passes("", prompt.checks)
    except ValueError as error:
        raise ValueError(f"prompt {prompt.id}: {error}") from None
