"""apply: rendered objects reach the API server by server-side apply, wave after wave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from meshwright.api.errors import ForeignObject, NotFound
from meshwright.api.meshinstall import ANNOTATION_ISTIO_API, LABEL_MESH
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.installers import installers
from meshwright.cluster.kinds import CRD, NAMESPACE, kind_of
from meshwright.cluster.together import together
from meshwright.mesh.objects import Key, Live, Rendered, Wave, at_once, crds_established
from meshwright.mesh.observed import named

MANAGER = "meshwright"
BIRTH_MANAGER = "meshwright-birth"  # owns what is set once and belongs to somebody else afterwards
AT_ONCE = 32  # requests in flight: the CRDs, and what goes on beside them
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
        # Of each mesh, the digest and incarnation of the last apply of an object.
        self._applied: dict[str, dict[Key, tuple[str, str]]] = {}
        self._established: dict[Key, Manifest] = {}  # CRDs that were seen established, without their large schemas
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def survey(self, waves: Iterable[Wave], *, mesh: str) -> Live:
        """What is there in our places. Raises ForeignObject when something is not this mesh's; writes nothing."""
        keys = [rendered.key for wave in waves for rendered in wave.objects]
        applied = self._applied.get(mesh, {})
        found = await together(*(self._get(key, whole=key not in applied) for key in keys))
        live = {key: manifest for key, manifest in zip(keys, found, strict=True) if manifest}
        refuse_foreign(live, mesh)
        return live

    async def apply(self, waves: Iterable[Wave], live: Live, *, mesh: str, dry_run: bool) -> Outcome:
        """Brings what is `live` to what is rendered.

        A wave's condition holds back the birth of its objects only: those that are there are kept as declared, also
        while istiod is down.
        """
        return await _Pass(self._apply_one, live, mesh=mesh, dry_run=dry_run).run(tuple(waves))

    def forget(self, mesh: str) -> None:
        self._applied.pop(mesh, None)

    async def _get(self, key: Key, *, whole: bool) -> Manifest | None:
        """The object; unless `whole` is asked for, an established CRD that did not change comes without its spec."""
        async with self._slots:
            kind = kind_of(key.api_version, key.kind)
            if not whole and (known := self._established.get(key)):
                head = await self._client.get(kind, key.name, key.namespace, metadata_only=True)
                if head and _incarnation(known) == _incarnation({**known, "metadata": head["metadata"]}):
                    return {**known, "metadata": head["metadata"]}
            manifest = await self._client.get(kind, key.name, key.namespace)
            if manifest and key.kind == CRD.kind and crds_established({key: manifest}) is None:
                self._established[key] = {name: value for name, value in manifest.items() if name != "spec"}
            return manifest

    async def _apply_one(
        self, rendered: Rendered, live: Manifest | None, *, mesh: str, dry_run: bool
    ) -> tuple[str, Manifest]:
        """What was done (create, change or keep), and the object after it."""
        key, done = rendered.key, self._applied.setdefault(mesh, {})
        if live and (_is_foreign_crd(live) or done.get(key) == (rendered.digest, _incarnation(live))):
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
            done[key] = rendered.digest, _incarnation(result)
        return "create" if live is None else "change" if differ(live, result) else "keep", result


ApplyOne = Callable[..., Coroutine[Any, Any, tuple[str, Manifest]]]


class _Pass:
    """One way through the waves."""

    def __init__(self, apply_one: ApplyOne, live: Live, *, mesh: str, dry_run: bool) -> None:
        self._apply_one = partial(apply_one, mesh=mesh, dry_run=dry_run)
        self._live = live
        self._conditions_count = not dry_run
        self._applied: dict[Key, Manifest] = {}
        self._verbs: dict[Key, str] = {}
        self._waiting: str | None = None

    async def run(self, waves: tuple[Wave, ...]) -> Outcome:
        aside = asyncio.ensure_future(self._each(wave for wave in waves if wave.apart))
        try:
            for wave in waves:
                if wave.after is not at_once:
                    await aside  # the condition may be about it
                if not wave.apart:
                    await self._wave(wave)
        finally:
            await asyncio.wait([aside])  # no request outlives the pass
        await aside
        return self._outcome(waves)

    async def _each(self, waves: Iterable[Wave]) -> None:
        for wave in waves:
            await self._wave(wave)

    async def _wave(self, wave: Wave) -> None:
        due = wave.objects
        if self._conditions_count and (waiting := wave.after(self._applied)):
            self._waiting = self._waiting or waiting
            due = tuple(rendered for rendered in wave.objects if rendered.key in self._live)
        results = await together(*(self._apply_one(each, self._live.get(each.key)) for each in due))
        for rendered, (verb, result) in zip(due, results, strict=True):
            self._verbs[rendered.key] = verb
            self._applied[rendered.key] = result

    def _outcome(self, waves: Iterable[Wave]) -> Outcome:
        """In the order of the waves, not of the answers: a plan that says the same must read the same."""
        outcome = Outcome(waiting=self._waiting)
        for wave in waves:
            for rendered in wave.objects:
                if verb := self._verbs.get(rendered.key):
                    outcome.add(verb, rendered.key)
        return outcome


def refuse_foreign(live: Mapping[Key, Manifest], mesh: str) -> None:
    foreign = []
    for key, manifest in live.items():
        # A namespace may be there before us, and CRDs are shared: both are looked at where they are applied.
        if key.kind in (NAMESPACE.kind, CRD.kind):
            continue
        owner = (manifest["metadata"].get("labels") or {}).get(LABEL_MESH)
        if owner != mesh:
            whose = f"belongs to mesh {owner}" if owner else f"was made by {named(installers(manifest))}"
            foreign.append(f"{key} {whose}")
    if foreign:
        raise ForeignObject(f"{'; '.join(foreign)}: not touched; remove or rename it, or choose another revision")


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
