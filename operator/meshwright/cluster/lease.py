"""Leader election by a Lease, with the record and the times of client-go: one replica works, the others wait.

The clocks of two machines are never compared. Who leads counts from before it sent its last renewal, and stops after
10 s without another; who waits counts from when it saw the record change last, and takes over after 15 s. Each counts
by its own clock, and the renewal lies between the two beginnings: the one has stopped before the other starts,
however long requests and pauses take.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from meshwright.api.errors import Conflict, LeaseLost, MeshwrightError, NotFound
from meshwright.cluster.client import Manifest
from meshwright.cluster.kinds import LEASE, Kind

DURATION = 15.0  # seconds without a change after which others may take it; with the next two, client-go's defaults
RENEW_DEADLINE = 10.0  # seconds without a renewal after which the leader stops
RETRY = 2.0  # seconds between renewals, and between looks of those that wait
TRY = 3.0  # seconds for a look and a write: three of them fit before the deadline
GIVE_BACK = 2.0  # seconds for the same at the end, when nothing is tried again
TICK = 0.001  # seconds; a sleep that long always brings a clock forward
FIELD_MANAGER = "meshwright-lease"


class Leases(Protocol):
    """What an election asks of a client. It must be one that writes also while this replica does not lead."""

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Manifest | None: ...
    async def create(self, kind: Kind, manifest: Manifest, *, field_manager: str) -> Manifest: ...
    async def replace(self, kind: Kind, manifest: Manifest, *, field_manager: str) -> Manifest: ...


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Election:
    """The part of one replica. `identity` is its alone; `now` dates the record for people, and decides nothing.

    `tell` is given a sentence when the leader turns, and when something else is in the way.
    """

    def __init__(
        self,
        client: Leases,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], dt.datetime] = utc_now,
        tell: Callable[[str], None] = lambda _: None,
        jitter: Callable[[float], float] = lambda delay: delay * random.uniform(0.8, 1.0),  # noqa: S311
        duration: float = DURATION,
        renew_deadline: float = RENEW_DEADLINE,
        retry: float = RETRY,
    ) -> None:
        self.identity = identity
        self.trouble: str | None = None  # why the last try failed
        self._client, self._namespace, self._name = client, namespace, name
        self._clock, self._now, self._tell, self._jitter = clock, now, tell, jitter
        self._duration, self._deadline, self._retry = duration, renew_deadline, retry
        self._lease: Manifest | None = None  # as it was read or written last
        self._record: Manifest = {}  # its spec, also after somebody deleted it
        self._free_at = float("-inf")  # when it may be taken, if the record does not change until then
        self._renewed: float | None = None  # before the last successful write of a leader was sent
        self._may_hold = False  # a write that names us may have arrived

    def leads(self) -> bool:
        """Whether this replica may write, now."""
        return self._left() > 0

    def require(self) -> None:
        """Raises LeaseLost when this replica may not write."""
        if not self.leads():
            trouble = f" ({self.trouble})" if self.trouble else ""
            raise LeaseLost(f"the lease {self} is lost: not renewed for {self._deadline:.0f} s{trouble}")

    def overdue(self) -> float | None:
        """Seconds since the last renewal; None for a replica that does not lead."""
        return None if self._renewed is None else self._clock() - self._renewed

    async def acquire(self) -> None:
        """Waits until this replica leads, whatever fails meanwhile."""
        while True:
            await self._try(self._take, TRY)
            if self.leads():
                break
            pause, until_free = self._jitter(self._retry), self._free_at - self._clock()
            await asyncio.sleep(min(pause, until_free + TICK) if until_free > 0 else pause)
        self._tell("this replica leads")

    async def hold(self) -> None:
        """Renews until it is cancelled. Raises LeaseLost when it cannot, or somebody else has the lease."""
        try:
            while True:
                self.require()
                begun = self._clock()
                await self._try(self._renew, min(TRY, self._left()))
                await asyncio.sleep(min(begun + self._retry - self._clock(), self._left()) + TICK)
        except LeaseLost:
            self._renewed, self._may_hold = None, False
            raise

    async def release(self) -> None:
        """Gives the lease back, so that another replica takes it at its next look. Best effort, within seconds."""
        self._renewed = None  # from here on nothing may be written any more: the other does not wait
        if self._may_hold:
            await self._try(self._give_back, GIVE_BACK)

    async def _try(self, step: Callable[[], Awaitable[None]], seconds: float) -> None:
        """What fails is told when it is new; whether to try again is the caller's business. Raises LeaseLost alone."""
        try:
            async with asyncio.timeout(seconds):
                await step()
        except LeaseLost:
            raise
        except (MeshwrightError, TimeoutError) as error:
            before, self.trouble = self.trouble, str(error) or f"no answer about the lease {self} in time"
            if self.trouble != before:
                self._tell(self.trouble)
        else:
            self.trouble = None

    async def _take(self) -> None:
        await self._look()
        if self._clock() >= self._free_at:
            with contextlib.suppress(Conflict):  # somebody was faster
                await self._write()

    async def _give_back(self) -> None:
        while self._may_hold:
            await self._look()
            if self._holder == self.identity:
                try:
                    # One second: the API server takes no zero, and client-go writes the same.
                    await self._put({**self._record, "holderIdentity": "", "leaseDurationSeconds": 1})
                except Conflict:  # with a renewal of ours that was still on its way
                    continue
            self._may_hold = False

    async def _renew(self) -> None:
        try:
            await self._write()
        except (Conflict, NotFound):  # perhaps only its labels changed, or our own renewal came after its time-out
            await self._look()
            if self._lease is not None and self._holder != self.identity:
                raise LeaseLost(f"the lease {self} was taken by {self._holder or 'nobody'}") from None
            await self._write()

    async def _look(self) -> None:
        self._lease = await self._client.get(LEASE, self._name, self._namespace)
        # Without a Lease, the record that we saw is still in force: its holder may not know that it is gone.
        if self._lease is not None:
            self._observe(self._lease.get("spec") or {})

    def _observe(self, record: Manifest) -> None:
        if record == self._record:
            return
        before, self._record = self._holder, record
        if self._holder in ("", self.identity):
            self._free_at = float("-inf")
            return
        self._free_at = self._clock() + (record.get("leaseDurationSeconds") or self._duration)
        if self._holder != before:
            self._tell(f"{self._holder} leads")

    async def _write(self) -> None:
        """Raises Conflict when somebody was faster."""
        moment = self._now().astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        record = self._record | {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._duration),
            "renewTime": moment,
        }
        if self._holder != self.identity:
            record |= {"acquireTime": moment, "leaseTransitions": self._record.get("leaseTransitions", -1) + 1}
        self._may_hold = True
        begun = self._clock()
        await self._put(record)
        self._renewed = begun

    async def _put(self, record: Manifest) -> None:
        if self._lease is None:
            head = {"apiVersion": LEASE.api_version, "kind": LEASE.kind}
            metadata = {"name": self._name, "namespace": self._namespace}
            self._lease = await self._client.create(
                LEASE, {**head, "metadata": metadata, "spec": record}, field_manager=FIELD_MANAGER
            )
        else:
            self._lease = await self._client.replace(
                LEASE, {**self._lease, "spec": record}, field_manager=FIELD_MANAGER
            )
        self._observe(self._lease["spec"])

    def _left(self) -> float:
        """Seconds until this replica must have stopped writing."""
        return 0.0 if self._renewed is None else max(self._renewed + self._deadline - self._clock(), 0.0)

    @property
    def _holder(self) -> str:
        return str(self._record.get("holderIdentity") or "")

    def __str__(self) -> str:
        return f"{self._namespace}/{self._name}"
