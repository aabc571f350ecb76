"""What is around the sentence: metrics, health, the watchdog, kopf's settings, and when a key comes again."""

# ruff: noqa: ARG002  # what stands in for a client or store has its signature
from __future__ import annotations

import asyncio
from typing import Any, cast

import aiohttp
import kopf
import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshes import NOW, manifest
from meshwright.api import errors
from meshwright.api.errors import MeshwrightError
from meshwright.api.meshinstall import FINALIZER
from meshwright.cluster.kinds import MESH_INSTALL
from meshwright.controller import chassis
from meshwright.controller.__main__ import parser
from meshwright.controller.metrics import Metrics
from meshwright.controller.queue import Queue
from meshwright.controller.reconcile import BLOCKED, Again, Reconciler, _again_after, _readable
from meshwright.controller.server import Server, Watchdog
from meshwright.controller.worker import Operator

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


# Health


def test_the_watchdog_names_the_work_that_does_not_end() -> None:
    now = 0.0
    watchdog = Watchdog(limit=10, clock=lambda: now)
    watchdog.begin("slow")
    now = 10
    watchdog.begin("quick")
    assert watchdog() is None
    now = 11
    assert watchdog() == "the reconcile of slow has not ended for 11 s"
    watchdog.end("slow")
    watchdog.end("never begun")
    assert watchdog() is None


@pytest.mark.parametrize(
    ("wrong", "waiting", "healthy", "ready"),
    [
        (None, None, (200, "ok"), (200, "ok")),
        ("stuck", None, (503, "stuck"), (503, "stuck")),
        (None, "starting", (200, "ok"), (503, "starting")),  # alive: a restart would not help
    ],
)
def test_health_and_metrics_are_served(
    wrong: str | None, waiting: str | None, healthy: tuple[int, str], ready: tuple[int, str]
) -> None:
    async def ask() -> list[tuple[int, str]]:
        server = Server(Metrics(version="0"), port=0, healthy=lambda: wrong, ready=lambda: waiting)
        async with server:
            assert server._runner  # noqa: SLF001
            # With port 0 each family has a port of its own; an IPv4 address is a pair.
            port = next(each[1] for each in server._runner.addresses if len(each) == 2)  # noqa: SLF001
            answers = []
            async with aiohttp.ClientSession() as session:
                for path in ("healthz", "readyz", "metrics"):
                    async with session.get(f"http://127.0.0.1:{port}/{path}") as answer:
                        answers.append((answer.status, await answer.text()))
        return answers

    health, readiness, metrics = asyncio.run(ask())
    assert (health, readiness) == (healthy, ready)
    assert metrics[0] == 200
    assert "meshwright_build_info" in metrics[1]


# Again


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
    document = manifest(mtls="maybe")
    document["metadata"] |= {"uid": "u", "generation": 4}
    mesh = _readable(document)
    assert (mesh.name, mesh.uid, mesh.generation) == ("demo", "u", 4)
    assert _readable({**manifest(), "metadata": {"name": "demo", "uid": "u"}}).spec.version == "1.31.4"


class Deleting:
    """A cluster in which a MeshInstall is being deleted, and something fails."""

    def __init__(self, *, fails: MeshwrightError | None, finalizers: list[str]) -> None:
        self.fails = fails
        self.written: list[tuple[str, Json]] = []
        metadata = {"uid": "u", "resourceVersion": "5", "deletionTimestamp": "x", "finalizers": finalizers}
        self.manifest = manifest()
        self.manifest["metadata"] |= metadata

    async def get(self, *_: Any, **__: Any) -> Json:
        return self.manifest

    async def list(self, *_: Any, **__: Any) -> list[Json]:
        if self.fails:
            raise self.fails
        return []

    async def merge(self, kind: Any, name: str, patch: Json) -> None:
        self.written.append((f"merge {kind.kind} {name}", patch))

    async def apply(self, kind: Any, document: Json, *, field_manager: str, subresource: str) -> None:
        self.written.append((f"apply {kind.kind} {subresource}", document))

    async def create(self, kind: Any, document: Json, *, field_manager: str) -> None:
        self.written.append((f"create {kind.kind}", document))


def reconciler(cluster: Deleting) -> Reconciler:
    return Reconciler(
        cast("Any", cluster), Metrics(version="0"), namespace="meshwright-system", instance="i", now=lambda: NOW
    )


