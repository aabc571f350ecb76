"""A MeshInstall is deleted: whom it waits for, what it takes away, and what it leaves."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from api.world import CRDS, OPERATOR_NAMESPACE, Cluster, Json, Mesh, Operator, Sent, path_of, path_of_item
from meshwright.mesh.leftovers import LEFTOVERS, Shared, Where
from meshwright.mesh.objects import Key
from testbed.rest import wait_until

FORCED = {"metadata": {"annotations": {"meshwright.dev/force-delete": "true"}}}
POLICIES = f"{CRDS}/peerauthentications.security.istio.io"
GATEWAY_CLASSES = "/apis/gateway.networking.k8s.io/v1/gatewayclasses"
FINALIZER = "meshwright.dev/mesh"


def pod(mesh: Mesh, name: str, labels: Json, annotations: Json) -> Json:
    # Not the labels by which the injection webhook would be called, which has nobody behind it.
    metadata = {"labels": {**labels, "sidecar.istio.io/inject": "false"}, "annotations": annotations}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": mesh.namespace, **metadata},
        "spec": {"serviceAccountName": mesh.names.istiod, "containers": [{"name": "main", "image": "main"}]},
    }


def sidecar(mesh: Mesh, name: str, revision: str = "") -> Json:
    labels, annotations = {"security.istio.io/tlsMode": "istio"}, {"istio.io/rev": revision or mesh.revision}
    return pod(mesh, name, labels, annotations)


def is_gone(mesh: Mesh) -> bool:
    return mesh.cluster.get(mesh.path) is None


def waits(mesh: Mesh, *words: str) -> None:
    """It is still there, as it was, and says what for."""
    ready = mesh.condition()
    assert (ready["status"], ready["reason"]) == ("False", "Deleting")
    for word in words:
        assert word in ready["message"]
    assert mesh.condition("Reconciling")["status"] == "True"
    assert FINALIZER in mesh.read()["metadata"]["finalizers"]


async def installed(op: Operator, mesh: Mesh, *pods: Json, **spec: object) -> None:
    mesh.create(**spec)
    await op.install(mesh)
    for each in pods:
        mesh.cluster.create(each)


# -- whom it waits for


@pytest.mark.parametrize("way_out", ["force", "pods"])
async def test_sidecars_hold_it_up_and_are_kept_in_service(op: Operator, mesh: Mesh, way_out: str) -> None:
    ours = [sidecar(mesh, "web-0"), sidecar(mesh, "web-1")]
    await installed(op, mesh, *ours, sidecar(mesh, "other", "somebody-elses"))
    before = {path_of_item(item): item["metadata"]["uid"] for item in mesh.objects()}
    mesh.cluster.delete(mesh.path)
    await op.reconcile(mesh)
    names = f"2 pods with a sidecar of this mesh to go: {mesh.namespace}/web-0, {mesh.namespace}/web-1;"
    waits(mesh, names, "meshwright.dev/force-delete=true")
    assert mesh.status["proxies"] == 2
    assert op.wire.writes() == []

    # Until then it is kept as declared.
    mesh.cluster.merge(mesh.deployment_path, {"spec": {"replicas": 0}})
    mesh.cluster.delete(mesh.injector_path)
    await op.reconcile(mesh)
    assert mesh.cluster.must_get(mesh.deployment_path)["spec"]["replicas"] == 2
    mesh.istiod_becomes_available()
    await op.reconcile(mesh)
    assert mesh.cluster.get(mesh.injector_path)
    waits(mesh, names)
    assert {path_of_item(item) for item in mesh.objects()} == before.keys()
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []

    if way_out == "force":
        mesh.cluster.merge(mesh.path, FORCED)
    for each in ours if way_out == "pods" else ():
        assert not is_gone(mesh)
        mesh.cluster.delete(path_of_item(each))
        await op.reconcile(mesh)
    await op.reconcile(mesh)
    assert is_gone(mesh)
    assert sorted(each["kind"] for each in mesh.objects()) == ["Namespace", "Secret", "Secret"]


async def test_what_keeps_it_from_being_kept_is_said_beside(op: Operator, mesh: Mesh) -> None:
    await installed(op, mesh, sidecar(mesh, "web"))
    mesh.cluster.delete(mesh.path)
    path = f"/api/v1/namespaces/{mesh.namespace}/services/{mesh.names.istiod}"
    mesh.cluster.merge(path, {"metadata": {"labels": {"meshwright.dev/mesh": None}}})
    await op.reconcile(mesh)
    waits(mesh, f"{mesh.namespace}/web", "it cannot be kept as declared", f"Service {mesh.namespace}/")


@pytest.mark.parametrize("mode", ["Paused", "Plan"])
async def test_nothing_is_removed_of_what_is_not_applied(op: Operator, mesh: Mesh, mode: str) -> None:
    await installed(op, mesh, mode="Apply")
    mesh.change(mode=mode)
    mesh.cluster.delete(mesh.path)
    mesh.cluster.merge(mesh.path, FORCED)
    await op.reconcile(mesh)
    waits(mesh, f"spec.mode is {mode}: nothing is removed until it is Apply")
    assert op.wire.writes() == []
    mesh.change(mode="Apply")
    await op.reconcile(mesh)
    assert is_gone(mesh)


async def test_a_pause_in_the_middle_keeps_the_rest(op: Operator, mesh: Mesh) -> None:
    """At once, as in every other work: what is still there then stays."""
    generations: dict[str, int] = {}
    pausing = Operator.start(op.wire, generation_of=lambda name: generations.get(name, 0))
    await installed(pausing, mesh)
    mesh.cluster.delete(mesh.path)
    generations[mesh.name] = mesh.read()["metadata"]["generation"]

    def pause(request: Sent) -> None:
        if request.what.startswith("delete Deployment"):
            mesh.change(mode="Paused")
            generations[mesh.name] = mesh.read()["metadata"]["generation"]

    op.wire.before = pause
    await pausing.reconcile(mesh)
    assert op.wire.writes()[-1].startswith("delete Deployment")
    await pausing.reconcile(mesh)
    waits(mesh, "spec.mode is Paused")
    assert {"Service", "ConfigMap", "ClusterRole", "ServiceAccount"} <= {each["kind"] for each in mesh.objects()}


# -- the order


async def test_an_istiod_that_still_runs_keeps_the_rest(op: Operator, mesh: Mesh) -> None:
    """It would make again what it left; and it needs its account as long as it runs."""
    istiods = [pod(mesh, f"istiod-{number}", mesh.names.selector, {}) for number in range(2)]
    await installed(op, mesh, *istiods)
    left = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "istio-ca-crl", "namespace": mesh.namespace}}
    kept = {each["kind"] for each in mesh.objects()} - {
        "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "Deployment", "HorizontalPodAutoscaler",
    }  # fmt: skip
    mesh.cluster.create(left)
    mesh.cluster.delete(mesh.path)
    for ended in istiods:
        for each in (op, Operator.start(op.wire)):
            await each.reconcile(mesh)
            waits(mesh, "step 2 of 4 (control plane)", " of istiod (", f"{mesh.namespace}/{ended['metadata']['name']}")
            assert {item["kind"] for item in mesh.objects()} == kept
            assert mesh.cluster.get(path_of_item(left))
        mesh.cluster.delete(path_of_item(ended))
    await op.reconcile(mesh)
    assert is_gone(mesh)


async def test_an_istiod_that_is_excepted_is_named(op: Operator, mesh: Mesh) -> None:
    """It never ends by itself, so whoever excepted it must hear of that."""
    await installed(op, mesh, pod(mesh, "istiod-0", mesh.names.selector, {}))
    mesh.cluster.merge(mesh.deployment_path, {"metadata": {"annotations": {"meshwright.dev/reconcile": "disabled"}}})
    mesh.cluster.delete(mesh.path)
    await op.reconcile(mesh)
    waits(mesh, "step 2 of 4", f"Deployment {mesh.namespace}/{mesh.names.istiod}, which an annotation excepts")
    assert mesh.cluster.get(mesh.deployment_path)


# -- what istiod leaves


@pytest.fixture(scope="module")
def gateway_classes(cluster: Cluster) -> Iterator[None]:
    """The kind GatewayClass, as small as it can be."""
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    manifest = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "gatewayclasses.gateway.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Cluster",
            "names": {"plural": "gatewayclasses", "kind": "GatewayClass"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }  # fmt: skip
    cluster.create(manifest)
    wait_until(lambda: cluster.get(GATEWAY_CLASSES) is not None, "GatewayClass to be served", seconds=20, pause=0.05)
    yield
    cluster.delete(f"{CRDS}/gatewayclasses.gateway.networking.k8s.io")


THEIR_ROOT = "-----BEGIN CERTIFICATE-----\ndGhlaXJz\n-----END CERTIFICATE-----\n"


def root_of(mesh: Mesh) -> str:
    return base64.b64decode(mesh.cluster.must_get(mesh.root_path)["data"]["root-cert.pem"]).decode()


def make(cluster: Cluster, key: Key, *, root: str = "", manager: str = "pilot-discovery") -> str:
    """An object of that name as istiod makes it while it runs. Its path."""
    metadata: Json = {"name": key.name, **({"namespace": key.namespace} if key.namespace else {})}
    item: Json = {"apiVersion": key.api_version, "kind": key.kind, "metadata": metadata}
    if key.kind == "GatewayClass":
        item["spec"] = {"controllerName": "istio.io/gateway-controller"}
    elif key.name == "istio-ca-root-cert":
        metadata["labels"], item["data"] = {"istio.io/config": "true"}, {"root-cert.pem": root}
    elif key.name == "istio-ca-crl":
        metadata["labels"], item["data"] = {"istio.io/config": "true"}, {"ca-crl.pem": ""}
    elif key.kind == "ConfigMap":
        metadata["annotations"] = {"control-plane.alpha.kubernetes.io/leader": '{"holderIdentity":"istiod-0"}'}
    cluster.create(item, f"fieldManager={manager}")
    return path_of_item(item)


def leave_everything(mesh: Mesh, shops: str) -> dict[Shared, list[str]]:
    """Every row of the table, of those for every namespace one in the mesh's and one in `shops`: the paths by user."""
    root = root_of(mesh)
    places = {
        Where.CLUSTER: [""],
        Where.MESH_NAMESPACE: [mesh.namespace],
        Where.EVERY_NAMESPACE: [mesh.namespace, shops],
    }
    paths: dict[Shared, list[str]] = {}
    for row in LEFTOVERS:
        for namespace in places[row.where]:
            key = Key(row.api_version, row.kind, namespace, row.name.format(revision=mesh.revision))
            paths.setdefault(row.shared, []).append(make(mesh.cluster, key, root=root))
    return paths


