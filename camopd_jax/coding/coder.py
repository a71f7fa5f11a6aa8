"""The model of an ICD coding run on its mesh: parameters, what does not train, update and prediction."""

import functools
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from camopd_jax import hosts, sharding, step
from camopd_jax.coding.inputs import ENCODER, Inputs, Part
from camopd_jax.models import encoder, weights
from camopd_jax.models.conversion import cache_dir
from camopd_jax.models.encoder import Encoder
from camopd_jax.probias import chunks, lexical, model, system
from camopd_jax.probias.chunks import Chunking
from camopd_jax.probias.scores import Split
from camopd_jax.types import Params

DESCRIBED = 510  # tokens of a description that are read
AT_ONCE = 16  # descriptions


class Coder:
    """Places and computes; all arrays that come in are whole on every process."""

    def __init__(self, read: Inputs):
        self.read, self._dtype = read, read.config.precision
        self.static, self.shapes = model.split(read.cfg)
        self._params_at = sharding.param_shardings(read.mesh, self.shapes, model.AXES)
        self._whole, self._rows = sharding.replicated(read.mesh), sharding.by_rows(read.mesh)
        self.codes = jax.tree.map(functools.partial(_put, at=self._whole), read.codes(self.described()))
        pure = functools.partial(_predict, self.static, dtype=self._dtype)
        self._predict = jax.jit(
            pure, in_shardings=(self._params_at, self._rows, self._whole), out_shardings=self._whole
        )

    def described(self) -> np.ndarray:
        """The embedding of each code's description [C, E]."""
        read = self.read
        if ENCODER in read.models:
            return described(read)
        return lexical.embed(read.texts, read.tokenizer, read.cfg.described, seed=0)

    def fresh(self, seed: int) -> Params:
        """Parameters to start from: random ones, the text encoder's those of the pretrained one if there is one."""
        made = model.random_params(self.read.cfg, seed)
        if ENCODER in self.read.models:
            del made["text"]
        found = jax.tree.map(_put, made, {name: self._params_at[name] for name in made})
        if ENCODER in self.read.models:
            read, at = self.read.models[ENCODER].read, self._params_at["text"]
            found["text"] = weights.place(read, self.shapes["text"], at, "float32")
        return found

    def abstract(self) -> Params:
        """Shapes, dtypes and places of the parameters."""
        return jax.tree.map(
            lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), self.shapes, self._params_at
        )

    def steps(self) -> step.Steps:
        """The jitted pieces of the update."""
        config = self.read.config
        loss, logits = system.objective(self.static, self.read.shift_C(), self._dtype)
        optimizer = step.make_optimizer(**config.optim, decay_steps=config.steps)
        return step.of_loss(
            loss, logits, self._rows, self.shapes, self.read.mesh, model.AXES, optimizer, self.codes
        )  # fmt: skip

    def logits(self, params: Params, notes: model.Notes) -> np.ndarray:
        """[N, C] of a batch, without dropout."""
        return np.asarray(self._predict(params, sharding.spread(notes, self._rows), self.codes))

    def split(self, params: Params, part: Part, directory: Path) -> Split:
        """What the model says of a split; all processes must call it."""
        read = self.read
        return system.probabilities(
            self.logits, params, part.ids, part.truth_NC, batch_size=read.config.eval.batch_size,
            tokenizer=read.tokenizer, chunking=read.chunking, directory=directory,
        )  # fmt: skip


def _predict(static: nnx.GraphDef, params: Params, notes: model.Notes, codes: model.Codes, *, dtype: str) -> jax.Array:
    return model.logits(static, params, notes, codes, None, dtype)


def _put(x: np.ndarray, at: NamedSharding) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, at, lambda index: x[index])


def described(read: Inputs) -> np.ndarray:
    """[C, E] float32: the untuned encoder's CLS vector of each description's first tokens, kept in the cache.

    A description is of a code and its title, whatever the notes are; nothing of them comes into the cache.
    """
    source = read.models[ENCODER]
    key = hashlib.sha256("\0".join([source.fingerprint, str(DESCRIBED), *read.texts]).encode()).hexdigest()[:24]
    file = cache_dir() / "described" / f"{key}.npy"
    there = hosts.agreed(int(hosts.writer() and file.is_file()))
    body = hosts.from_writer(file.read_bytes() if there and hosts.writer() else None)
    size = (len(read.texts), source.cfg.width)
    if body is not None and len(body) == 4 * size[0] * size[1]:
        return np.frombuffer(body, np.float32).reshape(size)
    found = _encoded(read)
    if hosts.writer():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_bytes(found.tobytes())
        part.replace(file)
    return found


def _encoded(read: Inputs) -> np.ndarray:
    source, tokenizer = read.models[ENCODER], read.tokenizer
    length = min(DESCRIBED, source.cfg.max_tokens - 2)
    static, _ = nnx.split(nnx.eval_shape(lambda: Encoder(source.cfg, nnx.Rngs(0))))
    shapes = encoder.shapes_of(source.cfg)
    at = sharding.param_shardings(read.mesh, shapes, encoder.AXES)
    params = weights.place(source.read, shapes, at, read.config.precision)

    @functools.partial(jax.jit, out_shardings=sharding.replicated(read.mesh))
    def cls(params, token_MT, mask_MT):
        return nnx.merge(static, params)(token_MT, mask_MT)[:, 0].astype(jnp.float32)

    cut = Chunking(length, length, 1)
    ids = [t.ids for t in chunks.tokenize(tokenizer, read.texts, cut)]
    found = []
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        wide = -(-(max(map(len, part)) + 2) // 64) * 64
        token_NKT, mask_NKT = chunks.batch(part, cut, tokenizer, rows=AT_ONCE, chunks=1, length=min(wide, length + 2))
        found.append(np.asarray(cls(params, token_NKT[:, 0], mask_NKT[:, 0]))[: len(part)])
    return np.concatenate(found)
