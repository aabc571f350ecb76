"""`meshinstalls.meshwright.dev/v1alpha1`: the one resource a person writes.

The docstring below each field is its description in the CRD (`kubectl explain meshinstall.spec`) and in the
reference page. `meshwright.api.crd` turns these classes into the CRD.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, ValidationError

from meshwright.api.errors import InvalidSpec
from meshwright.api.model import Duration, Model, rules
from meshwright.api.scaling import Scaling, ScalingStatus

GROUP = "meshwright.dev"
VERSION = "v1alpha1"
KIND = "MeshInstall"
PLURAL = "meshinstalls"
API_VERSION = f"{GROUP}/{VERSION}"

# What we put on objects.
LABEL_MESH = f"{GROUP}/mesh"
LABEL_COMPONENT = f"{GROUP}/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "meshwright"
LABEL_MESH_ID = f"{GROUP}/mesh-id"
ANNOTATION_ISTIO_API = f"{GROUP}/istio-api"
ANNOTATION_SIZE = f"{GROUP}/size"  # of a control plane, see mesh.resize
ANNOTATION_REPLICAS = f"{GROUP}/replicas"  # who decides them, see mesh.replicas
COMPONENT_GATEWAY = "gateway"  # a value of LABEL_COMPONENT
COMPONENT_PROBE = "probe"  # another one, also of pods
ANNOTATION_VERIFIES = f"{GROUP}/verifies"  # of such a pod, see mesh.verification
# What people put on them, and on a MeshInstall.
ANNOTATION_RECONCILE = f"{GROUP}/reconcile"  # "disabled": the object is left alone
ANNOTATION_FORCE_DELETE = f"{GROUP}/force-delete"  # "true": a mesh goes although sidecars still run
ANNOTATION_ROTATE_ACCESS = f"{GROUP}/rotate-access"  # another text: clusters get new tokens for each other
ANNOTATION_FORGET = f"{GROUP}/forget"  # a cluster that is listed no more and will never answer again
FINALIZER = f"{GROUP}/mesh"

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$"
MESH_NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
VERSION_PATTERN = r"^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$"
ENV_NAME = "[A-Za-z_][A-Za-z0-9_]*"
QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$"
PATH = r"^/[-A-Za-z0-9._/]+$"
HOST = r"^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$"
PORT_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

# istiod's environment variables that follow from other fields: setting one by hand would make it disagree with
# the rest of the mesh.
COMPUTED_ENV = (
    "CA_TRUSTED_NODE_ACCOUNTS", "CLUSTER_ID", "EXTERNAL_ISTIOD", "GOMAXPROCS", "ISTIO_MULTIROOT_MESH", "KUBECONFIG",
    "PILOT_CERT_PROVIDER", "POD_NAME", "POD_NAMESPACE", "REVISION", "SERVICE_ACCOUNT",
)  # fmt: skip


class MTLS(StrEnum):
    PERMISSIVE = "Permissive"
    STRICT = "Strict"


class Size(StrEnum):
    AUTO = "Auto"
    SMALL = "Small"
    MEDIUM = "Medium"
    LARGE = "Large"


class TopologyModel(StrEnum):
    MULTI_NETWORK = "MultiNetwork"
    FLAT_NETWORK = "FlatNetwork"


class Verify(StrEnum):
    OFF = "Off"
    TRAFFIC = "Traffic"


class Mode(StrEnum):
    APPLY = "Apply"
    PLAN = "Plan"
    PAUSED = "Paused"


Quantity = Annotated[
    StrictInt | str,  # strict: `true` is no number of CPUs
    Field(json_schema_extra={"x-kubernetes-int-or-string": True, "pattern": QUANTITY, "maxLength": 32}),
]


class CNI(StrEnum):
    DISABLED = "Disabled"
    ENABLED = "Enabled"
    EXISTING = "Existing"


class NativeSidecars(StrEnum):
    AUTO = "Auto"
    ENABLED = "Enabled"
    DISABLED = "Disabled"


class GatewayType(StrEnum):
    INGRESS = "Ingress"
    EGRESS = "Egress"


class ServiceType(StrEnum):
    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"
    CLUSTER_IP = "ClusterIP"


class DeletionPolicy(StrEnum):
    RETAIN = "Retain"
    DELETE = "Delete"


class Image(Model):
    hub: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")] = (
        "docker.io/istio"
    )
    """Registry and path that Istio's images `pilot` and `proxyv2` are pulled from."""
    tag: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")] | None = None
    """Tag of the images. Unset: `spec.version`."""
    pull_policy: Annotated[str, Field(pattern="^(Always|IfNotPresent|Never)$")] = "IfNotPresent"
    """Pull policy of istiod and of injected sidecars: `Always`, `IfNotPresent` or `Never`."""


