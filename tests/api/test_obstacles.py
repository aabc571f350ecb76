"""What stands in the way of a mesh is said in the condition, in words to act on, and nothing is lost."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jinja2
import pytest
import pytest_asyncio
import yaml

from api.conftest import install_crd
from api.world import (
    CRDS,
    OPERATOR_NAMESPACE,
    WEBHOOKS,
    Cluster,
    Json,
    Mesh,
    Operator,
    RefusedError,
    Sent,
    path_of_item,
)
from meshwright.render import templates
from testbed.rest import wait_until

HOLD = "patch MeshInstall"  # our finalizer


def says(mesh: Mesh, reason: str, *words: str, stalled: bool = True) -> None:
    """The three conditions agree about `reason`; the message holds each of `words`."""
    ready = mesh.condition()
    assert (ready["status"], ready["reason"]) == ("False", reason), ready["message"]
    for word in words:
        assert word in ready["message"]
    assert mesh.condition("Stalled")["status"] == str(stalled)
    assert mesh.condition("Reconciling")["status"] == str(not stalled)
    assert mesh.status["observedGeneration"] == mesh.read()["metadata"]["generation"]
    assert "Traceback" not in ready["message"]


async def refused(
    op: Operator, mesh: Mesh, reason: str, *words: str, stalled: bool = True, may_write: tuple[str, ...] = ()
) -> None:
    """A reconcile ends with that condition, having written nothing (but what starts with `may_write`)."""
    before = mesh.cluster.snapshot()
    await op.reconcile(mesh)
    says(mesh, reason, *words, stalled=stalled)
    assert [what for what in op.wire.writes() if not what.startswith(may_write or ("-",))] == []
    after = mesh.cluster.snapshot()
    if not may_write:
        assert after == before
    assert before.keys() <= after.keys()
    assert all(after[name] == version for name, version in before.items())
    # And again: nothing new is said, nothing is written.
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []


# -- the MeshInstall itself


async def test_unsupported_version(op: Operator, mesh: Mesh) -> None:
    mesh.create(version="1.30.2")
    await refused(op, mesh, "UnsupportedVersion", "spec.version 1.30.2", "choose a patch of 1.31")
    assert "finalizers" not in mesh.read()["metadata"]


async def test_a_bad_version_leaves_what_runs(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    fingerprint = mesh.status["clusters"][0]["trust"]["rootFingerprint"]
    mesh.change(version="1.32.0")
    await refused(op, mesh, "UnsupportedVersion", "choose a patch of 1.31")
    assert mesh.status["version"] == "1.31.4"
    assert mesh.status["clusters"][0]["trust"]["rootFingerprint"] == fingerprint
    mesh.change(version="1.31.4")  # a version that was refused can be taken back
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "Installed"


async def test_computed_keys(op: Operator, mesh: Mesh) -> None:
    mesh.create(meshConfig={"defaultConfig": {"meshId": "x"}, "rootNamespace": "y"})
    path = "spec.meshConfig.defaultConfig.meshId"
    await refused(op, mesh, "InvalidSpec", path, "spec.meshConfig.rootNamespace", "remove it here")


async def test_resources_that_contradict(op: Operator, mesh: Mesh) -> None:
    mesh.create(controlPlane={"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}})
    await refused(op, mesh, "InvalidSpec", "requests.memory (2Gi) is more than limits.memory (1Gi)", "lower")


async def test_two_meshes_of_one_revision(op: Operator, mesh: Mesh, cluster: Cluster) -> None:
    """The older one keeps it, whoever is looked at first."""
    mesh.create()
    await op.install(mesh)
    twin = Mesh(cluster, f"a-{mesh.name}", f"a-{mesh.namespace}", mesh.revision)  # first in the alphabet
    wait_until(lambda: cluster_second(cluster) > created(mesh), "another second", seconds=5, pause=0.1)
    try:
        twin.create()
        await refused(op, twin, "RevisionConflict", mesh.name, mesh.revision, "choose another spec.revision")
        await op.reconcile(mesh)
        assert mesh.condition()["reason"] == "Installed"
    finally:
        twin.take_away()


def created(mesh: Mesh) -> str:
    return str(mesh.read()["metadata"]["creationTimestamp"])


def cluster_second(cluster: Cluster) -> str:
    probe = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "probe-of-the-clock"}}
    return str(cluster.create(probe, "dryRun=All").body["metadata"]["creationTimestamp"])


async def test_a_spec_that_was_stored_under_an_older_schema(op: Operator, mesh: Mesh) -> None:
    """What a laxer CRD let in is reported when the strict one is there; what was known is still known."""
    mesh.create()
    await op.install(mesh)
    before = mesh.status
    definition = mesh.cluster.must_get(f"{CRDS}/meshinstalls.meshwright.dev")
    version = definition["spec"]["versions"][0]
    lax = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    mesh.cluster.apply({
        "apiVersion": definition["apiVersion"], "kind": definition["kind"],
        "metadata": {"name": definition["metadata"]["name"]},
        "spec": definition["spec"] | {"versions": [version | {"schema": {"openAPIV3Schema": lax}}]},
    })  # fmt: skip

    def stored() -> bool:
        try:
            mesh.change(mtls="Sometimes", controlPlane={"size": "Huge"})
        except RefusedError:
            return False
        return True

    try:
        wait_until(stored, "the lax schema", seconds=20, pause=0.05)
    finally:
        install_crd(mesh.cluster)
    wait_until(lambda: is_strict(mesh), "the strict schema", seconds=20, pause=0.05)
    await refused(op, mesh, "InvalidSpec", "spec.mtls", "'Permissive' or 'Strict'", "spec.controlPlane.size")
    after = mesh.status
    assert after["version"] == before["version"]
    assert after["clusters"][0]["trust"] == before["clusters"][0]["trust"]
    # `refused` has seen that nothing is written twice. The way back:
    mesh.change(mtls="Permissive", controlPlane={"size": "Small"})
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "Installed"


def is_strict(mesh: Mesh) -> bool:
    try:
        mesh.cluster.create(mesh.manifest(mtls="Sometimes") | {"metadata": {"name": "probe"}}, "dryRun=All")
    except RefusedError as refusal:
        return refusal.status == 422
    return False


async def test_hostile_text_stays_text(op: Operator, mesh: Mesh) -> None:
    hostile = 'x"}\n---\nkind: Secret {{ 7 * 7 }} {% raw %} \u2028 ${HOME} \\ \x7f 🦀'
    mesh.create(
        controlPlane={"env": {"HOSTILE": hostile, "EMPTY": "", "YES": "yes", "NUMBER": "1e3"}},
        meshConfig={"accessLogFormat": hostile, "defaultConfig": {"proxyMetadata": {"NO": "no"}}},
    )
    await op.install(mesh)
    container = mesh.cluster.must_get(mesh.deployment_path)["spec"]["template"]["spec"]["containers"][0]
    variables = {each["name"]: each.get("value", "") for each in container["env"]}
    expected = {"HOSTILE": hostile, "EMPTY": "", "YES": "yes", "NUMBER": "1e3"}
    assert {name: variables[name] for name in expected} == expected
    path = f"/api/v1/namespaces/{mesh.namespace}/configmaps/{mesh.names.mesh_config}"
    stored = yaml.safe_load(mesh.cluster.must_get(path)["data"]["mesh"])
    assert stored["accessLogFormat"] == hostile
    assert stored["defaultConfig"]["proxyMetadata"]["NO"] == "no"


# -- pods


def pod(mesh: Mesh, status: Json) -> None:
    """A pod of istiod as the kubelet or the scheduler would report it."""
    number = next(pod_numbers)
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"istiod-{number}", "namespace": mesh.namespace,
            "labels": {**mesh.names.selector, "sidecar.istio.io/inject": "false"},
        },
        "spec": {
            "serviceAccountName": mesh.names.istiod,
            "containers": [{"name": "discovery", "image": "docker.io/istio/pilot:1.31.4"}],
        },
    }  # fmt: skip
    mesh.cluster.create(manifest)
    mesh.cluster.merge(f"{path_of_item(manifest)}/status", {"status": status})


pod_numbers = itertools.count(1)


def container_status(waiting: Json, **more: Any) -> Json:
    ready = {"name": "discovery", "ready": False, "restartCount": 3, "image": "x", "imageID": ""}
    return {"containerStatuses": [ready | {"state": {"waiting": waiting}, **more}]}


PULL = 'Back-off pulling image "docker.io/istio/pilot:1.31.4": not found'
TROUBLES = {
    "image": (
        container_status({"reason": "ImagePullBackOff", "message": PULL}),
        ("container discovery of pod istiod-", "ImagePullBackOff", PULL),
    ),
    "unschedulable": (
        {
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                 "message": "0/3 nodes are available: 3 Insufficient memory."}
            ]
        },
        ("pod istiod-", "Unschedulable", "3 Insufficient memory"),
    ),
    "crash": (
        container_status(
            {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"},
            lastState={"terminated": {"exitCode": 255, "message": "…\nError: cacerts: root-cert.pem not found"}},
        ),
        ("CrashLoopBackOff", "last exit code 255", "root-cert.pem not found"),
    ),
    "config": (
        container_status({"reason": "CreateContainerConfigError", "message": 'secret "cacerts" not found'}),
        ("CreateContainerConfigError", 'secret "cacerts" not found'),
    ),
}  # fmt: skip


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_istiod_does_not_run(op: Operator, mesh: Mesh, trouble: str) -> None:
    status, words = TROUBLES[trouble]
    mesh.create()
    await op.reconcile(mesh)
    mesh.istiod_becomes_available(0)
    await op.reconcile(mesh)
    pod(mesh, status)
    await refused(op, mesh, "ControlPlaneNotReady", "0 of 2 replicas", *words, stalled=False)


async def test_containers_that_only_start_are_no_trouble(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.reconcile(mesh)
    pod(mesh, container_status({"reason": "ContainerCreating"}))
    await op.reconcile(mesh)
    says(mesh, "Progressing", stalled=False)


# -- the namespace


async def test_namespace_that_is_being_deleted(op: Operator, mesh: Mesh) -> None:
    mesh.cluster.make_namespace(mesh.namespace)
    mesh.cluster.delete(f"/api/v1/namespaces/{mesh.namespace}")  # stays: nobody here finishes the deletion
    mesh.create()
    await refused(op, mesh, "NamespaceTerminating", mesh.namespace, "wait until it is gone")


@pytest.mark.parametrize("before", ["/cacerts", "apply ServiceAccount", "apply Deployment"])
async def test_namespace_that_is_deleted_under_our_hands(op: Operator, mesh: Mesh, before: str) -> None:
    mesh.cluster.make_namespace(mesh.namespace)
    mesh.create()

    def delete_namespace(request: Sent) -> None:
        if request.writes and before in request.what:
            mesh.cluster.delete(f"/api/v1/namespaces/{mesh.namespace}")

    op.wire.before = delete_namespace
    await op.reconcile(mesh)
    says(mesh, "NamespaceTerminating", "being terminated")
    op.wire.before = lambda _: None
    await refused(op, mesh, "NamespaceTerminating", "wait until it is gone")


# -- objects of others


def foreign_istiod(namespace: str, revision: str, name: str = "istiod") -> Json:
    labels = {"app": "istiod", "istio": "pilot", "istio.io/rev": revision}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "discovery", "image": "docker.io/istio/pilot:1.30.0"}]},
            },
        },
    }


@pytest.mark.parametrize("where", ["namespace", "revision"])
async def test_istiod_of_somebody_else(op: Operator, mesh: Mesh, where: str) -> None:
    namespace = mesh.namespace if where == "namespace" else f"their-{mesh.namespace}"
    revision = mesh.revision if where == "revision" else f"their-{mesh.revision}"
    mesh.cluster.make_namespace(namespace)
    theirs = foreign_istiod(namespace, revision)
    mesh.cluster.apply(theirs, manager="helm")
    mesh.create()
    try:
        await refused(op, mesh, "ForeignControlPlane", f"{namespace}/istiod", "helm", "uninstall it with the tool")
        assert mesh.cluster.get(mesh.cacerts_path) is None
        assert mesh.cluster.get(mesh.root_path) is None
        mesh.cluster.delete(path_of_item(theirs))
        await op.reconcile(mesh)
        says(mesh, "Progressing", stalled=False)
    finally:
        mesh.cluster.delete(path_of_item(theirs))


async def test_istiod_of_somebody_else_far_away(op: Operator, mesh: Mesh) -> None:
    """Another namespace and another revision is nobody's business."""
    namespace = f"their-{mesh.namespace}"
    mesh.cluster.make_namespace(namespace)
    theirs = foreign_istiod(namespace, "their-revision")
    mesh.cluster.apply(theirs, manager="helm")
    mesh.create()
    try:
        await op.install(mesh)
    finally:
        mesh.cluster.delete(path_of_item(theirs))


