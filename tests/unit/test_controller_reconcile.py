"""The sentence: what a reconcile writes, in which order, what it says, and when it looks again."""

from __future__ import annotations

from typing import Any

import pytest

from memory_world import MESH, OPERATOR_NAMESPACE, World
from meshes import VERSION, manifest
from meshwright.api import errors
from meshwright.api.errors import MeshwrightError
from meshwright.api.meshinstall import ANNOTATION_RECONCILE, FINALIZER, MeshInstall
from meshwright.cluster.kinds import MESH_INSTALL, Kind
from meshwright.cluster.survey import MANAGER
from meshwright.controller.reconcile import BLOCKED, CONFLICTS, RESYNC, WATCH_PROGRESS, Again, _again_after, readable
from meshwright.mesh.objects import Key, Manifest
from object_store import ObjectStore

Json = dict[str, Any]

DEPLOYMENT = Key("apps/v1", "Deployment", "istio-system", "istiod")
SERVICE = Key("v1", "Service", "istio-system", "istiod")
LET_ALONE = {"metadata": {"annotations": {ANNOTATION_RECONCILE: "disabled"}}}


# From nothing to a mesh


def test_an_install_holds_on_to_the_meshinstall_then_makes_the_trust_and_then_the_rest() -> None:
    world = World()
    assert world.reconcile() == Again(WATCH_PROGRESS)
    first = [str(each) for each in world.changes[:4]]
    assert first == [
        f"merge MeshInstall demo as {MANAGER}",
        f"create Secret {OPERATOR_NAMESPACE}/meshwright-root-demo as meshwright-trust",
        "create Namespace istio-system as meshwright-trust",
        "create Secret istio-system/cacerts as meshwright-trust",
    ]
    assert world.store.objects[MESH]["metadata"]["finalizers"] == [FINALIZER]
    assert {each.key.kind for each in world.changes[4:]}.isdisjoint({"Secret", "MeshInstall"})


def test_an_install_tells_each_step_and_ends() -> None:
    world = World()
    world.reconcile()
    assert (world.ready["status"], world.ready["reason"]) == ("False", "Progressing")
    assert world.ready["message"] == "step 7 of 8 (webhooks): Deployment istio-system/istiod is not there yet"
    assert "MutatingWebhookConfiguration" not in {key.kind for key in world.store.objects}
    assert world.reconcile() == Again(WATCH_PROGRESS)
    assert world.ready["message"] == ("step 7 of 8 (webhooks): 0 of 2 replicas of istiod are ready in cluster primary")
    world.istiod_starts()
    assert world.reconcile() == Again(WATCH_PROGRESS)
    assert "MutatingWebhookConfiguration" in {key.kind for key in world.store.objects}
    assert world.reconcile() == Again(WATCH_PROGRESS)
    assert world.ready["message"].startswith("istiod has not written its CA into")
    world.istiod_writes_its_ca()
    assert world.reconcile() == Again(RESYNC)
    assert (world.ready["status"], world.ready["reason"]) == ("True", "Installed")
    assert world.ready["message"] == "the mesh is as declared"
    assert (world.status["version"], world.status["clustersReady"]) == (VERSION, "1/1")


def test_a_mesh_that_is_as_declared_costs_no_write_also_after_a_restart() -> None:
    world = World()
    world.install()
    for _ in range(2):
        for _ in range(3):
            assert world.reconcile() == Again(RESYNC)
        world.restart()
    assert world.store.writes == []


def test_the_status_counts_every_object() -> None:
    world = World()
    world.install()
    crds = world.store.names("CustomResourceDefinition")
    (cluster,) = world.status["clusters"]
    assert cluster["objects"] == len(world.owned()) + len(crds)
    assert cluster["notReconciled"] == 0


def test_no_key_is_in_anything_but_secrets() -> None:
    world = World()
    world.install()
    keys = [each for each in world.store.objects.values() if each["kind"] == "Secret"]
    assert len(keys) == 2
    bodies = [text for each in keys for name, text in each["data"].items() if "key" in name]
    assert len(bodies) == 2
    rest = repr([each for each in world.store.objects.values() if each["kind"] != "Secret"])
    assert "PRIVATE KEY" not in rest
    assert not any(body[40:80] in rest for body in bodies)


def test_the_finalizers_of_others_stay() -> None:
    world = World()
    world.store.edit(MESH, {"metadata": {"finalizers": ["theirs"]}})
    world.reconcile()
    assert world.store.objects[MESH]["metadata"]["finalizers"] == ["theirs", FINALIZER]


