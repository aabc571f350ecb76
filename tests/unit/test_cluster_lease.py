"""Leader election on a clock that does not wait: who leads when, and what is written."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator

import pytest

from lease_store import GOOD, Fate, LeaseStore, LeaseWire
from meshwright.api.errors import LeaseLost
from meshwright.cluster.lease import DURATION, GIVE_BACK, RENEW_DEADLINE, RETRY, TRY, Election
from virtual_time import now, on_virtual_time, run

NOON = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
REQUEST = GOOD.there + GOOD.back
SOON = 3 * REQUEST  # a look and a write


class Replica:
    """An election, its wire, and what it said."""

    def __init__(self, store: LeaseStore, identity: str, *, ahead: dt.timedelta = dt.timedelta()) -> None:
        self.wire = LeaseWire(store)
        self.said: list[str] = []
        self.election = Election(
            self.wire,
            namespace="system",
            name="meshwright",
            identity=identity,
            clock=now,
            now=lambda: NOON + dt.timedelta(seconds=now()) + ahead,
            tell=self.said.append,
            jitter=lambda delay: delay,
        )

    async def leads_after(self) -> float:
        """Seconds until it leads."""
        begin = now()
        await self.election.acquire()
        return now() - begin

    @contextlib.asynccontextmanager
    async def holding(self) -> AsyncIterator[asyncio.Task[None]]:
        await self.election.acquire()
        task = asyncio.create_task(self.election.hold())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    def cut_off(self) -> None:
        self.wire.fate = lambda: Fate(refused=True)


@pytest.fixture
def store() -> LeaseStore:
    return LeaseStore()


@pytest.fixture
def one(store: LeaseStore) -> Replica:
    return Replica(store, "one")


@pytest.fixture
def two(store: LeaseStore) -> Replica:
    return Replica(store, "two")


# -- taking and keeping


@on_virtual_time
async def test_the_first_leads_at_once_with_the_record_of_client_go(store: LeaseStore, one: Replica) -> None:
    assert not one.election.leads()
    assert await one.leads_after() == pytest.approx(2 * REQUEST)
    assert one.election.leads()
    assert store.lease == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "meshwright", "namespace": "system", "resourceVersion": "1"},
        "spec": {
            "holderIdentity": "one",
            "leaseDurationSeconds": 15,
            "acquireTime": "2026-11-01T12:00:00.010000Z",
            "renewTime": "2026-11-01T12:00:00.010000Z",
            "leaseTransitions": 0,
        },
    }
    assert one.said == ["this replica leads"]


@on_virtual_time
async def test_a_renewal_moves_one_date_and_needs_one_request(store: LeaseStore, one: Replica) -> None:
    async with one.holding():
        taken = dict(store.record)
        await asyncio.sleep(10 * RETRY + 1)
        assert one.wire.sent == ["get", "create", *["replace"] * 11]
        assert {name for name, value in store.record.items() if value != taken[name]} == {"renewTime"}


@on_virtual_time
async def test_while_one_leads_the_other_waits_and_says_so_once(one: Replica, two: Replica) -> None:
    async with one.holding():
        waiting = asyncio.create_task(two.election.acquire())
        await asyncio.sleep(600)
        assert one.election.leads()
        assert not two.election.leads()
        assert set(two.wire.sent) == {"get"}
        assert two.said == ["one leads"]
        waiting.cancel()


@on_virtual_time
async def test_a_lease_that_somebody_made_by_hand_is_taken(store: LeaseStore, one: Replica) -> None:
    store.create({"metadata": {"name": "meshwright", "namespace": "system"}})  # without even a spec
    assert await one.leads_after() < SOON
    assert store.record["leaseTransitions"] == 0


# -- taking over


@pytest.mark.parametrize("seen", [0.0, 0.7, 1.9])
@on_virtual_time
async def test_a_leader_that_is_killed_is_followed_within_17_seconds(
    store: LeaseStore, one: Replica, two: Replica, seen: float
) -> None:
    async with one.holding():
        await asyncio.sleep(30 + seen)  # somewhere between two renewals
        taking = asyncio.create_task(two.leads_after())
        await asyncio.sleep(10)
        killed = now()
    await taking
    assert DURATION - RETRY <= now() - killed <= DURATION + RETRY + SOON
    assert store.record["holderIdentity"] == "two"
    assert store.record["leaseTransitions"] == 1
    assert store.record["acquireTime"] == store.record["renewTime"]


@on_virtual_time
async def test_a_lease_that_is_given_back_is_taken_at_the_next_look(
    store: LeaseStore, one: Replica, two: Replica
) -> None:
    async with one.holding():
        taking = asyncio.create_task(two.leads_after())
        await asyncio.sleep(61)
    await one.election.release()
    assert not one.election.leads()
    assert (store.record["holderIdentity"], store.record["leaseDurationSeconds"]) == ("", 1)
    released = now()
    await taking
    assert now() - released <= RETRY + SOON
    assert (store.record["leaseDurationSeconds"], store.record["leaseTransitions"]) == (15, 1)


@pytest.mark.parametrize("ahead", [dt.timedelta(days=-1), dt.timedelta(days=1)])
@on_virtual_time
async def test_what_the_clock_on_the_wall_says_has_no_effect(
    store: LeaseStore, two: Replica, ahead: dt.timedelta
) -> None:
    other = Replica(store, "one", ahead=ahead)
    async with other.holding():
        taking = asyncio.create_task(two.leads_after())
        await asyncio.sleep(100)
        assert not taking.done()
    killed = now()
    await taking
    assert DURATION - RETRY <= now() - killed <= DURATION + RETRY + SOON


@on_virtual_time
async def test_of_two_that_take_it_at_the_same_moment_one_leads(store: LeaseStore, one: Replica, two: Replica) -> None:
    both = [asyncio.create_task(each.election.acquire()) for each in (one, two)]
    await asyncio.sleep(1)
    assert [each.done() for each in both] == [True, False]
    await asyncio.sleep(DURATION + RETRY)  # the first does not renew
    assert both[1].done()
    assert two.election.leads() > one.election.leads()
    assert store.record["leaseTransitions"] == 1


@on_virtual_time
async def test_an_answer_that_was_lost_costs_one_look(store: LeaseStore, one: Replica) -> None:
    fates = iter([GOOD, Fate(answer_lost=True)])
    one.wire.fate = lambda: next(fates, GOOD)
    assert await one.leads_after() <= RETRY + 2 * SOON
    assert store.record["leaseTransitions"] == 0
    assert one.said == ["the API server closed the connection", "this replica leads"]
    assert one.election.trouble is None


@on_virtual_time
async def test_whatever_fails_it_is_tried_again_and_said_once(one: Replica) -> None:
    one.cut_off()
    taking = asyncio.create_task(one.election.acquire())
    await asyncio.sleep(100)
    assert one.said == ["the API server does not answer"]
    assert one.election.trouble == "the API server does not answer"
    one.wire.fate = lambda: GOOD
    await taking
    assert one.election.trouble is None


# -- losing


@on_virtual_time
async def test_without_renewals_it_ends_before_another_may_begin(one: Replica, two: Replica) -> None:
    async with one.holding() as task:
        taking = asyncio.create_task(two.leads_after())
        await asyncio.sleep(100.1)
        one.cut_off()
        last = now() - (one.election.overdue() or 0.0)
        await asyncio.sleep(last + RENEW_DEADLINE - now() - 0.01)
        assert one.election.leads()
        await asyncio.sleep(0.02)
        assert not one.election.leads()
        await asyncio.wait([task], timeout=0.02)
        with pytest.raises(LeaseLost, match=r"system/meshwright is lost: not renewed for 10 s \(the API server"):
            task.result()
        assert one.election.overdue() is None
    await taking
    assert now() - last >= DURATION


@on_virtual_time
async def test_it_counts_from_before_the_renewal_was_sent(one: Replica) -> None:
    async with one.holding():
        await asyncio.sleep(RETRY + 1)
        one.wire.fate = lambda: Fate(there=2.0, back=0.5)  # slow, and yet in time
        await asyncio.sleep(RETRY - 1 + 2.5 + 0.1)
        assert one.election.overdue() == pytest.approx(2.6, abs=0.05)


@on_virtual_time
async def test_three_tries_fit_before_the_deadline(one: Replica) -> None:
    async with one.holding() as task:
        await asyncio.sleep(1)
        one.wire.sent.clear()
        one.wire.fate = lambda: Fate(there=60)  # no answer, as of a server that is paused
        await asyncio.wait([task])
        assert len(one.wire.sent) == 3
        assert 3 * TRY <= RENEW_DEADLINE
        assert one.said[-1] == "no answer about the lease system/meshwright in time"


@on_virtual_time
async def test_one_that_stood_still_too_long_does_not_even_try(one: Replica) -> None:
    await one.election.acquire()
    one.wire.sent.clear()
    await asyncio.sleep(RENEW_DEADLINE)
    with pytest.raises(LeaseLost):
        await one.election.hold()
    assert one.wire.sent == []


@on_virtual_time
async def test_an_answer_that_comes_after_the_deadline_is_no_lead(one: Replica, two: Replica) -> None:
    fates = iter([GOOD, Fate(back=RENEW_DEADLINE + 1, deaf=True)])
    one.wire.fate = lambda: next(fates, GOOD)
    assert await one.leads_after() > RENEW_DEADLINE + 1  # it wrote once more first
    assert one.wire.sent == ["get", "create", "get", "replace"]


@pytest.mark.parametrize(("holder", "who"), [("two", "two"), ("", "nobody")])
@on_virtual_time
async def test_one_whose_lease_was_taken_ends(store: LeaseStore, one: Replica, holder: str, who: str) -> None:
    async with one.holding() as task:
        await asyncio.sleep(5)
        store.edit(holderIdentity=holder)
        await asyncio.wait([task], timeout=RETRY + SOON)
        with pytest.raises(LeaseLost, match=f"was taken by {who}"):
            task.result()
        assert not one.election.leads()
        one.wire.sent.clear()
        await one.election.release()  # of nothing
        assert one.wire.sent == []
        assert store.record["holderIdentity"] == holder


@on_virtual_time
async def test_a_conflict_about_something_else_is_none(store: LeaseStore, one: Replica) -> None:
    async with one.holding() as task:
        for _ in range(20):
            await asyncio.sleep(1)
            store.label()
        assert not task.done()
        assert one.election.leads()
        assert store.lease
        assert store.lease["metadata"]["labels"] == {"somebody": "was-here"}


@on_virtual_time
async def test_a_lease_that_somebody_deleted_is_made_again_by_who_leads(
    store: LeaseStore, one: Replica, two: Replica
) -> None:
    async with one.holding() as task:
        taking = asyncio.create_task(two.leads_after())
        await asyncio.sleep(5)
        for _ in range(50):
            store.lease = None
            await asyncio.sleep(1.3)
            assert not taking.done()
            assert one.election.leads()
        assert not task.done()
    store.lease = None
    killed = now()
    await taking
    assert now() - killed >= RENEW_DEADLINE  # it waits until who led must have noticed


def test_nothing_is_required_of_who_leads() -> None:
    async def life() -> None:
        one = Replica(LeaseStore(), "one")
        with pytest.raises(LeaseLost):
            one.election.require()
        await one.election.acquire()
        one.election.require()
        await asyncio.sleep(RENEW_DEADLINE)
        with pytest.raises(LeaseLost):
            one.election.require()

    run(life())


# -- giving back


@on_virtual_time
async def test_it_does_not_lead_from_the_moment_in_which_it_gives_back(store: LeaseStore, one: Replica) -> None:
    async with one.holding():
        await asyncio.sleep(5)
    giving = asyncio.create_task(one.election.release())
    await asyncio.sleep(0)
    assert not one.election.leads()
    assert store.record["holderIdentity"] == "one"  # nothing of it has arrived yet
    await giving


@on_virtual_time
async def test_giving_back_ends_in_time_whatever_the_server_does(one: Replica) -> None:
    await one.election.acquire()
    one.wire.fate = lambda: Fate(there=60)
    begin = now()
    await one.election.release()
    assert now() - begin == pytest.approx(GIVE_BACK)


@on_virtual_time
async def test_what_was_never_asked_for_is_not_given_back(store: LeaseStore, one: Replica, two: Replica) -> None:
    async with one.holding():
        waiting = asyncio.create_task(two.election.acquire())
        await asyncio.sleep(5)
        waiting.cancel()
        two.wire.sent.clear()
        await two.election.release()
        assert two.wire.sent == []
        assert store.record["holderIdentity"] == "one"


@on_virtual_time
async def test_ended_while_it_takes_the_lease_it_gives_it_back(store: LeaseStore, one: Replica) -> None:
    fates = iter([GOOD, Fate(there=0.1)])
    one.wire.fate = lambda: next(fates, GOOD)
    taking = asyncio.create_task(one.election.acquire())
    await asyncio.sleep(0.1)
    taking.cancel()  # while its write is on the way
    await asyncio.sleep(1)
    assert store.record["holderIdentity"] == "one"
    await one.election.release()
    assert store.record["holderIdentity"] == ""


@on_virtual_time
async def test_a_renewal_that_was_still_on_its_way_is_given_back_too(store: LeaseStore, one: Replica) -> None:
    async with one.holding():
        await asyncio.sleep(2 * RETRY - 0.1)
        one.wire.fate = lambda: Fate(there=1.0)
        await asyncio.sleep(0.25)  # the renewal has left
    one.wire.sent.clear()
    fates = iter([GOOD, Fate(there=1.0)])
    one.wire.fate = lambda: next(fates, GOOD)
    await one.election.release()
    assert one.wire.sent == ["get", "replace", "get", "replace"]  # it arrived between the first two
    assert store.record["holderIdentity"] == ""