async def test_injector_of_somebody_else(op: Operator, mesh: Mesh) -> None:
    theirs = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {
            "name": f"istio-revision-tag-{mesh.revision}",
            "labels": {"app": "sidecar-injector", "istio.io/rev": mesh.revision},
        },
    }
    mesh.cluster.apply(theirs, manager="istioctl")
    mesh.create()
    try:
        name = f"istio-revision-tag-{mesh.revision}"
        await refused(op, mesh, "ForeignControlPlane", name, "istioctl", "inject every pod twice")
        assert mesh.cluster.get(mesh.cacerts_path) is None
    finally:
        mesh.cluster.delete(path_of_item(theirs))


def no_trust_was_made(mesh: Mesh) -> None:
    assert mesh.cluster.get(mesh.cacerts_path) is None
    assert mesh.cluster.get(mesh.root_path) is None


async def test_an_object_in_our_place_leaves_nothing_of_ours_behind(op: Operator, mesh: Mesh) -> None:
    """It is of the last wave, for which there is no condition yet, and of no namespace: neither delays the answer."""
    theirs = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": mesh.names.validating_webhook, "labels": {"team": "theirs"}},
    }
    mesh.cluster.apply(theirs, manager="terraform")
    mesh.create()
    words = (f"ValidatingWebhookConfiguration {mesh.names.validating_webhook}", "terraform", "not touched")
    await refused(op, mesh, "ForeignObject", *words, may_write=(HOLD,))
    no_trust_was_made(mesh)
    assert mesh.cluster.get(f"/api/v1/namespaces/{mesh.namespace}") is None
    mesh.cluster.delete(path_of_item(theirs))
    await op.install(mesh)


