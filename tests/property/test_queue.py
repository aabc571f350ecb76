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


class QueueMachine(RuleBasedStateMachine):
    """`owed`: keys that must still be given out, and since when at the latest they should be ready."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.queue = Queue(jitter=lambda delay: delay)
        self.active: set[str] = set()
        self.owed: dict[str, float] = {}
        self.order: list[str] = []  # what is ready, in the order in which it became so

    def owe(self, key: str, when: float) -> None:
        self.owed[key] = min(when, self.owed.get(key, when))

    @rule(key=keys)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.owe(key, self.loop.time())

    @rule(key=keys, delay=delays)
    def add_after(self, key: str, delay: float) -> None:
        async def later() -> None:
            self.queue.add_after(key, delay)

        self.loop.run_until_complete(later())
        self.owe(key, self.loop.time() + delay)

    @rule(key=keys)
    def add_failed(self, key: str) -> None:
        async def failed() -> float:
            return self.queue.add_failed(key)

        self.owe(key, self.loop.time() + self.loop.run_until_complete(failed()))

    @rule(key=keys)
    def forget_failures(self, key: str) -> None:
        self.queue.forget_failures(key)

    @rule(seconds=delays)
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule()
    def get(self) -> None:
        async def now() -> str | None:
            try:
                return await asyncio.wait_for(self.queue.get(), 0.01)
            except TimeoutError:
                return None

        key = self.loop.run_until_complete(now())
        if key is None:
            assert not self.due(), "a key that is due is not given out"
            return
        assert key not in self.active, "two workers on one key"
        assert key in self.owed or key in self.order, "a key that nobody asked for"
        assert self.owed.pop(key) <= self.loop.time()
        self.active.add(key)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.active)))
        self.active.discard(key)
        self.queue.done(key)

    def due(self) -> set[str]:
        return {key for key, when in self.owed.items() if when <= self.loop.time() - 0.02 and key not in self.active}

    @invariant()
    def every_key_that_is_due_counts(self) -> None:
        assert len(self.queue) >= len(self.due())

    def teardown(self) -> None:
        """Whatever happened, in the end every key that is owed is given out, and then there is silence."""

        async def drain() -> set[str]:
            found = set()
            for key in self.active:
                self.queue.done(key)
            while True:
                try:
                    key = await asyncio.wait_for(self.queue.get(), 1000)
                except TimeoutError:
                    return found
                found.add(key)
                self.queue.done(key)

        assert self.loop.run_until_complete(drain()) >= self.owed.keys()
        assert len(self.queue) == 0
        self.loop.close()


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
