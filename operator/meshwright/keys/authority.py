"""Certificate authorities: a mesh's root, and the intermediate that a cluster's istiod signs with.

Profiles as istiod and its peers expect them: ECDSA (P-384 root, P-256 intermediate), CA:true, path length 1
and 0, keyCertSign and cRLSign, a subject of its own for each cluster.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from meshwright.api.errors import TrustError

ROOT_LIFE = dt.timedelta(days=3650)
INTERMEDIATE_LIFE = dt.timedelta(days=365)
# Certificates are valid from a little before they are made: clocks in a cluster differ.
CLOCK_SKEW = dt.timedelta(minutes=10)
COMMON_NAME_LIMIT = 64  # X.520's upper bound

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Authority:
    """A CA certificate with its key. Neither is part of its repr."""

    certificate: x509.Certificate = field(repr=False)
    key: PrivateKey = field(repr=False)

    @classmethod
    def root(cls, *, mesh_id: str, trust_domain: str, now: dt.datetime) -> Self:
        key = ec.generate_private_key(ec.SECP384R1())
        subject = _subject(f"Root CA of mesh {mesh_id}", organization=trust_domain)
        certificate = _certificate(
            subject=subject, issuer=subject, public=key, signer=key, path_length=1,
            now=now, until=now + ROOT_LIFE, issued_by=None,
        )  # fmt: skip
        return cls(certificate, key)

    def intermediate(self, *, cluster: str, trust_domain: str, now: dt.datetime) -> Authority:
        """A CA below this one for one cluster's istiod; it never outlives its issuer."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(
            subject=_subject(f"Intermediate CA of cluster {cluster}", organization=trust_domain, locality=cluster),
            issuer=self.certificate.subject, public=key, signer=self.key, path_length=0,
            now=now, until=min(now + INTERMEDIATE_LIFE, self.certificate.not_valid_after_utc),
            issued_by=self.certificate,
        )  # fmt: skip
        return Authority(certificate, key)

    @classmethod
    def load(cls, *, certificate: bytes, key: bytes, where: str) -> Self:
        """From PEM. Raises TrustError, with `where` (a Secret and its keys) in the message and never a key byte."""
        try:
            cert = x509.load_pem_x509_certificate(certificate)
        except ValueError:
            raise TrustError(f"{where}: the certificate is not PEM") from None
        try:
            private = serialization.load_pem_private_key(key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise TrustError(f"{where}: the key is not an unencrypted PEM key") from None
        if not isinstance(private, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
            raise TrustError(f"{where}: the key is neither ECDSA nor RSA, the kinds that istiod supports")
        if private.public_key() != cert.public_key():
            raise TrustError(f"{where}: key and certificate do not belong together")
        if not _is_ca(cert):
            raise TrustError(f"{where}: the certificate is not that of a CA")
        return cls(cert, private)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)

    @property
    def expires(self) -> dt.datetime:
        return self.certificate.not_valid_after_utc

    def past_half_life(self, now: dt.datetime) -> bool:
        life = self.certificate.not_valid_after_utc - self.certificate.not_valid_before_utc
        return now >= self.certificate.not_valid_before_utc + life / 2

    def signed(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, in hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _key_identifier(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    """The one that it carries: others compute it in other ways, and who checks a chain compares the two."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())


def _subject(common_name: str, *, organization: str, locality: str | None = None) -> x509.Name:
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization[:COMMON_NAME_LIMIT]),
        x509.NameAttribute(NameOID.COMMON_NAME, common_name[:COMMON_NAME_LIMIT]),
    ]
    if locality:
        attributes.append(x509.NameAttribute(NameOID.LOCALITY_NAME, locality))
    return x509.Name(attributes)


def _certificate(
    *, subject: x509.Name, issuer: x509.Name, public: PrivateKey, signer: PrivateKey, path_length: int,
    now: dt.datetime, until: dt.datetime, issued_by: x509.Certificate | None,
) -> x509.Certificate:  # fmt: skip
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    identifier = x509.SubjectKeyIdentifier.from_public_key(public.public_key())
    issuer_identifier = _key_identifier(issued_by) if issued_by else identifier
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(authority, critical=False)
    )
    return builder.sign(signer, hashes.SHA384() if path_length else hashes.SHA256())
