"""What concerns several clusters: how they let each other in, prove it, and leave, and that none holds up others."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass

from meshwright.api.errors import KubeconfigError, LeaseLost, MeshwrightError, Superseded, Unreachable
from meshwright.cluster.apply import Proceed
from meshwright.cluster.gather import gather_cluster
from meshwright.controller.farewell import Farewell
from meshwright.controller.members import Member
from meshwright.controller.report import Attempt
from meshwright.controller.verification import NOTHING, passages_from
from meshwright.keys.remote import ensure_remote
from meshwright.mesh.desired import ControlPlane
from meshwright.mesh.findings import Finding
from meshwright.mesh.membership import is_joined, still_used
from meshwright.mesh.observed import Cluster, Observed
from meshwright.mesh.remotes import remote_intent
from meshwright.mesh.verification import findings


@dataclass
class Site:
    """A cluster that is worked on: what should be there, what was seen, and how it is reached."""

    plane: ControlPlane
    cluster: Cluster
    member: Member
    own: bool

    @property
    def name(self) -> str:
        return self.cluster.name


class Joining:
    """`proceed`, asked before each write, raises Superseded. Everything here can be done again at any point."""

    def __init__(self, farewell: Farewell) -> None:
        self._farewell = farewell

    async def see_off(
        self, site: Site, sites: Iterable[Site], observed: Observed, attempt: Attempt, proceed: Proceed
    ) -> None:
        """A cluster that is to leave: kept as a member while sidecars run there, then left."""
        mesh, name = observed.mesh, site.name
        # That there are no sidecars is believed of the API server alone, and not of an informer.
        now = site.cluster if site.cluster.proxies else await gather_cluster(
            site.member.client, mesh, name=name, now=observed.now
        )  # fmt: skip
        if found := still_used(now):
            attempt.leaving[name] = found
            return
        if away := next((each for each in observed.absent if is_joined(mesh, each.name)), None):
            text = f"cluster {name} leaves the mesh when all others have forgotten it: {away.why.message}"
            attempt.hindered[name] = Finding("ClusterLeaving", text)
            return
        for other in sites:
            if other is not site:
                await self._farewell.part(mesh, (name, site.member), (other.name, other.member), proceed=proceed)
        if step := await self._farewell.remove(mesh, now, site.member, proceed=proceed):
            attempt.hindered[name] = Finding("ClusterLeaving", f"cluster {name} leaves the mesh: {step}")
        else:
            attempt.departed.add(name)


async def guarded(work: Awaitable[None], site: Site, attempt: Attempt) -> None:
    """What goes wrong in a member cluster is told, and holds up no other one."""
    try:
        await work
    except (LeaseLost, Superseded):
        raise
    except MeshwrightError as error:
        if site.own:
            raise
        attempt.hindered[site.name] = told(error, site.name)


async def let_in(site: Site, there: Iterable[Site], observed: Observed, attempt: Attempt, proceed: Proceed) -> None:
    """Makes a cluster's istiods able to read the others, and keeps them so."""
    if site.plane.primary:
        return  # no istiod is there that would read
    replies = site.member.inquiry.last(observed.mesh.name, site.name)
    for other in there:
        if other is site:
            continue
        intent = remote_intent(observed.mesh, site.cluster, other.cluster)
        if intent is None:
            continue
        remote = await ensure_remote(
            intent, reader=site.member.secrets, source=other.member.secrets, now=observed.now,
            synced=replies.synced(other.name), rotation=observed.mesh.rotate_access, proceed=proceed,
        )  # fmt: skip
        attempt.remotes[site.name, other.name] = remote


async def verify(site: Site, observed: Observed, attempt: Attempt) -> tuple[Finding, ...]:
    """Whether requests from there reach the other clusters, as long as that is to be found out."""
    probe, seen, trouble = site.plane.probe, NOTHING, ""
    if probe:
        seen, trouble = await passages_from(site.member.client, site.plane.names.namespace, site.cluster, probe)
        attempt.passages[site.name] = seen
    return tuple(findings(observed, site.cluster, probe, seen, trouble))


def told(error: MeshwrightError, cluster: str) -> Finding:
    """What went wrong in a member cluster, which is no fault of the mesh."""
    text = f"cluster {cluster}: {error}"
    match error:
        case Unreachable():
            return Finding("ClusterAway", text)
        case KubeconfigError():
            return Finding("KubeconfigNotUsable", text)
    return Finding("MemberNotReady", text)
