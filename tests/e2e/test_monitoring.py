"""A real Prometheus that is told what manifests/monitoring says, at a live mesh: each rule and panel is answered."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

import monitoring
from e2e import workloads
from testbed.backends import Backend
from testbed.product import NAMESPACE, ROOT, Product, eventually

Json = dict[str, Any]

SHOP = "e2e-observed"
GATEWAY = "istio=observed"
INTERVAL = "2s"
LOCAL = "127.0.0.1"
# Beside series that begin with their first event: selectors of labels that a mesh that is well does not have.
UNSEEN = {
    'meshwright_reconcile_total{result="error"}',
    'rest_client_requests_total{code=~"5..|429|none"}',
}

# Alerts about what this istiod did in the last minutes, which other tests may have driven it to.
PROVOKED = {"IstiodConfigRejected", "IstiodInjectionFails", "IstiodXdsErrors"}


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str, **parameters: str) -> Any:
        connection = http.client.HTTPConnection(LOCAL, self._port, timeout=10)
        try:
            connection.request("GET", f"{path}?{urlencode(parameters)}")
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert answer["status"] == "success", f"{parameters}: {answer['error']}"
        return answer["data"]

    def query(self, expression: str) -> list[Json]:
        found: list[Json] = self.get("/api/v1/query", query=expression)["result"]
        return found

    def ready(self) -> bool:
        try:
            return bool(self.get("/api/v1/status/runtimeinfo"))
        except (OSError, ValueError):
            return False

    def targets(self, job: str) -> dict[tuple[str, str], str]:
        """(namespace, pod) of what a job scrapes → its health, or what is wrong."""
        active = self.get("/api/v1/targets", state="active")["activeTargets"]
        return {
            (each["labels"]["namespace"], each["labels"]["pod"]): each["lastError"] or each["health"]
            for each in active
            if each["scrapePool"].startswith(job)
        }


def free_port() -> int:
    with socket.create_server((LOCAL, 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running(*argv: str | Path, log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the time of a `with` block."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env=env)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def documents(product: Product) -> list[Json]:
    """manifests/monitoring as a user applies it."""
    return list(yaml.safe_load_all(product.kubectl("kustomize", str(ROOT / "manifests/monitoring"))))


def label(*words: str) -> str:
    """Of what is known of a pod, as Prometheus names it."""
    return "_".join(["__meta_kubernetes", *(re.sub(r"[^a-zA-Z0-9_]", "_", word) for word in words)])


def discovered(product: Product, *namespaces: str) -> list[Json]:
    """Pods as Prometheus finds them in Kubernetes, which Debian leaves out of it: each port of each container."""
    found = []
    for pod in (each for namespace in namespaces for each in product.get("pods", "-n", namespace)["items"]):
        metadata, spec, status = pod["metadata"], pod["spec"], pod["status"]
        known = {
            label("namespace"): metadata["namespace"],
            label("pod_name"): metadata["name"],
            label("pod_phase"): status["phase"],
            **{label("pod_label", name): value for name, value in metadata.get("labels", {}).items()},
            **{label("pod_annotation", name): value for name, value in metadata.get("annotations", {}).items()},
        }
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            in_it = {**known, label("pod_container_name"): container["name"]}
            ports = {str(each["containerPort"]): each.get("name", "") for each in container.get("ports", ())}
            found += [
                {"targets": [f"{status['podIP']}:{port}"], "labels": {**in_it, label("pod_container_port_name"): name}}
                for port, name in ports.items()
            ] or [{"targets": [status["podIP"]], "labels": in_it}]
    return found


def keep(source: str, value: str) -> Json:
    return {"action": "keep", "source_labels": [source], "regex": value}


def of_a_monitor(monitor: Json, endpoint: Json) -> Json:
    """The job that the Prometheus Operator makes of an endpoint of a PodMonitor."""
    spec, names = monitor["spec"], {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    everywhere = spec.get("namespaceSelector", {}).get("any")
    selected = spec["selector"].get("matchLabels", {})
    return {
        "job_name": f"podMonitor/{monitor['metadata']['name']}",
        "metrics_path": endpoint["path"],
        "relabel_configs": [
            {"action": "drop", "source_labels": [label("pod_phase")], "regex": "(Failed|Succeeded)"},
            keep(label("namespace"), ".+" if everywhere else monitor["metadata"]["namespace"]),
            *(keep(label("pod_label", name), value) for name, value in selected.items()),
            keep(label("pod_container_port_name"), endpoint["port"]),
            {"source_labels": [label("namespace")], "target_label": "namespace"},
            {"source_labels": [label("pod_name")], "target_label": "pod"},
            *({names.get(key, key): value for key, value in each.items()} for each in endpoint.get("relabelings", ())),
        ],
    }


def by_annotation() -> Json:
    """The job that the documentation shows; here it only finds its targets, because others keep what they say."""
    page = (ROOT / "docs/how-to/observe.md").read_text()
    blocks = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    (job,) = next(each["scrape_configs"] for each in blocks if "scrape_configs" in each)
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    return {**job, "metric_relabel_configs": [{"source_labels": ["__name__"], "regex": ".+", "action": "drop"}]}


def through(server: str, job: Json) -> Json:
    """The same job for a Prometheus outside of the cluster: pods from a file, reached through the API server."""
    pod = [label("namespace"), label("pod_name"), "__address__", "__metrics_path__"]
    return {
        **job,
        "scrape_interval": INTERVAL,
        "file_sd_configs": [{"files": ["pods.json"]}],
        "relabel_configs": [
            *job["relabel_configs"],
            {"source_labels": ["__address__"], "target_label": "instance"},
            {
                "source_labels": pod,
                "regex": r"(.+);(.+);.+:(\d+);(.+)",
                "replacement": "/api/v1/namespaces/$1/pods/$2:$3/proxy$4",
                "target_label": "__metrics_path__",
            },
            {"replacement": server, "target_label": "__address__"},
        ],
    }


SIDECAR: Json = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "Sidecar",
    "metadata": {"name": "default", "namespace": SHOP},
    "spec": {"egress": [{"hosts": ["./*", "istio-system/*"]}]},
}


def gateways(product: Product, mesh: str, declared: list[Json]) -> None:
    product.kubectl("patch", "mesh", mesh, "--type=merge", "-p", json.dumps({"spec": {"gateways": declared}}))
    assert eventually(lambda: product.exists("deployment/observed", "-n", "istio-system") == bool(declared), seconds=60)


@pytest.fixture(scope="module")
def shop(product: Product, mesh: str) -> Iterator[Product]:
    """An application with traffic, a gateway, and configuration: each kind of series has something to tell."""
    get = ["sh", "-c", "while sleep 0.5; do curl --silent --max-time 2 http://web/; done"]
    product.apply(
        workloads.namespace(SHOP),
        workloads.service("web", SHOP),
        workloads.deployment("web", SHOP),
        workloads.deployment("client", SHOP, containers=[workloads.container(command=get)]),
        SIDECAR,
    )
    gateways(product, mesh, [{"name": "observed", "replicas": 1, "autoscaling": {"enabled": False}}])
    product.kubectl("-n", "istio-system", "rollout", "status", "deployment/observed", "--timeout=120s", timeout=130)
    for name in ("web", "client"):
        rollout = ("rollout", "status", f"deployment/{name}", "--timeout=120s")
        product.kubectl("-n", SHOP, *rollout, timeout=130)
    product.wait_ready(mesh)
    yield product
    gateways(product, mesh, [])
    product.kubectl("delete", "namespace", SHOP, "--wait=false")
    product.wait_ready(mesh)


@pytest.fixture(scope="module")
def prometheus(backend: Backend, shop: Product, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    program, kubectl = shutil.which("prometheus"), shutil.which("kubectl")
    assert program, "prometheus is missing: python -m testbed prereqs"
    assert kubectl
    gate, port = free_port(), free_port()
    monitors = [each for each in documents(shop) if each["kind"] == "PodMonitor"]
    jobs = [of_a_monitor(each, endpoint) for each in monitors for endpoint in each["spec"]["podMetricsEndpoints"]]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": monitoring.groups()}))
    (folder / "pods.json").write_text(json.dumps(discovered(shop, NAMESPACE, "istio-system", SHOP)))
    config = {
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["rules.yml"],
        "scrape_configs": [through(f"{LOCAL}:{gate}", each) for each in (*jobs, by_annotation())],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    kubeconfig = ("--kubeconfig", backend.kubeconfig)
    flags = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        "--storage.tsdb.retention.time=1h",
        "--storage.tsdb.retention.size=256MB",
        f"--web.listen-address={LOCAL}:{port}",
    ]
    asked = Prometheus(port)
    with (
        running(kubectl, "proxy", f"--port={gate}", *kubeconfig, log=folder / "gate.log"),
        running(program, *flags, log=folder / "prometheus.log") as process,
    ):
        assert eventually(lambda: process.poll() is not None or asked.ready(), seconds=60)
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        inject(shop)
        yield asked


def inject(product: Product) -> None:
    """An injection by an istiod that runs now: those that made the pods here may have been replaced since."""
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "never", "namespace": SHOP},
        "spec": {"containers": [workloads.container()]},
    }  # fmt: skip
    made = product.kubectl("create", "--dry-run=server", "-o", "name", "-f", "-", stdin=json.dumps(pod))
    assert made.strip() == "pod/never"


def pods(product: Product, *arguments: str) -> set[str]:
    found = product.get("pods", *arguments, "--field-selector=status.phase=Running")["items"]
    return {each["metadata"]["name"] for each in found if "deletionTimestamp" not in each["metadata"]}


def test_every_pod_of_the_mesh_is_found_and_answers(prometheus: Prometheus, shop: Product) -> None:
    wanted = {
        *(("podMonitor/meshwright", NAMESPACE, pod) for pod in pods(shop, "-n", NAMESPACE)),
        *(("podMonitor/istiod", "istio-system", pod) for pod in pods(shop, "-n", "istio-system", "-l", "app=istiod")),
        *(("podMonitor/istio-proxies", "istio-system", pod) for pod in pods(shop, "-n", "istio-system", "-l", GATEWAY)),
        *(("podMonitor/istio-proxies", SHOP, pod) for pod in pods(shop, "-n", SHOP)),
    }
    assert len(wanted) >= 7

    def missing() -> dict[tuple[str, str, str], str]:
        found = {(job, *pod): health for job, *_ in wanted for pod, health in prometheus.targets(job).items()}
        return {each: found.get(each, "not found") for each in wanted if found.get(each) != "up"}

    assert eventually(lambda: not missing(), seconds=60), missing()


def test_annotations_find_the_same_as_podmonitors(prometheus: Prometheus) -> None:
    assert eventually(lambda: set(prometheus.targets("mesh")) == set(prometheus.targets("podMonitor/")), seconds=30)
    assert eventually(lambda: set(prometheus.targets("mesh").values()) == {"up"}, seconds=30)


def empty(prometheus: Prometheus) -> list[str]:
    """Panels and records without data, and series that alerts look for in vain; but for those that may be missing."""
    found = []
    for query in monitoring.queries():
        asked = list(monitoring.selectors(query.expression))
        if not query.alert:
            answer = prometheus.query(query.expression)  # which also fails if it is no query
            if not answer and not any(monitoring.ISTIO.get(metric) for metric, _ in asked):
                found.append(f"{query.where}: {query.expression}")
            continue
        prometheus.query(query.expression)
        found += [
            f"{query.where}: {selector}"
            for metric, selector in asked
            if not monitoring.ISTIO.get(metric) and selector not in UNSEEN and not prometheus.query(selector)
        ]
    return found


def test_every_query_is_answered_with_data(prometheus: Prometheus) -> None:
    assert eventually(lambda: not empty(prometheus), seconds=90, every=3), "\n".join(empty(prometheus))


def test_every_rule_is_evaluated_and_no_alert_is_about_a_mesh_that_is_well(prometheus: Prometheus) -> None:
    def evaluated() -> list[Json]:
        groups = prometheus.get("/api/v1/rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    assert eventually(lambda: all(rule["health"] == "ok" for rule in evaluated())), [
        (rule["name"], rule.get("lastError")) for rule in evaluated() if rule["health"] != "ok"
    ]
    assert len(evaluated()) == len(monitoring.rules("alert")) + len(monitoring.rules("record"))
    assert {rule["name"] for rule in evaluated() if rule.get("state") == "firing"} <= PROVOKED


def test_what_istio_alone_has_is_named_with_a_reason(prometheus: Prometheus) -> None:
    """Series that are said to be missing here, and are there, must not be excused."""
    there = set(prometheus.get("/api/v1/label/__name__/values"))
    excused = {metric for metric, why in monitoring.ISTIO.items() if why == monitoring.PROVIDER}
    assert excused & there == set()
    assert {metric for metric, why in monitoring.ISTIO.items() if not why} <= there


def test_the_variables_of_the_dashboards_have_values(prometheus: Prometheus) -> None:
    for dashboard in monitoring.dashboards().values():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
                assert found
                assert prometheus.get(f"/api/v1/label/{found[2]}/values", **{"match[]": found[1]})


def test_the_operator_tells_who_leads_and_how_it_works(prometheus: Prometheus, shop: Product) -> None:
    def by_pod(expression: str) -> dict[str, float]:
        return {each["metric"]["pod"]: float(each["value"][1]) for each in prometheus.query(expression)}

    leader = shop.leader()
    leads = by_pod('leader_election_master_status{name="meshwright"}')
    assert leads == {pod: float(pod == leader) for pod in pods(shop, "-n", NAMESPACE)}
    assert 0 <= by_pod("meshwright_watch_silence_seconds")[leader] < 90  # a bookmark comes each minute
    assert 0 < by_pod("meshwright_start_to_first_reconcile_seconds")[leader] < 120
    done, timed = (
        by_pod(f"sum by (pod) ({series})")[leader]
        for series in ("meshwright_reconcile_total", "meshwright_reconcile_duration_seconds_count")
    )
    assert 0 < done <= timed + 4  # as many as there are workers may be between the two
