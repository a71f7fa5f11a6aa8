"""Prompts, responses and micro-batches to measure with: lengths are what matters, token ids are drawn."""

import numpy as np

from camopd_jax import packing, sharding
from camopd_jax.bench.setting import Setting
from camopd_jax.packing import PackShape
from camopd_jax.types import Rollout, Update

PADDING = 0.10  # of a micro-batch's tokens, at most, where a shape allows it
STRETCH = np.arange(8, 50) / 8  # widths of a packed row that are tried, over the longest sequence
ROOM = (1.0, 1.1, 1.4, 2.0)  # slots that are tried, over the mean of a full row


def lomax(tail: float | np.ndarray, longest: int) -> int | np.ndarray:
    """The lengths that a share `tail` of a Lomax law of shape 2 exceeds, cut at the longest; their mean is longest / 4.

    With scale s, P(X > x) = (1 + x / s)^-2 and E min(X, m) = s m / (s + m), which is m / 4 for s = m / 3; one in 16 is
    as long as the longest.
    """
    return np.clip(np.rint(longest / 3 * (tail**-0.5 - 1)), 1, longest).astype(int)


def heavy(count: int, longest: int, seed: int) -> np.ndarray:
    """Lengths with a heavy tail (`lomax`).

    Evenly spaced quantiles keep the mean where it should be; the seed draws their order.
    """
    return np.random.default_rng(seed).permutation(lomax(1 - (np.arange(count) + 0.5) / count, longest))


def responses(s: Setting) -> np.ndarray:
    """Tokens of each response."""
    return heavy(s.prompts, s.new_tokens, s.seed) if s.lengths == "heavy" else np.full(s.prompts, s.new_tokens)


def prompts(s: Setting, vocab: int) -> list[np.ndarray]:
    """Token ids of each prompt."""
    rng = np.random.default_rng(s.seed)
    return list(rng.integers(vocab, size=(s.prompts, s.prompt_tokens)).astype(np.int32))


def rollout(prompts: list[np.ndarray], lengths: np.ndarray, vocab: int, seed: int) -> Rollout:
    """Drawn responses of these lengths, as if sampled with probability 1 / vocab a token."""
    rng = np.random.default_rng((seed, 1))
    mask_BT = np.arange(lengths.max()) < lengths[:, None]
    response_BT = rng.integers(vocab, size=mask_BT.shape).astype(np.int32) * mask_BT
    tokens_BL = np.concatenate([np.stack(prompts), response_BT], axis=1)
    prompt_mask_BP = np.ones((len(prompts), len(prompts[0])), bool)
    return Rollout(tokens_BL, prompt_mask_BP, mask_BT, np.where(mask_BT, -np.log(vocab), 0.0).astype(np.float32))


def updates(rollout: Rollout, count: int, shape: PackShape) -> list[Update]:
    """Micro-batches of the first `count` responses, each token with the credit 1."""
    length_B = rollout.response_mask_BT.sum(axis=1)
    share_BT = rollout.response_mask_BT / length_B[:, None] / count
    return packing.updates(rollout, range(count), shape, np.ones_like(share_BT), share_BT)


def shape_of(s: Setting, rollout: Rollout, mesh) -> PackShape:
    """The micro-batch that was asked for, or the narrowest one that leaves under a tenth to padding.

    Narrow rows are cheap rows: attention in a packed row costs its width squared. Fewer slots are cheaper too.
    """
    shards = sharding.data_shards(mesh)
    response_B = rollout.response_mask_BT.sum(axis=1)
    length_B = rollout.prompt_mask_BP.sum(axis=1) + response_B
    share, longest = response_B.sum() / length_B.sum(), int(response_B.max())
    tried = [(s.width, s.slots)] if s.width else []
    for width in [] if s.width else (int(f * length_B.max()) for f in STRETCH):
        # On average a width has share * width response tokens; more slots leave the packing more freedom.
        tried += [(width, max(longest, min(round(room * share * width), width))) for room in ROOM]
    found = []
    for width, slots in tried:
        needed = len(packing.pack(rollout, range(len(length_B)), PackShape(1, width, slots)).batches)
        rows = s.micro_rows or _rows(needed, s.micro_tokens * shards // width)
        one = PackShape(-(-rows // shards) * shards, width, slots)
        found.append((padding(rollout, one), one))
        if found[-1][0] < PADDING:
            return one
    return min(found, key=lambda pair: pair[0])[1]


def _rows(needed: int, most: int) -> int:
    """Rows of a micro-batch, of `most` at most and half as many at least, that leave the last one as full as can be."""
    most = max(1, min(most, needed))
    return min(range(most, most // 2, -1), key=lambda rows: -needed % rows)


def padding(rollout: Rollout, shape: PackShape) -> float:
    """Share of the micro-batches' tokens that are no token of a sequence."""
    batches = packing.pack(rollout, range(len(rollout.tokens_BL)), shape).batches
    real = rollout.prompt_mask_BP.sum() + rollout.response_mask_BT.sum()
    return 1 - float(real) / (len(batches) * shape.rows * shape.width)
