"""gather: everything that is read, once, into the snapshot that decisions rest on."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple, Protocol

from meshwright.api.errors import KubeconfigError, MeshwrightError, TransientError
from meshwright.api.meshaction import MeshAction
from meshwright.api.meshinstall import (
    CNI,
    COMPONENT_GATEWAY,
    LABEL_COMPONENT,
    LABEL_MANAGED_BY,
    LABEL_MESH,
    MANAGED_BY,
    MemberCluster,
    MeshInstall,
    MeshSpec,
    TopologyModel,
)
from meshwright.cluster import workloads
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.installers import installers
from meshwright.cluster.kinds import (
    AUTOSCALER,
    BUDGET,
    CONFIG_MAP,
    DAEMON_SET,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    INJECTABLE_POD,
    LIVING_POD,
    MESH_ACTION,
    MESH_INSTALL,
    MUTATING_WEBHOOK,
    NAMESPACE,
    NODE,
    POD,
    SERVICE,
    Kind,
)
from meshwright.cluster.pods import NO_SIDECAR, SIDECAR, pod_of, proxy_revision, stays
from meshwright.cluster.together import together
from meshwright.mesh.effects import effect
from meshwright.mesh.enrolment import REVISION, Injection, proxy_image, report
from meshwright.mesh.findings import Finding
from meshwright.mesh.gateways import Gateway, gateway_of, gateway_specs
from meshwright.mesh.leftovers import ROOT_CERTIFICATE, ROOT_CERTIFICATE_KEY
from meshwright.mesh.membership import with_leaving
from meshwright.mesh.names import CNI_AGENT, Names
from meshwright.mesh.objects import Key, labels_of, selector_of
from meshwright.mesh.observed import (
    Absent,
    Agents,
    ApiServer,
    Budget,
    Cluster,
    GatewayPods,
    Injector,
    Neighbour,
    Node,
    Observed,
    ProbePod,
)
from meshwright.mesh.preflight import NEEDED, NEEDED_VERB
from meshwright.mesh.primaries import primaries
from meshwright.mesh.resize import resize_due
from meshwright.mesh.selectors import selects
from meshwright.mesh.trust import fingerprints
from meshwright.mesh.verification import wanted

TAG = "istio.io/tag"
OPERATOR = "app.kubernetes.io/name=meshwright"
SYSTEM = "kube-system"  # lives as long as its cluster, so its UID is that of the cluster
NAMED_PROXIES = 10


PATIENCE = 8.0  # seconds for all that is read of a member cluster


class Reader(Protocol):
    """What is read of one API server: by requests (`Client`), or from memory where informers have it (`Mirror`)."""

    async def get(
        self, kind: Kind, name: str, namespace: str = "", *, metadata_only: bool = False
    ) -> Manifest | None: ...

    async def list(
        self, kind: Kind, namespace: str = "", *, labels: str = "", metadata_only: bool = False
    ) -> list[Manifest]: ...

    async def version(self) -> str: ...


class Source(NamedTuple):
    """A member cluster that is not the operator's own, and how the pods of the others reach its API server."""

    reader: Reader
    api_server: ApiServer
    clock: dt.timedelta | None = None  # how far its clock is ahead of ours
    denied: tuple[str, ...] = ()  # of what a mesh needs, see mesh.preflight


NONE: Mapping[str, Source | Absent] = {}


async def denied(client: Client) -> tuple[str, ...]:
    """What of all that a mesh needs we may not do in a cluster."""
    allowed = await together(*(client.may(NEEDED_VERB, *each) for each in NEEDED))
    return tuple(f"{NEEDED_VERB} {resource}" for (_, resource), each in zip(NEEDED, allowed, strict=True) if not each)


