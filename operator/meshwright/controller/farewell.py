"""How a cluster is left: its access to others and theirs to it are taken back, then what the mesh made there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from meshwright.api.errors import TrustError
from meshwright.api.meshinstall import MeshInstall
from meshwright.cluster.apply import Proceed
from meshwright.cluster.remove import remove
from meshwright.controller.members import Member, Members
from meshwright.keys.remote import revoke_remote
from meshwright.keys.trust import look_at_trust
from meshwright.mesh.desired import owner_of, trust_intent
from meshwright.mesh.names import Names
from meshwright.mesh.objects import Step
from meshwright.mesh.observed import Cluster
from meshwright.mesh.remotes import access_of


class Farewell:
    """`proceed`, asked before each delete, raises Superseded. Everything here can be done again at any point."""

    def __init__(self, members: Members, *, now: Callable[[], dt.datetime]) -> None:
        self._members = members
        self._now = now

    async def part(
        self, mesh: MeshInstall, one: tuple[str, Member], other: tuple[str, Member], *, proceed: Proceed
    ) -> None:
        """Takes the access of two clusters to each other back."""
        for (reader, reading), (source, read) in ((one, other), (other, one)):
            access = access_of(mesh, reader, source)
            await revoke_remote(access, reader=reading.secrets, source=read.secrets, proceed=proceed)

    async def disown(self, mesh: MeshInstall, gone: str, name: str, member: Member, *, proceed: Proceed) -> None:
        """Takes back, in cluster `name`, its access to one that is gone for good, and that one's access to it."""
        await revoke_remote(access_of(mesh, name, gone), reader=member.secrets, source=None, proceed=proceed)
        await revoke_remote(access_of(mesh, gone, name), reader=None, source=member.secrets, proceed=proceed)

    async def remove(self, mesh: MeshInstall, cluster: Cluster, member: Member, *, proceed: Proceed) -> Step | None:
        """What is still waited for; None when nothing of the mesh is there any more, but for its CA."""
        root = await self._root(mesh, cluster.name, member)
        names = Names(mesh.spec.namespace, mesh.spec.revision)
        return await remove(member.client, owner_of(mesh), names, istiods=cluster.istiods, root=root, proceed=proceed)

    async def _root(self, mesh: MeshInstall, cluster: str, member: Member) -> str | None:
        """The fingerprint of the mesh's root; of one that is lost, or cannot be used, what the status knows of it."""
        known = next((each.trust.root_fingerprint for each in mesh.status.clusters), None)
        try:
            standing = await look_at_trust(trust_intent(mesh, cluster), self._members.stores(member), now=self._now())
        except TrustError:
            return known
        return standing.root_fingerprint or known
