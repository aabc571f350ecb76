"""The kinds that Meshwright reads and writes, as a table: no discovery, so that a start costs no requests."""

from __future__ import annotations

from typing import NamedTuple

from meshwright.api import meshaction
from meshwright.api.meshinstall import API_VERSION, KIND, PLURAL


class Kind(NamedTuple):
    api_version: str
    kind: str
    plural: str
    namespaced: bool
    labels: str = ""  # a label selector, and
    fields: str = ""  # a field selector, for a kind of which only some objects are of use

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str = "", name: str = "") -> str:
        parts = ["/apis" if "/" in self.api_version else "/api", self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        return "/".join(parts)


MESH_INSTALL = Kind(API_VERSION, KIND, PLURAL, namespaced=False)
MESH_ACTION = Kind(API_VERSION, meshaction.KIND, meshaction.PLURAL, namespaced=False)
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
POD = Kind("v1", "Pod", "pods", namespaced=True)
# One that has ended (of a Job, or evicted) rests on no mesh any more.
LIVING_POD = POD._replace(fields="status.phase!=Succeeded,status.phase!=Failed")
# On the host's network nothing is injected: what it captured would be everybody's.
INJECTABLE_POD = LIVING_POD._replace(fields=f"{LIVING_POD.fields},spec.hostNetwork=false")
SECRET = Kind("v1", "Secret", "secrets", namespaced=True)
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts", namespaced=True)
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps", namespaced=True)
SERVICE = Kind("v1", "Service", "services", namespaced=True)
NODE = Kind("v1", "Node", "nodes", namespaced=False)
BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", namespaced=True)
DAEMON_SET = Kind("apps/v1", "DaemonSet", "daemonsets", namespaced=True)
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases", namespaced=True)
AUTOSCALER = Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", namespaced=True)
ENDPOINT_SLICE = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", namespaced=True)
# Kubernetes puts the labels of a Service on the slices that it makes: ours on those, too.
OWN_ENDPOINT_SLICE = ENDPOINT_SLICE._replace(labels="endpointslice.kubernetes.io/managed-by=meshwright")
GATEWAY_CLASS = Kind("gateway.networking.k8s.io/v1", "GatewayClass", "gatewayclasses", namespaced=False)
EVENT = Kind("events.k8s.io/v1", "Event", "events", namespaced=True)
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments", namespaced=True)
CRD = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)
MUTATING_WEBHOOK = Kind(
    "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", namespaced=False
)
VALIDATING_WEBHOOK = Kind(
    "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations",
    namespaced=False,
)  # fmt: skip

# What a MeshInstall becomes, in the order in which it is taken away again: first what stands in the way of
# everybody's pods, then what runs, then what that needed.
OWNED = (
    MUTATING_WEBHOOK,
    VALIDATING_WEBHOOK,
    AUTOSCALER,
    DEPLOYMENT,
    DAEMON_SET,
    Kind("security.istio.io/v1", "PeerAuthentication", "peerauthentications", namespaced=True),
    Kind("networking.istio.io/v1", "Gateway", "gateways", namespaced=True),
    Kind("networking.istio.io/v1", "DestinationRule", "destinationrules", namespaced=True),
    BUDGET,
    SERVICE,
    OWN_ENDPOINT_SLICE,
    CONFIG_MAP,
    Kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    Kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False),
    Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", namespaced=True),
    Kind("rbac.authorization.k8s.io/v1", "Role", "roles", namespaced=True),
    SERVICE_ACCOUNT,
)  # fmt: skip

KINDS: dict[tuple[str, str], Kind] = {
    (kind.api_version, kind.kind): kind
    for kind in (*OWNED, MESH_INSTALL, MESH_ACTION, NAMESPACE, NODE, POD, SECRET, EVENT, CRD, LEASE, GATEWAY_CLASS)
}  # fmt: skip


def kind_of(api_version: str, kind: str) -> Kind:
    return KINDS[api_version, kind]
