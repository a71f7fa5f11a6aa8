"""Label attention in blocks of codes, against the dense products; chunks and padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camopd_jax.probias import attention, chunks
from camopd_jax.probias.chunks import Chunking

M, T, C, D, HEADS = 3, 7, 10, 8, 2
RNG = np.random.default_rng(0)
KEY, VALUE = RNG.normal(size=(2, M, T, D)).astype(np.float32)
QUERY, WEIGHT = RNG.normal(size=(2, C, D)).astype(np.float32)
MASK = np.arange(T) < np.array([7, 4, 0])[:, None]


def dense(key, value, query, weight):
    """By a loop over chunks, codes and heads, in float64."""
    out = np.full((M, C), attention.MASKED)
    for m in range(M):
        seen = MASK[m]
        if not seen.any():
            continue
        for c in range(C):
            total = 0.0
            for h in range(HEADS):
                part = slice(h * D // HEADS, (h + 1) * D // HEADS)
                score = np.exp(key[m, seen][:, part].astype(np.float64) @ query[c, part])
                total += (score / score.sum()) @ value[m, seen][:, part] @ weight[c, part]
            out[m, c] = total
    return out


def blocked(key, value, query, weight, block):
    return attention.label_logits(key, value, MASK, query, weight, heads=HEADS, block=block)


@pytest.mark.parametrize("block", [1, 3, 10, 64])
def test_blocks_of_codes_equal_a_loop(block):
    np.testing.assert_allclose(
        blocked(KEY, VALUE, QUERY, WEIGHT, block), dense(KEY, VALUE, QUERY, WEIGHT), atol=1e-5, rtol=1e-6
    )


def plain(key, value, query, weight):
    """All codes at once, for the gradient."""
    k, v, q, w = (x.reshape(*x.shape[:-1], HEADS, -1) for x in (key, value, query, weight))
    score = jnp.where(MASK[:, None, None], jnp.einsum("chd,mthd->mhct", q, k), -1e30)
    logits = jnp.einsum("mhct,mthd,chd->mc", jax.nn.softmax(score, -1), v, w)
    return jnp.where(MASK.any(1)[:, None], logits, 0)


def test_the_gradient_of_blocks_is_that_of_all_codes_at_once():
    cotangent = RNG.normal(size=(M, C)).astype(np.float32) * MASK.any(1)[:, None]

    def scalar(function):
        return lambda *x: jnp.sum(jnp.where(MASK.any(1)[:, None], function(*x), 0) * cotangent)

    arrays = (KEY, VALUE, QUERY, WEIGHT)
    ours = jax.grad(scalar(lambda *x: blocked(*x, 3)), argnums=(0, 1, 2, 3))(*arrays)
    theirs = jax.grad(scalar(plain), argnums=(0, 1, 2, 3))(*arrays)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert not np.any(ours[0][~MASK]) and not np.any(ours[1][~MASK])  # padding has none


def test_no_array_of_chunks_x_tokens_x_codes_exists():
    """Neither forward nor backward: the largest array of the program is that of one block."""
    codes, block = 4096, 64
    key, value = (jnp.zeros((4, 32, 16)) for _ in range(2))
    mask = np.ones((4, 32), bool)

    def loss(key, value, query, weight):
        return attention.label_logits(key, value, mask, query, weight, heads=2, block=block).sum()

    query = weight = jnp.zeros((codes, 16))
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(key, value, query, weight).compile()
    whole = 4 * 2 * 32 * codes * 4  # bytes of chunks x heads x tokens x codes in float32
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 4


def test_the_greatest_logit_of_a_note_s_chunks_counts():
    logits = np.array([[1.0, 5.0], [2.0, attention.MASKED], [0.0, 0.0], [attention.MASKED, -1.0]])
    np.testing.assert_array_equal(attention.over_chunks(logits, 2), [[2, 5], [0, 0]])


@pytest.mark.parametrize(
    "length, starts",
    [
        (0, [0]),
        (1, [0]),
        (5, [0]),
        (6, [0]),
        (7, [0, 3]),
        (9, [0, 3]),
        (10, [0, 3, 6]),
        (12, [0, 3, 6]),
        (99, [0, 3, 6]),
    ],
)
def test_the_chunks_of_a_note_by_hand(length, starts):
    assert list(Chunking(tokens=6, stride=3, most=3).starts(length)) == starts


def test_the_published_chunks_reach_6120_tokens():
    published = Chunking(tokens=510, stride=255, most=23)
    assert published.reach == 6120 and published.count(6120) == 23 and published.count(10**6) == 23


@pytest.fixture(scope="module")
def tokenizer():
    return chunks.train_tokenizer(["fever and cough", "no fever, pain of the chest"] * 3, 60)


def test_chunks_overlap_and_have_cls_and_sep(tokenizer):
    cut = Chunking(tokens=4, stride=2, most=3)
    tokens, mask = chunks.batch([np.arange(10, 15), np.arange(0)], cut, tokenizer, rows=3, chunks=2, length=6)
    first, last, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    assert tokens[0].tolist() == [[first, 10, 11, 12, 13, last], [first, 12, 13, 14, last, pad]]
    assert tokens[1].tolist() == [[first, last, pad, pad, pad, pad], [pad] * 6]  # an empty note has one chunk
    assert mask.sum(axis=2).tolist() == [[6, 5], [2, 0], [0, 0]]


def test_what_is_not_read_is_counted_and_places_are_those_of_the_text(tokenizer):
    cut = Chunking(tokens=4, stride=2, most=2)
    text = "Fever, cough and pain of the chest"
    (found,) = chunks.tokenize(tokenizer, [text], cut)
    places = chunks.offsets(tokenizer, text)
    assert len(found.ids) == 6 and found.cut == len(places) - 6 > 0
    words = "".join(text[a:b] for a, b in places)
    assert words == text.replace(" ", "")


def test_a_tokenizer_is_the_same_for_the_same_texts(tokenizer):
    again = chunks.train_tokenizer(["fever and cough", "no fever, pain of the chest"] * 3, 60)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
