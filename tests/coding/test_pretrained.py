"""A run whose text encoder comes out of files: its weights train, its untuned CLS vectors describe the codes."""

import sys
from pathlib import Path

import coding_runs
import icd_files
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from camopd_jax.coding import coder, inputs, rules
from camopd_jax.models import encoder_files

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import test_encoder


@pytest.fixture
def flags(tmp_path):
    """A RoBERTa of two layers and six codes."""
    source = test_encoder.directory(tmp_path, "roberta")
    notes = icd_files.write(tmp_path / "notes.jsonl", icd_files.rows())
    return {
        "data.source": f"path:{notes}:icd10-diagnosis", "text.encoder": f"path:{source}", "text.chunk_tokens": 30,
        "text.stride": 15, "text.max_chunks": 2,
    }  # fmt: skip


@pytest.fixture
def read(flags):
    config = coding_runs.tiny()
    config.update_from_flattened_dict(flags)
    rules.check_config(config)
    return inputs.read(config)


def test_codes_are_described_by_the_untuned_encoder_once(read, tmp_path, monkeypatch):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    found_CE = coder.described(read)
    made = test_encoder.built(encoder_files.load_encoder(read.config.text.encoder))
    for text, found_E in zip(read.texts, found_CE, strict=True):
        ids = read.tokenizer(text, add_special_tokens=False)["input_ids"][: read.models["encoder"].cfg.max_tokens - 2]
        ids = np.array([[read.tokenizer.cls_token_id, *ids, read.tokenizer.sep_token_id]])
        np.testing.assert_allclose(found_E, made(ids, np.ones(ids.shape, bool))[0, 0], atol=1e-4)
    assert len(list((tmp_path / "cache" / "described").iterdir())) == 1
    monkeypatch.setattr(coder, "_encoded", lambda read: pytest.fail("computed again"))
    np.testing.assert_array_equal(coder.described(read), found_CE)


def test_the_weights_of_the_files_are_the_start(read):
    start = jax.device_get(coder.Coder(read).fresh(0))["text"]
    source = read.models["encoder"]
    for name, layer in (("embed", None), ("positions", None), ("q", 1), ("mlp_norm_bias", 0)):
        ours = start[name] if layer is None else start["layers"][name][layer]
        np.testing.assert_array_equal(ours, source.read(name, layer, (slice(None),) * 2))


def test_a_run_trains_them_and_its_export_predicts(flags, tmp_path):
    given = [f"--config.{key}={value}" for key, value in flags.items()]
    code, output = coding_runs.run(tmp_path / "run", tmp_path / "cache", *given)
    assert code == 0, output
    assert "all tensors there, of the right shape and finite" in output
    trained = load_file(tmp_path / "run" / "export" / "model.safetensors")
    before = load_file(Path(flags["text.encoder"].removeprefix("path:")) / "model.safetensors")
    moved = np.abs(trained["text.layers.q"][0] - before["encoder.layer.0.attention.self.query.weight"]).max()
    assert 1e-4 < moved < 0.1


def test_chunks_longer_than_the_encoder_reads_are_refused(flags):
    config = coding_runs.tiny()
    config.update_from_flattened_dict(flags | {"text.chunk_tokens": 40})
    with pytest.raises(ValueError, match=r"text.chunk_tokens = 40: .* reads 38 tokens, CLS and SEP included"):
        inputs.read(config)
