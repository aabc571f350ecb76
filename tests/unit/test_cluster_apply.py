"""apply: what is written, what is left alone, and what an outcome says, on a server in memory."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import virtual_time
from meshwright.api.errors import Conflict, Forbidden, ForeignObject, NotFound, Rejected, Superseded
from meshwright.api.meshinstall import ANNOTATION_ISTIO_API, ANNOTATION_RECONCILE, LABEL_MANAGED_BY, MANAGED_BY
from meshwright.cluster.apply import LOOKS, NAMED, Applier, Outcome, Proceed, differ
from meshwright.cluster.installers import installers
from meshwright.cluster.kinds import Kind
from meshwright.cluster.survey import BIRTH_MANAGER, MANAGER, Survey
from meshwright.mesh.objects import Birth, Key, Manifest, Owner, Rendered, Step, Wave, crds_established
from meshwright.mesh.observed import named
from meshwright.mesh.ownership import owners, owns
from object_store import ObjectStore

Json = dict[str, Any]

OWNER, OTHER = Owner("demo", "cluster.local"), Owner("other", "cluster.local")
NOTHING = Survey(live={}, strays={}, left_alone=frozenset())
LET_ALONE: Json = {"metadata": {"annotations": {ANNOTATION_RECONCILE: "disabled"}}}


def service(name: str = "a", *, owner: Owner | None = OWNER, namespace: str = "n", **spec: Any) -> Manifest:
    metadata: Json = {"namespace": namespace, "name": name, "labels": owner.labels if owner else {}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def of(kind: str, name: str = "a", api_version: str = "v1", *, namespace: str = "n") -> Manifest:
    metadata: Json = {"name": name, "labels": OWNER.labels} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def key(name: str = "a") -> Key:
    return Key.of(service(name))


def wave(*objects: Manifest | Rendered, **parts: Any) -> Wave:
    return Wave("w", tuple(each if isinstance(each, Rendered) else Rendered(each) for each in objects), **parts)


def at_any_time() -> None:
    """Nothing overtakes the work."""


def apply(
    store: ObjectStore,
    *waves: Wave,
    owner: Owner = OWNER,
    dry_run: bool = False,
    applier: Applier | None = None,
    proceed: Proceed = at_any_time,
    meanwhile: Callable[[], object] = at_any_time,
) -> Outcome:
    """What a reconcile does: look, then bring it there. Without an applier, a process that has just started does."""

    async def run() -> Outcome:
        subject = applier or Applier(store, store)
        found = await subject.survey(waves, owner)
        assert store.asked == before  # it only reads
        meanwhile()
        return await subject.apply(waves, found, owner, dry_run=dry_run, proceed=proceed)

    before = store.asked
    return asyncio.run(run())


def installed(*waves: Wave, owner: Owner = OWNER) -> ObjectStore:
    """Where an earlier process has applied them."""
    store = ObjectStore()
    apply(store, *waves, owner=owner)
    store.requests.clear()
    store.read.clear()
    return store


def counts(outcome: Outcome) -> tuple[int, int, int]:
    return outcome.created, outcome.changed, outcome.unchanged


def spec_of(store: ObjectStore, name: str = "a") -> Json:
    spec: Json = store.objects[key(name)]["spec"]
    return spec


# In sync means silent


def test_what_is_missing_is_created_what_differs_is_changed_and_the_rest_is_kept() -> None:
    store = installed(wave(service("b", x=1), service("c", x=1)))
    outcome = apply(store, wave(service("a", x=1), service("b", x=2), service("c", x=1)))
    assert counts(outcome) == (1, 1, 1)
    assert outcome.objects == ["create Service n/a", "change Service n/b"]
    assert [spec_of(store, name) for name in "abc"] == [{"x": 1}, {"x": 2}, {"x": 1}]


def test_what_was_applied_and_has_not_changed_since_costs_nothing() -> None:
    store = ObjectStore()
    applier = Applier(store, store)
    apply(store, wave(service(x=1)), applier=applier)
    store.requests.clear()
    store.read.clear()
    for _ in range(3):
        assert counts(apply(store, wave(service(x=1)), applier=applier)) == (0, 0, 1)
    assert (store.asked, store.read) == ([], [])


def test_after_a_restart_a_dry_run_decides_once() -> None:
    store = installed(wave(service(x=1)))
    applier = Applier(store, store)
    assert counts(apply(store, wave(service(x=1)), applier=applier)) == (0, 0, 1)
    assert store.asked == [f"try Service n/a as {MANAGER}"]
    assert counts(apply(store, wave(service(x=1)), applier=applier)) == (0, 0, 1)
    assert store.asked == [f"try Service n/a as {MANAGER}"]


def test_after_a_restart_what_differs_is_written() -> None:
    store = installed(wave(service(x=1)))
    assert counts(apply(store, wave(service(x=2)))) == (0, 1, 0)
    assert store.asked == [f"try Service n/a as {MANAGER}", f"apply Service n/a as {MANAGER}"]
    assert spec_of(store) == {"x": 2}


def test_a_field_that_is_not_ours_by_name_is_written_although_its_value_is_right() -> None:
    """Otherwise it would stay when it is declared no more."""
    store = ObjectStore(service(x=1), manager="kubectl")
    assert not owns(store.one("Service"), MANAGER, ("spec", "x"))
    assert counts(apply(store, wave(service(x=1)))) == (0, 1, 0)
    assert owns(store.one("Service"), MANAGER, ("spec", "x"))
    assert counts(apply(store, wave(service(x=1)))) == (0, 0, 1)


def test_a_field_that_is_declared_no_more_is_gone() -> None:
    store = installed(wave(service(x=1, y=1)))
    assert counts(apply(store, wave(service(x=1)))) == (0, 1, 0)
    assert spec_of(store) == {"x": 1}


def test_drift_is_tried_out_and_taken_back_from_the_very_object_that_was_looked_at() -> None:
    store = ObjectStore()
    applier = Applier(store, store)
    apply(store, wave(service(x=1)), applier=applier)
    store.requests.clear()
    store.edit(key(), {"spec": {"x": "drift"}})
    assert counts(apply(store, wave(service(x=1)), applier=applier)) == (0, 1, 0)
    assert store.asked == [f"try Service n/a as {MANAGER}", f"apply Service n/a as {MANAGER}"]
    uid = store.one("Service")["metadata"]["uid"]
    assert [each.body["metadata"].get("uid") for each in store.requests] == [None, uid]
    assert spec_of(store) == {"x": 1}


def test_a_change_of_somebody_elses_field_is_looked_into_once_and_stays() -> None:
    store = ObjectStore()
    applier = Applier(store, store)
    apply(store, wave(service(x=1)), applier=applier)
    store.requests.clear()
    store.edit(key(), {"spec": {"theirs": 1}})
    for _ in range(2):
        assert counts(apply(store, wave(service(x=1)), applier=applier)) == (0, 0, 1)
    assert store.asked == [f"try Service n/a as {MANAGER}"]
    assert spec_of(store) == {"x": 1, "theirs": 1}


def test_a_new_declaration_needs_no_trying_out() -> None:
    store = ObjectStore()
    applier = Applier(store, store)
    apply(store, wave(service(x=1)), applier=applier)
    store.requests.clear()
    assert counts(apply(store, wave(service(x=2)), applier=applier)) == (0, 1, 0)
    assert store.asked == [f"apply Service n/a as {MANAGER}"]


def test_one_that_was_made_again_meanwhile_is_not_written_to() -> None:
    store = installed(wave(service(x=1)))

    def again() -> None:
        store.remove(key())
        store.put(service(x="somebody's", owner=None))

    with pytest.raises(Conflict, match="uid"):
        apply(store, wave(service(x=2)), meanwhile=again)
    assert spec_of(store) == {"x": "somebody's"}


def test_what_was_applied_is_known_of_each_mesh_until_it_is_forgotten() -> None:
    store = ObjectStore()
    applier = Applier(store, store)
    apply(store, wave(service("a")), applier=applier)
    apply(store, wave(service("b", owner=OTHER)), owner=OTHER, applier=applier)
    store.requests.clear()
    applier.forget("demo")
    applier.forget("never there")
    apply(store, wave(service("b", owner=OTHER)), owner=OTHER, applier=applier)
    assert store.asked == []
    apply(store, wave(service("a")), applier=applier)
    assert store.asked == [f"try Service n/a as {MANAGER}"]


def test_what_vanished_in_earnest_is_an_error() -> None:
    store = ObjectStore()
    store.missing.add("n")
    with pytest.raises(NotFound):
        apply(store, wave(service()))


# Creation, and fields that are set once


def test_what_somebody_else_made_meanwhile_is_not_taken_over() -> None:
    store = ObjectStore()
    theirs = service(x="theirs", owner=None)
    with pytest.raises(Conflict):
        apply(store, wave(service(x=1)), meanwhile=lambda: store.put(theirs))
    assert spec_of(store) == {"x": "theirs"}
    (request,) = store.requests
    assert not request.force


BORN = Rendered(service(x=1), birth=Birth(service(x=1, once="yes"), frozenset({"once"})))
BIRTH = [
    f"create Service n/a as {BIRTH_MANAGER}", f"apply Service n/a as {MANAGER}", f"merge Service n/a as {BIRTH_MANAGER}"
]  # fmt: skip


def test_what_is_set_at_birth_is_another_managers_and_nothing_else_is() -> None:
    store = ObjectStore()
    assert counts(apply(store, wave(BORN))) == (1, 0, 0)
    assert store.asked == BIRTH
    live = store.one("Service")
    assert owners(live, ("spec", "once")) == {BIRTH_MANAGER}
    assert owners(live, ("spec", "x")) == {MANAGER}  # so that it goes when it is declared no more
    assert owners(live, ("metadata", "labels", LABEL_MANAGED_BY)) == {MANAGER}
    # The managed fields are written back as they were read, or not at all.
    assert store.requests[2].body["metadata"]["resourceVersion"]


def test_what_was_set_at_birth_is_never_set_again() -> None:
    store = installed(wave(BORN))
    store.edit(key(), {"spec": {"once": "no more"}}, manager="istiod")
    assert counts(apply(store, wave(BORN))) == (0, 0, 1)
    assert store.writes == []
    assert spec_of(store) == {"x": 1, "once": "no more"}
    assert counts(apply(store, wave(Rendered(service(x=2), birth=BORN.birth)))) == (0, 1, 0)
    assert spec_of(store) == {"x": 2, "once": "no more"}


def test_a_birth_does_not_overwrite_what_came_first() -> None:
    store = ObjectStore()
    with pytest.raises(Conflict, match="exists already"):
        apply(store, wave(BORN), meanwhile=lambda: store.put(service(x="theirs", owner=None)))
    assert spec_of(store) == {"x": "theirs"}


@pytest.mark.parametrize("writes", [1, 2])
def test_a_birth_that_was_interrupted_ends_like_one_that_was_not(writes: int) -> None:
    undisturbed, store = installed(wave(BORN)), ObjectStore()
    with pytest.raises(Unplugged):
        apply(Flaky(store, writes), wave(BORN))
    assert len(store.writes) == writes
    apply(store, wave(BORN))
    assert without_versions(store.one("Service")) == without_versions(undisturbed.one("Service"))
    store.requests.clear()
    apply(store, wave(BORN))
    assert store.writes == []


class Unplugged(Exception):
    """The process is no more."""


class Flaky(ObjectStore):
    """A store whose client dies after so many writes."""

    def __init__(self, store: ObjectStore, writes: int) -> None:
        self.__dict__ = store.__dict__
        self._left = writes

    def _note(self, verb: str, *args: Any, **more: Any) -> None:
        if verb != "try":
            if not self._left:
                raise Unplugged
            self._left -= 1
        super()._note(verb, *args, **more)


def without_versions(manifest: Manifest) -> Manifest:
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in ("resourceVersion", "uid")}
    return {**manifest, "metadata": metadata}


def deployment(**spec: Any) -> Manifest:
    return {**of("Deployment", "d", "apps/v1"), "spec": spec}


REPLICAS = ("spec", "replicas")
SCALED = wave(deployment(image="i", replicas=5))
AUTOSCALED = wave(
    Rendered(
        deployment(image="i"),
        birth=Birth(deployment(image="i", replicas=2), frozenset({"replicas"})),
        handed_over=REPLICAS,
    )
)


def test_a_field_that_is_handed_over_has_its_new_owner_before_we_let_go_of_it() -> None:
    store = installed(SCALED)
    assert counts(apply(store, AUTOSCALED)) == (0, 1, 0)
    first, second = store.writes
    assert [str(each) for each in (first, second)] == [
        f"apply Deployment n/d as {BIRTH_MANAGER}", f"apply Deployment n/d as {MANAGER}",
    ]  # fmt: skip
    assert first.body["spec"] == {"replicas": 5}  # that field, and nothing else
    assert set(first.body["metadata"]) == {"name", "namespace", "uid", "resourceVersion"}
    live = store.one("Deployment")
    assert live["spec"]["replicas"] == 5
    assert owners(live, REPLICAS) == {BIRTH_MANAGER}
    store.requests.clear()
    assert counts(apply(store, AUTOSCALED)) == (0, 0, 1)
    assert store.writes == []


def test_a_hand_over_that_was_interrupted_loses_nothing() -> None:
    store = installed(SCALED)
    with pytest.raises(Unplugged):
        apply(Flaky(store, 1), AUTOSCALED)
    assert store.one("Deployment")["spec"]["replicas"] == 5
    apply(store, AUTOSCALED)
    live = store.one("Deployment")
    assert live["spec"]["replicas"] == 5
    assert owners(live, REPLICAS) == {BIRTH_MANAGER}


def test_a_hand_over_never_sets_back_what_an_autoscaler_has_done_meanwhile() -> None:
    store = installed(SCALED)

    def scale() -> None:
        store.edit(Key.of(deployment()), {"spec": {"replicas": 9}}, manager="kube-controller-manager")

    with pytest.raises(Conflict, match="resourceVersion"):
        apply(store, AUTOSCALED, meanwhile=scale)
    assert store.one("Deployment")["spec"]["replicas"] == 9
    apply(store, AUTOSCALED)
    assert store.one("Deployment")["spec"]["replicas"] == 9


def test_a_field_that_was_handed_over_is_its_new_owners_to_change() -> None:
    store = installed(SCALED)
    applier = Applier(store, store)
    apply(store, AUTOSCALED, applier=applier)
    store.edit(Key.of(deployment()), {"spec": {"replicas": 9}}, manager="kube-controller-manager")
    assert counts(apply(store, AUTOSCALED, applier=applier)) == (0, 0, 1)
    assert store.one("Deployment")["spec"]["replicas"] == 9
    # And it can be taken back, with the value that is declared then.
    assert counts(apply(store, wave(deployment(image="i", replicas=9)), applier=applier)) == (0, 1, 0)
    live = store.one("Deployment")
    assert (live["spec"]["replicas"], owns(live, MANAGER, REPLICAS)) == (9, True)


def test_a_field_of_somebody_else_from_the_beginning_is_born_with_a_value() -> None:
    store = installed(AUTOSCALED)
    live = store.one("Deployment")
    assert live["spec"]["replicas"] == 2
    assert owners(live, REPLICAS) == {BIRTH_MANAGER}


def test_a_plan_of_a_hand_over_writes_nothing_and_says_a_change() -> None:
    store = installed(SCALED)
    assert counts(apply(store, AUTOSCALED, dry_run=True)) == (0, 1, 0)
    assert store.writes == []


# What an API server refuses


class OnePortEach(ObjectStore):
    """Merges ports by their number, as Services do, and refuses two of one name."""

    async def apply(self, kind: Kind, manifest: Manifest, **how: Any) -> Manifest:
        live = self.objects.get(Key.of(manifest), {"spec": {}})
        ports = {each["port"]: each for each in (*live["spec"].get("ports", ()), *manifest["spec"].get("ports", ()))}
        if len({each["name"] for each in ports.values()}) < len(ports):
            verb = "try" if how.get("dry_run") else "apply"
            self._note(f"refused {verb}", Key.of(manifest), how["field_manager"], manifest)
            raise Rejected("spec.ports[1].name: Duplicate value")
        return await super().apply(kind, manifest, **how)


DECLARED = service(ports=[{"name": "http", "port": 80}], x=1)


def with_their_port() -> OnePortEach:
    store = OnePortEach()
    apply(store, wave(DECLARED))
    store.edit(key(), {"spec": {"ports": [{"name": "http", "port": 81}]}})
    store.requests.clear()
    return store


def test_a_list_in_which_somebodys_item_contradicts_ours_is_set_whole() -> None:
    store = with_their_port()
    before = store.one("Service")["metadata"]["resourceVersion"]
    assert counts(apply(store, wave(DECLARED))) == (0, 1, 0)
    assert store.asked == [
        f"refused try Service n/a as {MANAGER}", f"refused apply Service n/a as {MANAGER}",
        f"merge Service n/a as {BIRTH_MANAGER}", f"apply Service n/a as {MANAGER}",
        f"merge Service n/a as {BIRTH_MANAGER}",
    ]  # fmt: skip
    assert store.requests[2].body["metadata"]["resourceVersion"] == before
    assert spec_of(store) == {"ports": [{"name": "http", "port": 80}], "x": 1}
    assert owners(store.one("Service"), ("spec", "ports")) == {MANAGER}
    store.requests.clear()
    assert counts(apply(store, wave(DECLARED))) == (0, 0, 1)


def webhooks(*items: Json) -> Manifest:
    return {**of("ValidatingWebhookConfiguration", "v", "admissionregistration.k8s.io/v1", namespace=""),
            "webhooks": list(items)}  # fmt: skip


def webhook(name: str, *, ca: str | None = None, **parts: Any) -> Json:
    bundle = {"caBundle": ca} if ca else {}
    return {"name": name, "clientConfig": {"service": "istiod", **bundle}, **parts}


def test_a_list_of_webhooks_that_is_set_whole_keeps_what_is_istiods() -> None:
    class RefusesTheirs(ObjectStore):
        async def apply(self, kind: Kind, manifest: Manifest, **how: Any) -> Manifest:
            live = self.objects.get(Key.of(manifest), {"webhooks": []})
            if "theirs" in {each["name"] for each in live["webhooks"]}:
                raise Rejected("webhooks[2]: contradicts")
            return await super().apply(kind, manifest, **how)

    declared = webhooks(webhook("judged"), webhook("ours", failurePolicy="Fail"), webhook("new"))
    store = RefusesTheirs()
    apply(store, wave(webhooks(webhook("judged"), webhook("ours", failurePolicy="Fail"))))
    store.put(
        webhooks(
            webhook("judged", ca="CA", failurePolicy="Fail"), webhook("ours", ca="CA", failurePolicy="Ignore"),
            webhook("theirs"),
        ) | {"metadata": store.one("ValidatingWebhookConfiguration")["metadata"]},
        manager="pilot-discovery",
    )  # fmt: skip
    assert counts(apply(store, wave(declared))) == (0, 1, 0)
    assert store.one("ValidatingWebhookConfiguration")["webhooks"] == [
        webhook("judged", ca="CA", failurePolicy="Fail"), webhook("ours", ca="CA", failurePolicy="Fail"),
        webhook("new"),
    ]  # fmt: skip


def test_a_list_that_changed_again_meanwhile_is_not_overwritten() -> None:
    store = with_their_port()
    with pytest.raises(Conflict, match="resourceVersion"):
        apply(store, wave(DECLARED), meanwhile=lambda: store.edit(key(), {"spec": {"theirs": 1}}))
    assert spec_of(store)["ports"] == [{"name": "http", "port": 81}]


def test_a_plan_tells_what_the_api_server_would_refuse() -> None:
    store = with_their_port()
    with pytest.raises(Rejected, match="Duplicate"):
        apply(store, wave(DECLARED), dry_run=True)
    assert [each for each in store.writes if not each.verb.startswith("refused")] == []


def test_what_is_refused_whatever_is_there_is_an_error() -> None:
    store = with_their_port()
    twice = service(ports=[{"name": "a", "port": 1}, {"name": "a", "port": 2}])
    with pytest.raises(Rejected, match="Duplicate"):
        apply(store, wave(twice))


# A plan


def test_a_dry_run_writes_nothing_and_says_the_same() -> None:
    def subject() -> ObjectStore:
        return installed(wave(service("b", x=1), service("stray"), service("kept")))

    born = Rendered(service("c"), birth=Birth(service("c", once="yes"), frozenset({"once"})))
    due = wave(service("a"), service("b", x=2), service("kept")), wave(born)
    planned, done = subject(), subject()
    before = copy.deepcopy(planned.objects)
    outcome = apply(planned, *due, dry_run=True)
    assert counts(outcome) == (2, 1, 1)
    assert outcome.objects == [
        "create Service n/a", "change Service n/b", "create Service n/c", "delete Service n/stray",
    ]  # fmt: skip
    assert planned.objects == before
    assert planned.writes == []
    assert apply(done, *due) == outcome


def test_a_dry_run_knows_that_an_earlier_wave_makes_the_namespace() -> None:
    store = ObjectStore()
    store.missing.add("later")
    assert counts(apply(store, wave(service(namespace="later")), dry_run=True)) == (1, 0, 0)


def test_a_dry_run_remembers_nothing() -> None:
    store = installed(wave(service(x=1)))
    applier = Applier(store, store)
    apply(store, wave(service(x=1)), dry_run=True, applier=applier)
    store.requests.clear()
    apply(store, wave(service(x=1)), applier=applier)
    assert store.asked == [f"try Service n/a as {MANAGER}"]


def test_a_dry_run_waits_for_nothing() -> None:
    outcome = apply(ObjectStore(), wave(service("a")), wave(service("b"), after=lambda _: "ever"), dry_run=True)
    assert (outcome.waiting, outcome.created) == (None, 2)


# What is not ours, or not to be touched


def test_a_foreign_object_stops_everything_before_anything_is_written() -> None:
    store = ObjectStore(service("a", owner=None))
    with pytest.raises(ForeignObject, match="Service n/a was made by kubectl: not touched"):
        apply(store, wave(service("first")), wave(service("a"), after=lambda _: "ever"))
    assert store.asked == []


def test_a_namespace_that_is_there_is_joined() -> None:
    namespace: Manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
    ours = {**namespace, "metadata": {"name": "n", "labels": {"a": "b"}}}
    store = ObjectStore({**namespace, "metadata": {"name": "n", "labels": {"theirs": "stays"}}})
    assert counts(apply(store, wave(ours))) == (0, 1, 0)
    assert store.one("Namespace")["metadata"]["labels"] == {"theirs": "stays", "a": "b"}


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_an_annotation_excepts_is_neither_applied_nor_pruned_and_is_counted(dry_run: bool) -> None:  # noqa: FBT001
    store = installed(wave(service("a", x=1), service("b", x=1), service("stray")))
    for name in ("a", "stray"):
        store.edit(key(name), LET_ALONE)
    store.edit(key("a"), {"spec": {"x": "by hand"}})
    outcome = apply(store, wave(service("a", x=2), service("b", x=1)), dry_run=dry_run)
    assert sorted(outcome.left) == ["Service n/a", "Service n/stray"]
    assert (counts(outcome), outcome.deleted, outcome.objects) == ((0, 0, 1), 0, [])
    assert spec_of(store, "a") == {"x": "by hand"}
    assert [each for each in store.requests if each.key != key("b")] == []


def test_what_was_excepted_is_ours_again_when_the_annotation_goes() -> None:
    store = installed(wave(service(x=1)))
    applier = Applier(store, store)
    apply(store, wave(service(x=1)), applier=applier)
    store.edit(key(), LET_ALONE)
    store.edit(key(), {"spec": {"x": "by hand"}})
    assert apply(store, wave(service(x=1)), applier=applier).left == ["Service n/a"]
    store.edit(key(), {"metadata": {"annotations": {ANNOTATION_RECONCILE: "enabled"}}})
    outcome = apply(store, wave(service(x=1)), applier=applier)
    assert (outcome.left, counts(outcome)) == ([], (0, 1, 0))
    assert spec_of(store) == {"x": 1}


def test_a_wave_sees_also_what_an_annotation_excepts() -> None:
    store, seen = installed(wave(service("a"))), list[str]()

    def look(live: Mapping[Key, Manifest]) -> None:
        seen.extend(each.name for each in live)

    store.edit(key(), LET_ALONE)
    apply(store, wave(service("a")), wave(service("b"), after=look))
    assert seen == ["a"]


# Pruning


WEBHOOK = of("MutatingWebhookConfiguration", "w", "admissionregistration.k8s.io/v1", namespace="")
ROLE = of("ClusterRole", "r", "rbac.authorization.k8s.io/v1", namespace="")


def test_what_is_ours_and_wanted_no_more_goes_in_the_order_of_removal() -> None:
    store = installed(wave(ROLE, service("a"), service("stray"), WEBHOOK, deployment()))
    outcome = apply(store, wave(service("a")))
    expected = [
        "delete MutatingWebhookConfiguration w", "delete Deployment n/d", "delete Service n/stray",
        "delete ClusterRole r",
    ]  # fmt: skip
    assert [str(each) for each in store.writes] == expected == outcome.objects
    assert (outcome.deleted, store.names()) == (4, ["a"])


def test_a_stray_goes_only_as_it_was_looked_at() -> None:
    store = installed(wave(service("stray")))
    before = store.one("Service")["metadata"]
    with pytest.raises(Conflict, match="resourceVersion"):
        apply(store, meanwhile=lambda: store.edit(key("stray"), {"spec": {"x": 1}}))
    assert store.names() == ["stray"]
    (request,) = store.writes
    assert {name: request.body["metadata"][name] for name in ("uid", "resourceVersion")} == {
        name: before[name] for name in ("uid", "resourceVersion")
    }


def test_nothing_is_pruned_while_a_wave_waits() -> None:
    store = installed(wave(service("stray")))
    outcome = apply(store, wave(service("a")), wave(service("b"), after=lambda _: "istiod"))
    assert (outcome.deleted, store.names()) == (0, ["stray", "a"])
    assert apply(store, wave(service("a")), wave(service("b"))).deleted == 1


def test_a_plan_of_pruning_names_what_would_go_and_keeps_it() -> None:
    store = installed(wave(service("stray")))
    outcome = apply(store, wave(), dry_run=True)
    assert (outcome.deleted, outcome.objects, store.writes) == (1, ["delete Service n/stray"], [])


def test_others_and_what_all_share_are_not_pruned() -> None:
    store = installed(wave(service("theirs", owner=OTHER)), owner=OTHER)
    same_name = service("same-name", owner=Owner("demo", "another"))
    going = service("going")
    going["metadata"]["deletionTimestamp"] = "x"
    for each in (service("nobodys", owner=None), same_name, going, declared_crd(), of("Secret"), of("Pod")):
        store.put(each)
    before = store.names()
    assert apply(store).deleted == 0
    assert store.names() == before


# Overtaken


class Overtaken:
    """Lets so many writes pass, and then says that a newer spec is there."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def __call__(self) -> None:
        if not self.left:
            raise Superseded("changed meanwhile")
        self.left -= 1