async def gather(
    reader: Reader, manifest: Manifest, *, now: dt.datetime, others: Mapping[str, Source | Absent] = NONE
) -> Observed:
    """The snapshot for a MeshInstall's manifest. Raises InvalidSpec when that does not parse.

    `reader` is of the operator's own cluster; `others` are the members of the mesh besides it, by name.
    """
    mesh = with_leaving(MeshInstall.parse(manifest))
    members = mesh.spec.members
    journal = await journal_of(reader, mesh.name)
    neighbours, image, *found = await together(
        reader.list(MESH_INSTALL),
        _operator_image(reader) if wanted(mesh) else _no_text(),
        *(_member(reader, mesh, each, others.get(each.name), now=now, journal=journal) for each in members),
    )
    return Observed(
        now=now,
        mesh=mesh,
        created=manifest["metadata"].get("creationTimestamp", ""),
        neighbours=tuple(_neighbour(each) for each in neighbours if each["metadata"]["name"] != mesh.name),
        clusters=tuple(each for each in found if isinstance(each, Cluster)),
        absent=tuple(each for each in found if isinstance(each, Absent)),
        journal=journal,
        operator_image=image,
    )


async def journal_of(reader: Reader, mesh: str) -> tuple[MeshAction, ...]:
    """The scaling actions of a mesh, oldest first."""
    found = await reader.list(MESH_ACTION, labels=selector_of({LABEL_MESH: mesh}))
    actions = [action for each in found if (action := MeshAction.parse(each)) and action.spec.mesh == mesh]
    return tuple(sorted(actions, key=lambda each: (each.spec.decided, each.name)))


async def _member(
    own: Reader, mesh: MeshInstall, member: MemberCluster, source: Source | Absent | None, *, now: dt.datetime,
    journal: Iterable[MeshAction],
) -> Cluster | Absent:  # fmt: skip
    """One that does not answer in time is absent: it must not hold up the others, and is not taken for empty."""
    if isinstance(source, Absent):
        return source
    if member.kubeconfig_secret is None:
        server = await _own_api_server(own, member) if len(mesh.spec.members) > 1 else None
        return replace(await _whole_cluster(own, mesh, member.name, now, journal), api_server=server)
    if source is None:
        return Absent(member.name, Finding("ClusterAway", f"cluster {member.name} is not looked at from here"))
    server = replace(source.api_server, server=member.server) if member.server else source.api_server
    try:
        async with asyncio.timeout(PATIENCE):
            cluster = await _whole_cluster(source.reader, mesh, member.name, now, journal)
            return replace(cluster, api_server=server, clock=source.clock, denied=source.denied)
    except (MeshwrightError, TimeoutError) as error:
        return Absent(member.name, _absence(error, member.name))


def _absence(error: MeshwrightError | TimeoutError, cluster: str) -> Finding:
    match error:
        case TimeoutError():
            return Finding("ClusterAway", f"cluster {cluster}: it could not be read within {PATIENCE:.0f} s")
        case TransientError():
            return Finding("ClusterAway", f"cluster {cluster}: {error}")
        case KubeconfigError():
            return Finding("KubeconfigNotUsable", f"cluster {cluster}: {error}")
    return Finding("MemberNotReady", f"cluster {cluster}: {error}")


async def _whole_cluster(
    reader: Reader, mesh: MeshInstall, name: str, now: dt.datetime, journal: Iterable[MeshAction]
) -> Cluster:
    cluster = await gather_cluster(reader, mesh, name=name, now=now)
    injection = await gather_injection(reader, mesh.spec, cluster.injectors)
    enrolled = max(injection.expected, cluster.proxies)
    shape = effect(journal, name)
    nodes = await _nodes(reader) if resize_due(mesh, cluster, enrolled=enrolled, shape=shape) else ()
    if len(mesh.spec.members) > 1:
        cluster = await _identified(reader, mesh.spec, cluster)
    if name in primaries(mesh.spec):
        cluster = replace(cluster, entry=await _entry(reader, mesh.spec))
    if wanted(mesh):
        cluster = replace(cluster, probes=await _probes(reader, mesh.spec, now))
    return replace(cluster, injection=injection, enrolled=enrolled, nodes=nodes)


