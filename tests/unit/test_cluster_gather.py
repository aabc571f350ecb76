"""gather: manifests as the API server gives them become the snapshot's facts."""

# ruff: noqa: ARG002  # what stands in for a client or store has its signature
from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from meshes import NOW, manifest
from meshwright.api.errors import InvalidSpec
from meshwright.api.meshinstall import MeshInstall
from meshwright.cluster.client import Client
from meshwright.cluster.gather import NAMED_PROXIES, gather, gather_cluster, root_bundles
from meshwright.cluster.kinds import KINDS, kind_of
from meshwright.cluster.pods import SIDECAR
from meshwright.mesh.enrolment import Injection
from meshwright.mesh.observed import Injector, Istiod, Neighbour, Observed, Trouble

Json = dict[str, Any]


class Still(Client):
    """A client that answers from a table: objects by plural."""

    def __init__(self, **objects: list[Json]) -> None:  # no connection
        self.objects = objects
        self.listed: list[tuple[str, str, str, bool]] = []

    async def version(self) -> str:
        return "v1.36.1"

    async def get(self, kind: Any, name: str, namespace: str = "", *, metadata_only: bool = False) -> Json | None:
        return next((each for each in self.objects.get(kind.plural, []) if each["metadata"]["name"] == name), None)

    async def list(self, kind: Any, namespace: str = "", *, labels: str = "", metadata_only: bool = False) -> Any:
        self.listed.append((kind.plural, namespace, labels, metadata_only))
        if kind.plural == "pods" and metadata_only:
            return self.objects.get("proxies" if labels == SIDECAR else "others", [])
        return self.objects.get(kind.plural, [])


def look(client: Still | None = None, **spec: Any) -> Observed:
    return asyncio.run(gather(client or Still(), manifest(**spec), now=NOW))


def test_an_empty_cluster() -> None:
    seen = look(clusterName="east")
    assert (seen.now, seen.created, seen.neighbours) == (NOW, "", ())
    (cluster,) = seen.clusters
    assert (cluster.name, cluster.kubernetes, cluster.proxies) == ("east", "v1.36.1", 0)
    assert (cluster.istiods, cluster.injectors, cluster.troubles) == ((), (), ())


def test_a_spec_that_does_not_parse_is_said_before_anything_is_read() -> None:
    client = Still()
    with pytest.raises(InvalidSpec):
        look(client, mtls="maybe")
    assert client.listed == []


def test_pods_are_read_by_label_and_the_many_by_metadata_alone() -> None:
    client = Still()
    look(client, namespace="mesh", revision="canary")
    assert ("pods", "mesh", "app=istiod,istio.io/rev=canary", False) in client.listed
    assert ("pods", "", SIDECAR, True) in client.listed
    assert ("horizontalpodautoscalers", "mesh", "", False) in client.listed  # few, and of one namespace
    assert ("pods", "", "security.istio.io/tlsMode!=istio", True) in client.listed
    assert ("namespaces", "", "", True) in client.listed


def test_one_cluster_is_read_like_all_and_without_the_neighbours() -> None:
    client = Still(proxies=[proxy("p")])
    mesh = MeshInstall.parse(manifest())
    cluster = asyncio.run(gather_cluster(client, mesh, name="primary", now=NOW))
    assert "meshinstalls" not in [plural for plural, *_ in client.listed]
    (seen,) = look(client).clusters
    assert replace(seen, injection=cluster.injection, enrolled=cluster.enrolled) == cluster  # which cost much to read


def test_for_one_cluster_alone_pods_without_a_sidecar_are_not_read() -> None:
    """A deletion looks again and again, and asks the API server itself."""
    client = Still()
    asyncio.run(gather_cluster(client, MeshInstall.parse(manifest()), name="primary", now=NOW))
    assert [labels for plural, _, labels, metadata_only in client.listed if metadata_only] == [SIDECAR]


@pytest.mark.parametrize(
    ("metadata", "terminating"),
    [({"name": "istio-system"}, False), ({"name": "istio-system", "deletionTimestamp": "x"}, True),
     ({"name": "other", "deletionTimestamp": "x"}, False)],
)  # fmt: skip
def test_the_namespace(metadata: Json, terminating: bool) -> None:  # noqa: FBT001
    (cluster,) = look(Still(namespaces=[{"metadata": metadata}])).clusters
    assert cluster.namespace_terminating == terminating


