"""Which size istiod is to have now: what is asked for, unless the nodes have no room for it.

`Auto` is decided when the mesh is installed, and remembered in the annotation `meshwright.dev/size` of istiod's
Deployment; afterwards a scaling action may change it (`meshwright.mesh.scaling`). A size that is asked for is tried as
long as a node exists that is large enough: where a cluster grows on demand, a pod that waits is what makes it grow. A
pod that has waited for five minutes takes the size back; it is then not tried again until another one is asked for.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from fractions import Fraction

from meshwright.api.meshaction import Shape
from meshwright.api.meshinstall import ControlPlaneStatus, MeshInstall, RefusedSize, ResourceList, Resources, Size
from meshwright.api.scaling import Action, RuleMode
from meshwright.mesh import effects, quantity
from meshwright.mesh.findings import Finding
from meshwright.mesh.health import own_istiod
from meshwright.mesh.names import Names
from meshwright.mesh.observed import Cluster, Istiod
from meshwright.mesh.rules import rules_of
from meshwright.mesh.sizing import ROWS, Demand, Share, Sizing, alike, size_for, size_of

PATIENCE = dt.timedelta(minutes=5)
PENDING = "Unschedulable"
MESSAGE_LIMIT = 4096


@dataclass(frozen=True)
class Decision:
    """The size to declare, and what a person should know about it."""

    sizing: Sizing
    finding: Finding | None = None
    refused: RefusedSize | None = None
    nowhere: bool = False  # no node is large enough, and there is no smaller size that runs


def decide_size(mesh: MeshInstall, cluster: Cluster, *, now: dt.datetime, shape: Shape = effects.NONE) -> Decision:
    """The size that istiod is to have in a cluster. `shape`: what actions make of it."""
    plane, before = mesh.spec.control_plane, status_of(mesh, cluster)
    istiod = own_istiod(cluster, Names(mesh.spec.namespace, mesh.spec.revision))
    size = chosen(plane.size, before, istiod, cluster.enrolled, acting=shape.size)
    wanted = size_of(size, effects.resources(plane.resources, size, shape))
    target, refused, running = wanted.share.resources, before.refused, _running(before, istiod)
    well = Decision(wanted, _beyond(mesh, cluster))
    if refused and running and refused.size is size and alike(refused.resources, target):
        return Decision(running, Finding("SizeTakenBack", refused.message), refused)
    if istiod and running and alike(running.share.resources, target):
        return well
    tried = istiod is not None and alike(istiod.resources, target)  # whose node may be cordoned by now
    if not tried and (why := _fits_nowhere(wanted, cluster)):
        if running:
            return Decision(running, Finding("NoNodeLargeEnough", f"{why}; istiod stays {_named(running)}"))
        if istiod is None:
            return Decision(wanted, Finding("NoNodeLargeEnough", f"{why}; nothing was installed"), nowhere=True)
    if running and tried and (waiting := _waiting(cluster, target, now)):
        message = f"{_named(wanted)} found no room within 5 minutes, istiod is {_named(running)} again: {waiting}"
        refused = RefusedSize(size=size, resources=target, message=message[:MESSAGE_LIMIT])
        return Decision(running, Finding("SizeTakenBack", message), refused)
    return well


def chosen(
    asked: Size, before: ControlPlaneStatus, istiod: Istiod | None, enrolled: int, *, acting: Size | None = None
) -> Size:
    """`Auto` is what an action makes it, what was decided before, or what the pods in the mesh ask for."""
    if asked is not Size.AUTO:
        return asked
    return acting or (istiod.size if istiod else None) or _row(before.size) or size_for(enrolled)


def resize_due(mesh: MeshInstall, cluster: Cluster, *, enrolled: int, shape: Shape = effects.NONE) -> bool:
    """Whether the nodes have to be looked at: istiod is not there yet, or is to have other resources."""
    plane, istiod = mesh.spec.control_plane, own_istiod(cluster, Names(mesh.spec.namespace, mesh.spec.revision))
    if istiod is None:
        return True
    before = status_of(mesh, cluster)
    try:
        size = chosen(plane.size, before, istiod, enrolled, acting=shape.size)
        wanted = size_of(size, effects.resources(plane.resources, size, shape))
    except ValueError:  # a quantity that is none: a check says so
        return False
    return not alike(before.resources, wanted.share.resources)


def status_of(mesh: MeshInstall, cluster: Cluster) -> ControlPlaneStatus:
    """What the status says of istiod in a cluster."""
    found = (each.control_plane for each in mesh.status.clusters if each.name == cluster.name)
    return next(found, ControlPlaneStatus())


def _beyond(mesh: MeshInstall, cluster: Cluster) -> Finding | None:
    rule = next(each for each in rules_of(mesh.spec.scaling) if each.action is Action.MULTI_CLUSTER_REQUIRED)
    if rule.mode is RuleMode.OFF or not rule.is_over(cluster.enrolled):
        return None
    return Finding(
        "MultiClusterRequired",
        f"cluster {cluster.name} has {cluster.enrolled} pods in the mesh, and one cluster is for less than"
        f" {rule.threshold:g}: spread them over several clusters",
    )


def _running(before: ControlPlaneStatus, istiod: Istiod | None) -> Sizing | None:
    """What was rolled out last, as the status has it; where that was lost, as istiod's Deployment does."""
    size, resources = _row(before.size), before.resources
    if (size is None or resources is None) and istiod and istiod.rolled_out:
        size, resources = istiod.size, istiod.resources
    if size is None or resources is None:
        return None
    requests, limits = _demand(resources.requests), _demand(resources.limits)
    row = size_of(size, Resources())
    return Sizing(row.size, row.replicas, Share(requests, limits)) if requests and limits else None


def _row(size: Size | None) -> Size | None:
    return size if size in ROWS else None


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


def _waiting(cluster: Cluster, target: Resources, now: dt.datetime) -> str | None:
    """The scheduler's words about a pod of istiod of the wanted size that has waited for too long."""
    for trouble in cluster.troubles:
        late = trouble.since and now - trouble.since >= PATIENCE
        if trouble.reason == PENDING and late and alike(trouble.resources, target):
            return f"pod {trouble.pod}: {trouble.message}"
    return None


def _named(sizing: Sizing) -> str:
    limits = sizing.share.limits
    return f"size {sizing.size} ({limits.cpu} CPU, {limits.memory})"


def _amount(cpu: Fraction, memory: Fraction) -> str:
    return f"{quantity.cpu(cpu)} CPU and {float(memory / 2**30):.1f} GiB"
