"""/metrics, /healthz and /readyz."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web

from meshwright.api.errors import MeshwrightError
from meshwright.controller.metrics import Metrics

Verdict = Callable[[], str | None]  # says what is wrong, or nothing


class Server:
    """Listens on `port` of every address while it is entered."""

    def __init__(self, metrics: Metrics, *, port: int, healthy: Verdict, ready: Verdict) -> None:
        self._metrics = metrics
        self._port = port
        self._healthy, self._ready = healthy, ready
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> None:
        app = web.Application()
        app.router.add_get("/metrics", self._exposition)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._readiness)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, port=self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise MeshwrightError(
                f"cannot listen on port {self._port} ({error.strerror}): free it, or use --port"
            ) from None

    async def __aexit__(self, *_: object) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _exposition(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _health(self, _request: web.Request) -> web.Response:
        return _answer(self._healthy())

    async def _readiness(self, _request: web.Request) -> web.Response:
        return _answer(self._healthy() or self._ready())


def _answer(wrong: str | None) -> web.Response:
    return web.Response(text=wrong or "ok", status=503 if wrong else 200)


class Watchdog:
    """Knows how long the work in hand takes already."""

    def __init__(self, *, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._since: dict[str, float] = {}

    def begin(self, key: str) -> None:
        self._since[key] = self._clock()

    def end(self, key: str) -> None:
        self._since.pop(key, None)

    def __call__(self) -> str | None:
        now = self._clock()
        for key, since in self._since.items():
            if now - since > self._limit:
                return f"the reconcile of {key} has not ended for {now - since:.0f} s"
        return None
