"""The access that clusters have to each other: for each ordered pair a remote Secret, which the istiods of the one
read, with a token of the other's reader in it.

A token is bound to a Secret in the cluster that is read: with that Secret it ends. Two of them take turns, so that a
new token is in use before the former one is revoked. What must be known to go on after a stop stands in the annotations
of the remote Secret; of a token, its end and nothing else.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from meshwright.api.errors import Conflict, TrustError
from meshwright.api.meshinstall import GROUP
from meshwright.keys.store import KubernetesSecrets
from meshwright.keys.trust import ATTEMPTS, Secret, SecretStore
from meshwright.mesh.objects import Owner
from meshwright.mesh.remotes import AccessIntent, RemoteIntent
from meshwright.mesh.trust import Remote

LIFE = dt.timedelta(days=30)  # asked for; what the server grants counts
GRACE = dt.timedelta(seconds=10)  # after which istiod has taken a new token, if it is in sync
TURNS = ("a", "b")
BOUND_TO, BOUND_UID = f"{GROUP}/bound-to", f"{GROUP}/bound-uid"
ISSUED, EXPIRES = f"{GROUP}/issued", f"{GROUP}/expires"
ENDPOINT, ROTATION = f"{GROUP}/endpoint", f"{GROUP}/rotation"
WATCHED = {"istio/multiCluster": "true"}  # the label that istiod looks for
CLUSTER = "networking.istio.io/cluster"


@dataclass(frozen=True)
class Token:
    text: str = field(repr=False)
    expires: dt.datetime


class TokenSource(SecretStore, Protocol):
    """The Secrets of a cluster, and tokens of its ServiceAccounts."""

    async def token(self, namespace: str, account: str, *, bound_to: Secret, life: dt.timedelta) -> Token:
        """That ends with the Secret it is bound to, or earlier."""


class KubernetesTokens(KubernetesSecrets):
    """A TokenSource on a Kubernetes API server."""

    async def token(self, namespace: str, account: str, *, bound_to: Secret, life: dt.timedelta) -> Token:
        granted = await self._client.request_token(
            namespace, account, secret=(bound_to.name, bound_to.uid), seconds=int(life.total_seconds())
        )
        return Token(granted["token"], dt.datetime.fromisoformat(granted["expirationTimestamp"]))


async def ensure_remote(
    intent: RemoteIntent, *, reader: SecretStore, source: TokenSource, now: dt.datetime, synced: bool,
    rotation: str = "", proceed: Callable[[], None] = lambda: None,
) -> Remote:  # fmt: skip
    """Makes access that is missing, and renews it at half of its life, or when `rotation` is another text than before.

    `synced`: every istiod of the reader is known to read the source well; only then is a former token revoked.
    `proceed` is asked before each write. Raises TrustError when a Secret in our place is not ours.
    """
    for _ in range(ATTEMPTS):
        try:
            found = await _find(intent, reader, source)
            if found.is_good(intent, now=now, rotation=rotation):
                return await _revoke_former(found, source, now=now, synced=synced, proceed=proceed)
            return await _renew(found, intent, reader, source, now=now, rotation=rotation, proceed=proceed)
        except Conflict:
            continue  # somebody wrote in between: what they wrote counts, so read again
    raise Conflict(
        f"the access of cluster {intent.access.reader} to cluster {intent.access.source} keeps being changed"
    )


async def revoke_remote(
    access: AccessIntent, *, reader: SecretStore | None, source: SecretStore | None,
    proceed: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Takes access back: first the reader forgets the source, then its tokens end. None: that one is gone for good.

    Raises Conflict when a Secret changes in between.
    """
    if reader:
        await _delete(await reader.read(access.namespace, _remote_name(access)), access, reader, proceed)
    for turn in TURNS:
        if source:
            await _delete(await source.read(access.namespace, _bound_name(access, turn)), access, source, proceed)


async def _delete(secret: Secret | None, access: AccessIntent, store: SecretStore, proceed: Callable[[], None]) -> None:
    if secret and _labels(access).items() <= secret.labels.items():
        proceed()
        await store.delete(secret)


@dataclass(frozen=True)
class _Found:
    """What was read: the remote Secret, and those that tokens may be bound to, by their turns."""

    remote: Secret | None
    bound: dict[str, Secret]

    @property
    def turn(self) -> str | None:
        """Whose token is in use; None when it has been revoked, or there is none."""
        notes = self.remote.annotations if self.remote else {}
        for turn, secret in self.bound.items():
            if (notes.get(BOUND_TO), notes.get(BOUND_UID)) == (secret.name, secret.uid):
                return turn
        return None

    def is_good(self, intent: RemoteIntent, *, now: dt.datetime, rotation: str) -> bool:
        if self.remote is None or self.turn is None or not self.remote.files.get(intent.access.source):
            return False
        notes, known = self.remote.annotations, _life(self.remote)
        if known is None or notes.get(ENDPOINT) != _endpoint(intent) or notes.get(ROTATION, "") != rotation:
            return False
        issued, expires = known
        return now < issued + (expires - issued) / 2


