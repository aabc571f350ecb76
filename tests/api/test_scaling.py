"""MeshActions on a real API server: written, told, ended, kept; what the server refuses, and a verb that is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from api.test_sizes import enrolled_namespace, pod
from api.world import ACTIONS, Cluster, Json, Mesh, Operator, RefusedError, path_of_item
from meshwright.controller.scaling import KEPT

FULL: Json = {"action": "MultiClusterRequired", "threshold": 1, "clear": 0.5, "clearFor": "0s"}


@dataclass
class Full:
    """A mesh with a pod, of which its rule says that it is one too many."""

    mesh: Mesh
    pod: str

    @property
    def actions(self) -> list[Json]:
        found = self.mesh.cluster.list(ACTIONS, f"meshwright.dev/mesh={self.mesh.name}")
        return [each for each in found if each["spec"]["action"] == "MultiClusterRequired"]

    @property
    def phases(self) -> list[str]:
        return [each["status"]["phase"] for each in self.actions]


@pytest_asyncio.fixture
async def full(op: Operator, mesh: Mesh) -> Full:
    one = pod(enrolled_namespace(mesh), 1)
    mesh.cluster.create(one)
    mesh.create(scaling={"rules": [FULL]})
    await op.install(mesh)
    return Full(mesh, path_of_item(one))


async def test_an_action_is_written_once_and_told(op: Operator, full: Full) -> None:
    assert full.phases == ["Verified"]
    (action,) = full.actions
    assert action["spec"]["reason"].startswith("1 pods are in the mesh, and one cluster is for less than 1")
    assert action["metadata"]["ownerReferences"][0]["uid"] == full.mesh.read()["metadata"]["uid"]
    assert full.mesh.condition("ControlPlaneSized")["reason"] == "MultiClusterRequired"
    assert full.mesh.status["scaling"]["standing"] == 1
    assert [each["reason"] for each in full.mesh.events()].count("MultiClusterRequired") >= 1
    for life in (op, Operator.start(op.wire)):
        await life.reconcile(full.mesh)
        assert len(full.actions) == 1
        assert life.wire.writes() == []


async def test_it_ends_when_its_cause_does(op: Operator, full: Full) -> None:
    full.mesh.cluster.delete(full.pod)
    await op.reconcile(full.mesh)
    assert full.phases == ["Undone"]


async def test_what_was_decided_cannot_be_changed(full: Full) -> None:
    (action,) = full.actions
    with pytest.raises(RefusedError, match="what was decided is never changed"):
        full.mesh.cluster.merge(f"{ACTIONS}/{action['metadata']['name']}", {"spec": {"reason": "because"}})


@pytest.mark.parametrize(
    ("scaling", "says"),
    [
        ({"rules": [{"action": "Dance"}]}, "Unsupported value"),
        ({"rules": [{"action": "AddReplica", "threshold": 1, "clear": 1}]}, "clear is not below threshold"),
        ({"rules": [{"action": "SidecarScoping", "mode": "Enforce"}]}, "this action is recommended only"),
        ({"rules": [{"action": "Resize", "threshold": 1}]}, "remove threshold and clear"),
        ({"rules": [{"action": "AddReplica", "window": "soon"}]}, "window"),
        ({"rules": [FULL, FULL]}, "Duplicate value"),
        ({"freezes": [{"start": "2027-01-02T00:00:00Z", "end": "2027-01-01T00:00:00Z"}]}, "ends before it starts"),
        ({"freezes": [{"start": "soon", "end": "later"}]}, "start"),
        ({"rebalance": {"method": "Hope"}}, "Unsupported value"),
    ],
)
def test_the_server_refuses_with_the_field(cluster: Cluster, mesh: Mesh, scaling: Json, says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        cluster.create(mesh.manifest(scaling=scaling), "dryRun=All&fieldValidation=Strict")


async def test_the_journal_is_pruned(op: Operator, full: Full) -> None:
    (made,) = full.actions
    for number in range(KEPT + 3):
        spec = {**made["spec"], "decided": f"2026-01-01T00:{number:02d}:00Z"}
        manifest = {
            **made,
            "metadata": {"name": f"{full.mesh.name}-old-{number:02d}", "labels": made["metadata"]["labels"]},
        }
        full.mesh.cluster.create({**manifest, "spec": spec})
        status: dict[str, Any] = {"status": {"phase": "Undone", "since": spec["decided"]}}
        full.mesh.cluster.merge(f"{ACTIONS}/{manifest['metadata']['name']}/status", status)
    await op.reconcile(full.mesh)
    names = sorted(each["metadata"]["name"] for each in full.actions)
    assert len(names) == KEPT + 1
    assert f"{full.mesh.name}-old-02" not in names
    assert f"{full.mesh.name}-old-03" in names
