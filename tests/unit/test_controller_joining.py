"""Clusters join, renew and leave, and the operator dies before each of its writes: the end is always the same."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from api.world import short_istio_api
from two_worlds import EAST, GATEWAY, MESH, SYSTEM, WEST, Fate, Worlds

Json = dict[str, Any]
Story = Callable[[Worlds], Coroutine[Any, Any, None]]
JOINED = ("east", "west")
KEPT = ["west Namespace istio-system", "west Secret istio-system/cacerts"]  # never deleted; as the policy says
KILLS = 2  # of each story, spread over its writes; tests/campaign has more


def bound(worlds: Worlds) -> list[int]:
    """How many Secrets there are that tokens are bound to, in each cluster."""
    return [sum(each["metadata"]["name"].startswith("istio-reader-") for each in one.secrets) for one in worlds.all]


def assert_joined(worlds: Worlds) -> None:
    assert worlds.ready["reason"] == "Installed", worlds.ready
    assert (worlds.east.reads, worlds.west.reads) == (("west",), ("east",))
    assert bound(worlds) == [1, 1]  # a former token is revoked
    roots = {worlds.cluster(name)["trust"]["rootFingerprint"] for name in JOINED}
    intermediates = {worlds.cluster(name)["trust"]["intermediateFingerprint"] for name in JOINED}
    assert (len(roots), len(intermediates)) == (1, 2)


async def joins(worlds: Worlds) -> None:
    worlds.declare(EAST, WEST)
    await worlds.rests()
    assert_joined(worlds)


async def joins_later(worlds: Worlds) -> None:
    worlds.declare(EAST)
    await worlds.rests()
    worlds.declare(EAST, WEST)
    await worlds.rests()
    assert_joined(worlds)


async def rotates(worlds: Worlds) -> None:
    await joins(worlds)
    before = [set(each.tokens) for each in worlds.all]
    worlds.annotate("meshwright.dev/rotate-access", "now")
    await worlds.rests()
    assert_joined(worlds)
    for server, tokens in zip(worlds.all, before, strict=True):
        assert not any(server.is_good(each) for each in tokens)


async def renews(worlds: Worlds) -> None:
    """Tokens at half of their thirty days, intermediates at half of their year; also after a long sleep."""
    await joins(worlds)
    roots = {worlds.cluster(name)["trust"]["rootFingerprint"] for name in JOINED}
    former = {worlds.cluster(name)["trust"]["intermediateFingerprint"] for name in JOINED}
    worlds.now += dt.timedelta(days=200)
    await worlds.rests()
    assert {worlds.cluster(name)["trust"]["rootFingerprint"] for name in JOINED} == roots
    assert former.isdisjoint(worlds.cluster(name)["trust"]["intermediateFingerprint"] for name in JOINED)
    assert (worlds.east.reads, worlds.west.reads) == (("west",), ("east",))
    assert bound(worlds) == [1, 1]


async def leaves(worlds: Worlds) -> None:
    await joins(worlds)
    worlds.declare(EAST)
    await worlds.rests()
    assert worlds.ready["reason"] == "Installed", worlds.ready
    assert not worlds.cluster("west")
    assert (worlds.east.reads, worlds.west.reads) == ((), ())
    assert bound(worlds) == [0, 0]
    assert [each for each in worlds.end() if each.startswith("west")] == KEPT


async def is_deleted(worlds: Worlds) -> None:
    await joins(worlds)
    worlds.delete()
    await worlds.rests()
    assert bound(worlds) == [0, 0]
    assert [each for each in worlds.end() if each.startswith("west")] == KEPT


async def is_cut_off_in_the_middle(worlds: Worlds) -> None:
    worlds.declare(EAST)
    await worlds.rests()
    east = {key: each["metadata"]["uid"] for key, each in worlds.east.objects.items() if key.namespace == SYSTEM}
    worlds.west.away = True
    worlds.declare(EAST, WEST)
    await worlds.rests()
    assert worlds.ready["reason"] == "ClusterAway", worlds.ready
    assert worlds.cluster("east")["ready"]
    worlds.west.away = False
    await worlds.rests()
    assert_joined(worlds)
    worlds.west.away = True
    await worlds.rests()
    assert worlds.east.reads == ("west",)  # its access stays
    worlds.west.away = False
    await worlds.rests()
    assert_joined(worlds)
    assert east.items() <= {key: each["metadata"]["uid"] for key, each in worlds.east.objects.items()}.items()


async def never_answers(worlds: Worlds) -> None:
    """Nothing was ever made there, so nobody waits for it when it is listed no more, nor when the mesh is deleted."""
    worlds.west.away = True
    worlds.declare(EAST, WEST)
    await worlds.rests()
    assert worlds.ready["reason"] == "ClusterAway", worlds.ready
    worlds.declare(EAST)
    await worlds.rests()
    assert worlds.ready["reason"] == "Installed", worlds.ready
    assert not worlds.cluster("west")
    worlds.declare(EAST, WEST)
    await worlds.rests()
    worlds.delete()
    await worlds.rests()
    assert worlds.east.objects[MESH]["metadata"]["finalizers"] == []


async def is_served_by_another(worlds: Worlds) -> None:
    """No istiod, no CA: what is there leads to the istiod of the primary, which reads it."""
    remote = {**WEST, "primary": "east"}
    worlds.declare(EAST, remote)
    await worlds.rests()
    assert worlds.ready["reason"] == "Installed", worlds.ready
    assert (worlds.east.reads, worlds.west.reads) == (("west",), ())
    assert "west Secret istio-system/cacerts" not in worlds.end()
    assert {key.name for key in worlds.west.objects if key.kind == "Deployment"} == {GATEWAY}
    slices = worlds.west.one("EndpointSlice", "istiod-ipv4")
    assert [each["addresses"] for each in slices["endpoints"]] == [["192.0.2.9"]]
    environment = worlds.east.one("Deployment", "istiod")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "EXTERNAL_ISTIOD", "value": "true"} in environment
    assert (worlds.cluster("west")["primary"], worlds.cluster("west")["ready"]) == ("east", True)
    worlds.declare(EAST, WEST)  # an istiod of its own, while the other's serves it
    await worlds.rests()
    assert worlds.ready["reason"] == "InvalidSpec", worlds.ready
    worlds.declare(EAST)
    await worlds.rests()
    assert worlds.ready["reason"] == "Installed", worlds.ready
    assert [each for each in worlds.end() if each.startswith("west")] == []
    assert ("Service", "istiod-remotes") not in {(key.kind, key.name) for key in worlds.east.objects}


async def is_verified(worlds: Worlds) -> None:
    """After each change once, by pods that are gone when it is ready; what fails is told, and holds it up."""
    worlds.declare(EAST, WEST, verify="Traffic")
    await worlds.rests()
    assert_joined(worlds)
    assert probes(worlds) == []
    assert {name: [reach["name"] for reach in worlds.cluster(name)["reaches"]] for name in JOINED} == {
        "east": ["west"], "west": ["east"],
    }  # fmt: skip
    assert len(worlds.probed) == 1
    await worlds.rests()
    assert len(worlds.probed) == 1
    worlds.west.passes = False
    worlds.declare(EAST, WEST, verify="Traffic", mtls="Strict")
    await worlds.rests()
    assert worlds.ready["reason"] == "TrafficNotVerified", worlds.ready
    assert "from cluster west to east pass: timed out" in worlds.ready["message"]
    (reach,) = worlds.cluster("west")["reaches"]
    assert (reach["passed"], reach["message"], "lastPass" in reach) == (False, "timed out", True)
    worlds.west.passes = True
    await worlds.rests()
    assert_joined(worlds)
    assert len(worlds.probed) == 2
    worlds.declare(EAST, WEST)
    await worlds.rests()
    assert probes(worlds) == []


def probes(worlds: Worlds) -> list[str]:
    return [each for each in worlds.end() if "meshwright-probe" in each]


async def is_deleted_while_it_is_verified(worlds: Worlds) -> None:
    worlds.east.passes = False
    worlds.declare(EAST, WEST, verify="Traffic")
    await worlds.rests()
    assert len(probes(worlds)) == 6
    worlds.delete()
    await worlds.rests()
    assert [each for each in worlds.end() if each.startswith("west")] == KEPT


async def is_lost(worlds: Worlds) -> None:
    """Listed no more, it is waited for, until somebody says that it will never answer."""
    await joins(worlds)
    tokens = set(worlds.east.tokens)
    worlds.west.away = True
    worlds.declare(EAST)
    await worlds.rests()
    assert worlds.ready["reason"] == "ClusterAway", worlds.ready
    assert bound(worlds)[0] == 1  # what it holds is good still
    worlds.annotate("meshwright.dev/forget", "west")
    await worlds.rests()
    assert worlds.ready["reason"] == "Installed", worlds.ready
    assert not worlds.cluster("west")
    assert not any(worlds.east.is_good(each) for each in tokens)
    assert {each["metadata"]["name"] for each in worlds.east.secrets} == {"cacerts"}


async def is_rebuilt(worlds: Worlds) -> None:
    """Under its former name: it joins again, and what the former one held is worth nothing."""
    await joins(worlds)
    former, uid = set(worlds.east.tokens), worlds.cluster("west")["uid"]
    worlds.rebuild_west()
    await worlds.rests()
    assert_joined(worlds)
    assert worlds.cluster("west")["uid"] != uid
    assert not any(worlds.east.is_good(each) for each in former)


STORIES: tuple[Story, ...] = (
    joins,
    joins_later,
    rotates,
    renews,
    leaves,
    is_deleted,
    is_cut_off_in_the_middle,
    never_answers,
    is_served_by_another,
    is_verified,
    is_deleted_while_it_is_verified,
    is_lost,
    is_rebuilt,
)


def play(story: Story, fate: Fate) -> Worlds:
    worlds = Worlds(fate)
    asyncio.run(story(worlds))
    return worlds


@pytest.fixture(autouse=True)
def _short() -> Iterator[None]:
    """Istio's kinds are most of the work, and none of the matter."""
    with short_istio_api():
        yield


@pytest.mark.parametrize("story", STORIES, ids=[each.__name__ for each in STORIES])
def test_whenever_the_operator_dies_the_end_is_the_same(story: Story) -> None:
    assert_same_end(story, kills=KILLS)


def assert_same_end(story: Story, *, kills: int) -> None:
    """With the operator killed so many times, once in each run."""
    undisturbed = play(story, Fate())
    writes = undisturbed.fate.writes
    assert undisturbed.deaths == 0
    assert writes > 0
    for number in range(writes // (2 * kills), writes, max(writes // kills, 1)):
        disturbed = play(story, Fate(number))
        assert disturbed.deaths == 1, number
        assert disturbed.end() == undisturbed.end(), f"killed before write {number} of {writes}"
