"""Sampling and scoring against loops that recompute the whole forward pass, on tiny models with random weights."""

from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from camopd_jax import batching, data, metrics, packing, sampling, scoring, sharding
from camopd_jax.engine import Engine, Numerics
from camopd_jax.models import decoder
from camopd_jax.models.tiny import CONFIG as TINY
from camopd_jax.packing import PackShape

STEPS, WIDTH = 12, 10  # response tokens, columns of the padded prompts
GRAPH, SHAPES = decoder.split(TINY)
# Weights large enough for a peaked distribution: greedy has no near-ties, and responses differ between rows.
PARAMS = jax.tree.map(
    lambda s, n: jnp.asarray(np.random.default_rng(n).normal(size=s.shape) * 0.2, jnp.float32),
    SHAPES,
    jax.tree.unflatten(jax.tree.structure(SHAPES), range(len(jax.tree.leaves(SHAPES)))),
)
PROMPTS = [np.random.default_rng(n).integers(TINY.vocab_size, size=n).astype(np.int32) for n in (3, 10, 1, 6, 8)]
KEY = jax.random.key(5)


@jax.jit
def next_logits(tokens_L, length):
    """Logits [V] after the first `length` tokens, from a whole forward pass without padding on the left."""
    segments = (jnp.arange(tokens_L.shape[0]) < length).astype(jnp.int32)[None]
    model = nnx.merge(GRAPH, PARAMS)
    hidden, _ = model(tokens_L[None], jnp.arange(tokens_L.shape[0])[None], segments)
    return model.head_VD() @ hidden[0, length - 1]


def logits_after(prefix):
    tokens_L = np.zeros(WIDTH + STEPS, np.int32)
    tokens_L[: len(prefix)] = prefix
    return np.asarray(next_logits(tokens_L, len(prefix)), np.float64)


def log_softmax(x):
    x = x - x.max()
    return x - np.log(np.exp(x).sum())


def greedy_by_hand(prompt, stop=None):
    response = []
    while len(response) < STEPS and (not response or response[-1] != stop):
        response.append(int(np.argmax(logits_after([*prompt, *response]))))
    return response


@pytest.fixture(scope="module")
def greedy():
    """What greedy decoding writes after each prompt when nothing stops it."""
    return [greedy_by_hand(p) for p in PROMPTS]


@pytest.fixture(scope="module")
def eos(greedy):
    """A token that ends some greedy responses early and others not at all."""
    for token in range(TINY.vocab_size):
        first = [g.index(token) if token in g else STEPS for g in greedy]
        if 0 < min(first) < STEPS - 1 and max(first) == STEPS:
            return token
    raise AssertionError("no token ends some of the responses")


@cache
def build_engine(eos, temperature, dtype="float32"):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES)
    tokenizer = SimpleNamespace(eos_token_id=eos, pad_token_id=eos)
    return Engine(TINY, mesh, tokenizer, [eos], PackShape(2, 30, 24), Numerics(temperature, 16, dtype, TINY.vocab_size))


def sample(engine, prompts=PROMPTS, key=KEY, batch=5, greedy=False, limits=None):
    temperature = 0.0 if greedy else engine.numerics.temperature
    how = {"width": WIDTH, "max_new_tokens": STEPS, "temperature": temperature}
    return engine.sample(PARAMS, prompts, key, batch=batch, limits=limits, **how)


def responses(rollout):
    rows = zip(rollout.tokens_BL, rollout.response_mask_BT, strict=True)
    return [row[WIDTH:][mask].tolist() for row, mask in rows]


def test_greedy_equals_recomputing_the_whole_forward(eos):
    rollout = sample(build_engine(eos, 1.0), greedy=True)
    expected = [greedy_by_hand(p, stop=eos) for p in PROMPTS]
    assert responses(rollout) == expected
    for b, (prompt, response) in enumerate(zip(PROMPTS, expected, strict=True)):
        np.testing.assert_array_equal(rollout.tokens_BL[b, :WIDTH][rollout.prompt_mask_BP[b]], prompt)
        for t, token in enumerate(response):  # greedy reports log-probabilities at temperature 1
            logp = log_softmax(logits_after([*prompt, *response[:t]]))[token]
            assert rollout.sampler_logp_BT[b, t] == pytest.approx(logp, abs=1e-4)