def what_others_have(mesh: Mesh, shops: str, abroad: str) -> list[str]:
    """Another root with its CRL, another revision's lease, and the names of istiod's in other namespaces."""
    keys = (
        Key("v1", "ConfigMap", abroad, "istio-ca-root-cert"),
        Key("v1", "ConfigMap", abroad, "istio-ca-crl"),
        Key("v1", "ConfigMap", abroad, "istio-leader"),
        Key("v1", "ConfigMap", shops, "istio-namespace-controller-election"),
        Key("v1", "ConfigMap", mesh.namespace, "notes"),
        Key("coordination.k8s.io/v1", "Lease", shops, "istio-status-leader"),
        Key("coordination.k8s.io/v1", "Lease", mesh.namespace, "istio-gateway-deployment-other"),
    )
    return [make(mesh.cluster, key, root=THEIR_ROOT) for key in keys]


def other_istiod(namespace: str) -> Json:
    labels = {"app": "istiod", "istio.io/rev": f"of-{namespace}"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "discovery", "image": "pilot"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"istiod-of-{namespace}", "namespace": namespace, "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


@pytest.mark.usefixtures("gateway_classes")
@pytest.mark.parametrize(
    ("another", "stays"),
    [
        ("nowhere", set()),
        ("in the cluster", {Shared.CLUSTER}),
        ("in the namespace", {Shared.CLUSTER, Shared.NAMESPACE, Shared.TRUST}),
    ],
)
async def test_what_istiod_left_goes_unless_somebody_uses_it(
    op: Operator, mesh: Mesh, another: str, stays: set[Shared]
) -> None:
    await installed(op, mesh)
    shops, abroad = f"shops-{mesh.namespace}", f"abroad-{mesh.namespace}"
    for namespace in (shops, abroad):
        mesh.cluster.make_namespace(namespace)
    paths = leave_everything(mesh, shops)
    others = what_others_have(mesh, shops, abroad)
    theirs = other_istiod(abroad if another == "in the cluster" else mesh.namespace)
    if another != "nowhere":
        mesh.cluster.create(theirs)
    used_by_others = [*(path_of("v1", "Namespace", name=name) for name in (mesh.namespace, shops, abroad)), POLICIES]
    mesh.cluster.delete(mesh.path)
    try:
        await op.reconcile(mesh)
        assert is_gone(mesh)
        left = {user: [path for path in those if mesh.cluster.get(path)] for user, those in paths.items()}
        assert left == {user: those if user in stays else [] for user, those in paths.items()}
        assert [path for path in (*others, *used_by_others) if not mesh.cluster.get(path)] == []
        deletes = [each for each in op.wire.sent if each.method == "DELETE"]
        assert all(each.body and {"uid", "resourceVersion"} <= each.body["preconditions"].keys() for each in deletes)
    finally:
        mesh.cluster.delete(path_of_item(theirs))
        for path in paths[Shared.CLUSTER]:
            mesh.cluster.delete(path)


@pytest.mark.usefixtures("gateway_classes")
async def test_what_people_call_by_istiods_names_stays(op: Operator, mesh: Mesh) -> None:
    await installed(op, mesh)
    theirs = make(mesh.cluster, Key("gateway.networking.k8s.io/v1", "GatewayClass", "", "istio"), manager="helm")
    metadata = {"name": "istio-leader", "namespace": mesh.namespace}
    election = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    mesh.cluster.create(election)
    mesh.cluster.delete(mesh.path)
    try:
        await op.reconcile(mesh)
        assert is_gone(mesh)
        assert mesh.cluster.get(theirs)
        assert mesh.cluster.get(path_of_item(election))
    finally:
        mesh.cluster.delete(theirs)


async def test_what_a_lost_root_signed_goes_too(op: Operator, mesh: Mesh) -> None:
    """The status still knows the fingerprint, by which what istiod published is known."""
    await installed(op, mesh)
    path = make(mesh.cluster, Key("v1", "ConfigMap", mesh.namespace, "istio-ca-root-cert"), root=root_of(mesh))
    for secret in (mesh.root_path, mesh.cacerts_path):
        mesh.cluster.delete(secret)
    mesh.cluster.delete(mesh.path)
    await op.reconcile(mesh)
    assert is_gone(mesh)
    assert mesh.cluster.get(path) is None


# -- the keys


def fingerprints(mesh: Mesh) -> tuple[str, str]:
    trust = mesh.status["clusters"][0]["trust"]
    return trust["rootFingerprint"], trust["intermediateFingerprint"]


async def test_retained_keys_are_found_again(op: Operator, mesh: Mesh) -> None:
    await installed(op, mesh)
    before = fingerprints(mesh)
    secrets = [mesh.cluster.must_get(path) for path in (mesh.root_path, mesh.cacerts_path)]
    mesh.cluster.delete(mesh.path)
    await op.reconcile(mesh)
    assert is_gone(mesh)
    assert [mesh.cluster.must_get(path) for path in (mesh.root_path, mesh.cacerts_path)] == secrets
    again = Operator.start(op.wire)
    await installed(again, mesh)
    assert fingerprints(mesh) == before


async def test_deleted_keys_are_made_anew(op: Operator, mesh: Mesh) -> None:
    await installed(op, mesh, trust={"deletionPolicy": "Delete"})
    before = fingerprints(mesh)
    mesh.cluster.delete(mesh.path)
    await op.reconcile(mesh)
    assert is_gone(mesh)
    # The intermediate first: alone, it would look like a mesh that lost its root. Both after everything else.
    assert op.wire.writes()[-3:] == [
        f"delete Secret {mesh.namespace}/cacerts",
        f"delete Secret {OPERATOR_NAMESPACE}/meshwright-root-{mesh.name}",
        f"patch MeshInstall {mesh.name}",
    ]
    assert [each["kind"] for each in mesh.objects()] == ["Namespace"]
    await installed(op, mesh)
    assert set(fingerprints(mesh)).isdisjoint(before)


async def test_a_secret_of_somebody_else_is_not_deleted_with_ours(op: Operator, mesh: Mesh) -> None:
    await installed(op, mesh, trust={"deletionPolicy": "Delete"})
    mesh.cluster.delete(mesh.cacerts_path)
    theirs = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": mesh.namespace},
        "stringData": {"ca-cert.pem": "theirs"},
    }  # fmt: skip
    mesh.cluster.create(theirs)
    version = mesh.cluster.must_get(mesh.cacerts_path)["metadata"]["resourceVersion"]
    mesh.cluster.delete(mesh.path)
    await op.reconcile(mesh)
    assert is_gone(mesh)
    assert mesh.cluster.get(mesh.root_path) is None
    assert mesh.cluster.must_get(mesh.cacerts_path)["metadata"]["resourceVersion"] == version
