"""A mesh is installed: in order, completely, and then left alone."""

from __future__ import annotations

from api.world import CRDS, DECLARED, MESH_LABEL, WEBHOOKS, Cluster, Json, Mesh, Operator, path_of_item
from testbed.rest import wait_until

POLICIES = "/apis/security.istio.io/v1/peerauthentications"


def remove_istio_api(cluster: Cluster) -> None:
    ours = [item for item in cluster.list(CRDS) if item["metadata"]["name"].endswith(".istio.io")]
    for item in ours:
        cluster.delete(path_of_item(item))
    names = [item["metadata"]["name"] for item in ours]
    wait_until(
        lambda: all(cluster.get(f"{CRDS}/{name}") is None for name in names), "their end", seconds=30, pause=0.05
    )


def kinds(mesh: Mesh) -> list[str]:
    return sorted(item["kind"] for item in mesh.objects())


CONTROL_PLANE = [
    "ClusterRole", "ClusterRole", "ClusterRoleBinding", "ClusterRoleBinding", "ConfigMap", "ConfigMap", "Deployment",
    "HorizontalPodAutoscaler", "Namespace", "PodDisruptionBudget", "Role", "RoleBinding", "Secret", "Secret", "Service",
    "ServiceAccount",
]  # fmt: skip
ISTIO_KINDS = 15  # CRDs in istio.io/api 1.31
INJECTION = ["MutatingWebhookConfiguration", "PeerAuthentication", "ValidatingWebhookConfiguration"]

# The conditions of a mesh that is as declared. There is no istiod that could be asked what it runs.
WELL = {
    "Ready": ("True", "Installed"), "Reconciling": ("False", "Installed"), "Stalled": ("False", "Installed"),
    "ConfigurationAccepted": ("Unknown", "NotObserved"), "CertificatesValid": ("True", "Current"),
    "ControlPlaneSized": ("True", "Sized"), "ControlPlaneReady": ("True", "Available"),
    "WebhooksConfigured": ("True", "Trusted"), "GatewaysReady": ("True", "GatewaysAvailable"),
    "ClustersJoined": ("True", "Joined"),
}  # fmt: skip


async def test_an_empty_cluster(whole_op: Operator, mesh: Mesh) -> None:
    """From nothing to Ready, with the order that each step rests on."""
    op = whole_op
    remove_istio_api(mesh.cluster)
    mesh.create()

    await op.reconcile(mesh)
    assert kinds(mesh) == CONTROL_PLANE  # and no webhook yet: it would stop pods that nobody can inject
    order = op.wire.writes()
    assert order[0] == f"patch MeshInstall {mesh.name}"  # the finalizer, before there is anything to take away

    def at(what: str) -> int:
        return next(number for number, each in enumerate(order) if what in each)

    istiod = at("apply Deployment")
    assert at("/meshwright-root-") < at("/cacerts") < istiod
    # Istio's CRDs are asked for first, and take their time beside what does not need them.
    assert at("CustomResourceDefinition") < istiod
    assert sum("CustomResourceDefinition" in each for each in order) == ISTIO_KINDS
    assert at("apply Namespace") < at("apply ServiceAccount") < at("apply ClusterRoleBinding")
    assert at("apply ClusterRoleBinding") < at("apply ConfigMap") < istiod
    versions = {item["kind"]: int(item["metadata"]["resourceVersion"]) for item in mesh.objects()}
    secrets = [int(each["metadata"]["resourceVersion"]) for each in mesh.objects() if each["kind"] == "Secret"]
    assert max(secrets) < versions["ServiceAccount"] < versions["ConfigMap"] < versions["Deployment"]

    ready, reconciling, stalled = mesh.condition(), mesh.condition("Reconciling"), mesh.condition("Stalled")
    assert (ready["status"], ready["reason"]) == ("False", "Progressing")
    assert (reconciling["status"], stalled["status"]) == ("True", "False")
    assert mesh.status["clustersReady"] == "0/1"

    wait_until(lambda: mesh.cluster.get(POLICIES) is not None, "Istio's kinds to be served", seconds=20, pause=0.05)
    await op.reconcile(mesh)
    assert op.wire.writes() == [f"apply PeerAuthentication {mesh.namespace}/default"]  # it waited for its kind alone
    await op.reconcile(mesh)
    assert op.wire.writes() == []  # the rest waits for the pods
    assert kinds(mesh) == sorted([*CONTROL_PLANE, "PeerAuthentication"])
    assert "istiod" in mesh.condition()["message"]

    mesh.istiod_becomes_available()
    await op.reconcile(mesh)
    assert kinds(mesh) == sorted(CONTROL_PLANE + INJECTION)
    assert mesh.condition()["reason"] == mesh.condition("WebhooksConfigured")["reason"] == "WebhooksNotTrusted"
    assert mesh.names.mutating_webhook in mesh.condition()["message"]

    mesh.istiod_writes_its_ca()
    await op.reconcile(mesh)
    status = mesh.status
    assert status["observedGeneration"] == 1
    assert status["version"] == "1.31.4"
    assert status["clustersReady"] == "1/1"
    plane = status["clusters"][0]["controlPlane"]
    assert (plane["replicas"], plane["readyReplicas"], plane["size"]) == (2, 2, "Small")
    assert plane["resources"] == {
        "requests": {"cpu": "500m", "memory": "4Gi"}, "limits": {"cpu": "2", "memory": "4Gi"},
    }  # fmt: skip
    assert status["clusters"][0]["kubernetesVersion"].startswith("v1.")
    assert len(status["clusters"][0]["trust"]["rootFingerprint"]) == 64
    assert all(each["observedGeneration"] == 1 for each in status["conditions"])
    assert {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]} == WELL

    await op.reconcile(mesh)
    assert op.wire.everything_written() == []


