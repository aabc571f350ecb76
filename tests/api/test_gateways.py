"""`spec.gateways` on a real API server: made, changed, kept and taken away, in the mesh's namespace and elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from api.world import Json, Mesh, Operator, path_of_item

KINDS = {
    "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Role", "RoleBinding", "Service", "ServiceAccount",
}  # fmt: skip
GATEWAY: Json = {"name": "ingress"}


def parts(mesh: Mesh, name: str) -> dict[str, Json]:
    """What a gateway consists of, by kind."""
    ours = [each for each in mesh.objects() if each["metadata"]["name"] == name]
    return {each["kind"]: each for each in ours if each["metadata"]["labels"]["meshwright.dev/component"] == "gateway"}


def condition(mesh: Mesh) -> tuple[str, str]:
    found = mesh.condition("GatewaysReady")
    return found["status"], found["reason"]


async def installed(op: Operator, mesh: Mesh, *gateways: Json) -> None:
    mesh.create(gateways=list(gateways))
    await op.install(mesh)


async def test_gateways_in_two_namespaces(op: Operator, mesh: Mesh) -> None:
    edge = f"{mesh.namespace}-edge"
    mesh.cluster.make_namespace(edge)
    mesh.create(gateways=[GATEWAY, {"name": "egress", "type": "Egress", "namespace": edge, "replicas": 3}])
    await op.reconcile(mesh)
    # Its pods would keep the image `auto` while nobody injects.
    assert "Deployment" not in parts(mesh, "ingress")
    assert condition(mesh) == ("False", "GatewayNotReady")
    await op.install(mesh)
    assert condition(mesh) == ("True", "GatewaysAvailable")
    for name, namespace, kind, replicas in (
        ("ingress", mesh.namespace, "LoadBalancer", 2),
        ("egress", edge, "ClusterIP", 3),
    ):
        found = parts(mesh, name)
        assert found.keys() == KINDS
        assert {each["metadata"]["namespace"] for each in found.values()} == {namespace}
        assert found["Service"]["spec"]["type"] == kind
        assert found["Deployment"]["spec"]["replicas"] == replicas
        assert found["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] == 2 * replicas
        assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    gateways = mesh.status["clusters"][0]["gateways"]
    counts = {(each["namespace"], each["name"]): (each["replicas"], each["readyReplicas"]) for each in gateways}
    assert counts == {(mesh.namespace, "ingress"): (2, 2), (edge, "egress"): (3, 3)}
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []

    mesh.change(gateways=[GATEWAY])
    await op.reconcile(mesh)
    assert parts(mesh, "egress") == {}
    assert parts(mesh, "ingress").keys() == KINDS
    assert mesh.cluster.get(f"/api/v1/namespaces/{edge}")
    mesh.change(gateways=None)
    await op.reconcile(mesh)
    assert parts(mesh, "ingress") == {}
    assert mesh.condition()["reason"] == "Installed"
    assert "gateways" not in mesh.status["clusters"][0] or mesh.status["clusters"][0]["gateways"] == []


async def test_they_go_with_the_mesh(op: Operator, mesh: Mesh) -> None:
    edge = f"{mesh.namespace}-edge"
    mesh.cluster.make_namespace(edge)
    await installed(op, mesh, {**GATEWAY, "namespace": edge})
    mesh.cluster.delete(mesh.path)
    assert await op.reconcile(mesh) is None
    assert sorted(each["kind"] for each in mesh.objects()) == ["Namespace", "Secret", "Secret"]
    assert mesh.cluster.get(f"/api/v1/namespaces/{edge}")


async def test_a_namespace_that_is_not_there_is_waited_for(op: Operator, mesh: Mesh) -> None:
    """It is somebody else's to make; the rest of the mesh, and of its gateways, is made meanwhile."""
    edge = f"{mesh.namespace}-edge"
    mesh.create(gateways=[GATEWAY, {"name": "far", "namespace": edge}])
    await op.reconcile(mesh)
    for turn in (mesh.istiod_becomes_available, mesh.istiod_writes_its_ca, mesh.gateways_become_available):
        turn()
        await op.reconcile(mesh)
    assert condition(mesh) == ("False", "GatewayNotReady")
    message = mesh.condition()["message"]
    assert f"namespace {edge}, which a gateway is to be in, is not there: create it" in message
    assert parts(mesh, "ingress").keys() == KINDS
    assert mesh.cluster.get(f"/api/v1/namespaces/{edge}") is None
    mesh.cluster.make_namespace(edge)
    await op.repair(mesh)
    assert parts(mesh, "far").keys() == KINDS


