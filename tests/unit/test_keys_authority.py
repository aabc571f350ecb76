"""Certificate authorities: the profiles that istiod and its peers expect, and what is refused."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from meshes import NOW
from meshwright.api.errors import TrustError
from meshwright.keys.authority import CLOCK_SKEW, INTERMEDIATE_LIFE, ROOT_LIFE, Authority

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority.root(mesh_id="mesh", trust_domain="example.org", now=NOW)


@pytest.fixture(scope="module")
def east(root: Authority) -> Authority:
    return root.intermediate(cluster="east", trust_domain="example.org", now=NOW)


def constraints(authority: Authority) -> x509.BasicConstraints:
    extension = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert extension.critical
    return extension.value


@pytest.mark.parametrize(
    ("which", "path_length", "curve", "life"),
    [("root", 1, "secp384r1", ROOT_LIFE), ("east", 0, "secp256r1", INTERMEDIATE_LIFE)],
)
def test_profile(request: pytest.FixtureRequest, which: str, path_length: int, curve: str, life: dt.timedelta) -> None:
    authority: Authority = request.getfixturevalue(which)
    certificate = authority.certificate
    assert constraints(authority) == x509.BasicConstraints(ca=True, path_length=path_length)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign) == (True, True)
    assert not any([
        usage.value.digital_signature, usage.value.content_commitment, usage.value.key_encipherment,
        usage.value.data_encipherment, usage.value.key_agreement,
    ])  # fmt: skip
    assert isinstance(authority.key, ec.EllipticCurvePrivateKey)
    assert authority.key.curve.name == curve
    assert certificate.not_valid_before_utc == NOW - CLOCK_SKEW
    assert certificate.not_valid_after_utc == NOW + life == authority.expires
    assert certificate.version is x509.Version.v3


def test_a_root_signs_itself_and_its_intermediates(root: Authority, east: Authority) -> None:
    assert root.signed(root.certificate)
    assert root.signed(east.certificate)
    assert not east.signed(root.certificate)
    other = Authority.root(mesh_id="mesh", trust_domain="example.org", now=NOW)
    assert not other.signed(east.certificate)  # the same subject, another key


def test_key_identifiers_lead_from_leaf_to_root(root: Authority, east: Authority) -> None:
    def identifiers(authority: Authority) -> tuple[bytes, bytes | None]:
        extensions = authority.certificate.extensions
        own = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        return own, extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier

    assert identifiers(east)[1] == identifiers(root)[0] == identifiers(root)[1]


def test_subjects_tell_mesh_and_cluster(root: Authority, east: Authority) -> None:
    def part(authority: Authority, name: x509.ObjectIdentifier) -> str:
        (attribute,) = authority.certificate.subject.get_attributes_for_oid(name)
        return str(attribute.value)

    assert part(root, NameOID.COMMON_NAME) == "Root CA of mesh mesh"
    assert part(east, NameOID.COMMON_NAME) == "Intermediate CA of cluster east"
    assert part(east, NameOID.LOCALITY_NAME) == "east"
    assert part(root, NameOID.ORGANIZATION_NAME) == part(east, NameOID.ORGANIZATION_NAME) == "example.org"
    assert east.certificate.issuer == root.certificate.subject


def test_two_clusters_and_two_makings_never_look_alike(root: Authority) -> None:
    made = [root.intermediate(cluster=name, trust_domain="example.org", now=NOW) for name in ("east", "west", "east")]
    assert made[0].certificate.subject != made[1].certificate.subject
    assert len({each.certificate.serial_number for each in made}) == 3
    assert len({each.fingerprint for each in made}) == 3
    assert len({each.key_pem for each in made}) == 3


def test_an_intermediate_never_outlives_its_root(root: Authority) -> None:
    late = root.expires - dt.timedelta(days=30)
    assert root.intermediate(cluster="east", trust_domain="a", now=late).expires == root.expires


def test_the_longest_names_fit_into_a_subject() -> None:
    root = Authority.root(mesh_id="m" * 63, trust_domain="d" * 253, now=NOW)
    east = root.intermediate(cluster="c" * 63, trust_domain="d" * 253, now=NOW)
    assert root.signed(east.certificate)


@pytest.mark.parametrize(
    ("days", "past"), [(0, False), (182, False), (182.49, False), (182.51, True), (364, True), (400, True)]
)
def test_half_life(east: Authority, days: float, past: bool) -> None:  # noqa: FBT001
    assert east.past_half_life(NOW + dt.timedelta(days=days)) is past


def test_what_is_written_is_read_again(root: Authority) -> None:
    loaded = Authority.load(certificate=root.certificate_pem, key=root.key_pem, where="Secret a/b")
    assert loaded.fingerprint == root.fingerprint
    assert loaded.key_pem == root.key_pem


def test_a_key_of_openssls_own_forms_is_read(root: Authority) -> None:
    legacy = root.key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, PLAIN)
    assert Authority.load(certificate=root.certificate_pem, key=legacy, where="x").fingerprint == root.fingerprint


def other_keys() -> dict[str, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    return {
        "another": key.private_bytes(PEM, PKCS8, PLAIN),
        "rsa": rsa.generate_private_key(65537, 2048).private_bytes(PEM, PKCS8, PLAIN),
        "ed25519": ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, PLAIN),
        "encrypted": key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"pass")),
        "public": key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        "broken": b"-----BEGIN PRIVATE KEY-----\nSECRETBODY\n-----END PRIVATE KEY-----\n",
        "no PEM": b"text",
    }


OTHER_KEYS = other_keys()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("another", "key and certificate do not belong together"),
        ("rsa", "key and certificate do not belong together"),
        ("ed25519", "neither ECDSA nor RSA"),
        ("encrypted", "not an unencrypted PEM key"),
        ("public", "not an unencrypted PEM key"),
        ("broken", "not an unencrypted PEM key"),
        ("no PEM", "not an unencrypted PEM key"),
    ],
)
def test_a_key_that_does_not_fit_is_said_without_showing_it(root: Authority, kind: str, says: str) -> None:
    key = OTHER_KEYS[kind]
    with pytest.raises(TrustError) as caught:
        Authority.load(certificate=root.certificate_pem, key=key, where="Secret a/b")
    assert str(caught.value).startswith("Secret a/b: ")
    assert says in str(caught.value)
    assert caught.value.__cause__ is None
    assert "SECRETBODY" not in str(caught.value)


@pytest.mark.parametrize(
    "certificate", [b"", b"text", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_certificate_that_is_none_is_said(root: Authority, certificate: bytes) -> None:
    with pytest.raises(TrustError, match="Secret a/b: the certificate is not PEM"):
        Authority.load(certificate=certificate, key=root.key_pem, where="Secret a/b")


@pytest.mark.parametrize("constraints", [None, x509.BasicConstraints(ca=False, path_length=None)])
def test_a_certificate_that_is_no_cas_is_said(root: Authority, constraints: x509.BasicConstraints | None) -> None:
    builder = (
        x509.CertificateBuilder()
        .subject_name(root.certificate.subject)
        .issuer_name(root.certificate.subject)
        .public_key(root.key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + ROOT_LIFE)
    )
    if constraints:
        builder = builder.add_extension(constraints, critical=True)
    pem = builder.sign(root.key, hashes.SHA256()).public_bytes(PEM)
    with pytest.raises(TrustError, match="Secret a/b: the certificate is not that of a CA"):
        Authority.load(certificate=pem, key=root.key_pem, where="Secret a/b")


def test_nothing_of_an_authority_shows_in_its_text(root: Authority) -> None:
    assert repr(root) == str(root) == "Authority()"
