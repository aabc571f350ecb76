"""Enrolment: which pods are to have a sidecar of a mesh, and which of them have none, or another one.

What a pod asks for is decided by four webhooks (`templates/webhooks/mutating.yaml.j2`) and then by istiod:

| namespace: `istio-injection` | namespace: `istio.io/rev` | pod | asks for |
| --- | --- | --- | --- |
| `enabled` | any | any | `default` |
| another value | any | any | nothing |
| absent | X | any | X |
| absent | absent | `istio.io/rev: X` | X |
| absent | absent | no `istio.io/rev`, `sidecar.istio.io/inject: "true"` as a label | `default` |
| absent | absent | any other | nothing |

In all rows, a pod refuses by `sidecar.istio.io/inject: "false"`: as a label, or, without that label, as an annotation.
Pods on the host's network are never injected; they do not belong here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from heapq import nsmallest
from typing import NamedTuple

from meshwright.api.meshinstall import MeshSpec
from meshwright.mesh.names import DEFAULT_REVISION
from meshwright.mesh.selectors import Labels

INJECTION = "istio-injection"
REVISION = "istio.io/rev"
INJECT = "sidecar.istio.io/inject"
STATUS = "sidecar.istio.io/status"  # istiod leaves it on whatever it injects
OWN_IMAGE = "sidecar.istio.io/proxyImage"  # a pod's author chose it
IMAGE = "meshwright.dev/proxy-image"  # our templates leave it: the image of this moment

# istiod's own list.
NEVER_INJECTED = frozenset({"kube-system", "kube-public", "kube-node-lease", "local-path-storage"})
VARIANTS = ("-distroless", "-debug")  # of an image of one version; pods may choose between them
NAMED_PODS = 10


class Pod(NamedTuple):
    """One that lives, and is not about to go."""

    namespace: str
    name: str
    labels: Labels
    annotations: Labels


class Verdict(StrEnum):
    """What is with a pod that is to have a sidecar of ours."""

    INJECTED = "injected"
    MISSING = "missing"
    OTHER_REVISION = "other revision"
    OTHER_VERSION = "other version"


@dataclass(frozen=True)
class Injection:
    """Of the pods of one cluster that are to have a sidecar of a mesh."""

    expected: int = 0
    missing: int = 0
    outdated: int = 0  # with a sidecar of another revision or version
    pods: tuple[str, ...] = ()  # the first missing and outdated ones by name, as `namespace/name: why`


def proxy_image(spec: MeshSpec) -> str:
    """The image that is injected now, unless a pod says otherwise."""
    image = spec.control_plane.image
    return f"{image.hub}/proxyv2:{image.tag or spec.version}"


def asks_for(namespace_labels: Labels, pod_labels: Labels, pod_annotations: Labels, namespace: str) -> str | None:
    """The revision, or the tag, whose sidecar a pod is to have; None when it is to have none."""
    if namespace in NEVER_INJECTED or pod_labels.get(INJECT, pod_annotations.get(INJECT)) == "false":
        return None
    if INJECTION in namespace_labels:
        return DEFAULT_REVISION if namespace_labels[INJECTION] == "enabled" else None
    revision = namespace_labels.get(REVISION, pod_labels.get(REVISION))
    if revision is None:
        return DEFAULT_REVISION if pod_labels.get(INJECT) == "true" else None
    return revision or None  # an empty one is asked for, but nobody serves it


def judge(annotations: Labels, *, revision: str, image: str) -> Verdict:
    """Of a pod that is to have our sidecar, by what its injection left on it. `image` would be injected now."""
    if STATUS not in annotations:
        return Verdict.MISSING
    if annotations.get(REVISION) != revision:
        return Verdict.OTHER_REVISION
    found = annotations.get(IMAGE)
    if found is None or OWN_IMAGE in annotations or _version(found) == _version(image):
        return Verdict.INJECTED
    return Verdict.OTHER_VERSION


def report(
    pods: Iterable[Pod], namespaces: Mapping[str, Labels], *, revision: str, tags: Collection[str] = (), image: str
) -> Injection:
    """Over all pods of a cluster; `namespaces` has the labels of each, `tags` are those that point to `revision`."""
    ours = {revision, *tags}
    verdicts: dict[tuple[str | None, ...], Verdict | None] = {}  # thousands of pods, but a few kinds of them
    counts: Counter[Verdict] = Counter()
    wrong = []
    for pod in pods:
        traits = traits_of(pod)
        if traits not in verdicts:
            asks = asks_for(namespaces.get(pod.namespace, {}), pod.labels, pod.annotations, pod.namespace)
            verdicts[traits] = judge(pod.annotations, revision=revision, image=image) if asks in ours else None
        if verdict := verdicts[traits]:
            counts[verdict] += 1
            if verdict is not Verdict.INJECTED:
                wrong.append((f"{pod.namespace}/{pod.name}", verdict, pod.annotations))
    return Injection(
        expected=counts.total(),
        missing=counts[Verdict.MISSING],
        outdated=counts[Verdict.OTHER_REVISION] + counts[Verdict.OTHER_VERSION],
        pods=tuple(
            f"{name}: {_why(verdict, annotations, image)}"
            for name, verdict, annotations in nsmallest(NAMED_PODS, wrong, key=lambda each: each[0])
        ),
    )


def traits_of(pod: Pod) -> tuple[str | None, ...]:
    """All that a verdict rests on, but for the namespace's labels."""
    labels, annotations = pod.labels, pod.annotations
    return (
        pod.namespace, labels.get(INJECT), labels.get(REVISION), annotations.get(INJECT),
        None if STATUS not in annotations else STATUS, annotations.get(REVISION), annotations.get(IMAGE),
        None if OWN_IMAGE not in annotations else OWN_IMAGE,
    )  # fmt: skip


def _why(verdict: Verdict, annotations: Labels, image: str) -> str:
    if verdict is Verdict.MISSING:
        return "no sidecar"
    if verdict is Verdict.OTHER_REVISION:
        return f"sidecar of revision {annotations.get(REVISION) or 'unknown'}"
    return f"sidecar image {annotations[IMAGE]}, now {image}"


def _version(image: str) -> str:
    """An image without its variant."""
    for variant in VARIANTS:
        image = image.removesuffix(variant)
    return image
