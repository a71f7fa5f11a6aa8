"""Operations, bytes and seconds of a run that is only planned, on one of its devices.

Prompts and responses are as long as the config lets them be, times a `share`; packed rows and micro-batches are then
those of packing.py, padding included. What is not counted: compiling, reading weights and saving them, the host.
"""

import math
from collections import Counter
from dataclasses import dataclass

from camopd_jax import rules
from camopd_jax.camopd import methods
from camopd_jax.chips import Devices
from camopd_jax.footprint import Setup, decoded_rows, elements, kv_bytes
from camopd_jax.models.attention import BLOCK, GROUPS
from camopd_jax.models.decoder import layer_products
from camopd_jax.phases import tasks

EXCHANGE = 10e-6  # seconds that one exchange between devices takes at least


@dataclass(frozen=True)
class Work:
    """What one device does; all of it at the shares of the peaks that its kind reaches (chips.Shares)."""

    kind: str  # "scoring", "training", "decoding"
    flops: float
    read: float  # bytes from its own memory: weights and cache
    link: dict[int, float]  # bytes from other devices, by how many neighbours exchange them
    exchanges: float

    def times(self, n: float) -> "Work":
        link = {span: n * size for span, size in self.link.items()}
        return Work(self.kind, n * self.flops, n * self.read, link, n * self.exchanges)

    def seconds(self, devices: Devices, precision: str) -> float:
        """max(operations / their rate, bytes / their rate) + bytes from others / their rate + waiting for them."""
        shares = devices.shares
        compute = self.flops / (devices.flops(precision) * getattr(shares, self.kind))
        memory = self.read / (devices.chip.bandwidth * shares.bandwidth)
        return max(compute, memory) + self.waiting(devices)

    def waiting(self, devices: Devices) -> float:
        """Seconds of these in which bytes of other devices are on their way; nothing is taken to overlap."""
        share = devices.shares.link
        others = sum(size / (devices.link(span) * share) for span, size in self.link.items())
        return others + self.exchanges * EXCHANGE


@dataclass(frozen=True)
class Stage:
    """A part of a run that is done `times` over."""

    name: str
    times: float
    work: list[Work]  # of one time

    def seconds(self, devices: Devices, precision: str) -> float:
        return self.times * sum(work.seconds(devices, precision) for work in self.work)

    @property
    def flops(self) -> float:
        """Of one time and one device, as the next two."""
        return sum(work.flops for work in self.work)

    @property
    def read(self) -> float:
        return sum(work.read for work in self.work)

    @property
    def link(self) -> float:
        return sum(sum(work.link.values()) for work in self.work)