WORK = wave(BORN), wave(service("new")), wave(service("changed", x=2)), AUTOSCALED
WRITES = [
    *BIRTH, f"apply Service n/new as {MANAGER}", f"apply Service n/changed as {MANAGER}",
    f"apply Deployment n/d as {BIRTH_MANAGER}", f"apply Deployment n/d as {MANAGER}", "delete Service n/stray",
]  # fmt: skip


def before_the_work() -> ObjectStore:
    return installed(wave(service("changed", x=1), service("stray")), SCALED)


@pytest.mark.parametrize("writes", range(len(WRITES)))
def test_before_each_write_it_is_asked_whether_to_go_on(writes: int) -> None:
    store = before_the_work()
    with pytest.raises(Superseded):
        apply(store, *WORK, proceed=Overtaken(writes))
    assert [str(each) for each in store.writes] == WRITES[:writes]


def test_who_is_not_overtaken_comes_to_the_end() -> None:
    store, proceed = before_the_work(), Overtaken(len(WRITES))
    apply(store, *WORK, proceed=proceed)
    assert proceed.left == 0
    assert sorted(store.names()) == ["a", "changed", "d", "new"]


REPAIR = ["refused apply", "merge", "apply", "merge"]


@pytest.mark.parametrize("writes", range(len(REPAIR)))
def test_before_each_write_of_a_repair_it_is_asked_whether_to_go_on(writes: int) -> None:
    store = with_their_port()
    with pytest.raises(Superseded):
        apply(store, wave(DECLARED), proceed=Overtaken(writes))
    assert [each.verb for each in store.writes if each.verb != "refused try"] == REPAIR[:writes]


