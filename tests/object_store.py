"""An API server in memory: whole objects, resourceVersions, preconditions, and whose field is whose.

Server-side apply as the real one does it, but simpler: a field is a path of names, and a list is one field; but for
webhooks, which are known by their names.
"""

# ruff: noqa: ARG002  # what stands in for a client has its signature
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from meshwright.api.errors import Conflict, NotFound, Unreachable
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import CRD, Kind
from meshwright.mesh.objects import Key, Manifest
from meshwright.mesh.ownership import APPLY, UPDATE

T = TypeVar("T")
Path = tuple[str, ...]
Json = dict[str, Any]
Entries = list[Json]  # managed fields

ITEM = "k:{}"  # of a list, by the name of the item
SERVERS_OWN = ("name", "namespace", "uid", "resourceVersion", "generation", "managedFields", "deletionTimestamp")


@dataclass(frozen=True)
class Request:
    """What is sent: `try` is an apply as a dry run."""

    verb: str
    key: Key
    manager: str
    body: Manifest
    force: bool = True

    def __str__(self) -> str:
        return f"{self.verb} {self.key}" + (f" as {self.manager}" if self.manager else "")


@dataclass(frozen=True)
class Snapshot:
    """All that a store holds at one moment."""

    objects: Mapping[Key, Manifest]
    count: int
    born: int


