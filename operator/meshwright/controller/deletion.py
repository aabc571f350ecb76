"""What happens to a mesh whose MeshInstall is being deleted.

As long as sidecars rest on it, it is kept as declared, and says whom it waits for. Then it is taken away, and the
finalizer last: until that is gone, everything can be done again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from meshwright.api.conditions import REASONS
from meshwright.api.errors import LeaseLost, MeshwrightError, Superseded, TrustError
from meshwright.api.meshinstall import ANNOTATION_FORCE_DELETE, FINALIZER, DeletionPolicy, MeshInstall, Mode
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.gather import Reader, gather_cluster
from meshwright.cluster.remove import remove
from meshwright.controller.finalizers import set_finalizers
from meshwright.controller.report import Attempt
from meshwright.keys.trust import SecretStore, look_at_trust, remove_trust
from meshwright.mesh.desired import owner_of, trust_intent
from meshwright.mesh.findings import Finding
from meshwright.mesh.names import Names
from meshwright.mesh.objects import annotations_of
from meshwright.mesh.observed import Cluster, listed, pods

log = structlog.get_logger()

Keep = Callable[[Manifest, Attempt], Awaitable[None]]
Proceed = Callable[[MeshInstall], None]


class Deletion:
    """`keep` brings a mesh to what is declared, as ever; `proceed`, asked before each delete, raises Superseded."""

    def __init__(
        self, client: Client, reader: Reader, secrets: SecretStore, *, namespace: str, now: Callable[[], dt.datetime],
        keep: Keep, proceed: Proceed,
    ) -> None:  # fmt: skip
        self._client = client
        self._reader = reader
        self._secrets = secrets
        self._namespace = namespace
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
        # Informers may say that there are sidecars; that there are none is believed of the API server alone, as is all
        # that follows: what an informer does not know yet would be left for ever.
        for reader in (self._reader, self._client):
            cluster = await gather_cluster(reader, mesh, name=mesh.spec.cluster_name, now=self._now())
            attempt.clusters = (cluster,)
            if cluster.proxies and not _is_forced(manifest):
                attempt.finding = Finding("Deleting", await self._wait(manifest, attempt, cluster))
                return False
        return await self._take_away(mesh, cluster, attempt)

    async def _wait(self, manifest: Manifest, attempt: Attempt, cluster: Cluster) -> str:
        """Keeps the mesh as declared. Whom the deletion waits for."""
        waits = waits_for(cluster)
        try:
            await self._keep(manifest, attempt)
        except (LeaseLost, Superseded):
            raise
        except MeshwrightError as error:
            return f"{waits}; until then it cannot be kept as declared: {error}"
        if attempt.finding and REASONS[attempt.finding.reason].stalled:
            return f"{waits}; until then it cannot be kept as declared: {attempt.finding.message}"
        return waits

    async def _take_away(self, mesh: MeshInstall, cluster: Cluster, attempt: Attempt) -> bool:
        proceed = partial(self._proceed, mesh)
        step = await remove(
            self._client,
            owner_of(mesh),
            Names(mesh.spec.namespace, mesh.spec.revision),
            istiods=cluster.istiods,
            root=await self._root(mesh),
            proceed=proceed,
        )
        if step:
            attempt.finding = Finding("Deleting", str(step))
            return False
        if mesh.spec.trust.deletion_policy is DeletionPolicy.DELETE:
            intent = trust_intent(mesh, mesh.spec.cluster_name)
            proceed()
            await remove_trust(intent, self._secrets, operator_namespace=self._namespace)
        await set_finalizers(self._client, mesh, [each for each in mesh.finalizers if each != FINALIZER])
        log.info("mesh removed", mesh=mesh.name)
        return True

    async def _root(self, mesh: MeshInstall) -> str | None:
        """The fingerprint of the mesh's root; of one that is lost, or cannot be used, what the status knows of it."""
        known = next((each.trust.root_fingerprint for each in mesh.status.clusters), None)
        intent = trust_intent(mesh, mesh.spec.cluster_name)
        try:
            standing = await look_at_trust(intent, self._secrets, operator_namespace=self._namespace, now=self._now())
        except TrustError:
            return known
        return standing.root_fingerprint or known


def waits_for(cluster: Cluster) -> str:
    names = listed(cluster.some_proxies, of=cluster.proxies)
    return (
        f"waiting for {pods(cluster.proxies)} with a sidecar of this mesh to go: {names}; take the injection label from"
        " their namespaces and restart them, or let the mesh go all the same by the annotation"
        f" {ANNOTATION_FORCE_DELETE}=true"
    )


def _is_forced(manifest: Manifest) -> bool:
    return annotations_of(manifest).get(ANNOTATION_FORCE_DELETE) == "true"
