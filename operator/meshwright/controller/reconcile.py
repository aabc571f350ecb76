"""The sentence: gather → decide → ensure trust → render → apply → report.

Level-triggered: it is told only that a MeshInstall may be wrong, reads everything anew, and may be stopped at any
point and run again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from meshwright.api.conditions import REASONS
from meshwright.api.errors import ExternalError, FinalError, MeshwrightError, TransientError
from meshwright.api.meshinstall import FINALIZER, MeshInstall, MeshSpec, Mode, parse_status
from meshwright.cluster.apply import Applier
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.gather import gather
from meshwright.cluster.kinds import EVENT, MESH_INSTALL
from meshwright.cluster.remove import remove
from meshwright.controller import report
from meshwright.controller.metrics import Metrics
from meshwright.controller.report import Attempt
from meshwright.keys.store import KubernetesSecrets
from meshwright.keys.trust import ensure_trust
from meshwright.mesh.checks import Finding
from meshwright.mesh.desired import Desired, decide
from meshwright.mesh.health import control_plane_finding
from meshwright.mesh.observed import Observed
from meshwright.render.objects import render

log = structlog.get_logger()

STATUS_MANAGER = "meshwright-status"
RESYNC = 15.0  # seconds between looks at a mesh that is as declared
WATCH_PROGRESS = 3.0  # seconds between looks at one that is not: pods are not watched
BLOCKED = 30.0  # seconds between looks at what somebody else must change


@dataclass(frozen=True)
class Again:
    """When a key is to be looked at again: in `after` seconds; `failed` lets it wait longer each time.

    `error`: the look ended with one, whoever has to act now.
    """

    after: float
    failed: bool = False
    error: bool = False


class Reconciler:
    def __init__(
        self, client: Client, metrics: Metrics, *, namespace: str, instance: str, now: Callable[[], dt.datetime]
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._namespace = namespace  # the operator's own, where root keys are kept
        self._instance = instance
        self._now = now
        self._secrets = KubernetesSecrets(client)
        self._applier = Applier(client)

    async def reconcile(self, name: str) -> Again | None:
        """Bring mesh `name` towards what is declared. None: nothing to do until somebody changes something."""
        manifest = await self._client.get(MESH_INSTALL, name)
        if manifest is None:
            self._metrics.forget(name)
            return None
        if "deletionTimestamp" in manifest["metadata"]:
            return await self._delete(manifest)
        attempt = Attempt(mesh=_readable(manifest))
        try:
            await self._attempt(manifest, attempt)
        except MeshwrightError as error:
            attempt.finding = Finding(error.reason, str(error))
            await self._report(attempt)
            return _again_after(error)
        except Exception:
            attempt.finding = Finding("InternalError", "an unexpected error; the operator's log has the details")
            await self._report(attempt)
            raise
        await self._report(attempt)
        if attempt.finding is None:
            return Again(RESYNC)
        return Again(BLOCKED if REASONS[attempt.finding.reason].stalled else WATCH_PROGRESS)

    async def _attempt(self, manifest: Manifest, attempt: Attempt) -> None:
        observed = await gather(self._client, manifest, now=self._now())
        attempt.mesh, attempt.clusters = observed.mesh, observed.clusters
        if observed.mesh.spec.mode is Mode.PAUSED:
            attempt.finding = Finding("Paused", "spec.mode is Paused: nothing is changed until it is Apply")
            return
        desired = decide(observed)
        if desired.finding:
            attempt.finding = desired.finding
            return
        await self._carry_out(observed, desired, attempt, plan=desired.mode is Mode.PLAN)

    async def _carry_out(self, observed: Observed, desired: Desired, attempt: Attempt, *, plan: bool) -> None:
        if not plan:
            await self._hold(observed.mesh)
        for plane in desired.control_planes:
            # Before anything is written: does it render, and are our places free?
            live = await self._applier.survey(render(plane, trust=None), mesh=desired.mesh)
            trust = await ensure_trust(
                plane.trust, self._secrets, operator_namespace=self._namespace, now=observed.now, write=not plan
            )
            if trust:
                attempt.trusts[plane.cluster] = trust
            waves = render(plane, trust)
            attempt.outcomes[plane.cluster] = await self._applier.apply(waves, live, mesh=desired.mesh, dry_run=plan)
        attempt.finding = _planned(attempt) if plan else _progress(observed, desired, attempt)

    async def _hold(self, mesh: MeshInstall) -> None:
        """Our finalizer, before anything is made that would have to be taken away."""
        if FINALIZER in mesh.finalizers:
            return
        # The resourceVersion makes this fail when somebody else's finalizer came or went since we read.
        finalizers = [*mesh.finalizers, FINALIZER]
        patch = {"metadata": {"resourceVersion": mesh.resource_version, "finalizers": finalizers}}
        await self._client.merge(MESH_INSTALL, mesh.name, patch)

    async def _delete(self, manifest: Manifest) -> Again | None:
        name, finalizers = manifest["metadata"]["name"], manifest["metadata"].get("finalizers") or []
        if FINALIZER not in finalizers:
            return None
        try:
            await remove(self._client, mesh=name)
        except MeshwrightError as error:
            log.warning("mesh cannot be removed yet", mesh=name, error=str(error))
            finding = Finding("Deleting", f"what the mesh made is still to be removed: {error}")
            await self._report(Attempt(mesh=_readable(manifest), finding=finding))
            return _again_after(error)
        patch = {
            "metadata": {
                "resourceVersion": manifest["metadata"]["resourceVersion"],
                "finalizers": [each for each in finalizers if each != FINALIZER],
            }
        }
        await self._client.merge(MESH_INSTALL, name, patch)
        self._applier.forget(name)
        log.info("mesh removed", mesh=name)
        return None

    async def _report(self, attempt: Attempt) -> None:
        """One status write, if anything is different; an Event, if Ready turned."""
        mesh, now = attempt.mesh, self._now()
        status = report.status_of(attempt, now=now)
        self._measure(attempt, status)
        if not report.differs(mesh, status):
            return
        head = {"apiVersion": MESH_INSTALL.api_version, "kind": MESH_INSTALL.kind}
        manifest = {**head, "metadata": {"name": mesh.name, "uid": mesh.uid}, "status": status}
        await self._client.apply(MESH_INSTALL, manifest, field_manager=STATUS_MANAGER, subresource="status")
        if turned := report.transition(mesh, status):
            log.info("mesh turned", mesh=mesh.name, ready=turned.status, reason=turned.reason, message=turned.message)
            event = report.event(mesh, turned, now=now, reporter=self._instance)
            try:
                await self._client.create(EVENT, event, field_manager=STATUS_MANAGER)
            except MeshwrightError as error:  # the status says the same, and is what counts
                log.warning("event not written", mesh=mesh.name, error=str(error))

    def _measure(self, attempt: Attempt, status: Manifest) -> None:
        for condition in status["conditions"]:
            for value in ("True", "False", "Unknown"):
                gauge = self._metrics.condition.labels(attempt.mesh.name, condition["type"], value)
                gauge.set(condition["status"] == value)
        for cluster, trust in attempt.trusts.items():
            expiries = {"root": trust.root_expires, "intermediate": trust.intermediate_expires}
            for certificate, moment in expiries.items():
                gauge = self._metrics.certificate_expiry.labels(attempt.mesh.name, cluster, certificate)
                gauge.set(moment.timestamp())


def _readable(manifest: Manifest) -> MeshInstall:
    """The MeshInstall for reporting on it, even when its spec does not parse."""
    try:
        return MeshInstall.parse(manifest)
    except FinalError:
        metadata = manifest["metadata"]
        return MeshInstall(
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            spec=MeshSpec(version="0.0.0"),
            status=parse_status(manifest.get("status") or {}),  # what runs is still known
        )


def _again_after(error: MeshwrightError) -> Again:
    match error:
        case TransientError():
            return Again(getattr(error, "retry_after", None) or 0.0, failed=True)
        case ExternalError() | FinalError():
            return Again(BLOCKED, error=True)
    return Again(0.0, failed=True)


def _planned(attempt: Attempt) -> Finding:
    created = sum(each.created for each in attempt.outcomes.values())
    changed = sum(each.changed for each in attempt.outcomes.values())
    return Finding("Planned", f"{created} objects would be created and {changed} changed; see status.plan")


def _progress(observed: Observed, desired: Desired, attempt: Attempt) -> Finding | None:
    """Why the mesh is not ready yet; None when it is."""
    for plane, cluster in zip(desired.control_planes, observed.clusters, strict=True):
        finding = control_plane_finding(cluster, plane.names, plane.sizing.replicas)
        waiting = attempt.outcomes[plane.cluster].waiting
        if finding:
            return finding
        if waiting:
            return Finding("Progressing", f"waiting for {waiting}")
    return None
