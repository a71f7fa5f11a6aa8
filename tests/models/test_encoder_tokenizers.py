"""Tokenizers of text encoders: from tokenizer.json, or from the vocabulary alone, as older directories have them."""

import json
from types import SimpleNamespace

import pytest

from camopd_jax.models import encoder_files
from camopd_jax.probias import chunks

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fever", "cough", "##s"]
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "ab"]


def read(place, kind, rows=8):
    return encoder_files._tokenizer(place, SimpleNamespace(kind=kind, vocab_size=rows))


@pytest.mark.parametrize("kind", ["bert", "megatron-bert"])
def test_word_pieces_of_vocab_txt(tmp_path, kind):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    assert read(tmp_path, kind)("Fever coughs")["input_ids"] == [2, 5, 6, 7, 3]


def test_byte_pairs_of_vocab_json(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(PIECES)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    assert read(tmp_path, "roberta")("ab")["input_ids"] == [0, 7, 2]


def test_tokenizer_json_whose_config_names_no_tokens(tmp_path):
    made = chunks.train_tokenizer(["fever and cough"] * 3, 60)
    made.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = read(tmp_path, "bert", len(made))
    assert (found.pad_token_id, found.cls_token_id, found.sep_token_id) == (
        made.pad_token_id,
        made.cls_token_id,
        made.sep_token_id,
    )


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer.json and no vocab.txt"):
        read(tmp_path, "bert")
    with pytest.raises(ValueError, match=r"no tokenizer.json and no vocab.json"):
        read(tmp_path, "roberta")


def test_one_without_its_tokens_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "model": {"type": "WordLevel", "vocab": {"fever": 0}, "unk_token": "fever"},
            }
        )
    )
    with pytest.raises(ValueError, match="has no pad, cls, sep"):
        read(tmp_path, "bert")
