"""decide: from the snapshot to what should be. Intents only; how they become objects is render's business."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from meshwright.api.meshaction import Shape
from meshwright.api.meshinstall import CNI, MTLS, MeshInstall, MeshSpec, Mode, Size
from meshwright.mesh import (
    availability,
    checks,
    dataplane,
    effects,
    locality,
    meshconfig,
    primaries,
    resize,
    verification,
)
from meshwright.mesh.availability import Bounds
from meshwright.mesh.findings import Finding
from meshwright.mesh.gateways import Gateway, gateway_of, gateway_specs
from meshwright.mesh.health import own_istiod
from meshwright.mesh.injection import injector_values
from meshwright.mesh.names import CLUSTER_DOMAIN, Names
from meshwright.mesh.objects import Owner
from meshwright.mesh.observed import Cluster, Observed
from meshwright.mesh.replicas import AUTOSCALED, Decision, declared
from meshwright.mesh.sizing import Sizing, proxy_share, size_of

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
class CNIPlugin:
    """istio-cni on every node: where it puts its program and its configuration."""

    bin_dir: str
    conf_dir: str


@dataclass(frozen=True)
class ControlPlane:
    """istiod and what belongs to it, in one cluster."""

    cluster: str
    network: str  # of its pods; empty where all reach each other
    joined: bool  # there are other clusters, which read this one
    primary: str  # the cluster whose istiod serves this one; empty: it has its own, and all below is of it
    primary_slices: tuple[tuple[str, tuple[str, ...]], ...]  # where that is: address families and addresses
    entry: primaries.Entry | None  # by which others reach its istiod, whose primary it is
    names: Names
    version: str
    hub: str
    tag: str
    pull_policy: str
    pull_secrets: tuple[str, ...]
    sizing: Sizing
    replicas: Decision
    bounds: Bounds | None  # None: no autoscaler of ours
    base: Shape  # replicas and bounds, as they are without scaling actions
    budget: Mapping[str, Any]
    priority_class: str
    env: Mapping[str, str]
    mesh_config: Mapping[str, Any]
    connection_age: str  # at which istiod ends a connection
    injector_values: Mapping[str, Any]
    mtls: MTLS
    trust: TrustIntent
    owner: Owner
    cni: CNIPlugin | None
    gateways: tuple[Gateway, ...]
    ejects: bool  # endpoints that fail, so that those of another locality are used
    probe: verification.Probe | None  # which verifies that it reaches the other clusters
    resize: resize.Decision  # what became of the size that is asked for

    @property
    def injection_path(self) -> str:
        """Of the webhook: an istiod that serves another cluster is told which one, and its network."""
        if not self.primary:
            return "/inject"
        return f"/inject/cluster/{self.cluster}" + (f"/net/{self.network}" if self.network else "")


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
    image = spec.control_plane.image
    tag = image.tag or spec.version
    primary, entry = spec.primary(cluster.name), primaries.entry(spec, cluster.name)
    demand = replace(cluster, enrolled=primaries.served(observed, cluster))
    shape = effects.effect(observed.journal, cluster.name)
    size = (
        resize.Decision(size_of(Size.SMALL, spec.control_plane.resources))
        if primary
        else resize.decide_size(observed.mesh, demand, now=observed.now, shape=shape)
    )
    base = bounds_of(spec, size.sizing, cluster)
    bounds, sizing = effects.bounds(base, shape), size.sizing if base else effects.sizing(size.sizing, shape)
    return ControlPlane(
        cluster=cluster.name,
        network=spec.network(cluster.name),
        joined=len(spec.members) > 1,
        primary=primary,
        primary_slices=primaries.slices(observed, primary) if primary else (),
        entry=entry,
        names=names,
        version=spec.version,
        hub=image.hub,
        tag=tag,
        pull_policy=image.pull_policy,
        pull_secrets=tuple(spec.data_plane.image_pull_secrets),
        sizing=sizing,
        replicas=replicas_for(cluster, spec, sizing, bounds),
        bounds=bounds,
        base=Shape(
            replicas=base.minimum if base else size.sizing.replicas,
            max_replicas=base.maximum if base else None,
            memory=size_of(size.sizing.size, spec.control_plane.resources).share.limits.memory,
        ),
        budget=availability.budget(
            spec.control_plane.pod_disruption_budget, lowest=bounds.minimum if bounds else sizing.replicas
        ),
        priority_class=spec.control_plane.priority_class_name,
        env=istiod_env(spec, serves=entry is not None),
        mesh_config=meshconfig.mesh_config(
            spec, keepalive=meshconfig.bears_keepalive(resize.status_of(observed.mesh, cluster))
        ),
        connection_age=spec.scaling.rebalance.connection_age,
        injector_values=injector_values(
            hub=image.hub,
            tag=tag,
            image_pull_policy=image.pull_policy,
            image_pull_secrets=spec.data_plane.image_pull_secrets,
            cluster_name=cluster.name,
            network=spec.network(cluster.name),
            mesh_id=mesh_id(observed.mesh),
            trust_domain=spec.trust_domain,
            cluster_domain=CLUSTER_DOMAIN,
            namespace=spec.namespace,
            revision=spec.revision,
            ca_address=names.discovery_address,
            hold_application=spec.data_plane.sidecar.hold_application_until_proxy_starts,
            proxy_resources=proxy_share(spec.data_plane.sidecar.resources).manifest,
            proxy_log_level=spec.data_plane.sidecar.log_level,
            cni_enabled=spec.data_plane.cni is not CNI.DISABLED,
        ),
        mtls=spec.mtls,
        trust=trust_intent(observed.mesh, cluster.name),
        owner=owner_of(observed.mesh),
        cni=CNIPlugin(spec.data_plane.cni_bin_dir, spec.data_plane.cni_conf_dir)
        if spec.data_plane.cni is CNI.ENABLED
        else None,
        gateways=tuple(gateways(cluster, spec, image=f"{image.hub}/pilot:{tag}")),
        ejects=locality.ejects(spec),
        probe=verification.probe_of(observed),
        resize=size,
    )


def istiod_env(spec: MeshSpec, *, serves: bool) -> dict[str, str]:
    """`serves`: also other clusters, whose primary it is."""
    ours = dataplane.istiod_env(spec) | (primaries.SERVING_ENV if serves else {})
    return dict(sorted((spec.control_plane.env | ours).items()))


def bounds_of(spec: MeshSpec, sizing: Sizing, cluster: Cluster) -> Bounds | None:
    """What our autoscaler of istiod moves between; one of somebody else has precedence."""
    if cluster.autoscaled:
        return None
    return availability.bounds(
        spec.control_plane.autoscaling, replicas=sizing.replicas, cpu_limit=sizing.share.limits.cpu
    )


def gateways(cluster: Cluster, spec: MeshSpec, *, image: str) -> Iterator[Gateway]:
    """Those that have a place to be. Their proxies follow istiod: none is ever newer than it."""
    istiod = own_istiod(cluster, Names(spec.namespace, spec.revision))
    remote = bool(spec.primary(cluster.name))  # injected by an istiod that is not looked at here
    settled = remote or (istiod is not None and istiod.rolled_out and istiod.image == image)
    live = {(each.namespace, each.name): each for each in cluster.gateways}
    for gateway, network in gateway_specs(spec, spec.network(cluster.name)):
        place = (gateway.namespace or spec.namespace, gateway.name)
        if place[0] not in cluster.homeless:
            yield gateway_of(gateway, spec, live=live.get(place), settled=settled, network=network)


def replicas_for(cluster: Cluster, spec: MeshSpec, sizing: Sizing, bounds: Bounds | None) -> Decision:
    """Who decides how many replicas of istiod there are in a cluster, and how many."""
    istiod = own_istiod(cluster, Names(spec.namespace, spec.revision))
    if bounds and istiod and istiod.replicas < bounds.minimum:  # an autoscaler leaves alone what is scaled to nothing
        return Decision(bounds.minimum, AUTOSCALED)
    return declared(
        size=sizing.replicas,
        live=istiod.replicas if istiod else None,
        autoscaled=cluster.autoscaled or bounds is not None,
        annotation=istiod.replicas_annotation if istiod else None,
    )
