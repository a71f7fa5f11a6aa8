"""What the cache keeps of evaluations: whole files only, and what is damaged is computed again."""

from pathlib import Path

import numpy as np
import pytest
from test_checkpoint import files_of_at_most

from camopd_jax.evals import cached


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "evaluations"


def arrays(cache: Path, computed: list) -> dict[str, np.ndarray]:
    return cached._arrays(cache.parent, "key", lambda: (computed.append(1), {"a": np.arange(500)})[1])


@pytest.mark.parametrize("damage", [
    lambda b: b[:-100], lambda b: bytes(len(b)), lambda b: b"", lambda b: b[:300] + bytes([b[300] ^ 1]) + b[301:],
    lambda b: b.replace(b"a.npy", b"b.npy"), lambda b: b[64:-1],
], ids=["truncated", "zeroed", "empty", "one bit", "renamed", "without its sum"])  # fmt: skip
def test_what_is_stored_is_taken_unless_it_is_damaged(cache, damage):
    computed = []
    for _ in range(2):
        np.testing.assert_array_equal(arrays(cache, computed)["a"], np.arange(500))
    assert len(computed) == 1
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        np.testing.assert_array_equal(arrays(cache, computed)["a"], np.arange(500))
    assert len(computed) == 2 and list(cache.iterdir()) == [file]


def test_what_does_not_fit_leaves_nothing(cache):
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        arrays(cache, [])
    assert list(cache.iterdir()) == []


def test_one_of_a_version_without_sums_is_taken_or_made_again_and_never_an_error(cache):
    computed = []
    arrays(cache, computed)
    (file,) = cache.iterdir()
    whole = file.read_bytes()[cached.SUM_BYTES :]
    file.write_bytes(whole)
    np.testing.assert_array_equal(arrays(cache, computed)["a"], np.arange(500))
    assert len(computed) == 1
    for place in [*range(2, 200), *range(len(whole) - 100, len(whole))]:  # such as that it is encrypted
        for bit in (1, 8, 64):
            cached._stored(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