class ResourceList(Model):
    cpu: Quantity | None = None
    """CPU, for example `500m` or `2`."""
    memory: Quantity | None = None
    """Memory, for example `512Mi` or `4Gi`."""


class Resources(Model):
    requests: ResourceList = ResourceList()
    """What the scheduler reserves for each replica."""
    limits: ResourceList = ResourceList()
    """What each replica may use at most; istiod's Go runtime is told of both limits."""


class DisruptionBudget(Model):
    model_config = ConfigDict(json_schema_extra=rules(
        ("!has(self.minAvailable) || !has(self.maxUnavailable)",
         "minAvailable and maxUnavailable exclude each other: set one of the two"),
    ))  # fmt: skip

    max_unavailable: Annotated[StrictInt, Field(ge=1, le=100)] | None = None
    """Replicas that may be away at a time. Unset, with `minAvailable` unset: 1, which never blocks a drain."""
    min_available: Annotated[StrictInt, Field(ge=1, le=100)] | None = None
    """Replicas that must stay. It has to be less than the smallest number of replicas, or no node could be drained."""


class Autoscaling(Model):
    model_config = ConfigDict(json_schema_extra=rules(
        ("!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
         "minReplicas is more than maxReplicas: lower the one or raise the other"),
    ))  # fmt: skip

    enabled: StrictBool = True
    """Whether a HorizontalPodAutoscaler decides the replicas. It needs a metrics server; without one, the replicas stay
    within their bounds."""
    min_replicas: Annotated[StrictInt, Field(ge=1, le=100)] | None = None
    """Replicas at least. Unset: those of the size, or of the gateway."""
    max_replicas: Annotated[StrictInt, Field(ge=1, le=100)] | None = None
    """Replicas at most. Unset: twice the smallest number."""


PriorityClassName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_NAME)]


class ControlPlane(Model):
    size: Size = Size.AUTO
    """Replicas and limits of istiod: `Small` 2 × 2 CPU / 4 GiB (less than 500 pods in the mesh), `Medium` 3 × 4 CPU /
    8 GiB (less than 2000), `Large` 5 × 8 CPU / 16 GiB (less than 10000). Memory is requested in full, CPU to a quarter.
    `Auto` takes the size for the pods that are there when the mesh is installed; then the scaling rule Resize."""
    image: Image = Image()
    """Where istiod's and the sidecars' images come from."""
    resources: Resources = Resources()
    """Single quantities that replace those of the size, for clusters where the row does not fit."""
    autoscaling: Autoscaling = Autoscaling()
    """Between the size's replicas and twice as many, by the CPU that they use of their limit (80 %)."""
    pod_disruption_budget: DisruptionBudget = DisruptionBudget()
    """How many replicas of istiod a drain may take away at a time."""
    priority_class_name: PriorityClassName = "system-cluster-critical"
    """Priority class of istiod's pods: without istiod no injected pod starts."""
    env: Annotated[
        dict[str, Annotated[str, Field(max_length=4096)]],
        Field(max_length=64, json_schema_extra=rules(
            (f"self.all(name, name.matches('^{ENV_NAME}$'))",
             "names of environment variables have letters, digits and _ only, and no digit first"),
            (f"self.all(name, !(name in {list(COMPUTED_ENV)}))",
             f"{', '.join(COMPUTED_ENV)} follow from other fields of the MeshInstall: remove them"),
        )),
    ] = {}  # fmt: skip
    """Further environment variables of istiod (its feature switches)."""


LOG_LEVEL = "^(trace|debug|info|warning|error|critical|off)$"


class Sidecar(Model):
    resources: Resources = Resources()
    """CPU and memory of each sidecar. Unset quantities are Istio's own: 100m and 128Mi requested, 2 and 1Gi at most."""
    hold_application_until_proxy_starts: StrictBool = False
    """Whether an application's containers start only when the sidecar is ready. Native sidecars always do so."""
    native_sidecars: NativeSidecars = NativeSidecars.AUTO
    """Whether sidecars are init containers that keep running, which lets Jobs end. `Auto`: where all kubelets can."""
    log_level: Annotated[str, Field(pattern=LOG_LEVEL)] = "warning"
    """Envoy's log level: `trace`, `debug`, `info`, `warning`, `error`, `critical` or `off`."""


