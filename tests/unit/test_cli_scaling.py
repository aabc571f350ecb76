"""kubectl mesh explain scaling, and replay: what a person reads of rules and actions, from a life of them."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshes import NOW
from meshwright.api.meshaction import KIND, MeshAction
from meshwright.api.meshinstall import API_VERSION
from meshwright.api.scaling import Action
from meshwright.cli.main import main
from meshwright.cli.scaling import as_document, lines
from meshwright.cli.terminal import Terminal
from meshwright.mesh.record import record
from meshwright.mesh.scaling import step
from unit.test_mesh_scaling import SLOW, Life

Json = dict[str, Any]


def action(life: Life, **status: Any) -> Json:
    (found,) = life.journal
    said = {"phase": str(found.phase), "since": "2026-03-01T12:02:00Z", "message": "rolled out"} | status
    return found.manifest(owner_uid="u") | {"status": said}


@pytest.fixture
def acted() -> Json:
    """A MeshAction with its record."""
    life = Life()
    while not life.journal:
        question = life.question(values=SLOW)
        life.tick(values=SLOW)
    answer = step(question)
    (made,) = life.journal
    spec = made.spec.model_copy(update={"record": record(question, answer), "proposal": "# advice\nkind: Sidecar\n"})
    return MeshAction(name=made.name, spec=spec).manifest(owner_uid="u") | {"status": {"phase": "Verified"}}


MESH: Json = {
    "metadata": {"name": "demo"},
    "status": {"clusters": [{
        "name": "primary",
        "controlPlane": {"size": "Medium", "replicas": 3},
        "scaling": {
            "written": "2026-03-01T11:59:00Z",
            "nextSize": "600 pods in the mesh; next size: Large from 2000 pods on",
            "estimate": "by what it uses now",
            "reconnects": {"oneReplica": "2.9s", "restart": "5.7s"},
            "rules": [
                {"action": "AddReplica", "state": "Pending", "value": 2.0, "threshold": 1.0, "unit": "s",
                 "since": "2026-03-01T11:58:00Z", "message": "above the threshold"},
                {"action": "SidecarScoping", "state": "Unarmed", "message": "it looks from 2000 pods on"},
            ],
        },
    }]},
}  # fmt: skip


def text(mesh: Json, actions: list[Json]) -> str:
    return "\n".join(lines(mesh, actions, now=NOW + dt.timedelta(minutes=3), terminal=Terminal()))


def test_what_a_person_reads(acted: Json) -> None:
    shown = text(MESH, [acted])
    assert "Cluster primary, as of 4m ago" in shown
    assert "size            Medium, 3 replicas" in shown
    assert "2.9s after one replica is lost, 5.7s after all of them were restarted" in shown
    assert "! AddReplica      Pending  2 of 1 s  above the threshold (5m ago)" in shown
    assert "· SidecarScoping  Unarmed  -         it looks from 2000 pods on" in shown
    assert "! demo-primary-addreplica-20260301-120200 Verified" in shown
    assert "because  config generation is slow (2 s for 2m, more than 1 s): istiod gets 4 replicas" in shown
    assert "      kind: Sidecar" in shown


def test_nothing_was_measured_or_done() -> None:
    shown = text({"metadata": {"name": "demo"}}, [])
    assert "nothing was measured yet" in shown
    assert "none was taken or recommended" in shown


def test_actions_of_another_mesh_are_not_shown(acted: Json) -> None:
    assert "addreplica" not in text({**MESH, "metadata": {"name": "other"}}, [acted])


def test_as_a_document(acted: Json) -> None:
    found = as_document(MESH, [acted])
    assert found["clusters"][0]["rules"][0]["state"] == "Pending"
    assert found["actions"][0]["phase"] == "Verified"


def test_a_replay_comes_out_the_same(acted: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "actions.yaml"
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [acted]}))
    assert main(["replay", str(file)]) == 0
    assert "the same decision, byte for byte" in capsys.readouterr().out


def test_a_replay_that_differs_says_where(acted: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = json.loads(acted["spec"]["record"])
    changed["question"]["look"]["pods"] = 10
    acted["spec"]["record"] = json.dumps(changed)
    file = tmp_path / "actions.yaml"
    file.write_text(yaml.safe_dump(acted))
    assert main(["replay", str(file)]) == 2
    out = capsys.readouterr().out
    assert "another decision" in out
    assert "Unarmed" in out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("kind: Pod", "holds no MeshAction"),
        ("a: [", "cannot read"),
        (f"apiVersion: {API_VERSION}\nkind: {KIND}\nmetadata: {{name: x}}\nspec: {{}}", "MeshAction x holds no record"),
        (f"kind: {KIND}\nmetadata: {{name: x}}\nspec: {{record: '{{}}'}}", "this is no record"),
    ],
)
def test_a_file_that_cannot_be_replayed(
    content: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "actions.yaml"
    file.write_text(content)
    assert main(["replay", str(file)]) == 1
    assert says in capsys.readouterr().err


def test_the_actions_have_an_order() -> None:
    assert next(iter(Action)) is Action.RESIZE
