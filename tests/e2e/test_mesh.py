"""A MeshInstall on a real cluster: injection, mutual TLS, and what Istio's own tools say of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from e2e import workloads
from testbed import programs
from testbed.backends import Backend
from testbed.console import TestbedError, run
from testbed.product import Product, eventually

IN_MESH, OUTSIDE = "e2e-mesh", "e2e-outside"
CURL = ("curl", "--silent", "--show-error", "--max-time", "5")
PROBED = workloads.container(
    readinessProbe=workloads.http_probe("/ready"),
    livenessProbe=workloads.http_probe("/live"),
    startupProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1},
)


@pytest.fixture(scope="module")
def apps(product: Product, mesh: str) -> Iterator[Product]:
    product.apply(
        workloads.namespace(IN_MESH),
        workloads.namespace(OUTSIDE, injected=False),
        workloads.service("server", IN_MESH),
        workloads.deployment("server", IN_MESH, containers=[PROBED]),
        workloads.deployment("client", IN_MESH),
        workloads.deployment("opted-out", IN_MESH, labels={"sidecar.istio.io/inject": "false"}),
        workloads.deployment("client", OUTSIDE),
        workloads.job("once", IN_MESH, [*CURL, "--retry", "20", "--retry-connrefused", "--fail", "http://server/job"]),
    )
    for space, names in ((IN_MESH, ("server", "client", "opted-out")), (OUTSIDE, ("client",))):
        for name in names:
            rollout = ("rollout", "status", f"deployment/{name}", "--timeout=120s")
            product.kubectl("-n", space, *rollout, timeout=130)
    yield product
    product.kubectl("delete", "namespace", IN_MESH, OUTSIDE, "--wait=false")


def pod(product: Product, name: str) -> dict[str, Any]:
    """The newest pod of an app that is not on its way out."""
    pods = product.get("pods", "-n", IN_MESH, "-l", f"app={name}")["items"]
    return next(each for each in pods if "deletionTimestamp" not in each["metadata"])


def containers(manifest: dict[str, Any]) -> list[str]:
    spec = manifest["spec"]
    return [each["name"] for each in (*spec.get("initContainers", ()), *spec["containers"])]


def curl(product: Product, space: str, url: str) -> str:
    return product.kubectl("-n", space, "exec", "deploy/client", "-c", "app", "--", *CURL, url)


def istioctl(backend: Backend, *arguments: str) -> str:
    environment = {**os.environ, "KUBECONFIG": str(backend.kubeconfig)}
    return run([programs.build(programs.istioctl()), *arguments], env=environment, timeout=120)


def documents(text: str) -> Iterator[dict[str, Any]]:
    """JSON documents one after the other: istioctl prints one for each replica of istiod."""
    decoder, text = json.JSONDecoder(), text.strip()
    while text:
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:].lstrip()


def test_the_mesh_is_ready_and_says_so(product: Product, mesh: str) -> None:
    status = product.get("mesh", mesh)["status"]
    assert product.condition(mesh)["status"] == "True"
    assert product.condition(mesh, "Stalled")["status"] == "False"
    assert status["version"] == "1.31.4"
    assert status["clustersReady"] == "1/1"
    istiod = status["clusters"][0]["controlPlane"]
    assert (istiod["replicas"], istiod["readyReplicas"], istiod["size"]) == (2, 2, "Small")
    header, row = product.kubectl("get", "mesh", mesh).splitlines()
    assert header.split() == ["NAME", "VERSION", "SIZE", "READY", "REASON", "PROXIES", "CLUSTERS", "AGE"]
    assert row.split()[1:5] == ["1.31.4", "Small", "True", "Installed"]


def test_deployments_are_injected_and_counted(apps: Product, mesh: str) -> None:
    for name in ("server", "client"):
        assert "istio-proxy" in containers(pod(apps, name))
    # server and client; the Job's pod has ended and its proxy with it, or has not yet
    assert eventually(lambda: apps.get("mesh", mesh)["status"]["proxies"] in (2, 3), seconds=40)


def test_a_job_is_injected_and_ends(apps: Product) -> None:
    apps.kubectl("-n", IN_MESH, "wait", "job/once", "--for=condition=Complete", "--timeout=90s", timeout=100)
    assert "istio-proxy" in containers(pod(apps, "once"))


def test_the_opt_out_label_is_respected(apps: Product) -> None:
    assert containers(pod(apps, "opted-out")) == ["app"]


def test_probes_are_rewritten_to_the_agent(apps: Product) -> None:
    server = pod(apps, "server")
    app = next(each for each in server["spec"]["containers"] if each["name"] == "app")
    for probe, path in (("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz")):
        assert app[probe]["httpGet"]["port"] == 15020
        assert app[probe]["httpGet"]["path"] == f"/app-health/app/{path}"
    ready = {each["type"]: each["status"] for each in server["status"]["conditions"]}
    assert ready["Ready"] == "True"  # so the rewritten probes are answered, under STRICT


def test_strict_accepts_the_mesh(apps: Product) -> None:
    answer = json.loads(curl(apps, IN_MESH, "http://server/hello"))
    assert answer["path"] == "/hello"
    assert f"URI=spiffe://cluster.local/ns/{IN_MESH}/sa/default" in answer["headers"]["x-forwarded-client-cert"]


def test_strict_refuses_plaintext(apps: Product) -> None:
    with pytest.raises(TestbedError, match=r"curl: \((52|56)\)"):  # the connection is cut without an answer
        curl(apps, OUTSIDE, f"http://server.{IN_MESH}/hello")


def test_a_pod_that_opted_out_can_be_called_in_plaintext(apps: Product) -> None:
    """What is refused above is refused by the sidecar, and not by the network."""
    address = pod(apps, "opted-out")["status"]["podIP"]
    assert json.loads(curl(apps, OUTSIDE, f"http://{address}:8080/hello"))["path"] == "/hello"


def test_istioctl_sees_every_proxy_synced(apps: Product, backend: Backend) -> None:
    def states() -> dict[str, set[str]]:
        return {
            resource["node"]["id"]: {each["configStatus"] for each in resource["genericXdsConfigs"]}
            for response in documents(istioctl(backend, "proxy-status", "--output", "json"))
            for resource in response.get("resources", ())
        }

    def all_synced() -> bool:
        found = states()
        pods = [name.removesuffix(f".{IN_MESH}") for name in found if name.endswith(f".{IN_MESH}")]
        names = {each.rsplit("-", 2)[0] for each in pods}
        return {"server", "client"} <= names and all(each == {"SYNCED"} for each in found.values())

    assert eventually(all_synced, seconds=30), states()


def test_istioctl_analyze_is_clean(apps: Product, backend: Backend) -> None:
    for space in (IN_MESH, "istio-system"):
        messages = json.loads(istioctl(backend, "analyze", "--namespace", space, "--output", "json") or "[]")
        assert [each for each in messages if each["level"] != "Info"] == []


def test_istiods_certificates_rest_on_our_root(product: Product, mesh: str) -> None:
    """The root that istiod gives to namespaces is the one whose fingerprint the status shows."""
    import hashlib
    import ssl

    shown = product.get("mesh", mesh)["status"]["clusters"][0]["trust"]["rootFingerprint"]
    pem = product.get("configmap", "istio-ca-root-cert", "-n", "default")["data"]["root-cert.pem"]
    assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest() == shown
    assert not product.exists("secret", "istio-ca-secret", "-n", "istio-system")


def test_istiod_validates_istio_configuration(product: Product, mesh: str) -> None:
    """Its webhook was born as Ignore; istiod turned it to Fail, and we leave it so."""

    def policies() -> set[str]:
        items = product.get("validatingwebhookconfigurations", "-l", "app=istiod")["items"]
        return {webhook["failurePolicy"] for each in items for webhook in each["webhooks"]}

    assert eventually(lambda: policies() == {"Fail"}, seconds=30), policies()
    wrong = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "wrong", "namespace": "default"},
        "spec": {"hosts": []},
    }
    with pytest.raises(TestbedError, match=r"validation\.istio\.io"):
        product.apply(wrong)


def test_a_deleted_istiod_comes_back(product: Product, mesh: str) -> None:
    before = product.get("deployment", "istiod", "-n", "istio-system")["metadata"]["uid"]
    product.kubectl("-n", "istio-system", "delete", "deployment", "istiod")

    def back() -> bool:
        return (
            product.exists("deployment", "istiod", "-n", "istio-system")
            and product.get("deployment", "istiod", "-n", "istio-system")["metadata"]["uid"] != before
        )

    assert eventually(back, seconds=20)
    product.wait_ready(mesh)
