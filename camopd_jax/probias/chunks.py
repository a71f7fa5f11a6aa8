"""Notes as tokens, and their overlapping chunks, as an encoder of limited length reads them (method.md, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Chunking:
    """How a note is cut: chunks of `tokens`, one every `stride`, at most `most`; CLS and SEP come on top of each."""

    tokens: int
    stride: int
    most: int

    @property
    def reach(self) -> int:
        """Tokens of a note that are read at most."""
        return self.tokens + (self.most - 1) * self.stride

    def count(self, length: int) -> int:
        """Chunks of a note of so many tokens; an empty one has one."""
        return 1 + max(0, -(-(min(length, self.reach) - self.tokens) // self.stride))

    def starts(self, length: int) -> range:
        """The first token of each chunk."""
        return range(0, self.count(length) * self.stride, self.stride)


@dataclass(frozen=True)
class Tokens:
    """A note's tokens, without CLS and SEP."""

    ids: np.ndarray  # int32 [n], at most Chunking.reach
    cut: int  # tokens that stand behind and are not read


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], chunking: Chunking) -> list[Tokens]:
    """The tokens of some texts."""
    found = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return [Tokens(np.array(ids[: chunking.reach], np.int32), max(0, len(ids) - chunking.reach)) for ids in found]


def offsets(tokenizer: PreTrainedTokenizerFast, text: str) -> np.ndarray:
    """First and last + 1 character of each token of a text [n, 2]."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return np.array(found, np.int64).reshape(-1, 2)


def batch(
    notes: Sequence[np.ndarray], chunking: Chunking, tokenizer: PreTrainedTokenizerFast, *, rows: int, chunks: int,
    length: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Token ids and mask [rows, chunks, length] of some notes' ids; what is over is padding."""
    shape = (rows, chunks, length)
    token_NKT, mask_NKT = np.full(shape, tokenizer.pad_token_id, np.int32), np.zeros(shape, bool)
    for n, ids in enumerate(notes):
        for k, start in enumerate(chunking.starts(len(ids))):
            part = ids[start : start + chunking.tokens]
            token_NKT[n, k, : len(part) + 2] = [tokenizer.cls_token_id, *part, tokenizer.sep_token_id]
            mask_NKT[n, k, : len(part) + 2] = True
    return token_NKT, mask_NKT


def train_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer of at most `size` tokens, in lower case, of these texts alone.

    The same for the same texts, which a WordPiece tokenizer that this library trains is not.
    """
    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
    )
    pad, unknown, first, last, mask = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, unk_token=unknown, cls_token=first, sep_token=last, mask_token=mask
    )