@pytest.mark.parametrize("writes", range(len(WRITES)))
def test_whoever_goes_on_after_a_crash_at_any_write_comes_to_the_same_end(writes: int) -> None:
    undisturbed, store = before_the_work(), before_the_work()
    apply(undisturbed, *WORK)
    with pytest.raises(Unplugged):
        apply(Flaky(store, writes), *WORK)
    apply(store, *WORK)
    ends = [{each: without_versions(found) for each, found in end.objects.items()} for end in (undisturbed, store)]
    assert ends[0] == ends[1]
    store.requests.clear()
    apply(store, *WORK)
    assert store.writes == []


def test_what_writes_nothing_is_never_overtaken() -> None:
    store = installed(wave(service("a"), service("stray")))
    apply(store, wave(service("a", x=1), service("b")), dry_run=True, proceed=Overtaken(0))
    apply(store, wave(service("a"), service("stray")), proceed=Overtaken(0))


# Waves


def test_a_wave_waits_for_what_was_applied_before_it_and_later_ones_go_on() -> None:
    store, seen = ObjectStore(), list[list[str]]()

    def after(live: Mapping[Key, Manifest]) -> str:
        seen.append([each.name for each in live])
        return f"reason {len(seen)}"

    due = (
        wave(service("a")), Wave("second", (Rendered(service("b")),), after=after), wave(service("c")),
        wave(service("d"), after=after),
    )  # fmt: skip
    outcome = apply(store, *due)
    assert outcome.waiting == Step(2, 4, "second", "reason 1")  # the first of them
    assert str(outcome.waiting) == "step 2 of 4 (second): waiting for reason 1"
    assert store.names() == ["a", "c"]
    assert seen == [["a"], ["a", "c"]]
    assert (counts(outcome), outcome.objects) == ((2, 0, 0), ["create Service n/a", "create Service n/c"])


