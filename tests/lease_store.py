"""An API server with Leases alone, strict about resourceVersions, and a wire to it on which requests fare badly."""

# ruff: noqa: ARG002  # what stands in for a client has its signature
from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshwright.api.errors import Conflict, MeshwrightError, NotFound, Unreachable
from meshwright.cluster.kinds import LEASE, Kind

Json = dict[str, Any]


class LeaseStore:
    def __init__(self) -> None:
        self.lease: Json | None = None
        self._version = 0

    def get(self) -> Json | None:
        return copy.deepcopy(self.lease)

    def create(self, manifest: Json) -> Json:
        if self.lease is not None:
            raise Conflict("create Lease: it exists already")
        return self._store(manifest)

    def replace(self, manifest: Json) -> Json:
        if self.lease is None:
            raise NotFound("update Lease: it is not there")
        if manifest["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("update Lease: the object has been modified")
        return self._store(manifest)

    def edit(self, **record: Any) -> None:
        """What somebody else writes with kubectl."""
        assert self.lease
        self._store({**self.lease, "spec": self.lease["spec"] | record})

    def label(self) -> None:
        assert self.lease
        self._store({**self.lease, "metadata": self.lease["metadata"] | {"labels": {"somebody": "was-here"}}})

    @property
    def record(self) -> Json:
        assert self.lease
        record: Json = self.lease["spec"]
        return record

    def _store(self, manifest: Json) -> Json:
        self._version += 1
        self.lease = copy.deepcopy(manifest)
        self.lease["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(self.lease)


@dataclass(frozen=True)
class Fate:
    """Of one request: seconds on the way there and back, and what becomes of it.

    What is on its way arrives, also when its sender no longer waits. A sender that is `deaf` (its process stands
    still) notices nothing before the answer is there, its own time-out neither.
    """

    there: float = 0.005
    back: float = 0.005
    refused: bool = False
    answer_lost: bool = False
    deaf: bool = False


GOOD = Fate()


class LeaseWire:
    """The way of one replica to the store."""

    def __init__(self, store: LeaseStore, fate: Callable[[], Fate] = lambda: GOOD) -> None:
        self.fate = fate
        self.ends: Callable[[], bool] = lambda: False  # whether the process was told to end while it was deaf
        self.sent: list[str] = []
        self._store = store

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Json | None:
        assert (kind, name, namespace) == (LEASE, "meshwright", "system")
        answer: Json | None = await self._send("get", self._store.get)
        return answer

    async def create(self, kind: Kind, manifest: Json, *, field_manager: str) -> Json:
        manifest = copy.deepcopy(manifest)
        answer: Json = await self._send("create", lambda: self._store.create(manifest))
        return answer

    async def replace(self, kind: Kind, manifest: Json, *, field_manager: str) -> Json:
        manifest = copy.deepcopy(manifest)
        answer: Json = await self._send("replace", lambda: self._store.replace(manifest))
        return answer

    async def _send(self, verb: str, act: Callable[[], Any]) -> Any:
        self.sent.append(verb)
        fate = self.fate()
        journey = asyncio.ensure_future(_travel(fate, act))
        while not journey.done():
            try:
                await asyncio.shield(journey)
            except asyncio.CancelledError:
                if not fate.deaf:
                    raise
        if self.ends():
            raise asyncio.CancelledError
        answer = journey.result()
        if isinstance(answer, MeshwrightError):
            raise answer
        return answer


async def _travel(fate: Fate, act: Callable[[], Any]) -> Any:
    await asyncio.sleep(fate.there)
    if fate.refused:
        return Unreachable("the API server does not answer")
    try:
        answer = act()
    except MeshwrightError as error:
        answer = error
    await asyncio.sleep(fate.back)
    return Unreachable("the API server closed the connection") if fate.answer_lost else answer
