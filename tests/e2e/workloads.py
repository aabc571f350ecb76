"""Workloads as users have them, for injection and traffic."""

from __future__ import annotations

from typing import Any

from testbed.images import APP_IMAGE

Manifest = dict[str, Any]


def namespace(name: str, *, injected: bool = True) -> Manifest:
    labels = {"istio-injection": "enabled"} if injected else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def container(**extra: Any) -> Manifest:
    return {"name": "app", "image": APP_IMAGE, "ports": [{"containerPort": 8080}], **extra}


def http_probe(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": 8080}, "periodSeconds": 1}


def deployment(
    name: str, namespace: str, *, labels: dict[str, str] | None = None, containers: list[Manifest] | None = None
) -> Manifest:
    template = pod(name, labels=labels, containers=containers)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template},
    }


def pod(
    name: str,
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    containers: list[Manifest] | None = None,
    **spec: Any,
) -> Manifest:
    """The template of a workload's pods; `spec` is more of their spec."""
    return {
        "metadata": {"labels": {"app": name, **(labels or {})}, "annotations": annotations or {}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": containers or [container()], **spec},
    }


def service(name: str, namespace: str, *, headless: bool = False, **more: int) -> Manifest:
    """On port 80, and on the ports of `more`, which begin with their protocol as Istio wants it."""
    numbers = {"http": 80, **more}
    ports = [{"name": each.replace("_", "-"), "port": port, "targetPort": 8080} for each, port in numbers.items()]
    spec: Manifest = {"selector": {"app": name}, "ports": ports}
    if headless:  # its clients go to the pods' own ports
        spec |= {"clusterIP": "None", "ports": [{"name": "http", "port": 8080}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def job(name: str, namespace: str, command: list[str]) -> Manifest:
    """A Job that ends only if nothing of its pod stays behind: an ordinary sidecar would keep it running for ever."""
    pod = {"restartPolicy": "Never", "containers": [container(command=command)]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"backoffLimit": 3, "template": {"metadata": {"labels": {"app": name}}, "spec": pod}},
    }
