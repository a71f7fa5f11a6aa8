"""Pretrained text encoders of the BERT family: a source names one; out come config, tokenizer and a reader of weights.

    hf:ORG/NAME[@REVISION]    the model hub          path:DIR    a directory in Hugging Face layout

Weights are safetensors; what stands beside the encoder in the files (pooler, heads of pretraining) is not read.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from transformers import BertTokenizerFast, PreTrainedTokenizerFast, RobertaTokenizerFast

from camopd_jax.models import encoder, hub, load
from camopd_jax.models.encoder import KINDS, EncoderConfig
from camopd_jax.models.huggingface import read_json
from camopd_jax.models.weights import Read

_HALVES = {"attn": ("attention.output.LayerNorm", "attention.ln"), "mlp": ("output.LayerNorm", "ln")}
_LINEAR = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "o": "attention.output.dense",
    "up": "intermediate.dense", "down": "output.dense",
}  # fmt: skip
_TOP = {
    "embed": "embeddings.word_embeddings.weight", "positions": "embeddings.position_embeddings.weight",
    "types": "embeddings.token_type_embeddings.weight",
    "embed_norm": "embeddings.LayerNorm.weight", "embed_norm_bias": "embeddings.LayerNorm.bias",
    "last_norm": "encoder.ln.weight", "last_norm_bias": "encoder.ln.bias",
}  # fmt: skip
_PREFIXES = ("", "bert.", "roberta.")
# Of a directory that has a vocabulary and no tokenizer.json; and the tokens of one whose config names none.
_BERT, _ROBERTA = (BertTokenizerFast, "vocab.txt"), (RobertaTokenizerFast, "vocab.json")
_TOKENIZERS = {"bert": _BERT, "megatron-bert": _BERT, "roberta": _ROBERTA}
_TOKENS = {"pad": ("[PAD]", "<pad>"), "cls": ("[CLS]", "<s>"), "sep": ("[SEP]", "</s>"), "unk": ("[UNK]", "<unk>")}
# Sizes that config.json must have, and the least that each may be.
_SIZES = {"vocab_size": 1, "hidden_size": 1, "intermediate_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1,
          "max_position_embeddings": 4, "type_vocab_size": 1}  # fmt: skip


@dataclass(frozen=True)
class TextModel:
    """An encoder that is ready to be read; its weights are not held in memory."""

    source: str
    cfg: EncoderConfig
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str
    read: Read
    stamps: tuple[tuple[str, int, int], ...]  # as of `load.Model`


def load_encoder(source: str) -> TextModel:
    """Open an encoder: config, tokenizer, and every tensor's name and shape checked.

    Raises:
      ValueError: if the source is malformed or names nothing that can be loaded, with what is allowed.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "hf" and rest:
        repo, _, revision = rest.partition("@")
        directory, commit = hub.snapshot(repo, revision or None)
        source = f"hf:{repo}@{commit}"
    elif scheme == "path" and rest:
        directory = Path(rest).expanduser()
    else:
        raise ValueError(f"text encoder {source!r}: allowed are hf:ORG/NAME[@REVISION], path:DIR")
    if not (directory / "config.json").is_file():
        raise ValueError(f"text encoder {source}: {directory} has no config.json")
    try:
        load.refuse_what_runs(directory)
        cfg = config_from_hf(read_json(directory / "config.json"))
        where = load.locate(directory)
        prefix = _prefix(where)
        _check(cfg, where, prefix)
        tokenizer = _tokenizer(directory, cfg)
    except (ValueError, OSError) as error:
        raise ValueError(f"text encoder {source}: {' '.join(str(error).split())}") from None
    files = sorted({where[prefix + tensor_name(cfg, name, layer)][0] for name, layer, _ in encoder.tensors_of(cfg)})
    named = scheme == "hf"
    content = [np.frombuffer(source.encode(), np.uint8)] if named else map(load.mapped, files)
    stamps = tuple(load.stamp(file) for file in files) if named else ()
    fingerprint = load.digest_of(repr((cfg, tokenizer.backend_tokenizer.to_str())), *content)
    return TextModel(source, cfg, tokenizer, fingerprint, _reader(cfg, where, prefix), stamps)


