"""What accelerators can do at most, from their makers' data sheets, and how a slice or a set of them is named."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np


@dataclass(frozen=True)
class Chip:
    """One device of JAX's. Dense products without sparsity; all figures are peaks."""

    name: str
    flops: float  # FLOP/s of bfloat16 products
    flops32: float  # FLOP/s of float32 products at the precision "highest"
    memory: float  # bytes
    bandwidth: float  # bytes/s of that memory
    link: float  # bytes/s received from its neighbours
    near: int | None = None  # devices that the link joins; more than these hear of each other over NETWORK
    cores: int = 1  # that its slice's name counts


@dataclass(frozen=True)
class Shares:
    """Shares of the peaks that each kind of work is taken to reach."""

    training: float
    scoring: float
    decoding: float  # of the operations; it is mostly bound by the memory
    bandwidth: float
    link: float


@dataclass(frozen=True)
class Devices:
    """Equal devices, and how much of their peaks a plan counts on."""

    chip: Chip
    count: int
    shares: Shares

    def link(self, span: int) -> float:
        """Bytes/s that a device receives in an exchange among `span` neighbours."""
        return NETWORK if self.chip.near and span > self.chip.near else self.chip.link

    def flops(self, precision: str) -> float:
        return self.chip.flops if precision == "bfloat16" else self.chip.flops32


NETWORK = 50e9  # bytes/s of a GPU to other machines: 400 Gbit/s
ASSUMED = Shares(training=0.4, scoring=0.5, decoding=0.4, bandwidth=0.6, link=0.5)

# TPU: cloud.google.com/tpu/docs (float32 takes six passes in bfloat16; the link is half of the bidirectional figure).
# NVIDIA: data sheets, dense; without NVLink the link is PCIe 4.0 x16.
CHIPS = {
    "v4": Chip("TPU v4", 275e12, 275e12 / 6, 32e9, 1200e9, 300e9, cores=2),
    "v5e": Chip("TPU v5e", 197e12, 197e12 / 6, 16e9, 819e9, 200e9),
    "v5p": Chip("TPU v5p", 459e12, 459e12 / 6, 95e9, 2765e9, 600e9, cores=2),
    "v6e": Chip("TPU v6e", 918e12, 918e12 / 6, 32e9, 1640e9, 448e9),
    "a100-40": Chip("NVIDIA A100 40 GB", 312e12, 19.5e12, 40e9, 1555e9, 300e9, near=8),
    "a100-80": Chip("NVIDIA A100 80 GB", 312e12, 19.5e12, 80e9, 2039e9, 300e9, near=8),
    "h100": Chip("NVIDIA H100 SXM", 989e12, 67e12, 80e9, 3350e9, 450e9, near=8),
    "h200": Chip("NVIDIA H200", 989e12, 67e12, 141e9, 4800e9, 450e9, near=8),
    "l4": Chip("NVIDIA L4", 121e12, 30.3e12, 24e9, 300e9, 32e9, near=8),
    "rtx4090": Chip("NVIDIA RTX 4090", 165.2e12, 82.6e12, 24e9, 1008e9, 32e9, near=8),
}
# What JAX calls a device -> chip.
KINDS = (
    ("TPU v4$", "v4"), ("TPU v5 lite|TPU v5e", "v5e"), ("TPU v5p?$", "v5p"), ("TPU v6 lite|TPU v6e", "v6e"),
    ("A100.*40GB", "a100-40"), ("A100.*80GB", "a100-80"), ("H100.*HBM3", "h100"), ("H200", "h200"),
    ("NVIDIA L4$", "l4"), ("RTX 4090$", "rtx4090"),
)  # fmt: skip

CPU = "cpu"  # cpu-8: this machine's processor as eight devices, measured
HELP = (
    f"CHIP-NUMBER, CHIP one of {', '.join(CHIPS)}, {CPU}; NUMBER counts chips, for v4 and v5p cores, as Google Cloud "
    "does: v5p-16 has 8 chips, v5e-4 has 4, h100-8 has 8, a100-80-8 has 8; cpu-8 is this machine as 8 simulated devices"
)


def parse(text: str) -> Devices:
    """Devices by name, such as v5p-16, h100-8 or cpu-8; the last is measured, which takes a second.

    Raises:
      ValueError: if the name is not CHIP-NUMBER, or the number is none that the chip comes in.
    """
    match = re.fullmatch(r"(.+)-(\d+)", text)
    if match and match[1] == CPU and int(match[2]):
        return _cpu(int(match[2]))
    chip = CHIPS.get(match[1]) if match else None
    if chip is None or int(match[2]) == 0 or int(match[2]) % chip.cores:
        raise ValueError(f"--devices={text}: allowed is {HELP}")
    return Devices(chip, int(match[2]) // chip.cores, ASSUMED)


def chip_of(kind: str) -> Chip:
    """The chip that JAX calls `kind`.

    Raises:
      ValueError: if none is known by that name.
    """
    for pattern, name in KINDS:
        if re.search(pattern, kind):
            return CHIPS[name]
    raise ValueError(f"the devices here are {kind!r}, of which no peaks are known: give --devices={HELP}")


def here() -> Devices:
    """The devices of this machine; a CPU is measured, which takes a second.

    Raises:
      ValueError: if it has an accelerator of which nothing is known.
    """
    if jax.default_backend() != "cpu":
        return Devices(chip_of(jax.devices()[0].device_kind), jax.device_count(), ASSUMED)
    return _cpu(jax.device_count())


def fastest(call: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of so many calls, after one that is not counted."""
    call()
    best = float("inf")
    for _ in range(times):
        clock = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - clock)
    return best


def _cpu(count: int) -> Devices:
    """This machine's processor as `count` devices, which share its rates and memory."""
    from camopd_jax import plan  # slow to import

    x = np.ones(2**25, np.float32)  # larger than any cache
    y = np.empty_like(x)
    best = fastest(lambda: np.copyto(y, x), 3)
    with jax.default_device(jax.devices("cpu")[0]):
        rate = plan.matmul_rate() / count
    memory, copied = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 2 * x.nbytes / best / count
    name = "simulated device of this CPU, as measured" if count > 1 else "this CPU, as measured"
    chip = Chip(name, rate, rate, memory / count, copied, copied)
    return Devices(chip, count, Shares(plan.TRAINING, plan.SCORING, plan.DECODING, 1.0, 1.0))
