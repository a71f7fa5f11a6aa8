"""One finished run of configs/icd.py:tiny for all tests of ICD coding."""

from dataclasses import dataclass
from pathlib import Path

import coding_runs
import pytest


@dataclass(frozen=True)
class Finished:
    workdir: Path
    cache: Path
    output: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    home = tmp_path_factory.mktemp("coding")
    code, output = coding_runs.run(home / "run", home / "cache")
    assert code == 0, output
    return Finished(home / "run", home / "cache", output)
