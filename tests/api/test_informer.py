"""Informers on a real API server: what they know is what there is, whatever was missed on the way."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from api.world import ACTIONS, MESHES, NOW, Cluster, Json, Mesh
from meshwright.api.errors import Unreachable
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.gather import gather
from meshwright.cluster.informer import Informer
from meshwright.cluster.kinds import CONFIG_MAP, CRD, DEPLOYMENT, KINDS, MUTATING_WEBHOOK, Kind
from meshwright.cluster.mirror import Mirror, mirror_of
from meshwright.mesh.enrolment import Injection
from meshwright.mesh.names import Names
from testbed.rest import wait_until

OURS = {"app.kubernetes.io/managed-by": "meshwright"}
WRITERS = 32  # requests at once
_numbers = itertools.count(1)


class Asked(Client):
    """A client that counts its requests; watches are none."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__(configuration)
        self.asked: list[str] = []

    async def _request(self, method: str, path: str, *args: Any, **kwargs: Any) -> Json:
        self.asked.append(kwargs["what"])
        return await super()._request(method, path, *args, **kwargs)


@pytest_asyncio.fixture
async def client(cluster: Cluster) -> AsyncIterator[Asked]:
    configuration = Configuration()
    await config.load_kube_config(config_file=str(cluster.api.kubeconfig), client_configuration=configuration)
    connected = Asked(configuration)
    yield connected
    await connected.close()


@pytest.fixture
def space(cluster: Cluster) -> Iterator[str]:
    """A namespace; what others would see of it goes away with it."""
    name = f"informer{next(_numbers)}"
    cluster.make_namespace(name)
    account = {"name": "default", "namespace": name}  # pods have one, and no controller makes it here
    cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    yield name
    names = Names(name, name)
    cluster.delete(f"{DEPLOYMENT.path(name)}/{names.istiod}")
    cluster.delete(f"{MUTATING_WEBHOOK.path()}/{names.mutating_webhook}")


@pytest.fixture
def peer_authentications(cluster: Cluster) -> Iterator[Callable[[], Kind]]:
    """Makes the kind served that the mirror watches and that is not an API server's own, labelled as ours."""
    kind = KINDS["security.istio.io/v1", "PeerAuthentication"]
    crd = crd_of(kind)
    crd["metadata"]["labels"] = OURS
    path = f"{CRD.path()}/{crd['metadata']['name']}"
    cluster.delete(path)
    wait_until(lambda: cluster.get(path) is None, "no CRD of an earlier test", seconds=20, pause=0.05)

    def serve() -> Kind:
        cluster.create(crd)
        return kind

    yield serve
    cluster.delete(path)
    wait_until(lambda: cluster.get(path) is None, "the CRD to be gone", seconds=20, pause=0.05)


@pytest.fixture
def label(space: str) -> str:
    """What no other test's objects carry."""
    return f"test={space}"


def config_map(space: str, name: str, **labels: str) -> Json:
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": space, "labels": labels},
    }  # fmt: skip


def path(space: str, name: str) -> str:
    return f"/api/v1/namespaces/{space}/configmaps/{name}"


