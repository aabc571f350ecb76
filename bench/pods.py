"""Ten thousand pods, counted: from a fresh mirror to the report of those that lack a sidecar, and what that keeps.

The pods are created one by one, several at a time, on a node that there is not: there is no kubelet, and nothing runs.
Half of them ask for a sidecar, and one in ten of these has none; the others ask for none.
Each measurement has a process of its own, and memory is what its resident set grows by at most. The peers are what a
user has at hand: `kubectl get pods -A`, and a list of all pods by the official client.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
from kubernetes import client, config

from bench.figure import Figure
from meshwright.api.meshinstall import MeshSpec
from meshwright.cluster.client import Client
from meshwright.cluster.gather import gather_injection
from meshwright.cluster.mirror import mirror_of
from meshwright.mesh.enrolment import IMAGE, REVISION, STATUS, Injection, proxy_image
from testbed.apiserver import ApiServer, api_server

Json = dict[str, Any]

PODS = 10_000
MISSING = PODS // 20
EXPECTED = PODS // 2
SPACES = 50  # of which every second one asks for sidecars
AT_ONCE = 32
ROUNDS = 3
SPEC = MeshSpec(version="1.31.4")
ENV = [{"name": f"ISTIO_META_{number}", "value": f"the value of variable number {number}"} for number in range(20)]
MOUNTS = [{"name": f"volume-{number}", "mountPath": f"/var/run/secrets/{number}"} for number in range(7)]


@dataclass(frozen=True)
class Counted:
    pods: int
    seconds: float
    mebibytes: float


def figures() -> Iterator[Figure]:
    with api_server() as api:
        asyncio.run(fill(api))
        kubectl = median(seconds_of(lambda: api.kubectl("get", "pods", "--all-namespaces")) for _ in range(ROUNDS))
        ours, theirs = ([in_a_process(who, api) for _ in range(ROUNDS)] for who in ("ours", "theirs"))
    assert {each.pods for each in ours} == {EXPECTED}
    assert {each.pods for each in theirs} == {PODS}
    peer = f"kubectl get pods -A {kubectl:.2f} s, official client {median(each.seconds for each in theirs):.2f} s"
    yield Figure("pods_counted", median(each.seconds for each in ours), "s", "≤ 5", peer)
    peer = f"official client {median(each.mebibytes for each in theirs):.0f} MiB"
    yield Figure("pods_memory", median(each.mebibytes for each in ours), "MiB", "≤ 60", peer)


# -- the pods


async def fill(api: ApiServer) -> None:
    tls = ssl.create_default_context(cafile=str(api.authority))
    tls.load_cert_chain(api.certificate, api.key)
    connector = aiohttp.TCPConnector(ssl=tls, limit=AT_ONCE)
    async with aiohttp.ClientSession(api.url, connector=connector) as session:
        for number in range(SPACES):
            labels = {"istio-injection": "enabled"} if number % 2 else {}
            space = {"metadata": {"name": space_of(number), "labels": labels}}
            await create(session, "/api/v1/namespaces", space)
            account = {"metadata": {"name": "default"}}
            await create(session, f"/api/v1/namespaces/{space_of(number)}/serviceaccounts", account)
        waiting = iter([pod(number) for number in range(PODS)])

        async def one_by_one() -> None:
            for each in waiting:
                await create(session, f"/api/v1/namespaces/{each['metadata']['namespace']}/pods", each)

        await asyncio.gather(*(one_by_one() for _ in range(AT_ONCE)))


async def create(session: aiohttp.ClientSession, path: str, manifest: Json) -> None:
    async with session.post(path, json=manifest) as answer:
        await answer.read()
        answer.raise_for_status()


def space_of(number: int) -> str:
    return f"space{number % SPACES}"


def pod(number: int) -> Json:
    """As an injection leaves it, in a namespace that asks; but each tenth there was never injected."""
    asks, turn = number % 2, number // 2
    metadata: Json = {
        "name": f"shop-5d7f9c8b6-{number:05}", "namespace": space_of(number),
        "labels": {"app": "shop", "version": "v2", "pod-template-hash": "5d7f9c8b6"}, "annotations": {},
    }  # fmt: skip
    containers: list[Json] = [{"name": "web", "image": "example.org/web:1", "env": ENV}]
    if asks and turn % 10:
        status = {"containers": ["web", "istio-proxy"], "volumes": [each["name"] for each in MOUNTS]}
        metadata["labels"] |= {"security.istio.io/tlsMode": "istio", "service.istio.io/canonical-name": "shop"}
        metadata["annotations"] |= {STATUS: json.dumps(status), REVISION: SPEC.revision, IMAGE: proxy_image(SPEC)}
        containers.append({"name": "istio-proxy", "image": proxy_image(SPEC), "env": ENV, "volumeMounts": MOUNTS})
    volumes = [{"name": each["name"], "emptyDir": {}} for each in MOUNTS]
    return {"metadata": metadata, "spec": {"nodeName": "nowhere", "containers": containers, "volumes": volumes}}


# -- the measurements, each in a process of its own


def in_a_process(who: str, api: ApiServer) -> Counted:
    environment = {**os.environ, "KUBECONFIG": str(api.kubeconfig)}
    argv = [sys.executable, "-m", "bench.pods", who]
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, check=True)
    return Counted(**json.loads(done.stdout))


def ours() -> int:
    async def count() -> Injection:
        connected = await Client.connect()
        mirror = mirror_of(connected, wake=lambda _: None, revision_changed=lambda _: None)
        running = asyncio.create_task(mirror.run())
        try:
            while not mirror.synced:  # noqa: ASYNC110  # of things that happen elsewhere
                await asyncio.sleep(0.01)
            return await gather_injection(mirror, SPEC, ())
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await connected.close()

    found = asyncio.run(count())
    assert found.missing == MISSING, found
    return found.expected


def theirs() -> int:
    config.load_kube_config()
    return len(client.CoreV1Api().list_pod_for_all_namespaces().items)


def measured(count: Callable[[], int]) -> Counted:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    begin = time.perf_counter()
    pods = count()
    return Counted(pods, time.perf_counter() - begin, peak() - before)


def peak() -> float:
    """MiB that were resident at most."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def seconds_of(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


if __name__ == "__main__":
    print(json.dumps(asdict(measured({"ours": ours, "theirs": theirs}[sys.argv[1]]))))
