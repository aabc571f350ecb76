"""The mirror of one cluster: reads are answered from informers where these know enough, else by the API server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from meshwright.api.meshinstall import COMPONENT_GATEWAY, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_MESH, MANAGED_BY
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.gather import TAG
from meshwright.cluster.informer import Changed, Informer, Lean, head
from meshwright.cluster.kinds import (
    CRD,
    DEPLOYMENT,
    INJECTABLE_POD,
    LIVING_POD,
    MUTATING_WEBHOOK,
    NAMESPACE,
    OWNED,
    POD,
    SERVICE,
    Kind,
)
from meshwright.cluster.pods import (
    NO_SIDECAR,
    SIDECAR,
    lean_namespace,
    lean_pod,
    pod_of,
    proxy_revision,
    stays,
)
from meshwright.cluster.workloads import INJECTED
from meshwright.mesh.enrolment import REVISION, asks_for, traits_of
from meshwright.mesh.objects import labels_of

OURS = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
GATEWAYS = f"{OURS},{LABEL_COMPONENT}={COMPONENT_GATEWAY}"
VERSION_HOLDS = 300.0  # seconds: an API server is not upgraded more often


class Mirror:
    """Reads like a `Client`. What comes out may be leaner than what the server has, and must not be changed."""

    def __init__(self, client: Client, *informers: Informer) -> None:
        self._client = client
        self._informers = informers
        self._version: tuple[float, str] | None = None

    async def run(self) -> None:
        """Keeps the informers going until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers:
                tasks.create_task(informer.run(), name=f"informer {informer.kind.plural}")

    async def get(self, kind: Kind, name: str, namespace: str = "", *, metadata_only: bool = False) -> Manifest | None:
        """What no informer has may still exist, without our label; an object as a whole only the server has."""
        if metadata_only:
            for informer in self._current(kind):
                if informer.keeps_labels and (known := informer.get(name, namespace)):
                    return known
        return await self._client.get(kind, name, namespace, metadata_only=metadata_only)

    async def list(
        self, kind: Kind, namespace: str = "", *, labels: str = "", metadata_only: bool = False
    ) -> list[Manifest]:
        """From an informer whose selector is part of `labels`; without `metadata_only`, as lean as that keeps it."""
        for informer in self._current(kind):
            rest = _rest(labels, covered=informer.labels)
            if rest is None or (informer.metadata_only and not metadata_only):
                continue
            if not rest or informer.keeps_labels:
                return [each for each in informer.list(namespace) if rest <= _labels(each).items()]
        return await self._client.list(kind, namespace, labels=labels, metadata_only=metadata_only)

    async def version(self) -> str:
        now = asyncio.get_running_loop().time()
        if self._version is None or now - self._version[0] > VERSION_HOLDS:
            self._version = now, await self._client.version()
        return self._version[1]

    @property
    def synced(self) -> bool:
        return all(informer.synced for informer in self._informers)

    def silence(self) -> float | None:
        """Seconds for which the quietest informer has heard nothing; None before the first is synced."""
        heard = [informer.heard for informer in self._informers if informer.synced]
        return asyncio.get_running_loop().time() - min(heard) if heard else None

    def troubles(self) -> tuple[str, ...]:
        """Why what is known may be out of date, once per reason."""
        return tuple(dict.fromkeys(informer.trouble for informer in self._informers if informer.trouble))

    def poke(self) -> None:
        """What was not there may be there now."""
        for informer in self._informers:
            informer.poke()

    def _current(self, kind: Kind) -> tuple[Informer, ...]:
        """Those that may be asked: while one does not know what goes on, the server is."""
        return tuple(each for each in self._informers if each.kind == kind and each.synced and not each.trouble)


def mirror_of(
    client: Client, *, wake: Callable[[str], None], revision_changed: Callable[[str], None],
    shared_changed: Callable[[], None] = lambda: None,
) -> Mirror:  # fmt: skip
    """The mirror of what Meshwright reads of a cluster.

    Calls `wake` with the name of a mesh when an object of its changes, `revision_changed` with a revision when its
    istiod changes, or a pod that has a sidecar of it or is to have one, and `shared_changed` when something does that
    concerns all meshes: a CRD of ours, or what a namespace asks for. The view is changed first: who reads when called
    sees at least what was told.
    """
    tell = _Tell(wake, revision_changed)

    def crd_changed(_before: Manifest | None, _after: Manifest | None) -> None:
        mirror.poke()  # its kind may be served now
        shared_changed()

    def namespace_changed(before: Manifest | None, after: Manifest | None) -> None:
        if _labels(before) != _labels(after):
            shared_changed()

    def ours(kind: Kind, changed: Changed) -> Informer:
        return Informer(client, kind, labels=OURS, changed=changed)

    def more(kind: Kind, labels: str, lean: Lean) -> Informer:
        return Informer(client, kind, labels=labels, metadata_only=False, lean=lean, changed=tell.istiod)

    def crowd(kind: Kind, labels: str) -> Informer:
        return Informer(client, kind, labels=labels, lean=lean_pod, keeps_labels=False, changed=enrolment.pod)

    injectors = more(MUTATING_WEBHOOK, "app=sidecar-injector", lean_injector)
    namespaces = Informer(client, NAMESPACE, lean=lean_namespace, keeps_labels=False, changed=namespace_changed)
    enrolment = _Enrolment(revision_changed, namespaces=namespaces, injectors=injectors)
    mirror = Mirror(
        client,
        *(ours(kind, tell.mesh) for kind in OWNED),
        ours(CRD, crd_changed),
        more(DEPLOYMENT, "app=istiod", lean_deployment),
        more(DEPLOYMENT, GATEWAYS, lean_deployment),
        more(SERVICE, GATEWAYS, lean_service),
        more(POD, "app=istiod", lean_istiod_pod),
        injectors,
        namespaces,
        crowd(LIVING_POD, SIDECAR),
        crowd(INJECTABLE_POD, NO_SIDECAR),
    )
    return mirror


