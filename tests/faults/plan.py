"""What goes wrong with which call.

A plan is a pure function of the call, without memory and without a clock: a call's identity is its life, its path and
how many calls like it came before, not its place among those of other tasks. So the same seed, and the log of a run,
give the same faults to the same calls, whatever order concurrent tasks take.

    fault
    ├─ Crash       the operator's process ends at this write, with or without it committed
    ├─ Answer      the API server refuses; nothing reaches the store
    ├─ Lost        the connection breaks, before or after the call took effect
    ├─ Stale       a read is answered as some versions ago
    └─ Distorted   a watch loses, doubles, swaps or delays events, ends with 410, or falls silent
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any

from faults.call import Call, Identity


@dataclass(frozen=True)
class Crash:
    committed: bool  # whether the write takes effect; its answer never arrives


STATUSES = (409, 410, 422, 429, 500, 503)


@dataclass(frozen=True)
class Answer:
    status: int  # one of STATUSES
    retry_after: int | None = None  # seconds

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"the proxy has no words for {self.status}")


@dataclass(frozen=True)
class Lost:
    committed: bool


@dataclass(frozen=True)
class Stale:
    versions: int  # how far back, as far as that was seen


@dataclass(frozen=True, kw_only=True)
class Distorted:
    """Rates are between 0 and 1, of the events; the n-th event of the watch always meets the same."""

    seed: int = 0
    dropped: float = 0
    doubled: float = 0
    reordered: float = 0  # held back until up to `window` later ones went by, or for a moment when none come
    window: int = 3
    delayed: float = 0
    delay: float = 0.2  # seconds, of the event and of those behind it
    gone_after: int | None = None  # events; then ERROR 410 and the end
    silent_after: int | None = None  # events; then nothing more, and no end


Fault = Crash | Answer | Lost | Stale | Distorted
FAULTS: dict[str, type[Fault]] = {kind.__name__: kind for kind in (Crash, Answer, Lost, Stale, Distorted)}

At = int | Callable[[Call], bool]  # the number of a write, or which calls


@dataclass(frozen=True)
class Plan:
    title: str  # how to make it again
    fault: Callable[[Call], Fault | None] = field(repr=False)


def undisturbed() -> Plan:
    return Plan("undisturbed", lambda _: None)


def crash(*, at: At, committed: bool) -> Plan:
    """The process ends before or after this write."""
    return _where(f"crash {'after' if committed else 'before'}", at, Crash(committed), lambda call: call.is_write)


def crash_at(write: Call, *, committed: bool) -> Plan:
    """At the write that is this one in another run: by what it is, not by its number."""
    plan = crash(at=lambda call: call.identity == write.identity, committed=committed)
    return replace(plan, title=f"crash {'after' if committed else 'before'} {write} ({write.occurrence})")


def answer(status: int, *, at: At, retry_after: int | None = None) -> Plan:
    return _where(f"answer {status} to", at, Answer(status, retry_after))


def lost(*, at: At, committed: bool) -> Plan:
    """No answer: the operator cannot tell whether the call took effect."""
    return _where(f"connection broken {'after' if committed else 'before'}", at, Lost(committed))


def stale(versions: int, *, at: Callable[[Call], bool]) -> Plan:
    return _where(f"{versions} versions old:", at, Stale(versions), lambda call: call.is_read)


def distorted(distortion: Distorted, *, at: Callable[[Call], bool] = lambda _: True) -> Plan:
    return Plan(f"{distortion}", lambda call: distortion if call.watch and at(call) else None)


def either(*plans: Plan) -> Plan:
    """The first fault that any of them has for a call."""
    return Plan(
        "; ".join(plan.title for plan in plans),
        lambda call: next((fault for plan in plans if (fault := plan.fault(call))), None),
    )


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of how many calls, between 0 and 1."""

    crash: float = 0.02  # of writes, before and after alike
    refused: float = 0.04  # of all calls
    lost: float = 0.02  # of all calls, before and after alike
    stale: float = 0.1  # of reads
    versions: int = 3  # how old at most
    watches: float = 0.5  # of watches; how they are distorted:
    distortion: Distorted = field(
        default_factory=lambda: Distorted(dropped=0.05, doubled=0.1, reordered=0.1, delayed=0.02)
    )
    write_refusals: tuple[int, ...] = (409, 422, 429, 500)
    read_refusals: tuple[int, ...] = (429, 500)


def seeded(seed: int, rates: Rates | None = None) -> Plan:
    """Anything, anywhere, as often as `rates` say."""
    of = rates or Rates()

    def fault(call: Call) -> Fault | None:
        draw = Random(json.dumps([seed, *call.identity]))  # noqa: S311
        if call.watch:
            return _ending(of.distortion, draw) if draw.random() < of.watches else None
        chances: list[tuple[float, Callable[[], Fault]]] = [
            (of.crash if call.is_write else 0, lambda: Crash(draw.random() < 0.5)),
            (of.refused, lambda: _refusal(draw.choice(of.write_refusals if call.is_write else of.read_refusals))),
            (of.lost, lambda: Lost(draw.random() < 0.5)),
            (of.stale if call.is_read else 0, lambda: Stale(draw.randint(1, of.versions))),
        ]
        point = draw.random()
        for chance, make in chances:
            if point < chance:
                return make()
            point -= chance
        return None

    return Plan(f"seed {seed}", fault)


def replay(lines: Iterable[str]) -> Plan:
    """The faults of a run again, from its log."""
    faults: dict[Identity, Fault] = {}
    for line in lines:
        entry = json.loads(line)
        if entry["fault"]:
            faults[Call(**entry["call"]).identity] = _fault(entry["fault"])
    return Plan(f"replay of {len(faults)} faults", lambda call: faults.get(call.identity))


def line_of(call: Call, fault: Fault | None) -> str:
    """One line of a log, in JSON."""
    happened = {"kind": type(fault).__name__, **asdict(fault)} if fault else None
    return json.dumps({"number": call.number, "call": asdict(call), "fault": happened})


def _fault(entry: dict[str, Any]) -> Fault:
    return FAULTS[entry.pop("kind")](**entry)


def _where(words: str, at: At, fault: Fault, possible: Callable[[Call], bool] = lambda _: True) -> Plan:
    if isinstance(at, int):
        return Plan(f"{words} write {at}", lambda call: fault if call.write == at else None)
    return Plan(f"{words} some calls", lambda call: fault if possible(call) and at(call) else None)


def _refusal(status: int) -> Answer:
    return Answer(status, retry_after=1 if status == 429 else None)


def _ending(distortion: Distorted, draw: Random) -> Distorted:
    """A seed of its own for each watch; a third of them end with 410 in the middle, a tenth fall silent."""
    fields = asdict(distortion) | {"seed": draw.randrange(2**32)}
    fate = draw.random()
    if fate < 1 / 3:
        fields["gone_after"] = draw.randint(1, 20)
    elif fate < 1 / 3 + 0.1:
        fields["silent_after"] = draw.randint(1, 20)
    return Distorted(**fields)
