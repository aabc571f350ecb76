"""Deletion: kept as declared while sidecars rest on it, then taken away, and the finalizer last."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from memory_world import MESH, OPERATOR_NAMESPACE, World
from meshes import cluster
from meshwright.api.errors import Conflict, Forbidden
from meshwright.api.meshinstall import (
    ANNOTATION_FORCE_DELETE,
    ANNOTATION_RECONCILE,
    FINALIZER,
    LABEL_MESH,
    LABEL_MESH_ID,
)
from meshwright.cluster.kinds import OWNED, Kind
from meshwright.cluster.survey import MANAGER, Memory
from meshwright.controller.deletion import waits_for
from meshwright.controller.reconcile import BLOCKED, WATCH_PROGRESS, Again
from meshwright.mesh.names import Names
from meshwright.mesh.objects import Key, Manifest
from object_store import ObjectStore

Json = dict[str, Any]

FORCED = {ANNOTATION_FORCE_DELETE: "true"}
SERVICE = Key("v1", "Service", "istio-system", "istiod")
ROOT = Key("v1", "Secret", OPERATOR_NAMESPACE, "meshwright-root-demo")
SIGNING = Key("v1", "Secret", "istio-system", "cacerts")
LAST = f"merge MeshInstall demo as {MANAGER}"


def installed(store: ObjectStore | None = None, **spec: Any) -> World:
    world = World(store, **spec)
    world.install()
    return world


def istiod_pod(name: str = "istiod-1") -> Manifest:
    metadata = {"namespace": "istio-system", "name": name, "labels": dict(Names("istio-system", "default").selector)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


def root_of(world: World) -> str:
    return base64.b64decode(world.store.objects[ROOT]["data"]["root-cert.pem"]).decode()


def published(namespace: str, pem: str) -> Manifest:
    """As istiod writes it into every namespace."""
    metadata = {"namespace": namespace, "name": "istio-ca-root-cert", "labels": {"istio.io/config": "true"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"root-cert.pem": pem}}


# The end


def test_everything_goes_in_order_and_the_finalizer_last() -> None:
    world = installed()
    owned = [key.kind for key in world.owned() if key.kind != "Namespace"]
    world.delete()
    assert world.reconcile() is None
    *deletes, last = world.changes
    assert str(last) == LAST
    assert {each.verb for each in deletes} == {"delete"}
    order = [kind.kind for kind in OWNED]
    assert [each.key.kind for each in deletes] == sorted(owned, key=order.index)
    assert world.store.objects[MESH]["metadata"].get("finalizers") == []
    assert {key.kind for key in world.owned()} == {"Namespace"}


def test_what_others_rest_on_stays_and_so_do_the_keys() -> None:
    world = installed()
    world.delete()
    before = {key for key in world.store.objects if key.kind in ("CustomResourceDefinition", "Namespace", "Secret")}
    world.reconcile()
    assert before <= world.store.objects.keys()
    assert {ROOT, SIGNING} <= before


def test_keys_go_too_when_that_is_declared() -> None:
    world = installed(trust={"deletionPolicy": "Delete"})
    foreign: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "istio-system", "name": "theirs"}}
    world.store.put(foreign)
    world.delete()
    world.reconcile()
    assert [str(each) for each in world.changes[-3:]] == [f"delete {SIGNING}", f"delete {ROOT}", LAST]
    assert world.store.names("Secret") == ["theirs"]


@pytest.mark.parametrize("label", [LABEL_MESH, LABEL_MESH_ID])
def test_a_key_that_is_not_ours_stays_also_then(label: str) -> None:
    world = installed(trust={"deletionPolicy": "Delete"})
    world.store.edit(ROOT, {"metadata": {"labels": {label: "other"}}})
    world.delete()
    world.reconcile()
    assert world.store.names("Secret") == ["meshwright-root-demo"]


def test_the_same_root_is_found_again() -> None:
    world = installed()
    before = world.status["clusters"][0]["trust"]["rootFingerprint"]
    world.delete()
    world.reconcile()
    world.store.remove(MESH)
    again = World(world.store)
    again.install()
    assert again.status["clusters"][0]["trust"]["rootFingerprint"] == before


@pytest.mark.parametrize("others", [(), ("before",), ("before", "after")])
def test_the_finalizers_of_others_stay(others: tuple[str, ...]) -> None:
    world = installed()
    world.delete(finalizers=(*others[:1], FINALIZER, *others[1:]))
    assert world.reconcile() is None
    assert world.store.objects[MESH]["metadata"].get("finalizers", []) == list(others)


def test_a_finalizer_that_came_meanwhile_is_not_lost() -> None:
    class Busy(ObjectStore):
        async def merge(self, kind: Kind, name: str, patch: Manifest, namespace: str = "", **more: Any) -> Manifest:
            if patch["metadata"].get("finalizers") == []:
                self.edit(MESH, {"metadata": {"finalizers": [FINALIZER, "theirs"]}})
            return await super().merge(kind, name, patch, namespace, **more)

    world = installed(Busy())
    world.delete()
    assert world.reconcile() == Again(0.0, failed=True)
    assert world.store.objects[MESH]["metadata"]["finalizers"] == [FINALIZER, "theirs"]


def test_without_our_finalizer_there_is_nothing_to_do() -> None:
    world = installed()
    world.delete(finalizers=("somebody.else/finalizer",))
    world.run_pod("a")
    assert world.reconcile() is None
    assert world.store.writes == []


@pytest.mark.parametrize("gone", [True, False])
def test_only_what_is_gone_is_forgotten(gone: bool) -> None:  # noqa: FBT001
    world = installed()
    world.delete()
    if not gone:
        world.run_pod("a")
    world.reconcile()
    assert ('mesh="demo"' in world.metrics.exposition().decode()) is not gone


@pytest.mark.parametrize("gone", [True, False])
def test_what_was_applied_is_remembered_until_all_is_gone_and_of_others_for_ever(gone: bool) -> None:  # noqa: FBT001
    world = installed()
    remembered = world.reconciler._members.own.applier._memories  # noqa: SLF001
    remembered["other"] = Memory()
    world.delete()
    if not gone:
        world.run_pod("a")
    world.reconcile()
    assert remembered.keys() == ({"other"} if gone else {"demo", "other"})


# Step by step


def test_what_istiod_needs_stays_until_its_pods_have_ended() -> None:
    world = installed()
    world.store.put(istiod_pod())
    world.delete()
    assert world.reconcile() == Again(WATCH_PROGRESS)
    assert list(dict.fromkeys(each.key.kind for each in world.changes)) == [kind.kind for kind in OWNED[:4]]
    assert (world.ready["status"], world.ready["reason"]) == ("False", "Deleting")
    assert world.ready["message"] == (
        "step 2 of 4 (control plane): waiting for 1 pod of istiod (istio-system/istiod-1) to end"
    )
    world.store.remove(Key.of(istiod_pod()))
    assert world.reconcile() is None


def test_what_istiod_published_goes_by_the_mesh_root() -> None:
    world = installed()
    world.store.put(published("apps", root_of(world)))
    world.store.put(published("theirs", "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"))
    world.delete()
    world.reconcile()
    assert [key.namespace for key in world.store.objects if key.name == "istio-ca-root-cert"] == ["theirs"]


@pytest.mark.parametrize("how", ["lost", "another mesh ID's"])
def test_a_root_that_is_not_there_any_more_is_known_from_the_status(how: str) -> None:
    world = installed()
    pem = root_of(world)
    if how == "lost":
        world.store.remove(ROOT)
        world.store.remove(SIGNING)
    else:
        world.store.edit(ROOT, {"metadata": {"labels": {LABEL_MESH_ID: "other"}}})
    world.store.put(published("apps", pem))
    world.delete()
    assert world.reconcile() is None
    assert "istio-ca-root-cert" not in world.store.names("ConfigMap")


def test_what_an_annotation_excepts_stays() -> None:
    world = installed()
    world.store.edit(SERVICE, {"metadata": {"annotations": {ANNOTATION_RECONCILE: "disabled"}}})
    world.delete()
    assert world.reconcile() is None
    assert SERVICE in world.store.objects


@pytest.mark.parametrize("writes", [1, 2, 3, 8, 15])
def test_a_removal_that_is_interrupted_ends_when_it_is_run_again(writes: int) -> None:
    class Interrupted(ObjectStore):
        left: int | None = None

        async def delete(self, kind: Kind, manifest: Manifest) -> None:
            await super().delete(kind, manifest)
            if self.left is not None:
                self.left -= 1
                if not self.left:
                    raise Conflict("somebody was first")

    store = Interrupted()
    world = installed(store)
    store.left = writes
    world.delete()
    assert world.reconcile() == Again(0.0, failed=True)
    assert FINALIZER in store.objects[MESH]["metadata"]["finalizers"]
    world.restart()
    assert world.reconcile() is None
    assert {key.kind for key in world.owned()} == {"Namespace"}


@pytest.mark.parametrize("verb", ["list", "delete", "merge"])
def test_a_removal_that_hangs_says_what_on(verb: str) -> None:
    class Refusing(ObjectStore):
        refused = ""

        async def list(self, kind: Kind, *args: Any, **more: Any) -> Any:
            self.refuse("list", kind)
            return await super().list(kind, *args, **more)

        async def delete(self, kind: Kind, manifest: Manifest) -> None:
            self.refuse("delete", kind)
            await super().delete(kind, manifest)

        async def merge(self, kind: Kind, name: str, *args: Any, **more: Any) -> Manifest:
            self.refuse("merge", kind)
            return await super().merge(kind, name, *args, **more)

        def refuse(self, verb: str, kind: Kind) -> None:
            if verb == self.refused:
                raise Forbidden(f"cannot {verb} {kind.plural}")

    store = Refusing()
    world = installed(store)
    world.delete()
    store.refused = verb
    assert world.reconcile() == Again(BLOCKED, error=True)
    assert (world.ready["status"], world.ready["reason"]) == ("False", "Deleting")
    assert world.ready["message"].startswith(f"what the mesh made is still to be removed: cannot {verb} ")
    assert FINALIZER in store.objects[MESH]["metadata"]["finalizers"]
    store.refused = ""
    assert world.reconcile() is None


# Who must not be cut off


def test_while_sidecars_run_the_mesh_is_kept_as_declared_and_they_are_named() -> None:
    world = installed()
    pods = [world.run_pod(name) for name in ("b", "a")]
    before = world.store.objects[SERVICE]["spec"]
    world.store.edit(SERVICE, {"spec": {"selector": {"app": "drift"}}})
    world.delete()
    assert world.reconcile() == Again(WATCH_PROGRESS)
    assert world.store.objects[SERVICE]["spec"] == before
    assert [str(each) for each in world.changes] == [f"apply {SERVICE} as {MANAGER}"]
    assert (world.ready["status"], world.ready["reason"]) == ("False", "Deleting")
    assert world.ready["message"].startswith("waiting for 2 pods with a sidecar of this mesh to go: apps/a, apps/b; ")
    assert f"{ANNOTATION_FORCE_DELETE}=true" in world.ready["message"]
    (seen,) = world.status["clusters"]
    assert (world.status["proxies"], seen["proxies"], seen["ready"]) == (2, 2, True)
    for pod in pods:
        world.store.remove(pod)
    assert world.reconcile() is None


def test_sidecars_of_another_revision_are_not_waited_for() -> None:
    world = installed()
    world.run_pod("a", revision="canary")
    world.delete()
    assert world.reconcile() is None


@pytest.mark.parametrize(("value", "goes"), [("true", True), ("false", False), ("yes", False)])
def test_an_annotation_lets_it_go_all_the_same(value: str, goes: bool) -> None:  # noqa: FBT001
    world = installed()
    world.run_pod("a")
    world.delete({ANNOTATION_FORCE_DELETE: value})
    assert (world.reconcile() is None) is goes
    assert (SERVICE not in world.store.objects) is goes


def test_a_mesh_that_cannot_be_kept_says_so_and_waits_all_the_same() -> None:
    world = installed()
    world.run_pod("a")
    world.declare(mtls="maybe")
    world.delete()
    assert world.reconcile() == Again(WATCH_PROGRESS)
    assert "apps/a" in world.ready["message"]
    assert "until then it cannot be kept as declared: MeshInstall demo: spec.mtls" in world.ready["message"]
    assert world.changes == []


def test_what_is_not_valid_goes_all_the_same_from_where_it_was() -> None:
    world = installed(namespace="istio-system", trust={"deletionPolicy": "Retain"})
    world.declare(mtls="maybe")
    world.delete()
    assert world.reconcile() is None
    assert {key.kind for key in world.owned()} == {"Namespace"}


@pytest.mark.parametrize("mode", ["Paused", "Plan"])
def test_nothing_is_removed_in_another_mode_also_when_it_is_forced(mode: str) -> None:
    world = installed()
    world.declare(mode=mode)
    world.delete(FORCED)
    before = dict(world.store.objects)
    assert world.reconcile() == Again(WATCH_PROGRESS)
    assert world.ready["reason"] == "Deleting"
    assert world.ready["message"] == f"spec.mode is {mode}: nothing is removed until it is Apply"
    assert world.changes == []
    assert {key for key in before if key.kind != "Event"} <= world.store.objects.keys()
    world.declare(mode="Apply")
    assert world.reconcile() is None


@pytest.mark.parametrize("sidecars", [True, False])
def test_a_removal_that_is_overtaken_begins_again(sidecars: bool) -> None:  # noqa: FBT001
    world = installed()
    if sidecars:
        world.run_pod("a")
        world.store.remove(SERVICE)
    world.delete()
    told = world.status
    world.newest_generation = 2
    assert world.reconcile() == Again(0.0)
    assert (world.store.writes, world.status) == ([], told)


@pytest.mark.parametrize(
    ("count", "named", "says"),
    [
        (1, ("a/b",), "waiting for 1 pod with a sidecar of this mesh to go: a/b; take"),
        (2, ("a/b", "c/d"), "waiting for 2 pods with a sidecar of this mesh to go: a/b, c/d; take"),
        (12, ("a/b", "c/d"), "waiting for 12 pods with a sidecar of this mesh to go: a/b, c/d and 10 more; take"),
    ],
)
def test_whom_it_waits_for(count: int, named: tuple[str, ...], says: str) -> None:
    assert waits_for([cluster(proxies=count, some_proxies=named)]).startswith(says)
