"""Which size istiod is to have now: what is asked for, unless the nodes have no room for it.

`Auto` is decided once, when the mesh is installed, and remembered in the annotation `meshwright.dev/size` of istiod's
Deployment. A size that is asked for is tried as long as a node exists that is large enough: where a cluster grows on
demand, a pod that waits is what makes it grow. A pod that has waited for five minutes takes the size back; it is then
not tried again until another one is asked for.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from fractions import Fraction

from meshwright.api.meshinstall import ControlPlaneStatus, MeshInstall, RefusedSize, ResourceList, Resources, Size
from meshwright.mesh import quantity
from meshwright.mesh.findings import Finding
from meshwright.mesh.health import own_istiod
from meshwright.mesh.names import Names
from meshwright.mesh.observed import Cluster, Istiod
from meshwright.mesh.sizing import LARGEST, Demand, Share, Sizing, size_for, size_of

PATIENCE = dt.timedelta(minutes=5)
PENDING = "Unschedulable"


@dataclass(frozen=True)
class Decision:
    """The size to declare, and what a person should know about it."""

    sizing: Sizing
    finding: Finding | None = None
    refused: RefusedSize | None = None
    nowhere: bool = False  # no node is large enough, and there is no smaller size that runs


def decide_size(mesh: MeshInstall, cluster: Cluster, *, now: dt.datetime) -> Decision:
    """The size that istiod is to have in a cluster."""
    plane, before = mesh.spec.control_plane, status_of(mesh, cluster)
    istiod = own_istiod(cluster, Names(mesh.spec.namespace, mesh.spec.revision))
    size = chosen(plane.size, istiod, cluster.enrolled)
    wanted = size_of(size, plane.resources)
    beyond = _beyond(plane.size, size, cluster)
    running = _running(before)
    if before.refused and (before.refused.size, before.refused.resources) == (size, wanted.share.resources) and running:
        return Decision(running, Finding("SizeTakenBack", before.refused.message), before.refused)
    if istiod is None or running is None or running.share == wanted.share:
        if istiod is None and (why := _fits_nowhere(wanted, cluster)):
            return Decision(wanted, Finding("NoNodeLargeEnough", f"{why}; nothing was installed"), nowhere=True)
        return Decision(wanted, beyond)
    if why := _fits_nowhere(wanted, cluster):
        return Decision(running, Finding("NoNodeLargeEnough", f"{why}; istiod stays {_named(running)}"))
    if waiting := _waiting(cluster, now):
        message = f"{_named(wanted)} found no room within 5 minutes, istiod is {_named(running)} again: {waiting}"
        refused = RefusedSize(size=size, resources=wanted.share.resources, message=message)
        return Decision(running, Finding("SizeTakenBack", message), refused)
    return Decision(wanted, beyond)


def chosen(asked: Size, istiod: Istiod | None, enrolled: int) -> Size:
    """`Auto` is what was decided before, or what the pods in the mesh ask for."""
    if asked is not Size.AUTO:
        return asked
    return (istiod.size if istiod else None) or size_for(enrolled)


def resize_due(mesh: MeshInstall, cluster: Cluster, *, enrolled: int) -> bool:
    """Whether the nodes have to be looked at: istiod is not there yet, or is to have other resources."""
    plane, istiod = mesh.spec.control_plane, own_istiod(cluster, Names(mesh.spec.namespace, mesh.spec.revision))
    if istiod is None:
        return True
    try:
        wanted = size_of(chosen(plane.size, istiod, enrolled), plane.resources)
    except ValueError:  # a quantity that is none: a check says so
        return False
    return status_of(mesh, cluster).resources != wanted.share.resources


def status_of(mesh: MeshInstall, cluster: Cluster) -> ControlPlaneStatus:
    """What the status says of istiod in a cluster."""
    found = (each.control_plane for each in mesh.status.clusters if each.name == cluster.name)
    return next(found, ControlPlaneStatus())


def _beyond(asked: Size, size: Size, cluster: Cluster) -> Finding | None:
    if asked is not Size.AUTO or size is not LARGEST.size or cluster.enrolled < LARGEST.below_pods:
        return None
    return Finding(
        "MultiClusterRequired",
        f"cluster {cluster.name} has {cluster.enrolled} pods in the mesh, and the largest size is for less than"
        f" {LARGEST.below_pods}: spread them over several clusters",
    )


def _running(before: ControlPlaneStatus) -> Sizing | None:
    """What was rolled out last, as the status has it."""
    if before.size is None or before.size is Size.AUTO or before.resources is None:
        return None
    requests, limits = _demand(before.resources.requests), _demand(before.resources.limits)
    row = size_of(before.size, Resources())
    return Sizing(row.size, row.replicas, Share(requests, limits)) if requests and limits else None


def _demand(listed: ResourceList) -> Demand | None:
    return Demand(str(listed.cpu), str(listed.memory)) if listed.cpu and listed.memory else None


def _fits_nowhere(sizing: Sizing, cluster: Cluster) -> str | None:
    """Why no node could ever hold one replica; None where one could, or where no node is known."""
    cpu, memory = (quantity.parse(each) for each in (sizing.share.requests.cpu, sizing.share.requests.memory))
    if not cluster.nodes or any(node.cpu >= cpu and node.memory >= memory for node in cluster.nodes):
        return None
    largest = max(cluster.nodes, key=lambda node: (min(node.cpu / cpu, node.memory / memory), node.name))
    return (
        f"no node of cluster {cluster.name} is large enough for one replica of istiod of {_named(sizing)}: it requests"
        f" {_amount(cpu, memory)}, and the largest, {largest.name}, has {_amount(largest.cpu, largest.memory)}"
    )


def _waiting(cluster: Cluster, now: dt.datetime) -> str | None:
    """The scheduler's words about a pod of istiod that has waited for too long."""
    for trouble in cluster.troubles:
        if trouble.reason == PENDING and trouble.since and now - trouble.since >= PATIENCE:
            return f"pod {trouble.pod}: {trouble.message}"
    return None


def _named(sizing: Sizing) -> str:
    limits = sizing.share.limits
    return f"size {sizing.size} ({limits.cpu} CPU, {limits.memory})"


def _amount(cpu: Fraction, memory: Fraction) -> str:
    return f"{quantity.cpu(cpu)} CPU and {float(memory / 2**30):.1f} GiB"