def crd_of(kind: Kind) -> Json:
    """One that takes everything."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": CRD.api_version, "kind": CRD.kind, "metadata": {"name": f"{kind.plural}.{kind.group}"},
        "spec": {
            "group": kind.group, "scope": "Namespaced", "names": {"plural": kind.plural, "kind": kind.kind},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }  # fmt: skip


def of_kind(kind: Kind, space: str, name: str, **labels: str) -> Json:
    metadata = {"name": name, "namespace": space, "labels": labels}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}


def pod(space: str, name: str, labels: Json, annotations: Json | None = None, *, host: bool = False) -> Json:
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": space, "labels": labels, "annotations": annotations or {}},
        "spec": {
            "containers": [{"name": "main", "image": "main"}], "automountServiceAccountToken": False,
            "hostNetwork": host,
        },
    }  # fmt: skip


def stand_up_istiod(cluster: Cluster, names: Names) -> None:
    """What gather looks at: istiod with a pod that finds no node, its injector, and pods with and without a sidecar."""
    space, revision = names.namespace, {"istio.io/rev": names.revision}
    own = names.selector
    container = {"name": "discovery", "image": "pilot"}
    template = {"metadata": {"labels": own}, "spec": {"containers": [container]}}
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": names.istiod, "namespace": space, "labels": {"app": "istiod", **revision}},
        "spec": {"replicas": 2, "selector": {"matchLabels": own}, "template": template},
    }  # fmt: skip
    cluster.create(deployment)
    webhook = {
        "name": "sidecar-injector.istio.io", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "failurePolicy": "Ignore", "objectSelector": {"matchLabels": {"nobody": "has"}},
        "clientConfig": {"service": {"name": names.istiod, "namespace": space}, "caBundle": ""},
    }  # fmt: skip
    cluster.create({
        "apiVersion": MUTATING_WEBHOOK.api_version, "kind": MUTATING_WEBHOOK.kind, "webhooks": [webhook],
        "metadata": {"name": names.mutating_webhook, "labels": {"app": "sidecar-injector", **revision}},
    })  # fmt: skip
    refuses = {"sidecar.istio.io/inject": "false"}
    cluster.create(pod(space, "istiod-0", {**own, **refuses}))
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
    status = {"status": {"conditions": [unscheduled]}}
    cluster.merge(f"/api/v1/namespaces/{space}/pods/istiod-0/status", status)
    injected = {**revision, "sidecar.istio.io/status": "{}"}
    cluster.create(pod(space, "app", {"security.istio.io/tlsMode": "istio", **revision}, injected))
    cluster.create(pod(space, "bare", revision))
    cluster.create(pod(space, "refuses", {**revision, **refuses}))
    cluster.create(pod(space, "on-the-host", revision, host=True))


class Told:
    """What an informer says has changed."""

    def __init__(self) -> None:
        self.changes: list[tuple[Manifest | None, Manifest | None]] = []

    def __call__(self, before: Manifest | None, after: Manifest | None) -> None:
        self.changes.append((before, after))

    def names(self) -> list[str]:
        """`+name` that came, `-name` that went, `~name` that changed."""
        return [
            f"{'+' if before is None else '-' if after is None else '~'}{(after or before or {})['metadata']['name']}"
            for before, after in self.changes
        ]


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # of things that happen elsewhere
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(informer: Informer | Mirror) -> AsyncIterator[None]:
    task = asyncio.create_task(informer.run())
    try:
        await until(lambda: informer.synced)
        yield
    finally:
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError)


def uid(manifest: Manifest | None) -> str:
    assert manifest
    return str(manifest["metadata"]["uid"])


async def fill(client: Client, manifests: Iterable[Json]) -> None:
    """Creates many objects, as fast as the API server can."""
    waiting = iter(manifests)

    async def one_by_one() -> None:
        for manifest in waiting:
            await client.create(CONFIG_MAP, manifest, field_manager="test")

    await asyncio.gather(*(one_by_one() for _ in range(WRITERS)))


async def test_what_happens_is_told_in_order(cluster: Cluster, client: Asked, space: str, label: str) -> None:
    told = Told()
    cluster.create(config_map(space, "first", test=space))
    informer = Informer(client, CONFIG_MAP, labels=label, changed=told)
    async with running(informer):
        assert told.names() == ["+first"]
        await asyncio.to_thread(cluster.create, config_map(space, "second", test=space))
        await asyncio.to_thread(cluster.merge, path(space, "first"), {"data": {"a": "b"}})
        await asyncio.to_thread(cluster.create, config_map(space, "unlabelled"))
        await asyncio.to_thread(cluster.delete, path(space, "second"))
        await until(lambda: "-second" in told.names())
    assert told.names() == ["+first", "+second", "~first", "-second"]
    (kept,) = informer.list()
    live = cluster.must_get(path(space, "first"))["metadata"]
    assert (kept["apiVersion"], kept["kind"]) == ("v1", "ConfigMap")
    assert kept["metadata"] == {name: live[name] for name in ("name", "namespace", "uid", "resourceVersion", "labels")}


async def test_an_object_that_leaves_the_selector_is_gone(
    cluster: Cluster, client: Asked, space: str, label: str
) -> None:
    told = Told()
    cluster.create(config_map(space, "stray", test=space))
    informer = Informer(client, CONFIG_MAP, labels=label, changed=told)
    async with running(informer):
        await asyncio.to_thread(cluster.merge, path(space, "stray"), {"metadata": {"labels": {"test": None}}})
        await until(lambda: "-stray" in told.names())
        assert informer.get("stray", space) is None
        await asyncio.to_thread(cluster.merge, path(space, "stray"), {"metadata": {"labels": {"test": space}}})
        await until(lambda: told.names() == ["+stray", "-stray", "+stray"])


@pytest.mark.parametrize("forgotten", [True, False])
async def test_what_changed_in_a_gap_is_told_after_it(
    cluster: Cluster, client: Asked, space: str, label: str, *, forgotten: bool
) -> None:
    """Also of objects that are gone, and when the server has forgotten the versions between."""
    told = Told()
    for name in ("stays", "changes", "goes", "returns"):
        cluster.create(config_map(space, name, test=space))
    informer = Informer(client, CONFIG_MAP, labels=label, changed=told)
    async with running(informer):
        old = {each["metadata"]["name"]: each["metadata"]["uid"] for each in informer.list()}
    told.changes.clear()
    client.asked.clear()

    await asyncio.to_thread(cluster.merge, path(space, "changes"), {"data": {"a": "b"}})
    await asyncio.to_thread(cluster.delete, path(space, "goes"))
    await asyncio.to_thread(cluster.delete, path(space, "returns"))
    await asyncio.to_thread(cluster.create, config_map(space, "returns", test=space))
    await asyncio.to_thread(cluster.create, config_map(space, "comes", test=space))
    if forgotten:  # a server that starts remembers nothing of what was before
        await asyncio.to_thread(cluster.api.pause)
        await asyncio.to_thread(cluster.api.resume)

    async with running(informer):
        await until(lambda: "+comes" in told.names())
    if forgotten:
        assert client.asked == ["list configmaps"]
        assert sorted(told.names()) == ["+comes", "-goes", "~changes", "~returns"]
        assert told.names()[0] == "-goes"
    else:
        assert client.asked == []
        assert told.names() == ["~changes", "-goes", "-returns", "+returns", "+comes"]
    assert [each["metadata"]["name"] for each in informer.list()] == ["changes", "comes", "returns", "stays"]
    assert uid(informer.get("stays", space)) == old["stays"]
    assert uid(informer.get("returns", space)) != old["returns"]


async def test_a_server_that_goes_and_comes_back(cluster: Cluster, client: Asked, space: str, label: str) -> None:
    told = Told()
    cluster.create(config_map(space, "before", test=space))
    informer = Informer(client, CONFIG_MAP, labels=label, changed=told)
    async with running(informer):
        await asyncio.to_thread(cluster.api.pause)
        await until(lambda: informer.trouble is not None)
        assert "the API server does not answer" in str(informer.trouble)
        assert informer.get("before", space), "what was known is kept"
        await asyncio.to_thread(cluster.api.resume)
        await asyncio.to_thread(cluster.delete, path(space, "before"))
        informer.poke()
        await until(lambda: "-before" in told.names())
        assert informer.trouble is None


async def test_a_kind_that_is_not_served_is_looked_for_until_it_is(cluster: Cluster, client: Asked, space: str) -> None:
    kind = Kind(f"{space}.example.com/v1", "Widget", "widgets", namespaced=True)
    told = Told()
    informer = Informer(client, kind, changed=told)
    async with running(informer):
        assert (informer.list(), informer.trouble) == ([], None)
        await asyncio.to_thread(cluster.create, crd_of(kind))
        crds = f"{CRD.path()}/widgets.{kind.group}"
        collection = kind.path(space)
        await until(lambda: cluster.get(collection) is not None)
        await asyncio.to_thread(cluster.create, of_kind(kind, space, "widget"))
        await until(lambda: told.names() == ["+widget"])
        await asyncio.to_thread(cluster.delete, crds)
        await until(lambda: told.names() == ["+widget", "-widget"])
        assert informer.synced


async def test_a_write_ends_before_the_lease_does(cluster: Cluster, client: Asked, space: str) -> None:
    """15 s of lease, renewed within 10 s: an API server that hangs must not keep a write waiting for longer than 5."""
    await client.version()  # connected
    await asyncio.to_thread(cluster.api.pause, hang=True)
    began = time.monotonic()
    try:
        with pytest.raises(Unreachable, match=f"create ConfigMap {space}/late: the API server does not answer"):
            await client.create(CONFIG_MAP, config_map(space, "late"), field_manager="test")
        assert time.monotonic() - began < 5
    finally:
        await asyncio.to_thread(cluster.api.resume)


async def test_a_thousand_objects_come_in_pages(cluster: Cluster, client: Asked, space: str, label: str) -> None:
    await fill(client, [config_map(space, f"object{number:04}", test=space) for number in range(1001)])
    client.asked.clear()
    told = Told()
    informer = Informer(client, CONFIG_MAP, labels=label, changed=told)
    async with running(informer):
        assert len(informer) == len(told.changes) == 1001
    assert client.asked == ["list configmaps"] * 3
    assert len(await client.list(CONFIG_MAP, space)) == 1001


# -- the mirror


async def test_what_gather_reads_comes_from_memory(cluster: Cluster, client: Asked, space: str) -> None:
    """It sees the same through the mirror as without, and asks the API server for little."""
    names = Names(space, space)
    mesh = Mesh(cluster, space, space, space).manifest()
    stand_up_istiod(cluster, names)
    mirror = mirror_of(client, wake=lambda _: None, revision_changed=lambda _: None)
    for path in (ACTIONS, MESHES):  # a server that has just taken in another CRD asks to wait; this does
        await asyncio.to_thread(cluster.get, path)
    async with running(mirror):
        assert mirror.troubles() == ()
        client.asked.clear()
        direct = await gather(client, mesh, now=NOW)
        asked = len(client.asked)
        client.asked.clear()
        mirrored = await gather(mirror, mesh, now=NOW)
    assert mirrored == direct
    (found,) = direct.clusters
    assert found.istiods
    assert found.injectors
    assert [trouble.reason for trouble in found.troubles] == ["Unschedulable"]
    assert found.proxies == 1
    assert found.injection == Injection(expected=2, missing=1, pods=(f"{space}/bare: no sidecar",))
    print(f"gather: {asked} requests without a mirror, {len(client.asked)} with one: {client.asked}")
    lists = [what for what in client.asked if what.startswith("list")]
    assert not {"list pods", "list namespaces", "list deployments"} & set(lists)


async def test_changes_are_told_to_those_whom_they_concern(
    cluster: Cluster, client: Asked, space: str, peer_authentications: Callable[[], Kind]
) -> None:
    woken, revisions, shared = [], [], []  # type: ignore[var-annotated]
    mirror = mirror_of(
        client, wake=woken.append, revision_changed=revisions.append, shared_changed=lambda: shared.append(1)
    )
    ours = {**OURS, "meshwright.dev/mesh": space}
    async with running(mirror):
        for heard in (woken, revisions, shared):
            heard.clear()
        await asyncio.to_thread(cluster.create, config_map(space, "owned", **ours))
        await until(lambda: woken == [space])
        assert [
            each["metadata"]["name"]
            for each in await mirror.list(CONFIG_MAP, labels=",".join(f"{name}={text}" for name, text in ours.items()))
        ] == ["owned"]
        # One that changes hands concerns both.
        other = {"metadata": {"labels": {"meshwright.dev/mesh": f"{space}b"}}}
        await asyncio.to_thread(cluster.merge, path(space, "owned"), other)
        await until(lambda: woken == [space, space, f"{space}b"])

        await asyncio.to_thread(stand_up_istiod, cluster, Names(space, space))
        await until(lambda: revisions.count(space) >= 4)
        revisions.clear()
        for name in ("app", "bare"):
            await asyncio.to_thread(cluster.delete, f"/api/v1/namespaces/{space}/pods/{name}")
            await until(lambda: space in revisions)
            assert set(revisions) == {space}
            revisions.clear()

        assert not shared
        asks = {"metadata": {"labels": {"istio.io/rev": f"{space}c"}}}
        await asyncio.to_thread(cluster.merge, f"/api/v1/namespaces/{space}", asks)
        await until(lambda: bool(shared))
        shared.clear()
        await asyncio.to_thread(cluster.create, pod(space, "newcomer", {}))
        await until(lambda: revisions == [f"{space}c"])

        kind = await asyncio.to_thread(peer_authentications)
        await until(lambda: bool(shared) and cluster.get(kind.path(space)) is not None)
        woken.clear()
        await asyncio.to_thread(cluster.create, of_kind(kind, space, "default", **ours))
        await until(lambda: woken == [space])


# -- figures


async def test_figure_a_thousand_changes(cluster: Cluster, client: Asked, space: str, label: str) -> None:
    """How far one informer is behind while objects change as fast as the API server writes them."""
    told = Told()
    informer = Informer(client, CONFIG_MAP, labels=label, changed=told)
    async with running(informer):
        began = time.perf_counter()
        await fill(client, [config_map(space, f"object{number:04}", test=space) for number in range(1000)])
        written = time.perf_counter()
        await until(lambda: len(told.changes) == 1000)
        known = time.perf_counter()
    print(f"1,000 changes: written in {written - began:.2f} s, all known {(known - written) * 1000:.0f} ms later")