async def _identified(reader: Reader, spec: MeshSpec, cluster: Cluster) -> Cluster:
    """With what tells it from other clusters."""
    system, bundles, ranges = await together(
        reader.get(NAMESPACE, SYSTEM, metadata_only=True),
        root_bundles(reader, [spec.namespace]),
        _pod_ranges(reader) if spec.topology.model is TopologyModel.FLAT_NETWORK else _nothing(),
    )
    roots = frozenset().union(*map(fingerprints, bundles.values()))
    return replace(cluster, uid=(system or {}).get("metadata", {}).get("uid", ""), roots=roots, pod_ranges=ranges)


async def _pod_ranges(reader: Reader) -> tuple[str, ...]:
    """Empty where Kubernetes does not hand them out, but the network's own plugin does."""
    nodes = await reader.list(NODE)
    return tuple(sorted({str(each) for node in nodes for each in (node.get("spec") or {}).get("podCIDRs") or ()}))


async def _no_text() -> str:
    return ""


async def _operator_image(reader: Reader) -> str:
    """What the operator is made of; empty where it runs outside of its cluster."""
    deployments = await reader.list(DEPLOYMENT, labels=OPERATOR)
    containers = [each for found in deployments for each in found["spec"]["template"]["spec"]["containers"]]
    return next((each["image"] for each in containers if each["name"] == "operator"), "")


async def _entry(reader: Reader, spec: MeshSpec) -> tuple[str, ...]:
    service = await reader.get(SERVICE, Names(spec.namespace, spec.revision).remotes, spec.namespace)
    return workloads.addresses(service)


async def _probes(reader: Reader, spec: MeshSpec, now: dt.datetime) -> tuple[ProbePod, ...]:
    names = Names(spec.namespace, spec.revision)
    pods = await reader.list(POD, spec.namespace, labels=selector_of(names.probe_selector))
    return tuple(workloads.probe(each, now) for each in pods if stays(each))


async def _nothing() -> tuple[str, ...]:
    return ()


async def _own_api_server(reader: Reader, member: MemberCluster) -> ApiServer | None:
    """As others reach the API server that we reach by its Service; None while nobody knows where it is."""
    slices, bundle = await together(
        reader.list(ENDPOINT_SLICE, "default", labels="kubernetes.io/service-name=kubernetes"),
        reader.get(CONFIG_MAP, "kube-root-ca.crt", "default"),
    )
    found = [
        f"https://{f'[{address}]' if ':' in address else address}:{port['port']}"
        for each in slices
        for port in each.get("ports") or ()
        for endpoint in each.get("endpoints") or ()
        for address in endpoint.get("addresses") or ()
    ]
    server = member.server or next(iter(sorted(found)), None)
    return ApiServer(server, ca=((bundle or {}).get("data") or {}).get("ca.crt", "")) if server else None


