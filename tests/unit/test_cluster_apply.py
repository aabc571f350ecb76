"""apply: what is written, what is left alone, and what an outcome says, on a server in memory."""

# ruff: noqa: ARG002  # what stands in for a client or store has its signature
from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

import pytest

import virtual_time
from meshwright.api.errors import Forbidden, ForeignObject, NotFound, Rejected
from meshwright.api.meshinstall import ANNOTATION_ISTIO_API, LABEL_MESH
from meshwright.cluster.apply import BIRTH_MANAGER, MANAGER, NAMED, Applier, Outcome, differ
from meshwright.cluster.client import Client
from meshwright.cluster.installers import installers
from meshwright.cluster.kinds import OWNED
from meshwright.cluster.remove import remove
from meshwright.mesh.objects import Key, Manifest, Rendered, Wave, crds_established
from meshwright.mesh.observed import named

Json = dict[str, Any]


class Server(Client):
    """Keeps whole objects; an apply replaces what is there, and counts a version when that changes it."""

    def __init__(self, *objects: Manifest) -> None:  # no connection
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.asked: list[str] = []
        self.read: list[tuple[str, str]] = []  # names, and how much of them
        self.missing: set[str] = set()  # namespaces that are not there
        self._version = 0
        for each in objects:
            self._store(each)

    def _store(self, manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        name = (manifest["kind"], metadata.get("namespace", ""), metadata["name"])
        before = self.objects.get(name)
        if before and not differ(before, {**before, **manifest, "metadata": {**before["metadata"], **metadata}}):
            return before
        self._version += 1
        server = {"uid": f"uid-{name}", "resourceVersion": str(self._version), "generation": self._version}
        kept = {"status": before["status"]} if before and "status" in before else {}
        self.objects[name] = {**kept, **copy.deepcopy(manifest), "metadata": {**metadata, **server}}
        return self.objects[name]

    async def get(self, kind: Any, name: str, namespace: str = "", *, metadata_only: bool = False) -> Manifest | None:
        self.read.append((name, "head" if metadata_only else "whole"))
        found = self.objects.get((kind.kind, namespace, name))
        if found and metadata_only:
            return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": found["metadata"]}
        return found

    async def list(self, kind: Any, namespace: str = "", *, labels: str = "", metadata_only: bool = False) -> Any:
        assert metadata_only
        label, value = labels.split("=")
        return [
            each for key, each in self.objects.items()
            if key[0] == kind.kind and each["metadata"].get("labels", {}).get(label) == value
        ]  # fmt: skip

    async def create(self, kind: Any, manifest: Manifest, *, field_manager: str) -> Manifest:
        self.asked.append(f"create {kind.kind} as {field_manager}")
        return self._store(manifest)

    async def apply(
        self, kind: Any, manifest: Manifest, *, field_manager: str, dry_run: bool = False, subresource: str = ""
    ) -> Manifest:
        if manifest["metadata"].get("namespace") in self.missing:
            raise NotFound("no such namespace")
        self.asked.append(f"{'try' if dry_run else 'apply'} {kind.kind} as {field_manager}")
        return {**manifest, "metadata": {**manifest["metadata"]}} if dry_run else self._store(manifest)

    async def delete(self, kind: Any, manifest: Manifest) -> None:
        self.asked.append(f"delete {kind.kind}")
        del self.objects[kind.kind, manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]]


def service(name: str = "a", *, mesh: str | None = "demo", **spec: Any) -> Manifest:
    labels = {LABEL_MESH: mesh} if mesh else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "n", "name": name, "labels": labels},
        "spec": spec,
    }


def crd(*, istio_api: str | None, established: bool = True) -> Manifest:
    annotations = {ANNOTATION_ISTIO_API: istio_api} if istio_api else {}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "x.istio.io", "annotations": annotations},
        "status": {"conditions": [{"type": "Established", "status": str(established)}]},
    }  # fmt: skip


def wave(*manifests: Manifest, **parts: Any) -> Wave:
    return Wave("w", tuple(Rendered(each) for each in manifests), **parts)


def apply(
    server: Server, *waves: Wave, mesh: str = "demo", dry_run: bool = False, applier: Applier | None = None
) -> Outcome:
    """What a reconcile does: look, then bring it there."""

    async def run() -> Outcome:
        subject = applier or Applier(server)
        live = await subject.survey(waves, mesh=mesh)
        assert server.asked == before  # it only reads
        return await subject.apply(waves, live, mesh=mesh, dry_run=dry_run)

    before = list(server.asked)
    return asyncio.run(run())


