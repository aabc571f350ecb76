"""How many replicas there are at least and at most, and how many a drain may take away: of istiod and of gateways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from meshwright.api.meshinstall import Autoscaling, DisruptionBudget
from meshwright.mesh import quantity

BUSY = Fraction(80, 100)  # of the CPU limit: where a replica counts as busy


@dataclass(frozen=True)
class Bounds:
    """What a HorizontalPodAutoscaler moves between, and the CPU of a replica above which it adds one."""

    minimum: int
    maximum: int
    busy_cpu: str


def bounds(autoscaling: Autoscaling, *, replicas: int, cpu_limit: str) -> Bounds | None:
    """From the usual number of replicas to twice as many, unless set; None without an autoscaler.

    The target is a share of the limit: one of the request would keep everything at its maximum where requests are low.
    """
    if not autoscaling.enabled:
        return None
    minimum = autoscaling.min_replicas or min(replicas, autoscaling.max_replicas or replicas)
    maximum = autoscaling.max_replicas or 2 * minimum
    return Bounds(minimum, maximum, quantity.cpu(quantity.parse(cpu_limit) * BUSY))


def fewest(autoscaling: Autoscaling, *, replicas: int) -> int:
    """The smallest number of replicas that there may be when all is well."""
    return autoscaling.min_replicas or replicas if autoscaling.enabled else replicas


def declared(bounds: Bounds | None, *, replicas: int, live: int | None) -> int | None:
    """Replicas to declare. An autoscaler's are not ours, but it never starts again what was scaled to nothing."""
    if bounds is None:
        return replicas
    return bounds.minimum if live is not None and live < bounds.minimum else None


def budget(spec: DisruptionBudget, *, lowest: int) -> dict[str, int]:
    """The fields of a PodDisruptionBudget, of which one replica at least may always go, or no node could be drained.

    `lowest`: the smallest number of replicas, which a size that is taken back may lower.
    """
    if spec.min_available is not None and (stay := min(spec.min_available, lowest - 1)):
        return {"minAvailable": stay}
    return {"maxUnavailable": spec.max_unavailable or 1}


def contradictions(path: str, autoscaling: Autoscaling, spec: DisruptionBudget, *, replicas: int) -> list[str]:
    """What cannot be true together of bounds and budget, with the fields' paths."""
    found = []
    low, high = autoscaling.min_replicas, autoscaling.max_replicas
    if autoscaling.enabled and high is not None and high < (low or replicas):
        low_name = f"minReplicas ({low})" if low else f"the replicas that are asked for ({replicas})"
        found.append(f"{path}.autoscaling.maxReplicas ({high}) is less than {low_name}: raise it")
    if spec.min_available is not None and spec.max_unavailable is not None:
        found.append(f"{path}.podDisruptionBudget: minAvailable and maxUnavailable exclude each other: remove one")
    lowest = fewest(autoscaling, replicas=replicas)
    if spec.min_available is not None and spec.min_available >= lowest:
        found.append(
            f"{path}.podDisruptionBudget.minAvailable ({spec.min_available}) leaves nothing to evict at {lowest}"
            f" replica{'s' if lowest > 1 else ''}, so that no node could be drained: lower it, raise the replicas, or"
            " use maxUnavailable: 1"
        )
    return found


def spread(selector: Mapping[str, str]) -> list[dict[str, Any]]:
    """Topology spread constraints of pods: never two more on one node than on another, zones as evenly as it goes.

    Nodes that are cordoned or tainted do not count, or a drain would leave the evicted pod waiting. Only pods of one
    template are compared, or a rollout would have to fit into the gaps of the old pods.
    """
    common = {"maxSkew": 1, "labelSelector": {"matchLabels": dict(selector)}, "matchLabelKeys": ["pod-template-hash"]}
    return [
        {**common, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
         "nodeTaintsPolicy": "Honor"},
        {**common, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"},
    ]  # fmt: skip
