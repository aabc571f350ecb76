"""The operator is killed at a random moment of an install: the mesh ends as if it had not been."""

from __future__ import annotations

import copy
import os
import random
import time
from typing import Any

import pytest

from testbed.product import NAMESPACE, Product

Manifest = dict[str, Any]
SEED = int(os.environ.get("MESHWRIGHT_E2E_SEED") or random.SystemRandom().randrange(10**6))
KINDS = (
    "serviceaccounts,configmaps,services,deployments,poddisruptionbudgets,roles,rolebindings,clusterroles,"
    "clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,peerauthentications"
)


def variant(quickstart: Manifest, name: str) -> Manifest:
    manifest = copy.deepcopy(quickstart)
    manifest["metadata"]["name"] = name
    manifest["spec"] |= {"namespace": "e2e-restart", "revision": "restart"}
    return manifest


def canonical(product: Product, mesh: str) -> dict[str, Any]:
    """Every object of a mesh without what differs from install to install."""
    objects: dict[str, Any] = {}
    listed = product.get(KINDS, "-A", "-l", f"meshwright.dev/mesh={mesh}")["items"]
    for item in listed:
        metadata = item["metadata"]
        key = "/".join((item["kind"], metadata.get("namespace", ""), metadata["name"]))
        for webhook in item.get("webhooks", ()):
            webhook["clientConfig"].pop("caBundle", None)  # of another root
            webhook.pop("failurePolicy", None)  # istiod turns it when it answers
        if item["kind"] == "Service":
            for field in ("clusterIP", "clusterIPs"):
                item["spec"].pop(field, None)
        if item["kind"] == "Deployment":
            item["spec"]["template"]["metadata"]["annotations"].pop("meshwright.dev/root-fingerprint")
        body = {name: value for name, value in item.items() if name not in ("metadata", "status")}
        objects[key] = {"labels": metadata["labels"], **body}
    return objects


def install(product: Product, manifest: Manifest, *, kill_after: float | None) -> dict[str, Any]:
    name = manifest["metadata"]["name"]
    product.apply(manifest)
    if kill_after is not None:
        time.sleep(kill_after)
        product.kubectl("-n", NAMESPACE, "delete", "pod", "--all", "--force", "--grace-period=0", "--wait=false")
    product.wait_ready(name, seconds=120)
    found = canonical(product, name)
    root = product.get("mesh", name)["status"]["clusters"][0]["trust"]["rootFingerprint"]
    product.kubectl("delete", "mesh", name, "--timeout=60s", timeout=70)
    return {"objects": found, "root": root}


@pytest.fixture(scope="module")
def undisturbed(product: Product, mesh: str, quickstart: Manifest) -> dict[str, Any]:
    return install(product, variant(quickstart, "restart"), kill_after=None)


@pytest.mark.parametrize("attempt", range(3))
def test_killed_at_a_random_moment_the_end_is_the_same(
    product: Product, quickstart: Manifest, undisturbed: dict[str, Any], attempt: int
) -> None:
    moment = random.Random(SEED + attempt).uniform(0.05, 3.0)  # noqa: S311
    print(f"killed after {moment:.2f} s; MESHWRIGHT_E2E_SEED={SEED}")
    end = install(product, variant(quickstart, "restart"), kill_after=moment)
    assert end == undisturbed  # also the root: it stayed when the mesh was deleted, and was found again


def test_what_a_deleted_mesh_leaves(product: Product, undisturbed: dict[str, Any]) -> None:
    assert canonical(product, "restart") == {}
    assert product.exists("secret", "cacerts", "-n", "e2e-restart")
    assert product.exists("secret", "meshwright-root-restart", "-n", NAMESPACE)
    assert product.exists("namespace", "e2e-restart")
    assert product.exists("crd", "virtualservices.networking.istio.io")
