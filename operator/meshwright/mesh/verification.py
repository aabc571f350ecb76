"""`spec.verify: Traffic`: that clusters reach each other is proven by requests, from each to each other one.

After a change, a pod in every cluster asks those in the others; when all answered, the pods are taken away. What was
verified is remembered by a digest of what it rests on, so that a change of any of that asks for it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshwright.api.meshinstall import MeshInstall, Verify
from meshwright.mesh.findings import Finding
from meshwright.mesh.gateways import gateway_addresses
from meshwright.mesh.names import Names
from meshwright.mesh.observed import Cluster, Observed

PORT = 8080
DIGEST = 16  # characters of it: it tells one declared state from another one, and is no secret


@dataclass(frozen=True)
class Probe:
    """What is to be verified now, and the program that does it."""

    image: str
    question: str
    clusters: tuple[str, ...]
    port: int = PORT

    def command(self, names: Names, cluster: str) -> tuple[str, ...]:
        """What its pod in a cluster runs."""
        peers = (
            f"{each}=http://{names.probe_of(each)}.{names.namespace}.svc:{self.port}/"
            for each in self.clusters
            if each != cluster
        )
        return ("python3", "-m", "meshwright.probe", cluster, str(self.port), *peers)


@dataclass(frozen=True)
class Passage:
    """What the last requests from one cluster to another one came to."""

    passed: bool
    median_ms: float | None = None
    failure: str = ""


def wanted(mesh: MeshInstall) -> bool:
    return mesh.spec.verify is Verify.TRAFFIC and len(mesh.spec.members) > 1


def question(observed: Observed) -> str:
    """A digest of what traffic between the clusters rests on."""
    mesh = observed.mesh
    rests_on = {
        "generation": mesh.generation,
        "access": mesh.rotate_access,
        "clusters": sorted(
            (each.name, each.uid, *gateway_addresses(mesh.spec, each)) for each in observed.clusters
        ),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(rests_on).encode()).hexdigest()[:DIGEST]


def probe_of(observed: Observed) -> Probe | None:
    """None while there is nothing to verify: it was done, or a cluster is away and nobody could tell."""
    mesh = observed.mesh
    if not wanted(mesh) or observed.absent or not observed.operator_image:
        return None
    asked = question(observed)
    if mesh.status.verified == asked:
        return None
    return Probe(observed.operator_image, asked, tuple(sorted(each.name for each in observed.clusters)))


def passages(page: bytes) -> dict[str, Passage]:
    """By cluster, from what a probe answers to `/reach`; what is no such answer says nothing of any."""
    try:
        found = json.loads(page)
    except ValueError:
        return {}
    rows = found.items() if isinstance(found, dict) else ()
    return {str(name): _passage(row) for name, row in rows if isinstance(row, dict)}


def _passage(row: Mapping[str, Any]) -> Passage:
    """All of the last requests have to have passed: a single one may have been lucky."""
    total, passed, median = row.get("requests"), row.get("passed"), row.get("medianMs")
    return Passage(
        passed=isinstance(total, int) and total > 0 and passed == total,
        median_ms=float(median) if isinstance(median, int | float) else None,
        failure=str(row.get("failure") or ""),
    )


def findings(
    observed: Observed, cluster: Cluster, probe: Probe | None, found: Mapping[str, Passage], trouble: str
) -> Iterator[Finding]:
    """What is missing of the proof that requests pass from a cluster to all others.

    `found`: what its probe says, by cluster; `trouble`: why it says nothing.
    """
    if wanted(observed.mesh) and not observed.absent and not observed.operator_image:
        yield Finding(
            "TrafficNotVerified",
            "the operator's image, which the probe is made of, is not known: no Deployment with the label"
            " app.kubernetes.io/name=meshwright is in the operator's cluster",
        )
    if probe is None:
        return
    if trouble:
        yield Finding("TrafficNotVerified", f"no traffic from cluster {cluster.name} was verified: {trouble}")
        return
    for other in probe.clusters:
        passage = found.get(other)
        if other != cluster.name and not (passage and passage.passed):
            why = f": {passage.failure}" if passage and passage.failure else " yet"
            yield Finding("TrafficNotVerified", f"not all requests from cluster {cluster.name} to {other} pass{why}")
