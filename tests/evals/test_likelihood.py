"""Log-probabilities and greedy flags of continuations against full logits and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camopd_jax import sharding
from camopd_jax.evals import likelihood
from camopd_jax.models import decoder, load

VOCAB = 258  # tokens of the tiny tokenizer; the embedding has 320 rows


@pytest.fixture(scope="module")
def model():
    graph, _ = decoder.split(load.tiny.CONFIG)
    params = jax.tree.map(lambda x: x * 4, decoder.random_params(load.tiny.CONFIG, 0))  # far from uniform
    return graph, params


def log_softmax(graph, params, ids):
    """[L, V] of one sequence without padding, in float64 from the logits on."""
    import flax.nnx as nnx

    whole = nnx.merge(graph, params)
    length = len(ids)
    hidden, _ = whole(jnp.asarray([ids]), jnp.arange(length)[None], jnp.ones((1, length), jnp.int32))
    logits = np.asarray(hidden[0] @ whole.head_VD().T, np.float64)[:, :VOCAB]
    return (
        logits
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        - logits.max(1, keepdims=True)
    )


@pytest.mark.parametrize("chunk", [1, 30, 100_000])
def test_scores_are_those_of_full_logits(model, chunk):
    rng = np.random.default_rng(0)
    inputs = [tuple(rng.integers(0, VOCAB, n)) for n in (40, 3, 17)]
    expected = [log_softmax(*model, ids) for ids in inputs]
    labels = [[list(rng.integers(0, VOCAB, n)) for n in lengths] for lengths in ((5, 1, 1), (3,), (16, 2))]
    likely = [[list(table[-2:].argmax(axis=1))] for table in expected]  # two tokens that greedy decoding would give
    labels = [some + more for some, more in zip(labels, likely, strict=True)]
    packed = likelihood.lay(inputs, labels, 4, 64)
    logp, greedy = likelihood.token_scores(*model, packed, chunk=chunk, dtype="float32", vocab=VOCAB)
    assert logp.shape == greedy.shape == (4, 64)  # 20 slots are rounded up
    for row, (table, some) in enumerate(zip(expected, labels, strict=True)):
        at = 0
        for one in some:
            rows = table[-len(one) :]
            np.testing.assert_allclose(logp[row, at : at + len(one)], rows[np.arange(len(one)), one], atol=2e-5)
            np.testing.assert_array_equal(greedy[row, at : at + len(one)], rows.argmax(axis=1) == one)
            at += len(one)
        assert greedy[row, at - 2 : at].all()
        assert packed.slot_mask_RS[row].sum() == at


@pytest.mark.parametrize("n, expected", [(1, 16), (16, 16), (17, 64), (64, 64), (65, 256)])
def test_a_bucket_is_the_next_size(n, expected):
    assert likelihood.bucket(n, 16, 4) == expected


def test_a_tokenizer_that_does_not_fit_the_embedding_is_refused():
    from dataclasses import replace

    model = load.load("random:llama")
    small = replace(model, cfg=replace(model.cfg, vocab_size=200))
    with pytest.raises(ValueError, match="ids up to 257, the embedding 200 rows"):
        likelihood.engine_of(small, sharding.make_mesh(-1, 1, 1), "float32", 64)
