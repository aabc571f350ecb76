"""The informer: what it knows and tells, whatever the API server says and in whatever order."""

# what stands in for a client has its signature
from __future__ import annotations

import asyncio
import gc
import json
import time
import tracemalloc
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

import virtual_time
from meshwright.api.errors import Conflict, Forbidden, NotFound, Unreachable
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.informer import Informer
from meshwright.cluster.kinds import CONFIG_MAP, POD
from meshwright.cluster.pods import lean_pod

Json = dict[str, Any]
Event = tuple[str, Json]
DAY = 86400.0


def thing(name: str, version: int, *, uid: str = "u", **more: Any) -> Json:
    return {"metadata": {"name": name, "namespace": "n", "uid": uid, "resourceVersion": str(version), **more}}


def told(event: str, name: str, version: int, **more: Any) -> Event:
    return event, thing(name, version, **more)


class Listed:
    def __init__(self, version: int, *items: Json) -> None:
        self.version, self.items = version, items


class Watched:
    """The events of a watch, and how it ends: by itself after `lasts` seconds, or with an error."""

    def __init__(self, *events: Event, lasts: float = 300.0, error: Exception | None = None) -> None:
        self.events, self.lasts, self.error = events, lasts, error


class Scripted(Client):
    """Answers lists and watches from a script; what comes after that lasts for ever."""

    def __init__(self, *script: Listed | Watched | Exception) -> None:  # no connection
        self.script = list(script)
        self.asked: list[str] = []  # `list`, or `watch` with the version from which, and the second in which
        self.over = asyncio.Event()

    async def pages(self, *_: Any, **__: Any) -> Any:
        self._ask("list")
        match await self._next():
            case Listed() as answer:
                half = len(answer.items) // 2
                for items in (answer.items[:half], answer.items[half:]):
                    yield {"metadata": {"resourceVersion": str(answer.version)}, "items": list(items)}
            case other:
                raise AssertionError(f"list, but the script says {other}")

    async def watch(self, *_: Any, resource_version: str, **__: Any) -> Any:
        self._ask(f"watch {resource_version}")
        match await self._next():
            case Watched() as answer:
                yield "BOOKMARK", {"metadata": {"resourceVersion": resource_version}}
                for event in answer.events:
                    yield event
                await asyncio.sleep(answer.lasts)
                if answer.error:
                    raise answer.error
            case other:
                raise AssertionError(f"watch, but the script says {other}")

    def _ask(self, what: str) -> None:
        self.asked.append(f"{what} at {asyncio.get_running_loop().time():g}")

    async def _next(self) -> Listed | Watched:
        if not self.script:
            self.over.set()
            await asyncio.sleep(1000 * DAY)
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Seen:
    """The life of an informer through a script."""

    def __init__(self, *script: Listed | Watched | Exception) -> None:
        self.client = Scripted(*script)
        self.told: list[str] = []
        self.states: list[tuple[bool, str | None]] = []
        self.informer = Informer(self.client, CONFIG_MAP, changed=self._changed, chance=lambda: 1.0)

    def _changed(self, before: Manifest | None, after: Manifest | None) -> None:
        name = (after or before or {})["metadata"]["name"]
        versions = [each["metadata"]["resourceVersion"] if each else "" for each in (before, after)]
        self.told.append(f"{name} {'→'.join(versions)}")

    @property
    def known(self) -> dict[str, str]:
        return {each["metadata"]["name"]: each["metadata"]["resourceVersion"] for each in self.informer.list()}


def live(*script: Listed | Watched | Exception, until: Callable[[Seen], Any] | None = None) -> Seen:
    """Until the script is over, without waiting for real time to pass."""

    async def life() -> Seen:
        seen = Seen(*script)
        task = asyncio.create_task(seen.informer.run())
        over = asyncio.create_task(until(seen) if until else seen.client.over.wait())
        await asyncio.wait([task, over], return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError), result
        await over
        return seen

    return virtual_time.run(life())


