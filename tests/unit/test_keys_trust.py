"""ensure_trust: made once, renewed under the same root, never overwritten, never shown."""

# ruff: noqa: ARG002  # what stands in for a client or store has its signature
from __future__ import annotations

import base64
import copy
import datetime as dt
import traceback
from collections.abc import Callable, Coroutine
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
from meshwright.keys.trust import ATTEMPTS, ROOT_FILES, SIGNING_FILES, Secret, ensure_trust
from meshwright.mesh.desired import TrustIntent
from meshwright.mesh.trust import Trust
from secret_store import MemorySecrets, Turn, every_order, key_bodies, run

OPERATOR = "meshwright-system"
ROOT = (OPERATOR, "meshwright-root-demo")
SIGNING = ("istio-system", "cacerts")


def ensure(
    store: MemorySecrets, subject: TrustIntent | None = None, *, now: dt.datetime = NOW, write: bool = True
) -> Coroutine[Any, Any, Trust | None]:
    return ensure_trust(subject or intent(), store, operator_namespace=OPERATOR, now=now, write=write)


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
    assert trust is not None
    assert store.writes == [("create", ROOT), ("create", SIGNING)]
    assert store.namespaces == {"istio-system": {LABEL_MANAGED_BY: "meshwright", LABEL_MESH: "demo"}}
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
        assert secret.labels == {LABEL_MANAGED_BY: "meshwright", LABEL_MESH: "demo"}
        assert secret.annotations == {ANNOTATION_MESH_ID: "cluster.local"}


def test_a_lost_intermediate_is_made_again_under_the_same_root(store: MemorySecrets) -> None:
    before = run(ensure(store))
    del store.secrets[SIGNING]
    after = run(ensure(store))
    assert before is not None
    assert after is not None
    assert after.root_fingerprint == before.root_fingerprint
    assert after.intermediate_fingerprint != before.intermediate_fingerprint
    assert store.writes == [("create", SIGNING)]


def test_each_cluster_has_an_intermediate_of_its_own_under_one_root() -> None:
    east, west = MemorySecrets(), MemorySecrets()
    first = run(ensure(east, intent(cluster="east")))
    west.put(east.secrets[ROOT])
    second = run(ensure(west, intent(cluster="west")))
    assert first is not None
    assert second is not None
    assert first.root_fingerprint == second.root_fingerprint
    assert first.intermediate_fingerprint != second.intermediate_fingerprint


# Renewal


def test_at_half_life_it_is_renewed_under_the_same_root(store: MemorySecrets) -> None:
    before, root = run(ensure(store)), store.secrets[ROOT]
    later = NOW + dt.timedelta(days=183)
    after = run(ensure(store, now=later))
    assert before is not None
    assert after is not None
    assert store.writes == [("update", SIGNING)]
    assert store.secrets[ROOT] == root
    assert after.root_fingerprint == before.root_fingerprint
    assert after.intermediate_expires == later + INTERMEDIATE_LIFE
    assert rests_on_root(store)
    assert run(ensure(store, now=later)) == after


HALF_LIFE = NOW + dt.timedelta(days=183)


def test_a_renewal_leaves_what_others_put_beside_it(store: MemorySecrets) -> None:
    other = Authority.root(mesh_id="other", trust_domain="other", now=NOW)
    before = store.secrets[SIGNING]
    bundle = before.files["root-cert.pem"] + other.certificate_pem
    store.put(replace(
        before,
        labels={**before.labels, "team": "mesh"},
        annotations={**before.annotations, "note": "do not touch"},
        files={**before.files, "root-cert.pem": bundle, "ca-crl.pem": b"a list"},
    ))  # fmt: skip
    trust = run(ensure(store, now=HALF_LIFE))
    after = store.secrets[SIGNING]
    assert store.writes == [("update", SIGNING)]
    assert (after.files["root-cert.pem"], after.files["ca-crl.pem"]) == (bundle, b"a list")
    assert after.labels == {**before.labels, "team": "mesh"}
    assert after.annotations == {**before.annotations, "note": "do not touch"}
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
                theirs = await ensure_trust(
                    intent(), store, operator_namespace=OPERATOR, now=NOW + dt.timedelta(days=183), write=True
                )
                assert theirs is not None
                self.put(store.secrets[SIGNING])
                self.writes.append(("theirs", SIGNING))
            await super().update(secret)

    overtaken = Overtaken()
    for name in (ROOT, SIGNING):
        overtaken.put(store.secrets[name])
    trust = run(ensure(overtaken, now=NOW + dt.timedelta(days=183)))
    assert overtaken.writes == [("theirs", SIGNING)]
    assert overtaken.secrets[SIGNING].files == store.secrets[SIGNING].files
    assert trust == run(ensure(store, now=NOW + dt.timedelta(days=183)))


