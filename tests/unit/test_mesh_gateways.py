"""From spec.gateways to gateways as they should be. What is refused of them is in test_mesh_checks."""

from __future__ import annotations

from typing import Any

import pytest

from meshes import mesh
from meshwright.api.meshinstall import ServiceType
from meshwright.mesh.availability import Bounds
from meshwright.mesh.gateways import OUR_LABELS, Gateway, gateway_of
from meshwright.mesh.observed import GatewayPods
from meshwright.mesh.sizing import PROXY, Demand, Share

Json = dict[str, Any]


def gateway(spec: Json | None = None, **parts: Any) -> Gateway:
    subject = mesh(**(spec or {}), gateways=[{"name": "in", **parts}]).spec
    return gateway_of(subject.gateways[0], subject)


def test_a_name_is_enough() -> None:
    assert gateway() == Gateway(
        name="in", namespace="istio-system", replicas=2, share=PROXY, bounds=Bounds(2, 4, "1600m"),
        declared=None, injected=None, budget={"maxUnavailable": 1}, selector={"app": "in", "istio": "in"},
        pod_labels={"app": "in", "istio": "in", "sidecar.istio.io/inject": "true"},
        service_type=ServiceType.LOAD_BALANCER, annotations={},
        ports=(
            {"name": "status-port", "port": 15021, "targetPort": 15021, "protocol": "TCP"},
            {"name": "http2", "port": 80, "targetPort": 80, "protocol": "TCP"},
            {"name": "https", "port": 443, "targetPort": 443, "protocol": "TCP"},
        ),
        service_fields={},
    )  # fmt: skip


def test_an_egress_gateway_is_reached_from_inside_unless_it_is_said() -> None:
    assert gateway(type="Egress").service_type is ServiceType.CLUSTER_IP
    assert gateway(type="Egress", service={"type": "NodePort"}).service_type is ServiceType.NODE_PORT


@pytest.mark.parametrize(
    ("name", "istio"),
    [("istio-ingressgateway", "ingressgateway"), ("edge", "edge"), ("istio", "istio")],
)
def test_gateway_resources_find_it_by_the_label_that_istios_own_charts_use(name: str, istio: str) -> None:
    assert gateway(name=name).selector == {"app": name, "istio": istio}


def test_a_revision_injects_its_own_and_only_that_is_asked_for_by_a_label() -> None:
    assert gateway({"revision": "canary"}).pod_labels["istio.io/rev"] == "canary"
    assert "istio.io/rev" not in gateway({"revision": "default"}).pod_labels
    assert "istio.io/rev" not in gateway({"revision": "canary"}).selector


@pytest.mark.parametrize("label", OUR_LABELS)
def test_no_label_of_a_persons_takes_the_place_of_ours(label: str) -> None:
    found = gateway({"revision": "canary"}, labels={label: "theirs", "team": "edge"}).pod_labels
    assert found[label] != "theirs"
    assert found["team"] == "edge"


def test_the_namespace_is_the_meshs_unless_it_is_said() -> None:
    assert gateway({"namespace": "mesh"}).namespace == "mesh"
    assert gateway({"namespace": "mesh"}, namespace="edge").namespace == "edge"


def test_bounds_follow_the_replicas_and_the_limit() -> None:
    found = gateway(replicas=3, resources={"limits": {"cpu": 4}})
    assert (found.share, found.bounds) == (
        Share(Demand("100m", "128Mi"), Demand("4", "1Gi")), Bounds(3, 6, "3200m"),
    )  # fmt: skip
    assert gateway(replicas=3, autoscaling={"enabled": False}).bounds is None


def test_ports_are_those_that_were_asked_for_and_no_other() -> None:
    asked = [
        {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP", "nodePort": 30053},
        {"name": "a", "port": 1},
    ]
    assert gateway(service={"ports": asked}).ports == (
        asked[0], {"name": "a", "port": 1, "targetPort": 1, "protocol": "TCP"},
    )  # fmt: skip


def test_fields_of_the_service_that_are_not_asked_for_are_the_clusters() -> None:
    asked = {"externalTrafficPolicy": "Cluster", "loadBalancerClass": "a/b"}
    assert gateway(service=asked).service_fields == asked
    assert gateway(service={"loadBalancerSourceRanges": ["192.0.2.0/24"]}).service_fields == {
        "loadBalancerSourceRanges": ["192.0.2.0/24"]
    }


def live(**parts: Any) -> GatewayPods:
    return GatewayPods(**{"namespace": "istio-system", "name": "in", "owner": "demo", "injected": "old", **parts})


@pytest.mark.parametrize(
    ("seen", "settled", "injected"),
    [(None, True, None), (None, False, None), (live(), True, None), (live(), False, "old")],
)
def test_a_proxy_is_never_newer_than_istiod(seen: GatewayPods | None, settled: bool, injected: str | None) -> None:  # noqa: FBT001
    subject = mesh(gateways=[{"name": "in"}]).spec
    assert gateway_of(subject.gateways[0], subject, live=seen, settled=settled).injected == injected


@pytest.mark.parametrize(("replicas", "declared"), [(0, 2), (1, 2), (2, None), (4, None)])
def test_replicas_that_an_autoscaler_would_not_start_again_are_declared(replicas: int, declared: int | None) -> None:
    subject = mesh(gateways=[{"name": "in"}]).spec
    assert gateway_of(subject.gateways[0], subject, live=live(replicas=replicas)).declared == declared
