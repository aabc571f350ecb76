"""The address plan of a bed: one bridge, up to three clusters on it, up to two nodes each. Pure.

A bed is known by its name and holds an index of its own while it lives. The index chooses the names of its
interfaces and its node network, so beds do not see each other. Pod and service networks repeat from bed to
bed: they exist inside the nodes' network namespaces only.

    node network      10.231.<bed>.0/24     .1 the host, .<cluster><node> the nodes (.11 .12 .21 …)
    load balancers    10.231.<bed>.64/28, .128/28, .192/28     one range a cluster, answered by its first node
    pods              10.<231 + cluster>.<node>.0/24
    services          10.96.0.0/16
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .console import TestbedError

BEDS = 32
CLUSTERS = 3
NODES = 2
INTERFACE_PREFIX = "mwtb"
SERVICE_CIDR = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
DNS_ADDRESS = "10.96.0.10"


@dataclass(frozen=True)
class NodePlan:
    """One node: a name, an address on the bridge and a pod network of its own."""

    name: str
    number: int
    address: str
    pod_cidr: str
    host_interface: str

    @property
    def control_plane(self) -> bool:
        return self.number == 1


@dataclass(frozen=True)
class ClusterPlan:
    """One cluster; its control plane runs on its first node."""

    name: str
    number: int
    pod_cidr: str
    load_balancer_cidr: str
    nodes: tuple[NodePlan, ...]

    @property
    def server(self) -> str:
        return f"https://{self.nodes[0].address}:6443"


@dataclass(frozen=True)
class BedPlan:
    """Everything that `up` makes and `down` removes can be derived from this."""

    name: str
    index: int
    flat: bool
    bridge: str
    host_address: str
    clusters: tuple[ClusterPlan, ...]

    @property
    def nodes(self) -> tuple[NodePlan, ...]:
        return tuple(node for cluster in self.clusters for node in cluster.nodes)


@dataclass(frozen=True)
class NodeRoutes:
    """How a node reaches pods: (network, via) pairs, and networks its pods reach under their own address."""

    via: tuple[tuple[str, str], ...]
    unmasked: tuple[str, ...]


def check_name(name: str) -> str:
    """The name is one of folders and nodes; what could be a path to elsewhere is refused."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", name):
        raise TestbedError(f"{name!r} cannot name a bed", "use at most 20 lower-case letters, digits and dashes")
    return name


def plan_bed(name: str, index: int, *, clusters: int = 1, nodes: int = 1, flat: bool = False) -> BedPlan:
    """The plan of bed `name`; `flat` lets pods of all its clusters reach each other without a gateway."""
    check_name(name)
    if not 1 <= clusters <= CLUSTERS:
        raise TestbedError(f"a bed has one to {CLUSTERS} clusters, not {clusters}")
    if not 1 <= nodes <= NODES:
        raise TestbedError(f"a cluster has one or {NODES} nodes, not {nodes}")
    return BedPlan(
        name=name,
        index=index,
        flat=flat,
        bridge=f"{INTERFACE_PREFIX}{index}",
        host_address=f"10.231.{index}.1",
        clusters=tuple(_plan_cluster(name, index, number, nodes) for number in range(1, clusters + 1)),
    )


def _plan_cluster(bed: str, index: int, cluster: int, nodes: int) -> ClusterPlan:
    return ClusterPlan(
        name=f"{bed}-{cluster}",
        number=cluster,
        pod_cidr=f"10.{231 + cluster}.0.0/16",
        load_balancer_cidr=f"10.231.{index}.{64 * cluster}/28",
        nodes=tuple(
            NodePlan(
                name=f"{bed}-{cluster}-node-{node}",
                number=node,
                address=f"10.231.{index}.{10 * cluster + node}",
                pod_cidr=f"10.{231 + cluster}.{node}.0/24",
                host_interface=f"{INTERFACE_PREFIX}{index}-{cluster}-{node}",
            )
            for node in range(1, nodes + 1)
        ),
    )


def routes(bed: BedPlan, cluster: ClusterPlan, node: NodePlan) -> NodeRoutes:
    """The pod routes of a node: to the nodes of its cluster, or of all clusters where the bed is flat."""
    reachable = bed.clusters if bed.flat else (cluster,)
    return NodeRoutes(
        via=tuple(
            (other.pod_cidr, other.address) for peer in reachable for other in peer.nodes if other.name != node.name
        ),
        unmasked=tuple(peer.pod_cidr for peer in reachable),
    )