def counts(outcome: Outcome) -> tuple[int, int, int]:
    return outcome.created, outcome.changed, outcome.unchanged


def test_a_survey_tells_what_is_there_in_our_places() -> None:
    server = Server(service("a", x=1), service("elsewhere"))
    waves = wave(service("a", x=2)), wave(service("b"), after=lambda _: "ever")
    live = asyncio.run(Applier(server).survey(waves, mesh="demo"))
    assert {key.name: manifest["spec"] for key, manifest in live.items()} == {"a": {"x": 1}}
    assert sorted(server.read) == [("a", "whole"), ("b", "whole")]
    assert server.asked == []


def test_what_is_missing_is_created_what_differs_is_changed_and_the_rest_is_kept() -> None:
    server = Server(service("b", x=1), service("c", x=1))
    outcome = apply(server, wave(service("a", x=1), service("b", x=2), service("c", x=1)))
    assert counts(outcome) == (1, 1, 1)
    assert outcome.objects == ["create Service n/a", "change Service n/b"]


def test_what_is_in_sync_is_not_written_again_until_somebody_changes_it() -> None:
    server = Server()
    applier = Applier(server)
    apply(server, wave(service(x=1)), applier=applier)
    server.asked.clear()
    assert counts(apply(server, wave(service(x=1)), applier=applier)) == (0, 0, 1)
    assert server.asked == []

    server._store(service(x="drift"))  # noqa: SLF001
    assert counts(apply(server, wave(service(x=1)), applier=applier)) == (0, 1, 0)
    assert counts(apply(server, wave(service(x=2)), applier=applier)) == (0, 1, 0)


def test_what_was_applied_is_known_of_each_mesh_until_it_is_forgotten() -> None:
    server = Server()
    applier = Applier(server)
    apply(server, wave(service("a")), applier=applier)
    apply(server, wave(service("b", mesh="other")), mesh="other", applier=applier)
    server.asked.clear()
    applier.forget("demo")
    applier.forget("never there")
    apply(server, wave(service("b", mesh="other")), mesh="other", applier=applier)
    assert server.asked == []
    apply(server, wave(service("a")), applier=applier)
    assert server.asked == [f"apply Service as {MANAGER}"]


def test_a_dry_run_remembers_nothing() -> None:
    server = Server(service(x=1))
    applier = Applier(server)
    apply(server, wave(service(x=1)), dry_run=True, applier=applier)
    server.asked.clear()
    apply(server, wave(service(x=1)), applier=applier)
    assert server.asked == [f"apply Service as {MANAGER}"]


def test_what_is_set_at_birth_is_another_managers_and_set_once() -> None:
    server = Server()
    rendered = Rendered(service(x=1), at_birth=service(x=1, once="yes"))
    apply(server, Wave("w", (rendered,)))
    assert server.asked == [f"create Service as {BIRTH_MANAGER}", f"apply Service as {MANAGER}"]
    server.asked.clear()
    apply(server, Wave("w", (rendered,)))
    assert server.asked == [f"apply Service as {MANAGER}"]


def test_a_dry_run_writes_nothing_and_says_the_same() -> None:
    server = Server(service("b", x=1))
    before = copy.deepcopy(server.objects)
    server.missing.add("later")
    later = service("l")
    later["metadata"]["namespace"] = "later"
    born = Rendered(service("c"), at_birth=service("c", once="yes"))
    outcome = apply(server, wave(service("a"), service("b", x=2), later), Wave("v", (born,)), dry_run=True)
    assert counts(outcome) == (3, 1, 0)
    assert server.objects == before
    assert all(each.startswith("try") for each in server.asked)


def test_what_vanished_in_earnest_is_an_error() -> None:
    server = Server()
    server.missing.add("n")
    with pytest.raises(NotFound):
        apply(server, wave(service()))


@pytest.mark.parametrize(
    ("mesh", "fields", "says"),
    [
        ("other", [], "Service n/a belongs to mesh other: not touched"),
        (None, [{"manager": "helm"}, {"manager": "kubectl"}], "Service n/a was made by helm and kubectl: not touched"),
        (None, [], "Service n/a was made by somebody else: not touched"),
    ],
)
def test_a_foreign_object_stops_everything_before_anything_is_written(
    mesh: str | None, fields: list[Json], says: str
) -> None:
    foreign = service(mesh=mesh)
    foreign["metadata"]["managedFields"] = fields
    server = Server(foreign)
    with pytest.raises(ForeignObject) as caught:
        apply(server, wave(service("first")), wave(service("a"), after=lambda _: "ever"))
    assert says in str(caught.value)
    assert server.asked == []