def test_the_mask_ends_with_the_eos_although_eos_also_pads(eos, greedy):
    engine = build_engine(eos, 1.0)
    rollout = sample(engine, greedy=True)
    for b, free in enumerate(greedy):
        length = free.index(eos) + 1 if eos in free else STEPS
        np.testing.assert_array_equal(rollout.response_mask_BT[b], np.arange(STEPS) < length)
        np.testing.assert_array_equal(rollout.tokens_BL[b, WIDTH + length :], eos)
        np.testing.assert_array_equal(rollout.sampler_logp_BT[b, length:], 0)
    np.testing.assert_array_equal(engine.ended(rollout), [eos in free for free in greedy])
    assert 0 < sum(engine.ended(rollout)) < len(PROMPTS)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_equal_rescored_equal_brute_force_log_probs(eos, temperature):
    engine = build_engine(eos, temperature)
    rollout = sample(engine)
    rescored_BT = engine.score(PARAMS, rollout)
    np.testing.assert_allclose(rollout.sampler_logp_BT, rescored_BT, atol=1e-4)
    for b, (prompt, response) in enumerate(zip(PROMPTS, responses(rollout), strict=True)):
        for t, token in enumerate(response):
            logits = logits_after([*prompt, *response[:t]])
            assert rescored_BT[b, t] == pytest.approx(log_softmax(logits / temperature)[token], abs=1e-4)
    np.testing.assert_array_equal(rescored_BT[~rollout.response_mask_BT], 0)
    assert rescored_BT[rollout.response_mask_BT].max() < -1e-3


def test_bfloat16_weights_sample_score_and_train_with_float32_log_probs(eos):
    """Against the same rounded weights in float32: 2 layers, each rounding to 8 bits a dozen times."""
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    engine, wide = build_engine(eos, 1.0, "bfloat16"), build_engine(eos, 1.0)
    rollout = engine.sample(half, PROMPTS, KEY, width=WIDTH, batch=5, max_new_tokens=STEPS, temperature=1.0)
    rescored_BT, exact_BT = engine.score(half, rollout), wide.score(half, rollout)
    assert rollout.sampler_logp_BT.dtype == rescored_BT.dtype == np.float32
    assert np.any(rescored_BT != exact_BT)
    mask_BT = rollout.response_mask_BT
    assert np.unique(rescored_BT[mask_BT].astype(jnp.bfloat16)).size < np.unique(rescored_BT[mask_BT]).size
    assert np.abs(rollout.sampler_logp_BT - rescored_BT)[mask_BT].mean() < 0.03
    assert np.abs(rescored_BT - exact_BT)[mask_BT].mean() < 0.03

    packed = packing.pack(rollout, range(len(PROMPTS)), PackShape(5, 30, 24)).batches[0]

    def gradient(dtype):
        score = partial(scoring.score, GRAPH, temperature=1.0, chunk=16, dtype=dtype)
        return jax.jit(jax.grad(lambda p: score(p, packed).sum()))(half)

    for a, b in zip(jax.tree.leaves(gradient("bfloat16")), jax.tree.leaves(gradient("float32")), strict=True):
        assert a.dtype == jnp.bfloat16
        a, b = (x.astype(jnp.float32) for x in (a, b))
        assert 0 < jnp.linalg.norm(a - b) < 0.05 * jnp.linalg.norm(b)


def draw_from(logits_V, rows, steps, temperature):
    """Tokens [rows, steps] of a model whose logits are these after any prefix: its layers add nothing."""
    graph, shapes = decoder.split(replace(TINY, tied_head=False))
    params = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
    params |= {"embed": params["embed"] + 1.0, "norm": jnp.ones(TINY.width)}  # so every hidden state is all ones
    params["head"] = params["head"].at[:, 0].set(jnp.asarray(logits_V))
    mesh = build_engine(0, 1.0).mesh
    cfg = replace(TINY, tied_head=False)
    at = sharding.param_shardings(mesh, shapes, decoder.AXES)
    sampler = batching.Sampler(
        cfg, graph, mesh, at, batching.Shape(rows, 1, steps, temperature), stop_ids=(), pad_id=0, dtype="float32",
        vocab=TINY.vocab_size,
    )  # fmt: skip
    keys = np.asarray(jax.random.key_data(jax.random.split(KEY, rows)))
    return sampler(params, [np.zeros(1, np.int32)] * rows, keys, [steps] * rows).tokens_BL[:, 1:]


def test_draws_follow_the_softmax_at_the_temperature():
    logits = np.random.default_rng(0).normal(size=TINY.vocab_size)
    drawn = draw_from(logits, rows=2500, steps=2, temperature=0.5)
    assert_counts_fit(np.bincount(drawn.ravel(), minlength=TINY.vocab_size), np.exp(log_softmax(2 * logits)))


