"""How clusters see each other: who is to read whom, and what is missing of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from meshwright.api.meshinstall import MeshInstall, MeshSpec
from meshwright.mesh.desired import ControlPlane, mesh_id
from meshwright.mesh.evidence import Replies
from meshwright.mesh.findings import Finding
from meshwright.mesh.gateways import east_west, gateway_addresses
from meshwright.mesh.names import PRIMARY, READER
from meshwright.mesh.observed import Cluster
from meshwright.mesh.trust import Remote

NOTICE = dt.timedelta(days=7)  # of a token's life: renewed at half of it, it outlives a weekend without the operator


@dataclass(frozen=True)
class AccessIntent:
    """That cluster `reader` may read cluster `source`."""

    mesh: str
    mesh_id: str
    namespace: str
    reader: str
    source: str
    account: str = READER


@dataclass(frozen=True)
class RemoteIntent:
    """That it does: where the source's API server is, as the reader's pods reach it; never a token."""

    access: AccessIntent
    server: str  # https URL
    ca: str  # PEM; empty: a CA that everybody knows
    tls_server_name: str = ""


def access_of(mesh: MeshInstall, reader: str, source: str) -> AccessIntent:
    account = PRIMARY if mesh.spec.primary(source) == reader else READER
    return AccessIntent(mesh.name, mesh_id(mesh), mesh.spec.namespace, reader, source, account)


def remote_intent(mesh: MeshInstall, reader: Cluster, source: Cluster) -> RemoteIntent | None:
    """None while the source cannot be reached: an istiod that knows its pods, but no gateway of their network, would
    send traffic to addresses that lead nowhere.
    """
    server = source.api_server
    if server is None or not reachable(mesh.spec, reader.name, source):
        return None
    return RemoteIntent(access_of(mesh, reader.name, source.name), server.server, server.ca, server.tls_server_name)


def reachable(spec: MeshSpec, reader: str, source: Cluster) -> bool:
    """Whether the pods of one cluster have a way to those of another one."""
    network = spec.network(source.name)
    # A primary has to read its remote before anything can start there, the gateway included.
    serves = spec.primary(source.name) == reader
    return serves or network == spec.network(reader) or bool(gateway_addresses(spec, source))


def notes(remotes: Mapping[tuple[str, str], Remote]) -> Iterator[str]:
    """What is as declared, and yet worth knowing, of access by who reads and what."""
    short = {source: each.life for (_, source), each in remotes.items() if each.life < NOTICE}
    for source, life in sorted(short.items())[:1]:
        hours = life // dt.timedelta(hours=1)
        yield (
            f"the API server of {source} grants tokens of {hours} hours only: without an operator for half of that, the"
            " other clusters lose its endpoints; let it grant a week or more (--service-account-max-token-expiration)"
        )


def joining_findings(
    spec: MeshSpec, cluster: Cluster, plane: ControlPlane, replies: Replies, remotes: Iterable[str]
) -> Iterator[Finding]:
    if plane.joined and plane.network and not gateway_addresses(spec, cluster):
        yield Finding(
            "NoGatewayAddress",
            f"Service {spec.namespace}/{east_west(spec).name} of cluster {cluster.name} has no address yet: the other"
            " clusters cannot reach it",
        )
    if plane.joined and cluster.api_server is None:
        yield Finding(
            "MemberNotReady",
            f"nobody knows where the API server of cluster {cluster.name} is: set clusters[{cluster.name}].server",
        )
    for source in sorted(remotes):
        if replies.answers and not replies.synced(source):
            yield Finding(
                "RemoteNotSynced",
                f"istiod in cluster {cluster.name} has not read cluster {source} yet ({replies.sync(source)} replicas)",
            )