async def test_tag_of_somebody_else_that_points_to_us_is_welcome(op: Operator, mesh: Mesh) -> None:
    theirs = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {
            "name": f"istio-revision-tag-of-{mesh.name}",
            "labels": {"app": "sidecar-injector", "istio.io/rev": mesh.revision, "istio.io/tag": f"of-{mesh.name}"},
        },
    }
    mesh.cluster.apply(theirs, manager="istioctl")
    mesh.create()
    try:
        await op.install(mesh)
    finally:
        mesh.cluster.delete(path_of_item(theirs))


async def test_config_map_of_somebody_else_in_our_place(op: Operator, mesh: Mesh) -> None:
    mesh.cluster.make_namespace(mesh.namespace)
    theirs = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": mesh.names.mesh_config, "namespace": mesh.namespace},
        "data": {"mesh": "theirs"},
    }
    mesh.cluster.apply(theirs, manager="terraform")
    mesh.create()
    words = (f"ConfigMap {mesh.namespace}/{mesh.names.mesh_config}", "terraform", "not touched")
    await refused(op, mesh, "ForeignObject", *words, may_write=(HOLD,))
    no_trust_was_made(mesh)
    mesh.cluster.delete(path_of_item(theirs))
    await op.install(mesh)


async def test_webhook_configuration_of_another_mesh(op: Operator, mesh: Mesh, other_mesh: Mesh) -> None:
    """Two meshes in one namespace never write over each other."""
    mesh.create()
    await op.install(mesh)
    other_mesh.create(namespace=mesh.namespace)
    words = f"PeerAuthentication {mesh.namespace}/default belongs to mesh {mesh.name}: not touched"
    await refused(op, other_mesh, "ForeignObject", words, may_write=(HOLD,))
    assert mesh.cluster.get(other_mesh.root_path) is None
    # One that has no such object yet is still in the way, by its keys.
    mesh.cluster.delete(f"/apis/security.istio.io/v1/namespaces/{mesh.namespace}/peerauthentications/default")
    await refused(op, other_mesh, "TrustNotUsable", f"{mesh.namespace}/cacerts")
    assert mesh.cluster.get(other_mesh.root_path) is None


