"""Ingress and egress gateways: Envoys of their own, in Deployments of ours, that istiod injects and configures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshwright.api.meshinstall import (
    EastWestService,
    GatewayPort,
    GatewayService,
    GatewayType,
    MeshSpec,
    ServiceType,
)
from meshwright.api.meshinstall import Gateway as GatewaySpec
from meshwright.mesh import availability
from meshwright.mesh.availability import Bounds
from meshwright.mesh.names import DEFAULT_REVISION, Names
from meshwright.mesh.observed import Cluster, GatewayPods
from meshwright.mesh.sizing import PROXY, Share, contradictions, proxy_share

USUAL_PORTS = (
    GatewayPort(name="status-port", port=15021),
    GatewayPort(name="http2", port=80),
    GatewayPort(name="https", port=443),
)
EAST_WEST_PORTS = (GatewayPort(name="status-port", port=15021), GatewayPort(name="tls", port=15443))
NETWORK = "topology.istio.io/network"
USUAL_SERVICE = {GatewayType.INGRESS: ServiceType.LOAD_BALANCER, GatewayType.EGRESS: ServiceType.CLUSTER_IP}
# What the Deployment's and the Service's selectors are made of cannot be somebody else's choice.
RESERVED = ("istiod", "istio-cni")
OUR_LABELS = ("app", "istio", "istio.io/rev", "sidecar.istio.io/inject")
# The proxy's own; 15021 is its health port, which a Service may well show.
PROXY_PORTS = (15000, 15001, 15004, 15006, 15008, 15020, 15053, 15090)


@dataclass(frozen=True)
class Gateway:
    """A gateway as it should be in one cluster."""

    name: str
    namespace: str
    replicas: int
    share: Share
    bounds: Bounds | None
    declared: int | None  # replicas to declare; None: they are an autoscaler's
    injected: str | None  # what its pods have of the proxy, as long as that has to stay; None: what is wanted
    budget: Mapping[str, Any]
    selector: Mapping[str, str]
    pod_labels: Mapping[str, str]
    service_type: ServiceType
    annotations: Mapping[str, str]
    ports: tuple[Mapping[str, Any], ...]
    service_fields: Mapping[str, Any]  # of the Service's spec, those that were asked for
    network: str = ""  # into which it lets other clusters; only of an east-west gateway

    @property
    def network_labels(self) -> Mapping[str, str]:
        return {NETWORK: self.network} if self.network else {}


def gateway_of(
    gateway: GatewaySpec, spec: MeshSpec, *, live: GatewayPods | None = None, settled: bool = True, network: str = ""
) -> Gateway:
    """`live`: its Deployment; `settled`: istiod is as wanted, so that its proxies may follow."""
    share = proxy_share(gateway.resources)
    selector = {"app": gateway.name, "istio": gateway.name.removeprefix("istio-") or gateway.name}
    revision = {} if spec.revision == DEFAULT_REVISION else {"istio.io/rev": spec.revision}
    service = gateway.service
    bounds = availability.bounds(gateway.autoscaling, replicas=gateway.replicas, cpu_limit=share.limits.cpu)
    asked = {
        "externalTrafficPolicy": service.external_traffic_policy,
        "loadBalancerClass": service.load_balancer_class,
        "loadBalancerSourceRanges": service.load_balancer_source_ranges,
        "externalIPs": service.external_ips,
    }
    networks = {NETWORK: network} if network else {}
    return Gateway(
        name=gateway.name,
        namespace=gateway.namespace or spec.namespace,
        replicas=gateway.replicas,
        share=share,
        bounds=bounds,
        declared=availability.declared(bounds, replicas=gateway.replicas, live=live.replicas if live else None),
        injected=live.injected if live and not settled else None,
        budget=availability.budget(
            gateway.pod_disruption_budget, lowest=availability.fewest(gateway.autoscaling, replicas=gateway.replicas)
        ),
        selector=selector,
        # By this label the webhook finds the pod, also where its namespace asks for nothing.
        pod_labels={**gateway.labels, **selector, **revision, **networks, "sidecar.istio.io/inject": "true"},
        service_type=service.type or USUAL_SERVICE[gateway.type],
        annotations=service.annotations,
        ports=tuple(_port(each) for each in service.ports or USUAL_PORTS),
        service_fields={name: value for name, value in asked.items() if value},
        network=network,
    )


def gateway_specs(spec: MeshSpec, network: str) -> list[tuple[GatewaySpec, str]]:
    """Those of a cluster in this network, by name, each with the network into which it lets the other clusters."""
    found = [(each, "") for each in spec.gateways]
    if network:
        found.append((east_west(spec), network))
    return sorted(found, key=lambda each: each[0].name)


def east_west(spec: MeshSpec) -> GatewaySpec:
    """The gateway of every network, as a gateway like the others."""
    wanted = spec.topology.east_west_gateway
    return GatewaySpec(
        name=Names(spec.namespace, spec.revision).east_west_gateway,
        replicas=wanted.replicas,
        autoscaling=wanted.autoscaling,
        pod_disruption_budget=wanted.pod_disruption_budget,
        resources=wanted.resources,
        service=GatewayService(
            **{name: getattr(wanted.service, name) for name in EastWestService.model_fields},
            ports=list(EAST_WEST_PORTS),
        ),
    )


def problems(spec: MeshSpec) -> list[str]:
    """What is wrong with the gateways of a MeshInstall, with the fields' paths; the CRD says some of it, too."""
    names = Names(spec.namespace, spec.revision)
    found, reserved = [], {*RESERVED, names.istiod, names.east_west_gateway}
    found += [f"spec.topology.eastWestGateway{each}" for each in _east_west_problems(spec)]
    for number, gateway in enumerate(spec.gateways):
        path = f"spec.gateways[{number}] ({gateway.name})"
        if gateway.name in (each.name for each in spec.gateways[:number]):
            found.append(f"{path}.name: another gateway has this name: choose another one")
        if gateway.name in reserved:
            found.append(f"{path}.name is istiod's, istio-cni's or the east-west gateway's own: choose another one")
        found += contradictions(f"{path}.resources", gateway.resources, PROXY.limits)
        found += availability.contradictions(
            path, gateway.autoscaling, gateway.pod_disruption_budget, replicas=gateway.replicas
        )
        found += [
            f"{path}.labels.{name} follows from other fields: remove it"
            for name in OUR_LABELS
            if name in gateway.labels
        ]
        found += _port_problems(f"{path}.service", gateway)
    return found


