"""What this machine does at most: matrix products and copies, timed beside what is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from camopd_jax import chips
from camopd_jax.chips import fastest

BEST_OF = 5


@dataclass(frozen=True)
class Sizes:
    """Of the operands; one product must take long against its start, an array must not fit a cache."""

    square: int  # rows and columns of a matrix
    chain: int  # products in one program
    numbers: int  # float32 of a copied array


CPU = Sizes(square=2048, chain=1, numbers=2**26)
ACCELERATOR = Sizes(square=8192, chain=4, numbers=2**28)


@dataclass(frozen=True)
class Rates:
    """Of all devices together."""

    flops: float  # FLOP/s of matrix products in the precision of the run
    bytes: float  # bytes/s of a copy, reading and writing both counted; taken as the rate of reading alone too


class Machine:
    """The devices here; `rates` measures them, and `peak` says what their maker promises."""

    def __init__(self, precision: str, sizes: Sizes | None):
        self.on_cpu = jax.default_backend() == "cpu"
        self._precision, self._sizes = precision, sizes or (CPU if self.on_cpu else ACCELERATOR)
        # Simulated devices share the cores of the one CPU, which a product on one of them fills.
        self.count = 1 if self.on_cpu else jax.device_count()

    @cached_property
    def _product(self) -> Callable:
        def chain(x, y):
            for _ in range(self._sizes.chain):
                y = x @ y
            return y

        return jax.jit(chain)

    @cached_property
    def _copy(self) -> Callable:
        return jax.jit(jnp.negative)  # as much is read as is written, and nothing can leave it out

    def rates(self) -> Rates:
        """Products and copies, the best of five each; on CPU the better of JAX and NumPy.

        Random numbers, since a GPU is faster with constant ones; scaled, so that chained products keep their size.
        """
        n, numbers = self._sizes.square, self._sizes.numbers
        x_NN = (jax.random.normal(jax.random.key(0), (n, n)) / n**0.5).astype(self._precision)
        product = 2 * n**3 * self._sizes.chain / fastest(lambda: self._product(x_NN, x_NN).block_until_ready(), BEST_OF)
        if self.on_cpu:
            host_NN = np.array(x_NN, np.float32)
            product = max(product, 2 * n**3 / fastest(partial(np.matmul, host_NN, host_NN), BEST_OF))
        return Rates(self.count * product, self.count * self._copy_rate(numbers))

    def _copy_rate(self, numbers: int) -> float:
        x = jnp.ones(numbers, jnp.float32)
        best = fastest(lambda: self._copy(x).block_until_ready(), BEST_OF)
        if self.on_cpu:
            source = np.asarray(x)
            best = min(best, fastest(partial(np.copyto, np.zeros_like(source), source), BEST_OF))
        return 8 * numbers / best

    def peak(self) -> Rates | None:
        """Of the data sheet; None on a CPU and on a device that chips.py does not know."""
        try:
            chip = None if self.on_cpu else chips.chip_of(jax.devices()[0].device_kind)
        except ValueError:
            chip = None
        if chip is None:
            return None
        flops = chip.flops if self._precision == "bfloat16" else chip.flops32
        return Rates(self.count * flops, self.count * chip.bandwidth)
