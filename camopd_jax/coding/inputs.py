"""What an ICD coding run is made of, read and checked before anything trains: notes, labels, graph, model."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from scipy import sparse
from transformers import PreTrainedTokenizerFast

from camopd_jax import hosts, sharding
from camopd_jax.coding import rules
from camopd_jax.evals import cached
from camopd_jax.models import encoder_files
from camopd_jax.models.encoder import EncoderConfig
from camopd_jax.models.encoder_files import TextModel
from camopd_jax.probias import chunks, corpus, descriptions, graph, model
from camopd_jax.probias.chunks import Chunking
from camopd_jax.probias.corpus import Corpus
from camopd_jax.probias.graph import Graph
from camopd_jax.probias.labels import Labels
from camopd_jax.probias.model import Codes, ModelConfig

ENCODER = "encoder"
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Part:
    """A split, as it is computed with."""

    ids: list[np.ndarray]  # tokens of each note, int32
    truth_NC: sparse.csr_array  # bool; of the codes that are labels
    cut: int  # notes of which not all tokens are read


@dataclass(frozen=True)
class Inputs:
    """What the stages of a run share."""

    config: ConfigDict
    mesh: Mesh
    models: dict[str, TextModel]  # the pretrained encoder, if there is one
    corpus: Corpus
    parts: dict[str, Part]  # by split
    tokenizer: PreTrainedTokenizerFast
    chunking: Chunking
    graph: Graph
    texts: tuple[str, ...]  # descriptions of the codes
    cfg: ModelConfig

    @property
    def labels(self) -> Labels:
        return self.corpus.labels

    def digests(self) -> dict[str, str]:
        """What names the notes that train, and their codes."""
        train = self.parts["train"]
        return {
            "train": cached.digest([[x.tolist() for x in train.ids], train.truth_NC.indices.tolist()]),
            "codes": cached.digest([list(self.labels.codes), list(self.texts)]),
        }

    def codes(self, described_CE: np.ndarray) -> Codes:
        return model.codes_of(self.cfg, self.graph, described_CE)

    def shift_C(self) -> np.ndarray:
        """What is added to the logits of training (model.loss)."""
        share_C = self.labels.frequency_C / len(self.parts["train"].ids)
        share_C = np.clip(share_C, 1e-6, 1 - 1e-6)
        return (self.config.loss.adjustment * (np.log(share_C) - np.log1p(-share_C))).astype(np.float32)


def read(config: ConfigDict) -> Inputs:
    """Open notes, labels, encoder and mesh.

    Raises:
      ValueError: naming what is wrong, where, and what is allowed.
    """
    mesh, chunking = sharding.make_mesh(**config.mesh), rules.chunking_of(config)
    shards = sharding.data_shards(mesh)
    for key, value in (("micro.notes", config.micro.notes), ("eval.batch_size", config.eval.batch_size)):
        if value % shards:
            raise ValueError(f"config.{key} = {value}: allowed is a multiple of the {shards} data shards")
    found = notes(config)
    for name in ("dev", "test"):
        if not len(found.splits[name]):
            raise ValueError(f"config.protocol.name = {config.protocol.name!r}: the {name} split has no notes")
        if not found.coverage[name].known:
            raise ValueError(
                f"config.data.source = {config.data.source}: no note of {name} has one of the "
                f"{len(found.labels.codes):,} codes of training; allowed are splits with codes in common"
            )
    written = {}
    if config.descriptions.kind != "official":
        written = descriptions.read(Path(config.descriptions.file).expanduser())
    texts = descriptions.texts(found.labels, config.descriptions.kind, written)
    models, tokenizer, text = _encoder(config, found, chunking)
    parts = {name: _part(found, name, tokenizer, chunking) for name in SPLITS}
    labels = found.labels
    columns = np.split(parts["train"].truth_NC.indices, parts["train"].truth_NC.indptr[1:-1])
    made = graph.of_training(columns, labels.frequency_C, config.graph.rare_at_most)
    if config.graph.shuffle:
        made = graph.shuffled(made, config.seed)
    described = config.labels.described if config.text.encoder == rules.SCRATCH else text.width
    g = config.graph
    cfg = ModelConfig(
        text=text, codes=len(labels.codes), described=described, width=config.labels.width,
        heads=config.labels.heads, mlp_width=g.mlp_width, direction=g.direction,
        bias=g.bias if g.direction != "none" else "none", bias_scale=g.bias_scale, gate=g.gate,
        queries=config.labels.queries, dropout=config.dropout, code_block=config.labels.code_block,
        rare_block=max(1, min(g.rare_block, max(len(made.rare_R), len(made.common_K)))), remat=config.text.remat,
    )  # fmt: skip
    return Inputs(config, mesh, models, found, parts, tokenizer, chunking, made, texts, cfg)


def notes(config: ConfigDict) -> Corpus:
    """The notes of a config, their splits and labels; raises ValueError as `corpus.load`."""
    return corpus.load(
        config.data.source, rules.protocol_of(config), characters=config.data.characters,
        shape=rules.shape_of(config), spool=Path(tempfile.gettempdir()),
    )  # fmt: skip


def _encoder(
    config: ConfigDict, found: Corpus, chunking: Chunking
) -> tuple[dict[str, TextModel], PreTrainedTokenizerFast, EncoderConfig]:
    length = chunking.tokens + 2
    if config.text.encoder == rules.SCRATCH:
        s = config.text.scratch
        tokenizer = chunks.train_tokenizer([note.text for note in found.splits["train"]], s.vocab)
        text = EncoderConfig(
            "bert", s.vocab, s.width, s.mlp_width, s.layers, s.heads, max_positions=length, first_position=0,
            types=1, norm_eps=1e-12,
        )  # fmt: skip
        return {}, tokenizer, text
    loaded = hosts.in_turn(lambda: encoder_files.load_encoder(config.text.encoder))
    if length > loaded.cfg.max_tokens:
        raise ValueError(
            f"config.text.chunk_tokens = {chunking.tokens}: {config.text.encoder} reads {loaded.cfg.max_tokens} "
            "tokens, CLS and SEP included"
        )
    return {ENCODER: loaded}, loaded.tokenizer, loaded.cfg


def _part(found: Corpus, name: str, tokenizer: PreTrainedTokenizerFast, chunking: Chunking) -> Part:
    notes, labels = found.splits[name], found.labels
    tokens = []
    for start in range(0, len(notes), 256):
        texts = [notes[i].text for i in range(start, min(start + 256, len(notes)))]
        tokens += chunks.tokenize(tokenizer, texts, chunking)
    columns = [labels.columns(entry.codes) for entry in notes.entries]
    indptr = np.cumsum([0, *map(len, columns)])
    indices = np.concatenate(columns) if columns else np.zeros(0, np.int32)
    truth = sparse.csr_array((np.ones(len(indices), bool), indices, indptr), shape=(len(columns), len(labels.codes)))
    return Part([t.ids for t in tokens], truth, sum(t.cut > 0 for t in tokens))


def lines(read: Inputs) -> Iterator[str]:
    """What the data are, for the page of checks."""
    labels, found = read.labels, read.corpus
    yield (
        f"{found.source}, protocol {found.protocol.name}: {len(labels.codes):,} codes, "
        f"{int((labels.frequency_C <= read.config.graph.rare_at_most).sum()):,} of them in at most "
        f"{read.config.graph.rare_at_most} training notes; {read.graph.edges:,} edges from common to rare ones"
    )
    for name, part in read.parts.items():
        sizes, covered = [len(x) for x in part.ids], found.coverage[name]
        cut = f", {part.cut:,} of them cut at {read.chunking.reach:,} tokens" if part.cut else ""
        ceiling = f"; a recall of {covered.ceiling:.1%} is possible" if covered.unknown else ""
        yield (
            f"{name}: {len(sizes):,} notes of {np.mean(sizes):.0f} tokens on average, the longest {max(sizes):,}{cut}; "
            f"{covered.assigned / len(sizes):.1f} codes a note{ceiling}"
        )
    if found.left_out:
        yield "left out: " + ", ".join(f"{n:,} {why}" for why, n in found.left_out.items())
    yield "no patient is in two splits; labels, frequencies and the graph are of the training notes alone"