class DataPlane(Model):
    cni: CNI = CNI.DISABLED
    """`Enabled` installs istio-cni, which redirects the pods' traffic from the node, so that pods need no NET_ADMIN and
    run under Pod Security `baseline` and `restricted`. A cluster has one: further meshes of it say `Existing`."""
    cni_bin_dir: Annotated[str, Field(max_length=255, pattern=PATH)] = "/opt/cni/bin"
    """Where the nodes' container runtime looks for CNI plugins."""
    cni_conf_dir: Annotated[str, Field(max_length=255, pattern=PATH)] = "/etc/cni/net.d"
    """Where the nodes' container runtime looks for the configuration of its network."""
    sidecar: Sidecar = Sidecar()
    """What is injected beside the applications."""
    image_pull_secrets: Annotated[list[Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_NAME)]],
                                  Field(max_length=8)] = []  # fmt: skip
    """Secrets that istiod, sidecars and gateways pull their images with; each namespace with such pods needs them."""
    delta_xds: StrictBool = Field(default=True, alias="deltaXDS")
    """Whether proxies get only what changed of their configuration."""
    certificate_ttl: Duration | None = Field(default=None, alias="certificateTTL")
    """How long a workload's certificate holds, 10 minutes to 90 days. Unset: 24h."""
    certificate_renewal_ratio: Annotated[StrictFloat, Field(ge=0.05, le=0.95)] | None = None
    """The share of its life that is left of a certificate when it is renewed. Unset: 0.5."""
    idle_timeout: Duration | None = None
    """When an idle connection of a pool to an upstream is closed. Unset: 1h. Needs Istio 1.31."""
    dns_refresh_rate: Duration | None = None
    """How often Envoy resolves the DNS names of ServiceEntries; a TTL in the answer comes first. Unset: 60s."""


class GatewayPort(Model):
    name: Annotated[str, Field(min_length=1, max_length=63, pattern=PORT_NAME)]
    """Name of the port; its prefix tells the protocol: `http2`, `https`, `tcp-mongo`."""
    port: Annotated[StrictInt, Field(ge=1, le=65535)]
    """Port of the Service."""
    target_port: Annotated[StrictInt, Field(ge=1, le=65535)] | None = None
    """Port that the gateway listens on. Unset: the same."""
    protocol: Annotated[str, Field(pattern="^(TCP|UDP)$")] = "TCP"
    """`TCP` or `UDP`."""
    node_port: Annotated[StrictInt, Field(ge=1, le=65535)] | None = None
    """Port on every node, for `NodePort` and `LoadBalancer`. Unset: chosen by the cluster."""


class ExternalTrafficPolicy(StrEnum):
    CLUSTER = "Cluster"
    LOCAL = "Local"


class GatewayService(Model):
    type: ServiceType | None = None
    """`LoadBalancer`, `NodePort` or `ClusterIP`. Unset: `LoadBalancer` for ingress, `ClusterIP` for egress."""
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=64)] = {}
    """Annotations of the Service, as cloud load balancers want them."""
    ports: Annotated[
        list[GatewayPort],
        Field(min_length=1, max_length=64, json_schema_extra={
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]
        }),
    ] | None = None  # fmt: skip
    """Ports of the Service. Unset: 15021 (health), 80 and 443."""
    external_traffic_policy: ExternalTrafficPolicy | None = None
    """`Local` keeps the clients' addresses, `Cluster` spreads evenly. Unset: the cluster's default."""
    load_balancer_class: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Which load balancer controller serves it."""
    load_balancer_source_ranges: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=64)
    ] = []
    """CIDRs of the clients that are let in."""
    external_ips: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=45, pattern="^[0-9A-Fa-f:.]+$")]], Field(max_length=16)
    ] = Field(default=[], alias="externalIPs")
    """Addresses of nodes or routers that lead to it without a load balancer."""


class Gateway(Model):
    name: Annotated[str, Field(min_length=1, max_length=50, pattern=DNS_LABEL)]
    """Name of its Deployment and Service. Istio's Gateway resources select it by the label `istio: NAME`."""
    type: GatewayType = GatewayType.INGRESS
    """`Ingress` for traffic into the mesh, `Egress` for traffic out of it."""
    namespace: Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)] | None = None
    """Namespace of the gateway, which must be there. Unset: the mesh's."""
    replicas: Annotated[StrictInt, Field(ge=1, le=100)] = 2
    """Replicas, at least while it is autoscaled."""
    autoscaling: Autoscaling = Autoscaling()
    """Between `replicas` and twice as many, by the CPU that they use of their limit (80 %)."""
    pod_disruption_budget: DisruptionBudget = DisruptionBudget()
    """How many replicas a drain may take away at a time."""
    resources: Resources = Resources()
    """CPU and memory of each replica. Unset quantities: 100m and 128Mi requested, 2 and 1Gi at most."""
    labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] = {}
    """Further labels of its pods, for Gateway resources that select by others."""
    service: GatewayService = GatewayService()
    """How it is reached."""


