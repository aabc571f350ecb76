"""The one place that writes what people see of a mesh: its status, Events where Ready turned, its metrics."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import structlog

from meshwright.api.errors import MeshwrightError
from meshwright.api.meshinstall import Mode, parse_status
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.kinds import EVENT, MESH_INSTALL
from meshwright.controller import report
from meshwright.controller.metrics import Metrics
from meshwright.controller.report import Attempt

log = structlog.get_logger()

STATUS_MANAGER = "meshwright-status"


class Reporter:
    """`instance` names this process in Events."""

    def __init__(self, client: Client, metrics: Metrics, *, instance: str, now: Callable[[], dt.datetime]) -> None:
        self._client = client
        self._metrics = metrics
        self.instance = instance
        self._now = now

    async def report(self, attempt: Attempt) -> None:
        """One status write, if anything is different; an Event for each condition that turned.

        What is written is the status before, for the next report of the same attempt.
        """
        mesh, now = attempt.mesh, self._now()
        status = report.status_of(attempt, now=now)
        self._measure(attempt, status)
        if not report.differs(mesh, status):
            return
        head = {"apiVersion": MESH_INSTALL.api_version, "kind": MESH_INSTALL.kind}
        manifest = {**head, "metadata": {"name": mesh.name, "uid": mesh.uid}, "status": status}
        await self._client.apply(MESH_INSTALL, manifest, field_manager=STATUS_MANAGER, subresource="status")
        attempt.mesh = mesh.model_copy(update={"status": parse_status(status)})
        for turned in report.transitions(mesh, status):
            log.info(
                "mesh turned", mesh=mesh.name, condition=turned.type, status=turned.status, reason=turned.reason,
                message=turned.message,
            )  # fmt: skip
            event = report.event(mesh, turned, now=now, reporter=self.instance)
            try:
                await self._client.create(EVENT, event, field_manager=STATUS_MANAGER)
            except MeshwrightError as error:  # the status says the same, and is what counts
                log.warning("event not written", mesh=mesh.name, error=str(error))

    def forget(self, mesh: str) -> None:
        self._metrics.forget(mesh)

    def _measure(self, attempt: Attempt, status: Manifest) -> None:
        mesh, metrics = attempt.mesh, self._metrics
        for condition in status["conditions"]:
            for value in ("True", "False", "Unknown"):
                metrics.condition.labels(mesh.name, condition["type"], value).set(condition["status"] == value)
        for mode in Mode:
            metrics.mode.labels(mesh.name, mode).set(mesh.spec.mode is mode)
        for cluster in status["clusters"]:
            reconciled = cluster["objects"] - cluster["notReconciled"]
            metrics.objects.labels(mesh.name, cluster["name"], "reconciled").set(reconciled)
            metrics.objects.labels(mesh.name, cluster["name"], "disabled").set(cluster["notReconciled"])
            self._measure_cluster(mesh.name, cluster)
        for name, scaled in attempt.scaled.items():
            metrics.scaling_signal.remove_by_labels({"mesh": mesh.name, "cluster": name})
            for verdict in scaled.verdicts:
                place = (mesh.name, name, verdict.action)
                metrics.scaling_rule.labels(*place).set(verdict.state in report.FIRING)
                if verdict.value is not None:
                    metrics.scaling_signal.labels(*place).set(verdict.value)
        for name, trust in attempt.trusts.items():
            expiries = {"root": trust.root_expires, "intermediate": trust.intermediate_expires}
            for certificate, moment in expiries.items():
                metrics.certificate_expiry.labels(mesh.name, name, certificate).set(moment.timestamp())

    def _measure_cluster(self, mesh: str, cluster: Manifest) -> None:
        metrics, place = self._metrics, (mesh, cluster["name"])
        metrics.proxies.remove_by_labels({"mesh": mesh, "cluster": cluster["name"]})  # versions that are gone
        for version in cluster["proxyVersions"]:
            metrics.proxies.labels(*place, version["version"]).set(version["count"])
        for state in ("expected", "missing", "outdated"):
            metrics.pods.labels(*place, state).set(cluster["injection"][state])
        metrics.replicas.remove_by_labels({"mesh": mesh, "cluster": cluster["name"]})  # gateways that are gone
        workloads = {"istiod": cluster["controlPlane"]} | {each["name"]: each for each in cluster["gateways"]}
        for name, workload in workloads.items():
            metrics.replicas.labels(*place, name, "wanted").set(workload["replicas"])
            metrics.replicas.labels(*place, name, "ready").set(workload["readyReplicas"])
        if certificates := cluster.get("workloadCertificates"):
            moment = dt.datetime.fromisoformat(certificates["expires"])
            metrics.certificate_expiry.labels(*place, "workload").set(moment.timestamp())
