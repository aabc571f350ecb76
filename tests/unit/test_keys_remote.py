"""Access of one cluster to another: made, renewed without a moment in which no good token is in use, taken back."""

from __future__ import annotations

import base64
import datetime as dt
import json
from dataclasses import replace
from typing import Any

import pytest

from meshes import NOW
from meshwright.api.errors import Conflict, TrustError
from meshwright.api.meshinstall import LABEL_MANAGED_BY, LABEL_MESH, LABEL_MESH_ID
from meshwright.keys.remote import BOUND_TO, EXPIRES, GRACE, LIFE, Token, ensure_remote, revoke_remote
from meshwright.keys.trust import Secret
from meshwright.mesh.remotes import AccessIntent, RemoteIntent
from meshwright.mesh.trust import Remote
from secret_store import MemorySecrets, run

NAMESPACE = "istio-system"
ACCESS = AccessIntent("demo", "cluster.local", NAMESPACE, reader="east", source="west")
INTENT = RemoteIntent(ACCESS, "https://192.0.2.2:6443", "-----BEGIN CERTIFICATE-----\n")
REMOTE = (NAMESPACE, "istio-remote-secret-west")
A, B = (NAMESPACE, "istio-reader-east-a"), (NAMESPACE, "istio-reader-east-b")
HALF = NOW + LIFE / 2


class StoppedError(Exception):
    """The process ends here."""


class Source(MemorySecrets):
    """A cluster that grants tokens, for as long as it likes."""

    def __init__(self, life: dt.timedelta = LIFE) -> None:
        super().__init__()
        self.now, self.life, self.granted = NOW, life, dict[str, str]()

    async def token(self, namespace: str, account: str, *, bound_to: Secret, life: dt.timedelta) -> Token:
        assert (namespace, account) == (NAMESPACE, "istio-reader-service-account")
        text = f"token-{len(self.granted)}-of-{bound_to.name}"
        self.granted[text] = bound_to.uid
        return Token(text, self.now + min(life, self.life))

    def takes(self, token: str) -> bool:
        """As the API server does: while the Secret that it is bound to is there."""
        return self.granted.get(token) in {each.uid for each in self.secrets.values()}


def ensure(
    reader: MemorySecrets, source: Source, *, now: dt.datetime = NOW, synced: bool = True, rotation: str = "",
    intent: RemoteIntent = INTENT,
) -> Remote:  # fmt: skip
    source.now = now
    return run(ensure_remote(intent, reader=reader, source=source, now=now, synced=synced, rotation=rotation))


def kubeconfig(reader: MemorySecrets) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(reader.secrets[REMOTE].files["west"])
    return document


def token(reader: MemorySecrets) -> str:
    return str(kubeconfig(reader)["users"][0]["user"]["token"])


@pytest.fixture
def reader() -> MemorySecrets:
    return MemorySecrets()


@pytest.fixture
def source() -> Source:
    return Source()


def test_a_first_access(reader: MemorySecrets, source: Source) -> None:
    assert ensure(reader, source) == Remote(issued=NOW, expires=NOW + LIFE, revoking=False)
    secret = reader.secrets[REMOTE]
    assert secret.labels == {
        LABEL_MANAGED_BY: "meshwright", LABEL_MESH: "demo", LABEL_MESH_ID: "cluster.local",
        "istio/multiCluster": "true",
    }  # fmt: skip
    assert secret.annotations["networking.istio.io/cluster"] == "west"
    assert secret.files.keys() == {"west"}  # istiod takes the key for the cluster's ID
    assert kubeconfig(reader)["clusters"] == [{
        "name": "west",
        "cluster": {
            "server": INTENT.server, "certificate-authority-data": base64.b64encode(INTENT.ca.encode()).decode(),
        },
    }]  # fmt: skip
    assert source.takes(token(reader))
    assert set(source.secrets) == {A}


def test_a_second_look_writes_nothing(reader: MemorySecrets, source: Source) -> None:
    ensure(reader, source)
    before = (list(reader.writes), list(source.writes))
    ensure(reader, source, now=HALF - dt.timedelta(seconds=1))
    assert (reader.writes, source.writes) == before


def test_half_of_what_was_granted_counts_and_not_of_what_was_asked(reader: MemorySecrets) -> None:
    source = Source(life=dt.timedelta(hours=1))
    assert ensure(reader, source).expires == NOW + dt.timedelta(hours=1)
    before = token(reader)
    ensure(reader, source, now=NOW + dt.timedelta(minutes=29))
    assert token(reader) == before
    ensure(reader, source, now=NOW + dt.timedelta(minutes=30))
    assert token(reader) != before