def test_a_finalizer_that_came_meanwhile_is_not_lost() -> None:
    class Busy(ObjectStore):
        """Somebody puts a finalizer on each MeshInstall that has just been read."""

        met = 0

        async def get(self, kind: Kind, *args: Any, **more: Any) -> Manifest | None:
            found = await super().get(kind, *args, **more)
            if kind is MESH_INSTALL:
                self.met += 1
                self.edit(MESH, {"metadata": {"finalizers": [f"theirs-{self.met}"]}})
            return found

    world = World(Busy())
    for _ in range(CONFLICTS):  # that somebody is quicker once is no news
        assert "conditions" not in world.store.objects[MESH].get("status", {})
        assert world.reconcile() == Again(0.0, failed=True)
    assert world.store.objects[MESH]["metadata"]["finalizers"] == [f"theirs-{CONFLICTS}"]
    assert world.ready["reason"] == "Conflict"
    assert {str(each) for each in world.changes} == {f"merge MeshInstall demo as {MANAGER}"}


# Drift, and what is left alone


def test_what_is_deleted_comes_back_and_what_is_changed_is_changed_back() -> None:
    world = World()
    world.install()
    before = world.store.objects[SERVICE]["spec"]
    world.store.edit(SERVICE, {"spec": {"selector": {"app": "drift"}}})
    gone = Key("v1", "ConfigMap", "istio-system", "istio")
    world.store.remove(gone)
    assert world.reconcile() == Again(RESYNC)
    assert world.store.objects[SERVICE]["spec"] == before
    assert gone in world.store.objects


def test_what_an_annotation_excepts_is_said_in_ready() -> None:
    world = World()
    world.install()
    world.store.edit(SERVICE, LET_ALONE)
    world.store.edit(SERVICE, {"spec": {"selector": {"app": "drift"}}})
    assert world.reconcile() == Again(RESYNC)
    assert world.ready["status"] == "True"
    assert world.ready["message"] == (
        "the mesh is as declared, but for what an annotation excepts: Service istio-system/istiod"
    )
    assert world.status["clusters"][0]["notReconciled"] == 1
    assert world.changes == []


def test_what_is_declared_no_more_is_pruned() -> None:
    world = World()
    world.install()
    stray = {**world.store.objects[SERVICE], "metadata": {**world.store.objects[SERVICE]["metadata"], "name": "old"}}
    world.store.put(stray)
    world.reconcile()
    assert [str(each) for each in world.changes] == ["delete Service istio-system/old"]


BY_HAND = {"autoscaling": {"enabled": False}}


def test_an_autoscaler_that_comes_and_goes_never_lowers_the_replicas() -> None:
    world = World(controlPlane=BY_HAND)
    world.install()
    autoscaler = {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"namespace": "istio-system", "name": "a"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "istiod"}},
    }  # fmt: skip
    seen = []

    def look(*, replicas: int | None = None) -> None:
        if replicas:
            world.store.edit(DEPLOYMENT, {"spec": {"replicas": replicas}}, manager="kube-controller-manager")
        for _ in range(2):
            world.reconcile()
            seen.append(world.store.objects[DEPLOYMENT]["spec"]["replicas"])

    look()
    world.store.put(autoscaler)
    look()
    look(replicas=5)
    world.store.remove(Key.of(autoscaler))
    look()
    world.restart()
    look(replicas=3)  # without an autoscaler, kubectl scale is drift
    world.declare(controlPlane={"size": "Medium", **BY_HAND})
    look()
    assert seen[:10] == [2, 2, 2, 2, 5, 5, 5, 5, 5, 5]
    assert seen[10:] == [seen[10]] * 2  # a declared change may lower them
    assert seen[10] != 5


def test_our_own_autoscaler_decides_the_replicas_and_gives_way_to_another() -> None:
    world = World()
    world.install()
    ours = Key("autoscaling/v2", "HorizontalPodAutoscaler", "istio-system", "istiod")
    assert world.store.objects[ours]["spec"]["minReplicas"] == 2
    world.store.edit(DEPLOYMENT, {"spec": {"replicas": 4}}, manager="kube-controller-manager")
    world.istiod_starts()
    assert world.reconcile() == Again(RESYNC)
    assert (world.store.objects[DEPLOYMENT]["spec"]["replicas"], world.ready["status"]) == (4, "True")
    world.store.edit(ours, {"spec": {"minReplicas": 1}})  # by hand: drift
    world.reconcile()
    assert world.store.objects[ours]["spec"]["minReplicas"] == 2
    theirs = {**world.store.objects[ours], "metadata": {"namespace": "istio-system", "name": "theirs"}}
    world.store.put(theirs)
    world.reconcile()
    assert world.store.names("HorizontalPodAutoscaler") == ["theirs"]  # two would pull at one Deployment
    assert world.store.objects[DEPLOYMENT]["spec"]["replicas"] == 4
    world.store.remove(Key.of(theirs))
    world.reconcile()
    assert world.store.names("HorizontalPodAutoscaler") == ["istiod"]
    assert world.store.objects[DEPLOYMENT]["spec"]["replicas"] == 4