def config_from_hf(config: dict) -> EncoderConfig:
    """The config of config.json.

    Raises:
      ValueError: for another architecture, or a value that is not supported.
    """
    kind = config.get("model_type")
    if kind not in KINDS:
        raise ValueError(
            f"config.json: model_type {kind!r} is no encoder that is known; allowed are {', '.join(KINDS)}"
        )
    for key, least in _SIZES.items():
        if type(config.get(key)) is not int or config[key] < least:
            raise ValueError(f"config.json: {key} = {config.get(key)!r}: allowed is a whole number, {least} or more")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ValueError("config.json: hidden_size is no multiple of num_attention_heads")
    for key, allowed in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if config.get(key, allowed) != allowed:
            raise ValueError(f"config.json: {key} = {config[key]!r}: allowed is {allowed!r}")
    first = config.get("pad_token_id", 1) + 1 if kind == "roberta" else 0
    eps = config.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise ValueError(f"config.json: layer_norm_eps = {eps!r}: allowed is above 0 and below 1")
    return EncoderConfig(
        kind, config["vocab_size"], config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"],
        config["num_attention_heads"], config["max_position_embeddings"], first, config["type_vocab_size"], eps,
    )  # fmt: skip


def tensor_name(cfg: EncoderConfig, name: str, layer: int | None) -> str:
    """Hugging Face's name of our parameter, without the prefix of the whole model."""
    if layer is None:
        return _TOP[name]
    bare, kind = name.removesuffix("_bias"), "bias" if name.endswith("_bias") else "weight"
    if bare.endswith("_norm"):
        part = _HALVES[bare.removesuffix("_norm")][cfg.kind == "megatron-bert"]
    else:
        part = _LINEAR[bare]
    return f"encoder.layer.{layer}.{part}.{kind}"


def _prefix(where: dict) -> str:
    for prefix in _PREFIXES:
        if prefix + _TOP["embed"] in where:
            return prefix
    raise ValueError(f"tensor {_TOP['embed']} is missing")


def _check(cfg: EncoderConfig, where: dict, prefix: str) -> None:
    if cfg.layers > len(where):  # or the names of a billion layers would fill the memory
        raise ValueError(f"config.json: num_hidden_layers = {cfg.layers}, of which {len(where)} tensors are not whole")
    for name, layer, shape in encoder.tensors_of(cfg):
        full = prefix + tensor_name(cfg, name, layer)
        if full not in where:
            raise ValueError(f"tensor {full} is missing")
        if where[full][1] != shape:
            raise ValueError(f"{full} is {where[full][1]}, expected {shape}")


def _tokenizer(directory: Path, cfg: EncoderConfig) -> PreTrainedTokenizerFast:
    kind, vocabulary = _TOKENIZERS[cfg.kind]
    if (directory / "tokenizer.json").is_file():
        kind = PreTrainedTokenizerFast
    elif not (directory / vocabulary).is_file():
        raise ValueError(f"there is no tokenizer.json and no {vocabulary}; one of them is needed")
    try:
        tokenizer = kind.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # KeyError, TypeError or a plain Exception, as what is wrong there has it
        raise ValueError(f"the tokenizer cannot be read: {type(error).__name__}: {error}") from None
    for name, usual in _TOKENS.items():
        there = [token for token in usual if token in tokenizer.get_vocab()]
        if getattr(tokenizer, f"{name}_token") is None and there:
            setattr(tokenizer, f"{name}_token", there[0])
    lacking = [n for n in ("pad", "cls", "sep") if getattr(tokenizer, f"{n}_token_id") is None]
    if lacking:
        raise ValueError(f"the tokenizer has no {', '.join(lacking)}; allowed is one with pad, cls and sep")
    if max(tokenizer.get_vocab().values()) >= cfg.vocab_size:
        raise ValueError(
            f"the tokenizer has ids up to {max(tokenizer.get_vocab().values())}, the embedding {cfg.vocab_size} rows"
        )
    return tokenizer


def _reader(cfg: EncoderConfig, where: dict, prefix: str) -> Read:
    def read(name, layer, index):
        full = prefix + tensor_name(cfg, name, layer)
        file, shape = where[full]
        with safe_open(file, framework="numpy") as tensors:
            return tensors.get_slice(full)[index[: len(shape)]]

    return read
