"""gather: everything that is read, once, into the snapshot that decisions rest on."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol

from meshwright.api.meshinstall import ANNOTATION_REPLICAS, LABEL_MESH, MeshInstall, MeshSpec
from meshwright.cluster.client import Manifest
from meshwright.cluster.installers import installers
from meshwright.cluster.kinds import (
    AUTOSCALER,
    CONFIG_MAP,
    DEPLOYMENT,
    LIVING_POD,
    MESH_INSTALL,
    MUTATING_WEBHOOK,
    NAMESPACE,
    POD,
    Kind,
)
from meshwright.cluster.together import together
from meshwright.mesh.leftovers import ROOT_CERTIFICATE, ROOT_CERTIFICATE_KEY
from meshwright.mesh.names import Names
from meshwright.mesh.objects import annotations_of, labels_of, selector_of
from meshwright.mesh.observed import Cluster, Injector, Istiod, Neighbour, Observed, Trouble

REVISION = "istio.io/rev"
TAG = "istio.io/tag"
# Every pod with a sidecar of ours carries it: without it other proxies would send it plaintext.
SIDECAR = "security.istio.io/tlsMode=istio"
USUAL_START = 20.0  # seconds after which an istiod that runs should be ready
WAITING_IS_FINE = ("ContainerCreating", "PodInitializing")
NAMED_PROXIES = 10


class Reader(Protocol):
    """What is read of one API server: by requests (`Client`), or from memory where informers have it (`Mirror`)."""

    async def get(
        self, kind: Kind, name: str, namespace: str = "", *, metadata_only: bool = False
    ) -> Manifest | None: ...

    async def list(
        self, kind: Kind, namespace: str = "", *, labels: str = "", metadata_only: bool = False
    ) -> list[Manifest]: ...

    async def version(self) -> str: ...


async def gather(reader: Reader, manifest: Manifest, *, now: dt.datetime) -> Observed:
    """The snapshot for a MeshInstall's manifest. Raises InvalidSpec when that does not parse."""
    mesh = MeshInstall.parse(manifest)
    neighbours, cluster = await together(
        reader.list(MESH_INSTALL), gather_cluster(reader, mesh.spec, name=mesh.spec.cluster_name, now=now)
    )
    return Observed(
        now=now,
        mesh=mesh,
        created=manifest["metadata"].get("creationTimestamp", ""),
        neighbours=tuple(_neighbour(each) for each in neighbours if each["metadata"]["name"] != mesh.name),
        clusters=(cluster,),
    )


async def gather_cluster(reader: Reader, spec: MeshSpec, *, name: str, now: dt.datetime) -> Cluster:
    names = Names(spec.namespace, spec.revision)
    version, namespace, istiods, injectors, pods, autoscalers, sidecars = await together(
        reader.version(),
        reader.get(NAMESPACE, spec.namespace, metadata_only=True),
        reader.list(DEPLOYMENT, labels="app=istiod"),
        reader.list(MUTATING_WEBHOOK, labels="app=sidecar-injector"),
        reader.list(POD, spec.namespace, labels=selector_of(names.selector)),
        reader.list(AUTOSCALER, spec.namespace),
        reader.list(LIVING_POD, labels=SIDECAR, metadata_only=True),
    )
    proxies = [pod["metadata"] for pod in sidecars if _is_proxy(pod, spec.revision)]
    return Cluster(
        name=name,
        kubernetes=version,
        namespace_terminating=namespace is not None and "deletionTimestamp" in namespace["metadata"],
        istiods=tuple(_istiod(each) for each in istiods),
        injectors=tuple(_injector(each) for each in injectors),
        troubles=tuple(trouble for pod in pods for trouble in _troubles(pod, now)),
        autoscaled=any(_scales(each, names.istiod) for each in autoscalers),
        proxies=len(proxies),
        proxy_namespaces=dict(Counter(each["namespace"] for each in proxies)),
        some_proxies=tuple(sorted(f"{each['namespace']}/{each['name']}" for each in proxies)[:NAMED_PROXIES]),
    )