def test_a_namespace_that_is_there_is_joined() -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
    ours = {**namespace, "metadata": {"name": "n", "labels": {LABEL_MESH: "demo"}}}
    assert counts(apply(Server(namespace), wave(ours))) == (0, 1, 0)


@pytest.mark.parametrize(("stamp", "expected"), [("v1.31.4", (0, 1, 0)), (None, (0, 0, 1))])
def test_a_kind_that_somebody_else_installed_stays_theirs(stamp: str | None, expected: tuple[int, int, int]) -> None:
    live = crd(istio_api=stamp)
    wanted = crd(istio_api="v1.31.5")
    del wanted["status"]
    assert counts(apply(Server(live), wave(wanted))) == expected


def test_a_wave_waits_for_what_was_applied_before_it_and_later_ones_go_on() -> None:
    server, seen = Server(), list[list[str]]()

    def after(live: Mapping[Key, Manifest]) -> str:
        seen.append([key.name for key in live])
        return f"reason {len(seen)}"

    outcome = apply(
        server, wave(service("a")), wave(service("b"), after=after), wave(service("c")), wave(service("d"), after=after)
    )
    assert outcome.waiting == "reason 1"  # the first of them
    assert [name for _, _, name in server.objects] == ["a", "c"]
    assert seen == [["a"], ["a", "c"]]
    assert (counts(outcome), outcome.objects) == ((2, 0, 0), ["create Service n/a", "create Service n/c"])


def test_waiting_holds_back_births_alone() -> None:
    """A webhook that somebody edits while istiod is down is still ours to repair."""
    server = Server(service("edited", x="drift"), service("kept", x=1))
    seen = list[str]()

    def look(live: Mapping[Key, Manifest]) -> None:
        seen.extend(key.name for key in live)

    due = wave(service("edited", x=1), service("new", x=1), service("kept", x=1), after=lambda _: "istiod")
    outcome = apply(server, due, Wave("last", (), after=look))
    assert outcome.waiting == "istiod"
    assert (counts(outcome), outcome.objects) == ((0, 1, 1), ["change Service n/edited"])
    assert server.objects["Service", "n", "edited"]["spec"] == {"x": 1}
    assert ("Service", "n", "new") not in server.objects
    assert seen == ["edited", "kept"]


def test_a_birth_that_waited_comes_with_its_own_fields() -> None:
    server = Server()
    applier = Applier(server)
    rendered = Rendered(service(x=1), at_birth=service(x=1, once="yes"))
    apply(server, Wave("w", (rendered,), after=lambda _: "ever"), applier=applier)
    assert server.asked == []
    assert apply(server, Wave("w", (rendered,)), applier=applier).waiting is None
    assert server.asked == [f"create Service as {BIRTH_MANAGER}", f"apply Service as {MANAGER}"]


class Uneven(Server):
    """A server that refuses `a` at once and `b` a little later, and takes its time for `c`."""

    async def apply(
        self, kind: Any, manifest: Manifest, *, field_manager: str, dry_run: bool = False, subresource: str = ""
    ) -> Manifest:
        name = manifest["metadata"]["name"]
        if name == "a":
            raise Forbidden("a is not allowed")
        await asyncio.sleep(0.01)
        if name == "b":
            raise Rejected("b is not valid")
        await asyncio.sleep(0.01)
        return await super().apply(kind, manifest, field_manager=field_manager)


@pytest.mark.parametrize(("order", "error"), [("abc", "a is not"), ("cba", "b is not"), ("bca", "b is not")])
def test_no_write_of_a_wave_outlives_it_and_the_first_failure_in_order_is_told(order: str, error: str) -> None:
    server = Uneven()

    async def run() -> list[str]:
        waves = wave(*(service(name) for name in order)), wave(service("never"))
        with pytest.raises((Forbidden, Rejected), match=error):
            await Applier(server).apply(waves, {}, mesh="demo", dry_run=False)
        return [name for _, _, name in server.objects]

    assert virtual_time.run(run()) == ["c"]
    assert [name for _, _, name in server.objects] == ["c"]


