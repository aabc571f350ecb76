"""A mesh's trust: looked at, made once, renewed under the same root, removed; never overwritten, never shown."""

# ruff: noqa: ARG002  # what stands in for a client or store has its signature
from __future__ import annotations

import base64
import copy
import datetime as dt
import pickle
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509

from meshes import NOW, intent
from meshwright.api.errors import Conflict, TrustError
from meshwright.api.meshinstall import LABEL_MANAGED_BY, LABEL_MESH, LABEL_MESH_ID
from meshwright.cluster.client import Client
from meshwright.keys.authority import INTERMEDIATE_LIFE, ROOT_LIFE, Authority
from meshwright.keys.store import KubernetesSecrets
from meshwright.keys.trust import (
    ATTEMPTS,
    ROOT_FILES,
    SELF_SIGNED_SECRET,
    SIGNING_FILES,
    Secret,
    Standing,
    Stores,
    ensure_trust,
    look_at_trust,
    remove_intermediate,
    remove_root,
)
from meshwright.mesh.desired import TrustIntent
from meshwright.mesh.trust import Trust
from secret_store import MemorySecrets, Turn, every_order, key_bodies, run

OPERATOR = "meshwright-system"
ROOT = (OPERATOR, "meshwright-root-demo")
SIGNING = ("istio-system", "cacerts")
SELF_SIGNED = ("istio-system", SELF_SIGNED_SECRET)
LABELS = {LABEL_MANAGED_BY: "meshwright", LABEL_MESH: "demo", LABEL_MESH_ID: "cluster.local"}
HALF_LIFE = NOW + dt.timedelta(days=183)


def ensure(
    store: MemorySecrets, subject: TrustIntent | None = None, *, now: dt.datetime = NOW
) -> Coroutine[Any, Any, Trust]:
    return ensure_trust(subject or intent(), Stores(store, store, OPERATOR), now=now)


def look(store: MemorySecrets, *, now: dt.datetime = NOW) -> Coroutine[Any, Any, Standing]:
    return look_at_trust(intent(), Stores(store, store, OPERATOR), now=now)


async def remove(store: MemorySecrets) -> None:
    await remove_intermediate(intent(), Stores(store, store, OPERATOR))
    await remove_root(intent(), Stores(store, store, OPERATOR))


@pytest.fixture
def store() -> MemorySecrets:
    """With the trust of mesh `demo` in it, and nothing remembered of how it came there."""
    made = MemorySecrets()
    run(ensure(made))
    made.writes.clear()
    return made


def rests_on_root(store: MemorySecrets) -> bool:
    root, signing = store.secrets[ROOT].files, store.secrets[SIGNING].files
    authority = Authority.load(certificate=root["root-cert.pem"], key=root["root-key.pem"], where="root")
    intermediate = Authority.load(certificate=signing["ca-cert.pem"], key=signing["ca-key.pem"], where="signing")
    return authority.signed(intermediate.certificate) and signing["root-cert.pem"] == root["root-cert.pem"]


def test_both_are_made_once() -> None:
    store = MemorySecrets()
    trust = run(ensure(store))
    assert store.writes == [("create", ROOT), ("create", SIGNING)]
    assert store.namespaces == {"istio-system": LABELS}
    assert rests_on_root(store)
    assert (trust.root_expires, trust.intermediate_expires) == (NOW + ROOT_LIFE, NOW + INTERMEDIATE_LIFE)


def test_again_changes_nothing() -> None:
    store = MemorySecrets()
    first = run(ensure(store))
    before = dict(store.secrets)
    for days in (0, 1, 100, 182):
        assert run(ensure(store, now=NOW + dt.timedelta(days=days))) == first
    assert store.secrets == before
    assert len(store.writes) == 2


