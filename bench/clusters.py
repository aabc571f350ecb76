"""Two joined clusters under load: access and intermediates renewed, endpoints killed, and drained.

Every request is counted, and who answered it. Envoy repeats what fails, which would hide most of it: where a figure is
about single failures, a VirtualService switches that off.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from bench.figure import Figure
from e2e import workloads
from e2e.members import SHOP, SYSTEM, Clusters, answered_by, api_server_stopped, bound, clusters_of, until
from meshwright.keys.authority import Authority
from testbed.product import NAMESPACE, Product

Json = dict[str, Any]
MESH = "load"
ROTATIONS, STOPPED = 20, 60  # of access; seconds without one of the API servers
RENEWALS = 3  # of each intermediate
TRIALS = 100
REQUESTS, DRAINS = 100_000, 5
TURN = 120.0  # seconds that each step may take
AGE = dt.timedelta(days=250)  # more than half of an intermediate's life
BY_HAND = {"autoscaling": {"enabled": False}}

# Ends after so many requests, or when the file is there. Connections to the sidecar are kept; those of sidecars to each
# other are pooled, as always.
LOAD = """
import collections, http.client, json, os, sys, threading, time
host, threads, pause, most, stop = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
lock, by, failed, turns, last, longest = threading.Lock(), collections.Counter(), [], [], {}, {}
left = most
def work():
    global left
    connection = None
    while True:
        with lock:
            if left <= 0 or os.path.exists(stop):
                return
            left -= 1
        began = time.time()
        try:
            connection = connection or http.client.HTTPConnection(host, 80, timeout=10)
            connection.request("GET", "/")
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"HTTP {answer.status} {body[:80]!r}")
            who = json.loads(body)["cluster"]
        except Exception as error:
            who, connection = None, None
            text = f"{error}"
        now = time.time()
        with lock:
            if who is None:
                failed.append([began, now, text])
            else:
                by[who] += 1
                longest[who] = max(longest.get(who, 0), now - last.get(who, now))
                last[who] = now
                if not turns or turns[-1][1] != who:
                    turns.append([now, who])
        time.sleep(max(0.0, began + pause - time.time()) if pause else 0)
