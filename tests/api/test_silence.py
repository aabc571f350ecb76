"""In sync means silent: what is as declared is not written, whoever looks at it, and however often."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from api.world import CRDS, Json, Mesh, Operator, path_of_item

LOOKS, NEXT_LOOKS = 50, 10


def times(mesh: Mesh) -> dict[str, Json]:
    """When who wrote which fields of all that the mesh consists of, and its CRD."""
    crd = mesh.cluster.must_get(f"{CRDS}/peerauthentications.security.istio.io")
    return {path_of_item(item): item["metadata"]["managedFields"] for item in (*mesh.objects(), mesh.read(), crd)}


class Counts:
    """The requests of several reconciles."""

    def __init__(self) -> None:
        self.writes: list[str] = []
        self.dry_runs: list[str] = []

    async def look(self, op: Operator, mesh: Mesh) -> None:
        await op.reconcile(mesh)
        self.writes += op.wire.everything_written()
        self.dry_runs += [each.what for each in op.wire.sent if each.method != "GET" and not each.writes]

    def __str__(self) -> str:
        return f"{len(self.writes)} mutating requests, {len(self.dry_runs)} dry runs"


async def test_many_looks_and_no_write_in_this_life_and_the_next(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    before = times(mesh)
    this_life, first_look, next_life = Counts(), Counts(), Counts()
    for _ in range(LOOKS):
        await this_life.look(op, mesh)
    restarted = Operator.start(op.wire.again())
    await first_look.look(restarted, mesh)
    for _ in range(NEXT_LOOKS):
        await next_life.look(restarted, mesh)
    print(f"{LOOKS} reconciles: {this_life}; restart: {first_look}; {NEXT_LOOKS} more: {next_life}")
    assert not this_life.writes
    assert not this_life.dry_runs
    assert not first_look.writes
    # Whoever remembers nothing asks once of each object, CRD and namespace included.
    assert len(first_look.dry_runs) == len(set(first_look.dry_runs)) == mesh.status["clusters"][0]["objects"]
    assert not next_life.writes
    assert not next_life.dry_runs
    assert times(mesh) == before


def the_deployment_controller_reports(mesh: Mesh, number: int) -> None:
    condition = {"type": "Progressing", "status": "True", "reason": "Seen", "message": f"look {number}"}
    patch = {"status": {"conditions": [condition]}}
    mesh.cluster.merge(f"{mesh.deployment_path}/status", patch, manager="kube-controller-manager")


def others_mark_everything(mesh: Mesh, number: int) -> None:
    marks = {"annotations": {"example.com/look": str(number)}, "labels": {"cost": str(number)}}
    for item in mesh.objects():
        mesh.cluster.merge(path_of_item(item), {"metadata": marks})


def others_add_fields(mesh: Mesh, number: int) -> None:
    """Beside ours, in lists and maps that we own items of."""
    service = f"/api/v1/namespaces/{mesh.namespace}/services/{mesh.names.istiod}"
    mesh.cluster.merge(service, {"spec": {"sessionAffinityConfig": None, "externalIPs": [f"192.0.2.{number}"]}})
    restarted = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": str(number)}}}
    mesh.cluster.merge(mesh.deployment_path, {"spec": {"revisionHistoryLimit": number, "template": restarted}})
    config = f"/api/v1/namespaces/{mesh.namespace}/configmaps/{mesh.names.mesh_config}"
    mesh.cluster.merge(config, {"data": {"note": str(number)}})


@pytest.mark.parametrize("happens", [the_deployment_controller_reports, others_mark_everything, others_add_fields])
async def test_what_others_write_is_no_reason_to_write(
    op: Operator, mesh: Mesh, happens: Callable[[Mesh, int], None]
) -> None:
    mesh.create()
    await op.install(mesh)
    happens(mesh, 1)
    mesh.istiod_becomes_available()  # of a generation that somebody else may have made
    await op.reconcile(mesh)
    assert op.wire.writes() == []
    counts = Counts()
    for number in range(2, 4):
        happens(mesh, number)
        mesh.istiod_becomes_available()
        before = times(mesh)
        await counts.look(op, mesh)
        assert times(mesh) == before
    print(counts)
    assert counts.writes == []
    assert counts.dry_runs  # it was seen, and judged
    assert mesh.condition()["reason"] == "Installed"
