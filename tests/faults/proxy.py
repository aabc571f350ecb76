"""The HTTP between an operator and a real API server: counts every call, and does to it what a plan says.

One process of the operator is a life. A crash ends it: its connections break, and nothing of it comes through any more,
also not from tasks that outlive it, because each life has an address of its own. What was on its way still arrives.

Like any Kubernetes client of aiohttp, the operator's sends a GET, PUT or DELETE once more by itself when a connection
that was used before breaks; such a second request is a call of its own here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from yarl import URL

from faults.call import Call
from faults.past import Past, Reply
from faults.plan import Answer, Crash, Distorted, Fault, Lost, Plan, Stale, line_of
from faults.stream import GONE, Distortion

PATIENCE = 0.1  # seconds without an event after which a held one is not held any longer
NO_STATUS, OK, CONFLICT = 0, 200, 409
TO_SERVER = ("Accept", "Content-Type", "User-Agent")
TO_CLIENT = ("Content-Type", "Retry-After", "Warning")

REFUSALS: Mapping[int, tuple[str, str]] = {
    409: ("Conflict", "the object has been modified; please apply your changes to the latest version and try again"),
    410: ("Expired", "the provided continue parameter is too old"),
    422: ("Invalid", "spec: Invalid value: refused by the fault proxy"),
    429: ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
    500: ("InternalError", "an error on the server has prevented the request from succeeding"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
}


class Decision(NamedTuple):
    call: Call
    fault: Fault | None


class NoAnswer(web.Response):
    """The connection breaks instead."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError


class Watch:
    """A watch that is under way."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.held = False
        self.cut = asyncio.Event()  # ERROR 410 is due


class Proxy:
    """Made by `fault_proxy`."""

    def __init__(self, session: aiohttp.ClientSession, server: str, plan: Plan, names: Mapping[str, str]) -> None:
        self.plan = plan
        self.names = names
        self.life = 1
        self.dead = False
        self.on_crash: Callable[[], None] = lambda: None
        self.decisions: list[Decision] = []
        self.all_writes: list[Call] = []
        self.statuses: Counter[int] = Counter()  # what the operator was answered; 0: nothing
        self.error: Exception | None = None  # of the plan
        self.refused = 0  # requests of lives that had ended
        self._spoken = False  # in this life
        self._first_write = 0  # of this life, in all_writes
        self._session, self._server = session, server
        self._occurrences: Counter[Call] = Counter()
        self._past: dict[tuple[str, str], Past] = {}
        self._watches: set[Watch] = set()
        self._gaps: list[Callable[[Call], bool]] = []
        self._under_way: set[asyncio.Task[Reply]] = set()
        # Who waits for an answer ends with their connection; a request that was sent on does not.
        self._front = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._listener: asyncio.Server | None = None

    # -- the operator's side

    @property
    def url(self) -> str:
        """Where the operator of this life finds its API server."""
        assert self._listener is not None
        return f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}/life-{self.life}"

    def configuration(self) -> Configuration:
        return Configuration(host=self.url, client_session_kwargs={"trust_env": False})

    # -- the harness's side

    @property
    def calls(self) -> list[Call]:
        return [decision.call for decision in self.decisions]

    @property
    def writes(self) -> list[Call]:
        """Of this life, in the order in which they came; `str` of one is METHOD plural namespace/name."""
        return self.all_writes[self._first_write :]

    @property
    def faults(self) -> list[Decision]:
        return [decision for decision in self.decisions if decision.fault]

    def log(self) -> Iterator[str]:
        """A line for each call, from which `plan.replay` does the same again."""
        return (line_of(*decision) for decision in self.decisions)

    def write_log(self, file: Path) -> None:
        file.write_text("".join(f"{line}\n" for line in self.log()))

    def check(self) -> None:
        """Raises what the plan raised: to the operator that was only another 500."""
        if self.error is not None:
            raise self.error

    def crash(self) -> None:
        """Ends this life now."""
        self.dead = True
        self._break_connections()
        self.on_crash()

    async def new_life(self) -> None:
        """From now on the next process may speak; what the last one had sent has arrived or failed before."""
        if not self.dead:
            self.crash()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        for past in self._past.values():
            past.forget_life()
        self.life += 1
        self.dead = False
        self._spoken = False
        self._first_write = len(self.all_writes)

    async def at_rest(self, seconds: float) -> None:
        """Until a life that has asked something at all lets so many seconds pass without a write."""
        before = None
        while (now := (self.life, len(self.all_writes))) != before or self.dead or not self._spoken or self._under_way:
            before = now
            await asyncio.sleep(seconds)

    @asynccontextmanager
    async def gap(self, matching: Callable[[Call], bool] = lambda _: True) -> AsyncIterator[None]:
        """Watches learn nothing of what happens in this block, and end with ERROR 410 after it."""
        self._gaps.append(matching)
        for watch in self._watches:
            watch.held |= matching(watch.call)
        try:
            yield
        finally:
            self._gaps.remove(matching)
            for watch in self._watches:
                if watch.held:
                    watch.cut.set()

    # -- a request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        life, _, rest = request.raw_path.removeprefix("/life-").partition("/")
        if self.dead or life != str(self.life):
            self.refused += 1
            return NoAnswer()
        sent = Sent(request, f"/{rest}", body)
        call = self._numbered(Call.of(request.method, sent.target, body, names=self.names))
        try:
            fault = self.plan.fault(call)
        except Exception as error:
            self.error = error
            raise
        self.decisions.append(Decision(call, fault))
        self._spoken = True
        if call.is_write:
            self.all_writes.append(call)
        try:
            response = await self._answer(sent, call, fault)
        except aiohttp.ClientError:  # the API server itself is away, or the operator is
            response = NoAnswer()
        self.statuses[NO_STATUS if isinstance(response, NoAnswer) else response.status] += 1
        return response

    def _numbered(self, call: Call) -> Call:
        call = replace(call, life=self.life)
        self._occurrences[call] += 1
        return replace(
            call,
            occurrence=self._occurrences[call],
            number=len(self.decisions) + 1,
            write=len(self.all_writes) + 1 if call.is_write else 0,
        )

    async def _answer(self, sent: Sent, call: Call, fault: Fault | None) -> web.StreamResponse:
        match fault:
            case Crash(committed) | Lost(committed):
                ends = isinstance(fault, Crash)
                self.dead |= ends  # already now: what comes beside this write is not sent on
                if committed:
                    await self._send(sent)
                if ends:
                    self.crash()
                return NoAnswer()
            case Answer():
                return _refusal(call, fault)
        if call.watch:
            return await self._watch(sent, call, fault if isinstance(fault, Distorted) else Distorted())
        if call.is_read:
            return _response(await self._read(sent, call, fault.versions if isinstance(fault, Stale) else 0))
        return _response(await self._send(sent))

    async def _send(self, sent: Sent) -> Reply:
        """To the API server. What was sent is not called back when the sender goes away."""
        task = asyncio.create_task(self._exchange(sent))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _read(self, sent: Sent, call: Call, versions: int) -> Reply:
        reply = await self._exchange(sent)
        past = self._past.setdefault((sent.target, sent.accept), Past(of_a_list=not call.name))
        past.saw(reply)
        return past.read(versions, otherwise=reply)

    async def _exchange(self, sent: Sent) -> Reply:
        async with self._request(sent) as answer:
            return Reply(answer.status, _kept(answer.headers, TO_CLIENT), await answer.read())

    def _request(self, sent: Sent) -> Any:
        headers = dict(_kept(sent.request.headers, TO_SERVER))
        url = URL(self._server + sent.target, encoded=True)
        return self._session.request(sent.request.method, url, data=sent.body or None, headers=headers)

    # -- a watch

    async def _watch(self, sent: Sent, call: Call, fault: Distorted) -> web.StreamResponse:
        async with self._request(sent) as upstream:
            headers = _kept(upstream.headers, TO_CLIENT)
            if upstream.status != OK:
                return _response(Reply(upstream.status, headers, await upstream.read()))
            response = web.StreamResponse(headers=dict(headers))
            await response.prepare(sent.request)
            watch = Watch(call)
            watch.held = any(matching(call) for matching in self._gaps)
            self._watches.add(watch)
            try:
                await _pump(upstream.content, response, watch, Distortion(fault))
            finally:
                self._watches.discard(watch)
            return response

    # -- its own life

    async def start(self) -> Self:
        self._listener = await asyncio.get_running_loop().create_server(self._front, "127.0.0.1", 0)
        return self

    async def stop(self) -> None:
        assert self._listener is not None
        self._listener.close()
        self.dead = True
        self._break_connections()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._front.shutdown(1)

    def _break_connections(self) -> None:
        for connection in self._front.connections:
            if connection.transport is not None:
                connection.transport.abort()


class Sent(NamedTuple):
    """A request as it came, without the life in its path."""

    request: web.BaseRequest
    target: str  # path and query
    body: bytes

    @property
    def accept(self) -> str:
        return self.request.headers.get("Accept", "")


async def _pump(
    content: aiohttp.StreamReader, response: web.StreamResponse, watch: Watch, distortion: Distortion
) -> None:
    """Events from one side to the other, until the API server ends it or 410 is due."""
    partial = b""
    cut = asyncio.create_task(watch.cut.wait())
    reading = asyncio.create_task(content.readany())
    try:
        while not distortion.gone:
            patience = PATIENCE if distortion.holds else None
            await asyncio.wait({cut, reading}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if cut.done():
                break
            if not reading.done():
                events = distortion.flush()
            elif chunk := reading.result():
                reading = asyncio.create_task(content.readany())
                *lines, partial = (partial + chunk).split(b"\n")
                events = [event for line in lines for event in distortion.feed(line)]
            else:
                return
            for event in events:
                await asyncio.sleep(event.wait)
                if not watch.held:
                    await response.write(event.line + b"\n")
        await response.write(GONE + b"\n")
    finally:
        cut.cancel()
        reading.cancel()


def _kept(headers: Mapping[str, str], names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, headers[name]) for name in names if name in headers)


def _response(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, headers=dict(reply.headers), body=reply.body)


def _refusal(call: Call, answer: Answer) -> web.Response:
    """As the API server would word it."""
    reason, message = REFUSALS[answer.status]
    if answer.status == CONFLICT and call.method == "POST":
        reason, message = "AlreadyExists", "already exists"
    body = {
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": answer.status, "reason": reason,
        "message": f'{call.plural} "{call.name}": {message}', "details": {"name": call.name, "kind": call.plural},
    }  # fmt: skip
    headers = {} if answer.retry_after is None else {"Retry-After": str(answer.retry_after)}
    return web.json_response(body, status=answer.status, headers=headers)


@asynccontextmanager
async def fault_proxy(
    kubeconfig: Path, plan: Plan, *, names: Mapping[str, str] | None = None, log: Path | None = None
) -> AsyncIterator[Proxy]:
    """A proxy in this event loop, to the API server of a kubeconfig with a client certificate.

    `names` maps words of this run to those that stand for them in every run, so that a plan and a log fit both: the
    name of a mesh that a counter made. When the block fails, all calls and faults are written to `log`, and the
    error says how to see the same again.
    """
    upstream = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=upstream)
    tls = ssl.create_default_context(cafile=upstream.ssl_ca_cert)
    tls.load_cert_chain(upstream.cert_file, upstream.key_file)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls),
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("Accept-Encoding",),  # packing costs more than loopback
    )
    async with session:
        proxy = await Proxy(session, upstream.host, plan, names or {}).start()
        try:
            yield proxy
            proxy.check()
        except BaseException as error:
            error.add_note(f"faults: {plan.title}")
            if log is not None:
                proxy.write_log(log)
                error.add_note(f'again: plan.replay(Path("{log}").read_text().splitlines())')
            raise
        finally:
            await proxy.stop()
