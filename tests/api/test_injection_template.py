"""The sidecar template in the real istiod: pods through the webhook, the patch applied, the result judged.

One istiod runs as a plain process against a bare API server: no kubelet, no webhook configuration; `/inject`
is called directly. What the API server does around it (defaults, selectors) is not under test; that it takes
the result, is.
"""

from __future__ import annotations

import base64
import copy
import http.client
import json
import socket
import ssl
import string
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshwright.mesh.injection import injector_values
from testbed import programs
from testbed.apiserver import ApiServer, api_server
from testbed.processes import Child
from testbed.rest import wait_until

Json = dict[str, Any]

TEMPLATE = Path(__file__).parents[2] / "templates/injection/sidecar.tpl"
NAMESPACE = "istio-system"
MESH: Json = {
    "trustDomain": "example.org",
    "rootNamespace": NAMESPACE,
    "defaultConfig": {
        "discoveryAddress": "istiod.istio-system.svc:15012",
        "proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"},
    },
}
VALUES: Json = {
    "hub": "docker.io/istio",
    "tag": "1.31.4",
    "image_pull_policy": "IfNotPresent",
    "cluster_name": "east",
    "network": "net-east",
    "mesh_id": "mesh",
    "trust_domain": "example.org",
    "cluster_domain": "cluster.local",
    "namespace": NAMESPACE,
    "revision": "default",
    "ca_address": "istiod.istio-system.svc:15012",
}

# The API server always writes `resources`, and istiod's patches rely on it.
APPLICATION: Json = {
    "name": "web",
    "image": "example.org/web:1",
    "ports": [{"containerPort": 8080, "name": "http"}],
    "resources": {},
}
MIGRATION: Json = {"name": "migrate", "image": "example.org/migrate:1", "resources": {}}
MOUNTS = {
    "workload-socket": "/var/run/secrets/workload-spiffe-uds",
    "credential-socket": "/var/run/secrets/credential-uds",
    "workload-certs": "/var/run/secrets/workload-spiffe-credentials",
    "istiod-ca-cert": "/var/run/secrets/istio",
    "istio-ca-crl": "/var/run/secrets/istio/crl",
    "istio-data": "/var/lib/istio/data",
    "istio-envoy": "/etc/istio/proxy",
    "istio-token": "/var/run/secrets/tokens",
    "istio-podinfo": "/etc/istio/pod",
}


# -- the bed


class Injector:
    """A running istiod, the API server behind it, and the ConfigMaps between them."""

    def __init__(self, api: ApiServer, port: int) -> None:
        self._api = api
        # Its certificate comes from a CA of this minute; who serves it is known here.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
        self._generation = 0

    def close(self) -> None:
        self._connection.close()

    def review(self, pod: Json, path: str = "/inject") -> Json:
        """The AdmissionResponse to a CREATE of `pod`."""
        request = {
            "uid": "1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE",
            "namespace": pod["metadata"].get("namespace", "default"),
            "object": pod,
        }
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        response: Json = json.loads(self._connection.getresponse().read())["response"]
        return response

    def inject(self, pod: Json, path: str = "/inject") -> Json:
        """`pod` as the webhook makes it."""
        response = self.review(pod, path)
        assert response["allowed"], response["status"]["message"]
        return patched(pod, response)

    def refusal(self, pod: Json) -> str:
        response = self.review(pod)
        assert not response["allowed"]
        message: str = response["status"]["message"]
        return message

    def take(self, pod: Json) -> Json:
        """`pod` as the API server would store it."""
        answer = self._api.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod))
        stored: Json = json.loads(answer)
        return stored

    def load(self, values: Json) -> None:
        """Puts `values` beside the template and waits until istiod injects by them."""
        self._generation += 1
        values = copy.deepcopy(values)
        values["global"]["meshID"] = mesh_id = f"{values['global']['meshID']}-{self._generation}"
        config_map = json.dumps(injector_config_map(values))
        self._api.kubectl("apply", "--server-side", "-f", "-", stdin=config_map)

        def loaded() -> bool:
            return environment(proxy(self.inject(pod_of())))["ISTIO_META_MESH_ID"] == mesh_id

        wait_until(loaded, "new values", seconds=20, pause=0.02)

    @contextmanager
    def values(self, change: Callable[[Json], object] = lambda _: None, **arguments: Any) -> Iterator[None]:
        """Other values for a while: arguments of `injector_values`, then `change` on its result."""
        values = injector_values(**{**VALUES, **arguments})
        change(values["global"]["proxy"])
        self.load(values)
        try:
            yield
        finally:
            self.load(injector_values(**VALUES))


def injector_config_map(values: Json) -> Json:
    config = {
        "policy": "enabled",
        "defaultTemplates": ["sidecar"],
        "templates": {"sidecar": TEMPLATE.read_text()},
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio-sidecar-injector", "namespace": NAMESPACE},
        "data": {"config": yaml.safe_dump(config), "values": json.dumps(values)},
    }


def node(name: str, kubelet: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"nodeInfo": {"kubeletVersion": kubelet}},
    }


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    folder = tmp_path_factory.mktemp("istiod")
    http_port, https_port, *others = free_ports(6)
    with api_server() as api:
        prepare(api)
        istiod = Child(
            # Out of the checkout, because istiod prefers files of its working directory to ConfigMaps.
            ("env", f"--chdir={folder}", "--unset=KUBERNETES_SERVICE_HOST",
             str(programs.build(programs.pilot_discovery())), "discovery",
             f"--kubeconfig={api.kubeconfig}",
             f"--httpAddr=127.0.0.1:{http_port}",
             f"--httpsAddr=127.0.0.1:{https_port}",
             f"--grpcAddr=127.0.0.1:{others[0]}",
             f"--secureGRPCAddr=127.0.0.1:{others[1]}",
             f"--monitoringAddr=127.0.0.1:{others[2]}",
             f"--ctrlz_port={others[3]}"),
            folder / "log",
            {
                "REVISION": "default",
                "POD_NAME": "istiod-0",
                "POD_NAMESPACE": NAMESPACE,
                "CLUSTER_ID": VALUES["cluster_name"],
                "ENABLE_NATIVE_SIDECARS": "auto",
            },
        )  # fmt: skip
        istiod.start()
        try:
            await_ready(istiod, f"http://127.0.0.1:{http_port}/ready")
            injector = Injector(api, https_port)
            yield injector
            injector.close()
        finally:
            istiod.kill()


