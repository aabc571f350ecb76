"""Meshwright is removed in the documented order: the list of what remains is exact."""

from __future__ import annotations

from e2e.inventory import inventory
from testbed.product import NAMESPACE, ROOT, Product, eventually

# docs/how-to/remove.md says why each of them stays.
STAYS = {
    "Namespace /istio-system",
    "RoleBinding istio-system/meshwright",
    "Secret istio-system/cacerts",
    f"Secret {NAMESPACE}/meshwright-root-quickstart",
    f"Namespace /{NAMESPACE}",
    f"Lease {NAMESPACE}/meshwright",
    "CustomResourceDefinition /meshactions.meshwright.dev",
    "CustomResourceDefinition /meshinstalls.meshwright.dev",
    "ClusterRole /meshwright-viewer",
    "ClusterRole /meshwright-admin",
    "ValidatingAdmissionPolicy /meshwright-deletion",
    "ValidatingAdmissionPolicyBinding /meshwright-deletion",
    # Kubernetes makes these in every namespace.
    *(
        made.format(namespace)
        for namespace in ("istio-system", NAMESPACE)
        for made in ("ServiceAccount {}/default", "ConfigMap {}/kube-root-ca.crt")
    ),
}
ROOT_SECRET = f"Secret {NAMESPACE}/meshwright-root-"


def remains(product: Product, before: set[str]) -> set[str]:
    """What there is more than before, but for Istio's CRDs and what other tests kept in namespaces of their own."""
    more = inventory(product) - before
    istio = {each for each in more if each.startswith("CustomResourceDefinition /") and each.endswith(".istio.io")}
    others = {each for each in more if " e2e-" in each or "/e2e-" in each or each.startswith(ROOT_SECRET)}
    return more - istio - (others - STAYS)


def test_removed_in_the_documented_order(product: Product, before: set[str], mesh: str) -> None:
    for each in product.get("mesh")["items"]:
        product.delete_mesh(each["metadata"]["name"])
    product.kubectl("delete", "-k", str(ROOT / "manifests/base"), "--timeout=120s", timeout=130)
    eventually(lambda: remains(product, before) == STAYS, seconds=40, every=2)
    assert remains(product, before) == STAYS
    assert not product.exists("configmap", "istio-ca-root-cert", "-n", "default")