def test_waiting_holds_back_births_alone() -> None:
    """A webhook that somebody edits while istiod is down is still ours to repair."""
    store = installed(wave(service("edited", x=1), service("kept", x=1)))
    store.edit(key("edited"), {"spec": {"x": "drift"}})
    seen = list[str]()

    def look(live: Mapping[Key, Manifest]) -> None:
        seen.extend(each.name for each in live)

    due = wave(service("edited", x=1), service("new", x=1), service("kept", x=1), after=lambda _: "istiod")
    outcome = apply(store, due, Wave("last", (), after=look))
    assert outcome.waiting == Step(1, 2, "w", "istiod")
    assert (counts(outcome), outcome.objects) == ((0, 1, 1), ["change Service n/edited"])
    assert spec_of(store, "edited") == {"x": 1}
    assert key("new") not in store.objects
    assert seen == ["edited", "kept"]


def test_a_birth_that_waited_comes_with_its_own_fields() -> None:
    store = ObjectStore()
    applier = Applier(store, store)
    apply(store, wave(BORN, after=lambda _: "ever"), applier=applier)
    assert store.asked == []
    assert apply(store, wave(BORN), applier=applier).waiting is None
    assert store.asked == BIRTH


class Uneven(ObjectStore):
    """A server that refuses `a` at once and `b` a little later, and takes its time for `c`."""

    async def apply(self, kind: Kind, manifest: Manifest, **how: Any) -> Manifest:
        name = manifest["metadata"]["name"]
        if name == "a":
            raise Forbidden("a is not allowed")
        await asyncio.sleep(0.01)
        if name == "b":
            raise Rejected("b is not valid")
        await asyncio.sleep(0.01)
        return await super().apply(kind, manifest, **how)


