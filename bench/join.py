"""Two running clusters joined: from the first command to the first answer across, beside the same by hand.

Before the clock starts, the workloads are declared in both clusters with no pods; with Meshwright, the operator and its
kubeconfig of the other cluster are there. The clock covers everything that is done for the mesh, and the start of one
client in east and one server in west as soon as the mesh is said to be ready. It ends with the first answer that the
client gets. Images, resources and replicas are the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.figure import Figure
from bench.install import PROBE, quickstart
from e2e import workloads
from e2e.members import SHOP, ask, cloud, clusters_of, until
from testbed import programs
from testbed.backends import LocalBackend
from testbed.console import TestbedError
from testbed.product import ROOT, Product

Json = dict[str, Any]
SCRIPT = Path(__file__).with_name("by-hand.sh")
EXAMPLE = ROOT / "examples/two-clusters.yaml"
SECONDS = 300
BY_HAND = {"autoscaling": {"enabled": False}}


def figures() -> Iterator[Figure]:
    ours, theirs, verified = with_meshwright(verify="Off"), with_istioctl(), with_meshwright(verify="Traffic")
    lines = _lines(SCRIPT), _lines(EXAMPLE)
    yield Figure("join", ours, "s", "≤ 45 s", f"by hand with istioctl {theirs:.1f} s, ours {ours / theirs:.2f} ×")
    yield Figure("join-verified", verified, "s", "≤ 45 s", "none; the same with verify: Traffic")
    yield Figure("join-lines", lines[1], "lines", "none", f"by hand {lines[0]} lines of shell and 2 files for istioctl")


def _lines(path: Path) -> int:
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in path.read_text().splitlines())


def with_meshwright(*, verify: str) -> float:
    with clusters_of("join", "east", "west") as pair:
        mesh = pair.east.mesh(yaml.safe_load(EXAMPLE.read_text()))
        resources = pair.east.mesh(quickstart())["spec"]["controlPlane"]["resources"]
        mesh["spec"]["controlPlane"] |= {**BY_HAND, "resources": resources}
        mesh["spec"] |= {"topology": {"eastWestGateway": BY_HAND}, "verify": verify}
        declare(pair.all)
        started = time.monotonic()
        pair.east.apply(mesh)
        pair.east.wait_ready(mesh["metadata"]["name"], seconds=SECONDS)
        return answered(pair.all) - started


def with_istioctl() -> float:
    backend = LocalBackend("join", clusters=2)
    backend.up()
    folder = Path(tempfile.mkdtemp(prefix="join-"))
    try:
        kubeconfigs = {"east": backend.members[0].kubeconfig, "west": backend.members[1].kubeconfig}
        clusters = {name: Product(_At(path)) for name, path in kubeconfigs.items()}  # type: ignore[arg-type]
        spec = Product(backend).mesh(quickstart())["spec"]
        for name in clusters:
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(istio_operator(name, spec)))
        (folder / "passthrough.yaml").write_text(yaml.safe_dump(PASSTHROUGH))
        istioctl = programs.build(programs.istioctl())
        declare(clusters)
        with cloud(backend):
            environment = {
                **os.environ, "ISTIOCTL": str(istioctl), "FOLDER": str(folder),
                "PATH": f"{Path(clusters['east'].command()[0]).parent}:{os.environ['PATH']}",
                "EAST": str(kubeconfigs["east"]), "WEST": str(kubeconfigs["west"]),
            }  # fmt: skip
            started = time.monotonic()
            done = subprocess.run(
                [SCRIPT], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            if done.returncode:
                raise TestbedError(f"joining by hand failed: {done.stderr[-800:]}")
            return answered(clusters) - started
    finally:
        backend.down()
        shutil.rmtree(folder)


class _At:
    """A cluster, as `Product` wants it."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig


def declare(clusters: Mapping[str, Product]) -> None:
    """The workloads, without pods: those would have no sidecar yet."""
    environment = [{"name": "CLUSTER", "value": "west"}]
    for cluster in clusters.values():
        cluster.apply(workloads.namespace(SHOP), workloads.service("echo", SHOP))
    for name, deployment in (
        ("east", workloads.deployment("client", SHOP)),
        ("west", workloads.deployment("echo", SHOP, containers=[workloads.container(env=environment)])),
    ):
        deployment["spec"]["replicas"] = 0
        clusters[name].apply(deployment)


def answered(clusters: Mapping[str, Product]) -> float:
    """When the client in east has its first answer from west."""
    for name, deployment in (("west", "echo"), ("east", "client")):
        clusters[name].kubectl("-n", SHOP, "scale", f"deployment/{deployment}", "--replicas=1")
    clusters["east"].kubectl("-n", SHOP, "rollout", "status", "deployment/client", "--timeout=90s", timeout=100)
    until(lambda: ask(clusters["east"], requests=1)["west"], seconds=SECONDS, what="an answer from west")
    return time.monotonic()


PASSTHROUGH: Json = {
    "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "cross-network-gateway"},
    "spec": {
        "selector": {"istio": "eastwestgateway"},
        "servers": [{
            "port": {"number": 15443, "name": "tls", "protocol": "TLS"},
            "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.local"],
        }],
    },
}  # fmt: skip


def istio_operator(name: str, spec: Json) -> Json:
    gateway = {
        "name": "istio-eastwestgateway", "enabled": True,
        "label": {"istio": "eastwestgateway", "app": "istio-eastwestgateway", "topology.istio.io/network": name},
        "k8s": {
            "replicaCount": 2,
            "env": [{"name": "ISTIO_META_REQUESTED_NETWORK_VIEW", "value": name}],
            "service": {"ports": [
                {"name": "status-port", "port": 15021, "targetPort": 15021},
                {"name": "tls", "port": 15443, "targetPort": 15443},
            ]},
        },
    }  # fmt: skip
    return {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "spec": {
            "profile": "minimal",
            "hub": "docker.io/istio",
            "tag": spec["version"],
            "meshConfig": spec.get("meshConfig", {}),
            "components": {"pilot": {"k8s": {"readinessProbe": PROBE}}, "ingressGateways": [gateway]},
            "values": {
                "global": {"meshID": "mesh", "network": name, "multiCluster": {"clusterName": name}},
                "gateways": {"istio-ingressgateway": {"autoscaleEnabled": False}},
                "pilot": {
                    "autoscaleEnabled": False,
                    "replicaCount": 2,
                    "resources": spec["controlPlane"]["resources"],
                    "env": spec["controlPlane"]["env"],
                },
            },
        },
    }
