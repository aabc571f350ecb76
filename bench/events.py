"""A thousand changes a second to the objects of a mesh: does the operator keep up, and what does it cost?

An API server and etcd on two cores take fewer writes than that. So there are two measurements, each beside a kopf
operator whose handlers of the same kinds are empty:

* a backlog: the process is frozen while an object is written again and again, and another of its kind is deleted last.
  Thawed, it has to take in all of it before it can know of the deletion; ours has to repair it, too.
* a load of as many writes as there can be. An operator that falls behind repairs drift later and later, so there is
  drift early and late. One that is repaired only when the load ends shows as the rest of the load's duration.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import signal
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp

from api.world import MESH_LABEL, Cluster, Mesh, path_of, path_of_item
from bench import operators
from bench.figure import Figure
from bench.operators import Operator, Running
from meshwright.cluster.kinds import KINDS
from testbed.apiserver import ApiServer, api_server

ROUNDS = 3
FROZEN = 4.0  # seconds; a lease is lost after ten
AT_ONCE = 4  # writers of the one object
RATE = 1000.0  # writes a second
DURATION = 8.0  # seconds
EARLY, LATE = 1.0, 7.0  # seconds after which drift is made
SAMPLE = 0.1  # seconds
QUIET = 0.1  # seconds of processor time in one second
# Of which an API server takes most.
LIGHT = ("ServiceAccount", "PodDisruptionBudget", "Role", "RoleBinding", "ClusterRoleBinding")


@dataclass(frozen=True)
class Load:
    writes: int
    seconds: float
    processor_seconds: float

    @property
    def rate(self) -> float:
        return self.writes / self.seconds

    @property
    def cost(self) -> float:
        """Processor time of the operator, in milliseconds for each write."""
        return self.processor_seconds / self.writes * 1000


@dataclass(frozen=True)
class Strain:
    """What was seen of the operator under a load: keys in its queue, and how many seconds drift lasted."""

    depths: Sequence[float]
    early: float
    late: float


def figures() -> Iterator[Figure]:
    with api_server() as api, tempfile.TemporaryDirectory() as folder:
        operators.prepare(api)
        cluster = Cluster(api)
        mesh = operators.quickstart(cluster)
        with operators.meshwright(api) as (operator, _):
            operators.install(mesh)
            light = [item for item in mesh.objects() if item["kind"] in LIGHT]
            paths = [path_of_item(item) for item in light]
            our_backlog = median(backlog_of_ours(api, operator, mesh) for _ in range(ROUNDS))
            ours, strain = asyncio.run(strained(api, operator, mesh, paths))
        kinds = sorted({KINDS[item["apiVersion"], item["kind"]] for item in light} | {KINDS["v1", "ConfigMap"]})
        with operators.nothing(api, Path(folder), children=kinds) as (other, _):
            their_backlog = median(backlog_of_theirs(api, other, mesh, Path(folder)) for _ in range(ROUNDS))
            theirs = asyncio.run(load(api, other, paths))
    empty = "kopf operator with empty handlers"
    yield Figure("events", our_backlog, "events/s", "≥ 1000", f"{empty} {their_backlog:.0f}, and no repair")
    yield Figure(
        "events-load", ours.rate, "writes/s", f"{RATE:.0f}, or what the API server takes", f"{theirs.rate:.0f}"
    )
    yield Figure(
        "events-queue", max(strain.depths), "keys at most", "no growth", f"none, {strain.depths[-1]:.0f} at last"
    )
    drift = f"none, early {strain.early:.2f} s, late {strain.late:.2f} s"
    yield Figure("events-repair", max(strain.early, strain.late), "s", "≤ 1 s, early and late", drift)
    cost = f"{empty} {theirs.cost:.2f} ms a write, ours with its repairs {ours.cost:.2f} ms"
    yield Figure("events-cost", ours.cost / theirs.cost, "× peer", "none", cost)


# -- a backlog


def backlog_of_ours(api: ApiServer, operator: Operator, mesh: Mesh) -> float:
    """Events per second, from the thaw to the repair."""
    last = path_of("v1", "ConfigMap", mesh.namespace, mesh.names.injector)
    rate = backlog(api, operator, mesh, last, known=lambda: mesh.cluster.get(last) is not None)
    operators.install(mesh)
    return rate


def backlog_of_theirs(api: ApiServer, other: Running, mesh: Mesh, folder: Path) -> float:
    """Events per second, from the thaw to the handler of the deletion."""
    metadata = {"name": "last", "namespace": mesh.namespace, "labels": {MESH_LABEL: mesh.name}}
    last = path_of_item(mesh.cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}).body)
    asyncio.run(quiet(other))
    gone = folder / "gone"
    gone.unlink(missing_ok=True)
    return backlog(api, other, mesh, last, known=gone.exists)


def backlog(api: ApiServer, running: Running, mesh: Mesh, last: str, *, known: Callable[[], bool]) -> float:
    written = path_of("v1", "ConfigMap", mesh.namespace, mesh.names.mesh_config)
    running.process.send_signal(signal.SIGSTOP)
    try:
        count = asyncio.run(write(api, [written] * AT_ONCE, rate=math.inf, seconds=FROZEN))
        mesh.cluster.delete(last)
    finally:
        running.process.send_signal(signal.SIGCONT)
    begin = time.monotonic()
    operators.until(known)
    return count / (time.monotonic() - begin)


# -- a load


async def strained(api: ApiServer, operator: Operator, mesh: Mesh, paths: Sequence[str]) -> tuple[Load, Strain]:
    depths: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        loading = tasks.create_task(load(api, operator, paths))
        repairs = [tasks.create_task(repair(mesh, after=moment)) for moment in (EARLY, LATE)]
        while not loading.done():
            depths.append(await asyncio.to_thread(operator.queue_depth))
            await asyncio.sleep(SAMPLE)
    early, late = (each.result() for each in repairs)
    return loading.result(), Strain(depths, early, late)


async def repair(mesh: Mesh, *, after: float) -> float:
    """Seconds until an object that is deleted in so many seconds is back."""
    service = path_of("v1", "Service", mesh.namespace, mesh.names.istiod)
    await asyncio.sleep(after)
    begin = time.monotonic()
    await asyncio.to_thread(mesh.cluster.delete, service)
    await asyncio.to_thread(operators.until, lambda: mesh.cluster.get(service))
    return time.monotonic() - begin


async def load(api: ApiServer, running: Running, paths: Sequence[str]) -> Load:
    """As many writes as the rate says, or as the API server takes; then until the process is quiet again."""
    before = running.processor_seconds()
    begin = time.monotonic()
    writes = await write(api, [*paths, *paths], rate=RATE, seconds=DURATION)
    seconds = time.monotonic() - begin
    await quiet(running)
    return Load(writes, seconds, running.processor_seconds() - before)


async def quiet(running: Running) -> None:
    before, now = -math.inf, running.processor_seconds()
    while now - before > QUIET:
        await asyncio.sleep(1)
        before, now = now, running.processor_seconds()


# -- writers, one for each path


async def write(api: ApiServer, paths: Sequence[str], *, rate: float, seconds: float) -> int:
    """How many writes there were."""
    tls = ssl.create_default_context(cafile=str(api.authority))
    tls.load_cert_chain(api.certificate, api.key)
    headers = {
        "Content-Type": "application/merge-patch+json",
        "Accept": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    }
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls, limit=0), headers=headers) as session,
        asyncio.TaskGroup() as tasks,
    ):
        every = len(paths) / rate
        writers = [tasks.create_task(writer(session, api.url + path, every=every, seconds=seconds)) for path in paths]
    return sum(each.result() for each in writers)


async def writer(session: aiohttp.ClientSession, url: str, *, every: float, seconds: float) -> int:
    """Sets a foreign annotation to another value each time. One that is late makes up for it."""
    begin = time.monotonic()
    for number in itertools.count():
        if (wait := begin + number * every - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        if time.monotonic() - begin > seconds:
            return number
        patch = json.dumps({"metadata": {"annotations": {"example.com/written": f"{id(session)} {begin} {number}"}}})
        async with session.patch(url, data=patch) as answer:
            await answer.read()
            answer.raise_for_status()
    raise AssertionError
