"""Two clusters in memory, one of them with the operator, and its death before any of its writes to either.

What dies is the reconciler with all that it remembers. Another one begins with what the two clusters hold.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import yaml

from meshes import NOW, manifest
from meshwright.api.errors import Unreachable
from meshwright.api.meshinstall import FINALIZER, LABEL_MESH
from meshwright.cluster.client import Client
from meshwright.controller.members import Member, Members
from meshwright.controller.metrics import Metrics
from meshwright.controller.reconcile import Reconciler
from meshwright.controller.reporter import STATUS_MANAGER, Reporter
from meshwright.mesh.objects import Key, Manifest
from object_store import ObjectStore

Json = dict[str, Any]

OPERATOR_NAMESPACE, SYSTEM = "meshwright-system", "istio-system"
EAST, WEST = {"name": "east"}, {"name": "west", "kubeconfigSecret": "west"}
BY_HAND = {"autoscaling": {"enabled": False}}
SPEC: Json = {
    "clusterName": "east",
    "controlPlane": BY_HAND,
    "topology": {"eastWestGateway": {**BY_HAND, "service": {"externalIPs": ["192.0.2.9"]}}},
}
MESH = Key.of(manifest())
GATEWAY = "istio-eastwestgateway"
INJECTED = "meshwright.dev/injected"  # a digest, also of the root
LOOKS = 40  # until everything is at rest
STILL = 3  # looks in a row; a former token is revoked only some seconds after it was replaced


class KilledError(Exception):
    """The operator is dead: not one more request of its is taken."""


class Fate:
    """Of one run: before which write the operator dies, counted over both clusters."""

    def __init__(self, dies_before: int | None = None) -> None:
        self.dies_before, self.writes, self.dead = dies_before, 0, False

    def write(self) -> None:
        if self.dead or self.writes == self.dies_before:
            self.dead, self.dies_before = True, None
            raise KilledError
        self.writes += 1


class Server(ObjectStore):
    """An API server that counts what the operator writes, hands out tokens, and may be cut off."""

    def __init__(self, name: str, *, born: int) -> None:
        """`born`: where its UIDs begin."""
        super().__init__()
        self._born = born
        self.name, self.fate, self.away = name, Fate(), False
        self.clock: dt.timedelta | None = None
        self.guard: Callable[[], None] = lambda: None
        self.now: Callable[[], dt.datetime] = lambda: NOW
        self.synced = True
        self.tokens: dict[str, tuple[str, str]] = {}  # name and uid of what each is bound to
        self.put(_plain("Namespace", "kube-system"))
        self.put(_plain("Secret", "kube-root-ca", "default"))

    def _note(self, verb: str, key: Key, manager: str, body: Manifest, *, force: bool = True) -> None:
        self._reach()
        if verb != "try":
            self.fate.write()
        super()._note(verb, key, manager, body, force=force)

    def _reach(self) -> None:
        if self.away:
            raise Unreachable(f"the API server of {self.name} does not answer")

    async def version(self) -> str:
        self._reach()
        return await super().version()

    async def get(self, *arguments: Any, **options: Any) -> Manifest | None:
        self._reach()
        return await super().get(*arguments, **options)

    async def list(self, *arguments: Any, **options: Any) -> Any:
        self._reach()
        return await super().list(*arguments, **options)

    async def may(self, *_: str) -> bool:
        return True

    async def close(self) -> None:
        """There is no connection."""

    async def request_token(self, namespace: str, account: str, *, secret: tuple[str, str], seconds: int) -> Manifest:
        self._reach()
        self.fate.write()
        token = f"token-{len(self.tokens)}-of-{namespace}/{account}"
        self.tokens[token] = secret
        ends = self.now() + dt.timedelta(seconds=seconds)
        return {"token": token, "expirationTimestamp": ends.isoformat().replace("+00:00", "Z")}

    def is_good(self, token: str) -> bool:
        """Whether what the token is bound to is there."""
        bound = ((each["metadata"]["name"], each["metadata"]["uid"]) for each in self.secrets)
        return self.tokens.get(token) in set(bound)

    @property
    def secrets(self) -> tuple[Manifest, ...]:
        """In the mesh's namespace."""
        return tuple(each for key, each in self.objects.items() if (key.kind, key.namespace) == ("Secret", SYSTEM))

    async def proxied(self, *_: Any, **__: Any) -> bytes:
        return b""

    async def run(self) -> None:
        """As informers do, which are not needed here."""
        await asyncio.Event().wait()


