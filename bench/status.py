"""How long `kubectl mesh status` takes, as a person waits for it, beside kubectl with the same object.

The mesh is installed, so that its status is whole; a Deployment controller and istiod are played.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from api.world import Cluster
from bench import operators
from bench.figure import Figure
from bench.render import run, typical
from testbed import programs
from testbed.apiserver import api_server


def figures() -> Iterator[Figure]:
    with api_server() as api:
        operators.prepare(api)
        cluster = Cluster(api)
        with operators.meshwright(api):
            operators.install(operators.quickstart(cluster))
        cluster.close()
        ours = [Path(sys.executable).with_name("kubectl-mesh"), "status", "--kubeconfig", api.kubeconfig]
        theirs = [programs.kubectl(), "--kubeconfig", api.kubeconfig, "get", "meshinstall", "-o", "yaml"]
        status, peer = (typical(lambda argv=argv: run(argv)) for argv in (ours, theirs))  # type: ignore[misc]
    yield Figure("status", status * 1000, "ms", "≤ 400 ms", f"kubectl get meshinstall -o yaml {peer * 1000:.0f} ms")
