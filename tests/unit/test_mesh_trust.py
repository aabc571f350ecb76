"""Roots by their fingerprints, and sidecars that trust another one than the mesh's."""

from __future__ import annotations

import pytest

from meshes import NOW
from meshwright.keys.authority import Authority
from meshwright.mesh.trust import fingerprints, other_root

ROOTS = [Authority.root(mesh_id=name, trust_domain="example.org", now=NOW) for name in ("a", "b", "c")]
A, B, C = (each.certificate_pem.decode() for each in ROOTS)
ID_A, ID_B, ID_C = (each.fingerprint for each in ROOTS)


@pytest.mark.parametrize(
    ("pem", "found"),
    [
        ("", set()),
        ("text", set()),
        (A, {ID_A}),
        (A + B + C, {ID_A, ID_B, ID_C}),
        (A + A, {ID_A}),
        (A.replace("\n", "\r\n"), {ID_A}),
        (f"# the first\n{A}\n\n# the second\n{B.strip()}", {ID_A, ID_B}),
        ("-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n" + B, {ID_B}),  # no base64
        ("-----BEGIN CERTIFICATE-----\nAAAA\n" + B, {ID_B}),  # cut off
        (A.replace("CERTIFICATE", "CERTIFICATE REQUEST"), set()),
    ],
)
def test_fingerprints(pem: str, found: set[str]) -> None:
    assert fingerprints(pem) == found


@pytest.mark.parametrize(
    ("proxies", "bundles", "ours"),
    [
        ({}, {}, None),
        ({}, {"app": B}, ID_A),  # no sidecar
        ({"app": 0}, {"app": B}, ID_A),
        ({"app": 3}, {}, ID_A),  # nothing known
        ({"app": 3}, {}, None),
        ({"app": 3}, {"app": ""}, None),
        ({"app": 3}, {"app": "no certificate"}, ID_A),
        ({"app": 3}, {"app": A}, ID_A),
        ({"app": 3}, {"app": B + A}, ID_A),  # a rotation
        ({"app": 3, "shop": 1}, {"app": A, "shop": A + C, "idle": B}, ID_A),
    ],
)
def test_sidecars_that_would_trust_istiod(proxies: dict[str, int], bundles: dict[str, str], ours: str | None) -> None:
    assert other_root(proxies, bundles, ours) is None


@pytest.mark.parametrize(
    ("proxies", "bundles", "ours", "says"),
    [
        (
            {"app": 3}, {"app": B}, ID_A,
            f"trust only another root, {ID_B[:12]}, and this mesh has {ID_A[:12]}: 3 in app; restore the Secrets",
        ),
        ({"app": 3}, {"app": B}, None, f"another root, {ID_B[:12]}, and this mesh has none yet: 3 in app;"),
        ({"shop": 1, "app": 3, "mine": 2}, {"app": B, "shop": B, "mine": A + B}, ID_A, ": 3 in app, 1 in shop;"),
        ({"app": 1, "shop": 1}, {"app": B, "shop": C}, ID_A,
         f"another root, {min(ID_B, ID_C)[:12]} and {max(ID_B, ID_C)[:12]}, and"),
        ({"app": 1, "new": 1}, {"app": B}, ID_A, ": 1 in app;"),
    ],
)  # fmt: skip
def test_sidecars_of_another_root_are_counted_and_named(
    proxies: dict[str, int], bundles: dict[str, str], ours: str | None, says: str
) -> None:
    assert says in (other_root(proxies, bundles, ours) or "")
