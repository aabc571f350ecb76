"""The reporter: one status write if anything is different, an Event if Ready turned, and what is measured."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshes import NOW, TRUST, cluster, injector, istiod, manifest
from meshwright.api.errors import Conflict, Forbidden, MeshwrightError
from meshwright.api.meshinstall import FINALIZER, MeshInstall
from meshwright.cluster.apply import Outcome
from meshwright.cluster.kinds import Kind
from meshwright.controller.metrics import Metrics
from meshwright.controller.report import Attempt
from meshwright.controller.reporter import STATUS_MANAGER, Reporter
from meshwright.mesh.census import Answer, Earliest
from meshwright.mesh.enrolment import Injection
from meshwright.mesh.evidence import Replies
from meshwright.mesh.findings import Finding
from meshwright.mesh.objects import Key, Manifest
from meshwright.mesh.observed import GatewayPods
from object_store import ObjectStore

Json = dict[str, Any]

MESH = Key.of(manifest())
SEEN = cluster(istiods=(istiod(),), injectors=(injector(),), proxies=3)
STATUS_WRITE = f"apply status of MeshInstall demo as {STATUS_MANAGER}"


class World:
    """A store with MeshInstall demo, and what was measured."""

    def __init__(self, store: ObjectStore | None = None, **spec: Any) -> None:
        self.store = store or ObjectStore()
        self.store.put({**manifest(**spec), "status": {}})
        self.metrics = Metrics(version="0")
        self.reporter = Reporter(self.store, self.metrics, instance="me", now=lambda: NOW)

    def report(self, finding: Finding | None = None, **parts: Any) -> None:
        mesh = MeshInstall.parse(self.store.objects[MESH])
        usual: Json = {"clusters": (SEEN,), "outcomes": {"primary": Outcome()}, "trusts": {"primary": TRUST}}
        asyncio.run(self.reporter.report(Attempt(mesh=mesh, finding=finding, **{**usual, **parts})))

    @property
    def events(self) -> list[Manifest]:
        return [each for key, each in self.store.objects.items() if key.kind == "Event"]

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """By the values of the labels, in the order of the labels' names."""
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.metrics.exposition().decode())
            for sample in family.samples
            if sample.name == f"meshwright_{name}"
        }


def test_a_status_is_written_once_and_an_event_when_ready_turns() -> None:
    world = World()
    world.report()
    (event,) = world.events
    assert world.store.asked == [STATUS_WRITE, f"create {Key.of(event)} as {STATUS_MANAGER}"]
    world.report()
    assert len(world.store.asked) == 2
    world.report(Finding("Progressing", "a"))
    world.report(Finding("Progressing", "b"))
    assert [each["reason"] for each in world.events] == ["Installed", "Progressing"]
    assert [str(each) for each in world.store.requests if each.key == MESH] == [STATUS_WRITE] * 3


def test_a_status_is_written_of_the_very_mesh_that_was_looked_at() -> None:
    world = World()
    mesh = MeshInstall.parse(world.store.objects[MESH])
    world.store.remove(MESH)
    world.store.put({**manifest(), "status": {}})
    with pytest.raises(Conflict, match="uid"):
        asyncio.run(world.reporter.report(Attempt(mesh=mesh)))
    assert (world.store.objects[MESH]["status"], world.events) == ({}, [])


def test_a_status_that_cannot_be_written_is_an_error() -> None:
    class Refusing(ObjectStore):
        async def apply(self, *_: Any, **__: Any) -> Manifest:
            raise Forbidden("no status")

    world = World(Refusing())
    with pytest.raises(Forbidden):
        world.report()
    assert world.events == []


@pytest.mark.parametrize("error", [Forbidden("no events"), Conflict("x")])
def test_an_event_that_cannot_be_written_changes_nothing(error: MeshwrightError) -> None:
    class NoEvents(ObjectStore):
        async def create(
            self, kind: Kind, manifest: Manifest, *, field_manager: str, dry_run: bool = False
        ) -> Manifest:
            assert not dry_run
            assert (kind.kind, manifest["reason"], field_manager) == ("Event", "Installed", STATUS_MANAGER)
            raise error

    world = World(NoEvents())
    world.report()
    assert world.store.asked == [STATUS_WRITE]


def test_the_event_says_what_the_condition_says() -> None:
    world = World()
    world.report(Finding("ForeignObject", "Service n/a was made by helm"))
    (event,) = world.events
    assert (event["reason"], event["note"], event["type"]) == (
        "ForeignObject", "Service n/a was made by helm", "Warning",
    )  # fmt: skip
    assert (event["reportingInstance"], event["regarding"]["name"]) == ("me", "demo")


