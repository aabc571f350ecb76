"""One replica of the operator: it prepares, waits for the lease, leads, and gives the lease back."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time

import structlog

from meshwright.api.errors import MeshwrightError
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import CRD, MESH_ACTION, MESH_INSTALL
from meshwright.cluster.lease import RENEW_DEADLINE, Election
from meshwright.controller.health import Overdue, Pulse, Verdict, first
from meshwright.controller.leader import Leader
from meshwright.controller.metrics import Metrics
from meshwright.controller.server import Server
from meshwright.render.objects import warm_up

log = structlog.get_logger()

LOOK_AGAIN = 5.0  # seconds between looks for what a start needs
LEASE_NAME = "meshwright"

# Seconds after which a restart is the better hope.
WAITED = 300.0  # of a mesh for a worker
LATE = 10.0  # of the event loop: a leader that is late by that much has lost its lease
SILENT = 180.0  # of the watches: the API server sends a bookmark each minute


class Replica:
    """Entered, it has its connections and answers probes. `identity` is its name in the lease."""

    def __init__(
        self, *, namespace: str, instance: str, identity: str, port: int, version: str, started: float
    ) -> None:
        self._namespace, self._instance, self._identity, self._started = namespace, instance, identity, started
        self._port = port
        self.metrics = Metrics(version=version)
        self._waiting: str | None = "starting"

    async def __aenter__(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            self._client = await Client.connect(observer=self.metrics.observe_request)
            stack.push_async_callback(self._client.close)
            # The lease has connections of its own: it is renewed also when all others are busy, and before it is held.
            electoral = await Client.connect(observer=self.metrics.observe_request)
            stack.push_async_callback(electoral.close)
            self._election = Election(
                electoral, namespace=self._namespace, name=LEASE_NAME, identity=self._identity, tell=log.info
            )
            self._client.guard = self._election.require
            stack.push_async_callback(self._election.release)
            self._leader = Leader(
                self._client, self.metrics, namespace=self._namespace, instance=self._instance, now=_now
            )
            self.metrics.leads.labels(LEASE_NAME).set_function(lambda: float(self._election.leads()))
            self.metrics.watch_silence.set_function(lambda: self._leader.mirror.silence() or 0.0)
            self._pulse = Pulse()
            stack.callback(asyncio.create_task(self._pulse.beat(), name="pulse").cancel)
            await stack.enter_async_context(
                Server(
                    self.metrics,
                    port=self._port,
                    healthy=self._healthy(),
                    ready=self._ready(),
                    remembered=self._leader.remembered,
                )
            )
            self._exit = stack.pop_all()

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    def mesh_changed(self, name: str, generation: int) -> None:
        self._leader.mesh_changed(name, generation)

    async def prepare(self) -> None:
        """Loads what rendering needs, waits for what the cluster must have, and then until this replica leads.

        Raises TemplateError when the package is not whole.
        """
        await asyncio.to_thread(warm_up)
        await self._until_served()
        await self._election.acquire()

    async def work(self) -> None:
        """Leads until it is cancelled. Raises LeaseLost, in a group, when another may lead."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._election.hold(), name="lease")
                tasks.create_task(self._leader.run(), name="leader")
                tasks.create_task(self._tell_start(), name="start")
        finally:
            await self._election.release()  # now that nobody writes any more

    async def _tell_start(self) -> None:
        await self._leader.first_done.wait()
        self.metrics.first_reconcile.set(time.time() - self._started)

    async def _until_served(self) -> None:
        """Until the API server answers and knows our kinds: nothing can be watched, or written down, before."""
        while True:
            try:
                missing = await self._missing_kind()
                if missing is None:
                    self._waiting = None
                    return
                self._waiting = f"waiting for the CRD {missing}: kubectl apply --server-side -k manifests/crd"
            except MeshwrightError as error:
                self._waiting = f"waiting for the API server: {error}"
            log.warning(self._waiting)
            await asyncio.sleep(LOOK_AGAIN)

    async def _missing_kind(self) -> str | None:
        for kind in (MESH_INSTALL, MESH_ACTION):
            name = f"{kind.plural}.{kind.group}"
            if not await self._client.get(CRD, name, metadata_only=True):
                return name
        return None

    def _healthy(self) -> Verdict:
        return first(
            self._leader.watchdog,
            Overdue(self._pulse.late, LATE, "the event loop is late by {}"),
            Overdue(self._leader.queue.oldest, WAITED, "a mesh has been waiting for a worker for {}"),
            Overdue(self._election.overdue, RENEW_DEADLINE, "the lease has not been renewed for {}"),
            Overdue(self._leader.mirror.silence, SILENT, "the watches have been silent for {}"),
        )

    def _ready(self) -> Verdict:
        """One that waits for the lease is ready when it could take over."""
        return first(lambda: self._waiting, lambda: self._election.trouble, self._unsynced)

    def _unsynced(self) -> str | None:
        """What a leader does not know yet, or no more."""
        return next(iter(self._leader.mirror.troubles()), None) if self._election.leads() else None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