async def test_a_gateway_is_changed(op: Operator, mesh: Mesh) -> None:
    await installed(op, mesh, GATEWAY)
    before = parts(mesh, "ingress")
    port = {"name": "https", "port": 443, "targetPort": 8443, "nodePort": 31443}
    changed: dict[str, Any] = {
        **GATEWAY,
        "replicas": 4,
        "podDisruptionBudget": {"minAvailable": 3},
        "resources": {"limits": {"cpu": "1"}},
        "labels": {"team": "edge"},
        "service": {
            "type": "NodePort", "annotations": {"example.com/lb": "x"}, "ports": [port],
            "externalTrafficPolicy": "Local",
        },
    }  # fmt: skip
    mesh.change(gateways=[changed])
    await op.reconcile(mesh)
    assert condition(mesh) == ("False", "GatewayNotReady")
    await op.repair(mesh)
    after = parts(mesh, "ingress")
    assert {kind: each["metadata"]["uid"] for kind, each in after.items()} == {
        kind: each["metadata"]["uid"] for kind, each in before.items()
    }
    service, budget = after["Service"], after["PodDisruptionBudget"]["spec"]
    assert service["metadata"]["annotations"] == {"example.com/lb": "x"}
    assert (service["spec"]["type"], service["spec"]["externalTrafficPolicy"]) == ("NodePort", "Local")
    assert [(each["port"], each["targetPort"], each["nodePort"]) for each in service["spec"]["ports"]] == [
        (443, 8443, 31443)
    ]
    assert (budget.get("maxUnavailable"), budget["minAvailable"]) == (None, 3)
    scaler = after["HorizontalPodAutoscaler"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (4, 8)
    assert scaler["metrics"][0]["resource"]["target"]["averageValue"] == "800m"
    template = after["Deployment"]["spec"]["template"]
    assert after["Deployment"]["spec"]["replicas"] == 4
    assert template["metadata"]["labels"]["team"] == "edge"
    assert template["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "1"

    mesh.change(gateways=[GATEWAY])  # what is asked for no more, goes
    await op.repair(mesh)
    back = parts(mesh, "ingress")
    assert back["Service"]["spec"]["type"] == "LoadBalancer"
    assert "annotations" not in back["Service"]["metadata"]
    assert "externalTrafficPolicy" not in str(back["Service"]["metadata"]["managedFields"][0])
    assert back["Deployment"]["spec"]["template"] == before["Deployment"]["spec"]["template"]
    assert back["PodDisruptionBudget"]["spec"] == before["PodDisruptionBudget"]["spec"]


async def test_its_replicas_are_an_autoscalers_unless_it_has_none(op: Operator, mesh: Mesh) -> None:
    await installed(op, mesh, GATEWAY)
    path = path_of_item(parts(mesh, "ingress")["Deployment"])
    scale = {"spec": {"replicas": 3}}
    mesh.cluster.merge(f"{path}/scale", scale, manager="kube-controller-manager")
    for life in (op, Operator.start(op.wire)):
        await life.reconcile(mesh)
        assert life.wire.writes() == []
    mesh.change(gateways=[{**GATEWAY, "autoscaling": {"enabled": False}}])
    await op.reconcile(mesh)
    assert "HorizontalPodAutoscaler" not in parts(mesh, "ingress")
    assert mesh.cluster.must_get(path)["spec"]["replicas"] == 2
    mesh.cluster.merge(f"{path}/scale", {"spec": {"replicas": 5}}, manager="kubectl")
    await op.reconcile(mesh)
    assert mesh.cluster.must_get(path)["spec"]["replicas"] == 2


async def test_what_others_do_to_it_is_put_right_and_what_they_add_stays(op: Operator, mesh: Mesh) -> None:
    await installed(op, mesh, GATEWAY)
    before = parts(mesh, "ingress")
    service, deployment = path_of_item(before["Service"]), path_of_item(before["Deployment"])
    node_ports = [each["nodePort"] for each in before["Service"]["spec"]["ports"]]
    mesh.cluster.merge(service, {"metadata": {"annotations": {"cloud": "x"}}, "spec": {"selector": {"istio": "other"}}})
    mesh.cluster.delete(deployment)
    await op.repair(mesh)
    after = parts(mesh, "ingress")
    assert after["Service"]["spec"]["selector"] == before["Service"]["spec"]["selector"]
    assert after["Service"]["metadata"]["annotations"] == {"cloud": "x"}
    assert [each["nodePort"] for each in after["Service"]["spec"]["ports"]] == node_ports
    assert after["Deployment"]["spec"] == before["Deployment"]["spec"]


async def test_its_addresses_and_its_troubles_are_told(op: Operator, mesh: Mesh) -> None:
    await installed(op, mesh, GATEWAY)
    service = path_of_item(parts(mesh, "ingress")["Service"])
    ingress = [{"ip": "192.0.2.7"}, {"hostname": "lb.example.com"}]
    mesh.cluster.merge(f"{service}/status", {"status": {"loadBalancer": {"ingress": ingress}}}, manager="cloud")
    await op.reconcile(mesh)
    (gateway,) = mesh.status["clusters"][0]["gateways"]
    assert gateway["addresses"] == ["192.0.2.7", "lb.example.com"]
    mesh.gateways_become_available(1)
    await op.reconcile(mesh)
    ready = mesh.condition()
    assert (ready["status"], ready["reason"]) == ("False", "GatewayNotReady")
    assert f"1 of 2 replicas of gateway {mesh.namespace}/ingress are ready" in ready["message"]
    assert mesh.condition("ControlPlaneReady")["status"] == "True"


@pytest.mark.parametrize("kind", sorted(KINDS - {"HorizontalPodAutoscaler", "PodDisruptionBudget"}))
async def test_a_place_that_is_somebody_elses(op: Operator, mesh: Mesh, kind: str) -> None:
    """Nothing of it is touched, and nothing else is written."""
    await installed(op, mesh, GATEWAY)
    theirs = parts(mesh, "ingress")[kind]
    mesh.change(gateways=None)
    await op.reconcile(mesh)
    identity = {**{name: theirs["metadata"][name] for name in ("name", "namespace")}, "labels": {"team": "edge"}}
    body = {name: value for name, value in theirs.items() if name not in ("metadata", "status")}
    if kind == "Service":
        body["spec"] = {"ports": [{"port": 80}]}
    made = mesh.cluster.create({**body, "metadata": identity}, "fieldManager=terraform").body
    mesh.change(gateways=[GATEWAY])
    before = mesh.cluster.snapshot()
    await op.reconcile(mesh)
    ready = mesh.condition()
    assert (ready["status"], ready["reason"]) == ("False", "ForeignObject")
    assert f"{kind} {mesh.namespace}/ingress was made by terraform: not touched" in ready["message"]
    assert mesh.cluster.snapshot() == before
    mesh.cluster.delete(path_of_item(made))
    await op.repair(mesh)
    assert parts(mesh, "ingress").keys() == KINDS


# -- PodDisruptionBudgets of somebody else


def their_budget(namespace: str, **selector: str) -> Json:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "theirs", "namespace": namespace},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": selector}},
    }


