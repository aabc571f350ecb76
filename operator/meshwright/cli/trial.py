"""The operator's sentence, tried out: gather → decide → look at the trust → render → apply as a dry run.

All of it is the operator's own code. What it adds is to keep what the API server answers, which is what the objects
would be.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from meshwright.api.errors import FinalError, Forbidden, NotFound, TrustError
from meshwright.api.meshinstall import KIND, MeshInstall, Mode
from meshwright.cli.kubeconfig import Access, merged
from meshwright.cli.members import Connection, connect, sources
from meshwright.cli.render import read
from meshwright.cli.server import Server
from meshwright.cluster.apply import Applier
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.gather import gather, root_bundles
from meshwright.cluster.kinds import MESH_INSTALL, NODE, Kind, kind_of
from meshwright.cluster.survey import MANAGER, Survey
from meshwright.keys.store import KubernetesSecrets
from meshwright.keys.trust import Stores, look_at_trust
from meshwright.mesh.blast import Action, Blast, Change, blast
from meshwright.mesh.desired import ControlPlane, decide
from meshwright.mesh.findings import Finding
from meshwright.mesh.membership import leaving
from meshwright.mesh.names import Names
from meshwright.mesh.objects import Key, Rendered
from meshwright.mesh.observed import Cluster, Observed
from meshwright.mesh.preflight import objections, preflight
from meshwright.mesh.primaries import obstacles
from meshwright.mesh.trust import Trust, other_root
from meshwright.render.objects import render

FIELD_MANAGER = "kubectl-mesh"
VERBS = {"create": Action.CREATE, "change": Action.CHANGE, "delete": Action.DELETE, "leave": Action.LEAVE}

T = TypeVar("T")
ClientT = TypeVar("ClientT", bound=Client)


@dataclass(frozen=True)
class Trial:
    """What the operator would do in one cluster."""

    mesh: MeshInstall
    cluster: str
    changes: tuple[Change, ...]  # in the order in which they would be made
    unchanged: int
    blast: Blast
    notes: tuple[str, ...]

    @property
    def differs(self) -> bool:
        return any(each.action is not Action.LEAVE for each in self.changes)


class DryRun(Client):
    """The operator's client, which remembers what the API server would make of an object, and never writes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.guard = _refuse
        self.tried: dict[Key, Manifest] = {}

    async def apply(
        self, kind: Kind, manifest: Manifest, *, field_manager: str, force: bool = True, dry_run: bool = False,
        subresource: str = "",
    ) -> Manifest:  # fmt: skip
        answer = await super().apply(
            kind, manifest, field_manager=field_manager, force=force, dry_run=dry_run, subresource=subresource
        )
        self.tried[Key.of(manifest)] = answer
        return answer


def _refuse() -> None:
    raise FinalError("a plan writes nothing: this is an error in Meshwright, report it")


def trials(name: str | None, *, file: str | None, access: Access, operator_namespace: str) -> list[Trial]:
    """Of the mesh, the MeshInstalls of a file, or the only mesh that there is. Raises MeshwrightError."""
    if file:
        written = [each for each in read(file) if name in (None, (each.get("metadata") or {}).get("name"))]
        if not written:
            raise NotFound(f"{file} holds no {KIND} {name}")
        for each in written:
            MeshInstall.parse(each)  # in plain words, before the API server says it in its own
    else:
        written = [one_of(access, name)]

    async def try_out(client: DryRun) -> list[Trial]:
        now = dt.datetime.now(dt.UTC)
        manifests = [await declared(client, each) if file else each for each in written]
        return [
            trial
            for manifest in manifests
            for trial in await tried(client, manifest, operator_namespace=operator_namespace, now=now)
        ]

    return with_client(DryRun, access, try_out)


def one_of(access: Access, name: str | None) -> Manifest:
    """The mesh of that name, or the only one. Raises NotFound."""
    with Server(access) as server:
        meshes, _ = server.meshes(name)
    if not meshes:
        raise NotFound("no MeshInstall in this cluster: name a file with one (-f FILE)")
    if len(meshes) > 1:
        names = ", ".join(each["metadata"]["name"] for each in meshes)
        raise NotFound(f"there are several meshes, so say which: {names}")
    return meshes[0]


