"""What the tests of this folder share: the cluster through other eyes than the operator's, and the operator in hand.

There is a real API server and nothing else: no kubelet, no controllers, no istiod. Where an installation needs
their word (pods are ready, istiod has written its CA into the webhook), the tests say it in their place.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import datetime as dt
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pykube
import requests
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from lone import alone
from meshwright.cluster.client import Client
from meshwright.controller.metrics import Metrics
from meshwright.controller.reconcile import Again, Reconciler
from meshwright.controller.reporter import Reporter
from meshwright.mesh.names import Names
from meshwright.render import objects
from testbed.apiserver import ApiServer
from testbed.console import TestbedError
from testbed.rest import wait_until

Json = dict[str, Any]

BUNDLE = base64.b64encode(b"the CA of istiod").decode()  # what istiod writes into its webhooks
NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
OPERATOR_NAMESPACE = "meshwright-system"
VERSION = "1.31.4"
MESH_LABEL = "meshwright.dev/mesh"
# A control plane whose replicas we declare; by default they are an autoscaler's.
DECLARED: dict[str, Any] = {"autoscaling": {"enabled": False}}

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MESHES = "/apis/meshwright.dev/v1alpha1/meshinstalls"
ACTIONS = "/apis/meshwright.dev/v1alpha1/meshactions"
GATEWAYS = "/apis/networking.istio.io/v1/gateways"
DESTINATION_RULES = "/apis/networking.istio.io/v1/destinationrules"
NETWORKING: dict[str, Any] = {"clusters": [{"name": "primary"}], "locality": {}}  # asks for an object of each
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1"

# Every kind that an operator of ours might touch; leases and Events move by themselves.
LOOKED_AT = (
    "/api/v1/namespaces",
    "/api/v1/secrets",
    "/api/v1/configmaps",
    "/api/v1/services",
    "/api/v1/serviceaccounts",
    "/api/v1/pods",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/daemonsets",
    "/apis/autoscaling/v2/horizontalpodautoscalers",
    "/apis/policy/v1/poddisruptionbudgets",
    "/apis/rbac.authorization.k8s.io/v1/roles",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    f"{WEBHOOKS}/mutatingwebhookconfigurations",
    f"{WEBHOOKS}/validatingwebhookconfigurations",
    "/apis/security.istio.io/v1/peerauthentications",
    GATEWAYS,
    DESTINATION_RULES,
    CRDS,
)


class RefusedError(TestbedError):
    """The API server's answer to a request of a test, when it is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Answer(NamedTuple):
    body: Json
    warnings: str


