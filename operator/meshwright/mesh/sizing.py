"""How large istiod is: the table, and what a MeshInstall changes of its row."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from meshwright.api.meshinstall import ResourceList, Resources, Size
from meshwright.mesh import quantity


@dataclass(frozen=True)
class Row:
    """A size: replicas of istiod, and the limits of each. Memory is requested in full, CPU to a quarter."""

    size: Size
    up_to_pods: int  # half-open: this many pods belong to the next row
    replicas: int
    cpu: int  # cores
    memory: str


ROWS: dict[Size, Row] = {
    row.size: row
    for row in (
        Row(Size.SMALL, up_to_pods=500, replicas=2, cpu=2, memory="4Gi"),
        Row(Size.MEDIUM, up_to_pods=2000, replicas=3, cpu=4, memory="8Gi"),
        Row(Size.LARGE, up_to_pods=10000, replicas=5, cpu=8, memory="16Gi"),
    )
}


@dataclass(frozen=True)
class Demand:
    """CPU and memory of one replica, as Kubernetes quantities."""

    cpu: str
    memory: str


@dataclass(frozen=True)
class Sizing:
    replicas: int
    requests: Demand
    limits: Demand


def size_of(size: Size, override: Resources) -> Sizing:
    """The row of `size` with the single quantities that the MeshInstall sets instead.

    A limit that is set lowers (or raises) the request that follows from it, unless that is set as well.
    """
    row = ROWS[size]
    limits = Demand(
        cpu=str(override.limits.cpu or row.cpu),
        memory=str(override.limits.memory or row.memory),
    )
    requests = Demand(
        cpu=str(override.requests.cpu or quantity.cpu(quantity.parse(limits.cpu) * Fraction(1, 4))),
        memory=str(override.requests.memory or limits.memory),
    )
    return Sizing(row.replicas, requests, limits)


def contradictions(size: Size, override: Resources) -> list[str]:
    """Fields in which a request exceeds its limit (the size's where none is set), or that are no quantity at all."""
    found = []
    for name in ResourceList.model_fields:
        request, limit = getattr(override.requests, name), getattr(override.limits, name)
        bound = getattr(ROWS[size], name) if limit is None else limit
        try:
            values = [quantity.parse(value) for value in (request, limit) if value is not None]
        except ValueError as error:
            found.append(f"spec.controlPlane.resources: {name}: {error}")
            continue
        if any(value == 0 for value in values):
            found.append(f"spec.controlPlane.resources: {name} is 0: leave it out to take the size's own")
        elif request is not None and values[0] > quantity.parse(bound):
            found.append(
                f"spec.controlPlane.resources.requests.{name} ({request}) is more than limits.{name} ({bound}):"
                " lower the request or raise the limit"
            )
    return found
