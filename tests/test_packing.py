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


def test_a_shared_prompt_by_hand():
    """Four responses to one prompt of two tokens, and one to another: of the first, one has no room in row 0."""
    rollout = _rollout([2, 2, 1, 2, 2], [2, 1, 1, 3, 2])
    rollout.tokens_BL[[0, 1, 3, 4], :2] = 7, 8
    shape = PackShape(rows=2, width=9, slots=7)
    packed = packing.pack(rollout, [0, 1, 2, 3, 4], shape, shared=True)
    (batch,) = packed.batches
    # Longest first: responses of 3, 2 and 2 fill the row behind their prompt; the last, of 1, has a copy in the next.
    np.testing.assert_array_equal(
        batch.tokens_RW, [[7, 8, 4002, 4003, 4004, 1002, 1003, 5002, 5003], [7, 8, 2002, 3000, 3001, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(batch.positions_RW, [[0, 1, 2, 3, 4, 2, 3, 2, 3], [0, 1, 2, 0, 1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(batch.segments_RW, [[1, 1, 2, 2, 2, 3, 3, 4, 4], [1, 1, 2, 3, 4, 0, 0, 0, 0]])
    np.testing.assert_array_equal(batch.prefix_RW, [[1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 3, 3, 0, 0, 0, 0]])
    np.testing.assert_array_equal(batch.source_RS, [[1, 2, 3, 1, 5, 1, 7], [1, 3, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(batch.labels_RS[0], [4002, 4003, 4004, 1002, 1003, 5002, 5003])
    np.testing.assert_array_equal(batch.labels_RS[1], [2002, 3001, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(packed.row_MRS, [[[3, 3, 3, 0, 0, 4, 4], [1, 2, -1, -1, -1, -1, -1]]])
    assert packing.members(rollout, [0, 1, 2, 3, 4], shape, shared=True) == [[3, 0, 4, 1, 2]]
    assert packing.pack(rollout, [0, 1], shape).batches[0].prefix_RW is None


def _groups(seed):
    """Up to 5 prompts with up to 9 responses each, some of them without a token, in any order."""
    rng = np.random.default_rng(seed)
    prompts = [100 * n + np.arange(rng.integers(1, 9)) for n in range(rng.integers(1, 6))]
    of_B = rng.permutation(np.repeat(np.arange(len(prompts)), rng.integers(1, 10, size=len(prompts))))
    rollout = _rollout([len(prompts[n]) for n in of_B], rng.integers(0, 7, size=len(of_B)))
    width = rollout.prompt_mask_BP.shape[1]
    for b, n in enumerate(of_B):
        rollout.tokens_BL[b, width - len(prompts[n]) : width] = prompts[n]
    which = rng.permutation(len(of_B))[: rng.integers(1, len(of_B) + 1)].tolist()
    shape = PackShape(rows=int(rng.integers(1, 4)), width=int(rng.integers(14, 60)), slots=int(rng.integers(6, 40)))
    return rollout, of_B, which, shape


def test_what_a_slot_sees_is_its_prompt_and_its_response_so_far():
    """Also of groups of any size that are split over rows: no token is lost, and none is there twice."""
    split = 0
    for seed in range(120):
        rollout, of_B, which, shape = _groups(seed)
        packed = packing.pack(rollout, which, shape, shared=True)
        members = packing.members(rollout, which, shape, shared=True)
        assert sorted(b for micro in members for b in micro) == sorted(which)
        seen, copies = [], []
        for m, batch in enumerate(packed.batches):
            assert set(packed.row_MRS[m][packed.row_MRS[m] >= 0]) <= set(members[m])
            for r, s in np.argwhere(batch.slot_mask_RS):
                segments, at = batch.segments_RW[r], batch.source_RS[r, s]
                b, t = int(packed.row_MRS[m, r, s]), int(packed.column_MRS[m, r, s])
                mine = (segments == segments[at]) | (segments == batch.prefix_RW[r, at])
                columns = np.flatnonzero(mine & (np.arange(shape.width) <= at))
                expected = [x for x in rollout.tokens_BL[b].tolist() if x >= 0][: rollout.prompt_mask_BP[b].sum() + t]
                assert batch.tokens_RW[r, columns].tolist() == expected
                assert batch.positions_RW[r, columns].tolist() == list(range(len(expected)))
                assert batch.labels_RS[r, s] == rollout.tokens_BL[b, rollout.prompt_mask_BP.shape[1] + t]
                seen.append((b, t))
            for r, segments in enumerate(batch.segments_RW):
                copies += [tuple(batch.tokens_RW[r, segments == p].tolist()) for p in set(batch.prefix_RW[r]) - {0}]
        assert sorted(seen) == [(b, t) for b in sorted(which) for t in range(rollout.response_mask_BT[b].sum())]
        real = sum((b.segments_RW > 0).sum() for b in packed.batches)
        assert real == sum(map(len, copies)) + rollout.response_mask_BT[which].sum()
        needed = len({int(of_B[b]) for b in which})
        assert needed <= len(copies) <= len(which)
        split += len(copies) > needed
    assert 20 < split < 100


def test_a_group_with_room_has_one_copy_of_its_prompt():
    """Eight responses of two tokens to a prompt of six: 22 tokens instead of 64."""
    rollout = _rollout([6] * 8, [2] * 8)
    rollout.tokens_BL[:, :6] = np.arange(6)
    for width, rows in [(22, 1), (21, 2), (14, 2), (12, 3), (8, 8)]:
        batches = packing.pack(rollout, range(8), PackShape(1, width, 16), shared=True).batches
        assert len(batches) == rows
    assert len(packing.pack(rollout, range(8), PackShape(1, 22, 6), shared=True).batches) == 3  # slots for 3, 3 and 2
    assert len(packing.pack(rollout, range(8), PackShape(1, 22, 16)).batches) == 4