# Modes


def test_a_plan_writes_nothing_but_the_status() -> None:
    world = World(mode="Plan")
    assert world.reconcile() == Again(WATCH_PROGRESS)
    assert world.changes == []
    assert (world.ready["status"], world.ready["reason"]) == ("Unknown", "Planned")
    plan = world.status["plan"]
    assert (
        world.ready["message"] == f"{plan['create']} objects would be created, 0 changed and 0 deleted; see status.plan"
    )
    assert (plan["change"], plan["delete"], plan["unchanged"]) == (0, 0, 0)
    assert "version" not in world.status
    applied = World()
    applied.install()
    assert plan["create"] == applied.status["clusters"][0]["objects"]


def test_a_plan_of_what_runs_names_what_would_change() -> None:
    world = World()
    world.install()
    stray = {**world.store.objects[SERVICE], "metadata": {**world.store.objects[SERVICE]["metadata"], "name": "old"}}
    world.store.put(stray)
    world.declare(mode="Plan", controlPlane={"env": {"PILOT_X": "1"}})
    world.reconcile()
    plan = world.status["plan"]
    assert (plan["create"], plan["change"], plan["delete"]) == (0, 1, 1)
    assert plan["objects"] == ["change Deployment istio-system/istiod", "delete Service istio-system/old"]
    assert world.changes == []
    world.declare(mode="Apply")
    world.reconcile()
    assert [f"{each.verb} {each.key}" for each in world.changes] == [
        "apply Deployment istio-system/istiod", "delete Service istio-system/old",
    ]  # fmt: skip
    assert "plan" not in world.status


def test_a_plan_leaves_what_is_said_of_what_runs() -> None:
    world = World()
    world.install()
    known = world.status
    world.declare(
        mode="Plan", version="1.31.5", controlPlane={"size": "Medium"}, meshConfig={"accessLogFile": "/dev/stdout"}
    )
    world.reconcile()
    assert world.status["plan"]["change"] > 0
    assert (world.status["clusters"], world.status["version"]) == (known["clusters"], known["version"])
    parts = {each["type"]: each["status"] for each in world.status["conditions"]}
    assert parts == {**{each["type"]: each["status"] for each in known["conditions"]}, "Ready": "Unknown"}


def test_what_is_paused_stays_as_it_is_until_it_is_applied_again() -> None:
    world = World()
    world.install()
    known = world.status["clusters"]
    world.declare(mode="Paused")
    world.reconcile()
    settled, broken = world.store.objects[DEPLOYMENT]["status"], {"availableReplicas": 0, "readyReplicas": 0}
    for seen, expected in ((settled | broken, "False"), (settled, "True")):
        world.store.edit(DEPLOYMENT, {"status": seen})
        world.reconcile()
        parts = {each["type"]: each["status"] for each in world.status["conditions"]}
        assert parts["ControlPlaneReady"] == expected
    world.store.edit(SERVICE, {"spec": {"selector": {"app": "by hand"}}})
    world.reconcile()
    assert (world.ready["status"], world.ready["reason"]) == ("Unknown", "Paused")
    assert world.ready["message"] == "spec.mode is Paused: nothing is changed until it is Apply"
    assert (world.changes, world.status["clusters"]) == ([], known)
    world.declare(mode="Apply")
    world.reconcile()
    assert [str(each) for each in world.changes] == [f"apply Service istio-system/istiod as {MANAGER}"]


# Overtaken


