"""The injection matrix: every kind of workload, and what pods say of their sidecars, with istiod, Envoy and traffic."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from api.hostile import MARK, differ_in_values_alone
from e2e import workloads
from testbed.console import TestbedError
from testbed.product import Product, eventually

Json = dict[str, Any]

SPACE = "e2e-injection"
CALLER = f"URI=spiffe://cluster.local/ns/{SPACE}/sa/caller"
CURL = ("curl", "--silent", "--show-error", "--fail", "--max-time", "5")
# It repeats a 503: that a pod is ready reaches the proxies a moment after it reaches kubectl.
PATIENT = (*CURL, "--retry", "5")
PLAINTEXT_REFUSED = r"curl: \((52|56)\)"  # the connection is cut without an answer
DEFAULT = {"requests": {"cpu": "30m", "memory": "96Mi"}, "limits": {"cpu": "1500m", "memory": "768Mi"}}
ORDINARY = {"sidecar.istio.io/nativeSidecar": "false"}
HOLD = {"proxy.istio.io/config": "holdApplicationUntilProxyStarts: true"}

# Says who it sees on the other side of its connections.
PEER = """
import http.server
class Peer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
http.server.ThreadingHTTPServer(("", 8081), Peer).serve_forever()
"""


def asking(url: str) -> list[str]:
    """A request, once, whose answer is kept."""
    return ["sh", "-c", f"{' '.join(CURL)} {url} > /answer/first"]


def second(name: str, **extra: Any) -> Json:
    """A container beside `app`."""
    env = [{"name": "PORT", "value": "8081"}, {"name": "TCP_PORT", "value": "9001"}]
    return workloads.container(name=name, ports=[{"containerPort": 8081}], env=env, **extra)


ANSWER = {"volumeMounts": [{"name": "answer", "mountPath": "/answer"}]}
KEPT = {"volumes": [{"name": "answer", "emptyDir": {}}]}
PREPARE = workloads.container(name="prepare", ports=[], command=asking("http://server/prepare"), **ANSWER)
PREPARE_OUTSIDE = {**PREPARE, "command": asking("http://plain/prepare")}
# It ends where its first request fails, and its restart is seen.
EAGER = workloads.container(
    command=["sh", "-c", f"set -e; {asking('http://server/eager')[-1]}; exec python3 /srv/echo.py"], **ANSWER
)
WATCHING = second("peer", command=["python3", "-c", PEER])
OFTEN = {"periodSeconds": 1, "failureThreshold": 60}  # however slow the start
PROBED = workloads.container(
    readinessProbe={"httpGet": {"path": "/ready", "port": 8080}, **OFTEN},
    livenessProbe={"tcpSocket": {"port": 9000}, **OFTEN},
    startupProbe={"exec": {"command": ["test", "-e", "/srv/echo.py"]}, **OFTEN},
)
GRPC = {"grpc": {"port": 9090}, **OFTEN}
HEALTH = workloads.container(
    name="health",
    ports=[{"containerPort": 9090}],
    command=["python3", "-c", (Path(__file__).parent / "grpc_health.py").read_text()],
    readinessProbe=GRPC,
    livenessProbe=GRPC,
)
LOCAL = [{"name": "PORT", "value": "18080"}]  # in front of which the sidecar listens


# As the environment of a process it does no harm; anywhere else it would.
HOSTILE_VALUE = f"{MARK}\"'\n    securityContext:\n      privileged: true\n---\n{{{{ .Values }}}} &a [*a] # \\"


@dataclass(frozen=True)
class Workload:
    """A Deployment and its Service, and the containers that its pod must have: those that begin it, then the others."""

    annotations: dict[str, str] = field(default_factory=dict)
    apps: tuple[Json, ...] = (workloads.container(),)
    spec: Json = field(default_factory=dict)
    init: tuple[str, ...] = ("istio-init", "istio-proxy")
    containers: tuple[str, ...] = ("app",)
    ports: dict[int, int] = field(default_factory=lambda: {80: 8080})


# Called by others from their start: these come first.
SERVERS = {
    "server": Workload(ports={80: 8080, 8081: 8080}),
    "plain": Workload({"sidecar.istio.io/inject": "false"}, init=(), ports={80: 8080, 81: 8080}),
}
WORKLOADS = {
    "ordinary": Workload(ORDINARY, init=("istio-init",), containers=("app", "istio-proxy")),
    "ordinary-held": Workload(
        {**ORDINARY, **HOLD}, (EAGER,), KEPT, init=("istio-init",), containers=("istio-proxy", "app")
    ),
    "native-held": Workload({}, (EAGER,), KEPT),
    "ordinary-prepared": Workload(
        ORDINARY, (workloads.container(**ANSWER),), {"initContainers": [PREPARE_OUTSIDE], **KEPT},
        init=("prepare", "istio-init"), containers=("app", "istio-proxy"),
    ),
    "native-prepared": Workload(
        {}, (workloads.container(**ANSWER),), {"initContainers": [PREPARE], **KEPT},
        init=("istio-init", "istio-proxy", "prepare"),
    ),
    "several": Workload(
        {}, (workloads.container(), second("other")), containers=("app", "other"), ports={80: 8080, 81: 8081}
    ),
    "redirect": Workload(
        {"sidecar.istio.io/interceptionMode": "REDIRECT"}, (workloads.container(), WATCHING),
        containers=("app", "peer"), ports={80: 8080, 81: 8081},
    ),
    "tproxy": Workload(
        {"sidecar.istio.io/interceptionMode": "TPROXY"}, (workloads.container(), WATCHING),
        containers=("app", "peer"), ports={80: 8080, 81: 8081},
    ),
    "none": Workload(
        {"sidecar.istio.io/interceptionMode": "NONE"}, (workloads.container(env=LOCAL),), init=("istio-proxy",)
    ),
    "excluding": Workload(
        {
            "traffic.sidecar.istio.io/excludeOutboundPorts": "81",
            "traffic.sidecar.istio.io/excludeInboundPorts": "8081",
        },
        (workloads.container(), second("other")),
        containers=("app", "other"),
    ),
    "sized": Workload(
        {
            "sidecar.istio.io/proxyCPU": "20m", "sidecar.istio.io/proxyCPULimit": "500m",
            "sidecar.istio.io/proxyMemory": "64Mi", "sidecar.istio.io/proxyMemoryLimit": "512Mi",
        },
    ),
    "talkative": Workload({"sidecar.istio.io/logLevel": "debug", "sidecar.istio.io/componentLogLevel": "http:info"}),
    "configured": Workload(
        {"proxy.istio.io/config": json.dumps({"concurrency": 1, "proxyMetadata": {"OWN": "word"}})}
    ),
    "hostile": Workload(
        {
            "sidecar.istio.io/nativeSidecar": HOSTILE_VALUE,
            "kubectl.kubernetes.io/default-container": HOSTILE_VALUE,
            "kubectl.kubernetes.io/default-logs-container": HOSTILE_VALUE,
            "proxy.istio.io/config": json.dumps({"proxyMetadata": {"HOSTILE": HOSTILE_VALUE}}),
        }
    ),
    "probed": Workload({}, (PROBED, HEALTH), containers=("app", "health")),
}  # fmt: skip
ALL = {**SERVERS, **WORKLOADS}


def deployed(name: str, workload: Workload) -> list[Json]:
    template = workloads.pod(name, annotations=workload.annotations, containers=list(workload.apps), **workload.spec)
    manifest = workloads.deployment(name, SPACE)
    manifest["spec"]["template"] = template
    return [manifest, workloads.service(name, SPACE, ports=workload.ports)]


def others() -> list[Json]:
    """Those that are no Deployment with a Service."""
    stateful = workloads.deployment("stateful", SPACE)
    stateful["kind"] = "StatefulSet"
    stateful["spec"] |= {"serviceName": "stateful", "replicas": 2, "podManagementPolicy": "Parallel"}
    command = [*CURL, "--retry", "20", "--retry-all-errors", "http://server/tick"]
    job = workloads.job("tick", SPACE, command)
    every_minute = {
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick", "namespace": SPACE},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job["spec"]}},
    }  # fmt: skip
    on_host = workloads.deployment("on-host", SPACE, containers=[workloads.container(ports=[], env=[
        {"name": "PORT", "value": "18123"}, {"name": "TCP_PORT", "value": "19123"},
    ])])  # fmt: skip
    on_host["spec"]["template"]["spec"] |= {"hostNetwork": True}
    # Nothing waits for this one.
    failing = workloads.container(readinessProbe=workloads.http_probe("/status/503"))
    # Nothing is captured, so the sidecar listens where it is told to.
    listeners = {
        "apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": "none", "namespace": SPACE},
        "spec": {
            "workloadSelector": {"labels": {"app": "none"}},
            "ingress": [{
                "port": {"number": 8080, "protocol": "HTTP", "name": "http"}, "bind": "0.0.0.0",  # noqa: S104
                "captureMode": "NONE", "defaultEndpoint": "127.0.0.1:18080",
            }],
            "egress": [{
                "port": {"number": 8081, "protocol": "HTTP", "name": "http"}, "bind": "127.0.0.1",
                "captureMode": "NONE", "hosts": ["./*"],
            }],
        },
    }  # fmt: skip
    return [
        stateful, workloads.service("stateful", SPACE, ports={8080: 8080}, headless=True), every_minute, on_host,
        workloads.deployment("failing", SPACE, containers=[failing]), listeners,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def matrix(product: Product, mesh: str, quickstart: Json) -> Iterator[Product]:
    """All of them at once, in a mesh with resources of its own for sidecars."""
    changed = copy.deepcopy(quickstart)
    changed["spec"].setdefault("dataPlane", {})["sidecar"] = {"resources": DEFAULT}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "caller", "namespace": SPACE}}
    client = workloads.deployment("client", SPACE)
    client["spec"]["template"]["spec"]["serviceAccountName"] = "caller"
    product.apply(changed, workloads.namespace(SPACE), account)
    assert eventually(lambda: resources(trial(product)) == DEFAULT, seconds=60)
    product.apply(*(each for row in SERVERS.items() for each in deployed(*row)), client)
    rolled_out(product, "deployment", *SERVERS, "client")
    product.apply(*(each for row in WORKLOADS.items() for each in deployed(*row)), *others())
    yield product
    product.kubectl("delete", "namespace", SPACE, "--wait=false")
    product.apply(quickstart)
    product.wait_ready(mesh)


def rolled_out(product: Product, kind: str, *names: str) -> None:
    for name in names:
        rollout = ("rollout", "status", f"{kind}/{name}", "--timeout=120s")
        product.kubectl("-n", SPACE, *rollout, timeout=130)


def trial(product: Product, annotations: dict[str, str] | None = None) -> Json:
    """A pod as the webhook and the API server make it, without that it comes to be. Raises with what they say."""
    template = workloads.pod("trial", annotations=annotations, automountServiceAccountToken=False)
    template["metadata"] |= {"name": "trial", "namespace": SPACE}
    manifest = json.dumps({"apiVersion": "v1", "kind": "Pod", **template})
    answer = product.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=manifest)
    pod: Json = json.loads(answer)
    return {"metadata": {key: pod["metadata"][key] for key in ("labels", "annotations")}, "spec": pod["spec"]}


def pods(product: Product, name: str) -> list[Json]:
    items = product.get("pods", "-n", SPACE, "-l", f"app={name}")["items"]
    return [each for each in items if "deletionTimestamp" not in each["metadata"]]


def containers(pod: Json, kind: str = "containers") -> tuple[str, ...]:
    return tuple(each["name"] for each in pod["spec"].get(kind, ()))


def proxy(pod: Json) -> Json:
    spec = pod["spec"]
    (found,) = (each for each in (*spec["initContainers"], *spec["containers"]) if each["name"] == "istio-proxy")
    return dict(found)


def resources(pod: Json) -> Json:
    found: Json = proxy(pod)["resources"]
    return found


def execute(product: Product, name: str, *command: str, container: str = "app") -> str:
    return product.kubectl("-n", SPACE, "exec", f"deploy/{name}", "-c", container, "--", *command)


def called(product: Product, url: str, *arguments: str, by: str = "client") -> Json:
    """What the app at `url` says that it was asked."""
    answer: Json = json.loads(execute(product, by, *PATIENT, *arguments, url))
    return answer


def over_mutual_tls(answer: Json, caller: str = CALLER) -> bool:
    return caller in answer["headers"].get("x-forwarded-client-cert", "")


def through_a_sidecar(answer: Json) -> bool:
    return "x-request-id" in answer["headers"]


def kept(product: Product, name: str) -> Json:
    answer: Json = json.loads(execute(product, name, "cat", "/answer/first"))
    return answer


def command_line(product: Product, name: str) -> list[str]:
    """Of Envoy, as the kernel has it."""
    script = r"for each in /proc/[0-9]*; do [ $(cat $each/comm) = envoy ] && tr '\0' '\n' <$each/cmdline; done; true"
    return execute(product, name, "sh", "-c", script, container="istio-proxy").splitlines()


# -- every workload


@pytest.mark.parametrize("name", ALL)
def test_it_is_ready_with_exactly_these_containers(matrix: Product, name: str) -> None:
    rolled_out(matrix, "deployment", name)
    (pod,) = pods(matrix, name)
    workload = ALL[name]
    assert (containers(pod, "initContainers"), containers(pod)) == (workload.init, workload.containers)
    assert all(each["restartCount"] == 0 for each in pod["status"]["containerStatuses"])


@pytest.mark.parametrize("name", [name for name in ALL if name != "plain"])
def test_the_mesh_reaches_it_over_mutual_tls(matrix: Product, name: str) -> None:
    answer = called(matrix, f"http://{name}/hello")
    assert answer["pod"].startswith(f"{name}-")
    assert over_mutual_tls(answer)


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("plain", "none")])
def test_plaintext_does_not(matrix: Product, name: str) -> None:
    with pytest.raises(TestbedError, match=PLAINTEXT_REFUSED):
        called(matrix, f"http://{name}/hello", by="plain")


# -- kinds of workloads


def test_pods_of_a_stateful_set_are_reached_by_their_names(matrix: Product) -> None:
    rolled_out(matrix, "statefulset", "stateful")
    for pod in pods(matrix, "stateful"):
        assert (containers(pod, "initContainers"), containers(pod)) == (("istio-init", "istio-proxy"), ("app",))
    for name in ("stateful-0", "stateful-1"):
        answer = called(matrix, f"http://{name}.stateful:8080/hello")
        assert answer["pod"] == name
        assert over_mutual_tls(answer)


def test_a_pod_on_the_hosts_network_is_left_alone(matrix: Product) -> None:
    rolled_out(matrix, "deployment", "on-host")
    (pod,) = pods(matrix, "on-host")
    assert (containers(pod, "initContainers"), containers(pod)) == ((), ("app",))
    assert "sidecar.istio.io/status" not in pod["metadata"].get("annotations", {})


# -- the start


@pytest.mark.parametrize("name", ["ordinary-held", "native-held"])
def test_the_first_request_of_an_application_succeeds(matrix: Product, name: str) -> None:
    answer = kept(matrix, name)
    assert answer["path"] == "/eager"
    assert over_mutual_tls(answer, f"URI=spiffe://cluster.local/ns/{SPACE}/sa/default")


def test_an_init_container_is_in_the_mesh_beside_a_native_sidecar(matrix: Product) -> None:
    answer = kept(matrix, "native-prepared")
    assert over_mutual_tls(answer, f"URI=spiffe://cluster.local/ns/{SPACE}/sa/default")


def test_an_init_container_has_the_network_before_an_ordinary_sidecar_takes_it(matrix: Product) -> None:
    assert not through_a_sidecar(kept(matrix, "ordinary-prepared"))
    assert through_a_sidecar(called(matrix, "http://plain/", by="ordinary-prepared"))


# -- what is captured


def test_redirected_connections_come_from_the_sidecar(matrix: Product) -> None:
    assert execute(matrix, "client", *PATIENT, "http://redirect:81/") == "127.0.0.6"


def test_tproxy_keeps_the_callers_address(matrix: Product) -> None:
    (client,) = pods(matrix, "client")
    assert execute(matrix, "client", *PATIENT, "http://tproxy:81/") == client["status"]["podIP"]


def test_without_capture_traffic_goes_through_the_sidecar_that_is_sent_to_it(matrix: Product) -> None:
    answer = called(matrix, "http://127.0.0.1:8081/", "-H", f"Host: server.{SPACE}.svc.cluster.local:8081", by="none")
    assert over_mutual_tls(answer, f"URI=spiffe://cluster.local/ns/{SPACE}/sa/default")
    with pytest.raises(TestbedError, match=PLAINTEXT_REFUSED):
        called(matrix, "http://server/", by="none")


def test_an_excluded_outbound_port_passes_the_sidecar_by(matrix: Product) -> None:
    assert through_a_sidecar(called(matrix, "http://plain/", by="excluding"))
    assert not through_a_sidecar(called(matrix, "http://plain:81/", by="excluding"))
    assert through_a_sidecar(called(matrix, "http://plain:81/"))  # as for anybody else


def test_an_excluded_inbound_port_passes_the_sidecar_by(matrix: Product) -> None:
    (excluding,), (several,) = pods(matrix, "excluding"), pods(matrix, "several")
    assert called(matrix, f"http://{excluding['status']['podIP']}:8081/open", by="plain")["path"] == "/open"
    with pytest.raises(TestbedError, match=PLAINTEXT_REFUSED):
        called(matrix, f"http://{several['status']['podIP']}:8081/open", by="plain")


def test_each_of_several_containers_is_reached(matrix: Product) -> None:
    assert over_mutual_tls(called(matrix, "http://several:81/"))


# -- what a sidecar may use, and what it is told


@pytest.mark.parametrize(
    ("name", "expected", "memory", "workers"),
    [
        ("server", DEFAULT, 768 << 20, "2"),  # of 1.5 CPUs
        (
            "sized",
            {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}},
            512 << 20,
            "1",
        ),
    ],
)
def test_resources_are_those_of_the_mesh_or_of_the_pod(
    matrix: Product, name: str, expected: Json, memory: int, workers: str
) -> None:
    """Agent and Envoy adjust themselves to them."""
    (pod,) = pods(matrix, name)
    assert resources(pod) == expected
    assert int(execute(matrix, name, "printenv", "GOMEMLIMIT", container="istio-proxy")) == memory
    arguments = command_line(matrix, name)
    assert arguments[arguments.index("--concurrency") + 1] == workers


def test_the_log_level_reaches_envoy(matrix: Product) -> None:
    arguments = command_line(matrix, "talkative")
    assert arguments[arguments.index("-l") + 1] == "debug"
    assert arguments[arguments.index("--component-log-level") + 1] == "http:info"
    arguments = command_line(matrix, "server")
    assert arguments[arguments.index("-l") + 1] == "warning"


def test_a_pods_proxy_config_reaches_envoy(matrix: Product) -> None:
    arguments = command_line(matrix, "configured")
    assert arguments[arguments.index("--concurrency") + 1] == "1"
    assert execute(matrix, "configured", "printenv", "OWN", container="istio-proxy") == "word\n"


def test_probes_are_rewritten_but_those_that_run_in_the_container(matrix: Product) -> None:
    (pod,) = pods(matrix, "probed")
    app, health = pod["spec"]["containers"]
    assert app["readinessProbe"]["httpGet"]["path"] == "/app-health/app/readyz"
    assert app["livenessProbe"]["httpGet"]["path"] == "/app-health/app/livez"
    assert app["startupProbe"]["exec"] == PROBED["startupProbe"]["exec"]
    assert health["readinessProbe"]["httpGet"]["path"] == "/app-health/health/readyz"
    assert health["livenessProbe"]["httpGet"]["path"] == "/app-health/health/livez"


def test_a_rewritten_probe_says_what_the_application_says(matrix: Product) -> None:
    def answer(name: str) -> str:
        """Of the agent, when it is asked as the kubelet asks it."""
        status = ("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}")
        return execute(matrix, name, *status, "http://127.0.0.1:15020/app-health/app/readyz")

    assert answer("probed") == "200"
    assert eventually(lambda: answer("failing") == "503"), answer("failing")
    (pod,) = pods(matrix, "failing")
    assert [each["ready"] for each in pod["status"]["containerStatuses"]] == [False]


# -- hostile values


def test_a_hostile_value_reaches_its_own_place_and_no_other(matrix: Product) -> None:
    assert execute(matrix, "hostile", "printenv", "HOSTILE", container="istio-proxy") == f"{HOSTILE_VALUE}\n"
    (pod,) = pods(matrix, "hostile")
    assert "privileged" not in pod["spec"].get("securityContext", {})
    assert not proxy(pod)["securityContext"]["privileged"]


# What they are to hold is istiod's business or any text; the pods need not work, only be no more than they say.
FREE = (
    "sidecar.istio.io/agentLogLevel", "sidecar.istio.io/componentLogLevel", "sidecar.istio.io/extraStatTags",
    "sidecar.istio.io/logLevel", "sidecar.istio.io/nativeSidecar", "sidecar.istio.io/statsInclusionRegexps",
)  # fmt: skip


@pytest.mark.parametrize("annotation", FREE)
def test_a_hostile_value_changes_nothing_else(matrix: Product, annotation: str) -> None:
    hostile, benign = (trial(matrix, {annotation: text}) for text in (HOSTILE_VALUE, "benign"))
    assert differ_in_values_alone(hostile, benign)


@pytest.mark.parametrize(
    "annotation",
    [
        "sidecar.istio.io/interceptionMode",
        "sidecar.istio.io/proxyCPU",
        "sidecar.istio.io/proxyMemoryLimit",
        "sidecar.istio.io/userVolume",
        "sidecar.istio.io/userVolumeMount",
        "status.sidecar.istio.io/port",
        "traffic.sidecar.istio.io/excludeInboundPorts",
        "traffic.sidecar.istio.io/excludeOutboundPorts",
        "traffic.sidecar.istio.io/includeOutboundIPRanges",
        "traffic.sidecar.istio.io/includeOutboundPorts",
    ],
)
def test_a_hostile_value_is_refused_by_name(matrix: Product, annotation: str) -> None:
    with pytest.raises(TestbedError) as refusal:
        trial(matrix, {annotation: HOSTILE_VALUE})
    assert annotation in str(refusal.value)


# -- at last, because it takes until the next minute


def test_a_cron_jobs_job_ends_with_its_sidecar(matrix: Product) -> None:
    def completed() -> list[Json]:
        items = matrix.get("jobs", "-n", SPACE)["items"]
        return [each for each in items if each["status"].get("succeeded")]

    assert eventually(completed, seconds=90)
    name = completed()[0]["metadata"]["name"]
    (pod,) = matrix.get("pods", "-n", SPACE, "-l", f"batch.kubernetes.io/job-name={name}")["items"]
    assert pod["status"]["phase"] == "Succeeded"
    assert (containers(pod, "initContainers"), containers(pod)) == (("istio-init", "istio-proxy"), ("app",))
    owner = next(each["value"] for each in proxy(pod)["env"] if each["name"] == "ISTIO_META_OWNER")
    assert owner == f"kubernetes://apis/batch/v1/namespaces/{SPACE}/cronjobs/tick"