def prepare(api: ApiServer) -> None:
    """What istiod reads at its start, and what the API server wants of a pod: a service account."""
    mesh = {"mesh": json.dumps(MESH), "meshNetworks": "networks: {}"}
    items: list[Json] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": "default"},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": NAMESPACE},
            "data": mesh,
        },
        injector_config_map(injector_values(**VALUES)),
        # One node too old for native sidecars switches them off, except for pods bound to the other one.
        node("old", "v1.32.0"),
        node("new", "v1.34.0"),
    ]
    # Unvalidated, because a real node's nodeInfo has nine more fields.
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    api.kubectl("apply", "--server-side", "--validate=false", "-f", "-", stdin=everything)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(entry.getsockname()[1]) for entry in sockets]


def await_ready(istiod: Child, url: str) -> None:
    def ready() -> bool:
        istiod.check()
        with urllib.request.urlopen(url, timeout=1):  # noqa: S310
            return True

    wait_until(ready, "istiod's readiness", seconds=60, pause=0.05)


# -- reading and writing pods


def patched(document: Json, response: Json) -> Json:
    """RFC 6902, as far as istiod uses it: add, replace and remove."""
    result = copy.deepcopy(document)
    for operation in json.loads(base64.b64decode(response["patch"])):
        steps = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
        parent: Any = result
        for step in steps[:-1]:
            parent = parent[int(step) if isinstance(parent, list) else step]
        last: Any = steps[-1]
        if isinstance(parent, list):
            last = len(parent) if last == "-" else int(last)
        if operation["op"] == "remove":
            del parent[last]
        elif operation["op"] == "add" and isinstance(parent, list):
            parent.insert(last, operation["value"])
        elif operation["op"] in ("add", "replace"):
            parent[last] = operation["value"]
        else:
            raise AssertionError(operation)
    return result


def pod_of(
    *containers: Json,
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> Json:
    """A pod as a Deployment's ReplicaSet creates it."""
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "shop-5d7f",
        "uid": "1",
        "controller": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "shop-5d7f-",
            "namespace": "default",
            "labels": {"app": "shop", "version": "v2", "pod-template-hash": "5d7f", **(labels or {})},
            "annotations": annotations or {},
            "ownerReferences": [owner],
        },
        "spec": {"containers": list(containers) or [APPLICATION], **spec},
    }


def container(pod: Json, name: str) -> Json:
    found = [
        each for kind in ("initContainers", "containers") for each in pod["spec"].get(kind, []) if each["name"] == name
    ]
    assert len(found) == 1, f"{len(found)} containers {name}"
    one: Json = found[0]
    return one


def proxy(pod: Json) -> Json:
    return container(pod, "istio-proxy")


def names(pod: Json, kind: str = "containers") -> list[str]:
    return [each["name"] for each in pod["spec"].get(kind, [])]


def environment(of: Json) -> dict[str, str]:
    """Plain values; the others as the path that they come from."""
    found = {}
    for entry in of.get("env", []):
        source = entry.get("valueFrom", {})
        path = source.get("fieldRef", {}).get("fieldPath") or source.get("resourceFieldRef", {}).get("resource")
        assert entry["name"] not in found
        found[entry["name"]] = path or entry.get("value", "")
    return found


def option(of: Json, flag: str) -> str | None:
    """The argument after `flag`."""
    arguments: list[str] = of["args"]
    return arguments[arguments.index(flag) + 1] if flag in arguments else None


# -- what a pod gets


