"""Managed fields, as a real API server writes them."""

from __future__ import annotations

import copy
from typing import Any

from meshwright.mesh.ownership import fields_of, owners, owns, restricted

Json = dict[str, Any]

REPLICAS = ("spec", "replicas")
APPLIED: Json = {"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:selector": {}, "f:template": {"f:spec": {}}}}
BORN: Json = {
    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
    "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {"f:spec": {"f:restartPolicy": {}}}},
}


def entry(manager: str, operation: str, fields: Json, **more: str) -> Json:
    return {
        "manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
        "fieldsV1": fields, **more,
    }  # fmt: skip


def deployment(*entries: Json) -> Json:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "managedFields": [*entries]}}


APPLY = entry("meshwright", "Apply", APPLIED)
BIRTH = entry("meshwright-birth", "Update", BORN)
SCALE = entry("kube-controller-manager", "Update", {"f:spec": {"f:replicas": {}}}, subresource="scale", apiVersion="v1")
STATUS = entry("meshwright-birth", "Update", {"f:status": {"f:replicas": {}}}, subresource="status")


def test_the_fields_of_an_apply() -> None:
    live = deployment(BIRTH, STATUS, APPLY)
    assert fields_of(live, "meshwright") == APPLIED
    assert fields_of(live, "meshwright-birth") == {}
    assert fields_of({"metadata": {}}, "meshwright") == {}


def test_the_fields_of_an_apply_are_not_those_of_a_subresource() -> None:
    status = entry("meshwright", "Apply", {"f:status": {}}, subresource="status")
    assert fields_of(deployment(status, APPLY), "meshwright") == APPLIED


def test_a_field_has_owners() -> None:
    live = deployment(APPLY, BIRTH, SCALE)
    assert owners(live, REPLICAS) == {"meshwright-birth", "kube-controller-manager"}
    assert owners(live, ("spec", "selector")) == {"meshwright", "meshwright-birth"}
    assert owners({"metadata": {}}, REPLICAS) == frozenset()


def test_ownership_by_operation() -> None:
    live = deployment(APPLY, BIRTH, SCALE)
    assert owns(live, "kube-controller-manager", REPLICAS)
    assert owns(live, "meshwright-birth", REPLICAS, operation="Update")
    assert not owns(live, "meshwright-birth", REPLICAS, operation="Apply")
    assert not owns(live, "meshwright", REPLICAS)
    assert not owns({"metadata": {}}, "meshwright", REPLICAS)


def test_the_way_to_a_field_is_not_owned_with_it() -> None:
    live = deployment(BIRTH)
    assert owns(live, "meshwright-birth", ("metadata", "labels"))
    assert not owns(live, "meshwright-birth", ("spec",))
    assert not owns(live, "meshwright-birth", ("spec", "replicas", "more"))


def test_of_a_birth_only_the_field_that_was_set_once_is_kept() -> None:
    kept = entry("meshwright-birth", "Update", {"f:spec": {"f:replicas": {}}})
    before = [BIRTH, STATUS, APPLY, SCALE]
    untouched = copy.deepcopy(before)
    assert restricted(before, manager="meshwright-birth", leaves=frozenset({"replicas"})) == [
        kept, STATUS, APPLY, SCALE
    ]  # fmt: skip
    assert before == untouched


def test_of_webhooks_each_keeps_its_own() -> None:
    def webhook(*fields: str) -> Json:
        return {f"f:{name}": {} for name in fields}

    first, second = 'k:{"name":"a.istio.io"}', 'k:{"name":"b.istio.io"}'
    born = {
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:webhooks": {
            ".": {},
            first: {".": {}, **webhook("name", "failurePolicy", "rules")},
            second: {".": {}, **webhook("name", "rules")},
        },
    }
    assert restricted([entry("b", "Update", born)], manager="b", leaves=frozenset({"failurePolicy"})) == [
        entry("b", "Update", {"f:webhooks": {first: {"f:failurePolicy": {}}}})
    ]


def test_an_entry_that_owns_nothing_any_more_is_gone() -> None:
    assert restricted([BIRTH, APPLY], manager="meshwright-birth", leaves=frozenset({"caBundle"})) == [APPLY]


def test_nothing_to_change() -> None:
    kept = entry("meshwright-birth", "Update", {"f:spec": {"f:replicas": {}}})
    leaves = frozenset({"replicas"})
    assert restricted([kept, APPLY], manager="meshwright-birth", leaves=leaves) is None
    assert restricted([APPLY, STATUS], manager="meshwright-birth", leaves=leaves) is None
    assert restricted([], manager="meshwright-birth", leaves=leaves) is None