def create_all(store: ObjectStore, *waves: Wave) -> Outcome:
    applied = Applier(store, store).apply(waves, NOTHING, OWNER, dry_run=False, proceed=at_any_time)
    return virtual_time.run(applied)


@pytest.mark.parametrize(("order", "error"), [("abc", "a is not"), ("cba", "b is not"), ("bca", "b is not")])
def test_no_write_of_a_wave_outlives_it_and_the_first_failure_in_order_is_told(order: str, error: str) -> None:
    store, when_over = Uneven(), list[str]()

    async def run() -> None:
        waves = wave(*(service(name) for name in order)), wave(service("never"))
        with pytest.raises((Forbidden, Rejected), match=error):
            await Applier(store, store).apply(waves, NOTHING, OWNER, dry_run=False, proceed=at_any_time)
        when_over.extend(store.names())

    virtual_time.run(run())
    assert when_over == ["c"] == store.names()


class Slow(ObjectStore):
    """A server that takes its time for `slow`, and refuses `bad` at once."""

    async def apply(self, kind: Kind, manifest: Manifest, **how: Any) -> Manifest:
        if manifest["metadata"]["name"] == "bad":
            raise Rejected("bad is not valid")
        if manifest["metadata"]["name"] == "slow":
            await asyncio.sleep(0.01)
        return await super().apply(kind, manifest, **how)


