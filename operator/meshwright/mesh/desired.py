"""decide: from the snapshot to what should be. Intents only; how they become objects is render's business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshwright.api.meshinstall import MTLS, MeshInstall, MeshSpec, Mode
from meshwright.mesh import checks, meshconfig
from meshwright.mesh.checks import Finding
from meshwright.mesh.health import own_istiod
from meshwright.mesh.injection import injector_values
from meshwright.mesh.names import CLUSTER_DOMAIN, Names
from meshwright.mesh.objects import Owner
from meshwright.mesh.observed import Cluster, Observed
from meshwright.mesh.replicas import Decision, declared
from meshwright.mesh.sizing import ROWS, Sizing, size_of

ROOT_SECRET_PREFIX = "meshwright-root-"  # noqa: S105
SIGNING_SECRET = "cacerts"  # noqa: S105  # the name that istiod looks for


@dataclass(frozen=True)
class TrustIntent:
    """The CA that a cluster's istiod must find: names and subjects, never a key."""

    mesh: str
    mesh_id: str
    trust_domain: str
    cluster: str
    root_secret: str  # in the operator's namespace
    namespace: str
    signing_secret: str


@dataclass(frozen=True)
class ControlPlane:
    """istiod and what belongs to it, in one cluster."""

    cluster: str
    names: Names
    version: str
    hub: str
    tag: str
    pull_policy: str
    sizing: Sizing
    env: Mapping[str, str]
    mesh_config: Mapping[str, Any]
    injector_values: Mapping[str, Any]
    mtls: MTLS
    trust: TrustIntent
    owner: Owner
    replicas: Decision


@dataclass(frozen=True)
class Desired:
    """What should be. With a `finding`, nothing is written at all."""

    mesh: str
    mesh_id: str
    mode: Mode
    control_planes: tuple[ControlPlane, ...]
    finding: Finding | None = None


def decide(observed: Observed) -> Desired:
    mesh = observed.mesh
    finding = checks.first_finding(observed)
    return Desired(
        mesh=mesh.name,
        mesh_id=mesh_id(observed.mesh),
        mode=mesh.spec.mode,
        control_planes=() if finding else tuple(control_plane(observed, cluster) for cluster in observed.clusters),
        finding=finding,
    )


def mesh_id(mesh: MeshInstall) -> str:
    return mesh.spec.mesh_id or mesh.spec.trust_domain


def owner_of(mesh: MeshInstall) -> Owner:
    return Owner(mesh.name, mesh_id(mesh))


def trust_intent(mesh: MeshInstall, cluster: str) -> TrustIntent:
    return TrustIntent(
        mesh=mesh.name,
        mesh_id=mesh_id(mesh),
        trust_domain=mesh.spec.trust_domain,
        cluster=cluster,
        root_secret=f"{ROOT_SECRET_PREFIX}{mesh.name}",
        namespace=mesh.spec.namespace,
        signing_secret=SIGNING_SECRET,
    )


def control_plane(observed: Observed, cluster: Cluster) -> ControlPlane:
    spec = observed.mesh.spec
    names = Names(spec.namespace, spec.revision)
    sizing = size_of(spec.control_plane.size, spec.control_plane.resources)
    image = spec.control_plane.image
    tag = image.tag or spec.version
    return ControlPlane(
        cluster=cluster.name,
        names=names,
        version=spec.version,
        hub=image.hub,
        tag=tag,
        pull_policy=image.pull_policy,
        sizing=sizing,
        env=dict(sorted(spec.control_plane.env.items())),
        mesh_config=meshconfig.mesh_config(spec),
        injector_values=injector_values(
            hub=image.hub,
            tag=tag,
            image_pull_policy=image.pull_policy,
            cluster_name=cluster.name,
            network="",
            mesh_id=mesh_id(observed.mesh),
            trust_domain=spec.trust_domain,
            cluster_domain=CLUSTER_DOMAIN,
            namespace=spec.namespace,
            revision=spec.revision,
            ca_address=names.discovery_address,
        ),
        mtls=spec.mtls,
        trust=trust_intent(observed.mesh, cluster.name),
        owner=owner_of(observed.mesh),
        replicas=replicas_for(cluster, spec),
    )


def replicas_for(cluster: Cluster, spec: MeshSpec) -> Decision:
    """Who decides how many replicas of istiod there are in a cluster, and how many."""
    istiod = own_istiod(cluster, Names(spec.namespace, spec.revision))
    return declared(
        size=ROWS[spec.control_plane.size].replicas,
        live=istiod.replicas if istiod else None,
        autoscaled=cluster.autoscaled,
        annotation=istiod.replicas_annotation if istiod else None,
    )
