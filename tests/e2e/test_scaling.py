"""Scaling by what a real istiod says of itself: configuration that changes all the time makes it slow.

The thresholds are lowered in the MeshInstall; what is measured is real.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.traffic import flowing
from e2e.workloads import deployment, namespace, service
from meshwright.mesh.exposition import proxies_by_version
from testbed.backends import Backend, LocalBackend
from testbed.product import Product, eventually

Json = dict[str, Any]

APPS = "scaling"
CHURN = "churn"
SECONDS = 200  # of traffic
# A hundredth of the usual thresholds: a push of any size takes so long.
RULES: Json = {
    "rules": [
        {"action": "AddReplica", "threshold": 0.005, "clear": 0.004, "minPods": 0, "window": "20s", "clearFor": "20s",
         "coolDown": "30s"},
        {"action": "DiscoverySelectors", "mode": "Off"},
        {"action": "SidecarScoping", "threshold": 5, "clear": 1, "minPods": 0, "window": "15s"},
    ]
}  # fmt: skip


def declare(product: Product, mesh: str, scaling: Json) -> None:
    product.kubectl("patch", "mesh", mesh, "--type=merge", "-p", json.dumps({"spec": {"scaling": scaling}}))


def actions(product: Product, action: str = "AddReplica") -> list[Json]:
    found: list[Json] = json.loads(product.kubectl("get", "meshactions", "-o", "json"))["items"]
    return [each for each in found if each["spec"]["action"] == action]


def phase(product: Product, action: str = "AddReplica") -> str:
    found = actions(product, action)
    return str(found[-1].get("status", {}).get("phase", "")) if found else ""


def bounds(product: Product) -> tuple[int, int]:
    spec = json.loads(product.kubectl("-n", "istio-system", "get", "hpa", "istiod", "-o", "json"))["spec"]
    return spec["minReplicas"], spec["maxReplicas"]


@contextmanager
def churn(product: Product) -> Iterator[None]:
    """ServiceEntries that change several times a second, each of which goes to every proxy."""
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            hosts = [f"host-{number}-{each}.example" for each in range(20)]
            entry = {
                "apiVersion": "networking.istio.io/v1",
                "kind": "ServiceEntry",
                "metadata": {"name": CHURN, "namespace": "default"},
                "spec": {"hosts": hosts, "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                         "resolution": "DNS", "location": "MESH_EXTERNAL"},
            }  # fmt: skip
            product.apply(entry)
            stop.wait(0.2)

    thread = threading.Thread(target=change, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        product.kubectl("-n", "default", "delete", "serviceentry", CHURN, "--ignore-not-found")


def kubectl_mesh(product: Product, *arguments: str, stdin: str = "") -> str:
    command = [str(Path(sys.executable).with_name("kubectl-mesh")), *arguments]
    return subprocess.run(
        command, env=product.environment, input=stdin, capture_output=True, text=True, timeout=60, check=True
    ).stdout


@pytest.fixture(scope="module")
def apps(product: Product, mesh: str) -> Iterator[str]:
    """A namespace with a client and a server, both with sidecars."""
    del mesh
    product.apply(namespace(APPS))
    product.apply(*(deployment(each, APPS) for each in ("client", "server")), service("server", APPS))
    for each in ("client", "server"):
        product.kubectl("-n", APPS, "rollout", "status", f"deployment/{each}", "--timeout=90s", timeout=100)
    yield APPS
    product.kubectl("delete", "namespace", APPS, "--timeout=60s", timeout=70)


@pytest.fixture(scope="module")
def scaled(product: Product, mesh: str, apps: str) -> Iterator[str]:
    del apps
    time.sleep(75)  # what it took to make the applications known has passed: a minute is looked at
    declare(product, mesh, RULES)
    yield mesh
    product.kubectl("patch", "mesh", mesh, "--type=json", "-p", '[{"op": "remove", "path": "/spec/scaling"}]')
    product.wait_ready(mesh)


def client(product: Product) -> str:
    return str(product.get("pods", "-n", APPS, "-l", "app=client")["items"][0]["metadata"]["name"])


def rules(product: Product, mesh: str) -> dict[str, str]:
    """The state of each rule."""
    (found,) = json.loads(kubectl_mesh(product, "explain", "scaling", mesh, "-o", "json"))
    return {each["action"]: each["state"] for each in found["clusters"][0].get("rules", ())}


def test_without_the_load_nothing_happens(product: Product, scaled: str) -> None:
    """The same YAML: each signal is measured, and is below its threshold."""
    assert eventually(lambda: rules(product, scaled).get("AddReplica") == "Quiet", seconds=90), state(product, scaled)
    time.sleep(30)
    assert actions(product) == []
    assert bounds(product) == (2, 4)


def test_a_slow_istiod_gets_a_replica_and_loses_it_again(product: Product, scaled: str) -> None:
    with flowing(product, client(product), APPS, "http://server/", seconds=SECONDS) as traffic:
        with churn(product):
            assert eventually(lambda: phase(product) in ("Acting", "Verifying"), seconds=120), state(product, scaled)
            assert eventually(lambda: bounds(product) == (3, 4), seconds=30)
            assert eventually(lambda: phase(product) == "Verifying", seconds=60), state(product, scaled)
            assert len(product.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"]) >= 3
        assert eventually(lambda: phase(product) == "Verified", seconds=150), state(product, scaled)
        (action,) = actions(product)
        assert action["spec"]["evidence"]["value"] > 0.005
        assert action["spec"]["before"] == {"replicas": 2, "maxReplicas": 4}
        assert action["spec"]["after"] == {"replicas": 3, "maxReplicas": 4}
        assert eventually(lambda: phase(product) == "Undone", seconds=120), state(product, scaled)
        assert bounds(product) == (2, 4)
    assert traffic.bad == []
    assert traffic.good > 10 * SECONDS
    events = product.get("events", "-n", "default", "--field-selector", "reason=AddReplica")["items"]
    assert [each for each in events if "Undone" in each["note" if "note" in each else "message"]]


def test_the_recorded_decision_comes_out_the_same(product: Product, scaled: str) -> None:
    del scaled
    text = kubectl_mesh(product, "replay", "-", stdin=product.kubectl("get", "meshactions", "-o", "yaml"))
    assert "the same decision, byte for byte" in text


def test_what_is_recommended_names_the_object(product: Product, scaled: str) -> None:
    """A real istiod uses more than 5 % of its memory; it is told of, and nothing is written."""
    assert eventually(lambda: phase(product, "SidecarScoping") == "Recommended", seconds=90), state(product, scaled)
    declare(product, scaled, {"rules": [{"action": "SidecarScoping", "mode": "Off"}]})
    assert eventually(lambda: phase(product, "SidecarScoping") == "Withdrawn", seconds=60)


def test_a_wrong_rule_is_refused_with_the_field(product: Product, scaled: str) -> None:
    for rule, says in (
        ({"action": "AddReplica", "threshold": 1, "clear": 2}, "clear is not below threshold"),
        ({"action": "SidecarScoping", "mode": "Enforce"}, "recommended only"),
        ({"action": "Dance"}, "Unsupported value"),
    ):
        with pytest.raises(Exception, match=says):
            declare(product, scaled, {"rules": [rule]})


def state(product: Product, mesh: str) -> str:
    return kubectl_mesh(product, "explain", "scaling", mesh)


# -- an istiod that is lost without a word


def connected(product: Product, pod: str) -> int:
    """Proxies on a replica, as it says itself."""
    page = product.kubectl("get", "--raw", f"/api/v1/namespaces/istio-system/pods/{pod}:15014/proxy/metrics")
    return sum(proxies_by_version(page).values())


@contextmanager
def black_hole(backend: LocalBackend, address: str) -> Iterator[None]:
    """No packet from or to a pod passes, and nobody is told."""
    rules = (
        "table inet hole {"
        f" chain from {{ type filter hook prerouting priority -400; ip saddr {address} drop; }};"
        f" chain to {{ type filter hook postrouting priority 400; ip daddr {address} drop; }};"
        " }"
    )
    backend.bed.clusters[0].enter_all("nft", rules)
    try:
        yield
    finally:
        backend.bed.clusters[0].enter_all("nft", "delete table inet hole")


def test_proxies_leave_an_istiod_that_is_cut_off(product: Product, backend: Backend, scaled: str, apps: str) -> None:
    """The proxies of the fullest replica are with the others within 30 s, and traffic goes on."""
    if not isinstance(backend, LocalBackend):
        pytest.skip("needs the nodes' own networks")
    declare(product, scaled, {"rules": []})
    product.kubectl("-n", apps, "scale", "deployment/server", "--replicas=4")  # so that there is something to lose
    product.kubectl("-n", apps, "rollout", "status", "deployment/server", "--timeout=90s", timeout=100)
    pods = product.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"]
    ready = {
        each["metadata"]["name"]: each["status"]["podIP"]
        for each in pods
        if "deletionTimestamp" not in each["metadata"]
    }
    counts = {name: connected(product, name) for name in ready}
    lost = max(counts, key=lambda name: counts[name])
    assert counts[lost] > 0
    others = [name for name in counts if name != lost]
    with (
        flowing(product, client(product), APPS, "http://server/", seconds=45) as traffic,
        black_hole(backend, ready[lost]),
    ):
        began = time.monotonic()
        assert eventually(
            lambda: sum(connected(product, each) for each in others) >= sum(counts.values()), seconds=40
        ), [(each, connected(product, each)) for each in others]
        took = time.monotonic() - began
    assert took < 30, took
    assert traffic.bad == []
