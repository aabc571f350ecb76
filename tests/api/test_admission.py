"""The manifests as a user applies them, and what the API server admits with them: deletions of a mesh, and our pods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from api.world import MESHES, OPERATOR_NAMESPACE, VERSION, Cluster, Json, RefusedError
from meshwright.api.meshinstall import ANNOTATION_FORCE_DELETE, API_VERSION, KIND
from testbed.apiserver import ApiServer, api_server
from testbed.rest import wait_until

MANIFESTS = Path(__file__).parents[2] / "manifests"
POLICY = "ValidatingAdmissionPolicy 'meshwright-deletion'"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """One of its own, with the manifests and nothing else: the guard would stand in the way of other tests."""
    with api_server() as running:
        running.kubectl("apply", "--server-side", "-k", str(MANIFESTS / "default"))
        yield running


@pytest.fixture(scope="module")
def cluster(server: ApiServer) -> Iterator[Cluster]:
    bystander = Cluster(server)
    wait_until(lambda: bystander.get(MESHES) is not None, "the CRD to be served", seconds=20, pause=0.05)
    make(bystander, "probe", proxies=1)
    wait_until(lambda: bool(refusal(bystander, "probe")), "the guard to be in force", seconds=20, pause=0.05)
    bystander.merge(f"{MESHES}/probe/status", {"status": {"proxies": 0}})
    bystander.delete(f"{MESHES}/probe")
    yield bystander
    bystander.close()


def make(cluster: Cluster, name: str, *, proxies: int | None = None, force: str | None = None) -> str:
    """A MeshInstall with so many sidecars, and its path."""
    annotations = {"example.com/note": "kept"} | ({} if force is None else {ANNOTATION_FORCE_DELETE: force})
    metadata = {"name": name, "annotations": annotations}
    spec = {"version": VERSION, "revision": name}
    cluster.create({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})
    if proxies is not None:
        cluster.merge(f"{MESHES}/{name}/status", {"status": {"proxies": proxies}})
    return f"{MESHES}/{name}"


def refusal(cluster: Cluster, name: str) -> str:
    """What the API server says against deleting it, without doing it."""
    try:
        cluster.ask("DELETE", f"{MESHES}/{name}", {"dryRun": ["All"]})
    except RefusedError as refused:
        return str(refused)
    return ""


@pytest.fixture
def mesh(cluster: Cluster) -> Iterator[Callable[..., str]]:
    made = []

    def new(name: str, *, proxies: int | None = None, force: str | None = None) -> str:
        made.append(make(cluster, name, proxies=proxies, force=force))
        return made[-1]

    yield new
    for path in made:
        if cluster.get(path):
            cluster.merge(path, {"metadata": {"annotations": {ANNOTATION_FORCE_DELETE: "true"}, "finalizers": None}})
            cluster.delete(path)


# -- deleting a mesh


def test_refused_while_there_are_sidecars_with_both_ways_on(cluster: Cluster, mesh: Callable[..., str]) -> None:
    path = mesh("busy", proxies=12)
    with pytest.raises(RefusedError) as refused:
        cluster.ask("DELETE", path)
    assert refused.value.status == 403
    message = str(refused.value)
    assert POLICY in message
    assert message.endswith(
        "mesh busy has 12 sidecars, whose certificates nobody would renew: remove them first (take the injection label"
        " from their namespaces and restart the pods), or delete it all the same after:"
        " kubectl annotate mesh busy meshwright.dev/force-delete=true"
    )
    assert "deletionTimestamp" not in cluster.must_get(path)["metadata"]


def test_what_the_message_says_helps(cluster: Cluster, server: ApiServer, mesh: Callable[..., str]) -> None:
    path = mesh("insisted", proxies=1)
    command = refusal(cluster, "insisted").rpartition(": kubectl ")[2]
    assert command.startswith("annotate mesh insisted ")
    server.kubectl(*command.split())
    cluster.ask("DELETE", path)
    assert cluster.get(path) is None


@pytest.mark.parametrize(("name", "proxies"), [("new", None), ("unused", 0)])
def test_a_mesh_that_nobody_uses_goes(
    cluster: Cluster, mesh: Callable[..., str], name: str, proxies: int | None
) -> None:
    path = mesh(name, proxies=proxies)
    cluster.ask("DELETE", path)
    assert cluster.get(path) is None


@pytest.mark.parametrize("value", ["", "false", "True", "yes"])
def test_only_true_forces(cluster: Cluster, mesh: Callable[..., str], value: str) -> None:
    mesh("hesitant", proxies=2, force=value)
    assert "2 sidecars" in refusal(cluster, "hesitant")


def test_forced(cluster: Cluster, mesh: Callable[..., str]) -> None:
    path = mesh("forced", proxies=2, force="true")
    cluster.ask("DELETE", path)
    assert cluster.get(path) is None


def test_one_sidecar_is_one(cluster: Cluster, mesh: Callable[..., str]) -> None:
    mesh("single", proxies=1)
    assert "mesh single has 1 sidecar, " in refusal(cluster, "single")


def test_a_collection_keeps_those_that_are_in_use(cluster: Cluster, mesh: Callable[..., str]) -> None:
    in_use, unused = mesh("kept", proxies=3), mesh("swept", proxies=0)
    with pytest.raises(RefusedError, match="mesh kept has 3 sidecars"):
        cluster.ask("DELETE", MESHES)
    assert cluster.get(in_use)
    wait_until(lambda: cluster.get(unused) is None or swept(cluster), "the others to go", seconds=10, pause=0.1)


def swept(cluster: Cluster) -> bool:
    """A collection stops at its first refusal: asked for the rest, it goes."""
    cluster.ask("DELETE", f"{MESHES}?fieldSelector=metadata.name%3Dswept")
    return cluster.get(f"{MESHES}/swept") is None


def test_one_that_is_being_deleted_already_may_be_deleted_again(cluster: Cluster, mesh: Callable[..., str]) -> None:
    """It waits for its finalizer, and somebody may want to wait for that, too."""
    path = mesh("going", proxies=0)
    cluster.merge(path, {"metadata": {"finalizers": ["meshwright.dev/mesh"]}})
    cluster.ask("DELETE", path)
    cluster.merge(f"{path}/status", {"status": {"proxies": 4}})
    assert refusal(cluster, "going") == ""
    assert cluster.get(path)


def test_everything_else_about_a_mesh_in_use_is_free(cluster: Cluster, mesh: Callable[..., str]) -> None:
    path = mesh("changed", proxies=5)
    cluster.merge(path, {"spec": {"mtls": "Strict"}})
    cluster.merge(f"{path}/status", {"status": {"proxies": 6}})
    cluster.merge(path, {"metadata": {"finalizers": ["meshwright.dev/mesh"]}})
    assert cluster.must_get(path)["status"]["proxies"] == 6


def test_deleting_something_else_is_no_concern_of_the_guard(cluster: Cluster, mesh: Callable[..., str]) -> None:
    mesh("beside", proxies=7)
    cluster.make_namespace("elsewhere")
    cluster.ask("DELETE", "/api/v1/namespaces/elsewhere")
    assert "deletionTimestamp" in cluster.must_get("/api/v1/namespaces/elsewhere")["metadata"]


# -- our pods


def test_the_operators_pod_is_admitted_in_its_namespace(cluster: Cluster) -> None:
    path = f"/apis/apps/v1/namespaces/{OPERATOR_NAMESPACE}/deployments/meshwright"
    template: Json = cluster.must_get(path)["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": "pod"}}
    pods = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods?dryRun=All"
    admitted = cluster.ask("POST", pods, {**pod, "spec": template["spec"]})
    assert admitted.warnings == ""
    # That this says something: with one setting less it is not.
    del template["spec"]["securityContext"]["seccompProfile"]
    with pytest.raises(RefusedError, match='violates PodSecurity "restricted:latest": seccompProfile'):
        cluster.ask("POST", pods, {**pod, "spec": template["spec"]})


# -- a namespace that is there before us


def mesh_namespace(**labels: str) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system", "labels": labels}}


def test_labels_that_others_put_on_the_meshs_namespace_stay(cluster: Cluster, server: ApiServer) -> None:
    path = "/api/v1/namespaces/istio-system"
    cluster.merge(path, {"metadata": {"labels": {"example.com/team": "net"}}}, manager="kubectl-label")
    cluster.apply(mesh_namespace(**{"topology.istio.io/network": "net1"}), manager="helm")
    for how in (("apply",), ("apply", "--server-side")):
        server.kubectl(*how, "-k", str(MANIFESTS / "mesh-namespace"))
        labels = cluster.must_get(path)["metadata"]["labels"]
        assert labels["example.com/team"] == "net"
        assert labels["topology.istio.io/network"] == "net1"


def test_labels_that_kubectl_applied_stay_without_the_part_for_the_meshs_namespace(
    cluster: Cluster, server: ApiServer
) -> None:
    """kubectl takes away what its last apply had and this one has not: `manifests/operator` has no such namespace."""
    applied = mesh_namespace(**{"example.com/applied": "yes"})
    server.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(applied))
    server.kubectl("apply", "--server-side", "-k", str(MANIFESTS / "operator"))
    labels = cluster.must_get("/api/v1/namespaces/istio-system")["metadata"]["labels"]
    assert labels["example.com/applied"] == "yes"


# -- the end (and of the file: this server has no operator after it)

KINDS = (
    "namespaces,crds,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,deployments.apps,"
    "poddisruptionbudgets,networkpolicies,validatingadmissionpolicies,validatingadmissionpolicybindings"
)


def of_ours(server: ApiServer) -> set[str]:
    names = server.kubectl("get", KINDS, "--all-namespaces", "--output=name").split()
    return {name for name in names if "meshwright" in name or name.endswith("/istio-system")}


def test_what_stays_when_the_operator_goes_is_what_the_page_says(cluster: Cluster, server: ApiServer) -> None:
    """docs/how-to/remove.md, steps 3 and 4."""
    assert cluster.list(MESHES) == []
    everything = of_ours(server)
    server.kubectl("delete", "-k", str(MANIFESTS / "base"))
    of_the_kind = {
        "customresourcedefinition.apiextensions.k8s.io/meshinstalls.meshwright.dev",
        "clusterrole.rbac.authorization.k8s.io/meshwright-admin",
        "clusterrole.rbac.authorization.k8s.io/meshwright-viewer",
        "customresourcedefinition.apiextensions.k8s.io/meshactions.meshwright.dev",
        "validatingadmissionpolicy.admissionregistration.k8s.io/meshwright-deletion",
        "validatingadmissionpolicybinding.admissionregistration.k8s.io/meshwright-deletion",
    }
    namespaces = {
        "namespace/meshwright-system",
        "namespace/istio-system",
        "rolebinding.rbac.authorization.k8s.io/meshwright",
    }
    assert of_ours(server) == of_the_kind | namespaces
    assert len(everything) > len(of_the_kind | namespaces)
    server.kubectl("delete", "-k", str(MANIFESTS / "crd"))
    assert of_ours(server) == namespaces
