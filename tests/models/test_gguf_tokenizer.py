"""The tokenizer in a GGUF file's metadata is the model's own: ids, special tokens, and where an answer ends."""

import inspect

import pytest
from gguf import TokenType
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast, convert_slow_tokenizer
from transformers.models.qwen2 import tokenization_qwen2

from camopd_jax.models import gguf_tokenizer
from camopd_jax.models.gguf_tokenizer import read_tokenizer

NORMAL, CONTROL, USER, UNUSED = TokenType.NORMAL, TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["a b", "Ġ ab", "1 2", "12 3", "' s", "Ċ Ċ", "Ġ Ġ", "! Ċ"]
WORDS = ["ab", "Ġab", "12", "123", "'s", "ĊĊ", "ĠĠ", "!Ċ", "xyz"]  # no merge leads to the last
MARKED = [("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL), ("<|endoftext|>", CONTROL), ("<think>", USER)]
VOCABULARY = [(t, NORMAL) for t in ALPHABET + WORDS] + MARKED + [("[PAD269]", UNUSED)]
ID = {token: i for i, (token, _) in enumerate(VOCABULARY)}
TEXT = "Ab ab  ab\n\n\tab's 1234xyz!\n <think>e\u0301\u00e9 <|im_end|>ab"


def metadata(changes, kinds=None):
    """A Qwen tokenizer's metadata with these tokenizer.ggml keys changed (None: gone), or types of tokens."""
    keys = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": [token for token, _ in VOCABULARY],
        "token_type": [int((kinds or {}).get(token, kind)) for token, kind in VOCABULARY],
        "merges": MERGES,
        "eos_token_id": ID["<|im_end|>"],
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (keys | changes).items() if value is not None}


def test_the_qwen_tokenizer_gives_the_ids_of_transformers_own():
    tokenizer, _ = read_tokenizer(metadata({}))
    tokens = {token: i for i, (token, kind) in enumerate(VOCABULARY) if kind == NORMAL}
    own = tokenization_qwen2.Qwen2Tokenizer(vocab=tokens, merges=[tuple(m.split(" ")) for m in MERGES])
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    own.add_tokens(["<think>"])
    got = tokenizer(TEXT)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(got) == own.convert_ids_to_tokens(own(TEXT)["input_ids"])
    assert got.count(ID["Ã"]) == got.count(ID["©"]) == 2  # NFC: both are the two bytes of é
    assert ID["!Ċ"] in got and ID["xyz"] not in got and ID["123"] not in got  # no merge gives xyz; digits stand alone
    assert tokenizer.decode(got) == TEXT.replace("e\u0301", "é")
    assert tokenizer.decode(got, skip_special_tokens=True).endswith("<think>éé ab")
    assert len(tokenizer) == len(VOCABULARY) - 1 and "[PAD269]" not in tokenizer.get_vocab()


def test_the_llama_3_tokenizer_takes_three_digits_and_whole_words_and_writes_one_bos(tmp_path):
    keys = {"pre": "llama-bpe", "bos_token_id": ID["<|im_start|>"]}
    template = {"tokenizer.chat_template": "<|im_start|>{{ messages[0]['content'] }}"}
    tokenizer, _ = read_tokenizer(metadata(keys) | template)
    tokenizer.save_pretrained(tmp_path)
    words = [ID["e"], ID["Ì"], ID["ģ"], ID["123"], ID["1"], ID["xyz"]]
    for tok in (tokenizer, PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        assert tok("e\u03011231xyz", add_special_tokens=False)["input_ids"] == words  # as it is: no NFC
        assert tok("ab")["input_ids"] == [ID["<|im_start|>"], ID["ab"]]
        chat = tok.apply_chat_template([{"role": "user", "content": "ab"}])
        assert chat["input_ids"] == [ID["<|im_start|>"], ID["ab"]]
        assert tok.eos_token_id == tok.pad_token_id == ID["<|im_end|>"]
    assert read_tokenizer(metadata(keys | {"add_bos_token": False}))[0]("ab")["input_ids"] == [ID["ab"]]


def test_the_smollm_tokenizer_takes_single_digits_and_no_bos():
    tokenizer, _ = read_tokenizer(metadata({"pre": "smollm", "bos_token_id": ID["<|im_start|>"]}))
    ids = tokenizer(" ab123's xyz!\n")["input_ids"]
    assert ids == [ID[token] for token in ["Ġab", "1", "2", "3", "'s", "Ġ", "x", "y", "z", "!", "Ċ"]]


def test_the_splits_are_those_of_transformers():
    pattern = inspect.signature(convert_slow_tokenizer.TikTokenConverter).parameters["pattern"].default
    assert pattern == gguf_tokenizer.LLAMA3_SPLIT
    assert tokenization_qwen2.PRETOKENIZE_REGEX == gguf_tokenizer.QWEN2_SPLIT


@pytest.mark.parametrize(
    "keys, kinds, expected",
    [
        ({}, {}, ["<|im_end|>", "<|endoftext|>"]),
        ({}, {"<|endoftext|>": NORMAL}, ["<|im_end|>"]),
        ({"eos": "ab", "eot": "12"}, {}, ["ab", "12", "<|im_end|>", "<|endoftext|>"]),
        ({"eos": None, "eom": "xyz"}, {"<|endoftext|>": USER, "<|im_end|>": NORMAL}, ["xyz"]),
    ],
)
def test_an_answer_ends_at_the_named_tokens_and_at_known_control_tokens(keys, kinds, expected):
    ids = {f"{key}_token_id": None if token is None else ID[token] for key, token in keys.items()}
    tokenizer, stop_ids = read_tokenizer(metadata(ids, kinds))
    assert stop_ids == tuple(ID[token] for token in expected)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id and tokenizer.eos_token_id in stop_ids
    assert tokenizer.bos_token_id is None


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model": "llama"}, ["'llama'", "smollm, qwen2, llama-bpe", "path:DIR"]),
        ({"pre": "tekken"}, ["'tekken'", "path:DIR"]),
        ({"pre": None}, ["None", "path:DIR"]),
        ({"merges": None}, ["tokenizer.ggml.merges is missing"]),
        ({"merges": ["a nothing"]}, ["tokenizer.ggml.merges"]),
        ({"token_type": [1, 2]}, ["2 entries", str(len(VOCABULARY))]),
        ({"bos_token_id": 900}, ["bos_token_id is 900"]),
        ({"eos_token_id": None, "token_type": [1] * len(VOCABULARY)}, ["eos_token_id is missing"]),
    ],
)
def test_another_tokenizer_is_refused_in_one_line(changes, words):
    with pytest.raises(ValueError) as error:
        read_tokenizer(metadata(changes))
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message
