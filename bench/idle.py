"""What the operator costs at rest: its share of one core while a mesh is in sync, beside a kopf operator that is idle.

A Deployment controller and istiod are played; no pods run, so nobody is asked what it runs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from api.world import Cluster
from bench import operators
from bench.figure import Figure
from testbed.apiserver import api_server

SETTLE = 20.0
WINDOW = 60.0


def figures() -> Iterator[Figure]:
    with api_server() as api, tempfile.TemporaryDirectory() as folder:
        operators.prepare(api)
        with operators.meshwright(api) as (operator, _):
            operators.install(operators.quickstart(Cluster(api)))
            ours = share_of_a_core(operator)
        with operators.nothing(api, Path(folder)) as (other, _):
            theirs = share_of_a_core(other)
    yield Figure(
        "idle", ours * 100, "% of a core", "≤ 1 %", f"kopf operator with one empty handler {theirs * 100:.2g} %"
    )


def share_of_a_core(process: operators.Running) -> float:
    time.sleep(SETTLE)
    before = process.processor_seconds()
    time.sleep(WINDOW)
    return (process.processor_seconds() - before) / WINDOW
