"""How the operator is installed: what is in which folder, and what its pods look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from meshes import REPOSITORY
from meshwright.api.meshinstall import ANNOTATION_FORCE_DELETE, GROUP, PLURAL, MeshSpec
from meshwright.controller.__main__ import parser

Json = dict[str, Any]

MANIFESTS = REPOSITORY / "manifests"


def documents(path: Path) -> list[Json]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def files(folder: Path) -> list[Path]:
    """What `kubectl kustomize` reads for a folder."""
    (kustomization,) = documents(folder / "kustomization.yaml")
    found: list[Path] = []
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        found += files(path) if path.is_dir() else [path]
    return found


def resources(folder: str) -> list[Json]:
    return [each for path in files(MANIFESTS / folder) for each in documents(path)]


def kinds(folder: str) -> set[str]:
    return {each["kind"] for each in resources(folder)}


def one(kind: str, folder: str = "base") -> Json:
    (found,) = [each for each in resources(folder) if each["kind"] == kind]
    return found


DEPLOYMENT = one("Deployment")
POD = DEPLOYMENT["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]

# -- what goes with what


def test_the_default_is_all_there_is_but_for_what_needs_other_tools_or_clusters() -> None:
    everything = {path for path in MANIFESTS.rglob("*.yaml") if path.name != "kustomization.yaml"}
    everything -= set((MANIFESTS / "monitoring").iterdir())  # the Prometheus Operator and Grafana
    everything -= set((MANIFESTS / "member").iterdir())  # another cluster
    everything -= set((MANIFESTS / "enrolment-limit").iterdir())  # for who wants it
    assert {path for path in files(MANIFESTS / "default") if path.is_relative_to(MANIFESTS)} == everything


def test_removing_the_operator_removes_no_mesh_no_key_and_no_guard() -> None:
    keep = {"Namespace", "CustomResourceDefinition", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    assert kinds("base") & keep == set()
    assert kinds("crd") == {*keep - {"Namespace"}, "ClusterRole"}


def test_without_the_meshs_namespace_it_is_the_same_otherwise() -> None:
    apart = set(files(MANIFESTS / "mesh-namespace"))
    assert set(files(MANIFESTS / "operator")) == set(files(MANIFESTS / "default")) - apart


def test_the_meshs_namespace_is_the_one_by_default_and_takes_no_label_of_anybody() -> None:
    namespace = one("Namespace", "mesh-namespace")
    assert namespace["metadata"] == {"name": MeshSpec.model_fields["namespace"].default}
    (kustomization,) = documents(MANIFESTS / "mesh-namespace/kustomization.yaml")
    assert kustomization["namespace"] == namespace["metadata"]["name"]


def test_the_operators_namespace_enforces_the_restricted_level() -> None:
    namespace = one("Namespace", "namespace")
    (kustomization,) = documents(MANIFESTS / "base/kustomization.yaml")
    assert namespace["metadata"]["name"] == kustomization["namespace"]
    assert namespace["metadata"]["labels"] == {
        "istio-injection": "disabled",
        "pod-security.kubernetes.io/enforce": "restricted",
    }


# -- the pods


def test_two_replicas_and_a_successor_before_one_ends() -> None:
    assert DEPLOYMENT["spec"]["replicas"] == 2
    assert DEPLOYMENT["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_a_drain_takes_one_at_a_time_and_one_that_is_not_well_at_once() -> None:
    budget = one("PodDisruptionBudget")["spec"]
    assert budget["selector"] == DEPLOYMENT["spec"]["selector"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("topology", ["kubernetes.io/hostname", "topology.kubernetes.io/zone"])
def test_they_are_spread_where_that_is_possible(topology: str) -> None:
    (constraint,) = [each for each in POD["spec"]["topologySpreadConstraints"] if each["topologyKey"] == topology]
    assert constraint["labelSelector"] == DEPLOYMENT["spec"]["selector"]
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"  # a cluster of one node has both


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]
)
def test_it_is_asked_how_it_is(probe: str, path: str) -> None:
    assert CONTAINER[probe]["httpGet"] == {"path": path, "port": "http"}
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": parser().get_default("port")}]


def test_it_may_do_nothing_to_its_node() -> None:
    """The Pod Security level `restricted`; the API server's own word on it is in tests/api/test_admission.py."""
    assert POD["spec"]["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "volumes" not in POD["spec"]


def test_the_network_lets_in_what_asks_after_it_and_lets_out_what_it_needs() -> None:
    policy = one("NetworkPolicy")["spec"]
    assert policy["podSelector"] == DEPLOYMENT["spec"]["selector"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    port = parser().get_default("port")
    # Without `from`: the kubelet's probes come from the node, and no selector would let them in.
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": port}]}]
    out = {(each["protocol"], each["port"]) for rule in policy["egress"] for each in rule["ports"]}
    assert out == {("TCP", 443), ("TCP", 6443), ("UDP", 53), ("TCP", 53)}


# -- the guard on deletion


def test_the_guard_is_about_meshinstalls_in_every_version_and_names_the_way_on() -> None:
    policy, binding = one("ValidatingAdmissionPolicy", "crd"), one("ValidatingAdmissionPolicyBinding", "crd")
    assert policy["spec"]["failurePolicy"] == "Fail"
    assert policy["spec"]["matchConstraints"] == {
        "resourceRules": [{"apiGroups": [GROUP], "apiVersions": ["*"], "resources": [PLURAL], "operations": ["DELETE"]}]
    }
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    (forced,) = [each for each in policy["spec"]["variables"] if each["name"] == "forced"]
    assert forced["expression"].count(f"'{ANNOTATION_FORCE_DELETE}'") == 2
    (validation,) = policy["spec"]["validations"]
    assert f"{ANNOTATION_FORCE_DELETE}=true" in validation["messageExpression"]
