"""What istiod's own counters say of the last minute: how slow, how late, how full, how busy.

Counters only grow, and begin anew with the process. So what counts is how much they grew between two looks at the same
process, and a replica of which there is only one look says nothing yet. Nothing is taken for well because it is not
known: a replica that is silent, was restarted, or whose counters fell makes its signals missing, with the reason.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

LOOKBACK = dt.timedelta(seconds=60)  # of which the growth is taken
SHORTEST = dt.timedelta(seconds=8)  # between two looks, for a rate
STALE = dt.timedelta(seconds=45)  # three looks that brought nothing
FEW = 20  # observations below which a quantile says nothing
QUANTILE = 0.99
LATE = 5.0  # seconds from a change to a proxy that has it: a bound of istiod's own buckets

GENERATION, CONVERGENCE, MEMORY, CPU, PODS = "generation", "convergence", "memory", "cpu", "pods"


@dataclass(frozen=True)
class Histogram:
    """Observations by upper bound, cumulative, as Prometheus has them."""

    buckets: Mapping[float, float] = field(default_factory=dict)

    @property
    def count(self) -> float:
        return self.buckets.get(math.inf, 0.0)

    def since(self, before: Self) -> Self | None:
        """What came after `before`; None where that is more, which is another process."""
        grown = {bound: count - before.buckets.get(bound, 0.0) for bound, count in self.buckets.items()}
        if any(each < 0 for each in grown.values()) or before.count > self.count:
            return None
        return type(self)(grown)

    def plus(self, other: Self) -> Self:
        bounds = sorted({*self.buckets, *other.buckets})
        return type(self)({each: self._up_to(each) + other._up_to(each) for each in bounds})

    def _up_to(self, bound: float) -> float:
        return self.buckets.get(bound, max((n for each, n in self.buckets.items() if each <= bound), default=0.0))

    def quantile(self, share: float) -> float:
        """By linear interpolation in the bucket; above the last finite bound, that bound."""
        rank, below, start = share * self.count, 0.0, 0.0
        for bound, count in sorted(self.buckets.items()):
            if count >= rank:
                if math.isinf(bound) or count == below:
                    return start
                return start + (bound - start) * (rank - below) / (count - below)
            below, start = count, bound
        return start

    def share_above(self, bound: float) -> float:
        return 1 - self._up_to(bound) / self.count if self.count else 0.0


@dataclass(frozen=True)
class Readout:
    """One look at one replica."""

    at: dt.datetime
    started: float  # when the process did, in seconds since 1970
    cpu_seconds: float
    memory: float  # bytes that are resident
    proxies: int
    push: Histogram = Histogram()  # seconds to generate and send one kind of configuration to one proxy
    context: Histogram = Histogram()  # seconds to compute what all proxies share
    convergence: Histogram = Histogram()  # seconds from a change to a proxy that has it
    config_bytes: float = 0.0  # mean size of one proxy's configuration, over all kinds


@dataclass(frozen=True)
class Growth:
    """What a replica did between two looks."""

    seconds: float
    cpu_seconds: float
    push: Histogram
    context: Histogram
    convergence: Histogram

    @classmethod
    def between(cls, before: Readout, after: Readout) -> Self | None:
        """None when they are not of one process."""
        parts = [getattr(after, name).since(getattr(before, name)) for name in ("push", "context", "convergence")]
        cpu = after.cpu_seconds - before.cpu_seconds
        if before.started != after.started or cpu < 0 or any(each is None for each in parts):
            return None
        return cls((after.at - before.at).total_seconds(), cpu, *parts)


@dataclass(frozen=True)
class Limits:
    """Of one replica."""

    cores: float
    memory: float  # bytes


@dataclass(frozen=True)
class Reading:
    """A signal at one moment; `missing` says why there is none."""

    value: float = 0.0
    missing: str = ""


@dataclass(frozen=True)
class History:
    """The looks of the last minute at each replica, and when one was last told to have begun anew."""

    looks: Mapping[str, tuple[Readout, ...]] = field(default_factory=dict)

    def seen(self, readouts: Mapping[str, Readout]) -> Self:
        """With another look. A pod that is not among them keeps what was seen, which gets old."""
        return type(self)({pod: _kept(self.looks.get(pod, ()), readouts.get(pod)) for pod in {*self.looks, *readouts}})

    def of(self, pods: Iterable[str]) -> Self:
        """Without those that are gone."""
        present = set(pods)
        return type(self)({pod: looks for pod, looks in self.looks.items() if pod in present})

    def missing(self, pods: Sequence[str], now: dt.datetime) -> str:
        """Why there are no signals; empty where there are."""
        if not pods:
            return "no replica of istiod is ready to be asked"
        for pod in pods:
            looks = self.looks.get(pod, ())
            if not looks:
                return f"pod {pod} has not said anything yet"
            if now - looks[-1].at > STALE:
                return f"pod {pod} has said nothing since {looks[-1].at:%H:%M:%S}"
            if looks[-1].at - looks[0].at < SHORTEST:
                return f"pod {pod} has only begun to tell (it is new, was restarted, or its counters fell)"
        return ""


def _kept(looks: tuple[Readout, ...], newest: Readout | None) -> tuple[Readout, ...]:
    if newest is None or (looks and newest.at <= looks[-1].at):
        return looks
    if looks and Growth.between(looks[-1], newest) is None:
        return (newest,)  # nothing before it can be compared with it
    old = [each for each in looks if newest.at - each.at >= LOOKBACK]
    return (*old[-1:], *(each for each in looks if newest.at - each.at < LOOKBACK), newest)


def read(history: History, pods: Sequence[str], limits: Limits | None, *, now: dt.datetime) -> dict[str, Reading]:
    """The signals of istiod: `generation` in seconds, the others in percent."""
    if why := history.missing(pods, now):
        return dict.fromkeys((GENERATION, CONVERGENCE, MEMORY, CPU), Reading(missing=why))
    grown = [g for pod in pods if (g := Growth.between(history.looks[pod][0], history.looks[pod][-1]))]
    push, context, convergence = (
        _sum([getattr(each, name) for each in grown]) for name in ("push", "context", "convergence")
    )
    found = {
        GENERATION: Reading(max(_slow(push), _slow(context))),
        CONVERGENCE: Reading(100 * convergence.share_above(LATE) if convergence.count >= FEW else 0.0),
    }
    if limits is None:
        unknown = Reading(missing="istiod has no limits that it could be measured against")
        return found | {MEMORY: unknown, CPU: unknown}
    memory = max(history.looks[pod][-1].memory for pod in pods)
    cores = sum(each.cpu_seconds / each.seconds for each in grown) / len(grown)
    return found | {
        MEMORY: Reading(100 * memory / limits.memory),
        CPU: Reading(100 * cores / limits.cores),
    }


def _sum(histograms: Iterable[Histogram]) -> Histogram:
    total = Histogram()
    for each in histograms:
        total = total.plus(each)
    return total


def _slow(histogram: Histogram) -> float:
    """Where next to nothing is pushed, nothing is slow."""
    return histogram.quantile(QUANTILE) if histogram.count >= FEW else 0.0


def imbalance(history: History, pods: Sequence[str]) -> float | None:
    """The fullest replica's share of proxies against the mean; None where there is nothing to share."""
    proxies = [history.looks[pod][-1].proxies for pod in pods if history.looks.get(pod)]
    total = sum(proxies)
    return max(proxies) * len(proxies) / total if len(proxies) > 1 and total > 0 else None