def test_a_wave_apart_holds_nobody_up_but_those_with_a_condition() -> None:
    store, seen = Slow(), list[list[str]]()

    def look(live: Mapping[Key, Manifest]) -> None:
        seen.append(sorted(each.name for each in live))

    waves = wave(service("slow"), apart=True), wave(service("a")), wave(service("b"), after=look)
    outcome = create_all(store, *waves)
    assert store.names() == ["a", "slow", "b"]
    assert seen == [["a", "slow"]]
    assert [line.split("/")[1] for line in outcome.objects] == ["slow", "a", "b"]  # told in the order of the waves


@pytest.mark.parametrize("apart", ["bad", "slow"])
def test_a_failure_beside_a_wave_apart_leaves_no_write_behind(apart: str) -> None:
    store, other = Slow(), {"bad": "slow", "slow": "bad"}[apart]
    waves = wave(service(apart), apart=True), wave(service(other)), wave(service("never"), after=lambda _: None)
    with pytest.raises(Rejected, match="bad is not valid"):
        create_all(store, *waves)
    assert store.names() == ["slow"]


# Istio's CRDs: shared by all meshes, and large


def declared_crd(*fields: str, api: str = "v1.31.4") -> Manifest:
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in ("large", *fields)}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "x", "kind": "X"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "x.istio.io", "labels": {LABEL_MANAGED_BY: MANAGED_BY}, "annotations": {ANNOTATION_ISTIO_API: api},
        },
        "spec": {"group": "istio.io", "scope": "Namespaced", "names": names, "versions": [version]},
    }  # fmt: skip


