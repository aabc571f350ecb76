"""Pods and their namespaces as far as injection goes: of ten thousand, little may be kept of each.

Those with the label of a sidecar and those without it are two questions that share no pod. The first is also asked for
itself: it is small where few pods are in a mesh.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache

from meshwright.api.meshinstall import COMPONENT_PROBE, LABEL_COMPONENT
from meshwright.mesh.enrolment import IMAGE, INJECT, INJECTION, OWN_IMAGE, REVISION, STATUS, Pod
from meshwright.mesh.objects import Manifest, annotations_of, labels_of

TLS_MODE = "security.istio.io/tlsMode"
# Every pod with a sidecar of ours carries it: without it other proxies would send it plaintext. Our own probe is
# nobody's workload.
SIDECAR = f"{TLS_MODE}=istio,{LABEL_COMPONENT}!={COMPONENT_PROBE}"
NO_SIDECAR = f"{TLS_MODE}!=istio"

LABELS = frozenset({TLS_MODE, INJECT, REVISION})
ANNOTATIONS = frozenset({REVISION, INJECT, STATUS, OWN_IMAGE, IMAGE})
PRESENCE = frozenset({STATUS, OWN_IMAGE})  # long, and nobody reads what they say
NAMESPACE_LABELS = frozenset({INJECTION, REVISION})
HEAD = ("name", "uid", "resourceVersion", "deletionTimestamp")

Pairs = tuple[tuple[str, str], ...]


def lean_pod(manifest: Manifest) -> Manifest:
    """What injection rests on and leaves behind; strings and maps of which there are few are there once."""
    metadata = manifest["metadata"]
    kept = {name: metadata[name] for name in HEAD if name in metadata}
    kept["namespace"] = sys.intern(metadata["namespace"])
    if labels := _some(labels_of(manifest), LABELS):
        kept["labels"] = _shared(labels)
    if annotations := _some(annotations_of(manifest), ANNOTATIONS):
        kept["annotations"] = _shared(annotations)
    return {"metadata": kept}


def lean_namespace(manifest: Manifest) -> Manifest:
    """What asks for injection."""
    metadata = manifest["metadata"]
    kept = {name: metadata[name] for name in HEAD if name in metadata}
    if labels := _some(labels_of(manifest), NAMESPACE_LABELS):
        kept["labels"] = _shared(labels)
    return {"metadata": kept}


def pod_of(manifest: Manifest) -> Pod:
    metadata = manifest["metadata"]
    return Pod(metadata["namespace"], metadata["name"], labels_of(manifest), annotations_of(manifest))


def proxy_revision(manifest: Manifest) -> str | None:
    """Of the sidecar of a pod that lives; None when it has none that other proxies know of."""
    if stays(manifest) and labels_of(manifest).get(TLS_MODE) == "istio":
        return annotations_of(manifest).get(REVISION)
    return None


def stays(manifest: Manifest) -> bool:
    """Whether it is not about to go."""
    return "deletionTimestamp" not in manifest["metadata"]


def _some(of: dict[str, str], wanted: Iterable[str]) -> Pairs:
    return tuple((name, "" if name in PRESENCE else of[name]) for name in wanted if name in of)


@lru_cache(maxsize=1024)  # whoever makes pods chooses them
def _shared(pairs: Pairs) -> dict[str, str]:
    return dict(pairs)
