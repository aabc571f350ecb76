"""Workloads as users have them, for injection and traffic."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
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


def service(
    name: str, namespace: str, *, ports: Mapping[int, int] = MappingProxyType({80: 8080}), headless: bool = False
) -> Manifest:
    """`ports` of the service and of its pods, all HTTP."""
    spec = {
        "selector": {"app": name},
        "ports": [{"name": f"http-{port}", "port": port, "targetPort": target} for port, target in ports.items()],
        **({"clusterIP": "None"} if headless else {}),
    }
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
