"""The work queue: semantics that controllers share, on a clock that does not wait."""

from __future__ import annotations

import asyncio

import pytest

from meshwright.controller.queue import FIRST_BACKOFF, MAX_BACKOFF, Queue
from virtual_time import now, on_virtual_time


def queue() -> Queue:
    return Queue(jitter=lambda delay: delay)


async def drained(subject: Queue) -> list[str]:
    """All keys that are there now, each done at once."""
    found = []
    while len(subject):
        found.append(await subject.get())
        subject.done(found[-1])
    return found


@on_virtual_time
async def test_keys_come_in_the_order_in_which_they_were_added() -> None:
    subject = queue()
    for key in "cab":
        subject.add(key)
    assert await drained(subject) == ["c", "a", "b"]


@on_virtual_time
async def test_a_key_that_waits_is_not_added_twice() -> None:
    subject = queue()
    for key in "abaab":
        subject.add(key)
    assert len(subject) == 2
    assert await drained(subject) == ["a", "b"]


@on_virtual_time
async def test_a_key_added_while_active_comes_once_more_when_it_is_done() -> None:
    subject = queue()
    subject.add("a")
    assert await subject.get() == "a"
    subject.add("a")
    subject.add("a")
    subject.add("b")
    assert await subject.get() == "b"  # never a second worker on the same key
    assert len(subject) == 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(subject.get(), 100)
    subject.done("a")
    assert await subject.get() == "a"
    subject.done("a")
    assert len(subject) == 0


@on_virtual_time
async def test_done_without_another_add_is_the_end() -> None:
    subject = queue()
    subject.add("a")
    subject.done(await subject.get())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(subject.get(), 1000)


@on_virtual_time
async def test_get_waits_for_the_first_key() -> None:
    subject = queue()
    waiting = asyncio.create_task(subject.get())
    await asyncio.sleep(5)
    assert not waiting.done()
    subject.add("a")
    assert await waiting == "a"


@on_virtual_time
async def test_several_workers_share_the_keys() -> None:
    subject = queue()
    workers = [asyncio.create_task(subject.get()) for _ in range(3)]
    await asyncio.sleep(1)
    for key in "abc":
        subject.add(key)
    assert sorted(await asyncio.gather(*workers)) == ["a", "b", "c"]


@on_virtual_time
async def test_a_worker_that_is_cancelled_loses_no_key() -> None:
    subject = queue()
    worker = asyncio.create_task(subject.get())
    await asyncio.sleep(1)
    subject.add("a")
    worker.cancel()
    await asyncio.wait([worker])
    assert await asyncio.wait_for(subject.get(), 10) == "a"


@on_virtual_time
async def test_a_date_is_kept() -> None:
    subject = queue()
    subject.add_after("later", 20)
    subject.add_after("sooner", 10)
    assert (await subject.get(), now()) == ("sooner", 10)
    assert (await subject.get(), now()) == ("later", 20)


@pytest.mark.parametrize(("first", "second", "date"), [(10, 20, 10), (20, 10, 10), (10, 10, 10)])
@on_virtual_time
async def test_of_two_dates_the_earlier_counts_and_comes_once(first: float, second: float, date: float) -> None:
    subject = queue()
    subject.add_after("a", first)
    subject.add_after("a", second)
    assert (await subject.get(), now()) == ("a", date)
    subject.done("a")
    await asyncio.sleep(100)
    assert len(subject) == 0


@on_virtual_time
async def test_an_event_overtakes_a_date() -> None:
    subject = queue()
    subject.add_after("a", 10)
    subject.add("a")
    assert (await subject.get(), now()) == ("a", 0)
    subject.done("a")
    await asyncio.sleep(100)
    assert len(subject) == 0


@on_virtual_time
async def test_a_date_that_comes_while_the_key_is_active_waits_for_its_end() -> None:
    subject = queue()
    subject.add("a")
    await subject.get()
    subject.add_after("a", 10)
    await asyncio.sleep(20)
    assert len(subject) == 1
    subject.done("a")
    assert await subject.get() == "a"


@on_virtual_time
async def test_failures_in_a_row_wait_longer_each_time_up_to_a_limit() -> None:
    subject = queue()
    delays = [subject.add_failed("a") for _ in range(10)]
    assert delays[:4] == [FIRST_BACKOFF, FIRST_BACKOFF * 2, FIRST_BACKOFF * 4, FIRST_BACKOFF * 8]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_BACKOFF


@on_virtual_time
async def test_a_day_of_failures_is_survived() -> None:
    subject = queue()
    for _ in range(3000):  # a power of two that large is no floating point number any more
        delay = subject.add_failed("a")
    assert delay == MAX_BACKOFF


@on_virtual_time
async def test_a_success_forgets_failures_and_other_keys_have_their_own() -> None:
    subject = queue()
    for _ in range(5):
        subject.add_failed("a")
    assert subject.add_failed("b") == FIRST_BACKOFF
    subject.forget_failures("a")
    assert subject.add_failed("a") == FIRST_BACKOFF
    subject.forget_failures("never failed")


@pytest.mark.parametrize(("at_least", "delay"), [(0, FIRST_BACKOFF), (0.1, FIRST_BACKOFF), (7, 7), (600, 600)])
@on_virtual_time
async def test_a_server_that_asks_for_time_gets_it(at_least: float, delay: float) -> None:
    subject = queue()
    assert subject.add_failed("a", at_least=at_least) == delay
    assert (await subject.get(), now()) == ("a", delay)


@on_virtual_time
async def test_dates_are_jittered_so_that_meshes_do_not_march_in_step() -> None:
    subject = Queue()
    dates = []
    for index in range(50):
        subject.add_after(str(index), 100)
    for _ in range(50):
        await subject.get()
        dates.append(now())
    assert 80 <= min(dates) < max(dates) <= 120


@on_virtual_time
async def test_the_depth_counts_what_waits_and_not_what_is_worked_on() -> None:
    subject = queue()
    subject.add("a")
    subject.add("b")
    subject.add_after("c", 10)
    assert len(subject) == 2
    await subject.get()
    assert len(subject) == 1
    subject.add("a")
    assert len(subject) == 2


@on_virtual_time
async def test_the_oldest_is_the_one_that_waits_for_a_worker_longest() -> None:
    subject = Queue(clock=now, jitter=lambda delay: delay)
    assert subject.oldest() == 0
    subject.add("a")
    await asyncio.sleep(3)
    subject.add("b")
    subject.add("a")  # again, and it waits since it did
    await asyncio.sleep(4)
    assert subject.oldest() == 7
    await subject.get()
    assert subject.oldest() == 4
    subject.add("a")  # while it is worked on: for that it waits for nobody else
    await asyncio.sleep(1)
    assert subject.oldest() == 5
    await subject.get()
    assert subject.oldest() == 0
    await asyncio.sleep(2)
    subject.done("a")  # from now on it waits
    await asyncio.sleep(1)
    assert subject.oldest() == 1


@on_virtual_time
async def test_a_key_that_has_a_date_waits_from_then_on() -> None:
    subject = Queue(clock=now, jitter=lambda delay: delay)
    subject.add_after("a", 100)
    await asyncio.sleep(103)
    assert subject.oldest() == 3
