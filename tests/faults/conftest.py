"""One undisturbed run for all fault tests, whose cache the others share."""

import processes
import pytest


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    return processes.Runs(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def expected(shared):
    """What the undisturbed run leaves."""
    shared.completed(shared.home / "undisturbed")
    return processes.outcome(shared.home / "undisturbed")
