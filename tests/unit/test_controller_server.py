"""What is served of health and metrics."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from meshwright.controller.metrics import Metrics
from meshwright.controller.server import Server


@pytest.mark.parametrize(
    ("wrong", "waiting", "healthy", "ready"),
    [
        (None, None, (200, "ok"), (200, "ok")),
        ("stuck", None, (503, "stuck"), (503, "stuck")),
        (None, "starting", (200, "ok"), (503, "starting")),  # alive: a restart would not help
    ],
)
def test_health_and_metrics_are_served(
    wrong: str | None, waiting: str | None, healthy: tuple[int, str], ready: tuple[int, str]
) -> None:
    async def ask() -> list[tuple[int, str]]:
        server = Server(Metrics(version="0"), port=0, healthy=lambda: wrong, ready=lambda: waiting)
        async with server:
            assert server._runner  # noqa: SLF001
            # With port 0 each family has a port of its own; an IPv4 address is a pair.
            port = next(each[1] for each in server._runner.addresses if len(each) == 2)  # noqa: SLF001
            answers = []
            async with aiohttp.ClientSession() as session:
                for path in ("healthz", "readyz", "metrics"):
                    async with session.get(f"http://127.0.0.1:{port}/{path}") as answer:
                        answers.append((answer.status, await answer.text()))
        return answers

    health, readiness, metrics = asyncio.run(ask())
    assert (health, readiness) == (healthy, ready)
    assert metrics[0] == 200
    assert "meshwright_build_info" in metrics[1]