def test_the_last_years_intermediate_ends_with_its_root(store: MemorySecrets) -> None:
    last = NOW + ROOT_LIFE - dt.timedelta(days=100)
    del store.secrets[SIGNING]
    trust = run(ensure(store, now=last))
    assert trust is not None
    assert trust.intermediate_expires == trust.root_expires


# Callers at the same time


def test_two_callers_in_every_order_make_one_root() -> None:
    store = MemorySecrets(pause=Turn)

    def start() -> list[Coroutine[Any, Any, Trust | None]]:
        store.clear()
        return [ensure(store), ensure(store)]

    def check(answers: list[Trust | None]) -> None:
        assert answers[0] == answers[1] is not None
        assert sorted(store.writes) == [("create", SIGNING), ("create", ROOT)]
        assert rests_on_root(store)

    assert every_order(start, check) > 100


def test_two_renewals_in_every_order_end_with_one_of_them() -> None:
    made = MemorySecrets()
    run(ensure(made))

    store = MemorySecrets(pause=Turn)

    def start() -> list[Coroutine[Any, Any, Trust | None]]:
        store.clear()
        for secret in made.secrets.values():
            store.put(secret)
        return [ensure(store, now=NOW + dt.timedelta(days=183)) for _ in range(2)]

    def check(answers: list[Trust | None]) -> None:
        assert answers[0] == answers[1] is not None
        assert store.writes == [("update", SIGNING)]
        assert rests_on_root(store)

    assert every_order(start, check) > 10


def test_one_that_never_wins_says_so() -> None:
    class Contended(MemorySecrets):
        attempts = 0

        async def create(self, secret: Secret) -> None:
            self.attempts += 1
            raise Conflict("exists already")

    store = Contended()
    with pytest.raises(Conflict, match="cacerts keeps being changed by somebody else"):
        run(ensure(store))
    assert store.attempts == ATTEMPTS


# What is refused

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


FOREIGN_LABELS = {LABEL_MANAGED_BY: "meshwright", LABEL_MESH: "other"}
FOREIGN_ID = {ANNOTATION_MESH_ID: "other.id"}
SAYS_ROOT, SAYS_SIGNING = f"Secret {'/'.join(ROOT)}", f"Secret {'/'.join(SIGNING)}"

TABLE: list[tuple[str, Change, str, str]] = [
    # case, what happened, which Secret is named, a part of the message
    ("a root of nobody's", edit(ROOT, labels={}), SAYS_ROOT, "was not made for mesh demo"),
    ("a root of another mesh", edit(ROOT, labels=FOREIGN_LABELS), SAYS_ROOT, "was not made for mesh demo"),
    ("cacerts of nobody's", edit(SIGNING, labels={}), SAYS_SIGNING, "was not made for mesh demo, and was not touched"),
    ("cacerts of another mesh", edit(SIGNING, labels=FOREIGN_LABELS), SAYS_SIGNING, "was not made for mesh demo"),
    ("a root of another mesh ID", edit(ROOT, annotations=FOREIGN_ID), SAYS_ROOT, "belongs to mesh ID other.id"),
    ("cacerts of another mesh ID", edit(SIGNING, annotations=FOREIGN_ID), SAYS_SIGNING, "set that spec.meshID"),
    ("cacerts without a mesh ID", edit(SIGNING, annotations={}), SAYS_SIGNING, "belongs to mesh ID None"),
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
    ("the root is gone", gone(ROOT), SAYS_SIGNING, f"its root, {SAYS_ROOT}, is gone: restore that Secret"),
]  # fmt: skip