def test_a_deployments_pod_gets_init_container_proxy_and_volumes(injector: Injector) -> None:
    pod = injector.inject(pod_of())
    assert names(pod) == ["web", "istio-proxy"]
    assert names(pod, "initContainers") == ["istio-init"]
    sidecar = proxy(pod)
    assert sidecar["image"] == "docker.io/istio/proxyv2:1.31.4"
    assert sidecar["imagePullPolicy"] == "IfNotPresent"
    assert sidecar["args"] == [
        "proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local",
        "--proxyLogLevel=warning", "--proxyComponentLogLevel=misc:error", "--log_output_level=default:info",
    ]  # fmt: skip
    assert sidecar["ports"] == [{"name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP"}]
    assert {mount["name"]: mount["mountPath"] for mount in sidecar["volumeMounts"]} == MOUNTS
    assert sorted(volume["name"] for volume in pod["spec"]["volumes"]) == sorted(MOUNTS)
    assert sidecar["resources"] == {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"cpu": "2", "memory": "1Gi"},
    }
    assert sidecar["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsUser": 1337,
        "runAsGroup": 1337,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "lifecycle" not in sidecar
    assert container(pod, "web") == APPLICATION


def test_metadata_names_the_workload(injector: Injector) -> None:
    metadata = injector.inject(pod_of())["metadata"]
    assert metadata["labels"] == {
        "app": "shop",
        "version": "v2",
        "pod-template-hash": "5d7f",
        "security.istio.io/tlsMode": "istio",
        "service.istio.io/canonical-name": "shop",
        "service.istio.io/canonical-revision": "v2",
        "topology.istio.io/network": "net-east",
    }
    assert metadata["annotations"]["istio.io/rev"] == "default"
    assert metadata["annotations"]["kubectl.kubernetes.io/default-container"] == "web"
    status = json.loads(metadata["annotations"]["sidecar.istio.io/status"])
    assert status["containers"] == ["istio-proxy"]
    assert status["initContainers"] == ["istio-init"]


def test_the_proxys_environment(injector: Injector) -> None:
    env = environment(proxy(injector.inject(pod_of())))
    config = json.loads(env.pop("PROXY_CONFIG"))
    assert config == {"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"}}
    assert json.loads(env.pop("ISTIO_META_POD_PORTS")) == [{"containerPort": 8080, "name": "http"}]
    assert env.pop("ISTIO_META_MESH_ID").startswith("mesh")
    assert env == {
        "PILOT_CERT_PROVIDER": "istiod",
        "CA_ADDR": "istiod.istio-system.svc:15012",
        "TRUST_DOMAIN": "example.org",
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "INSTANCE_IP": "status.podIP",
        "HOST_IP": "status.hostIP",
        "SERVICE_ACCOUNT": "spec.serviceAccountName",
        "ISTIO_META_NODE_NAME": "spec.nodeName",
        "ISTIO_CPU_LIMIT": "limits.cpu",
        "GOMAXPROCS": "limits.cpu",
        "GOMEMLIMIT": "limits.memory",
        "ISTIO_META_APP_CONTAINERS": "web",
        "ISTIO_META_CLUSTER_ID": "east",
        "ISTIO_META_NETWORK": "net-east",
        "ISTIO_META_INTERCEPTION_MODE": "REDIRECT",
        "ISTIO_META_WORKLOAD_NAME": "shop",
        "ISTIO_META_OWNER": "kubernetes://apis/apps/v1/namespaces/default/deployments/shop",
        "ISTIO_META_DNS_CAPTURE": "true",
    }


def test_probes(injector: Injector) -> None:
    sidecar = proxy(injector.inject(pod_of()))
    get = {"path": "/healthz/ready", "port": 15021}
    assert sidecar["startupProbe"] == {
        "httpGet": get,
        "periodSeconds": 1,
        "timeoutSeconds": 3,
        "failureThreshold": 600,
    }
    assert sidecar["readinessProbe"] == {
        "httpGet": get,
        "periodSeconds": 15,
        "timeoutSeconds": 3,
        "failureThreshold": 4,
    }


def test_the_init_container_captures_everything_but_the_proxys_own_ports(injector: Injector) -> None:
    init = container(injector.inject(pod_of()), "istio-init")
    assert init["args"] == [
        "istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT",
        "-i", "*", "-x", "", "-b", "*", "-d", "15020,15090,15021", "--log_output_level=default:info",
    ]  # fmt: skip
    assert environment(init) == {"ISTIO_META_DNS_CAPTURE": "true"}
    assert init["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": False,
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
    }


def test_a_jobs_pod_is_owned_by_its_cron_job(injector: Injector) -> None:
    pod = pod_of()
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": "report-28391040",
        "uid": "1",
        "controller": True,
    }
    pod["metadata"] = {"generateName": "report-28391040-", "namespace": "default", "ownerReferences": [owner]}
    injected = injector.inject(pod)
    env = environment(proxy(injected))
    assert env["ISTIO_META_OWNER"] == "kubernetes://apis/batch/v1/namespaces/default/cronjobs/report"
    assert env["ISTIO_META_WORKLOAD_NAME"] == "report"
    assert injected["metadata"]["labels"]["service.istio.io/canonical-name"] == "report"
    assert injected["metadata"]["labels"]["service.istio.io/canonical-revision"] == "latest"


def test_a_long_name_is_cut_to_a_valid_label(injector: Injector) -> None:
    pod = pod_of()
    pod["metadata"] = {"name": "a" * 62 + ".b.example", "namespace": "default"}
    injected = injector.inject(pod)
    assert injected["metadata"]["labels"]["service.istio.io/canonical-name"] == "a" * 62
    injector.take(injected)


@pytest.mark.parametrize(
    ("labels", "name", "revision"),
    [
        ({"app.kubernetes.io/name": "cart", "app.kubernetes.io/version": "3"}, "cart", "3"),
        (
            {"service.istio.io/canonical-name": "own", "service.istio.io/canonical-revision": "r1"},
            "own",
            "r1",
        ),
        ({"version": ""}, "shop", "latest"),
    ],
)
def test_canonical_labels_follow_the_users(
    injector: Injector, labels: dict[str, str], name: str, revision: str
) -> None:
    found = injector.inject(pod_of(labels=labels))["metadata"]["labels"]
    assert found["service.istio.io/canonical-name"] == name
    assert found["service.istio.io/canonical-revision"] == revision


def test_the_users_own_metadata_stays(injector: Injector) -> None:
    pod = pod_of(
        labels={"security.istio.io/tlsMode": "disabled", "topology.istio.io/network": "net-west"},
        annotations={"kubectl.kubernetes.io/default-container": "istio-proxy", "note": "mine"},
    )
    metadata = injector.inject(pod)["metadata"]
    assert metadata["labels"]["security.istio.io/tlsMode"] == "disabled"
    assert metadata["labels"]["topology.istio.io/network"] == "net-west"
    assert metadata["annotations"]["kubectl.kubernetes.io/default-container"] == "istio-proxy"
    assert metadata["annotations"]["note"] == "mine"


