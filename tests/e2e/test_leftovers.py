"""The test bed goes without a trace, also when the process that started it is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed import cluster
from testbed.backends import VARIABLE
from testbed.leftovers import leftovers

BED = "e2e-crash"
START = f"from testbed import cluster; cluster.up({BED!r}, owned=True); import time; time.sleep(300)"

pytestmark = pytest.mark.skipif(os.environ.get(VARIABLE, "local") != "local", reason="about the local test bed")


@pytest.mark.parametrize("seconds", [1.0, 6.0])
def test_a_bed_whose_owner_is_killed_leaves_nothing(seconds: float) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    owner = subprocess.Popen([sys.executable, "-c", START], env=environment, stderr=subprocess.DEVNULL)
    try:
        time.sleep(seconds)
        owner.send_signal(signal.SIGKILL)
        owner.wait(timeout=10)
        cluster.down(BED)
        assert leftovers(BED) == []
    finally:
        owner.kill()
        cluster.down(BED)