class OTLP(Model):
    service: Annotated[str, Field(min_length=1, max_length=253, pattern=HOST)]
    """Host of the collector, for example `jaeger-collector.tracing.svc.cluster.local`."""
    port: Annotated[StrictInt, Field(ge=1, le=65535)] = 4317
    """Port of OTLP over gRPC."""


class Tracing(Model):
    otlp: OTLP
    """Where spans are sent: Jaeger, Tempo or an OpenTelemetry collector."""
    sampling_percent: Annotated[StrictFloat, Field(ge=0, le=100)] = 1.0
    """Share of the requests that are traced."""


class Observability(Model):
    prometheus: StrictBool = True
    """Whether proxies measure requests and connections for Prometheus (`istio_requests_total` and its kin)."""
    tracing: Tracing | None = None
    """Distributed tracing. Unset: off."""
    access_log: StrictBool = False
    """Whether every request is logged by the proxies to their standard output, as JSON."""


class EastWestService(Model):
    type: ServiceType = ServiceType.LOAD_BALANCER
    """`LoadBalancer`, or `NodePort` or `ClusterIP` with `externalIPs`."""
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=64)] = {}
    """Annotations of the Service, as cloud load balancers want them."""
    external_ips: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=45, pattern="^[0-9A-Fa-f:.]+$")]], Field(max_length=16)
    ] = Field(default=[], alias="externalIPs")
    """Addresses of nodes or routers that lead to it without a load balancer."""
    load_balancer_class: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Which load balancer controller serves it."""
    load_balancer_source_ranges: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=64)
    ] = []
    """CIDRs that are let in: those of the other clusters."""


class EastWestGateway(Model):
    replicas: Annotated[StrictInt, Field(ge=2, le=100)] = 2
    """Replicas, at least while it is autoscaled. One that restarts must not cut two clusters apart: at least 2."""
    autoscaling: Autoscaling = Autoscaling()
    """Between `replicas` and twice as many, by the CPU that they use of their limit (80 %)."""
    pod_disruption_budget: DisruptionBudget = DisruptionBudget()
    """How many replicas a drain may take away at a time."""
    resources: Resources = Resources()
    """CPU and memory of each replica. Unset quantities: 100m and 128Mi requested, 2 and 1Gi at most."""
    service: EastWestService = EastWestService()
    """How the other clusters reach it, on port 15443."""


class Topology(Model):
    model: TopologyModel = TopologyModel.MULTI_NETWORK
    """`MultiNetwork`: clusters reach each other through east-west gateways. `FlatNetwork`: pods reach each other."""
    east_west_gateway: EastWestGateway = EastWestGateway()
    """The gateway of each cluster that lets the others in; its traffic stays encrypted from sidecar to sidecar."""


class MemberCluster(Model):
    name: Annotated[str, Field(min_length=1, max_length=40, pattern=DNS_LABEL)]
    """Name of the cluster in the mesh (istiod's `CLUSTER_ID`)."""
    kubeconfig_secret: Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_NAME)] | None = None
    """Secret in the operator's namespace whose key `kubeconfig` leads to the cluster. Only the operator's own cluster,
    whose name is `clusterName`, has none. If it is not listed, it has no control plane of this mesh."""
    network: Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)] | None = None
    """Network of its pods. Unset: the cluster's name. Only for `MultiNetwork`."""
    primary: Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)] | None = None
    """The listed cluster whose istiod serves this one, which then has none of its own, and takes its policies from
    there. It is chosen when the cluster is joined. Unset: the cluster has an istiod of its own."""
    server: Annotated[str, Field(max_length=512, pattern=r"^https://[^\s/?#@]+$")] | None = None
    """Its API server as the pods of the other clusters reach it, such as `https://10.0.0.1:6443`. Unset: that of the
    kubeconfig; of the operator's own cluster, the address in EndpointSlice `default/kubernetes`."""


LocalityName = Annotated[str, Field(min_length=1, max_length=253)]


class LocalityFailover(Model):
    source: LocalityName = Field(alias="from")
    """The region whose endpoints fail."""
    to: LocalityName
    """The region that takes over."""


