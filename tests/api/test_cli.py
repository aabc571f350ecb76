"""kubectl mesh against a real API server: what it says is what the operator does, and nothing is ever written."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.world import Cluster, Mesh, Operator
from meshwright.cli.main import main

Json = dict[str, Any]

CHANGED: Json = {
    "mtls": "Strict",
    "meshConfig": {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}},
    "controlPlane": {"size": "Medium", "env": {"PILOT_TRACE_SAMPLING": "1"}},
    "gateways": [{"name": "ingress"}],
}
numbers = itertools.count(1)


class Cli:
    """The command line with the administrator's kubeconfig; each call must leave everything as it was."""

    def __init__(self, cluster: Cluster, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.cluster, self._capsys, self._folder = cluster, capsys, folder
        self.kubeconfig = cluster.api.kubeconfig
        self.out = self.err = ""

    async def __call__(self, *arguments: str) -> int:
        before = self.cluster.snapshot(), self._meshes()
        self._capsys.readouterr()
        code = await asyncio.to_thread(main, [*arguments, "--kubeconfig", str(self.kubeconfig)])
        self.out, self.err = self._capsys.readouterr()
        assert (self.cluster.snapshot(), self._meshes()) == before
        return code

    async def json(self, *arguments: str) -> Any:
        await self(*arguments, "-o", "json")
        return json.loads(self.out)

    def file(self, *manifests: Json) -> str:
        path = self._folder / f"{next(numbers)}.yaml"
        path.write_text(yaml.safe_dump_all(manifests))
        return str(path)

    def _meshes(self) -> dict[str, str]:
        found = self.cluster.list("/apis/meshwright.dev/v1alpha1/meshinstalls")
        return {each["metadata"]["name"]: each["metadata"]["resourceVersion"] for each in found}


@pytest.fixture
def cli(cluster: Cluster, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    return Cli(cluster, capsys, tmp_path)


async def carry_out(op: Operator, mesh: Mesh) -> None:
    """Until all objects are there; gateways need not be ready."""
    await op.reconcile(mesh)
    mesh.istiod_becomes_available()
    await op.reconcile(mesh)
    mesh.istiod_writes_its_ca()
    await op.reconcile(mesh)


# Status


async def test_status_goes_with_the_mesh(cli: Cli, op: Operator, mesh: Mesh) -> None:
    assert await cli("status", mesh.name) == 1
    assert cli.err.startswith(f"error: no mesh {mesh.name}: ")
    mesh.create()
    assert await cli("status", mesh.name) == 2
    assert "is not looked at yet" in cli.out
    await op.reconcile(mesh)
    assert await cli("status", mesh.name) == 2
    assert f"✘ Mesh {mesh.name} is not ready" in cli.out or f"! Mesh {mesh.name} is not ready" in cli.out
    await op.install(mesh)
    assert await cli("status", mesh.name) == 0
    assert f"✔ Mesh {mesh.name} is ready: Istio 1.31.4, revision {mesh.revision}, namespace {mesh.namespace}" in cli.out
    (found,) = await cli.json("status", mesh.name)
    assert found["conditions"] == mesh.status["conditions"]
    assert found["clusters"] == mesh.status["clusters"]
    mesh.change(mtls="Strict")
    assert await cli("status", mesh.name) == 2
    assert "The operator has not looked at generation" in cli.out


# Plan


async def test_what_is_in_sync_has_no_plan_and_no_difference(cli: Cli, op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    await op.reconcile(mesh)
    assert await cli("plan", mesh.name) == 0
    assert "Nothing would change: " in cli.out
    assert await cli("diff", mesh.name) == 0
    assert cli.out == ""


async def test_the_plan_of_a_new_mesh_is_what_the_operator_plans(cli: Cli, op: Operator, mesh: Mesh) -> None:
    path = cli.file(mesh.manifest())
    assert await cli("plan", "-f", path) == 2
    assert f"a root CA would be made, in Secret meshwright-system/meshwright-root-{mesh.name}" in cli.out
    (found,) = await cli.json("plan", "-f", path)
    mesh.create(mode="Plan")
    await op.reconcile(mesh)
    assert_same_plan(found, mesh.status["plan"])
    assert found["blastRadius"]["podsRestarted"] == 0
    assert found["blastRadius"]["podsAdded"] == 2


async def test_the_plan_of_a_change_is_what_the_operator_plans_and_does(cli: Cli, op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    await op.reconcile(mesh)
    path = cli.file(mesh.manifest(**CHANGED))
    assert await cli("plan", "-f", path) == 2
    assert f"~ change Deployment {mesh.namespace}/{mesh.names.istiod}" in cli.out
    assert "its pods are replaced" in cli.out
    (from_file,) = await cli.json("plan", "-f", path)

    mesh.change(mode="Plan", **CHANGED)
    await op.reconcile(mesh)
    assert_same_plan(from_file, mesh.status["plan"])
    (from_cluster,) = await cli.json("plan", mesh.name)
    assert {**from_cluster, "notes": []} == from_file
    radius = from_cluster["blastRadius"]
    assert radius["restarts"] == [{"object": f"Deployment {mesh.namespace}/{mesh.names.istiod}", "pods": 2}]

    planned = {(each["kind"], each["name"]) for each in from_cluster["changes"] if each["action"] == "create"}
    before = {(each["kind"], each["metadata"]["name"]) for each in mesh.objects()}
    mesh.change(mode="Apply")
    await carry_out(op, mesh)
    after = {(each["kind"], each["metadata"]["name"]) for each in mesh.objects()}
    assert after - before == planned & after
    assert await cli("plan", mesh.name) == 0, cli.out


def assert_same_plan(ours: Json, theirs: Json) -> None:
    counts = {name: ours["counts"][name] for name in ("create", "change", "delete", "unchanged")}
    assert counts == {name: theirs[name] for name in counts}
    objects = [
        f"{each['action']} {each['kind']} {each['namespace']}/{each['name']}".replace(" /", " ")
        for each in ours["changes"]
        if each["action"] != "leave"
    ]
    assert objects[: len(theirs["objects"])] == theirs["objects"]


async def test_drift_and_what_is_needed_no_more(cli: Cli, op: Operator, mesh: Mesh) -> None:
    mesh.create(gateways=[{"name": "ingress"}])
    await carry_out(op, mesh)
    mesh.cluster.merge(
        f"/api/v1/namespaces/{mesh.namespace}/services/{mesh.names.istiod}", {"spec": {"selector": {"app": "other"}}}
    )
    (found,) = await cli.json("plan", mesh.name)
    assert [(each["action"], each["kind"], each["paths"]) for each in found["changes"]] == [
        ("change", "Service", ["spec.selector.app"])
    ]
    (found,) = await cli.json("plan", "-f", cli.file(mesh.manifest()))
    deleted = {each["kind"] for each in found["changes"] if each["action"] == "delete"}
    assert {"Deployment", "Service", "PodDisruptionBudget"} <= deleted
    assert found["blastRadius"]["podsAdded"] == -2
    assert found["blastRadius"]["requestsAdded"]["cores"] < 0
    assert await cli("diff", "-f", cli.file(mesh.manifest())) == 2
    assert f"--- live/Deployment {mesh.namespace}/ingress\n+++ /dev/null\n" in cli.out


async def test_a_diff(cli: Cli, op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    path = cli.file(mesh.manifest(**CHANGED))
    assert await cli("diff", "-f", path) == 2
    assert f"--- live/ConfigMap {mesh.namespace}/{mesh.names.mesh_config}\n" in cli.out
    assert '\n+    "outboundTrafficPolicy":\n+      "mode": "REGISTRY_ONLY"\n' in cli.out
    assert "\n-    mode: PERMISSIVE\n+    mode: STRICT\n" in cli.out
    for noise in ("managedFields", "resourceVersion", "creationTimestamp", "PRIVATE KEY"):
        assert noise not in cli.out
    (found,) = await cli.json("diff", "-f", path)
    (changed,) = (each for each in found["objects"] if each["kind"] == "PeerAuthentication")
    modes = changed["before"]["spec"]["mtls"]["mode"], changed["after"]["spec"]["mtls"]["mode"]
    assert modes == ("PERMISSIVE", "STRICT")


async def test_an_object_that_is_left_alone_is_named(cli: Cli, op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    path = f"/api/v1/namespaces/{mesh.namespace}/configmaps/{mesh.names.mesh_config}"
    annotations = {"meshwright.dev/reconcile": "disabled"}
    mesh.cluster.merge(path, {"metadata": {"annotations": annotations}, "data": {"mesh": "of my own"}})
    assert await cli("plan", mesh.name) == 0
    assert f"= leave  ConfigMap {mesh.namespace}/{mesh.names.mesh_config}" in cli.out


# What cannot be


async def test_what_the_api_server_would_refuse(cli: Cli, op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    assert await cli("plan", "-f", cli.file(mesh.manifest(trustDomain="other.example"))) == 1
    assert "trustDomain is immutable" in cli.err


async def test_what_the_operator_would_refuse(cli: Cli, op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    twin = {**mesh.manifest(namespace="elsewhere"), "metadata": {"name": f"{mesh.name}-twin"}}
    assert await cli("plan", "-f", cli.file(twin)) == 1
    assert f"the operator would refuse mesh {mesh.name}-twin (RevisionConflict): " in cli.err
    assert await cli("plan", "-f", cli.file(mesh.manifest(meshConfig={"outboundTrafficPolice": {}}))) == 1
    assert "outboundTrafficPolic" in cli.err


async def test_a_place_that_is_taken(cli: Cli, mesh: Mesh) -> None:
    cli.cluster.make_namespace(mesh.namespace)
    name = {"name": mesh.names.istiod, "namespace": mesh.namespace}
    cli.cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name})
    assert await cli("plan", "-f", cli.file(mesh.manifest())) == 1
    assert f"ServiceAccount {mesh.namespace}/{mesh.names.istiod} was made by somebody else: not touched" in cli.err


async def test_a_ca_that_is_not_ours(cli: Cli, mesh: Mesh) -> None:
    cli.cluster.make_namespace(mesh.namespace)
    name = {"name": "cacerts", "namespace": mesh.namespace}
    cli.cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": name, "stringData": {"ca-key.pem": "theirs"}})
    assert await cli("plan", "-f", cli.file(mesh.manifest())) == 1
    assert f"Secret {mesh.namespace}/cacerts" in cli.err
    assert "theirs" not in cli.err


async def test_the_mode_is_told(cli: Cli, mesh: Mesh) -> None:
    assert await cli("plan", "-f", cli.file(mesh.manifest(mode="Paused"))) == 2
    assert "! spec.mode is Paused: the operator carries out nothing of this until it is Apply" in cli.out


async def test_a_mesh_that_goes(cli: Cli, op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    mesh.cluster.delete(mesh.path)
    assert await cli("plan", mesh.name) == 1
    assert f"MeshInstall {mesh.name} is being deleted" in cli.err
    await cli("status", mesh.name)
    assert "It is being deleted." in cli.out


# Permissions


async def test_without_permissions(cli: Cli, mesh: Mesh) -> None:
    mesh.create()
    cli.kubeconfig = cli.cluster.api.kubeconfig_for("nobody-in-particular")
    for verb in ("status", "plan", "proxies"):
        assert await cli(verb, mesh.name) == 1
        assert 'User "nobody-in-particular" cannot list resource "meshinstalls"' in cli.err
        assert "ask for this permission, or use a context that has it" in cli.err


def allow(cluster: Cluster, user: str, *rules: Json) -> Path:
    rbac = "rbac.authorization.k8s.io"
    head = {"apiVersion": f"{rbac}/v1", "metadata": {"name": user}}
    cluster.apply({**head, "kind": "ClusterRole", "rules": list(rules)})
    cluster.apply({
        **head, "kind": "ClusterRoleBinding", "subjects": [{"apiGroup": rbac, "kind": "User", "name": user}],
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": user},
    })  # fmt: skip
    return cluster.api.kubeconfig_for(user)


def rule(groups: list[str], resources: list[str], verbs: list[str]) -> Json:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


GROUPS = ["apps", "networking.istio.io", "policy", "autoscaling", "rbac.authorization.k8s.io",
          "admissionregistration.k8s.io", "apiextensions.k8s.io", "security.istio.io", "meshwright.dev",
          "discovery.k8s.io"]  # fmt: skip
CORE = ["namespaces", "pods", "nodes", "services", "serviceaccounts", "configmaps"]


async def test_who_may_only_read_is_told_that_a_dry_run_is_a_write(cli: Cli, op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    cli.kubeconfig = allow(cli.cluster, "reader", rule(["*"], ["*"], ["get", "list", "watch"]))
    assert await cli("status", mesh.name) == 0
    assert await cli("plan", mesh.name) == 1
    assert 'User "reader" cannot patch resource' in cli.err
    assert "a dry run needs the permissions to write" in cli.err


async def test_who_may_not_read_secrets_gets_a_plan_all_the_same(cli: Cli, op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    cli.kubeconfig = allow(cli.cluster, "planner", rule(GROUPS, ["*"], ["*"]), rule([""], CORE, ["*"]))
    assert await cli("plan", mesh.name) == 0
    assert "you may not read the CA's Secrets" in cli.out
    assert "Nothing would change" in cli.out


# Proxies


async def test_proxies_and_those_that_are_missing(cli: Cli, op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    namespace = f"shop-{mesh.name}"
    cli.cluster.create({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {"istio.io/rev": mesh.revision}},
    })  # fmt: skip
    account = {"name": "default", "namespace": namespace}  # which a controller would make
    cli.cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    injected = {"istio.io/rev": mesh.revision, "sidecar.istio.io/status": "{}"}
    cli.cluster.delete(mesh.injector_path)  # nobody serves it here
    cli.cluster.create(pod(namespace, "cart", {"security.istio.io/tlsMode": "istio"}, injected))
    cli.cluster.create(pod(namespace, "web", {}, {}))

    assert await cli("proxies", mesh.name) == 0
    assert f"? {namespace}" in cli.out
    assert "no replica of istiod is ready" in cli.out
    found = await cli.json("proxies", mesh.name, "-n", namespace)
    assert [(each["pod"], each["sync"]) for each in found["proxies"]] == [("cart", "unknown")]
    assert (await cli.json("proxies", mesh.name, "-n", mesh.namespace))["proxies"] == []
    assert await cli("proxies", mesh.name, "--missing") == 2
    found = await cli.json("proxies", mesh.name, "--missing")
    assert found == {"mesh": mesh.name, "missing": [{"namespace": namespace, "pod": "web", "why": "no sidecar"}]}


def pod(namespace: str, name: str, labels: Json, annotations: Json) -> Json:
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels, "annotations": annotations},
        "spec": {"containers": [{"name": "a", "image": "a"}], "automountServiceAccountToken": False},
    }  # fmt: skip


async def test_several_meshes_need_a_name(cli: Cli, new_mesh: Callable[..., Mesh]) -> None:
    first, second = new_mesh().create(), new_mesh().create()
    for verb in ("plan", "diff", "proxies"):
        assert await cli(verb) == 1
        assert "there are several meshes, so say which: " in cli.err
        assert first.name in cli.err
        assert second.name in cli.err