def test_the_layout_is_the_one_that_istiod_reads(store: MemorySecrets) -> None:
    files = store.secrets[SIGNING].files
    assert tuple(files) == SIGNING_FILES
    assert tuple(store.secrets[ROOT].files) == ROOT_FILES
    chain = x509.load_pem_x509_certificates(files["cert-chain.pem"])
    (own,), (root,) = (x509.load_pem_x509_certificates(files[name]) for name in ("ca-cert.pem", "root-cert.pem"))
    assert chain == [own, root]


def test_the_roots_key_stays_in_the_operators_namespace(store: MemorySecrets) -> None:
    key = store.secrets[ROOT].files["root-key.pem"]
    for name, secret in store.secrets.items():
        assert (key in secret.files.values()) is (name == ROOT)


def test_secrets_say_whose_they_are(store: MemorySecrets) -> None:
    for secret in store.secrets.values():
        assert secret.labels == LABELS


def test_a_lost_intermediate_is_made_again_under_the_same_root(store: MemorySecrets) -> None:
    before = run(ensure(store))
    del store.secrets[SIGNING]
    after = run(ensure(store))
    assert after.root_fingerprint == before.root_fingerprint
    assert after.intermediate_fingerprint != before.intermediate_fingerprint
    assert store.writes == [("create", SIGNING)]


def test_each_cluster_has_an_intermediate_of_its_own_under_one_root() -> None:
    east, west = MemorySecrets(), MemorySecrets()
    first = run(ensure(east, intent(cluster="east")))
    west.put(east.secrets[ROOT])
    second = run(ensure(west, intent(cluster="west")))
    assert first.root_fingerprint == second.root_fingerprint
    assert first.intermediate_fingerprint != second.intermediate_fingerprint


# Renewal


def test_at_half_life_it_is_renewed_under_the_same_root(store: MemorySecrets) -> None:
    before, root = run(ensure(store)), store.secrets[ROOT]
    later = NOW + dt.timedelta(days=183)
    after = run(ensure(store, now=later))
    assert store.writes == [("update", SIGNING)]
    assert store.secrets[ROOT] == root
    assert after.root_fingerprint == before.root_fingerprint
    assert after.intermediate_expires == later + INTERMEDIATE_LIFE
    assert rests_on_root(store)
    assert run(ensure(store, now=later)) == after


def test_a_renewal_leaves_what_others_put_beside_it(store: MemorySecrets) -> None:
    other = Authority.root(mesh_id="other", trust_domain="other", now=NOW)
    before = store.secrets[SIGNING]
    bundle = before.files["root-cert.pem"] + other.certificate_pem
    store.put(replace(
        before,
        labels={**before.labels, "team": "mesh"},
        files={**before.files, "root-cert.pem": bundle, "ca-crl.pem": b"a list"},
    ))  # fmt: skip
    trust = run(ensure(store, now=HALF_LIFE))
    after = store.secrets[SIGNING]
    assert store.writes == [("update", SIGNING)]
    assert (after.files["root-cert.pem"], after.files["ca-crl.pem"]) == (bundle, b"a list")
    assert after.labels == {**before.labels, "team": "mesh"}
    for name in ("ca-cert.pem", "ca-key.pem", "cert-chain.pem"):
        assert after.files[name] != before.files[name]
    chain = x509.load_pem_x509_certificates(after.files["cert-chain.pem"])
    (root,) = x509.load_pem_x509_certificates(store.secrets[ROOT].files["root-cert.pem"])
    assert chain == [*x509.load_pem_x509_certificates(after.files["ca-cert.pem"]), root]
    chain[0].verify_directly_issued_by(root)
    assert run(ensure(store, now=HALF_LIFE)) == trust


def test_a_namespace_is_not_asked_for_when_the_intermediate_is_there(store: MemorySecrets) -> None:
    store.namespaces.clear()
    run(ensure(store))
    run(ensure(store, now=HALF_LIFE))
    assert store.namespaces == {}


