"""survey: what is there in our places, whose it is, and what is left of former times."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

import virtual_time
from meshwright.api.errors import ForeignObject
from meshwright.api.meshinstall import (
    ANNOTATION_ISTIO_API,
    ANNOTATION_RECONCILE,
    LABEL_MANAGED_BY,
    LABEL_MESH,
    LABEL_MESH_ID,
    MANAGED_BY,
)
from meshwright.cluster.kinds import CRD, OWNED, Kind
from meshwright.cluster.survey import Memory, Survey, incarnation, survey
from meshwright.mesh.objects import Key, Manifest, Owner, Rendered
from object_store import ObjectStore

Json = dict[str, Any]

OWNER = Owner("demo", "cluster.local")
LET_ALONE = {"metadata": {"annotations": {ANNOTATION_RECONCILE: "disabled"}}}


def service(name: str = "a", *, labels: Json | None = None, **spec: Any) -> Manifest:
    metadata = {"namespace": "n", "name": name, "labels": OWNER.labels if labels is None else labels}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def key(name: str = "a") -> Key:
    return Key.of(service(name))


def crd(name: str, *fields: str, stamp: str | None = "ours") -> Manifest:
    schema = {"type": "object", "properties": {each: {"type": "string"} for each in fields}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    metadata: Json = {"name": name}
    if stamp:
        metadata |= {"labels": {LABEL_MANAGED_BY: MANAGED_BY}, "annotations": {ANNOTATION_ISTIO_API: stamp}}
    return {
        "apiVersion": CRD.api_version, "kind": CRD.kind, "metadata": metadata,
        "spec": {"group": "g", "scope": "Namespaced", "names": {"plural": "x", "kind": "X"}, "versions": [version]},
    }  # fmt: skip


def look(store: ObjectStore, *wanted: Manifest, memory: Memory | None = None) -> Survey:
    rendered = [Rendered(each) for each in wanted]
    found = asyncio.run(survey(store, rendered, OWNER, memory=memory or Memory(), slots=asyncio.Semaphore(8)))
    assert store.requests == []  # it writes nothing, and tries nothing out
    return found


def names(keys: Iterable[Key]) -> list[str]:
    return sorted(each.name for each in keys)


def test_what_is_there_in_our_places_is_read_whole() -> None:
    store = ObjectStore(service("a", x=1), service("elsewhere"))
    found = look(store, service("a", x=2), service("b"))
    assert {each.name: manifest["spec"] for each, manifest in found.live.items()} == {"a": {"x": 1}}
    assert sorted(store.read) == ["Service n/a", "Service n/b"]
    assert (found.left_alone, found.hindered, found.notes) == (frozenset(), frozenset(), ())


def test_one_list_of_heads_for_each_kind_that_we_own_and_the_crds() -> None:
    store = ObjectStore()
    look(store, service())
    assert store.listed == [
        *((kind.plural, "", OWNER.selector, True) for kind in OWNED),
        (CRD.plural, "", "app.kubernetes.io/managed-by=meshwright", True),
    ]


# What is known need not be read again


def test_what_is_as_it_was_applied_is_not_read_whole() -> None:
    store, memory = ObjectStore(service(x=1)), Memory()
    live = {**store.one("Service"), "status": {"served": True}}
    memory.remember(Rendered(service(x=1)), live)
    found = look(store, service(x=1), memory=memory)
    assert store.read == []
    (manifest,) = found.live.values()
    assert manifest == {
        "apiVersion": "v1", "kind": "Service", "metadata": live["metadata"], "status": {"served": True},
    }  # fmt: skip


@pytest.mark.parametrize("difference", ["another digest", "another version", "another uid", "gone"])
def test_what_may_differ_is_read_whole(difference: str) -> None:
    store, memory = ObjectStore(service(x=1)), Memory()
    memory.remember(Rendered(service(x=2 if difference == "another digest" else 1)), store.one("Service"))
    if difference == "another version":
        store.edit(key(), {"spec": {"x": 2}})
    if difference == "another uid":
        store.objects[key()]["metadata"]["uid"] = "another"
    if difference == "gone":
        store.remove(key())
    found = look(store, service(x=1), memory=memory)
    assert store.read == ["Service n/a"]
    assert bool(found.live) is (difference != "gone")


def test_what_lost_our_labels_is_read_whole_whatever_is_known() -> None:
    """It is in no list any more; that it is not ours now must not be overlooked."""
    store, memory = ObjectStore(service()), Memory()
    memory.remember(Rendered(service()), store.one("Service"))
    store.edit(key(), {"metadata": {"labels": None}})
    with pytest.raises(ForeignObject):
        look(store, service(), memory=memory)


def test_an_incarnation_is_an_object_and_its_version() -> None:
    found = {
        incarnation({"metadata": {"uid": uid, "resourceVersion": version}}) for uid in ("a", "b") for version in "12"
    }
    assert len(found) == 4


def test_no_more_requests_than_slots_are_in_flight() -> None:
    class Slow(ObjectStore):
        in_flight = most = 0

        async def get(self, kind: Kind, name: str, *args: Any, **more: Any) -> Manifest | None:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
            await asyncio.sleep(1)
            self.in_flight -= 1
            return await super().get(kind, name, *args, **more)

    store = Slow()
    wanted = [Rendered(service(str(index))) for index in range(10)]
    virtual_time.run(survey(store, wanted, OWNER, memory=Memory(), slots=asyncio.Semaphore(3)))
    assert (store.most, len(store.read)) == (3, 10)


# What is not ours


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({}, "Service n/a was made by helm"),
        ({LABEL_MANAGED_BY: MANAGED_BY}, "Service n/a was made by helm"),
        ({LABEL_MESH_ID: "cluster.local"}, "Service n/a was made by helm"),
        ({LABEL_MESH: "other"}, "Service n/a belongs to mesh other"),
        ({LABEL_MESH: "other", LABEL_MESH_ID: "cluster.local"}, "Service n/a belongs to mesh other"),
        ({LABEL_MESH: "demo", LABEL_MESH_ID: "old"}, "Service n/a belongs to mesh demo of mesh ID old"),
        ({LABEL_MESH: "demo"}, "Service n/a belongs to mesh demo of no mesh ID"),
    ],
)
def test_whose_a_foreign_object_is(labels: Json, says: str) -> None:
    with pytest.raises(ForeignObject) as caught:
        look(ObjectStore(service(labels=labels), manager="helm"), service())
    assert str(caught.value) == f"{says}: not touched; remove or rename it, or choose another revision"


def test_every_foreign_object_is_named_at_once() -> None:
    store = ObjectStore(service("a", labels={}), service("b"), service("c", labels={LABEL_MESH: "other"}))
    with pytest.raises(ForeignObject, match=r"Service n/a was made by kubectl; Service n/c belongs to mesh other: not"):
        look(store, service("a"), service("b"), service("c"))


def test_an_annotation_makes_nothing_ours() -> None:
    store = ObjectStore(service(labels={}))
    store.edit(key(), LET_ALONE)
    with pytest.raises(ForeignObject):
        look(store, service())


def test_a_namespace_and_crds_may_be_anybodys() -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
    found = look(ObjectStore(namespace, crd("x", stamp=None)), namespace, crd("x"))
    assert names(found.live) == ["n", "x"]
    assert found.left_alone == frozenset()


# Strays


def test_strays_carry_our_labels_and_have_no_place_any_more() -> None:
    others = [
        service("other-mesh", labels={**OWNER.labels, LABEL_MESH: "other"}),
        service("other-id", labels={**OWNER.labels, LABEL_MESH_ID: "other"}),
        service("other-tool", labels={**OWNER.labels, LABEL_MANAGED_BY: "helm"}),
        {**service("other-kind"), "kind": "Secret"},
        crd("crd"),
    ]
    store = ObjectStore(service("wanted"), service("stray"), *others)
    found = look(store, service("wanted"))
    assert names(found.strays) == ["stray"]
    (head,) = found.strays.values()
    assert {name: head["metadata"][name] for name in ("namespace", "name", "uid", "resourceVersion")} == {
        "namespace": "n", "name": "stray", "uid": "uid-2", "resourceVersion": "2",
    }  # fmt: skip


def test_what_goes_already_or_is_excepted_is_no_stray() -> None:
    going = service("going")
    going["metadata"]["deletionTimestamp"] = "x"
    store = ObjectStore(going, service("excepted"), service("stray"))
    store.edit(key("excepted"), LET_ALONE)
    assert names(look(store).strays) == ["stray"]


# What is left alone


@pytest.mark.parametrize(("value", "alone"), [("disabled", True), ("enabled", False), ("", False), ("Disabled", False)])
@pytest.mark.parametrize("known", [False, True])
def test_one_annotation_with_one_value_takes_an_object_out_of_our_hands(
    value: str,
    alone: bool,  # noqa: FBT001
    known: bool,  # noqa: FBT001
) -> None:
    store, memory = ObjectStore(service()), Memory()
    store.edit(key(), {"metadata": {"annotations": {ANNOTATION_RECONCILE: value}}})
    if known:
        memory.remember(Rendered(service()), store.one("Service"))
    found = look(store, service(), memory=memory)
    assert store.read == ([] if known else ["Service n/a"])
    assert (key() in found.left_alone) is alone
    assert found.hindered == frozenset()


def test_a_crd_that_can_do_more_than_ours_is_left_alone_and_noted() -> None:
    theirs, same = crd("theirs", "a", "b", stamp=None), crd("same", "a", stamp=None)
    older, newer = crd("older", "a", stamp="older"), crd("newer", "a", "b", stamp="newer")
    ours = crd("ours", "a", "drift")
    store = ObjectStore(theirs, same, older, newer, ours)
    found = look(store, *(crd(each["metadata"]["name"], "a") for each in (theirs, same, older, newer, ours)))
    assert names(found.hindered) == names(found.left_alone) == ["newer", "theirs"]
    assert found.notes == (
        f"{CRD.kind} theirs, version v1: b is missing in ours", f"{CRD.kind} newer, version v1: b is missing in ours",
    )  # fmt: skip


def test_a_crd_that_is_known_is_not_compared() -> None:
    store, memory = ObjectStore(crd("x", "a")), Memory()
    memory.remember(Rendered(crd("x", "a")), store.one(CRD.kind))
    found = look(store, crd("x", "a"), memory=memory)
    assert (store.read, found.hindered, names(found.live)) == ([], frozenset(), ["x"])
