"""remove: what a mesh made goes in order, and what is not its own stays."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from meshes import istiod
from meshwright.api.errors import Conflict, Superseded
from meshwright.api.meshinstall import ANNOTATION_RECONCILE
from meshwright.cluster.kinds import OWNED, Kind
from meshwright.cluster.remove import REST, RUNNING, WEBHOOKS, remove
from meshwright.mesh.names import Names
from meshwright.mesh.objects import Key, Manifest, Owner, Step
from meshwright.mesh.observed import Istiod
from object_store import ObjectStore

Json = dict[str, Any]

OWNER, OTHER = Owner("demo", "cluster.local"), Owner("demo", "another")
NAMES = Names("istio-system", "default")
ROOT = hashlib.sha256(b"our root").hexdigest()


def of(kind: Kind, name: str, *, owner: Owner | None = OWNER, **metadata: Any) -> Manifest:
    place = {"namespace": "istio-system"} if kind.namespaced else {}
    own = dict(each.split("=") for each in kind.labels.split(",") if each)
    labels = {**owner.labels, **own} if owner else {}
    head = {"name": name, **place, "labels": labels, **metadata}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": head}


def config_map(name: str, namespace: str, data: Json, **labels: str) -> Manifest:
    metadata = {"namespace": namespace, "name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def root_bundle(namespace: str, certificate: bytes = b"our root") -> Manifest:
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(certificate).decode()}\n-----END CERTIFICATE-----\n"
    return config_map("istio-ca-root-cert", namespace, {"root-cert.pem": pem}, **{"istio.io/config": "true"})


def pod(name: str, names: Names = NAMES) -> Manifest:
    metadata = {"namespace": names.namespace, "name": name, "labels": dict(names.selector)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


LEASE: Manifest = {
    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
    "metadata": {"namespace": "istio-system", "name": "istio-gateway-deployment-default"},
}  # fmt: skip


def everything() -> ObjectStore:
    """One object of each kind, made in an order that is not the one of removal."""
    store = ObjectStore()
    for index, kind in enumerate(reversed(OWNED)):
        store.put(of(kind, f"o{index}"), manager="meshwright")
    return store


def at_any_time() -> None:
    """Nothing overtakes the work."""


def take_away(
    store: ObjectStore,
    *,
    istiods: Iterable[Istiod] = (),
    root: str | None = ROOT,
    proceed: Callable[[], None] = at_any_time,
) -> Step | None:
    return asyncio.run(remove(store, OWNER, NAMES, istiods=istiods, root=root, proceed=proceed))


def deleted(store: ObjectStore) -> list[str]:
    assert {each.verb for each in store.requests} <= {"delete"}
    return [each.key.kind for each in store.requests]


def test_everything_goes_in_the_order_of_the_table() -> None:
    store = everything()
    assert take_away(store) is None
    assert deleted(store) == [kind.kind for kind in OWNED]
    assert store.objects == {}
    assert take_away(store) is None
    assert len(store.requests) == len(OWNED)


def test_webhooks_go_first_then_istiod_and_trust_kinds_and_the_namespace_stay() -> None:
    assert (*WEBHOOKS, *RUNNING, *REST) == OWNED
    kinds = [kind.kind for kind in OWNED]
    assert kinds[:4] == [
        "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "HorizontalPodAutoscaler", "Deployment",
    ]  # fmt: skip
    assert kinds.index("Deployment") < kinds.index("ConfigMap") < kinds.index("ClusterRole")
    assert kinds.index("ClusterRoleBinding") < kinds.index("ClusterRole")
    assert not {"Secret", "Namespace", "CustomResourceDefinition", "MeshInstall"} & set(kinds)


@pytest.mark.parametrize("deletes", range(len(OWNED) + 2))
def test_before_each_delete_it_is_asked_whether_to_go_on(deletes: int) -> None:
    left = deletes

    def proceed() -> None:
        nonlocal left
        if not left:
            raise Superseded("changed meanwhile")
        left -= 1

    undisturbed, store = everything(), everything()
    for each in (undisturbed, store):
        each.put(LEASE)
        each.put(root_bundle("apps"))
    take_away(undisturbed)
    with pytest.raises(Superseded):
        take_away(store, proceed=proceed)
    assert deleted(store) == deleted(undisturbed)[:deletes]
    assert take_away(store) is None
    assert deleted(store) == deleted(undisturbed)


def test_others_objects_and_those_that_an_annotation_excepts_stay() -> None:
    service = next(kind for kind in OWNED if kind.kind == "Service")
    excepted = of(service, "excepted", annotations={ANNOTATION_RECONCILE: "disabled"})
    store = ObjectStore(
        of(service, "a"), of(service, "other-mesh", owner=Owner("other", "cluster.local")),
        of(service, "other-id", owner=OTHER), of(service, "nobodys", owner=None), excepted,
    )  # fmt: skip
    assert take_away(store) is None
    assert store.names() == ["other-mesh", "other-id", "nobodys", "excepted"]


def test_each_goes_only_as_it_was_looked_at() -> None:
    store = everything()
    seen = {each["metadata"]["name"]: each["metadata"] for each in store.objects.values()}
    take_away(store)
    for request in store.requests:
        for name in ("uid", "resourceVersion"):
            assert request.body["metadata"][name] == seen[request.key.name][name]


def test_one_that_changes_in_between_is_looked_at_again() -> None:
    class Busy(ObjectStore):
        async def list(self, *args: Any, **more: Any) -> Any:
            heads = await super().list(*args, **more)
            for head in heads:
                self.edit(Key("v1", "Service", "istio-system", head["metadata"]["name"]), {"spec": {"x": 1}})
            return heads

    store = Busy(of(next(kind for kind in OWNED if kind.kind == "Service"), "a"))
    with pytest.raises(Conflict):
        take_away(store)
    assert store.names() == ["a"]


def test_while_istiod_runs_what_it_needs_and_what_it_would_make_again_stays() -> None:
    store = everything()
    for each in (pod("istiod-1"), LEASE, root_bundle("apps")):
        store.put(each)
    step = take_away(store)
    assert str(step) == ("step 2 of 4 (control plane): waiting for 1 pod of istiod (istio-system/istiod-1) to end")
    assert deleted(store) == [kind.kind for kind in (*WEBHOOKS, *RUNNING)]
    store.remove(Key.of(pod("istiod-1")))
    assert take_away(store) is None
    assert store.objects == {}


def test_many_pods_are_named_by_the_first_of_them() -> None:
    step = take_away(ObjectStore(*(pod(f"p{index}") for index in range(4))))
    names = "istio-system/p0, istio-system/p1, istio-system/p2, …"
    assert step == Step(2, 4, "control plane", f"4 pods of istiod ({names}) to end")


def test_pods_of_another_revision_are_not_waited_for() -> None:
    assert take_away(ObjectStore(pod("a", Names("istio-system", "canary")), pod("b", Names("mesh", "default")))) is None


def test_what_istiod_left_goes_last() -> None:
    store = everything()
    for each in (LEASE, root_bundle("apps"), root_bundle("istio-system")):
        store.put(each)
    assert take_away(store) is None
    assert deleted(store)[len(OWNED) :] == ["ConfigMap", "ConfigMap", "Lease"]
    assert store.objects == {}


def test_what_another_root_or_nobody_published_stays() -> None:
    theirs = root_bundle("apps", b"their root"), config_map("istio-ca-root-cert", "own", {"root-cert.pem": "none"})
    store = ObjectStore(*theirs, config_map("settings", "istio-system", {}))
    assert take_away(store) is None
    assert deleted(store) == []


def test_without_a_known_root_no_certificate_goes() -> None:
    store = ObjectStore(root_bundle("apps"), LEASE)
    assert take_away(store, root=None) is None
    assert deleted(store) == ["Lease"]


def test_a_gateway_class_goes_with_the_last_istiod_and_our_own_is_none_that_is_left() -> None:
    entry = {"manager": "pilot-discovery", "operation": "Update", "fieldsV1": {"f:spec": {"f:controllerName": {}}}}
    gateway_class = {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "istio", "managedFields": [entry]},
        "spec": {"controllerName": "istio.io/gateway-controller"},
    }  # fmt: skip
    store = ObjectStore()
    store.put(gateway_class, manager="pilot-discovery")
    assert take_away(store, istiods=[istiod(), istiod(namespace="other", owner=None)]) is None
    assert deleted(store) == []
    assert take_away(store, istiods=[istiod()]) is None
    assert deleted(store) == ["GatewayClass"]
