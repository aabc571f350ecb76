"""Three real clusters whose pods reach each other by their own addresses: no gateway, no network, one mesh."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from e2e import howto
from e2e.members import SHOP, SYSTEM, Clusters, answered_by, api_server_stopped, ask, bound, clusters_of, until
from testbed.product import NAMESPACE

MESH = "flat"
NAMES = ("east", "west", "north")


@pytest.fixture(scope="module")
def trio() -> Iterator[Clusters]:
    with clusters_of("trio", *NAMES, flat=True) as trio:
        mesh = trio.east.mesh(howto.mesh(MESH))
        mesh["spec"]["clusters"].append({"name": "north", "kubeconfigSecret": "north"})
        mesh["spec"]["controlPlane"] |= {"autoscaling": {"enabled": False}}
        trio.east.apply(mesh)
        trio.east.wait_ready(MESH, seconds=240)
        trio.open_shop()
        yield trio


def test_every_istiod_reads_all_others_and_there_is_no_gateway(trio: Clusters) -> None:
    status = trio.status(MESH)
    assert {name: {each["name"] for each in found["remotes"]} for name, found in status.items()} == {
        name: set(NAMES) - {name} for name in NAMES
    }
    assert {(name, each["name"]) for name, found in status.items() for each in found["reaches"] if each["passed"]} == {
        (one, other) for one in NAMES for other in NAMES if one != other
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


def test_a_cluster_that_was_built_anew_under_its_name_joins_again(trio: Clusters) -> None:
    """The kubeconfig in Secret `west` leads to another cluster now. What the former one held is worth nothing."""
    before = bound(trio.east)
    kubeconfig = trio.east.get("secret", "north", "-n", NAMESPACE)["data"]["kubeconfig"]
    patch = json.dumps({"data": {"kubeconfig": kubeconfig}})
    trio.east.kubectl("-n", NAMESPACE, "patch", "secret", "west", "--type=merge", "-p", patch)
    uid = trio.all["north"].get("namespace", "kube-system")["metadata"]["uid"]
    until(lambda: trio.status(MESH)["west"].get("uid") == uid, what="that it is another cluster")
    until(lambda: len(now := bound(trio.east)) == 1 and not now & before, seconds=120, what="that access is new")
    trio.east.wait_ready(MESH, seconds=120)
    assert trio.all["north"].exists("secret", "cacerts", "-n", SYSTEM)


def test_a_cluster_that_is_gone_for_good_is_forgotten_when_somebody_says_so(trio: Clusters) -> None:
    with api_server_stopped(trio.backend.bed.clusters[NAMES.index("north")]):
        until(lambda: trio.status(MESH)["west"].get("away"), what="that it is away")
        trio.east.kubectl("patch", "mesh", MESH, "--type=merge", "-p", '{"spec":{"clusters":[{"name":"east"}]}}')
        until(lambda: trio.east.condition(MESH)["reason"] == "ClusterAway", what="that it is waited for")
        assert len(bound(trio.east)) == 1
        trio.east.kubectl("annotate", "mesh", MESH, "meshwright.dev/forget=west")
        until(lambda: trio.status(MESH).keys() == {"east"}, what="that it is forgotten")
        assert bound(trio.east) == set()
        assert not trio.east.exists("secret", "istio-remote-secret-west", "-n", SYSTEM)
    trio.east.wait_ready(MESH, seconds=60)
