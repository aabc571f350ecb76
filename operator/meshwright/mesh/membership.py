"""Clusters that are to leave a mesh: the MeshInstall does not name them any more, its status still does.

One that was never joined, because of a wrong kubeconfig, say, is forgotten at once. As long as sidecars run in another
it is a member like the others, so that nobody's traffic is cut. Then its access, and that of the others to it, is taken
back, then what the mesh made there; only then is it forgotten.
"""

from __future__ import annotations

from collections.abc import Collection

from meshwright.api.meshinstall import MemberCluster, MeshInstall
from meshwright.mesh.findings import Finding
from meshwright.mesh.observed import Cluster, Observed, listed, pods


def leaving(mesh: MeshInstall) -> tuple[MemberCluster, ...]:
    """As they are remembered."""
    named = {each.name for each in mesh.spec.members}
    return tuple(
        MemberCluster(
            name=each.name, kubeconfig_secret=each.kubeconfig_secret, network=each.network, primary=each.primary
        )
        for each in mesh.status.clusters
        if each.name not in named and (each.joined if each.kubeconfig_secret else each.name == mesh.spec.cluster_name)
    )


def is_joined(mesh: MeshInstall, cluster: str) -> bool:
    """Whether something of the mesh is in a cluster, or may be."""
    return any(each.name == cluster and each.joined for each in mesh.status.clusters)


def with_leaving(mesh: MeshInstall) -> MeshInstall:
    """The mesh as it has to be looked after: with those that have not left yet."""
    if not (more := leaving(mesh)):
        return mesh
    spec = mesh.spec.model_copy(update={"clusters": [*mesh.spec.members, *more]})
    return mesh.model_copy(update={"spec": spec})


def forgotten(observed: Observed, leavers: Collection[str]) -> str | None:
    """The cluster that is gone for good, as somebody says, and that only the others have to forget.

    Not while another one is away: that must not keep its access either. Nor while it is listed, or answers.
    """
    mesh = observed.mesh
    away = [each.name for each in observed.absent if is_joined(mesh, each.name)]
    return mesh.forget if away == [mesh.forget] and mesh.forget in leavers else None


def still_used(cluster: Cluster) -> Finding | None:
    """Why a cluster cannot leave yet."""
    if not cluster.proxies:
        return None
    return Finding(
        "ClusterLeaving",
        f"cluster {cluster.name} is to leave the mesh: waiting for {pods(cluster.proxies)} with a sidecar there to go:"
        f" {listed(cluster.some_proxies, of=cluster.proxies)}; take the injection label from their namespaces and"
        " restart them, or list the cluster again",
    )
