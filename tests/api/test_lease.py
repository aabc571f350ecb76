"""Leader election on a real API server: in hand with short times, between two processes with those of production."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from api.test_process import Process
from api.world import OPERATOR_NAMESPACE, Cluster, Json, operator
from meshwright.api.errors import LeaseLost
from meshwright.cluster.lease import Election
from testbed.rest import wait_until

DURATION, RENEW_DEADLINE, RETRY = 3.0, 2.0, 0.3  # seconds
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{OPERATOR_NAMESPACE}/leases"
AFTER_SIGTERM, AFTER_SIGKILL = 3.0, 20.0  # seconds; at most
LAST_SECONDS = 5.0

_numbers = itertools.count(1)


@dataclass
class Lease:
    """One that no other test uses, and two that want it."""

    cluster: Cluster
    one: Election
    two: Election
    name: str
    said: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"{LEASES}/{self.name}"

    @property
    def record(self) -> Json:
        record: Json = self.cluster.must_get(self.path)["spec"]
        return record


@pytest.fixture
async def lease(cluster: Cluster) -> AsyncIterator[Lease]:
    name = f"election-{next(_numbers)}"
    said: list[str] = []
    async with operator(cluster.api.kubeconfig) as first, operator(cluster.api.kubeconfig) as second:
        one, two = (
            Election(
                each.wire, namespace=OPERATOR_NAMESPACE, name=name, identity=identity, tell=said.append,
                duration=DURATION, renew_deadline=RENEW_DEADLINE, retry=RETRY,
            )
            for each, identity in ((first, "one"), (second, "two"))
        )  # fmt: skip
        yield Lease(cluster, one, two, name, said)


@asynccontextmanager
async def held(election: Election) -> AsyncIterator[asyncio.Task[None]]:
    await election.acquire()
    task = asyncio.create_task(election.hold())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_server_takes_the_record(lease: Lease) -> None:
    async with held(lease.one):
        await asyncio.sleep(2.5 * RETRY)
        record = lease.record
        assert record["holderIdentity"] == "one"
        assert (record["leaseDurationSeconds"], record["leaseTransitions"]) == (3, 0)
        assert record["renewTime"] > record["acquireTime"]
    lister = lease.cluster.api.kubectl("-n", OPERATOR_NAMESPACE, "get", "lease", lease.name)
    assert "one" in lister


async def test_given_back_it_is_taken_at_the_next_look(lease: Lease) -> None:
    async with held(lease.one):
        taking = asyncio.create_task(lease.two.acquire())
        await asyncio.sleep(DURATION + 1)
        assert not taking.done()
        assert lease.one.leads()
    begin = time.monotonic()
    await lease.one.release()
    assert lease.record["holderIdentity"] == ""
    await taking
    print(f"given back and taken after {time.monotonic() - begin:.2f} s; a look each {RETRY} s")
    assert time.monotonic() - begin < RETRY + 1
    assert lease.record["leaseTransitions"] == 1
    assert lease.said == ["this replica leads", "one leads", "this replica leads"]


async def test_not_renewed_it_is_taken_when_it_has_expired(lease: Lease) -> None:
    async with held(lease.one):
        taking = asyncio.create_task(lease.two.acquire())
        await asyncio.sleep(DURATION)
    begin = time.monotonic()
    await taking
    print(f"taken {time.monotonic() - begin:.2f} s after the leader stopped renewing; the lease lasts {DURATION} s")
    assert not lease.one.leads()
    assert DURATION - RETRY - 0.2 < time.monotonic() - begin < DURATION + 1


async def test_of_two_takers_one_leads(lease: Lease) -> None:
    takers = [asyncio.create_task(each.acquire()) for each in (lease.one, lease.two)]
    await asyncio.wait(takers, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(2 * RETRY)
    assert [lease.one.leads(), lease.two.leads()].count(True) == 1
    for each in takers:
        each.cancel()


async def test_taken_by_another_it_ends(lease: Lease) -> None:
    async with held(lease.one) as task:
        lease.cluster.merge(lease.path, {"spec": {"holderIdentity": "somebody"}})
        await asyncio.wait([task], timeout=RETRY + 2)
        with pytest.raises(LeaseLost, match="taken by somebody"):
            task.result()


async def test_while_the_server_is_away_it_ends_in_time(lease: Lease) -> None:
    async with held(lease.one) as task:
        lease.cluster.api.pause()
        begin = time.monotonic()
        try:
            await asyncio.wait([task], timeout=RENEW_DEADLINE + 2)
            assert not lease.one.leads()
            with pytest.raises(LeaseLost, match="not renewed"):
                task.result()
            assert time.monotonic() - begin < RENEW_DEADLINE + 0.5
        finally:
            lease.cluster.api.resume()
    await lease.two.acquire()


# -- two processes


Start = Callable[[], Process]


@pytest.fixture
def start(cluster: Cluster, tmp_path: Path) -> Iterator[Start]:
    cluster.delete(f"{LEASES}/meshwright")
    with ExitStack() as stack:
        stack.callback(cluster.delete, f"{LEASES}/meshwright")

        def one_more() -> Process:
            process = Process(cluster.api.kubeconfig, tmp_path / f"log-{next(_numbers)}")
            stack.callback(process.kill)
            return process

        yield one_more


def await_lead(process: Process, seconds: float) -> float:
    """Seconds until it says so."""
    begin = time.monotonic()
    wait_until(lambda: "this replica leads" in process.said(), "the lead", seconds=seconds, pause=0.02)
    return time.monotonic() - begin


def await_standby(process: Process) -> None:
    wait_until(lambda: " leads" in process.said(), "its first look", seconds=25, pause=0.02)
    assert "this replica leads" not in process.said()
    assert process.ask("/healthz") == (200, "ok")
    assert process.ask("/readyz") == (200, "ok")


def test_a_leader_that_ends_is_followed_at_once(start: Start) -> None:
    leader = start()
    await_lead(leader, 25)
    standby = start()
    await_standby(standby)
    begin = time.monotonic()
    leader.send(signal.SIGTERM)
    taken = await_lead(standby, 10)
    assert leader.end() == 0
    ended = time.monotonic() - begin
    print(f"after SIGTERM: another leads after {taken:.2f} s, and the process has ended after {ended:.2f} s")
    assert taken <= AFTER_SIGTERM
    assert ended <= LAST_SECONDS


def test_a_leader_that_is_killed_is_followed_when_its_lease_has_expired(start: Start) -> None:
    leader = start()
    await_lead(leader, 25)
    standby = start()
    await_standby(standby)
    leader.kill()
    taken = await_lead(standby, 30)
    print(f"after SIGKILL: another leads after {taken:.2f} s")
    assert taken <= AFTER_SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_waits_can_be_ended(start: Start, number: signal.Signals) -> None:
    leader = start()
    await_lead(leader, 25)
    standby = start()
    await_standby(standby)
    begin = time.monotonic()
    standby.send(number)
    assert standby.end() == 0
    assert time.monotonic() - begin <= LAST_SECONDS
    assert "Traceback" not in standby.said()
    assert leader.ask("/healthz") == (200, "ok")


def test_a_leader_whose_lease_is_taken_ends_with_one_plain_line(start: Start, cluster: Cluster) -> None:
    leader = start()
    await_lead(leader, 25)
    begin = time.monotonic()
    cluster.merge(f"{LEASES}/meshwright", {"spec": {"holderIdentity": "somebody"}})
    assert leader.end() == 1
    print(f"ended {time.monotonic() - begin:.2f} s after its lease was taken")
    assert time.monotonic() - begin <= 2 + LAST_SECONDS
    *_, last = leader.said().splitlines()
    assert last == f"error: the lease {OPERATOR_NAMESPACE}/meshwright was taken by somebody"
    assert "Traceback" not in leader.said()
