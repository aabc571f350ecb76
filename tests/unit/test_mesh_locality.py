"""Locality: what istiod is told, what makes failover work at all, and what is worth knowing of it."""

from __future__ import annotations

from typing import Any

from meshes import cluster, mesh, rendered
from meshwright.mesh.locality import notes
from meshwright.mesh.meshconfig import computed_keys, mesh_config
from meshwright.mesh.observed import Cluster, GatewayPods

Json = dict[str, Any]
TWO: Json = {"clusters": [{"name": "primary"}, {"name": "west", "kubeconfigSecret": "west"}]}


def rules(**spec: Any) -> list[Json]:
    return [each.manifest for each in rendered(**spec) if each.key.kind == "DestinationRule"]


def with_addresses(name: str, *addresses: str) -> Cluster:
    gateway = GatewayPods(
        namespace="istio-system", name="istio-eastwestgateway", owner="demo", addresses=tuple(addresses)
    )
    return cluster(name=name, gateways=(gateway,))


def test_unset_nothing_is_said_and_nothing_ejected() -> None:
    assert "localityLbSetting" not in mesh_config(mesh().spec)
    assert rules() == []


def test_failover_and_distribute_are_what_istio_calls_them() -> None:
    failover = mesh_config(mesh(locality={"failover": [{"from": "a", "to": "b"}]}).spec)
    assert failover["localityLbSetting"] == {"enabled": True, "failover": [{"from": "a", "to": "b"}]}
    spread = {"distribute": [{"from": "a/*", "to": {"a/*": 80, "b/*": 20}}]}
    assert mesh_config(mesh(locality=spread).spec)["localityLbSetting"] == {"enabled": True, **spread}


def test_what_fails_is_ejected_in_the_whole_mesh_or_no_other_region_takes_over() -> None:
    (rule,) = rules(locality={}, namespace="mesh", revision="canary")
    assert (rule["metadata"]["name"], rule["metadata"]["namespace"]) == ("locality-canary", "mesh")
    assert rule["metadata"]["labels"]["istio.io/rev"] == "canary"  # another revision's istiod passes it over
    assert rule["spec"]["host"] == "*.local"
    assert rule["spec"]["trafficPolicy"].keys() == {"outlierDetection"}  # mutual TLS stays as it is
    assert rules(locality={"enabled": False}) == []


def test_it_cannot_be_said_in_two_places() -> None:
    spec = mesh(locality={}, meshConfig={"localityLbSetting": {"enabled": False}}).spec
    assert computed_keys(spec) == ["spec.meshConfig.localityLbSetting.enabled"]


def test_a_single_address_of_a_gateway_is_worth_knowing() -> None:
    clusters = (with_addresses("primary", "192.0.2.1", "192.0.2.2"), with_addresses("west", "192.0.2.3"))
    (note,) = notes(mesh(**TWO, locality={}).spec, clusters)
    assert "the east-west gateway of west has one address" in note
    assert list(notes(mesh(**TWO).spec, clusters)) == []
    assert list(notes(mesh(**TWO, locality={"enabled": False}).spec, clusters)) == []
    assert list(notes(mesh(locality={}).spec, clusters[1:])) == []
