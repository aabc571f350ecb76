"""Scaling in a cluster in memory: what is measured, written down, carried out, and undone."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections import defaultdict
from typing import Any

import pytest
import yaml

from lone import alone
from memory_world import MESH, World
from meshes import NOW
from meshwright.controller.reconcile import Reconciler
from meshwright.controller.reporter import STATUS_MANAGER, Reporter
from meshwright.mesh.objects import Key, Manifest

Json = dict[str, Any]
AUTOSCALER = Key("autoscaling/v2", "HorizontalPodAutoscaler", "istio-system", "istiod")
DEPLOYMENT = Key("apps/v1", "Deployment", "istio-system", "istiod")
LABELS = {"app": "istiod", "istio": "pilot"}
RULE: Json = {"action": "AddReplica", "minPods": 0, "window": "30s", "clearFor": "1m", "coolDown": "1m"}


class Busy(World):
    """A world in which time passes, and istiod tells how slow it is."""

    def __init__(self, **spec: Any) -> None:
        self.now, self.slow = NOW, False
        self.pushes: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))  # quick and slow ones, by pod
        super().__init__(**spec)
        self.store.proxied = self._metrics  # type: ignore[assignment, method-assign]
        self.store.forwarded = self._mesh_config  # type: ignore[method-assign]

    def restart(self) -> None:
        reporter = Reporter(self.store, self.metrics, instance="me", now=lambda: self.now)
        self.reconciler = Reconciler(alone(self.store), reporter, now=lambda: self.now)

    async def _metrics(self, _namespace: str, pod: str, *_: Any, **__: Any) -> bytes:
        seconds = (self.now - NOW).total_seconds()
        fast, slow = self.pushes[pod]
        fast, slow = self.pushes[pod] = (fast + (0 if self.slow else 50), slow + (50 if self.slow else 0))
        return (
            f"process_start_time_seconds 1\nprocess_cpu_seconds_total {seconds / 10}\n"
            "process_resident_memory_bytes 1e8\n"
            f'pilot_xds_push_time_bucket{{type="cds",le="0.1"}} {fast}\n'
            f'pilot_xds_push_time_bucket{{type="cds",le="3"}} {fast + slow}\n'
            f'pilot_xds_push_time_bucket{{type="cds",le="+Inf"}} {fast + slow}\n'
        ).encode()

    async def _mesh_config(self, *_: Any, **__: Any) -> bytes:
        return json.dumps(yaml.safe_load(self.store.one("ConfigMap", "istio")["data"]["mesh"])).encode()

    @property
    def actions(self) -> list[Manifest]:
        return [each for key, each in sorted(self.store.objects.items()) if key.kind == "MeshAction"]

    @property
    def phases(self) -> list[str]:
        return [each.get("status", {}).get("phase", "") for each in self.actions]

    def looks(self, seconds: float, *, slow: bool) -> None:
        self.slow = slow
        end = self.now + dt.timedelta(seconds=seconds)
        while self.now < end:
            self.look()

    def look(self) -> None:
        """Until nothing is to be done at once; what is declared comes about."""
        while (again := asyncio.run(self.reconciler.reconcile("demo"))) and again.after == 0.0:
            pass
        self.comes_about()
        self.now += dt.timedelta(seconds=15)

    def comes_about(self) -> None:
        """The autoscaler keeps its bounds, and the pods are there."""
        deployment, autoscaler = self.store.objects[DEPLOYMENT], self.store.objects.get(AUTOSCALER)
        replicas = deployment["spec"].get("replicas", 1)
        if autoscaler:
            replicas = autoscaler["spec"]["minReplicas"]
        status = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas", "readyReplicas"), replicas)
        generation = deployment["metadata"].get("generation", 1)
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        for key in [key for key in self.store.objects if key.kind == "Pod"]:
            del self.store.objects[key]
        for number in range(replicas):
            metadata = {"namespace": "istio-system", "name": f"istiod-{number}", "labels": LABELS}
            self.store.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, **ready})
        self.store.edit(
            DEPLOYMENT, {"spec": {"replicas": replicas}, "status": {**status, "observedGeneration": generation}}
        )


@pytest.fixture
def busy() -> Busy:
    world = Busy(scaling={"rules": [RULE]})
    world.install()
    return world


def test_the_same_mesh_without_the_load_is_left_alone(busy: Busy) -> None:
    busy.looks(600, slow=False)
    assert busy.actions == []
    assert busy.store.objects[AUTOSCALER]["spec"]["minReplicas"] == 2


def test_from_the_first_sign_to_the_undoing(busy: Busy) -> None:
    busy.looks(120, slow=True)
    assert busy.phases in (["Acting"], ["Verifying"])
    assert busy.store.objects[AUTOSCALER]["spec"] | {"metrics": None, "scaleTargetRef": None} == {
        "minReplicas": 3, "maxReplicas": 4, "metrics": None, "scaleTargetRef": None,
    }  # fmt: skip
    scaling = busy.store.objects[MESH]["status"]["scaling"]
    assert (scaling["inFlight"], scaling["standing"]) == (1, 0)
    busy.looks(180, slow=False)
    busy.looks(300, slow=False)
    assert busy.phases == ["Undone"]
    assert busy.store.objects[AUTOSCALER]["spec"]["minReplicas"] == 2
    assert busy.actions[0]["spec"]["record"]
    assert busy.actions[0]["metadata"]["ownerReferences"][0]["name"] == "demo"


def test_what_every_rule_says_is_in_the_status(busy: Busy) -> None:
    busy.looks(60, slow=False)
    (cluster,) = busy.store.objects[MESH]["status"]["clusters"]
    states = {each["action"]: each["state"] for each in cluster["scaling"]["rules"]}
    assert states["AddReplica"] == "Quiet"
    assert states["DiscoverySelectors"] == "Unarmed"
    assert cluster["scaling"]["nextSize"] == "0 pods in the mesh; next size: Medium from 500 pods on"
    assert cluster["scaling"]["reconnects"] == {"oneReplica": "0.0s", "restart": "0.0s"}


def test_a_quiet_mesh_is_not_written_about_at_every_look(busy: Busy) -> None:
    busy.looks(120, slow=False)
    busy.store.requests.clear()
    busy.looks(120, slow=False)
    assert [each for each in busy.store.requests if each.verb not in ("try", "get", "list")] == []


def test_another_process_goes_on_with_what_was_begun(busy: Busy) -> None:
    busy.looks(75, slow=True)
    assert len(busy.actions) == 1
    busy.restart()
    busy.looks(60, slow=True)
    assert len(busy.actions) == 1
    assert busy.store.objects[AUTOSCALER]["spec"]["minReplicas"] == 3


def test_to_delete_an_action_is_to_undo_it(busy: Busy) -> None:
    busy.looks(90, slow=True)
    assert busy.store.objects[AUTOSCALER]["spec"]["minReplicas"] == 3
    (key,) = [key for key in busy.store.objects if key.kind == "MeshAction"]
    busy.looks(75, slow=False)  # else it would be decided anew
    del busy.store.objects[key]
    busy.look()
    assert busy.store.objects[AUTOSCALER]["spec"]["minReplicas"] == 2


def test_bounds_that_were_edited_by_hand_are_put_right(busy: Busy) -> None:
    busy.looks(90, slow=True)
    busy.store.edit(AUTOSCALER, {"spec": {"minReplicas": 1, "maxReplicas": 9}})
    busy.look()
    assert busy.store.objects[AUTOSCALER]["spec"]["minReplicas"] == 3
    assert busy.store.objects[AUTOSCALER]["spec"]["maxReplicas"] == 4


# -- crashes


class _Dead(Exception):
    pass


def _run(busy: Busy, dies_before: int | None) -> tuple[list[Any], int]:
    """A life from quiet to busy to quiet; the operator dies before one of its writes, and another one goes on."""
    writes = 0
    noted = busy.store._note  # noqa: SLF001

    def note(verb: str, key: Key, manager: str, body: Manifest, *, force: bool = True) -> None:
        nonlocal writes, dies_before
        if verb != "try" and manager not in ("kubectl", STATUS_MANAGER) and key.kind != "Event":
            if writes == dies_before:
                dies_before = None
                raise _Dead
            writes += 1
        noted(verb, key, manager, body, force=force)

    busy.store._note = note  # type: ignore[method-assign]  # noqa: SLF001
    seen: list[Any] = []
    for number in range(30):
        busy.slow = 3 <= number < 8
        try:
            busy.look()
        except _Dead:
            busy.restart()
            busy.now += dt.timedelta(seconds=15)
        seen.append((busy.phases, busy.store.objects[AUTOSCALER]["spec"]["minReplicas"]))
    return seen, writes


def test_a_death_before_any_write_neither_loses_nor_repeats_an_action() -> None:
    def world() -> Busy:
        busy = Busy(scaling={"rules": [RULE]})
        busy.install()
        return busy

    untouched, writes = _run(world(), None)
    assert untouched[-1] == (["Undone"], 2)
    assert writes > 5
    for dies_before in range(writes):
        busy = world()
        seen, _ = _run(busy, dies_before)
        assert seen[-1] == (["Undone"], 2), dies_before
        assert all(len(phases) <= 1 for phases, _ in seen), dies_before
        # What is in force was written down before.
        assert all(replicas == 2 or phases for phases, replicas in seen), dies_before
