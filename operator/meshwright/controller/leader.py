"""What the replica that leads does: informers that wake, a queue of meshes, and workers that reconcile them."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import structlog

from meshwright.api.errors import LeaseLost, MeshwrightError
from meshwright.cluster.client import Client
from meshwright.cluster.mirror import Mirror, mirror_of
from meshwright.controller.health import Watchdog
from meshwright.controller.members import Member, Members
from meshwright.controller.metrics import Metrics
from meshwright.controller.queue import Queue
from meshwright.controller.reconcile import Again, Reconciler
from meshwright.controller.reporter import Reporter

log = structlog.get_logger()

WORKERS = 4
STUCK = 300.0  # seconds in one reconcile; each of its requests ends after 30
BURST = 0.05  # seconds for which changes of a mesh's objects are gathered
COUNTING = 1.0  # the same for its proxies, of which a rollout changes thousands


class Leader:
    """On one API server, through `client`. `instance` names this process in Events, `now` is the wall clock."""

    def __init__(
        self, client: Client, metrics: Metrics, *, namespace: str, instance: str, now: Callable[[], dt.datetime]
    ) -> None:
        self._metrics = metrics
        self.queue = Queue()
        metrics.queue_depth.set_function(lambda: len(self.queue))
        self.watchdog = Watchdog(limit=STUCK)
        self.first_done = asyncio.Event()  # set after the first reconcile
        self._generations: dict[str, int] = {}  # the newest of each mesh that a watch saw
        self.mirror = self._reflect(client)
        self._members = Members(
            Member(client, self.mirror),
            namespace=namespace,
            connect=lambda access: Client.for_member(access, observer=metrics.observe_request),
            reflect=self._reflect,
            changed=self._all_changed,
            now=now,
        )
        self._reconciler = Reconciler(
            self._members,
            Reporter(client, metrics, instance=instance, now=now),
            now=now,
            generation_of=lambda mesh: self._generations.get(mesh, 0),
        )

    def remembered(self) -> list[dict[str, Any]]:
        return self._reconciler.remembered()

    def _reflect(self, client: Client) -> Mirror:
        return mirror_of(
            client, wake=self._child_changed, revision_changed=self._proxies_changed, shared_changed=self._all_changed
        )

    def mesh_changed(self, name: str, generation: int) -> None:
        """A MeshInstall came, changed or went; a reconcile of an older generation stops at its next write."""
        self._generations[name] = generation
        self.queue.add(name)

    def _child_changed(self, mesh: str) -> None:
        self.queue.add_after(mesh, BURST)

    def _proxies_changed(self, revision: str) -> None:
        if mesh := self._reconciler.meshes.get(revision):
            self.queue.add_after(mesh, COUNTING)

    def _all_changed(self) -> None:
        for mesh in self._generations:
            self.queue.add_after(mesh, BURST)

    async def run(self) -> None:
        """Until it is cancelled. Raises LeaseLost, in a group, when nothing may be written any more."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.mirror.run(), name="informers")
                for number in range(WORKERS):
                    tasks.create_task(self._worker(), name=f"worker {number}")
        finally:
            await self._members.close()

    async def _worker(self) -> None:
        while True:
            name = await self.queue.get()
            try:
                with (
                    structlog.contextvars.bound_contextvars(mesh=name),
                    self.watchdog.watching(name),
                    self._metrics.reconcile_seconds.time(),
                ):
                    await self._once(name)
            finally:
                self.queue.done(name)
                self.first_done.set()

    async def _once(self, name: str) -> None:
        try:
            again = await self._reconciler.reconcile(name)
        except LeaseLost:
            raise
        except MeshwrightError as error:
            log.warning("reconcile failed", error=str(error))
            again = Again(0.0, failed=True)
        except Exception:  # whatever it is, the next mesh and the next try must go on
            log.exception("reconcile failed")
            again = Again(0.0, failed=True)
        self._plan(name, again)

    def _plan(self, name: str, again: Again | None) -> None:
        """When the mesh is looked at next if nothing happens before."""
        failed = again is not None and (again.failed or again.error)
        self._metrics.reconciles.labels("error" if failed else "ok").inc()
        if again is not None and again.failed:
            delay = self.queue.add_failed(name, at_least=again.after)
            log.warning("trying again", seconds=round(delay, 1))
            return
        self.queue.forget_failures(name)
        if again is None:
            self._generations.pop(name, None)
        else:
            self.queue.add_after(name, again.after)