async def gather_cluster(reader: Reader, mesh: MeshInstall, *, name: str, now: dt.datetime) -> Cluster:
    spec, names = mesh.spec, Names(mesh.spec.namespace, mesh.spec.revision)
    gateways = [gateway_of(each, spec) for each, _ in gateway_specs(spec, spec.network(name))]
    (
        version,
        namespace,
        istiods,
        injectors,
        pods,
        autoscalers,
        budgets,
        found_gateways,
        homeless,
        agents,
        sidecars,
    ) = await together(
        reader.version(),
        reader.get(NAMESPACE, spec.namespace, metadata_only=True),
        reader.list(DEPLOYMENT, labels="app=istiod"),
        reader.list(MUTATING_WEBHOOK, labels="app=sidecar-injector"),
        reader.list(POD, spec.namespace, labels=selector_of(names.selector)),
        reader.list(AUTOSCALER, spec.namespace),
        _foreign_budgets(reader, names, gateways),
        _gateways(reader, mesh.name, gateways, now),
        _homeless(reader, {each.namespace for each in gateways} - {spec.namespace}),
        _agents(reader, spec, now),
        reader.list(LIVING_POD, labels=SIDECAR, metadata_only=True),
    )
    proxies = [pod["metadata"] for pod in sidecars if proxy_revision(pod) == spec.revision]
    return Cluster(
        name=name,
        kubernetes=version,
        namespace_terminating=namespace is not None and "deletionTimestamp" in namespace["metadata"],
        istiods=tuple(workloads.istiod(each) for each in istiods),
        injectors=tuple(_injector(each) for each in injectors),
        troubles=tuple(trouble for pod in pods for trouble in workloads.troubles(pod, now)),
        killed=tuple(killed for pod in pods if (killed := workloads.out_of_memory(pod))),
        istiod_pods=tuple(sorted(pod["metadata"]["name"] for pod in pods if workloads.is_ready(pod))),
        autoscaled=any(_scales(each, names.istiod) and not _is_ours(each, mesh.name) for each in autoscalers),
        budgets=tuple(budgets),
        gateways=tuple(found_gateways),
        homeless=homeless,
        agents=agents,
        proxies=len(proxies),
        proxy_namespaces=dict(Counter(each["namespace"] for each in proxies)),
        fleet=tuple((each["namespace"], each["name"]) for each in proxies),
        some_proxies=tuple(sorted(f"{each['namespace']}/{each['name']}" for each in proxies)[:NAMED_PROXIES]),
    )


async def gather_injection(reader: Reader, spec: MeshSpec, injectors: Iterable[Injector]) -> Injection:
    """How it is with all pods that are to have a sidecar of ours: much to read, and of no concern to a deletion."""
    sidecars, others, namespaces = await together(
        reader.list(LIVING_POD, labels=SIDECAR, metadata_only=True),
        reader.list(INJECTABLE_POD, labels=NO_SIDECAR, metadata_only=True),
        reader.list(NAMESPACE, metadata_only=True),
    )
    return report(
        (pod_of(each) for each in chain(sidecars, others) if stays(each)),
        {each["metadata"]["name"]: labels_of(each) for each in namespaces},
        revision=spec.revision,
        tags=[each.tag for each in injectors if each.tag and each.revision == spec.revision],
        image=proxy_image(spec),
    )


def after_writes(cluster: Cluster, changed_to: Mapping[Key, Manifest]) -> Cluster:
    """What the snapshot is after writes of our own: a mesh is not ready on the word of the pods that go."""
    return replace(
        cluster,
        istiods=workloads.rewritten(cluster.istiods, changed_to),
        gateways=workloads.rewritten(cluster.gateways, changed_to),
    )


async def _gateways(reader: Reader, mesh: str, gateways: Iterable[Gateway], now: dt.datetime) -> list[GatewayPods]:
    """The gateways of a mesh that are there; of one that is not well, its pods are looked at."""
    selectors = {(each.namespace, each.name): each.selector for each in gateways}
    if not selectors:
        return []
    ours = selector_of({LABEL_MANAGED_BY: MANAGED_BY, LABEL_COMPONENT: COMPONENT_GATEWAY, LABEL_MESH: mesh})
    deployments, services = await together(reader.list(DEPLOYMENT, labels=ours), reader.list(SERVICE, labels=ours))
    by_place = {_place(each): each for each in services}

    async def look(deployment: Manifest) -> GatewayPods:
        place = _place(deployment)
        found = workloads.gateway(deployment, by_place.get(place), [], now)
        if found.rolled_out:
            return found
        pods = await reader.list(POD, place[0], labels=selector_of(selectors[place]))
        return workloads.gateway(deployment, by_place.get(place), pods, now)

    return await together(*(look(each) for each in deployments if _place(each) in selectors))


