"""What the events of a watch become on a bad day. Lines in, lines out; no network, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from faults.plan import Distorted

BOOKMARK = b'{"type":"BOOKMARK"'
GONE = json.dumps(
    {
        "type": "ERROR",
        "object": {
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Expired", "code": 410,
            "message": "too old resource version: 1 (2)",
        },
    }
).encode()  # fmt: skip


class Event(NamedTuple):
    line: bytes
    wait: float = 0  # seconds, before it and all behind it


@dataclass
class Held:
    line: bytes
    later: int  # how many events must still go by


class Distortion:
    """One watch. Bookmarks pass as they are: they are no events of an object."""

    def __init__(self, fault: Distorted) -> None:
        self._fault = fault
        self._random = Random(fault.seed)  # noqa: S311
        self._count = 0
        self._held: list[Held] = []

    @property
    def gone(self) -> bool:
        """Whether ERROR 410 is due."""
        return self._fault.gone_after is not None and self._count >= self._fault.gone_after

    @property
    def silent(self) -> bool:
        return self._fault.silent_after is not None and self._count >= self._fault.silent_after

    @property
    def holds(self) -> bool:
        return bool(self._held)

    def feed(self, line: bytes) -> Iterator[Event]:
        """What the watcher sees now that `line` came."""
        if self.silent or self.gone:
            return
        if line.startswith(BOOKMARK):
            yield Event(line)
            return
        self._count += 1
        fault = self._fault
        # The same number of draws for each event: what one meets does not hang on what the others did.
        dropped, doubled, reordered, delayed = (self._random.random() for _ in range(4))
        later = self._random.randint(1, fault.window)
        copies = 0 if dropped < fault.dropped else 2 if doubled < fault.doubled else 1
        wait = fault.delay if delayed < fault.delayed else 0
        waiting = list(self._held)
        if reordered < fault.reordered:
            self._held += [Held(line, later) for _ in range(copies)]
        else:
            yield from [Event(line, wait)] * copies
        for held in waiting:
            held.later -= 1
            if held.later <= 0:
                self._held.remove(held)
                yield Event(held.line)

    def flush(self) -> list[Event]:
        """What was held back, when nothing comes any more."""
        held, self._held = self._held, []
        return [] if self.silent else [Event(each.line) for each in held]
