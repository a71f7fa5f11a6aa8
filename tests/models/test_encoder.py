"""Text encoders of files: hidden states against transformers' own (made by tests/golden/make_encoders.py); faults."""

import json
import re
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from camopd_jax.models import encoder, encoder_files, weights
from camopd_jax.models.encoder import Encoder
from camopd_jax.probias import chunks

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
import make_encoders  # noqa: E402

EXPECTED = np.load(GOLDEN / "encoders.npz")
TOLERANCE = 1e-4  # of hidden states up to 4


def directory(home: Path, name: str, *, prefix: str = "") -> Path:
    """A golden model with a tokenizer, its tensors' names behind a prefix."""
    place = Path(shutil.copytree(GOLDEN / name, home / name))
    chunks.train_tokenizer(["fever and cough of the chest"] * 3, 60).save_pretrained(place)
    tensors = load_file(place / "model.safetensors")
    save_file({prefix + k: v for k, v in tensors.items()}, place / "model.safetensors")
    return place


def built(loaded) -> Encoder:
    """The encoder with the weights of its files."""
    static, _ = nnx.split(nnx.eval_shape(lambda: Encoder(loaded.cfg, nnx.Rngs(0))))
    params = {}
    for name, layer, _ in encoder.tensors_of(loaded.cfg):
        value = np.asarray(loaded.read(name, layer, weights.WHOLE))
        if layer is None:
            params[name] = value
        else:
            params.setdefault("layers", {}).setdefault(name, []).append(value)
    params["layers"] = {k: np.stack(v) for k, v in params["layers"].items()}
    return nnx.merge(static, jax.tree.map(jnp.asarray, params))


@pytest.mark.parametrize("prefix", ["", "named"])
@pytest.mark.parametrize("name", make_encoders.MODELS)
def test_hidden_states_are_those_of_transformers(tmp_path, name, prefix):
    """Each sequence alone, and both in one padded batch."""
    prefix = {"": "", "named": "roberta." if name == "roberta" else "bert."}[prefix]
    made = built(encoder_files.load_encoder(f"path:{directory(tmp_path, name, prefix=prefix)}"))
    with jax.default_matmul_precision("highest"):
        token_MT, mask_MT = np.zeros((2, 30), np.int32), np.zeros((2, 30), bool)
        for row, which in enumerate(("short", "long")):
            tokens = EXPECTED[which]
            token_MT[row, : len(tokens)], mask_MT[row, : len(tokens)] = tokens, True
            alone = made(tokens[None], np.ones((1, len(tokens)), bool))[0]
            np.testing.assert_allclose(alone, EXPECTED[f"{name}.{which}"], atol=TOLERANCE, rtol=0)
        together = np.asarray(made(token_MT, mask_MT))
    for row, which in enumerate(("short", "long")):
        tokens = EXPECTED[which]
        np.testing.assert_allclose(together[row, : len(tokens)], EXPECTED[f"{name}.{which}"], atol=TOLERANCE, rtol=0)


def test_layers_computed_again_are_the_same(tmp_path):
    made = built(encoder_files.load_encoder(f"path:{directory(tmp_path, 'bert')}"))
    token_MT, mask_MT = EXPECTED["long"][None], np.ones((1, 30), bool)
    np.testing.assert_allclose(made(token_MT, mask_MT, remat=True), made(token_MT, mask_MT), atol=1e-6)


def test_a_note_may_be_as_long_as_the_table_of_positions_leaves(tmp_path):
    found = {n: encoder_files.load_encoder(f"path:{directory(tmp_path, n)}").cfg for n in make_encoders.MODELS}
    assert {n: cfg.max_tokens for n, cfg in found.items()} == {"bert": 40, "roberta": 38, "megatron-bert": 40}


def test_the_fingerprint_is_of_the_weights(tmp_path):
    place = directory(tmp_path, "bert")
    before = encoder_files.load_encoder(f"path:{place}").fingerprint
    assert encoder_files.load_encoder(f"path:{place}").fingerprint == before
    tensors = load_file(place / "model.safetensors")
    tensors["encoder.layer.1.output.dense.bias"][3] += 1
    save_file(tensors, place / "model.safetensors")
    assert encoder_files.load_encoder(f"path:{place}").fingerprint != before


@pytest.mark.parametrize(
    "change, says",
    [
        ({"model_type": "llama"}, "model_type 'llama' is no encoder that is known; allowed are bert, roberta"),
        ({"hidden_size": 33}, "hidden_size is no multiple of num_attention_heads"),
        ({"hidden_size": 36}, "is (200, 32), expected (200, 36)"),
        ({"num_hidden_layers": 3}, "tensor encoder.layer.2"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0: allowed is a whole number, 1 or more"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu': allowed is 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"vocab_size": 20}, "the tokenizer has ids up to"),
    ],
)
def test_a_config_that_does_not_fit_is_named(tmp_path, change, says):
    place = directory(tmp_path, "bert")
    config = json.loads((place / "config.json").read_text()) | change
    (place / "config.json").write_text(json.dumps(config))
    if "vocab_size" in change:
        tensors = load_file(place / "model.safetensors")
        tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"][:20]
        save_file(tensors, place / "model.safetensors")
    with pytest.raises(ValueError, match=re.escape(says)):
        encoder_files.load_encoder(f"path:{place}")


@pytest.mark.parametrize("source", ["bert", "path:", "path:/nowhere", "pypi:x==1"])
def test_what_names_no_encoder_is_refused(source):
    with pytest.raises(ValueError, match="text encoder"):
        encoder_files.load_encoder(source)