PEER_AUTHENTICATIONS = f"{CRDS}/peerauthentications.security.istio.io"


@pytest_asyncio.fixture
async def foreign_crd(op: Operator, mesh: Mesh) -> AsyncIterator[Json]:
    """One of Istio's CRDs as another tool would have installed it."""
    mesh.create()
    await op.reconcile(mesh)
    mesh.cluster.merge(PEER_AUTHENTICATIONS, {"metadata": {"annotations": {"meshwright.dev/istio-api": None}}})
    yield mesh.cluster.must_get(PEER_AUTHENTICATIONS)
    versions = mesh.cluster.must_get(PEER_AUTHENTICATIONS)["spec"]["versions"]
    for each in versions:
        each["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"].pop("hardened", None)
    mesh.cluster.merge(PEER_AUTHENTICATIONS, {"spec": {"versions": versions}})


async def test_crds_that_hold_more_than_ours_are_used_as_they_are(op: Operator, mesh: Mesh, foreign_crd: Json) -> None:
    versions = foreign_crd["spec"]["versions"]
    for each in versions:
        each["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["hardened"] = {"type": "boolean"}
    mesh.cluster.merge(PEER_AUTHENTICATIONS, {"spec": {"versions": versions}})
    await op.install(mesh)
    after = mesh.cluster.must_get(PEER_AUTHENTICATIONS)
    assert after["spec"]["versions"] == versions
    assert "meshwright.dev/istio-api" not in after["metadata"]["annotations"]
    message = mesh.condition()["message"]
    assert "CustomResourceDefinition peerauthentications.security.istio.io, version v1: spec.hardened" in message
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []


async def test_crds_that_ours_can_replace_are_replaced(op: Operator, mesh: Mesh, foreign_crd: Json) -> None:
    versions = foreign_crd["spec"]["versions"]
    for each in versions:
        del each["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["portLevelMtls"]
        each["schema"]["openAPIV3Schema"]["properties"]["spec"].pop("x-kubernetes-validations", None)
    mesh.cluster.merge(PEER_AUTHENTICATIONS, {"spec": {"versions": versions}})
    await op.install(mesh)
    after = mesh.cluster.must_get(PEER_AUTHENTICATIONS)
    assert "meshwright.dev/istio-api" in after["metadata"]["annotations"]
    spec = after["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert "portLevelMtls" in spec["properties"]
    assert mesh.condition()["message"] == "the mesh is as declared"


async def test_cacerts_of_somebody_else(op: Operator, mesh: Mesh) -> None:
    mesh.cluster.make_namespace(mesh.namespace)
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "cacerts", "namespace": mesh.namespace},
        "stringData": {"ca-cert.pem": "their certificate", "ca-key.pem": "their key"},
    }
    mesh.cluster.create(theirs)
    mesh.create()
    words = (f"Secret {mesh.namespace}/cacerts", "not touched", "move it away, or use another namespace")
    await refused(op, mesh, "TrustNotUsable", *words, may_write=(HOLD,))
    assert mesh.cluster.get(mesh.root_path) is None
    assert "their key" not in str(mesh.read())


async def test_root_that_is_gone(op: Operator, mesh: Mesh) -> None:
    """A new root beside the workloads of the old one would cut the mesh in two."""
    mesh.create()
    await op.install(mesh)
    backup = mesh.cluster.must_get(mesh.root_path)
    mesh.cluster.delete(mesh.root_path)
    name = f"{OPERATOR_NAMESPACE}/meshwright-root-{mesh.name}"
    await refused(op, mesh, "TrustNotUsable", f"{mesh.namespace}/cacerts", name, "restore that Secret from a backup")
    assert mesh.cluster.get(mesh.root_path) is None
    del backup["metadata"]["resourceVersion"], backup["metadata"]["uid"]
    mesh.cluster.create(backup)
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "Installed"


@pytest.mark.parametrize("file", ["ca-key.pem", "root-cert.pem"])
async def test_secret_that_somebody_damaged(op: Operator, mesh: Mesh, file: str) -> None:
    mesh.create()
    await op.install(mesh)
    key = mesh.cluster.must_get(mesh.cacerts_path)["data"]["ca-key.pem"]
    mesh.cluster.merge(mesh.cacerts_path, {"data": {file: "bm90IFBFTQ=="}})
    await refused(op, mesh, "TrustNotUsable", f"Secret {mesh.namespace}/cacerts", "not ")
    assert key not in str(mesh.read())


# -- the API server's own no


async def test_object_that_an_admission_policy_refuses(op: Operator, mesh: Mesh) -> None:
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": mesh.name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                     "resources": ["configmaps"]}
                ]
            },
            "validations": [
                {"expression": f"object.metadata.name != '{mesh.names.mesh_config}'",
                 "message": "house rule 7: no mesh configuration on Fridays"}
            ],
        },
    }  # fmt: skip
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": mesh.name},
        "spec": {"policyName": mesh.name, "validationActions": ["Deny"]},
    }
    probe = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": mesh.names.mesh_config, "namespace": "default"},
    }

    def in_force() -> bool:
        try:
            mesh.cluster.create(probe, "dryRun=All")
        except RefusedError as refusal:
            return "house rule 7" in str(refusal)
        return False

    mesh.cluster.create(policy)
    mesh.cluster.create(binding)
    try:
        wait_until(in_force, "the policy", seconds=30, pause=0.1)
        mesh.create()
        await op.reconcile(mesh)
        words = (f"ConfigMap {mesh.namespace}/{mesh.names.mesh_config}", "house rule 7: no mesh configuration")
        says(mesh, "ObjectRejected", *words)
        assert "or the policy" in mesh.condition("Stalled")["message"]
        assert mesh.cluster.get(mesh.deployment_path) is None
    finally:
        mesh.cluster.delete(path_of_item(binding))
        mesh.cluster.delete(path_of_item(policy))
    wait_until(lambda: not in_force(), "the end of the policy", seconds=30, pause=0.1)
    await op.install(mesh)