def test_list_then_watch() -> None:
    seen = live(
        Listed(5, thing("a", 2), thing("b", 3)),
        Watched(told("ADDED", "c", 6), told("MODIFIED", "a", 7), told("DELETED", "b", 8)),
    )
    assert seen.told == ["a →2", "b →3", "c →6", "a 2→7", "b 3→"]
    assert seen.known == {"a": "7", "c": "6"}
    assert (seen.informer.synced, seen.informer.trouble) == (True, None)
    assert seen.client.asked == ["list at 0", "watch 5 at 0", "watch 8 at 300"], "no second list without need"


def test_after_a_gap_what_is_listed_replaces_what_was_known() -> None:
    seen = live(
        Listed(5, thing("same", 1), thing("changed", 2), thing("gone", 3), thing("reborn", 4)),
        Watched(lasts=60, error=Conflict("too old")),
        Listed(20, thing("same", 1), thing("changed", 12), thing("reborn", 13, uid="u2"), thing("new", 14)),
    )
    assert seen.told[4:] == ["gone 3→", "changed 2→12", "reborn 4→13", "new →14"]
    assert seen.known == {"same": "1", "changed": "12", "reborn": "13", "new": "14"}
    assert seen.client.asked[2:] == ["list at 60", "watch 20 at 60"], "at once"


def test_everything_is_known_before_anything_is_told() -> None:
    counts: list[int] = []

    async def life() -> None:
        client = Scripted(Listed(5, thing("a", 1), thing("b", 2)))
        informer = Informer(client, CONFIG_MAP, changed=lambda *_: counts.append(len(informer)))
        task = asyncio.create_task(informer.run())
        await client.over.wait()
        task.cancel()

    virtual_time.run(life())
    assert counts == [2, 2]


A, B = told("MODIFIED", "a", 6), told("MODIFIED", "a", 7)
GONE = told("DELETED", "a", 8)

DISORDER: dict[str, tuple[tuple[Event, ...], list[str], dict[str, str]]] = {
    "twice": ((A, A, B, B), ["a 2→6", "a 6→7"], {"a": "7"}),
    "reversed": ((B, A), ["a 2→7"], {"a": "7"}),
    "told again after the deletion": ((A, GONE, A, GONE), ["a 2→6", "a 6→"], {}),
    "deletion first": ((GONE, B), ["a 2→"], {}),
    "a deletion of long ago": ((told("DELETED", "a", 1),), [], {"a": "2"}),
    "a birth after the deletion": ((GONE, told("ADDED", "a", 9, uid="u2")), ["a 2→", "a →9"], {"a": "9"}),
    "the deletion after the next birth": ((told("ADDED", "a", 9, uid="u2"), GONE), ["a 2→9"], {"a": "9"}),
    "of others, late": (
        (told("ADDED", "c", 9), told("ADDED", "b", 8)),
        ["c →9", "b →8"],
        {"a": "2", "b": "8", "c": "9"},
    ),
}


@pytest.mark.parametrize(("events", "changes", "known"), DISORDER.values(), ids=DISORDER)
def test_events_that_come_twice_or_late(events: tuple[Event, ...], changes: list[str], known: dict[str, str]) -> None:
    seen = live(Listed(5, thing("a", 2)), Watched(*events))
    assert seen.told[1:] == changes
    assert seen.known == known
    newest = max(5, *(int(manifest["metadata"]["resourceVersion"]) for _, manifest in events))
    assert seen.client.asked[-1] == f"watch {newest} at 300"


def test_a_connection_that_breaks_is_taken_up_where_it_broke() -> None:
    seen = live(
        Listed(5, thing("a", 2)),
        Watched(told("MODIFIED", "a", 6), lasts=60, error=Unreachable("reset")),
        Watched(told("MODIFIED", "a", 7)),
    )
    assert seen.client.asked[2:] == ["watch 6 at 61", "watch 7 at 361"]
    assert seen.known == {"a": "7"}


def test_trouble_is_retried_for_ever_and_ever_more_slowly() -> None:
    script = [Unreachable("the server is away")] * 8
    seen = live(*script, Listed(5, thing("a", 2)))
    assert [each.rpartition(" ")[2] for each in seen.client.asked] == [
        "0", "1", "3", "7", "15", "31", "61", "91", "121", "121",
    ]  # fmt: skip
    assert seen.known == {"a": "2"}
    assert seen.informer.trouble is None


