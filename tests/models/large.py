"""Write a large random model, and load it onto simulated devices and say what memory that took.

    python tests/models/large.py write DIR BYTES        python tests/models/large.py place DIR REPLICAxFSDPxTENSOR

Processes of their own, so that what is measured is the loading alone; test_weights.py starts them.
"""

import gc
import json
import resource
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import jax
import numpy as np

from camopd_jax import sharding
from camopd_jax.models import decoder, export, load, tiny, weights
from camopd_jax.models.decoder import DecoderConfig

VOCAB, WIDTH, MLP = 8192, 1024, 3072


def config(size: int) -> DecoderConfig:
    """A Qwen3 of about `size` bytes in bfloat16, of many layers, so that no tensor is a large part of it."""
    a_layer = 2 * (WIDTH * (2 * 1024 + 2 * 512) + 3 * WIDTH * MLP)
    layers = round((size - 2 * 2 * VOCAB * WIDTH) / a_layer)
    return DecoderConfig(
        vocab_size=VOCAB, width=WIDTH, mlp_width=MLP, layers=layers, heads=8, kv_heads=4, head_dim=128,
        rope_theta=1e6, norm_eps=1e-6, tied_head=False, max_positions=4096, qk_norm=True,
    )  # fmt: skip


def anonymous() -> int:
    """Bytes of this process's memory that no file stands behind."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * sum(int(lines[key].split()[0]) for key in ("RssAnon", "RssShmem"))


class Peak:
    """The largest `anonymous()` while the block runs."""

    def __enter__(self):
        self.bytes, self._done = anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.wait(0.002):
            self.bytes = max(self.bytes, anonymous())

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        self.bytes = max(self.bytes, anonymous())


def write(directory: Path, size: int) -> None:
    """A directory of two shards of random weights."""
    cfg, tokenizer, rng = config(size), tiny.tokenizer(), np.random.default_rng(0)
    shapes = {(name, layer): shape for name, layer, shape in decoder.tensors_of(cfg)}

    def read(name, layer, index):
        del index
        bits = rng.integers(0x3C00, 0x3C80, size=shapes[name, layer], dtype=np.uint16)
        return bits.view("bfloat16")

    export.save_directory(
        directory, cfg, read, tokenizer, stop_ids=(tokenizer.eos_token_id,), dtype="bfloat16",
        shard_bytes=int(0.55 * size),
    )  # fmt: skip


def place(directory: Path, mesh: str) -> dict[str, int | float | list[int]]:
    """Load the directory onto a mesh, and what that took in bytes and seconds."""
    model = load.load(f"path:{directory}")
    _, shapes = decoder.split(model.cfg)
    at = sharding.param_shardings(sharding.make_mesh(*map(int, mesh.split("x"))), shapes, decoder.AXES)
    gc.collect()
    before, clock = anonymous(), time.monotonic()
    tracemalloc.start()
    with Peak() as peak:
        params = jax.block_until_ready(weights.place(model.read, shapes, at, "bfloat16"))
    return {
        "files": [f.stat().st_size for f in sorted(directory.glob("*.safetensors"))],
        "largest_tensor": max(2 * int(np.prod(shape)) for _, _, shape in decoder.tensors_of(model.cfg)),
        "device_bytes": sum(s.data.nbytes for leaf in jax.tree.leaves(params) for s in leaf.addressable_shards),
        "numpy_peak": tracemalloc.get_traced_memory()[1],
        "anonymous_before": before,
        "anonymous_after": anonymous(),
        "anonymous_peak": peak.bytes,
        "resident_peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "seconds": time.monotonic() - clock,
    }


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), int(float(sys.argv[3])))
    else:
        print(json.dumps(place(Path(sys.argv[2]), sys.argv[3])))
