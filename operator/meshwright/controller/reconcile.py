"""The sentence: gather → decide → ensure trust → render → apply → report.

Level-triggered: it is told only that a MeshInstall may be wrong, reads everything anew, and may be stopped at any
point and run again.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from meshwright.api.conditions import REASONS
from meshwright.api.errors import (
    Conflict,
    ExternalError,
    FinalError,
    InvalidSpec,
    LeaseLost,
    MeshwrightError,
    Superseded,
    TransientError,
    TrustError,
)
from meshwright.api.meshinstall import FINALIZER, MeshInstall, Mode
from meshwright.cluster.apply import Proceed
from meshwright.cluster.client import Manifest
from meshwright.cluster.gather import after_writes, gather, root_bundles
from meshwright.cluster.kinds import DEPLOYMENT, MESH_INSTALL
from meshwright.cluster.together import together
from meshwright.controller.deletion import Deletion
from meshwright.controller.farewell import Farewell
from meshwright.controller.finalizers import set_finalizers
from meshwright.controller.joining import Joining, Site, guarded, let_in, verify
from meshwright.controller.members import Member, Members, sources
from meshwright.controller.report import Attempt
from meshwright.controller.reporter import Reporter
from meshwright.controller.scaling import Scaling
from meshwright.keys.trust import ensure_trust, look_at_trust
from meshwright.mesh.desired import ControlPlane, Desired, decide
from meshwright.mesh.evidence import Replies, certificate_findings, configuration_finding
from meshwright.mesh.findings import Finding
from meshwright.mesh.health import cluster_findings, own_istiod
from meshwright.mesh.membership import forgotten, is_joined, leaving, with_leaving
from meshwright.mesh.objects import Key, Live
from meshwright.mesh.observed import Absent, Cluster, Observed, listed
from meshwright.mesh.preflight import objections, preflight
from meshwright.mesh.primaries import obstacles
from meshwright.mesh.remotes import joining_findings
from meshwright.mesh.trust import Trust, other_root
from meshwright.mesh.verification import question
from meshwright.render.objects import render

RESYNC = 15.0  # seconds between looks at a mesh that is as declared
WATCH_PROGRESS = 3.0  # seconds between looks at one that is not
BLOCKED = 30.0  # seconds between looks at what somebody else must change
CONFLICTS = 4  # in a row, before they are told


@dataclass(frozen=True)
class Again:
    """When a key is to be looked at again: in `after` seconds; `failed` lets it wait longer each time.

    `error`: the look ended with one, whoever has to act now.
    """

    after: float
    failed: bool = False
    error: bool = False


class Reconciler:
    """`generation_of` tells the newest generation of a mesh that a watch saw."""

    def __init__(
        self, members: Members, reporter: Reporter, *, now: Callable[[], dt.datetime],
        generation_of: Callable[[str], int] = lambda _: 0,
    ) -> None:  # fmt: skip
        self._members = members
        self._client = members.own.client
        self._reporter = reporter
        self._now = now
        self._generation_of = generation_of
        self.meshes: dict[str, str] = {}  # by revision
        self._conflicts: Counter[str] = Counter()  # in a row, by mesh
        self._farewell = Farewell(members, now=now)
        self._joining = Joining(self._farewell)
        self._scaling = Scaling(members.own.client, instance=reporter.instance)
        self._deletion = Deletion(members, self._farewell, now=now, keep=self._attempt, proceed=self._proceed)

    def remembered(self) -> list[dict[str, Any]]:
        """What the scaling rules have measured and said in the last hours."""
        return self._scaling.remembered()

    async def reconcile(self, name: str) -> Again | None:
        """Bring mesh `name` towards what is declared. None: nothing to do until somebody changes something."""
        manifest = await self._client.get(MESH_INSTALL, name)
        if manifest is None:
            self._forget(name)
            return None
        attempt = Attempt(mesh=readable(manifest))
        try:
            if "deletionTimestamp" in manifest["metadata"]:
                if await self._deletion.advance(manifest, attempt):
                    self._forget(name)
                    return None
            else:
                await self._attempt(manifest, attempt)
        except LeaseLost:
            raise
        except Superseded:
            return Again(0.0)
        except MeshwrightError as error:
            self._conflicts[name] = self._conflicts[name] + 1 if isinstance(error, Conflict) else 0
            if not 0 < self._conflicts[name] < CONFLICTS:  # that somebody is quicker once is no news
                attempt.finding = attempt.finding or Finding(error.reason, str(error))
                await self._reporter.report(attempt)
            return _again_after(error)
        except Exception:
            attempt.finding = Finding("InternalError", "an unexpected error; the operator's log has the details")
            await self._reporter.report(attempt)
            raise
        self._conflicts.pop(name, None)
        await self._reporter.report(attempt)
        return _again_after_look(attempt)

    def _forget(self, name: str) -> None:
        self.meshes = {revision: mesh for revision, mesh in self.meshes.items() if mesh != name}
        self._conflicts.pop(name, None)
        self._members.forget(name)
        self._scaling.forget(name)
        self._reporter.forget(name)

    async def _attempt(self, manifest: Manifest, attempt: Attempt) -> None:
        mesh = MeshInstall.parse(manifest)
        members = await self._members.of(with_leaving(mesh).spec)
        observed = await gather(self._members.own.reader, manifest, now=self._now(), others=sources(members))
        attempt.mesh, attempt.clusters, attempt.absent = observed.mesh, observed.clusters, observed.absent
        attempt.journal = observed.journal
        if observed.mesh.spec.mode is Mode.PAUSED:
            attempt.finding = Finding("Paused", "spec.mode is Paused: nothing is changed until it is Apply")
            return
        attempt.checks = preflight(observed)
        desired = decide(observed)
        if desired.finding:
            attempt.finding = desired.finding
            return
        self.meshes[observed.mesh.spec.revision] = observed.mesh.name
        leavers = frozenset(each.name for each in leaving(mesh))
        await self._carry_out(observed, desired, attempt, members, leavers)

    async def _carry_out(
        self, observed: Observed, desired: Desired, attempt: Attempt, members: Mapping[str, Member | Absent],
        leavers: frozenset[str],
    ) -> None:  # fmt: skip
        plan = desired.mode is Mode.PLAN
        proceed = partial(self._proceed, observed.mesh)
        if not plan and not any(plane.resize.nowhere for plane in desired.control_planes):
            await self._hold(observed.mesh)
        sites = [
            Site(plane, cluster, member, own=member is self._members.own)
            for plane, cluster in zip(desired.control_planes, observed.clusters, strict=True)
            if isinstance(member := members[cluster.name], Member)
        ]
        attempt.hindered |= obstacles(observed) | objections(observed, attempt.checks, leavers)
        for site in [each for each in sites if each.name in leavers and not plan]:
            await guarded(self._joining.see_off(site, sites, observed, attempt, proceed), site, attempt)
        if not plan and (lost := forgotten(observed, leavers)):
            for site in sites:
                await self._farewell.disown(observed.mesh, lost, site.name, site.member, proceed=proceed)
            attempt.departed.add(lost)
        sites = [each for each in sites if each.name not in attempt.hindered and each.name not in attempt.departed]
        if not plan:
            await self._note(sites, attempt)
        # What runs in a remote cluster rests on the trust of its primary.
        own, remote = ([each for each in sites if bool(each.plane.primary) is has] for has in (False, True))
        for group in (own, remote):
            await together(*(
                guarded(self._bring_about(each, observed, attempt, proceed, plan=plan), each, attempt)
                for each in group
            ))  # fmt: skip
        if plan:
            attempt.finding = _planned(attempt)
            return
        there = [each for each in sites if each.name in attempt.outcomes]
        await together(*(guarded(let_in(each, there, observed, attempt, proceed), each, attempt)
                         for each in there))  # fmt: skip
        await together(*(self._ask(each, observed, attempt) for each in there))
        for each in there:
            await guarded(self._scale(each, observed, attempt, proceed), each, attempt)
        attempt.finding = _progress(attempt, sites)
        if attempt.finding is None and any(each.plane.probe for each in sites):
            attempt.verified = question(observed)

    async def _note(self, sites: Iterable[Site], attempt: Attempt) -> None:
        """Before anything is made in a member it is written down: whatever happens, it is to be left in order."""
        attempt.joined = {each.name for each in sites if not each.own}
        if new := sorted(name for name in attempt.joined if not is_joined(attempt.mesh, name)):
            text = f"{listed(new, of=len(new))}: the control plane is about to be made"
            attempt.finding = Finding("Progressing", text)
            await self._reporter.report(attempt)
            attempt.finding = None

    async def _bring_about(
        self, site: Site, observed: Observed, attempt: Attempt, proceed: Proceed, *, plan: bool
    ) -> None:
        """One cluster, as it is declared."""
        plane, applier = site.plane, site.member.applier
        if not plan:
            attempt.planes[site.name] = plane
        if plane.resize.nowhere and plane.resize.finding:
            attempt.hindered[site.name] = plane.resize.finding
            return
        # Before anything is written: does it render, are our places free, does nobody trust another root?
        found = await applier.survey(render(plane, trust=None), plane.owner)
        _check_replicas(found.live, plane, site.cluster)
        if plane.primary:
            trust = attempt.trusts.get(plane.primary)
            if trust is None and not plan:  # without its root, gateways would be rolled out for nothing
                text = f"cluster {site.name}: its primary {plane.primary} is not as declared: it is left as it is"
                attempt.hindered[site.name] = Finding("MemberNotReady", text)
                return
        elif trust := await self._trust(observed, site, proceed, write=not plan):
            attempt.trusts[site.name] = trust
        outcome = await applier.apply(render(plane, trust), found, plane.owner, dry_run=plan, proceed=proceed)
        if plan:  # what runs is not judged by what is only thought of
            attempt.planned[site.name] = outcome
            return
        attempt.outcomes[site.name] = outcome
        site.cluster = attempt.saw(after_writes(site.cluster, outcome.changed_to))

    async def _ask(self, site: Site, observed: Observed, attempt: Attempt) -> None:
        """What runs there says of itself."""
        remotes = frozenset(source for reader, source in attempt.remotes if reader == site.name)
        replies = await site.member.inquiry.look(
            observed.mesh.name, site.plane, site.cluster, remotes=remotes, now=observed.now
        )
        attempt.replies[site.name] = replies
        found = _look(observed, site, replies, attempt.trusts.get(site.name), remotes)
        found += await verify(site, observed, attempt)
        leaves = attempt.leaving.get(site.name)
        attempt.findings[site.name] = (*found, leaves) if leaves else found

    async def _scale(self, site: Site, observed: Observed, attempt: Attempt, proceed: Proceed) -> None:
        """Whether istiod there is to be another one, by what it says of itself."""
        if site.plane.primary:
            return  # it has none
        replies = attempt.replies[site.name]
        attempt.scaled[site.name], acted = await self._scaling.look(site, observed, replies, proceed=proceed)
        attempt.acted |= acted

    def _proceed(self, mesh: MeshInstall) -> None:
        """Asked before each write: a newer spec (or a pause, or a deletion) counts from then on."""
        if self._generation_of(mesh.name) > mesh.generation:
            raise Superseded(f"MeshInstall {mesh.name} was changed meanwhile")

    async def _trust(self, observed: Observed, site: Site, proceed: Proceed, *, write: bool) -> Trust | None:
        """The trust of a cluster, made or renewed when that is due. Raises TrustError."""
        cluster, intent = site.cluster, site.plane.trust
        stores = self._members.stores(site.member)
        standing = await look_at_trust(intent, stores, now=observed.now)
        if cluster.proxies and (standing.root_fingerprint is None or observed.mesh.status.version is None):
            # Sidecars that run before this mesh does, or after its root was lost, must not be cut off.
            bundles = await root_bundles(site.member.reader, cluster.proxy_namespaces)
            if objection := other_root(cluster.proxy_namespaces, bundles, standing.root_fingerprint):
                raise TrustError(objection)
        if not write or (standing.trust and not standing.renewal_due):
            return standing.trust
        return await ensure_trust(intent, stores, now=observed.now, proceed=proceed)

    async def _hold(self, mesh: MeshInstall) -> None:
        """Our finalizer, before anything is made that would have to be taken away."""
        if FINALIZER not in mesh.finalizers:
            await set_finalizers(self._client, mesh, [*mesh.finalizers, FINALIZER])


def readable(manifest: Manifest) -> MeshInstall:
    """The MeshInstall for reporting on it (or taking it away), even when its spec does not parse."""
    try:
        return MeshInstall.parse(manifest)
    except InvalidSpec:
        return MeshInstall.salvage(manifest)


def _check_replicas(live: Live, plane: ControlPlane, cluster: Cluster) -> None:
    """Raises Conflict when istiod was scaled after we looked: an autoscaler may have come that we did not see."""
    key = Key(DEPLOYMENT.api_version, DEPLOYMENT.kind, plane.names.namespace, plane.names.istiod)
    now = (live.get(key, {}).get("spec") or {}).get("replicas")
    istiod = own_istiod(cluster, plane.names)
    if now is not None and plane.replicas.replicas not in (None, now) and (not istiod or istiod.replicas != now):
        raise Conflict(f"{key} was scaled meanwhile")


def _again_after_look(attempt: Attempt) -> Again:
    if attempt.acted:
        return Again(0.0)
    if attempt.finding is None:
        return Again(RESYNC)
    return Again(BLOCKED if REASONS[attempt.finding.reason].stalled else WATCH_PROGRESS)


def _again_after(error: MeshwrightError) -> Again:
    match error:
        case TransientError():
            return Again(getattr(error, "retry_after", None) or 0.0, failed=True)
        case ExternalError() | FinalError():
            return Again(BLOCKED, error=True)
    return Again(0.0, failed=True)


def _planned(attempt: Attempt) -> Finding:
    outcomes = attempt.planned.values()
    created, changed, deleted = (sum(getattr(each, verb) for each in outcomes) for verb in VERBS)
    return Finding(
        "Planned", f"{created} objects would be created, {changed} changed and {deleted} deleted; see status.plan"
    )


VERBS = ("created", "changed", "deleted")


def _look(
    observed: Observed, site: Site, replies: Replies, trust: Trust | None, remotes: Iterable[str]
) -> tuple[Finding, ...]:
    """All that is not as it should be in a cluster, in the order in which it is told."""
    spec, plane, name = observed.mesh.spec, site.plane, site.name
    found = (
        configuration_finding(replies, plane.mesh_config, version=plane.version, cluster=name),
        *certificate_findings(replies, trust, spec.data_plane, now=observed.now, cluster=name),
        plane.resize.finding,
        *cluster_findings(
            site.cluster, plane.names, replicas=plane.replicas.replicas, gateways=plane.gateways,
            cni=plane.cni is not None, primary=plane.primary,
        ),
        *joining_findings(spec, site.cluster, plane, replies, remotes),
    )  # fmt: skip
    return tuple(each for each in found if each)


def _progress(attempt: Attempt, sites: Iterable[Site]) -> Finding | None:
    """Why the mesh is not ready yet; None when it is."""
    for site in sites:
        if hindrance := attempt.hindered.get(site.name):
            return hindrance
        outcome = attempt.outcomes.get(site.name)
        # What is on its way is told last: it may go by itself.
        wrong = [each for each in attempt.findings.get(site.name, ()) if REASONS[each.reason].ready == "False"]
        finding = next((each for each in wrong if each.reason != "Progressing"), wrong[0] if wrong else None)
        waiting = outcome.waiting if outcome else None
        if finding and waiting and finding.reason in ("Progressing", "WebhooksNotTrusted"):
            moving = next((each for each in wrong if each.reason == "Progressing"), finding)
            return Finding("Progressing", f"{waiting.place}: {moving.message}")
        if finding:
            return finding
        if waiting:
            return Finding("Progressing", str(waiting))
    return next(iter([*attempt.hindered.values(), *(each.why for each in attempt.absent)]), None)
