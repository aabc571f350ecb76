"""kubectl mesh plan and diff: what people and programs read. What they rest on is tested against a real API server."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any, cast

import pytest
import yaml
from kubernetes.aio.client import Configuration

from meshes import manifest, mesh
from meshwright.api.errors import FinalError, NotFound, Unreachable
from meshwright.cli import diff, plan
from meshwright.cli.main import main
from meshwright.cli.noise import bare, paths
from meshwright.cli.terminal import Terminal
from meshwright.cli.trial import DryRun, Trial, declared
from meshwright.cluster.kinds import MESH_INSTALL
from meshwright.mesh.blast import Action, Change, blast
from meshwright.mesh.names import Names
from meshwright.mesh.objects import Key

Json = dict[str, Any]


def thing(kind: str, name: str, api_version: str = "v1", namespace: str = "istio-system", **parts: Any) -> Json:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **parts}


def deployment(image: str, *, replicas: int = 2) -> Json:
    resources = {"requests": {"cpu": "500m", "memory": "2Gi"}}
    containers = [{"name": "discovery", "image": image, "resources": resources}]
    spec = {"replicas": replicas, "template": {"spec": {"containers": containers}}}
    return thing("Deployment", "istiod", "apps/v1", spec=spec)


def served(manifest: Json, version: str) -> Json:
    """With what the server adds."""
    metadata = {**manifest["metadata"], "resourceVersion": version, "uid": "u", "managedFields": [{"time": version}]}
    return {**manifest, "metadata": metadata, "status": {"replicas": version}}


def change(before: Json | None, after: Json | None, action: Action | None = None) -> Change:
    there = after or before
    assert there
    usual = Action.CHANGE if before and after else Action.CREATE if after else Action.DELETE
    return Change(action or usual, Key.of(there), before, after)


def crd(name: str) -> Json:
    return thing("CustomResourceDefinition", name, "apiextensions.k8s.io/v1", namespace="", spec={"group": name})


CHANGES = (
    change(None, crd("a.istio.io")),
    change(None, crd("b.istio.io")),
    change(
        served(thing("ConfigMap", "istio", data={"mesh": "a: 1\nb: 1\n"}), "1"),
        served(thing("ConfigMap", "istio", data={"mesh": "a: 1\nb: 2\n"}), "2"),
    ),
    change(served(deployment("pilot:1"), "1"), served(deployment("pilot:2", replicas=3), "2")),
    change(served(thing("Service", "istiod", spec={"type": "ClusterIP"}), "1"),
           served(thing("Service", "istiod", spec={"type": "ClusterIP"}), "2")),
    change(served(thing("ConfigMap", "left"), "1"), served(thing("ConfigMap", "left"), "1"), Action.LEAVE),
    change(None, thing("Secret", "made", data={"key": "c2VjcmV0"})),
    change(served(thing("Role", "old", "rbac.authorization.k8s.io/v1", rules=[]), "1"), None),
)  # fmt: skip


def trial(changes: tuple[Change, ...] = CHANGES, *, proxies: int = 12, notes: tuple[str, ...] = ()) -> Trial:
    found = blast(changes, names=Names("istio-system", "default"), proxies=proxies, read=yaml.safe_load)
    return Trial(mesh(), "primary", changes, unchanged=28, blast=found, notes=notes)


PLAN = """\
Mesh demo in cluster primary: Istio 1.31.4, revision default, namespace istio-system

  + create 2 CustomResourceDefinitions
  ~ change ConfigMap istio-system/istio
           data.mesh (2 lines)
  ~ change Deployment istio-system/istiod
           spec.replicas, spec.template.spec.containers[discovery].image: its pods are replaced
  ~ change Service istio-system/istiod
           only whose fields they are
  = leave  ConfigMap istio-system/left
           an annotation takes it out of the operator's hands
  + create Secret istio-system/made
  - delete Role istio-system/old

  ! a root CA would be made

