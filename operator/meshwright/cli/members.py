"""The members of a mesh, by connections of our own to each, made from the Secrets that the operator uses."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

from meshwright.api.errors import KubeconfigError, MeshwrightError
from meshwright.api.meshinstall import MeshInstall
from meshwright.cluster.client import Client
from meshwright.cluster.gather import Source, denied
from meshwright.cluster.kinds import SECRET
from meshwright.cluster.kubeconfig import access_in
from meshwright.cluster.together import together
from meshwright.mesh.findings import Finding
from meshwright.mesh.membership import with_leaving
from meshwright.mesh.observed import Absent, ApiServer

ClientT = TypeVar("ClientT", bound=Client)


@dataclass(frozen=True)
class Connection(Generic[ClientT]):
    client: ClientT
    source: Source


async def connect(
    own: ClientT, mesh: MeshInstall, operator_namespace: str, connections: AsyncExitStack
) -> dict[str, Connection[ClientT] | Absent]:
    """Those besides the operator's own cluster, by name, until `connections` are closed."""
    named = [each for each in with_leaving(mesh).spec.members if each.kubeconfig_secret]
    found = await together(
        *(_connection(own, each.name, str(each.kubeconfig_secret), operator_namespace, connections) for each in named)
    )
    return dict(zip((each.name for each in named), found, strict=True))


def sources(members: Mapping[str, Connection[ClientT] | Absent]) -> dict[str, Source | Absent]:
    """As `gather` wants them."""
    return {name: each if isinstance(each, Absent) else each.source for name, each in members.items()}


async def _connection(
    own: ClientT, name: str, secret: str, namespace: str, connections: AsyncExitStack
) -> Connection[ClientT] | Absent:
    try:
        access = access_in(await own.get(SECRET, secret, namespace), name=secret, namespace=namespace)
        client = type(own).for_member(access)
        connections.push_async_callback(client.close)
        lacking = await denied(client)
    except KubeconfigError as error:
        return Absent(name, Finding(error.reason, f"cluster {name}: {error}"))
    except MeshwrightError as error:
        return Absent(name, Finding("ClusterAway", f"cluster {name}: {error}"))
    server = ApiServer.of(access.server, access.ca, access.tls_server_name)
    return Connection(client, Source(client, server, client.clock, lacking))
