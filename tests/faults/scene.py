"""The rest of the world, for many meshes at once on one API server: who makes pods of a Deployment, istiod, and
whoever looks on.

Everybody here is level-triggered, and acts as soon as there is something to do. What there is, is known from informers,
so that looking costs nothing.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Self

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from api.world import BUNDLE, INJECTED, NOW, VOLATILE, Cluster, Json, Mesh, Wire, path_of, path_of_item
from faults.life import Life, leading
from faults.runner import PAUSE, until
from meshwright.cluster.client import Client
from meshwright.cluster.informer import Informer
from meshwright.cluster.kinds import (
    CONFIG_MAP,
    CRD,
    DEPLOYMENT,
    LEASE,
    MESH_ACTION,
    MESH_INSTALL,
    MUTATING_WEBHOOK,
    NAMESPACE,
    OWNED,
    POD,
    SECRET,
    VALIDATING_WEBHOOK,
    Kind,
)
from meshwright.cluster.survey import MANAGER
from meshwright.render import objects

LABEL_MESH, REPLICAS = "meshwright.dev/mesh", "meshwright.dev/replicas"
OURS = "app.kubernetes.io/managed-by=meshwright"
ISTIODS = "pilot-discovery"
BATCH = 8  # meshes that are installed at once, for later
TRIES = 5
APPLY, MERGE, JSON_PATCH = (f"application/{kind}+{form}" for kind, form in
                            (("apply-patch", "yaml"), ("merge-patch", "json"), ("json-patch", "json")))  # fmt: skip
TIMELESS = ("lastTransitionTime", "time")


class Server:
    """Requests to the API server as administrator, beside the operator."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def ask(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Json | None:
        """None when there is no such object. Raises AssertionError for any other refusal."""
        for attempt in range(TRIES):
            async with self._session.request(
                method,
                self._url + path,
                data=None if body is None else json.dumps(body),
                headers={"Content-Type": kind},
            ) as answer:
                found: Json = await answer.json()
                if answer.status == 429:  # a kind that is just being served
                    await asyncio.sleep(0.1 * attempt)
                    continue
                if answer.status == 404:
                    return None
                assert answer.ok, f"{method} {path}: {found['message']}"
                return found
        raise AssertionError(f"{method} {path}: asked to wait {TRIES} times")

    async def create(self, manifest: Json, manager: str = "kubectl-create") -> Json:
        metadata = manifest["metadata"]
        path = path_of(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""))
        made = await self.ask("POST", f"{path}?fieldManager={manager}", manifest)
        assert made is not None
        return made

    async def merge(self, path: str, patch: Json, manager: str = "kubectl-edit") -> Json | None:
        return await self.ask("PATCH", f"{path}?fieldManager={manager}", patch, MERGE)

    async def delete(self, path: str) -> None:
        await self.ask("DELETE", path, {"gracePeriodSeconds": 0})


