"""Callers of ensure_trust in any number and order: one root, and an intermediate that rests on it."""

from __future__ import annotations

import datetime as dt

from hypothesis import given, settings
from hypothesis import strategies as st

from meshes import NOW, intent
from meshwright.api.errors import Conflict
from meshwright.api.meshinstall import DNS_LABEL, DNS_NAME
from meshwright.keys.authority import INTERMEDIATE_LIFE, ROOT_LIFE, Authority
from meshwright.keys.trust import ensure_trust
from meshwright.mesh.trust import Trust
from secret_store import MemorySecrets, Turn, key_bodies, run, run_in_order

OPERATOR = "meshwright-system"


@given(st.integers(2, 3), st.lists(st.integers(0, 2), max_size=30))
@settings(max_examples=60)
def test_any_number_of_callers_in_any_order_make_one_root(callers: int, choices: list[int]) -> None:
    store = MemorySecrets(pause=Turn)

    async def one() -> Trust | None:
        try:
            return await ensure_trust(intent(), store, operator_namespace=OPERATOR, now=NOW, write=True)
        except Conflict:
            return None  # it never won: its next reconcile reads what the others made

    answers, _ = run_in_order([one() for _ in range(callers)], choices)
    assert len({answer for answer in answers if answer}) == 1
    assert [verb for verb, _ in store.writes] == ["create", "create"]


@given(st.lists(st.integers(0, 120), min_size=1, max_size=40))
@settings(max_examples=50)
def test_looked_at_often_enough_it_never_lapses_before_its_root(gaps: list[int]) -> None:
    store, now, roots = MemorySecrets(), NOW, set()
    for days in gaps:
        now = min(now + dt.timedelta(days=days), NOW + ROOT_LIFE - dt.timedelta(days=1))
        trust = run(ensure_trust(intent(), store, operator_namespace=OPERATOR, now=now, write=True))
        assert trust is not None
        roots.add(trust.root_fingerprint)
        assert now < trust.intermediate_expires <= trust.root_expires
        assert trust.intermediate_expires - now >= min(INTERMEDIATE_LIFE / 2, trust.root_expires - now) - dt.timedelta(
            days=1
        )
    assert len(roots) == 1
    assert not [body for body in key_bodies(store) if body in repr(store.secrets)]


@given(st.from_regex(DNS_LABEL, fullmatch=True), st.from_regex(DNS_NAME, fullmatch=True))
@settings(max_examples=50)
def test_whatever_the_names_the_chain_holds(cluster: str, domain: str) -> None:
    root = Authority.root(mesh_id=domain, trust_domain=domain, now=NOW)
    assert root.signed(root.intermediate(cluster=cluster[:63], trust_domain=domain, now=NOW).certificate)
