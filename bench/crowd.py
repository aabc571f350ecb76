"""Ten thousand pods with a sidecar and a thousand Services come into a mesh: how soon it is decided, and what it keeps.

The pods are created one by one on a node that there is not: nothing runs, and istiod is played. Decided is what is
written: the MeshAction `MultiClusterRequired`, whose rule has no window. The decision itself is timed apart: from ten
pages of metrics of an istiod to the record of what was decided.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import ssl
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import aiohttp

from api.world import ACTIONS, Cluster
from bench import operators
from bench.figure import Figure
from bench.pods import AT_ONCE, ENV, MOUNTS, create
from meshwright.api.meshaction import Shape
from meshwright.api.meshinstall import Size
from meshwright.api.scaling import Scaling
from meshwright.mesh import signals
from meshwright.mesh.enrolment import REVISION, STATUS
from meshwright.mesh.exposition import readout
from meshwright.mesh.record import record
from meshwright.mesh.rules import rules_of
from meshwright.mesh.scaling import Look, Question, step
from meshwright.mesh.signals import PODS as OF_PODS
from meshwright.mesh.signals import History, Limits, Reading
from testbed.apiserver import ApiServer, api_server

Json = dict[str, Any]

PODS, SERVICES, SPACES = 10_000, 1_000, 50
REPLICAS = 10
ROUNDS = 50


def figures() -> Iterator[Figure]:
    with api_server() as api:
        operators.prepare(api)
        cluster = Cluster(api)
        with operators.meshwright(api) as (operator, _):
            operators.install(operators.quickstart(cluster))
            asyncio.run(fill(api))
            last = time.monotonic()
            operators.until(
                lambda: [each for each in cluster.list(ACTIONS) if each["spec"]["evidence"]["pods"] >= PODS]
            )
            decided = time.monotonic() - last
            began = time.monotonic()
            api.kubectl("get", "pods", "--all-namespaces")
            kubectl = time.monotonic() - began
            memory = operator.resident_mebibytes()
        cluster.close()
    yield Figure("crowd_decided", decided, "s", "≤ 5", f"kubectl get pods -A {kubectl:.2f} s")
    yield Figure("crowd_memory", memory, "MiB", "≤ 250", "none")
    yield Figure("crowd_decision", 1000 * median(decision() for _ in range(ROUNDS)), "ms", "≤ 50", "none")


async def fill(api: ApiServer) -> None:
    tls = ssl.create_default_context(cafile=str(api.authority))
    tls.load_cert_chain(api.certificate, api.key)
    connector = aiohttp.TCPConnector(ssl=tls, limit=AT_ONCE)
    async with aiohttp.ClientSession(api.url, connector=connector) as session:
        for number in range(SPACES):
            await create(session, "/api/v1/namespaces", {"metadata": {"name": space(number)}})
            account = {"metadata": {"name": "default"}}
            await create(session, f"/api/v1/namespaces/{space(number)}/serviceaccounts", account)
        services = ((f"/api/v1/namespaces/{space(number)}/services", service(number)) for number in range(SERVICES))
        pods = ((f"/api/v1/namespaces/{space(number)}/pods", pod(number)) for number in range(PODS))
        waiting = itertools.chain(services, pods)

        async def one_by_one() -> None:
            for path, each in waiting:
                await create(session, path, each)

        await asyncio.gather(*(one_by_one() for _ in range(AT_ONCE)))


def space(number: int) -> str:
    return f"space{number % SPACES}"


def service(number: int) -> Json:
    ports = [{"name": "http", "port": 80}]
    return {"metadata": {"name": f"shop-{number}"}, "spec": {"selector": {"app": f"shop-{number}"}, "ports": ports}}


def pod(number: int) -> Json:
    status = {"containers": ["web", "istio-proxy"], "volumes": [each["name"] for each in MOUNTS]}
    metadata: Json = {
        "name": f"shop-5d7f9c8b6-{number:05}",
        "labels": {"app": "shop", "version": "v2", "security.istio.io/tlsMode": "istio"},
        "annotations": {STATUS: json.dumps(status), REVISION: "default"},
    }
    containers = [{"name": "web", "image": "example.org/web:1", "env": ENV}]
    return {"metadata": metadata, "spec": {"nodeName": "nowhere", "containers": containers}}


# -- the decision


def page(look: int) -> str:
    """As large as that of an istiod with many series."""
    lines = [
        f"process_start_time_seconds 1\nprocess_cpu_seconds_total {10 + look}\nprocess_resident_memory_bytes 2e9",
        'pilot_xds{version="1.31.4"} 1000',
    ]
    for kind in ("cds", "lds", "rds", "eds", "nds", "ecds"):
        lines += [
            f'pilot_xds_push_time_bucket{{type="{kind}",le="{bound}"}} {look * 1000 + place}'
            for place, bound in enumerate((0.01, 0.1, 1, 3, 5, 10, 20, 30, "+Inf"))
        ]
    lines += [f'go_gc_other_series{{number="{number}"}} {number}' for number in range(5000)]
    return "\n".join(lines)


def decision() -> float:
    """Seconds, once."""
    pages, pods = [page(0), page(1)], [f"istiod-{number}" for number in range(REPLICAS)]
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    first = readout(pages[0], at=now)
    assert first
    history = History().seen(dict.fromkeys(pods, first))
    began = time.process_time()
    now += dt.timedelta(seconds=15)
    seen = {name: found for name in pods if (found := readout(pages[1], at=now))}
    history = history.seen(seen)
    measured = signals.read(history, pods, Limits(8.0, 2.0**34), now=now)
    look = Look(
        now=now, pods=PODS, proxies=PODS, replicas=REPLICAS, base=Shape(replicas=5, max_replicas=10), settled=True,
        readings=measured | {OF_PODS: Reading(float(PODS))}, size=Size.LARGE, demanded=Size.LARGE, memory="16Gi",
    )  # fmt: skip
    question = Question("bench", "primary", rules_of(Scaling()), look)
    answer = step(question)
    assert answer.new
    record(question, answer)
    return time.process_time() - began
