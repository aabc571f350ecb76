"""From the start of the process to the end of the first reconcile of a mesh that is installed already."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench import operators
from bench.figure import Figure
from testbed.apiserver import api_server

ROUNDS = 5


def figures() -> Iterator[Figure]:
    ours, theirs = [], []
    with api_server() as api, tempfile.TemporaryDirectory() as folder:
        operators.prepare(api)
        with operators.meshwright(api):
            pass  # installs the mesh, so that all rounds start from the same
        for _ in range(ROUNDS):
            with operators.meshwright(api) as (_, seconds):
                ours.append(seconds)
            with operators.nothing(api, Path(folder)) as (_, seconds):
                theirs.append(seconds)
    peer = f"kopf operator with one empty handler {median(theirs):.2f} s"
    yield Figure("start", median(ours), "s", "≤ 2 s", peer)
