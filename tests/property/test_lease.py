"""Leader election under whatever may happen: never two leaders at the same instant, and one again when it is over.

Each replica has a clock of its own, which was set when it liked and runs a little fast or slow. Requests are slow, are
lost on either way, or arrive when nobody waits for them any more; processes stand still, are killed, or end in order.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from lease_store import GOOD, Fate, LeaseStore, LeaseWire
from meshwright.api.errors import LeaseLost
from meshwright.cluster.lease import DURATION, RETRY, Election
from virtual_time import run

DRIFT = 0.02  # of a second in each: far more than a machine's clock is allowed to be off
TROUBLED = 120.0  # seconds
SETTLED = (DURATION + 2 * RETRY) * (1 + DRIFT) + 1  # one that gave up looks after RETRY, and once more at the end
INSTANT = 0.05  # seconds between looks at who leads; besides, after each answer

seconds = st.one_of(st.floats(0.001, 0.5), st.floats(0.001, 20.0))
fates = st.one_of(
    st.builds(Fate, there=seconds, back=seconds),
    st.builds(Fate, refused=st.just(True)),
    st.builds(Fate, there=seconds, answer_lost=st.just(True)),
    st.builds(Fate, there=seconds, back=st.floats(0.001, 40), deaf=st.just(True)),  # the process stands still
)


@dataclass(frozen=True)
class Trouble:
    """What becomes of the requests of some seconds of a life."""

    begin: float
    seconds: float
    fate: Fate

    def covers(self, age: float) -> bool:
        return self.begin <= age < self.begin + self.seconds


@dataclass(frozen=True)
class Life:
    """Of one process, after which the replica starts another."""

    seconds: float
    killed: bool
    rest: float
    offset: float  # of its clock
    rate: float
    troubles: tuple[Trouble, ...]


lives = st.builds(
    Life,
    seconds=st.floats(0.1, 90),
    killed=st.booleans(),
    rest=st.floats(0, 30),
    offset=st.floats(-1e6, 1e6),
    rate=st.floats(1 - DRIFT / 2, 1 + DRIFT / 2),
    troubles=st.lists(
        st.builds(Trouble, begin=st.floats(0, 60), seconds=st.floats(0.1, 30), fate=fates), min_size=1, max_size=6
    ).map(tuple),
)
LAST = Life(seconds=1e6, killed=True, rest=0, offset=0, rate=1, troubles=())


@dataclass
class World:
    store: LeaseStore = field(default_factory=LeaseStore)
    alive: list[Election] = field(default_factory=list)
    over: bool = False

    def leaders(self) -> list[str]:
        found = [each.identity for each in self.alive if each.leads()]
        assert len(found) < 2, f"at {now():.3f} s these lead: {found}"
        return found

    async def look_until(self, moment: float, *always: str) -> None:
        while now() < moment:
            assert set(always) <= set(self.leaders())
            await asyncio.sleep(INSTANT)

    async def replica(self, name: str, planned: tuple[Life, ...]) -> None:
        for number, life in enumerate(planned):
            await self.live(f"{name}-{number}", life, min(life.seconds, left_of(TROUBLED)))
            await asyncio.sleep(min(life.rest, left_of(TROUBLED)))
        await self.live(f"{name}-last", LAST, LAST.seconds)

    async def live(self, identity: str, life: Life, seconds: float) -> None:
        born = now()

        def fate() -> Fate:
            asyncio.get_running_loop().call_soon(self.leaders)
            fitting = (each.fate for each in life.troubles if each.covers(now() - born))
            found = next(fitting, GOOD)
            return found if now() + found.there + found.back <= TROUBLED else GOOD

        wire = LeaseWire(self.store, fate)
        election = Election(
            wire,
            namespace="system",
            name="meshwright",
            identity=identity,
            clock=lambda: life.offset + life.rate * now(),
        )
        self.alive.append(election)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds) as end:
                wire.ends = lambda: end.expired() or self.over
                with contextlib.suppress(LeaseLost):
                    await election.acquire()
                    self.leaders()
                    await election.hold()
        wire.ends = lambda: self.over
        if not life.killed:
            await election.release()
        self.alive.remove(election)


def now() -> float:
    return asyncio.get_running_loop().time()


def left_of(until: float) -> float:
    return max(until - now(), 0)


@settings(max_examples=100)
@given(st.lists(st.lists(lives, max_size=4).map(tuple), min_size=2, max_size=3))
def test_never_two_and_in_the_end_one(replicas: list[tuple[Life, ...]]) -> None:
    async def history() -> None:
        world = World()
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(world.replica(f"r{index}", each)) for index, each in enumerate(replicas)]
            try:
                await world.look_until(TROUBLED + SETTLED)
                (leader,) = world.leaders()
                await world.look_until(now() + 60, leader)  # and it stays
            finally:
                world.over = True
                for each in running:
                    each.cancel()

    run(history())
