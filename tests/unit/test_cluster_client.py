"""The client: what it sends, how long it waits, and how it reads lists and watches."""

# ruff: noqa: SLF001  # the wire is put in the place of the connection pools
from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, Self

import pytest
from kubernetes.aio.client import Configuration

from meshwright.api.errors import Conflict, MeshwrightError, NotFound, Unreachable
from meshwright.cluster.client import Client, _yaml
from meshwright.cluster.kinds import CONFIG_MAP, NAMESPACE

Json = dict[str, Any]

HERE: Json = {"metadata": {"name": "a", "namespace": "b", "uid": "u1", "resourceVersion": "7"}}
LEASE_MARGIN = 5.0  # seconds between the last renewal that counts and the moment when another may lead


class Answer:
    """What aiohttp would give, for a request and for a watch."""

    def __init__(self, body: Json | bytes, status: int = 200, *, breaks: Exception | None = None) -> None:
        self.status, self.headers, self.response, self.content = status, {}, self, self  # type: ignore[var-annotated]
        self.connection = SimpleNamespace(transport=self)
        self.aborted = False
        self._body, self._breaks = body if isinstance(body, bytes) else json.dumps(body).encode(), breaks
        self._position = 0

    async def read(self) -> bytes:
        if self._breaks:
            raise self._breaks
        return self._body

    async def readany(self) -> bytes:
        """In pieces that end anywhere."""
        piece = self._body[self._position : self._position + 25]
        self._position += len(piece)
        if not piece and self._breaks:
            raise self._breaks
        return piece

    def abort(self) -> None:
        self.aborted = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


