"""What others do to our objects: what is ours comes back, what is theirs stays."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
from typing import Any
from unittest import mock

import pytest

from api.world import CRDS, NOW, OPERATOR_NAMESPACE, Cluster, Json, Mesh, Operator, path_of_item
from meshwright.keys.authority import Authority

KINDS = (
    "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet", "Deployment", "HorizontalPodAutoscaler",
    "MutatingWebhookConfiguration", "PeerAuthentication", "PodDisruptionBudget", "Role", "RoleBinding", "Service",
    "ServiceAccount", "ValidatingWebhookConfiguration",
)  # fmt: skip

# Something of ours in each kind that somebody might edit, by a JSON patch.
EDITS: dict[str, tuple[str, str, Any]] = {
    "ClusterRole": ("replace", "/rules", []),
    "ClusterRoleBinding": ("remove", "/subjects", None),
    "ConfigMap": ("add", "/data", {}),
    "DaemonSet": ("replace", "/spec/template/spec/containers/0/command", ["sleep", "9"]),
    "Deployment": ("replace", "/spec/template/spec/containers/0/image", "somebody-elses"),
    "HorizontalPodAutoscaler": ("replace", "/spec/maxReplicas", 100),
    "MutatingWebhookConfiguration": ("replace", "/webhooks/0/failurePolicy", "Ignore"),
    "PeerAuthentication": ("replace", "/spec/mtls/mode", "DISABLE"),
    "PodDisruptionBudget": ("replace", "/spec/maxUnavailable", "100%"),
    "Role": ("replace", "/rules", []),
    "RoleBinding": ("remove", "/subjects", None),
    "Service": ("replace", "/spec/ports/0/targetPort", 1),
    "ServiceAccount": ("remove", "/metadata/labels/app", None),
    "ValidatingWebhookConfiguration": ("replace", "/webhooks/0/timeoutSeconds", 1),
}


def owned(mesh: Mesh) -> dict[str, Json]:
    """One object of each kind."""
    return {item["kind"]: item for item in mesh.objects()}


def declared(item: Json) -> Json:
    """What of an object is ours to declare."""
    return {name: value for name, value in item.items() if name not in ("metadata", "status")}


async def test_every_kind_is_restored(op: Operator, mesh: Mesh) -> None:
    mesh.create(dataPlane={"cni": "Enabled"})
    await op.install(mesh)
    await op.reconcile(mesh)
    before = owned(mesh)
    assert set(before) == {*KINDS, "Namespace", "Secret"}
    for kind in KINDS:
        mesh.cluster.delete(path_of_item(before[kind]))
        await op.repair(mesh)
        after = owned(mesh)[kind]
        assert after["metadata"]["uid"] != before[kind]["metadata"]["uid"]
        if kind != "Service":  # another address
            assert comparable(after) == comparable(before[kind]), kind


async def test_every_edit_is_undone(op: Operator, mesh: Mesh) -> None:
    mesh.create(dataPlane={"cni": "Enabled"})
    await op.install(mesh)
    await op.reconcile(mesh)
    before = owned(mesh)
    for kind, (verb, path, value) in EDITS.items():
        operation = {"op": verb, "path": path} | ({} if value is None else {"value": value})
        mesh.cluster.json_patch(path_of_item(before[kind]), operation)
        assert owned(mesh)[kind]["metadata"]["resourceVersion"] != before[kind]["metadata"]["resourceVersion"]
        await op.repair(mesh)
        after = owned(mesh)[kind]
        assert comparable(after) == comparable(before[kind]), kind
        assert after["metadata"]["labels"] == before[kind]["metadata"]["labels"]
        assert {**notes(before[kind]), **notes(after)} == notes(after)


def notes(item: Json) -> dict[str, str]:
    """But for one by which the API server counts templates."""
    found: dict[str, str] = item["metadata"].get("annotations") or {}
    return {name: text for name, text in found.items() if name != "deprecated.daemonset.template.generation"}


def comparable(item: Json) -> str:
    return str(declared(item))


async def test_an_edit_of_what_identifies_an_item(op: Operator, mesh: Mesh) -> None:
    """A port is known by its number: with another number it is another port, beside which ours would be refused."""
    mesh.create()
    await op.install(mesh)
    path = f"/api/v1/namespaces/{mesh.namespace}/services/{mesh.names.istiod}"
    mesh.cluster.json_patch(path, {"op": "replace", "path": "/spec/ports/0/port", "value": 1})
    await op.repair(mesh)
    service = mesh.cluster.must_get(path)
    assert [each["port"] for each in service["spec"]["ports"]] == [15010, 15012, 443, 15014]
    writers = {(each["manager"], each["operation"]) for each in service["metadata"]["managedFields"]}
    assert ("meshwright", "Apply") in writers
    assert not {manager for manager, operation in writers if manager == "meshwright-birth"}
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []


async def test_a_label_that_was_taken_off_makes_an_object_foreign(op: Operator, mesh: Mesh) -> None:
    """Whoever removes our label says that the object is theirs: it is not written again, and that is said."""
    mesh.create()
    await op.install(mesh)
    path = f"/api/v1/namespaces/{mesh.namespace}/services/{mesh.names.istiod}"
    mesh.cluster.merge(path, {"metadata": {"labels": {"meshwright.dev/mesh": None}}})
    version = mesh.cluster.must_get(path)["metadata"]["resourceVersion"]
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "ForeignObject"
    assert f"Service {mesh.namespace}/{mesh.names.istiod}" in mesh.condition()["message"]
    assert mesh.cluster.must_get(path)["metadata"]["resourceVersion"] == version


async def test_what_others_wrote_stays(op: Operator, second_op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    validator = f"{mesh.injector_path.rpartition('/mutating')[0]}/validatingwebhookconfigurations/" + (
        mesh.names.validating_webhook
    )
    # istiod: its CA, and Fail once it answers.
    assert mesh.cluster.must_get(validator)["webhooks"][0]["failurePolicy"] == "Ignore"
    mesh.cluster.json_patch(
        f"{validator}?fieldManager=pilot-discovery",
        {"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "Q0E="},
        {"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"},
    )
    for item in owned(mesh).values():
        path = path_of_item(item)
        mesh.cluster.merge(path, {"metadata": {"annotations": {"example.com/owner": "team"}, "labels": {"cost": "7"}}})
    mesh.cluster.merge(
        mesh.deployment_path,
        {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}},
    )
    for each in (op, second_op):  # one that remembers, and one that applies everything anew
        await each.repair(mesh)
        webhook = mesh.cluster.must_get(validator)["webhooks"][0]
        assert (webhook["failurePolicy"], webhook["clientConfig"]["caBundle"]) == ("Fail", "Q0E=")
        for item in owned(mesh).values():
            assert item["metadata"]["annotations"]["example.com/owner"] == "team"
            assert item["metadata"]["labels"]["cost"] == "7"
        template = mesh.cluster.must_get(mesh.deployment_path)["spec"]["template"]
        assert template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] == "now"
        assert all(
            webhook["clientConfig"]["caBundle"] for webhook in mesh.cluster.must_get(mesh.injector_path)["webhooks"]
        )


async def test_a_crd_of_istio_comes_back(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    path = f"{CRDS}/peerauthentications.security.istio.io"
    before = mesh.cluster.must_get(path)["metadata"]["uid"]
    mesh.cluster.delete(path)

    def is_another() -> bool:
        found = mesh.cluster.get(path)
        return found is not None and found["metadata"]["uid"] != before

    for _ in range(100):  # its end, and the start of the new one, are the API server's to say
        await op.reconcile(mesh)
        if is_another() and mesh.condition()["reason"] == "Installed" and op.wire.everything_written() == []:
            break
        await asyncio.sleep(0.1)
    assert is_another()
    assert mesh.condition()["reason"] == "Installed"
    policy = f"/apis/security.istio.io/v1/namespaces/{mesh.namespace}/peerauthentications/default"
    assert mesh.cluster.get(policy)


async def test_istios_kinds_are_read_whole_once(op: Operator, mesh: Mesh) -> None:
    """Its schemas are megabytes: what is as it was is seen from the metadata of the list."""
    asked: list[tuple[str, bool]] = []
    get = op.wire.get

    async def listen(kind: Any, name: str, namespace: str = "", *, metadata_only: bool = False) -> Json | None:
        if kind.kind == "CustomResourceDefinition":
            asked.append((name, metadata_only))
        return await get(kind, name, namespace, metadata_only=metadata_only)

    mesh.create()
    await op.install(mesh)
    name = "peerauthentications.security.istio.io"
    with mock.patch.object(op.wire, "get", listen):
        await op.reconcile(mesh)
        assert asked == []
        asked.clear()
        mesh.cluster.merge(f"{CRDS}/{name}", {"spec": {"names": {"shortNames": ["pa", "drift"]}}})
        await op.repair(mesh)
        assert asked[0] == (name, False)
    assert mesh.cluster.must_get(f"{CRDS}/{name}")["spec"]["names"]["shortNames"] == ["pa"]


async def test_what_is_there_is_kept_while_istiod_is_down(op: Operator, mesh: Mesh) -> None:
    """Only what would have to be made anew waits for somebody who answers."""
    mesh.create()
    await op.install(mesh)
    before = owned(mesh)
    mesh.istiod_becomes_available(0)
    for kind in ("MutatingWebhookConfiguration", "PeerAuthentication", "ValidatingWebhookConfiguration"):
        verb, path, value = EDITS[kind]
        mesh.cluster.json_patch(path_of_item(before[kind]), {"op": verb, "path": path, "value": value})
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "Progressing"
    for kind in ("MutatingWebhookConfiguration", "PeerAuthentication", "ValidatingWebhookConfiguration"):
        assert comparable(owned(mesh)[kind]) == comparable(before[kind]), kind
    mesh.cluster.delete(mesh.injector_path)
    await op.reconcile(mesh)
    assert mesh.cluster.get(mesh.injector_path) is None
    await op.repair(mesh)
    assert mesh.cluster.get(mesh.injector_path)


async def test_a_renewal_leaves_what_others_put_beside_our_keys(cluster: Cluster, op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    trust = mesh.status["clusters"][0]["trust"]
    text = mesh.cluster.must_get(mesh.cacerts_path)["data"]["root-cert.pem"]
    theirs = Authority.root(mesh_id="other", trust_domain="other", now=NOW).certificate_pem
    bundle = base64.b64encode(base64.b64decode(text) + theirs).decode()
    mesh.cluster.merge(mesh.cacerts_path, {
        "metadata": {"labels": {"team": "mesh"}, "annotations": {"note": "x"}, "finalizers": ["example.com/keep"]},
        "data": {"root-cert.pem": bundle, "ca-crl.pem": "YSBsaXN0"},
    })  # fmt: skip
    before = mesh.cluster.must_get(mesh.cacerts_path)
    later = Operator.start(op.wire, now=NOW + dt.timedelta(days=200)).reconciler
    await later.reconcile(mesh.name)
    after = mesh.cluster.must_get(mesh.cacerts_path)
    changed = {"ca-cert.pem", "ca-key.pem", "cert-chain.pem"}
    assert {name for name in before["data"] if after["data"][name] != before["data"][name]} == changed
    assert after["data"].keys() == before["data"].keys()
    for name in ("labels", "annotations", "finalizers", "uid"):
        assert after["metadata"][name] == before["metadata"][name]
    found = mesh.status["clusters"][0]["trust"]
    assert found["rootFingerprint"] == trust["rootFingerprint"]
    assert found["intermediateFingerprint"] != trust["intermediateFingerprint"]
    assert mesh.condition()["reason"] == "Installed"
    cluster.merge(mesh.cacerts_path, {"metadata": {"finalizers": None}})


@pytest.mark.parametrize("which", ["cacerts", "both"])
async def test_signing_keys_that_are_gone(op: Operator, mesh: Mesh, which: str) -> None:
    """An intermediate is made again below the same root; without both Secrets there is nothing to keep."""
    mesh.create()
    await op.install(mesh)
    before = mesh.status["clusters"][0]["trust"]
    mesh.cluster.delete(mesh.cacerts_path)
    if which == "both":
        mesh.cluster.delete(mesh.root_path)
    await op.repair(mesh)
    after = mesh.status["clusters"][0]["trust"]
    assert (after["rootFingerprint"] == before["rootFingerprint"]) == (which == "cacerts")
    assert after["intermediateFingerprint"] != before["intermediateFingerprint"]
    annotations = mesh.cluster.must_get(mesh.deployment_path)["spec"]["template"]["metadata"]["annotations"]
    assert annotations["meshwright.dev/root-fingerprint"] == after["rootFingerprint"]
    assert mesh.root_path.startswith(f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/")