class Cluster:
    """The cluster as a bystander sees it: through pykube, as administrator."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self._http = pykube.HTTPClient(pykube.KubeConfig.from_file(str(api.kubeconfig)))

    def close(self) -> None:
        self._http.session.close()

    def ask(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Answer:
        """Raises RefusedError."""
        send: Callable[..., requests.Response] = getattr(self._http, method.lower())
        more = {} if body is None else {"data": json.dumps(body), "headers": {"Content-Type": kind}}
        base, _, query = path.partition("?")
        response = send(version="", base=base, params=query, **more)
        while response.status_code == 429:  # a kind that is just being served
            time.sleep(0.05)
            response = send(version="", base=base, params=query, **more)
        if not response.ok:
            try:
                message = str(response.json()["message"])
            except (ValueError, KeyError):
                message = response.text
            raise RefusedError(response.status_code, message)
        return Answer(response.json(), response.headers.get("Warning", ""))

    def get(self, path: str) -> Json | None:
        try:
            return self.ask("GET", path).body
        except RefusedError as refused:
            if refused.status == 404:
                return None
            raise

    def must_get(self, path: str) -> Json:
        return self.ask("GET", path).body

    def list(self, path: str, labels: str = "") -> list[Json]:
        """With apiVersion and kind in each item, which an API server leaves out of lists."""
        found = self.get(f"{path}?labelSelector={labels}" if labels else path) or {}
        items = found.get("items") or ()
        return [
            {"apiVersion": found["apiVersion"], "kind": found["kind"].removesuffix("List"), **item} for item in items
        ]

    def create(self, manifest: Json, query: str = "fieldManager=kubectl-create") -> Answer:
        metadata = manifest["metadata"]
        path = path_of(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""))
        return self.ask("POST", f"{path}?{query}", manifest)

    def apply(self, manifest: Json, manager: str = "kubectl", query: str = "") -> Answer:
        query = f"fieldManager={manager}&force=true{query}"
        return self.ask("PATCH", f"{path_of_item(manifest)}?{query}", manifest, "application/apply-patch+yaml")

    def merge(self, path: str, patch: Json, manager: str = "kubectl-edit") -> Json:
        return self.ask("PATCH", f"{path}?fieldManager={manager}", patch, "application/merge-patch+json").body

    def json_patch(self, path: str, *operations: Json) -> Json:
        return self.ask("PATCH", path, list(operations), "application/json-patch+json").body

    def delete(self, path: str) -> None:
        """Now, whatever grace there would be; what is not there is fine."""
        try:
            self.ask("DELETE", path, {"gracePeriodSeconds": 0})
        except RefusedError as refused:
            if refused.status != 404:
                raise

    def make_namespace(self, name: str) -> None:
        if self.get(f"/api/v1/namespaces/{name}") is None:
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def snapshot(self) -> dict[str, str]:
        """What there is, and in which version; two equal ones have no write between them."""
        return {
            f"{path.rpartition('/')[2]} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}": item[
                "metadata"
            ]["resourceVersion"]
            for path in LOOKED_AT
            for item in self.list(path)
        }

    def private_keys(self) -> Sequence[str]:
        """The bodies of all private keys in Secrets, as base64 without line breaks."""
        found = []
        for secret in self.list("/api/v1/secrets"):
            for text in (secret.get("data") or {}).values():
                content = base64.b64decode(text).decode(errors="replace")
                if "PRIVATE KEY" in content:
                    lines = content.strip().splitlines()
                    found.append("".join(line for line in lines if not line.startswith("-----")))
        return found


def path_of(api_version: str, kind: str, namespace: str = "", name: str = "") -> str:
    singular = kind.lower()
    plural = f"{singular[:-1]}ies" if kind.endswith("cy") else f"{singular}{'es' if kind.endswith('s') else 's'}"
    parts = ["/apis" if "/" in api_version else "/api", api_version]
    if namespace:
        parts += ["namespaces", namespace]
    return "/".join([*parts, plural, *([name] if name else [])])


def path_of_item(item: Json) -> str:
    metadata = item["metadata"]
    return path_of(item["apiVersion"], item["kind"], metadata.get("namespace", ""), metadata["name"])


_numbers = itertools.count(1)


@dataclass(frozen=True)
class Mesh:
    """A MeshInstall with a name, a namespace and a revision that no other test has."""

    cluster: Cluster
    name: str
    namespace: str
    revision: str

    @classmethod
    def fresh(cls, cluster: Cluster, revision: str = "") -> Mesh:
        number = next(_numbers)
        return cls(cluster, f"mesh{number}x", f"space{number}x", revision or f"rev{number}x")

    @property
    def names(self) -> Names:
        return Names(self.namespace, self.revision)

    @property
    def path(self) -> str:
        return f"{MESHES}/{self.name}"

    @property
    def deployment_path(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.names.istiod}"

    @property
    def autoscaler_path(self) -> str:
        """Of ours."""
        return f"/apis/autoscaling/v2/namespaces/{self.namespace}/horizontalpodautoscalers/{self.names.istiod}"

    @property
    def injector_path(self) -> str:
        return f"{WEBHOOKS}/mutatingwebhookconfigurations/{self.names.mutating_webhook}"

    @property
    def validator_path(self) -> str:
        return f"{WEBHOOKS}/validatingwebhookconfigurations/{self.names.validating_webhook}"

    @property
    def root_path(self) -> str:
        return f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/secrets/meshwright-root-{self.name}"

    @property
    def cacerts_path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/secrets/cacerts"

    def manifest(self, **spec: Any) -> Json:
        own = {"version": VERSION, "namespace": self.namespace, "revision": self.revision}
        return {
            "apiVersion": "meshwright.dev/v1alpha1",
            "kind": "MeshInstall",
            "metadata": {"name": self.name},
            "spec": {name: value for name, value in {**own, **spec}.items() if value is not None},
        }

    def create(self, **spec: Any) -> Mesh:
        self.cluster.create(self.manifest(**spec))
        return self

    def change(self, **spec: Any) -> None:
        """Fields of the spec by a merge patch: None takes one away. Raises RefusedError."""
        self.cluster.merge(self.path, {"spec": spec})

    def read(self) -> Json:
        return self.cluster.must_get(self.path)

    @property
    def status(self) -> Json:
        status: Json = self.read().get("status") or {}
        return status

    def condition(self, kind: str = "Ready") -> Json:
        return next((each for each in self.status.get("conditions", []) if each["type"] == kind), {})

    def events(self) -> list[Json]:
        events = self.cluster.list("/apis/events.k8s.io/v1/namespaces/default/events")
        return [each for each in events if each["regarding"].get("name") == self.name]

    def objects(self) -> list[Json]:
        """Everything that carries the mesh's label, Secrets included."""
        label = f"{MESH_LABEL}={self.name}"
        return [item for path in LOOKED_AT for item in self.cluster.list(path, label)]

    def deployments(self) -> list[Json]:
        """istiod's and the gateways'."""
        return self.cluster.list("/apis/apps/v1/deployments", f"{MESH_LABEL}={self.name}")

    # -- in the place of others

    def istiod_becomes_available(self, available: int | None = None) -> None:
        """What the Deployment controller writes when all pods of istiod are made, and so many of them (all) ready."""
        self.becomes_available(self.deployment_path, available)

    def gateways_become_available(self, available: int | None = None) -> None:
        """The same for all gateways."""
        for each in self.deployments():
            if each["metadata"]["labels"]["meshwright.dev/component"] == "gateway":
                self.becomes_available(path_of_item(each), available)

    def agents_become_ready(self, nodes: int = 1) -> None:
        """What the DaemonSet controller writes when istio-cni runs on so many nodes."""
        for each in self.cluster.list("/apis/apps/v1/daemonsets", f"{MESH_LABEL}={self.name}"):
            counts = ("desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled", "numberReady")
            status = {
                "observedGeneration": each["metadata"]["generation"], "numberMisscheduled": 0,
                **dict.fromkeys(counts, nodes),
            }  # fmt: skip
            path = f"{path_of_item(each)}/status"
            self.cluster.merge(path, {"status": status}, manager="kube-controller-manager")

    def becomes_available(self, path: str, available: int | None = None) -> None:
        """Of any Deployment."""
        deployment = self.cluster.must_get(path)
        count = deployment["spec"]["replicas"]
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            **dict.fromkeys(("replicas", "updatedReplicas"), count),
            **dict.fromkeys(("readyReplicas", "availableReplicas"), count if available is None else available),
        }
        self.cluster.merge(f"{path}/status", {"status": status}, manager="kube-controller-manager")

    def istiod_writes_its_ca(self) -> None:
        """What istiod writes into its injection webhook when it serves."""
        webhooks = self.cluster.must_get(self.injector_path)["webhooks"]
        operations = [
            {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": BUNDLE}
            for index in range(len(webhooks))
        ]
        self.cluster.json_patch(f"{self.injector_path}?fieldManager=pilot-discovery", *operations)

    def take_away(self) -> None:
        """What other tests would see of it; the rest has names that nobody else uses, and stays."""
        if self.cluster.get(self.path):
            self.cluster.delete(self.path)
            if self.cluster.get(self.path):
                self.cluster.merge(self.path, {"metadata": {"finalizers": None}})
        self.cluster.delete(self.injector_path)
        self.cluster.delete(self.deployment_path)
        for name in (self.names.validating_webhook, "istiod-default-validator"):
            self.cluster.delete(f"{WEBHOOKS}/validatingwebhookconfigurations/{name}")
        for kind in ("clusterroles", "clusterrolebindings"):  # of istio-cni, of which there is one
            for each in self.cluster.list(f"/apis/rbac.authorization.k8s.io/v1/{kind}", f"{MESH_LABEL}={self.name}"):
                self.cluster.delete(path_of_item(each))


def accepted_by_the_server(cluster: Cluster, manifest: Json) -> bool:
    try:
        cluster.create(manifest, "dryRun=All&fieldValidation=Strict")
    except RefusedError as refused:
        assert refused.status in (400, 422), refused  # noqa: PT017
        return False
    return True


# -- the operator, in hand


class Sent(NamedTuple):
    method: str
    path: str
    kind: str
    what: str
    body: Json | None = None

    @property
    def writes(self) -> bool:
        return self.method != "GET" and "dryRun=All" not in self.path

    @property
    def reports(self) -> bool:
        """Status and Events: what a reconcile that must not touch anything may still write."""
        return self.kind == "Event" or "/status?" in self.path


class Wire(Client):
    """The operator's client with a seam on both sides of each request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sent: list[Sent] = []
        self.before: Callable[[Sent], None] = lambda _: None
        self.after: Callable[[Sent], None] = lambda _: None

    async def _request(self, method: str, path: str, *args: Any, **kwargs: Any) -> Json:
        request = Sent(method, path, kwargs["kind"], kwargs["what"], next(iter(args), None))
        self.before(request)
        self.sent.append(request)
        answer = await super()._request(method, path, *args, **kwargs)
        self.after(request)
        return answer

    def again(self) -> Wire:
        """The connections of this one, for another life."""
        other = copy.copy(self)
        other.sent, other.before, other.after = [], lambda _: None, lambda _: None
        return other

    def writes(self) -> list[str]:
        """What was written other than status and Events, in order."""
        return [request.what for request in self.sent if request.writes and not request.reports]

    def everything_written(self) -> list[str]:
        return [request.what for request in self.sent if request.writes]


@dataclass
class Operator:
    """One life of the operator's process: what it knows in memory ends with it."""

    wire: Wire
    reconciler: Reconciler
    metrics: Metrics

    @classmethod
    def start(
        cls, wire: Wire, *, now: dt.datetime = NOW, generation_of: Callable[[str], int] = lambda _: 0
    ) -> Operator:
        metrics = Metrics(version="test")
        reporter = Reporter(wire, metrics, instance="test", now=lambda: now)
        reconciler = Reconciler(alone(wire), reporter, now=lambda: now, generation_of=generation_of)
        return cls(wire, reconciler, metrics)

    async def reconcile(self, mesh: Mesh) -> Again | None:
        """One reconcile; `wire.sent` then holds its requests.

        A kind whose CRD has just changed is answered for with 429 for a moment: that is waited for.
        """
        for _ in range(50):
            self.wire.sent.clear()
            again = await self.reconciler.reconcile(mesh.name)
            if not (again and again.failed and "(re)initializing" in mesh.condition().get("message", "")):
                break
            await asyncio.sleep(0.1)
        return again

    async def install(self, mesh: Mesh) -> None:
        """Until the mesh is as declared, with the rest of the world playing along."""
        await self.reconcile(mesh)
        mesh.istiod_becomes_available()
        await self.reconcile(mesh)
        mesh.istiod_writes_its_ca()
        mesh.agents_become_ready()
        mesh.gateways_become_available()
        await self.reconcile(mesh)
        assert mesh.condition()["reason"] == "Installed", mesh.condition()

    async def repair(self, mesh: Mesh) -> None:
        """Until a mesh that something was done to is as declared again."""
        await self.reconcile(mesh)
        turns = (
            mesh.istiod_becomes_available, mesh.istiod_writes_its_ca, mesh.agents_become_ready,
            mesh.gateways_become_available,
        )  # fmt: skip
        for turn in turns:
            if mesh.condition()["reason"] != "Installed":
                turn()
                await self.reconcile(mesh)
        assert mesh.condition()["reason"] == "Installed", mesh.condition()

    def measured(self, metric: str, mesh: Mesh, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"meshwright_mesh_{metric}", {"mesh": mesh.name, **labels})


@contextmanager
def short_istio_api() -> Iterator[None]:
    """One CRD of Istio's fifteen: the others take a second of each test, and matter in one."""
    needed = tuple(each for each in objects._crds() if each.key.name.startswith("peerauthentications."))  # noqa: SLF001
    with mock.patch.object(objects, "_crds", return_value=needed):
        yield


@contextmanager
def networking_served(cluster: Cluster) -> Iterator[None]:
    """Istio's kinds Gateway and DestinationRule, which somebody else has installed: for what is of `NETWORKING`."""
    crds = [
        each.manifest
        for each in objects._crds()  # noqa: SLF001
        if each.key.name in ("gateways.networking.istio.io", "destinationrules.networking.istio.io")
    ]
    for crd in crds:
        cluster.apply({**crd, "metadata": {"name": crd["metadata"]["name"]}})
    served = (GATEWAYS, DESTINATION_RULES)
    wait_until(lambda: all(cluster.get(each) is not None for each in served), "both", seconds=20, pause=0.05)
    try:
        yield
    finally:
        paths = [path_of_item(each) for each in crds]
        for each in paths:
            cluster.delete(each)
        wait_until(lambda: not any(cluster.get(each) for each in paths), "their end", seconds=30, pause=0.05)


@asynccontextmanager
async def operator(kubeconfig: Path) -> AsyncIterator[Operator]:
    """An operator that has just started."""
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    configuration.connection_pool_maxsize = 6  # handshakes are what these tests would spend their time on
    wire = Wire(configuration)
    try:
        yield Operator.start(wire)
    finally:
        await wire.close()


# -- objects compared

INJECTED = "meshwright.dev/injected"

VOLATILE = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "generation",
)