def reconcile(cluster: Deleting) -> Again | None:
    return asyncio.run(reconciler(cluster).reconcile("demo"))


def test_a_removal_ends_with_our_finalizer_alone() -> None:
    cluster = Deleting(fails=None, finalizers=["before", FINALIZER, "after"])
    assert reconcile(cluster) is None
    patch = {"metadata": {"resourceVersion": "5", "finalizers": ["before", "after"]}}
    assert cluster.written == [("merge MeshInstall demo", patch)]


def test_after_a_removal_nothing_is_remembered_of_the_mesh_alone() -> None:
    subject = reconciler(Deleting(fails=None, finalizers=[FINALIZER]))
    remembered: Any = subject._applier._applied  # noqa: SLF001
    remembered.update({"demo": {"key": ("digest", "incarnation")}, "other": {}})
    asyncio.run(subject.reconcile("demo"))
    assert remembered == {"other": {}}


def test_a_removal_that_hangs_remembers_what_it_knows() -> None:
    subject = reconciler(Deleting(fails=errors.Forbidden("x"), finalizers=[FINALIZER]))
    subject._applier._applied["demo"] = {}  # noqa: SLF001
    asyncio.run(subject.reconcile("demo"))
    assert "demo" in subject._applier._applied  # noqa: SLF001


def test_a_removal_that_is_not_ours_is_left_alone() -> None:
    cluster = Deleting(fails=errors.Forbidden("never asked"), finalizers=["somebody.else/finalizer"])
    assert reconcile(cluster) is None
    assert cluster.written == []


def test_a_removal_that_hangs_says_what_on() -> None:
    cluster = Deleting(fails=errors.Forbidden("cannot list services"), finalizers=[FINALIZER])
    assert reconcile(cluster) == Again(BLOCKED, error=True)
    written = dict(cluster.written)
    assert "merge MeshInstall demo" not in written
    (ready,) = [each for each in written["apply MeshInstall status"]["status"]["conditions"] if each["type"] == "Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "Deleting")
    assert "cannot list services" in ready["message"]


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
    async def once() -> Operator:
        operator = Operator(namespace="n", instance="i", port=0, version="0", started=0.0)
        await operator._once(cast("Any", Scripted(answer)), "demo")  # noqa: SLF001
        assert bool(operator.queue._timers) is dated  # noqa: SLF001
        for timer in operator.queue._timers.values():  # noqa: SLF001
            timer.cancel()
        return operator

    counted = samples(asyncio.run(once()).metrics)["meshwright_reconcile_total"]
    assert counted == [({"result": result}, 1)]


def test_the_depth_of_the_queue_is_the_one_of_now() -> None:
    async def depths() -> list[float]:
        operator = Operator(namespace="n", instance="i", port=0, version="0", started=0.0)
        found = []

        def look() -> None:
            ((_, depth),) = samples(operator.metrics)["workqueue_depth"]
            found.append(depth)

        look()
        for name in "ab":
            operator.queue.add(name)
            look()
        await operator.queue.get()
        look()
        return found

    assert asyncio.run(depths()) == [0, 1, 2, 1]


# kopf


class Watch:
    """The handler of MeshInstalls' events, and whom it wakes."""

    def __init__(self) -> None:
        self.woken: list[str] = []
        handlers = chassis.registry(self.woken.append)._watching.get_all_handlers()  # noqa: SLF001
        (self._handler,) = [
            each.fn for each in handlers if each.selector and each.selector.any_name == MESH_INSTALL.plural
        ]

    def event(self, kind: str | None, name: str = "demo", **meta: Any) -> bool:
        """Whether that event wakes the mesh, and nobody else."""
        before = len(self.woken)
        metadata = {"uid": "u", "generation": 1, "finalizers": [FINALIZER], **meta}
        asyncio.run(cast("Any", self._handler)(name=name, meta=metadata, type=kind, status={}, event={}))
        new = self.woken[before:]
        assert new in ([], [name])
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
    handlers = chassis.registry(Queue().add)
    assert not handlers._changing.get_all_handlers()  # noqa: SLF001
    selectors = [handler.selector for handler in handlers._watching.get_all_handlers()]  # noqa: SLF001
    watched = {each.any_name or each.plural for each in selectors if each}
    assert watched == {MESH_INSTALL.plural, *(kind.plural for kind in chassis.WATCHED)}


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
