"""What is around the sentence: metrics, workers, kopf's settings, and when a key comes again."""

# ruff: noqa: ARG002  # what stands in for a client or store has its signature
from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any, cast

import kopf
import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshwright.api import errors
from meshwright.api.meshinstall import FINALIZER
from meshwright.cluster.kinds import MESH_INSTALL
from meshwright.controller import chassis
from meshwright.controller.__main__ import parser
from meshwright.controller.leader import Leader
from meshwright.controller.metrics import Metrics
from meshwright.controller.reconcile import BLOCKED, Again

Json = dict[str, Any]

# Metrics


def samples(metrics: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_the_version_is_told() -> None:
    assert samples(Metrics(version="1.2.3"))["meshwright_build_info"] == [({"version": "1.2.3"}, 1)]


@pytest.mark.parametrize(("status", "code"), [(200, "200"), (409, "409"), (0, "none")])
def test_requests_are_counted_by_what_they_were(status: int, code: str) -> None:
    metrics = Metrics(version="0")
    metrics.observe_request("GET", "Pod", status, 0.1)
    assert ({"method": "GET", "kind": "Pod", "code": code}, 1) in samples(metrics)["rest_client_requests_total"]


def test_a_mesh_that_is_gone_has_no_series() -> None:
    metrics = Metrics(version="0")
    for mesh in ("a", "b"):
        metrics.condition.labels(mesh, "Ready", "True").set(1)
        metrics.certificate_expiry.labels(mesh, "primary", "root").set(1)
    metrics.forget("a")
    metrics.forget("never there")
    found = samples(metrics)
    for name in ("meshwright_mesh_condition", "meshwright_certificate_expiry_timestamp_seconds"):
        assert [labels["mesh"] for labels, _ in found[name]] == ["b"]


def test_two_operators_count_for_themselves() -> None:
    assert Metrics(version="0").registry is not Metrics(version="0").registry


# Workers


class Scripted:
    """A reconciler that answers as it is told."""

    def __init__(self, *answers: Again | Exception | None) -> None:
        self.answers = list(answers)

    async def reconcile(self, name: str) -> Again | None:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("answer", "result", "dated"),
    [
        (None, "ok", False),
        (Again(15.0), "ok", True),
        (Again(BLOCKED), "ok", True),
        (Again(BLOCKED, error=True), "error", True),
        (Again(0.0, failed=True), "error", True),
        (errors.Unreachable("away"), "error", True),
        (RuntimeError("a bug"), "error", True),
    ],
)
def test_whatever_a_reconcile_comes_to_the_worker_goes_on(answer: Any, result: str, dated: bool) -> None:  # noqa: FBT001
    async def once() -> Metrics:
        leader, metrics = leading(answer)
        await leader._once("demo")  # noqa: SLF001
        assert bool(leader.queue._timers) is dated  # noqa: SLF001
        for timer in leader.queue._timers.values():  # noqa: SLF001
            timer.cancel()
        return metrics

    counted = samples(asyncio.run(once()))["meshwright_reconcile_total"]
    assert counted == [({"result": result}, 1)]


def leading(answer: Any) -> tuple[Leader, Metrics]:
    """A leader whose reconciles come to `answer`."""
    metrics = Metrics(version="0")
    leader = Leader(cast("Any", None), metrics, namespace="n", instance="i", now=lambda: dt.datetime.now(dt.UTC))
    leader._reconciler = cast("Any", Scripted(answer))  # noqa: SLF001
    return leader, metrics


def test_a_worker_that_may_not_write_ends() -> None:
    async def once() -> None:
        leader, _ = leading(errors.LeaseLost("gone"))
        with pytest.raises(errors.LeaseLost):
            await leader._once("demo")  # noqa: SLF001
        assert not leader.queue._timers  # noqa: SLF001

    asyncio.run(once())


def test_the_depth_of_the_queue_is_the_one_of_now() -> None:
    async def depths() -> list[float]:
        leader, metrics = leading(None)
        found = []

        def look() -> None:
            ((_, depth),) = samples(metrics)["workqueue_depth"]
            found.append(depth)

        look()
        for name in "ab":
            leader.queue.add(name)
            look()
        await leader.queue.get()
        look()
        return found

    assert asyncio.run(depths()) == [0, 1, 2, 1]


# kopf