def test_trouble_is_said_and_what_is_known_is_kept() -> None:
    async def until(seen: Seen) -> None:
        await asyncio.sleep(0.5)
        assert (seen.informer.synced, seen.informer.trouble) == (False, "pods is forbidden")
        await asyncio.sleep(10)
        assert (seen.informer.synced, seen.informer.trouble) == (True, None)
        await asyncio.sleep(90.5)
        assert (seen.informer.synced, seen.informer.trouble) == (True, "reset")
        assert seen.known == {"a": "2"}
        assert asyncio.get_running_loop().time() - seen.informer.heard == pytest.approx(100)

    live(
        Forbidden("pods is forbidden"),
        Listed(5, thing("a", 2)),
        Watched(lasts=99.5, error=Unreachable("reset")),
        *[Unreachable("reset")] * 9,
        until=until,
    )


def test_a_watch_that_ends_at_once_is_no_hot_loop() -> None:
    seen = live(Listed(5), *[Watched(lasts=0)] * 4)
    assert seen.client.asked == [
        "list at 0", "watch 5 at 0", "watch 5 at 1", "watch 5 at 3", "watch 5 at 7", "watch 5 at 15",
    ]  # fmt: skip


def test_a_server_that_forgets_at_once_is_no_hot_loop() -> None:
    forgets = (Listed(5), Watched(lasts=0, error=Conflict("too old")))
    seen = live(*forgets * 4, Listed(5))
    assert [each for each in seen.client.asked if "list" in each] == [
        "list at 0", "list at 0", "list at 1", "list at 3", "list at 7",
    ]  # fmt: skip


def test_a_list_that_is_older_than_what_is_known_is_not_believed() -> None:
    seen = live(
        Listed(5, thing("a", 5)),
        Watched(told("MODIFIED", "a", 9), lasts=60, error=Conflict("too old")),
        Listed(7, thing("a", 5), thing("b", 7)),
        Listed(9, thing("a", 9)),
    )
    assert seen.told == ["a →5", "a 5→9"]
    assert seen.known == {"a": "9"}


def test_a_server_that_stays_in_the_past_is_believed_in_the_end() -> None:
    """etcd was restored from a backup."""
    past = Listed(3, thing("a", 3))
    seen = live(Listed(9, thing("a", 9)), Watched(lasts=60, error=Conflict("too old")), *[past] * 5)
    assert seen.known == {"a": "3"}
    assert seen.client.asked[-1].startswith("watch 3 ")


def test_what_a_server_failed_to_tell_is_found_out_after_all() -> None:
    seen = live(Listed(5, thing("a", 2)), Watched(), Watched(), Watched(), Watched(), Listed(9))
    assert seen.told == ["a →2", "a 2→"]
    assert seen.client.asked[-2:] == ["list at 1200", "watch 9 at 1200"]


def test_a_kind_that_is_not_served_is_empty_and_looked_for() -> None:
    missing = NotFound("404 page not found")
    seen = live(missing, missing, missing, Listed(5, thing("a", 2)), Watched(lasts=60, error=missing), missing)
    assert seen.told == ["a →2", "a 2→"], "and empty again when it is taken away"
    assert [each.rpartition(" ")[2] for each in seen.client.asked[:5]] == ["0", "0.25", "0.75", "1.75", "1.75"]
    assert (seen.informer.synced, seen.informer.trouble) == (True, None)


def test_it_is_looked_for_at_once_when_somebody_says_so() -> None:
    async def until(seen: Seen) -> None:
        await asyncio.sleep(31)
        assert seen.informer.heard >= 26, "also that there is nothing is an answer"
        count = len(seen.client.asked)
        seen.informer.poke()
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        assert seen.client.asked[count:] == ["list at 31"]

    live(*[NotFound("404 page not found")] * 99, until=until)


