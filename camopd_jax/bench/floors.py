"""Operations and bytes that a part cannot do without, and the time that they take at the machine's limits.

N: weights that take part in a product for each token (plan.parameters). A product of a token with N weights is 2 N
operations; attention adds 4 x layers x heads x head_dim for each position that the token attends to, itself included.
The backward pass is twice the forward pass. Only tokens that are no padding are counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from camopd_jax import plan
from camopd_jax.models.decoder import DecoderConfig

MASTER = 4  # bytes of a number in the optimiser's state, whatever the forward pass computes in


@dataclass(frozen=True)
class Work:
    """What has to be done, and moved between memory and the cores."""

    flops: float
    bytes: float

    def seconds(self, flops_rate: float, bytes_rate: float) -> float:
        """max(flops / rate, bytes / rate): computing and moving overlap at best."""
        return max(self.flops / flops_rate, self.bytes / bytes_rate)

    def bound(self, flops_rate: float, bytes_rate: float) -> str:
        return "compute" if self.flops / flops_rate >= self.bytes / bytes_rate else "memory"


def attention(cfg: DecoderConfig, pairs: float) -> float:
    """Operations of so many pairs of a query and a key that it attends to: 2 for the logit and 2 for the value."""
    return 4 * cfg.layers * cfg.heads * cfg.head_dim * pairs


def causal_pairs(lengths: Iterable[int]) -> int:
    """1 + 2 + ... + n pairs of each sequence of n tokens."""
    return sum(n * (n + 1) // 2 for n in lengths)


def weight_bytes(cfg: DecoderConfig, size: int) -> int:
    """Of the weights that are in products, `size` bytes each."""
    return plan.parameters(cfg) * size


def kv_bytes(cfg: DecoderConfig, size: int) -> int:
    """Keys and values of one token."""
    return 2 * cfg.layers * cfg.kv_heads * cfg.head_dim * size


def prefill(cfg: DecoderConfig, prompts: Sequence[int], rows: int, size: int, copies: int) -> Work:
    """The prompts' forward pass, in rounds of `rows`; the head at the last token of each alone.

    Args:
      copies: of the weights, over the devices, each of which is read.
    """
    head = cfg.vocab_size * cfg.width
    flops = 2 * (plan.parameters(cfg) - head) * sum(prompts) + 2 * head * len(prompts)
    flops += attention(cfg, causal_pairs(prompts))
    rounds = -(-len(prompts) // rows)
    moved = rounds * copies * weight_bytes(cfg, size) + sum(prompts) * kv_bytes(cfg, size)
    return Work(flops, moved)


def decode(
    cfg: DecoderConfig, prompts: Sequence[int], responses: Sequence[int], rows: int, size: int, copies: int
) -> Work:
    """Decoding all but the first token of each response (prefill gives that one), at most `rows` at once.

    A token step is 2 N operations a row and reads the weights once, and the keys and values that are alive. There are
    as many steps as the longest response needs, or as all tokens need with every row busy, whichever is more.
    """
    tokens = sum(n - 1 for n in responses)
    steps = max(max(responses) - 1, -(-tokens // rows))
    pairs = sum((n - 1) * p + n * (n - 1) // 2 for p, n in zip(prompts, responses, strict=True))
    flops = 2 * plan.parameters(cfg) * tokens + attention(cfg, pairs)
    return Work(flops, steps * copies * weight_bytes(cfg, size) + pairs * kv_bytes(cfg, size))


def scoring(cfg: DecoderConfig, lengths: Sequence[int], size: int, copies: int) -> Work:
    """2 N operations a token; the weights are read once at least."""
    flops = 2 * plan.parameters(cfg) * sum(lengths) + attention(cfg, causal_pairs(lengths))
    return Work(flops, copies * weight_bytes(cfg, size))


def training(cfg: DecoderConfig, lengths: Sequence[int], copies: int) -> Work:
    """6 N operations a token; parameters, two moments and gradients are read and written once at least."""
    return Work(3 * scoring(cfg, lengths, MASTER, copies).flops, 8 * copies * weight_bytes(cfg, MASTER))


def unread_head(cfg: DecoderConfig, prompt_tokens: int) -> float:
    """Operations that 2 N counts for the head at prompt tokens, which nobody needs."""
    return 2 * cfg.vocab_size * cfg.width * prompt_tokens
