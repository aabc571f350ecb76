"""Two real clusters and one control plane: west has no istiod, and that of east serves it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from e2e import howto
from e2e.members import SHOP, SYSTEM, Clusters, answered_by, ask, clusters_of, until
from testbed.product import Product

Manifest = dict[str, Any]
MESH = "primary-remote"


@pytest.fixture(scope="module")
def joined() -> Iterator[Clusters]:
    with clusters_of("remote", "east", "west") as pair:
        mesh = pair.east.mesh(howto.mesh(MESH))
        mesh["spec"]["controlPlane"] |= {"autoscaling": {"enabled": False}}
        mesh["spec"]["topology"] = {"eastWestGateway": {"autoscaling": {"enabled": False}}}
        pair.east.apply(mesh)
        pair.east.wait_ready(MESH, seconds=150)
        yield pair


@pytest.fixture(scope="module")
def shop(joined: Clusters) -> Clusters:
    joined.open_shop()
    return joined


def deployments(cluster: Product) -> set[str]:
    return {each["metadata"]["name"] for each in cluster.get("deployments", "-n", SYSTEM)["items"]}


def test_one_istiod_serves_both_and_traffic_was_seen_both_ways(joined: Clusters) -> None:
    until(lambda: deployments(joined.west) == {"istio-eastwestgateway"}, what="that the probe is gone")
    status = joined.status(MESH)
    assert {name: (each["ready"], each.get("primary")) for name, each in status.items()} == {
        "east": (True, None),
        "west": (True, "east"),
    }
    assert {name: [(r["name"], r["passed"]) for r in each["reaches"]] for name, each in status.items()} == {
        "east": [("west", True)],
        "west": [("east", True)],
    }
    assert [each["name"] for each in status["east"]["remotes"]] == ["west"]
    assert not status["west"].get("remotes")


def test_no_key_of_the_mesh_is_in_the_remote_cluster(joined: Clusters) -> None:
    names = {each["metadata"]["name"] for each in joined.west.get("secrets", "-n", SYSTEM)["items"]}
    assert "cacerts" not in names
    assert not any("remote-secret" in each for each in names), names
    roots = {
        each.get("configmap", "istio-ca-root-cert", "-n", SYSTEM)["data"]["root-cert.pem"]
        for each in joined.all.values()
    }
    assert len(roots) == 1


def test_from_each_side_both_versions_answer(shop: Clusters) -> None:
    for name, cluster in shop.all.items():
        until(lambda cluster=cluster: answered_by(cluster, "east", "west"), what=f"both answer a client in {name}")  # type: ignore[misc]


def test_pods_of_the_remote_say_which_cluster_they_are_in(shop: Clusters) -> None:
    (pod,) = shop.west.get("pods", "-n", SHOP, "-l", "app=client")["items"]
    containers = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())]
    proxy = next(each for each in containers if each["name"] == "istio-proxy")
    environment = {each["name"]: each.get("value") for each in proxy["env"]}
    assert (environment["ISTIO_META_CLUSTER_ID"], environment["ISTIO_META_NETWORK"]) == ("west", "west")


def test_an_istiod_that_is_replaced_is_found_again(shop: Clusters) -> None:
    """New pods in both clusters, while and after all replicas of the one control plane are replaced."""
    shop.east.kubectl("-n", SYSTEM, "rollout", "restart", "deployment/istiod")
    shop.east.kubectl("-n", SYSTEM, "rollout", "status", "deployment/istiod", "--timeout=120s", timeout=130)
    shop.west.kubectl("-n", SHOP, "rollout", "restart", "deployment/echo")
    for cluster in shop.all.values():
        in_place(cluster)
    until(lambda: answered_by(shop.east, "east", "west"), what="the new pods")
    shop.east.wait_ready(MESH, seconds=90)


def test_the_primary_of_a_joined_cluster_is_not_changed(joined: Clusters) -> None:
    listed = joined.east.get("mesh", MESH)["spec"]["clusters"]
    name_them(joined, [listed[0], {name: value for name, value in listed[1].items() if name != "primary"}])
    try:
        until(lambda: joined.east.condition(MESH)["reason"] == "InvalidSpec", what="that it is refused")
        assert "the cluster was joined with east" in joined.east.condition(MESH)["message"]
        assert deployments(joined.west) == {"istio-eastwestgateway"}
    finally:
        name_them(joined, listed)
    joined.east.wait_ready(MESH, seconds=90)


def name_them(clusters: Clusters, listed: list[Manifest]) -> None:
    patch = json.dumps({"spec": {"clusters": listed}})
    clusters.east.kubectl("patch", "mesh", MESH, "--type=merge", "-p", patch)


def test_when_it_leaves_nothing_of_the_mesh_stays(shop: Clusters) -> None:
    shop.west.kubectl("delete", "namespace", SHOP, "--timeout=90s", timeout=100)
    name_them(shop, shop.east.get("mesh", MESH)["spec"]["clusters"][:1])
    until(lambda: "west" not in shop.status(MESH), seconds=120, what="that west has left")
    shop.east.wait_ready(MESH, seconds=120)
    kinds = "deploy,svc,cm,sa,role,rolebinding,clusterrole,clusterrolebinding,pdb,mutatingwebhookconfiguration"
    assert (
        shop.west.kubectl("get", f"{kinds},endpointslices", "-A", "-l", "meshwright.dev/mesh", "--output=name").split()
        == []
    )
    metadata = shop.west.get("namespace", SYSTEM)["metadata"]
    assert "topology.istio.io/controlPlaneClusters" not in (metadata.get("annotations") or {})
    assert not shop.east.exists("service", "istiod-remotes", "-n", SYSTEM)
    in_place(shop.east)
    assert ask(shop.east).keys() == {"east"}


def in_place(cluster: Product) -> None:
    """While there was one istiod more, others may have had to make room for it on the one node."""
    for name in ("echo", "client"):
        cluster.kubectl("-n", SHOP, "rollout", "status", f"deployment/{name}", "--timeout=90s", timeout=100)