class Watched(ObjectStore):
    """A watch tells of a newer generation once so many writes were made."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self._writes = writes

    def generation(self, _mesh: str) -> int:
        return 2 if len(self.writes) >= self._writes else 1


def overtaken(writes: int) -> World:
    store = Watched(writes)
    world = World(store)
    world.reconciler._generation_of = store.generation  # noqa: SLF001
    return world


@pytest.mark.parametrize("writes", [1, 2, 5, 20])
def test_a_newer_spec_is_taken_up_at_once_and_nothing_is_said_of_the_older(writes: int) -> None:
    world = overtaken(writes)
    assert world.reconcile() == Again(0.0)
    # What was under way when the word came may end; keys are made together, objects of a wave at the same time.
    assert writes <= len(world.store.writes) < writes + 3
    assert world.status == {}
    world.declare(mode="Paused")
    world.reconcile()
    assert world.ready["reason"] == "Paused"


def test_a_generation_that_is_known_overtakes_nobody() -> None:
    world = World()
    world.newest_generation = 1
    world.install()
    assert world.ready["reason"] == "Installed"


# What stands in the way


def test_a_check_that_objects_ends_it_before_anything_is_written() -> None:
    world = World(version="1.30.3")
    assert world.reconcile() == Again(BLOCKED)
    assert (world.ready["reason"], world.changes) == ("UnsupportedVersion", [])


def test_a_spec_that_does_not_parse_is_said() -> None:
    world = World()
    world.install()
    world.declare(mtls="maybe")
    assert world.reconcile() == Again(BLOCKED, error=True)
    assert world.ready["reason"] == "InvalidSpec"
    assert "spec.mtls" in world.ready["message"]
    assert (world.changes, world.status["version"]) == ([], VERSION)


def test_a_foreign_object_ends_it_before_keys_or_objects_are_made() -> None:
    world = World()
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "istio-system", "name": "istiod"}}
    world.store.put({**theirs, "spec": {"x": 1}}, manager="helm")
    assert world.reconcile() == Again(BLOCKED, error=True)
    assert world.ready["reason"] == "ForeignObject"
    assert world.ready["message"].startswith("Service istio-system/istiod was made by helm: not touched")
    assert {each.key.kind for each in world.changes} == {"MeshInstall"}


def test_sidecars_of_another_root_are_said_before_a_root_is_made() -> None:
    world = World()
    world.run_pod("a")
    bundle = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "apps", "name": "istio-ca-root-cert"},
        "data": {"root-cert.pem": "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"},
    }  # fmt: skip
    world.store.put(bundle, manager="pilot-discovery")
    assert world.reconcile() == Again(BLOCKED, error=True)
    assert world.ready["reason"] == "TrustNotUsable"
    assert "1 in apps" in world.ready["message"]
    assert {each.key.kind for each in world.changes} == {"MeshInstall"}
    world.store.remove(Key.of(bundle))
    assert world.reconcile() == Again(WATCH_PROGRESS)


@pytest.mark.parametrize(
    ("error", "reason", "again"),
    [
        (errors.Unreachable("away"), "ClusterUnreachable", Again(0.0, failed=True)),
        (errors.Throttled("slow down", retry_after=7.0), "ClusterUnreachable", Again(7.0, failed=True)),
        (errors.Forbidden("no pods"), "PermissionDenied", Again(BLOCKED, error=True)),
    ],
)
def test_what_cannot_be_read_is_said_and_looked_at_again(error: MeshwrightError, reason: str, again: Again) -> None:
    class Failing(ObjectStore):
        async def list(self, *_: Any, **__: Any) -> list[Manifest]:
            raise error

    world = World(Failing())
    assert world.reconcile() == again
    assert (world.ready["reason"], world.ready["message"]) == (reason, str(error))
    assert world.changes == []


def test_an_unexpected_error_is_told_without_its_words_and_raised() -> None:
    class Buggy(ObjectStore):
        async def version(self) -> str:
            raise RuntimeError("something with a key in it")

    world = World(Buggy())
    with pytest.raises(RuntimeError):
        world.reconcile()
    assert world.ready["reason"] == "InternalError"
    assert "key" not in world.ready["message"]


def test_a_mesh_that_is_gone_is_forgotten() -> None:
    world = World()
    world.install()
    world.store.remove(MESH)
    assert world.reconcile() is None
    assert "demo" not in world.metrics.exposition().decode()
    assert world.store.writes == []


# When to look again


def subclasses(cls: type[MeshwrightError]) -> list[type[MeshwrightError]]:
    return [cls, *(each for sub in cls.__subclasses__() for each in subclasses(sub))]


@pytest.mark.parametrize("error", subclasses(MeshwrightError), ids=lambda error: error.__name__)
def test_whose_move_it_is_decides_when_we_look_again(error: type[MeshwrightError]) -> None:
    again = _again_after(error("words"))
    if issubclass(error, errors.FinalError | errors.ExternalError):
        assert again == Again(BLOCKED, error=True)
    else:
        assert again == Again(0.0, failed=True)


def test_a_server_that_names_a_time_is_given_it() -> None:
    assert _again_after(errors.Throttled("slow down", retry_after=7.0)) == Again(7.0, failed=True)


def test_a_mesh_whose_spec_does_not_parse_is_still_reported_on() -> None:
    document = manifest(mtls="maybe", namespace="mesh", revision="canary")
    document["metadata"] |= {"uid": "u", "generation": 4}
    mesh = readable(document)
    assert mesh == MeshInstall.salvage(document)
    assert (mesh.name, mesh.uid, mesh.generation) == ("demo", "u", 4)
    assert (mesh.spec.namespace, mesh.spec.revision) == ("mesh", "canary")
    assert readable(manifest()) == MeshInstall.parse(manifest())
