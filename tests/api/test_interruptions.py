"""Stopped at any request, by whatever cause, the operator comes to the same end: one root, the same objects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import aiohttp
import pytest

from api.world import (
    OPERATOR_NAMESPACE,
    Json,
    Mesh,
    Operator,
    Sent,
    Wire,
    canonical,
)
from meshwright.api.errors import MeshwrightError, Unreachable
from meshwright.cluster import client

LIVES_AT_ONCE = 4


class KilledError(BaseException):
    """The process is gone: no handler of ours runs any more."""


def kill_at(op: Operator, number: int, *, sent: bool) -> Callable[[], int]:
    """Ends `op` at its write `number`, before or after it was sent. Returns how many writes there were."""
    count, dead = 0, False

    def write(_: Sent) -> None:
        nonlocal count, dead
        count += 1
        if count == number:
            dead = True
            raise KilledError

    def before(request: Sent) -> None:
        if dead:
            raise KilledError
        if request.writes and not sent:
            write(request)

    def after(request: Sent) -> None:
        if dead:
            raise KilledError
        if request.writes and sent:
            write(request)

    op.wire.before, op.wire.after = before, after
    return lambda: count


async def settle(op: Operator, mesh: Mesh) -> None:
    """The world plays along until the mesh is Ready; then a last look finds nothing to do."""
    for _ in range(8):
        await op.reconcile(mesh)
        ready = mesh.condition()
        if ready["reason"] == "Installed":
            break
        if "CA into" in ready["message"]:
            mesh.istiod_writes_its_ca()
        elif mesh.cluster.get(mesh.deployment_path):
            mesh.istiod_becomes_available()
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []
    assert mesh.condition()["reason"] == "Installed"


def root(mesh: Mesh) -> Json | None:
    secret = mesh.cluster.get(mesh.root_path)
    return secret["data"] if secret else None


async def interrupted_install(wire: Wire, mesh: Mesh, number: int, *, sent: bool) -> bool:
    """Install `mesh` with the operator killed at write `number`. False when there are fewer writes."""
    mesh.create()
    first = Operator.start(wire.again())
    kill_at(first, number, sent=sent)
    try:
        await settle(first, mesh)
    except KilledError:
        killed = True
        await asyncio.sleep(0.05)  # what was on its way still arrives
    else:
        killed = False
    made = root(mesh)
    if killed:
        await settle(Operator.start(wire.again()), mesh)
        if made:
            assert root(mesh) == made, f"another root after write {number}"
    path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/secrets"
    assert len(mesh.cluster.list(path, f"meshwright.dev/mesh={mesh.name}")) == 1
    return killed


WRITES = 40  # a few more than an install has


@pytest.mark.parametrize(
    ("sent", "numbers"),
    [
        pytest.param(False, range(1, WRITES), id="before"),
        # What the cluster then holds is what it holds before the next write; so some of them will do.
        pytest.param(True, range(1, WRITES, 4), id="after"),
    ],
)
async def test_killed_at_every_write(
    op: Operator,
    new_mesh: Callable[..., Mesh],
    sent: bool,  # noqa: FBT001
    numbers: range,
) -> None:
    undisturbed = new_mesh()
    assert not await interrupted_install(op.wire, undisturbed, WRITES, sent=sent)  # so no write is left out
    expected = canonical(undisturbed)
    slots = asyncio.Semaphore(LIVES_AT_ONCE)

    async def check(number: int) -> bool:
        async with slots:
            mesh = new_mesh()
            killed = await interrupted_install(op.wire, mesh, number, sent=sent)
            assert canonical(mesh) == expected, f"killed at write {number}"
            return killed

    killed = await asyncio.gather(*(check(number) for number in numbers))
    assert sum(killed) > len(killed) * 0.8


@contextmanager
def unreachable(op: Operator, number: int) -> Iterator[None]:
    """From its request `number` on, the connection fails."""
    count = 0

    def fail(_: Sent) -> None:
        nonlocal count
        count += 1
        if count >= number:
            raise Unreachable("the API server does not answer") from aiohttp.ClientConnectionError()

    op.wire.before = fail
    yield
    op.wire.before = lambda _: None


@pytest.mark.parametrize("number", [1, 2, 7, 12, 20, 30, 40])
async def test_connection_that_breaks(op: Operator, mesh: Mesh, number: int) -> None:
    """Also the status cannot be written then, so the error itself must ask for another try."""
    mesh.create()
    with unreachable(op, number), pytest.raises(Unreachable):
        await op.reconcile(mesh)
    await settle(op, mesh)


async def test_requests_that_fail_now_and_then(op: Operator, mesh: Mesh) -> None:
    """A server that drops every seventh request is worked with, and the condition says what happened."""
    mesh.create()
    count = 0

    def fail(request: Sent) -> None:
        nonlocal count
        count += 1
        if count % 7 == 0 and not request.reports:
            raise Unreachable(f"{request.what}: the API server does not answer")

    op.wire.before = fail
    seen = set()
    for _ in range(30):
        with suppress(MeshwrightError):
            again = await op.reconcile(mesh)
            ready = mesh.condition()
            seen.add(ready["reason"])
            if ready["reason"] == "ClusterUnreachable":
                assert again
                assert again.failed
                assert "the API server does not answer" in ready["message"]
                assert mesh.condition("Stalled")["status"] == "False"
    assert "ClusterUnreachable" in seen
    op.wire.before = lambda _: None
    await settle(op, mesh)


async def test_server_that_hangs(op: Operator, mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has an end, and the operator lives on."""
    monkeypatch.setattr(client, "REQUEST_TIMEOUT", 0.3)
    mesh.create()
    mesh.cluster.api.pause(hang=True)
    try:
        with pytest.raises(Unreachable, match="does not answer"):
            await op.reconcile(mesh)
    finally:
        mesh.cluster.api.resume()
    monkeypatch.undo()
    await settle(op, mesh)


async def test_server_that_goes_in_the_middle(op: Operator, mesh: Mesh) -> None:
    mesh.create()

    def stop(request: Sent) -> None:
        if "apply ConfigMap" in request.what:
            op.wire.before = lambda _: None
            mesh.cluster.api.pause()

    op.wire.before = stop
    try:
        with pytest.raises(Unreachable, match="does not answer"):
            await op.reconcile(mesh)
    finally:
        mesh.cluster.api.resume()
    assert mesh.cluster.get(mesh.cacerts_path)
    made = root(mesh)
    await settle(op, mesh)
    assert root(mesh) == made


async def test_two_operators_at_once(op: Operator, second_op: Operator, mesh: Mesh) -> None:
    """There should be one; two make one root between them."""
    mesh.create()
    both = await asyncio.gather(op.reconcile(mesh), second_op.reconcile(mesh), return_exceptions=True)
    assert not [each for each in both if isinstance(each, BaseException) and not isinstance(each, MeshwrightError)]
    made = root(mesh)
    assert made
    await settle(op, mesh)
    assert root(mesh) == made
    assert mesh.cluster.must_get(mesh.cacerts_path)["data"]["root-cert.pem"] == made["root-cert.pem"]
