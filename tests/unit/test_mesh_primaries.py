"""Clusters that the istiod of another one serves: what is refused, and when one is left as it is."""

from __future__ import annotations

from typing import Any

import pytest

from meshes import cluster, mesh, observed
from meshwright.api.meshinstall import ClusterStatus, MeshStatus
from meshwright.mesh.checks import consistent_clusters
from meshwright.mesh.desired import decide
from meshwright.mesh.findings import Finding
from meshwright.mesh.membership import leaving
from meshwright.mesh.observed import Absent
from meshwright.mesh.primaries import obstacles, served
from meshwright.mesh.remotes import access_of, reachable

Json = dict[str, Any]

EAST: Json = {"name": "primary"}
WEST: Json = {"name": "west", "kubeconfigSecret": "west", "primary": "primary"}
JOINED = MeshStatus(clusters=[ClusterStatus(name="west", kubeconfig_secret="west", joined=True)])


@pytest.mark.parametrize(
    ("clusters", "status", "says"),
    [
        ([EAST, {**WEST, "primary": "west"}], None, "spec.clusters[1] (west).primary is the cluster itself"),
        ([EAST, {**WEST, "primary": "north"}], None, "cluster north is not listed"),
        ([EAST, WEST, {"name": "south", "kubeconfigSecret": "south", "primary": "west"}], None,
         "west has no istiod itself, but that of primary"),
        ([EAST, WEST], JOINED, "the cluster was joined with an istiod of its own"),
    ],
    ids=["itself", "nobody", "a remote", "later"],
)  # fmt: skip
def test_what_is_refused(clusters: list[Json], status: MeshStatus | None, says: str) -> None:
    finding = consistent_clusters(observed(mesh(clusters=clusters, status=status)))
    assert finding
    assert finding.reason == "InvalidSpec"
    assert says in finding.message


def test_what_is_taken() -> None:
    assert consistent_clusters(observed(mesh(clusters=[EAST, WEST]))) is None


@pytest.mark.parametrize(
    ("addresses", "says"),
    [
        ((), "Service istio-system/istiod-remotes of its primary primary has no address yet"),
        (("lb.example.org",), "has a host name (lb.example.org) and no IP address"),
        (("lb.example.org", "192.0.2.7"), ""),
    ],
)
def test_without_an_address_of_its_primary_it_is_left_as_it_is(addresses: tuple[str, ...], says: str) -> None:
    seen = (cluster(entry=addresses), cluster(name="west"))
    found = obstacles(observed(mesh(clusters=[EAST, WEST]), clusters=seen))
    assert list(found) == (["west"] if says else [])
    assert not says or says in found["west"].message


def test_so_it_is_while_its_primary_is_away() -> None:
    away = (Absent("primary", Finding("ClusterAway", "it is away")),)
    found = obstacles(observed(mesh(clusters=[EAST, WEST]), clusters=(cluster(name="west"),), absent=away))
    assert "its primary primary is away" in found["west"].message


def test_an_istiod_is_sized_for_its_remotes_too() -> None:
    seen = (cluster(enrolled=400), cluster(name="west", enrolled=300, entry=("192.0.2.7",)))
    snapshot = observed(mesh(clusters=[EAST, WEST]), clusters=seen)
    assert [served(snapshot, each) for each in seen] == [700, 300]
    assert [each.sizing.size for each in decide(snapshot).control_planes] == ["Medium", "Small"]


def test_a_primary_reads_its_remote_before_that_has_a_gateway() -> None:
    spec = mesh(clusters=[EAST, WEST]).spec
    assert reachable(spec, "primary", cluster(name="west"))
    assert not reachable(spec, "west", cluster(name="primary"))


def test_a_primary_comes_as_an_account_of_its_own_and_others_as_readers() -> None:
    subject = mesh(clusters=[EAST, WEST, {"name": "south", "kubeconfigSecret": "south"}])
    assert access_of(subject, "primary", "west").account == "istio-primary-service-account"
    assert access_of(subject, "south", "west").account == "istio-reader-service-account"
    assert access_of(subject, "primary", "south").account == "istio-reader-service-account"


def test_whose_it_was_is_known_when_it_leaves() -> None:
    status = MeshStatus(clusters=[ClusterStatus(name="west", kubeconfig_secret="west", joined=True, primary="primary")])
    (left,) = leaving(mesh(clusters=[EAST], status=status))
    assert left.primary == "primary"
