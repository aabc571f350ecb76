"""What running istiods and proxies say of themselves, held against what was declared."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshwright.api.meshinstall import DataPlane
from meshwright.mesh import meshschema
from meshwright.mesh.census import Answer, Earliest
from meshwright.mesh.dataplane import seconds
from meshwright.mesh.findings import Finding
from meshwright.mesh.observed import listed
from meshwright.mesh.trust import Trust
from meshwright.mesh.versions import Version

NAMED_FIELDS = 3
USUAL_TTL, USUAL_RATIO = dt.timedelta(hours=24), 0.5  # a proxy's own
LATE = 0.5  # of the life that is left when a certificate should be renewed
ROOT_NOTICE = dt.timedelta(days=30)
INTERMEDIATE_NOTICE = dt.timedelta(days=7)  # it is renewed long before


@dataclass(frozen=True)
class Replies:
    """Of one cluster: every replica of istiod, and the certificate in the fleet that ends first."""

    answers: tuple[Answer, ...] = ()
    earliest: Earliest | None = None

    @property
    def versions(self) -> dict[str, int]:
        """Connected proxies by version, over all replicas."""
        counted: Counter[str] = Counter()
        for answer in self.answers:
            counted.update(answer.proxies_by_version)
        return dict(counted)

    def synced(self, source: str) -> bool:
        """Whether every replica has read another cluster."""
        return bool(self.answers) and all(each.remotes.get(source) for each in self.answers)

    def sync(self, source: str) -> str:
        """Replicas that have, of all: `1/2`."""
        return f"{sum(bool(each.remotes.get(source)) for each in self.answers)}/{len(self.answers)}"

    @property
    def trouble(self) -> str:
        """Why a replica could not be asked."""
        return next((each.trouble for each in self.answers if each.trouble), "")


def configuration_finding(
    replies: Replies, declared: Mapping[str, Any], *, version: str, cluster: str
) -> Finding | None:
    """None when every replica that answers runs the declared mesh config."""
    minor = Version.parse(version)[:2]
    for answer in replies.answers:
        if answer.mesh_config is None or not _is_of(answer.version, minor):
            continue
        if wrong := meshschema.differences(declared, answer.mesh_config, minor=minor):
            return Finding(
                "ConfigurationNotInForce",
                f"pod {answer.pod} of cluster {cluster} does not run the declared mesh config:"
                f" {listed(wrong[:NAMED_FIELDS], of=len(wrong))}",
            )
    return None


def _is_of(version: str, minor: tuple[int, int]) -> bool:
    """Whether an istiod reads the fields that we know; one that is about to go may be of another minor."""
    return version.startswith(f"{minor[0]}.{minor[1]}.") or not version[:1].isdecimal()


def certificate_findings(
    replies: Replies, trust: Trust | None, plane: DataPlane, *, now: dt.datetime, cluster: str
) -> Iterator[Finding]:
    ends = []
    if trust:
        ends.append((f"the root certificate of cluster {cluster}", trust.root_expires, ROOT_NOTICE))
        ends.append((f"istiod's certificate in cluster {cluster}", trust.intermediate_expires, INTERMEDIATE_NOTICE))
    if replies.earliest and replies.earliest.expires:
        what = f"the certificate of pod {replies.earliest.pod} of cluster {cluster}"
        ends.append((what, replies.earliest.expires, late_renewal(plane)))
    for what, expires, notice in ends:
        if expires - now < notice:
            left = max(int((expires - now) / dt.timedelta(hours=1)), 0)
            yield Finding("CertificateExpiring", f"{what} ends in {left} hours and was not renewed in time")


def late_renewal(plane: DataPlane) -> dt.timedelta:
    """What is left of a workload's certificate when its renewal has failed for long."""
    ttl = dt.timedelta(seconds=float(seconds(plane.certificate_ttl))) if plane.certificate_ttl else USUAL_TTL
    ratio = USUAL_RATIO if plane.certificate_renewal_ratio is None else plane.certificate_renewal_ratio
    return ttl * ratio * LATE