def test_a_renewal_is_written_against_the_version_that_was_read(store: MemorySecrets) -> None:
    class Overtaken(MemorySecrets):
        async def update(self, secret: Secret) -> None:
            if not self.writes:  # somebody else renews between our read and our write
                await ensure(store, now=HALF_LIFE)
                self.put(store.secrets[SIGNING])
                self.writes.append(("theirs", SIGNING))
            await super().update(secret)

    overtaken = Overtaken()
    for name in (ROOT, SIGNING):
        overtaken.put(store.secrets[name])
    trust = run(ensure(overtaken, now=HALF_LIFE))
    assert overtaken.writes == [("theirs", SIGNING)]
    assert overtaken.secrets[SIGNING].files == store.secrets[SIGNING].files
    assert trust == run(ensure(store, now=HALF_LIFE))


def test_the_last_years_intermediate_ends_with_its_root(store: MemorySecrets) -> None:
    last = NOW + ROOT_LIFE - dt.timedelta(days=100)
    del store.secrets[SIGNING]
    trust = run(ensure(store, now=last))
    assert trust.intermediate_expires == trust.root_expires


def test_one_that_ends_with_its_root_is_not_renewed_over_and_over(store: MemorySecrets) -> None:
    del store.secrets[SIGNING]
    trust = run(ensure(store, now=NOW + ROOT_LIFE - dt.timedelta(days=100)))
    for left in (dt.timedelta(days=49), dt.timedelta(minutes=1)):
        now = NOW + ROOT_LIFE - left
        assert run(look(store, now=now)) == Standing(trust.root_fingerprint, trust)
        assert run(ensure(store, now=now)) == trust
    assert store.writes == [("create", SIGNING)]


# Callers at the same time


class Contended(MemorySecrets):
    """Gives the turn away at each request; not where nobody writes, because there the order makes no difference."""

    def __init__(self) -> None:
        super().__init__(pause=Turn)

    async def read(self, namespace: str, name: str) -> Secret | None:
        return None if name == SELF_SIGNED_SECRET else await super().read(namespace, name)


def test_two_callers_in_every_order_make_one_root() -> None:
    store = Contended()

    def start() -> list[Coroutine[Any, Any, Trust]]:
        store.clear()
        return [ensure(store), ensure(store)]

    def check(answers: list[Trust]) -> None:
        assert answers[0] == answers[1]
        assert sorted(store.writes) == [("create", SIGNING), ("create", ROOT)]
        assert rests_on_root(store)

    assert every_order(start, check) > 100


def test_two_renewals_in_every_order_end_with_one_of_them() -> None:
    made = MemorySecrets()
    run(ensure(made))

    store = Contended()

    def start() -> list[Coroutine[Any, Any, Trust]]:
        store.clear()
        for secret in made.secrets.values():
            store.put(secret)
        return [ensure(store, now=HALF_LIFE) for _ in range(2)]

    def check(answers: list[Trust]) -> None:
        assert answers[0] == answers[1]
        assert store.writes == [("update", SIGNING)]
        assert rests_on_root(store)

    assert every_order(start, check) > 10


def test_one_that_never_wins_says_so() -> None:
    class Taken(MemorySecrets):
        attempts = 0

        async def create(self, secret: Secret) -> None:
            self.attempts += 1
            raise Conflict("exists already")

    store = Taken()
    with pytest.raises(Conflict, match="cacerts keeps being changed by somebody else"):
        run(ensure(store))
    assert store.attempts == ATTEMPTS


# What is refused


def everything_told(error: BaseException) -> str:
    """All that could be printed of an error: its traceback, its own words, and those of what it hides behind it."""
    parts = ["".join(traceback.format_exception(error)), repr(pickle.dumps(error))]
    hidden: BaseException | None = error
    while hidden:
        parts += [repr(hidden), str(hidden), repr(hidden.args), repr(vars(hidden))]
        hidden = hidden.__context__
    return "\n".join(parts)


Change = Callable[[MemorySecrets], None]


def edit(name: tuple[str, str], **parts: Any) -> Change:
    return lambda store: store.put(replace(store.secrets[name], **parts))


