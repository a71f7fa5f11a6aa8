"""The whole model: padding and chunks change no logit; ablations; the loss by hand; an update of a batch in parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from test_icd_graph import CFG, GRAPH

from camopd_jax.probias import chunks, lexical, model, system
from camopd_jax.probias.chunks import Chunking

CUT = Chunking(tokens=6, stride=3, most=4)
TOKENIZER = chunks.train_tokenizer(["fever and cough of the chest", "no fever, pain of the leg"] * 3, 20)
DESCRIBED = np.random.default_rng(1).normal(size=(6, 5))
CODES = model.codes_of(CFG, GRAPH, DESCRIBED)
NOTES = [np.arange(n, dtype=np.int32) % 12 + 5 for n in (0, 1, 5, 6, 7, 15, 40)]


def params_of(cfg=CFG, seed=0):
    """Parameters with embeddings that tell tokens apart."""
    made = model.random_params(cfg, seed)
    return jax.tree.map(lambda x: x * 3 if x.ndim > 1 else x, made)


def logits(which, *, rows=None, count=None, length=None, cfg=CFG, params=None):
    """Of some notes, in arrays of any size that holds them."""
    ids = [NOTES[i][: CUT.reach] for i in which]
    rows, count = rows or len(ids), count or CUT.most
    token, mask = chunks.batch(ids, CUT, TOKENIZER, rows=rows, chunks=count, length=length or CUT.tokens + 2)
    notes = model.Notes(token, mask, np.zeros((rows, 6)), np.zeros(rows), np.zeros(rows, np.uint32))
    static, _ = model.split(cfg)
    codes = model.codes_of(cfg, GRAPH, DESCRIBED)
    return np.asarray(model.logits(static, params or params_of(cfg), notes, codes, None, "float32"))[: len(ids)]


@pytest.mark.parametrize("i", range(len(NOTES)))
def test_padding_and_chunk_boundaries_change_no_logit(i):
    n = min(len(NOTES[i]), CUT.reach)
    alone = logits([i], count=CUT.count(n), length=min(n, CUT.tokens) + 2)
    assert np.isfinite(alone).all() and alone.std() > 1e-3
    np.testing.assert_allclose(logits([i], rows=3), alone, atol=1e-5)
    np.testing.assert_allclose(logits([6, i, 0])[1:2], alone, atol=1e-5)


def test_what_stands_behind_the_last_chunk_is_not_read_and_what_is_in_it_is():
    longer = np.concatenate([NOTES[6], [7, 8]])
    assert CUT.reach == 15
    np.testing.assert_array_equal(longer[: CUT.reach], NOTES[6][: CUT.reach])
    changed = NOTES[5].copy()
    changed[-1] += 1
    NOTES.append(changed)
    try:
        assert np.abs(logits([len(NOTES) - 1]) - logits([5])).max() > 1e-4
    finally:
        NOTES.pop()


@pytest.mark.parametrize(
    "change, differs",
    [
        ({"direction": "none"}, True), ({"bias": "none"}, False), ({"bias": "continuous"}, False),
        ({"direction": "undirected"}, True), ({"gate": True}, True), ({"code_block": 1}, False),
        ({"remat": True}, False), ({"queries": "learned", "direction": "none"}, True),
    ],
)  # fmt: skip
def test_each_ablation_is_what_its_name_says(change, differs):
    """Biases are 0 at the start; parameters that both have are the same."""
    cfg = dataclasses.replace(CFG, **change)
    base, other = params_of(), params_of(cfg)
    shared = jax.tree_util.tree_map_with_path(
        lambda path, x: _at(base, path) if _at(base, path) is not None else x, other
    )
    difference = np.abs(logits([3, 5], cfg=cfg, params=shared) - logits([3, 5], params=base)).max()
    assert (difference > 1e-4) if differs else (difference < 1e-5)


def _at(tree, path):
    for key in path:
        tree = tree.get(key.key) if isinstance(tree, dict) else None
        if tree is None:
            return None
    return tree


def test_the_loss_by_hand():
    truth = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    notes = model.Notes(None, None, truth, np.array([0.5, 0.0], np.float32), None)
    logit = np.array([[0.0, 2.0], [9.0, 9.0]], np.float32)
    expected = 0.5 * (np.log(2) + np.log1p(np.exp(2.0))) / 2  # the second note weighs nothing
    assert float(model.loss(logit, notes, np.zeros(2))) == pytest.approx(expected, rel=1e-6)
    shifted = 0.5 * (np.log1p(np.exp(3.0)) + np.log1p(np.exp(2.0))) / 2
    assert float(model.loss(logit, notes, np.array([-3.0, 0.0]))) == pytest.approx(shifted, rel=1e-6)


def test_micro_batches_sum_to_the_gradient_of_the_batch():
    static, _ = model.split(CFG)
    loss, _ = system.objective(static, np.zeros(6, np.float32), "float32")
    truth = sparse.csr_array(np.eye(6, dtype=bool)[[0, 1, 2, 3]])
    collect = {
        micro: system.collector(
            [NOTES[i] for i in (1, 5, 2, 4)], truth, list("abcd"), batch_size=4, micro=micro, seed=0,
            tokenizer=TOKENIZER, chunking=CUT,
        )(None, 0)
        for micro in (4, 2, 1)
    }  # fmt: skip
    assert {m: len(e.updates) for m, e in collect.items()} == {4: 1, 2: 2, 1: 4}
    params = params_of()

    def gradient(updates):
        parts = [jax.grad(lambda p, u=u: loss(p, u, CODES)[0])(params) for u in updates]
        return jax.tree.map(lambda *x: sum(x), *parts)

    whole = gradient(collect[4].updates)
    for micro in (2, 1):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), gradient(collect[micro].updates), whole
        )
    assert [sorted(x for part in e.samples for x in part) for e in collect.values()] == [list("abcd")] * 3
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(whole)) > 1e-4


def test_dropout_draws_anew_in_each_micro_batch_and_not_when_predicting():
    cfg = dataclasses.replace(CFG, dropout=0.5)
    static, _ = model.split(cfg)
    loss, _ = system.objective(static, np.zeros(6, np.float32), "float32")
    batch = [system.batch_of([NOTES[5]], np.zeros((1, 6)), 1.0, 1, draw, TOKENIZER, CUT) for draw in (0, 0, 1)]
    first, again, other = (float(loss(params_of(cfg), b, CODES)[0]) for b in batch)
    assert first == again != other
    np.testing.assert_array_equal(logits([5], cfg=cfg), logits([5]))
    assert len({system.drawing_of(seed, n) for seed in range(30) for n in range(30)}) == 900


def test_descriptions_with_the_same_rare_words_are_near_each_other():
    texts = ["fever of the leg", "cough of the chest", "fever of the chest", "leg fever"]
    x = lexical.embed(texts, TOKENIZER, 512, seed=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert x[0] @ x[3] > 0.7 > x[0] @ x[1]
