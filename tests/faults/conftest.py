"""One undisturbed run for all fault tests, whose cache the others share."""

import pytest
import runs


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    return runs.Runs(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def expected(shared):
    """What the undisturbed run leaves."""
    shared.completed(shared.home / "undisturbed")
    return runs.outcome(shared.home / "undisturbed")
