"""The checks before clusters are joined: each row on clusters that pass and fail it, and who has to go."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from meshes import cluster, istiod, mesh, observed
from meshwright.api.meshinstall import ClusterStatus, MeshStatus
from meshwright.mesh.findings import Finding
from meshwright.mesh.observed import Absent, Cluster, Observed
from meshwright.mesh.preflight import CHECKS, NEEDED, NEEDED_VERB, Result, objections, preflight

Json = dict[str, Any]

TWO: Json = {
    "clusterName": "east",
    "clusters": [{"name": "west", "kubeconfigSecret": "west"}, {"name": "east"}],
}
FLAT: Json = {**TWO, "topology": {"model": "FlatNetwork"}}
DENIED = ("patch services", "patch configmaps", "patch deployments", "patch clusterroles")


def pair(spec: Json = TWO, *, status: MeshStatus | None = None, east: Json | None = None, **west: Any) -> Observed:
    """East, the operator's, and a member west: what was seen of them."""
    clusters = (cluster(name="west", **west), cluster(name="east", **(east or {})))
    return observed(mesh(status=status, **spec), clusters=clusters)


def failed(seen: Observed) -> dict[str, str]:
    """By check, the message."""
    return {each.name: each.message for each in preflight(seen) if not each.passed}


def test_clusters_of_which_nothing_is_known_pass() -> None:
    results = preflight(pair())
    assert results == tuple(Result(name) for name in CHECKS)
    assert objections(pair(), results) == {}


def test_clusters_that_go_together_pass() -> None:
    seen = pair(
        FLAT,
        east={"uid": "1", "kubernetes": "v1.34.2", "pod_ranges": ("10.0.0.0/24",), "roots": frozenset({"a", "b"})},
        uid="2", kubernetes="v1.30.0-gke.100", pod_ranges=("10.0.1.0/24", "fd00::/64"), roots=frozenset({"b"}),
        clock=dt.timedelta(seconds=-60), istiods=(istiod(image="hub/pilot:1.30.9"),),
    )  # fmt: skip
    assert failed(seen) == {}


FAILING: list[tuple[str, Json, Json, str]] = [
    ("Permissions", TWO, {"denied": DENIED}, "may not patch services, patch configmaps, patch deployments and 1 more"),
    ("DistinctClusters", TWO, {"uid": "1"}, "clusters west and east are one and the same"),
    ("KubernetesVersion", TWO, {"kubernetes": "v1.29.9+k3s1"}, "runs Kubernetes v1.29.9+k3s1: upgrade it to 1.30"),
    ("IstioVersion", TWO, {"istiods": (istiod(image="hub/pilot:1.29.2"),)}, "a patch of 1.29 or 1.30 first"),
    ("PodRanges", FLAT, {"pod_ranges": ("10.0.0.0/16",)}, "(10.0.0.0/16 and 10.0.0.0/24)"),
    ("CommonRoot", TWO, {"roots": frozenset({"b"})}, "trust another root (b) than those of east (a)"),
    ("Clocks", TWO, {"clock": dt.timedelta(seconds=61)}, "61 s ahead of the operator's"),
    ("Clocks", TWO, {"clock": dt.timedelta(minutes=-5)}, "300 s behind the operator's"),
]


@pytest.mark.parametrize(("check", "spec", "west", "says"), FAILING, ids=[each[0] for each in FAILING])
def test_a_cluster_that_does_not_fit_is_named_and_left(check: str, spec: Json, west: Json, says: str) -> None:
    east = {"uid": "1", "pod_ranges": ("10.0.0.0/24",), "roots": frozenset({"a"}), "kubernetes": "v1.34.0"}
    seen = pair(spec, east=east, **west)
    assert failed(seen).keys() == {check}
    assert says in failed(seen)[check]
    found = objections(seen, preflight(seen))
    assert found.keys() == {"west"}
    assert found["west"].reason == "PreflightFailed"
    assert says in found["west"].message


def test_every_check_but_reachability_has_a_failing_case() -> None:
    assert {each[0] for each in FAILING} | {"Reachable"} == CHECKS.keys()


def test_pod_ranges_concern_only_flat_networks() -> None:
    assert failed(pair(east={"pod_ranges": ("10.0.0.0/24",)}, pod_ranges=("10.0.0.0/24",))) == {}


def test_an_istiod_of_somebody_else_is_no_version_of_ours() -> None:
    assert failed(pair(istiods=(istiod(image="hub/pilot:1.29.2", owner=None),))) == {}
    assert failed(pair(istiods=(istiod(image="hub/pilot@sha256:1234"),))) == {}


def test_what_is_installed_stays_and_the_newcomer_has_to_go() -> None:
    spec: Json = {
        "clusterName": "east",
        "clusters": [{"name": "east"}, *({"name": each, "kubeconfigSecret": each} for each in ("north", "west"))],
    }
    twins = tuple(cluster(name=name, uid=uid) for name, uid in (("east", "1"), ("north", "2"), ("west", "2")))

    def who(*ready: str) -> set[str]:
        status = MeshStatus(clusters=[ClusterStatus(name=each, ready=True) for each in ready])
        seen = observed(mesh(status=status, **spec), clusters=twins)
        return set(objections(seen, preflight(seen)))

    assert who() == {"west"}
    assert who("east", "west") == {"north"}
    assert who("east", "north", "west") == {"west"}


def test_one_that_does_not_answer_fails_and_is_told_by_its_own_reason() -> None:
    away = Absent("west", Finding("ClusterAway", "cluster west: no answer"))
    seen = observed(mesh(**TWO), clusters=(Cluster(name="east"),), absent=(away,))
    assert failed(seen) == {"Reachable": "cluster west: no answer"}
    assert objections(seen, preflight(seen)) == {}


def test_one_that_leaves_is_seen_off_in_any_case() -> None:
    seen = pair(denied=DENIED)
    assert failed(seen).keys() == {"Permissions"}
    assert objections(seen, preflight(seen), {"west"}) == {}


def test_what_is_needed_is_what_the_manifests_for_a_member_grant() -> None:
    import yaml

    from meshes import REPOSITORY

    documents = list(yaml.safe_load_all((REPOSITORY / "manifests/base/rbac.yaml").read_text()))
    role = next(each for each in documents if (each["kind"], each["metadata"]["name"]) == ("ClusterRole", "meshwright"))
    for group, resource in NEEDED:
        assert any(
            NEEDED_VERB in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"]
            for rule in role["rules"]
        ), (group, resource)
