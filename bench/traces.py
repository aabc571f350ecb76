"""Ten thousand seeded traces of load against a model of istiod and of the Kubernetes autoscaler (v2).

Each trace is one of six shapes over four hours, looked at every 30 seconds, the way the operator looks. Three policies
see the same load: the autoscaler alone; the autoscaler with a rule as people write it (above the threshold one replica
more, below `clear` one less, no data is no load); and the autoscaler with Meshwright's rule AddReplica, by the very
function that decides.

The model: pushes cost CPU; what replicas cannot do in time queues up, and the queue is what makes a push slow. The
autoscaler is that of the controller manager's documentation: ceil(replicas × use / target), 10 % tolerance, doubling or
four pods a turn upwards, the highest recommendation of five minutes downwards; a new pod is ready after 30 s. It is not
pinned to a real controller manager yet.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from bench.figure import Figure
from meshwright.api.meshaction import ActionStatus, MeshAction, Shape
from meshwright.api.meshinstall import Size
from meshwright.api.scaling import Action
from meshwright.mesh import effects
from meshwright.mesh.rules import DEFAULTS
from meshwright.mesh.scaling import Clock, Look, Question, names, rfc3339, step
from meshwright.mesh.signals import CPU, GENERATION, MEMORY, PODS, Reading

TRACES = int(os.environ.get("MESHWRIGHT_TRACES") or 10_000)
LOOK = 30.0  # seconds
LOOKS = 4 * 120
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
RULE = DEFAULTS[Action.ADD_REPLICA]
CORES = 4.0  # of a replica of size Medium
LEAST, MOST = 3, 6
BUSY = 0.8
TOLERANCE = 0.1
STABLE = 10  # looks of 30 s: five minutes
QUICK = 0.05  # seconds for a push without a queue


# -- load


def trace(seed: int) -> tuple[list[float], list[bool]]:
    """Cores that pushes need at each look, and whether nothing is known then."""
    chance = random.Random(seed)  # noqa: S311
    low = chance.uniform(1, 6)
    high = low + chance.uniform(1, 22)
    period, start = chance.randrange(20, 240), chance.randrange(LOOKS // 2)
    width = chance.randrange(1, 60)
    shapes: tuple[Callable[[int], float], ...] = (
        lambda t: high if t >= start else low,
        lambda t: low + (high - low) * (1 + math.sin(2 * math.pi * t / period)) / 2,
        lambda t: high if start <= t < start + width else low,
        lambda _: chance.uniform(low, high),
        lambda t: low + (high - low) * (t % period) / period,
        lambda t: high if (t // period) % 2 else low,
    )
    shape = shapes[seed % len(shapes)]
    missing = [False] * LOOKS
    for _ in range(chance.choice((0, 0, 1, 3))):
        begin = chance.randrange(LOOKS)
        for place in range(begin, min(begin + chance.randrange(1, 40), LOOKS)):
            missing[place] = True
    return [max(shape(t) * chance.uniform(0.9, 1.1), 0.0) for t in range(LOOKS)], missing


# -- the model


@dataclass
class Autoscaler:
    """Between bounds, by CPU."""

    replicas: int = LEAST
    recommended: deque[int] = field(default_factory=lambda: deque(maxlen=STABLE))

    def turn(self, use: float, least: int, most: int) -> None:
        """`use`: CPU of a replica, of its limit."""
        ratio = use / BUSY
        wanted = self.replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(self.replicas * ratio)
        self.recommended.append(wanted)
        if wanted < self.replicas:
            wanted = min(max(self.recommended), self.replicas)
        self.replicas = min(max(min(wanted, max(2 * self.replicas, self.replicas + 4)), least), most)


@dataclass
class Istiod:
    ready: int = LEAST
    queue: float = 0.0  # core-seconds
    use: float = 0.0

    def serve(self, demand: float) -> float:
        """The time of a push, in seconds."""
        capacity = self.ready * CORES
        self.queue = max(self.queue + (demand - capacity) * LOOK, 0.0)
        self.use = 1.0 if self.queue else demand / capacity
        return min(QUICK / max(1 - self.use, 0.05) + self.queue / capacity, 30.0)


# -- who decides the bounds


@dataclass
class Alone:
    """Nobody."""

    least: int = LEAST
    most: int = MOST

    def look(self, now: dt.datetime, seconds: float, use: float, replicas: int, *, missing: bool) -> None:
        """Another moment."""


@dataclass
class Naive(Alone):
    def look(self, now: dt.datetime, seconds: float, use: float, replicas: int, *, missing: bool) -> None:
        del now, use
        value = 0.0 if missing else seconds
        if value > RULE.threshold and self.least < 2 * MOST:
            self.least = max(self.least, replicas) + 1
        elif value < RULE.clear and self.least > LEAST:
            self.least -= 1
        self.least = min(self.least, 2 * MOST)
        self.most = max(MOST, self.least)


@dataclass
class Ours(Alone):
    clocks: dict[Action, Clock] = field(default_factory=dict)
    journal: list[MeshAction] = field(default_factory=list)

    def look(self, now: dt.datetime, seconds: float, use: float, replicas: int, *, missing: bool) -> None:
        why = "silent" if missing else ""
        values = {GENERATION: seconds, CPU: 100 * use, MEMORY: 40.0}
        readings = {name: Reading(0.0 if missing else value, why) for name, value in values.items()}
        look = Look(
            now=now, pods=600, proxies=600, replicas=replicas, base=Shape(replicas=LEAST, max_replicas=MOST),
            settled=replicas >= self.least, readings=readings | {PODS: Reading(600.0)}, size=Size.MEDIUM,
            demanded=Size.MEDIUM, memory="8Gi",
        )  # fmt: skip
        open_ones = tuple(self.journal[-8:])
        answer = step(Question("bench", "primary", (RULE,), look, dict(self.clocks), open_ones))
        self.clocks = dict(answer.clocks)
        for move in answer.moves:
            (place,) = [number for number, each in enumerate(self.journal) if each.name == move.name]
            status = ActionStatus(phase=move.phase, since=rfc3339(now), message=move.message)
            self.journal[place] = self.journal[place].model_copy(update={"status": status})
        self.journal += [
            MeshAction(name=name, spec=spec) for name, spec in zip(names(answer.new), answer.new, strict=True)
        ]
        shape = effects.effect(self.journal, "primary")
        self.least = max(LEAST, shape.replicas or 0)
        self.most = max(MOST, shape.max_replicas or 0)


@dataclass(frozen=True)
class Course:
    """What became of one trace."""

    actions: int
    opposite: int  # within a cool-down
    downs_on_nothing: int  # bounds that were lowered on missing data
    minutes_over: float
    replica_hours: float


def run(policy: Alone, demand: list[float], missing: list[bool]) -> Course:
    autoscaler, istiod, tally = Autoscaler(), Istiod(), Counter[str]()
    turned: tuple[dt.datetime, int] | None = None
    over = hours = 0.0
    for number, need in enumerate(demand):
        now = START + dt.timedelta(seconds=number * LOOK)
        seconds = istiod.serve(need)
        before = policy.least
        policy.look(now, seconds, istiod.use, istiod.ready, missing=missing[number])
        if change := policy.least - before:
            tally["actions"] += 1
            way = 1 if change > 0 else -1
            if turned and turned[1] != way and now - turned[0] < RULE.cool_down:
                tally["opposite"] += 1
            tally["blind"] += change < 0 and missing[number]
            turned = now, way
        istiod.ready = autoscaler.replicas  # what was decided a look ago is ready now
        autoscaler.turn(istiod.use, policy.least, policy.most)
        over += (seconds > RULE.threshold) * LOOK / 60
        hours += istiod.ready * LOOK / 3600
    return Course(tally["actions"], tally["opposite"], tally["blind"], over, hours)


def courses(seed: int) -> tuple[Course, Course, Course]:
    demand, missing = trace(seed)
    return run(Alone(), demand, missing), run(Naive(), demand, missing), run(Ours(), demand, missing)


def figures() -> Iterator[Figure]:
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(courses, range(TRACES), chunksize=50))
    alone, naive, ours = (list(each) for each in zip(*found, strict=True))

    def total(of: list[Course], name: str) -> float:
        return float(sum(getattr(each, name) for each in of))

    few, many = total(ours, "actions"), total(naive, "actions")
    yield Figure("traces_fewer_actions", 100 * (1 - few / many), "%", "≥ 70", f"naive rule {many:.0f}, ours {few:.0f}")
    yield Figure(
        "traces_opposite_in_cool_down", total(ours, "opposite"), "actions", "0",
        f"naive rule {total(naive, 'opposite'):.0f}",
    )  # fmt: skip
    yield Figure(
        "traces_lowered_on_missing_data", total(ours, "downs_on_nothing"), "actions", "0",
        f"naive rule {total(naive, 'downs_on_nothing'):.0f}",
    )  # fmt: skip
    for name, unit, goal in (("minutes_over", "of the autoscaler's", "≤ 1"),
                             ("replica_hours", "of the autoscaler's", "≤ 1.05")):  # fmt: skip
        base = total(alone, name)
        yield Figure(f"traces_{name}", total(ours, name) / base, unit, goal,
                     f"autoscaler alone {base:.0f}, naive rule {total(naive, name) / base:.2f}")  # fmt: skip
