"""What istiod leaves behind: what goes with a mesh, and what others need."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from meshes import istiod
from meshwright.mesh.leftovers import LEADER, LEFTOVERS, Where, leftovers
from meshwright.mesh.names import Names
from meshwright.mesh.objects import Key
from meshwright.mesh.observed import Istiod

Json = dict[str, Any]

NAMES = Names("istio-system", "default")
OURS, THEIRS = b"our root", b"their root"
ROOTS = frozenset({hashlib.sha256(OURS).hexdigest()})

SAME_NAMESPACE = istiod(revision="canary", name="istiod-canary")
ELSEWHERE = istiod(namespace="other", owner=None)


def pem(*certificates: bytes) -> str:
    return "".join(
        f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(each).decode()}\n-----END CERTIFICATE-----\n"
        for each in certificates
    )


def config_map(namespace: str, name: str, data: Json | None = None, *, elected: bool = False) -> Json:
    metadata: Json = {"namespace": namespace, "name": name}
    if elected:
        metadata["annotations"] = {LEADER: "{}"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def root(namespace: str, *certificates: bytes) -> Json:
    return config_map(namespace, "istio-ca-root-cert", {"root-cert.pem": pem(*certificates)})


def crl(namespace: str) -> Json:
    return config_map(namespace, "istio-ca-crl", {"ca-crl.pem": ""})


def lease(name: str, namespace: str = "istio-system") -> Json:
    return {
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"namespace": namespace, "name": name},
    }  # fmt: skip


def gateway_class(name: str, controller: str, *, manager: str = "pilot-discovery") -> Json:
    fields: Json = {"f:spec": {".": {}, "f:controllerName": {}, "f:description": {}}}
    made = {"manager": manager, "operation": "Update", "fieldsV1": fields}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": name, "managedFields": [made]}, "spec": {"controllerName": controller},
    }  # fmt: skip


ELECTION = config_map("istio-system", "istio-namespace-controller-election", elected=True)
PER_REVISION = lease("istio-gateway-deployment-default")
PER_NAMESPACE = lease("istio-status-leader")
CLASS = gateway_class("istio", "istio.io/gateway-controller")
EVERYTHING = [
    CLASS, PER_NAMESPACE, PER_REVISION, ELECTION, root("shop", OURS), crl("shop"), root("istio-system", OURS),
    crl("istio-system"),
]  # fmt: skip


def going(*live: Json, others: tuple[Istiod, ...] = (), roots: frozenset[str] = ROOTS) -> list[Key]:
    return [Key.of(each) for each in leftovers(live, names=NAMES, roots=roots, others=others)]


def keys(*manifests: Json) -> list[Key]:
    return [Key.of(each) for each in manifests]


def test_all_goes_with_the_last_istiod_each_crl_before_its_root() -> None:
    assert going(*EVERYTHING) == keys(
        crl("istio-system"), crl("shop"), root("istio-system"), root("shop"), PER_REVISION, PER_NAMESPACE, ELECTION,
        CLASS,
    )  # fmt: skip


def test_another_istiod_of_the_namespace_needs_all_but_the_leases_of_the_revision() -> None:
    assert going(*EVERYTHING, others=(SAME_NAMESPACE,)) == keys(PER_REVISION)


def test_another_istiod_of_the_cluster_needs_what_the_cluster_shares() -> None:
    live = [*EVERYTHING, root("both", OURS, THEIRS), crl("both"), root("theirs", THEIRS), crl("theirs")]
    assert going(*live, others=(ELSEWHERE,)) == keys(
        crl("istio-system"), crl("shop"), root("istio-system"), root("shop"), PER_REVISION, PER_NAMESPACE, ELECTION
    )


def test_a_bundle_with_our_root_among_others_goes_with_the_last_istiod() -> None:
    live = [root("both", OURS, THEIRS), crl("both"), root("theirs", THEIRS), crl("theirs")]
    assert going(*live) == keys(crl("both"), root("both"))


@pytest.mark.parametrize(
    "stays",
    [
        root("shop", THEIRS),
        root("shop"),
        config_map("shop", "istio-ca-root-cert"),
        crl("without-a-root"),
        config_map("shop", "istio-leader", elected=True),
        config_map("istio-system", "istio-leader", {"app": "mine"}),
        lease("istio-gateway-deployment-canary"),
        lease("istio-gateway-deployment-default", namespace="shop"),
        gateway_class("istio", "example.org/gateway"),
        gateway_class("istio", "istio.io/gateway-controller", manager="kubectl-client-side-apply"),
        gateway_class("eg", "istio.io/gateway-controller"),
        config_map("shop", "mine", {"root-cert.pem": pem(OURS)}),
    ],
    ids=[
        "another root", "an empty bundle", "no bundle", "a CRL of an unknown root", "an election elsewhere",
        "a namesake of an election", "a lease of another revision", "a lease elsewhere", "another controller's class",
        "a class that somebody made", "a class of another name", "a copy of our root",
    ],
)  # fmt: skip
def test_what_is_not_istiods_stays(stays: Json) -> None:
    assert going(stays) == []


def test_while_the_root_changes_both_roots_are_ours() -> None:
    live = [root("old", OURS), root("both", OURS, b"new"), root("new", b"new"), root("mixed", OURS, THEIRS)]
    roots = ROOTS | {hashlib.sha256(b"new").hexdigest()}
    assert going(*live, roots=roots, others=(ELSEWHERE,)) == keys(root("both"), root("new"), root("old"))


def test_without_a_known_root_no_certificate_goes() -> None:
    assert going(*EVERYTHING, roots=frozenset()) == keys(PER_REVISION, PER_NAMESPACE, ELECTION, CLASS)


def test_a_class_of_which_nothing_is_known_but_its_controller_goes() -> None:
    bare = gateway_class("istio-remote", "istio.io/unmanaged-gateway")
    del bare["metadata"]["managedFields"]
    assert going(bare) == keys(bare)


def test_every_row_finds_what_it_names() -> None:
    names = Names("mesh", "canary")
    live = []
    for row in LEFTOVERS:
        name, namespace = row.name.format(revision="canary"), "mesh"
        if row.kind == "GatewayClass":
            live.append(gateway_class(name, "istio.io/any"))
        elif row.kind == "Lease":
            live.append(lease(name, namespace))
        elif row.where is Where.EVERY_NAMESPACE:
            live.append(config_map(namespace, name, {"root-cert.pem": pem(OURS)}))
        else:
            live.append(config_map(namespace, name, elected=True))
    assert leftovers(live, names=names, roots=ROOTS, others=()) == live
