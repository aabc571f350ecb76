"""The mirror: which questions are answered from memory, and whom a change concerns."""

# ruff: noqa: ARG002  # what stands in for a client has its signature
from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import virtual_time
from meshwright.api.errors import Unreachable
from meshwright.cluster.client import Client
from meshwright.cluster.informer import Informer
from meshwright.cluster.kinds import (
    CONFIG_MAP,
    CRD,
    DEPLOYMENT,
    INJECTABLE_POD,
    LIVING_POD,
    MUTATING_WEBHOOK,
    NAMESPACE,
    OWNED,
    POD,
    Kind,
)
from meshwright.cluster.mirror import Mirror, mirror_of
from meshwright.cluster.pods import NO_SIDECAR, lean_pod

Json = dict[str, Any]
OURS = "app.kubernetes.io/managed-by=meshwright"


class Served(Client):
    """What there is, by plural; it changes only when something `happens`. What is asked besides is written down."""

    def __init__(self, **objects: list[Json]) -> None:  # no connection
        self.objects = objects
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.watches: list[tuple[Kind, str, asyncio.Queue[tuple[str, Json]]]] = []

    async def pages(self, kind: Kind, namespace: str = "", *, labels: str = "", **_: Any) -> Any:
        yield {"metadata": {"resourceVersion": "100"}, "items": self._of(kind, labels)}

    async def watch(self, kind: Kind, *, labels: str = "", **_: Any) -> Any:
        events: asyncio.Queue[tuple[str, Json]] = asyncio.Queue()
        self.watches.append((kind, labels, events))
        if kind.plural in self.broken:
            raise Unreachable(f"watch {kind.plural}: reset")
        while True:
            yield await events.get()

    async def happens(self, event: str, kind: Kind, manifest: Json) -> None:
        """To be told by all watches under whose selector it is."""
        for watched, labels, events in self.watches:
            if watched == kind and matches(manifest, labels):
                await events.put((event, manifest))
        await asyncio.sleep(1)

    async def get(self, kind: Kind, name: str, namespace: str = "", *, metadata_only: bool = False) -> Json | None:
        self.asked.append(f"get {kind.plural} {name}")
        return next((each for each in self.objects.get(kind.plural, []) if each["metadata"]["name"] == name), None)

    async def list(self, kind: Kind, namespace: str = "", *, labels: str = "", metadata_only: bool = False) -> Any:
        self.asked.append(f"list {kind.plural}")
        return self._of(kind, labels)

    async def version(self) -> str:
        self.asked.append("version")
        return "v1.36.1"

    def _of(self, kind: Kind, labels: str) -> Any:
        return [each for each in self.objects.get(kind.plural, []) if matches(each, labels)]


def matches(manifest: Json, labels: str) -> bool:
    """Of the terms `a=b` and `a!=b`; the others are true."""
    terms = [term.split("=") for term in labels.split(",") if term.count("=") == 1]
    own: dict[str, str] = manifest["metadata"].get("labels", {})
    return all((own.get(key.rstrip("!")) == text) != key.endswith("!") for key, text in terms)


def thing(name: str, version: int = 7, *, namespace: str = "n", **labels: str) -> Json:
    metadata = {"name": name, "namespace": namespace, "uid": "u", "resourceVersion": str(version)}
    return {"metadata": {**metadata, "labels": {key.replace("__", "/"): text for key, text in labels.items()}}}


def names(manifests: list[Json]) -> list[str]:
    return [each["metadata"]["name"] for each in manifests]


