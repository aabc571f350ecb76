"""What happens to a mesh whose MeshInstall is being deleted.

As long as sidecars rest on it, it is kept as declared, and says whom it waits for. Then it is taken away, and the
finalizer last: until that is gone, everything can be done again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from itertools import combinations

import structlog

from meshwright.api.conditions import REASONS
from meshwright.api.errors import LeaseLost, MeshwrightError, Superseded
from meshwright.api.meshinstall import ANNOTATION_FORCE_DELETE, FINALIZER, DeletionPolicy, MeshInstall, Mode
from meshwright.cluster.client import Manifest
from meshwright.cluster.gather import NAMED_PROXIES, gather_cluster
from meshwright.cluster.together import together
from meshwright.controller.farewell import Farewell
from meshwright.controller.finalizers import set_finalizers
from meshwright.controller.members import Member, Members
from meshwright.controller.report import Attempt
from meshwright.keys.trust import remove_intermediate, remove_root
from meshwright.mesh.desired import trust_intent
from meshwright.mesh.findings import Finding
from meshwright.mesh.membership import is_joined, with_leaving
from meshwright.mesh.objects import annotations_of
from meshwright.mesh.observed import Absent, Cluster, listed, pods

log = structlog.get_logger()

Keep = Callable[[Manifest, Attempt], Awaitable[None]]
Proceed = Callable[[MeshInstall], None]


class Deletion:
    """`keep` brings a mesh to what is declared, as ever; `proceed`, asked before each delete, raises Superseded."""

    def __init__(
        self, members: Members, farewell: Farewell, *, now: Callable[[], dt.datetime], keep: Keep, proceed: Proceed
    ) -> None:
        self._members = members
        self._farewell = farewell
        self._now = now
        self._keep = keep
        self._proceed = proceed

    async def advance(self, manifest: Manifest, attempt: Attempt) -> bool:
        """One look at a mesh that is to go. True when nothing of it is left to do; else attempt.finding says what."""
        if FINALIZER not in attempt.mesh.finalizers:
            return True
        try:
            return await self._look(manifest, attempt)
        except MeshwrightError as error:
            attempt.finding = Finding("Deleting", f"what the mesh made is still to be removed: {error}")
            raise

    async def _look(self, manifest: Manifest, attempt: Attempt) -> bool:
        mesh = attempt.mesh
        if mesh.spec.mode is not Mode.APPLY:
            text = f"spec.mode is {mesh.spec.mode}: nothing is removed until it is Apply"
            attempt.finding = Finding("Deleting", text)
            return False
        mesh = with_leaving(mesh)
        members = await self._members.of(mesh.spec)
        attempt.absent = tuple(each for each in members.values() if isinstance(each, Absent))
        there = {name: each for name, each in members.items() if isinstance(each, Member)}
        forced = _is_forced(manifest)
        # Informers may say that there are sidecars; that there are none is believed of the API servers alone, as is all
        # that follows: what an informer does not know yet would be left for ever.
        for fresh in (False, True):
            looks = [
                gather_cluster(each.client if fresh else each.reader, mesh, name=name, now=self._now())
                for name, each in there.items()
            ]
            clusters: list[Cluster] = await together(*looks)
            attempt.clusters = tuple(clusters)
            held = [each for each in attempt.absent if is_joined(mesh, each.name)]
            if not forced and (waits := waits_for(clusters, held)):
                attempt.finding = Finding("Deleting", await self._wait(manifest, attempt, waits))
                return False
        return await self._take_away(mesh, there, clusters, attempt)

    async def _wait(self, manifest: Manifest, attempt: Attempt, waits: str) -> str:
        """Keeps the mesh as declared. Whom the deletion waits for."""
        try:
            await self._keep(manifest, attempt)
        except (LeaseLost, Superseded):
            raise
        except MeshwrightError as error:
            return f"{waits}; until then it cannot be kept as declared: {error}"
        if attempt.finding and REASONS[attempt.finding.reason].stalled:
            return f"{waits}; until then it cannot be kept as declared: {attempt.finding.message}"
        return waits

    async def _take_away(
        self, mesh: MeshInstall, members: Mapping[str, Member], clusters: Iterable[Cluster], attempt: Attempt
    ) -> bool:
        proceed = partial(self._proceed, mesh)
        for one, other in combinations(members.items(), 2):
            await self._farewell.part(mesh, one, other, proceed=proceed)
        steps = await together(
            *(self._farewell.remove(mesh, each, members[each.name], proceed=proceed) for each in clusters)
        )
        if step := next((each for each in steps if each), None):
            attempt.finding = Finding("Deleting", str(step))
            return False
        if mesh.spec.trust.deletion_policy is DeletionPolicy.DELETE:
            for name, member in members.items():
                proceed()
                await remove_intermediate(trust_intent(mesh, name), self._members.stores(member))
            proceed()
            await remove_root(trust_intent(mesh, mesh.spec.cluster_name), self._members.stores(self._members.own))
        await set_finalizers(self._members.own.client, mesh, [each for each in mesh.finalizers if each != FINALIZER])
        log.info("mesh removed", mesh=mesh.name)
        return True


def waits_for(clusters: Iterable[Cluster], absent: Iterable[Absent] = ()) -> str:
    """Why a mesh cannot be taken away yet; empty when it can."""
    clusters = [each for each in clusters if each.proxies]
    if count := sum(each.proxies for each in clusters):
        names = listed([name for each in clusters for name in each.some_proxies][:NAMED_PROXIES], of=count)
        return (
            f"waiting for {pods(count)} with a sidecar of this mesh to go: {names}; take the injection label from"
            " their namespaces and restart them, or let the mesh go all the same by the annotation"
            f" {ANNOTATION_FORCE_DELETE}=true"
        )
    if away := next(iter(absent), None):
        return (
            f"{away.why.message}; what the mesh made there can be removed only when it answers: wait, or leave it there"
            f" by the annotation {ANNOTATION_FORCE_DELETE}=true"
        )
    return ""


def _is_forced(manifest: Manifest) -> bool:
    return annotations_of(manifest).get(ANNOTATION_FORCE_DELETE) == "true"
