"""What is kept of a pod and of a namespace, and how much that is."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

from meshwright.cluster.pods import lean_namespace, lean_pod, pod_of, proxy_revision

Json = dict[str, Any]

STATUS = json.dumps({"containers": ["web", "istio-proxy"], "volumes": ["istio-data"] * 10, "revision": "stable"})
INJECTED = {
    "istio.io/rev": "stable", "sidecar.istio.io/status": STATUS, "sidecar.istio.io/proxyImage": "own:1",
    "meshwright.dev/proxy-image": "istio/proxyv2:1.31.4", "sidecar.istio.io/inject": "true",
}  # fmt: skip
LABELS = {"security.istio.io/tlsMode": "istio", "sidecar.istio.io/inject": "true", "istio.io/rev": "stable"}
BYTES = 1000  # of a pod, with the informer's own key and place


def pod(number: int = 1, **metadata: Any) -> Json:
    """With a namespace and maps of its own, as it comes from the wire."""
    head = {
        "name": f"shop-5d7f9c8b6-{number:05}", "namespace": str(bytearray(b"shop"), "ascii"),
        "resourceVersion": f"{number + 10**6}", "uid": f"0f1e2d3c-4b5a-6978-8796-{number:012}",
        "creationTimestamp": "2026-03-01T12:00:00Z",
        "generateName": "shop-5d7f9c8b6-", "ownerReferences": [{"kind": "ReplicaSet", "name": "shop-5d7f9c8b6"}],
        "labels": {**LABELS, "app": "shop", "pod-template-hash": "5d7f9c8b6"},
        "annotations": {**INJECTED, "kubectl.kubernetes.io/restartedAt": "2026-03-01"},
    }  # fmt: skip
    return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {**head, **metadata}}


def test_of_a_pod_what_injection_rests_on_and_leaves_behind() -> None:
    kept = lean_pod(pod())["metadata"]
    assert kept == {
        "name": "shop-5d7f9c8b6-00001", "namespace": "shop", "resourceVersion": "1000001",
        "uid": "0f1e2d3c-4b5a-6978-8796-000000000001", "labels": LABELS,
        "annotations": {**INJECTED, "sidecar.istio.io/status": "", "sidecar.istio.io/proxyImage": ""},
    }  # fmt: skip


def test_what_pods_have_in_common_is_there_once() -> None:
    one, other = (lean_pod(pod(number))["metadata"] for number in (1, 2))
    for name in ("labels", "annotations", "namespace"):
        assert one[name] is other[name]


def test_a_pod_without_any_of_it() -> None:
    kept = lean_pod(pod(labels=None, annotations={"a": "b"}, deletionTimestamp="now"))
    assert sorted(kept["metadata"]) == ["deletionTimestamp", "name", "namespace", "resourceVersion", "uid"]
    assert pod_of(kept) == ("shop", "shop-5d7f9c8b6-00001", {}, {})


def test_of_a_namespace_what_it_asks_for() -> None:
    labels = {"istio-injection": "enabled", "istio.io/rev": "stable", "team": "shop"}
    whole = {
        "metadata": {"name": "shop", "uid": "u", "resourceVersion": "7", "labels": labels, "annotations": {"a": "b"}}
    }
    assert lean_namespace(whole)["metadata"] == {
        "name": "shop", "uid": "u", "resourceVersion": "7",
        "labels": {"istio-injection": "enabled", "istio.io/rev": "stable"},
    }  # fmt: skip


def test_the_revision_of_a_proxy() -> None:
    assert proxy_revision(pod()) == proxy_revision(lean_pod(pod())) == "stable"
    assert proxy_revision(pod(annotations=None)) is None
    assert proxy_revision(pod(labels={"app": "shop"})) is None
    assert proxy_revision(pod(deletionTimestamp="now")) is None


def test_ten_thousand_pods_are_small() -> None:
    tracemalloc.start()
    try:
        # As they come: each text is read from the wire anew.
        kept = [lean_pod(json.loads(json.dumps(pod(number)))) for number in range(10_000)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{size / len(kept):.0f} bytes of each pod")
    assert size / len(kept) < BYTES
