"""What the rest of Meshwright may know about a CA: fingerprints and expiries."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
SHORT = 12  # digits of a fingerprint that tell two roots apart in a sentence


@dataclass(frozen=True)
class Remote:
    """One cluster's access to another one; never the token itself."""

    issued: datetime
    expires: datetime
    revoking: bool = False  # the former token is still good, until every istiod has taken the new one

    @property
    def life(self) -> timedelta:
        return self.expires - self.issued


@dataclass(frozen=True)
class Trust:
    root_fingerprint: str  # SHA-256 of the certificate, hexadecimal
    root_expires: datetime
    intermediate_fingerprint: str
    intermediate_expires: datetime


def fingerprints(pem: str) -> frozenset[str]:
    """Of each certificate in a PEM bundle, in the form of Trust's; what is no PEM is passed over."""
    return frozenset(hashlib.sha256(der).hexdigest() for der in _certificates(pem))


def _certificates(pem: str) -> Iterator[bytes]:
    for body in CERTIFICATE.findall(pem):
        try:
            yield base64.b64decode("".join(body.split()), validate=True)
        except binascii.Error:
            continue


def other_root(proxies: Mapping[str, int], bundles: Mapping[str, str], ours: str | None) -> str | None:
    """What to say when sidecars run that would not trust istiod; None when all would, as far as can be known.

    By namespace: the number of pods with a sidecar, and the bundle that istiod published for them (`root-cert.pem` of
    ConfigMap `istio-ca-root-cert`). One without a certificate in it says no more than one that is missing. `ours`: the
    fingerprint of the mesh's root, None when it is still to be made.
    """
    trusted = {namespace: fingerprints(bundles.get(namespace, "")) for namespace in sorted(proxies)}
    apart = {
        namespace: roots for namespace, roots in trusted.items() if proxies[namespace] and roots and ours not in roots
    }
    if not apart:
        return None
    where = ", ".join(f"{proxies[namespace]} in {namespace}" for namespace in apart)
    roots = " and ".join(root[:SHORT] for root in sorted(frozenset().union(*apart.values())))
    return (
        f"pods run with sidecars that trust only another root, {roots}, and this mesh"
        f" {f'has {ours[:SHORT]}' if ours else 'has none yet'}: {where};"
        " restore the Secrets of their root, or take these sidecars out first"
    )