def test_the_webhooks_path_names_the_cluster_and_network(injector: Injector) -> None:
    pod = injector.inject(pod_of(), "/inject/cluster/west/net/net-west")
    env = environment(proxy(pod))
    assert (env["ISTIO_META_CLUSTER_ID"], env["ISTIO_META_NETWORK"]) == ("west", "net-west")
    assert pod["metadata"]["labels"]["topology.istio.io/network"] == "net-west"


def test_several_containers_and_init_containers(injector: Injector) -> None:
    ports = [{"containerPort": 6379}, {"containerPort": 53, "protocol": "UDP"}]
    second = {"name": "cache", "image": "example.org/cache:1", "ports": ports, "resources": {}}
    pod = injector.inject(pod_of(APPLICATION, second, initContainers=[MIGRATION]))
    assert names(pod) == ["web", "cache", "istio-proxy"]
    # The application's own init containers run before traffic is captured.
    assert names(pod, "initContainers") == ["migrate", "istio-init"]
    env = environment(proxy(pod))
    assert env["ISTIO_META_APP_CONTAINERS"] == "web,cache"
    assert [port["containerPort"] for port in json.loads(env["ISTIO_META_POD_PORTS"])] == [8080, 6379, 53]


def test_application_probes_go_through_the_agent(injector: Injector) -> None:
    web = {
        **APPLICATION,
        "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}},
        "readinessProbe": {"tcpSocket": {"port": 8080}},
        "startupProbe": {"grpc": {"port": 9090}},
    }
    pod = injector.inject(pod_of(web))
    probers = json.loads(environment(proxy(pod))["ISTIO_KUBE_APP_PROBERS"])
    assert probers["/app-health/web/livez"]["httpGet"] == {"path": "/live", "port": 8080}
    assert probers["/app-health/web/readyz"]["tcpSocket"] == {"port": 8080}
    assert probers["/app-health/web/startupz"]["grpc"]["port"] == 9090
    for probe, path in (
        ("livenessProbe", "livez"),
        ("readinessProbe", "readyz"),
        ("startupProbe", "startupz"),
    ):
        assert container(pod, "web")[probe]["httpGet"] == {"path": f"/app-health/web/{path}", "port": 15020}


def test_probes_stay_where_the_pod_says_so(injector: Injector) -> None:
    web = {**APPLICATION, "livenessProbe": {"httpGet": {"path": "/live", "port": 8080}}}
    pod = injector.inject(pod_of(web, annotations={"sidecar.istio.io/rewriteAppHTTPProbers": "false"}))
    assert "ISTIO_KUBE_APP_PROBERS" not in environment(proxy(pod))
    assert container(pod, "web")["livenessProbe"]["httpGet"]["port"] == 8080


# -- modes


