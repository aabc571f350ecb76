"""What a pod answers on one of its ports, asked through the API server: the operator needs no way into the pod network.

`proxied` goes through the subresource `pods/proxy`. The pod sees a request from outside, without credentials.
`forwarded` goes through `pods/portforward`. The pod sees a request from its own loopback, which is what istiod's
`/debug` asks for. The tunnel is a WebSocket: each message begins with the number of its channel, 0 for data and 1 for
the node's complaint, and the first message on each channel is the port. Through it goes plain HTTP/1.1.

A pod is not trusted. What it answers is bounded in size and time, and a redirection is not followed: it would lead
anywhere with the operator's credentials.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import aiohttp
from kubernetes.aio.client import Configuration

from meshwright.api.errors import Unreachable
from meshwright.cluster.failures import classify

Observer = Callable[[str, str, int, float], None]  # method, kind, HTTP status (0: no answer), seconds

ANSWER_SECONDS = 3.0
ANSWER_BYTES = 8 << 20
# Where only some lines are wanted: many pods are asked at once, so they get less room.
LINES_BYTES = 256 << 10
PASSING_BYTES = 64 << 20
COMPLAINT_BYTES = 4 << 10
OK, ERROR = 200, 400
PROTOCOL = "v4.channel.k8s.io"
DATA, COMPLAINT = b"\0", b"\1"
REFUSED = "connection refused"  # among the long words of a container runtime
# On the way out nobody needs the node's farewell; without a limit it is waited for for ten seconds.
FAREWELL = aiohttp.ClientWSTimeout(ws_close=0.2)


class _Broken(Exception):
    """An answer that cannot be used; `str()` says why."""


class _Refused(Exception):
    """The API server's answer to a handshake, of which aiohttp keeps the status only."""

    def __init__(self, status: int, body: bytes, headers: Any) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


