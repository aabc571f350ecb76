"""A node is drained: nothing holds it up, the other replicas go on, and what was there is there again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from testbed.product import NAMESPACE, Product, eventually


def nodes(product: Product) -> list[str]:
    return [each["metadata"]["name"] for each in product.get("nodes")["items"]]


def hosts(product: Product, namespace: str, label: str) -> list[str]:
    """The nodes of the ready pods."""
    pods = product.get("pods", "-n", namespace, "-l", label)["items"]
    return [
        each["spec"]["nodeName"] for each in pods
        if "deletionTimestamp" not in each["metadata"]
        and any(one["type"] == "Ready" and one["status"] == "True" for one in each["status"].get("conditions", ()))
    ]  # fmt: skip


OPERATOR = (NAMESPACE, "app.kubernetes.io/name=meshwright")
ISTIOD = ("istio-system", "app=istiod,istio.io/rev=default")


@pytest.fixture
def drained(product: Product, mesh: str) -> Iterator[str]:
    """The node of the replica that leads, after everything that may be moved was moved."""
    if len(nodes(product)) == 1:
        pytest.skip("a cluster of one node cannot be drained")
    pod = product.leader()
    node: str = product.get("pod", pod, "-n", NAMESPACE)["spec"]["nodeName"]
    began = time.monotonic()
    product.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s", timeout=130)
    print(f"drained in {time.monotonic() - began:.1f} s")
    yield node
    product.kubectl("uncordon", node)


def test_a_drained_node_takes_nothing_away(product: Product, mesh: str, drained: str) -> None:
    assert eventually(lambda: product.leader() != "", seconds=20, every=0.2)
    for where in (OPERATOR, ISTIOD):
        assert eventually(lambda where=where: len(hosts(product, *where)) == 2, seconds=90)  # type: ignore[misc]
        assert drained not in hosts(product, *where)
    product.wait_ready(mesh)
    # It is led: what is deleted comes back.
    product.kubectl("-n", "istio-system", "delete", "configmap", "istio")
    assert eventually(lambda: product.exists("configmap", "istio", "-n", "istio-system"), seconds=10, every=0.2)