def without(name: tuple[str, str], file: str) -> Change:
    def change(store: MemorySecrets) -> None:
        secret = store.secrets[name]
        store.put(replace(secret, files={each: text for each, text in secret.files.items() if each != file}))

    return change


def file(name: tuple[str, str], path: str, content: bytes) -> Change:
    def change(store: MemorySecrets) -> None:
        secret = store.secrets[name]
        store.put(replace(secret, files={**secret.files, path: content}))

    return change


def gone(name: tuple[str, str]) -> Change:
    def change(store: MemorySecrets) -> None:
        del store.secrets[name]

    return change


def of_another_root(store: MemorySecrets) -> None:
    other = MemorySecrets()
    run(ensure(other))
    store.put(other.secrets[SIGNING])


def with_the_root_of_another_beside_its_own(store: MemorySecrets) -> None:
    other = MemorySecrets()
    run(ensure(other))
    bundle = store.secrets[SIGNING].files["root-cert.pem"] + other.secrets[SIGNING].files["root-cert.pem"]
    store.put(replace(other.secrets[SIGNING], files={**other.secrets[SIGNING].files, "root-cert.pem": bundle}))


def is_gone_beside_one_of_nobodys(store: MemorySecrets) -> None:
    del store.secrets[ROOT]
    store.put(replace(store.secrets[SIGNING], labels={}))


OTHER_MESH = {**LABELS, LABEL_MESH: "other"}
OTHER_ID = {**LABELS, LABEL_MESH_ID: "other.id"}
NO_ID = {LABEL_MANAGED_BY: "meshwright", LABEL_MESH: "demo"}
SAYS_ROOT, SAYS_SIGNING = f"Secret {'/'.join(ROOT)}", f"Secret {'/'.join(SIGNING)}"

TABLE: list[tuple[str, Change, str, str]] = [
    # case, what happened, which Secret is named, a part of the message
    ("a root of nobody's", edit(ROOT, labels={}), SAYS_ROOT, "was not made for mesh demo"),
    ("a root of another mesh", edit(ROOT, labels=OTHER_MESH), SAYS_ROOT, "was not made for mesh demo"),
    ("cacerts of nobody's", edit(SIGNING, labels={}), SAYS_SIGNING, "was not made for mesh demo, and was not touched"),
    ("cacerts of another mesh", edit(SIGNING, labels=OTHER_MESH), SAYS_SIGNING, "was not made for mesh demo"),
    ("a root of another mesh ID", edit(ROOT, labels=OTHER_ID), SAYS_ROOT, "belongs to mesh ID other.id"),
    ("cacerts of another mesh ID", edit(SIGNING, labels=OTHER_ID), SAYS_SIGNING, "set that spec.meshID"),
    ("cacerts without a mesh ID", edit(SIGNING, labels=NO_ID), SAYS_SIGNING, "belongs to mesh ID None"),
    *((f"a root without {name}", without(ROOT, name), SAYS_ROOT, f"lacks {name}") for name in ROOT_FILES),
    *((f"cacerts without {name}", without(SIGNING, name), SAYS_SIGNING, f"lacks {name}") for name in SIGNING_FILES),
    ("an empty file", file(SIGNING, "ca-key.pem", b""), SAYS_SIGNING, "lacks ca-key.pem"),
    ("an empty root", edit(ROOT, files={}), SAYS_ROOT, "lacks root-cert.pem, root-key.pem"),
    ("a root's key that is none", file(ROOT, "root-key.pem", b"x"), SAYS_ROOT, "not an unencrypted PEM key"),
    ("a certificate that is none", file(SIGNING, "ca-cert.pem", b"x"), SAYS_SIGNING, "certificate is not PEM"),
    ("a bundle that is none", file(SIGNING, "root-cert.pem", b"x"), SAYS_SIGNING, "root-cert.pem is not PEM"),
    ("cacerts of another root", of_another_root, SAYS_SIGNING, "does not rest on the root of mesh demo"),
    ("cacerts of another root, which trusts ours too", with_the_root_of_another_beside_its_own, SAYS_SIGNING,
     "does not rest on the root"),
    ("the root is gone, and cacerts are nobody's", is_gone_beside_one_of_nobodys, SAYS_SIGNING, "was not made for"),
    ("the root is gone", gone(ROOT), SAYS_SIGNING, f"its root, {SAYS_ROOT}, is gone: restore that Secret"),
]  # fmt: skip


