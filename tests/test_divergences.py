"""What is taken over the whole vocabulary: divergences, entropy, rank, the most likely tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from camopd_jax import losses


def case(n=7, width=5, teacher_width=3, vocab=11):
    rng = np.random.default_rng(0)
    shapes = ((n, width), (vocab, width), (n, teacher_width), (vocab, teacher_width))
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def plain_logp(hidden, head, temperature=0.7):
    """log softmax over the vocabulary [N, V], a token at a time in float64."""
    rows = []
    for h in np.asarray(hidden, np.float64):
        z = np.array([h @ word / temperature for word in np.asarray(head, np.float64)])
        rows.append(z - np.log(np.exp(z).sum()))
    return np.array(rows)


def plain_kl(p, q):
    """sum_v p log(p / q) of each row of two tables of probabilities."""
    return np.array([sum(a * np.log(a / b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)])


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_reverse_kl_is_the_plain_loop_and_constant_in_the_teacher(chunk):
    hidden, head, teacher_hidden, teacher_head = case()
    found = losses.chunked_reverse_kl(hidden, head, teacher_hidden, teacher_head, 0.7, chunk)
    expected = plain_kl(np.exp(plain_logp(hidden, head)), np.exp(plain_logp(teacher_hidden, teacher_head)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    check_grads(
        lambda h, w: losses.chunked_reverse_kl(h, w, teacher_hidden, teacher_head, 0.7, chunk),
        (hidden, head), 1, ["rev"], atol=1e-2, rtol=1e-2, eps=1e-2,
    )  # fmt: skip
    gradients = jax.grad(lambda h, w: losses.chunked_reverse_kl(hidden, head, h, w, 0.7, chunk).sum(), argnums=(0, 1))(
        teacher_hidden, teacher_head
    )
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_reverse_kl_of_a_model_to_itself_is_zero_with_no_gradient():
    hidden, head, *_ = case()
    value, gradient = jax.value_and_grad(lambda h: losses.chunked_reverse_kl(h, head, hidden, head, 0.7, 3).sum())(
        hidden
    )
    assert float(value) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_reverse_kl_by_hand():
    # softmax([0, log 3]) = (1/4, 3/4) against (1/2, 1/2)
    kl = losses.chunked_reverse_kl(
        jnp.ones((1, 1)), jnp.array([[0.0], [np.log(3)]]), jnp.ones((1, 1)), jnp.ones((2, 1)), 1.0, 8
    )
    np.testing.assert_allclose(kl, [0.25 * np.log(0.5) + 0.75 * np.log(1.5)], rtol=1e-6)


def test_top_k_by_hand():
    p, q = jnp.array([[0.5, 0.25]]), jnp.array([[0.25, 0.25]])  # the rest: 1/4 and 1/2
    found = losses.top_k_reverse_kl(jnp.log(p), jnp.log(q))
    np.testing.assert_allclose(found, [0.5 * np.log(2) + 0.25 * np.log(0.5)], rtol=1e-6)
    check_grads(lambda x: losses.top_k_reverse_kl(x, jnp.log(q)), (jnp.log(p),), 1, ["rev"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_top_k_is_a_lower_bound_that_the_vocabulary_reaches(k):
    hidden, head, teacher_hidden, teacher_head = case()
    full = losses.chunked_reverse_kl(hidden, head, teacher_hidden, teacher_head, 0.7, 3)
    ids = losses.chunked_top_ids(hidden, head, k, 0.7, 3)
    p = plain_logp(hidden, head)
    np.testing.assert_array_equal(ids, np.argsort(-p, axis=1)[:, :k])
    own = losses.chunked_logp(hidden, head, ids, 0.7, 3)
    theirs = losses.chunked_logp(teacher_hidden, teacher_head, ids, 0.7, 3)
    np.testing.assert_allclose(own, np.take_along_axis(p, np.asarray(ids), axis=1), rtol=1e-5)
    found = losses.top_k_reverse_kl(own, theirs)
    assert (np.asarray(found) <= np.asarray(full) * (1 + 1e-5)).all()
    assert (np.asarray(found) >= -1e-6).all()
    if k == 10:  # of 11: the rest is one token
        np.testing.assert_allclose(found, full, rtol=1e-4, atol=1e-5)


def test_top_k_stays_finite_where_the_tokens_hold_all_the_mass():
    logp = jnp.log(jnp.array([[1.0 - 1e-9, 1e-9]]))
    value, gradient = jax.value_and_grad(lambda x: losses.top_k_reverse_kl(x, logp - 0.1).sum())(logp)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("vocab", [None, 9])
def test_entropy_and_rank_are_the_plain_loop(vocab):
    hidden, head, *_ = case()
    labels = jnp.array([0, 8, 3, 3, 5, 1, 7])
    entropy, rank = losses.chunked_examination(hidden, head, labels, 0.7, 3, vocab)
    logp = plain_logp(hidden, head[:vocab])
    np.testing.assert_allclose(entropy, [-sum(np.exp(x) * x for x in row) for row in logp], rtol=1e-5)
    assert rank.tolist() == [sum(x > row[label] for x in row) for row, label in zip(logp, labels, strict=True)]


def test_a_divergence_weighs_its_factor_and_has_no_gradient_in_it():
    np.testing.assert_array_equal(
        losses.divergence_token_loss(jnp.array([0.5, 2.0]), jnp.array([2.0, 0.0])), [1.0, 0.0]
    )
    assert float(jax.grad(lambda c: losses.divergence_token_loss(jnp.float32(3.0), c))(2.0)) == 0.0


def test_no_divergence_holds_an_array_of_tokens_times_vocabulary():
    hidden, head, teacher_hidden, teacher_head = case(n=64, vocab=2048)

    def memory(chunk):
        total = jax.jit(
            jax.grad(lambda h: losses.chunked_reverse_kl(h, head, teacher_hidden, teacher_head, 1.0, chunk).sum())
        )
        return total.lower(hidden).compile().memory_analysis().temp_size_in_bytes

    assert memory(4) < 64 * 2048 * 4 < memory(64)
