"""The likelihood margin: a bigram model worked by hand, a loop over full logits, and what holds for any model."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from plain import TINY, an_engine, mesh, random_weights

from camopd_jax.distraction import margin
from camopd_jax.engine import Engine, Numerics
from camopd_jax.models import decoder
from camopd_jax.packing import PackShape

# p(next | last) over the tokens 0, 1, 2 and the EOS, 3.
BIGRAM = np.array(
    [[1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 8, 1 / 8, 1 / 4, 1 / 2], [1 / 4, 1 / 4, 1 / 4, 1 / 4], [1 / 4] * 4]
)


def an_engine_of(cfg, temperature, vocab, shape):
    e = an_engine()
    return Engine(cfg, mesh(), e.tokenizer, e.stop_ids, shape, Numerics(temperature, 5, "float32", vocab))


def bigram():
    """An engine and weights of it: layers that add nothing, an embedding of unit vectors, a head of log p."""
    cfg = replace(TINY, tied_head=False)
    engine = an_engine_of(cfg, 1.0, 4, PackShape(1, 16, 8))
    params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), engine.shapes)
    params["embed"][np.arange(4), np.arange(4)] = 1e3  # RMS norm makes it sqrt(width), whatever it is
    params["norm"][:] = 1.0
    params["head"][:4, :4] = np.log(BIGRAM.T) / math.sqrt(cfg.width)
    return engine, params


def ids(*answers):
    return [np.array(a, np.int32) for a in answers]


def test_a_bigram_model_worked_by_hand():
    prompts = ids([2, 0], [1])
    gold = margin.likelihoods(*bigram(), prompts, ids([0, 1, 3], [3]), 2)
    bad = margin.likelihoods(*bigram(), prompts, ids([2, 2, 0, 3], [0, 3]), 2)
    # Gold: 1/2 1/4 1/2 = 2^-4 in 3 tokens, and 1/2 in one. Bad: 1/8 1/4 1/4 1/8 = 2^-10 in 4, and 1/8 1/8 = 2^-6 in 2.
    np.testing.assert_allclose(gold.total_M, np.array([-4, -1]) * math.log(2), rtol=1e-5)
    np.testing.assert_allclose(bad.total_M, np.array([-10, -6]) * math.log(2), rtol=1e-5)
    assert gold.tokens_M.tolist() == [3, 1] and bad.tokens_M.tolist() == [4, 2]
    # PPL: gold 2^(4/3) and 2, bad 2^(5/2) and 2^3; RMR 2^(7/6) and 2^2.
    np.testing.assert_allclose(np.exp(bad.log_ppl_M), [2**2.5, 8], rtol=1e-5)
    np.testing.assert_allclose(margin.rmr(gold, bad), [2 ** (7 / 6), 4], rtol=1e-5)
    found = margin.margin(gold, bad, np.arange(2), 100, 0)
    assert math.exp(found.log_rmr.value) == pytest.approx(2 ** (19 / 12), rel=1e-5)
    assert math.exp(found.log_ratio_of_means.value) == pytest.approx((2**2.5 + 8) / (2 ** (4 / 3) + 2), rel=1e-5)
    assert found.log_likelihood_difference.value == pytest.approx(5.5 * math.log(2), rel=1e-5)
    assert found.preferred.value == 1.0 and found.instances == 2


def test_likelihoods_are_those_of_full_logits_in_batches_of_any_size():
    rng, vocab = np.random.default_rng(0), 258
    prompts = [rng.integers(vocab, size=n).astype(np.int32) for n in (5, 1, 9, 3, 7)]
    answers = [rng.integers(vocab, size=n).astype(np.int32) for n in (4, 8, 1, 6, 2)]
    weights = random_weights(0)
    model = nnx.merge(decoder.split(TINY)[0], weights)
    expected = []
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens, positions = np.concatenate([prompt, answer]), np.arange(len(prompt) + len(answer))
        padded = np.append(tokens, np.zeros(16 - len(tokens), int))  # behind it, where nothing looks
        real = (np.arange(16) < len(tokens)).astype(int)
        hidden = model(padded[None], np.arange(16)[None], real[None])[0][0]
        logits = np.asarray(hidden @ weights["embed"].T, np.float64)[: len(tokens), :vocab]
        logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected.append(sum(logp[t - 1, tokens[t]] for t in positions[len(prompt) :]))
    for temperature, batch, shape in [(1.0, 5, PackShape(1, 16, 8)), (0.7, 2, PackShape(2, 30, 12))]:
        engine = an_engine_of(TINY, temperature, vocab, shape)
        found = margin.likelihoods(engine, weights, prompts, answers, batch)
        np.testing.assert_allclose(found.total_M, expected, rtol=0, atol=1e-5)
        assert found.tokens_M.tolist() == [4, 8, 1, 6, 2] and found.total_M.dtype == np.float64


def drawn(seed, n=60):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 300, size=n)
    return margin.Likelihood(-rng.gamma(2.0, 1.0, size=n) * tokens, tokens)


def test_the_margin_of_a_model_against_itself_and_with_its_answers_exchanged():
    a, b = drawn(0), drawn(1)
    np.testing.assert_array_equal(margin.rmr(a, a), 1.0)
    np.testing.assert_allclose(margin.rmr(a, b) * margin.rmr(b, a), 1.0, rtol=1e-12)
    one, other = (margin.margin(*pair, np.arange(60), 200, 3) for pair in ((a, b), (b, a)))
    for name in ("log_rmr", "log_ratio_of_means", "log_likelihood_difference"):
        x, y = getattr(one, name), getattr(other, name)
        np.testing.assert_allclose([x.value, x.low, x.high], [-y.value, -y.high, -y.low], rtol=1e-9)
        assert x.low < x.value < x.high
    assert one.preferred.value == pytest.approx(1 - other.preferred.value)


def test_nothing_overflows():
    gold, bad = (
        margin.Likelihood(np.array([-1.0] * 2), np.ones(2)),
        margin.Likelihood(np.array([-9e3, -8e3]), np.ones(2)),
    )
    found = margin.margin(gold, bad, np.arange(2), 50, 0)
    assert found.log_rmr.value == 8499.0
    assert found.log_ratio_of_means.value == pytest.approx(9000 - math.log(2) - 1)
    assert np.isfinite([found.log_ratio_of_means.low, found.log_ratio_of_means.high]).all()
    assert np.isinf(margin.rmr(gold, bad)).all()


def test_the_interval_is_that_of_the_normal_law_and_wider_where_instances_are_drawn_together():
    gold, bad = drawn(0, 900), drawn(1, 900)
    x = margin.log_rmr(gold, bad)
    alone = margin.margin(gold, bad, np.arange(900), 2000, 0).log_rmr
    half = 1.96 * x.std(ddof=1) / 30
    np.testing.assert_allclose([alone.low, alone.high], [x.mean() - half, x.mean() + half], atol=0.1 * half)
    again = [margin.Likelihood(np.repeat(p.total_M, 3), np.repeat(p.tokens_M, 3)) for p in (gold, bad)]
    together = margin.margin(*again, np.repeat([f"i{i}" for i in range(900)], 3), 2000, 0)
    assert together.instances == 2700 and together.log_rmr.value == pytest.approx(alone.value)
    assert together.log_rmr.high - together.log_rmr.low == pytest.approx(alone.high - alone.low, rel=0.1)
    rows = margin.margin(*again, np.arange(2700), 2000, 0).log_rmr  # three times the same is no more to know
    assert rows.high - rows.low == pytest.approx((alone.high - alone.low) / math.sqrt(3), rel=0.1)


def test_answers_that_have_no_likelihood_are_refused():
    mask = np.array([[True, True], [False, False]])
    with pytest.raises(ValueError, match=r"^answer 1 has no tokens"):
        margin.of_tokens(np.zeros((2, 2)), mask)
    with pytest.raises(ValueError, match=r"^answer 0 has the log-likelihood -inf"):
        margin.of_tokens(np.array([[0.0, -np.inf]]), np.ones((1, 2), bool))
    with pytest.raises(ValueError, match=r"^3 gold and 2 bad answers of 3 instances"):
        margin.margin(drawn(0, 3), drawn(1, 2), np.arange(3), 10, 0)