CRD_KEY = Key.of(declared_crd())
ESTABLISHED: Json = {"conditions": [{"type": "Established", "status": "True"}], "storedVersions": ["v1"]}


def served(crd: Manifest) -> Manifest:
    return {**crd, "status": ESTABLISHED}


def foreign(crd: Manifest) -> Manifest:
    return served({**crd, "metadata": {"name": crd["metadata"]["name"]}})


def test_a_crd_of_somebody_else_gives_way_to_one_that_can_do_all_it_can() -> None:
    store = ObjectStore(foreign(declared_crd()))
    outcome = apply(store, wave(declared_crd("newer")))
    assert (counts(outcome), outcome.notes) == ((0, 1, 0), [])
    assert store.one(CRD_KEY.kind)["spec"] == declared_crd("newer")["spec"]


def test_a_crd_that_can_do_more_than_ours_stays_and_is_noted() -> None:
    theirs = foreign(declared_crd("theirs"))
    store = ObjectStore(theirs)
    outcome = apply(store, wave(declared_crd()), wave(service(), after=crds_established))
    assert (counts(outcome), outcome.left, outcome.waiting) == ((1, 0, 1), [], None)
    (note,) = outcome.notes
    assert note.startswith("CustomResourceDefinition x.istio.io, version v1: theirs is missing in ours")
    assert store.one(CRD_KEY.kind)["spec"] == theirs["spec"]
    assert [each.key.kind for each in store.requests] == ["Service"]


@pytest.mark.parametrize(("api", "expected"), [("v1.31.4", (0, 1, 0)), ("v1.31.5", (0, 0, 1))])
def test_a_crd_of_our_own_release_is_repaired_and_a_newer_one_stays(api: str, expected: tuple[int, int, int]) -> None:
    store = ObjectStore(served(declared_crd("more", api=api)))
    assert counts(apply(store, wave(declared_crd()))) == expected


def reading(store: ObjectStore, applier: Applier, *, owner: Owner = OWNER) -> tuple[bool, Outcome]:
    """Whether the CRD is read whole in a reconcile that also has an object of its kind."""
    store.read.clear()
    policy = wave(service(f"of-{owner.mesh}", owner=owner), after=crds_established)
    outcome = apply(store, wave(declared_crd()), policy, owner=owner, applier=applier)
    return str(CRD_KEY) in store.read, outcome


def test_an_established_crd_is_read_whole_once_and_then_by_its_head() -> None:
    store = ObjectStore(served(declared_crd()))
    applier = Applier(store, store)
    assert reading(store, applier)[0]
    store.requests.clear()
    for _ in range(2):
        whole, outcome = reading(store, applier)
        assert not whole
        assert (outcome.waiting, counts(outcome)) == (None, (0, 0, 2))
    assert store.asked == []


def test_a_crd_that_is_not_established_yet_is_waited_for() -> None:
    store = ObjectStore()
    applier = Applier(store, store)
    assert reading(store, applier)[0]  # it is created
    for _ in range(2):
        outcome = reading(store, applier)[1]
        assert str(outcome.waiting) == f"step 2 of 2 (w): waiting for {CRD_KEY} to be established"
    store.put({**store.objects[CRD_KEY], "status": ESTABLISHED}, manager="apiserver")
    whole, outcome = reading(store, applier)
    assert (whole, outcome.waiting, outcome.created) == (True, None, 1)
    assert not reading(store, applier)[0]


def test_a_crd_that_changed_is_read_whole_and_repaired() -> None:
    store = ObjectStore(served(declared_crd()))
    applier = Applier(store, store)
    reading(store, applier)
    store.edit(CRD_KEY, {"spec": {"scope": "Cluster"}})
    whole, outcome = reading(store, applier)
    assert (whole, outcome.objects) == (True, [f"change {CRD_KEY}"])
    assert store.objects[CRD_KEY]["spec"] == declared_crd()["spec"]
    assert not reading(store, applier)[0]