class Slow(Server):
    """A server that takes its time for `slow`, and refuses `bad` at once."""

    async def apply(
        self, kind: Any, manifest: Manifest, *, field_manager: str, dry_run: bool = False, subresource: str = ""
    ) -> Manifest:
        if manifest["metadata"]["name"] == "bad":
            raise Rejected("bad is not valid")
        if manifest["metadata"]["name"] == "slow":
            await asyncio.sleep(0.01)
        return await super().apply(kind, manifest, field_manager=field_manager)


def names(server: Server) -> list[str]:
    return [name for _, _, name in server.objects]


def test_a_wave_apart_holds_nobody_up_but_those_with_a_condition() -> None:
    server, seen = Slow(), list[list[str]]()

    def look(live: Mapping[Key, Manifest]) -> None:
        seen.append(sorted(key.name for key in live))

    waves = wave(service("slow"), apart=True), wave(service("a")), wave(service("b"), after=look)
    outcome = virtual_time.run(Applier(server).apply(waves, {}, mesh="demo", dry_run=False))
    assert names(server) == ["a", "slow", "b"]
    assert seen == [["a", "slow"]]
    assert [line.split("/")[1] for line in outcome.objects] == ["slow", "a", "b"]  # told in the order of the waves


@pytest.mark.parametrize("apart", ["bad", "slow"])
def test_a_failure_beside_a_wave_apart_leaves_no_write_behind(apart: str) -> None:
    server, other = Slow(), {"bad": "slow", "slow": "bad"}[apart]
    waves = wave(service(apart), apart=True), wave(service(other)), wave(service("never"), after=lambda _: None)
    with pytest.raises(Rejected, match="bad is not valid"):
        virtual_time.run(Applier(server).apply(waves, {}, mesh="demo", dry_run=False))
    assert names(server) == ["slow"]


# Istio's CRDs are large: they are read whole when that may tell something new


def declared_crd() -> Manifest:
    manifest = crd(istio_api="v1.31.4")
    del manifest["status"]
    return {**manifest, "spec": {"schema": "large"}}


def served_crd(**parts: Any) -> Manifest:
    return {**declared_crd(), "status": crd(istio_api=None)["status"], **parts}


CRD_NAME = ("CustomResourceDefinition", "", "x.istio.io")


def reading(server: Server, applier: Applier, *, mesh: str = "demo") -> tuple[list[str], Outcome]:
    """How much of the CRD is read in a reconcile that also has an object of its kind."""
    server.read.clear()
    policy = wave(service("policy", mesh=mesh), after=crds_established)
    outcome = apply(server, wave(declared_crd()), policy, mesh=mesh, applier=applier)
    return [how for name, how in server.read if name == "x.istio.io"], outcome


def test_an_established_crd_is_read_whole_once_and_then_by_its_head() -> None:
    server = Server(served_crd())
    applier = Applier(server)
    assert reading(server, applier)[0] == ["whole"]
    server.asked.clear()
    for _ in range(2):
        how, outcome = reading(server, applier)
        assert how == ["head"]
        assert (outcome.waiting, counts(outcome)) == (None, (0, 0, 2))
    assert server.asked == []


def test_a_crd_that_is_not_established_yet_is_read_whole_until_it_is() -> None:
    server = Server()
    applier = Applier(server)
    assert reading(server, applier)[0] == ["whole"]  # it is created
    how, outcome = reading(server, applier)
    assert how == ["whole"]
    assert outcome.waiting
    server.objects[CRD_NAME]["status"] = served_crd()["status"]
    how, outcome = reading(server, applier)
    assert (how, outcome.waiting, outcome.created) == (["whole"], None, 1)
    assert reading(server, applier)[0] == ["head"]


def test_a_crd_that_changed_is_read_whole_and_repaired() -> None:
    server = Server(served_crd())
    applier = Applier(server)
    reading(server, applier)
    server._store(served_crd(spec={"schema": "drift"}))  # noqa: SLF001
    how, outcome = reading(server, applier)
    assert (how, outcome.objects) == (["head", "whole"], ["change CustomResourceDefinition x.istio.io"])
    assert server.objects[CRD_NAME]["spec"] == {"schema": "large"}
    reading(server, applier)
    assert reading(server, applier)[0] == ["head"]