@pytest.mark.parametrize("step", [ensure, look])
@pytest.mark.parametrize(("change", "named", "says"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_is_not_as_it_must_be_is_named_and_left_alone(
    store: MemorySecrets, change: Change, named: str, says: str, step: Callable[..., Coroutine[Any, Any, Any]]
) -> None:
    change(store)
    before, secrets = dict(store.secrets), key_bodies(store)
    with pytest.raises(TrustError) as caught:
        run(step(store))
    assert named in str(caught.value)
    assert says in str(caught.value)
    assert store.secrets == before
    assert store.writes == []
    text = everything_told(caught.value)
    assert not [body for body in secrets if body in text]


@pytest.mark.parametrize(
    ("age", "says"),
    [
        (INTERMEDIATE_LIFE, f"{SAYS_SIGNING}: its certificate expired on 2027-03-01: delete it to have it made again"),
        (INTERMEDIATE_LIFE * 2, f"{SAYS_SIGNING}: its certificate expired on 2027-03-01: delete it"),
        (ROOT_LIFE, f"{SAYS_ROOT}: its certificate expired on 2036-02-27: start with a new root"),
    ],
)
@pytest.mark.parametrize("step", [ensure, look])
def test_what_has_expired_is_not_replaced_by_itself(
    store: MemorySecrets, age: dt.timedelta, says: str, step: Callable[..., Coroutine[Any, Any, Any]]
) -> None:
    with pytest.raises(TrustError, match=f"^{says}"):
        run(step(store, now=NOW + age))
    assert store.writes == []


def test_a_foreign_cacerts_stops_a_new_root_from_being_made() -> None:
    store = MemorySecrets()
    store.put(Secret(*SIGNING, labels={}, files={}))
    with pytest.raises(TrustError, match="was not made for mesh demo"):
        run(ensure(store))
    assert store.writes == []


# An istiod that made a root for itself


def self_signed(authority: Authority) -> Secret:
    """As istiod keeps it: the other keys of its Secret are empty."""
    files = {"ca-cert.pem": authority.certificate_pem, "ca-key.pem": authority.key_pem, "root-cert.pem": b""}
    return Secret(*SELF_SIGNED, labels={}, files=files)


@pytest.fixture
def earlier() -> Authority:
    return Authority.root(mesh_id="earlier", trust_domain="cluster.local", now=NOW)


@pytest.mark.parametrize("step", [ensure, look])
@pytest.mark.parametrize("root_too", [False, True])
def test_the_root_of_an_earlier_istiod_is_said_first(
    store: MemorySecrets,
    earlier: Authority,
    step: Callable[..., Coroutine[Any, Any, Any]],
    root_too: bool,  # noqa: FBT001
) -> None:
    del store.secrets[SIGNING]
    if not root_too:
        del store.secrets[ROOT]
    store.put(self_signed(earlier))
    before, bodies = dict(store.secrets), key_bodies(store)
    with pytest.raises(TrustError, match=r"make it the root of mesh demo .*, or delete it") as caught:
        run(step(store))
    assert str(caught.value).startswith("Secret istio-system/istio-ca-secret is the CA")
    assert store.secrets == before
    assert store.writes == []
    assert not [body for body in bodies if body in everything_told(caught.value)]


@pytest.mark.parametrize("files", [{}, {"ca-cert.pem": b"\xff"}, {"ca-cert.pem": b""}])
def test_one_that_cannot_be_read_is_said_as_well(files: dict[str, bytes]) -> None:
    store = MemorySecrets()
    store.put(Secret(*SELF_SIGNED, labels={}, files=files))
    with pytest.raises(TrustError, match="istio-ca-secret"):
        run(ensure(store))
    assert store.writes == []


def test_the_root_of_an_earlier_istiod_becomes_the_meshs_when_it_is_put_there(earlier: Authority) -> None:
    store = MemorySecrets()
    store.put(self_signed(earlier))
    files = {"root-cert.pem": earlier.certificate_pem, "root-key.pem": earlier.key_pem}
    store.put(Secret(*ROOT, labels=LABELS, files=files))
    assert run(ensure(store)).root_fingerprint == earlier.fingerprint
    assert store.writes == [("create", SIGNING)]
    assert rests_on_root(store)


def test_beside_an_intermediate_of_ours_it_is_of_no_concern(store: MemorySecrets, earlier: Authority) -> None:
    store.put(self_signed(earlier))  # istiod reads `cacerts` first
    trust = run(ensure(store))
    assert run(look(store)) == Standing(trust.root_fingerprint, trust)
    assert store.writes == []


# A look


def test_a_look_knows_how_far_it_is_and_writes_nothing(store: MemorySecrets) -> None:
    empty = MemorySecrets()
    assert run(look(empty)) == Standing(root_fingerprint=None, trust=None)
    assert (empty.writes, empty.namespaces, empty.secrets) == ([], {}, {})

    trust = run(ensure(store))
    assert run(look(store)) == Standing(trust.root_fingerprint, trust)
    assert run(look(store, now=HALF_LIFE)) == Standing(trust.root_fingerprint, trust, renewal_due=True)
    del store.secrets[SIGNING]
    assert run(look(store)) == Standing(trust.root_fingerprint, trust=None)
    assert store.writes == []


# Stopped between two writes


class Crashed(Exception):
    """The process ends here."""


class Crashing(MemorySecrets):
    """Ends at write number `at` (the namespace counts), before or after it is done."""

    def __init__(self, at: int, *, after: bool) -> None:
        super().__init__()
        self.left = at
        self.after = after

    async def _write(self, write: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Crashed
        await write()
        if self.left == 0:
            raise Crashed

    async def create(self, secret: Secret) -> None:
        await self._write(lambda: MemorySecrets.create(self, secret))

    async def update(self, secret: Secret) -> None:
        await self._write(lambda: MemorySecrets.update(self, secret))

    async def delete(self, secret: Secret) -> None:
        await self._write(lambda: MemorySecrets.delete(self, secret))

    async def ensure_namespace(self, name: str, *, labels: Mapping[str, str]) -> None:
        await self._write(lambda: MemorySecrets.ensure_namespace(self, name, labels=labels))


WHEN = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])


@WHEN
@pytest.mark.parametrize("at", [1, 2, 3])
def test_stopped_at_any_write_the_next_life_ends_with_one_root(at: int, after: bool) -> None:  # noqa: FBT001
    store = Crashing(at, after=after)
    with pytest.raises(Crashed):
        run(ensure(store))
    known = run(look(store)).root_fingerprint
    trust = run(ensure(store))
    assert known in (None, trust.root_fingerprint)
    assert store.writes == [("create", ROOT), ("create", SIGNING)]
    assert store.namespaces == {"istio-system": LABELS}
    assert rests_on_root(store)


@WHEN
def test_a_renewal_that_was_stopped_is_made_once(store: MemorySecrets, after: bool) -> None:  # noqa: FBT001
    crashing = Crashing(1, after=after)
    for secret in store.secrets.values():
        crashing.put(secret)
    with pytest.raises(Crashed):
        run(ensure(crashing, now=HALF_LIFE))
    run(ensure(crashing, now=HALF_LIFE))
    assert crashing.writes == [("update", SIGNING)]
    assert rests_on_root(crashing)


# Removal


def test_the_intermediate_goes_before_the_root(store: MemorySecrets) -> None:
    run(remove(store))
    assert store.writes == [("delete", SIGNING), ("delete", ROOT)]
    run(remove(store))
    assert len(store.writes) == 2


@WHEN
@pytest.mark.parametrize("at", [1, 2])
def test_a_removal_that_was_stopped_goes_on(store: MemorySecrets, at: int, after: bool) -> None:  # noqa: FBT001
    crashing = Crashing(at, after=after)
    for secret in store.secrets.values():
        crashing.put(secret)
    with pytest.raises(Crashed):
        run(remove(crashing))
    run(look(crashing))  # what is left is no obstacle for a mesh that comes back
    run(remove(crashing))
    assert crashing.secrets == {}
    assert crashing.writes == [("delete", SIGNING), ("delete", ROOT)]


@pytest.mark.parametrize("labels", [{}, OTHER_MESH, OTHER_ID, NO_ID, {**LABELS, LABEL_MANAGED_BY: "helm"}])
@pytest.mark.parametrize("foreign", [ROOT, SIGNING])
def test_what_is_not_ours_stays(store: MemorySecrets, foreign: tuple[str, str], labels: dict[str, str]) -> None:
    store.put(replace(store.secrets[foreign], labels=labels))
    run(remove(store))
    assert list(store.secrets) == [foreign]


def test_what_is_ours_goes_whatever_is_in_it(store: MemorySecrets) -> None:
    for name in (ROOT, SIGNING):
        store.put(replace(store.secrets[name], labels={**LABELS, "team": "mesh"}, files={}))
    run(remove(store))
    assert store.secrets == {}


def test_one_that_changes_in_between_is_not_deleted(store: MemorySecrets) -> None:
    class Overtaken(MemorySecrets):
        async def read(self, namespace: str, name: str) -> Secret | None:
            read = await super().read(namespace, name)
            if read:
                self.put(read)  # somebody else writes just after our read
            return read

    overtaken = Overtaken()
    for secret in store.secrets.values():
        overtaken.put(secret)
    with pytest.raises(Conflict):
        run(remove(overtaken))
    assert set(overtaken.secrets) == {ROOT, SIGNING}


# Nothing shows


def test_no_key_is_in_the_text_of_any_object(store: MemorySecrets) -> None:
    bodies = key_bodies(store)
    assert len(bodies) > 6
    root = store.secrets[ROOT].files
    authority = Authority.load(certificate=root["root-cert.pem"], key=root["root-key.pem"], where="x")
    everything = [*store.secrets.values(), authority, run(ensure(store)), run(look(store)), intent()]
    for each in everything:
        for text in (repr(each), str(each), f"{each}", repr([each]), repr({"a": each})):
            assert not [body for body in bodies if body in text]
            assert "PRIVATE" not in text


# On an API server


class Recorder(Client):
    """A client that answers from a table and keeps what it was asked to write."""

    def __init__(self, answers: dict[str, Any]) -> None:  # no connection
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any], str]] = []

    async def get(self, kind: Any, name: str, namespace: str = "", *, metadata_only: bool = False) -> Any:
        assert not metadata_only
        return self.answers.get(f"{kind.plural}/{namespace}/{name}")

    async def create(self, kind: Any, manifest: dict[str, Any], *, field_manager: str, dry_run: bool = False) -> Any:
        assert not dry_run
        self.asked.append((f"create {kind.plural}", manifest, field_manager))
        if manifest["metadata"]["name"] == "taken":
            raise Conflict("exists already")

    async def delete(self, kind: Any, manifest: dict[str, Any]) -> None:
        self.asked.append((f"delete {kind.plural}", manifest, ""))

    async def replace(self, kind: Any, manifest: dict[str, Any], *, field_manager: str, dry_run: bool = False) -> Any:
        assert not dry_run
        self.asked.append((f"replace {kind.plural}", manifest, field_manager))


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_a_secret_survives_the_wire() -> None:
    secret = Secret("n", "s", {"l": "1"}, {"f": b"\x00\xff"})
    client = Recorder({})
    run(KubernetesSecrets(client).create(secret))
    ((create, fresh, manager),) = client.asked
    assert (create, manager) == ("create secrets", "meshwright-trust")
    assert fresh["type"] == "Opaque"
    assert fresh["data"] == {"f": text(b"\x00\xff")}
    assert "resourceVersion" not in fresh["metadata"]
    client.answers["secrets/n/s"] = {**fresh, "metadata": {**fresh["metadata"], "uid": "u", "resourceVersion": "7"}}
    assert run(KubernetesSecrets(client).read("n", "s")) == replace(secret, uid="u", resource_version="7")
    assert run(KubernetesSecrets(client).read("n", "other")) is None