class LocalityDistribute(Model):
    source: LocalityName = Field(alias="from")
    """The locality of the clients, as `REGION/ZONE/*`."""
    to: Annotated[dict[str, Annotated[StrictInt, Field(ge=1, le=100)]], Field(min_length=1, max_length=64)]
    """Localities of the endpoints, and their share of the traffic in percent; together 100."""


class Locality(Model):
    enabled: StrictBool = True
    """Whether endpoints of the client's own zone and region come first. `false`: all are alike."""
    failover: Annotated[list[LocalityFailover], Field(max_length=64)] = []
    """Which region takes over where all endpoints of another one fail. Unset: any."""
    distribute: Annotated[list[LocalityDistribute], Field(max_length=64)] = []
    """Where traffic goes at any time, instead of failing over."""


class TrustSpec(Model):
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """What becomes of the mesh's CA when the MeshInstall is deleted. `Retain` keeps its Secrets, and a mesh of the same
    name and mesh ID finds its root again; `Delete` removes them, and every certificate of the mesh with them."""


def immutable(field: str) -> tuple[str, str]:
    """A transition rule at the level of `spec`: one on the field itself would not fire when the field is unset."""
    name = f"__{field}__" if field == "namespace" else field  # a reserved word of CEL, spelled as Kubernetes has it
    return (
        f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})",
        (
            f"{field} is immutable, because workloads carry it in their identity or labels:"
            " delete the MeshInstall and create another one, of another name, to change it"
        ),
    )


class MeshSpec(Model):
    model_config = ConfigDict(json_schema_extra=rules(
        immutable("clusterName"),
        ("!has(self.clusters) || self.clusters.all(c, has(c.kubeconfigSecret) || c.name == self.clusterName)",
         ("an entry of clusters has no kubeconfigSecret and another name than clusterName: only the operator's own"
          " cluster needs none, and clusterName is its name")),
        immutable("namespace"),
        immutable("revision"),
        immutable("meshID"),
        immutable("trustDomain"),
        ("has(self.meshID) || !has(self.trustDomain) || self.trustDomain.size() <= 63",
         "meshID follows from trustDomain, and becomes a label of at most 63 characters: set meshID, too"),
    ))  # fmt: skip

    version: Annotated[str, Field(max_length=16, pattern=VERSION_PATTERN)]
    """Istio's version, as `1.31.4`. Another patch, up or down, is applied in place, and so is the next minor where
    this Meshwright supports it."""
    allow_untested_version: StrictBool = False
    """Lets a minor be installed for which Meshwright renders, but which its tests do not run (1.29, 1.30)."""
    cluster_name: Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)] = "primary"
    """Name of the operator's own cluster in the mesh (istiod's `CLUSTER_ID`). Immutable."""
    clusters: Annotated[
        list[MemberCluster],
        Field(max_length=100, json_schema_extra={
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]
        }),
    ] = []  # fmt: skip
    """The clusters of the mesh: the operator's own, by its name alone, and others. Unset: the operator's own."""
    topology: Topology = Topology()
    """How the clusters reach each other."""
    locality: Locality | None = None
    """Which endpoints come first, by the nodes' regions and zones. Set (also as `{}`), endpoints that fail five times
    in a row are ejected for half a minute in the whole mesh, without which no other region would ever take over. Unset:
    as Istio has it."""
    namespace: Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)] = "istio-system"
    """Namespace of the control plane, created when it is missing. Immutable."""
    revision: Annotated[str, Field(min_length=1, max_length=56, pattern=DNS_LABEL)] = "default"
    """Revision of the control plane; pods choose it by the label `istio.io/rev`, and `default` also serves
    `istio-injection=enabled`. One MeshInstall per revision. Immutable."""
    mesh_id: Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_NAME)] | None = Field(
        default=None, alias="meshID"
    )
    """Identifier of the mesh, the same in all clusters of one mesh. Unset: the trust domain. Immutable."""
    trust_domain: Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_NAME)] = "cluster.local"
    """Trust domain: the first part of every workload's identity. Immutable."""
    trust: TrustSpec = TrustSpec()
    """The mesh's certificate authority."""
    mtls: MTLS = MTLS.PERMISSIVE
    """Mesh-wide mutual TLS. `Permissive` accepts plaintext too (Istio's own default); `Strict` refuses it."""
    control_plane: ControlPlane = ControlPlane()
    """istiod: its size, images, resources and environment."""
    data_plane: DataPlane = DataPlane()
    """Sidecars: how traffic gets to them, what they may use, how they renew and refresh what they hold."""
    gateways: Annotated[
        list[Gateway],
        Field(max_length=32, json_schema_extra={
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]
        }),
    ] = []  # fmt: skip
    """Ingress and egress gateways."""
    observability: Observability = Observability()
    """Metrics, traces and access logs of the proxies."""
    mesh_config: Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})] = {}
    """Istio's MeshConfig, as in Istio's own documentation, checked against the fields and types of `spec.version`. What
    follows from other fields (`trustDomain`, `rootNamespace`, `defaultConfig.discoveryAddress`, `defaultConfig.meshId`,
    and what `dataPlane` and `observability` say) cannot be set here."""
    scaling: Scaling = Scaling()
    """When istiod is made larger, gets more replicas, or something else is advised. The rules have defaults; see the
    reference of scaling rules."""
    verify: Verify = Verify.OFF
    """`Traffic`: with several clusters, the mesh is ready only when requests pass from each to each other one. After
    every change a small pod in each cluster, of the operator's image, asks the others, and is taken away when all
    answered."""
    mode: Mode = Mode.APPLY
    """`Apply` carries out, `Plan` only computes what would change (a server-side dry run), `Paused` leaves everything
    as it is."""

    @property
    def members(self) -> tuple[MemberCluster, ...]:
        """Every cluster of the mesh; without `clusters`, the operator's own."""
        return tuple(self.clusters) or (MemberCluster(name=self.cluster_name),)

    def primary(self, cluster: str) -> str:
        """The cluster whose istiod serves this one; empty where it has its own."""
        return next((each.primary for each in self.clusters if each.name == cluster and each.primary), "")

    def network(self, cluster: str) -> str:
        """Of the pods of a cluster; empty where all pods of the mesh reach each other."""
        if not self.clusters or self.topology.model is TopologyModel.FLAT_NETWORK:
            return ""
        return next((each.network for each in self.clusters if each.name == cluster and each.network), cluster)


