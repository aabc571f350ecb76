"""Asking istiods and proxies: each by itself, and no trouble of one is another's."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping

from meshwright.api.errors import Forbidden, MeshwrightError, Unreachable
from meshwright.cluster.census import PROXY_PAGE, Census, ask
from meshwright.mesh.census import LEAST, Answer, Earliest

NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
METRICS = b"""
pilot_info{version="1.31.4-abc"} 1
pilot_xds{version="1.31.4"} 3
citadel_server_root_cert_expiry_timestamp 1.8e+09
"""
ROOT_EXPIRES = dt.datetime.fromtimestamp(1.8e9, dt.UTC)

Said = bytes | MeshwrightError


class Pods:
    """What each pod answers, by (name, path); no pod answers before all of `together` are asked."""

    def __init__(self, said: Mapping[tuple[str, str], Said], *, together: int = 1) -> None:
        self.said, self.asked = said, list[tuple[str, str, int, str]]()
        self._all = asyncio.Barrier(together)

    async def proxied(
        self, namespace: str, pod: str, port: int, path: str, *, only: Callable[[bytes], bool] | None = None
    ) -> bytes:
        page = await self._answer(namespace, pod, port, path)
        return b"\n".join(line for line in page.split(b"\n") if not only or only(line))

    async def forwarded(self, namespace: str, pod: str, port: int, path: str) -> bytes:
        return await self._answer(namespace, pod, port, path)

    async def _answer(self, namespace: str, pod: str, port: int, path: str) -> bytes:
        self.asked.append((namespace, pod, port, path))
        async with asyncio.timeout(5):
            await self._all.wait()
        said = self.said.get((pod, path), Unreachable(f"{pod} is silent"))
        if isinstance(said, MeshwrightError):
            raise said
        return said


async def test_every_istiod_is_asked_at_once() -> None:
    pods = Pods(
        {("a", "/metrics"): METRICS, ("a", "/debug/mesh"): b'{"trustDomain": "x"}', ("b", "/metrics"): METRICS,
         ("b", "/debug/mesh"): Forbidden('cannot get resource "pods/portforward"'), ("c", "/debug/mesh"): b"{}"},
        together=8,
    )  # fmt: skip
    first, second, third, fourth = await ask(pods, "istio-system", ["a", "b", "c", "d"], now=NOW)
    assert first == Answer(
        pod="a", version="1.31.4-abc", mesh_config={"trustDomain": "x"}, proxies_by_version={"1.31.4": 3},
        root_expires=ROOT_EXPIRES,
    )  # fmt: skip
    assert (second.proxies_by_version, second.mesh_config) == ({"1.31.4": 3}, None)
    assert second.trouble == 'cannot get resource "pods/portforward"'
    assert third == Answer(pod="c", mesh_config={}, trouble="c is silent")
    assert fourth == Answer(pod="d", trouble="d is silent")
    assert set(pods.asked) == {
        ("istio-system", pod, 15014, path) for pod in "abcd" for path in ("/metrics", "/debug/mesh")
    }


async def test_a_mesh_config_that_is_none() -> None:
    for said in (b"", b"<html>", b"[]", b"\xff"):
        (answer,) = await ask(Pods({("a", "/metrics"): METRICS, ("a", "/debug/mesh"): said}), "n", ["a"], now=NOW)
        assert answer.mesh_config is None
        assert "no JSON object" in answer.trouble
        assert answer.proxies_by_version == {"1.31.4": 3}


async def test_nobody_is_asked_when_there_is_nobody() -> None:
    assert await ask(Pods({}), "n", [], now=NOW) == ()
    assert await Census().look(Pods({}), [], now=NOW) == Earliest()


def page(seconds: float) -> bytes:
    """What a proxy says, and what the application beside it pretends."""
    certificate = 'istio_agent_cert_expiry_seconds{resource_name="%s"} %s'
    lines = [certificate % ("ROOTCA", 5), certificate % ("default", seconds), "other 1", certificate % ("default", 1)]
    return "\n".join(lines).encode()


async def test_the_earliest_certificate_of_a_fleet() -> None:
    hour = dt.timedelta(hours=1)
    pods = Pods(
        {("a", PROXY_PAGE): page(7200), ("b", PROXY_PAGE): page(3600), ("d", PROXY_PAGE): b"other 1"}, together=4
    )
    found = await Census().look(pods, [("n", pod) for pod in "abcd"], now=NOW)
    assert found == Earliest(pod="n/b", expires=NOW + hour, read=2, of=4, trouble="c is silent")
    assert set(pods.asked) == {("n", pod, 15020, PROXY_PAGE) for pod in "abcd"}


async def test_a_fleet_is_read_a_few_at_a_time() -> None:
    fleet = [("n", f"p{number:03}") for number in range(2 * LEAST)]
    pods = Pods({(name, PROXY_PAGE): page(1000 + place) for place, (_, name) in enumerate(reversed(fleet))})
    census = Census()
    assert (await census.look(pods, fleet, now=NOW)).read == LEAST
    assert len(pods.asked) == LEAST
    found = await census.look(pods, fleet, now=NOW)
    assert found == Earliest(
        pod=f"n/{fleet[-1][1]}", expires=NOW + dt.timedelta(seconds=1000), read=2 * LEAST, of=2 * LEAST
    )
    assert len(set(pods.asked)) == 2 * LEAST
    # The one that would be earliest is gone.
    assert (await census.look(pods, fleet[:-1], now=NOW)).pod == f"n/{fleet[-2][1]}"


async def test_the_other_clusters_that_an_istiod_reads() -> None:
    """By its own list: its metrics keep the state of a client that was replaced."""
    said: Mapping[tuple[str, str], Said] = {
        ("a", "/metrics"): METRICS, ("a", "/debug/mesh"): b"{}",
        ("a", "/debug/clusterz"): b'[{"id": "west", "syncStatus": "synced"}, {"id": "north", "syncStatus": "timeout"}]',
        ("b", "/metrics"): METRICS, ("b", "/debug/mesh"): b"{}", ("b", "/debug/clusterz"): b"<html>",
        ("c", "/metrics"): METRICS, ("c", "/debug/mesh"): b"{}",
    }  # fmt: skip
    first, second, third = await ask(Pods(said), "istio-system", ["a", "b", "c"], now=NOW, joined=True)
    assert first.remotes == {"west": True, "north": False}
    assert second.remotes == {}
    assert third.trouble == "c is silent"
