"""survey: what is there in the places of a mesh's objects, before anything is written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meshwright.api.errors import ForeignObject
from meshwright.api.meshinstall import (
    ANNOTATION_ISTIO_API,
    ANNOTATION_RECONCILE,
    LABEL_MANAGED_BY,
    LABEL_MESH,
    LABEL_MESH_ID,
    MANAGED_BY,
)
from meshwright.cluster.client import Manifest
from meshwright.cluster.gather import Reader
from meshwright.cluster.installers import installers
from meshwright.cluster.kinds import CRD, NAMESPACE, OWNED, kind_of
from meshwright.cluster.together import together
from meshwright.mesh.crds import hindrance
from meshwright.mesh.objects import Key, Owner, Rendered, annotations_of, labels_of
from meshwright.mesh.observed import named

MANAGER = "meshwright"
BIRTH_MANAGER = "meshwright-birth"  # owns what is set once and belongs to somebody else afterwards
DISABLED = "disabled"


@dataclass(frozen=True)
class Known:
    """An object as it was after our last apply: enough to see that nothing happened since."""

    digest: str
    incarnation: str
    status: Mapping[str, object] | None  # what conditions of waves look at

    def still_as_applied(self, rendered: Rendered, live: Manifest) -> bool:
        return (self.digest, self.incarnation) == (rendered.digest, incarnation(live))


class Memory:
    """What was applied for one mesh. CRDs are known to all: each is megabytes to look at."""

    def __init__(self, *, shared: Memory | None = None) -> None:
        self._known: dict[Key, Known] = {}
        self._shared = shared

    def get(self, key: Key) -> Known | None:
        return self._of(key).get(key)

    def remember(self, rendered: Rendered, result: Manifest) -> None:
        known = Known(rendered.digest, incarnation(result), result.get("status"))
        self._of(rendered.key)[rendered.key] = known

    def _of(self, key: Key) -> dict[Key, Known]:
        return self._shared._known if self._shared and key.kind == CRD.kind else self._known  # noqa: SLF001


@dataclass(frozen=True)
class Survey:
    live: Mapping[Key, Manifest]  # what is there in our places
    strays: Mapping[Key, Manifest]  # what carries our labels and is wanted no more: heads, with uid and version
    left_alone: frozenset[Key]  # what an annotation (or its owner, of a CRD) takes out of our hands
    excepted: tuple[Key, ...] = ()  # wanted no more either, but an annotation takes them out of our hands
    hindered: frozenset[Key] = frozenset()  # those of them that are CRDs of others
    notes: tuple[str, ...] = ()  # why they are left as they are


def incarnation(manifest: Manifest) -> str:
    """What changes whenever the object does; one that a dry run would make has none."""
    metadata = manifest["metadata"]
    return f"{metadata.get('uid')}/{metadata.get('resourceVersion')}"


async def survey(
    reader: Reader, rendered: Iterable[Rendered], owner: Owner, *, memory: Memory, slots: asyncio.Semaphore
) -> Survey:
    """Raises ForeignObject when something in our places is not the owner's."""
    wanted = {each.key: each for each in rendered}
    heads = await _heads(reader, owner)

    async def look(each: Rendered) -> Manifest | None:
        head = heads.get(each.key)
        if head and (known := memory.get(each.key)) and known.still_as_applied(each, head):
            kind = {"apiVersion": each.key.api_version, "kind": each.key.kind}
            return {**kind, "metadata": head["metadata"], "status": known.status}
        async with slots:
            return await reader.get(kind_of(each.key.api_version, each.key.kind), each.key.name, each.key.namespace)

    found = await together(*(look(each) for each in wanted.values()))
    live = {key: manifest for key, manifest in zip(wanted, found, strict=True) if manifest}
    refuse_foreign(live, owner)
    hindered = {
        key: why
        for key, manifest in live.items()
        if key.kind == CRD.kind and (why := _hindrance(wanted[key], manifest))
    }
    unwanted = {
        key: head
        for key, head in heads.items()
        if key not in wanted and key.kind != CRD.kind and not _is_going(head)
    }  # fmt: skip
    disabled = {key for key, manifest in live.items() if is_disabled(manifest)}
    return Survey(
        live=live,
        strays={key: head for key, head in unwanted.items() if not is_disabled(head)},
        left_alone=frozenset(disabled | hindered.keys()),
        excepted=tuple(sorted(key for key, head in unwanted.items() if is_disabled(head))),
        hindered=frozenset(hindered),
        notes=tuple(hindered.values()),
    )


async def _heads(reader: Reader, owner: Owner) -> dict[Key, Manifest]:
    """Metadata of all that carries the owner's labels, and of the CRDs, which all meshes share."""
    queries = [(kind, owner.selector) for kind in OWNED]
    queries.append((CRD, f"{LABEL_MANAGED_BY}={MANAGED_BY}"))
    answers = await together(*(reader.list(kind, labels=labels, metadata_only=True) for kind, labels in queries))
    return {
        Key(kind.api_version, kind.kind, head["metadata"].get("namespace", ""), head["metadata"]["name"]): head
        for (kind, _), heads in zip(queries, answers, strict=True)
        for head in heads
    }


def is_disabled(manifest: Manifest) -> bool:
    return annotations_of(manifest).get(ANNOTATION_RECONCILE) == DISABLED


def _is_going(head: Manifest) -> bool:
    return "deletionTimestamp" in head["metadata"]


def refuse_foreign(live: Mapping[Key, Manifest], owner: Owner) -> None:
    foreign = []
    for key, manifest in live.items():
        # A namespace may be there before us, and CRDs are shared: both are looked at where they are applied.
        if key.kind not in (NAMESPACE.kind, CRD.kind) and (whose := _whose(manifest, owner)):
            foreign.append(f"{key} {whose}")
    if foreign:
        raise ForeignObject(f"{'; '.join(foreign)}: not touched; remove or rename it, or choose another revision")


def _whose(manifest: Manifest, owner: Owner) -> str | None:
    """Whose an object is that is not the owner's: who takes our labels off an object takes it out of our hands."""
    labels = labels_of(manifest)
    mesh, mesh_id = labels.get(LABEL_MESH), labels.get(LABEL_MESH_ID)
    if (mesh, mesh_id) == (owner.mesh, owner.mesh_id):
        return None
    if mesh == owner.mesh:
        return f"belongs to mesh {mesh} of {f'mesh ID {mesh_id}' if mesh_id else 'no mesh ID'}"
    if mesh:
        return f"belongs to mesh {mesh}"
    return f"was made by {named(installers(manifest))}"


def _hindrance(rendered: Rendered, theirs: Manifest) -> str | None:
    """Why a CRD stays as it is; None when it is from the same `istio.io/api` as ours, or ours can do all it can."""
    if "spec" not in theirs:  # as we applied it
        return None
    ours = rendered.manifest
    api = annotations_of(theirs).get(ANNOTATION_ISTIO_API)
    return None if api == ours["metadata"]["annotations"][ANNOTATION_ISTIO_API] else hindrance(ours, theirs)
