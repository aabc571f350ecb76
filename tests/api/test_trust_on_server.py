"""A mesh's Secrets on a real API server: made once, renewed and deleted only as they were read."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from api.world import NOW, OPERATOR_NAMESPACE, Mesh, Operator
from meshwright.api.errors import Conflict, MeshwrightError, NotFound, TransientError, TrustError
from meshwright.keys.store import KubernetesSecrets
from meshwright.keys.trust import (
    Secret,
    Standing,
    Stores,
    ensure_trust,
    look_at_trust,
    remove_intermediate,
    remove_root,
)
from meshwright.mesh.desired import TrustIntent
from meshwright.mesh.trust import Trust, fingerprints

HALF_LIFE = NOW + dt.timedelta(days=183)
OPERATORS = 4  # at once

SMALL = {"certificate": b"one", "key": b"two"}


@pytest.fixture
def store(op: Operator) -> KubernetesSecrets:
    return KubernetesSecrets(op.wire)


@pytest.fixture
def secret(mesh: Mesh) -> Secret:
    """In a namespace that is there, and not created yet."""
    mesh.cluster.make_namespace(mesh.namespace)
    return Secret(mesh.namespace, "small", labels={"a": "b"}, files=SMALL)


def path(secret: Secret) -> str:
    return f"/api/v1/namespaces/{secret.namespace}/secrets/{secret.name}"


def intent(mesh: Mesh) -> TrustIntent:
    return TrustIntent(
        mesh=mesh.name, mesh_id="cluster.local", trust_domain="cluster.local", cluster="primary",
        root_secret=f"meshwright-root-{mesh.name}", namespace=mesh.namespace, signing_secret="cacerts",
    )  # fmt: skip


async def ensure(store: KubernetesSecrets, mesh: Mesh, *, now: dt.datetime = NOW) -> Trust:
    return await ensure_trust(intent(mesh), Stores(store, store, OPERATOR_NAMESPACE), now=now)


async def look(store: KubernetesSecrets, mesh: Mesh, *, now: dt.datetime = NOW) -> Standing:
    return await look_at_trust(intent(mesh), Stores(store, store, OPERATOR_NAMESPACE), now=now)


async def remove(store: KubernetesSecrets, mesh: Mesh) -> None:
    stores = Stores(store, store, OPERATOR_NAMESPACE)
    await remove_intermediate(intent(mesh), stores)
    await remove_root(intent(mesh), stores)


async def ensure_until_it_wins(store: KubernetesSecrets, mesh: Mesh, *, now: dt.datetime) -> Trust:
    """As an operator does: what is transient is tried again."""
    while True:
        try:
            return await ensure(store, mesh, now=now)
        except TransientError:
            continue


# A mesh's trust, from its first day to its last


async def test_a_life(op: Operator, store: KubernetesSecrets, mesh: Mesh) -> None:
    assert await look(store, mesh) == Standing(root_fingerprint=None, trust=None)
    made = await ensure(store, mesh)
    assert [what.partition(" ")[0] for what in op.wire.writes()] == ["create", "create", "create"]
    assert await look(store, mesh) == Standing(made.root_fingerprint, made)
    assert await look(store, mesh, now=HALF_LIFE) == Standing(made.root_fingerprint, made, renewal_due=True)

    op.wire.sent.clear()
    renewed = await ensure(store, mesh, now=HALF_LIFE)
    assert op.wire.writes() == [f"update Secret {mesh.namespace}/cacerts"]
    assert renewed.root_fingerprint == made.root_fingerprint
    assert renewed.intermediate_fingerprint != made.intermediate_fingerprint
    assert await look(store, mesh, now=HALF_LIFE) == Standing(made.root_fingerprint, renewed)

    op.wire.sent.clear()
    await remove(store, mesh)
    await remove(store, mesh)
    cacerts, root = f"{mesh.namespace}/cacerts", f"{OPERATOR_NAMESPACE}/meshwright-root-{mesh.name}"
    assert op.wire.writes() == [f"delete Secret {cacerts}", f"delete Secret {root}"]
    assert mesh.cluster.get(mesh.cacerts_path) is mesh.cluster.get(mesh.root_path) is None


async def test_a_look_at_what_is_there_takes_two_reads(op: Operator, store: KubernetesSecrets, mesh: Mesh) -> None:
    await ensure(store, mesh)
    op.wire.sent.clear()
    await look(store, mesh)
    assert [request.what for request in op.wire.sent] == [
        f"get Secret {mesh.namespace}/cacerts",
        f"get Secret {OPERATOR_NAMESPACE}/meshwright-root-{mesh.name}",
    ]


async def test_a_renewal_leaves_what_others_put_beside_it(store: KubernetesSecrets, mesh: Mesh) -> None:
    await ensure(store, mesh)
    theirs = {"labels": {"team": "mesh"}, "annotations": {"note": "x"}, "finalizers": ["example.com/keep"]}
    mesh.cluster.merge(mesh.cacerts_path, {"metadata": theirs, "stringData": {"ca-crl.pem": "a list"}})
    before = mesh.cluster.must_get(mesh.cacerts_path)
    await ensure(store, mesh, now=HALF_LIFE)
    after = mesh.cluster.must_get(mesh.cacerts_path)
    for kept in ("uid", "labels", "annotations", "finalizers"):
        assert after["metadata"][kept] == before["metadata"][kept]
    changed = {name for name, content in after["data"].items() if content != before["data"].get(name)}
    assert changed == {"ca-cert.pem", "ca-key.pem", "cert-chain.pem"}
    assert after["data"].keys() == before["data"].keys()
    mesh.cluster.merge(mesh.cacerts_path, {"metadata": {"finalizers": None}})


async def test_operators_at_the_same_time_make_one_root(op: Operator, store: KubernetesSecrets, mesh: Mesh) -> None:
    for now, writes in ((NOW, {"create"}), (HALF_LIFE, {"update"})):
        op.wire.sent.clear()
        made = await asyncio.gather(*(ensure_until_it_wins(store, mesh, now=now) for _ in range(OPERATORS)))
        assert len(set(made)) == 1
        assert {what.partition(" ")[0] for what in op.wire.writes()} == writes
        bundle = base64.b64decode(mesh.cluster.must_get(mesh.cacerts_path)["data"]["root-cert.pem"]).decode()
        assert fingerprints(bundle) == {made[0].root_fingerprint}
        assert (await look(store, mesh, now=now)).trust == made[0]


async def test_a_removal_leaves_what_is_not_ours(store: KubernetesSecrets, mesh: Mesh) -> None:
    await ensure(store, mesh)
    mesh.cluster.merge(mesh.root_path, {"metadata": {"labels": {"meshwright.dev/mesh-id": "another"}}})
    await remove(store, mesh)
    assert mesh.cluster.get(mesh.cacerts_path) is None
    assert mesh.cluster.get(mesh.root_path)


async def test_the_root_of_an_earlier_istiod_is_said_and_left_alone(
    op: Operator, store: KubernetesSecrets, mesh: Mesh
) -> None:
    mesh.cluster.make_namespace(mesh.namespace)
    metadata = {"namespace": mesh.namespace, "name": "istio-ca-secret"}
    theirs = {"apiVersion": "v1", "kind": "Secret", "type": "istio.io/ca-root", "metadata": metadata}
    mesh.cluster.create({**theirs, "stringData": {"ca-cert.pem": "x", "ca-key.pem": "y"}})
    with pytest.raises(TrustError, match=f"^Secret {mesh.namespace}/istio-ca-secret is the CA that an earlier istiod"):
        await ensure(store, mesh)
    assert op.wire.writes() == []


# What was read is what is written or deleted


async def changed(_store: KubernetesSecrets, mesh: Mesh, secret: Secret) -> None:
    mesh.cluster.merge(path(secret), {"metadata": {"annotations": {"by": "somebody"}}})


async def made_anew(store: KubernetesSecrets, mesh: Mesh, secret: Secret) -> None:
    mesh.cluster.delete(path(secret))
    await store.create(secret)


Between = Callable[[KubernetesSecrets, Mesh, Secret], Awaitable[None]]


@pytest.mark.parametrize("between", [changed, made_anew])
@pytest.mark.parametrize("verb", ["update", "delete"])
async def test_what_is_another_by_now_is_a_conflict(
    store: KubernetesSecrets, mesh: Mesh, secret: Secret, verb: str, between: Between
) -> None:
    await store.create(secret)
    read = await store.read(secret.namespace, secret.name)
    assert read
    await between(store, mesh, secret)
    before = mesh.cluster.must_get(path(secret))
    with pytest.raises(Conflict):
        await getattr(store, verb)(replace(read, files={"key": b"three"}))
    assert mesh.cluster.must_get(path(secret)) == before


@pytest.mark.parametrize(
    "stale",
    [lambda read: replace(read, uid="1"), lambda read: replace(read, resource_version="1")],
    ids=["uid", "resourceVersion"],
)
async def test_a_delete_asks_for_both_the_incarnation_and_the_version(
    store: KubernetesSecrets, mesh: Mesh, secret: Secret, stale: Callable[[Secret], Secret]
) -> None:
    await store.create(secret)
    read = await store.read(secret.namespace, secret.name)
    assert read
    with pytest.raises(Conflict):
        await store.delete(stale(read))
    assert mesh.cluster.get(path(secret))
    await store.delete(read)
    assert mesh.cluster.get(path(secret)) is None
    await store.delete(read)  # gone already


async def test_an_update_that_is_overtaken_on_its_way_is_a_conflict(
    op: Operator, store: KubernetesSecrets, mesh: Mesh, secret: Secret
) -> None:
    """Between the update's own read and its write, too."""
    await store.create(secret)
    read = await store.read(secret.namespace, secret.name)
    assert read

    def overtake(request: object) -> None:
        if getattr(request, "method", "") == "PUT":
            mesh.cluster.merge(path(secret), {"metadata": {"annotations": {"by": "somebody"}}})

    op.wire.before = overtake
    with pytest.raises(Conflict):
        await store.update(replace(read, files={"key": b"three"}))
    now_there = await store.read(secret.namespace, secret.name)
    assert now_there
    assert now_there.files == SMALL