def test_a_crd_that_is_gone_is_made_again() -> None:
    store = ObjectStore(served(declared_crd()))
    applier = Applier(store, store)
    reading(store, applier)
    store.remove(CRD_KEY)
    store.remove(key("of-demo"))  # as everything of its kind
    outcome = reading(store, applier)[1]
    assert outcome.objects == [f"create {CRD_KEY}"]
    assert outcome.waiting  # the new one is not what was known of the old one


def test_a_crd_of_another_uid_is_another_one() -> None:
    store = ObjectStore(served(declared_crd()))
    applier = Applier(store, store)
    reading(store, applier)
    store.objects[CRD_KEY]["metadata"]["uid"] = "another"
    del store.objects[CRD_KEY]["status"]
    store.remove(key("of-demo"))
    whole, outcome = reading(store, applier)
    assert whole
    assert outcome.waiting


def test_a_crd_is_read_whole_once_for_all_meshes() -> None:
    store = ObjectStore(served(declared_crd()))
    applier = Applier(store, store)
    assert reading(store, applier)[0]
    assert not reading(store, applier, owner=OTHER)[0]
    applier.forget("demo")
    assert not reading(store, applier)[0]


def test_a_crd_whose_labels_and_stamp_were_taken_off_is_stamped_again_when_ours_can_do_all_it_can() -> None:
    store = ObjectStore(served(declared_crd()))
    applier = Applier(store, store)
    reading(store, applier)
    store.edit(CRD_KEY, {"metadata": {"labels": None, "annotations": None}})
    whole, outcome = reading(store, applier)
    assert (whole, outcome.objects) == (True, [f"change {CRD_KEY}"])
    assert store.objects[CRD_KEY]["metadata"]["annotations"] == {ANNOTATION_ISTIO_API: "v1.31.4"}


# What is said


def test_an_outcome_names_the_first_changes_only() -> None:
    outcome = Outcome()
    for index in range(NAMED + 5):
        outcome.add("create", Key("v1", "Service", "n", str(index)))
    assert (outcome.created, len(outcome.objects)) == (NAMED + 5, NAMED)


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("create", Outcome(created=1, objects=["create Service n/a"])),
        ("change", Outcome(changed=1, objects=["change Service n/a"])),
        ("delete", Outcome(deleted=1, objects=["delete Service n/a"])),
        ("keep", Outcome(unchanged=1)),
        ("leave", Outcome(left=["Service n/a"])),
    ],
)
def test_what_an_outcome_counts(verb: str, expected: Outcome) -> None:
    outcome = Outcome()
    outcome.add(verb, key())
    assert outcome == expected


def entry(fields: Json, *, manager: str = MANAGER, operation: str = "Apply") -> Json:
    return {"manager": manager, "operation": operation, "fieldsV1": fields}


OURS = [entry({"f:spec": {"f:a": {}}})]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"status": {"a": 1}}, False),
        (
            {"metadata": {"name": "a", "resourceVersion": "2", "generation": 9, "uid": "u", "managedFields": OURS}},
            False,
        ),
        ({"metadata": {"name": "a", "managedFields": [*OURS, entry({"f:spec": {}}, manager="kubectl")]}}, False),
        ({"metadata": {"name": "a", "managedFields": []}}, True),
        ({"metadata": {"name": "a", "managedFields": [entry({"f:spec": {"f:b": {}}})]}}, True),
        ({"metadata": {"name": "a", "managedFields": OURS, "labels": {"a": "b"}}}, True),
        ({"spec": {"a": 1}}, True),
    ],
)
def test_what_counts_as_a_difference(change: Json, expected: bool) -> None:  # noqa: FBT001
    before = {"kind": "Service", "metadata": {"name": "a", "resourceVersion": "1", "managedFields": OURS}, "spec": {}}
    assert differ(before, {**before, **change}) is expected


def test_managers_are_named_once() -> None:
    fields = [{"manager": "b"}, {"manager": "a"}, {"manager": "b"}, {"manager": ""}, {}]
    assert named(installers({"metadata": {"managedFields": fields}})) == "a and b"


class Busy(ObjectStore):
    """Somebody writes a field of their own between each dry run and what follows it."""

    met = 0

    async def apply(self, kind: Kind, manifest: Manifest, **how: Any) -> Manifest:
        answer = await super().apply(kind, manifest, **how)
        if how.get("dry_run"):
            self.met += 1
            self.edit(key(), {"metadata": {"annotations": {"theirs": str(self.met)}}})
        return answer


def test_who_keeps_writing_fields_of_their_own_does_not_hold_up_a_repair() -> None:
    store = Busy()
    applier = Applier(store, store)
    apply(store, wave(service(x=1)), applier=applier)
    store.edit(key(), {"spec": {"x": "drift"}})
    apply(store, wave(service(x=1)), applier=applier)
    assert spec_of(store) == {"x": 1}
    assert store.met <= LOOKS
    assert store.objects[key()]["metadata"]["annotations"]["theirs"] == str(store.met)


def test_one_that_is_deleted_before_it_is_tried_out_is_looked_at_again() -> None:
    store = ObjectStore()
    applier = Applier(store, store)
    apply(store, wave(service(x=1)), applier=applier)
    store.edit(key(), {"spec": {"x": "drift"}})
    with pytest.raises(Conflict):
        apply(store, wave(service(x=1)), applier=applier, meanwhile=lambda: store.remove(key()))
    assert counts(apply(store, wave(service(x=1)), applier=applier)) == (1, 0, 0)
