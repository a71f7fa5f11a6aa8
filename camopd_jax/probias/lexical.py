"""Embeddings of code descriptions that need no pretrained encoder: weighed words, projected at random."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast


def embed(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, size: int, seed: int) -> np.ndarray:
    """[C, size] float32: tf-idf over the texts' tokens, of length 1, times a random matrix (Achlioptas 2003).

    The scalar products of such vectors are nearly those of the tf-idf: alike are descriptions with the same rare words.
    """
    found = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    count_CV = np.zeros((len(texts), len(tokenizer)))
    for c, ids in enumerate(found):
        np.add.at(count_CV[c], ids, 1)
    weight_V = np.log((1 + len(texts)) / (1 + (count_CV > 0).sum(axis=0)))
    weighed_CV = count_CV * weight_V
    weighed_CV /= np.maximum(np.linalg.norm(weighed_CV, axis=1, keepdims=True), 1e-9)
    projection_VE = np.random.default_rng(seed).standard_normal((len(weight_V), size))
    return (weighed_CV @ projection_VE).astype(np.float32)