class Scene:
    """Made by `scene`. Its `worlds` by the name of their mesh."""

    def __init__(self, cluster: Cluster, server: Server, client: Client, configuration: Configuration) -> None:
        self.cluster, self.server, self.configuration = cluster, server, configuration
        self.worlds: dict[str, World] = {}
        self._views = {
            kind: self._view(client, kind, labels="" if kind in (MESH_INSTALL, MESH_ACTION) else OURS)
            for kind in (MESH_INSTALL, MESH_ACTION, NAMESPACE, SECRET, *OWNED)
        }
        self._views[POD] = self._view(client, POD)
        # A kind that has just come is looked at at once.
        self._crds = Informer(client, CRD, labels=OURS, changed=lambda _before, _after: self._poke())

    def _view(self, client: Client, kind: Kind, *, labels: str = "") -> Informer:
        return Informer(client, kind, labels=labels, metadata_only=False, lean=lambda whole: whole, changed=self._saw)

    async def watch(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for view in (*self._views.values(), self._crds):
                tasks.create_task(view.run())

    def _poke(self) -> None:
        for view in self._views.values():
            view.poke()

    @property
    def ready(self) -> bool:
        return all(view.synced for view in self._views.values())

    def get(self, kind: Kind, name: str, namespace: str = "") -> Json | None:
        return self._views[kind].get(name, namespace)

    def list(self, kind: Kind, namespace: str = "") -> list[Json]:
        return self._views[kind].list(namespace)

    def objects(self, mesh: str) -> Iterator[Json]:
        """All that carry the mesh's label."""
        for view in self._views.values():
            yield from (each for each in view.list() if _mesh(each) == mesh)

    def _saw(self, before: Json | None, after: Json | None) -> None:
        manifest = after or before
        if manifest and (world := self.worlds.get(_mesh(manifest))):
            world.saw(after)


class World:
    """One mesh: what a user does to it, what its istiod does, and what came of it."""

    def __init__(self, scene: Scene, mesh: Mesh, *, pods: bool) -> None:
        self.scene, self.mesh, self.name = scene, mesh, mesh.name
        self.now = NOW
        self.lives: list[Life] = []
        self.births: Counter[str] = Counter()
        self.roots: set[str] = set()  # fingerprints that the status ever named
        self._uids: set[str] = set()
        self._pods = pods  # whether there are pods of istiod, and what it leaves behind
        self._stirred = asyncio.Event()
        self._stirred.set()

    @property
    def server(self) -> Server:
        return self.scene.server

    @property
    def stand_ins(self) -> Mapping[str, str]:
        return {self.mesh.name: "MESH", self.mesh.namespace: "NAMESPACE", self.mesh.revision: "REVISION"}

    @property
    def authority(self) -> str:
        return str(self.scene.configuration.ssl_ca_cert)

    def born(self, life: Life) -> None:
        self.lives.append(life)

    # -- what a user does

    async def declare(self, **spec: Any) -> None:
        await self.server.create(self.mesh.manifest(**spec))
        await until(lambda: self.install is not None)

    async def change(self, **spec: Any) -> None:
        """By a merge patch; returns when it is seen."""
        changed = await self.server.merge(self.mesh.path, {"spec": spec})
        assert changed is not None
        generation = changed["metadata"]["generation"]
        await until(lambda: self.install is not None and self.install["metadata"]["generation"] >= generation)

    async def delete(self) -> None:
        await self.server.delete(self.mesh.path)
        await until(lambda: self.install is None or "deletionTimestamp" in self.install["metadata"])

    async def installed(self) -> None:
        await self.is_("Installed")
        await until(lambda: self.deployment is not None and _rolled_out(self.deployment))

    async def is_(self, reason: str) -> None:
        """Until Ready says so, of the newest spec."""
        await until(lambda: self.ready.get("reason") == reason and self._is_of_newest_spec())

    async def gone(self) -> None:
        await until(lambda: self.install is None)

    async def at_rest(self) -> None:
        """Until the operator looked twice more, by itself or because it is asked to, and wrote nothing."""
        while True:
            life = self.lives[-1]
            looks, writes = life.looks, life.writes
            for _ in range(2):
                life.leader.queue.add(self.name)
                await until(lambda life=life, looks=looks: life.looks > looks or life is not self.lives[-1])  # type: ignore[misc]
                looks = life.looks
            if life is self.lives[-1] and life.writes == writes:
                return

    def look(self) -> None:
        """Something that no watch tells of has changed. One that is not born yet looks anyway."""
        for life in self.lives[-1:]:
            life.leader.queue.add(self.name)

    # -- what is known

    @property
    def install(self) -> Json | None:
        return self.scene.get(MESH_INSTALL, self.name)

    @property
    def status(self) -> Json:
        return (self.install or {}).get("status") or {}

    @property
    def cluster(self) -> Json:
        """What the status says of the only member cluster."""
        return next(iter(self.status.get("clusters") or ()), {})

    @property
    def ready(self) -> Json:
        return next((each for each in self.status.get("conditions") or () if each["type"] == "Ready"), {})

    @property
    def deployment(self) -> Json | None:
        return self.scene.get(DEPLOYMENT, self.mesh.names.istiod, self.mesh.namespace)

    @property
    def replicas(self) -> int | None:
        return self.deployment["spec"]["replicas"] if self.deployment else None

    @property
    def replicas_annotation(self) -> str | None:
        return (self.deployment["metadata"].get("annotations") or {}).get(REPLICAS) if self.deployment else None

    @property
    def intermediate(self) -> str | None:
        """The fingerprint of what istiod signs with."""
        return (self.cluster.get("trust") or {}).get("intermediateFingerprint")

    @property
    def config_map_path(self) -> str:
        """Of the mesh config."""
        return f"/api/v1/namespaces/{self.mesh.namespace}/configmaps/{self.mesh.names.mesh_config}"

    @property
    def owner_labels(self) -> dict[str, str]:
        return {LABEL_MESH: self.name, "meshwright.dev/mesh-id": "cluster.local"}

    def has(self, kind: Kind, name: str) -> bool:
        return self.scene.get(kind, name, self.mesh.namespace) is not None

    async def annotated(self, path: str, annotation: str) -> None:
        """Until that object carries it."""
        while True:
            found = await self.server.ask("GET", path) or {"metadata": {}}
            if annotation in (found["metadata"].get("annotations") or {}):
                return
            await asyncio.sleep(PAUSE)

    @property
    def requests(self) -> int:
        return sum(len(life.wire.sent) for life in self.lives)

    def _is_of_newest_spec(self) -> bool:
        generation = (self.install or {"metadata": {}})["metadata"].get("generation")
        return bool(self.ready.get("observedGeneration") == generation)

    def saw(self, after: Json | None) -> None:
        """An object of the mesh came, changed or (None) went."""
        self._stirred.set()
        if after is None:
            return
        if after["metadata"]["uid"] not in self._uids and after["kind"] != MESH_INSTALL.kind:
            self._uids.add(after["metadata"]["uid"])
            self.births[self._in_words(_key(after))] += 1
        if root := self._root():
            self.roots.add(root)

    def _root(self) -> str:
        return (self.cluster.get("trust") or {}).get("rootFingerprint") or ""

    def end(self) -> dict[str, Any]:
        """What there is, by object, how often each was made, and how many roots there ever were."""
        objects = {
            self._in_words(_key(each)): self._comparable(each)
            for each in self.scene.objects(self.name)
            if each["kind"] != POD.kind
        }
        return {**objects, "births": dict(self.births), "roots": len(self.roots)}

    def _comparable(self, item: Json) -> Json:
        item = copy.deepcopy(item)
        metadata = item["metadata"]
        writers = {
            f"{each['manager']} {each['operation']} {each.get('subresource', '')}": each.get("fieldsV1")
            for each in metadata.get("managedFields") or ()
        }
        for name in VOLATILE:
            metadata.pop(name, None)
        if item["kind"] == MESH_ACTION.kind:
            del metadata["ownerReferences"][0]["uid"]
            writers = dict.fromkeys(writers)  # which name that uid
            for name in ("record", "proposal"):  # at which look it was decided is chance, and what else is there
                item["spec"].pop(name, None)
        if item["kind"] == SECRET.kind:
            item["data"] = sorted(item["data"])
        spec = item.get("spec") or {}
        for name in ("clusterIP", "clusterIPs"):
            spec.pop(name, None)
        if item["kind"] == DEPLOYMENT.kind:
            (spec["template"]["metadata"].get("annotations") or {}).pop(INJECTED, None)  # a digest, also of the root
        found: Json = json.loads(self._in_words(json.dumps({**item, "writers": writers}, sort_keys=True)))
        _without_times(found)
        return found

    def _in_words(self, text: str) -> str:
        """That hold for every world."""
        trust = self.cluster.get("trust") or {}
        words = {
            **dict.fromkeys(self.roots, "ROOT"),
            trust.get("intermediateFingerprint", ""): "INTERMEDIATE",
            **self.stand_ins,
        }
        for word, stands_for in words.items():
            text = text.replace(word, stands_for) if word else text
        return text

    # -- the others

    async def play(self) -> None:
        """Acts for the Deployment's controller, kubelet and istiod, until it is cancelled."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            await self._turn()

    async def _turn(self) -> None:
        deployment = self.deployment
        pods = [each for each in self.scene.list(POD, self.mesh.namespace) if _is_istiods(each)]
        if deployment is None:
            for each in pods:
                await self.server.delete(path_of_item(each))
            return
        if self._pods and not pods:
            await self._starts()
        for each in self.scene.list(DEPLOYMENT, self.mesh.namespace):  # and those of gateways
            if not _rolled_out(each):
                await self._rolls_out(each)
        await self._answers()

    async def _rolls_out(self, deployment: Json) -> None:
        count = deployment["spec"]["replicas"]
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), count)
        status = {"observedGeneration": deployment["metadata"]["generation"], **counts}
        path = f"{path_of_item(deployment)}/status"
        await self.server.merge(path, {"status": status}, manager="kube-controller-manager")

    async def _starts(self) -> None:
        """A pod of istiod, and what it leaves when it goes."""
        namespace = self.mesh.namespace
        labels = {**self.mesh.names.selector, "sidecar.istio.io/inject": "false"}
        await self.server.create(
            {"apiVersion": "v1", "kind": "Pod",
             "metadata": {"name": "istiod-0", "namespace": namespace, "labels": labels | {LABEL_MESH: self.name}},
             "spec": {"serviceAccountName": self.mesh.names.istiod,
                      "containers": [{"name": "discovery", "image": "pilot"}]}}
        )  # fmt: skip
        signing = self.scene.get(SECRET, "cacerts", namespace)
        assert signing is not None, "istiod's pod would not start"
        root = base64.b64decode(signing["data"]["root-cert.pem"]).decode()
        for leftover in _leftovers(namespace, root):
            with suppress(AssertionError):  # what the last one left
                await self.server.create(leftover, ISTIODS)

    async def left(self) -> list[str]:
        """What istiod made and is still there."""
        paths = [path_of_item(each) for each in _leftovers(self.mesh.namespace, "")]
        return [path for path in paths if await self.server.ask("GET", path)]

    async def _answers(self) -> None:
        """istiod writes its CA into its webhooks, and has them fail closed."""
        injector = self.scene.get(MUTATING_WEBHOOK, self.mesh.names.mutating_webhook)
        if injector and (missing := _without_ca(injector)):
            await self._patch(self.mesh.injector_path, (_ca(index) for index in missing))
        validator = self.scene.get(VALIDATING_WEBHOOK, self.mesh.names.validating_webhook)
        if validator and (missing := _without_ca(validator)):
            closed = [
                {"op": "replace", "path": f"/webhooks/{index}/failurePolicy", "value": "Fail"} for index in missing
            ]
            await self._patch(self.mesh.validator_path, (*(_ca(index) for index in missing), *closed))

    async def _patch(self, path: str, operations: Iterable[Json]) -> None:
        await self.server.ask("PATCH", f"{path}?fieldManager={ISTIODS}", list(operations), JSON_PATCH)

    async def take_away(self) -> None:
        if self.install:
            await self.server.merge(self.mesh.path, {"metadata": {"finalizers": None}})
            await self.server.delete(self.mesh.path)
        await asyncio.gather(*(self.server.delete(path_of_item(each)) for each in self.scene.objects(self.name)
                               if each["kind"] != NAMESPACE.kind))  # fmt: skip


@asynccontextmanager
async def scene(cluster: Cluster) -> AsyncIterator[Scene]:
    kubeconfig = str(cluster.api.kubeconfig)
    configuration = Configuration()
    await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    tls.load_cert_chain(configuration.cert_file, configuration.key_file)
    client = Client(configuration)
    connector = aiohttp.TCPConnector(limit=32, ssl=tls)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        opened = Scene(cluster, Server(session, configuration.host), client, configuration)
        for each in objects._crds():  # noqa: SLF001 - one for all worlds: the first must not be the only one to make it
            await client.apply(CRD, each.manifest, field_manager=MANAGER)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(opened.watch())
            await until(lambda: opened.ready)
            yield opened
            watching.cancel()


@asynccontextmanager
async def fresh_world(scene: Scene, *, pods: bool = False) -> AsyncIterator[World]:
    """Of a mesh that is not declared yet."""
    world = World(scene, Mesh.fresh(scene.cluster), pods=pods)
    scene.worlds[world.name] = world
    playing = asyncio.create_task(world.play())
    try:
        yield world
    finally:
        playing.cancel()
        await asyncio.wait([playing])
        del scene.worlds[world.name]
        if not playing.cancelled():
            playing.result()
        await world.take_away()


class Stock:
    """Worlds whose mesh is installed, by an operator that is gone."""

    def __init__(self, scene: Scene, *, spec: Json, pods: bool) -> None:
        self._scene, self._spec, self._pods = scene, spec, pods
        self._worlds: list[World] = []
        self._stack = AsyncExitStack()
        self._filling = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def world(self) -> AsyncIterator[World]:
        async with self._filling:
            if not self._worlds:
                await self._fill()
        yield self._worlds.pop()

    async def _fill(self) -> None:
        worlds = [
            await self._stack.enter_async_context(fresh_world(self._scene, pods=self._pods)) for _ in range(BATCH)
        ]
        await asyncio.gather(*(each.declare(**self._spec) for each in worlds))
        names = {each.name for each in worlds}
        async with leading(Wire(self._scene.configuration), names, now=lambda: NOW) as life:
            for each in worlds:
                each.born(life)
            await asyncio.gather(*(each.installed() for each in worlds))
            await asyncio.gather(*(each.at_rest() for each in worlds))
        for each in worlds:
            each.lives.clear()
        self._worlds = worlds


def _leftovers(namespace: str, root: str) -> tuple[Json, ...]:
    """What istiod makes and never takes away: of each sort one."""
    return (
        {"apiVersion": CONFIG_MAP.api_version, "kind": CONFIG_MAP.kind, "data": {"root-cert.pem": root},
         "metadata": {"name": "istio-ca-root-cert", "namespace": namespace, "labels": {"istio.io/config": "true"}}},
        {"apiVersion": CONFIG_MAP.api_version, "kind": CONFIG_MAP.kind,
         "metadata": {"name": "istio-leader", "namespace": namespace,
                      "annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}},
        {"apiVersion": LEASE.api_version, "kind": LEASE.kind,
         "metadata": {"name": "istio-status-leader", "namespace": namespace}},
    )  # fmt: skip


def _mesh(manifest: Json) -> str:
    metadata = manifest["metadata"]
    if manifest["kind"] == MESH_INSTALL.kind:
        return str(metadata["name"])
    return str((metadata.get("labels") or {}).get(LABEL_MESH, ""))


def _key(manifest: Json) -> str:
    metadata = manifest["metadata"]
    return f"{manifest['kind']} {metadata.get('namespace', '')}/{metadata['name']}"


def _rolled_out(deployment: Json) -> bool:
    status, count = deployment.get("status") or {}, deployment["spec"]["replicas"]
    counts = (status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas"))
    return status.get("observedGeneration") == deployment["metadata"]["generation"] and all(
        each == count for each in counts
    )


def _is_istiods(pod: Json) -> bool:
    return bool((pod["metadata"].get("labels") or {}).get("app") == "istiod")


def _without_ca(webhook: Json) -> list[int]:
    return [
        index
        for index, each in enumerate(webhook.get("webhooks") or ())
        if each["clientConfig"].get("caBundle") != BUNDLE
    ]


def _ca(index: int) -> Json:
    return {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": BUNDLE}


def _without_times(value: Any) -> None:
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _without_times(each)
    if isinstance(value, dict):
        for name in TIMELESS:
            value.pop(name, None)
