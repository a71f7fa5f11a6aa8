"""What an ICD coding run checks before it starts; what is the same for every kind of run is in page.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from camopd_jax import checked, page, room
from camopd_jax.coding import footprint, inputs, rules
from camopd_jax.coding.coder import Coder
from camopd_jax.coding.inputs import Inputs
from camopd_jax.models import encoder
from camopd_jax.models.weights import WHOLE
from camopd_jax.page import Checked, Program
from camopd_jax.probias import model, system

ALIKE = 1e-4  # logits of a note alone and beside a longer one, float32
NOTES = 4


def check(config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> Checked:
    """`page.check` of an ICD coding run."""
    return page.check(CODING, config, workdir, allowed)


def _header(config: ConfigDict, workdir: Path) -> Iterator[str]:
    """The stages."""
    del workdir
    g, labels = config.graph, config.labels
    kind = f"{g.direction} graph, bias {g.bias}{', shuffled' if g.shuffle else ''}"
    if g.direction == "none":
        kind = "no graph" + (", learned queries (PLM-ICD)" if labels.queries == "learned" else "")
    yield f"  notes: {config.data.source}; text encoder: {config.text.encoder}; codes: {kind}"
    yield f"  1. {config.steps:,} steps of {config.data.batch_size} notes; dev every {config.eval.every} steps"
    yield f"  2. temperature and threshold ({config.threshold.rule}) from dev, scores of test with intervals"
    yield "  3. tables, plots, export for bin/predict.py"


def _weights(read: Inputs) -> Iterator[str]:
    """A line for the pretrained encoder, every value of which is looked at once; or what starts at random."""
    shapes = model.split(read.cfg)[1]
    total = sum(int(np.prod(s.shape)) for s in jax.tree.leaves(shapes))
    for source in read.models.values():
        for name, layer, _ in encoder.tensors_of(source.cfg):
            if bad := checked.not_finite(np.asarray(source.read(name, layer, WHOLE))):
                raise ValueError(
                    f"text encoder {source.source}: {bad} values of {name} are not finite; fetch the weights again"
                )
        yield f"{source.source}: all tensors there, of the right shape and finite; fingerprint {source.fingerprint}"
    yield f"{total:,} parameters train{'' if read.models else ', all from random ones'}"


def _memory(read: Inputs, workdir: Path) -> list[str]:
    del workdir
    phases = footprint.phases(read.config, footprint.of_run(read))
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        line, doubt = room.check_memory(phases, room.available(), "host memory")
    else:
        line, doubt = room.check_memory(phases, (device.memory_stats() or {}).get("bytes_limit"), "device memory")
    return [line, *page.warnings([doubt] if doubt else [])]


def _disk(read: Inputs, workdir: Path) -> list[str]:
    return room.check_disks([footprint.written(read, workdir)])


def _proofs(read: Inputs) -> Iterator[str]:
    """On the run's own model: a note's logits do not depend on what is beside it, and a step moves the loss.

    Raises:
      ValueError: if that is not so.
    """
    coder, part = Coder(read), read.parts["train"]
    params = coder.fresh(read.config.seed)
    order = np.argsort([len(x) for x in part.ids], kind="stable")
    rows = read.config.eval.batch_size
    short, long = order[: min(NOTES, rows // 2) or 1], order[-1:]

    def logits(which: np.ndarray) -> np.ndarray:
        notes = system.batch_of(
            [part.ids[i] for i in which], part.truth_NC[which].toarray(), 0.0, rows, 0, read.tokenizer, read.chunking
        )
        return coder.logits(params, notes)[: len(short)]

    off = float(np.abs(logits(short) - logits(np.concatenate([short, long]))).max()) if rows > len(short) else 0.0
    if read.config.precision == "float32" and not off <= ALIKE:
        raise ValueError(
            f"self-test: the logits of a note differ by {off:.2g} where a longer one is beside it (allowed {ALIKE}); "
            "padding is seen: this is a fault of the program or of this backend"
        )
    yield f"padding and longer notes beside it change no logit of a note by more than {off:.1g}"


def _estimate(read: Inputs) -> str:
    config, labels = read.config, len(read.labels.codes)
    notes = config.steps * config.data.batch_size
    passes = notes / len(read.parts["train"].ids)
    return f"{notes:,} notes ({passes:.1f} passes over the training split), {labels:,} codes; the steps tell the time"


CODING = Program(
    rules.check_config,
    rules.doubts,
    _header,
    inputs.read,
    (("data", lambda read, workdir: inputs.lines(read)), ("disk", _disk), ("memory", _memory)),
    _proofs,
    _estimate,
    lambda config: "encoder, graph and label attention train",
    _weights,
)