def test_the_former_token_holds_until_every_istiod_has_the_new_one(reader: MemorySecrets, source: Source) -> None:
    ensure(reader, source)
    former = token(reader)
    assert ensure(reader, source, now=HALF, synced=True).revoking
    assert [verb for verb, name in reader.writes if name == REMOTE] == ["create", "update"]  # in place
    assert source.takes(former)
    assert source.takes(token(reader))
    assert ensure(reader, source, now=HALF + GRACE / 2, synced=True).revoking  # istiod may not have seen it
    assert ensure(reader, source, now=HALF + 2 * GRACE, synced=False).revoking
    assert source.takes(former)
    assert not ensure(reader, source, now=HALF + 2 * GRACE, synced=True).revoking
    assert not source.takes(former)
    assert source.takes(token(reader))
    assert set(source.secrets) == {B}


def test_a_new_one_on_demand_once(reader: MemorySecrets, source: Source) -> None:
    ensure(reader, source)
    first = token(reader)
    ensure(reader, source, rotation="now")
    second = token(reader)
    ensure(reader, source, rotation="now")
    assert first != second == token(reader)


@pytest.mark.parametrize(
    "moved",
    [
        replace(INTENT, server="https://192.0.2.3:6443"),
        replace(INTENT, ca="another"),
        replace(INTENT, tls_server_name="kubernetes"),
    ],
    ids=["server", "ca", "name"],
)
def test_another_way_to_the_cluster_is_told_at_once(reader: MemorySecrets, source: Source, moved: RemoteIntent) -> None:
    ensure(reader, source)
    ensure(reader, source, intent=moved)
    (cluster,) = kubeconfig(reader)["clusters"]
    assert cluster["cluster"]["server"] == moved.server
    assert cluster["cluster"].get("tls-server-name", "") == moved.tls_server_name


def test_a_token_that_was_revoked_by_hand_is_replaced(reader: MemorySecrets, source: Source) -> None:
    ensure(reader, source)
    del source.secrets[A]
    assert not source.takes(token(reader))
    ensure(reader, source)
    assert source.takes(token(reader))


@pytest.mark.parametrize("notes", [{}, {EXPIRES: "soon"}, {BOUND_TO: "elsewhere"}], ids=["none", "no date", "other"])
def test_notes_that_somebody_broke_mean_another_token(
    reader: MemorySecrets, source: Source, notes: dict[str, str]
) -> None:
    ensure(reader, source)
    stored = reader.secrets[REMOTE]
    reader.put(replace(stored, annotations={**stored.annotations, **notes} if notes else {}))
    ensure(reader, source)
    assert source.takes(token(reader))


def test_a_secret_of_somebody_else_is_named_and_left_alone(reader: MemorySecrets, source: Source) -> None:
    theirs = Secret(*REMOTE, labels={"istio/multiCluster": "true"}, files={"west": b"theirs"})
    reader.put(theirs)
    with pytest.raises(TrustError, match="Secret istio-system/istio-remote-secret-west was not made for mesh demo"):
        ensure(reader, source)
    assert reader.secrets[REMOTE].files == theirs.files
    assert source.secrets == {}
    run(revoke_remote(ACCESS, reader=reader, source=source))
    assert REMOTE in reader.secrets


def test_no_token_is_in_what_is_told(reader: MemorySecrets, source: Source) -> None:
    told = repr(ensure(reader, source)) + repr(reader.secrets[REMOTE]) + repr(reader.secrets[REMOTE].annotations)
    assert token(reader) not in told
    assert "secret-text" not in repr(Token("secret-text", NOW))


def test_whoever_keeps_writing_is_named(reader: MemorySecrets, source: Source) -> None:
    async def busy(secret: Secret) -> None:
        raise Conflict(f"{secret} is there already")

    source.create = busy  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="access of cluster east to cluster west keeps being changed"):
        ensure(reader, source)


def test_taken_back(reader: MemorySecrets, source: Source) -> None:
    ensure(reader, source)
    ensure(reader, source, now=HALF)
    former = token(reader)
    run(revoke_remote(ACCESS, reader=reader, source=source))
    assert reader.secrets == source.secrets == {}
    assert not source.takes(former)
    run(revoke_remote(ACCESS, reader=reader, source=source))  # and again


def test_stopped_at_any_write_it_goes_on_and_never_cuts_what_works() -> None:
    """A whole life, with a stop before each write: whoever is in the middle has a token that is taken."""
    stops = 0
    for stop in range(40):
        reader, source = MemorySecrets(), Source()
        left = [stop]

        def proceed(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise StoppedError

        joined = False
        for minute, rotation in enumerate(["", "", "one", "one", "one", "two", "two", "two"]):
            now = NOW + dt.timedelta(minutes=minute)
            source.now = now
            try:
                run(ensure_remote(
                    INTENT, reader=reader, source=source, now=now, synced=True, rotation=rotation, proceed=proceed
                ))  # fmt: skip
            except StoppedError:
                stops += 1
                left[0] = 1000  # another life, which is left alone
            if REMOTE in reader.secrets:
                joined = True
                assert source.takes(token(reader)), (stop, minute)
        assert joined
        assert len(source.secrets) == 1
    assert stops > 10
