"""Resident memory of the operator at rest: with one mesh, and with ten of them installed.

A Deployment controller and istiod are played; no pods run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from api.world import Cluster, Mesh
from bench import operators
from bench.figure import Figure
from testbed.apiserver import api_server
from testbed.product import ROOT

SETTLE = 10.0
REST = 30.0
REVISIONS = 9


def figures() -> Iterator[Figure]:
    with api_server() as api, tempfile.TemporaryDirectory() as folder:
        operators.prepare(api)
        cluster = Cluster(api)
        with operators.meshwright(api) as (operator, _):
            time.sleep(SETTLE)
            one = operator.resident_mebibytes()
            operators.install(operators.quickstart(cluster), *(revision(cluster, f"r{n}") for n in range(REVISIONS)))
            time.sleep(REST)
            ten = operator.resident_mebibytes()
        with operators.nothing(api, Path(folder)) as (other, _):
            time.sleep(SETTLE)
            theirs = other.resident_mebibytes()
    peer = f"kopf operator with one empty handler {theirs:.0f} MiB"
    yield Figure("memory", one, "MiB", "≤ 120 MiB", peer)
    yield Figure("memory-10", ten, "MiB", "≤ 120 MiB", peer)


def revision(cluster: Cluster, name: str) -> Mesh:
    """The example of a second mesh, under another name, in a namespace of its own."""
    spec = yaml.safe_load((ROOT / "examples/revision.yaml").read_text())["spec"]
    spec["meshConfig"]["discoverySelectors"] = [{"matchLabels": {"istio.io/rev": name}}]
    mesh = Mesh(cluster, name, f"istio-{name}", name)
    return mesh.create(**{**spec, "namespace": mesh.namespace, "revision": mesh.revision})
