"""Verdicts on the operator's own health: each is asked, and says in a sentence what is wrong, or nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Verdict = Callable[[], str | None]


@dataclass(frozen=True)
class Overdue:
    """Wrong when `age` (seconds; None: nothing is waited for) is above `limit`. `says` has a place for it."""

    age: Callable[[], float | None]
    limit: float
    says: str

    def __call__(self) -> str | None:
        seconds = self.age()
        return None if seconds is None or seconds <= self.limit else self.says.format(f"{seconds:.0f} s")


def first(*verdicts: Verdict) -> Verdict:
    """The first that objects, where several do."""
    return lambda: next((wrong for verdict in verdicts if (wrong := verdict())), None)


class Pulse:
    """How late the event loop wakes those who sleep: what blocks it blocks every watch, worker and renewal."""

    def __init__(self, *, every: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every, clock
        self._due: float | None = None
        self._late = 0.0

    async def beat(self) -> None:
        """Until it is cancelled."""
        while True:
            self._due = self._clock() + self._every
            await asyncio.sleep(self._every)
            self._late = self._clock() - self._due

    def late(self) -> float:
        """Seconds: of the last beat, or of the next one if that is later already."""
        return self._late if self._due is None else max(self._late, self._clock() - self._due)


class Watchdog:
    """Knows how long the work in hand takes already."""

    def __init__(self, *, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._since: dict[str, float] = {}

    @contextmanager
    def watching(self, key: str) -> Iterator[None]:
        self._since[key] = self._clock()
        try:
            yield
        finally:
            self._since.pop(key, None)

    def __call__(self) -> str | None:
        now = self._clock()
        for key, since in self._since.items():
            if now - since > self._limit:
                return f"the reconcile of {key} has not ended for {now - since:.0f} s"
        return None