def with_client(kind: type[ClientT], access: Access, work: Callable[[ClientT], Awaitable[T]]) -> T:
    """What `work` comes to with a client that is connected, and closed again."""
    if access.files:
        merged(access)  # what is wrong with a kubeconfig is said in one place

    async def run() -> T:
        client = await kind.connect(kubeconfig=access.kubeconfig, context=access.context)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


async def declared(client: DryRun, written: Manifest) -> Manifest:
    """The MeshInstall as it would be stored, with the status that there is. Raises Rejected if it would not be."""
    name = written["metadata"]["name"]
    live = await client.get(MESH_INSTALL, name)
    try:
        if live is None:
            return await client.create(MESH_INSTALL, written, field_manager=FIELD_MANAGER, dry_run=True)
        changed = {**live, "spec": written.get("spec") or {}}
        return await client.replace(MESH_INSTALL, changed, field_manager=FIELD_MANAGER, dry_run=True)
    except NotFound:
        return written  # the kind is not installed yet: what it would refuse is not known, all else is


async def tried(client: DryRun, manifest: Manifest, *, operator_namespace: str, now: dt.datetime) -> list[Trial]:
    if "deletionTimestamp" in manifest["metadata"]:
        raise FinalError(f"MeshInstall {manifest['metadata']['name']} is being deleted: nothing else will happen to it")
    mesh = MeshInstall.parse(manifest)
    async with AsyncExitStack() as connections:
        members = await connect(client, mesh, operator_namespace, connections)
        observed = await gather(client, manifest, now=now, others=sources(members))
        desired = decide(observed)
        if desired.finding:
            raise _refused(observed.mesh, desired.finding)
        leavers = frozenset(each.name for each in leaving(mesh))
        hindered = obstacles(observed) | objections(observed, preflight(observed), leavers)
        hindered |= {each.name: each.why for each in observed.absent}
        trusts: dict[str, Trust | None] = {}
        found: dict[str, Trial] = {}
        pairs = zip(desired.control_planes, observed.clusters, strict=True)
        for plane, cluster in sorted(pairs, key=lambda pair: bool(pair[0].primary)):  # primaries first
            if cluster.name not in hindered:
                member = members.get(cluster.name)
                place = Place(client, member.client if isinstance(member, Connection) else client, operator_namespace)
                found[cluster.name] = await _tried_in(place, observed, plane, cluster, trusts)
        left = {name: _left_alone(observed.mesh, name, why) for name, why in hindered.items()}
        trials = found | left
        return [trials[each.name] for each in observed.mesh.spec.members if each.name in trials]


@dataclass(frozen=True)
class Place:
    """A cluster that is tried, and the operator's own, which has the root."""

    own: DryRun
    client: DryRun
    operator_namespace: str

    @property
    def stores(self) -> Stores:
        signing, roots = KubernetesSecrets(self.client), KubernetesSecrets(self.own)
        return Stores(signing=signing, roots=roots, operator_namespace=self.operator_namespace)


def _left_alone(mesh: MeshInstall, cluster: str, why: Finding) -> Trial:
    """The operator would do nothing there."""
    names = Names(mesh.spec.namespace, mesh.spec.revision)
    nothing = blast((), names=names, proxies=0, read=_parsed)
    return Trial(mesh=mesh, cluster=cluster, changes=(), unchanged=0, blast=nothing, notes=(why.message,))


def _refused(mesh: MeshInstall, finding: Finding) -> FinalError:
    """The message says what to do; the reason leads to more."""
    return FinalError(f"the operator would refuse mesh {mesh.name} ({finding.reason}): {finding.message}")


