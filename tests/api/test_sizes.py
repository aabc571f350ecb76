"""Sizes of istiod that have to fit: into the mesh, onto the nodes, and back when they do not."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterator

import pytest

from api.world import NOW, Cluster, Json, Mesh, Operator, path_of_item
from meshwright.api.meshinstall import Size
from meshwright.cluster.kinds import POD
from meshwright.mesh.sizing import ROWS

LIMITS = {"Small": ("2", "4Gi"), "Medium": ("4", "8Gi"), "Large": ("8", "16Gi")}  # the documented table
PATIENCE = dt.timedelta(minutes=5)
AT_ONCE = 5  # requests: the operator's client has not more connections here


def limits(mesh: Mesh) -> tuple[str, str]:
    """Those that istiod's Deployment has."""
    (container,) = mesh.cluster.must_get(mesh.deployment_path)["spec"]["template"]["spec"]["containers"]
    found: dict[str, str] = container["resources"]["limits"]
    return found["cpu"], found["memory"]


def sized(mesh: Mesh) -> tuple[str, str]:
    condition = mesh.condition("ControlPlaneSized")
    return condition["status"], condition["reason"]


async def has_size(op: Operator, mesh: Mesh, size: str) -> None:
    """The Deployment has it, its rollout ends, and the status says so."""
    assert limits(mesh) == LIMITS[size]
    mesh.istiod_becomes_available()
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "Installed"
    assert mesh.status["clusters"][0]["controlPlane"]["size"] == size


# -- Auto


def enrolled_namespace(mesh: Mesh) -> str:
    """One whose pods ask for the mesh."""
    name = f"{mesh.namespace}-shop"
    metadata = {"name": name, "labels": {"istio.io/rev": mesh.revision}}
    mesh.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    mesh.cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": name}})
    return name


def pod(namespace: str, number: int) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"web-{number}", "namespace": namespace},
        "spec": {
            "serviceAccountName": "web",
            "automountServiceAccountToken": False,
            "containers": [{"name": "web", "image": "web"}],
        },
    }


async def make_pods(op: Operator, pods: list[Json]) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def make(each: Json) -> None:
        async with slots:
            await op.wire.create(POD, each, field_manager="kubectl-create")

    await asyncio.gather(*map(make, pods))


async def test_auto_is_decided_by_the_pods_at_the_installation_and_then_kept(op: Operator, mesh: Mesh) -> None:
    namespace = enrolled_namespace(mesh)
    enough = ROWS[Size.SMALL].below_pods
    pods = [pod(namespace, number) for number in range(enough)]
    await make_pods(op, pods)
    mesh.create()
    await op.install(mesh)
    assert mesh.status["clusters"][0]["injection"]["expected"] == enough
    await has_size(op, mesh, "Medium")
    assert mesh.cluster.must_get(mesh.autoscaler_path)["spec"]["minReplicas"] == 3

    for each in pods[:3]:  # now it would be Small
        mesh.cluster.delete(path_of_item(each))
    for each_life in (op, Operator.start(op.wire)):
        await each_life.reconcile(mesh)
        assert each_life.wire.writes() == []
        assert mesh.status["clusters"][0]["injection"]["expected"] == enough - 3
        assert limits(mesh) == LIMITS["Medium"]

    mesh.change(controlPlane={"size": "Large"})
    await op.reconcile(mesh)
    await has_size(op, mesh, "Large")
    mesh.change(controlPlane={"size": "Auto"})  # whatever it has is kept: nothing is restarted for a word
    await op.reconcile(mesh)
    assert op.wire.writes() == []
    assert limits(mesh) == LIMITS["Large"]


async def test_auto_of_a_deployment_that_somebody_deleted(op: Operator, mesh: Mesh) -> None:
    """The annotation goes with it; the status still knows."""
    mesh.create(controlPlane={"size": "Medium"})
    await op.install(mesh)
    mesh.change(controlPlane={"size": "Auto"})
    await op.reconcile(mesh)
    mesh.cluster.delete(mesh.deployment_path)
    restarted = Operator.start(op.wire)
    await restarted.reconcile(mesh)
    await has_size(restarted, mesh, "Medium")


# -- nodes