class Wire:
    """In the place of both connection pools: answers in order, and what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, str]] = []
        self.bodies: list[Json | None] = []
        self.accepts: list[str] = []
        self.timeouts: list[Any] = []

    async def request(self, method: str, url: str, **options: Any) -> Answer:
        self.sent.append((method, url.removeprefix("http://api")))
        self.bodies.append(options.get("body"))
        self.accepts.append(options["headers"]["Accept"])
        self.timeouts.append(options["_request_timeout"])
        return self.answers.pop(0)

    async def close(self) -> None: ...


def talk(wire: Wire, job: Callable[[Client], Coroutine[Any, Any, Any]], guard: Callable[[], None] | None = None) -> Any:
    async def conversation() -> Any:
        client = Client(Configuration(host="http://api"))
        client._api.rest_client = client._streams = wire
        if guard:
            client.guard = guard
        try:
            return await job(client)
        finally:
            await client.close()

    return asyncio.run(conversation())


Job = Callable[[Client], Coroutine[Any, Any, Any]]

WRITES: dict[str, Job] = {
    "create": lambda client: client.create(CONFIG_MAP, HERE, field_manager="m"),
    "replace": lambda client: client.replace(CONFIG_MAP, HERE, field_manager="m"),
    "apply": lambda client: client.apply(CONFIG_MAP, HERE, field_manager="m"),
    "apply status": lambda client: client.apply(NAMESPACE, HERE, field_manager="m", subresource="status"),
    "merge": lambda client: client.merge(CONFIG_MAP, "a", {}, "b", field_manager="m"),
    "delete": lambda client: client.delete(CONFIG_MAP, HERE),
}
READS: dict[str, Job] = {
    "get": lambda client: client.get(CONFIG_MAP, "a", "b"),
    "list": lambda client: client.list(CONFIG_MAP),
    "version": lambda client: client.version(),
    "dry run": lambda client: client.apply(CONFIG_MAP, HERE, field_manager="m", dry_run=True),
}


def anything() -> Answer:
    return Answer({"metadata": {}, "items": []})


# -- writes


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_is_over_before_another_replica_may_lead(write: Job) -> None:
    wire = Wire(anything())
    talk(wire, write)
    (url,) = (url for _, url in wire.sent)
    assert wire.timeouts[0] < LEASE_MARGIN
    assert "timeout=4s" in url.partition("?")[2].split("&"), "the server gives up before we do"


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_may_take_its_time_and_needs_no_lease(read: Job) -> None:
    def lost() -> None:
        raise AssertionError

    wire = Wire(anything())
    talk(wire, read, guard=lost)
    assert wire.timeouts == [30.0]
    assert "timeout=" not in wire.sent[0][1]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_the_guard_refuses_is_not_sent(write: Job) -> None:
    def lost() -> None:
        raise Unreachable("the lease is lost")

    wire = Wire(anything())
    with pytest.raises(Unreachable, match="the lease is lost"):
        talk(wire, write, guard=lost)
    assert wire.sent == []


def test_a_delete_is_of_what_was_seen() -> None:
    wire = Wire(anything(), anything())
    older = {"metadata": {"name": "a", "namespace": "b", "uid": "u1"}}
    talk(wire, lambda client: client.delete(CONFIG_MAP, HERE))
    talk(wire, lambda client: client.delete(CONFIG_MAP, older))
    first, second = ((body or {})["preconditions"] for body in wire.bodies)
    assert first == {"uid": "u1", "resourceVersion": "7"}
    assert second == {"uid": "u1"}


def test_a_delete_of_what_is_gone_or_changed() -> None:
    talk(Wire(Answer({}, 404)), lambda client: client.delete(CONFIG_MAP, HERE))
    with pytest.raises(Conflict):
        talk(Wire(Answer({"message": "it changed"}, 409)), lambda client: client.delete(CONFIG_MAP, HERE))


@pytest.mark.parametrize("answer", [Answer(b"<html>"), Answer(b"", breaks=ConnectionResetError("reset"))])
def test_an_answer_that_is_none(answer: Answer) -> None:
    with pytest.raises(Unreachable, match="get ConfigMap b/a: the API server does not answer"):
        talk(Wire(answer), lambda client: client.get(CONFIG_MAP, "a", "b"))


# -- lists


def page(names: str, *, more: str = "") -> Answer:
    items = [{"metadata": {"name": name}} for name in names]
    return Answer({"metadata": {"resourceVersion": "9", "continue": more}, "items": items or None})


def test_a_list_comes_in_pages() -> None:
    wire = Wire(page("ab", more="there is more"), page("c"))
    found = talk(wire, lambda client: client.list(CONFIG_MAP, "b", labels="x=y", metadata_only=True))
    assert [each["metadata"]["name"] for each in found] == ["a", "b", "c"]
    path = "/api/v1/namespaces/b/configmaps?limit=500&labelSelector=x%3Dy"
    assert [url for _, url in wire.sent] == [path, f"{path}&continue=there+is+more"]
    assert all("PartialObjectMetadataList" in each for each in wire.accepts)


def test_an_empty_list_and_one_of_a_kind_that_is_not_served() -> None:
    assert talk(Wire(page("")), lambda client: client.list(CONFIG_MAP)) == []
    assert talk(Wire(Answer({}, 404)), lambda client: client.list(CONFIG_MAP)) == []


def test_pages_tell_the_version_and_that_a_kind_is_not_served() -> None:
    async def versions(client: Client) -> list[str]:
        return [page["metadata"]["resourceVersion"] async for page in client.pages(CONFIG_MAP)]

    assert talk(Wire(page("a", more="m"), page("")), versions) == ["9", "9"]
    with pytest.raises(NotFound):
        talk(Wire(Answer({}, 404)), versions)


def test_a_list_that_took_too_long() -> None:
    with pytest.raises(Conflict):
        talk(Wire(page("a", more="m"), Answer({"message": "expired"}, 410)), lambda client: client.list(CONFIG_MAP))


# -- watches


def event(kind: str, version: int, **more: Any) -> bytes:
    manifest = {"metadata": {"name": "a", "namespace": "b", "resourceVersion": str(version)}, **more}
    return json.dumps({"type": kind, "object": manifest}).encode() + b"\n"


def refusal(code: int, says: str) -> bytes:
    return json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": code, "message": says}}).encode() + b"\n"


async def heard(client: Client) -> list[tuple[str, str]]:
    watch = client.watch(CONFIG_MAP, labels="x=y", resource_version="5", metadata_only=True, seconds=200)
    return [(kind, manifest["metadata"]["resourceVersion"]) async for kind, manifest in watch]


def test_a_watch() -> None:
    answer = Answer(
        event("ADDED", 6) + event("MODIFIED", 7) + event("BOOKMARK", 8) + event("DELETED", 9, data="é" * 99)
    )
    wire = Wire(answer)
    assert talk(wire, heard) == [
        ("BOOKMARK", "5"), ("ADDED", "6"), ("MODIFIED", "7"), ("BOOKMARK", "8"), ("DELETED", "9"),
    ]  # fmt: skip
    ((method, url),) = wire.sent
    assert method == "GET"
    assert url == (
        "/api/v1/configmaps?watch=true&allowWatchBookmarks=true&resourceVersion=5&timeoutSeconds=200&labelSelector=x%3Dy"
    )
    assert "as=PartialObjectMetadata;" in wire.accepts[0]
    assert wire.timeouts[0].total is None
    assert 60 < wire.timeouts[0].sock_read <= 75, "bookmarks come each minute"


FAILURES: dict[str, tuple[Answer, type[MeshwrightError], str]] = {
    "forgotten, said at once": (Answer({"message": "too old"}, 410), Conflict, "too old"),
    "forgotten": (Answer(refusal(410, "too old resource version")), Conflict, "too old resource version"),
    "trouble of the server": (Answer(refusal(500, "etcd is away")), Unreachable, "etcd is away"),
    "not served": (Answer({}, 404), NotFound, "watch configmaps"),
    "silence": (Answer(b"", breaks=TimeoutError()), Unreachable, "does not answer .TimeoutError."),
    "cut": (Answer(event("ADDED", 6)[:-9], breaks=ConnectionResetError("reset")), Unreachable, "reset"),
    "no JSON": (Answer(b"<html>\n"), Unreachable, "does not answer"),
}


@pytest.mark.parametrize(("answer", "error", "says"), FAILURES.values(), ids=FAILURES)
def test_a_watch_that_fails(answer: Answer, error: type[MeshwrightError], says: str) -> None:
    with pytest.raises(error, match=says):
        talk(Wire(answer), heard)


def test_a_watch_that_is_left_lets_go_of_its_connection() -> None:
    answer = Answer(event("ADDED", 6) * 3)

    async def leave(client: Client) -> None:
        watch = client.watch(CONFIG_MAP, resource_version="5")
        await anext(watch)
        await watch.aclose()

    talk(Wire(answer), leave)
    assert answer.aborted


def test_an_apply_is_yaml_also_beyond_the_basic_plane() -> None:
    """The API server reads it as YAML, where a pair of surrogates is no character."""
    assert _yaml({"a": "🦀 \u2028 \\ud83e\\udd80"}) == r'{"a": "🦀 \u2028 \\ud83e\\udd80"}'
