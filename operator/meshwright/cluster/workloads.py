"""What runs, and how it does: Deployments, their pods, the addresses of Services, nodes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from meshwright.api.meshinstall import (
    ANNOTATION_REPLICAS,
    ANNOTATION_SIZE,
    ANNOTATION_VERIFIES,
    GROUP,
    LABEL_MESH,
    ResourceList,
    Resources,
    Size,
)
from meshwright.cluster.client import Manifest
from meshwright.cluster.installers import installers
from meshwright.cluster.kinds import DEPLOYMENT
from meshwright.mesh import quantity
from meshwright.mesh.enrolment import REVISION
from meshwright.mesh.objects import Key, annotations_of, labels_of
from meshwright.mesh.observed import Agents, GatewayPods, Istiod, Node, ProbePod, Trouble, Workload
from meshwright.mesh.sizing import ROWS

INJECTED = f"{GROUP}/injected"
USUAL_START = 20.0  # seconds after which what runs should be ready
WAITING_IS_FINE = ("ContainerCreating", "PodInitializing")


W = TypeVar("W", bound=Workload)


def istiod(manifest: Manifest) -> Istiod:
    size = annotations_of(manifest).get(ANNOTATION_SIZE)
    return Istiod(
        **_workload(manifest),
        revision=labels_of(manifest).get(REVISION) or "default",
        managers=installers(manifest),
        replicas_annotation=annotations_of(manifest).get(ANNOTATION_REPLICAS),
        size=Size(size) if size in tuple(ROWS) else None,
        resources=_resources(_pod_spec(manifest)),
        image=_first_container(_pod_spec(manifest)).get("image", ""),
    )


def gateway(manifest: Manifest, service: Manifest | None, pods: list[Manifest], now: dt.datetime) -> GatewayPods:
    return GatewayPods(
        **_workload(manifest),
        injected=((manifest["spec"].get("template") or {}).get("metadata", {}).get("annotations") or {}).get(INJECTED),
        addresses=addresses(service),
        troubles=tuple(trouble for pod in pods for trouble in troubles(pod, now)),
    )


def agents(manifest: Manifest, pods: list[Manifest], now: dt.datetime) -> Agents:
    status = manifest.get("status") or {}
    return Agents(
        wanted=status.get("desiredNumberScheduled", 0),
        updated=status.get("updatedNumberScheduled", 0),
        ready=status.get("numberReady", 0),
        current=status.get("observedGeneration", 0) >= manifest["metadata"].get("generation", 0),
        troubles=tuple(trouble for pod in pods for trouble in troubles(pod, now)),
    )


def rewritten(workloads: Iterable[W], changed_to: Mapping[Key, Manifest]) -> tuple[W, ...]:
    """The Deployments as they are after a write: their rollout has only begun."""

    def now(workload: W) -> W:
        key = Key(DEPLOYMENT.api_version, DEPLOYMENT.kind, workload.namespace, workload.name)
        return replace(workload, **_workload(changed_to[key])) if key in changed_to else workload

    return tuple(now(each) for each in workloads)


def _workload(manifest: Manifest) -> dict[str, Any]:
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "owner": labels_of(manifest).get(LABEL_MESH),
        "generation": metadata.get("generation", 0),
        "observed_generation": status.get("observedGeneration", 0),
        "replicas": manifest["spec"].get("replicas", 1),
        "existing": status.get("replicas", 0),
        "updated": status.get("updatedReplicas", 0),
        "available": status.get("availableReplicas", 0),
        "failure": next(
            (each.get("message", "") for each in status.get("conditions") or () if each["type"] == "ReplicaFailure"), ""
        ),
    }


def _pod_spec(workload: Manifest) -> Manifest:
    return (workload["spec"].get("template") or {}).get("spec") or {}


def _first_container(pod_spec: Manifest) -> Manifest:
    """In a pod of istiod, istiod; in a gateway, the proxy."""
    return next(iter(pod_spec.get("containers") or ()), {})


def _resources(pod_spec: Manifest) -> Resources | None:
    found = _first_container(pod_spec).get("resources") or {}
    if not found:
        return None
    return Resources(**{
        kind: ResourceList(**{name: found.get(kind, {}).get(name) for name in ResourceList.model_fields})
        for kind in Resources.model_fields
    })  # fmt: skip


def addresses(service: Manifest | None) -> tuple[str, ...]:
    """Where it is reached from outside: external addresses, and what a load balancer gave it (IPs or host names)."""
    external = ((service or {}).get("spec") or {}).get("externalIPs") or ()
    ingress = (((service or {}).get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    given = (address for each in ingress if (address := each.get("ip") or each.get("hostname")))
    return (*external, *given)


def node(manifest: Manifest) -> Node | None:
    """What it has for pods; None for one that takes none."""
    if manifest["spec"].get("unschedulable"):
        return None
    allocatable = manifest["status"].get("allocatable") or {}
    try:
        return Node(
            manifest["metadata"]["name"],
            cpu=quantity.parse(allocatable["cpu"]),
            memory=quantity.parse(allocatable["memory"]),
        )
    except (KeyError, ValueError):  # one that has just joined has said nothing yet
        return None


def is_ready(pod: Manifest) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def probe(pod: Manifest, now: dt.datetime) -> ProbePod:
    found = troubles(pod, now)
    return ProbePod(
        name=pod["metadata"]["name"],
        verifies=annotations_of(pod).get(ANNOTATION_VERIFIES, ""),
        ready=is_ready(pod),
        trouble=": ".join(filter(None, (found[0].reason, found[0].message))) if found else "",
    )


def troubles(pod: Manifest, now: dt.datetime) -> list[Trouble]:
    """What a pod suffers from, in the newest words of kubelet or scheduler."""
    if "deletionTimestamp" in pod["metadata"]:
        return []
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason, message = condition.get("reason", "Unschedulable"), condition.get("message", "")
            since, asks = _moment(condition.get("lastTransitionTime")), _resources(pod.get("spec") or {})
            return [Trouble(name, "", reason, message, since=since, resources=asks)]
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


def out_of_memory(pod: Manifest) -> tuple[str, dt.datetime] | None:
    """The pod and the last time at which a container of it was killed for its memory."""
    containers = (pod.get("status") or {}).get("containerStatuses") or ()
    ends = [
        dt.datetime.fromisoformat(ended["finishedAt"])
        for container in containers
        for state in (container.get("state") or {}, container.get("lastState") or {})
        if (ended := state.get("terminated")) and ended.get("reason") == "OOMKilled" and ended.get("finishedAt")
    ]
    return (pod["metadata"]["name"], max(ends)) if ends else None


def _last_words(ended: Manifest) -> str:
    """How a container ended: its exit code, the reason (OOMKilled, Error), the end of what it said."""
    if not ended:
        return ""
    reason = f" ({ended['reason']})" if ended.get("reason") else ""
    said = (ended.get("message") or "").strip().splitlines()[-1:]
    return ", ".join([f"last exit code {ended.get('exitCode', '?')}{reason}", *said])


def _moment(text: str | None) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text) if text else None