class ObjectStore(Client):
    def __init__(self, *objects: Manifest, manager: str = "kubectl") -> None:  # no connection
        self.objects: dict[Key, Manifest] = {}
        self.requests: list[Request] = []  # that write, or would
        self.read: list[str] = []  # what was got whole, as `Kind namespace/name`
        self.listed: list[tuple[str, str, str, bool]] = []  # plural, namespace, labels, metadata only
        self.missing: set[str] = set()  # namespaces that are not there
        self._count = 0
        self._born = 0
        for each in objects:
            self.put(each, manager=manager)

    # What tests look at

    @property
    def asked(self) -> list[str]:
        return [str(each) for each in self.requests]

    @property
    def writes(self) -> list[Request]:
        return [each for each in self.requests if each.verb != "try"]

    def names(self, kind: str | None = None) -> list[str]:
        return [key.name for key in self.objects if kind in (None, key.kind)]

    def one(self, kind: str, name: str | None = None) -> Manifest:
        (found,) = (each for key, each in self.objects.items() if key.kind == kind and name in (None, key.name))
        return found

    # What others do

    def put(self, manifest: Manifest, *, manager: str = "kubectl") -> Manifest:
        """Makes the object, or puts this in its place, as an update by `manager`; the status comes with it."""
        before = self.objects.get(Key.of(manifest))
        entries = _entries(before)
        changed = {path for path, value in _leaves(manifest).items() if _leaves(before).get(path, ...) != value}
        entries = _without(entries, changed)
        return self._store(manifest, _owned(entries, manager, UPDATE, _of(entries, manager, UPDATE) | changed))

    def edit(self, key: Key, patch: Manifest, *, manager: str = "kubectl") -> Manifest:
        """A merge patch by `manager`; a value of None takes the field away."""
        return self._merge(key, patch, manager)

    def remove(self, key: Key) -> None:
        del self.objects[key]

    def snapshot(self) -> Snapshot:
        return Snapshot(_shared_or_copied(self.objects), self._count, self._born)

    def load(self, snapshot: Snapshot) -> None:
        self.objects = _shared_or_copied(snapshot.objects)
        self._count, self._born = snapshot.count, snapshot.born

    # The client's side

    async def version(self) -> str:
        return "v1.36.1"

    async def get(self, kind: Kind, name: str, namespace: str = "", *, metadata_only: bool = False) -> Manifest | None:
        key = Key(kind.api_version, kind.kind, namespace if kind.namespaced else "", name)
        if not metadata_only:
            self.read.append(str(key))
        found = self.objects.get(key)
        if found and metadata_only:
            return _head(found)
        return _copy(found)

    async def list(
        self, kind: Kind, namespace: str = "", *, labels: str = "", metadata_only: bool = False
    ) -> list[Manifest]:
        """Items of a list do not say their own kind."""
        self.listed.append((kind.plural, namespace, labels, metadata_only))
        terms = [each.partition("=") for each in f"{labels},{kind.labels}".split(",") if each]
        wanted = {(name, value) for name, _, value in terms if not name.endswith("!")}
        unwanted = {(name[:-1], value) for name, _, value in terms if name.endswith("!")}
        found = [
            each for key, each in self.objects.items()
            if (key.api_version, key.kind) == (kind.api_version, kind.kind) and namespace in ("", key.namespace)
            and wanted <= (each["metadata"].get("labels") or {}).items()
            and not unwanted & (each["metadata"].get("labels") or {}).items()
        ]  # fmt: skip
        if metadata_only:
            return [_head(each) for each in found]
        return [
            {name: value for name, value in _copy(each).items() if name not in ("apiVersion", "kind")} for each in found
        ]

    async def create(self, kind: Kind, manifest: Manifest, *, field_manager: str, dry_run: bool = False) -> Manifest:
        assert not dry_run, "who tries a creation out applies it"
        metadata = manifest["metadata"]
        named = {**manifest, "metadata": {"name": f"{metadata.get('generateName')}{len(self.requests)}", **metadata}}
        key = Key.of(named)
        self._note("create", key, field_manager, manifest)
        if key in self.objects:
            raise Conflict(f"create {key}: exists already")
        return self._store(named, _owned([], field_manager, UPDATE, set(_leaves(named))))

    async def replace(self, kind: Kind, manifest: Manifest, *, field_manager: str, dry_run: bool = False) -> Manifest:
        assert not dry_run, "who tries a change out applies it"
        key = Key.of(manifest)
        self._note("replace", key, field_manager, manifest)
        self._check(key, manifest["metadata"])
        return self.put(manifest, manager=field_manager)

    async def apply(
        self, kind: Kind, manifest: Manifest, *, field_manager: str, force: bool = True, dry_run: bool = False,
        subresource: str = "",
    ) -> Manifest:  # fmt: skip
        key, verb = Key.of(manifest), "try" if dry_run else "apply"
        self._note(f"{verb} {subresource} of" if subresource else verb, key, field_manager, manifest, force=force)
        if key in self.objects or "uid" in manifest["metadata"]:
            self._check(key, manifest["metadata"])
        if subresource == "status":
            live = self.objects[key]
            return self._store({**live, "status": _copy(manifest["status"])}, _entries(live))
        after, entries = self._applied(key, manifest, field_manager, force=force)
        if dry_run:
            metadata = {**self.objects.get(key, after)["metadata"], **after["metadata"], "managedFields": entries}
            return {**after, "metadata": metadata}
        return self._store(after, entries)

    async def merge(
        self, kind: Kind, name: str, patch: Manifest, namespace: str = "", *, field_manager: str
    ) -> Manifest:
        key = Key(kind.api_version, kind.kind, namespace, name)
        self._note("merge", key, field_manager, patch)
        self._check(key, patch["metadata"])
        return self._merge(key, patch, field_manager)

    async def delete(self, kind: Kind, manifest: Manifest) -> None:
        metadata = manifest["metadata"]
        key = Key(kind.api_version, kind.kind, metadata.get("namespace", ""), metadata["name"])
        self._note("delete", key, "", {"metadata": metadata})
        if key not in self.objects:
            return
        self._check(key, metadata)
        del self.objects[key]

    # What runs

    async def proxied(
        self, namespace: str, pod: str, port: int, path: str, *, only: Callable[[bytes], bool] | None = None
    ) -> bytes:
        """No pod runs here."""
        raise Unreachable(f"pod {namespace}/{pod} does not answer")

    async def forwarded(self, namespace: str, pod: str, port: int, path: str) -> bytes:
        raise Unreachable(f"pod {namespace}/{pod} does not answer")

    # How it keeps them

    def _note(self, verb: str, key: Key, manager: str, body: Manifest, *, force: bool = True) -> None:
        self.requests.append(Request(verb, key, manager, _copy(body), force))
        if key.namespace in self.missing:
            raise NotFound(f"{key}: no such namespace")

    def _check(self, key: Key, wanted: Mapping[str, Any]) -> None:
        """The preconditions that the metadata of a request are."""
        live = self.objects.get(key)
        if live is None:
            if "uid" in wanted:
                raise Conflict(f"{key}: the UID in the precondition is of one that is gone")
            raise NotFound(f"{key}: not found")
        for name in ("uid", "resourceVersion"):
            if wanted.get(name) not in (None, live["metadata"][name]):
                raise Conflict(f"{key}: {name} is {live['metadata'][name]}, and not {wanted[name]}")

    def _applied(self, key: Key, manifest: Manifest, manager: str, *, force: bool) -> tuple[Manifest, Entries]:
        before = self.objects.get(key)
        entries, wanted = _entries(before), _leaves(manifest)
        others = [each for each in entries if (each["manager"], each["operation"]) != (manager, APPLY)]
        theirs = set().union(*(_paths(each["fieldsV1"]) for each in others))
        live = _leaves(before)
        changed = {path for path, value in wanted.items() if path in live and live[path] != value}
        if changed & theirs and not force:
            raise Conflict(f"{key}: {sorted(changed & theirs)} are of other managers")
        after = _copy(before) if before else {name: manifest[name] for name in ("apiVersion", "kind")}
        after.setdefault("metadata", {}).update({
            name: value for name, value in manifest["metadata"].items() if name in ("name", "namespace")
        })  # fmt: skip
        for path in _of(entries, manager, APPLY) - wanted.keys() - theirs:
            _drop(after, path)
        for path, value in wanted.items():
            _set(after, path, _copy(value))
        return after, _owned(_without(others, changed), manager, APPLY, set(wanted))

    def _merge(self, key: Key, patch: Manifest, manager: str) -> Manifest:
        before = self.objects[key]
        after = _merged(before, {name: value for name, value in patch.items() if name not in ("apiVersion", "kind")})
        entries = patch.get("metadata", {}).get("managedFields") or _entries(before)
        old, new = _leaves(before), _leaves(after)
        changed = {path for path in old.keys() | new.keys() if old.get(path, ...) != new.get(path, ...)}
        entries = _without(entries, changed)
        ours = _of(entries, manager, UPDATE) | (changed & new.keys())
        return self._store(after, _owned(entries, manager, UPDATE, ours))

    def _store(self, manifest: Manifest, entries: Entries) -> Manifest:
        key = Key.of(manifest)
        before = self.objects.get(key)
        own = {name: before["metadata"][name] for name in ("uid", "resourceVersion")} if before else {}
        kept = {**manifest, "metadata": {**manifest["metadata"], **own, "managedFields": entries}}
        if before != kept:
            self._count += 1
            if before is None:
                self._born += 1
                kept["metadata"]["uid"] = f"uid-{self._born}"
            kept["metadata"]["resourceVersion"] = str(self._count)
            self.objects[key] = _copy(kept)
        return _copy(self.objects[key])