def test_neighbours_are_all_but_the_mesh_itself() -> None:
    others: list[Json] = [
        {"metadata": {"name": "demo"}, "spec": {}},
        {"metadata": {"name": "a", "creationTimestamp": "t"}, "spec": {"revision": "canary"}},
        {"metadata": {"name": "b"}},
        {"metadata": {"name": "c"}, "status": {"version": "1.31.4"}},
        {"metadata": {"name": "d"}, "status": {"conditions": []}},
        {"metadata": {"name": "e"}, "status": None},
    ]
    assert look(Still(meshinstalls=others)).neighbours == (
        Neighbour("a", "canary", "t", installed=False),
        Neighbour("b", "default", "", installed=False),
        Neighbour("c", "default", "", installed=True),
        Neighbour("d", "default", "", installed=False),
        Neighbour("e", "default", "", installed=False),
    )


FIELDS = [{"manager": "helm"}, {"manager": "kube-controller-manager", "subresource": "status"}, {"manager": "helm"}, {}]


def test_an_istiod() -> None:
    whole = {
        "metadata": {
            "namespace": "istio-system", "name": "istiod", "generation": 3, "managedFields": FIELDS,
            "labels": {"istio.io/rev": "canary", "meshwright.dev/mesh": "demo"},
            "annotations": {"meshwright.dev/replicas": "autoscaled"},
        },
        "spec": {"replicas": 2},
        "status": {
            "observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 1,
            "conditions": [
                {"type": "Progressing", "message": "no"}, {"type": "ReplicaFailure", "message": "exceeded quota"},
            ],
        },
    }  # fmt: skip
    bare: Json = {"metadata": {"namespace": "n", "name": "x"}, "spec": {}}
    (cluster,) = look(Still(deployments=[whole, bare])).clusters
    assert cluster.istiods == (
        Istiod(
            namespace="istio-system",
            name="istiod",
            revision="canary",
            owner="demo",
            managers=("helm",),
            generation=3,
            observed_generation=2,
            replicas=2,
            existing=3,
            updated=1,
            available=1,
            failure="exceeded quota",
            replicas_annotation="autoscaled",
        ),
        Istiod(namespace="n", name="x", revision="default", owner=None, managers=(), replicas=1),
    )


@pytest.mark.parametrize(
    ("webhooks", "trusted"),
    [
        ([{"clientConfig": {"caBundle": "x"}}], True),
        ([{"clientConfig": {"caBundle": "x"}}, {"clientConfig": {}}], False),
        ([{"clientConfig": {"caBundle": ""}}], False),
        ([], False),
        (None, False),
    ],
)
def test_an_injector_is_trusted_when_every_webhook_has_its_ca(webhooks: list[Json] | None, trusted: bool) -> None:  # noqa: FBT001
    (cluster,) = look(Still(mutatingwebhookconfigurations=[{"metadata": {"name": "i"}, "webhooks": webhooks}])).clusters
    assert cluster.injectors == (Injector("i", "default", None, (), trusted),)


@pytest.mark.parametrize(
    ("labels", "revision", "tag", "injects"),
    [
        (None, "default", None, "default"),
        ({"istio.io/rev": "canary"}, "canary", None, "canary"),
        ({"istio.io/rev": "canary", "istio.io/tag": "prod"}, "canary", "prod", "prod"),
        ({"istio.io/rev": "canary", "istio.io/tag": "default"}, "canary", "default", "default"),
    ],
)
def test_an_injector_with_a_tag_injects_what_asks_for_the_tag(
    labels: Json | None, revision: str, tag: str | None, injects: str
) -> None:
    (cluster,) = look(Still(mutatingwebhookconfigurations=[{"metadata": {"name": "i", "labels": labels}}])).clusters
    (found,) = cluster.injectors
    assert (found.revision, found.tag, found.injects) == (revision, tag, injects)


def waiting(reason: str, message: str = "", last: Json | None = None) -> Json:
    state: Json = {"name": "discovery", "state": {"waiting": {"reason": reason, "message": message}}}
    return {"containerStatuses": [state | ({"lastState": {"terminated": last}} if last else {})]}