@pytest.mark.parametrize("write", [True, False], ids=["apply", "plan"])
@pytest.mark.parametrize(("change", "named", "says"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_is_not_as_it_must_be_is_named_and_left_alone(
    store: MemorySecrets,
    change: Change,
    named: str,
    says: str,
    write: bool,  # noqa: FBT001
) -> None:
    change(store)
    before, secrets = dict(store.secrets), key_bodies(store)
    with pytest.raises(TrustError) as caught:
        run(ensure(store, write=write))
    assert named in str(caught.value)
    assert says in str(caught.value)
    assert store.secrets == before
    assert store.writes == []
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert not [body for body in secrets if body in text]


@pytest.mark.parametrize(
    ("age", "named"), [(INTERMEDIATE_LIFE, SAYS_SIGNING), (INTERMEDIATE_LIFE * 2, SAYS_SIGNING), (ROOT_LIFE, SAYS_ROOT)]
)
def test_what_has_expired_is_not_replaced_by_itself(store: MemorySecrets, age: dt.timedelta, named: str) -> None:
    with pytest.raises(TrustError, match=r"expired on .*: replace it") as caught:
        run(ensure(store, now=NOW + age))
    assert str(caught.value).startswith(named)
    assert store.writes == []


def test_a_foreign_cacerts_stops_a_new_root_from_being_made() -> None:
    store = MemorySecrets()
    store.put(Secret(*SIGNING, labels={}, annotations={}, files={}))
    with pytest.raises(TrustError, match="was not made for mesh demo"):
        run(ensure(store))
    assert store.writes == []


# A plan


def test_a_plan_writes_nothing(store: MemorySecrets) -> None:
    empty = MemorySecrets()
    assert run(ensure(empty, write=False)) is None
    assert (empty.writes, empty.namespaces, empty.secrets) == ([], {}, {})

    assert run(ensure(store, write=False)) == run(ensure(store))
    assert run(ensure(store, now=NOW + dt.timedelta(days=300), write=False)) == run(ensure(store))
    del store.secrets[SIGNING]
    assert run(ensure(store, write=False)) is None
    assert store.writes == []


# Nothing shows


def test_no_key_is_in_the_text_of_any_object(store: MemorySecrets) -> None:
    bodies = key_bodies(store)
    assert len(bodies) > 6
    root = store.secrets[ROOT].files
    authority = Authority.load(certificate=root["root-cert.pem"], key=root["root-key.pem"], where="x")
    everything = [*store.secrets.values(), authority, run(ensure(store)), intent()]
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

    async def create(self, kind: Any, manifest: dict[str, Any], *, field_manager: str) -> Any:
        self.asked.append((f"create {kind.plural}", manifest, field_manager))
        if manifest["metadata"]["name"] == "taken":
            raise Conflict("exists already")

    async def replace(self, kind: Any, manifest: dict[str, Any], *, field_manager: str) -> Any:
        self.asked.append((f"replace {kind.plural}", manifest, field_manager))


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_a_secret_survives_the_wire() -> None:
    secret = Secret("n", "s", {"l": "1"}, {"a": "2"}, {"f": b"\x00\xff"})
    client = Recorder({})
    run(KubernetesSecrets(client).create(secret))
    ((create, fresh, manager),) = client.asked
    assert (create, manager) == ("create secrets", "meshwright-trust")
    assert fresh["type"] == "Opaque"
    assert fresh["data"] == {"f": text(b"\x00\xff")}
    assert "resourceVersion" not in fresh["metadata"]
    client.answers["secrets/n/s"] = {**fresh, "metadata": {**fresh["metadata"], "resourceVersion": "7"}}
    assert run(KubernetesSecrets(client).read("n", "s")) == replace(secret, resource_version="7")
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
    run(KubernetesSecrets(client).update(Secret("n", "s", {}, {"a": "x"}, {"f": b"new", "g": b"too"}, "7")))
    data = {"f": text(b"new"), "ca-crl.pem": text(b"a list"), "g": text(b"too")}
    assert client.asked == [("replace secrets", {**STORED, "data": data}, "meshwright-trust")]


@pytest.mark.parametrize("stored", [None, {**STORED, "metadata": {**STORED["metadata"], "resourceVersion": "8"}}])
def test_an_update_of_what_was_changed_or_is_gone_is_a_conflict(stored: Any) -> None:
    client = Recorder({"secrets/n/s": stored})
    with pytest.raises(Conflict, match="Secret n/s was changed by somebody else"):
        run(KubernetesSecrets(client).update(Secret("n", "s", {}, {}, {"f": b"new"}, "7")))
    assert client.asked == []


def test_an_update_fills_a_secret_without_data() -> None:
    client = Recorder({"secrets/n/s": {"metadata": {"name": "s", "namespace": "n", "resourceVersion": "7"}}})
    run(KubernetesSecrets(client).update(Secret("n", "s", {}, {}, {"f": b"new"}, "7")))
    assert client.asked[0][1]["data"] == {"f": text(b"new")}


def test_a_secret_without_labels_or_data_is_read() -> None:
    client = Recorder({"secrets/n/s": {"metadata": {"resourceVersion": "1"}}})
    assert run(KubernetesSecrets(client).read("n", "s")) == Secret("n", "s", {}, {}, {}, "1")


@pytest.mark.parametrize(("name", "asked"), [("there", 0), ("missing", 1), ("taken", 1)])
def test_a_namespace_is_made_when_it_is_missing(name: str, asked: int) -> None:
    client = Recorder({"namespaces//there": {"metadata": {"name": "there"}}})
    run(KubernetesSecrets(client).ensure_namespace(name, labels={"l": "1"}))
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"l": "1"}}}
    assert client.asked == [("create namespaces", manifest, "meshwright-trust")] * asked