@pytest.mark.parametrize("app", ["istiod", "ingress"])
async def test_a_budget_of_somebody_else_over_our_pods(op: Operator, mesh: Mesh, app: str) -> None:
    """It would keep every node from being drained. It is named, not touched, and nothing is held up by it."""
    await installed(op, mesh, GATEWAY)
    theirs = their_budget(mesh.namespace, app=app)
    mesh.cluster.create(theirs, "fieldManager=platform-team")
    mesh.change(mtls="Strict")
    await op.reconcile(mesh)
    assert op.wire.writes() == [f"apply PeerAuthentication {mesh.namespace}/default"]
    ready = mesh.condition()
    assert (ready["status"], ready["reason"]) == ("False", "DisruptionBudgetConflict")
    assert f"PodDisruptionBudget {mesh.namespace}/theirs, made by platform-team," in ready["message"]
    assert mesh.condition("Stalled")["status"] == "True"
    mesh.cluster.delete(path_of_item(theirs))
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "Installed"


@pytest.mark.parametrize("namespace", ["", "-elsewhere"])
async def test_a_budget_that_is_not_over_our_pods(op: Operator, mesh: Mesh, namespace: str) -> None:
    await installed(op, mesh, GATEWAY)
    mesh.cluster.make_namespace(f"{mesh.namespace}{namespace}")
    labels = {"app": "istiod"} if namespace else {"app": "web"}
    mesh.cluster.create(their_budget(f"{mesh.namespace}{namespace}", **labels))
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []
    assert mesh.condition()["reason"] == "Installed"