def test_tproxy_runs_the_proxy_as_root_with_one_capability(injector: Injector) -> None:
    pod = injector.inject(pod_of(annotations={"sidecar.istio.io/interceptionMode": "TPROXY"}))
    init = container(pod, "istio-init")
    assert (option(init, "-m"), option(init, "-u")) == ("TPROXY", "1337")
    assert environment(proxy(pod))["ISTIO_META_INTERCEPTION_MODE"] == "TPROXY"
    security = proxy(pod)["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["runAsNonRoot"]) == (0, 1337, False)
    assert security["capabilities"] == {"add": ["NET_ADMIN"], "drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"]
    assert not security["privileged"]


@pytest.mark.parametrize("where", ["annotation", "proxy config"])
def test_mode_none_captures_nothing(injector: Injector, where: str) -> None:
    by_config = {"proxy.istio.io/config": "interceptionMode: NONE"}
    annotations = {"sidecar.istio.io/interceptionMode": "NONE"} if where == "annotation" else by_config
    for native in ("false", "true"):
        pod = injector.inject(
            pod_of(
                annotations={**annotations, "sidecar.istio.io/nativeSidecar": native},
                initContainers=[MIGRATION],
            )
        )
        expected = ["istio-proxy", "migrate"] if native == "true" else ["migrate"]
        assert names(pod, "initContainers") == expected
        assert environment(proxy(pod))["ISTIO_META_INTERCEPTION_MODE"] == "NONE"
        assert "capabilities" in proxy(pod)["securityContext"]


@pytest.mark.parametrize(
    ("flag", "node_name", "native"),
    [
        (None, None, False),
        (None, "new", True),
        (None, "old", False),
        ("true", None, True),
        ("false", "new", False),
        ("nonsense", "new", True),
        ("nonsense", None, False),
    ],
)
def test_native_sidecar_by_node_or_annotation(
    injector: Injector,
    flag: str | None,
    node_name: str | None,
    native: bool,  # noqa: FBT001
) -> None:
    spec: Json = {"nodeName": node_name} if node_name else {}
    annotations = {"sidecar.istio.io/nativeSidecar": flag} if flag else {}
    pod = injector.inject(pod_of(annotations=annotations, initContainers=[MIGRATION], **spec))
    sidecar = proxy(pod)
    if native:
        # Before the application's own init containers, so that they are in the mesh already.
        assert names(pod, "initContainers") == ["istio-init", "istio-proxy", "migrate"]
        assert names(pod) == ["web"]
        assert sidecar["restartPolicy"] == "Always"
        command = ["pilot-agent", "request", "--debug-port=15020", "POST", "drain"]
        assert sidecar["lifecycle"] == {"preStop": {"exec": {"command": command}}}
    else:
        assert names(pod, "initContainers") == ["migrate", "istio-init"]
        assert names(pod) == ["web", "istio-proxy"]
        assert "restartPolicy" not in sidecar
    assert sidecar["startupProbe"]["failureThreshold"] == 600
    injector.take({**pod, "spec": {**pod["spec"], "nodeName": ""}})


WAIT = {"postStart": {"exec": {"command": ["pilot-agent", "wait"]}}}


def test_the_application_waits_if_the_pod_says_so(injector: Injector) -> None:
    pod = injector.inject(pod_of(annotations={"proxy.istio.io/config": "holdApplicationUntilProxyStarts: true"}))
    assert names(pod) == ["istio-proxy", "web"]
    assert proxy(pod)["lifecycle"] == WAIT


def test_the_application_waits_if_the_values_say_so(injector: Injector) -> None:
    with injector.values(hold_application=True):
        pod = injector.inject(pod_of())
        assert names(pod) == ["istio-proxy", "web"]
        assert proxy(pod)["lifecycle"] == WAIT
        native = injector.inject(pod_of(annotations={"sidecar.istio.io/nativeSidecar": "true"}))
        assert "postStart" not in proxy(native)["lifecycle"]


def test_with_cni_the_init_container_only_validates(injector: Injector) -> None:
    with injector.values(lambda proxy: proxy.update(excludeIPRanges="10.0.0.0/8"), cni_enabled=True):
        pod = injector.inject(pod_of(annotations={"traffic.sidecar.istio.io/excludeOutboundPorts": "3306"}))
        with_init = injector.inject(pod_of(initContainers=[MIGRATION]))
    assert names(with_init, "initContainers") == ["istio-validation", "migrate"]
    init = container(pod, "istio-validation")
    assert init["args"][-2:] == ["--run-validation", "--skip-rule-apply"]
    assert init["securityContext"]["runAsUser"] == 1337
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    annotations = pod["metadata"]["annotations"]
    assert annotations["traffic.sidecar.istio.io/excludeOutboundIPRanges"] == "10.0.0.0/8"
    assert annotations["traffic.sidecar.istio.io/excludeOutboundPorts"] == "3306"
    assert annotations["sidecar.istio.io/interceptionMode"] == "REDIRECT"


def test_values_change_the_proxy(injector: Injector) -> None:
    def change(proxy: Json) -> None:
        proxy["startupProbe"] = {"enabled": False}
        proxy["seccompProfile"] = {"type": "RuntimeDefault"}
        proxy["lifecycle"] = {"preStop": {"sleep": {"seconds": 5}}}

    arguments: Json = {
        "network": "",
        "image_pull_policy": "",
        "image_pull_secrets": ["pull"],
        "proxy_resources": {},
        "proxy_log_level": "debug",
        "agent_log_level": "default:debug",
        "cluster_domain": "example.internal",
    }
    with injector.values(change, **arguments):
        pod = injector.inject(pod_of())
    sidecar = proxy(pod)
    assert "startupProbe" not in sidecar
    assert "imagePullPolicy" not in sidecar
    assert sidecar["resources"] == {}
    assert sidecar["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert "ISTIO_META_NETWORK" not in environment(sidecar)
    assert "--proxyLogLevel=debug" in sidecar["args"]
    assert "$(POD_NAMESPACE).svc.example.internal" in sidecar["args"]
    assert "--log_output_level=default:debug" in sidecar["args"]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    for each in (sidecar, container(pod, "istio-init")):
        assert each["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_values_that_look_like_numbers_stay_text(injector: Injector) -> None:
    arguments: Json = {
        "cluster_name": "1",
        "network": "2e3",
        "ca_address": "3",
        "image_pull_policy": "4",
        "image_pull_secrets": ["5"],
    }
    with injector.values(lambda proxy: proxy.update(excludeIPRanges="", includeOutboundPorts="6"), **arguments):
        pod = injector.inject(pod_of())
    env = environment(proxy(pod))
    found = (
        env["ISTIO_META_CLUSTER_ID"],
        env["ISTIO_META_NETWORK"],
        env["CA_ADDR"],
        proxy(pod)["imagePullPolicy"],
    )
    assert found == ("1", "2e3", "3", "4")
    assert pod["spec"]["imagePullSecrets"] == [{"name": "5"}]
    assert option(container(pod, "istio-init"), "-q") == "6"


# -- what a pod may ask for


@pytest.mark.parametrize(
    ("annotation", "value", "flag", "expected"),
    [
        (
            "traffic.sidecar.istio.io/includeOutboundIPRanges",
            "10.0.0.0/8,fd00::/8",
            "-i",
            "10.0.0.0/8,fd00::/8",
        ),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "", "-i", ""),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.1.0.0/16", "-x", "10.1.0.0/16"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "80,443", "-b", "80,443"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "", "-b", ""),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "9000", "-d", "9000,15020,15090,15021"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "15090", "-d", "15090,15020,15021"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "5432", "-q", "5432"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "5432,6379", "-q", "5432,6379"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "*", "-q", "*"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "3306", "-o", "3306"),
        ("traffic.sidecar.istio.io/kubevirtInterfaces", "net1", "-k", "net1"),
        ("istio.io/reroute-virtual-interfaces", "net1,net2", "-k", "net1,net2"),
        ("traffic.sidecar.istio.io/excludeInterfaces", "eth1", "-c", "eth1"),
        ("status.sidecar.istio.io/port", "15030", "-d", "15030,15090,15021"),
    ],
)
def test_capture_by_annotation(injector: Injector, annotation: str, value: str, flag: str, expected: str) -> None:
    pod = injector.inject(pod_of(annotations={annotation: value}))
    assert option(container(pod, "istio-init"), flag) == expected


def test_a_status_port_of_zero_leaves_out_the_probes(injector: Injector) -> None:
    sidecar = proxy(injector.inject(pod_of(annotations={"status.sidecar.istio.io/port": "0"})))
    assert "readinessProbe" not in sidecar
    assert "startupProbe" not in sidecar


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"proxyCPU": "300m"}, {"requests": {"cpu": "300m"}}),
        ({"proxyMemoryLimit": "512Mi"}, {"limits": {"memory": "512Mi"}}),
        (
            {"proxyCPU": "1", "proxyMemory": "1Gi", "proxyCPULimit": "3", "proxyMemoryLimit": "2Gi"},
            {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "3", "memory": "2Gi"}},
        ),
    ],
)
def test_resources_by_annotation_replace_the_default(
    injector: Injector, annotations: dict[str, str], expected: Json
) -> None:
    pod = injector.inject(
        pod_of(annotations={f"sidecar.istio.io/{name}": value for name, value in annotations.items()})
    )
    assert proxy(pod)["resources"] == expected
    assert container(pod, "istio-init")["resources"] == expected
    injector.take(pod)


