"""Members: a connection for each kubeconfig Secret, and who of them answers."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from meshes import NOW, mesh
from meshwright.api.errors import KubeconfigError, MeshwrightError, Unreachable
from meshwright.cluster.gather import Source
from meshwright.cluster.kubeconfig import Access
from meshwright.controller import members as module
from meshwright.controller.members import Member, Members, sources
from meshwright.mesh.findings import Finding
from meshwright.mesh.observed import Absent

SPEC = mesh(clusters=[{"name": "primary"}, {"name": "west", "kubeconfigSecret": "west"}]).spec


def secret(version: str, *, server: str = "https://192.0.2.2:6443", user: dict[str, str] | None = None) -> Any:
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "west",
        "clusters": [{"name": "west", "cluster": {"server": server}}],
        "contexts": [{"name": "west", "context": {"cluster": "west", "user": "me"}}],
        "users": [{"name": "me", "user": user or {"token": "t"}}],
    }  # fmt: skip
    data = {"kubeconfig": base64.b64encode(json.dumps(config).encode()).decode()}
    return {"metadata": {"name": "west", "resourceVersion": version}, "data": data}


class Server:
    """An API server: the own one with its Secret, or a member that answers, or not."""

    def __init__(self, stored: Any = None) -> None:
        self.stored, self.trouble, self.closed = stored, cast("MeshwrightError | None", None), False
        self.asked = 0
        self.clock: dt.timedelta | None = None
        self.forbidden = ""
        self.guard: Callable[[], None] = lambda: None

    async def get(self, *_: object, **__: object) -> Any:
        return self.stored

    async def version(self) -> str:
        self.asked += 1
        if self.trouble:
            raise self.trouble
        return "v1.34.0"

    async def may(self, _verb: str, _group: str, resource: str) -> bool:
        return resource != self.forbidden

    async def close(self) -> None:
        self.closed = True


class Mirror:
    synced = True

    async def run(self) -> None:
        await asyncio.Event().wait()


class World:
    def __init__(self) -> None:
        self.own, self.others, self.turns = Server(secret("1")), list[tuple[Access, Server]](), 0
        self.members = Members(
            Member(cast("Any", self.own), cast("Any", self.own)), namespace="meshwright-system", now=lambda: NOW,
            connect=self._connect, reflect=lambda _: cast("Any", Mirror()), changed=self._changed,
        )  # fmt: skip

    def _connect(self, access: Access) -> Any:
        self.others.append((access, Server()))
        return self.others[-1][1]

    def _changed(self) -> None:
        self.turns += 1

    async def west(self) -> Member | Absent:
        return (await self.members.of(SPEC))["west"]


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    subject = World()
    try:
        yield subject
    finally:
        await subject.members.close()
        assert all(server.closed for _, server in subject.others)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE", 0.005)
    monkeypatch.setattr(module, "PERMISSIONS_HOLD", 0.0)


async def test_one_connection_for_all_who_name_the_secret() -> None:
    async with world() as subject:
        first, second = await subject.west(), await subject.west()
        assert isinstance(first, Member)
        assert first is second
        assert (await subject.members.of(SPEC))["primary"] is subject.members.own
        ((access, _),) = subject.others
        assert access.server == "https://192.0.2.2:6443"


async def test_another_kubeconfig_is_another_connection() -> None:
    async with world() as subject:
        before = await subject.west()
        subject.own.stored = secret("2", server="https://192.0.2.3:6443")
        after = await subject.west()
        assert before is not after
        assert [access.server for access, _ in subject.others] == ["https://192.0.2.2:6443", "https://192.0.2.3:6443"]
        assert not subject.others[0][1].closed  # somebody may still be at work with it


async def test_what_cannot_be_used_is_told_with_its_place() -> None:
    async with world() as subject:
        subject.own.stored = None
        assert await subject.west() == Absent("west", Finding(
            "KubeconfigNotUsable",
            "cluster west: Secret meshwright-system/west is not there: create it with the cluster's kubeconfig in key"
            " kubeconfig",
        ))  # fmt: skip
        subject.own.stored = {"metadata": {"resourceVersion": "2"}}
        absent = await subject.west()
        assert isinstance(absent, Absent)
        assert "has no key kubeconfig" in absent.why.message
        subject.own.stored = secret("3", user={"tokenFile": "/etc/passwd"})
        absent = await subject.west()
        assert isinstance(absent, Absent)
        assert "tokenFile" in absent.why.message
        assert subject.others == []


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [(Unreachable("no answer"), "ClusterAway"), (KubeconfigError("refused"), "KubeconfigNotUsable")],
    ids=["silent", "refused"],
)
async def test_who_does_not_answer_is_away_until_it_does(trouble: MeshwrightError, reason: str) -> None:
    async with world() as subject:
        member = await subject.west()
        assert isinstance(member, Member)
        _, server = subject.others[0]
        server.trouble = trouble
        await until(lambda: member.away is not None)
        absent = await subject.west()
        assert isinstance(absent, Absent)
        assert absent.why.reason == reason
        assert str(trouble) in absent.why.message
        assert absent.why.message.endswith("away since 2026-03-01 12:00:00 UTC")
        asked = server.asked
        await until(lambda: server.asked > asked + 3)
        assert subject.turns == 1  # told once
        server.trouble = None
        await until(lambda: member.away is None)
        assert subject.turns == 2
        assert await subject.west() is member


async def test_what_is_written_there_is_guarded_like_all_else() -> None:
    async with world() as subject:
        await subject.west()
        assert subject.others[0][1].guard is subject.own.guard


async def test_what_may_be_done_there_and_what_time_it_is_are_learnt() -> None:
    async with world() as subject:
        member = await subject.west()
        assert isinstance(member, Member)
        server = subject.others[0][1]
        server.clock, server.forbidden = dt.timedelta(seconds=90), "services"
        await until(lambda: bool(member.denied))
        source = sources({"primary": subject.members.own, "west": member})["west"]
        assert isinstance(source, Source)
        assert source.clock == dt.timedelta(seconds=90)
        assert source.denied == ("patch services",)


async def test_of_many_members_only_some_start_at_a_time() -> None:
    """And those that wait are away, so that nobody asks all of them at once for what informers will know."""
    names = [f"m{number}" for number in range(10)]
    spec = mesh(clusters=[{"name": name, "kubeconfigSecret": name} for name in names]).spec
    async with world() as subject:
        Mirror.synced = False
        try:
            found = await subject.members.of(spec)
            assert sum(isinstance(each, Member) for each in found.values()) == module.OPENINGS
            waiting = [each for each in found.values() if isinstance(each, Absent)]
            assert {each.why.reason for each in waiting} == {"ClusterAway"}
            assert "was not looked at yet" in waiting[0].why.message
            Mirror.synced = True
            async with asyncio.timeout(5):
                while any(isinstance(each, Absent) for each in (await subject.members.of(spec)).values()):  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.01)
        finally:
            Mirror.synced = True