async def _homeless(reader: Reader, namespaces: Iterable[str]) -> tuple[str, ...]:
    """Those of the namespaces that are not there, or about to go."""
    wanted = sorted(namespaces)
    found = await together(*(reader.get(NAMESPACE, namespace, metadata_only=True) for namespace in wanted))
    pairs = zip(wanted, found, strict=True)
    return tuple(name for name, each in pairs if each is None or "deletionTimestamp" in each["metadata"])


async def _agents(reader: Reader, spec: MeshSpec, now: dt.datetime) -> Agents | None:
    if spec.data_plane.cni is not CNI.ENABLED:
        return None
    if (manifest := await reader.get(DAEMON_SET, CNI_AGENT, spec.namespace)) is None:
        return None
    found = workloads.agents(manifest, [], now)
    if found.rolled_out:
        return found
    return workloads.agents(manifest, await reader.list(POD, spec.namespace, labels=f"k8s-app={CNI_AGENT}"), now)


async def _foreign_budgets(reader: Reader, names: Names, gateways: Iterable[Gateway]) -> list[Budget]:
    """PodDisruptionBudgets that are not ours, over pods of ours."""
    pods = {names.namespace: [names.pod_labels]}
    for gateway in gateways:
        pods.setdefault(gateway.namespace, []).append(dict(gateway.pod_labels))
    found = await together(*(reader.list(BUDGET, namespace) for namespace in pods))
    return [
        Budget(namespace, budget["metadata"]["name"], installers(budget))
        for (namespace, labels), budgets in zip(pods.items(), found, strict=True)
        for budget in budgets
        if labels_of(budget).get(LABEL_MANAGED_BY) != MANAGED_BY and _covers(budget, labels)
    ]


def _covers(budget: Manifest, pods: Iterable[dict[str, str]]) -> bool:
    selector = (budget.get("spec") or {}).get("selector")
    return selector is not None and any(selects(selector, labels) for labels in pods)


async def _nodes(reader: Reader) -> tuple[Node, ...]:
    return tuple(node for each in await reader.list(NODE) if (node := workloads.node(each)))


def _place(manifest: Manifest) -> tuple[str, str]:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _is_ours(manifest: Manifest, mesh: str) -> bool:
    return labels_of(manifest).get(LABEL_MESH) == mesh


async def root_bundles(reader: Reader, namespaces: Iterable[str]) -> dict[str, str]:
    """The root certificates that istiod published, by namespace."""
    namespaces = list(namespaces)
    found = await together(*(reader.get(CONFIG_MAP, ROOT_CERTIFICATE, namespace) for namespace in namespaces))
    pairs = zip(namespaces, found, strict=True)
    return {namespace: (each.get("data") or {}).get(ROOT_CERTIFICATE_KEY, "") for namespace, each in pairs if each}


def _scales(autoscaler: Manifest, deployment: str) -> bool:
    target = autoscaler["spec"]["scaleTargetRef"]
    return bool(target["kind"] == DEPLOYMENT.kind and target["name"] == deployment)


def _neighbour(manifest: Manifest) -> Neighbour:
    spec = manifest.get("spec") or {}
    metadata = manifest["metadata"]
    return Neighbour(
        name=metadata["name"],
        revision=spec.get("revision", "default"),
        installed=bool((manifest.get("status") or {}).get("version")),
        created=metadata.get("creationTimestamp", ""),
    )


def _injector(manifest: Manifest) -> Injector:
    webhooks: list[dict[str, Any]] = manifest.get("webhooks") or []
    return Injector(
        name=manifest["metadata"]["name"],
        revision=labels_of(manifest).get(REVISION) or "default",
        tag=labels_of(manifest).get(TAG),
        owner=labels_of(manifest).get(LABEL_MESH),
        managers=installers(manifest),
        trusted=bool(webhooks) and all(each["clientConfig"].get("caBundle") for each in webhooks),
    )
