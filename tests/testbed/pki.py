"""Keys and certificates of a test cluster, and kubeconfig files with them. Nothing here outlives the bed."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = dt.timedelta(days=30)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder: `<name>.crt`, `<name>.key`."""

    def __init__(self, folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder = folder
        self.identity = Identity(folder / f"{name}.crt", folder / f"{name}.key")
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, folder: Path, name: str) -> Authority:
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _builder(subject, subject, key.public_key(), key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        authority = cls(folder, name, certificate, key)
        _write_pair(authority.identity, certificate, key)
        return authority

    @classmethod
    def load(cls, folder: Path, name: str) -> Authority:
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(folder, name, certificate, key)

    def issue(self, name: str, user: str, *, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> Identity:
        """A certificate of client `user` in `groups`; with `hosts` (names or addresses) it serves as well."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, user))
        builder = _builder(x509.Name(attributes), self._certificate.subject, key.public_key(), self._key.public_key())
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        identity = Identity(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        _write_pair(identity, certificate, key)
        return identity


def signing_key(folder: Path, name: str) -> Path:
    """A key that signs service account tokens."""
    path = folder / f"{name}.key"
    _write_private(path, ec.generate_private_key(ec.SECP256R1()))
    return path


def issue_control_plane(folder: Path, hosts: Sequence[str]) -> Authority:
    """All that an API server, its etcd and its clients need; `hosts` are its names and addresses.

    The files are named as `config` expects them. etcd and the aggregation layer have authorities of their
    own: a client certificate of the cluster opens neither.
    """
    authority = Authority.create(folder, "ca")
    service = "kubernetes.default.svc"
    names = ["kubernetes", "kubernetes.default", service, f"{service}.cluster.local", "localhost", *hosts]
    authority.issue("apiserver", "kube-apiserver", hosts=names)
    authority.issue("kubelet-client", "kube-apiserver-kubelet-client", groups=["system:masters"])
    authority.issue("admin", "kubernetes-admin", groups=["system:masters"])
    authority.issue("controller-manager", "system:kube-controller-manager")
    authority.issue("scheduler", "system:kube-scheduler")
    authority.issue("kube-proxy", "system:kube-proxy")
    for_etcd = Authority.create(folder, "etcd-ca")
    for_etcd.issue("etcd", "etcd", hosts=["localhost", "127.0.0.1"])
    for_etcd.issue("etcd-client", "kube-apiserver")
    Authority.create(folder, "front-proxy-ca").issue("front-proxy", "front-proxy")
    signing_key(folder, "service-accounts")
    return authority


def kubeconfig(name: str, server: str, authority: Path, client: Identity) -> str:
    """A kubeconfig with one context called `name`; certificates are embedded, so the file can be moved."""
    return merge_kubeconfigs([_kubeconfig(name, server, authority, client)])


def write_kubeconfig(path: Path, name: str, server: str, authority: Path, client: Identity) -> Path:
    write_secret(path, kubeconfig(name, server, authority, client).encode())
    return path


def merge_kubeconfigs(configs: Sequence[str]) -> str:
    """One kubeconfig with the contexts of all; the first one's context is the current one."""
    parsed = [json.loads(config) for config in configs]
    merged = dict(parsed[0])
    for section in ("clusters", "users", "contexts"):
        merged[section] = [entry for config in parsed for entry in config[section]]
    return json.dumps(merged, indent=2)


def write_secret(path: Path, content: bytes) -> None:
    """A file only its owner can read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def _kubeconfig(name: str, server: str, authority: Path, client: Identity) -> str:
    def embedded(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    # JSON is YAML: every reader of kubeconfig files takes it.
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [
                {
                    "name": name,
                    "cluster": {"server": server, "certificate-authority-data": embedded(authority)},
                }
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": embedded(client.certificate),
                        "client-key-data": embedded(client.key),
                    },
                }
            ],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        }
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
        # Python 3.13 and later refuse a chain without the two key identifiers.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_pair(identity: Identity, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_private(identity.key, key)


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    # Kubernetes reads service account keys in this older form only.
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    write_secret(path, pem)
