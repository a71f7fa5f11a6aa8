"""Our logits against those of transformers' PyTorch classes, kept in tests/golden (made by tests/golden/make.py)."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from camopd_jax.models import decoder, huggingface

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
import make  # noqa: E402

LOGITS = np.load(GOLDEN / "logits.npz")
TOLERANCE = 1e-4  # of logits between 1 and 5


def read(name):
    """The golden model, through our config and our tensor names; every tensor of the file is used."""
    cfg = huggingface.config_from_hf(json.loads((GOLDEN / name / "config.json").read_text()))
    tensors = load_file(GOLDEN / name / "model.safetensors")
    graph, shapes = decoder.split(cfg)
    names = list(range(cfg.layers))
    params = {k: tensors.pop(huggingface.tensor_name(k, None)) for k in shapes if k != "layers"}
    params["layers"] = {
        k: np.stack([tensors.pop(huggingface.tensor_name(k, i)) for i in names]) for k in shapes["layers"]
    }
    assert not tensors
    return nnx.merge(graph, jax.tree.map(jnp.asarray, params))


@jax.jit
def logits_at(model, tokens_L, at):
    with jax.default_matmul_precision("highest"):
        length = tokens_L.shape[0]
        hidden, _ = model(tokens_L[None], jnp.arange(length)[None], jnp.ones((1, length), jnp.int32))
        return hidden[0, at] @ model.head_VD().T


@pytest.mark.parametrize("which", ["short", "medium"])
@pytest.mark.parametrize("name", make.MODELS)
def test_logits_are_those_of_transformers(name, which):
    tokens = LOGITS[which]
    logits = logits_at(read(name), tokens, np.arange(len(tokens)))
    np.testing.assert_allclose(logits, LOGITS[f"{name}.{which}"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", make.LONG_MODELS)
def test_logits_are_those_of_transformers_up_to_position_32767(name):
    logits = logits_at(read(name), make.long_tokens(), np.array(make.LONG_POSITIONS))
    np.testing.assert_allclose(logits, LOGITS[f"{name}.long"], atol=TOLERANCE, rtol=0)