async def test_events_tell_of_turns_only(op: Operator, mesh: Mesh) -> None:
    """Of the whole, and of a part that was not well."""
    mesh.create()
    await op.install(mesh)
    await op.reconcile(mesh)
    turns = [(each["reason"], each["type"]) for each in mesh.events()]
    told = ("Progressing", "WebhooksNotTrusted", "Available", "Installed", "Trusted")
    assert sorted(turns) == sorted((reason, "Normal") for reason in told)


async def test_what_is_as_declared_is_left_alone(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    before = mesh.cluster.snapshot()
    for _ in range(3):
        await op.reconcile(mesh)
        assert op.wire.everything_written() == []
    assert mesh.cluster.snapshot() == before


async def test_another_life_of_the_operator_changes_nothing(op: Operator, second_op: Operator, mesh: Mesh) -> None:
    """A restarted operator applies once, to know where it is; the API server finds nothing different."""
    mesh.create()
    await op.install(mesh)
    await op.reconcile(mesh)
    before = mesh.cluster.snapshot()
    await second_op.reconcile(mesh)
    assert mesh.cluster.snapshot() == before
    await second_op.reconcile(mesh)
    assert second_op.wire.everything_written() == []


async def test_marks(op: Operator, mesh: Mesh) -> None:
    """What we put on objects, and what nobody may find there."""
    mesh.create()
    await op.install(mesh)
    for item in mesh.objects():
        metadata = item["metadata"]
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "meshwright"
        if item["kind"] == "Namespace":
            assert "annotations" not in metadata
        else:
            assert metadata["labels"]["meshwright.dev/mesh-id"] == "cluster.local"
            notes = {"meshwright.dev/size": "Small", "meshwright.dev/replicas": "autoscaled"}
            assert (metadata.get("annotations") or {}) == (notes if item["kind"] == "Deployment" else {})
        writers = {each["manager"] for each in metadata["managedFields"]}
        expected = {"meshwright", "meshwright-birth", "meshwright-trust", "kube-controller-manager", "pilot-discovery"}
        assert writers <= expected, item["kind"]
        assert "ownerReferences" not in metadata  # removal has an order, which garbage collection has not
    own = mesh.read()["metadata"]
    assert own["finalizers"] == ["meshwright.dev/mesh"]
    assert "annotations" not in own  # kopf's memory would be here


async def test_a_namespace_that_was_there_is_not_marked(op: Operator, mesh: Mesh) -> None:
    path = f"/api/v1/namespaces/{mesh.namespace}"
    mesh.cluster.make_namespace(mesh.namespace)
    mesh.cluster.merge(path, {"metadata": {"labels": {"team": "theirs"}}})
    before = mesh.cluster.must_get(path)["metadata"]
    mesh.create()
    await op.install(mesh)
    after = mesh.cluster.must_get(path)["metadata"]
    assert after["labels"] == before["labels"]
    assert "annotations" not in after


async def test_revisions_share_nothing_but_the_istio_api(op: Operator, mesh: Mesh, other_mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    before = identities(mesh)
    other_mesh.create()
    await op.install(other_mesh)
    await op.reconcile(mesh)
    assert identities(mesh) == before
    assert mesh.condition()["reason"] == other_mesh.condition()["reason"] == "Installed"
    roots = {each.status["clusters"][0]["trust"]["rootFingerprint"] for each in (mesh, other_mesh)}
    assert len(roots) == 2


async def test_sidecars_are_counted(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    for number, revision in enumerate([mesh.revision, mesh.revision, "somebody-elses"]):
        mesh.cluster.create(sidecar(mesh, f"web-{number}", revision))
    await op.reconcile(mesh)
    assert mesh.status["proxies"] == 2


def sidecar(mesh: Mesh, name: str, revision: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": mesh.namespace,
            # Not the labels by which the webhook would be called, which has nobody behind it.
            "labels": {"security.istio.io/tlsMode": "istio", "sidecar.istio.io/inject": "false"},
            "annotations": {"istio.io/rev": revision},
        },
        "spec": {"serviceAccountName": mesh.names.istiod, "containers": [{"name": "web", "image": "web"}]},
    }


def identities(mesh: Mesh) -> dict[str, str]:
    return {path_of_item(item): item["metadata"]["resourceVersion"] for item in mesh.objects()}


async def test_a_spec_change_reaches_what_runs(op: Operator, mesh: Mesh) -> None:
    mesh.create(controlPlane=DECLARED)
    await op.install(mesh)
    mesh.change(mtls="Strict", controlPlane={"size": "Medium", "env": {"PILOT_TRACE_SAMPLING": "1"}})
    await op.reconcile(mesh)
    assert mesh.status["observedGeneration"] == 2
    assert mesh.condition()["reason"] == "Progressing"
    spec = mesh.cluster.must_get(mesh.deployment_path)["spec"]
    assert spec["replicas"] == 3
    variables = {each["name"]: each.get("value") for each in spec["template"]["spec"]["containers"][0]["env"]}
    assert variables["PILOT_TRACE_SAMPLING"] == "1"

    mesh.istiod_becomes_available()
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "Installed"
    policy = f"/apis/security.istio.io/v1/namespaces/{mesh.namespace}/peerauthentications/default"
    assert mesh.cluster.must_get(policy)["spec"]["mtls"]["mode"] == "STRICT"

    mesh.change(controlPlane={"env": {"PILOT_TRACE_SAMPLING": None}})
    await op.reconcile(mesh)
    container = mesh.cluster.must_get(mesh.deployment_path)["spec"]["template"]["spec"]["containers"][0]
    assert "PILOT_TRACE_SAMPLING" not in [each["name"] for each in container["env"]]


async def test_the_default_revision_has_istios_own_names(op: Operator, default_mesh: Mesh) -> None:
    default_mesh.create()
    await op.install(default_mesh)
    validators = default_mesh.cluster.list(
        f"{WEBHOOKS}/validatingwebhookconfigurations", f"{MESH_LABEL}={default_mesh.name}"
    )
    names = {each["metadata"]["name"] for each in validators}
    assert names == {"istiod-default-validator", f"istio-validator-{default_mesh.namespace}"}
    assert default_mesh.deployment_path.endswith("/istiod")
