"""What istiod itself makes while it runs, and nobody takes away again when it is gone: an uninstall does.

None of it carries our labels, and much of it is shared with other istiods. So each row of the table says who uses such
an object; it goes only when nobody does any more. To be asked after istiod has ended: one that runs makes it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from meshwright.mesh.names import Names
from meshwright.mesh.objects import Key, Manifest, annotations_of
from meshwright.mesh.observed import Istiod
from meshwright.mesh.ownership import owners
from meshwright.mesh.trust import fingerprints

ROOT_CERTIFICATE, CRL = "istio-ca-root-cert", "istio-ca-crl"
ROOT_CERTIFICATE_KEY = "root-cert.pem"
LEADER = "control-plane.alpha.kubernetes.io/leader"  # istiod's elections in ConfigMaps
ISTIOD_MANAGER = "pilot-discovery"


class Where(Enum):
    EVERY_NAMESPACE = auto()
    MESH_NAMESPACE = auto()
    CLUSTER = auto()


class Shared(Enum):
    """Who uses such an object besides our istiod."""

    NOBODY = auto()
    NAMESPACE = auto()  # every istiod of its namespace
    CLUSTER = auto()  # every istiod of the cluster
    TRUST = auto()  # every istiod of the cluster whose roots are in it


@dataclass(frozen=True)
class Scene:
    """What decides about all rows: whose istiod is gone, its roots' fingerprints, the istiods that are left."""

    names: Names
    roots: frozenset[str]
    others: tuple[Istiod, ...]
    bundles: Mapping[str, frozenset[str]]  # by namespace: fingerprints of the roots that istiod published there

    @property
    def neighbours(self) -> bool:
        """Another istiod in our namespace: it uses our election, our Secret `cacerts`, and so our root."""
        return any(each.namespace == self.names.namespace for each in self.others)

    def trusts_us(self, namespace: str) -> bool:
        return bool(self.bundles.get(namespace, frozenset()) & self.roots)

    def trusts_only_us(self, namespace: str) -> bool:
        return self.trusts_us(namespace) and self.bundles[namespace] <= self.roots


Made = Callable[[Manifest], bool]


def always(_manifest: Manifest) -> bool:
    """The name alone says that istiod made it."""
    return True


def elects(manifest: Manifest) -> bool:
    """Some of these names are plain words: only what istiod held an election in is its own."""
    return LEADER in annotations_of(manifest)


def is_istiods_class(manifest: Manifest) -> bool:
    """Only istiod's own: it leaves alone a class that somebody else made, and so do we."""
    made_by_others = owners(manifest, ("spec", "controllerName")) - {ISTIOD_MANAGER}
    return manifest["spec"]["controllerName"].startswith("istio.io/") and not made_by_others


@dataclass(frozen=True)
class Leftover:
    api_version: str
    kind: str
    name: str  # {revision} stands for the mesh's
    where: Where
    shared: Shared
    made_by_istiod: Made = always

    def is_(self, key: Key, names: Names) -> bool:
        """Whether an object of this key would be this leftover of a mesh with these names."""
        if self.where is Where.MESH_NAMESPACE and key.namespace != names.namespace:
            return False
        wanted = self.api_version, self.kind, self.name.format(revision=names.revision)
        return (key.api_version, key.kind, key.name) == wanted

    def is_unused(self, namespace: str, scene: Scene) -> bool:
        match self.shared:
            case Shared.NOBODY:
                return True
            case Shared.NAMESPACE:
                return not scene.neighbours
            case Shared.CLUSTER:
                return not scene.others
            case Shared.TRUST if scene.others:
                return not scene.neighbours and scene.trusts_only_us(namespace)
            case Shared.TRUST:
                return scene.trusts_us(namespace)


def _trust(name: str) -> Leftover:
    return Leftover("v1", "ConfigMap", name, Where.EVERY_NAMESPACE, Shared.TRUST)


def _election(name: str) -> Leftover:
    return Leftover("v1", "ConfigMap", name, Where.MESH_NAMESPACE, Shared.NAMESPACE, elects)


def _lease(name: str, shared: Shared) -> Leftover:
    return Leftover("coordination.k8s.io/v1", "Lease", name, Where.MESH_NAMESPACE, shared)


def _gateway_class(name: str) -> Leftover:
    return Leftover(
        "gateway.networking.k8s.io/v1", "GatewayClass", name, Where.CLUSTER, Shared.CLUSTER, is_istiods_class
    )


# In the order in which they go. The names are those of istiod 1.31 (pilot/pkg/leaderelection, pkg/config/constants).
LEFTOVERS = (
    # A namespace's root tells whose its CRL is: it goes last, so that an interrupted removal finds it again.
    _trust(CRL),
    _trust(ROOT_CERTIFICATE),
    _lease("istio-gateway-deployment-{revision}", Shared.NOBODY),
    _lease("istio-gateway-status-leader-{revision}", Shared.NOBODY),
    _lease("istio-status-leader", Shared.NAMESPACE),
    _election("istio-analyze-leader"),
    _election("istio-clustertrustbundle-controller-election"),
    _election("istio-ip-autoallocate"),
    _election("istio-leader"),
    _election("istio-namespace-controller-election"),
    _election("istio-node-untaint"),
    _election("istio-serviceexport-controller-election"),
    _gateway_class("istio"),
    _gateway_class("istio-agentgateway"),
    _gateway_class("istio-agentgateway-waypoint"),
    _gateway_class("istio-east-west"),
    _gateway_class("istio-remote"),
    _gateway_class("istio-waypoint"),
)


def leftovers(
    live: Iterable[Manifest], *, names: Names, roots: frozenset[str], others: Iterable[Istiod]
) -> list[Manifest]:
    """Those of the `live` objects that an uninstall takes away, in the order of the table, then by namespace.

    `live`: objects of any kind, the ConfigMaps with their data. `roots`: fingerprints of the mesh's roots, of more than
    one while they change; empty when they are not known, and then no certificate goes. `others`: every istiod of the
    cluster but ours, whoever installed it.
    """
    found = {Key.of(manifest): manifest for manifest in live}
    scene = Scene(names=names, roots=roots, others=tuple(others), bundles=_bundles(found))
    return [
        manifest
        for row in LEFTOVERS
        for key, manifest in sorted(found.items())
        if row.is_(key, names) and row.made_by_istiod(manifest) and row.is_unused(key.namespace, scene)
    ]


def _bundles(found: Mapping[Key, Manifest]) -> dict[str, frozenset[str]]:
    return {
        key.namespace: fingerprints((manifest.get("data") or {}).get(ROOT_CERTIFICATE_KEY, ""))
        for key, manifest in found.items()
        if (key.api_version, key.kind, key.name) == ("v1", "ConfigMap", ROOT_CERTIFICATE)
    }