def _east_west_problems(spec: MeshSpec) -> list[str]:
    wanted = spec.topology.east_west_gateway
    found = [f".{each}" for each in contradictions("resources", wanted.resources, PROXY.limits)]
    found += [
        f".{each}"
        for each in availability.contradictions(
            "", wanted.autoscaling, wanted.pod_disruption_budget, replicas=wanted.replicas
        )
    ]
    if wanted.service.type is not ServiceType.LOAD_BALANCER and not wanted.service.external_ips:
        found.append(".service: without a load balancer, the other clusters need externalIPs: set them")
    return found


def _port_problems(path: str, gateway: GatewaySpec) -> list[str]:
    service, found = gateway.service, []
    if service.ports is not None and not service.ports:
        return [f"{path}.ports is empty: name at least one port, or leave it out for 15021, 80 and 443"]
    ports = service.ports or list(USUAL_PORTS)
    for key in ("name", "port"):
        seen: set[Any] = set()
        for each in ports:
            value = getattr(each, key) if key == "name" else (each.port, each.protocol)
            if value in seen:
                found.append(f"{path}.ports: two ports have the same {key}, {getattr(each, key)}: change one")
            seen.add(value)
    found += [
        f"{path}.ports ({each.name}): {each.target_port or each.port} is the proxy's own port: set another targetPort"
        for each in ports
        if (each.target_port or each.port) in PROXY_PORTS
    ]
    kind = service.type or USUAL_SERVICE[gateway.type]
    if kind is ServiceType.CLUSTER_IP:
        found += [
            f"{path}.ports ({each.name}).nodePort needs type NodePort or LoadBalancer"
            for each in ports
            if each.node_port
        ]
        if service.external_traffic_policy:
            found.append(f"{path}.externalTrafficPolicy needs type NodePort or LoadBalancer")
    if kind is not ServiceType.LOAD_BALANCER:
        for name, value in (
            ("loadBalancerClass", service.load_balancer_class),
            ("loadBalancerSourceRanges", service.load_balancer_source_ranges),
        ):
            if value:
                found.append(f"{path}.{name} needs type LoadBalancer")
    return found


def _port(port: GatewayPort) -> dict[str, Any]:
    fields = {
        "name": port.name, "port": port.port, "targetPort": port.target_port or port.port, "protocol": port.protocol,
    }  # fmt: skip
    return fields | ({"nodePort": port.node_port} if port.node_port else {})


def gateway_addresses(spec: MeshSpec, cluster: Cluster) -> tuple[str, ...]:
    """Where the others reach its east-west gateway."""
    place = (spec.namespace, east_west(spec).name)
    return next((each.addresses for each in cluster.gateways if (each.namespace, each.name) == place), ())