def test_whoever_listens_cannot_stop_it() -> None:
    def fails(_before: Manifest | None, _after: Manifest | None) -> None:
        raise ValueError("a bug")

    async def life() -> int:
        client = Scripted(Listed(5, thing("a", 1)), Watched(told("ADDED", "b", 6)))
        informer = Informer(client, CONFIG_MAP, changed=fails)
        task = asyncio.create_task(informer.run())
        await client.over.wait()
        task.cancel()
        return len(informer)

    assert virtual_time.run(life()) == 2


def test_an_answer_that_nobody_foresaw_is_trouble_and_retried() -> None:
    seen = live(Listed(5, {"metadata": {}}), Listed(6, thing("a", 2)))
    assert seen.known == {"a": "2"}


def test_what_is_large_and_read_by_nobody_is_not_kept() -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 1000, "mine": "y"}
    seen = live(Listed(5, thing("a", 2, annotations=annotations, managedFields=[{}], generation=3, labels={"l": "m"})))
    assert seen.informer.get("a", "n") == {
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "2", "generation": 3,
            "labels": {"l": "m"}, "annotations": {"mine": "y"},
        },
    }  # fmt: skip
    assert seen.informer.list("elsewhere") == []


# -- figures


def pod(number: int) -> Json:
    """As an API server tells of a pod with a sidecar, with a part of the managed fields."""
    managed = {"manager": "kubelet", "operation": "Update", "fieldsV1": {f"f:{field}": {} for field in range(10)}}
    manifest: Json = json.loads(json.dumps({
        "metadata": {
            "name": f"web-{number % 400:03}-7d9f8c6b54-{number:05}", "namespace": f"team-{number % 50}",
            "uid": f"3b8a10c4-1b59-41d1-a07a-{number:012}", "resourceVersion": str(100_000 + number),
            "labels": {"app": "web", "pod-template-hash": "7d9f8c6b54", "security.istio.io/tlsMode": "istio"},
            "annotations": {"istio.io/rev": "stable", "sidecar.istio.io/status": "x" * 400},
            "managedFields": [managed, managed],
        },
    }))  # fmt: skip
    return manifest


def test_ten_thousand_pods_cost_less_than_a_kibibyte_each() -> None:
    count = 10_000

    class Pods(Scripted):
        async def pages(self, *_: Any, **__: Any) -> Any:
            for first in range(0, count, 500):
                items = [pod(number) for number in range(first, first + 500)]
                yield {"metadata": {"resourceVersion": "200000"}, "items": items}

    async def life() -> tuple[int, int]:
        client = Pods()
        informer = Informer(client, POD, lean=lean_pod)
        task = asyncio.create_task(informer.run())
        gc.collect()
        tracemalloc.start()
        await client.over.wait()
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        task.cancel()
        return len(informer), size

    known, size = virtual_time.run(life())
    print(f"{known} pods: {size / 2**20:.1f} MiB, {size / known:.0f} B each")
    assert known == count
    assert size / known <= 1024


def test_figure_events_per_second() -> None:
    """From the bytes of a watch to what is told: 20,000 changes of 1,000 pods."""
    changes = [pod(number % 1000) for number in range(20_000)]
    for number, manifest in enumerate(changes):
        manifest["metadata"]["resourceVersion"] = str(200_000 + number)
    lines = [json.dumps({"type": "MODIFIED", "object": manifest}).encode() for manifest in changes]

    class Fast(Client):
        def __init__(self) -> None:  # no connection
            self.over = asyncio.Event()

        async def pages(self, *_: Any, **__: Any) -> Any:
            yield {"metadata": {"resourceVersion": "5"}, "items": []}

        async def _lines(self, *_: Any, **__: Any) -> AsyncGenerator[bytes, None]:
            yield b""
            for line in lines:
                yield line
            self.over.set()
            await asyncio.sleep(DAY)

    async def life() -> tuple[int, float]:
        client = Fast()
        heard = []
        informer = Informer(client, POD, changed=lambda *change: heard.append(change))
        began = time.perf_counter()
        task = asyncio.create_task(informer.run())
        await client.over.wait()
        seconds = time.perf_counter() - began
        task.cancel()
        return len(heard), seconds

    told, seconds = virtual_time.run(life())
    print(f"{told} events of {len(lines[0])} B in {seconds:.2f} s: {told / seconds:,.0f} a second")
    assert told == len(lines)