async def test_a_second_create_is_a_conflict(store: KubernetesSecrets, secret: Secret) -> None:
    await store.create(secret)
    with pytest.raises(Conflict):
        await store.create(replace(secret, files={"key": b"three"}))
    read = await store.read(secret.namespace, secret.name)
    assert read
    assert read.files == SMALL


async def test_what_is_written_is_under_a_name_of_its_own(store: KubernetesSecrets, mesh: Mesh) -> None:
    await ensure(store, mesh)
    await ensure(store, mesh, now=HALF_LIFE)
    for where in (mesh.cacerts_path, mesh.root_path):
        writers = {each["manager"] for each in mesh.cluster.must_get(where)["metadata"]["managedFields"]}
        assert writers == {"meshwright-trust"}


# What the API server says of a Secret that it refuses

BODY = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQ"


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        ({"namespace": "no-such-namespace"}, NotFound),
        ({"name": "No Name"}, MeshwrightError),
        ({"labels": {"not a label": "!"}}, MeshwrightError),
        ({"files": {"no/file": BODY.encode()}}, MeshwrightError),
    ],
)
async def test_a_secret_that_is_refused_shows_nothing_of_its_content(
    store: KubernetesSecrets, secret: Secret, spoil: dict[str, object], error: type[Exception]
) -> None:
    spoilt = replace(secret, **{"files": {"key": BODY.encode()}, **spoil})  # type: ignore[arg-type]
    with pytest.raises(error) as caught:
        await store.create(spoilt)
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert BODY not in text
    assert base64.b64encode(BODY.encode()).decode()[:40] not in text
