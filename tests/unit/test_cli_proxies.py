"""kubectl mesh proxies: what every istiod says, joined with the pods; and who should be in the mesh and is not."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from meshes import mesh
from meshwright.api.errors import Forbidden, MeshwrightError, Unreachable
from meshwright.cli.proxies import Proxy, Uninjected, joined, lines, proxies, sync_of, uninjected, uninjected_lines
from meshwright.cli.terminal import Terminal
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import Kind

Json = dict[str, Any]

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
IN_SYNC: Json = {
    f"{kind}_{what}": "n1" for kind in ("cluster", "listener", "route", "endpoint") for what in ("sent", "acked")
}  # fmt: skip

SYNC: list[tuple[str, Json, tuple[str, str]]] = [
    ("all taken", IN_SYNC, ("synced", "")),
    ("nothing to send", {"proxy": "a.b"}, ("synced", "")),
    ("one awaited", IN_SYNC | {"route_acked": "n0"}, ("stale", "routes sent, not taken yet")),
    (
        "never taken",
        {"cluster_sent": "n1", "listener_sent": "n1"},
        ("stale", "clusters, listeners sent, not taken yet"),
    ),
    ("refused", IN_SYNC | {"resources": {"lds": {"lastError": "no such filter"}}}, ("refused", "no such filter")),
    ("without errors", IN_SYNC | {"resources": {"lds": {"sent": "1"}}}, ("synced", "")),
]


@pytest.mark.parametrize(("entry", "found"), [row[1:] for row in SYNC], ids=[row[0] for row in SYNC])
def test_sync(entry: Json, found: tuple[str, str]) -> None:
    assert sync_of(entry) == found


def entry(name: str, **more: Any) -> Json:
    return {"proxy": name, "istio_version": "1.31.4", **IN_SYNC, **more}


def test_a_proxy_hangs_on_one_of_the_istiods() -> None:
    pods = [Proxy("shop", "a", "default"), Proxy("shop", "b", "default"), Proxy("a", "shop", "default")]
    answers = {"istiod-1": [entry("a.shop")], "istiod-2": [entry("b.shop", route_acked="n0"), entry("in.gress.edge")]}
    found = joined(pods, answers, revision="default", complete=True)
    assert [(each.namespace, each.pod, each.istiod, each.version, each.sync) for each in found] == [
        ("a", "shop", "", "", "not connected"),
        ("edge", "in.gress", "istiod-2", "1.31.4", "synced"),  # a gateway, which has no sidecar
        ("shop", "a", "istiod-1", "1.31.4", "synced"),
        ("shop", "b", "istiod-2", "1.31.4", "stale"),
    ]
    assert joined(pods, answers, revision="default", complete=False)[0].sync == "unknown"


# Against a cluster of dicts


def pod(name: str, *, labels: Json | None = None, annotations: Json | None = None, **parts: Any) -> Json:
    metadata = {"name": name, "namespace": "shop", "labels": labels or {}, "annotations": annotations or {}}
    return {"metadata": metadata, **parts}


def sidecar(name: str, revision: str = "default", image: str = "docker.io/istio/proxyv2:1.31.4") -> Json:
    return pod(
        name,
        labels={"security.istio.io/tlsMode": "istio"},
        annotations={"istio.io/rev": revision, "sidecar.istio.io/status": "{}", "meshwright.dev/proxy-image": image},
    )


def istiod(name: str, *, ready: bool = True) -> Json:
    return pod(name, status={"conditions": [{"type": "Ready", "status": str(ready)}]})


class Cluster:
    """In the place of a client: what it is asked for, whatever namespace and port."""

    def __init__(self, *, pods: list[Json], istiods: list[Json] | None = None, **namespaces: Json) -> None:
        self.pods, self.istiods, self.namespaces = pods, istiods or [], namespaces
        self.webhooks: list[Json] = []
        self.says: dict[str, bytes | MeshwrightError] = {}
        self.forwards: list[tuple[str, str, int, str]] = []

    async def list(self, kind: Kind, *_: str, labels: str = "", **__: bool) -> list[Json]:
        if kind.kind == "Namespace":
            return [{"metadata": {"name": name, "labels": found}} for name, found in self.namespaces.items()]
        if kind.kind == "MutatingWebhookConfiguration":
            return self.webhooks
        if "app=istiod" in labels:
            return self.istiods
        has = "tlsMode=istio" in labels
        return [each for each in self.pods if ("security.istio.io/tlsMode" in each["metadata"]["labels"]) is has]

    async def forwarded(self, namespace: str, pod: str, port: int, path: str) -> bytes:
        self.forwards.append((namespace, pod, port, path))
        return self._said(pod)

    async def proxied(self, _: str, pod: str, *__: Any, only: Callable[[bytes], bool]) -> bytes:
        return b"".join(line for line in self._said(pod).splitlines(keepends=True) if only(line))

    def _said(self, pod: str) -> bytes:
        said = self.says[pod]
        if isinstance(said, MeshwrightError):
            raise said
        return said

    @property
    def client(self) -> Client:
        return cast("Client", self)


async def test_proxies_of_our_revision_as_every_ready_istiod_says() -> None:
    cluster = Cluster(
        pods=[sidecar("b"), sidecar("a"), sidecar("other", "canary"), pod("plain")],
        istiods=[istiod("istiod-2"), istiod("istiod-1"), istiod("late", ready=False)],
    )
    cluster.says = {"istiod-1": json.dumps([entry("a.shop")]).encode(), "istiod-2": b"null"}
    found, notes = await proxies(cluster.client, mesh=mesh(), namespace="", certificates=False, now=NOW)
    assert [(each.pod, each.sync, each.istiod) for each in found] == [
        ("a", "synced", "istiod-1"), ("b", "not connected", "")
    ]  # fmt: skip
    assert notes == []
    assert cluster.forwards == [("istio-system", name, 15014, "/debug/syncz") for name in ("istiod-1", "istiod-2")]


async def test_an_istiod_that_does_not_answer_leaves_unknown() -> None:
    cluster = Cluster(pods=[sidecar("a"), sidecar("b")], istiods=[istiod("istiod-1"), istiod("istiod-2")])
    cluster.says = {"istiod-1": json.dumps([entry("a.shop")]).encode(), "istiod-2": Forbidden("no pods/portforward")}
    found, notes = await proxies(cluster.client, mesh=mesh(), namespace="", certificates=False, now=NOW)
    assert [each.sync for each in found] == ["synced", "unknown"]
    elsewhere, _ = await proxies(cluster.client, mesh=mesh(), namespace="edge", certificates=False, now=NOW)
    assert elsewhere == []
    assert notes == ["istiod istiod-2 did not say what is in sync: no pods/portforward"]
    cluster.says["istiod-2"] = b"<html>"
    _, notes = await proxies(cluster.client, mesh=mesh(), namespace="", certificates=False, now=NOW)
    assert notes == ["istiod istiod-2 did not say what is in sync: its answer is no JSON"]


async def test_no_istiod_is_ready() -> None:
    found, notes = await proxies(
        Cluster(pods=[sidecar("a")]).client, mesh=mesh(), namespace="", certificates=False, now=NOW
    )
    assert [each.sync for each in found] == ["unknown"]
    assert notes == ["no replica of istiod is ready in namespace istio-system, so nobody knows what is in sync"]


async def test_certificates_when_asked_for() -> None:
    cluster = Cluster(pods=[sidecar("a"), sidecar("b"), sidecar("c")], istiods=[istiod("istiod-1")])
    page = b'something_else 1\nistio_agent_cert_expiry_seconds{resource_name="default"} 7200\n'
    cluster.says = {"istiod-1": b"[]", "a": page, "b": Unreachable("timed out"), "c": b""}
    found, notes = await proxies(cluster.client, mesh=mesh(), namespace="", certificates=True, now=NOW)
    assert [each.expires for each in found] == [NOW + dt.timedelta(hours=2), None, None]
    assert notes == ["1 proxies did not tell their certificate: timed out"]
    assert found[0].as_document(NOW)["certificate"] == {"expires": "2026-03-01T14:00:00+00:00", "hoursLeft": 2}
    assert "certificate" not in found[1].as_document(NOW)


async def test_who_should_be_in_the_mesh_and_is_not() -> None:
    cluster = Cluster(
        pods=[
            sidecar("fine"), pod("bare"), sidecar("other", "canary"),
            sidecar("old", image="docker.io/istio/proxyv2:1.30.1"),
            pod("refuses", labels={"sidecar.istio.io/inject": "false"}),
        ],
        shop={"istio-injection": "enabled"},
    )  # fmt: skip
    assert await uninjected(cluster.client, mesh=mesh(), namespace="") == [
        Uninjected("shop", "bare", "no sidecar"),
        Uninjected("shop", "old", "sidecar image docker.io/istio/proxyv2:1.30.1, now docker.io/istio/proxyv2:1.31.4"),
        Uninjected("shop", "other", "sidecar of revision canary"),
    ]
    cluster.namespaces["shop"] = {"istio.io/rev": "stable"}
    assert await uninjected(cluster.client, mesh=mesh(), namespace="") == []
    cluster.webhooks = [{"metadata": {"name": "tag", "labels": {"istio.io/tag": "stable", "istio.io/rev": "default"}}}]
    assert len(await uninjected(cluster.client, mesh=mesh(), namespace="")) == 3


# What people read


def text(*found: Proxy, notes: tuple[str, ...] = (), certificates: bool = False) -> str:
    return "\n".join(lines(mesh(), found, notes, Terminal(), now=NOW, certificates=certificates))


def test_a_table() -> None:
    expires = NOW + dt.timedelta(hours=11, minutes=59)
    found = (
        Proxy("shop", "cart-1", "default", "1.31.4", "synced", expires=expires),
        Proxy("shop", "web", "default", "1.31.3", "stale", "routes sent, not taken yet"),
        Proxy("shop", "x", "default", sync="not connected"),
    )
    assert text(*found) == (
        "    NAMESPACE  POD     REVISION  VERSION  SYNC\n"
        "  ✔ shop       cart-1  default   1.31.4   synced\n"
        "  ! shop       web     default   1.31.3   stale          routes sent, not taken yet\n"
        "  ✘ shop       x       default   ?        not connected\n"
        "3 proxies: 1 synced, 1 stale, 1 not connected"
    )
    assert "synced         11 h left\n" in text(*found, certificates=True)
    assert "CERTIFICATE" in text(*found, certificates=True)


def test_no_proxies_and_a_note() -> None:
    assert text(notes=("nobody knows",)) == (
        "  ! nobody knows\nMesh demo has no proxies: `kubectl mesh proxies --missing` lists pods that should have one."
    )


def test_a_table_of_those_that_are_missing() -> None:
    pods = [Uninjected("shop", "bare", "no sidecar")]
    assert list(uninjected_lines(mesh(), pods, Terminal()))[:2] == [
        "NAMESPACE  POD   WHY",
        "shop       bare  no sidecar",
    ]
    assert list(uninjected_lines(mesh(), [], Terminal())) == [
        "Every pod that is to have a sidecar of mesh demo has it."
    ]
