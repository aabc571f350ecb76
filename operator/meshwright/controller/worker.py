"""Workers take keys from the queue and reconcile them."""

from __future__ import annotations

import asyncio
import datetime as dt
import time

import structlog

from meshwright.cluster.client import Client
from meshwright.controller.metrics import Metrics
from meshwright.controller.queue import Queue
from meshwright.controller.reconcile import Again, Reconciler
from meshwright.controller.server import Server, Watchdog

log = structlog.get_logger()

WORKERS = 4
STUCK = 300.0  # seconds after which a reconcile counts as stuck; each of its requests ends after 30


class Operator:
    """The queue, its workers, and what they share. Made before the event loop runs."""

    def __init__(self, *, namespace: str, instance: str, port: int, version: str, started: float) -> None:
        self._namespace, self._instance, self._port, self._started = namespace, instance, port, started
        self.queue = Queue()
        self.metrics = Metrics(version=version)
        self._watchdog = Watchdog(limit=STUCK)
        self._first = True

    async def work(self) -> None:
        client = await Client.connect(observer=self.metrics.observe_request)
        reconciler = Reconciler(
            client, self.metrics, namespace=self._namespace, instance=self._instance, now=lambda: dt.datetime.now(dt.UTC)
        )
        try:
            async with Server(self.metrics, port=self._port, healthy=self._watchdog), asyncio.TaskGroup() as workers:
                for _ in range(WORKERS):
                    workers.create_task(self._worker(reconciler))
        finally:
            await client.close()

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
                self.metrics.queue_depth.set(len(self.queue))
                self.metrics.reconcile_seconds.observe(time.monotonic() - started)
                if self._first:
                    self._first = False
                    self.metrics.first_reconcile.set(time.time() - self._started)

    async def _once(self, reconciler: Reconciler, name: str) -> None:
        try:
            again = await reconciler.reconcile(name)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next mesh and the next try must go on
            log.error("reconcile failed", error=str(error), exc_info=_is_unexpected(error))
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
            self.metrics.reconciles.labels("ok").inc()


def _is_unexpected(error: Exception) -> bool:
    from meshwright.api.errors import MeshwrightError

    return not isinstance(error, MeshwrightError)
