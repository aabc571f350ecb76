"""Names as Istio and its tools expect them."""

from __future__ import annotations

import pytest

from meshwright.mesh.names import Names

DEFAULT = Names("istio-system", "default")
CANARY = Names("istio-system", "canary")
ELSEWHERE = Names("mesh", "default")
BOTH = Names("mesh", "canary")

TABLE = [
    # property, default, named revision, other namespace, both
    ("istiod", "istiod", "istiod-canary", "istiod", "istiod-canary"),
    ("mesh_config", "istio", "istio-canary", "istio", "istio-canary"),
    ("injector", "istio-sidecar-injector", "istio-sidecar-injector-canary", "istio-sidecar-injector",
     "istio-sidecar-injector-canary"),
    ("mutating_webhook", "istio-sidecar-injector", "istio-sidecar-injector-canary", "istio-sidecar-injector-mesh",
     "istio-sidecar-injector-canary-mesh"),
    ("validating_webhook", "istio-validator-istio-system", "istio-validator-canary-istio-system",
     "istio-validator-mesh", "istio-validator-canary-mesh"),
    ("discovery_host", "istiod.istio-system.svc", "istiod-canary.istio-system.svc", "istiod.mesh.svc",
     "istiod-canary.mesh.svc"),
    ("discovery_address", "istiod.istio-system.svc:15012", "istiod-canary.istio-system.svc:15012",
     "istiod.mesh.svc:15012", "istiod-canary.mesh.svc:15012"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "default", "canary", "elsewhere", "both"), TABLE, ids=[row[0] for row in TABLE])
def test_names(what: str, default: str, canary: str, elsewhere: str, both: str) -> None:
    found = [getattr(names, what) for names in (DEFAULT, CANARY, ELSEWHERE, BOTH)]
    assert found == [default, canary, elsewhere, both]


def test_cluster_roles_carry_the_namespace_because_they_are_shared_by_all() -> None:
    assert DEFAULT.cluster_role("istiod-clusterrole") == "istiod-clusterrole-istio-system"
    assert BOTH.cluster_role("istiod-clusterrole") == "istiod-clusterrole-canary-mesh"


def test_selectors_of_two_revisions_never_select_the_same_pod() -> None:
    assert DEFAULT.selector == {"app": "istiod", "istio": "pilot"}
    assert CANARY.selector == {"app": "istiod", "istio.io/rev": "canary"}


def test_the_longest_revision_still_makes_a_service_name() -> None:
    assert len(Names("n" * 63, "r" * 56).istiod) == 63
    assert len(Names("n" * 63, "r" * 56).mutating_webhook) <= 253
