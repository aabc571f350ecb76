"""Is the mesh there? From the snapshot's own facts to one sentence for each part that is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshwright.mesh.findings import Finding
from meshwright.mesh.gateways import Gateway
from meshwright.mesh.names import CNI_AGENT, Names
from meshwright.mesh.observed import Cluster, Istiod, Trouble, Workload, named


def own_istiod(cluster: Cluster, names: Names) -> Istiod | None:
    return next(
        (each for each in cluster.istiods if (each.namespace, each.name) == (names.namespace, names.istiod)), None
    )


def own_injector(cluster: Cluster, names: Names) -> bool:
    return any(each.name == names.mutating_webhook and each.trusted for each in cluster.injectors)


def cluster_findings(
    cluster: Cluster,
    names: Names,
    *,
    replicas: int | None,
    gateways: Sequence[Gateway] = (),
    cni: bool = False,
    primary: str = "",
) -> tuple[Finding, ...]:
    """What is not as it should be of the control plane, the webhooks and the gateways, in this order.

    With None `replicas`, an autoscaler decides how many of istiod are wanted. With a `primary` there is none here.
    """
    found = (
        None if primary else control_plane_finding(cluster, names, replicas),
        budget_finding(cluster),
        agents_finding(cluster, names) if cni else None,
        webhooks_finding(cluster, names),
        *gateway_findings(cluster, gateways),
    )
    return tuple(each for each in found if each)


def control_plane_finding(cluster: Cluster, names: Names, declared: int | None) -> Finding | None:
    """None when every wanted replica of istiod is updated and available."""
    istiod = own_istiod(cluster, names)
    if istiod is None:
        return Finding("Progressing", f"Deployment {names.namespace}/{names.istiod} is not there yet")
    replicas = istiod.replicas if declared is None else declared
    if istiod.rolled_out and istiod.replicas == replicas:
        return None
    ready = rollout(istiod, replicas, what="istiod", cluster=cluster.name)
    why = hindrance(istiod, cluster.troubles)
    return Finding("ControlPlaneNotReady", f"{ready}; {why}") if why else Finding("Progressing", ready)


def budget_finding(cluster: Cluster) -> Finding | None:
    if not cluster.budgets:
        return None
    first = cluster.budgets[0]
    return Finding(
        "DisruptionBudgetConflict",
        f"PodDisruptionBudget {first.namespace}/{first.name}, made by {named(first.managers)}, is over pods that have"
        f" one already, in cluster {cluster.name}: none of them can be evicted",
    )


def agents_finding(cluster: Cluster, names: Names) -> Finding | None:
    agents = cluster.agents
    if agents and agents.rolled_out:
        return None
    if agents is None:
        return Finding("CNINotReady", f"DaemonSet {names.namespace}/{CNI_AGENT} is not there yet")
    done = min(agents.updated, agents.ready) if agents.current else 0
    ready = f"istio-cni is up to date and ready on {done} of {agents.wanted} nodes of cluster {cluster.name}"
    return Finding("CNINotReady", f"{ready}; {explain(agents.troubles)}" if agents.troubles else ready)


def webhooks_finding(cluster: Cluster, names: Names) -> Finding | None:
    """None when the API server can call istiod to inject: istiod's CA is in the webhooks."""
    if own_injector(cluster, names):
        return None
    return Finding(
        "WebhooksNotTrusted",
        f"istiod has not written its CA into MutatingWebhookConfiguration {names.mutating_webhook} yet",
    )


def gateway_findings(cluster: Cluster, gateways: Sequence[Gateway]) -> Iterator[Finding]:
    for namespace in cluster.homeless:
        yield Finding("GatewayNotReady", f"namespace {namespace}, which a gateway is to be in, is not there: create it")
    live = {(each.namespace, each.name): each for each in cluster.gateways}
    for gateway in gateways:
        pods = live.get((gateway.namespace, gateway.name))
        what = f"gateway {gateway.namespace}/{gateway.name}"
        if pods is None:
            yield Finding("GatewayNotReady", f"Deployment {gateway.namespace}/{gateway.name} is not there yet")
            continue
        replicas = pods.replicas if gateway.declared is None else gateway.declared
        if not pods.rolled_out or pods.replicas != replicas:
            ready = rollout(pods, replicas, what=what, cluster=cluster.name)
            why = hindrance(pods, pods.troubles)
            yield Finding("GatewayNotReady", f"{ready}; {why}" if why else ready)


def rollout(workload: Workload, replicas: int, *, what: str, cluster: str) -> str:
    if workload.observed_generation < workload.generation:
        return f"{what} is about to be rolled out in cluster {cluster}"
    if old := workload.existing - workload.updated:
        new = f"{workload.updated} of {replicas} replicas of {what} are new"
        return f"{new}, {old} old ones run on, in cluster {cluster}"
    return f"{workload.available} of {replicas} replicas of {what} are ready in cluster {cluster}"


def hindrance(workload: Workload, troubles: Sequence[Trouble]) -> str | None:
    """What keeps its pods from being ready, in the words of whoever reported it."""
    if troubles:
        return explain(troubles)
    return f"its pods cannot be made: {workload.failure}" if workload.failure else None


def explain(troubles: Sequence[Trouble]) -> str:
    first = troubles[0]
    more = f" (and {len(troubles) - 1} more)" if len(troubles) > 1 else ""
    what = f"container {first.container} of pod {first.pod}" if first.container else f"pod {first.pod}"
    detail = f": {first.message}" if first.message else ""
    return f"{what} says {first.reason}{detail}{more}"
