"""The API servers that the operator works on: its own, and one for each kubeconfig Secret that a mesh names.

A member belongs to the resourceVersion of its Secret: another kubeconfig is another member. All meshes share it. One
that does not answer is away until its probe finds it again, so that nobody waits for it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from meshwright.api.errors import KubeconfigError, MeshwrightError
from meshwright.api.meshinstall import MeshSpec
from meshwright.cluster.apply import Applier
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.gather import Reader, Source, denied
from meshwright.cluster.kinds import SECRET
from meshwright.cluster.kubeconfig import Access, access_in
from meshwright.cluster.mirror import Mirror
from meshwright.cluster.together import together
from meshwright.controller.inquiry import Inquiry
from meshwright.keys.remote import KubernetesTokens
from meshwright.keys.trust import Stores
from meshwright.mesh.findings import Finding
from meshwright.mesh.observed import Absent, ApiServer

log = structlog.get_logger()

PROBE = 5.0  # seconds between questions whether a member answers
ANSWER = 4.0  # seconds in which it has to
PERMISSIONS_HOLD = 60.0  # seconds after which we ask again what we may do
OPENINGS = 4  # members whose informers start at a time: each has some 25 connections to make
OPENING = 10.0  # seconds after which the next one may start in any case
LOOK = 0.05  # seconds between looks whether informers have started
LAST_USE = 60.0  # seconds after which no request by a former kubeconfig is under way any more


@dataclass(eq=False)
class Member:
    """One API server, and what is remembered of what was done there. `reader` tells what need not be the newest."""

    client: Client
    reader: Reader
    api_server: ApiServer | None = None  # for the pods of other clusters; None: the operator's own
    version: str = ""  # of the Secret that leads there
    away: Finding | None = None  # why it does not answer, and since when
    opened: bool = False  # its informers have started
    denied: tuple[str, ...] = ()  # what we may not do there, as was last heard
    denied_until: float = 0.0  # by the loop's clock: then it is asked again
    applier: Applier = field(init=False)
    inquiry: Inquiry = field(init=False)
    secrets: KubernetesTokens = field(init=False)
    task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.applier = Applier(self.client, self.reader)
        self.inquiry = Inquiry(self.client)
        self.secrets = KubernetesTokens(self.client)

    def forget(self, mesh: str) -> None:
        self.applier.forget(mesh)
        self.inquiry.forget(mesh)


WAITING = Finding("ClusterAway", "it was not looked at yet: others come first")
Connect = Callable[[Access], Client]
Reflect = Callable[[Client], Mirror]


class Members:
    """`own` is the operator's cluster, whose `namespace` holds the Secrets; `changed` is told of who comes and goes."""

    def __init__(
        self, own: Member, *, namespace: str, connect: Connect, reflect: Reflect, changed: Callable[[], None],
        now: Callable[[], dt.datetime],
    ) -> None:  # fmt: skip
        self.own = own
        self._namespace = namespace
        self._connect, self._reflect, self._changed, self._now = connect, reflect, changed, now
        self._members: dict[str, Member] = {}  # by Secret
        self._lock = asyncio.Lock()
        self._openings = asyncio.Semaphore(OPENINGS)
        self._leaving: set[asyncio.Task[None]] = set()

    async def of(self, spec: MeshSpec) -> dict[str, Member | Absent]:
        """The clusters of a mesh by name. Raises what the operator's own API server answers."""
        names = [each for each in spec.members if each.kubeconfig_secret is not None]
        found = await together(*(self._member(each.name, str(each.kubeconfig_secret)) for each in names))
        others = dict(zip((each.name for each in names), found, strict=True))
        return {each.name: others.get(each.name, self.own) for each in spec.members}

    async def _member(self, name: str, secret: str) -> Member | Absent:
        manifest = await self.own.client.get(SECRET, secret, self._namespace)
        try:
            member = await self._current(secret, manifest)
        except KubeconfigError as error:
            return Absent(name, Finding(error.reason, f"cluster {name}: {error}"))
        if away := member.away:
            return Absent(name, Finding(away.reason, f"cluster {name}: {away.message}"))
        return member

    async def _current(self, secret: str, manifest: Manifest | None) -> Member:
        version = manifest["metadata"]["resourceVersion"] if manifest else ""
        async with self._lock:
            known = self._members.get(secret)
            if known and known.version == version:
                return known
            if known:  # another mesh may still be at work with it
                del self._members[secret]
                self._retire(known)
            access = access_in(manifest, name=secret, namespace=self._namespace)
            member = self._members[secret] = self._open(secret, access, version)
            return member

    def _open(self, secret: str, access: Access, version: str) -> Member:
        client = self._connect(access)
        client.guard = self.own.client.guard
        mirror = self._reflect(client)
        server = ApiServer.of(access.server, access.ca, access.tls_server_name)
        busy = sum(not each.opened for each in self._members.values()) >= OPENINGS
        member = Member(client, mirror, api_server=server, version=version, away=WAITING if busy else None)
        member.task = asyncio.create_task(self._keep(secret, member, mirror), name=f"member {access.server}")
        return member

    async def _keep(self, secret: str, member: Member, mirror: Mirror) -> None:
        """Its informers and its probe, until it is cancelled."""
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._open_informers(secret, member, mirror, tasks)
                    while True:
                        self._turn(secret, member, await self._probe(secret, member))
                        await asyncio.sleep(PROBE)
            except Exception:  # whatever it is, nobody else would notice that the cluster is watched no more
                log.exception("watching a member cluster failed", secret=secret)
                await asyncio.sleep(PROBE)

    async def _open_informers(self, secret: str, member: Member, mirror: Mirror, tasks: asyncio.TaskGroup) -> None:
        """Once it answers, and in turn: a hundred members at once would keep the lease from being renewed."""
        while away := await self._probe(secret, member):
            self._turn(secret, member, away)
            await asyncio.sleep(PROBE)
        async with self._openings:
            tasks.create_task(mirror.run(), name="informers")
            with suppress(TimeoutError):
                async with asyncio.timeout(OPENING):
                    while not mirror.synced:  # noqa: ASYNC110 - informers have no event in common
                        await asyncio.sleep(LOOK)
        member.opened = True

    async def _probe(self, secret: str, member: Member) -> Finding | None:
        """Why it does not answer."""
        where = f"Secret {self._namespace}/{secret}"
        try:
            async with asyncio.timeout(ANSWER):
                await member.client.version()
                await _learn_permissions(member)
        except TimeoutError:
            return Finding("ClusterAway", f"the API server does not answer within {ANSWER:.0f} s")
        except KubeconfigError as error:
            return Finding("KubeconfigNotUsable", f"{where}: {error}")
        except MeshwrightError as error:
            return Finding("ClusterAway", str(error))
        return None

    def _turn(self, secret: str, member: Member, found: Finding | None) -> None:
        """What was heard of it last, told when it is news."""
        before = member.away
        if found and before and before is not WAITING and found.reason == before.reason:
            return  # away still: since when is part of the news
        since = f"away since {self._now():%Y-%m-%d %H:%M:%S} UTC"
        member.away = Finding(found.reason, f"{found.message}; {since}") if found else None
        if member.away != before:
            log.info("member cluster turned", secret=secret, away=member.away.message if member.away else None)
            self._changed()

    async def close(self) -> None:
        """All connections to members; nobody may be at work with them any more."""
        for secret in list(self._members):
            await _end(self._members.pop(secret))
        await asyncio.sleep(0)  # a task that has not begun would be cancelled as a whole
        for leaving in self._leaving:
            leaving.cancel()  # its wait, not its end
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _retire(self, member: Member) -> None:
        task = asyncio.create_task(_end(member, after=LAST_USE))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def stores(self, member: Member) -> Stores:
        """Where the trust of a member is kept."""
        return Stores(member.secrets, self.own.secrets, self._namespace)

    def forget(self, mesh: str) -> None:
        for member in (self.own, *self._members.values()):
            member.forget(mesh)


async def _learn_permissions(member: Member) -> None:
    now = asyncio.get_running_loop().time()
    if now >= member.denied_until:
        member.denied, member.denied_until = await denied(member.client), now + PERMISSIONS_HOLD


async def _end(member: Member, *, after: float = 0.0) -> None:
    """Its watches at once, its connections after so many seconds."""
    if member.task:
        member.task.cancel()
    try:
        await asyncio.sleep(after)
    finally:
        if member.task:
            await asyncio.gather(member.task, return_exceptions=True)
        await member.client.close()


def sources(members: Mapping[str, Member | Absent]) -> dict[str, Source | Absent]:
    """As `gather` wants them: those besides the operator's own."""
    found: dict[str, Source | Absent] = {}
    for name, member in members.items():
        if isinstance(member, Absent):
            found[name] = member
        elif member.api_server:
            found[name] = Source(member.reader, member.api_server, clock=member.client.clock, denied=member.denied)
    return found
