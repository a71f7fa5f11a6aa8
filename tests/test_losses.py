"""Tests of the per-token losses: numbers worked by hand, plain float64 loops, finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from camopd_jax import losses

BAND = (0.5, 5.0)


def _case(n=7, width=5, vocab=11):
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(n, width)), rng.normal(size=(vocab, width))
    labels, cotangent = rng.integers(vocab, size=n), rng.normal(size=n)
    return [jnp.asarray(x, jnp.float32) for x in (hidden, head)] + [jnp.asarray(labels), jnp.asarray(cotangent)]


def _plain_logp(hidden, head, labels, cotangent, temperature):
    """Log-probabilities, and the gradients of sum(cotangent * logp), one token and one word at a time."""
    hidden, head, cotangent = (np.asarray(x, np.float64) for x in (hidden, head, cotangent))
    logp, d_hidden, d_head = np.zeros(len(hidden)), np.zeros_like(hidden), np.zeros_like(head)
    for n, label in enumerate(np.asarray(labels)):
        z = np.array([np.dot(hidden[n], word) / temperature for word in head])
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        logp[n] = np.log(p[label])
        for v in range(len(head)):
            d_logit = cotangent[n] * (float(v == label) - p[v]) / temperature
            d_hidden[n] += d_logit * head[v]
            d_head[v] += d_logit * hidden[n]
    return logp, d_hidden, d_head


def test_known_tokens_by_hand():
    logits = jnp.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    np.testing.assert_array_equal(losses.known_tokens(logits, 2), [[0, 1, -np.inf], [3, 4, -np.inf]])
    for all_of_them in (None, 3, 4):
        assert losses.known_tokens(logits, all_of_them) is logits


def test_rows_that_pad_the_embedding_change_neither_log_probs_nor_gradients():
    hidden, head, labels, cotangent = _case()

    def total(hidden, head, vocab):
        return jnp.sum(cotangent * losses.chunked_logp(hidden, head, labels, 0.7, 3, vocab))

    padded = jnp.concatenate([head, 100 * jnp.ones((4, head.shape[1]))])
    value, (d_hidden, d_head) = jax.value_and_grad(total, argnums=(0, 1))(hidden, padded, len(head))
    expected, (expected_hidden, expected_head) = jax.value_and_grad(total, argnums=(0, 1))(hidden, head, None)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(d_hidden, expected_hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d_head[: len(head)], expected_head, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(d_head[len(head) :], 0)
    assert np.all(np.isneginf(losses.chunked_logp(hidden, padded, labels * 0 + len(head), 0.7, 3, len(head))))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunked_logp_is_the_plain_loop(chunk, temperature):
    hidden, head, labels, cotangent = _case()

    def total(hidden, head):
        logp = losses.chunked_logp(hidden, head, labels, temperature, chunk)
        return jnp.sum(cotangent * logp), logp

    (_, logp), gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(hidden, head)
    expected, *expected_gradients = _plain_logp(hidden, head, labels, cotangent, temperature)
    assert logp.dtype == jnp.float32
    np.testing.assert_allclose(logp, expected, rtol=1e-5, atol=1e-6)
    for got, want in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_chunked_logp_gradients_by_finite_differences():
    hidden, head, labels, _ = _case()
    check_grads(
        lambda h, w: losses.chunked_logp(h, w, labels, 0.7, 3),
        (hidden, head),
        1,
        ["rev"],
        atol=1e-2,
        rtol=1e-2,
        eps=1e-2,
    )


@pytest.mark.parametrize(("parts", "chunk"), [(1, 2), (2, 2), (3, 3), (2, 100)])
@pytest.mark.parametrize("k", [1, 3])
def test_chunked_logp_of_several_ids_in_parts_of_a_padded_vocabulary_is_log_softmax(parts, chunk, k):
    hidden, head, *_ = _case(vocab=12)
    vocab, rng = 10, np.random.default_rng(1)
    ids, cotangent = rng.integers(vocab, size=(7, k)), rng.normal(size=(7, k))
    ids[2] = ids[2, 0]  # the same id twice counts twice

    def tiled(hidden, head):
        logp = losses.chunked_logp(hidden, head, jnp.asarray(ids), 0.7, chunk, vocab, parts)
        return jnp.sum(cotangent * logp), logp

    def full(hidden, head):
        logp = jnp.take_along_axis(jax.nn.log_softmax(hidden @ head[:vocab].T / 0.7), ids, axis=1)
        return jnp.sum(cotangent * logp), logp

    (_, logp), gradients = jax.value_and_grad(tiled, argnums=(0, 1), has_aux=True)(hidden, head)
    (_, expected), expected_gradients = jax.value_and_grad(full, argnums=(0, 1), has_aux=True)(hidden, head)
    np.testing.assert_allclose(logp, expected, rtol=1e-5, atol=1e-6)
    for got, want in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=3e-6)


def test_chunked_logp_in_bfloat16_has_gradients_as_near_as_bfloat16_gets():
    hidden, head, labels, cotangent = _case()
    narrow = [x.astype(jnp.bfloat16) for x in (hidden, head)]

    def total(hidden, head):
        return jnp.sum(cotangent * losses.chunked_logp(hidden, head, labels, 0.7, 3))

    got = jax.grad(total, argnums=(0, 1))(*narrow)
    expected = jax.grad(total, argnums=(0, 1))(*(x.astype(jnp.float32) for x in narrow))
    for g, e in zip(got, expected, strict=True):
        assert g.dtype == jnp.bfloat16
        np.testing.assert_allclose(g.astype(jnp.float32), e, rtol=0.01, atol=0.01)


def test_chunked_logp_by_hand():
    # Logits 0 and log 3: probabilities 1/4 and 3/4. At temperature 1/2 the logits are 0 and log 9: 1/10 and 9/10.
    hidden, head = jnp.ones((2, 1)), jnp.array([[0.0], [np.log(3.0)]])
    labels = jnp.array([0, 1])
    np.testing.assert_allclose(losses.chunked_logp(hidden, head, labels, 1.0, 2), np.log([0.25, 0.75]), rtol=1e-6)
    np.testing.assert_allclose(losses.chunked_logp(hidden, head, labels, 0.5, 2), np.log([0.1, 0.9]), rtol=1e-6)


def test_chunked_logp_stays_finite_for_large_logits():
    logp = losses.chunked_logp(jnp.full((1, 1), 200.0), jnp.array([[0.0], [1.0]]), jnp.array([0]), 1.0, 1)
    np.testing.assert_allclose(logp, [-200.0])


def test_chunked_logp_holds_no_array_of_tokens_times_vocabulary():
    n, vocab, chunk = 256, 2048, 16
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, 4), (vocab, 4))]
    labels = jnp.zeros(n, jnp.int32)

    def total(hidden, head):
        return jnp.sum(losses.chunked_logp(hidden, head, labels, 1.0, chunk))

    compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < n * vocab * 4 / 2


@pytest.mark.parametrize(("temperature", "chunk"), [(0.0, 4), (-1.0, 4), (1.0, 0), (1.0, -2)])
def test_chunked_logp_refuses(temperature, chunk):
    hidden, head, labels, _ = _case()
    with pytest.raises(ValueError, match="must be positive"):
        losses.chunked_logp(hidden, head, labels, temperature, chunk)


def test_masked_mean_divides_by_the_valid_tokens():
    x = jnp.array([[1.0, 2.0, 9.0, 9.0], [4.0, 9.0, 9.0, np.nan], [3.0, 3.0, 3.0, 3.0]])
    mask = jnp.array([[True, True, False, False], [True, False, False, False], [False] * 4])
    np.testing.assert_array_equal(losses.masked_mean(x, mask), [1.5, 4.0, 0.0])
    check_grads(lambda x: losses.masked_mean(x, mask), (jnp.nan_to_num(x),), 1, ["rev"], atol=1e-2, rtol=1e-2)


def test_importance_weight_by_hand():
    ratio = jnp.array([0.25, 0.6, 1.0, 4.0, 6.0])
    sampler_logp = jnp.full(5, -3.0)
    weight = losses.importance_weight(sampler_logp + jnp.log(ratio), sampler_logp, BAND)
    np.testing.assert_allclose(weight, [0.0, 0.6, 1.0, 4.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("band", "expected"),
    [
        ((1.0, 5.0), 1.0),
        ((0.5, 1.0), 1.0),
        ((float(np.nextafter(np.float32(1), np.float32(2))), 5.0), 0.0),
        ((0.5, float(np.nextafter(np.float32(1), np.float32(0)))), 0.0),
    ],
)
def test_the_edges_belong_to_the_band(band, expected):
    logp = jnp.array([-0.3, -7.0])  # equal log-probabilities: a ratio of exactly 1
    np.testing.assert_array_equal(losses.importance_weight(logp, logp, band), [expected, expected])


def test_policy_token_loss_by_hand():
    # w = 0.2 / 0.1 = 2, A = 0.5: the loss is -2 * 0.5 * log 0.2 = 1.6094; w = 8 is outside the band.
    logp, sampler_logp = jnp.log(jnp.array([0.2, 0.8])), jnp.log(jnp.array([0.1, 0.1]))
    loss = losses.policy_token_loss(logp, sampler_logp, jnp.array([0.5, 0.5]), BAND)
    np.testing.assert_allclose(loss, [1.6094379, 0.0], rtol=1e-6)


def test_the_gradient_of_the_policy_token_loss_is_minus_w_times_credit():
    rng = np.random.default_rng(1)
    logp, sampler_logp, teacher_logp = (jnp.asarray(-rng.exponential(2.0, size=200), jnp.float32) for _ in range(3))

    def total(logp):
        return jnp.sum(losses.policy_token_loss(logp, sampler_logp, teacher_logp - logp, BAND))

    ratio = np.exp(np.asarray(logp, np.float64) - np.asarray(sampler_logp, np.float64))
    inside = (ratio >= BAND[0]) & (ratio <= BAND[1])
    assert 20 < inside.sum() < 180
    credit = np.asarray(teacher_logp, np.float64) - np.asarray(logp, np.float64)
    got = np.asarray(jax.grad(total)(logp))
    np.testing.assert_allclose(got, np.where(inside, -ratio * credit, 0.0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[~inside], 0.0)


def test_no_gradient_flows_into_weight_or_credit():
    logp, sampler_logp, credit = jnp.array([-1.0, -2.0]), jnp.array([-1.3, -2.2]), jnp.array([0.4, -0.9])
    weight_gradient = jax.grad(lambda x: jnp.sum(losses.importance_weight(x, sampler_logp, BAND)))(logp)
    np.testing.assert_array_equal(weight_gradient, [0.0, 0.0])
    for loss in (
        lambda credit: jnp.sum(losses.policy_token_loss(logp, sampler_logp, credit, BAND)),
        lambda credit: jnp.sum(losses.nll_token_loss(logp, credit)),
    ):
        assert float(loss(credit)) != 0
        np.testing.assert_array_equal(jax.grad(loss)(credit), [0.0, 0.0])


def test_nll_token_loss_by_hand():
    logp, credit = jnp.array([-1.5, -0.25, -3.0]), jnp.array([1.0, 2.0, 0.0])
    np.testing.assert_array_equal(losses.nll_token_loss(logp, credit), [1.5, 0.5, 0.0])
    check_grads(lambda x: losses.nll_token_loss(x, credit), (logp,), 1, ["rev"], atol=1e-2, rtol=1e-2)


def test_weighted_sum_by_hand():
    loss, weight = jnp.array([[2.0, 3.0], [5.0, 7.0]]), jnp.array([[0.5, 0.25], [0.0, 0.25]])
    assert float(losses.weighted_sum(loss, weight)) == 3.5
    check_grads(lambda x: losses.weighted_sum(x, weight), (loss,), 1, ["rev"], atol=1e-2, rtol=1e-2)


def test_what_stands_in_an_empty_slot_changes_neither_value_nor_gradient():
    weight, credit, sampler_logp = jnp.array([0.5, 0.0]), jnp.array([2.0, 0.0]), jnp.array([-1.0, 0.0])

    def loss(logp):
        return losses.weighted_sum(losses.policy_token_loss(logp, sampler_logp, credit, BAND), weight)

    for empty in (0.0, np.nan, -np.inf, np.inf):
        value, gradient = jax.value_and_grad(loss)(jnp.array([-1.0, empty]))
        assert float(value) == 1.0
        np.testing.assert_array_equal(gradient, [-1.0, 0.0])
    value, gradient = jax.value_and_grad(losses.weighted_sum)(jnp.array([3.0, np.nan]), weight)
    assert float(value) == 1.5
    np.testing.assert_array_equal(gradient, [0.5, 0.0])