def assert_counts_fit(counts, share):
    """Pearson's statistic within five standard deviations of its mean; entries without mass never drawn."""
    assert counts[share == 0].sum() == 0
    order = np.argsort(share)
    counts, expected = counts[order], share[order] * counts.sum()
    pooled = int(np.searchsorted(np.cumsum(expected), 5)) + 1  # the rarest entries, as one cell
    counts, expected = (np.append(x[:pooled].sum(), x[pooled:]) for x in (counts, expected))
    assert np.sum((counts - expected) ** 2 / expected) < len(counts) + 5 * np.sqrt(2 * len(counts))


def test_decoding_stops_when_every_row_has_ended(eos, greedy, monkeypatch):
    calls = []
    plain = decoder.Decoder.decode

    def counted(*args):
        jax.debug.callback(lambda: calls.append(1))
        return plain(*args)

    monkeypatch.setattr(decoder.Decoder, "decode", counted)
    ending = [b for b, free in enumerate(greedy) if eos in free]
    engine = build_engine.__wrapped__(eos, 1.0)  # compiled anew, with the counter
    rollout = sample(engine, [PROMPTS[b] for b in ending], batch=len(ending), greedy=True)
    jax.effects_barrier()
    longest = int(rollout.response_mask_BT.sum(axis=1).max())
    assert len(calls) == longest - 1 < STEPS - 1  # the prompt's own pass gives the first token


def test_a_response_depends_neither_on_other_rows_nor_on_the_batch(eos):
    engine = build_engine(eos, 1.0)
    expected = responses(sample(engine))
    assert responses(sample(engine, batch=2)) == expected
    strangers = [PROMPTS[0], *PROMPTS[:0:-1]]  # row 0 keeps its place beside other prompts
    assert responses(sample(engine, strangers))[0] == expected[0]
    assert responses(sample(engine, PROMPTS[:2])) == expected[:2]  # the batch is filled up
    same_prompt = responses(sample(engine, [PROMPTS[1]] * 5))
    assert len({tuple(r) for r in same_prompt}) == 5  # each row has a key of its own


def test_another_key_draws_other_responses(eos):
    engine = build_engine(eos, 1.0)
    assert responses(sample(engine)) == responses(sample(engine))
    other = responses(sample(engine, key=jax.random.key(6)))
    assert all(a != b for a, b in zip(responses(sample(engine)), other, strict=True))


