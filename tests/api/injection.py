"""The real istiod beside a bare API server, and pods through its webhook.

istiod runs as a plain process: no kubelet, no webhook configuration; `/inject` is called directly. What the API
server does around it (defaults, selectors) is not under test; that it takes the result, is.
"""

from __future__ import annotations

import base64
import copy
import http.client
import json
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from meshwright.mesh.injection import injector_values
from testbed import programs
from testbed.apiserver import ApiServer
from testbed.processes import Child
from testbed.rest import wait_until

Json = dict[str, Any]

TEMPLATES = Path(__file__).parents[2] / "templates/injection"
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
    "image_pull_secrets": [],
    "hold_application": False,
    "proxy_resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2000m", "memory": "1Gi"}},
    "proxy_log_level": "warning",
    "cni_enabled": False,
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
        self.api, self.port = api, port
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
        answer = self.api.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod))
        stored: Json = json.loads(answer)
        return stored

    def load(self, values: Json) -> None:
        """Puts `values` beside the template and waits until istiod injects by them."""
        self._generation += 1
        values = copy.deepcopy(values)
        values["global"]["meshID"] = mesh_id = f"{values['global']['meshID']}-{self._generation}"
        config_map = json.dumps(injector_config_map(values))
        self.api.kubectl("apply", "--server-side", "-f", "-", stdin=config_map)

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
        "templates": {path.stem: path.read_text() for path in TEMPLATES.glob("*.tpl")},
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio-sidecar-injector", "namespace": NAMESPACE},
        "data": {"config": yaml.safe_dump(config), "values": json.dumps(values)},
    }


def namespace(name: str, labels: dict[str, str] | None = None) -> list[Json]:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}, account]


def node(name: str, kubelet: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"nodeInfo": {"kubeletVersion": kubelet}},
    }


@contextmanager
def running_istiod(api: ApiServer, folder: Path, **env: str) -> Iterator[Injector]:
    """istiod with our templates, and `env` in its environment, as a process beside the API server."""
    http_port, https_port, *others = free_ports(6)
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
            **env,
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


def prepare(api: ApiServer, mesh_config: Json = MESH) -> None:
    """What istiod reads at its start, and what the API server wants of a pod: a service account."""
    mesh = {"mesh": json.dumps(mesh_config), "meshNetworks": "networks: {}"}
    items: list[Json] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        *namespace("default"),
        *namespace("baseline", {"pod-security.kubernetes.io/enforce": "baseline"}),
        *namespace("restricted", {"pod-security.kubernetes.io/enforce": "restricted"}),
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
