"""/metrics, /healthz and /readyz; and /scaling, what the rules have measured in the last hours, for a plot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from meshwright.api.errors import MeshwrightError
from meshwright.controller.health import Verdict
from meshwright.controller.metrics import Metrics


class Server:
    """Listens on `port` of every address while it is entered."""

    def __init__(
        self, metrics: Metrics, *, port: int, healthy: Verdict, ready: Verdict,
        remembered: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:  # fmt: skip
        self._remembered = remembered
        self._metrics = metrics
        self._port = port
        self._healthy, self._ready = healthy, ready
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> None:
        app = web.Application()
        app.router.add_get("/metrics", self._exposition)
        app.router.add_get("/scaling", self._scaling)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._readiness)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
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

    async def _scaling(self, _request: web.Request) -> web.Response:
        """Numbers and states only. Empty from a replica that does not lead."""
        return web.json_response(self._remembered())

    async def _health(self, _request: web.Request) -> web.Response:
        return _answer(self._healthy())

    async def _readiness(self, _request: web.Request) -> web.Response:
        return _answer(self._healthy() or self._ready())


def _answer(wrong: str | None) -> web.Response:
    return web.Response(text=wrong or "ok", status=503 if wrong else 200)
