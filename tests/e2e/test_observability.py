"""What spec.observability and the caches of spec.dataPlane do at a real proxy: read in its configuration, and seen."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import workloads
from testbed.product import Product, eventually

Json = dict[str, Any]

SHOP, OUTSIDE = "e2e-traced", "e2e-collector"
TRACER = "envoy.tracers.opentelemetry"
TTL = dt.timedelta(minutes=10)
SKEW = dt.timedelta(minutes=2)  # istiod dates certificates back by as much, for clocks that are late
DECLARED: Json = {
    "dataPlane": {
        "certificateTTL": "10m",
        "certificateRenewalRatio": 0.95,  # after half a minute
        "idleTimeout": "77s",
        "dnsRefreshRate": "7s",
    },
    "observability": {
        "tracing": {"otlp": {"service": f"otlp.{OUTSIDE}.svc.cluster.local", "port": 4317}, "samplingPercent": 100.0},
        "accessLog": True,
    },
}
NAMED_BY_DNS: Json = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "ServiceEntry",
    "metadata": {"name": "by-name", "namespace": SHOP},
    "spec": {
        "hosts": ["by-name.example.com"],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "resolution": "DNS",
        "location": "MESH_EXTERNAL",
        "endpoints": [{"address": f"web.{SHOP}.svc.cluster.local"}],
    },
}


def collector() -> tuple[Json, ...]:
    """Outside of the mesh, as a user's Jaeger often is."""
    sink = (Path(__file__).parent / "otlp_sink.py").read_text()
    container = workloads.container(command=["python3", "-c", sink], readinessProbe={"tcpSocket": {"port": 4317}})
    service = workloads.service("otlp", OUTSIDE)
    service["spec"]["ports"] = [{"name": "grpc-otlp", "port": 4317, "targetPort": 4317}]
    return (
        workloads.namespace(OUTSIDE, injected=False),
        workloads.deployment("otlp", OUTSIDE, containers=[container]),
        service,
    )


def patch(product: Product, mesh: str, spec: Json) -> None:
    """Changes the mesh, and waits until istiod and the status follow."""

    def generation() -> int:
        found: int = product.get("mesh", mesh)["metadata"]["generation"]
        return found

    product.kubectl("patch", "mesh", mesh, "--type=merge", "-p", json.dumps({"spec": spec}))
    wanted = generation()
    assert eventually(lambda: product.condition(mesh).get("observedGeneration", 0) >= wanted, seconds=60)
    product.wait_ready(mesh, seconds=180)


def restart(product: Product) -> None:
    for name in ("web", "client"):
        product.kubectl("-n", SHOP, "rollout", "restart", f"deployment/{name}")
        rollout(product, SHOP, name)


def rollout(product: Product, namespace: str, name: str) -> None:
    product.kubectl("-n", namespace, "rollout", "status", f"deployment/{name}", "--timeout=120s", timeout=130)


@pytest.fixture(scope="module")
def shop(product: Product, mesh: str) -> Iterator[Product]:
    product.apply(*collector())
    rollout(product, OUTSIDE, "otlp")
    patch(product, mesh, DECLARED)
    try:
        product.apply(
            workloads.namespace(SHOP),
            NAMED_BY_DNS,
            workloads.service("web", SHOP),
            workloads.deployment("web", SHOP),
            workloads.deployment("client", SHOP),
        )
        for name in ("web", "client"):
            rollout(product, SHOP, name)
        yield product
    finally:
        product.kubectl("delete", "namespace", SHOP, OUTSIDE, "--ignore-not-found", "--wait=false")
        patch(product, mesh, {part: dict.fromkeys(fields) for part, fields in DECLARED.items()})


def admin(product: Product, path: str) -> Json:
    """What the client's Envoy says of itself."""
    request = ("exec", "deploy/client", "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", path)
    answer: Json = json.loads(product.kubectl("-n", SHOP, *request))
    return answer


