"""apply: rendered objects reach the API server by server-side apply, wave after wave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshwright.api.errors import ForeignObject, NotFound
from meshwright.api.meshinstall import ANNOTATION_ISTIO_API, LABEL_MESH
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.kinds import CRD, NAMESPACE, kind_of
from meshwright.mesh.objects import Key, Rendered, Wave

MANAGER = "meshwright"
BIRTH_MANAGER = "meshwright-birth"  # owns what is set once and belongs to somebody else afterwards
AT_ONCE = 16  # requests in flight
NAMED = 20  # changes that an outcome names
# What a dry run changes although nothing would change.
VOLATILE = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid")


@dataclass
class Outcome:
    """What an apply did (or, in a dry run, would do)."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0
    objects: list[str] = field(default_factory=list)  # the first changes, as `create Kind namespace/name`
    waiting: str | None = None  # what the next wave waits for

    def add(self, verb: str, key: Key) -> None:
        if verb == "create":
            self.created += 1
        elif verb == "change":
            self.changed += 1
        else:
            self.unchanged += 1
            return
        if len(self.objects) < NAMED:
            self.objects.append(f"{verb} {key}")


class Applier:
    """Applies waves to one cluster. Remembers what it applied, so that what is in sync is not written again."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._applied: dict[Key, tuple[str, str]] = {}  # digest and incarnation of the last apply
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def apply(self, waves: Iterable[Wave], *, mesh: str, dry_run: bool) -> Outcome:
        """Raises ForeignObject, before anything is written, when an object in our place is not this mesh's."""
        waves = tuple(waves)
        live = await self._read(waves)
        refuse_foreign(live, mesh)
        outcome = Outcome()
        applied: dict[Key, Manifest] = {}
        for wave in waves:
            if not dry_run and (waiting := wave.after(applied)):
                outcome.waiting = waiting
                break
            results = await asyncio.gather(
                *(self._apply_one(each, live.get(each.key), dry_run=dry_run) for each in wave.objects)
            )
            # In the order of the wave, not of the answers: a plan that says the same must read the same.
            for rendered, (verb, result) in zip(wave.objects, results, strict=True):
                outcome.add(verb, rendered.key)
                applied[rendered.key] = result
        return outcome

    async def _read(self, waves: Iterable[Wave]) -> dict[Key, Manifest]:
        keys = [rendered.key for wave in waves for rendered in wave.objects]
        found = await asyncio.gather(*(self._get(key) for key in keys))
        return {key: manifest for key, manifest in zip(keys, found, strict=True) if manifest}

    async def _get(self, key: Key) -> Manifest | None:
        async with self._slots:
            return await self._client.get(kind_of(key.api_version, key.kind), key.name, key.namespace)

    async def _apply_one(self, rendered: Rendered, live: Manifest | None, *, dry_run: bool) -> tuple[str, Manifest]:
        """What was done (create, change or keep), and the object after it."""
        key = rendered.key
        if live and (_is_foreign_crd(live) or self._in_sync(rendered, live)):
            return "keep", live
        kind = kind_of(key.api_version, key.kind)
        async with self._slots:
            if live is None and rendered.at_birth and not dry_run:
                await self._client.create(kind, rendered.at_birth, field_manager=BIRTH_MANAGER)
                result = await self._client.apply(kind, rendered.manifest, field_manager=MANAGER)
            else:
                try:
                    result = await self._client.apply(kind, rendered.manifest, field_manager=MANAGER, dry_run=dry_run)
                except NotFound:
                    if not dry_run:
                        raise
                    result = rendered.manifest  # its namespace or kind would be created by an earlier wave
        if not dry_run:
            self._applied[key] = rendered.digest, _incarnation(result)
        return "create" if live is None else "change" if differ(live, result) else "keep", result

    def _in_sync(self, rendered: Rendered, live: Manifest) -> bool:
        return self._applied.get(rendered.key) == (rendered.digest, _incarnation(live))


def refuse_foreign(live: Mapping[Key, Manifest], mesh: str) -> None:
    foreign = []
    for key, manifest in live.items():
        # A namespace may be there before us, and CRDs are shared: both are looked at where they are applied.
        if key.kind in (NAMESPACE.kind, CRD.kind):
            continue
        owner = (manifest["metadata"].get("labels") or {}).get(LABEL_MESH)
        if owner != mesh:
            whose = f"belongs to mesh {owner}" if owner else f"was made by {managers(manifest)}"
            foreign.append(f"{key} {whose}")
    if foreign:
        raise ForeignObject(f"{'; '.join(foreign)}: not touched; remove or rename it, or choose another revision")


def managers(manifest: Manifest) -> str:
    """Who wrote the object, from its managed fields."""
    names = sorted({each["manager"] for each in manifest["metadata"].get("managedFields", ()) if each.get("manager")})
    return " and ".join(names) or "somebody else"


def _incarnation(manifest: Manifest) -> str:
    """What changes whenever the object does; of a CRD only when its spec does, because its status moves by itself."""
    metadata = manifest["metadata"]
    return f"{metadata['uid']}/{metadata['generation' if manifest['kind'] == CRD.kind else 'resourceVersion']}"


def differ(before: Manifest, after: Manifest) -> bool:
    return _comparable(before) != _comparable(after)


def _comparable(manifest: Manifest) -> str:
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in VOLATILE}
    return json.dumps({**manifest, "metadata": metadata, "status": None}, sort_keys=True)


def _is_foreign_crd(live: Manifest) -> bool:
    if live["kind"] != CRD.kind:
        return False
    return ANNOTATION_ISTIO_API not in (live["metadata"].get("annotations") or {})
