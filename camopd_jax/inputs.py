"""What a recovery run is made of, read and checked before anything is computed: models, mesh, prompts, evaluation."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from camopd_jax import hosts, licensed, prompts, rules, sharding
from camopd_jax.camopd.system import Branch
from camopd_jax.chat import Statistics
from camopd_jax.engine import Engine, Numerics
from camopd_jax.evals import cached, suite
from camopd_jax.models import decoder, load
from camopd_jax.models.decoder import DecoderConfig, Lora
from camopd_jax.models.load import Model
from camopd_jax.packing import PackShape
from camopd_jax.prompts import Examples


@dataclass(frozen=True)
class Inputs:
    """What the stages of a run share."""

    config: ConfigDict
    engine: Engine  # of the student
    models: dict[str, Model]  # by branch; the one that the run specialises itself is not there yet
    branches: dict[str, Branch]
    suite: suite.Suite
    examples: Examples | None  # None where all teachers are given
    statistics: list[tuple[str, Statistics]]  # of each part of the data, with its config key

    @property
    def specialised(self) -> str | None:
        """The branch whose teacher the run makes."""
        return rules.specialised(self.config)

    @property
    def base(self) -> Model:
        return base_of(self.config, self.models)

    def digests(self) -> dict[str, str]:
        """What names the prompts that each branch trains on, as token ids."""
        return {name: cached.digest([x.tolist() for x in b.prompts]) for name, b in self.branches.items()}

    def made_at(self, workdir: Path) -> Path | None:
        """Where the teacher that the run makes is kept, or will be; None: all teachers are given."""
        if not self.examples:
            return None
        return licensed.of(self.config).cache(workdir) / "specialised" / self._recipe

    @functools.cached_property
    def _recipe(self) -> str:
        config, s = self.config, self.config.specialise
        made_of = {
            "base": self.base.fingerprint,
            "lora": config.lora.to_dict() if config.lora.rank else None,
            "precision": config.precision,
            "optim": s.optim.to_dict() | {"decay_steps": s.steps},
            "steps": s.steps,
            "batch_size": s.batch_size,
            "seed": s.seed,
            "data": cached.digest([x.tolist() for x in self.examples.prompts + self.examples.answers]),
        }
        return cached.digest(made_of)


def read(config: ConfigDict) -> Inputs:
    """Open models, data and mesh; what is cheap to check comes before data are read, and those before models.

    Raises:
      ValueError: naming what is wrong, where, and what is allowed.
    """
    names = rules.branches(config)
    _mesh(config)
    for source in _sources(config).values():
        load.check(source)
    loaded = prompts.load(config, names)
    models, engine = open_models(config)
    encoder = prompts.Encoder(config, engine)
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
    opened = {s: hosts.in_turn(functools.partial(load.load, s)) for s in dict.fromkeys(sources.values())}
    models = {name: opened[source] for name, source in sources.items()}
    for name, model in models.items():
        check_architecture(config, mesh, name, model.source, model.cfg, longest_response(config))
    engine = engine_of(config, mesh, base_of(config, models))
    _same_tokens(models, engine)
    if config.camopd.loss == "top_k" and config.camopd.loss_top_k >= engine.numerics.vocab:
        raise ValueError(
            f"config.camopd.loss_top_k = {config.camopd.loss_top_k}: allowed is less than the vocabulary's "
            f"{engine.numerics.vocab}"
        )
    return models, engine


def _mesh(config: ConfigDict):
    mesh = sharding.make_mesh(**config.mesh)
    rules.check_devices(config, sharding.data_shards(mesh))
    return mesh


def _sources(config: ConfigDict) -> dict[str, str]:
    """The model sources that are given, by branch."""
    return {n: config.teachers[n] for n in rules.branches(config) if config.teachers[n] != rules.SPECIALISE}


def longest_response(config: ConfigDict) -> int:
    """Tokens of any response in a recovery, at most."""
    e = config.eval
    return max(config.rollout.max_new_tokens, e.max_new_tokens, e.max_domain_tokens, e.max_instruction_tokens)


def check_architecture(config: ConfigDict, mesh, name: str, source: str, cfg: DecoderConfig, answer: int) -> None:
    """Raise ValueError unless a teacher lies on the mesh and takes the longest prompt and a response of so many tokens.

    Teachers score what the student says, so that all must take what it takes.
    """
    where = f"config.teachers.{name} = {source!r}"
    try:
        sharding.param_shardings(mesh, decoder.split(cfg)[1], decoder.AXES)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    rollout = config.rollout
    if rollout.max_prompt_tokens + answer > cfg.max_positions:
        raise ValueError(
            f"{where}: it was made for {cfg.max_positions} tokens; rollout.max_prompt_tokens "
            f"({rollout.max_prompt_tokens}) and the longest response ({answer}) are more"
        )


def base_of(config: ConfigDict, models: dict[str, Model]) -> Model:
    """The model from which the student, or its specialisation, starts."""
    return models[rules.base_branch(config)]


def engine_of(config: ConfigDict, mesh: Mesh, model: Model) -> Engine:
    """The engine of a student that has a model's architecture, tokenizer and stop tokens.

    Raises:
      ValueError: if the tokenizer does not fit the embedding, or has no chat template.
    """
    tokens = load.token_count(model)
    if not model.tokenizer.chat_template:
        raise ValueError(
            f"model source {model.source}: its tokenizer has no chat template; take the model's chat version, or add a "
            "chat_template.jinja"
        )
    micro = config.micro
    shape = PackShape(micro.rows * sharding.data_shards(mesh), micro.width, micro.slots)
    numerics = Numerics(config.rollout.temperature, micro.logit_chunk, config.precision, tokens)
    return Engine(with_adapter(config, model.cfg), mesh, model.tokenizer, model.stop_ids, shape, numerics)


def with_adapter(config: ConfigDict, cfg: DecoderConfig) -> DecoderConfig:
    """The student's architecture: a model's, with the adapter that the config asks for."""
    how = config.lora
    return replace(cfg, lora=Lora(how.rank, how.alpha, tuple(how.targets))) if how.rank else cfg


def _same_tokens(models: dict[str, Model], engine: Engine) -> None:
    """Teachers score the student's token ids, so all must mean the same by them, and end a response alike.

    A teacher that ends its responses with none of the student's stop tokens would teach it to end with none of them.
    """
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
        if not set(model.stop_ids) & set(engine.stop_ids):
            theirs, ours = (named(engine, ids) for ids in (model.stop_ids, engine.stop_ids))
            raise ValueError(
                f"config.teachers.{name} = {model.source!r}: its responses end with {theirs}, the student's with "
                f"{ours}; all must share one such token, named by the tokenizer or in generation_config.json"
            )


def named(engine: Engine, ids: Sequence[int]) -> str:
    """Token ids as a message has them."""
    return ", ".join(f"{engine.tokenizer.convert_ids_to_tokens(i)!r} ({i})" for i in ids)