async def _find(intent: RemoteIntent, reader: SecretStore, source: SecretStore) -> _Found:
    access = intent.access
    remote = await reader.read(access.namespace, _remote_name(access))
    bound = {turn: await source.read(access.namespace, _bound_name(access, turn)) for turn in TURNS}
    for secret in (remote, *bound.values()):
        if secret and not _labels(access).items() <= secret.labels.items():
            raise TrustError(
                f"{secret} was not made for mesh {access.mesh}, and was not touched: move it away"
                f" (it is in the place of what lets cluster {access.reader} read cluster {access.source})"
            )
    return _Found(remote, {turn: secret for turn, secret in bound.items() if secret})


async def _renew(
    found: _Found, intent: RemoteIntent, reader: SecretStore, source: TokenSource, *, now: dt.datetime, rotation: str,
    proceed: Callable[[], None],
) -> Remote:  # fmt: skip
    access = intent.access
    turn = next(each for each in TURNS if each != found.turn)
    if left := found.bound.get(turn):  # of a renewal that was stopped, or waits for its end
        proceed()
        await source.delete(left)
    proceed()
    await source.create(Secret(access.namespace, _bound_name(access, turn), _labels(access), files={}))
    bound = await source.read(access.namespace, _bound_name(access, turn))
    if bound is None:
        raise Conflict(f"Secret {access.namespace}/{_bound_name(access, turn)} was deleted by somebody else")
    proceed()
    token = await source.token(access.namespace, access.account, bound_to=bound, life=LIFE)
    remote = Secret(
        access.namespace,
        _remote_name(access),
        {**_labels(access), **WATCHED},
        files={access.source: _kubeconfig(intent, token)},
        annotations={
            CLUSTER: access.source, BOUND_TO: bound.name, BOUND_UID: bound.uid, ISSUED: now.isoformat(),
            EXPIRES: token.expires.isoformat(), ENDPOINT: _endpoint(intent), ROTATION: rotation,
        },
    )  # fmt: skip
    proceed()
    if found.remote is None:
        await reader.create(remote)
    else:  # in place: to istiod, one that goes and comes is a cluster that goes and comes
        await reader.update(replace(found.remote, files=remote.files, annotations=remote.annotations))
    return Remote(issued=now, expires=token.expires, revoking=found.turn is not None)


async def _revoke_former(
    found: _Found, source: SecretStore, *, now: dt.datetime, synced: bool, proceed: Callable[[], None]
) -> Remote:
    issued, expires = _life(found.remote) or (now, now)
    former = [secret for turn, secret in found.bound.items() if turn != found.turn]
    if former and synced and now >= issued + GRACE:
        for secret in former:
            proceed()
            await source.delete(secret)
        former = []
    return Remote(issued=issued, expires=expires, revoking=bool(former))


def _life(remote: Secret | None) -> tuple[dt.datetime, dt.datetime] | None:
    try:
        notes = remote.annotations if remote else {}
        return dt.datetime.fromisoformat(notes[ISSUED]), dt.datetime.fromisoformat(notes[EXPIRES])
    except (KeyError, ValueError):
        return None


def _remote_name(access: AccessIntent) -> str:
    return f"istio-remote-secret-{access.source}"


def _bound_name(access: AccessIntent, turn: str) -> str:
    return f"istio-reader-{access.reader}-{turn}"


def _labels(access: AccessIntent) -> dict[str, str]:
    return Owner(access.mesh, access.mesh_id).labels


def _endpoint(intent: RemoteIntent) -> str:
    """What tells one way to the source from another."""
    way = json.dumps([intent.server, intent.ca, intent.tls_server_name])
    return hashlib.sha256(way.encode()).hexdigest()[:16]


def _kubeconfig(intent: RemoteIntent, token: Token) -> bytes:
    name = intent.access.source
    cluster = {"server": intent.server}
    if intent.ca:
        cluster["certificate-authority-data"] = base64.b64encode(intent.ca.encode()).decode()
    if intent.tls_server_name:
        cluster["tls-server-name"] = intent.tls_server_name
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "users": [{"name": name, "user": {"token": token.text}}],
    }).encode()  # fmt: skip
