"""What only a real kubelet and a real istiod can say: it must reach the reader of `kubectl get mesh -o wide`."""

from __future__ import annotations

import copy
from typing import Any

from testbed.product import Product, eventually

Manifest = dict[str, Any]


def changed(product: Product, quickstart: Manifest, name: str, **control_plane: Any) -> Manifest:
    """Another mesh beside the ready one: its own revision and namespace."""
    manifest = copy.deepcopy(quickstart)
    manifest["metadata"]["name"] = name
    manifest["spec"] |= {"namespace": f"e2e-{name}", "revision": name}
    manifest["spec"].setdefault("controlPlane", {}).update(control_plane)
    product.let_into(f"e2e-{name}")
    return manifest


def message_with(product: Product, mesh: str, *words: str, seconds: float = 60) -> dict[str, Any]:
    def found() -> dict[str, Any]:
        condition = product.condition(mesh)
        return condition if all(word in condition.get("message", "") for word in words) else {}

    return eventually(found, seconds=seconds) or product.condition(mesh)


def test_an_unknown_image_is_named_with_the_kubelets_reason(product: Product, mesh: str, quickstart: Manifest) -> None:
    manifest = changed(
        product, quickstart, "image", image={"hub": "docker.io/istio", "tag": "no-such-tag", "pullPolicy": "Never"}
    )
    product.apply(manifest)
    try:
        condition = message_with(product, "image", "ErrImageNeverPull", "no-such-tag")
        assert condition["reason"] == "ControlPlaneNotReady"
        assert condition["status"] == "False"
        assert "discovery" in condition["message"]
        assert "ErrImageNeverPull" in condition["message"]
        assert "no-such-tag" in condition["message"]
        assert product.condition(mesh)["status"] == "True"  # the other mesh is not concerned
    finally:
        product.kubectl("delete", "mesh", "image", "--timeout=60s", timeout=70)


def test_an_istiod_that_cannot_start_is_explained(product: Product, mesh: str, quickstart: Manifest) -> None:
    """The kubelet's own words for a limit that no istiod can live in, and the way back."""
    tight = {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"cpu": "500m", "memory": "8Mi"}}
    product.apply(changed(product, quickstart, "tight", resources=tight))
    try:
        condition = message_with(product, "tight", "says", seconds=90)
        assert condition["reason"] == "ControlPlaneNotReady", condition
        assert "container discovery of pod istiod-tight-" in condition["message"], condition
        product.apply(changed(product, quickstart, "tight", resources=quickstart["spec"]["controlPlane"]["resources"]))
        product.wait_ready("tight")
    finally:
        product.kubectl("delete", "mesh", "tight", "--timeout=60s", timeout=70)


def test_istiod_that_fits_on_no_node_is_explained(product: Product, mesh: str, quickstart: Manifest) -> None:
    product.apply(
        changed(product, quickstart, "huge", resources={"requests": {"memory": "900Gi"}, "limits": {"memory": "900Gi"}})
    )
    try:
        condition = message_with(product, "huge", "no node", "900.0 GiB", "nothing was installed")
        assert condition["reason"] == "NoNodeLargeEnough"
        assert not product.exists("deployment", "istiod-huge", "-n", "e2e-huge")
    finally:
        product.kubectl("delete", "mesh", "huge", "--timeout=60s", timeout=70)


def test_an_istiod_of_somebody_else_is_refused_and_left_alone(
    product: Product, mesh: str, quickstart: Manifest
) -> None:
    space = "e2e-foreign"
    product.kubectl("create", "namespace", space)
    foreign: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "istiod", "namespace": space, "labels": {"app": "istiod", "istio.io/rev": "theirs"}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "istiod"}},
            "template": {
                "metadata": {"labels": {"app": "istiod"}},
                "spec": {"containers": [{"name": "discovery", "image": "docker.io/istio/pilot:1.31.4"}]},
            },
        },
    }
    product.apply(foreign)
    before = product.get("deployment", "istiod", "-n", space)["metadata"]
    product.apply(changed(product, quickstart, "foreign"))
    try:
        condition = message_with(product, "foreign", f"{space}/istiod")
        assert condition["reason"] == "ForeignControlPlane"
        assert "kubectl" in condition["message"]  # who installed it
        assert product.condition("foreign", "Stalled")["status"] == "True"
        assert not product.exists("secret", "cacerts", "-n", space)
        after = product.get("deployment", "istiod", "-n", space)["metadata"]
        assert (after["uid"], after["generation"]) == (before["uid"], before["generation"])
    finally:
        product.kubectl("delete", "mesh", "foreign", "--timeout=60s", timeout=70)
        product.kubectl("delete", "namespace", space, "--wait=false")
