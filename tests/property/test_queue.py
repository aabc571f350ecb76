"""The work queue against a model of it: no key twice at the same time, none lost."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshwright.controller.queue import Queue
from virtual_time import VirtualLoop

keys = st.sampled_from("abcd")
delays = st.floats(0.1, 100)
EPSILON = 0.001  # seconds; dates closer than that count as the same moment


class QueueMachine(RuleBasedStateMachine):
    """The model: keys that are asked for now, and keys that have a date."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.queue = Queue(clock=self.loop.time, jitter=lambda delay: delay)
        self.active: set[str] = set()
        self.ready: set[str] = set()
        self.dates: dict[str, float] = {}

    def arrive(self) -> None:
        """Dates that have come are keys that are asked for."""
        for key in [key for key, when in self.dates.items() if when <= self.loop.time() + EPSILON]:
            del self.dates[key]
            self.ready.add(key)

    def date(self, key: str, delay: float) -> None:
        when = self.loop.time() + delay
        self.dates[key] = min(when, self.dates.get(key, when))

    @rule(key=keys)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.dates.pop(key, None)
        self.ready.add(key)

    @rule(key=keys, delay=delays)
    def add_after(self, key: str, delay: float) -> None:
        async def later() -> None:
            self.queue.add_after(key, delay)

        self.loop.run_until_complete(later())
        self.date(key, delay)

    @rule(key=keys)
    def add_failed(self, key: str) -> None:
        async def failed() -> float:
            return self.queue.add_failed(key)

        self.date(key, self.loop.run_until_complete(failed()))

    @rule(key=keys)
    def forget_failures(self, key: str) -> None:
        self.queue.forget_failures(key)

    @rule(seconds=delays)
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.loop.run_until_complete(asyncio.sleep(2 * EPSILON))  # whatever came at the same moment has come now
        self.arrive()

    @rule()
    def get(self) -> None:
        async def at_once() -> str | None:
            try:
                return await asyncio.wait_for(self.queue.get(), EPSILON)
            except TimeoutError:
                return None

        key = self.loop.run_until_complete(at_once())
        if key is None:
            assert self.ready <= self.active, "a key that is asked for is not given out"
            self.arrive()
            return
        assert key not in self.active, "two workers on one key"
        self.arrive()
        assert key in self.ready, "a key that nobody asked for"
        self.ready.discard(key)
        self.active.add(key)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.active)))
        self.active.discard(key)
        self.queue.done(key)
        if key in self.ready:  # asked for while it was active: it is due now, and what it comes to sets the next date
            self.dates.pop(key, None)

    @invariant()
    def the_depth_is_the_number_of_keys_that_are_asked_for(self) -> None:
        assert len(self.ready) <= len(self.queue) <= len(self.ready) + len(self.dates)

    @invariant()
    def there_is_an_age_while_a_worker_is_waited_for(self) -> None:
        waited_for = self.ready - self.active
        assert 0 <= self.queue.oldest() <= self.loop.time()
        if not waited_for and not self.dates:
            assert self.queue.oldest() == 0

    def teardown(self) -> None:
        """Whatever happened, in the end every key that is asked for is given out, and then there is silence."""

        async def drain() -> set[str]:
            found: set[str] = set()
            for key in self.active:
                self.queue.done(key)
            while True:
                try:
                    key = await asyncio.wait_for(self.queue.get(), 1000)
                except TimeoutError:
                    return found
                found.add(key)
                self.queue.done(key)

        try:
            assert self.loop.run_until_complete(drain()) == self.ready | self.dates.keys()
            assert len(self.queue) == 0
        finally:
            self.loop.close()


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