async def root_bundles(reader: Reader, namespaces: Iterable[str]) -> dict[str, str]:
    """The root certificates that istiod published, by namespace."""
    namespaces = list(namespaces)
    found = await together(*(reader.get(CONFIG_MAP, ROOT_CERTIFICATE, namespace) for namespace in namespaces))
    pairs = zip(namespaces, found, strict=True)
    return {namespace: (each.get("data") or {}).get(ROOT_CERTIFICATE_KEY, "") for namespace, each in pairs if each}


def _scales(autoscaler: Manifest, deployment: str) -> bool:
    target = autoscaler["spec"]["scaleTargetRef"]
    return bool(target["kind"] == DEPLOYMENT.kind and target["name"] == deployment)


def _neighbour(manifest: Manifest) -> Neighbour:
    spec = manifest.get("spec") or {}
    metadata = manifest["metadata"]
    return Neighbour(
        name=metadata["name"],
        revision=spec.get("revision", "default"),
        installed=bool((manifest.get("status") or {}).get("version")),
        created=metadata.get("creationTimestamp", ""),
    )


def _istiod(manifest: Manifest) -> Istiod:
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    return Istiod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        revision=labels_of(manifest).get(REVISION) or "default",
        owner=labels_of(manifest).get(LABEL_MESH),
        managers=installers(manifest),
        generation=metadata.get("generation", 0),
        observed_generation=status.get("observedGeneration", 0),
        replicas=manifest["spec"].get("replicas", 1),
        existing=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
        failure=next(
            (each.get("message", "") for each in status.get("conditions") or () if each["type"] == "ReplicaFailure"), ""
        ),
        replicas_annotation=annotations_of(manifest).get(ANNOTATION_REPLICAS),
    )


def _injector(manifest: Manifest) -> Injector:
    webhooks: list[dict[str, Any]] = manifest.get("webhooks") or []
    return Injector(
        name=manifest["metadata"]["name"],
        revision=labels_of(manifest).get(REVISION) or "default",
        tag=labels_of(manifest).get(TAG),
        owner=labels_of(manifest).get(LABEL_MESH),
        managers=installers(manifest),
        trusted=bool(webhooks) and all(each["clientConfig"].get("caBundle") for each in webhooks),
    )


def _troubles(pod: Manifest, now: dt.datetime) -> list[Trouble]:
    """What a pod of istiod suffers from, in the newest words of kubelet or scheduler."""
    if "deletionTimestamp" in pod["metadata"]:
        return []
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return [Trouble(name, "", condition.get("reason", "Unschedulable"), condition.get("message", ""))]
    containers = status.get("containerStatuses") or ()
    return [trouble for container in containers if (trouble := _trouble(name, container, now))]


def _trouble(pod: str, container: Manifest, now: dt.datetime) -> Trouble | None:
    state = container.get("state") or {}
    if waiting := state.get("waiting"):
        if waiting.get("reason") in WAITING_IS_FINE:
            return None
        ended = (container.get("lastState") or {}).get("terminated") or {}
        message = ", ".join(filter(None, [waiting.get("message", ""), _last_words(ended)]))
        return Trouble(pod, container["name"], waiting.get("reason", "Waiting"), message)
    if ended := state.get("terminated"):
        return Trouble(pod, container["name"], ended.get("reason", "Terminated"), _last_words(ended))
    running = state.get("running") or {}
    if not container.get("ready") and "startedAt" in running:
        seconds = (now - dt.datetime.fromisoformat(running["startedAt"])).total_seconds()
        if seconds > USUAL_START:
            return Trouble(pod, container["name"], "NotReady", "it runs, but its readiness probe fails: see its log")
    return None


def _last_words(ended: Manifest) -> str:
    """How a container ended: its exit code, the reason (OOMKilled, Error), the end of what it said."""
    if not ended:
        return ""
    reason = f" ({ended['reason']})" if ended.get("reason") else ""
    said = (ended.get("message") or "").strip().splitlines()[-1:]
    return ", ".join([f"last exit code {ended.get('exitCode', '?')}{reason}", *said])


def _is_proxy(pod: Manifest, revision: str) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and annotations_of(pod).get(REVISION) == revision
