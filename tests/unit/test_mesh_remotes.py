"""Who is to read whom, what is missing of it, and who is to leave."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from meshes import NOW, cluster, mesh, plane
from meshwright.api.meshinstall import ClusterStatus, MeshStatus
from meshwright.mesh.census import Answer
from meshwright.mesh.evidence import Replies
from meshwright.mesh.membership import leaving, still_used, with_leaving
from meshwright.mesh.observed import ApiServer, Cluster, GatewayPods
from meshwright.mesh.remotes import joining_findings, notes, remote_intent
from meshwright.mesh.trust import Remote

Json = dict[str, Any]

TWO: Json = {"clusters": [{"name": "primary"}, {"name": "west", "kubeconfigSecret": "west"}]}
FLAT: Json = {**TWO, "topology": {"model": "FlatNetwork"}}
SERVER = ApiServer("https://192.0.2.2:6443", "ca", "kubernetes")


def west(*addresses: str, server: ApiServer | None = SERVER) -> Cluster:
    gateway = GatewayPods(
        namespace="istio-system", name="istio-eastwestgateway", owner="demo", addresses=tuple(addresses)
    )
    return cluster(name="west", gateways=(gateway,), api_server=server)


def test_a_cluster_is_read_when_there_is_a_way_to_it() -> None:
    intent = remote_intent(mesh(**TWO), cluster(), west("192.0.2.7"))
    assert intent is not None
    assert (intent.access.reader, intent.access.source) == ("primary", "west")
    assert (intent.server, intent.ca, intent.tls_server_name) == ("https://192.0.2.2:6443", "ca", "kubernetes")


@pytest.mark.parametrize("there", [west(), west("192.0.2.7", server=None)], ids=["no address", "no API server"])
def test_without_a_way_it_is_not(there: Cluster) -> None:
    """An istiod without a gateway's address would hand out the addresses of pods that cannot be reached."""
    assert remote_intent(mesh(**TWO), cluster(), there) is None


def test_on_a_flat_network_no_gateway_is_needed() -> None:
    assert remote_intent(mesh(**FLAT), cluster(), west()) is not None
    found = plane(seen=(cluster(),), **FLAT)
    assert (found.network, found.gateways, found.joined) == ("", (), True)


def test_a_network_has_the_name_of_its_cluster_unless_it_is_said_otherwise() -> None:
    spec: Json = {"clusters": [{"name": "primary"}, {"name": "west", "kubeconfigSecret": "a", "network": "dc-2"}]}
    assert [mesh(**spec).spec.network(name) for name in ("primary", "west")] == ["primary", "dc-2"]
    assert mesh().spec.network("primary") == ""


def test_what_is_missing_is_told_of_both_ends() -> None:
    spec = mesh(**TWO).spec
    asked = plane(seen=(cluster(),), **TWO)
    replies = Replies((Answer(pod="a", remotes={"west": True}), Answer(pod="b", remotes={"west": False})))
    found = list(joining_findings(spec, cluster(), asked, replies, ["west"]))
    assert [each.reason for each in found] == ["NoGatewayAddress", "MemberNotReady", "RemoteNotSynced"]
    assert found[2].message.endswith("has not read cluster west yet (1/2 replicas)")
    assert not list(joining_findings(mesh().spec, cluster(), plane(), Replies(), []))


REMEMBERED = MeshStatus(
    clusters=[
        ClusterStatus(name="primary"),
        ClusterStatus(name="west", kubeconfig_secret="west", network="dc-2", joined=True),
        ClusterStatus(name="typo", kubeconfig_secret="typo"),
    ]
)


def test_who_is_listed_no_more_is_remembered_with_all_that_leads_there() -> None:
    subject = mesh(status=REMEMBERED)
    (left,) = leaving(subject)
    assert (left.name, left.kubeconfig_secret, left.network) == ("west", "west", "dc-2")
    assert [each.name for each in with_leaving(subject).spec.clusters] == ["primary", "west"]
    assert leaving(with_leaving(subject)) == ()


def test_who_is_listed_does_not_leave() -> None:
    subject = mesh(status=REMEMBERED, **TWO)
    assert leaving(subject) == ()
    assert with_leaving(subject) is subject


def test_a_cluster_is_not_left_while_sidecars_run_there() -> None:
    found = still_used(cluster(name="west", proxies=2, some_proxies=("shop/a", "shop/b")))
    assert found is not None
    assert found.reason == "ClusterLeaving"
    assert "waiting for 2 pods with a sidecar there to go: shop/a, shop/b" in found.message
    assert still_used(cluster(name="west")) is None


@pytest.mark.parametrize(("days", "told"), [(1, True), (6, True), (7, False), (30, False)])
def test_tokens_that_end_soon_are_worth_a_word(days: int, *, told: bool) -> None:
    found = list(notes({("east", "west"): Remote(issued=NOW, expires=NOW + dt.timedelta(days=days))}))
    assert bool(found) is told
    assert not told or f"the API server of west grants tokens of {days * 24} hours only" in found[0]