Blast radius
  pods that restart  2     Deployment istio-system/istiod (2)
  pods added         +1
  proxies touched    12    get new configuration at once (mesh config: b)
  proxies touched    12    reconnect to another replica of istiod, with their connections kept\
 (istiod's pods are replaced, one at a time)
  CPU added          +0.5
  memory added       +2Gi
  deleted            1     Role istio-system/old

Plan: 3 to create, 3 to change, 1 to delete, 28 unchanged. Nothing was written."""


def test_what_a_plan_looks_like() -> None:
    assert "\n".join(plan.lines(trial(notes=("a root CA would be made",)), Terminal())) == PLAN


def test_a_plan_that_finds_nothing() -> None:
    nothing = trial(changes=())
    assert not nothing.differs
    assert "\n".join(plan.lines(nothing, Terminal())) == (
        "Mesh demo in cluster primary: Istio 1.31.4, revision default, namespace istio-system\n"
        "\n"
        "Nothing would change: 28 objects are as declared."
    )


def test_what_is_left_alone_is_no_difference() -> None:
    left = trial(changes=CHANGES[5:6])
    assert not left.differs
    text = "\n".join(plan.lines(left, Terminal()))
    assert "= leave  ConfigMap istio-system/left" in text
    assert "Blast radius" not in text


def test_a_plan_for_programs() -> None:
    found = json.loads(json.dumps(plan.summary(trial())))
    assert found["counts"] == {"create": 3, "change": 3, "delete": 1, "leave": 1, "unchanged": 28}
    assert found["changes"][3] == {
        "action": "change", "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "istio-system",
        "name": "istiod", "paths": ["spec.replicas", "spec.template.spec.containers[discovery].image"],
    }  # fmt: skip
    assert found["blastRadius"] == {
        "podsRestarted": 2,
        "restarts": [{"object": "Deployment istio-system/istiod", "pods": 2}],
        "podsAdded": 1,
        "proxiesTouched": 12,
        "proxies": [
            {"how": "push", "count": 12, "why": "mesh config: b"},
            {"how": "reconnect", "count": 12, "why": "istiod's pods are replaced, one at a time"},
        ],
        "requestsAdded": {"cores": 0.5, "bytes": 2 * 2**30},
        "deleted": ["Role istio-system/old"],
    }


@pytest.mark.parametrize(
    ("number", "says"),
    [(0, "0"), (100, "100"), (512 * 2**20, "512Mi"), (-4 * 2**30, "-4Gi"), (24448 * 2**20, "23.9Gi"), (1536, "1.5Ki")],
)
def test_sizes(number: int, says: str) -> None:
    assert plan.size(Fraction(number)) == says


# Diff

DIFF = """\
# create CustomResourceDefinition a.istio.io: not shown without --crds
# create CustomResourceDefinition b.istio.io: not shown without --crds
--- live/ConfigMap istio-system/istio
+++ declared/ConfigMap istio-system/istio
@@ -6,4 +6,4 @@
 data:
   mesh: |
     a: 1
-    b: 1
+    b: 2
"""


def text_of(*, crds: bool = False, colour: bool = False) -> str:
    return "\n".join(diff.lines(trial(), Terminal(colour=colour), crds=crds))


def test_what_a_diff_looks_like() -> None:
    text = text_of()
    assert text.startswith(DIFF)
    assert "\n-      - name" not in text
    assert "-        image: pilot:1\n+        image: pilot:2\n" in text.replace("- name: discovery\n", "")
    assert "# change Service istio-system/istiod: only whose fields they are\n" in text
    assert "--- live/Role istio-system/old\n+++ /dev/null\n@@ -1,6 +0,0 @@\n-apiVersion: rbac" in text


def test_noise_is_no_difference_and_secrets_stay_secret() -> None:
    text = text_of()
    for word in ("resourceVersion", "managedFields", "uid", "status", "c2VjcmV0", "left"):
        assert word not in text
    assert "+  key: (not shown)" in text
    document = json.dumps(diff.summary(trial(), crds=False))
    assert "c2VjcmV0" not in document
    assert "resourceVersion" not in document


def test_crds_are_shown_when_asked_for() -> None:
    assert "+  group: a.istio.io" in text_of(crds=True)
    with_crds, without = (diff.summary(trial(), crds=crds)["objects"] for crds in (True, False))
    assert with_crds[0]["after"]["spec"] == {"group": "a.istio.io"}
    assert "after" not in without[0]
    assert [each["name"] for each in without] == [
        "a.istio.io",
        "b.istio.io",
        "istio",
        "istiod",
        "istiod",
        "made",
        "old",
    ]


def test_colours_of_a_diff() -> None:
    lines = text_of(colour=True).splitlines()
    assert "\x1b[31m-    b: 1\x1b[0m" in lines
    assert "\x1b[32m+    b: 2\x1b[0m" in lines
    assert "\x1b[1m+++ declared/ConfigMap istio-system/istio\x1b[0m" in lines


# Noise

PATHS: list[tuple[str, Any, Any, list[str]]] = [
    ("the same", {"a": 1}, {"a": 1}, []),
    ("a value", {"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b"]),
    ("one that comes", {"a": {}}, {"a": {"b": {"c": 1}}}, ["a.b"]),
    ("one that goes", {"a": 1}, {}, ["a"]),
    ("a name with dots", {"a": {"b.c/d": 1}}, {"a": {"b.c/d": 2}}, ["a[b.c/d]"]),
    ("a named item", {"a": [{"name": "x", "v": 1}, {"name": "y"}]}, {"a": [{"name": "y"}, {"name": "x", "v": 2}]},
     ["a[x].v"]),
    ("an item that comes", {"a": [{"name": "x"}]}, {"a": [{"name": "x"}, {"name": "y"}]}, ["a[y]"]),
    ("ports by number", {"p": [{"port": 80, "t": 1}]}, {"p": [{"port": 80, "t": 2}]}, ["p[80].t"]),
    ("items without a name", {"a": [1, 2]}, {"a": [1]}, ["a"]),
    ("the same name twice", {"a": [{"name": "x"}]}, {"a": [{"name": "x"}, {"name": "x"}]}, ["a"]),
    ("text", {"a": "x\ny\n"}, {"a": "x\nz\nw\n"}, ["a (3 lines)"]),
    ("another kind of value", {"a": [1]}, {"a": {"b": 1}}, ["a"]),
    ("a list that comes", {}, {"a": [{"name": "x"}]}, ["a"]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "found"), [row[1:] for row in PATHS], ids=[row[0] for row in PATHS])
def test_paths(before: Any, after: Any, found: list[str]) -> None:
    assert list(paths(before, after)) == found


def test_bare_leaves_its_input_alone() -> None:
    secret = served(thing("Secret", "a", data={"k": "v"}, stringData={"l": "w"}), "1")
    kept = json.dumps(secret)
    found = bare(secret)
    assert json.dumps(secret) == kept
    assert found == thing("Secret", "a", data={"k": "(not shown)"}, stringData={"l": "(not shown)"})
    assert bare(None) is None


# Arguments


def test_a_file_is_judged_before_anybody_is_asked(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("apiVersion: meshwright.dev/v1alpha1\nkind: MeshInstall\nmetadata: {name: a}\nspec: {mtls: on}\n")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    for verb in ("plan", "diff"):
        assert main([verb, "-f", str(path), "--kubeconfig", str(kubeconfig)]) == 1
        assert "MeshInstall a: spec.version" in capsys.readouterr().err
        assert main([verb, "b", "-f", str(path), "--kubeconfig", str(kubeconfig)]) == 1
        assert capsys.readouterr().err == f"error: {path} holds no MeshInstall b\n"


# The MeshInstall of a file


class Kindless:
    """An API server that does not know MeshInstalls, in the place of a client."""

    async def get(self, *_: Any) -> None:
        return None

    async def create(self, *_: Any, **__: Any) -> Json:
        raise NotFound("no such kind")


async def test_before_meshwright_is_installed_a_file_is_taken_as_it_is() -> None:
    assert await declared(cast("DryRun", Kindless()), manifest()) == manifest()


async def test_a_plan_can_write_nothing() -> None:
    client = DryRun(Configuration(host="http://127.0.0.1:1"))
    try:
        with pytest.raises(FinalError, match="a plan writes nothing"):
            await client.create(MESH_INSTALL, manifest(), field_manager="test")
        with pytest.raises(Unreachable):  # as a dry run it is sent
            await client.create(MESH_INSTALL, manifest(), field_manager="test", dry_run=True)
    finally:
        await client.close()