async def _tried_in(
    place: Place, observed: Observed, plane: ControlPlane, cluster: Cluster, trusts: dict[str, Trust | None]
) -> Trial:
    """`trusts`: of the clusters that were tried before, to which this one is added."""
    client = place.client
    if plane.resize.nowhere and plane.resize.finding:
        raise _refused(observed.mesh, plane.resize.finding)
    applier = Applier(client, client)
    found = await applier.survey(render(plane, trust=None), plane.owner)
    trust, notes = trusts.get(plane.primary), list[str]()
    if not plane.primary:
        trust, notes = await _trust(place, observed, plane, cluster)
        trusts[cluster.name] = trust
    waves = render(plane, trust)
    outcome = await applier.apply(waves, found, plane.owner, dry_run=True, proceed=lambda: None)
    rendered = {each.key: each for wave in waves for each in wave.objects}
    changes = [
        Change(VERBS[verb], key, await _before(client, key, found), await _after(client, key, verb, rendered, found))
        for key, verb in outcome.verbs.items()
        if verb in VERBS
    ]
    return Trial(
        mesh=observed.mesh,
        cluster=cluster.name,
        changes=tuple(changes),
        unchanged=outcome.unchanged,
        blast=blast(
            changes, names=plane.names, proxies=cluster.proxies + sum(each.replicas for each in cluster.gateways),
            nodes=await _nodes(client, changes), read=_parsed,
        ),
        notes=(*_mode(observed.mesh), *notes, *outcome.notes),
    )  # fmt: skip


def _mode(mesh: MeshInstall) -> Iterator[str]:
    if mesh.spec.mode is not Mode.APPLY:
        yield f"spec.mode is {mesh.spec.mode}: the operator carries out nothing of this until it is {Mode.APPLY}"


async def _before(client: Client, key: Key, found: Survey) -> Manifest | None:
    if key in found.strays:  # of these, the survey knows the head only
        return await client.get(kind_of(key.api_version, key.kind), key.name, key.namespace)
    return found.live.get(key)


async def _after(
    client: DryRun, key: Key, verb: str, rendered: Mapping[Key, Rendered], found: Survey
) -> Manifest | None:
    """What an object would be: what the API server said, or what is born where it has not been asked."""
    if verb == "delete":
        return None
    if verb == "leave":
        return found.live[key]
    wanted = rendered[key]
    if verb == "create" and wanted.birth:
        return wanted.birth.manifest
    if verb == "change" and key not in client.tried:
        kind = kind_of(key.api_version, key.kind)
        await client.apply(kind, wanted.manifest, field_manager=MANAGER, dry_run=True)
    return client.tried.get(key, wanted.manifest)


async def _trust(
    place: Place, observed: Observed, plane: ControlPlane, cluster: Cluster
) -> tuple[Trust | None, list[str]]:
    """The trust that there is, and what would be made of it. Raises TrustError for what cannot be used."""
    mesh = observed.mesh
    try:
        standing = await look_at_trust(plane.trust, place.stores, now=observed.now)
    except Forbidden:
        known = _known_trust(mesh, cluster.name)
        return known, ["you may not read the CA's Secrets, so they were not checked; the status knows the root's name"]
    if cluster.proxies and (standing.root_fingerprint is None or mesh.status.version is None):
        bundles = await root_bundles(place.client, cluster.proxy_namespaces)
        if objection := other_root(cluster.proxy_namespaces, bundles, standing.root_fingerprint):
            raise TrustError(objection)
    notes, signing = [], f"{plane.trust.namespace}/{plane.trust.signing_secret}"
    if standing.root_fingerprint is None:
        notes.append(f"a root CA would be made, in Secret {place.operator_namespace}/{plane.trust.root_secret}")
    if standing.trust is None:
        notes.append(f"an intermediate CA would be made, in Secret {signing}")
    elif standing.renewal_due:
        notes.append(f"the intermediate CA would be renewed, in Secret {signing}")
    return standing.trust, notes


def _known_trust(mesh: MeshInstall, cluster: str) -> Trust | None:
    """From the status: for whom the Secrets are not to be read."""
    trust = next((each.trust for each in mesh.status.clusters if each.name == cluster), None)
    if not (trust and trust.root_fingerprint and trust.root_expires):
        return None
    if not (trust.intermediate_fingerprint and trust.intermediate_expires):
        return None
    moments = [dt.datetime.fromisoformat(each) for each in (trust.root_expires, trust.intermediate_expires)]
    return Trust(trust.root_fingerprint, moments[0], trust.intermediate_fingerprint, moments[1])


async def _nodes(client: Client, changes: list[Change]) -> int:
    """How many nodes there are, if a DaemonSet comes that would run on them."""
    if not any(each.key.kind == "DaemonSet" and each.action is Action.CREATE for each in changes):
        return 0
    return len(await client.list(NODE, metadata_only=True))


def _parsed(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