def ended(how: Json) -> Json:
    return {"containerStatuses": [{"name": "discovery", "state": {"terminated": how}}]}


def running(*, for_seconds: int, ready: bool = False) -> Json:
    since = (NOW - dt.timedelta(seconds=for_seconds)).isoformat()
    return {"containerStatuses": [{"name": "discovery", "ready": ready, "state": {"running": {"startedAt": since}}}]}


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}


@pytest.mark.parametrize(
    ("status", "troubles"),
    [
        (None, ()),
        ({}, ()),
        ({"containerStatuses": [{"name": "discovery", "state": {"running": {}}}]}, ()),
        (waiting("ContainerCreating"), ()),
        (waiting("PodInitializing"), ()),
        (waiting("ImagePullBackOff", "Back-off"), (Trouble("p", "discovery", "ImagePullBackOff", "Back-off"),)),
        (waiting("CrashLoopBackOff", "back-off 10s", {"exitCode": 1, "message": "first\nError: last words\n"}),
         (Trouble("p", "discovery", "CrashLoopBackOff", "back-off 10s, last exit code 1, Error: last words"),)),
        (waiting("CrashLoopBackOff", "", {"exitCode": 137}),
         (Trouble("p", "discovery", "CrashLoopBackOff", "last exit code 137"),)),
        (waiting("CrashLoopBackOff", "", {"exitCode": 137, "reason": "OOMKilled"}),
         (Trouble("p", "discovery", "CrashLoopBackOff", "last exit code 137 (OOMKilled)"),)),
        (ended({"exitCode": 1, "reason": "Error", "message": "last words"}),
         (Trouble("p", "discovery", "Error", "last exit code 1 (Error), last words"),)),
        (running(for_seconds=19), ()),
        (running(for_seconds=21),
         (Trouble("p", "discovery", "NotReady", "it runs, but its readiness probe fails: see its log"),)),
        (running(for_seconds=21, ready=True), ()),
        ({"conditions": [UNSCHEDULABLE]}, (Trouble("p", "", "Unschedulable", "0/1 nodes"),)),
        ({"conditions": [{**UNSCHEDULABLE, "status": "True"}]}, ()),
    ],
)  # fmt: skip
def test_what_a_pod_suffers_from(status: Json | None, troubles: tuple[Trouble, ...]) -> None:
    (cluster,) = look(Still(pods=[{"metadata": {"name": "p"}, "status": status}])).clusters
    assert cluster.troubles == troubles


def test_a_pod_that_goes_suffers_from_nothing() -> None:
    pod = {"metadata": {"name": "p", "deletionTimestamp": "x"}, "status": waiting("Error")}
    assert look(Still(pods=[pod])).clusters[0].troubles == ()


def proxy(name: str, revision: str | None = "default", *, namespace: str = "apps", **metadata: str) -> Json:
    annotations = {"istio.io/rev": revision} if revision else None
    labels = {"security.istio.io/tlsMode": "istio"}
    return {
        "metadata": {"namespace": namespace, "name": name, "labels": labels, **metadata, "annotations": annotations}
    }


def test_proxies_are_the_living_pods_of_the_revision() -> None:
    pods = [
        proxy("b"), proxy("a"), proxy("c", "canary"), proxy("d", None), proxy("e", deletionTimestamp="x"),
        proxy("z", namespace="a"),
    ]  # fmt: skip
    (cluster,) = look(Still(proxies=pods)).clusters
    assert cluster.proxies == 3
    assert cluster.proxy_namespaces == {"apps": 2, "a": 1}
    assert cluster.some_proxies == ("a/z", "apps/a", "apps/b")  # sorted, so that a message does not flicker
    (cluster,) = look(Still(proxies=pods), revision="canary").clusters
    assert (cluster.proxies, cluster.proxy_namespaces, cluster.some_proxies) == (1, {"apps": 1}, ("apps/c",))


def test_of_many_proxies_the_first_are_named() -> None:
    pods = [proxy(f"p{index:02}") for index in reversed(range(NAMED_PROXIES + 5))]
    (cluster,) = look(Still(proxies=pods)).clusters
    assert cluster.proxies == NAMED_PROXIES + 5
    assert cluster.some_proxies == tuple(f"apps/p{index:02}" for index in range(NAMED_PROXIES))


INJECTED = {"istio.io/rev": "canary", "sidecar.istio.io/status": "{}"}


