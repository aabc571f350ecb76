"""Callers of ensure_trust in any number and order: one root, one intermediate that rests on it. Whose root is whose."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import textwrap

from hypothesis import given, settings
from hypothesis import strategies as st

from meshes import NOW, intent
from meshwright.api.errors import Conflict
from meshwright.api.meshinstall import DNS_LABEL, DNS_NAME
from meshwright.keys.authority import INTERMEDIATE_LIFE, ROOT_LIFE, Authority
from meshwright.keys.trust import Stores, ensure_trust
from meshwright.mesh.trust import Trust, fingerprints, other_root
from secret_store import MemorySecrets, Turn, key_bodies, run, run_in_order

OPERATOR = "meshwright-system"


@given(st.integers(2, 3), st.lists(st.integers(0, 2), max_size=30))
@settings(max_examples=60)
def test_any_number_of_callers_in_any_order_make_one_root(callers: int, choices: list[int]) -> None:
    store = MemorySecrets(pause=Turn)

    async def one() -> Trust | None:
        try:
            return await ensure_trust(intent(), Stores(store, store, OPERATOR), now=NOW)
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
        trust = run(ensure_trust(intent(), Stores(store, store, OPERATOR), now=now))
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


# What a bundle is made of, as far as a fingerprint is concerned: any bytes.
ROOT = st.binary(min_size=1, max_size=100)
NAMESPACE = st.sampled_from(["app", "shop", "infra", "idle"])
NOISE = st.sampled_from(["", "\n", "# a remark\n", "-----BEGIN CERTIFICATE-----\nAAAA\n"])


def pem(der: bytes) -> str:
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


def digest(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


@given(st.lists(st.tuples(NOISE, ROOT), max_size=5))
def test_every_certificate_of_a_bundle_has_its_fingerprint(parts: list[tuple[str, bytes]]) -> None:
    assert fingerprints("".join(noise + pem(der) for noise, der in parts)) == {digest(der) for _, der in parts}


@given(
    st.dictionaries(NAMESPACE, st.integers(0, 3)),
    st.dictionaries(NAMESPACE, st.lists(ROOT, max_size=3)),
    st.none() | ROOT,
)
def test_sidecars_are_said_when_their_bundle_leaves_our_root_out(
    proxies: dict[str, int], bundles: dict[str, list[bytes]], ours: bytes | None
) -> None:
    said = other_root(
        proxies,
        {namespace: "".join(map(pem, roots)) for namespace, roots in bundles.items()},
        digest(ours) if ours else None,
    )
    apart = [each for each, count in proxies.items() if count and bundles.get(each) and ours not in bundles[each]]
    assert (said is not None) == bool(apart)
    for namespace, count in proxies.items():
        assert (f" {count} in {namespace}" in (said or "")) == (namespace in apart)
    # When the mesh has the root of all of them, there is nothing to say.
    known = {namespace: "".join(map(pem, [*roots, b"ours"])) for namespace, roots in bundles.items()}
    assert other_root(proxies, known, digest(b"ours")) is None


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(2, 3))
@settings(max_examples=40)
def test_any_number_of_renewals_in_any_order_is_one(choices: list[int], callers: int) -> None:
    store = MemorySecrets(pause=Turn)
    ensured, _ = run_in_order([ensure_trust(intent(), Stores(store, store, OPERATOR), now=NOW)], [])
    store.writes.clear()
    half = NOW + INTERMEDIATE_LIFE / 2

    async def one() -> Trust | None:
        try:
            return await ensure_trust(intent(), Stores(store, store, OPERATOR), now=half)
        except Conflict:
            return None

    answers, _ = run_in_order([one() for _ in range(callers)], choices)
    assert store.writes == [("update", ("istio-system", "cacerts"))]
    assert len({answer for answer in answers if answer}) == 1
    assert {answer.root_fingerprint for answer in answers if answer} == {ensured[0].root_fingerprint}
