"""Asking running istiods and proxies what is true, through the API server."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

from meshwright.api.errors import MeshwrightError
from meshwright.cluster.together import together
from meshwright.mesh import exposition
from meshwright.mesh.census import Answer, Earliest, Pod, Rolls

ISTIOD_PORT, PROXY_PORT = 15014, 15020
SYNCED = "synced"
# The agent answers for itself, for Envoy and for the application. Envoy's thousands of lines are filtered out there.
PROXY_PAGE = "/stats/prometheus?filter=^$"

T = TypeVar("T")


class Ports(Protocol):
    """The two ways to a pod's ports; `Client` has them."""

    async def proxied(
        self, namespace: str, pod: str, port: int, path: str, *, only: Callable[[bytes], bool] | None = None
    ) -> bytes: ...

    async def forwarded(self, namespace: str, pod: str, port: int, path: str) -> bytes: ...


async def ask(
    ports: Ports, namespace: str, pods: Iterable[str], *, now: dt.datetime, joined: bool = False
) -> tuple[Answer, ...]:
    """What each istiod says, in order; one that does not answer in time has a trouble instead. Never raises.

    `joined`: also of the other clusters that it reads. Its metrics say so, too, but after a new remote Secret they keep
    the state of the former one (`istiod_remote_cluster_sync_status`, seen in 1.31).
    """
    return tuple(await together(*(_ask(ports, namespace, pod, now=now, joined=joined) for pod in pods)))


async def _ask(ports: Ports, namespace: str, pod: str, *, now: dt.datetime, joined: bool) -> Answer:
    (metrics, silent), (config, closed), (clusters, away) = await together(
        _attempt(ports.proxied(namespace, pod, ISTIOD_PORT, "/metrics")),
        _attempt(ports.forwarded(namespace, pod, ISTIOD_PORT, "/debug/mesh")),
        _attempt(ports.forwarded(namespace, pod, ISTIOD_PORT, "/debug/clusterz") if joined else _nothing()),
    )
    page = (metrics or b"").decode(errors="replace")
    mesh_config = _object(config or b"")
    if not closed and mesh_config is None:
        closed = f"pod {namespace}/{pod} does not tell its mesh config: what it answers is no JSON object"
    return Answer(
        pod=pod,
        version=exposition.istiod_version(page),
        mesh_config=mesh_config,
        proxies_by_version=exposition.proxies_by_version(page),
        readout=exposition.readout(page, at=now),
        root_expires=exposition.root_expires(page),
        remotes=_remotes(clusters or b""),
        trouble=silent or closed or away,
    )


class Census:
    """The workload certificates of one mesh's fleet, read a few at a time. It remembers what it read, and the turns."""

    def __init__(self) -> None:
        self._rolls = Rolls()

    async def look(self, ports: Ports, pods: Iterable[tuple[str, str]], *, now: dt.datetime) -> Earliest:
        """Asks those whose turn it is of `pods`, which are all (namespace, name) with a proxy. Never raises."""
        rolls = self._rolls.of(Pod(*pod) for pod in pods)
        turn = rolls.turn()
        read = await together(*(_attempt(_expiry(ports, pod, now)) for pod in turn))
        answers = {pod: expires for pod, (expires, _) in zip(turn, read, strict=True)}
        self._rolls = rolls.asked(answers, now=now)
        return self._rolls.earliest(trouble=next((trouble for _, trouble in read if trouble), ""))


async def _expiry(ports: Ports, pod: Pod, now: dt.datetime) -> dt.datetime | None:
    wanted = partial(exposition.concerns, exposition.CERTIFICATE)
    page = await ports.proxied(pod.namespace, pod.name, PROXY_PORT, PROXY_PAGE, only=wanted)
    return exposition.certificate_expires(page.decode(errors="replace"), now=now)


async def _attempt(request: Awaitable[T]) -> tuple[T | None, str]:
    """What is answered, or in plain words why nothing is."""
    try:
        return await request, ""
    except MeshwrightError as error:
        return None, str(error)


async def _nothing() -> bytes:
    return b""


def _remotes(text: bytes) -> dict[str, bool]:
    """The other clusters that an istiod reads, and whether it has read all of them."""
    try:
        found = json.loads(text or b"[]")
    except ValueError:
        return {}
    rows = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    return {str(each.get("id", "")): each.get("syncStatus") == SYNCED for each in rows}


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