def pod(name: str, annotations: Json | None = None, **metadata: Any) -> Json:
    return {"metadata": {"namespace": "apps", "name": name, "annotations": annotations, **metadata}}


def test_injection_is_judged_over_all_pods_that_ask_for_us_or_our_tags() -> None:
    old = {**INJECTED, "meshwright.dev/proxy-image": "docker.io/istio/proxyv2:1.31.3"}
    newest = {**INJECTED, "meshwright.dev/proxy-image": "docker.io/istio/proxyv2:1.31.4"}
    injectors = [("canary", "prod"), ("canary", None), ("other", "dev")]
    client = Still(
        namespaces=[{"metadata": {"name": "apps", "labels": {"istio.io/rev": "prod"}}}, {"metadata": {"name": "dev"}}],
        proxies=[pod("fine", newest), pod("old", old), pod("going", old, deletionTimestamp="x")],
        others=[
            pod("bare"), pod("going too", deletionTimestamp="x"), pod("refuses", {"sidecar.istio.io/inject": "false"}),
            pod("ours", namespace="dev", labels={"istio.io/rev": "canary"}),
            pod("theirs", namespace="dev", labels={"istio.io/rev": "dev"}),
        ],
        mutatingwebhookconfigurations=[
            {"metadata": {"name": "i", "labels": {"istio.io/rev": revision} | ({"istio.io/tag": tag} if tag else {})}}
            for revision, tag in injectors
        ],
    )  # fmt: skip
    (cluster,) = look(client, revision="canary").clusters
    now = "sidecar image docker.io/istio/proxyv2:1.31.3, now docker.io/istio/proxyv2:1.31.4"
    named = ("apps/bare: no sidecar", f"apps/old: {now}", "dev/ours: no sidecar")
    assert cluster.injection == Injection(expected=4, missing=2, outdated=1, pods=named)
    assert cluster.enrolled == 4


@pytest.mark.parametrize(
    ("targets", "autoscaled"),
    [
        ([], False),
        ([("Deployment", "istiod")], True),
        ([("Deployment", "other"), ("Deployment", "istiod")], True),
        ([("Deployment", "istiod-canary")], False),
        ([("StatefulSet", "istiod")], False),
    ],
)
def test_an_autoscaler_is_one_that_targets_our_istiod(targets: list[tuple[str, str]], autoscaled: bool) -> None:  # noqa: FBT001
    scalers = [{"metadata": {}, "spec": {"scaleTargetRef": {"kind": kind, "name": name}}} for kind, name in targets]
    assert look(Still(horizontalpodautoscalers=scalers)).clusters[0].autoscaled is autoscaled


def test_the_roots_that_istiod_published_by_namespace() -> None:
    class Published(Still):
        async def get(self, kind: Any, name: str, namespace: str = "", *, metadata_only: bool = False) -> Json | None:
            assert (kind.plural, name, metadata_only) == ("configmaps", "istio-ca-root-cert", False)
            found: dict[str, Json] = {"a": {"data": {"root-cert.pem": "PEM"}}, "b": {"data": None}, "c": {"data": {}}}
            return found.get(namespace)

    assert asyncio.run(root_bundles(Published(), ["a", "b", "c", "d"])) == {"a": "PEM", "b": "", "c": ""}


@pytest.mark.parametrize(
    ("api_version", "kind", "path"),
    [
        ("v1", "Namespace", "/api/v1/namespaces/n"),
        ("v1", "Secret", "/api/v1/namespaces/m/secrets/n"),
        ("apps/v1", "Deployment", "/apis/apps/v1/namespaces/m/deployments/n"),
        ("meshwright.dev/v1alpha1", "MeshInstall", "/apis/meshwright.dev/v1alpha1/meshinstalls/n"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole", "/apis/rbac.authorization.k8s.io/v1/clusterroles/n"),
    ],
)
def test_where_a_kind_is_served(api_version: str, kind: str, path: str) -> None:
    assert kind_of(api_version, kind).path("m", "n") == path


def test_lists_over_all_namespaces_have_none_in_their_path() -> None:
    assert kind_of("v1", "Pod").path() == "/api/v1/pods"
    assert {kind.group for kind in KINDS.values() if kind.api_version == "v1"} == {""}
