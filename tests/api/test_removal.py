"""A MeshInstall is deleted: in order, completely, and so that a mesh that comes back finds its root."""

from __future__ import annotations

import pytest

from api.world import CRDS, Mesh, Operator, Sent
from meshwright.api.errors import Unreachable

ORDER = [
    "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "HorizontalPodAutoscaler", "Deployment",
    "PeerAuthentication", "PodDisruptionBudget", "Service", "ConfigMap", "ConfigMap", "ClusterRoleBinding",
    "ClusterRoleBinding", "ClusterRole", "ClusterRole", "RoleBinding", "Role", "ServiceAccount",
]  # fmt: skip


async def test_removed_in_order(op: Operator, mesh: Mesh, other_mesh: Mesh) -> None:
    mesh.create()
    other_mesh.create()
    await op.install(mesh)
    await op.install(other_mesh)
    others = {each["metadata"]["uid"] for each in other_mesh.objects()}
    mesh.cluster.delete(mesh.path)
    assert await op.reconcile(mesh) is None
    assert [what.split()[1] for what in op.wire.writes()] == [*ORDER, "MeshInstall"]  # webhooks before istiod
    assert mesh.cluster.get(mesh.path) is None
    assert sorted(each["kind"] for each in mesh.objects()) == ["Namespace", "Secret", "Secret"]
    assert mesh.cluster.get(f"{CRDS}/peerauthentications.security.istio.io")
    assert {each["metadata"]["uid"] for each in other_mesh.objects()} == others
    assert await op.reconcile(mesh) is None
    assert op.wire.everything_written() == []


async def test_back_with_the_same_root(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    trust = mesh.status["clusters"][0]["trust"]
    mesh.cluster.delete(mesh.path)
    await op.reconcile(mesh)
    mesh.create()
    await op.install(mesh)
    assert mesh.status["clusters"][0]["trust"] == trust


async def test_finalizer_of_somebody_else(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    mesh.cluster.merge(mesh.path, {"metadata": {"finalizers": ["example.com/keep"]}})
    await op.install(mesh)
    assert mesh.read()["metadata"]["finalizers"] == ["example.com/keep", "meshwright.dev/mesh"]
    mesh.cluster.delete(mesh.path)
    await op.reconcile(mesh)
    assert mesh.read()["metadata"]["finalizers"] == ["example.com/keep"]
    assert mesh.cluster.get(mesh.deployment_path) is None
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []  # what is being deleted is not installed again


async def test_deleted_before_anything_was_made(op: Operator, mesh: Mesh) -> None:
    mesh.create(version="1.30.0")
    await op.reconcile(mesh)
    mesh.cluster.delete(mesh.path)
    assert mesh.cluster.get(mesh.path) is None


async def test_a_spec_that_does_not_fit_can_be_deleted(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    mesh.change(meshConfig={"trustDomain": "x"})
    await op.reconcile(mesh)
    mesh.cluster.delete(mesh.path)
    await op.reconcile(mesh)
    assert mesh.cluster.get(mesh.path) is None


@pytest.mark.parametrize("number", [1, 2, 6, 17])
async def test_interrupted(op: Operator, second_op: Operator, mesh: Mesh, number: int) -> None:
    """Stopped at any delete, the finalizer holds the MeshInstall until another life has done the rest."""
    mesh.create()
    await op.install(mesh)
    mesh.cluster.delete(mesh.path)
    count = 0

    def fail(request: Sent) -> None:
        nonlocal count
        count += request.writes and not request.reports
        if count >= number:
            raise Unreachable("the API server does not answer")

    op.wire.before = fail
    try:
        again = await op.reconcile(mesh)
    except Unreachable:
        again = None
    assert again is None or again.failed
    assert mesh.read()["metadata"]["finalizers"] == ["meshwright.dev/mesh"]
    await second_op.reconcile(mesh)
    assert mesh.cluster.get(mesh.path) is None
    assert sorted(each["kind"] for each in mesh.objects()) == ["Namespace", "Secret", "Secret"]


async def test_metrics_forget(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    assert f'mesh="{mesh.name}"' in op.metrics.exposition().decode()
    mesh.cluster.delete(mesh.path)
    await op.reconcile(mesh)
    await op.reconcile(mesh)  # the event of its end
    assert f'mesh="{mesh.name}"' not in op.metrics.exposition().decode()


async def test_what_holds_a_removal_up_is_said(op: Operator, mesh: Mesh) -> None:
    """The MeshInstall is still there, so its conditions are where people look."""
    mesh.create()
    await op.install(mesh)
    mesh.cluster.delete(mesh.path)

    def fail(request: Sent) -> None:
        if request.method == "DELETE":
            raise Unreachable(f"{request.what}: the API server does not answer")

    op.wire.before = fail
    await op.reconcile(mesh)
    ready = mesh.condition()
    assert (ready["status"], ready["reason"]) == ("False", "Deleting")
    assert f"delete MutatingWebhookConfiguration {mesh.names.mutating_webhook}" in ready["message"]
    op.wire.before = lambda _: None
    await op.reconcile(mesh)
    assert mesh.cluster.get(mesh.path) is None