class Condition(Model):
    type: Annotated[str, Field(max_length=316)]
    """`Ready`, kstatus' `Reconciling` and `Stalled`, or one of the parts that `Ready` sums up."""
    status: Annotated[str, Field(pattern="^(True|False|Unknown)$")]
    """`True`, `False` or `Unknown`."""
    reason: Annotated[str, Field(max_length=1024)]
    """One of the documented reasons, in CamelCase."""
    message: Annotated[str, Field(max_length=32768)]
    """What it is about, and the next step, in a sentence."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When `status` last changed."""
    observed_generation: int | None = None
    """The generation of the MeshInstall that this is about."""


class RefusedSize(Model):
    size: Size
    """The size that was tried."""
    resources: Resources = Resources()
    """Its requests and limits."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why it was taken back."""


class ControlPlaneStatus(Model):
    replicas: int = 0
    """Replicas of istiod that are asked for."""
    ready_replicas: int = 0
    """Replicas of istiod that are ready."""
    size: Size | None = None
    """The size that istiod has: with `Auto`, what was decided."""
    resources: Resources | None = None
    """Requests and limits of each replica, as they were rolled out last."""
    keepalive: Annotated[str, Field(max_length=32)] | None = None
    """Interval and timeout with which every replica finds out that a proxy is gone, as they were rolled out last:
    proxies get theirs afterwards."""
    refused: RefusedSize | None = None
    """A size that found no room on the nodes. It is tried again when `spec.controlPlane` asks for another one."""


class ProxyVersion(Model):
    version: Annotated[str, Field(max_length=128)]
    """Version of the proxies, as they tell istiod."""
    revision: Annotated[str, Field(max_length=63)]
    """Revision of the istiod that they are connected to."""
    count: int
    """So many are connected."""


class InjectionStatus(Model):
    expected: int = 0
    """Pods that are to have a sidecar of this mesh: their namespace or their own labels ask for one."""
    missing: int = 0
    """Those of them that have none; they were made before injection was asked for, or while istiod was away."""
    outdated: int = 0
    """Those of them that have one of another revision or version; they are to be restarted."""
    pods: list[Annotated[str, Field(max_length=400)]] = []
    """The first of the missing and outdated ones, as `namespace/name: why`."""


class GatewayStatus(Model):
    name: str
    """Name of the gateway."""
    namespace: str
    """Its namespace."""
    replicas: int = 0
    """Replicas that are asked for."""
    ready_replicas: int = 0
    """Replicas that are ready."""
    addresses: list[Annotated[str, Field(max_length=253)]] = []
    """Addresses and host names of its load balancer."""


class WorkloadCertificates(Model):
    earliest: str
    """The pod whose certificate ends first, as `namespace/name`."""
    expires: str
    """When that certificate ends."""
    hours_left: int
    """Whole hours until then."""
    read: int
    """Proxies whose certificate was read during the last hour."""
    of: int
    """Proxies there are."""