STORED: dict[str, Any] = {
    "apiVersion": "v1", "kind": "Secret", "type": "example.com/keys",
    "metadata": {
        "namespace": "n", "name": "s", "uid": "u", "resourceVersion": "7", "labels": {"l": "1", "team": "mesh"},
        "annotations": {"a": "2"}, "finalizers": ["example.com/keep"], "ownerReferences": [{"name": "o"}],
    },
    "data": {"f": text(b"old"), "ca-crl.pem": text(b"a list")},
}  # fmt: skip


def test_an_update_writes_its_files_and_nothing_else() -> None:
    client = Recorder({"secrets/n/s": copy.deepcopy(STORED)})
    run(KubernetesSecrets(client).update(Secret("n", "s", {"l": "x"}, {"f": b"new", "g": b"too"}, "u", "7")))
    data = {"f": text(b"new"), "ca-crl.pem": text(b"a list"), "g": text(b"too")}
    assert client.asked == [("replace secrets", {**STORED, "data": data}, "meshwright-trust")]


@pytest.mark.parametrize("stored", [None, {**STORED, "metadata": {**STORED["metadata"], "resourceVersion": "8"}}])
def test_an_update_of_what_was_changed_or_is_gone_is_a_conflict(stored: Any) -> None:
    client = Recorder({"secrets/n/s": stored})
    with pytest.raises(Conflict, match="Secret n/s was changed by somebody else"):
        run(KubernetesSecrets(client).update(Secret("n", "s", {}, {"f": b"new"}, "u", "7")))
    assert client.asked == []


