"""Rendered objects on their way to a cluster: what render makes and apply consumes."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from meshwright.api.meshinstall import LABEL_MANAGED_BY, LABEL_MESH, LABEL_MESH_ID, MANAGED_BY

Manifest = dict[str, Any]


class Key(NamedTuple):
    """What identifies an object in one cluster."""

    api_version: str
    kind: str
    namespace: str  # "" for cluster-scoped kinds
    name: str

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Key:
        metadata = manifest["metadata"]
        return cls(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""), metadata["name"])

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def labels_of(manifest: Manifest) -> dict[str, str]:
    return manifest["metadata"].get("labels") or {}


def annotations_of(manifest: Manifest) -> dict[str, str]:
    return manifest["metadata"].get("annotations") or {}


def selector_of(labels: Mapping[str, str]) -> str:
    """As the API server takes it: `a=b,c=d`."""
    return ",".join(f"{name}={value}" for name, value in labels.items())


@dataclass(frozen=True)
class Step:
    """Where long work stopped, and what it waits for there."""

    number: int
    of: int
    name: str
    waits_for: str

    @property
    def place(self) -> str:
        return f"step {self.number} of {self.of} ({self.name})"

    def __str__(self) -> str:
        return f"{self.place}: waiting for {self.waits_for}"


@dataclass(frozen=True)
class Owner:
    """Whose an object is: both go on it as labels."""

    mesh: str
    mesh_id: str

    @property
    def labels(self) -> dict[str, str]:
        return {LABEL_MANAGED_BY: MANAGED_BY, LABEL_MESH: self.mesh, LABEL_MESH_ID: self.mesh_id}

    @property
    def selector(self) -> str:
        return selector_of(self.labels)

    def __str__(self) -> str:
        return f"mesh {self.mesh} (mesh ID {self.mesh_id})"


@dataclass(frozen=True)
class Birth:
    """How an object is created that has fields which are set once and belong to somebody else afterwards."""

    manifest: Manifest  # the whole object, for the creating request
    fields: frozenset[str]  # the names of those fields


@dataclass(frozen=True)
class Rendered:
    """An object as we declare it."""

    manifest: Manifest
    birth: Birth | None = None
    # A field, by its path, that we declare no more because somebody else decides it: it keeps its value.
    handed_over: tuple[str, ...] = ()

    @cached_property
    def key(self) -> Key:
        return Key.of(self.manifest)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()


class Packed(Rendered):
    """A large object, kept as text until somebody asks for it."""

    def __init__(self, manifest: Manifest) -> None:
        whole = Rendered(manifest)
        text = zlib.compress(json.dumps(manifest).encode())
        for name, value in (("key", whole.key), ("digest", whole.digest), ("_text", text)):
            object.__setattr__(self, name, value)

    @property
    def manifest(self) -> Manifest:
        manifest: Manifest = json.loads(zlib.decompress(self._text))
        return manifest

    _text: bytes


Live = Mapping[Key, Manifest]


def at_once(_live: Live) -> str | None:
    """No condition."""


@dataclass(frozen=True)
class Wave:
    """Objects that are applied together; they are born once `after` finds nothing to wait for in earlier waves."""

    name: str
    objects: tuple[Rendered, ...]
    after: Callable[[Live], str | None] = at_once
    apart: bool = False  # nothing of the next waves needs it, so they need not wait for its requests to end


def crds_established(live: Live) -> str | None:
    for key, manifest in live.items():
        if key.kind != "CustomResourceDefinition":
            continue
        conditions = (manifest.get("status") or {}).get("conditions") or ()
        if not any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
            return f"{key} to be established"
    return None


def deployments_serve(live: Live) -> str | None:
    """One replica is enough to answer; whether all are there is for the mesh's health to say."""
    for key, manifest in live.items():
        if key.kind == "Deployment" and not (manifest.get("status") or {}).get("availableReplicas"):
            return f"{key} to have an available replica"
    return None
