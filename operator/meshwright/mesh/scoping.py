"""What a recommendation says: the object to write, who would lose what by it, and how much it saves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from meshwright.api.meshinstall import API_VERSION, KIND, Size
from meshwright.api.scaling import Action
from meshwright.mesh.observed import listed

NAMED = 8
LIMIT = 32 << 10  # characters
EXPRESSION = "kubernetes.io/metadata.name"  # Kubernetes puts it on every namespace


@dataclass(frozen=True)
class Place:
    """A namespace: services in it, pods with a proxy, and whether it asks for injection."""

    name: str
    services: int = 0
    proxies: int = 0
    asks: bool = False


@dataclass(frozen=True)
class Scene:
    """What a recommendation is about."""

    mesh: str
    namespace: str  # of the control plane, Istio's root namespace
    cluster: str
    places: tuple[Place, ...]
    gateways: frozenset[str]  # namespaces of gateways
    config_bytes: float  # of one proxy's whole configuration, by what istiod sent; 0: not known

    @property
    def proxies(self) -> int:
        return sum(each.proxies for each in self.places)

    @property
    def services(self) -> int:
        return sum(each.services for each in self.places)


def proposal(action: Action, scene: Scene, *, pods: int = 0) -> str | None:
    """As YAML with comments; None where there is nothing to write."""
    lines: Iterable[str]
    match action:
        case Action.DISCOVERY_SELECTORS:
            lines = _discovery_selectors(scene)
        case Action.SIDECAR_SCOPING:
            lines = _sidecar(scene)
        case Action.OTHER_ARCHITECTURE | Action.MULTI_CLUSTER_REQUIRED:
            lines = _architectures(scene, pods)
        case _:
            return None
    return "\n".join(lines)[:LIMIT] + "\n"


def _discovery_selectors(scene: Scene) -> Iterator[str]:
    needed = {scene.namespace} | scene.gateways
    kept = [each for each in scene.places if each.proxies or each.asks or each.name in needed]
    lost = [each for each in scene.places if each not in kept and each.services]
    yield f"# With this, istiod of cluster {scene.cluster} reads {len(kept)} of {len(scene.places)} namespaces."
    if lost:
        yield f"# Proxies lose the services of {_named(lost)}: what they still send there goes out as to any"
        yield "# address outside the mesh, without its policies. Add a namespace to `values` to keep it."
    else:
        yield "# No service is lost: the others have none."
    yield from _saving(scene, sum(each.services for each in lost))
    yield f"apiVersion: {API_VERSION}"
    yield f"kind: {KIND}"
    yield f"metadata: {{name: {scene.mesh}}}"
    yield "spec:"
    yield "  meshConfig:"
    yield "    discoverySelectors:"
    yield "      - matchExpressions:"
    yield f"          - key: {EXPRESSION}"
    yield "            operator: In"
    yield f"            values: [{', '.join(sorted({each.name for each in kept} | needed))}]"


def _sidecar(scene: Scene) -> Iterator[str]:
    inside = [each for each in scene.places if each.proxies]
    root = next((each.services for each in scene.places if each.name == scene.namespace), 0)
    yield f"# With this, each proxy of cluster {scene.cluster} gets the services of its own namespace and of"
    yield f"# {scene.namespace} only. A namespace whose pods call another one needs a Sidecar of its own that names it:"
    for each in inside[:NAMED]:
        others = scene.services - each.services - (root if each.name != scene.namespace else 0)
        yield f"#   {each.name}: {each.proxies} proxies lose {others} of {scene.services} services"
    if len(inside) > NAMED:
        yield f"#   and {len(inside) - NAMED} more namespaces"
    lost = sum(each.proxies * max(scene.services - each.services - root, 0) for each in inside)
    yield from _saving(scene, lost / scene.proxies if scene.proxies else 0)
    yield "apiVersion: networking.istio.io/v1"
    yield "kind: Sidecar"
    yield "metadata:"
    yield "  name: default"
    yield f"  namespace: {scene.namespace}"
    yield "spec:"
    yield "  egress:"
    yield f'    - hosts: ["./*", "{scene.namespace}/*"]'


def _saving(scene: Scene, services: float) -> Iterator[str]:
    """In proportion to services: nearly all of a proxy's configuration is about them."""
    if not scene.config_bytes or not scene.services:
        yield "# How much it saves is not known: istiod has sent too little to tell."
        return
    share = services / scene.services
    saved = share * scene.config_bytes * scene.proxies
    yield (
        f"# It saves about {_size(saved)} of configuration: {share:.0%} of {_size(scene.config_bytes)} for each of"
        f" {scene.proxies} proxies."
    )


def _architectures(scene: Scene, pods: int) -> Iterator[str]:
    clusters = max(-(-pods // 10000), 1) + (1 if pods % 10000 == 0 else 0)
    largest = sorted(scene.places, key=lambda each: (-each.proxies, each.name))[:NAMED]
    yield f"# {pods} pods are in the mesh in cluster {scene.cluster}. In the order in which to look at them:"
    yield f"# 1. several clusters: {max(clusters, 2)} of size {Size.LARGE}, joined by `spec.clusters`."
    yield f"#    Cost: istiod and an east-west gateway more in each. The most pods are in {_named(largest, 'proxies')}."
    yield "#    Blockers: pods that must reach each other without the mesh."
    yield "# 2. a data plane without sidecars (ambient): istiod serves a proxy a node instead of one a pod."
    yield "#    Cost: every workload restarts; HTTP policies need waypoints."
    yield "#    Blockers: Meshwright does not install it yet."


def _named(places: Sequence[Place], what: str = "services") -> str:
    return listed([f"{each.name} ({getattr(each, what)} {what})" for each in places[:NAMED]], of=len(places))


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def places(
    services: Iterable[str], proxies: Mapping[str, int], labels: Mapping[str, Mapping[str, str]], *, revision: str
) -> tuple[Place, ...]:
    """By name: of each namespace with its labels, the services (their namespaces, one for each) and proxies in it."""
    counted: dict[str, int] = {}
    for each in services:
        counted[each] = counted.get(each, 0) + 1
    return tuple(
        Place(
            name, counted.get(name, 0), proxies.get(name, 0),
            asks=has.get("istio-injection") == "enabled" or has.get("istio.io/rev") == revision,
        )
        for name, has in sorted(labels.items())
    )  # fmt: skip
