"""Resident memory of the operator with one mesh, ten seconds after its first reconcile."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import operators
from bench.figure import Figure
from testbed.apiserver import api_server

SETTLE = 10.0


def figures() -> Iterator[Figure]:
    with api_server() as api, tempfile.TemporaryDirectory() as folder:
        operators.prepare(api)
        with operators.meshwright(api) as (process, _):
            time.sleep(SETTLE)
            ours = operators.resident_mebibytes(process)
        with operators.nothing(api, Path(folder)) as (process, _):
            time.sleep(SETTLE)
            theirs = operators.resident_mebibytes(process)
    yield Figure("memory", ours, "MiB", "≤ 120 MiB", f"kopf operator with one empty handler {theirs:.0f} MiB")
