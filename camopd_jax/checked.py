"""What is proved once for the same inputs: kept in the cache under a hash of all that shaped it."""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from camopd_jax import hosts, metrics
from camopd_jax.evals import cached
from camopd_jax.inputs import Inputs
from camopd_jax.models.conversion import cache_dir
from camopd_jax.models.decoder import tensors_of
from camopd_jax.models.huggingface import tensor_name
from camopd_jax.models.load import Model
from camopd_jax.models.weights import WHOLE

INFINITE = 0xFF00  # the bits of bfloat16's infinity without its sign, moved up by one; above it are what is no number
LIBRARIES = re.compile(r"(jax|libtpu|flax|optax|numpy|nvidia-|orbax)", re.I)  # names of distributions that begin so
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "JAX_DEFAULT_MATMUL_PRECISION")
SHAPING = (
    "precision", "camopd", "grpo", "lora", "chat", "student", "rollout.temperature", "micro.logit_chunk", "micro.remat",
)  # fmt: skip


def remembered(key: dict, compute: Callable[[], dict]) -> tuple[dict, bool]:
    """What the writer's cache has for a key, on every process, and True; or compute() on all, which is kept, and False.

    What the cache has and is no JSON object counts as not there.
    """
    path = cache_dir() / "checked" / f"{cached.digest(key)}.json"
    body = hosts.from_writer(_body(path) if hosts.writer() else None)
    if body is not None:
        return json.loads(body), True
    found = compute()
    if hosts.writer():
        path.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_json(path, found)
    return found, False


def _body(path: Path) -> bytes | None:
    try:
        body = path.read_bytes()
        return body if isinstance(json.loads(body), dict) else None
    except (OSError, ValueError):
        return None


@functools.cache
def package() -> str:
    """SHA-256 of this package's source files."""
    digest, root = hashlib.sha256(), Path(__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@functools.cache
def libraries() -> dict[str, str]:
    """Versions of what compiles and computes, by the names of the installed distributions."""
    names = ((found.metadata["Name"] or "", found.version) for found in importlib.metadata.distributions())
    return {name.lower(): version for name, version in names if LIBRARIES.match(name)}


@functools.cache
def processor() -> str:
    """The model of the CPU, for which XLA compiles; "": not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def shaped_by(read: Inputs) -> dict:
    """All that the figures of the self-tests depend on: models, code, libraries, devices, keys of the config."""
    config, engine, device = read.config, read.engine, jax.devices()[0]
    return {
        "package": package(),
        "libraries": libraries() | {"": platform.python_version()},
        "devices": [device.platform, device.device_kind, jax.device_count(), jax.process_count()],
        "compiler": [device.client.platform_version, processor() if device.platform == "cpu" else ""],
        "flags": {name: os.environ.get(name, "") for name in FLAGS},
        "mesh": dict(engine.mesh.shape),
        "models": {name: [model.fingerprint, model.stamps] for name, model in read.models.items()},
        "tokens": [engine.numerics.vocab, engine.stop_ids, engine.tokenizer.pad_token_id],
        "config": {key: _value(config, key) for key in SHAPING if key.partition(".")[0] in config},
    }


def _value(config, key: str):
    value = functools.reduce(lambda section, part: section[part], key.split("."), config)
    return value.to_dict() if hasattr(value, "to_dict") else value


def finite(model: Model) -> tuple[int, bool]:
    """How many tensors of a model are finite, all of them, and whether that was known; each process reads its share.

    Raises:
      ValueError: that names the first tensor that is not, and how many of its values.
    """
    tensors = list(tensors_of(model.cfg))

    def items(which: slice) -> Iterator[hosts.Item]:
        for name, layer, _ in tensors[which]:
            values = np.asarray(model.read(name, layer, WHOLE))
            bad = not_finite(values)
            if bad:
                raise ValueError(
                    f"model source {model.source}: {bad} of the {values.size} values of {tensor_name(name, layer)} "
                    "are not finite numbers; fetch the weights again, or name another model"
                )
            yield None, hosts.EMPTY

    key = {"finite": model.fingerprint, "stamps": model.stamps, "package": package()}
    found, known = remembered(key, lambda: {"tensors": len(hosts.shared(lambda which: list(items(which))))})
    return found["tensors"], known


def not_finite(values: np.ndarray) -> int:
    """How many values are infinite or no numbers."""
    if values.dtype == jnp.bfloat16 and (values.view(np.uint16) << 1).max(initial=0) < INFINITE:
        return 0  # told by the bits, ten times as fast as NumPy is with this type
    return values.size - int(np.count_nonzero(np.isfinite(values)))
