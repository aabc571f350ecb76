"""From `apply` to all replicas of istiod ready, beside `istioctl install`, in turn on fresh clusters.

Same replicas, resources, readiness probe and images; no Istio CRDs on either cluster before. istiod's own start
(from its Deployment to all replicas ready: scheduler, kubelet, caches) is the same program in both, so it is
reported apart, and the rest is compared.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

import yaml

from bench.figure import Figure
from testbed import programs
from testbed.backends import LocalBackend
from testbed.console import TestbedError
from testbed.product import ROOT, Product
from testbed.rest import Client

ROUNDS = 3
SECONDS = 120.0
# Ours, in place of istioctl's own: a probe every three seconds would make both totals a lottery.
PROBE = {
    "httpGet": {"path": "/ready", "port": 8080},
    "initialDelaySeconds": 1,
    "periodSeconds": 1,
    "failureThreshold": 9,
    "timeoutSeconds": 5,
}
ISTIOD = "/apis/apps/v1/namespaces/istio-system/deployments/istiod"


@dataclass(frozen=True)
class Timing:
    total: float  # seconds to all replicas ready
    own_start: float  # of these, istiod's own

    @property
    def rest(self) -> float:
        return self.total - self.own_start


def figures() -> Iterator[Figure]:
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(on_fresh_cluster(with_meshwright))
        theirs.append(on_fresh_cluster(with_istioctl))
    total = median(each.total for each in ours), median(each.total for each in theirs)
    rest = median(each.rest for each in ours), median(each.rest for each in theirs)
    start = median(each.own_start for each in ours), median(each.own_start for each in theirs)
    yield Figure("install", total[0], "s", "none", f"istioctl install {total[1]:.2f} s")
    yield Figure("install-istiod-start", start[0], "s", "none", f"istioctl install {start[1]:.2f} s")
    peer = f"istioctl {rest[1]:.2f} s, ours {rest[0]:.2f} s"
    yield Figure("install-rest", rest[0] / rest[1], "× peer", "≤ 0.5 ×", peer)


def on_fresh_cluster(install: object) -> Timing:
    backend = LocalBackend("bench")
    backend.up()
    try:
        return install(backend)  # type: ignore[operator, no-any-return]
    finally:
        backend.down()


def with_meshwright(backend: LocalBackend) -> Timing:
    product = Product(backend)
    product.install()
    mesh = product.mesh(quickstart())
    with Stopwatch(backend.kubeconfig) as watch:
        product.apply(mesh)
    return watch.timing


def with_istioctl(backend: LocalBackend) -> Timing:
    spec = Product(backend).mesh(quickstart())["spec"]
    operator = {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "spec": {
            "profile": "minimal",
            "hub": "docker.io/istio",
            "tag": spec["version"],
            "meshConfig": spec["meshConfig"],
            "components": {"pilot": {"k8s": {"readinessProbe": PROBE}}},
            "values": {
                "pilot": {
                    "autoscaleEnabled": False,
                    "replicaCount": 2,
                    "resources": spec["controlPlane"]["resources"],
                    "env": spec["controlPlane"]["env"],
                }
            },
        },
    }
    file = backend.kubeconfig.with_name("istio-operator.yaml")
    file.write_text(yaml.safe_dump(operator))
    environment = {**os.environ, "KUBECONFIG": str(backend.kubeconfig)}
    istioctl = programs.build(programs.istioctl())
    with Stopwatch(backend.kubeconfig) as watch:
        argv: list[str | Path] = [istioctl, "install", "--skip-confirmation", "--filename", file]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise TestbedError(f"istioctl install failed: {done.stderr[-500:]}")
    return watch.timing


def quickstart() -> dict[str, object]:
    manifest: dict[str, object] = yaml.safe_load((ROOT / "examples/quickstart.yaml").read_text())
    return manifest


class Stopwatch:
    """From entering it: when istiod's Deployment appears, and when all its replicas are ready."""

    def __init__(self, kubeconfig: Path) -> None:
        self._client = Client(kubeconfig)
        self._appeared = self._ready = 0.0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    @property
    def timing(self) -> Timing:
        if not self._ready:
            raise TestbedError(f"istiod was not ready within {SECONDS:.0f} s")
        return Timing(total=self._ready - self._begin, own_start=self._ready - self._appeared)

    def _watch(self) -> None:
        while not self._ready and time.monotonic() - self._begin < SECONDS:
            time.sleep(0.02)
            try:
                deployment = self._client.get(ISTIOD)
            except Exception:  # noqa: BLE001, S112  # not there yet
                continue
            self._appeared = self._appeared or time.monotonic()
            status, wanted = deployment.get("status") or {}, deployment["spec"]["replicas"]
            if status.get("availableReplicas", 0) >= wanted:
                self._ready = time.monotonic()