class Watch:
    """The handler of MeshInstalls' events, and whom it wakes."""

    def __init__(self) -> None:
        self.woken: list[tuple[str, int]] = []
        handlers = chassis.registry(lambda *told: self.woken.append(told))._watching.get_all_handlers()  # noqa: SLF001
        (self._handler,) = [
            each.fn for each in handlers if each.selector and each.selector.any_name == MESH_INSTALL.plural
        ]

    def event(self, kind: str | None, name: str = "demo", **meta: Any) -> bool:
        """Whether that event wakes the mesh, and nobody else."""
        before = len(self.woken)
        metadata = {"uid": "u", "generation": 1, "finalizers": [FINALIZER], **meta}
        asyncio.run(cast("Any", self._handler)(name=name, meta=metadata, type=kind, status={}, event={}))
        new = self.woken[before:]
        # Of one that is gone no generation is known: the next of its name begins again at 1.
        assert new in ([], [(name, 0 if kind == "DELETED" else metadata["generation"])])
        return bool(new)


def test_an_event_of_a_status_alone_wakes_nobody() -> None:
    watch = Watch()
    assert watch.event("ADDED", resourceVersion="1")
    assert not watch.event("MODIFIED", resourceVersion="2")
    assert not watch.event("MODIFIED", resourceVersion="3", managedFields=[{"subresource": "status"}])
    assert watch.event("MODIFIED", name="other", resourceVersion="4")  # each is known by itself
    assert not watch.event("MODIFIED", resourceVersion="5")


@pytest.mark.parametrize(
    "change",
    [
        {"uid": "v"},
        {"generation": 2},
        {"deletionTimestamp": "x"},
        {"finalizers": None},
        {"finalizers": []},
        {"finalizers": [FINALIZER, "more"]},
    ],
)
def test_an_event_of_what_concerns_us_wakes_once(change: Json) -> None:
    watch = Watch()
    watch.event("ADDED")
    assert watch.event("MODIFIED", **change)
    assert not watch.event("MODIFIED", **change)
    assert watch.event("MODIFIED")  # and back


def test_every_event_of_a_listing_wakes() -> None:
    """A watch that was interrupted may have missed anything."""
    watch = Watch()
    assert watch.event(None)
    assert watch.event(None)
    assert not watch.event("MODIFIED")


def test_the_end_of_a_mesh_wakes_and_is_the_end_of_what_is_known_of_it() -> None:
    """The API server shows what it deletes as it was last: nothing that concerns us need have changed."""
    watch = Watch()
    watch.event("ADDED")
    assert watch.event("DELETED")
    assert watch.event("ADDED")


def test_kopf_leaves_no_trace_on_objects() -> None:
    settings = kopf.OperatorSettings()
    chassis.configure_chassis(settings)
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.scanning.disabled
    storage = settings.persistence.diffbase_storage
    assert storage.fetch(body=cast("Any", {})) is None
    patch: Json = {}
    storage.store(body=cast("Any", {}), patch=cast("Any", patch), essence=cast("Any", {"spec": 1}))
    assert patch == {}


def test_every_watch_is_ended_before_it_dies_in_silence() -> None:
    settings = kopf.OperatorSettings()
    chassis.configure_chassis(settings)
    assert settings.watching.server_timeout
    assert settings.watching.client_timeout
    assert 0 < settings.watching.server_timeout < settings.watching.client_timeout


def test_handlers_are_for_events_alone() -> None:
    handlers = chassis.registry(lambda _name, _generation: None)
    assert not handlers._changing.get_all_handlers()  # noqa: SLF001
    selectors = [handler.selector for handler in handlers._watching.get_all_handlers()]  # noqa: SLF001
    watched = {each.any_name or each.plural for each in selectors if each}
    assert watched == {MESH_INSTALL.plural}  # all else has informers of ours


def test_of_errors_in_groups_the_first_is_told() -> None:
    lost = errors.LeaseLost("taken by another")
    groups = ExceptionGroup("outer", [ExceptionGroup("inner", [lost, ValueError()]), KeyError()])
    assert chassis.leading(groups) is lost
    assert chassis.leading(lost) is lost


# The command line


@pytest.mark.parametrize(
    ("environment", "namespace"), [({"POD_NAMESPACE": "mine"}, "mine"), ({"POD_NAMESPACE": ""}, "meshwright-system")]
)
def test_the_operators_namespace_is_its_pods(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], namespace: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parser().parse_args([]).namespace == namespace
    assert parser().parse_args(["--namespace", "other"]).namespace == "other"