def _shared_or_copied(objects: Mapping[Key, Manifest]) -> dict[Key, Manifest]:
    """CRDs are large: they are shared, and nobody edits them in place."""
    return {key: each if key.kind == CRD.kind else _copy(each) for key, each in objects.items()}


def _copy(value: T) -> T:
    """As JSON: several times faster than deepcopy, and what is no JSON comes to light."""
    copied: T = json.loads(json.dumps(value))
    return copied


def _head(manifest: Manifest) -> Manifest:
    metadata = _copy(manifest["metadata"])
    return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata}


def _leaves(manifest: Manifest | None) -> dict[Path, Any]:
    """What can be owned: every path that ends in no map, but for what is the server's or in the status."""
    if not manifest:
        return {}
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in SERVERS_OWN}
    rest = {name: value for name, value in manifest.items() if name not in ("apiVersion", "kind", "status")}
    return dict(_walk({**rest, "metadata": metadata}, ()))


def _walk(node: Any, path: Path) -> Iterable[tuple[Path, Any]]:
    if path[-1:] == ("webhooks",):
        for item in node:
            yield from _walk(item, (*path, ITEM.format(item["name"])))
        return
    if not isinstance(node, dict) or (not node and len(path) > 1):
        yield path, node
        return
    for name, value in node.items():
        yield from _walk(value, (*path, name))


def _entries(manifest: Manifest | None) -> Entries:
    return list((manifest or {"metadata": {}})["metadata"].get("managedFields") or [])


def _of(entries: Entries, manager: str, operation: str) -> set[Path]:
    mine = (each for each in entries if (each["manager"], each["operation"]) == (manager, operation))
    return set().union(*(_paths(each["fieldsV1"]) for each in mine))


def _owned(entries: Entries, manager: str, operation: str, paths: set[Path]) -> Entries:
    """The entries with that of this manager renewed, and without those that own nothing."""
    others = [each for each in entries if (each["manager"], each["operation"]) != (manager, operation)]
    mine = {"manager": manager, "operation": operation, "fieldsV1": _tree(paths)}
    return sorted(
        (each for each in (*others, mine) if each["fieldsV1"]), key=lambda each: (each["manager"], each["operation"])
    )


def _without(entries: Entries, paths: set[Path]) -> Entries:
    """What somebody else changed is theirs no more."""
    return [{**each, "fieldsV1": _tree(_paths(each["fieldsV1"]) - paths)} for each in entries]


def _tree(paths: Iterable[Path]) -> Json:
    tree: Json = {}
    for path in sorted(paths):
        node = tree
        for name in path:
            node = node.setdefault(name if name.startswith(ITEM[:2]) else f"f:{name}", {})
    return tree


def _paths(tree: Json, path: Path = ()) -> set[Path]:
    if not tree:
        return {path} if path else set()
    return set().union(*(_paths(node, (*path, name.removeprefix("f:"))) for name, node in tree.items()))


def _set(node: Any, path: Path, value: Any) -> None:
    for name, following in pairwise(path):
        node = _step(node, name, [] if following.startswith(ITEM[:2]) else {})
    node[path[-1]] = value


def _drop(node: Any, path: Path) -> None:
    for name in path[:-1]:
        node = _step(node, name, {})
    del node[path[-1]]


def _step(node: Any, name: str, empty: Any) -> Any:
    """The node below, or an empty one in its place."""
    if isinstance(node, dict):
        return node.setdefault(name, empty)
    found = next((each for each in node if ITEM.format(each.get("name")) == name), None)
    if found is None:
        node.append(found := {"name": name.removeprefix(ITEM[:2])})
    return found


def _merged(below: Any, above: Any) -> Any:
    if not isinstance(above, dict):
        return _copy(above)
    merged = dict(below) if isinstance(below, dict) else {}
    for name, value in above.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged
