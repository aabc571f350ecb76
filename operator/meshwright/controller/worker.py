"""Workers take keys from the queue and reconcile them."""

from __future__ import annotations

import asyncio
import datetime as dt
import time

import structlog

from meshwright.api.errors import MeshwrightError
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import CRD, MESH_INSTALL
from meshwright.controller.metrics import Metrics
from meshwright.controller.queue import Queue
from meshwright.controller.reconcile import Again, Reconciler
from meshwright.controller.server import Server, Watchdog
from meshwright.render.objects import warm_up

log = structlog.get_logger()

WORKERS = 4
LOOK_AGAIN = 5.0  # seconds between looks for what a start needs
STUCK = 300.0  # seconds after which a reconcile counts as stuck; each of its requests ends after 30


class Operator:
    """The queue, its workers, and what they share while it is entered. Made before the event loop runs."""

    def __init__(self, *, namespace: str, instance: str, port: int, version: str, started: float) -> None:
        self._namespace, self._instance, self._started = namespace, instance, started
        self.queue = Queue()
        self.metrics = Metrics(version=version)
        self._watchdog = Watchdog(limit=STUCK)
        self.metrics.queue_depth.set_function(lambda: len(self.queue))
        self._waiting: str | None = "starting"
        self._first = True
        self._server = Server(self.metrics, port=port, healthy=self._watchdog, ready=lambda: self._waiting)

    async def __aenter__(self) -> None:
        self._client = await Client.connect(observer=self.metrics.observe_request)
        await self._server.__aenter__()

    async def __aexit__(self, *_: object) -> None:
        await self._server.__aexit__()
        await self._client.close()

    async def prepare(self) -> None:
        """Loads what rendering needs; waits until the API server answers and knows our kind, or nothing can be watched.

        Raises TemplateError when the package is not whole.
        """
        await asyncio.to_thread(warm_up)
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
        """Takes keys from the queue until it is cancelled."""
        reconciler = Reconciler(
            self._client,
            self.metrics,
            namespace=self._namespace,
            instance=self._instance,
            now=lambda: dt.datetime.now(dt.UTC),
        )
        async with asyncio.TaskGroup() as workers:
            for _ in range(WORKERS):
                workers.create_task(self._worker(reconciler))

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
