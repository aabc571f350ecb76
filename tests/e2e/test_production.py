"""What an SRE does to a mesh: sends traffic in through gateways, drains nodes, resizes istiod, and reads the status."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import workloads
from e2e.traffic import Result, flowing
from testbed import gateway_api
from testbed.product import Product, eventually

SPACE, OUTSIDE = "e2e-production", "e2e-visitors"
HOST = "shop.example.com"
Manifest = dict[str, Any]


def server(name: str, **pod: Any) -> list[Manifest]:
    """Two replicas on two nodes that end as well-behaved servers do: only after nobody sends to them any more."""
    container = workloads.container(
        readinessProbe=workloads.http_probe("/ready"), lifecycle={"preStop": {"sleep": {"seconds": 5}}}
    )
    manifest = workloads.deployment(name, SPACE, containers=[container])
    manifest["spec"] |= {"replicas": 2}
    spread = {
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": name}}, "nodeTaintsPolicy": "Honor",
    }  # fmt: skip
    manifest["spec"]["template"]["spec"] |= {"terminationGracePeriodSeconds": 20, "topologySpreadConstraints": [spread]}
    manifest["spec"]["template"]["spec"] |= pod
    budget = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name, "namespace": SPACE},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": name}}},
    }  # fmt: skip
    return [manifest, budget, workloads.service(name, SPACE)]


GATEWAY: Manifest = {
    "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "shop", "namespace": SPACE},
    "spec": {
        "selector": {"istio": "ingress"},
        "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": [HOST]}],
    },
}  # fmt: skip
ROUTE: Manifest = {
    "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "shop", "namespace": SPACE},
    "spec": {
        "hosts": [HOST], "gateways": ["shop"],
        "http": [{"route": [{"destination": {"host": f"server.{SPACE}.svc.cluster.local", "port": {"number": 80}}}]}],
    },
}  # fmt: skip


def nodes(product: Product) -> list[str]:
    return sorted(each["metadata"]["name"] for each in product.get("nodes")["items"])


def caller(name: str, namespace: str, node: str) -> Manifest:
    """A pod that stays where it is, for the requests."""
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [workloads.container()]}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def shop(product: Product, mesh: str, quickstart: Manifest) -> Iterator[Product]:
    """The mesh with an ingress and an egress gateway, and a shop behind the first."""
    with_gateways = json.loads(json.dumps(quickstart))
    with_gateways["spec"]["gateways"] = [{"name": "ingress"}, {"name": "egress", "type": "Egress"}]
    product.apply(
        with_gateways,
        workloads.namespace(SPACE),
        workloads.namespace(OUTSIDE, injected=False),
        *server("server"),
        GATEWAY,
        ROUTE,
        caller("caller", SPACE, nodes(product)[0]),
        caller("visitor", OUTSIDE, nodes(product)[0]),
    )
    generation = product.get("mesh", mesh)["metadata"]["generation"]
    assert eventually(lambda: product.get("mesh", mesh)["status"]["observedGeneration"] == generation)
    product.wait_ready(mesh)
    product.kubectl("-n", SPACE, "rollout", "status", "deployment/server", "--timeout=120s", timeout=130)
    for name, namespace in (("caller", SPACE), ("visitor", OUTSIDE)):
        product.kubectl("-n", namespace, "wait", f"pod/{name}", "--for=condition=Ready", "--timeout=60s", timeout=70)
    yield product
    product.kubectl("delete", "namespace", SPACE, OUTSIDE, "--timeout=120s", timeout=130)
    product.apply(quickstart)
    assert eventually(lambda: not product.exists("deployment", "ingress", "-n", "istio-system"), seconds=60)
    product.wait_ready(mesh)
    names = [each["metadata"]["name"] for each in gateway_api.crds()]
    product.kubectl("delete", "crd", *names, "--ignore-not-found", "--timeout=60s", timeout=70)


INGRESS = "http://ingress.istio-system.svc.cluster.local/"


def visit(product: Product, url: str, *, host: str = "") -> Manifest:
    header = ("-H", f"Host: {host}") if host else ()
    curl = ("curl", "--silent", "--show-error", "--fail", "--max-time", "5", *header, url)
    answer: Manifest = json.loads(product.kubectl("-n", OUTSIDE, "exec", "visitor", "-c", "app", "--", *curl))
    return answer


def answered(product: Product, url: str, *, host: str) -> bool:
    try:
        return bool(visit(product, url, host=host)["pod"])
    except Exception:  # noqa: BLE001 - not yet
        return False


def test_the_ingress_gateway_lets_traffic_in(shop: Product) -> None:
    assert eventually(lambda: answered(shop, INGRESS, host=HOST), seconds=30)
    assert visit(shop, INGRESS, host=HOST)["pod"].startswith("server-")


def test_a_gateway_is_spread_budgeted_and_autoscaled(shop: Product) -> None:
    pods = shop.get("pods", "-n", "istio-system", "-l", "istio=ingress")["items"]
    assert {each["spec"]["nodeName"] for each in pods} == set(nodes(shop))
    assert shop.get("pdb", "ingress", "-n", "istio-system")["status"]["disruptionsAllowed"] == 1
    scaler = shop.get("hpa", "ingress", "-n", "istio-system")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 4)


def test_a_gateway_of_the_gateway_api_is_deployed_and_lets_traffic_in(shop: Product) -> None:
    crds = json.dumps({"apiVersion": "v1", "kind": "List", "items": gateway_api.crds()})
    shop.kubectl("apply", "--server-side", "-f", "-", stdin=crds)
    shop.kubectl("wait", "crd/gateways.gateway.networking.k8s.io", "--for=condition=Established", "--timeout=30s")
    # istiod reads those CRDs when it starts, or when they appear.
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {
            "name": "front", "namespace": SPACE, "annotations": {"networking.istio.io/service-type": "ClusterIP"},
        },
        "spec": {
            "gatewayClassName": "istio",
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    }  # fmt: skip
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "front", "namespace": SPACE},
        "spec": {
            "parentRefs": [{"name": "front"}], "hostnames": [HOST],
            "rules": [{"backendRefs": [{"name": "server", "port": 80}]}],
        },
    }  # fmt: skip
    shop.apply(gateway, route)
    assert eventually(lambda: shop.exists("deployment", "front-istio", "-n", SPACE), seconds=60)
    shop.kubectl("-n", SPACE, "rollout", "status", "deployment/front-istio", "--timeout=90s", timeout=100)
    assert eventually(lambda: answered(shop, f"http://front-istio.{SPACE}.svc.cluster.local/", host=HOST), seconds=30)


def report(what: str, result: Result) -> None:
    print(f"{what}: {result.good} requests answered, {len(result.bad)} failed {result.bad[:3]}")


def test_a_node_is_drained_under_traffic(shop: Product) -> None:
    """Servers, istiods and gateways of one node go to the other: no request fails, inside the mesh or from outside."""
    node = nodes(shop)[1]
    inside = flowing(shop, "caller", SPACE, "http://server/", seconds=45)
    outside = flowing(shop, "visitor", OUTSIDE, INGRESS, seconds=45, host=HOST)
    try:
        with inside as mesh_traffic, outside as visitors:
            time.sleep(2)
            drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
            shop.kubectl(*drain, timeout=130)
    finally:
        shop.kubectl("uncordon", node)
    report("inside", mesh_traffic)
    report("through the gateway", visitors)
    assert mesh_traffic.good > 500
    assert visitors.good > 500
    assert (mesh_traffic.bad, visitors.bad) == ([], [])


def test_istiod_is_resized_under_traffic_one_replica_at_a_time(shop: Product, mesh: str, quickstart: Manifest) -> None:
    shop.kubectl("-n", "istio-system", "rollout", "status", "deployment/istiod", "--timeout=90s", timeout=100)
    low: list[int] = []
    patch = {"spec": {"controlPlane": {"resources": {"limits": {"memory": "3Gi"}}}}}

    def resized() -> bool:
        status = shop.get("deployment", "istiod", "-n", "istio-system")["status"]
        low.append(status.get("availableReplicas", 0))
        cluster = shop.get("mesh", mesh)["status"]["clusters"][0]["controlPlane"]
        limits: dict[str, str] = (cluster.get("resources") or {}).get("limits", {})
        return limits.get("memory") == "3Gi"

    inside = flowing(shop, "caller", SPACE, "http://server/", seconds=40)
    with inside as traffic:
        shop.kubectl("patch", "mesh", mesh, "--type=merge", "-p", json.dumps(patch))
        assert eventually(resized, seconds=60, every=0.3)
        # A pod that is born meanwhile is injected and gets its configuration.
        shop.kubectl("-n", SPACE, "rollout", "restart", "deployment/server")
        shop.kubectl("-n", SPACE, "rollout", "status", "deployment/server", "--timeout=90s", timeout=100)
    report("inside", traffic)
    assert traffic.bad == []
    assert traffic.good > 500
    assert min(low) >= 2, "fewer replicas than before served while the size changed"
    shop.wait_ready(mesh)


def test_the_status_is_what_others_see(shop: Product, mesh: str) -> None:
    """Against kubectl's own view: pods by annotation, Deployments, and what every sidecar's agent says."""

    def seen() -> tuple[Any, ...]:
        status = shop.get("mesh", mesh)["status"]["clusters"][0]
        return status["proxies"], status["injection"]["missing"], sum(each["count"] for each in status["proxyVersions"])

    def truth() -> tuple[Any, ...]:
        pods = [
            each for each in shop.get("pods", "-A")["items"]
            if each["status"]["phase"] in ("Running", "Pending") and "deletionTimestamp" not in each["metadata"]
        ]  # fmt: skip
        injected = [
            each for each in pods
            if each["metadata"].get("annotations", {}).get("istio.io/rev") == "default"
            and each["metadata"].get("labels", {}).get("security.istio.io/tlsMode") == "istio"
        ]  # fmt: skip
        connected = [
            each for each in pods if any(
                one["name"] == "istio-proxy" and one.get("started")
                for one in (
                    *each["status"].get("initContainerStatuses", ()), *each["status"].get("containerStatuses", ())
                )
            )
        ]  # fmt: skip
        return len(injected), 0, len(connected)

    assert eventually(lambda: seen() == truth(), seconds=60, every=3), f"{seen()} and not {truth()}"
    status = shop.get("mesh", mesh)["status"]["clusters"][0]
    gateways = {each["name"]: (each["replicas"], each["readyReplicas"]) for each in status["gateways"]}
    assert gateways == {"ingress": (2, 2), "egress": (2, 2)}
    certificates = status["workloadCertificates"]
    assert certificates["read"] == certificates["of"] == status["proxies"]
    assert 20 <= certificates["hoursLeft"] <= 24
    conditions = {each["type"]: each["status"] for each in shop.get("mesh", mesh)["status"]["conditions"]}
    assert all(
        conditions[each] == "True"
        for each in ("Ready", "ControlPlaneReady", "ControlPlaneSized", "GatewaysReady", "CertificatesValid",
                     "WebhooksConfigured", "ConfigurationAccepted")
    )  # fmt: skip


def test_the_command_line_names_every_proxy_and_its_state(shop: Product, mesh: str) -> None:
    def asked(*arguments: str) -> Any:
        command = [str(Path(sys.executable).with_name("kubectl-mesh")), *arguments, "--output=json"]
        done = subprocess.run(command, env=shop.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in (0, 2), done.stderr
        return json.loads(done.stdout)

    def all_synced() -> bool:
        proxies = asked("proxies", mesh)["proxies"]
        names = {f"{each['namespace']}/{each['pod']}" for each in proxies}
        pods = shop.get("pods", "-n", SPACE, "-l", "app in (server,caller)")["items"]
        wanted = {f"{SPACE}/{each['metadata']['name']}" for each in pods if "deletionTimestamp" not in each["metadata"]}
        return wanted <= names and all(each["sync"] == "synced" for each in proxies)

    assert eventually(all_synced, seconds=30, every=2), asked("proxies", mesh)
    (plan,) = asked("plan", mesh)
    assert (plan["counts"]["create"], plan["counts"]["change"], plan["counts"]["delete"]) == (0, 0, 0)


def test_a_pod_that_should_be_injected_but_is_not_is_named(shop: Product, mesh: str) -> None:
    shop.apply(workloads.namespace("e2e-late", injected=False), workloads.deployment("early", "e2e-late"))
    shop.kubectl("-n", "e2e-late", "rollout", "status", "deployment/early", "--timeout=60s", timeout=70)
    shop.kubectl("label", "namespace", "e2e-late", "istio-injection=enabled")

    def named() -> bool:
        injection = shop.get("mesh", mesh)["status"]["clusters"][0]["injection"]
        return injection["missing"] == 1 and any(
            each.startswith("e2e-late/early-") and each.endswith(": no sidecar") for each in injection["pods"]
        )

    try:
        assert eventually(named, seconds=30)
        shop.kubectl("-n", "e2e-late", "rollout", "restart", "deployment/early")
        shop.kubectl("-n", "e2e-late", "rollout", "status", "deployment/early", "--timeout=60s", timeout=70)
        assert eventually(
            lambda: shop.get("mesh", mesh)["status"]["clusters"][0]["injection"]["missing"] == 0, seconds=30
        )
    finally:
        shop.kubectl("delete", "namespace", "e2e-late", "--wait=false")


def test_a_mesh_config_that_is_wrong_is_refused_and_a_right_one_is_in_force(shop: Product, mesh: str) -> None:
    def patch(config: Manifest) -> None:
        shop.kubectl("patch", "mesh", mesh, "--type=merge", "-p", json.dumps({"spec": {"meshConfig": config}}))

    try:
        patch({"acessLogFile": "/dev/stdout"})
        assert eventually(lambda: shop.condition(mesh)["reason"] == "InvalidSpec")
        assert "did you mean accessLogFile" in shop.condition(mesh, "ConfigurationAccepted")["message"]
        patch({"acessLogFile": None, "accessLogFile": "/dev/stdout"})
        assert eventually(lambda: shop.condition(mesh, "ConfigurationAccepted")["reason"] == "InForce", seconds=60)
        shop.wait_ready(mesh)
    finally:
        patch({"acessLogFile": None, "accessLogFile": None})
        shop.wait_ready(mesh)
