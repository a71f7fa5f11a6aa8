"""What the config of an ICD coding run may be."""

from ml_collections import ConfigDict

from camopd_jax.keys import Keys, check_secrets
from camopd_jax.probias import descriptions, model, protocols, synthetic
from camopd_jax.probias.chunks import Chunking
from camopd_jax.probias.protocols import Protocol
from camopd_jax.probias.synthetic import Shape

SCRATCH = "scratch"
THRESHOLDS = ("fixed", "global", "buckets")
FIGURES = ("micro", "macro")


def check_config(config: ConfigDict) -> int:
    """Validate every value of a config, and that it has all keys and no others; returns how many these are.

    Raises:
      ValueError: naming the key, its value and what is allowed.
    """
    check_secrets(config)
    keys = Keys(config)
    keys.common()
    keys.text("data.source", "protocol.files", "descriptions.file", "text.encoder")
    keys.whole("data.batch_size", "micro.notes", "eval.resamples", "protocol.least", "protocol.top")
    keys.whole("data.characters", "eval.patience", least=0)
    keys.one_of("protocol.name", protocols.PROTOCOLS)
    keys.seeds("protocol.seed")
    keys.need("protocol.shares", lambda v: len(v) == 3, "three shares, for train, dev and test")
    keys.one_of("descriptions.kind", descriptions.KINDS)
    _synthetic(keys)
    _model(keys)
    keys.need("dropout", lambda v: 0 <= v < 1, "at least 0 and below 1")
    keys.not_negative("loss.adjustment")
    keys.one_of("threshold.rule", THRESHOLDS)
    keys.one_of("threshold.figure", FIGURES)
    keys.need("threshold.value", lambda v: 0 < v < 1, "a probability between 0 and 1, both excluded")
    count = keys.check_no_others()
    _together(config)
    return count


def _synthetic(keys: Keys) -> None:
    keys.whole("synthetic.codes", least=4)
    keys.whole("synthetic.siblings", least=2)
    keys.whole("synthetic.rarest")
    keys.whole("synthetic.comorbid", "synthetic.noise", least=0)
    for key in ("rare_share", "most", "likely", "strength", "clear", "silent", "abbreviated"):
        keys.need(f"synthetic.{key}", lambda v: 0 <= v <= 1, "0 to 1")
    keys.not_negative("synthetic.zipf", "synthetic.negated")
    for key, n in (("notes", 3), ("rare_notes", 2)):
        keys.need(
            f"synthetic.{key}", lambda v, n=n: len(v) == n and all(type(x) is int and x >= 1 for x in v),
            f"{n} whole numbers, 1 or more",
        )  # fmt: skip


def _model(keys: Keys) -> None:
    keys.whole("text.chunk_tokens", "text.stride", "text.max_chunks")
    keys.whole(*(f"text.scratch.{key}" for key in ("vocab", "width", "mlp_width", "layers", "heads")))
    keys.flag("text.remat")
    keys.one_of("graph.direction", model.DIRECTIONS)
    keys.one_of("graph.bias", model.BIASES)
    keys.positive("graph.bias_scale")
    keys.whole("graph.rare_at_most", "graph.mlp_width", "graph.rare_block")
    keys.flag("graph.shuffle")
    keys.flag("graph.gate")
    keys.one_of("labels.queries", model.QUERIES)
    keys.whole("labels.width", "labels.heads", "labels.code_block", "labels.described")


def _together(config: ConfigDict) -> None:
    """What the keys say together."""
    text, labels, scratch = config.text, config.labels, config.text.scratch
    if text.stride > text.chunk_tokens:
        raise ValueError(
            f"config.text.stride = {text.stride}: allowed is up to config.text.chunk_tokens = {text.chunk_tokens}, or "
            "tokens between two chunks are never read"
        )
    for name, section in (("labels", labels), ("text.scratch", scratch)):
        if section.width % section.heads:
            raise ValueError(f"config.{name}.width = {section.width}: allowed is a multiple of heads = {section.heads}")
    if labels.queries == "learned" and config.graph.direction != "none":
        raise ValueError("config.labels.queries = 'learned': allowed with config.graph.direction = 'none'")
    if config.data.batch_size % config.micro.notes:
        raise ValueError(
            f"config.micro.notes = {config.micro.notes}: allowed is a divisor of config.data.batch_size = "
            f"{config.data.batch_size}"
        )
    if config.eval.patience and not config.eval.every:
        raise ValueError(f"config.eval.patience = {config.eval.patience}: allowed with config.eval.every above 0")
    if config.descriptions.kind != "official" and not config.descriptions.file:
        raise ValueError(
            f"config.descriptions.kind = {config.descriptions.kind!r}: allowed with config.descriptions.file, a JSONL "
            "file of written ones"
        )
    protocol_of(config)
    if config.data.source == "builtin:icd10":
        shape_of(config)


def protocol_of(config: ConfigDict) -> Protocol:
    """Raise ValueError, with the key, for values that do not go together."""
    try:
        return protocols.Protocol(**config.protocol.to_dict())
    except ValueError as error:
        raise ValueError(f"config.protocol: {error}") from None


def shape_of(config: ConfigDict) -> Shape:
    """What builtin:icd10 makes; raises ValueError, with the key, for values that do not go together."""
    try:
        return synthetic.Shape(seed=config.seed, **config.synthetic.to_dict())
    except ValueError as error:
        raise ValueError(f"config.{error}") from None


def chunking_of(config: ConfigDict) -> Chunking:
    return Chunking(config.text.chunk_tokens, config.text.stride, config.text.max_chunks)


def doubts(config: ConfigDict) -> list[str]:
    """What is allowed and rarely meant, a line each."""
    found, g = [], config.graph
    if g.shuffle:
        found.append("config.graph.shuffle = True: a control, in which a rare code has the edges of another")
    if g.direction == "none" and (g.shuffle or g.gate):
        found.append("config.graph.direction = 'none': without a graph, its shuffle, gate and bias say nothing")
    if config.threshold.rule == "fixed" and config.loss.adjustment:
        found.append("config.threshold.rule = 'fixed': with loss.adjustment probabilities are higher; tune it on dev")
    if config.optim.warmup_steps > config.steps:
        found.append(f"config.optim.warmup_steps = {config.optim.warmup_steps}: the learning rate is never reached")
    return found