@pytest.fixture
def new_node(cluster: Cluster) -> Iterator[Callable[..., None]]:
    made: list[Json] = []

    def new(name: str, *, cpu: str, memory: str, **spec: object) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}
        cluster.create(node)
        made.append(node)
        status = {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"}}
        cluster.merge(f"{path_of_item(node)}/status", {"status": status}, manager="kubelet")

    yield new
    for each in made:
        cluster.delete(path_of_item(each))


async def test_an_installation_that_no_node_has_room_for(
    op: Operator, mesh: Mesh, new_node: Callable[..., None]
) -> None:
    """Nothing at all is written: neither our finalizer nor a CA."""
    new_node("tiny", cpu="2", memory="3Gi")
    new_node("cordoned", cpu="64", memory="256Gi", unschedulable=True)
    mesh.create()
    before = mesh.cluster.snapshot()
    await op.reconcile(mesh)
    assert op.wire.writes() == []
    assert mesh.cluster.snapshot() == before
    ready = mesh.condition()
    assert (ready["status"], ready["reason"]) == ("False", "NoNodeLargeEnough")
    assert "requests 500m CPU and 4.0 GiB, and the largest, tiny, has 2 CPU and 3.0 GiB" in ready["message"]
    assert mesh.condition("Stalled")["status"] == "True"
    assert sized(mesh) == ("False", "NoNodeLargeEnough")
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []

    mesh.change(controlPlane={"resources": {"requests": {"memory": "2Gi"}}})
    await op.install(mesh)
    assert sized(mesh) == ("True", "Sized")


async def test_a_resize_that_no_node_has_room_for(op: Operator, mesh: Mesh, new_node: Callable[..., None]) -> None:
    """What runs stays, and the rest of the spec counts."""
    new_node("middling", cpu="4", memory="6Gi")
    mesh.create()
    await op.install(mesh)
    mesh.change(controlPlane={"size": "Medium"}, mtls="Strict")
    await op.reconcile(mesh)
    assert limits(mesh) == LIMITS["Small"]
    ready = mesh.condition()
    assert (ready["status"], ready["reason"]) == ("False", "NoNodeLargeEnough")
    assert "istiod stays size Small (2 CPU, 4Gi)" in ready["message"]
    assert mesh.condition("ControlPlaneReady")["status"] == "True"
    policy = f"/apis/security.istio.io/v1/namespaces/{mesh.namespace}/peerauthentications/default"
    assert mesh.cluster.must_get(policy)["spec"]["mtls"]["mode"] == "STRICT"
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []

    new_node("large", cpu="16", memory="64Gi")
    await op.reconcile(mesh)
    await has_size(op, mesh, "Medium")
    assert sized(mesh) == ("True", "Sized")


# -- a replica that waits for a node


def waits_for_a_node(mesh: Mesh, *, since: dt.datetime) -> Json:
    """The first pod of the newest template, and what the scheduler says of it."""
    template = mesh.cluster.must_get(mesh.deployment_path)["spec"]["template"]
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "istiod-new", "namespace": mesh.namespace, "labels": template["metadata"]["labels"]},
        "spec": template["spec"],
    }
    mesh.cluster.create(made)
    condition = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
        "lastTransitionTime": since.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip
    mesh.cluster.merge(f"{path_of_item(made)}/status", {"status": {"conditions": [condition]}}, "kube-scheduler")
    return made


async def test_a_size_that_finds_no_room_is_taken_back(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    mesh.change(controlPlane={"size": "Medium"})
    await op.reconcile(mesh)
    assert limits(mesh) == LIMITS["Medium"]
    pending = waits_for_a_node(mesh, since=NOW)

    almost = Operator.start(op.wire, now=NOW + PATIENCE - dt.timedelta(seconds=1))
    await almost.reconcile(mesh)
    assert limits(mesh) == LIMITS["Medium"]
    assert mesh.condition()["reason"] == "ControlPlaneNotReady"
    assert sized(mesh) == ("True", "Sized")

    late = Operator.start(op.wire, now=NOW + PATIENCE)
    await late.reconcile(mesh)
    assert limits(mesh) == LIMITS["Small"]
    assert sized(mesh) == ("False", "SizeTakenBack")
    message = mesh.condition("ControlPlaneSized")["message"]
    assert "size Medium (4 CPU, 8Gi) found no room within 5 minutes" in message
    assert "istiod is size Small (2 CPU, 4Gi) again: pod istiod-new: 0/3 nodes are available" in message
    refused = mesh.status["clusters"][0]["controlPlane"]["refused"]
    assert (refused["size"], refused["resources"]["limits"]) == ("Medium", {"cpu": "4", "memory": "8Gi"})

    # It is not tried again, whoever looks, and whether or not a pod still waits.
    mesh.cluster.delete(path_of_item(pending))
    mesh.istiod_becomes_available()
    for life in (late, Operator.start(op.wire, now=NOW + 10 * PATIENCE)):
        await life.reconcile(mesh)
        assert life.wire.writes() == []
        assert limits(mesh) == LIMITS["Small"]
        ready = mesh.condition()
        assert (ready["status"], ready["reason"]) == ("False", "SizeTakenBack")
        assert mesh.condition("Stalled")["status"] == "True"

    # Until another one is asked for.
    mesh.change(controlPlane={"size": "Small"})
    await op.reconcile(mesh)
    assert sized(mesh) == ("True", "Sized")
    assert "refused" not in mesh.status["clusters"][0]["controlPlane"]
    mesh.change(controlPlane={"size": "Medium"})
    await op.reconcile(mesh)
    await has_size(op, mesh, "Medium")


async def test_resources_that_find_no_room_are_taken_back(op: Operator, mesh: Mesh) -> None:
    """Also without another size; less is another thing to ask for."""
    mesh.create()
    await op.install(mesh)
    mesh.change(controlPlane={"resources": {"limits": {"memory": "12Gi"}}})
    await op.reconcile(mesh)
    pending = waits_for_a_node(mesh, since=NOW)
    late = Operator.start(op.wire, now=NOW + PATIENCE)
    await late.reconcile(mesh)
    assert limits(mesh) == LIMITS["Small"]
    assert sized(mesh) == ("False", "SizeTakenBack")
    mesh.cluster.delete(path_of_item(pending))
    mesh.change(controlPlane={"resources": {"limits": {"memory": "6Gi"}}})
    await late.reconcile(mesh)
    assert limits(mesh) == ("2", "6Gi")
    mesh.istiod_becomes_available()
    await late.reconcile(mesh)
    assert mesh.condition()["reason"] == "Installed"


async def test_a_new_mesh_waits_for_its_nodes(op: Operator, mesh: Mesh) -> None:
    """There is nothing to go back to, and where a cluster grows on demand, a pod that waits is what makes it grow."""
    mesh.create(controlPlane={"size": "Large"})
    await op.reconcile(mesh)
    waits_for_a_node(mesh, since=NOW)
    late = Operator.start(op.wire, now=NOW + 10 * PATIENCE)
    await late.reconcile(mesh)
    assert limits(mesh) == LIMITS["Large"]
    ready = mesh.condition()
    assert (ready["status"], ready["reason"]) == ("False", "ControlPlaneNotReady")
    assert "pod istiod-new says Unschedulable: 0/3 nodes are available" in ready["message"]
