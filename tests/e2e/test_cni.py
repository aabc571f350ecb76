"""istio-cni: sidecars in namespaces where Pod Security forbids what `istio-init` needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from e2e import workloads
from testbed.console import TestbedError
from testbed.product import Product, eventually

Json = dict[str, Any]

BASELINE, RESTRICTED, OUTSIDE = "e2e-baseline", "e2e-restricted", "e2e-before-baseline"
UNPRIVILEGED = {  # what Pod Security `restricted` wants of an application
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
AGENTS = ("daemonset/istio-cni-node", "-n", "istio-system")
NOT_REDIRECTED = 126  # what istio-validation ends with when nothing redirects the pod's traffic


@pytest.fixture(scope="module")
def guarded(product: Product, mesh: str) -> Iterator[Product]:
    """Namespaces under Pod Security, and a client outside of the mesh."""
    baseline, restricted = workloads.namespace(BASELINE), workloads.namespace(RESTRICTED)
    baseline["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "baseline"
    restricted["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "restricted"
    outside = workloads.namespace(OUTSIDE, injected=False)
    product.apply(baseline, restricted, outside, workloads.deployment("client", OUTSIDE))
    yield product
    product.kubectl("delete", "namespace", BASELINE, RESTRICTED, OUTSIDE, "--wait=false")


@pytest.fixture(scope="module")
def redirected(guarded: Product, mesh: str) -> Iterator[Product]:
    """Workloads in that namespace, with istio-cni on every node."""
    switch(guarded, mesh, "Enabled")
    try:
        assert eventually(lambda: guarded.exists(*AGENTS), seconds=60)
        guarded.kubectl("rollout", "status", *AGENTS, "--timeout=120s", timeout=130)
        guarded.wait_ready(mesh)
        assert eventually(lambda: not refusal(guarded)), refusal(guarded)
        guarded.apply(
            workloads.service("server", BASELINE),
            workloads.deployment("server", BASELINE),
            workloads.deployment("client", BASELINE),
        )
        for space, name in ((BASELINE, "server"), (BASELINE, "client"), (OUTSIDE, "client")):
            guarded.kubectl("-n", space, "rollout", "status", f"deployment/{name}", "--timeout=120s", timeout=130)
        yield guarded
    finally:
        switch(guarded, mesh, "Disabled")


def switch(product: Product, mesh: str, cni: str) -> None:
    product.kubectl("patch", "mesh", mesh, "--type=merge", "-p", json.dumps({"spec": {"dataPlane": {"cni": cni}}}))


def refusal(product: Product, namespace: str = BASELINE) -> str:
    """What the API server says to a pod that is to be injected; empty where it would be let in."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": namespace}}
    manifest = json.dumps({**pod, "spec": {"containers": [workloads.container(securityContext=UNPRIVILEGED)]}})
    try:
        product.kubectl("create", "--dry-run=server", "-f", "-", stdin=manifest)
    except TestbedError as error:
        return str(error)
    return ""


def restart(product: Product, space: str, name: str) -> None:
    product.kubectl("-n", space, "rollout", "restart", f"deployment/{name}")


def newest_pod(product: Product, name: str) -> Json:
    """Of those that are not on their way out; an empty one while there is none."""
    pods: list[Json] = product.get("pods", "-n", BASELINE, "-l", f"app={name}")["items"]
    living = [each for each in pods if "deletionTimestamp" not in each["metadata"]]
    return max(living, key=lambda each: each["metadata"]["creationTimestamp"], default={})


def validation(pod: Json) -> Json:
    """The status of the container that looks whether the pod's traffic is redirected."""
    statuses = pod.get("status", {}).get("initContainerStatuses", [])
    return next((each for each in statuses if each["name"] == "istio-validation"), {})


def ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def curl(product: Product, space: str, url: str) -> str:
    command = ("curl", "--silent", "--show-error", "--max-time", "5", url)
    return product.kubectl("-n", space, "exec", "deploy/client", "-c", "app", "--", *command)


@pytest.mark.parametrize(("namespace", "level"), [(BASELINE, "baseline"), (RESTRICTED, "restricted")])
def test_without_it_pod_security_refuses_the_sidecar(guarded: Product, namespace: str, level: str) -> None:
    said = refusal(guarded, namespace)
    assert f'violates PodSecurity "{level}' in said
    assert 'container "istio-init" must not include "NET_ADMIN", "NET_RAW"' in said