class TrustStatus(Model):
    root_fingerprint: str | None = None
    """SHA-256 of the root certificate, in hexadecimal."""
    root_expires: str | None = None
    """When the root certificate ends."""
    intermediate_fingerprint: str | None = None
    """SHA-256 of the certificate that istiod signs with, in hexadecimal."""
    intermediate_expires: str | None = None
    """When the certificate that istiod signs with ends."""


class RemoteStatus(Model):
    name: str
    """The other cluster."""
    synced: str
    """Replicas of istiod here that have read it, of all that are ready: `2/2`."""
    token_expires: str | None = None
    """When the token ends with which it is read; it is renewed at half of its life."""


class ReachStatus(Model):
    name: str
    """The other cluster."""
    passed: StrictBool
    """Whether requests to it passed when that was verified last."""
    latency: Annotated[str, Field(max_length=32)] | None = None
    """Median of those that passed, for example `3.1ms`."""
    last_pass: str | None = None
    """When they passed last."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """What went wrong with the newest that failed."""


class ClusterStatus(Model):
    name: str
    """Name of the member cluster."""
    network: str | None = None
    """Network of its pods."""
    primary: str | None = None
    """The cluster whose istiod serves this one."""
    kubeconfig_secret: str | None = None
    """Secret in the operator's namespace that leads to it."""
    away: Annotated[str, Field(max_length=4096)] | None = None
    """Why the cluster does not answer, and since when. What is said of it is what was known before."""
    remotes: list[RemoteStatus] | None = None
    """The other clusters as istiod here reads them."""
    reaches: list[ReachStatus] | None = None
    """With `spec.verify: Traffic`: whether requests from here reach the other clusters."""
    uid: str | None = None
    """UID of its namespace `kube-system`, which tells it from every other cluster."""
    joined: StrictBool | None = None
    """Whether something of the mesh is in this member, or may be: listed no more, it is left, or else forgotten."""
    ready: StrictBool = False
    """Whether its control plane is in the declared state."""
    kubernetes_version: str | None = None
    """What its API server says that it is."""
    control_plane: ControlPlaneStatus = ControlPlaneStatus()
    """istiod in this cluster."""
    proxies: int = 0
    """Pods with a sidecar of this mesh."""
    proxy_versions: list[ProxyVersion] = []
    """Proxies that are connected, by version, as every replica of istiod says."""
    injection: InjectionStatus = InjectionStatus()
    """Pods that are to have a sidecar, and those that have none or another one."""
    gateways: list[GatewayStatus] = []
    """The gateways of `spec.gateways`."""
    workload_certificates: WorkloadCertificates | None = None
    """The certificate in the fleet that ends first; proxies are asked in turn, each at least once an hour."""
    objects: int = 0
    """Objects that the mesh consists of, with Istio's CRDs."""
    not_reconciled: int = 0
    """Those of them that the annotation `meshwright.dev/reconcile: disabled` takes out of our hands."""
    scaling: ScalingStatus | None = None
    """What each scaling rule says of this cluster."""
    trust: TrustStatus = TrustStatus()
    """The certificates that identities in this cluster rest on; never a key."""


class CheckStatus(Model):
    name: Annotated[str, Field(max_length=63)]
    """What was checked, such as `DistinctClusters` or `Clocks`."""
    passed: StrictBool
    """Whether no cluster fails it. What is not known is no failure."""
    message: Annotated[str, Field(max_length=4096)] | None = None
    """The clusters that fail, why, and the next step."""


class PlanStatus(Model):
    create: int = 0
    """Objects that would be created."""
    change: int = 0
    """Objects that would be changed."""
    delete: int = 0
    """Objects that would be deleted, because the mesh needs them no more."""
    unchanged: int = 0
    """Objects that are as declared already."""
    objects: list[str] = []
    """The first objects that would be created, changed or deleted, as `create Kind namespace/name`."""


class ActionsStatus(Model):
    in_flight: int = 0
    """Actions under way."""
    standing: int = 0
    """Actions that were taken, and are not undone."""
    recommended: int = 0
    """Actions that are recommended."""
    last: Annotated[str, Field(max_length=4096)] | None = None
    """The newest, in a sentence."""


