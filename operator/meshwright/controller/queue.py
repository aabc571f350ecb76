"""A work queue of keys, with the semantics that Kubernetes controllers share.

A key that is added while it waits is not added twice; one that is added while it is worked on comes once more
afterwards; no key is ever worked on twice at the same time. Failures of a key wait longer each time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable

FIRST_BACKOFF = 0.5  # seconds
MAX_BACKOFF = 60.0


class Queue:
    """For one event loop. `jitter` takes a delay and gives the one that is waited for."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float], float] = lambda delay: delay * random.uniform(0.8, 1.2),  # noqa: S311
    ) -> None:
        self._clock, self._jitter = clock, jitter
        self._ready: OrderedDict[str, float] = OrderedDict()  # and since when
        self._active: set[str] = set()
        self._again: set[str] = set()  # added while active
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._failures: dict[str, int] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready) + len(self._again)

    def oldest(self) -> float:
        """Seconds that the next key waits for a worker already; 0 when none does."""
        return self._clock() - next(iter(self._ready.values())) if self._ready else 0.0

    def add(self, key: str) -> None:
        """Work on `key` as soon as possible; it overtakes a later date that it has."""
        self._cancel(key)
        if key in self._active:
            self._again.add(key)
        elif key not in self._ready:
            self._ready[key] = self._clock()
            self._wake.set()

    def add_after(self, key: str, delay: float) -> None:
        """Work on `key` in `delay` seconds (jittered), unless it has an earlier date already."""
        loop = asyncio.get_running_loop()
        when = loop.time() + self._jitter(delay)
        timer = self._timers.get(key)
        if timer and timer.when() <= when:
            return
        self._cancel(key)
        self._timers[key] = loop.call_at(when, self._due, key)

    def add_failed(self, key: str, *, at_least: float = 0.0) -> float:
        """Work on `key` after its backoff, which doubles with each failure in a row. Returns the seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay: float = max(at_least, min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** min(failures, 16)))
        self.add_after(key, delay)
        return delay

    def forget_failures(self, key: str) -> None:
        self._failures.pop(key, None)

    async def get(self) -> str:
        """The next key, which is then active until `done`."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key, _ = self._ready.popitem(last=False)
        self._active.add(key)
        return key

    def done(self, key: str) -> None:
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _due(self, key: str) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel(self, key: str) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
