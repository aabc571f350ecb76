"""A life of the operator, as the runner wants it: the leader's whole work, for the meshes of one world only.

In production kopf tells of MeshInstalls; here an informer does, so that faults of watches hit this view, too.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context
from typing import Any, Protocol
from unittest import mock

import aiohttp
from kubernetes.aio.client import Configuration

from api.world import OPERATOR_NAMESPACE, Json, Wire
from meshwright.cluster import client, informer
from meshwright.cluster.informer import Informer, Wait
from meshwright.cluster.kinds import MESH_INSTALL
from meshwright.controller import leader, queue, reconcile
from meshwright.controller.leader import Leader
from meshwright.controller.metrics import Metrics
from meshwright.controller.queue import Queue

CONCERNS = ("uid", "generation", "deletionTimestamp", "finalizers")


class Process(Protocol):
    """What a world keeps of the lives that were lived in it."""

    @property
    def name(self) -> str: ...

    @property
    def now(self) -> dt.datetime: ...

    @property
    def authority(self) -> str: ...

    def born(self, life: Life) -> None: ...


class Life:
    """What is known of one from outside."""

    def __init__(self, wire: Wire, leader: Leader, metrics: Metrics) -> None:
        self.wire, self.leader = wire, leader
        self._metrics = metrics

    @property
    def looks(self) -> int:
        """Reconciles that came to their end."""
        samples = ({"result": result} for result in ("ok", "error"))
        values = (self._metrics.registry.get_sample_value("meshwright_reconcile_total", each) for each in samples)
        return int(sum(value or 0 for value in values))

    @property
    def writes(self) -> int:
        return sum(request.writes for request in self.wire.sent)


class Only(Queue):
    """A queue for some meshes: those of others, which this leader hears of too, are worked on by theirs."""

    def __init__(self, meshes: Collection[str]) -> None:
        super().__init__()
        self._meshes = meshes

    def add(self, key: str) -> None:
        if key in self._meshes:
            super().add(key)

    def add_after(self, key: str, delay: float) -> None:
        if key in self._meshes:
            super().add_after(key, delay)


@asynccontextmanager
async def leading(wire: Wire, meshes: Collection[str], *, now: Callable[[], dt.datetime]) -> AsyncIterator[Life]:
    """Works for these meshes while the block is open, and closes `wire`. Raises what ends the leader, in a group."""
    metrics = Metrics(version="test")
    leader = Leader(wire, metrics, namespace=OPERATOR_NAMESPACE, instance="test", now=now)
    leader.queue = Only(meshes)

    def changed(before: Json | None, after: Json | None) -> None:
        manifest = after or before
        if manifest and concerns(before) != concerns(after):
            leader.mesh_changed(manifest["metadata"]["name"], manifest["metadata"]["generation"])

    try:
        async with asyncio.TaskGroup() as tasks:
            working = [
                tasks.create_task(leader.run(), name="leader"),
                tasks.create_task(Informer(wire, MESH_INSTALL, changed=changed).run(), name="meshes"),
            ]
            yield Life(wire, leader, metrics)
            for each in working:
                each.cancel()
    finally:
        # Outside of this life: whoever kills it for the second time must not keep its connections from being closed.
        await asyncio.shield(Context().run(asyncio.create_task, wire.close()))


@asynccontextmanager
async def operator(world: Process, configuration: Configuration) -> AsyncIterator[None]:
    """What the runner starts again after each crash."""
    async with leading(a_wire(world, configuration), {world.name}, now=lambda: world.now) as life:
        world.born(life)
        yield


def a_wire(world: Process, configuration: Configuration, kind: type[Wire] = Wire) -> Wire:
    configuration.ssl_ca_cert = world.authority  # the system's own are many, and take long to load
    return kind(configuration)


def concerns(manifest: Json | None) -> tuple[Any, ...] | None:
    """What the operator wakes for (as `controller.chassis` does): not for its own status."""
    return tuple(manifest["metadata"].get(name) for name in CONCERNS) if manifest else None


@contextmanager
def impatient(*, resync: float = 1.0) -> Iterator[None]:
    """An operator that looks again sooner than in production: what nobody tells it of takes `resync` seconds."""
    with (
        mock.patch.object(reconcile, "RESYNC", resync),
        mock.patch.object(reconcile, "WATCH_PROGRESS", min(resync, reconcile.WATCH_PROGRESS)),
        mock.patch.object(reconcile, "BLOCKED", resync),
        mock.patch.object(leader, "COUNTING", 0.1),
        mock.patch.object(queue, "FIRST_BACKOFF", 0.1),
    ):
        yield


@contextmanager
def wary() -> Iterator[None]:
    """Informers that list again after a second or two, and take a watch that says nothing for that long for dead."""
    with (
        mock.patch.object(informer, "WATCH_SECONDS", 2),
        mock.patch.object(informer, "LIST_AGAIN", 1.0),
        mock.patch.object(informer, "STEADY", 0.5),
        mock.patch.object(informer, "RETRY", Wait(0.1, 1.0)),
        mock.patch.object(informer, "LIST_ANEW", Wait(0.1, 1.0, free=1)),
        mock.patch.object(client, "SILENCE", aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=2.5)),
    ):
        yield
