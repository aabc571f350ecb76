"""Asking pods through the API server: what goes over the wire, and everything that may come back."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import pytest
from aiohttp import ClientConnectionResetError, ClientWebSocketResponse, WSMsgType, web
from kubernetes.aio.client import Configuration

from meshwright.api.errors import Forbidden, MeshwrightError, NotFound, Unreachable
from meshwright.cluster import forward
from meshwright.cluster.client import Client
from meshwright.cluster.forward import Ports

PORT = b"\xa6\x3a"  # 15014
GREETING = (b"\0" + PORT, b"\1" + PORT)
TOKEN = {"Authorization": "Bearer t"}


def status(code: int, says: str) -> bytes:
    return json.dumps({"kind": "Status", "code": code, "message": says}).encode()


class Server:
    """In the place of the API server, the node and the pod; `answer` says what comes back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.requests: list[bytes] = []
        self.opened, self.left = asyncio.Event(), asyncio.Event()
        self.url = ""
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == "Bearer t"
        self.asked.append(request.path_qs)
        return await self.answer(request)

    def says(self, body: bytes = b"", code: int = 200, **headers: str) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(status=code, body=body, headers=headers)

        self.answer = answer

    def tunnels(self, messages: Iterable[bytes], *, stays: bool = False) -> None:
        """A WebSocket: a request, then these messages; then the end, or with `stays` silence."""

        async def answer(request: web.Request) -> web.StreamResponse:
            socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
            await socket.prepare(request)
            assert socket.ws_protocol == "v4.channel.k8s.io"
            self.requests.append((await socket.receive()).data)
            self.opened.set()
            for message in (*GREETING, *messages):
                await socket.send_bytes(message)
            if stays and (await socket.receive()).type is not WSMsgType.BINARY:
                self.left.set()
            return socket

        self.answer = answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    application = web.Application()
    application.router.add_get("/{rest:.*}", server.handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    yield server
    await runner.cleanup()


Observed = list[tuple[str, str, int]]


@pytest.fixture
def observed() -> Observed:
    return []


@pytest.fixture
async def ports(server: Server, observed: Observed) -> AsyncIterator[Ports]:
    async def authorize(headers: dict[str, str]) -> None:
        headers |= TOKEN

    ports = Ports(
        Configuration(host=server.url),
        tls=ssl.create_default_context(),
        authorize=authorize,
        observer=lambda method, kind, code, _: observed.append((method, kind, code)),
    )
    yield ports
    await ports.close()


# -- through pods/proxy


async def test_a_pod_is_asked_from_outside(server: Server, ports: Ports, observed: Observed) -> None:
    server.says(b"up 1\n")
    assert await ports.proxied("a", "b", 15014, "/metrics?filter=x") == b"up 1\n"
    assert server.asked == ["/api/v1/namespaces/a/pods/b:15014/proxy/metrics?filter=x"]
    assert observed == [("GET", "pods/proxy", 200)]


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_of_a_long_answer_only_the_lines_that_are_wanted(server: Server, ports: Ports, size: int) -> None:
    page = b"# comment\nwanted 1\nother 2\n\nwanted 3\nother wanted 4\nwanted 5"

    async def answer(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        for start in range(0, len(page), size):
            await stream.write(page[start : start + size])
        return stream

    server.answer = answer
    found = await ports.proxied("a", "b", 1, "/", only=lambda line: line.startswith(b"wanted"))
    assert found == b"wanted 1\nwanted 3\nwanted 5"


FORBIDDEN = 'pods "b" is forbidden: User "me" cannot get resource "pods/proxy" in API group ""'
Refusal = tuple[int, bytes, type[MeshwrightError], str]  # HTTP status, body, and what becomes of it
REFUSALS: dict[str, Refusal] = {
    "no such pod": (404, status(404, 'pods "b" not found'), NotFound, 'pods "b" not found'),
    "no permission": (403, status(403, FORBIDDEN), Forbidden, 'cannot get resource "pods/proxy"'),
    "nobody listens": (503, status(503, "dial tcp: connection refused"), Unreachable, "connection refused"),
    "the pod knows no such path": (404, b"404 page not found", Unreachable, "pod a/b for /metrics .* answers HTTP 404"),
    "the pod wants credentials": (401, b"", Unreachable, "HTTP 401"),
    "the pod answers no status": (500, b"[1]", Unreachable, "HTTP 500"),
    "nothing": (204, b"", Unreachable, "HTTP 204"),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal(server: Server, ports: Ports, observed: Observed, refusal: Refusal) -> None:
    code, body, error, says = refusal
    server.says(body, code)
    with pytest.raises(error, match=says):
        await ports.proxied("a", "b", 15014, "/metrics")
    assert observed == [("GET", "pods/proxy", code)]


async def test_a_redirection_would_take_the_operators_credentials_along(server: Server, ports: Ports) -> None:
    server.says(b"", 302, Location=f"{server.url}/api/v1/secrets")
    with pytest.raises(Unreachable, match="HTTP 302"):
        await ports.proxied("a", "b", 15014, "/metrics")
    assert len(server.asked) == 1


@pytest.mark.parametrize("only", [None, lambda line: line.startswith(b"x")])
async def test_an_answer_that_is_too_long(
    server: Server, ports: Ports, only: Callable[[bytes], bool] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "LINES_BYTES" if only else "ANSWER_BYTES", 1000)
    server.says(b"x" * 1001)
    with pytest.raises(Unreachable, match="more than 1000 bytes"):
        await ports.proxied("a", "b", 1, "/", only=only)


async def test_what_is_passed_over_is_bounded_too(
    server: Server, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "PASSING_BYTES", 5000)
    nothing: Callable[[bytes], bool] = lambda _: False  # noqa: E731
    server.says(b"x\n" * 2500)
    assert await ports.proxied("a", "b", 1, "/", only=nothing) == b""
    server.says(b"x\n" * 2501)
    with pytest.raises(Unreachable, match="more than 5000 bytes"):
        await ports.proxied("a", "b", 1, "/", only=nothing)


async def test_a_pod_that_is_silent(server: Server, ports: Ports, observed: Observed) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.answer = answer
    with pytest.raises(Unreachable, match=r"no answer within 0\.05 s"):
        await ports.proxied("a", "b", 1, "/", seconds=0.05)
    with pytest.raises(Unreachable, match=r"no answer within 0\.05 s"):
        await ports.forwarded("a", "b", 1, "/", seconds=0.05)
    assert observed == [("GET", "pods/proxy", 0), ("GET", "pods/portforward", 0)]


async def test_an_api_server_that_is_away(unused_tcp_port: int, observed: Observed) -> None:
    async with asyncio.timeout(20):
        client = Client(
            Configuration(host=f"http://127.0.0.1:{unused_tcp_port}"),
            observer=lambda method, kind, code, _: observed.append((method, kind, code)),
        )
        for request in (client.proxied("a", "b", 1, "/"), client.forwarded("a", "b", 1, "/")):
            with pytest.raises(Unreachable, match="Cannot connect"):
                await request
        await client.close()
    assert observed == [("GET", "pods/proxy", 0), ("GET", "pods/portforward", 0)]


# -- through pods/portforward


def in_pieces(text: bytes, size: int) -> list[bytes]:
    return [b"\0" + text[start : start + size] for start in range(0, len(text), size)]


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n{\r\n  \r\nA\r\n0123456789\r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 21:17:40 GMT\r\nContent-Length: 15\r\n\r\n{\r\n  0123456789"


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("text", [CHUNKED, SIZED], ids=["chunked", "sized"])
async def test_a_pod_is_asked_from_its_loopback(
    server: Server, ports: Ports, observed: Observed, text: bytes, size: int
) -> None:
    server.tunnels([b"\1", *in_pieces(text, size)])
    assert await ports.forwarded("a", "b", 15014, "/debug/mesh") == b"{\r\n  0123456789"
    assert server.asked == ["/api/v1/namespaces/a/pods/b/portforward?ports=15014"]
    assert server.requests == [b"\0GET /debug/mesh HTTP/1.1\r\nHost: localhost:15014\r\nConnection: close\r\n\r\n"]
    assert observed == [("GET", "pods/portforward", 200)]


async def test_nobody_waits_for_the_end_of_a_tunnel(server: Server, ports: Ports) -> None:
    server.tunnels(in_pieces(SIZED, 99), stays=True)
    assert await ports.forwarded("a", "b", 1, "/") == b"{\r\n  0123456789"
    async with asyncio.timeout(5):
        await server.left.wait()


RUNTIME = b"failed to connect to localhost:1 inside namespace x: dial tcp4 127.0.0.1:1: connect: connection refused"
TUNNELS: dict[str, tuple[list[bytes], str]] = {
    "nobody listens": ([b"\1" + RUNTIME], r"no answer \(nothing listens there\)"),
    "the node complains": ([b"\1network namespace is closed"], "network namespace is closed"),
    "it ends at once": ([], "it ended early"),
    "it ends in the head": (in_pieces(SIZED[:-20], 99), "it ended early"),
    "it ends in the body": (in_pieces(SIZED[:-1], 99), "it ended early"),
    "it ends before the last chunk": (in_pieces(CHUNKED[:-5], 99), "it ended early"),
    "another status": (in_pieces(SIZED.replace(b"200 OK", b"401 Unauthorized"), 99), "HTTP 401"),
    "no length": (in_pieces(b"HTTP/1.1 200 OK\r\n\r\nx", 99), "this is no HTTP"),
    "a length that is none": (in_pieces(SIZED.replace(b"15\r", b"-1\r"), 99), "this is no HTTP"),
    "no chunks": (in_pieces(CHUNKED.replace(b"5;", b"g;"), 99), "this is no HTTP"),
    "another protocol": (in_pieces(b"\x15\x03\x01\r\n\r\n", 99), "this is no HTTP"),
    "a length without measure": (in_pieces(SIZED.replace(b"15\r", b"8388609\r"), 99), "more than 8388608 bytes"),
    "a head without end": (in_pieces(b"x" * (9 << 20), 1 << 20), "more than 8388608 bytes"),
}


@pytest.mark.parametrize(("messages", "says"), TUNNELS.values(), ids=TUNNELS)
async def test_a_tunnel_that_is_of_no_use(server: Server, ports: Ports, messages: list[bytes], says: str) -> None:
    server.tunnels(messages)
    with pytest.raises(Unreachable, match=says):
        await ports.forwarded("a", "b", 1, "/")


async def test_a_node_that_hangs_up_before_it_is_asked(
    server: Server, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words come first, and the request finds the connection closed."""

    async def answer(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        for message in (*GREETING, b"\1" + RUNTIME):
            await socket.send_bytes(message)
        return socket

    async def too_late(*_: object) -> None:
        raise ClientConnectionResetError("Cannot write to closing transport")

    server.answer = answer
    monkeypatch.setattr(ClientWebSocketResponse, "send_bytes", too_late)
    with pytest.raises(Unreachable, match="nothing listens there"):
        await ports.forwarded("a", "b", 1, "/")


@pytest.mark.parametrize("refusal", list(REFUSALS.values())[:3], ids=list(REFUSALS)[:3])
async def test_a_refused_handshake_is_in_the_api_servers_words(
    server: Server, ports: Ports, observed: Observed, refusal: Refusal
) -> None:
    code, body, error, says = refusal
    server.says(body, code)
    with pytest.raises(error, match=says):
        await ports.forwarded("a", "b", 1, "/")
    assert observed == [("GET", "pods/portforward", code)]


async def test_a_server_that_speaks_no_websocket(server: Server, ports: Ports) -> None:
    server.says(b"{}")
    with pytest.raises(Unreachable, match="no answer"):
        await ports.forwarded("a", "b", 1, "/")


async def test_who_is_cancelled_leaves_nothing_behind(server: Server, ports: Ports) -> None:
    server.tunnels([], stays=True)
    question = asyncio.create_task(ports.forwarded("a", "b", 1, "/", seconds=60))
    async with asyncio.timeout(5):
        await server.opened.wait()
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
        await server.left.wait()


async def test_the_client_asks_with_its_own_credentials(server: Server) -> None:
    configuration = Configuration(host=server.url)
    configuration.api_key = {"BearerToken": "Bearer t"}
    client = Client(configuration)
    server.says(b"one\ntwo")
    wanted: Any = lambda line: line == b"two"  # noqa: E731
    assert await client.proxied("a", "b", 1, "/", only=wanted) == b"two"
    server.tunnels(in_pieces(SIZED, 99))
    assert await client.forwarded("a", "b", 1, "/") == b"{\r\n  0123456789"
    await client.close()
