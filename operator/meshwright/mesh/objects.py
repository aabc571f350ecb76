"""Rendered objects on their way to a cluster: what render makes and apply consumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

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


@dataclass(frozen=True)
class Rendered:
    """An object as we declare it, and fields that are set once, at its creation, and belong to others later."""

    manifest: Manifest
    at_birth: Manifest | None = None  # the whole manifest for the creating request

    @cached_property
    def key(self) -> Key:
        return Key.of(self.manifest)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()


Live = Mapping[Key, Manifest]


def at_once(_live: Live) -> str | None:
    """No condition."""


@dataclass(frozen=True)
class Wave:
    """Objects that are applied together, once `after` has nothing to wait for in what was applied before."""

    name: str
    objects: tuple[Rendered, ...]
    after: Callable[[Live], str | None] = at_once


def crds_established(live: Live) -> str | None:
    for key, manifest in live.items():
        if key.kind != "CustomResourceDefinition":
            continue
        conditions = (manifest.get("status") or {}).get("conditions") or ()
        if not any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
            return f"{key} to be established"
    return None


def deployments_available(live: Live) -> str | None:
    for key, manifest in live.items():
        if key.kind != "Deployment":
            continue
        status, wanted = manifest.get("status") or {}, manifest["spec"].get("replicas", 1)
        if status.get("observedGeneration", 0) < manifest["metadata"].get("generation", 0):
            return f"{key} to be rolled out"
        counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
        if counts[0] > wanted:  # the others are of an older template
            return f"{key} ({min(counts)} of {wanted} new and ready, {counts[0]} exist)"
        if counts != [wanted] * 3:
            return f"{key} ({min(counts)} of {wanted} replicas new and ready)"
    return None
