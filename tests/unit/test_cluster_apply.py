"""apply: what is written, what is left alone, and what an outcome says, on a server in memory."""

# ruff: noqa: ARG002  # what stands in for a client or store has its signature
from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

import pytest

from meshwright.api.errors import ForeignObject, NotFound
from meshwright.api.meshinstall import ANNOTATION_ISTIO_API, LABEL_MESH
from meshwright.cluster.apply import BIRTH_MANAGER, MANAGER, NAMED, Applier, Outcome, differ, managers
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import OWNED
from meshwright.cluster.remove import remove
from meshwright.mesh.objects import Key, Manifest, Rendered, Wave

Json = dict[str, Any]


class Server(Client):
    """Keeps whole objects; an apply replaces what is there, and counts a version when that changes it."""

    def __init__(self, *objects: Manifest) -> None:  # no connection
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.asked: list[str] = []
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
        self.objects[name] = {**copy.deepcopy(manifest), "metadata": {**metadata, **server}}
        return self.objects[name]

    async def get(self, kind: Any, name: str, namespace: str = "", *, metadata_only: bool = False) -> Manifest | None:
        return self.objects.get((kind.kind, namespace, name))

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


def apply(server: Server, *waves: Wave, dry_run: bool = False, applier: Applier | None = None) -> Outcome:
    async def run() -> Outcome:
        return await (applier or Applier(server)).apply(waves, mesh="demo", dry_run=dry_run)

    return asyncio.run(run())


def counts(outcome: Outcome) -> tuple[int, int, int]:
    return outcome.created, outcome.changed, outcome.unchanged


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
        apply(server, wave(service("first")), wave(service("a")))
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


def test_a_wave_waits_for_what_was_applied_before_it_and_holds_all_later_ones_back() -> None:
    server, seen = Server(), dict[Key, Manifest]()

    def after(live: Mapping[Key, Manifest]) -> str:
        seen.update(live)
        return "something"

    outcome = apply(server, wave(service("a")), wave(service("b"), after=after), wave(service("c")))
    assert outcome.waiting == "something"
    assert [name for _, _, name in server.objects] == ["a"]
    assert [key.name for key in seen] == ["a"]


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
    assert managers({"metadata": {"managedFields": fields}}) == "a and b"


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