def everywhere(tree: Any, key: str) -> Iterator[Any]:
    """Each value that stands under a key, at any depth."""
    if isinstance(tree, dict):
        if key in tree:
            yield tree[key]
        for value in tree.values():
            yield from everywhere(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from everywhere(value, key)


def clusters(product: Product) -> dict[str, Json]:
    configs = admin(product, "config_dump?resource=dynamic_active_clusters")["configs"]
    return {each["cluster"]["name"]: each["cluster"] for each in configs}


def get(product: Product, url: str) -> Json:
    curl = ("curl", "--silent", "--show-error", "--fail", "--max-time", "5", url)
    answer: Json = json.loads(product.kubectl("-n", SHOP, "exec", "deploy/client", "-c", "app", "--", *curl))
    return answer


# Traces


def test_proxies_are_told_where_to_send_spans(shop: Product) -> None:
    providers = [each for each in everywhere(admin(shop, "config_dump"), "provider") if each.get("name") == TRACER]
    assert providers
    named = {name for each in providers for name in everywhere(each, "cluster_name")}
    assert named == {f"outbound|4317||otlp.{OUTSIDE}.svc.cluster.local"}
    assert named <= set(clusters(shop))


def test_the_spans_of_a_request_arrive(shop: Product) -> None:
    answer = get(shop, "http://web/traced-from-end-to-end")
    trace = answer["headers"]["traceparent"].split("-")
    assert trace[3] == "01"  # sampled

    def collected() -> list[str]:
        return shop.kubectl("-n", OUTSIDE, "logs", "deploy/otlp", "--tail=-1").splitlines()

    assert eventually(lambda: any("/traced-from-end-to-end" in line for line in collected()), seconds=30), collected()
    assert "preface b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'" in collected()
    services = {f"text {name}.{SHOP}" for name in ("client", "web")}  # both sides of the request
    assert eventually(lambda: services <= set(collected()), seconds=30), collected()


# Access logs


@pytest.mark.parametrize("name", ["client", "web"])
def test_requests_are_logged_as_json(shop: Product, name: str) -> None:
    get(shop, f"http://web/logged-by-{name}")

    def logged() -> list[Json]:
        lines = shop.kubectl("-n", SHOP, "logs", f"deploy/{name}", "-c", "istio-proxy").splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [each for each in entries if each.get("path") == f"/logged-by-{name}"]

    assert eventually(logged, seconds=20)
    assert logged()[0]["response_code"] == 200


# Caches


def certificate(product: Product) -> Json:
    """The client's own, in Envoy's words."""
    held = admin(product, "certs")["certificates"]
    (chain,) = {
        json.dumps(chain)
        for each in held
        for chain in each.get("cert_chain", ())
        if f"/ns/{SHOP}/sa/" in json.dumps(chain)
    }
    answer: Json = json.loads(chain)
    return answer


def test_certificates_live_as_long_as_declared_and_are_renewed_at_the_ratio(shop: Product) -> None:
    first = certificate(shop)
    begins, ends = (dt.datetime.fromisoformat(first[key]) for key in ("valid_from", "expiration_time"))
    assert TTL <= ends - begins <= TTL + SKEW
    # At istiod's own ratio it would be renewed after five minutes.
    assert eventually(lambda: certificate(shop)["serial_number"] != first["serial_number"], seconds=60)


def test_idle_connections_of_a_pool_are_closed_when_declared(shop: Product) -> None:
    pool = clusters(shop)[f"outbound|80||web.{SHOP}.svc.cluster.local"]["typed_extension_protocol_options"]
    assert set(everywhere(pool, "idle_timeout")) == {"77s"}


def test_names_are_resolved_as_often_as_declared(shop: Product) -> None:
    assert set(everywhere(clusters(shop)["outbound|80||by-name.example.com"], "dns_refresh_rate")) == {"7s"}


def test_proxies_ask_for_differences_only_unless_declared_otherwise(shop: Product, mesh: str) -> None:
    def way() -> str:
        (bootstrap,) = admin(shop, "config_dump?mask=bootstrap")["configs"]
        found: str = bootstrap["bootstrap"]["dynamic_resources"]["ads_config"]["api_type"]
        return found

    assert way() == "DELTA_GRPC"
    patch(shop, mesh, {"dataPlane": {"deltaXDS": False}})
    try:
        restart(shop)
        assert way() == "GRPC"
        assert get(shop, "http://web/whole")["path"] == "/whole"
    finally:
        patch(shop, mesh, {"dataPlane": {"deltaXDS": True}})
