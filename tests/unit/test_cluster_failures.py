"""HTTP answers become errors: which class, and what a person reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshwright.api.errors import (
    Conflict,
    FinalError,
    Forbidden,
    MeshwrightError,
    NamespaceTerminating,
    NotFound,
    Rejected,
    Throttled,
    Unreachable,
)
from meshwright.cluster.failures import classify

Json = dict[str, Any]

WHAT = "apply Deployment istio-system/istiod"
RBAC = (
    'deployments.apps "istiod" is forbidden: User "system:serviceaccount:meshwright-system:meshwright" cannot patch'
    ' resource "deployments" in API group "apps" in the namespace "istio-system"'
)
ESCALATION = (
    'clusterroles.rbac.authorization.k8s.io "istiod" is forbidden: user "system:serviceaccount:a:b" (groups=["c"]) is'
    ' attempting to grant RBAC permissions not currently held: {APIGroups:["x"], Resources:["y"], Verbs:["get"]}'
)
TERMINATING: Json = {
    "message": 'configmaps "istio" is forbidden: unable to create new content in namespace istio-system because it is'
    " being terminated",
    "details": {"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]},
}

TABLE: list[tuple[str, int, Json | bytes, type[MeshwrightError], str]] = [
    # case, status, answer, class, a part of the message
    ("a field the server does not take", 400, {"message": "unknown field"}, Rejected, f"{WHAT}: unknown field"),
    ("no credentials", 401, {"message": "Unauthorized"}, Unreachable, "does not accept the operator's credentials"),
    ("RBAC", 403, {"message": RBAC}, Forbidden, 'cannot patch resource "deployments" in API group "apps"'),
    ("RBAC, next step", 403, {"message": RBAC}, Forbidden, "grant this verb to its service account"),
    ("a grant that we do not hold", 403, {"message": ESCALATION}, Forbidden, 'Resources:["y"], Verbs:["get"]'),
    ("an admission policy", 403, {"message": "denied by policy"}, Rejected, "denied by policy"),
    ("a quota", 403, {"message": 'pods "a" is forbidden: exceeded quota'}, Rejected, "exceeded quota"),
    ("a namespace that goes", 403, TERMINATING, NamespaceTerminating, "because it is being terminated"),
    ("nothing there", 404, {"message": 'deployments.apps "istiod" not found'}, NotFound, '"istiod" not found'),
    ("a method that is none", 405, {"message": "no"}, FinalError, f"{WHAT}: HTTP 405: no"),
    ("somebody was first", 409, {"message": "the object has been modified"}, Conflict, "has been modified"),
    ("it exists already", 409, {"message": "already exists"}, Conflict, "already exists"),
    ("a list that took too long", 410, {"message": "The provided continue parameter is too old"}, Conflict, "too old"),
    ("too large", 413, b"", FinalError, f"{WHAT}: HTTP 413"),
    ("a media type", 415, {"message": "unsupported"}, Rejected, "unsupported"),
    ("a value the server does not take", 422, {"message": "spec.replicas: Invalid value"}, Rejected, "Invalid value"),
    ("too many requests", 429, {"message": "slow down"}, Throttled, "slow down"),
    ("a webhook that does not answer", 500, {"message": "failed calling webhook"}, Unreachable, "calling webhook"),
    ("a proxy in front", 502, b"<html>Bad Gateway</html>", Unreachable, "<html>Bad Gateway</html>"),
    ("starting", 503, b"", Unreachable, f"{WHAT}: HTTP 503"),
    ("a timeout", 504, {"message": "Timeout"}, Unreachable, "Timeout"),
    ("not even text", 500, b"\xff\xfe", Unreachable, WHAT),
    ("JSON, but no object", 422, b'["a"]', Rejected, '["a"]'),
    ("a message that is none", 422, {"message": None, "details": None}, Rejected, WHAT),
    ("causes that are none", 403, {"message": "no", "details": {"causes": None}}, Rejected, "no"),
]  # fmt: skip


def body(answer: Json | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else json.dumps({"kind": "Status", **answer}).encode()


@pytest.mark.parametrize(
    ("status", "answer", "kind", "says"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_an_answer_becomes_an_error(status: int, answer: Json | bytes, kind: type[MeshwrightError], says: str) -> None:
    error = classify(status, body(answer), {}, what=WHAT)
    assert type(error) is kind
    assert says in str(error)


def test_every_status_becomes_some_error() -> None:
    for status in range(400, 600):
        assert isinstance(classify(status, b"", {}, what=WHAT), MeshwrightError), status


@pytest.mark.parametrize(
    ("header", "seconds"), [("3", 3.0), ("0", 0.0), ("", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)]
)
def test_the_server_says_how_long_to_wait(header: str, seconds: float | None) -> None:
    error = classify(429, b"", {"Retry-After": header} if header else {}, what=WHAT)
    assert isinstance(error, Throttled)
    assert error.retry_after == seconds


def test_a_page_of_html_is_not_quoted_in_full() -> None:
    assert len(str(classify(502, b"x" * 100_000, {}, what=WHAT))) < 500
