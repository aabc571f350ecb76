"""Three real clusters whose pods reach each other by their own addresses: no gateway, no network, one mesh."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from e2e.members import SHOP, SYSTEM, Clusters, answered_by, ask, clusters_of, until
from testbed.product import NAMESPACE

MESH = "flat"
NAMES = ("east", "west", "north")


@pytest.fixture(scope="module")
def trio() -> Iterator[Clusters]:
    with clusters_of("trio", *NAMES, flat=True) as trio:
        others = [{"name": name, "kubeconfigSecret": name} for name in NAMES[1:]]
        spec: dict[str, Any] = {
            "version": "1.31.4",
            "clusterName": "east",
            "clusters": [{"name": "east"}, *others],
            "topology": {"model": "FlatNetwork"},
            "controlPlane": {"autoscaling": {"enabled": False}},
        }
        mesh = {"apiVersion": "meshwright.dev/v1alpha1", "kind": "MeshInstall", "metadata": {"name": MESH}}
        trio.east.apply(trio.east.mesh({**mesh, "spec": spec}))
        trio.east.wait_ready(MESH, seconds=240)
        trio.open_shop()
        yield trio


def test_every_istiod_reads_all_others_and_there_is_no_gateway(trio: Clusters) -> None:
    status = trio.status(MESH)
    assert {name: {each["name"] for each in found["remotes"]} for name, found in status.items()} == {
        name: set(NAMES) - {name} for name in NAMES
    }
    assert {each["synced"] for found in status.values() for each in found["remotes"]} == {"2/2"}
    assert not any(found.get("network") for found in status.values())
    for cluster in trio.all.values():
        assert not cluster.exists("deployment", "istio-eastwestgateway", "-n", SYSTEM)


def test_from_each_cluster_all_three_answer(trio: Clusters) -> None:
    for name, cluster in trio.all.items():
        until(lambda cluster=cluster: answered_by(cluster, *NAMES), what=f"all answer a client in {name}")  # type: ignore[misc]


def test_without_pods_of_its_own_a_cluster_is_answered_by_the_others(trio: Clusters) -> None:
    trio.east.kubectl("-n", SHOP, "scale", "deployment/echo", "--replicas=0")
    until(lambda: answered_by(trio.east, "west", "north"), what="that only the others answer")


def test_one_of_three_leaves_and_the_other_two_go_on(trio: Clusters) -> None:
    trio.all["north"].kubectl("delete", "namespace", SHOP, "--timeout=90s", timeout=100)
    trio.east.kubectl(
        "patch", "mesh", MESH, "--type=merge", "-p",
        '{"spec":{"clusters":[{"name":"east"},{"name":"west","kubeconfigSecret":"west"}]}}',
    )  # fmt: skip
    until(lambda: trio.status(MESH).keys() == {"east", "west"}, seconds=120, what="that north has left")
    for cluster in (trio.east, trio.west):
        assert not cluster.exists("secret", "istio-remote-secret-north", "-n", SYSTEM)
        assert not cluster.exists("secret", "istio-reader-north-a", "istio-reader-north-b", "-n", SYSTEM)
    assert trio.east.exists("secret", "north", "-n", NAMESPACE)  # what we did not make stays
    assert ask(trio.west).keys() == {"west"}
