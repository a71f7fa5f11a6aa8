"""What the cache keeps of evaluations: whole files only, and what is damaged is computed again."""

import numpy as np
import pytest
from test_checkpoint import files_of_at_most

from camopd_jax.evals import cached


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path))
    return tmp_path / "evaluations"


def arrays(computed: list) -> dict[str, np.ndarray]:
    return cached._arrays("key", lambda: (computed.append(1), {"a": np.arange(500)})[1])


@pytest.mark.parametrize("damage", [
    lambda b: b[:-100], lambda b: bytes(len(b)), lambda b: b"", lambda b: b[:300] + bytes([b[300] ^ 1]) + b[301:],
], ids=["truncated", "zeroed", "empty", "one bit"])  # fmt: skip
def test_what_is_stored_is_taken_unless_it_is_damaged(cache, damage):
    computed = []
    for _ in range(2):
        np.testing.assert_array_equal(arrays(computed)["a"], np.arange(500))
    assert len(computed) == 1
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        np.testing.assert_array_equal(arrays(computed)["a"], np.arange(500))
    assert len(computed) == 2 and list(cache.iterdir()) == [file]


def test_what_does_not_fit_leaves_nothing(cache):
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        arrays([])
    assert list(cache.iterdir()) == []
