"""What running istiods and proxies say of themselves, and whose turn it is to be asked.

Every istiod is asked at each look. Proxies may be ten thousand, so they take turns: a few at each look, all of them in
about an hour. Their certificates live for a day and are renewed at half of it, so an hour is soon enough.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from meshwright.mesh.signals import Readout

LOOK_SECONDS = 15  # the time between two looks at a mesh that is in sync
ROUND = dt.timedelta(hours=1)
LOOKS_OF_A_ROUND = int(ROUND.total_seconds()) // LOOK_SECONDS
LEAST = 20  # so that a mesh of an ordinary size is known within minutes


class Pod(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one istiod says; what it does not say stays empty, and `trouble` says why."""

    pod: str
    version: str = ""
    mesh_config: Mapping[str, Any] | None = None  # the one that it runs, defaults filled in
    proxies_by_version: Mapping[str, int] = field(default_factory=dict)
    root_expires: dt.datetime | None = None
    readout: Readout | None = None
    remotes: Mapping[str, bool] = field(default_factory=dict)  # the other clusters, and whether it has read them
    trouble: str = ""


@dataclass(frozen=True, kw_only=True)
class Earliest:
    """The workload certificate that ends first, among those of the `read` of `of` pods that are known."""

    pod: str = ""  # namespace/name
    expires: dt.datetime | None = None
    read: int = 0
    of: int = 0
    trouble: str = ""  # of the first pod that did not answer at this look


class Reading(NamedTuple):
    expires: dt.datetime
    at: dt.datetime


@dataclass(frozen=True, kw_only=True)
class Rolls:
    """The proxies in the order of their turns, and what was read of them."""

    line: tuple[Pod, ...] = ()
    readings: Mapping[Pod, Reading] = field(default_factory=dict)

    def of(self, pods: Iterable[Pod]) -> Self:
        """Those that are gone are forgotten; those that are new queue up at the end, so that nobody waits for ever."""
        present = set(pods)
        stay = tuple(pod for pod in self.line if pod in present)
        new = sorted(present.difference(stay))
        readings = {pod: reading for pod, reading in self.readings.items() if pod in present}
        return type(self)(line=(*stay, *new), readings=readings)

    def turn(self) -> tuple[Pod, ...]:
        """Those who are asked next."""
        return self.line[: batch(len(self.line))]

    def asked(self, answers: Mapping[Pod, dt.datetime | None], *, now: dt.datetime) -> Self:
        """Who was asked goes to the end. Without an answer, an older reading counts until it is an hour old."""
        readings = {
            pod: reading for pod, reading in self.readings.items() if pod not in answers or now - reading.at <= ROUND
        } | {pod: Reading(expires, now) for pod, expires in answers.items() if expires}
        waiting = tuple(pod for pod in self.line if pod not in answers)
        return type(self)(line=(*waiting, *(pod for pod in self.line if pod in answers)), readings=readings)

    def earliest(self, *, trouble: str = "") -> Earliest:
        if not self.readings:
            return Earliest(of=len(self.line), trouble=trouble)
        pod, reading = min(self.readings.items(), key=lambda each: (each[1].expires, each[0]))
        return Earliest(
            pod=str(pod), expires=reading.expires, read=len(self.readings), of=len(self.line), trouble=trouble
        )


def batch(fleet: int) -> int:
    """How many are asked at one look, so that all are asked within a round."""
    return max(LEAST, -(-fleet // LOOKS_OF_A_ROUND))