def test_an_update_fills_a_secret_without_data() -> None:
    client = Recorder({"secrets/n/s": {"metadata": {"name": "s", "namespace": "n", "resourceVersion": "7"}}})
    run(KubernetesSecrets(client).update(Secret("n", "s", {}, {"f": b"new"}, "u", "7")))
    assert client.asked[0][1]["data"] == {"f": text(b"new")}


def test_a_secret_without_labels_or_data_is_read() -> None:
    client = Recorder({"secrets/n/s": {"metadata": {"uid": "u", "resourceVersion": "1"}}})
    assert run(KubernetesSecrets(client).read("n", "s")) == Secret("n", "s", {}, {}, "u", "1")


def test_a_delete_names_the_incarnation_and_the_version() -> None:
    client = Recorder({})
    run(KubernetesSecrets(client).delete(Secret("n", "s", {"l": "1"}, {"f": b"key"}, "u", "7")))
    metadata = {"namespace": "n", "name": "s", "uid": "u", "resourceVersion": "7"}
    assert client.asked == [("delete secrets", {"metadata": metadata}, "")]


@pytest.mark.parametrize(("name", "asked"), [("there", 0), ("missing", 1), ("taken", 1)])
def test_a_namespace_is_made_when_it_is_missing(name: str, asked: int) -> None:
    client = Recorder({"namespaces//there": {"metadata": {"name": "there"}}})
    run(KubernetesSecrets(client).ensure_namespace(name, labels={"l": "1"}))
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"l": "1"}}}
    assert client.asked == [("create namespaces", manifest, "meshwright-trust")] * asked
