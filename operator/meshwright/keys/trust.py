"""A mesh's root, and each cluster's `cacerts`, exist, belong together, and are never overwritten.

Secrets are written by create (somebody else's create is re-read) or by update with a resourceVersion, and deleted by
uid and resourceVersion; a Secret that is not ours, or not what it must be, is said and left alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from cryptography import x509

from meshwright.api.errors import Conflict, TrustError
from meshwright.api.meshinstall import LABEL_MANAGED_BY, LABEL_MESH, LABEL_MESH_ID, MANAGED_BY
from meshwright.keys.authority import Authority
from meshwright.mesh.desired import TrustIntent
from meshwright.mesh.objects import Owner
from meshwright.mesh.trust import Trust, fingerprints

ROOT_FILES = ("root-cert.pem", "root-key.pem")
SIGNING_FILES = ("ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem")  # the layout that istiod reads
SELF_SIGNED_SECRET = "istio-ca-secret"  # noqa: S105  # where an istiod without `cacerts` keeps the root that it made
ATTEMPTS = 3


@dataclass(frozen=True)
class Secret:
    namespace: str
    name: str
    labels: Mapping[str, str]
    files: Mapping[str, bytes] = field(repr=False)
    uid: str = ""
    resource_version: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return f"Secret {self.namespace}/{self.name}"


class SecretStore(Protocol):
    """Where Secrets are kept."""

    async def read(self, namespace: str, name: str) -> Secret | None: ...

    async def create(self, secret: Secret) -> None:
        """Raises Conflict when it exists already."""

    async def update(self, secret: Secret) -> None:
        """Writes its files and annotations, and leaves all else of the stored Secret as it is.

        Raises Conflict when its resourceVersion is not the stored one.
        """

    async def delete(self, secret: Secret) -> None:
        """Deletes exactly what was read; one that is gone already is fine.

        Raises Conflict when its uid or resourceVersion is not the stored one.
        """

    async def ensure_namespace(self, name: str, *, labels: Mapping[str, str]) -> None:
        """Makes it, with labels, if it is missing; one that is there is left alone."""


@dataclass(frozen=True)
class Standing:
    """What there is of a mesh's trust, and is as it must be."""

    root_fingerprint: str | None  # None: there is no root yet
    trust: Trust | None  # None: root or intermediate is still to be made
    renewal_due: bool = False


@dataclass(frozen=True)
class Stores:
    """Where a cluster's trust is kept: its intermediate in the cluster itself, the root where the operator runs."""

    signing: SecretStore
    roots: SecretStore
    operator_namespace: str


async def look_at_trust(intent: TrustIntent, stores: Stores, *, now: dt.datetime) -> Standing:
    """What is there, and nothing written. Raises TrustError for what is there and cannot be used."""
    found = await _find(intent, stores, now)
    root, signing = found.root, found.signing
    if root is None:
        return Standing(root_fingerprint=None, trust=None)
    if signing is None:
        return Standing(root.fingerprint, trust=None)
    return Standing(root.fingerprint, _trust(root, signing), renewal_due=_renewal_due(signing, root, now))


async def ensure_trust(
    intent: TrustIntent, stores: Stores, *, now: dt.datetime, proceed: Callable[[], None] = lambda: None
) -> Trust:
    """Makes what is missing of root and intermediate, and renews an intermediate that is past half of its life.

    `proceed` is asked before each write. Raises TrustError as `look_at_trust` does, before anything is written.
    """
    for _ in range(ATTEMPTS):
        try:
            found = await _find(intent, stores, now)
            return await _complete(found, intent, stores, now, proceed=proceed)
        except Conflict:
            continue  # somebody wrote in between: what they wrote counts, so read again
    raise Conflict(f"Secret {intent.namespace}/{intent.signing_secret} keeps being changed by somebody else")


async def remove_intermediate(intent: TrustIntent, stores: Stores) -> None:
    """Deletes the intermediate's Secret, if it is ours. Raises Conflict when it changes in between."""
    await _remove(intent, stores.signing, intent.namespace, intent.signing_secret)


async def remove_root(intent: TrustIntent, stores: Stores) -> None:
    """Deletes the root's Secret, if it is ours: last, because a root without intermediates is whole, the reverse not.

    Raises Conflict when it changes in between.
    """
    await _remove(intent, stores.roots, stores.operator_namespace, intent.root_secret)


