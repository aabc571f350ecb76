"""Two real clusters in two regions: who is near answers, who is far takes over, and gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from e2e.members import SHOP, SYSTEM, Clusters, answered_by, ask, clusters_of, until

MESH = "regions"


@pytest.fixture(scope="module")
def pair() -> Iterator[Clusters]:
    with clusters_of("regions", "east", "west") as pair:
        for name, cluster in pair.all.items():
            cluster.kubectl("label", "nodes", "--all", f"topology.kubernetes.io/region={name}", "--overwrite")
        by_hand = {"autoscaling": {"enabled": False}}
        spec: dict[str, Any] = {
            "version": "1.31.4",
            "clusterName": "east",
            "clusters": [{"name": "east"}, {"name": "west", "kubeconfigSecret": "west"}],
            "topology": {"eastWestGateway": by_hand},
            "controlPlane": by_hand,
            "locality": {"failover": [{"from": "east", "to": "west"}, {"from": "west", "to": "east"}]},
        }
        mesh = {"apiVersion": "meshwright.dev/v1alpha1", "kind": "MeshInstall", "metadata": {"name": MESH}}
        pair.east.apply(pair.east.mesh({**mesh, "spec": spec}))
        pair.east.wait_ready(MESH, seconds=180)
        pair.open_shop()
        yield pair


def test_who_is_near_answers(pair: Clusters) -> None:
    for name, cluster in pair.all.items():
        until(lambda cluster=cluster, name=name: answered_by(cluster, name), what=f"{name} answers itself")  # type: ignore[misc]


def test_the_other_region_takes_over_and_gives_back(pair: Clusters) -> None:
    scale = ("-n", SHOP, "scale", "deployment/echo")
    pair.east.kubectl(*scale, "--replicas=0")
    until(lambda: answered_by(pair.east, "west"), what="west answers for east")
    pair.east.kubectl(*scale, "--replicas=1")
    until(lambda: answered_by(pair.east, "east"), what="east answers itself again")
    assert ask(pair.east).keys() == {"east"}  # and stays


def test_a_gateway_with_one_address_is_worth_a_word(pair: Clusters) -> None:
    message = pair.east.condition(MESH)["message"]
    assert "the east-west gateway of east and west has one address" in message


def test_without_it_all_clusters_are_alike_and_nothing_is_left(pair: Clusters) -> None:
    assert pair.east.exists("destinationrule.networking.istio.io", "locality", "-n", SYSTEM)
    patch = '{"spec":{"locality":{"enabled":false,"failover":[]}}}'
    pair.east.kubectl("patch", "mesh", MESH, "--type=merge", "-p", patch)
    for name, cluster in pair.all.items():
        until(lambda cluster=cluster: answered_by(cluster, "east", "west"), what=f"both answer {name}")  # type: ignore[misc]
        assert not cluster.exists("destinationrule.networking.istio.io", "locality", "-n", SYSTEM)