class Ports:
    """The ports of all pods behind one API server."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        tls: ssl.SSLContext,
        authorize: Callable[[dict[str, str]], Awaitable[None]],
        observer: Observer,
        member: bool = False,
    ) -> None:
        self._base = f"{configuration.host}/api/v1/namespaces"
        self._route: dict[str, Any] = {
            "proxy": configuration.proxy or None,
            "proxy_headers": configuration.proxy_headers or None,
            "server_hostname": configuration.tls_server_name or None,
        }
        self._tls, self._authorize, self._observe = tls, authorize, observer
        self._classify = partial(classify, member=member)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def proxied(
        self, namespace: str, pod: str, port: int, path: str, *,
        only: Callable[[bytes], bool] | None = None, seconds: float = ANSWER_SECONDS,
    ) -> bytes:  # fmt: skip
        """The body of `GET path`; with `only`, those of its lines, so that a long answer costs no memory.

        Raises NotFound without such a pod, Forbidden without `get` on `pods/proxy`, and Unreachable when the pod does
        not answer within `seconds`, answers with anything but 200, or too much.
        """
        what = f"ask pod {namespace}/{pod} for {path} on port {port}"
        url = f"{self._base}/{namespace}/pods/{pod}:{port}/proxy{path}"
        with self._asking("pods/proxy", what, seconds) as answered:
            async with (
                asyncio.timeout(seconds),
                self._open().get(
                    url, headers=await self._headers(), allow_redirects=False, raise_for_status=False, **self._route
                ) as answer,
            ):
                answered.append(answer.status)
                if answer.status != OK:
                    complaint = await answer.content.read(COMPLAINT_BYTES)
                    raise _Refused(answer.status, complaint, answer.headers)
                return await _kept(answer.content.iter_any(), only)

    async def forwarded(
        self, namespace: str, pod: str, port: int, path: str, *, seconds: float = ANSWER_SECONDS
    ) -> bytes:
        """The body of `GET path`, asked from the pod's own loopback.

        Raises as `proxied` does; Forbidden without `get` on `pods/portforward`, since Kubernetes 1.35 also `create`.
        """
        what = f"ask pod {namespace}/{pod} for {path} on its local port {port}"
        url = f"{self._base}/{namespace}/pods/{pod}/portforward?ports={port}"
        request = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
        with self._asking("pods/portforward", what, seconds) as answered:
            async with (
                asyncio.timeout(seconds),
                self._open().ws_connect(
                    url, protocols=(PROTOCOL,), headers=await self._headers(), timeout=FAREWELL, **self._route
                ) as socket,
            ):
                with suppress(ConnectionError):  # the node may have hung up; what it said is still to be read
                    await socket.send_bytes(DATA + request.encode())
                status, body = await _answer(_Tunnel(socket))
                answered.append(status)
                if status != OK:
                    raise _Broken(f"HTTP {status}")
                return body

    def _open(self) -> aiohttp.ClientSession:
        """Made when it is first needed: a session belongs to an event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=0), trust_env=True, raise_for_status=_refuse
            )
        return self._session

    async def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        await self._authorize(headers)
        return headers

    @contextmanager
    def _asking(self, kind: str, what: str, seconds: float) -> Iterator[list[int]]:
        """Failures as errors of our tree; the caller puts the answer's status into the list."""
        started, answered = time.monotonic(), list[int]()
        try:
            yield answered
        except _Refused as error:
            answered[:] = [error.status]
            if _is_status(error.body):
                raise self._classify(error.status, error.body, error.headers, what=what) from None
            raise Unreachable(f"{what}: it answers HTTP {error.status}") from None
        except TimeoutError:
            raise Unreachable(f"{what}: no answer within {seconds:g} s") from None
        except (_Broken, aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{what}: no answer ({error or type(error).__name__})") from error
        finally:
            self._observe("GET", kind, answered[0] if answered else 0, time.monotonic() - started)


class _Tunnel:
    """The bytes that come out of a forwarded port, taken as they are needed. Raises _Broken when they end too early."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self._socket = socket
        self._greeted: set[bytes] = set()
        self._buffer = bytearray()
        self._taken = 0

    async def until(self, mark: bytes) -> bytes:
        """What stands before the next `mark`, which is taken away, too."""
        while (end := self._buffer.find(mark)) < 0:
            await self._more()
        found = self._take(end)
        self._take(len(mark))
        return found

    async def exactly(self, size: int) -> bytes:
        if size > ANSWER_BYTES:
            raise _Broken(f"more than {ANSWER_BYTES} bytes")
        while len(self._buffer) < size:
            await self._more()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    async def _more(self) -> None:
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise _Broken("it ended early")
        channel, content = message.data[:1], message.data[1:]
        if channel not in self._greeted:
            self._greeted.add(channel)
        elif channel == COMPLAINT and content:
            says = content[:COMPLAINT_BYTES].decode(errors="replace").strip()
            raise _Broken("nothing listens there" if REFUSED in says else says)
        elif channel == DATA:
            self._buffer += content
            self._taken += len(content)
            if self._taken > ANSWER_BYTES:
                raise _Broken(f"more than {ANSWER_BYTES} bytes")


async def _answer(tunnel: _Tunnel) -> tuple[int, bytes]:
    """Status and body of an HTTP/1.1 answer. Go's server always says how long it is, by one way or the other."""
    first, *lines = (await tunnel.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in lines)
    }
    try:
        status = int(first.split()[1])
        if headers.get("transfer-encoding") == "chunked":
            return status, await _chunks(tunnel)
        return status, await tunnel.exactly(_size(headers.get("content-length", ""), 10))
    except (ValueError, IndexError):
        raise _Broken("this is no HTTP") from None


async def _chunks(tunnel: _Tunnel) -> bytes:
    body = bytearray()
    while size := _size((await tunnel.until(b"\r\n")).partition(b";")[0].decode("latin-1"), 16):
        body += (await tunnel.exactly(size + 2))[:size]  # each chunk ends with a line break of its own
    return bytes(body)


def _size(text: str, base: int) -> int:
    size = int(text, base)
    if size < 0:
        raise ValueError(text)
    return size


async def _kept(pieces: AsyncIterator[bytes], only: Callable[[bytes], bool] | None) -> bytes:
    """All of it, or the lines that are wanted."""
    kept, rest, passed = bytearray(), b"", 0
    room = LINES_BYTES if only else ANSWER_BYTES
    async for piece in pieces:
        passed += len(piece)
        if only:
            *lines, rest = (rest + piece).split(b"\n")
            kept += b"".join(line + b"\n" for line in lines if only(line))
        else:
            kept += piece
        if len(kept) + len(rest) > room:
            raise _Broken(f"more than {room} bytes")
        if passed > PASSING_BYTES:
            raise _Broken(f"more than {PASSING_BYTES} bytes")
    if only and only(rest):
        kept += rest
    return bytes(kept)


async def _refuse(answer: aiohttp.ClientResponse) -> None:
    if answer.status >= ERROR:
        raise _Refused(answer.status, await answer.content.read(COMPLAINT_BYTES), answer.headers)


def _is_status(body: bytes) -> bool:
    """Whether the API server itself speaks, and not the pod."""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("kind") == "Status"