class Istiod(Server):
    """A server whose pods of istiod answer: they read the other cluster by what their remote Secrets hold."""

    other: Istiod
    passes = True  # traffic to the other one

    async def forwarded(self, _namespace: str, _pod: str, _port: int, path: str) -> bytes:
        if path == "/reach":
            passed = 10 if self.passes else 9
            row = {"requests": 10, "passed": passed, "medianMs": 3.1, "failure": "" if self.passes else "timed out"}
            return json.dumps(dict.fromkeys(self.reads, row)).encode()
        if path == "/debug/mesh":
            return json.dumps(yaml.safe_load(self.one("ConfigMap", "istio")["data"]["mesh"])).encode()
        return json.dumps([{"id": name, "syncStatus": "synced"} for name in self.reads]).encode()

    @property
    def reads(self) -> tuple[str, ...]:
        """Other clusters, by tokens that are good there."""
        found: tuple[str, ...] = ()
        for each in self.secrets:
            for name, text in (each.get("data") or {}).items() if "remote-secret" in each["metadata"]["name"] else ():
                config = json.loads(base64.b64decode(text))
                if self.other.is_good(config["users"][0]["user"]["token"]):
                    found += (name,)
        return found


class Worlds:
    def __init__(self, fate: Fate | None = None) -> None:
        self.fate, self.now = fate or Fate(), NOW
        self.east, self.west = Istiod("east", born=0), Istiod("west", born=1000)
        self.east.put(API_ADDRESS)
        self.east.put(OPERATOR)
        self.deaths = 0
        self.probed: set[str] = set()  # the questions for which there was a pod
        self._connected()

    def _connected(self) -> None:
        self.east.other, self.west.other = self.west, self.east
        for each in self.all:
            each.fate, each.now = self.fate, lambda: self.now
        secret = _plain("Secret", "west", OPERATOR_NAMESPACE, labels={"of": self.west.name})
        self.east.put({**secret, "data": {"kubeconfig": KUBECONFIG}})

    @property
    def all(self) -> tuple[Istiod, Istiod]:
        return self.east, self.west

    # What people do

    def declare(self, *clusters: Json, **spec: Any) -> None:
        wanted = {**SPEC, "clusters": list(clusters), **spec}
        if MESH not in self.east.objects:
            self.east.put({**manifest(**wanted), "metadata": {"name": "demo", "generation": 1}, "status": {}})
            return
        generation = self.east.objects[MESH]["metadata"]["generation"] + 1
        self.east.edit(MESH, {"metadata": {"generation": generation}, "spec": wanted})

    def annotate(self, annotation: str, text: str) -> None:
        self.east.edit(MESH, {"metadata": {"annotations": {annotation: text}}})

    def delete(self) -> None:
        deleted = {"deletionTimestamp": "2026-03-01T12:00:00Z", "finalizers": [FINALIZER]}
        self.east.edit(MESH, {"metadata": deleted})

    def rebuild_west(self) -> None:
        """Another cluster is there by that name, and its kubeconfig in the Secret."""
        self.west = Istiod("west", born=2000)
        self._connected()

    # What the operator does

    async def rests(self) -> None:
        """Until looks change nothing any more; an operator that dies is followed by another one."""
        while True:
            async with self._operator() as operator:
                try:
                    await self._looks_until_rest(operator)
                except Exception:
                    if not self.fate.dead:
                        raise
                    self.deaths, self.fate.dead = self.deaths + 1, False
                else:
                    return

    async def _looks_until_rest(self, operator: Reconciler) -> None:
        still = 0
        for _ in range(LOOKS):
            before = self._state()
            await operator.reconcile("demo")
            self._others_act()
            self.now += dt.timedelta(seconds=15)
            still = still + 1 if self._state() == before else 0
            if still == STILL:
                return
        raise AssertionError(f"no rest after {LOOKS} looks: {self.ready}")

    @asynccontextmanager
    async def _operator(self) -> AsyncIterator[Reconciler]:
        """Another process, which knows nothing."""
        members = Members(
            Member(self.east, self.east), namespace=OPERATOR_NAMESPACE, connect=self._connect, reflect=_itself,
            changed=lambda: None, now=lambda: self.now,
        )  # fmt: skip
        reporter = Reporter(self.east, Metrics(version="0"), instance="me", now=lambda: self.now)
        try:
            yield Reconciler(members, reporter, now=lambda: self.now)
        finally:
            await members.close()

    def _connect(self, _: object) -> Client:
        return self.west

    # What controllers do

    def _others_act(self) -> None:
        for server in self.all:
            for key, each in list(server.objects.items()):
                if key.kind == "Deployment":
                    count = each["spec"]["replicas"]
                    status = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), count)
                    server.put({**each, "status": status}, manager="kube-controller-manager")
                if key.kind == "CustomResourceDefinition":
                    established = {"conditions": [{"type": "Established", "status": "True"}]}
                    server.put({**each, "status": established}, manager="kube-apiserver")
                if key.kind == "MutatingWebhookConfiguration":
                    for webhook in each["webhooks"]:
                        webhook["clientConfig"]["caBundle"] = "CA"
                    server.put(each, manager="pilot-discovery")
            self._runs_istiod(server)
            self._runs_probe(server)

    def _runs_istiod(self, server: Istiod) -> None:
        key = Key("v1", "Pod", SYSTEM, "istiod-0")
        wanted = any(each.kind == "Deployment" and each.name == "istiod" for each in server.objects)
        if wanted and key not in server.objects:
            labels = {"app": "istiod", "istio": "pilot", "istio.io/rev": "default"}
            pod = _plain("Pod", "istiod-0", SYSTEM, labels=labels)
            server.put({**pod, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        elif not wanted and key in server.objects:
            server.remove(key)

    def _runs_probe(self, server: Istiod) -> None:
        """A pod of the Deployment's newest template, while that is there."""
        key, owner = Key("v1", "Pod", SYSTEM, "probe-0"), Key("apps/v1", "Deployment", SYSTEM, "meshwright-probe")
        pod, deployment = server.objects.get(key), server.objects.get(owner)
        template = deployment["spec"]["template"]["metadata"] if deployment else {}
        if pod and pod["metadata"].get("annotations") != template.get("annotations"):
            server.remove(key)
            pod = None
        if template and not pod:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template, "name": key.name, "namespace": SYSTEM}}
            server.put({**pod, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
            self.probed.add(template["annotations"]["meshwright.dev/verifies"])

    # What is seen

    @property
    def status(self) -> Json:
        found: Json = self.east.objects[MESH]["status"]
        return found

    @property
    def ready(self) -> Json:
        return next(each for each in self.status["conditions"] if each["type"] == "Ready")

    def cluster(self, name: str) -> Json:
        return next((each for each in self.status["clusters"] if each["name"] == name), {})

    def end(self) -> Mapping[str, Any]:
        """All that there is of the mesh, in words that hold for every run; of a Secret, what it is for."""
        chance = {text: name for each in self.status["clusters"] for name, text in (each.get("trust") or {}).items()}
        return {
            f"{server.name} {key}": _comparable(each, chance)
            for server in self.all
            for key, each in sorted(server.objects.items(), key=lambda item: str(item[0]))
            if (each["metadata"].get("labels") or {}).get(LABEL_MESH) == "demo"
        }

    def _state(self) -> str:
        """Of everything but what the operator tells."""
        return json.dumps([
            [[str(key), each["metadata"].get("resourceVersion")] for key, each in server.objects.items()
             if key != MESH and key.kind not in ("Event", "CustomResourceDefinition")]
            for server in self.all
        ] + [(self.east.objects.get(MESH) or {}).get("status", {}).get("conditions")])  # fmt: skip


def _itself(client: Any) -> Any:
    return client


def _comparable(each: Manifest, chance: Mapping[str, str]) -> Json:
    """`chance`: what is random, and a word for it."""
    labels = each["metadata"].get("labels") or {}
    if each["kind"] == "Secret":  # which of the two that take turns, too, is chance
        return {"labels": labels, "files": sorted(each.get("data") or {})}
    entries = each["metadata"].get("managedFields") or ()
    writers = {f"{one['manager']} {one['operation']}" for one in entries if one["manager"] != STATUS_MANAGER}
    text = json.dumps({"labels": labels, "spec": each.get("spec"), "writers": sorted(writers)})
    for random, word in chance.items():
        text = text.replace(random, word)
    found: Json = json.loads(text)
    (found["spec"] or {}).get("template", {}).get("metadata", {}).get("annotations", {}).pop(INJECTED, None)
    return found


def _plain(kind: str, name: str, namespace: str = "", *, labels: Mapping[str, str] | None = None) -> Json:
    place = {"namespace": namespace} if namespace else {}
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": dict(labels or {}), **place}}


def _kubeconfig() -> str:
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "west",
        "clusters": [{"name": "west", "cluster": {"server": "https://192.0.2.2:6443"}}],
        "contexts": [{"name": "west", "context": {"cluster": "west", "user": "me"}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }  # fmt: skip
    return base64.b64encode(json.dumps(config).encode()).decode()


KUBECONFIG = _kubeconfig()
OPERATOR: Json = {
    "apiVersion": "apps/v1", "kind": "Deployment",
    "metadata": {"name": "meshwright", "namespace": OPERATOR_NAMESPACE,
                 "labels": {"app.kubernetes.io/name": "meshwright"}},
    "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "operator", "image": "meshwright:1"}]}}},
}  # fmt: skip
API_ADDRESS: Json = {
    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
    "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
    "ports": [{"port": 6443}], "endpoints": [{"addresses": ["192.0.2.1"]}],
}  # fmt: skip