def attended(columns: int) -> int:
    """Pairs of query and key whose product attention.attend makes of a row: all of one block, 5/8 of many."""
    if columns <= BLOCK:
        return columns**2
    blocks = -(-columns // BLOCK)
    group = -(-blocks // GROUPS)
    starts = range(0, blocks, group)
    return sum(min(group, blocks - s) * BLOCK * min((s + group) * BLOCK, columns) for s in starts)


def _passes(setup: Setup, rows: int, columns: int, slots: int, kind: str) -> Work:
    """A forward pass over rows x columns tokens of a device, `slots` of a row through the head; or with its backward.

    2 N operations a token and pass: forward 1, backward 2 (1 beside frozen weights), recomputed 1 under remat
    "full". Attention makes 4 H h of each pair, is recomputed under "dots" too, and once more where it goes in blocks;
    the head's logits are always recomputed.
    """
    cfg, t, config = setup.student, setup.tensor, setup.config
    training, moved = kind == "training", 0 if cfg.lora else 1
    again = training and config.micro.remat == "full"
    sweeps = 1 + training + again
    body = sweeps + training * moved
    head = 1 + training * (2 + moved)
    pairs = 1 + training * (2 + (config.micro.remat != "none") + (columns > BLOCK))
    flops = body * rows * columns * 2 * cfg.layers * layer_products(cfg)
    flops += pairs * rows * attended(columns) * 4 * cfg.layers * cfg.heads * cfg.head_dim
    flops += head * rows * slots * 2 * cfg.vocab_size * cfg.width
    own, copies = elements(cfg, setup.mesh), setup.shards // setup.gathers
    gathers = 1 + training * (1 + moved)  # of weights: forward, backward, and their gradients
    sums = 2 * (1 + 2 * training + again)  # of the residual stream over `tensor`, a layer
    trained = own.adapter if cfg.lora else own.base
    link = Counter()  # of the residual stream, of weights, of the copies' gradients
    link[t] += (sums * cfg.layers + 1) * rows * columns * cfg.width * setup.width * 2 * (t - 1) / t  # 1: embedding
    link[t * setup.gathers] += gathers * _gathered(setup)
    link[t * setup.shards] += training * 2 * 4 * trained * (copies - 1) / copies
    exchanges = cfg.layers * (gathers * (setup.gathers > 1) + sums * (t > 1)) + (t > 1)
    return Work(kind, flops / t, sweeps * setup.width * own.whole, link, exchanges)


def _gathered(setup: Setup) -> float:
    """Bytes that a device takes from others to hold all weights, but for the tensor axis."""
    return setup.width * elements(setup.student, setup.mesh).whole * (setup.gathers - 1) / setup.gathers


def micro_batch(setup: Setup, kind: str) -> Work:
    """One micro-batch, scored or trained on, padding included."""
    micro = setup.config.micro
    return _passes(setup, micro.rows, micro.width, micro.slots, kind)


def packed(setup: Setup, sequences: int, answered: int, share: float, kind: str) -> Work:
    """Scoring, or training on, so many sequences in micro-batches; answered: response tokens of the longest."""
    micro, prompt = setup.config.micro, setup.config.rollout.max_prompt_tokens
    fit = max(1, int(min(micro.width // ((prompt + answered) * share), micro.slots // (answered * share))))
    batches = math.ceil(math.ceil(sequences / fit) / (micro.rows * setup.shards))
    return micro_batch(setup, kind).times(batches)


def prefill(setup: Setup, rows: int) -> Work:
    """The forward pass over a device's prompts, padding included, and the logits of a token for each."""
    return _passes(setup, rows, setup.config.rollout.max_prompt_tokens, 1, "scoring")


def token(setup: Setup, rows: int, columns: float) -> Work:
    """One more token a row: every weight is read once, and so many columns of the cache.

    Over `fsdp` no weights move: each device multiplies its part of them with its columns of all rows' activations, and
    what follows from the residual stream is summed up.
    """
    cfg, t, f = setup.student, setup.tensor, setup.gathers
    work, own = _passes(setup, rows, 1, 1, "decoding"), elements(cfg, setup.mesh)
    # Of the attention, which `work` has for one column.
    flops = work.flops + 4 * cfg.layers * cfg.heads * cfg.head_dim * rows / t * (columns - 1)
    read = setup.width * own.base + rows * columns * kv_bytes(setup, cfg)
    link = Counter(work.link) - Counter({t * f: _gathered(setup)})
    outcomes = (cfg.heads + 2 * cfg.kv_heads) * cfg.head_dim + 2 * cfg.mlp_width
    summed = cfg.layers * outcomes * setup.width + 4 * cfg.vocab_size  # bytes a row, the logits' among them
    link[t * f] += rows * f * summed / t * 2 * (f - 1) / f
    return Work("decoding", flops, read, link, (2 * cfg.layers + 1) * (t > 1) + 2 * cfg.layers * (f > 1))


def waves(prompts: int, at_once: int) -> int:
    """How often all rows that are decoded together are filled with prompts, where responses are equally long."""
    return math.ceil(prompts / at_once)


def sampled(setup: Setup, prompts: int, at_once: int, new_tokens: int, share: float) -> list[Work]:
    """Sampling: the prompts' forward pass, then every weight and the cache so far once a token.

    The cache is taken to grow with the responses, to P + share T columns: on average half of these T are read.
    """
    rounds, rows = waves(prompts, at_once), decoded_rows(setup, prompts, at_once)
    columns = setup.config.rollout.max_prompt_tokens + share * new_tokens / 2
    return [prefill(setup, rows).times(rounds), token(setup, rows, columns).times(rounds * new_tokens * share)]


def stages(setup: Setup, share: float) -> list[Stage]:
    """The stages of a run in their order; `share`: of the longest prompts and responses, how long they are."""
    config, branches = setup.config, list(setup.teachers)
    rollout, e, s = config.rollout, config.eval, config.specialise
    longest = rollout.max_new_tokens
    found = []
    if rules.SPECIALISE in config.teachers.values():
        learned = packed(setup, s.batch_size, e.max_domain_tokens, share, "training")
        found.append(Stage("specialise, an update", s.steps, [learned]))
    mixed = config.student != "general" and setup.teachers[config.student] == setup.teachers["general"]
    full = _evaluation(setup, share)
    found.append(Stage("evaluate a teacher", len(branches) + mixed * len(e.interpolation), full))
    draws = sampled(setup, rollout.batch_size, rollout.rows_at_once, longest, share)
    method = methods.method_of(config.camopd)
    extra = method.student_entropy + method.teacher_rank + {"sampled": 0, "full": 1, "top_k": 2}[config.camopd.loss]
    scores = packed(setup, rollout.batch_size, longest, share, "scoring").times(2 + extra)
    # The smallest prefix that holds the share rho of the summed score has at most that share of the samples.
    rho = [config.camopd.rho[b] if method.select is methods.selected_alone else 1.0 for b in config.camopd.cycle]
    selected = [math.ceil(r * rollout.batch_size) for r in rho]
    updates = [packed(setup, n, longest, share, "training").times(1 / len(selected)) for n in selected]
    found += [
        Stage("recover, a rollout", config.steps, draws),
        Stage("recover, its scores", config.steps, [scores]),
        Stage("recover, an update", config.steps, updates),
    ]
    if e.every:
        short = sampled(setup, e.prompts, rollout.rows_at_once, longest, share)
        short.append(packed(setup, e.prompts, longest, share, "scoring").times(2))
        times = 1 + math.ceil(config.steps / e.every)
        found.append(Stage("short evaluation", times, [w.times(len(branches)) for w in short]))
    if config.diagnostics.every:
        probe = sampled(setup, e.prompts, rollout.rows_at_once, longest, share)
        probe.append(packed(setup, e.prompts, longest, share, "scoring").times(2))
        columns = rollout.max_prompt_tokens + longest
        each = _passes(setup, 1, columns, longest, "training").times(min(config.diagnostics.prompts, e.prompts))
        times = 1 + math.ceil(config.steps / config.diagnostics.every)
        found.append(Stage("diagnostics", times, [w.times(len(branches)) for w in (*probe, each)]))
    found.append(Stage("evaluate the student", 1, full))
    return found


def _evaluation(setup: Setup, share: float) -> list[Work]:
    """The full evaluation of one model: every task's responses, and three scores of the general ones."""
    e = setup.config.eval
    work = []
    for prompts, new_tokens in tasks(setup):
        work += sampled(setup, prompts, e.batch_size, new_tokens, share)
    return [*work, packed(setup, e.general_prompts, e.max_new_tokens, share, "scoring").times(3)]
