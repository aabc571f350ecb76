"""spec.mode: Plan and Paused touch nothing; Apply goes on where they left off."""

from __future__ import annotations

from api.world import Mesh, Operator


async def test_plan_of_an_empty_cluster(op: Operator, mesh: Mesh) -> None:
    mesh.create(mode="Plan")
    before = mesh.cluster.snapshot()
    await op.reconcile(mesh)
    assert op.wire.writes() == []
    assert mesh.cluster.snapshot() == before
    assert "finalizers" not in mesh.read()["metadata"]
    plan = mesh.status["plan"]
    assert plan["create"] >= 16
    assert (plan["change"], mesh.condition()["status"]) == (0, "Unknown")
    assert f"create Deployment {mesh.namespace}/{mesh.names.istiod}" in plan["objects"]
    assert mesh.condition()["reason"] == "Planned"
    assert str(plan["create"]) in mesh.condition()["message"]
    assert mesh.condition("Reconciling")["status"] == "False"
    assert "version" not in mesh.status
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []

    mesh.change(mode="Apply")
    await op.install(mesh)
    assert "plan" not in mesh.status
    created = [each for each in mesh.objects() if each["kind"] != "Secret"]
    assert len(created) == len([each for each in plan["objects"] if "CustomResourceDefinition" not in each])


async def test_plan_of_a_change(op: Operator, second_op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    await op.reconcile(mesh)
    before = mesh.cluster.snapshot()
    mesh.change(mode="Plan", controlPlane={"env": {"PILOT_TRACE_SAMPLING": "1"}})
    for each in (op, second_op):
        await each.reconcile(mesh)
        plan = mesh.status["plan"]
        assert (plan["create"], plan["change"]) == (0, 1)
        assert plan["objects"] == [f"change Deployment {mesh.namespace}/{mesh.names.istiod}"]
        assert each.wire.writes() == []
    assert mesh.cluster.snapshot() == before
    assert mesh.status["version"] == "1.31.4"


async def test_plan_that_finds_nothing(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    await op.reconcile(mesh)
    mesh.change(mode="Plan")
    await op.reconcile(mesh)
    plan = mesh.status["plan"]
    assert (plan["create"], plan["change"]) == (0, 0)
    assert plan["unchanged"] >= 16


async def test_plan_says_what_would_stop_it(op: Operator, mesh: Mesh) -> None:
    mesh.create(mode="Plan", version="1.30.0")
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "UnsupportedVersion"


async def test_paused(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    mesh.change(mode="Paused", controlPlane={"size": "Large"})
    mesh.cluster.delete(mesh.injector_path)  # somebody needs it away for an hour
    before = mesh.cluster.snapshot()
    await op.reconcile(mesh)
    assert op.wire.writes() == []
    assert mesh.cluster.snapshot() == before
    assert (mesh.condition()["status"], mesh.condition()["reason"]) == ("Unknown", "Paused")
    assert mesh.status["clusters"][0]["trust"]["rootFingerprint"]
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []

    mesh.change(mode="Apply")
    await op.reconcile(mesh)
    assert mesh.cluster.must_get(mesh.deployment_path)["spec"]["replicas"] == 5
    mesh.istiod_becomes_available()
    await op.reconcile(mesh)
    assert mesh.cluster.get(mesh.injector_path)


async def test_paused_from_birth(op: Operator, mesh: Mesh) -> None:
    mesh.create(mode="Paused")
    before = mesh.cluster.snapshot()
    await op.reconcile(mesh)
    assert mesh.cluster.snapshot() == before
    assert "finalizers" not in mesh.read()["metadata"]
    assert mesh.condition()["reason"] == "Paused"
