"""The snapshot that every decision rests on: what was read, once, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Self

from meshwright.api.meshaction import MeshAction
from meshwright.api.meshinstall import MeshInstall, Resources, Size
from meshwright.mesh.enrolment import Injection
from meshwright.mesh.findings import Finding


def named(managers: tuple[str, ...]) -> str:
    """Field managers in a sentence: `helm and kubectl`."""
    return " and ".join(managers) or "somebody else"


def pods(number: int) -> str:
    return f"{number} pod" if number == 1 else f"{number} pods"


def listed(names: Sequence[str], *, of: int) -> str:
    """The first names of so many: `a, b and 3 more`."""
    more = of - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Neighbour:
    """Another MeshInstall of this API server, as far as it concerns ours."""

    name: str
    revision: str
    created: str  # RFC 3339
    installed: bool = False


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A Deployment: how many pods it is to have, and how many it has."""

    namespace: str
    name: str
    owner: str | None  # name of the MeshInstall, None when it is not ours
    generation: int = 0
    observed_generation: int = 0
    replicas: int = 0  # asked for
    existing: int = 0  # pods of any template
    updated: int = 0  # pods of the newest template
    available: int = 0
    failure: str = ""  # why its pods cannot even be made, in the API server's words

    @property
    def rolled_out(self) -> bool:
        """Every pod is of the newest template and available: an old pod must not vouch for a new one that fails."""
        current = self.observed_generation >= self.generation
        return current and self.replicas == self.existing == self.updated == self.available


@dataclass(frozen=True, kw_only=True)
class Istiod(Workload):
    """A Deployment that carries istiod's labels, whoever installed it."""

    revision: str
    managers: tuple[str, ...]  # field managers, to name who installed it
    replicas_annotation: str | None = None  # our annotation about who decides the replicas, see mesh.replicas
    image: str = ""
    size: Size | None = None  # what our annotation says of its size, see mesh.resize
    resources: Resources | None = None  # of each replica


@dataclass(frozen=True)
class Injector:
    """A MutatingWebhookConfiguration for sidecar injection, whoever installed it."""

    name: str
    revision: str  # of the istiod that it calls
    owner: str | None
    managers: tuple[str, ...]
    trusted: bool  # istiod has written its CA bundle into every webhook
    tag: str | None = None  # with a tag, it injects what asks for the tag, not for the revision

    @property
    def injects(self) -> str:
        """The revision (or tag) that pods and namespaces ask for to be injected by it."""
        return self.tag or self.revision


@dataclass(frozen=True)
class Trouble:
    """A container of istiod that does not run, with the kubelet's (or scheduler's) own words."""

    pod: str
    container: str
    reason: str
    message: str
    since: datetime | None = None  # of a pod that waits for a node
    resources: Resources | None = None  # that such a pod asks for


@dataclass(frozen=True, kw_only=True)
class GatewayPods(Workload):
    """The Deployment of a gateway of ours, and what its Service got."""

    injected: str | None = None  # our annotation of what its pods have of the proxy
    addresses: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True)
class Agents:
    """istio-cni's pods: one on each node."""

    wanted: int = 0
    updated: int = 0
    ready: int = 0
    current: bool = True  # the counts are about the newest template
    troubles: tuple[Trouble, ...] = ()

    @property
    def rolled_out(self) -> bool:
        return self.current and self.wanted == self.updated == self.ready


@dataclass(frozen=True)
class Node:
    """What a node has for pods, when it has none."""

    name: str
    cpu: Fraction  # cores
    memory: Fraction  # bytes


@dataclass(frozen=True)
class Budget:
    """A PodDisruptionBudget over our pods that is not ours."""

    namespace: str
    name: str
    managers: tuple[str, ...]


@dataclass(frozen=True)
class ApiServer:
    """How the pods of other clusters reach a cluster's API server."""

    server: str  # https URL
    ca: str  # PEM; empty: a CA that everybody knows
    tls_server_name: str = ""  # in its certificate, if not the host

    @classmethod
    def of(cls, server: str, ca: bytes | None, tls_server_name: str) -> Self:
        return cls(server, (ca or b"").decode(), tls_server_name)


@dataclass(frozen=True)
class ProbePod:
    """The pod that verifies traffic from a cluster, see mesh.verification."""

    name: str
    verifies: str  # the question that it was made for
    ready: bool
    trouble: str = ""  # why it does not run


@dataclass(frozen=True)
class Absent:
    """A member cluster that could not be read: nothing is known of it, which is not to say that nothing is there."""

    name: str
    why: Finding


@dataclass(frozen=True)
class Cluster:
    """One member cluster. The operator's own is read like every other."""

    name: str
    kubernetes: str = ""  # the API server's version
    namespace_terminating: bool = False
    istiods: tuple[Istiod, ...] = ()
    injectors: tuple[Injector, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    istiod_pods: tuple[str, ...] = ()  # those of our istiod that are ready
    killed: tuple[tuple[str, datetime], ...] = ()  # those of our istiod that ran out of memory, and when
    autoscaled: bool = False  # a HorizontalPodAutoscaler that is not ours decides the replicas of our istiod
    budgets: tuple[Budget, ...] = ()
    gateways: tuple[GatewayPods, ...] = ()
    homeless: tuple[str, ...] = ()  # namespaces that gateways are to be in, and that are not there (or about to go)
    agents: Agents | None = None
    nodes: tuple[Node, ...] = ()  # those that take pods; looked at only while a size is decided
    injection: Injection = field(default_factory=Injection)  # of the pods that are to have a sidecar of ours
    enrolled: int = 0  # how many these are, or proxies, whichever are more
    proxies: int = 0  # pods with a sidecar of ours
    proxy_namespaces: Mapping[str, int] = field(default_factory=dict)  # the same, by namespace
    fleet: tuple[tuple[str, str], ...] = ()  # the same, each by namespace and name
    some_proxies: tuple[str, ...] = ()  # the first of them by name, as `namespace/name`
    entry: tuple[str, ...] = ()  # of a primary: the addresses by which its remotes reach its istiod
    probes: tuple[ProbePod, ...] = ()
    api_server: ApiServer | None = None  # looked for only where another cluster is to read this one
    # What tells whether clusters go together; looked at only where there are several.
    uid: str = ""  # of the namespace kube-system
    pod_ranges: tuple[str, ...] = ()  # CIDRs of its nodes' pods, on a flat network
    roots: frozenset[str] = frozenset()  # fingerprints, as istiod published them in the mesh's namespace
    denied: tuple[str, ...] = ()  # what we would have to do there, and may not, as `patch services`
    clock: timedelta | None = None  # how far it is ahead of ours


@dataclass(frozen=True)
class Observed:
    now: datetime
    mesh: MeshInstall
    created: str = ""  # of the MeshInstall, RFC 3339
    neighbours: tuple[Neighbour, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    absent: tuple[Absent, ...] = ()
    journal: tuple[MeshAction, ...] = ()  # oldest first
    operator_image: str = ""  # looked for only where traffic is to be verified