def ask(mirror: Mirror, job: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """With all informers synced."""

    async def life() -> Any:
        task = asyncio.create_task(mirror.run())
        await asyncio.sleep(10)
        assert mirror.synced
        try:
            return await job()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return virtual_time.run(life())


# informer, what it keeps, query, whether from memory
COVERED: dict[str, tuple[str, Json, str, Json, bool]] = {
    "the same selector": ("a=b", {}, "a=b", {"metadata_only": True}, True),
    "a narrower question": ("a=b", {}, "c=d,a=b", {"metadata_only": True}, True),
    "all of a kind": ("", {}, "a=b", {"metadata_only": True}, True),
    "in one namespace": ("a=b", {}, "a=b", {"metadata_only": True, "namespace": "n"}, True),
    "a wider question": ("a=b,c=d", {}, "a=b", {"metadata_only": True}, False),
    "no selector": ("a=b", {}, "", {"metadata_only": True}, False),
    "another value": ("a=b", {}, "a=x", {"metadata_only": True}, False),
    "more than metadata": ("a=b", {}, "a=b", {}, False),
    "more than metadata, kept": ("a=b", {"metadata_only": False}, "a=b", {}, True),
    "metadata, more kept": ("a=b", {"metadata_only": False}, "a=b", {"metadata_only": True}, True),
    "labels that are not kept": ("a=b", {"keeps_labels": False}, "a=b,c=d", {"metadata_only": True}, False),
    "labels that need not be kept": ("a=b", {"keeps_labels": False}, "a=b", {"metadata_only": True}, True),
    "another form: unequal": ("a=b", {}, "a=b,c!=d", {"metadata_only": True}, False),
    "another form: exists": ("a=b", {}, "a=b,c", {"metadata_only": True}, False),
    "another form: set": ("a=b", {}, "a=b,c in (d)", {"metadata_only": True}, False),
    "another form, the same": ("a!=b", {"keeps_labels": False}, "a!=b", {"metadata_only": True}, True),
    "another form: double": ("a=b", {}, "a==b", {"metadata_only": True}, False),
}


@pytest.mark.parametrize(("selector", "keeps", "query", "more", "remembered"), COVERED.values(), ids=COVERED)
def test_a_list_is_answered_by_an_informer_that_covers_it(
    selector: str, keeps: Json, query: str, more: Json, *, remembered: bool
) -> None:
    client = Served(configmaps=[thing("one", a="b"), thing("two", a="b", c="d"), thing("three")])
    mirror = Mirror(client, Informer(client, CONFIG_MAP, labels=selector, **keeps))
    found = ask(mirror, lambda: mirror.list(CONFIG_MAP, labels=query, **more))
    assert client.asked == ([] if remembered else ["list configmaps"])
    assert sorted(names(found)) == sorted(names(client._of(CONFIG_MAP, query)))  # noqa: SLF001


def test_a_namespace_is_filtered_in_memory() -> None:
    client = Served(configmaps=[thing("one"), thing("two", namespace="other")])
    mirror = Mirror(client, Informer(client, CONFIG_MAP))
    assert names(ask(mirror, lambda: mirror.list(CONFIG_MAP, "other", metadata_only=True))) == ["two"]
    assert client.asked == []


def test_another_kind_is_asked_of_the_server() -> None:
    client = Served(configmaps=[thing("one")], pods=[thing("two")])
    mirror = Mirror(client, Informer(client, CONFIG_MAP))
    assert names(ask(mirror, lambda: mirror.list(POD, metadata_only=True))) == ["two"]
    assert client.asked == ["list pods"]


@pytest.mark.parametrize(
    ("name", "metadata_only", "remembered"),
    [("ours", True, True), ("ours", False, False), ("foreign", True, False), ("nobody's", True, False)],
)
def test_a_get_is_answered_when_the_object_is_known(name: str, *, metadata_only: bool, remembered: bool) -> None:
    client = Served(configmaps=[thing("ours", a="b"), thing("foreign")])
    mirror = Mirror(client, Informer(client, CONFIG_MAP, labels="a=b"))
    found = ask(mirror, lambda: mirror.get(CONFIG_MAP, name, "n", metadata_only=metadata_only))
    assert (found is None) == (name == "nobody's")
    assert client.asked == ([] if remembered else [f"get configmaps {name}"])


def test_a_head_without_labels_is_no_answer_to_a_get() -> None:
    client = Served(pods=[thing("one", a="b")])
    mirror = Mirror(client, Informer(client, POD, labels="a=b", lean=lean_pod, keeps_labels=False))
    found = ask(mirror, lambda: mirror.get(POD, "one", "n", metadata_only=True))
    assert found["metadata"]["labels"] == {"a": "b"}


def test_a_view_that_may_be_old_is_not_asked() -> None:
    client = Served(configmaps=[thing("one")], pods=[thing("two")])
    client.broken = {"pods"}
    mirror = Mirror(client, Informer(client, CONFIG_MAP), Informer(client, POD))

    async def job() -> None:
        assert await mirror.get(POD, "two", "n", metadata_only=True)
        await mirror.list(POD, metadata_only=True)
        await mirror.list(CONFIG_MAP, metadata_only=True)

    ask(mirror, job)
    assert client.asked == ["get pods two", "list pods"]
    assert mirror.troubles() == ("watch pods: reset",)


def test_nothing_is_known_before_the_first_list() -> None:
    client = Served(configmaps=[thing("one")])
    mirror = Mirror(client, Informer(client, CONFIG_MAP))

    async def life() -> None:
        assert not mirror.synced
        assert mirror.silence() is None
        assert names(await mirror.list(CONFIG_MAP, metadata_only=True)) == ["one"]

    virtual_time.run(life())
    assert client.asked == ["list configmaps"]


def test_silence_is_that_of_the_quietest() -> None:
    client = Served()
    mirror = Mirror(client, Informer(client, CONFIG_MAP), Informer(client, POD))

    async def job() -> tuple[float | None, float | None]:
        await asyncio.sleep(40)
        await client.happens("BOOKMARK", POD, {"metadata": {"resourceVersion": "101"}})
        quiet = mirror.silence()
        await client.happens("BOOKMARK", CONFIG_MAP, {"metadata": {"resourceVersion": "101"}})
        return quiet, mirror.silence()

    assert ask(mirror, job) == (51, 2)


def test_the_version_is_asked_for_every_five_minutes() -> None:
    client = Served()
    mirror = Mirror(client)

    async def life() -> list[int]:
        counts = []
        for pause in (0, 299, 2, 298):
            await asyncio.sleep(pause)
            assert await mirror.version() == "v1.36.1"
            counts.append(len(client.asked))
        return counts

    assert virtual_time.run(life()) == [1, 1, 2, 2]


# -- the mirror of a cluster


class Heard:
    def __init__(self, client: Served) -> None:
        self.client = client
        self.calls: list[str] = []
        self.mirror = mirror_of(
            client,
            wake=lambda mesh: self.calls.append(f"mesh {mesh}"),
            revision_changed=lambda revision: self.calls.append(f"revision {revision}"),
            shared_changed=lambda: self.calls.append("shared"),
        )

    def after(self, event: str, kind: Kind, *manifests: Json) -> list[str]:
        async def job() -> None:
            self.calls.clear()
            for manifest in manifests:
                await self.client.happens(event, kind, manifest)

        ask(self.mirror, job)
        return self.calls


def ours(name: str, version: int = 200, **labels: str) -> Json:
    return thing(name, version, **{"app.kubernetes.io__managed-by": "meshwright"}, **labels)


def of_mesh(name: str, mesh: str, version: int = 200) -> Json:
    return ours(name, version, **{"meshwright.dev__mesh": mesh})


@pytest.mark.parametrize("kind", OWNED, ids=lambda kind: kind.plural)
def test_a_change_of_each_owned_kind_wakes_its_mesh(kind: Kind) -> None:
    assert Heard(Served()).after("ADDED", kind, of_mesh("one", "east")) == ["mesh east"]
    assert Heard(Served(**{kind.plural: [of_mesh("one", "east", 7)]})).after(
        "DELETED", kind, of_mesh("one", "east")
    ) == ["mesh east"]


def test_an_object_that_changes_hands_wakes_both_meshes() -> None:
    heard = Heard(Served(configmaps=[of_mesh("one", "east", 7)]))
    assert heard.after("MODIFIED", CONFIG_MAP, of_mesh("one", "west")) == ["mesh east", "mesh west"]


def test_what_was_there_at_the_start_wakes_its_mesh_too() -> None:
    heard = Heard(Served(configmaps=[of_mesh("one", "east", 7)]))

    async def nothing() -> None: ...

    ask(heard.mirror, nothing)
    assert heard.calls == ["mesh east"]


def test_a_crd_of_ours_concerns_everybody() -> None:
    assert Heard(Served()).after("MODIFIED", CRD, ours("gateways")) == ["shared"]


ISTIODS = {
    "a Deployment": (DEPLOYMENT, {"app": "istiod", "istio.io__rev": "stable"}, "stable"),
    "of no revision": (DEPLOYMENT, {"app": "istiod"}, "default"),
    "a pod": (POD, {"app": "istiod", "istio.io__rev": "stable"}, "stable"),
    "an injector": (MUTATING_WEBHOOK, {"app": "sidecar-injector", "istio.io__rev": "stable"}, "stable"),
}


@pytest.mark.parametrize(("kind", "labels", "revision"), ISTIODS.values(), ids=ISTIODS)
def test_a_change_of_anybodys_istiod_concerns_its_revision(kind: Kind, labels: Json, revision: str) -> None:
    manifest = {**thing("istiod", 200, **labels), "spec": {}}
    assert Heard(Served()).after("ADDED", kind, manifest) == [f"revision {revision}"]


INJECT, REVISION, STATUS = "sidecar.istio.io/inject", "istio.io/rev", "sidecar.istio.io/status"
Pod = tuple[Kind, Json]


def proxy(version: int, revision: str | None = "stable", **metadata: Any) -> Pod:
    """With a sidecar, which it does not ask for any more."""
    manifest = thing("app", version, **{"security.istio.io__tlsMode": "istio"})
    manifest["metadata"] |= {"annotations": {REVISION: revision} if revision else {}, **metadata}
    return LIVING_POD, manifest


def bare(version: int, annotations: Json | None = None, **labels: Any) -> Pod:
    """Without one."""
    manifest = thing("app", version, namespace="asks", **labels)
    manifest["metadata"]["annotations"] = annotations or {}
    return INJECTABLE_POD, manifest


def space(**labels: Any) -> Json:
    """The namespace `asks`."""
    return thing("asks", namespace="", **labels)


CANARY: Json = {"istio.io__rev": "canary"}
STABLE: Json = {"istio.io__rev": "stable"}
PROD: Json = {"istio.io__rev": "prod"}
TAG: Json = {**CANARY, "istio.io__tag": "prod"}
REFUSES: Json = {"sidecar.istio.io__inject": "false"}
GONE: Json = {"deletionTimestamp": "now"}
# the namespace's labels, what happens, whom it concerns
PODS: dict[str, tuple[Json, list[tuple[str, Pod]], list[str]]] = {
    "a proxy comes": ({}, [("ADDED", proxy(200))], ["stable"]),
    "and changes": ({}, [("ADDED", proxy(200)), ("MODIFIED", proxy(201, other="x"))], ["stable"]),
    "is about to go": ({}, [("ADDED", proxy(200)), ("MODIFIED", proxy(201, **GONE))], ["stable"] * 2),
    "goes": ({}, [("ADDED", proxy(200)), ("DELETED", proxy(201))], ["stable"] * 2),
    "moves": ({}, [("ADDED", proxy(200)), ("MODIFIED", proxy(201, "canary"))], ["stable", "stable", "canary"]),
    "of no revision": ({}, [("ADDED", proxy(200, None))], []),
    "a pod that asks for nothing": ({}, [("ADDED", bare(200)), ("MODIFIED", bare(201)), ("DELETED", bare(202))], []),
    "its namespace asks": (CANARY, [("ADDED", bare(200))], ["canary"]),
    "and it changes": (CANARY, [("ADDED", bare(200)), ("MODIFIED", bare(201, {"other": "x"}))], ["canary"]),
    "and it goes": (CANARY, [("ADDED", bare(200)), ("DELETED", bare(201))], ["canary"] * 2),
    "and it refuses": (CANARY, [("ADDED", bare(200, **REFUSES))], []),
    "and it refuses late": (
        CANARY, [("ADDED", bare(200)), ("MODIFIED", bare(201, {INJECT: "false"}))], ["canary"] * 2,
    ),
    "it asks itself": ({}, [("ADDED", bare(200, **STABLE))], ["stable"]),
    "by a tag": ({}, [("ADDED", bare(200, **PROD))], ["prod", "canary"]),
    "of other proxies, and asks": (CANARY, [("ADDED", bare(200, {REVISION: "stable", STATUS: "{}"}))], ["canary"]),
}  # fmt: skip


@pytest.mark.parametrize(("labels", "happenings", "revisions"), PODS.values(), ids=PODS)
def test_a_pod_concerns_the_revisions_that_it_has_and_asks_for(
    labels: Json, happenings: list[tuple[str, Pod]], revisions: list[str]
) -> None:
    tag = thing("prod", app="sidecar-injector", **TAG)
    heard = Heard(Served(namespaces=[space(**labels)], mutatingwebhookconfigurations=[tag]))

    async def job() -> None:
        heard.calls.clear()
        for event, (kind, manifest) in happenings:
            await heard.client.happens(event, kind, manifest)

    ask(heard.mirror, job)
    assert heard.calls == [f"revision {name}" for name in revisions]


ASKING: dict[str, tuple[str, Json, Json, list[str]]] = {
    "begins to ask": ("MODIFIED", {}, CANARY, ["shared"]),
    "asks for another": ("MODIFIED", {"istio-injection": "enabled"}, CANARY, ["shared"]),
    "is changed otherwise": ("MODIFIED", CANARY, {**CANARY, "team": "shop"}, []),
    "asks and goes": ("DELETED", CANARY, CANARY, ["shared"]),
    "goes": ("DELETED", {"team": "shop"}, {"team": "shop"}, []),
}


@pytest.mark.parametrize(("event", "before", "after", "calls"), ASKING.values(), ids=ASKING)
def test_a_namespace_that_asks_for_something_else_concerns_everybody(
    event: str, before: Json, after: Json, calls: list[str]
) -> None:
    heard = Heard(Served(namespaces=[space(**before)]))
    assert heard.after(event, NAMESPACE, thing("asks", 200, namespace="", **after)) == calls


def test_ten_thousand_pods_of_nobody_wake_nobody() -> None:
    crowd = [thing(f"pod{number}") for number in range(10_000)]
    heard = Heard(Served(pods=crowd))

    async def job() -> int:
        return len(await heard.mirror.list(INJECTABLE_POD, labels=NO_SIDECAR, metadata_only=True))

    assert ask(heard.mirror, job) == 10_000
    assert heard.calls == []
    assert heard.client.asked == []
