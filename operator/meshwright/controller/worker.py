"""Workers take keys from the queue and reconcile them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import Callable

import structlog

from meshwright.api.errors import LeaseLost, MeshwrightError
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import CRD, MESH_INSTALL
from meshwright.cluster.lease import RENEW_DEADLINE, Election
from meshwright.controller.health import Overdue, Pulse, Verdict, Watchdog, first
from meshwright.controller.metrics import Metrics
from meshwright.controller.queue import Queue
from meshwright.controller.reconcile import Again, Reconciler
from meshwright.controller.reporter import Reporter
from meshwright.controller.server import Server
from meshwright.render.objects import warm_up

log = structlog.get_logger()

WORKERS = 4
LOOK_AGAIN = 5.0  # seconds between looks for what a start needs
LEASE_NAME = "meshwright"

# Seconds after which a restart is the better hope.
STUCK = 300.0  # in one reconcile; each of its requests ends after 30
WAITED = 300.0  # of a mesh for a worker
LATE = 10.0  # of the event loop: a leader that is late by that much has lost its lease
SILENT = 180.0  # of the watches: the API server sends a bookmark each minute


class Operator:
    """The queue, its workers, and what they share while it is entered. Made before the event loop runs.

    Of the replicas, the one that holds the Lease works; `identity` is this one's name there.
    """

    def __init__(
        self, *, namespace: str, instance: str, identity: str, port: int, version: str, started: float
    ) -> None:
        self._namespace, self._instance, self._identity, self._started = namespace, instance, identity, started
        self.queue = Queue()
        self.generations: dict[str, int] = {}  # the newest of each mesh that a watch saw
        self.metrics = Metrics(version=version)
        self._port = port
        self._watchdog = Watchdog(limit=STUCK)
        self._pulse = Pulse()
        self.silence: Callable[[], float | None] = lambda: None  # seconds for which the watches have said nothing
        self.unsynced: Verdict = lambda: None  # what a leader does not know yet
        self.metrics.queue_depth.set_function(lambda: len(self.queue))
        self._waiting: str | None = "starting"
        self._first = True

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
            stack.callback(asyncio.create_task(self._pulse.beat(), name="pulse").cancel)
            await stack.enter_async_context(
                Server(self.metrics, port=self._port, healthy=self._healthy(), ready=self._ready())
            )
            self._exit = stack.pop_all()

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    def _healthy(self) -> Verdict:
        return first(
            self._watchdog,
            Overdue(self._pulse.late, LATE, "the event loop is late by {}"),
            Overdue(self.queue.oldest, WAITED, "a mesh has been waiting for a worker for {}"),
            Overdue(self._election.overdue, RENEW_DEADLINE, "the lease has not been renewed for {}"),
            Overdue(self.silence, SILENT, "the watches have been silent for {}"),
        )

    def _ready(self) -> Verdict:
        """One that waits for the lease is ready when it could take over."""
        return first(lambda: self._waiting, lambda: self._election.trouble, self.unsynced)

    async def prepare(self) -> None:
        """Loads what rendering needs, waits for what the cluster must have, and then until this replica leads.

        Raises TemplateError when the package is not whole.
        """
        await asyncio.to_thread(warm_up)
        await self._until_served()
        await self._election.acquire()

    async def _until_served(self) -> None:
        """Until the API server answers and knows our kind: nothing can be watched before."""
        name = f"{MESH_INSTALL.plural}.{MESH_INSTALL.group}"
        while True:
            try:
                if await self._client.get(CRD, name, metadata_only=True):
                    self._waiting = None
                    return
                self._waiting = f"waiting for the CRD {name}: kubectl apply --server-side -k manifests/crd"
            except MeshwrightError as error:
                self._waiting = f"waiting for the API server: {error}"
            log.warning(self._waiting)
            await asyncio.sleep(LOOK_AGAIN)

    async def work(self) -> None:
        """Takes keys from the queue until it is cancelled. Raises LeaseLost, in a group, when another may do so."""
        reporter = Reporter(self._client, self.metrics, instance=self._instance, now=_now)
        reconciler = Reconciler(
            self._client,
            self._client,
            reporter,
            namespace=self._namespace,
            now=_now,
            generation_of=lambda mesh: self.generations.get(mesh, 0),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._election.hold(), name="lease")
                for number in range(WORKERS):
                    tasks.create_task(self._worker(reconciler), name=f"worker {number}")
        finally:
            await self._election.release()  # now that nobody writes any more

    async def _worker(self, reconciler: Reconciler) -> None:
        while True:
            name = await self.queue.get()
            self._watchdog.begin(name)
            started = time.monotonic()
            try:
                with structlog.contextvars.bound_contextvars(mesh=name):
                    await self._once(reconciler, name)
            finally:
                self._watchdog.end(name)
                self.queue.done(name)
                self.metrics.reconcile_seconds.observe(time.monotonic() - started)
                if self._first:
                    self._first = False
                    self.metrics.first_reconcile.set(time.time() - self._started)

    async def _once(self, reconciler: Reconciler, name: str) -> None:
        try:
            again = await reconciler.reconcile(name)
        except LeaseLost:
            raise
        except MeshwrightError as error:
            log.warning("reconcile failed", error=str(error))
            again = Again(0.0, failed=True)
        except Exception:  # whatever it is, the next mesh and the next try must go on
            log.exception("reconcile failed")
            again = Again(0.0, failed=True)
        if again is None:
            self.queue.forget_failures(name)
            self.metrics.reconciles.labels("ok").inc()
        elif again.failed:
            delay = self.queue.add_failed(name, at_least=again.after)
            self.metrics.reconciles.labels("error").inc()
            log.warning("trying again", seconds=round(delay, 1))
        else:
            self.queue.forget_failures(name)
            self.queue.add_after(name, again.after)
            self.metrics.reconciles.labels("error" if again.error else "ok").inc()


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