workers = [threading.Thread(target=work) for _ in range(threads)]
began = time.time()
for each in workers: each.start()
for each in workers: each.join()
for who, at in last.items(): longest[who] = max(longest[who], time.time() - at)
if os.path.exists(stop): os.unlink(stop)
print(json.dumps({"seconds": time.time() - began, "by": by, "failed": failed, "turns": turns, "longest": longest}))
"""


@dataclass
class Load:
    """What became of the requests, once they have ended."""

    seconds: float = 0.0
    by: dict[str, int] = field(default_factory=dict)
    failed: list[tuple[float, float, str]] = field(default_factory=list)  # began, ended, why
    turns: list[tuple[float, str]] = field(default_factory=list)  # when another cluster answered than before
    longest: dict[str, float] = field(default_factory=dict)  # seconds between two answers of a cluster

    @property
    def total(self) -> int:
        return sum(self.by.values()) + len(self.failed)


@contextmanager
def load(
    cluster: Product, *, threads: int, pause: float, most: int = 10_000_000, seconds: float = 1800.0
) -> Iterator[Load]:
    """Requests from a client in the cluster while the block is open, or until there were `most`."""
    result, stop = Load(), "/tmp/stop"  # noqa: S108 - in the client's pod
    client = ("-n", SHOP, "exec", "deployment/client", "-c", "app", "--")
    command = cluster.command(*client, "python3", "-c", LOAD, f"echo.{SHOP}", str(threads), str(pause), str(most), stop)
    with subprocess.Popen(command, env=cluster.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield result
        finally:
            if most > REQUESTS:
                cluster.kubectl(*client, "touch", stop)
            try:
                output, _ = process.communicate(timeout=seconds)
            except BaseException:
                process.kill()
                raise
    found = json.loads(output)
    result.seconds, result.by, result.longest = found["seconds"], found["by"], found["longest"]
    result.failed = [tuple(each) for each in found["failed"]]
    result.turns = [tuple(each) for each in found["turns"]]


@contextmanager
def shop(bed: str, *, replicas: int = 1, retries: bool = True, **spec: Any) -> Iterator[Clusters]:
    """Two clusters, east and west, with the same Service in both."""
    with clusters_of(bed, "east", "west") as pair:
        for name, cluster in pair.all.items():
            cluster.kubectl("label", "nodes", "--all", f"topology.kubernetes.io/region={name}", "--overwrite")
        body = {
            "version": "1.31.4", "clusterName": "east",
            "clusters": [{"name": "east"}, {"name": "west", "kubeconfigSecret": "west"}],
            "topology": {"eastWestGateway": BY_HAND}, "controlPlane": BY_HAND, **spec,
        }  # fmt: skip
        mesh = {"apiVersion": "meshwright.dev/v1alpha1", "kind": "MeshInstall", "metadata": {"name": MESH}}
        pair.east.apply(pair.east.mesh({**mesh, "spec": body}))
        pair.east.wait_ready(MESH, seconds=180)
        pair.open_shop()
        for name, cluster in pair.all.items():
            cluster.apply(_echo(name, replicas))
            if not retries:
                cluster.apply(NO_RETRIES)
            cluster.kubectl("-n", SHOP, "rollout", "status", "deployment/echo", "--timeout=90s", timeout=100)
        yield pair


def _echo(cluster: str, replicas: int) -> Json:
    """It goes on while the news that it leaves is on its way, as every workload should that is drained."""
    container = workloads.container(
        env=[{"name": "CLUSTER", "value": cluster}], readinessProbe=workloads.http_probe("/"),
        lifecycle={"preStop": {"sleep": {"seconds": 10}}},
    )  # fmt: skip
    deployment = workloads.deployment("echo", SHOP, containers=[container])
    deployment["spec"]["replicas"] = replicas
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 30
    return deployment


NO_RETRIES: Json = {
    "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
    "metadata": {"name": "echo", "namespace": SHOP},
    "spec": {"hosts": [f"echo.{SHOP}.svc.cluster.local"],
             "http": [{"route": [{"destination": {"host": f"echo.{SHOP}.svc.cluster.local"}}],
                       "retries": {"attempts": 0}}]},
}  # fmt: skip


# Access and intermediates


def rotation() -> Iterator[Figure]:
    with shop("rotation", retries=False) as pair:
        until(lambda: answered_by(pair.east, "east", "west"), what="both answer")
        with load(pair.east, threads=2, pause=0.1) as rotated:
            for number in range(ROTATIONS):
                before = {name: bound(each) for name, each in pair.all.items()}
                pair.east.kubectl("annotate", "mesh", MESH, f"meshwright.dev/rotate-access={number}", "--overwrite")
                if number == ROTATIONS // 2:
                    with api_server_stopped(pair.backend.bed.clusters[1]):
                        time.sleep(STOPPED)
                for name, cluster in pair.all.items():
                    await_other(cluster, before[name], what=f"rotation {number} of access to {name}")
        yield failures("rotation", rotated, f"{ROTATIONS} rotations, an API server away for {STOPPED} s")
        yield Figure(
            "rotation-gap", max(rotated.longest.values()), "s", "≤ 10 s", "none; without an answer of a cluster"
        )
        with load(pair.east, threads=2, pause=0.1) as renewed:
            for _ in range(RENEWALS):
                for name, cluster in pair.all.items():
                    age_intermediate(pair, name, cluster)
            time.sleep(TURN / 4)  # proxies and istiods go on with the new ones
        yield failures("renewal", renewed, f"{2 * RENEWALS} intermediates renewed")


def failures(name: str, seen: Load, what: str) -> Figure:
    why = f"; the first: {seen.failed[0][2]}" if seen.failed else ""
    return Figure(name, len(seen.failed), f"failed of {seen.total} requests", "0", f"none; {what}{why}")


def await_other(cluster: Product, before: set[str], *, what: str) -> None:
    """One Secret there is that a token is bound to, and it is another one."""
    until(lambda: len(now := bound(cluster)) == 1 and not now & before, seconds=TURN, what=what)


def age_intermediate(pair: Clusters, name: str, cluster: Product) -> None:
    """Puts an intermediate of the mesh's root in place that is past half of its life, and waits for its renewal."""
    root = pair.east.get("secret", f"meshwright-root-{MESH}", "-n", NAMESPACE)["data"]
    certificate, key = (base64.b64decode(root[each]) for each in ("root-cert.pem", "root-key.pem"))
    authority = Authority.load(certificate=certificate, key=key, where="the root")
    old = authority.intermediate(cluster=name, trust_domain="cluster.local", now=dt.datetime.now(dt.UTC) - AGE)
    files = {"ca-cert.pem": old.certificate_pem, "ca-key.pem": old.key_pem,
             "cert-chain.pem": old.certificate_pem + certificate}  # fmt: skip
    patch = {"data": {each: base64.b64encode(text).decode() for each, text in files.items()}}
    cluster.kubectl("-n", SYSTEM, "patch", "secret", "cacerts", "--type=merge", "-p", json.dumps(patch))
    aged = patch["data"]["ca-cert.pem"]
    until(
        lambda: cluster.get("secret", "cacerts", "-n", SYSTEM)["data"]["ca-cert.pem"] != aged,
        seconds=TURN, what=f"a new intermediate in {name}",
    )  # fmt: skip
    time.sleep(TURN / 12)


