"""From the end of the replica that leads until another leads and the mesh is as declared again.

Drift is made the moment the leader ends. On the same API server, and at the same moments, the same is done to two
kube-controller-managers: client-go's own election, with the same times. The slowest of all rounds counts.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from api.world import Cluster, path_of
from bench import operators
from bench.figure import Figure
from meshwright.cluster.lease import RETRY
from testbed import config, programs
from testbed.apiserver import ApiServer, api_server
from testbed.console import TestbedError

ROUNDS = 3
SECONDS = 60.0
LEASE = path_of("coordination.k8s.io/v1", "Lease", "kube-system", "kube-controller-manager")


class Took(NamedTuple):
    ours: float
    theirs: float


def figures() -> Iterator[Figure]:
    with api_server() as api:
        operators.prepare(api)
        yield figure("takeover-kill", [one_round(api, signal.SIGKILL) for _ in range(ROUNDS)], "≤ 20 s")
        yield figure("takeover-term", [one_round(api, signal.SIGTERM) for _ in range(ROUNDS)], "≤ 3 s")


def figure(name: str, rounds: list[Took], goal: str) -> Figure:
    slowest = Took(*(max(each) for each in zip(*rounds, strict=True)))
    return Figure(name, slowest.ours, "s", goal, f"kube-controller-manager, until it leads, {slowest.theirs:.1f} s")


def one_round(api: ApiServer, number: signal.Signals) -> Took:
    cluster = Cluster(api)
    mesh = operators.quickstart(cluster)
    service = path_of("v1", "Service", mesh.namespace, mesh.names.istiod)
    cluster.delete(LEASE)  # theirs is not given back at the end of a round
    with operators.meshwright(api) as (leader, _), controller_manager(api) as their_leader:
        operators.install(mesh)
        before = operators.until(lambda: holder(cluster))
        with operators.replica(api) as follower, controller_manager(api):
            time.sleep(random.uniform(RETRY, 2 * RETRY))  # noqa: S311  # so that it ends anywhere between two renewals
            begin = time.monotonic()
            for process in (leader.process, their_leader):
                process.send_signal(number)
            cluster.delete(service)
            return Took(
                *moments(
                    begin,
                    lambda: follower.first_reconcile() is not None and cluster.get(service) is not None,
                    lambda: holder(cluster) not in ("", before),
                )
            )


def moments(begin: float, *conditions: Callable[[], bool]) -> list[float]:
    """Seconds until each condition holds for the first time."""
    seconds: dict[int, float] = {}
    while len(seconds) < len(conditions):
        for number, condition in enumerate(conditions):
            if number not in seconds and condition():
                seconds[number] = time.monotonic() - begin
        if time.monotonic() - begin > SECONDS:
            raise TestbedError(f"nobody took over within {SECONDS:.0f} s")
        time.sleep(0.02)
    return [seconds[number] for number in range(len(conditions))]


def holder(cluster: Cluster) -> str:
    """Who leads among the kube-controller-managers; empty for nobody."""
    lease = cluster.get(LEASE) or {"spec": {}}
    return lease["spec"].get("holderIdentity") or ""


@contextmanager
def controller_manager(api: ApiServer) -> Iterator[subprocess.Popen[bytes]]:
    """One with a single controller that has nothing to do, once it serves; its election begins in that moment."""
    port = operators.free_port()
    flags = ("--leader-elect=true", f"--secure-port={port}", "--controllers=namespace-controller")
    command = config.kube_controller_manager(
        programs.kubernetes_programs(), api.authority.parent, api.kubeconfig, flags
    )
    with operators.running(command.argv) as process:
        operators.until(lambda: answers(port))
        yield process


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
