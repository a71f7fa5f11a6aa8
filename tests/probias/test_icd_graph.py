"""The graph of codes: P and its buckets, and the layer over it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from camopd_jax.models.encoder import EncoderConfig
from camopd_jax.probias import graph, model
from camopd_jax.probias.model import ModelConfig

TEXT = EncoderConfig("bert", 20, 8, 12, 1, 2, max_positions=9, first_position=0, types=1, norm_eps=1e-12)
CFG = ModelConfig(
    text=TEXT, codes=6, described=5, width=8, heads=2, mlp_width=12, direction="directed", bias="bucket",
    bias_scale=3.0, gate=False, queries="described", dropout=0.0, code_block=4, rare_block=2, remat=False,
)  # fmt: skip
# Codes 0, 2 and 4 are common, 1, 3 and 5 rare; code 5 is never beside a common one.
NOTES = [[0, 1], [0, 1, 2], [0, 2, 3], [0, 4], [2, 4], [0, 2, 4], [5], [4, 2]]
FREQUENCY = np.array([5, 2, 5, 1, 4, 1])
GRAPH = graph.of_training([np.array(n) for n in NOTES], FREQUENCY, rare_at_most=2)


def rule(p, values):
    """The bucket of one P, in plain steps."""
    if p == 0:
        return -1
    if p == 1:
        return 10
    known = sorted(v for v in values if v > 0)
    edges = {0.0}
    for i in range(11):  # linear interpolation between order statistics
        at = i / 10 * (len(known) - 1)
        low = int(at)
        high = min(low + 1, len(known) - 1)
        edges.add(round(known[low] + (at - low) * (known[high] - known[low]), 7))
    edges = sorted(edges)
    return min(max(b for b, edge in enumerate(edges) if edge <= round(p, 7)), 10)


def test_probabilities_of_notes_counted_by_hand():
    assert GRAPH.common_K.tolist() == [0, 2, 4] and GRAPH.rare_R.tolist() == [1, 3, 5]
    np.testing.assert_allclose(GRAPH.probability_RK, [[1, 0.5, 0], [1, 1, 0], [0, 0, 0]])
    assert GRAPH.bucket_RK.tolist() == [[10, 1, -1], [10, 10, -1], [-1, -1, -1]]
    assert GRAPH.edges == 4


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 10)), min_size=1, max_size=60))
def test_buckets_equal_the_rule_in_plain_steps(pairs):
    values = [min(a, b) / b for a, b in pairs]  # as counts give them: many ties
    assert graph.buckets(np.array(values)).tolist() == [rule(p, values) for p in values]


def test_different_probabilities_fill_the_buckets_evenly():
    p = np.linspace(0.001, 0.999, 1000)
    assert np.bincount(graph.buckets(p), minlength=11).tolist() == [0, *[100] * 10]  # 0 would be P below the least


@pytest.mark.parametrize("p", [[0.0, 0.0], []])
def test_without_any_edge_there_is_no_bucket(p):
    assert set(graph.buckets(np.array(p)).tolist()) <= {graph.NO_EDGE}


def test_the_control_gives_each_rare_code_the_edges_of_another():
    other = graph.shuffled(GRAPH, seed=2)
    assert sorted(map(tuple, other.bucket_RK.tolist())) == sorted(map(tuple, GRAPH.bucket_RK.tolist()))
    assert other.bucket_RK.tolist() != GRAPH.bucket_RK.tolist()
    assert other.rare_R.tolist() == GRAPH.rare_R.tolist()


def made(cfg=CFG, seed=0, found=GRAPH):
    """A code graph with random biases and its arrays."""
    layer = model.ProBias(cfg, nnx.Rngs(seed)).graph
    rng = np.random.default_rng(seed)
    if cfg.bias == "bucket":
        layer.bucket_bias.set_value(jnp.asarray(rng.normal(size=(11, cfg.heads)), jnp.float32))
    if cfg.bias == "continuous":
        layer.log_scale.set_value(jnp.asarray(rng.normal(size=cfg.heads), jnp.float32))
    return layer, model.codes_of(cfg, found, rng.normal(size=(6, 5)))


def q0(seed=3):
    return np.random.default_rng(seed).normal(size=(6, 8)).astype(np.float32)


def normed(x, scale=1.0):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * scale


def by_hand(layer, cfg, x, found):
    """The layer in loops over codes, heads and common codes (method.md)."""
    w = {n: np.asarray(getattr(layer, f"graph_{n}")[...], np.float64) for n in ("q", "k", "v", "o", "up", "down")}
    x, out = np.asarray(x, np.float64), []
    size = cfg.width // cfg.heads
    for c in range(cfg.codes):
        value = w["v"] @ x[c]
        row = np.flatnonzero(found.rare_R == c)
        edges = [] if not len(row) else np.flatnonzero(found.probability_RK[row[0]] > 0)
        if len(edges):
            parts = []
            for h in range(cfg.heads):
                part = slice(h * size, (h + 1) * size)
                scores = []
                for k in edges:
                    score = (w["q"] @ x[c])[part] @ (w["k"] @ x[found.common_K[k]])[part] / np.sqrt(size)
                    if cfg.bias == "bucket":
                        bucket = found.bucket_RK[row[0], k]
                        score += cfg.bias_scale * float(layer.bucket_bias[...][bucket, h])
                    if cfg.bias == "continuous":
                        log_p = np.log(found.probability_RK[row[0], k])
                        score += cfg.bias_scale * float(layer.log_scale[...][h]) * log_p
                    scores.append(score)
                weight = np.exp(np.array(scores) - max(scores))
                weight /= weight.sum()
                values = [(w["v"] @ x[found.common_K[k]])[part] for k in edges]
                parts.append(sum(a * v for a, v in zip(weight, values, strict=True)))
            value = np.concatenate(parts)
        y = normed(x[c] + w["o"] @ value)
        inner = w["up"] @ y
        erf = np.vectorize(math.erf)
        y = normed(y + w["down"] @ (inner * 0.5 * (1 + erf(inner / np.sqrt(2)))))
        out.append(y)
    return np.array(out)


@pytest.mark.parametrize("bias", model.BIASES)
def test_the_layer_equals_a_loop(bias):
    cfg = dataclasses.replace(CFG, bias=bias)
    layer, codes = made(cfg)
    np.testing.assert_allclose(layer(q0(), codes, None), by_hand(layer, cfg, q0(), GRAPH), atol=1e-5)


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_blocks_of_rare_codes_change_nothing(block):
    layer, codes = made(dataclasses.replace(CFG, rare_block=block))
    np.testing.assert_allclose(layer(q0(), codes, None), made()[0](q0(), codes, None), atol=1e-6)


def test_no_gradient_goes_from_a_common_code_s_output_to_a_rare_code_s_input():
    layer, codes = made()
    common, rare = GRAPH.common_K, GRAPH.rare_R
    jacobian = jax.jacobian(lambda x: layer(x, codes, None))(q0())  # [C out, D, C in, D]
    assert not np.any(jacobian[common][:, :, rare])
    assert np.abs(jacobian[rare[0]][:, common]).max() > 1e-3  # the other direction is there
    assert not np.any(jacobian[rare[0]][:, rare[1:]])  # rare codes say nothing to each other


def test_the_undirected_control_has_that_gradient():
    layer, codes = made(dataclasses.replace(CFG, direction="undirected"))
    jacobian = jax.jacobian(lambda x: layer(x, codes, None))(q0())
    assert np.abs(jacobian[GRAPH.common_K[0]][:, GRAPH.rare_R[0]]).max() > 1e-4


def test_biases_of_0_equal_the_model_without_biases():
    layer, codes = made()
    layer.bucket_bias.set_value(jnp.zeros((11, 2)))
    plain, _ = made(dataclasses.replace(CFG, bias="none"))
    np.testing.assert_array_equal(layer(q0(), codes, None), plain(q0(), codes, None))


def test_a_rare_code_without_edges_equals_a_common_one():
    layer, codes = made()
    x = q0()
    x[5] = x[0]
    out = np.asarray(layer(x, codes, None))
    np.testing.assert_allclose(out[5], out[0], atol=1e-6)
    x[1] = x[0]  # a rare code with edges does not
    out = np.asarray(layer(x, codes, None))
    assert np.abs(out[1] - out[0]).max() > 1e-3


def test_a_closed_gate_gives_the_description_and_an_open_one_the_graph():
    layer, codes = made(dataclasses.replace(CFG, gate=True))
    plain, _ = made()
    for name in ("q", "k", "v", "o", "up", "down"):
        getattr(layer, f"graph_{name}").set_value(getattr(plain, f"graph_{name}")[...])
    layer.gate.set_value(jnp.zeros_like(layer.gate[...]))
    for bias, expected in ((-50.0, q0()), (50.0, plain(q0(), codes, None))):
        layer.gate_bias.set_value(jnp.full(8, bias))
        np.testing.assert_allclose(layer(q0(), codes, None), expected, atol=1e-6)


@pytest.mark.parametrize("frequency", [np.full(6, 1), np.full(6, 99)])
def test_all_rare_or_all_common_codes_are_rows_of_their_own(frequency):
    found = graph.of_training([np.array(n) for n in NOTES], frequency, rare_at_most=2)
    layer, _ = made()
    codes = model.codes_of(CFG, found, np.zeros((6, 5)))
    x = q0()
    before = np.asarray(layer(x, codes, None))
    x[2] += 1
    after = np.asarray(layer(x, codes, None))
    assert np.abs(after - before)[[0, 1, 3, 4, 5]].max() == 0