async def _remove(intent: TrustIntent, store: SecretStore, namespace: str, name: str) -> None:
    secret = await store.read(namespace, name)
    if secret and _labels(intent).items() <= secret.labels.items():
        await store.delete(secret)


@dataclass(frozen=True)
class _Found:
    """What was read; a Secret that is there has been checked."""

    root: Authority | None
    signing: Authority | None
    signing_secret: Secret | None


async def _find(intent: TrustIntent, stores: Stores, now: dt.datetime) -> _Found:
    # Read both before making either: a new root beside an old intermediate would cut the mesh in two. The root is
    # made first, so it is read last: one that another operator makes in between never looks as if it were gone.
    signing_secret = await stores.signing.read(intent.namespace, intent.signing_secret)
    self_signed = None if signing_secret else await stores.signing.read(intent.namespace, SELF_SIGNED_SECRET)
    root_secret = await stores.roots.read(stores.operator_namespace, intent.root_secret)
    if root_secret is None and signing_secret is not None:
        _check_ours(signing_secret, intent, SIGNING_FILES)
        raise TrustError(
            f"{signing_secret} is there but its root, Secret {stores.operator_namespace}/{intent.root_secret}, is gone:"
            f" restore that Secret from a backup, or delete {signing_secret} to start with a new root"
        )
    root = _load_root(root_secret, intent, now) if root_secret else None
    signing = _load_signing(signing_secret, intent, root, now) if signing_secret and root else None
    if self_signed:
        _check_same_root(self_signed, root, intent)
    return _Found(root, signing, signing_secret)


async def _complete(
    found: _Found, intent: TrustIntent, stores: Stores, now: dt.datetime, *, proceed: Callable[[], None]
) -> Trust:
    root, signing, signing_secret = found.root, found.signing, found.signing_secret
    if root is None:
        root = Authority.root(mesh_id=intent.mesh_id, trust_domain=intent.trust_domain, now=now)
        files = {"root-cert.pem": root.certificate_pem, "root-key.pem": root.key_pem}
        proceed()
        await stores.roots.create(_secret(stores.operator_namespace, intent.root_secret, intent, files))
    if signing is None or _renewal_due(signing, root, now):
        signing = root.intermediate(cluster=intent.cluster, trust_domain=intent.trust_domain, now=now)
        files = _signing_files(root, signing)
        if signing_secret is None:
            proceed()
            await stores.signing.ensure_namespace(intent.namespace, labels=_labels(intent))
            proceed()
            await stores.signing.create(_secret(intent.namespace, intent.signing_secret, intent, files))
        else:
            # The root bundle stays: others may have put further roots beside ours.
            del files["root-cert.pem"]
            proceed()
            await stores.signing.update(replace(signing_secret, files=files))
    return _trust(root, signing)


def _load_root(secret: Secret, intent: TrustIntent, now: dt.datetime) -> Authority:
    _check_ours(secret, intent, ROOT_FILES)
    root = Authority.load(
        certificate=secret.files["root-cert.pem"], key=secret.files["root-key.pem"], where=str(secret)
    )
    _check_life(root, now, secret, next_step="start with a new root (the page about trust says how)")
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
    _check_life(signing, now, secret, next_step="delete it to have it made again below the same root")
    return signing


def _check_same_root(self_signed: Secret, root: Authority | None, intent: TrustIntent) -> None:
    bundle = self_signed.files.get("ca-cert.pem", b"").decode(errors="replace")
    if root is None or root.fingerprint not in fingerprints(bundle):
        raise TrustError(
            f"{self_signed} is the CA that an earlier istiod made for itself, and its sidecars trust no other: make it"
            f" the root of mesh {intent.mesh} (the page about trust says how), or delete it when no such sidecar runs"
        )


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


def _check_life(authority: Authority, now: dt.datetime, secret: Secret, *, next_step: str) -> None:
    if now >= authority.expires:
        raise TrustError(f"{secret}: its certificate expired on {authority.expires:%Y-%m-%d}: {next_step}")


def _renewal_due(signing: Authority, root: Authority, now: dt.datetime) -> bool:
    """Half of its life is over, and another one would live longer."""
    return signing.past_half_life(now) and signing.expires < root.expires


def _labels(intent: TrustIntent) -> dict[str, str]:
    return Owner(intent.mesh, intent.mesh_id).labels


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