def test_image_log_levels_and_probe_times_by_annotation(injector: Injector) -> None:
    pod = injector.inject(
        pod_of(
            annotations={
                "sidecar.istio.io/proxyImage": "example.org/proxyv2:mine",
                "sidecar.istio.io/logLevel": "debug",
                "sidecar.istio.io/componentLogLevel": "jwt:trace",
                "sidecar.istio.io/agentLogLevel": "xdsproxy:debug",
                "readiness.status.sidecar.istio.io/initialDelaySeconds": "7",
                "readiness.status.sidecar.istio.io/periodSeconds": "08",
                "readiness.status.sidecar.istio.io/failureThreshold": "9",
            }
        )
    )
    sidecar, init = proxy(pod), container(pod, "istio-init")
    assert sidecar["image"] == init["image"] == "example.org/proxyv2:mine"
    assert sidecar["args"][-3:] == [
        "--proxyLogLevel=debug", "--proxyComponentLogLevel=jwt:trace", "--log_output_level=xdsproxy:debug",
    ]  # fmt: skip
    assert init["args"][-1] == "--log_output_level=xdsproxy:debug"
    probe = sidecar["readinessProbe"]
    assert (probe["initialDelaySeconds"], probe["periodSeconds"], probe["failureThreshold"]) == (7, 8, 9)


def test_the_image_type_is_istiods_business(injector: Injector) -> None:
    pod = injector.inject(pod_of(annotations={"sidecar.istio.io/proxyImageType": "distroless"}))
    assert proxy(pod)["image"] == "docker.io/istio/proxyv2:1.31.4-distroless"


def test_proxy_config_by_annotation(injector: Injector) -> None:
    config = {"concurrency": 3, "proxyMetadata": {"ISTIO_META_ENABLE_HBONE": "true", "SECRET_TTL": "1h"}}
    pod = injector.inject(pod_of(annotations={"proxy.istio.io/config": yaml.safe_dump(config)}))
    env = environment(proxy(pod))
    assert json.loads(env["PROXY_CONFIG"])["concurrency"] == 3
    assert env["SECRET_TTL"] == "1h"
    assert pod["metadata"]["labels"]["networking.istio.io/tunnel"] == "http"


def test_bootstrap_override(injector: Injector) -> None:
    pod = injector.inject(pod_of(annotations={"sidecar.istio.io/bootstrapOverride": "my-bootstrap"}))
    assert environment(proxy(pod))["ISTIO_BOOTSTRAP_OVERRIDE"] == "/etc/istio/custom-bootstrap/custom_bootstrap.json"
    mounts = {mount["name"]: mount["mountPath"] for mount in proxy(pod)["volumeMounts"]}
    assert mounts["custom-bootstrap-volume"] == "/etc/istio/custom-bootstrap"
    volume = next(each for each in pod["spec"]["volumes"] if each["name"] == "custom-bootstrap-volume")
    assert volume["configMap"] == {"name": "my-bootstrap"}


@pytest.mark.parametrize("form", ["list", "map"])
def test_user_volumes(injector: Injector, form: str) -> None:
    source, mount = {"secret": {"secretName": "certs"}}, {"mountPath": "/certs", "readOnly": True}
    volumes: Any = [{"name": "certs", **source}] if form == "list" else {"certs": source}
    mounts: Any = [{"name": "certs", **mount}] if form == "list" else {"certs": mount}
    pod = injector.inject(
        pod_of(
            annotations={
                "sidecar.istio.io/userVolume": json.dumps(volumes),
                "sidecar.istio.io/userVolumeMount": json.dumps(mounts),
            }
        )
    )
    assert {"name": "certs", **source} in pod["spec"]["volumes"]
    assert {"name": "certs", **mount} in proxy(pod)["volumeMounts"]
    assert len(pod["spec"]["volumes"]) == len(MOUNTS) + 1
    injector.take(pod)


