"""A cluster in memory with one MeshInstall, the reconciler that looks after it, and istiod as far as it is seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from lone import alone
from meshes import NOW, manifest
from meshwright.api.meshinstall import FINALIZER, LABEL_MESH
from meshwright.controller.metrics import Metrics
from meshwright.controller.reconcile import Again, Reconciler
from meshwright.controller.reporter import STATUS_MANAGER, Reporter
from meshwright.mesh.objects import Key, Manifest
from object_store import ObjectStore, Request, Snapshot

Json = dict[str, Any]

MESH = Key.of(manifest())
OPERATOR_NAMESPACE = "meshwright-system"


INSTALLED: dict[str, Snapshot] = {}  # by spec, all but for the last reconcile


class World:
    def __init__(self, store: ObjectStore | None = None, **spec: Any) -> None:
        self.store = store or ObjectStore()
        self.store.put({**manifest(**spec), "metadata": {"name": "demo", "generation": 1}, "status": {}})
        self.metrics = Metrics(version="0")
        self.newest_generation = 0  # that a watch has seen
        self.restart()

    def restart(self) -> None:
        """Another process, which knows nothing."""
        reporter = Reporter(self.store, self.metrics, instance="me", now=lambda: NOW)
        self.reconciler = Reconciler(
            alone(self.store), reporter, now=lambda: NOW,
            generation_of=lambda _: self.newest_generation,
        )  # fmt: skip

    def reconcile(self) -> Again | None:
        return asyncio.run(self.reconciler.reconcile("demo"))

    def install(self) -> None:
        """To the end, and everybody has forgotten how. A world that was empty is installed once for all tests."""
        spec = json.dumps(self.store.objects[MESH]["spec"], sort_keys=True)
        if self.store.names() == ["demo"] and spec in INSTALLED:
            self.store.load(INSTALLED[spec])
        else:
            empty = self.store.names() == ["demo"]
            self.reconcile()
            self.istiod_starts()
            self.reconcile()
            self.istiod_writes_its_ca()
            if empty:
                INSTALLED[spec] = self.store.snapshot()
        self.reconcile()
        assert self.ready["reason"] == "Installed", self.ready
        self.store.requests.clear()

    # What people do

    def declare(self, **spec: Any) -> None:
        generation = self.store.objects[MESH]["metadata"]["generation"] + 1
        self.store.edit(MESH, {"metadata": {"generation": generation}, "spec": spec})

    def delete(
        self, annotations: Mapping[str, str] | None = None, *, finalizers: tuple[str, ...] = (FINALIZER,)
    ) -> None:
        deleted = {"deletionTimestamp": "2026-03-01T12:00:00Z", "finalizers": list(finalizers)}
        self.store.edit(MESH, {"metadata": {**deleted, "annotations": dict(annotations or {})}})

    def run_pod(self, name: str, namespace: str = "apps", revision: str = "default") -> Key:
        """One with a sidecar."""
        metadata = {
            "namespace": namespace, "name": name, "labels": {"security.istio.io/tlsMode": "istio"},
            "annotations": {"istio.io/rev": revision},
        }  # fmt: skip
        return Key.of(self.store.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}))

    # What controllers do

    def istiod_starts(self) -> None:
        """Its Deployment has as many pods as it asks for, and Istio's kinds are served."""
        for key, each in list(self.store.objects.items()):
            if key.kind == "Deployment":
                count = each["spec"]["replicas"]
                status = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), count)
                self.store.put({**each, "status": status}, manager="kube-controller-manager")
            if key.kind == "CustomResourceDefinition":
                established = {"conditions": [{"type": "Established", "status": "True"}]}
                self.store.put({**each, "status": established}, manager="kube-apiserver")

    def istiod_writes_its_ca(self) -> None:
        webhook = self.store.one("MutatingWebhookConfiguration")
        for each in webhook["webhooks"]:
            each["clientConfig"]["caBundle"] = "CA"
        self.store.put(webhook, manager="pilot-discovery")

    # What is seen

    @property
    def status(self) -> Json:
        found: Json = self.store.objects[MESH]["status"]
        return found

    @property
    def ready(self) -> Json:
        (found,) = (each for each in self.status["conditions"] if each["type"] == "Ready")
        ready: Json = found
        return ready

    @property
    def changes(self) -> list[Request]:
        """Writes of anything but what is told: the status and Events."""
        return [each for each in self.store.writes if each.manager != STATUS_MANAGER]

    def owned(self) -> dict[Key, Manifest]:
        """What carries the mesh's label, but for Secrets."""
        return {
            key: each
            for key, each in self.store.objects.items()
            if key.kind != "Secret" and (each["metadata"].get("labels") or {}).get(LABEL_MESH) == "demo"
        }