def test_with_it_pod_security_lets_the_sidecar_in(redirected: Product) -> None:
    assert refusal(redirected, RESTRICTED) == ""
    assert ready(newest_pod(redirected, "server"))  # under baseline


def test_a_sidecar_asks_for_no_capability(redirected: Product) -> None:
    spec = newest_pod(redirected, "server")["spec"]
    names = [each["name"] for each in (*spec["initContainers"], *spec["containers"])]
    assert names[0] == "istio-validation"
    assert "istio-proxy" in names
    assert "istio-init" not in names
    for each in (*spec["initContainers"], *spec["containers"]):
        if each["name"].startswith("istio-"):
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert each["securityContext"]["runAsNonRoot"] is True


def test_the_rules_are_there_before_the_pod_starts(redirected: Product) -> None:
    status = validation(newest_pod(redirected, "server"))
    assert status["restartCount"] == 0
    assert status["state"]["terminated"]["exitCode"] == 0


def test_mutual_tls_between_pods(redirected: Product) -> None:
    answer = json.loads(curl(redirected, BASELINE, "http://server/hello"))
    assert f"URI=spiffe://cluster.local/ns/{BASELINE}/sa/default" in answer["headers"]["x-forwarded-client-cert"]


def test_plaintext_does_not_get_past_the_rules(redirected: Product) -> None:
    with pytest.raises(TestbedError, match=r"curl: \((52|56)\)"):
        curl(redirected, OUTSIDE, f"http://server.{BASELINE}/hello")


def test_a_pod_that_comes_before_the_plugin_is_repaired(redirected: Product) -> None:
    """As on a new node. For a while the agents are kept from all nodes, and the operator from putting them back."""

    def move_agents(system: str, annotation: str | None) -> None:
        metadata = {"annotations": {"meshwright.dev/reconcile": annotation}}
        selected = {"template": {"spec": {"nodeSelector": {"kubernetes.io/os": system}}}}
        redirected.kubectl("patch", *AGENTS, "--type=merge", "-p", json.dumps({"metadata": metadata, "spec": selected}))

    def agents() -> int:
        return len(redirected.get("pods", "-n", "istio-system", "-l", "k8s-app=istio-cni-node")["items"])

    before = newest_pod(redirected, "server")["metadata"]["uid"]
    move_agents("none", "disabled")
    try:
        assert eventually(lambda: agents() == 0, seconds=60)
        restart(redirected, BASELINE, "server")

        def stranded() -> bool:
            pod = newest_pod(redirected, "server")
            ended: Json = validation(pod).get("lastState", {}).get("terminated", {})
            return bool(pod["metadata"]["uid"] != before and ended.get("exitCode") == NOT_REDIRECTED)

        assert eventually(stranded, seconds=60)
        uid = newest_pod(redirected, "server")["metadata"]["uid"]
    finally:
        move_agents("none", None)  # whereupon the operator puts the selector right
    assert eventually(lambda: ready(newest_pod(redirected, "server")), seconds=120)
    assert newest_pod(redirected, "server")["metadata"]["uid"] == uid
    assert json.loads(curl(redirected, BASELINE, "http://server/hello"))["path"] == "/hello"


def test_switched_off_it_goes_and_running_pods_stay_redirected(redirected: Product, mesh: str) -> None:
    switch(redirected, mesh, "Disabled")
    assert eventually(lambda: not redirected.exists(*AGENTS), seconds=60)
    assert eventually(lambda: not redirected.exists("clusterrole", "istio-cni"), seconds=60)
    redirected.wait_ready(mesh)
    answer = json.loads(curl(redirected, BASELINE, "http://server/hello"))
    assert "x-forwarded-client-cert" in answer["headers"]
    assert eventually(lambda: "NET_ADMIN" in refusal(redirected))
    # Other pods are born as before: nothing of it is left among a node's plugins.
    restart(redirected, OUTSIDE, "client")
    redirected.kubectl("-n", OUTSIDE, "rollout", "status", "deployment/client", "--timeout=60s", timeout=70)