def test_each_step_of_a_row_draws_anew():
    """From a uniform distribution, a row that used one number for every step would repeat one token."""
    drawn = draw_from(np.zeros(TINY.vocab_size), rows=4, steps=STEPS, temperature=1.0)
    assert all(len(set(row)) > STEPS // 2 for row in drawn.tolist())


@pytest.mark.parametrize("vocab", [5, 256, 700])
def test_categorical_draws_from_the_softmax(vocab):
    rng = np.random.default_rng(vocab)
    logits = rng.normal(size=vocab) * 2
    logits[rng.permutation(vocab)[: vocab // 3]] = -np.inf
    logits[0] = logits[-1] = -np.inf
    with np.errstate(divide="ignore"):
        share = np.exp(log_softmax(logits))
    n = 20_000
    uniform = jax.random.uniform(jax.random.key(vocab), (n,))
    drawn = jax.jit(sampling.categorical)(jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (n, vocab)), uniform)
    assert_counts_fit(np.bincount(drawn, minlength=vocab), share)
    # And draw by draw: the first entry whose running sum exceeds the uniform number, unless it lies on a border.
    ends, u = np.cumsum(share), np.asarray(uniform, np.float64)
    clear = np.abs(ends[None] - u[:, None]).min(axis=1) > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(np.asarray(drawn)[clear], np.searchsorted(ends, u[clear], side="right"))


@pytest.mark.parametrize("vocab", [5, 256, 700])
def test_categorical_at_the_ends_of_the_unit_interval(vocab):
    below_one = float(np.nextafter(np.float32(1), np.float32(0)))
    for first, last in [(0, vocab - 1), (1, vocab - 2), (vocab // 2, vocab // 2)]:
        logits = np.full((2, vocab), -np.inf, np.float32)
        logits[:, first : last + 1] = np.random.default_rng(0).normal(size=last + 1 - first)
        assert sampling.categorical(jnp.asarray(logits), jnp.array([0.0, below_one])).tolist() == [first, last]


def test_categorical_never_draws_an_entry_without_mass():
    """At the borders of the distribution's blocks, where running sums of two levels disagree by rounding."""
    n, vocab = 2000, 700
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, vocab)).astype(np.float32)
    logits[:, 250:256] = logits[:, 256:262] = logits[:, 690:] = -np.inf
    ends = np.cumsum(np.exp(logits), axis=1) / np.exp(logits).sum(axis=1, keepdims=True)
    below_one = np.nextafter(np.float32(1), np.float32(0))
    for uniform in (ends[:, 255], np.nextafter(ends[:, 255], np.float32(0)), np.full(n, below_one)):
        drawn = np.asarray(sampling.categorical(jnp.asarray(logits), jnp.asarray(uniform)))
        assert np.isfinite(logits[np.arange(n), drawn]).all()


def engine_of(eos, shards=1):
    """An engine on so many data shards."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:shards]).reshape(shards, 1, 1), sharding.MESH_AXES)
    tokenizer = SimpleNamespace(eos_token_id=eos, pad_token_id=eos)
    return Engine(
        TINY, mesh, tokenizer, [eos], PackShape(shards, 60, 40), Numerics(1.0, 16, "float32", TINY.vocab_size)
    )


MANY = [np.random.default_rng(n).integers(TINY.vocab_size, size=1 + n % WIDTH).astype(np.int32) for n in range(21)]


LIMITS = [1 + 5 * n % STEPS for n in range(21)]  # rows end at different times


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_refilled_rows_answer_as_alone(eos, shards):
    """21 prompts on 4 rows: greedy answers equal the plain loop's token by token, drawn ones those of 22 rows."""
    engine = engine_of(eos, shards)
    by_hand = [greedy_by_hand(p, stop=eos)[:n] for p, n in zip(MANY, LIMITS, strict=True)]
    assert responses(sample(engine, MANY, batch=4, greedy=True, limits=LIMITS)) == by_hand
    few, all_at_once = (sample(engine, MANY, batch=batch, limits=LIMITS) for batch in (4, 22))
    assert responses(few) == responses(all_at_once)
    assert len({len(r) for r in responses(few)}) > 9
    np.testing.assert_allclose(few.sampler_logp_BT, engine.score(PARAMS, few), atol=1e-4)


def test_limits_cut_each_response(eos):
    engine, limits = build_engine(eos, 1.0), [1, STEPS, 2, 5, 3]
    free, cut = responses(sample(engine)), responses(sample(engine, batch=2, limits=limits))
    assert cut == [r[:n] for r, n in zip(free, limits, strict=True)]
    assert cut != free


def test_the_ring_of_columns_widens_and_turns(eos, monkeypatch):
    """Rooms of 2, 4, 8 and 12 columns: long responses widen the ring, refills make it turn; nobody notices."""
    expected = responses(sample(engine_of(eos), MANY, batch=22, limits=LIMITS))
    monkeypatch.setattr(batching, "FIRST_ROOM", 2)
    assert batching.Shape(3, WIDTH, STEPS, 1.0).columns() == [WIDTH + n for n in (2, 4, 8, 12)]
    assert responses(sample(engine_of(eos), MANY, batch=3, limits=LIMITS)) == expected


def test_a_prompt_is_read_once_for_a_group(eos, monkeypatch):
    """Three prompts with five responses each on four rows: the model reads three prompts, not fifteen."""
    read = []
    plain = data.left_pad

    def noted(prompts, *args):
        read.extend(tuple(p) for p in prompts)
        return plain(prompts, *args)

    engine = engine_of(eos)
    group = [prompt for prompt in PROMPTS[:3] for _ in range(5)]
    expected = responses(sample(engine, group, batch=15))
    monkeypatch.setattr(batching.data, "left_pad", noted)
    assert responses(sample(engine, group, batch=4)) == expected
    monkeypatch.undo()
    assert len(set(map(tuple, expected))) > 10  # of one prompt, but each from its own key
    assert read[15:] == [tuple(p) for p in PROMPTS[:3]]  # the first fifteen are for the record of the rollout


def test_nothing_compiles_after_the_first_rollout(eos, monkeypatch):
    """Not for a response that needs a wider cache either, nor for a row that is refilled in it."""
    monkeypatch.setattr(batching, "FIRST_ROOM", 2)
    engine = engine_of(eos)
    sample(engine, MANY[:6], batch=2, limits=[1, 2] * 3)
    before = metrics.compilations()
    sample(engine, MANY[:6], batch=2, limits=[STEPS, 3] * 3)
    assert metrics.compilations() == before


@pytest.mark.parametrize("limit", [0, STEPS + 1])
def test_a_limit_beyond_the_response_is_refused(eos, limit):
    with pytest.raises(ValueError, match=f"allowed are 1 to {STEPS}"):
        sample(build_engine(eos, 1.0), limits=[1, 2, limit, 3, 4])


def test_keys_of_another_kind_draw_too(eos):
    engine = build_engine(eos, 1.0)
    drawn = responses(sample(engine, key=jax.random.key(5, impl="rbg")))
    assert drawn == responses(sample(engine, key=jax.random.key(5, impl="rbg")))
    assert len(set(map(tuple, drawn))) == len(PROMPTS)
