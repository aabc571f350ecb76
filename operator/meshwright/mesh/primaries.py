"""Clusters without an istiod of their own (`clusters[].primary`): that of another one, their primary, serves them.

The primary has a Service `istiod-remotes`, which leads to its istiod from outside. A remote cluster has a Service
`istiod` that leads to that one's addresses, so that its proxies and its API server find istiod under the usual name,
which is the one in istiod's certificate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from meshwright.api.meshinstall import MeshSpec, ServiceType
from meshwright.mesh.findings import Finding
from meshwright.mesh.names import Names
from meshwright.mesh.observed import Cluster, Observed

SERVING_ENV = {"EXTERNAL_ISTIOD": "true"}  # istiod publishes its CA in the clusters that name it, too
CONTROL_PLANE_CLUSTERS = "topology.istio.io/controlPlaneClusters"
FAMILIES = {4: "IPv4", 6: "IPv6"}


@dataclass(frozen=True)
class Entry:
    """The Service of a primary by which remote clusters reach its istiod, as the east-west gateway's was asked for."""

    service_type: ServiceType
    annotations: Mapping[str, str]
    fields: Mapping[str, Any]  # of the Service's spec, those that were asked for


def entry(spec: MeshSpec, cluster: str) -> Entry | None:
    """None for a cluster that is nobody's primary."""
    if cluster not in primaries(spec):
        return None
    asked = spec.topology.east_west_gateway.service
    fields = {
        "loadBalancerClass": asked.load_balancer_class,
        "loadBalancerSourceRanges": asked.load_balancer_source_ranges,
        "externalIPs": asked.external_ips,
    }
    return Entry(asked.type, asked.annotations, {name: value for name, value in fields.items() if value})


def primaries(spec: MeshSpec) -> frozenset[str]:
    return frozenset(each.primary for each in spec.clusters if each.primary)


def served(observed: Observed, cluster: Cluster) -> int:
    """How many pods the istiod of a cluster has to serve: its own, and those of its remotes."""
    spec = observed.mesh.spec
    remotes = (each for each in observed.clusters if spec.primary(each.name) == cluster.name)
    return cluster.enrolled + sum(each.enrolled for each in remotes)


def slices(observed: Observed, cluster: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Where a remote cluster finds istiod: address family and addresses, as EndpointSlices have them."""
    addresses = [each for found in observed.clusters if found.name == cluster for each in _ips(found.entry)]
    by_family = {name: tuple(sorted(each for each in addresses if ip_address(each).version == family))
                 for family, name in FAMILIES.items()}  # fmt: skip
    return tuple((name, found) for name, found in by_family.items() if found) or (("IPv4", ()),)


def _ips(addresses: Collection[str]) -> Iterator[str]:
    for each in addresses:
        try:
            ip_address(each)
        except ValueError:  # a host name
            continue
        yield each


def obstacles(observed: Observed) -> dict[str, Finding]:
    """Why a remote cluster is left as it is, by name: without an address of its primary, its pods would lose istiod."""
    spec, found = observed.mesh.spec, {}
    seen = {each.name: each for each in observed.clusters}
    service = f"{spec.namespace}/{Names(spec.namespace, spec.revision).remotes}"
    for cluster in observed.clusters:
        if not (primary := spec.primary(cluster.name)):
            continue
        if primary not in seen:
            why = f"its primary {primary} is away: it is left as it is"
        elif not seen[primary].entry:
            why = f"Service {service} of its primary {primary} has no address yet"
        elif not any(_ips(seen[primary].entry)):
            why = (
                f"Service {service} of its primary {primary} has a host name ({seen[primary].entry[0]}) and no IP"
                " address: set topology.eastWestGateway.service.externalIPs, or annotations that give it one"
            )
        else:
            continue
        found[cluster.name] = Finding("MemberNotReady", f"cluster {cluster.name}: {why}")
    return found


def problems(spec: MeshSpec, known: Mapping[str, str | None]) -> Iterator[str]:
    """`known`: of clusters that are joined already, their primary."""
    own = {each.name: each.primary for each in spec.clusters}
    for number, each in enumerate(spec.clusters):
        path = f"spec.clusters[{number}] ({each.name}).primary"
        if each.name in known and known[each.name] != each.primary:
            yield (
                f"{path}: the cluster was joined with {known[each.name] or 'an istiod of its own'}: take it out of the"
                " list, and when it has left, list it again"
            )
        if not each.primary:
            continue
        if each.primary == each.name:
            yield f"{path} is the cluster itself: remove it, and it has an istiod of its own"
        elif each.primary not in own:
            yield f"{path}: cluster {each.primary} is not listed: list it, or name one that is"
        elif own[each.primary]:
            yield f"{path}: {each.primary} has no istiod itself, but that of {own[each.primary]}: name that one"
