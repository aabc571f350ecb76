"""How long drift lasts: from somebody's write until the mesh is as declared again, with a leader at work.

The time is printed, not judged: this machine is shared. That everything comes back is judged.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from api.world import OPERATOR_NAMESPACE, Cluster, Json, Mesh, path_of_item, short_istio_api
from campaign.leaves import MISSING, Leaf, changed, other_values, owned_leaves, value_of
from campaign.play import play, put
from campaign.tally import Tally
from campaign.walk import LABELS, is_key
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.informer import Informer
from meshwright.cluster.kinds import MESH_INSTALL, OWNED
from meshwright.controller.leader import Leader
from meshwright.controller.metrics import Metrics

TRIALS = 200
PATIENCE = 20.0  # seconds after which it will never come back
DELETIONS = 0.4  # of all trials


class Watcher:
    """All objects of a mesh as a bystander's watches tell of them."""

    def __init__(self, client: Client, mesh: Mesh) -> None:
        self._seen = asyncio.Event()
        labels = f"meshwright.dev/mesh={mesh.name}"
        self._informers = [
            Informer(
                client, kind, labels=labels, metadata_only=False, lean=lambda manifest: manifest, changed=self._changed
            )
            for kind in OWNED
        ]

    def _changed(self, _before: Manifest | None, _after: Manifest | None) -> None:
        self._seen.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers:
                tasks.create_task(informer.run())

    def objects(self) -> dict[str, Json]:
        return {path_of_item(item): item for informer in self._informers for item in informer.list()}

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        async with asyncio.timeout(PATIENCE) as timeout:
            while not condition():
                self._seen.clear()
                await self._seen.wait()
        assert not timeout.expired(), what


@asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[Client]:
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    client = Client(configuration)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def background(*jobs: asyncio.Future[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


def leading(client: Client) -> list[asyncio.Future[None]]:
    """A leader, with an informer in the place of the chassis."""
    leader = Leader(
        client,
        Metrics(version="test"),
        namespace=OPERATOR_NAMESPACE,
        instance="test",
        now=lambda: dt.datetime.now(dt.UTC),
    )

    def changed(before: Manifest | None, after: Manifest | None) -> None:
        metadata = (after or before or {})["metadata"]
        leader.mesh_changed(metadata["name"], metadata["generation"])

    meshes = Informer(client, MESH_INSTALL, changed=changed)
    return [asyncio.ensure_future(leader.run()), asyncio.ensure_future(meshes.run())]


async def test_how_long_drift_lasts(cluster: Cluster, new_mesh: Callable[..., Mesh], tally: Tally) -> None:
    mesh = new_mesh().create()
    rng = random.Random(1)  # noqa: S311
    async with connected(cluster.api.kubeconfig) as ours, connected(cluster.api.kubeconfig) as theirs:
        watcher = Watcher(theirs, mesh)
        with short_istio_api():
            async with background(*leading(ours), asyncio.ensure_future(watcher.run())):
                await installed(mesh, watcher)
                before = watcher.objects()
                times = sorted([await trial(mesh, watcher, before, rng) for _ in range(TRIALS)])
    tally.settled(*("drift" for _ in times))
    p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
    tally.say(f"drift lasts, of {len(times)} trials: p50 {p50:.2f} s, p99 {p99:.2f} s, at most {times[-1]:.2f} s")


async def installed(mesh: Mesh, watcher: Watcher) -> None:
    deadline = time.monotonic() + PATIENCE
    while mesh.condition().get("reason") != "Installed":
        assert time.monotonic() < deadline, mesh.condition()
        await watcher.until(lambda: mesh.deployment_path in watcher.objects(), "the Deployment")
        play(mesh)
        await asyncio.sleep(0.2)  # the leader looks each 3 seconds


async def trial(mesh: Mesh, watcher: Watcher, before: dict[str, Json], rng: random.Random) -> float:
    """Seconds until somebody's write is undone, as a watch tells."""
    path = rng.choice(sorted(before))
    live = watcher.objects()[path]
    begin = time.monotonic()
    if rng.random() < DELETIONS:
        mesh.cluster.delete(path)
        version = None
    else:
        item, begin = edit(mesh, before[path], live, rng)
        version = item["metadata"]["resourceVersion"]

    def restored() -> bool:
        found = watcher.objects().get(path)
        if found is None:
            return False
        if version is None:
            is_later = found["metadata"]["uid"] != live["metadata"]["uid"]
        else:
            is_later = int(found["metadata"]["resourceVersion"]) > int(version)
        return is_later and as_before(found, before[path])

    await watcher.until(restored, path)
    seconds = time.monotonic() - begin
    await installed(mesh, watcher)
    return seconds


def as_before(item: Json, before: Json) -> bool:
    return all(value_of(item, leaf) == value_of(before, leaf) for leaf in leaves(before))


def leaves(item: Json) -> list[Leaf]:
    return [leaf for leaf in owned_leaves(item) if leaf[-1] != "." and leaf[-1] not in LABELS and not is_key(leaf)]


def edit(mesh: Mesh, before: Json, live: Json, rng: random.Random) -> tuple[Json, float]:
    """Changes a leaf of ours, or takes it away. The object after it, and when it was sent."""
    while True:
        leaf = rng.choice(leaves(before))
        value = MISSING if rng.random() < 0.4 else rng.choice(other_values(value_of(before, leaf)))
        edited = changed(live, leaf, value)
        begin = time.monotonic()
        stored = edited and put(mesh, edited)
        if stored and value_of(stored, leaf) != value_of(before, leaf):
            return stored, begin