@dataclass(frozen=True)
class _Tell:
    """Whom a change concerns. Told by each informer for itself: another one may not have heard of it yet."""

    wake: Callable[[str], None]
    revision_changed: Callable[[str], None]

    def mesh(self, before: Manifest | None, after: Manifest | None) -> None:
        for mesh in _each(_mesh, before, after):
            self.wake(mesh)

    def istiod(self, before: Manifest | None, after: Manifest | None) -> None:
        self.mesh(before, after)
        for revision in _each(_istiod_revision, before, after):
            self.revision_changed(revision)


class _Place(NamedTuple):
    """What a pod is to the meshes."""

    traits: tuple[str | None, ...]
    names: tuple[str, ...]  # the revision that it has, and the revision or tag that it asks for


@dataclass(frozen=True)
class _Enrolment:
    """Which revisions a change of a pod concerns. Of most pods nothing changes that would concern any.

    A namespace that is not known yet concerns all when it is, and a tag its revision.
    """

    revision_changed: Callable[[str], None]
    namespaces: Informer
    injectors: Informer

    def pod(self, before: Manifest | None, after: Manifest | None) -> None:
        was, is_now = self._place(before), self._place(after)
        if was != is_now:
            names = (name for place in (was, is_now) if place for name in place.names)
            for revision in dict.fromkeys(revision for name in names for revision in self._behind(name)):
                self.revision_changed(revision)

    def _place(self, manifest: Manifest | None) -> _Place | None:
        if manifest is None or not stays(manifest):
            return None
        pod = pod_of(manifest)
        asks = asks_for(_labels(self.namespaces.get(pod.namespace)), pod.labels, pod.annotations, pod.namespace)
        names = tuple(name for name in (proxy_revision(manifest), asks) if name)
        return _Place(traits_of(pod), names) if names else None

    def _behind(self, name: str) -> Iterable[str]:
        """The revision of that name, and those that it is a tag of."""
        yield name
        for injector in self.injectors.list():
            if _labels(injector).get(TAG) == name:
                yield _labels(injector).get(REVISION, "default")


# -- as lean as those who read can do with


def lean_deployment(manifest: Manifest) -> Manifest:
    """Who made it, how many pods it is to have, what these run and ask for, and how it does."""
    template = manifest["spec"].get("template") or {}
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    lean = {
        "metadata": {"annotations": {INJECTED: annotations[INJECTED]} if INJECTED in annotations else {}},
        "spec": _lean_containers(template.get("spec") or {}),
    }
    spec = {"replicas": manifest["spec"].get("replicas", 1), "template": lean}
    return {**_authored(manifest), "spec": spec, **_status(manifest)}


def _lean_containers(pod_spec: Manifest) -> Manifest:
    kept = ("image", "resources")
    containers = pod_spec.get("containers") or ()
    return {"containers": [{name: each[name] for name in kept if name in each} for each in containers]}


def lean_service(manifest: Manifest) -> Manifest:
    """Where it is reached."""
    addresses = manifest["spec"].get("externalIPs")
    return {**head(manifest), **({"spec": {"externalIPs": addresses}} if addresses else {}), **_status(manifest)}


def lean_injector(manifest: Manifest) -> Manifest:
    """Who made it, and what it trusts."""
    kept = ("name", "clientConfig", "failurePolicy")
    webhooks = [{name: each[name] for name in kept if name in each} for each in manifest.get("webhooks") or ()]
    return {**_authored(manifest), "webhooks": webhooks}


def lean_istiod_pod(manifest: Manifest) -> Manifest:
    """What it asks for, and how it does."""
    return {**head(manifest), "spec": _lean_containers(manifest.get("spec") or {}), **_status(manifest)}


def _authored(manifest: Manifest) -> Manifest:
    """Its head, with the names of its field managers but not their fields."""
    managers = [
        {name: value for name, value in each.items() if name != "fieldsV1"}
        for each in manifest["metadata"].get("managedFields") or ()
    ]
    return {"metadata": {**head(manifest)["metadata"], "managedFields": managers}}


def _status(manifest: Manifest) -> Manifest:
    return {"status": manifest["status"]} if manifest.get("status") else {}


# -- what a change is about


def _each(of: Callable[[Manifest | None], str | None], *states: Manifest | None) -> list[str]:
    """What is found in any of an object's states, once."""
    return list(dict.fromkeys(found for state in states if (found := of(state))))


def _labels(manifest: Manifest | None) -> dict[str, str]:
    return labels_of(manifest) if manifest else {}


def _mesh(manifest: Manifest | None) -> str | None:
    return _labels(manifest).get(LABEL_MESH)


def _istiod_revision(manifest: Manifest | None) -> str | None:
    return _labels(manifest).get(REVISION, "default") if manifest else None


def _rest(wanted: str, *, covered: str) -> frozenset[tuple[str, str]] | None:
    """The terms of one selector that another does not have; None when that one may select less."""
    if wanted == covered:
        return frozenset()
    terms, known = _terms(wanted), _terms(covered)
    return terms - known if terms is not None and known is not None and known <= terms else None


def _terms(selector: str) -> frozenset[tuple[str, str]] | None:
    """The terms of `a=b,c=d`; None when there is one of another form."""
    terms = [term.partition("=") for term in selector.split(",") if term]
    if any(not equals or key.endswith("!") or value.startswith("=") or " " in key for key, equals, value in terms):
        return None
    return frozenset((key, value) for key, _, value in terms)
