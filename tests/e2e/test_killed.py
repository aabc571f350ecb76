"""The replica that leads is killed at random moments of install, change and deletion: each ends as without."""

from __future__ import annotations

import copy
import json
import os
import random
import time
from typing import Any

import pytest

from testbed.product import NAMESPACE, Product, eventually

Manifest = dict[str, Any]
SEED = int(os.environ.get("MESHWRIGHT_E2E_SEED") or random.SystemRandom().randrange(10**6))
SPACE = "e2e-restart"
KINDS = (
    "serviceaccounts,configmaps,services,deployments,poddisruptionbudgets,roles,rolebindings,clusterroles,"
    "clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,peerauthentications"
)


def variant(quickstart: Manifest, name: str) -> Manifest:
    manifest = copy.deepcopy(quickstart)
    manifest["metadata"]["name"] = name
    manifest["spec"] |= {"namespace": SPACE, "revision": "restart"}
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


ROUNDS = 4  # of three kills each
CHANGE = {"mtls": "Strict", "meshConfig": {"accessLogFile": "/dev/stdout"}}


def kill_leader(product: Product, *, after: float) -> str:
    """Force-deletes the pod that leads: it gives nothing back, so the lease must run out first."""
    time.sleep(after)
    pod = product.leader()
    product.kubectl("-n", NAMESPACE, "delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")
    return pod


def take_over(product: Product, before: str) -> float:
    """Seconds until another one leads."""
    began = time.monotonic()
    assert eventually(lambda: product.leader() not in ("", before), seconds=60, every=0.2)
    return time.monotonic() - began


def life_of_a_mesh(product: Product, manifest: Manifest, moments: tuple[float, float, float] | None) -> dict[str, Any]:
    """Installed, changed and deleted, with a kill in each of the three: what was there after each."""
    name = manifest["metadata"]["name"]
    seen: dict[str, Any] = {}

    def disturb(step: int) -> None:
        if moments:
            seconds = take_over(product, kill_leader(product, after=moments[step]))
            print(f"killed {moments[step]:.2f} s after the start of step {step}; taken over after {seconds:.1f} s")

    product.apply(manifest)
    disturb(0)
    product.wait_ready(name, seconds=120)
    seen["installed"] = canonical(product, name)
    seen["root"] = root_of(product, name)
    product.kubectl("patch", "mesh", name, "--type=merge", "-p", json.dumps({"spec": CHANGE}))
    disturb(1)
    assert eventually(lambda: is_settled(product, name), seconds=120)
    seen["changed"] = canonical(product, name)
    product.kubectl("delete", "mesh", name, "--wait=false")
    disturb(2)
    product.kubectl("wait", f"mesh/{name}", "--for=delete", "--timeout=90s", timeout=100)
    seen["deleted"] = canonical(product, name)
    return seen


def is_settled(product: Product, name: str) -> bool:
    mesh = product.get("mesh", name)
    ready = product.condition(name)
    return bool(ready["status"] == "True" and ready["observedGeneration"] == mesh["metadata"]["generation"])


def root_of(product: Product, name: str) -> str:
    root: str = product.get("mesh", name)["status"]["clusters"][0]["trust"]["rootFingerprint"]
    return root


@pytest.fixture(scope="module")
def undisturbed(product: Product, mesh: str, quickstart: Manifest) -> dict[str, Any]:
    product.let_into(SPACE)
    return life_of_a_mesh(product, variant(quickstart, "restart"), None)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_killed_at_random_moments_each_end_is_the_same(
    product: Product, quickstart: Manifest, undisturbed: dict[str, Any], round_: int
) -> None:
    chance = random.Random(SEED + round_)  # noqa: S311
    moments = (chance.uniform(0.05, 3.0), chance.uniform(0.05, 2.0), chance.uniform(0.0, 1.0))
    print(f"MESHWRIGHT_E2E_SEED={SEED}")
    # Also the root: it stays when the mesh is deleted, and is found again.
    assert life_of_a_mesh(product, variant(quickstart, "restart"), moments) == undisturbed


def test_what_a_deleted_mesh_leaves(product: Product, undisturbed: dict[str, Any]) -> None:
    assert undisturbed["deleted"] == {}
    assert product.exists("secret", "cacerts", "-n", SPACE)
    assert product.exists("secret", "meshwright-root-restart", "-n", NAMESPACE)
    assert product.exists("namespace", SPACE)
    assert product.exists("crd", "virtualservices.networking.istio.io")
