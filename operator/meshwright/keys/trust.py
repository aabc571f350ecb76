"""ensure trust: a mesh's root, and each cluster's `cacerts`, exist, belong together, and are never overwritten.

Secrets are written by create (somebody else's create is re-read) or by update with a resourceVersion; a Secret
that is not ours, or not what it must be, is said and left alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from cryptography import x509

from meshwright.api.errors import Conflict, TrustError
from meshwright.api.meshinstall import LABEL_MANAGED_BY, LABEL_MESH, LABEL_MESH_ID, MANAGED_BY
from meshwright.keys.authority import Authority
from meshwright.mesh.desired import TrustIntent
from meshwright.mesh.trust import Trust

ROOT_FILES = ("root-cert.pem", "root-key.pem")
SIGNING_FILES = ("ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem")  # the layout that istiod reads
ATTEMPTS = 3


@dataclass(frozen=True)
class Secret:
    namespace: str
    name: str
    labels: Mapping[str, str]
    files: Mapping[str, bytes] = field(repr=False)
    resource_version: str = ""

    def __str__(self) -> str:
        return f"Secret {self.namespace}/{self.name}"


class SecretStore(Protocol):
    """Where Secrets are kept."""

    async def read(self, namespace: str, name: str) -> Secret | None: ...

    async def create(self, secret: Secret) -> None:
        """Raises Conflict when it exists already."""

    async def update(self, secret: Secret) -> None:
        """Writes its files, and leaves all else of the stored Secret as it is.

        Raises Conflict when its resourceVersion is not the stored one.
        """

    async def ensure_namespace(self, name: str, *, labels: Mapping[str, str]) -> None:
        """Makes it, with labels, if it is missing; one that is there is left alone."""


async def ensure_trust(
    intent: TrustIntent, store: SecretStore, *, operator_namespace: str, now: dt.datetime, write: bool
) -> Trust | None:
    """The fingerprints and expiries of the mesh's root and of the cluster's intermediate.

    With `write=False` (a plan) nothing is made, and the answer is None where there is no trust yet.
    """
    for _ in range(ATTEMPTS):
        try:
            return await _ensure(intent, store, operator_namespace, now, write=write)
        except Conflict:
            continue  # somebody wrote in between: what they wrote counts, so read again
    raise Conflict(f"Secret {intent.namespace}/{intent.signing_secret} keeps being changed by somebody else")


async def _ensure(
    intent: TrustIntent, store: SecretStore, operator_namespace: str, now: dt.datetime, *, write: bool
) -> Trust | None:
    # Read both before making either: a new root beside an old intermediate would cut the mesh in two. The root is
    # made first, so it is read last: one that another operator makes in between never looks as if it were gone.
    signing_secret = await store.read(intent.namespace, intent.signing_secret)
    root_secret = await store.read(operator_namespace, intent.root_secret)
    if root_secret is None and signing_secret is not None:
        _check_ours(signing_secret, intent, SIGNING_FILES)
        raise TrustError(
            f"{signing_secret} is there but its root, Secret {operator_namespace}/{intent.root_secret}, is gone:"
            f" restore that Secret from a backup, or delete {signing_secret} to start with a new root"
        )
    root = _load_root(root_secret, intent, now) if root_secret else None
    signing = _load_signing(signing_secret, intent, root, now) if signing_secret and root else None
    if not write:
        return _trust(root, signing) if root and signing else None

    if root is None:
        root = Authority.root(mesh_id=intent.mesh_id, trust_domain=intent.trust_domain, now=now)
        files = {"root-cert.pem": root.certificate_pem, "root-key.pem": root.key_pem}
        await store.create(_secret(operator_namespace, intent.root_secret, intent, files))
    if signing is None or signing.past_half_life(now):
        signing = root.intermediate(cluster=intent.cluster, trust_domain=intent.trust_domain, now=now)
        files = _signing_files(root, signing)
        if signing_secret is None:
            await store.ensure_namespace(intent.namespace, labels=_labels(intent))
            await store.create(_secret(intent.namespace, intent.signing_secret, intent, files))
        else:
            # The root bundle stays: others may have put further roots beside ours.
            del files["root-cert.pem"]
            await store.update(replace(signing_secret, files=files))
    return _trust(root, signing)


def _load_root(secret: Secret, intent: TrustIntent, now: dt.datetime) -> Authority:
    _check_ours(secret, intent, ROOT_FILES)
    root = Authority.load(
        certificate=secret.files["root-cert.pem"], key=secret.files["root-key.pem"], where=str(secret)
    )
    _check_life(root, now, str(secret))
    return root


def _load_signing(secret: Secret, intent: TrustIntent, root: Authority, now: dt.datetime) -> Authority:
    _check_ours(secret, intent, SIGNING_FILES)
    signing = Authority.load(certificate=secret.files["ca-cert.pem"], key=secret.files["ca-key.pem"], where=str(secret))
    try:
        bundle = x509.load_pem_x509_certificates(secret.files["root-cert.pem"])
    except ValueError:
        raise TrustError(f"{secret}: root-cert.pem is not PEM") from None
    if root.certificate not in bundle or not root.signed(signing.certificate):
        raise TrustError(
            f"{secret} does not rest on the root of mesh {intent.mesh}: restore the one that does, or delete it to have"
            " it made again"
        )
    _check_life(signing, now, str(secret))
    return signing


def _check_ours(secret: Secret, intent: TrustIntent, files: tuple[str, ...]) -> None:
    if secret.labels.get(LABEL_MANAGED_BY) != MANAGED_BY or secret.labels.get(LABEL_MESH) != intent.mesh:
        raise TrustError(
            f"{secret} was not made for mesh {intent.mesh}, and was not touched: move it away, or use another namespace"
        )
    if secret.labels.get(LABEL_MESH_ID) != intent.mesh_id:
        raise TrustError(
            f"{secret} belongs to mesh ID {secret.labels.get(LABEL_MESH_ID)}, not {intent.mesh_id}:"
            " set that spec.meshID, or move the Secret away"
        )
    missing = [name for name in files if not secret.files.get(name)]
    if missing:
        raise TrustError(f"{secret} lacks {', '.join(missing)}: restore it from a backup")


def _check_life(authority: Authority, now: dt.datetime, where: str) -> None:
    if now >= authority.expires:
        raise TrustError(f"{where}: its certificate expired on {authority.expires:%Y-%m-%d}: replace it")


def _labels(intent: TrustIntent) -> dict[str, str]:
    return {LABEL_MANAGED_BY: MANAGED_BY, LABEL_MESH: intent.mesh, LABEL_MESH_ID: intent.mesh_id}


def _secret(namespace: str, name: str, intent: TrustIntent, files: Mapping[str, bytes]) -> Secret:
    return Secret(
        namespace=namespace,
        name=name,
        labels=_labels(intent),
        files=files,
    )


def _signing_files(root: Authority, signing: Authority) -> dict[str, bytes]:
    return {
        "ca-cert.pem": signing.certificate_pem,
        "ca-key.pem": signing.key_pem,
        "cert-chain.pem": signing.certificate_pem + root.certificate_pem,
        "root-cert.pem": root.certificate_pem,
    }


def _trust(root: Authority, signing: Authority) -> Trust:
    return Trust(
        root_fingerprint=root.fingerprint,
        root_expires=root.expires,
        intermediate_fingerprint=signing.fingerprint,
        intermediate_expires=signing.expires,
    )
