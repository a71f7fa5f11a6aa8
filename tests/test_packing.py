"""Tests of packing: every selected token is there once, whole, and predicted from the token before it."""

import numpy as np
import pytest

from camopd_jax import packing
from camopd_jax.packing import PackShape
from camopd_jax.types import Rollout


def _rollout(prompt_lengths, response_lengths):
    """Sequences of distinct tokens, so that each token tells where it comes from; padding is -1."""
    batch, width, steps = len(prompt_lengths), max(prompt_lengths), max(response_lengths)
    tokens = np.full((batch, width + steps), -1, np.int32)
    prompt_mask, response_mask = np.zeros((batch, width), bool), np.zeros((batch, steps), bool)
    for b, (p, r) in enumerate(zip(prompt_lengths, response_lengths, strict=True)):
        tokens[b, width - p : width + r] = 1000 * (b + 1) + np.arange(p + r)
        prompt_mask[b, width - p :] = True
        response_mask[b, :r] = True
    return Rollout(tokens, prompt_mask, response_mask, np.zeros((batch, steps), np.float32))


def _random(seed):
    rng = np.random.default_rng(seed)
    batch = int(rng.integers(1, 12))
    rollout = _rollout(rng.integers(1, 9, size=batch), rng.integers(1, 7, size=batch))
    which = rng.permutation(batch)[: rng.integers(1, batch + 1)]
    shape = PackShape(rows=int(rng.integers(1, 4)), width=int(rng.integers(14, 30)), slots=int(rng.integers(6, 14)))
    return rollout, which.tolist(), shape


def test_packing_by_hand():
    rollout = _rollout([2, 1, 3], [2, 1, 1])
    packed = packing.pack(rollout, [0, 1, 2], PackShape(rows=2, width=7, slots=3))
    (batch,) = packed.batches
    # Lengths 4, 2 and 4: rows 0 and 1 open on samples 0 and 2, and sample 1 first fits behind sample 0.
    np.testing.assert_array_equal(
        batch.tokens_RW, [[1000, 1001, 1002, 1003, 2000, 2001, 0], [3000, 3001, 3002, 3003, 0, 0, 0]]
    )
    np.testing.assert_array_equal(batch.positions_RW, [[0, 1, 2, 3, 0, 1, 0], [0, 1, 2, 3, 0, 0, 0]])
    np.testing.assert_array_equal(batch.segments_RW, [[1, 1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(batch.source_RS, [[1, 2, 4], [2, 0, 0]])
    np.testing.assert_array_equal(batch.labels_RS, [[1002, 1003, 2001], [3003, 0, 0]])
    np.testing.assert_array_equal(batch.slot_mask_RS, [[True, True, True], [True, False, False]])
    np.testing.assert_array_equal(packed.row_MRS, [[[0, 0, 1], [2, -1, -1]]])
    np.testing.assert_array_equal(packed.column_MRS[0, 0], [0, 1, 0])


def test_every_selected_sequence_is_there_whole_and_once():
    for seed in range(60):
        rollout, which, shape = _random(seed)
        packed = packing.pack(rollout, which, shape)
        found = []
        for batch in packed.batches:
            assert batch.tokens_RW.shape == (shape.rows, shape.width)
            assert batch.labels_RS.shape == (shape.rows, shape.slots)
            for tokens, positions, segments in zip(batch.tokens_RW, batch.positions_RW, batch.segments_RW, strict=True):
                assert (tokens[segments == 0] == 0).all()
                for segment in range(1, segments.max() + 1):
                    columns = np.flatnonzero(segments == segment)
                    assert (np.diff(columns) == 1).all()
                    assert positions[columns].tolist() == list(range(len(columns)))
                    found.append(tokens[columns].tolist())
        expected = [[t for t in rollout.tokens_BL[b].tolist() if t >= 0] for b in which]
        assert sorted(found) == sorted(expected)


def test_a_slot_is_predicted_from_the_token_before_its_label():
    for seed in range(60):
        rollout, which, shape = _random(seed)
        packed = packing.pack(rollout, which, shape)
        width = rollout.prompt_mask_BP.shape[1]
        seen = []
        for m, batch in enumerate(packed.batches):
            for r, s in np.argwhere(batch.slot_mask_RS):
                at, label = batch.source_RS[r, s], batch.labels_RS[r, s]
                assert batch.tokens_RW[r, at] + 1 == label == batch.tokens_RW[r, at + 1]
                assert batch.segments_RW[r, at] == batch.segments_RW[r, at + 1] > 0
                b, t = packed.row_MRS[m, r, s], packed.column_MRS[m, r, s]
                assert rollout.tokens_BL[b, width + t] == label
                seen.append((int(b), int(t)))
            assert (packed.row_MRS[m][~batch.slot_mask_RS] == -1).all()
        assert sorted(seen) == [(b, t) for b in sorted(which) for t in range(rollout.response_mask_BT[b].sum())]


def test_gather_and_scatter_are_inverse_on_the_selected_tokens():
    for seed in range(60):
        rollout, which, shape = _random(seed)
        packed = packing.pack(rollout, which, shape)
        x_BT = np.random.default_rng(seed).normal(size=rollout.response_mask_BT.shape).astype(np.float32)
        gathered = packed.gather(x_BT)
        empty = ~np.stack([b.slot_mask_RS for b in packed.batches])
        np.testing.assert_array_equal(gathered[empty], 0.0)
        kept = rollout.response_mask_BT & np.isin(np.arange(len(x_BT)), which)[:, None]
        rubbish = np.where(empty, 1e9, gathered)  # what an empty slot holds comes from nowhere and goes nowhere
        np.testing.assert_array_equal(packed.scatter(rubbish, x_BT.shape), np.where(kept, x_BT, 0.0))


def test_rows_are_filled_before_new_ones_open():
    rollout = _rollout([3] * 8, [1] * 8)
    assert len(packing.pack(rollout, range(8), PackShape(rows=2, width=8, slots=8)).batches) == 2
    assert len(packing.pack(rollout, range(8), PackShape(rows=2, width=8, slots=1)).batches) == 4
    assert len(packing.pack(rollout, range(8), PackShape(rows=1, width=32, slots=8)).batches) == 1


@pytest.mark.parametrize(
    ("width", "slots", "fits"), [(7, 4, True), (6, 4, False), (7, 3, False), (100, 3, False), (6, 100, False)]
)
def test_a_sequence_that_fits_no_row_is_refused(width, slots, fits):
    rollout = _rollout([3, 1], [4, 1])
    shape = PackShape(rows=1, width=width, slots=slots)
    if fits:
        assert len(packing.pack(rollout, [0], shape).batches) == 1
    else:
        with pytest.raises(ValueError, match=r"a sequence of 7 tokens \(4 of response\) does not fit"):
            packing.pack(rollout, [1, 0], shape)