def canonical(mesh: Mesh) -> dict[str, Json]:
    """All objects of a mesh, comparable between meshes of different names: no identities, times, keys, addresses."""
    return dict(sorted(_canonical(mesh, mesh.objects())))


def _canonical(mesh: Mesh, items: Iterable[Json]) -> Iterator[tuple[str, Json]]:
    for item in items:
        item = json.loads(json.dumps(item))  # noqa: PLW2901
        metadata = item["metadata"]
        writers = sorted({(each["manager"], each.get("subresource", "")) for each in metadata.get("managedFields", ())})
        for name in VOLATILE:
            metadata.pop(name, None)
        if "data" in item and "type" in item:  # a Secret
            item["data"] = sorted(item["data"])
        for name in ("clusterIP", "clusterIPs"):
            (item.get("spec") or {}).pop(name, None)
        template = (item.get("spec") or {}).get("template") or {"metadata": {}}
        if INJECTED in (notes := template["metadata"].get("annotations") or {}):
            notes[INJECTED] = "a digest, also of the root"
        text = json.dumps({**item, "writers": writers}, sort_keys=True)
        root = (mesh.status["clusters"][0].get("trust") or {}).get("rootFingerprint", "")
        for word, stands_for in (
            (root, "ROOT"),
            (mesh.namespace, "NAMESPACE"),
            (mesh.revision, "REVISION"),
            (mesh.name, "MESH"),
        ):
            text = text.replace(word, stands_for) if word else text
        item = json.loads(text)  # noqa: PLW2901
        where = item["metadata"].get("namespace", "")
        yield f"{item['kind']} {where}/{item['metadata']['name']}", item
