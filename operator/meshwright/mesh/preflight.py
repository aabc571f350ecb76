"""What has to hold of the clusters themselves before they are joined: a table of pure checks `snapshot → failures`.

A cluster that fails one is left as it is, and the others go on. What is not known is no failure: a check tells what was
seen. Where two clusters do not go together, the one that came later is told to go, and never the operator's own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import combinations

from meshwright.api.meshinstall import TopologyModel
from meshwright.mesh import versions
from meshwright.mesh.findings import Finding
from meshwright.mesh.names import Names
from meshwright.mesh.observed import Cluster, Observed, listed
from meshwright.mesh.trust import SHORT
from meshwright.mesh.versions import Version

OLDEST_KUBERNETES = (1, 30)  # the CRD's rules, and the kinds that a mesh is made of
CLOCKS = dt.timedelta(seconds=60)  # Istio dates certificates back by two minutes; a token's times are taken as they are
# What a mesh is made of, everywhere in a cluster: who may change these is no reader. Of the rest, the API server's own
# refusal tells.
NEEDED_VERB = "patch"
NEEDED = (
    ("", "services"), ("", "configmaps"), ("", "serviceaccounts"), ("apps", "deployments"),
    ("policy", "poddisruptionbudgets"), ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
)  # fmt: skip
NAMED = 3


@dataclass(frozen=True)
class Failure:
    cluster: str
    message: str  # names the clusters, and the next step


@dataclass(frozen=True)
class Result:
    """A row: what was checked, and who fails."""

    name: str
    failures: tuple[Failure, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def message(self) -> str:
        return "; ".join(each.message for each in self.failures)


def preflight(observed: Observed) -> tuple[Result, ...]:
    """Of every check its result."""
    return tuple(Result(name, tuple(check(observed))) for name, check in CHECKS.items())


def objections(observed: Observed, results: Iterable[Result], leavers: Collection[str] = ()) -> dict[str, Finding]:
    """Why clusters that are there are not worked on, by cluster. One that leaves is seen off in any case."""
    gone = {*leavers, *(each.name for each in observed.absent)}
    found: dict[str, list[str]] = {}
    for result in results:
        for each in result.failures:
            found.setdefault(each.cluster, []).append(each.message)
    return {
        name: Finding("PreflightFailed", "; ".join(messages)) for name, messages in found.items() if name not in gone
    }


def reachable(observed: Observed) -> Iterator[Failure]:
    return (Failure(each.name, each.why.message) for each in observed.absent)


def permissions(observed: Observed) -> Iterator[Failure]:
    for cluster in observed.clusters:
        if cluster.denied:
            yield Failure(
                cluster.name,
                f"cluster {cluster.name}: the kubeconfig's user may not"
                f" {listed(cluster.denied[:NAMED], of=len(cluster.denied))}:"
                " apply manifests/member there, and use its token",
            )


def distinct_clusters(observed: Observed) -> Iterator[Failure]:
    for one, other in combinations(observed.clusters, 2):
        if one.uid and one.uid == other.uid:
            later, earlier = _later(observed, one, other)
            yield Failure(
                later.name,
                f"clusters {later.name} and {earlier.name} are one and the same (its namespace kube-system has UID"
                f" {one.uid}): remove {later.name}, or correct its kubeconfig",
            )


def kubernetes_version(observed: Observed) -> Iterator[Failure]:
    for cluster in observed.clusters:
        minor = _minor(cluster.kubernetes)
        if minor and minor < OLDEST_KUBERNETES:
            oldest = ".".join(map(str, OLDEST_KUBERNETES))
            yield Failure(
                cluster.name,
                f"cluster {cluster.name} runs Kubernetes {cluster.kubernetes}: upgrade it to {oldest} or newer",
            )


def _minor(version: str) -> tuple[int, int] | None:
    """Of `v1.34.2+k3s1`; None for what is none."""
    parts = version.removeprefix("v").split(".")
    try:
        return int(parts[0]), int("".join(filter(str.isdigit, parts[1])))
    except (IndexError, ValueError):
        return None


def istio_version(observed: Observed) -> Iterator[Failure]:
    """A cluster that was away while the others were upgraded must not skip a minor."""
    spec = observed.mesh.spec
    names = Names(spec.namespace, spec.revision)
    for cluster in observed.clusters:
        for istiod in cluster.istiods:
            place = (istiod.namespace, istiod.name, istiod.owner)
            if place != (names.namespace, names.istiod, observed.mesh.name) or not (running := _tag(istiod.image)):
                continue
            if versions.is_too_far(running, Version.parse(spec.version)):
                yield Failure(
                    cluster.name,
                    f"cluster {cluster.name} runs Istio {running}, from which no way leads to {spec.version}:"
                    f" set spec.version to a patch of {running.major}.{running.minor} or"
                    f" {running.major}.{running.minor + 1} first",
                )


def _tag(image: str) -> Version | None:
    try:
        return Version.parse(image.rpartition(":")[2])
    except ValueError:
        return None


def pod_ranges(observed: Observed) -> Iterator[Failure]:
    """Where pods reach each other by their own addresses, no two may have the same one."""
    if observed.mesh.spec.topology.model is not TopologyModel.FLAT_NETWORK:
        return
    for one, other in combinations(observed.clusters, 2):
        if both := _overlap(one.pod_ranges, other.pod_ranges):
            later, earlier = _later(observed, one, other)
            yield Failure(
                later.name,
                f"pods of cluster {later.name} have addresses of cluster {earlier.name} ({both}), which a FlatNetwork"
                " cannot tell apart: choose MultiNetwork, or give the clusters other pod ranges",
            )


def _overlap(one: Sequence[str], other: Sequence[str]) -> str:
    """The first two ranges that overlap; empty when none do."""
    for a in map(ip_network, one):
        for b in map(ip_network, other):
            if a.version == b.version and a.overlaps(b):
                return f"{a} and {b}" if a != b else str(a)
    return ""


def common_root(observed: Observed) -> Iterator[Failure]:
    for one, other in combinations(observed.clusters, 2):
        if one.roots and other.roots and one.roots.isdisjoint(other.roots):
            later, earlier = _later(observed, one, other)
            roots = [", ".join(sorted(root[:SHORT] for root in each.roots)) for each in (later, earlier)]
            yield Failure(
                later.name,
                f"sidecars of cluster {later.name} trust another root ({roots[0]}) than those of {earlier.name}"
                f" ({roots[1]}): uninstall the mesh that is there, with ConfigMap istio-ca-root-cert of namespace"
                f" {observed.mesh.spec.namespace}, or leave {later.name} out",
            )


def clocks(observed: Observed) -> Iterator[Failure]:
    for cluster in observed.clusters:
        if cluster.clock is not None and abs(cluster.clock) > CLOCKS:
            seconds = abs(cluster.clock).total_seconds()
            ahead = "ahead of" if cluster.clock > dt.timedelta() else "behind"
            yield Failure(
                cluster.name,
                f"the clock of cluster {cluster.name} is {seconds:.0f} s {ahead} the operator's, so that certificates"
                " and tokens would not hold yet, or no more: set the clocks by NTP",
            )


def _later(observed: Observed, one: Cluster, other: Cluster) -> tuple[Cluster, Cluster]:
    """Of two clusters the one that has to go, and the other one: what is installed stays, and what is ours."""
    installed = {each.name for each in observed.mesh.status.clusters if each.ready}
    own = observed.mesh.spec.cluster_name

    def claim(cluster: Cluster) -> tuple[bool, bool]:
        return cluster.name == own, cluster.name in installed

    return (one, other) if claim(one) < claim(other) else (other, one)


Check = Callable[[Observed], Iterator[Failure]]

CHECKS: dict[str, Check] = {
    "Reachable": reachable,
    "Permissions": permissions,
    "DistinctClusters": distinct_clusters,
    "KubernetesVersion": kubernetes_version,
    "IstioVersion": istio_version,
    "PodRanges": pod_ranges,
    "CommonRoot": common_root,
    "Clocks": clocks,
}