@contextmanager
def broken_template() -> Iterator[None]:
    source = templates._source  # noqa: SLF001

    def broken(path: str) -> str | None:
        return "kind: {{ no_such_value }}" if path == "istiod/controlplane.yaml.j2" else source(path)

    environment = templates._environment.__wrapped__()  # noqa: SLF001
    environment.loader = jinja2.FunctionLoader(broken)
    with mock.patch.object(templates, "_environment", return_value=environment):
        yield


async def test_template_that_is_broken_from_the_start_leaves_nothing_behind(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    with broken_template():
        await refused(op, mesh, "TemplateError", "istiod/controlplane.yaml.j2", "no_such_value", may_write=(HOLD,))
    no_trust_was_made(mesh)
    assert mesh.objects() == []
    assert mesh.cluster.get(f"/api/v1/namespaces/{mesh.namespace}") is None
    await op.install(mesh)


async def test_template_that_is_broken(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    before = mesh.cluster.snapshot()
    with broken_template():
        await op.reconcile(mesh)
        says(mesh, "TemplateError", "istiod/controlplane.yaml.j2", "no_such_value")
        assert op.wire.writes() == []
    assert mesh.cluster.snapshot() == before
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "Installed"


async def test_status_webhooks(op: Operator, mesh: Mesh) -> None:
    """A stalled mesh keeps its webhooks: pods go on getting their sidecars."""
    mesh.create()
    await op.install(mesh)
    mesh.change(meshConfig={"trustDomain": "other"})
    await op.reconcile(mesh)
    says(mesh, "InvalidSpec")
    assert mesh.cluster.get(mesh.injector_path)
    assert mesh.injector_path.startswith(WEBHOOKS)
