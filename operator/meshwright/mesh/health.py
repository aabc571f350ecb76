"""Is the control plane there? From the snapshot's own facts to one sentence."""

from __future__ import annotations

from meshwright.mesh.checks import Finding
from meshwright.mesh.names import Names
from meshwright.mesh.observed import Cluster, Istiod


def own_istiod(cluster: Cluster, names: Names) -> Istiod | None:
    return next(
        (each for each in cluster.istiods if (each.namespace, each.name) == (names.namespace, names.istiod)), None
    )


def own_injector(cluster: Cluster, names: Names) -> bool:
    return any(each.name == names.mutating_webhook and each.trusted for each in cluster.injectors)


def control_plane_finding(cluster: Cluster, names: Names, declared: int | None) -> Finding | None:
    """None when every wanted replica of istiod is updated and available, and its webhook carries its CA.

    With None `declared`, an autoscaler decides how many are wanted.
    """
    istiod = own_istiod(cluster, names)
    if istiod is None:
        return Finding("Progressing", f"Deployment {names.namespace}/{names.istiod} is not there yet")
    replicas = istiod.replicas if declared is None else declared
    if not istiod.rolled_out or istiod.replicas != replicas:
        ready = _rollout(istiod, cluster, replicas)
        if cluster.troubles:
            return Finding("ControlPlaneNotReady", f"{ready}; {explain(cluster)}")
        if istiod.failure:
            return Finding("ControlPlaneNotReady", f"{ready}; its pods cannot be made: {istiod.failure}")
        return Finding("Progressing", ready)
    if not own_injector(cluster, names):
        return Finding(
            "Progressing",
            f"istiod has not written its CA into MutatingWebhookConfiguration {names.mutating_webhook} yet",
        )
    return None


def _rollout(istiod: Istiod, cluster: Cluster, replicas: int) -> str:
    if istiod.observed_generation < istiod.generation:
        return f"istiod is about to be rolled out in cluster {cluster.name}"
    if old := istiod.existing - istiod.updated:
        new = f"{istiod.updated} of {replicas} replicas of istiod are new"
        return f"{new}, {old} old ones run on, in cluster {cluster.name}"
    return f"{istiod.available} of {replicas} replicas of istiod are ready in cluster {cluster.name}"


def explain(cluster: Cluster) -> str:
    """The first trouble in the words of whoever reported it, and where to look."""
    first = cluster.troubles[0]
    more = f" (and {len(cluster.troubles) - 1} more)" if len(cluster.troubles) > 1 else ""
    what = f"container {first.container} of pod {first.pod}" if first.container else f"pod {first.pod}"
    detail = f": {first.message}" if first.message else ""
    return f"{what} says {first.reason}{detail}{more}"