class MeshStatus(Model):
    observed_generation: int | None = None
    """The generation of the MeshInstall that this status is about."""
    version: Annotated[str, Field(max_length=16, pattern=VERSION_PATTERN)] | None = None
    """Istio's version that runs (or is being brought up)."""
    conditions: Annotated[
        list[Condition],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = []
    """`Ready` sums up; `Reconciling` and `Stalled` follow kstatus; the others are the parts that `Ready` sums up."""
    proxies: int | None = None
    """Pods with a sidecar of this mesh, over all clusters."""
    clusters_ready: str | None = None
    """Member clusters that are ready, of all: `1/1`."""
    clusters: Annotated[
        list[ClusterStatus],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
    ] = []
    """The member clusters. The operator's own is one of them."""
    checks: Annotated[
        list[CheckStatus],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
    ] | None = None  # fmt: skip
    """With several clusters: what was checked before they are joined. One that fails is left as it is."""
    verified: Annotated[str, Field(max_length=64)] | None = None
    """With `spec.verify: Traffic`: a digest of what requests between all clusters passed for last. Once it changes,
    that is verified again."""
    scaling: ActionsStatus | None = None
    """Scaling actions over all clusters: `kubectl get meshactions` lists them."""
    plan: PlanStatus | None = None
    """With `spec.mode: Plan`: what would change."""


# What a deletion must know: where the objects are, whose, and whether they may go.
SALVAGED = ("namespace", "revision", "clusterName", "clusters", "meshID", "trustDomain", "trust", "mode")


class MeshInstall(BaseModel):
    """A MeshInstall as it was read: name, uid, generation, spec, and the status of the last reconcile."""

    model_config = ConfigDict(frozen=True)

    name: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    finalizers: tuple[str, ...] = ()
    rotate_access: str = ""  # of ANNOTATION_ROTATE_ACCESS
    forget: str = ""  # of ANNOTATION_FORGET
    spec: MeshSpec
    status: MeshStatus = MeshStatus()

    @classmethod
    def parse(cls, manifest: dict[str, Any]) -> Self:
        """From a manifest. Raises InvalidSpec with every wrong field's path."""
        if manifest.get("apiVersion") != API_VERSION or manifest.get("kind") != KIND:
            found = f"{manifest.get('apiVersion', '?')} {manifest.get('kind', '?')}"
            raise InvalidSpec(f"not a {API_VERSION} {KIND} but {found}: correct apiVersion and kind")
        metadata = manifest.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
            raise InvalidSpec("metadata.name is missing: give the mesh a name")
        if not re.fullmatch(MESH_NAME, metadata["name"]):
            raise InvalidSpec(
                f"metadata.name {metadata['name']!r}: the name of a mesh becomes a label:"
                " use at most 63 lower-case letters, digits and dashes"
            )
        try:
            spec = MeshSpec.model_validate(manifest.get("spec") or {}, by_name=False)  # the wire has one spelling
        except ValidationError as error:
            raise InvalidSpec(f"{KIND} {metadata['name']}: {describe(error)}") from None
        return cls._of(manifest, spec)

    @classmethod
    def salvage(cls, manifest: dict[str, Any]) -> Self:
        """What still can be told of a manifest whose spec does not parse: where its objects are, and what ran."""
        written, kept = manifest.get("spec") or {}, {"version": "0.0.0"}
        spec = MeshSpec.model_validate(kept)
        for name in SALVAGED:
            try:
                spec = MeshSpec.model_validate(kept | {name: written[name]}, by_name=False)
            except (KeyError, ValidationError):
                continue
            kept[name] = written[name]
        return cls._of(manifest, spec)

    @classmethod
    def _of(cls, manifest: dict[str, Any], spec: MeshSpec) -> Self:
        metadata = manifest["metadata"]
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            generation=metadata.get("generation", 0),
            resource_version=metadata.get("resourceVersion", ""),
            finalizers=tuple(metadata.get("finalizers", ())),
            rotate_access=(metadata.get("annotations") or {}).get(ANNOTATION_ROTATE_ACCESS, ""),
            forget=(metadata.get("annotations") or {}).get(ANNOTATION_FORGET, ""),
            spec=spec,
            status=parse_status(manifest.get("status") or {}),
        )


def parse_status(status: dict[str, Any]) -> MeshStatus:
    """The last status; one that an older or newer Meshwright wrote in another shape counts as none."""
    try:
        return MeshStatus.model_validate(status)
    except ValidationError:
        return MeshStatus()


def describe(error: ValidationError) -> str:
    """A pydantic error in one line: `spec.mtls: Input should be 'Permissive' or 'Strict'; …`."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        path = ".".join(str(part) for part in ("spec", *problem["loc"]))
        text = "no such field" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{path}: {text}")
    return "; ".join(lines)