@pytest.mark.parametrize("native", ["true", "false"])
def test_the_users_istio_proxy_container_wins(injector: Injector, native: str) -> None:
    own = {
        "name": "istio-proxy",
        "image": "auto",
        "securityContext": {"runAsUser": 2000, "runAsGroup": 2000},
        "resources": {"requests": {"cpu": "250m"}},
        "env": [{"name": "CA_ADDR", "value": "issuer.example:443"}, {"name": "MINE", "value": "1"}],
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    pod = injector.inject(
        pod_of(
            APPLICATION,
            own,
            annotations={"sidecar.istio.io/nativeSidecar": native},
            volumes=[{"name": "scratch", "emptyDir": {}}],
        )
    )
    sidecar = proxy(pod)
    assert names(pod) == (["web"] if native == "true" else ["web", "istio-proxy"])
    assert sidecar["image"] == "docker.io/istio/proxyv2:1.31.4"
    assert sidecar["securityContext"]["runAsUser"] == 2000
    assert sidecar["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert option(container(pod, "istio-init"), "-u") == "2000"
    assert sidecar["resources"]["requests"] == {"cpu": "250m", "memory": "128Mi"}
    env = environment(sidecar)
    assert (env["CA_ADDR"], env["MINE"], env["ISTIO_META_APP_CONTAINERS"]) == (
        "issuer.example:443",
        "1",
        "web",
    )
    assert sidecar["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert {"name": "scratch", "mountPath": "/scratch"} in sidecar["volumeMounts"]
    injector.take(pod)


def test_injecting_again_changes_nothing(injector: Injector) -> None:
    once = injector.inject(pod_of())
    again = injector.inject(once)
    assert again["spec"] == once["spec"]
    assert again["metadata"] == once["metadata"]


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY", "NONE"])
@pytest.mark.parametrize("native", ["true", "false"])
def test_the_api_server_takes_the_pod(injector: Injector, mode: str, native: str) -> None:
    annotations = {"sidecar.istio.io/interceptionMode": mode, "sidecar.istio.io/nativeSidecar": native}
    stored = injector.take(injector.inject(pod_of(annotations=annotations)))
    assert "istio-token" in [volume["name"] for volume in stored["spec"]["volumes"]]


# -- what a pod must not get

MARK = "h0stile"
HOSTILE = [
    f'{MARK}"',
    f"{MARK}'",
    f"{MARK}\n",
    f"{MARK}\n    privileged: true",
    f"{MARK}\n    securityContext:\n      privileged: true\n",
    f'{MARK}"\n    securityContext: {{privileged: true}}\n    image: "x',
    f"{MARK}\r\n  hostNetwork: true",
    f"{MARK}\n---\nspec: {{hostPID: true}}",
    f"{MARK}\u2028  hostNetwork: true\u0085  hostPID: true",
    f'{MARK}", privileged: true}}',
    f'{MARK}"}}], "hostNetwork": true, "x": [{{"y": "',
    f"{MARK}}}",
    f"{MARK}{{{{ .Values }}}}",
    f'{MARK}{{{{ fail "x" }}}}',
    f"{MARK}: &a [*a]",
    f"{MARK} #",
    f"{MARK}\\",
    f"{MARK}\t!!binary |",
    f"{MARK}\x00\x07\x7f\ufeff\ufffe",
    f"{MARK} --privileged",
    f"${{{MARK}}}$(POD_NAME)`id`",
    f"<{MARK}>&amp;",
    f"{MARK}%s%!d%",
]


def annotated(name: str, write: Callable[[str], str] = lambda text: text) -> Callable[[str], Json]:
    return lambda text: pod_of(annotations={name: write(text)})


def labelled(name: str) -> Callable[[str], Json]:
    return lambda text: pod_of(labels={name: text})


def owned(field: str) -> Callable[[str], Json]:
    def place(text: str) -> Json:
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "1", "controller": True}
        pod = pod_of()
        pod["metadata"]["ownerReferences"] = [{**owner, field: text}]
        del pod["metadata"]["labels"]["app"]  # so that the canonical name follows the owner's
        return pod

    return place


# Every place of a pod that reaches the template: where its author writes `text`, and a harmless text for it.
PLACES: dict[str, tuple[Callable[[str], Json], str]] = {
    **{
        f"annotation {name}": (annotated(name), benign)
        for name, benign in {
            "sidecar.istio.io/interceptionMode": "REDIRECT",
            "sidecar.istio.io/nativeSidecar": "benign",
            "sidecar.istio.io/proxyImage": "benign",
            "sidecar.istio.io/proxyImageType": "benign",
            "sidecar.istio.io/proxyCPU": "1",
            "sidecar.istio.io/proxyMemory": "1Gi",
            "sidecar.istio.io/proxyCPULimit": "1",
            "sidecar.istio.io/proxyMemoryLimit": "1Gi",
            "sidecar.istio.io/logLevel": "benign",
            "sidecar.istio.io/componentLogLevel": "benign",
            "sidecar.istio.io/agentLogLevel": "benign",
            "sidecar.istio.io/bootstrapOverride": "benign",
            "sidecar.istio.io/userVolume": "[]",
            "sidecar.istio.io/userVolumeMount": "[]",
            "sidecar.istio.io/statsInclusionPrefixes": "benign",
            "sidecar.istio.io/statsInclusionSuffixes": "benign",
            "sidecar.istio.io/statsInclusionRegexps": "benign",
            "sidecar.istio.io/extraStatTags": "benign",
            "sidecar.istio.io/rewriteAppHTTPProbers": "false",
            "status.sidecar.istio.io/port": "15020",
            "readiness.status.sidecar.istio.io/initialDelaySeconds": "1",
            "readiness.status.sidecar.istio.io/periodSeconds": "1",
            "readiness.status.sidecar.istio.io/failureThreshold": "1",
            "traffic.sidecar.istio.io/includeOutboundIPRanges": "*",
            "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.0.0.0/8",
            "traffic.sidecar.istio.io/includeInboundPorts": "*",
            "traffic.sidecar.istio.io/excludeInboundPorts": "1",
            "traffic.sidecar.istio.io/includeOutboundPorts": "1",
            "traffic.sidecar.istio.io/excludeOutboundPorts": "1",
            "traffic.sidecar.istio.io/kubevirtInterfaces": "net1",
            "traffic.sidecar.istio.io/excludeInterfaces": "net1",
            "istio.io/reroute-virtual-interfaces": "net1",
            "istio.io/rev": "benign",
            "kubectl.kubernetes.io/default-container": "benign",
            "kubectl.kubernetes.io/default-logs-container": "benign",
            "proxy.istio.io/config": "{}",
        }.items()
    },
    **{
        f"label {name}": (labelled(name), "benign")
        for name in (
            "app",
            "version",
            "app.kubernetes.io/name",
            "app.kubernetes.io/version",
            "service.istio.io/canonical-name",
            "service.istio.io/canonical-revision",
            "security.istio.io/tlsMode",
            "topology.istio.io/network",
        )
    },
    "tunnel label": (
        lambda text: pod_of(
            labels={"networking.istio.io/tunnel": text},
            annotations={"proxy.istio.io/config": "proxyMetadata: {ISTIO_META_ENABLE_HBONE: 'true'}"},
        ),
        "benign",
    ),
    **{f"owner's {field}": (owned(field), "benign") for field in ("name", "kind", "apiVersion")},
    "proxy config's metadata value": (
        annotated("proxy.istio.io/config", lambda text: json.dumps({"proxyMetadata": {"KEY": text}})),
        "benign",
    ),
    "proxy config's metadata name": (
        annotated("proxy.istio.io/config", lambda text: json.dumps({"proxyMetadata": {f"Z{text}": "value"}})),
        "benign",
    ),
    "proxy config's service cluster": (
        annotated("proxy.istio.io/config", lambda text: json.dumps({"serviceCluster": text})),
        "benign",
    ),
    "user volume's name": (
        annotated("sidecar.istio.io/userVolume", lambda text: json.dumps([{"name": text, "emptyDir": {}}])),
        "benign",
    ),
    "user volume's name as key": (
        annotated("sidecar.istio.io/userVolume", lambda text: json.dumps({text: {"emptyDir": {}}})),
        "benign",
    ),
    "user mount's path": (
        annotated("sidecar.istio.io/userVolumeMount", lambda text: json.dumps([{"name": "x", "mountPath": text}])),
        "benign",
    ),
    "container's name": (lambda text: pod_of({**APPLICATION, "name": text}), "benign"),
    "port's name": (
        lambda text: pod_of({**APPLICATION, "ports": [{"containerPort": 1, "name": text}]}),
        "benign",
    ),
}

# Those that take any text.
FREE = [place for place, (_, benign) in PLACES.items() if benign == "benign"]


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar and every empty list or object of a JSON document, by path."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    children = [leaf for key, child in entries for leaf in leaves(child, f"{path}/{key}")]
    yield from children or [(path, node)]


def differ_in_values_alone(found: Json, expected: Json) -> bool:
    """That both have the same fields, and what differs are strings with MARK in them."""
    left, right = dict(leaves(found)), dict(leaves(expected))
    changed = [value for path, value in left.items() if value != right.get(path)]
    return left.keys() == right.keys() and all(isinstance(value, str) and MARK in value for value in changed)


@cache
def harmless(injector: Injector, place: str) -> list[Json]:
    """What a pod with hostile text at `place` may look like."""
    build, benign = PLACES[place]
    pods = [build(benign)]
    if place.startswith("proxy config"):  # one that istiod cannot parse is ignored
        pods.append(pod_of(annotations={"proxy.istio.io/config": "{}"}))
    return [injector.inject(pod) for pod in pods]


def stays_a_value(injector: Injector, place: str, text: str) -> bool:
    """Asserts that `text` (with MARK in it) at `place` is refused (False) or adds no field (True)."""
    build, _ = PLACES[place]
    response = injector.review(build(text))
    if not response["allowed"]:
        return False
    found = patched(build(text), response)
    assert any(differ_in_values_alone(found, like) for like in harmless(injector, place)), yaml.safe_dump(found)
    return True


@pytest.mark.parametrize("place", PLACES)
def test_hostile_text_stays_a_value(injector: Injector, place: str) -> None:
    taken = [stays_a_value(injector, place, text) for text in HOSTILE]
    assert any(taken) or place not in FREE


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(FREE),
    text=st.text(
        st.characters(exclude_categories=["Cs"]) | st.sampled_from(string.punctuation + string.whitespace),
        max_size=60,
    ),
)
def test_any_text_stays_a_value(injector: Injector, place: str, text: str) -> None:
    stays_a_value(injector, place, MARK + text)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("sidecar.istio.io/userVolume", [{"name": "istio-token", "$patch": "delete"}]),
        ("sidecar.istio.io/userVolume", [{"$patch": "replace"}]),
        ("sidecar.istio.io/userVolume", {"istio-token": {"$patch": "delete"}}),
        ("sidecar.istio.io/userVolumeMount", [{"mountPath": "/var/run/secrets/tokens", "$patch": "delete"}]),
        ("sidecar.istio.io/userVolumeMount", [{"$patch": "replace"}]),
    ],
)
def test_user_lists_cannot_carry_patch_directives(injector: Injector, annotation: str, value: Any) -> None:
    response = injector.review(pod_of(annotations={annotation: json.dumps(value)}))
    if response["allowed"]:
        pod = patched(pod_of(), response)
        assert set(MOUNTS) <= {volume["name"] for volume in pod["spec"]["volumes"]}
        assert set(MOUNTS.values()) <= {mount["mountPath"] for mount in proxy(pod)["volumeMounts"]}


@pytest.mark.parametrize("value", ["x", '"x"', "5", "true", "[1]", '["x"]', '{"x": 1}', "[", "{{ 1 }}"])
def test_user_lists_of_another_form_are_refused(injector: Injector, value: str) -> None:
    for name in ("userVolume", "userVolumeMount"):
        assert "template" in injector.refusal(pod_of(annotations={f"sidecar.istio.io/{name}": value}))


def test_a_list_of_outbound_ports_that_is_none_is_refused_by_name(injector: Injector) -> None:
    message = injector.refusal(pod_of(annotations={"traffic.sidecar.istio.io/includeOutboundPorts": "1;2"}))
    assert "traffic.sidecar.istio.io/includeOutboundPorts: want ports separated by commas" in message
