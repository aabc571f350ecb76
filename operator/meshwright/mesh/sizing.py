"""How large istiod is: the table, and what a MeshInstall changes of its row. And what a proxy may use."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from meshwright.api.meshinstall import ResourceList, Resources, Size
from meshwright.mesh import quantity

NAMES = tuple(ResourceList.model_fields)


@dataclass(frozen=True)
class Row:
    """A size: replicas of istiod, and the limits of each. Memory is requested in full, CPU to a quarter."""

    size: Size
    below_pods: int  # half-open: this many pods belong to the next row
    replicas: int
    cpu: int  # cores
    memory: str


ROWS: dict[Size, Row] = {
    row.size: row
    for row in (
        Row(Size.SMALL, below_pods=500, replicas=2, cpu=2, memory="4Gi"),
        Row(Size.MEDIUM, below_pods=2000, replicas=3, cpu=4, memory="8Gi"),
        Row(Size.LARGE, below_pods=10000, replicas=5, cpu=8, memory="16Gi"),
    )
}
LARGEST = ROWS[Size.LARGE]


@dataclass(frozen=True)
class Demand:
    """CPU and memory of one replica, as Kubernetes quantities."""

    cpu: str
    memory: str


@dataclass(frozen=True)
class Share:
    """What one replica reserves, and what it may use."""

    requests: Demand
    limits: Demand

    @property
    def manifest(self) -> dict[str, dict[str, str]]:
        """In the form of a container."""
        return {"requests": vars(self.requests), "limits": vars(self.limits)}

    @property
    def resources(self) -> Resources:
        """In the form of the API."""
        return Resources(requests=_listed(self.requests), limits=_listed(self.limits))

    def is_that_of(self, live: Resources | None) -> bool:
        """Whether a container has the same amounts. Not by their text: the API server writes `1000m` as `1`."""
        return alike(self.resources, live)


@dataclass(frozen=True)
class Sizing:
    size: Size
    replicas: int
    share: Share


# Istio's own for a proxy, so that a mesh taken over from Istio's installer keeps its proxies as they were.
PROXY = Share(requests=Demand("100m", "128Mi"), limits=Demand("2000m", "1Gi"))


def size_for(pods: int) -> Size:
    """The size for so many pods in the mesh; also above the table's end the largest there is."""
    return next((row.size for row in ROWS.values() if pods < row.below_pods), LARGEST.size)


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
    return Sizing(size, row.replicas, Share(requests, limits))


def proxy_share(override: Resources) -> Share:
    """Istio's own share of a proxy with the quantities that are set instead; a lower limit lowers the request."""
    limits = Demand(*(str(getattr(override.limits, name) or getattr(PROXY.limits, name)) for name in NAMES))
    requests = Demand(
        *(
            str(
                getattr(override.requests, name)
                or min(getattr(PROXY.requests, name), getattr(limits, name), key=quantity.parse)
            )
            for name in NAMES
        )
    )
    return Share(requests, limits)


def alike(one: Resources | None, other: Resources | None) -> bool:
    """Whether they are the same amounts, in whatever spelling: an API server stores `4096Mi` as `4Gi`."""
    if one is None or other is None:
        return False
    try:
        return _amounts(one) == _amounts(other)
    except ValueError:  # a quantity that is not there, or not written by us
        return False


def _amounts(resources: Resources) -> list[Fraction]:
    return [
        quantity.parse(str(getattr(part, name))) for part in (resources.requests, resources.limits) for name in NAMES
    ]


def contradictions(path: str, override: Resources, bounds: Demand) -> list[str]:
    """Fields in which a request exceeds its limit (that of `bounds` where none is set), or that are no quantity."""
    found = []
    for name in NAMES:
        request, limit = getattr(override.requests, name), getattr(override.limits, name)
        bound = getattr(bounds, name) if limit is None else limit
        try:
            values = [quantity.parse(value) for value in (request, limit) if value is not None]
        except ValueError as error:
            found.append(f"{path}: {name}: {error}")
            continue
        if any(value == 0 for value in values):
            found.append(f"{path}: {name} is 0: leave it out to take the usual one")
        elif request is not None and values[0] > quantity.parse(bound):
            found.append(
                f"{path}.requests.{name} ({request}) is more than limits.{name} ({bound}):"
                " lower the request or raise the limit"
            )
    return found


def limits_of(size: Size) -> Demand:
    """The limits of a size's row; of `Auto`, those of the smallest that it may become."""
    row = ROWS.get(size, ROWS[Size.SMALL])
    return Demand(str(row.cpu), row.memory)


def _listed(demand: Demand) -> ResourceList:
    return ResourceList(cpu=demand.cpu, memory=demand.memory)