# Endpoints


def failover() -> Iterator[Figure]:
    """One pod in each cluster. That of the near one is deleted by force, and another one takes its place.

    Its endpoint goes at once, and its process may live on for a moment: a process that dies alone is another matter.
    """
    kills: list[float] = []
    with shop("failover", retries=False, locality={}) as pair:
        until(lambda: answered_by(pair.east, "east"), what="the near one answers")
        with load(pair.east, threads=1, pause=0.02) as seen:
            for _ in range(TRIALS):
                pod = pair.east.get("pods", "-n", SHOP, "-l", "app=echo")["items"][0]["metadata"]["name"]
                kills.append(time.time())
                pair.east.kubectl("-n", SHOP, "delete", "pod", pod, "--force", "--grace-period=0")
                pair.east.kubectl("-n", SHOP, "rollout", "status", "deployment/echo", "--timeout=60s", timeout=70)
                time.sleep(3)
    outages = sorted(max((end - at for began, end, _ in seen.failed if at <= began < then), default=0.0)
                     for at, then in zip(kills, [*kills[1:], time.time()], strict=True))  # fmt: skip
    turns = [sum(at <= moment < then for moment, _ in seen.turns)
             for at, then in zip(kills, [*kills[1:], time.time()], strict=True)]  # fmt: skip
    yield Figure(
        "failover",
        quantiles(outages, n=100)[98],
        "s",
        "≤ 5 s",
        f"none; p99 of {TRIALS} deletions by force, median {outages[len(outages) // 2]:.2f} s",
    )
    yield failures("failover-failed", seen, f"{TRIALS} deletions by force, no retries")
    flaps = sum(each > 2 for each in turns)
    yield Figure(
        "failover-flaps", flaps, f"of {TRIALS}", "0", "none; times that the answers turned more than there and back"
    )


def drain() -> Iterator[Figure]:
    with shop("drain", replicas=2, locality={}) as pair:
        until(lambda: answered_by(pair.east, "east"), what="the near one answers")
        with load(pair.east, threads=8, pause=0, most=REQUESTS) as seen:
            for _ in range(DRAINS):
                for replicas in (0, 2):
                    pair.east.kubectl("-n", SHOP, "scale", "deployment/echo", f"--replicas={replicas}")
                    time.sleep(12)
    why = f"{DRAINS} times to 0 and back, {seen.by.get('west', 0)} answered by the other cluster"
    yield failures("drain", seen, why)
