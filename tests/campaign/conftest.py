"""The same API server and meshes as for the tests in `api`, and a tally that is printed at the end."""

from __future__ import annotations

import pytest

from api.conftest import cluster, mesh, new_mesh, op, server
from campaign.tally import Tally

__all__ = ["cluster", "mesh", "new_mesh", "op", "server"]

TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Tally()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tally = config.stash[TALLY]
    terminalreporter.section("campaign")
    paths = f"paths: {tally.paths} end as a fresh install; {tally.silent_looks} reconciles after them wrote nothing"
    for line in (paths, *tally.figures, str(tally)):
        terminalreporter.write_line(line)


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Tally:
    return pytestconfig.stash[TALLY]