def test_a_crd_that_is_gone_is_made_again() -> None:
    server = Server(served_crd())
    applier = Applier(server)
    reading(server, applier)
    del server.objects[CRD_NAME]
    how, outcome = reading(server, applier)
    assert (how, outcome.objects) == (["head", "whole"], ["create CustomResourceDefinition x.istio.io"])
    assert outcome.waiting  # the new one is not what was known of the old one
    assert reading(server, applier)[0] == ["head", "whole"]


def test_a_crd_of_another_uid_is_another_one() -> None:
    server = Server(served_crd())
    applier = Applier(server)
    reading(server, applier)
    server.objects[CRD_NAME]["metadata"] = {**server.objects[CRD_NAME]["metadata"], "uid": "another"}
    server.objects[CRD_NAME]["status"] = {}
    how, outcome = reading(server, applier)
    assert how == ["head", "whole"]
    assert outcome.waiting


def test_the_first_reading_of_each_mesh_is_whole() -> None:
    server = Server(served_crd())
    applier = Applier(server)
    reading(server, applier)
    del server.objects["Service", "n", "policy"]  # there is but one namespace here
    assert reading(server, applier, mesh="other")[0] == ["whole"]
    assert reading(server, applier, mesh="other")[0] == ["head"]
    del server.objects["Service", "n", "policy"]
    applier.forget("demo")
    assert reading(server, applier)[0] == ["whole"]


def test_a_crd_whose_stamp_was_taken_off_is_somebody_elses_from_its_head_alone() -> None:
    server = Server(served_crd())
    applier = Applier(server)
    reading(server, applier)
    metadata = server.objects[CRD_NAME]["metadata"]
    server.objects[CRD_NAME]["metadata"] = {**metadata, "annotations": {}}
    server.asked.clear()
    how, outcome = reading(server, applier)
    assert (how, outcome.waiting, counts(outcome)) == (["head"], None, (0, 0, 2))
    assert server.asked == []


def test_a_dry_run_waits_for_nothing() -> None:
    outcome = apply(Server(), wave(service("a")), wave(service("b"), after=lambda _: "ever"), dry_run=True)
    assert (outcome.waiting, outcome.created) == (None, 2)


def test_an_outcome_names_the_first_changes_only() -> None:
    outcome = Outcome()
    for index in range(NAMED + 5):
        outcome.add("create", Key("v1", "Service", "n", str(index)))
    assert (outcome.created, len(outcome.objects)) == (NAMED + 5, NAMED)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"status": {"a": 1}}, False),
        ({"metadata": {"name": "a", "resourceVersion": "2", "generation": 9, "uid": "u", "managedFields": []}}, False),
        ({"metadata": {"name": "a", "labels": {"a": "b"}}}, True),
        ({"spec": {"a": 1}}, True),
    ],
)
def test_what_counts_as_a_difference(change: Json, expected: bool) -> None:  # noqa: FBT001
    before = {"kind": "Service", "metadata": {"name": "a", "resourceVersion": "1"}, "spec": {}}
    assert differ(before, {**before, **change}) is expected


def test_managers_are_named_once() -> None:
    fields = [{"manager": "b"}, {"manager": "a"}, {"manager": "b"}, {"manager": ""}, {}]
    assert named(installers({"metadata": {"managedFields": fields}})) == "a and b"


def test_removal_takes_what_is_ours_in_order_and_nothing_else() -> None:
    webhook = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
               "metadata": {"name": "w", "labels": {LABEL_MESH: "demo"}}}  # fmt: skip
    server = Server(service("a"), service("theirs", mesh="other"), service("nobodys", mesh=None), webhook)
    asyncio.run(remove(server, mesh="demo"))
    assert server.asked == ["delete MutatingWebhookConfiguration", "delete Service"]
    assert sorted(name for _, _, name in server.objects) == ["nobodys", "theirs"]
    asyncio.run(remove(server, mesh="demo"))
    assert len(server.asked) == 2


def test_webhooks_go_first_and_trust_kinds_and_the_namespace_stay() -> None:
    kinds = [kind.kind for kind in OWNED]
    assert kinds[:2] == ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]
    assert kinds.index("Deployment") < kinds.index("ConfigMap") < kinds.index("ClusterRole")
    assert kinds.index("ClusterRoleBinding") < kinds.index("ClusterRole")
    assert not {"Secret", "Namespace", "CustomResourceDefinition", "MeshInstall"} & set(kinds)