# What is measured


def test_conditions_are_measured_each_time() -> None:
    world = World()
    for finding, ready in ((None, "True"), (Finding("Progressing", "x"), "False"), (Finding("Paused", "x"), "Unknown")):
        world.report(finding)
        found = {key[1]: value for key, value in world.series("mesh_condition").items() if key[2] == "Ready"}
        assert found == {value: float(value == ready) for value in ("True", "False", "Unknown")}


@pytest.mark.parametrize("mode", ["Apply", "Plan", "Paused"])
def test_the_mode_is_measured(mode: str) -> None:
    world = World(mode=mode)
    world.report()
    assert world.series("mesh_mode") == {("demo", each): float(each == mode) for each in ("Apply", "Plan", "Paused")}


def test_objects_are_measured_by_whether_they_are_reconciled() -> None:
    world = World()
    world.report(outcomes={"primary": Outcome(created=1, changed=2, deleted=9, unchanged=3, left=["a", "b"])})
    counted = {("primary", "demo", "reconciled"): 6.0, ("primary", "demo", "disabled"): 2.0}
    assert world.series("mesh_objects") == counted
    world.report(Finding("ClusterUnreachable", "x"), clusters=(), outcomes={})  # as they were known
    assert world.series("mesh_objects") == counted
    world.report(outcomes={"primary": Outcome(unchanged=8)})
    assert world.series("mesh_objects") == {key: 8.0 * (key[2] == "reconciled") for key in counted}


def test_the_end_of_certificates_is_measured() -> None:
    world = World()
    world.report()
    assert world.series("certificate_expiry_timestamp_seconds") == {
        ("root", "primary", "demo"): TRUST.root_expires.timestamp(),
        ("intermediate", "primary", "demo"): TRUST.intermediate_expires.timestamp(),
    }


def test_what_runs_is_measured() -> None:
    answer = Answer(pod="a", mesh_config={}, proxies_by_version={"1.31.4": 2, "1.30.0": 1})
    earliest = Earliest(pod="shop/a", expires=NOW + dt.timedelta(hours=3), read=1, of=1)
    gateway = GatewayPods(namespace="edge", name="in", owner="demo", replicas=3, available=1)
    there = replace(
        SEEN, gateways=(gateway,), injection=Injection(expected=5, missing=2, outdated=1, pods=("shop/b: no sidecar",))
    )
    world = World()
    world.store.edit(MESH, {"metadata": {"finalizers": [FINALIZER]}})
    world.report(clusters=(there,), replies={"primary": Replies((answer,), earliest)})
    assert world.series("mesh_proxies") == {("primary", "demo", "1.31.4"): 2.0, ("primary", "demo", "1.30.0"): 1.0}
    assert world.series("mesh_pods") == {
        ("primary", "demo", "expected"): 5.0, ("primary", "demo", "missing"): 2.0,
        ("primary", "demo", "outdated"): 1.0,
    }  # fmt: skip
    assert world.series("mesh_replicas") == {
        ("primary", "demo", "wanted", "istiod"): 2.0, ("primary", "demo", "ready", "istiod"): 2.0,
        ("primary", "demo", "wanted", "in"): 3.0, ("primary", "demo", "ready", "in"): 1.0,
    }  # fmt: skip
    assert world.series("certificate_expiry_timestamp_seconds")["workload", "primary", "demo"] == (
        (NOW + dt.timedelta(hours=3)).timestamp()
    )
    # What is gone has no series any more.
    world.report(replies={"primary": Replies((Answer(pod="a", mesh_config={}, proxies_by_version={"1.31.4": 3}),))})
    assert world.series("mesh_proxies") == {("primary", "demo", "1.31.4"): 3.0}
    assert {key[-1] for key in world.series("mesh_replicas")} == {"istiod"}


def test_what_did_not_change_is_not_written_but_measured() -> None:
    world = World()
    world.report()
    world.reporter.forget("demo")
    assert world.series("mesh_mode") == {}
    world.report()
    assert len([each for each in world.store.requests if each.key == MESH]) == 1
    assert world.series("mesh_mode")["demo", "Apply"] == 1


def test_a_mesh_that_is_gone_is_measured_no_more() -> None:
    world = World()
    world.report()
    world.reporter.forget("demo")
    world.reporter.forget("never there")
    for name in ("mesh_condition", "mesh_mode", "mesh_objects", "certificate_expiry_timestamp_seconds"):
        assert world.series(name) == {}
