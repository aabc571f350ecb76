"""kopf as event source and chassis: it watches MeshInstalls, reconnects and logs in. Nothing else.

Every event says only that a MeshInstall may be wrong. There are no create, update or field handlers, and nothing
of kopf's is stored on objects.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import kopf

from meshwright.api.errors import MeshwrightError
from meshwright.api.meshinstall import GROUP
from meshwright.cluster.client import in_cluster
from meshwright.cluster.kinds import MESH_INSTALL

Wake = Callable[[str, int], None]  # the name of a MeshInstall and its generation


class NoDiffBase(kopf.DiffBaseStorage):
    """kopf would keep a copy of each spec in an annotation; we compare with the cluster instead."""

    def fetch(self, *, body: Any) -> None:
        del body

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        del body, patch, essence


def registry(wake: Wake) -> kopf.OperatorRegistry:
    """Handlers that call `wake` with the name and generation of the MeshInstall that an event is about."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure_chassis(settings)

    @kopf.on.login(registry=handlers)
    def login(**kwargs: Any) -> Any:
        if in_cluster():
            return kopf.login_with_service_account(**kwargs)
        return kopf.login_via_client(**kwargs)

    seen: dict[str, tuple[Any, ...]] = {}

    @kopf.on.event(MESH_INSTALL.group, "v1alpha1", MESH_INSTALL.plural, registry=handlers)
    async def mesh_changed(name: str, meta: kopf.Meta, type: str | None, **_: Any) -> None:  # noqa: A002
        # Our own status writes come back as events: waking for them would turn each failure into a hot loop.
        concerns = (meta.get("uid"), meta.get("generation"), meta.get("deletionTimestamp"), meta.get("finalizers"))
        if type in (None, "DELETED") or seen.get(name) != concerns:
            # One that is gone has none: the next of its name begins again at 1.
            wake(name, 0 if type == "DELETED" else meta.get("generation", 0))
        if type == "DELETED":
            seen.pop(name, None)
        else:
            seen[name] = concerns

    return handlers


def configure_chassis(settings: kopf.OperatorSettings) -> None:
    settings.peering.standalone = True  # peering is no leader election
    settings.posting.enabled = False  # Events are made where conditions turn
    settings.persistence.finalizer = f"{GROUP}/unused"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.scanning.disabled = True
    # A watch behind a load balancer can die in silence: end and renew each one ourselves.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 75  # bookmarks come each minute
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = (1, 2, 4, 8)
    settings.queueing.idle_timeout = 1.0
    settings.queueing.error_delays = (1, 2, 4, 8, 16, 32, 60)
    settings.process.ultimate_exiting_timeout = 2.5  # seconds; with those of a release, less than 5


Job = Callable[[], Coroutine[Any, Any, None]]


def run(
    wake: Wake, *, during: contextlib.AbstractAsyncContextManager[None], prepare: Job, work: Job, instance: str
) -> None:
    """Prepare, then watch and work until a signal comes, or either of the two ends by itself (then with its error).

    `during` is entered before all and left after all. A signal ends the work first, then the watches.
    """
    logging.getLogger("kopf").setLevel(logging.WARNING)

    async def whole_life() -> None:
        end_on_signals(end := asyncio.current_task().cancel)  # type: ignore[union-attr]
        async with during:
            await prepare()
            async with asyncio.TaskGroup() as both:
                both.create_task(watch(wake, instance=instance, end=end), name="watches")
                await work()

    try:
        asyncio.run(whole_life())
    except asyncio.CancelledError:
        return
    except BaseExceptionGroup as errors:
        raise leading(errors) from None


async def watch(wake: Wake, *, instance: str, end: Callable[[], object]) -> None:
    """Until it is cancelled, or kopf gives up, with its error."""
    others = asyncio.all_tasks()
    # With an identity of ours: kopf's own needs a user name, which a container's user need not have.
    tasks = await kopf.spawn_tasks(registry=registry(wake), clusterwide=True, identity=instance)  # type: ignore[arg-type]
    end_on_signals(end)  # kopf has just taken them for itself, and would end the watches alone
    await kopf.run_tasks(tasks, ignored=others)
    raise MeshwrightError("the watches have ended")


def end_on_signals(end: Callable[[], object]) -> None:
    """The first process of a container would not even notice SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)


def leading(errors: BaseException) -> BaseException:
    """The error that ended a group of tasks; those beside it came at the same moment."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors
