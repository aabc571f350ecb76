"""The certificates through other eyes: OpenSSL's own verdict on what `keys` makes."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from meshes import NOW, intent
from meshwright.api.meshinstall import LABEL_MANAGED_BY, LABEL_MESH, LABEL_MESH_ID
from meshwright.keys.authority import INTERMEDIATE_LIFE, Authority
from meshwright.keys.trust import Secret, Stores, ensure_trust
from secret_store import MemorySecrets, run

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")

DAY = dt.timedelta(days=1)
LABELS = {LABEL_MANAGED_BY: "meshwright", LABEL_MESH: "demo", LABEL_MESH_ID: "cluster.local"}
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


class Cacerts:
    """The files of `cacerts` in a folder, as istiod has them, and a workload's certificate below them."""

    def __init__(self, folder: Path, store: MemorySecrets, *, now: dt.datetime = NOW) -> None:
        self.folder = folder
        run(ensure_trust(intent(), Stores(store, store, "system"), now=now))
        files = store.secrets["istio-system", "cacerts"].files
        for name, content in files.items():
            (folder / name).write_bytes(content)
        self.signing = Authority.load(certificate=files["ca-cert.pem"], key=files["ca-key.pem"], where="cacerts")
        (folder / "leaf.pem").write_bytes(below(self.signing, ca=False).certificate_pem)

    def verify(self, name: str, *, chain: str = "cert-chain.pem", at: dt.datetime = NOW + DAY) -> str:
        """What OpenSSL says of a certificate under the bundle in `root-cert.pem`."""
        return openssl(
            self.folder, "verify", "-x509_strict", "-check_ss_sig", "-attime", str(int(at.timestamp())),
            "-CAfile", "root-cert.pem", "-untrusted", chain, name,
        )  # fmt: skip


def openssl(folder: Path, *arguments: str) -> str:
    assert OPENSSL
    done = subprocess.run([OPENSSL, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def below(issuer: Authority, *, ca: bool) -> Authority:
    """A workload's certificate (with its key) as istiod signs them, or a further CA, which nobody should sign."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    usage = x509.KeyUsage(
        digital_signature=not ca, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    identity = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://cluster.local/ns/a/sa/b")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "further")] if ca else []))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + INTERMEDIATE_LIFE)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identity, critical=not ca)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
    )
    return Authority(builder.sign(issuer.key, hashes.SHA256()), key)


def self_signed_by_istiod() -> tuple[bytes, bytes]:
    """Certificate and key as an istiod makes them: RSA, no path length, a key identifier that is no SHA-1."""
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cluster.local")])
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1))
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 30 * DAY)
        .not_valid_after(NOW + 3600 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(digest.finalize()[:20]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(PEM), key.private_bytes(PEM, PKCS8, serialization.NoEncryption())


@pytest.fixture
def store() -> MemorySecrets:
    return MemorySecrets()


@pytest.fixture
def cacerts(tmp_path: Path, store: MemorySecrets) -> Cacerts:
    return Cacerts(tmp_path, store)


@pytest.mark.parametrize("name", ["ca-cert.pem", "leaf.pem"])
def test_the_chain_holds(cacerts: Cacerts, name: str) -> None:
    assert cacerts.verify(name) == f"{name}: OK\n"


def test_an_intermediate_signs_workloads_and_no_further_ca(cacerts: Cacerts) -> None:
    further = below(cacerts.signing, ca=True)
    (cacerts.folder / "below.pem").write_bytes(below(further, ca=False).certificate_pem)
    chain = further.certificate_pem + (cacerts.folder / "cert-chain.pem").read_bytes()
    (cacerts.folder / "longer.pem").write_bytes(chain)
    assert "path length constraint exceeded" in cacerts.verify("below.pem", chain="longer.pem")


def test_the_profile_as_openssl_prints_it(cacerts: Cacerts) -> None:
    text = openssl(cacerts.folder, "x509", "-in", "ca-cert.pem", "-noout", "-text")
    assert "X509v3 Basic Constraints: critical\n                CA:TRUE, pathlen:0" in text
    assert "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign" in text
    assert "Not After : Mar  1 12:00:00 2027 GMT" in text
    assert "ASN1 OID: prime256v1" in text
    root = openssl(cacerts.folder, "x509", "-in", "root-cert.pem", "-noout", "-text")
    assert "CA:TRUE, pathlen:1" in root
    assert "ASN1 OID: secp384r1" in root


def test_fingerprints_are_openssls(cacerts: Cacerts) -> None:
    text = openssl(cacerts.folder, "x509", "-in", "ca-cert.pem", "-noout", "-fingerprint", "-sha256")
    assert text.strip().partition("=")[2].replace(":", "").lower() == cacerts.signing.fingerprint


def test_after_a_renewal_old_and_new_workloads_trust_each_other(tmp_path: Path, store: MemorySecrets) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    half = NOW + INTERMEDIATE_LIFE / 2
    old, new = Cacerts(tmp_path / "old", store), Cacerts(tmp_path / "new", store, now=half)
    assert old.signing.fingerprint != new.signing.fingerprint
    for mine, theirs in ((old, new), (new, old)):
        shutil.copy(theirs.folder / "leaf.pem", mine.folder / "theirs.pem")
        shutil.copy(theirs.folder / "cert-chain.pem", mine.folder / "their-chain.pem")
        at = half + DAY
        assert mine.verify("theirs.pem", chain="their-chain.pem", at=at) == "theirs.pem: OK\n"
    assert "certificate has expired" in old.verify("ca-cert.pem", at=NOW + INTERMEDIATE_LIFE + DAY)
    assert new.verify("ca-cert.pem", at=NOW + INTERMEDIATE_LIFE + DAY) == "ca-cert.pem: OK\n"


def test_below_the_root_that_an_istiod_made_for_itself(tmp_path: Path, store: MemorySecrets) -> None:
    certificate, key = self_signed_by_istiod()
    files = {"root-cert.pem": certificate, "root-key.pem": key}
    store.put(Secret("system", "meshwright-root-demo", labels=LABELS, files=files))
    cacerts = Cacerts(tmp_path, store)
    assert cacerts.verify("leaf.pem") == "leaf.pem: OK\n"
    assert (tmp_path / "root-cert.pem").read_bytes() == certificate
