"""The fault proxy in front of the real API server: each fault does what it says, and the counts are right."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from api.world import Cluster, Json
from faults import plan
from faults.call import Call
from faults.plan import Crash, Distorted, Plan
from faults.proxy import Proxy, fault_proxy
from faults.runner import Workflow, crash_at_every_write, until
from meshwright.api.errors import Conflict, MeshwrightError, Rejected, Throttled, Unreachable
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import CONFIG_MAP

# A life that is killed closes nothing behind it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SPACE = "faulty"
PATH = f"/api/v1/namespaces/{SPACE}/configmaps"
TEST_SECONDS = 30


@pytest.fixture(autouse=True)
def space(cluster: Cluster) -> Iterator[None]:
    cluster.make_namespace(SPACE)
    yield
    for item in cluster.list(PATH):
        cluster.delete(f"{PATH}/{item['metadata']['name']}")


@pytest.fixture
def through(cluster: Cluster) -> Callable[..., Any]:
    """`async with through(plan) as (proxy, client)`."""

    @asynccontextmanager
    async def opened(of: Plan, **more: Any) -> AsyncIterator[tuple[Proxy, Client]]:
        async with (
            asyncio.timeout(TEST_SECONDS),
            fault_proxy(cluster.api.kubeconfig, of, **more) as proxy,
            a_client(proxy.configuration()) as client,
        ):
            yield proxy, client

    return opened


@asynccontextmanager
async def a_client(configuration: Configuration) -> AsyncIterator[Client]:
    client = Client(configuration)
    try:
        yield client
    finally:
        await client.close()


def config_map(name: str, value: str = "") -> Json:
    metadata = {"name": name, "namespace": SPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}}


async def create(client: Client, name: str) -> None:
    await client.create(CONFIG_MAP, config_map(name), field_manager="test")


async def apply(client: Client, name: str, value: str = "") -> None:
    await client.apply(CONFIG_MAP, config_map(name, value), field_manager="test")


async def read(client: Client, name: str) -> str | None:
    found = await client.get(CONFIG_MAP, name, SPACE)
    return found["data"]["value"] if found else None


def there(cluster: Cluster) -> list[str]:
    names = [item["metadata"]["name"] for item in cluster.list(PATH)]
    return sorted(name for name in names if name != "kube-root-ca.crt")


async def test_undisturbed_it_changes_nothing_and_counts_everything(
    cluster: Cluster, through: Callable[..., Any]
) -> None:
    async with through(plan.undisturbed()) as (proxy, client):
        assert (await client.version()).startswith("v")
        await create(client, "a")
        await apply(client, "a", "1")
        await client.apply(CONFIG_MAP, config_map("a", "2"), field_manager="test", dry_run=True)
        assert await read(client, "a") == "1"
        assert await read(client, "none") is None
        with pytest.raises(Conflict, match='configmaps "a" already exists'):
            await create(client, "a")
        await client.delete(CONFIG_MAP, cluster.must_get(f"{PATH}/a"))
    assert [str(write) for write in proxy.writes] == [
        f"POST configmaps {SPACE}/a",
        f"PATCH configmaps {SPACE}/a",
        f"POST configmaps {SPACE}/a",
        f"DELETE configmaps {SPACE}/a",
    ]
    assert [call.write for call in proxy.calls] == [0, 1, 2, 0, 0, 0, 3, 4]
    assert proxy.statuses == {200: 5, 201: 1, 404: 1, 409: 1}
    assert there(cluster) == []


@pytest.mark.parametrize("committed", [False, True])
async def test_a_crash_at_a_write(cluster: Cluster, through: Callable[..., Any], committed: bool) -> None:  # noqa: FBT001
    killed: list[int] = []
    async with through(plan.crash(at=2, committed=committed)) as (proxy, client):
        proxy.on_crash = lambda: killed.append(proxy.life)
        await create(client, "a")
        with pytest.raises(Unreachable):
            await create(client, "b")
        assert killed == [1]
        with pytest.raises(Unreachable):
            await read(client, "a")
        assert there(cluster) == (["a", "b"] if committed else ["a"])
        assert len(proxy.writes) == 2

        await proxy.new_life()
        with pytest.raises(Unreachable):  # a task that outlived its process
            await create(client, "late")
        async with a_client(proxy.configuration()) as next_client:
            await create(next_client, "c")
            await create(next_client, "d")
        assert [str(write) for write in proxy.writes] == [f"POST configmaps {SPACE}/c", f"POST configmaps {SPACE}/d"]
        assert len(proxy.all_writes) == 4
    assert killed == [1]
    assert there(cluster) == ["a", *(["b"] if committed else []), "c", "d"]
    assert [decision.fault for decision in proxy.faults] == [Crash(committed)]


async def test_a_crash_breaks_what_is_under_way_and_lets_sent_writes_arrive(
    cluster: Cluster, through: Callable[..., Any]
) -> None:
    sent = asyncio.Event()
    noticed = Plan("noticed", lambda call: sent.set() if call.is_write else None)
    async with through(noticed) as (proxy, client), watching(proxy, cluster) as event:
        writing = asyncio.create_task(create(client, "a"))
        await sent.wait()
        proxy.crash()
        with pytest.raises(Unreachable):
            await writing
        await proxy.new_life()
        assert there(cluster) == ["a"]
        with pytest.raises(aiohttp.ClientError):
            await event()


@pytest.mark.parametrize(
    ("status", "error"), [(409, Conflict), (422, Rejected), (429, Throttled), (500, Unreachable)], ids=str
)
async def test_refused_and_nothing_happened(
    cluster: Cluster, through: Callable[..., Any], status: int, error: type[MeshwrightError]
) -> None:
    async with through(plan.answer(status, at=1, retry_after=7)) as (proxy, client):
        with pytest.raises(error) as caught:
            await apply(client, "a")
        assert there(cluster) == []
        await apply(client, "a")
    assert there(cluster) == ["a"]
    assert proxy.statuses == {status: 1, 201: 1}
    assert status != 429 or getattr(caught.value, "retry_after", None) == 7


async def test_reads_can_be_refused_too(through: Callable[..., Any]) -> None:
    async with through(plan.answer(500, at=lambda call: call.is_read and call.occurrence == 1)) as (_, client):
        with pytest.raises(Unreachable):
            await read(client, "a")
        assert await read(client, "a") is None


@pytest.mark.parametrize("committed", [False, True])
async def test_an_answer_is_lost(cluster: Cluster, through: Callable[..., Any], committed: bool) -> None:  # noqa: FBT001
    async with through(plan.lost(at=1, committed=committed)) as (proxy, client):
        with pytest.raises(Unreachable):
            await create(client, "a")
        assert there(cluster) == (["a"] if committed else [])
        await create(client, "b")
        assert proxy.life == 1


async def test_reads_are_versions_old_and_then_never_older(cluster: Cluster, through: Callable[..., Any]) -> None:
    def old(call: Call) -> bool:
        return bool(call.name) and call.occurrence in (3, 5)

    async with through(plan.stale(1, at=old)) as (proxy, client):
        assert await read(client, "a") is None
        cluster.create(config_map("a", "1"))
        assert await read(client, "a") == "1"
        cluster.merge(f"{PATH}/a", {"data": {"value": "2"}})
        stale = await client.get(CONFIG_MAP, "a", SPACE)
        assert stale is not None
        assert stale["data"]["value"] == "1"
        with pytest.raises(Conflict):  # it carries the version it had
            await client.replace(CONFIG_MAP, stale, field_manager="test")
        assert await read(client, "a") == "2"
        assert await read(client, "a") == "2"
        assert len(proxy.faults) == 2


async def test_what_there_is_may_be_denied(cluster: Cluster, through: Callable[..., Any]) -> None:
    async with through(plan.stale(3, at=lambda _: True)) as (proxy, client):
        assert await read(client, "a") is None
        assert [item["metadata"]["name"] for item in await client.list(CONFIG_MAP, SPACE, labels="x=y")] == []
        cluster.create(config_map("a", "1") | {"metadata": {"name": "a", "namespace": SPACE, "labels": {"x": "y"}}})
        assert await read(client, "a") is None
        assert await client.list(CONFIG_MAP, SPACE, labels="x=y") == []
        with pytest.raises(Conflict, match="already exists"):
            await create(client, "a")
        await proxy.new_life()
        async with a_client(proxy.configuration()) as next_client:
            assert await read(next_client, "a") is None


# -- watches


class Seen(NamedTuple):
    kind: str
    name: str


@asynccontextmanager
async def watching(proxy: Proxy, cluster: Cluster) -> AsyncIterator[Callable[[], Coroutine[Any, Any, Seen | None]]]:
    """A raw watch of the ConfigMaps from now on; yields what waits for its next event, None at its end."""
    version = cluster.must_get(PATH)["metadata"]["resourceVersion"]
    url = f"{proxy.url}{PATH}?watch=true&resourceVersion={version}&allowWatchBookmarks=true"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:

        async def event() -> Seen | None:
            while text := await answer.content.readline():
                found = json.loads(text)
                if found["type"] != "BOOKMARK":
                    what = found["object"]
                    return Seen(found["type"], what["metadata"]["name"] if "metadata" in what else str(what["code"]))
            return None

        yield event


async def seen(proxy: Proxy, cluster: Cluster, names: str, *, until: Callable[[list[Seen]], bool]) -> list[Seen]:
    found: list[Seen] = []
    async with watching(proxy, cluster) as event:
        for name in names:
            cluster.create(config_map(name))
        while not until(found):
            last = await event()
            if last is None:
                break
            found.append(last)
    return found


def in_order(names: str) -> list[Seen]:
    return [Seen("ADDED", name) for name in names]


@pytest.mark.parametrize(
    ("distortion", "expected"),
    [
        pytest.param(Distorted(), "abcdefgh", id="none"),
        pytest.param(Distorted(seed=3, dropped=0.3), "bdegh", id="dropped"),
        pytest.param(Distorted(seed=3, doubled=0.3), "abcdeefgh", id="doubled"),
        pytest.param(Distorted(seed=3, delayed=0.2, delay=0.1), "abcdefgh", id="delayed"),
    ],
)
async def test_a_distorted_watch(
    cluster: Cluster, through: Callable[..., Any], distortion: Distorted, expected: str
) -> None:
    async with through(plan.distorted(distortion)) as (proxy, _):
        names = "abcdefgh"
        found = await seen(proxy, cluster, names, until=lambda so_far: len(so_far) == len(expected))
    assert found == in_order(expected)


@pytest.mark.parametrize("distortion", [Distorted(seed=3, reordered=0.4), Distorted(seed=3, reordered=1, window=9)])
async def test_a_reordered_watch(cluster: Cluster, through: Callable[..., Any], distortion: Distorted) -> None:
    async with through(plan.distorted(distortion)) as (proxy, _):
        found = await seen(proxy, cluster, "abcdefgh", until=lambda so_far: len(so_far) == 8)
    assert sorted(found) == in_order("abcdefgh")
    assert found != in_order("abcdefgh")


async def test_a_watch_ends_with_410(cluster: Cluster, through: Callable[..., Any]) -> None:
    async with through(plan.distorted(Distorted(gone_after=2))) as (proxy, _):
        found = await seen(proxy, cluster, "abc", until=lambda _: False)
        assert found == [*in_order("ab"), Seen("ERROR", "410")]


async def test_a_watch_falls_silent(cluster: Cluster, through: Callable[..., Any]) -> None:
    async with through(plan.distorted(Distorted(silent_after=1))) as (proxy, _), watching(proxy, cluster) as event:
        cluster.create(config_map("a"))
        cluster.create(config_map("b"))
        assert await event() == Seen("ADDED", "a")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(event(), 0.5)


async def test_objects_go_in_a_gap(cluster: Cluster, through: Callable[..., Any]) -> None:
    cluster.create(config_map("a"))
    async with through(plan.undisturbed()) as (proxy, client), watching(proxy, cluster) as event:
        cluster.create(config_map("b"))
        assert await event() == Seen("ADDED", "b")
        async with proxy.gap(lambda call: call.plural == "configmaps"), watching(proxy, cluster) as late_event:
            cluster.delete(f"{PATH}/a")
            assert await read(client, "a") is None
            waiting = asyncio.create_task(late_event())
        assert await event() == Seen("ERROR", "410")
        assert await event() is None
        waiting.cancel()
        async with watching(proxy, cluster) as event_after:
            cluster.create(config_map("c"))
            assert await event_after() == Seen("ADDED", "c")


# -- the same again


RATES = plan.Rates(crash=0, refused=0.3, lost=0.2, stale=0.3)


async def some_work(client: Client, prefix: str) -> None:
    """Three tasks at once, in whatever order."""

    async def one(name: str) -> None:
        for value in range(6):
            for work in (apply(client, name, str(value)), read(client, name)):
                try:
                    await work
                except MeshwrightError:
                    continue

    await asyncio.gather(*(one(f"{prefix}-{number}") for number in range(3)))


async def test_a_seed_and_a_log_do_the_same_again(through: Callable[..., Any], tmp_path: Path) -> None:
    async def disturbed(of: Plan, prefix: str) -> tuple[set[Any], Proxy]:
        async with through(of, names={prefix: "NAME"}) as (proxy, client):
            await some_work(client, prefix)
        return {(decision.call.identity, decision.fault) for decision in proxy.faults}, proxy

    first, proxy = await disturbed(plan.seeded(11, RATES), "one")
    again, _ = await disturbed(plan.seeded(11, RATES), "two")
    replayed, _ = await disturbed(plan.replay(proxy.log()), "three")
    assert len(first) > 10
    assert first == again == replayed


async def test_what_fails_says_how_to_see_it_again(through: Callable[..., Any], tmp_path: Path) -> None:
    log = tmp_path / "faults.jsonl"
    with pytest.raises(Throttled) as caught:
        async with through(plan.answer(429, at=1), log=log) as (_, client):
            await apply(client, "a")
    assert caught.value.__notes__ == [
        "faults: answer 429 to write 1",
        f'again: plan.replay(Path("{log}").read_text().splitlines())',
    ]
    async with through(plan.replay(log.read_text().splitlines())) as (_, client):
        with pytest.raises(Throttled):
            await apply(client, "a")


async def test_a_plan_that_fails_itself_is_no_fault_of_the_operator(through: Callable[..., Any]) -> None:
    async def reading() -> None:
        async with through(plan.answer(500, at=lambda call: bool(call.number // 0))) as (_, client):
            with pytest.raises(Unreachable):
                await read(client, "a")

    with pytest.raises(ZeroDivisionError):
        await reading()


# -- workflows


class Pair(NamedTuple):
    """A world for an operator that makes two ConfigMaps, the second with what the first says."""

    cluster: Cluster
    name: str

    @property
    def stand_ins(self) -> Mapping[str, str]:
        return {self.name: "PAIR"}

    def values(self) -> Json:
        items = [item for item in self.cluster.list(PATH) if item["metadata"]["name"].startswith(f"{self.name}-")]
        return {item["metadata"]["name"].replace(self.name, "PAIR"): item.get("data") for item in items}


def workflow(cluster: Cluster, name: str) -> Workflow[Pair]:
    numbers = iter(range(1000))

    @asynccontextmanager
    async def world() -> AsyncIterator[Pair]:
        yield Pair(cluster, f"{name}{next(numbers)}x")

    async def declare(pair: Pair) -> None:
        cluster.create(config_map(f"{pair.name}-wish", "made"))

    async def granted(pair: Pair) -> None:
        await until(lambda: "PAIR-done" in pair.values())

    return Workflow(name, world, (declare, granted), Pair.values)


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@contextmanager
def counted(births: list[int]) -> Iterator[None]:
    births[0] += 1
    try:
        yield
    finally:
        births[1] += 1


@dataclass(frozen=True)
class Granting:
    """An operator: for each wish an identity (by POST), a grant (by PATCH), and at last a mark that it is done.

    The careless one takes an identity that is there for a sign that the grant is there too.
    """

    births: list[int]  # and deaths
    careless: bool = False

    @asynccontextmanager
    async def life(self, pair: Pair, configuration: Configuration) -> AsyncIterator[None]:
        with counted(self.births):
            async with a_client(configuration) as client:
                working = asyncio.create_task(self.work(client, pair.name))
                yield
            working.cancel()

    async def work(self, client: Client, name: str) -> None:
        while True:
            with suppress(MeshwrightError):
                await self.grant(client, name)
            await asyncio.sleep(0.01)

    async def grant(self, client: Client, name: str) -> None:
        wish = await read(client, f"{name}-wish")
        if wish is None or await read(client, f"{name}-done"):
            return
        known = await read(client, f"{name}-identity") is not None
        if not known:
            await create(client, f"{name}-identity")
        if not (known and self.careless):
            await apply(client, f"{name}-grant", wish)
        await apply(client, f"{name}-done", "yes")


async def test_every_write_of_a_workflow_crashed(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    births = [0, 0]
    result = await crash_at_every_write(
        workflow(cluster, "careful"), kubeconfig=cluster.api.kubeconfig, operator=Granting(births).life,
        logs=tmp_path,
    )  # fmt: skip
    assert (result.writes, result.runs, result.missed, result.differences) == (3, 6, (), ())
    assert births == [13, 13]
    assert "workflow careful: 3 writes, 6 runs, 6 crashed, 0 differences" in capsys.readouterr().out
    assert names_in(tmp_path) == []


async def test_an_operator_that_loses_its_place_is_found(cluster: Cluster, tmp_path: Path) -> None:
    result = await crash_at_every_write(
        workflow(cluster, "careless"), kubeconfig=cluster.api.kubeconfig, operator=Granting([0, 0], careless=True).life,
        logs=tmp_path,
    )  # fmt: skip
    assert len(result.differences) == 2
    (after,) = [
        each
        for each in result.differences
        if each.startswith(f"crash after POST configmaps {SPACE}/PAIR-identity (1); ")
    ]
    assert "PAIR-grant: expected {'value': 'made'}, found None" in after
    assert names_in(tmp_path) == [
        "careless-1-after.jsonl",
        "careless-2-before.jsonl",
    ]


async def test_what_a_life_raises_by_itself_is_raised(cluster: Cluster, tmp_path: Path) -> None:
    def broken(_: Pair, configuration: Configuration) -> AbstractAsyncContextManager[None]:
        raise Rejected(f"nothing to do at {configuration.host}")

    with pytest.raises(Rejected):
        await crash_at_every_write(
            workflow(cluster, "broken"), kubeconfig=cluster.api.kubeconfig, operator=broken, logs=tmp_path
        )


# -- speed


REQUESTS = 400


async def test_it_is_fast_enough(cluster: Cluster, through: Callable[..., Any]) -> None:
    async def per_second(client: Client) -> float:
        await read(client, "a")
        started = time.monotonic()
        for _ in range(REQUESTS // 8):
            await asyncio.gather(*(read(client, "a") for _ in range(4)), *(apply(client, "a") for _ in range(4)))
        return REQUESTS / (time.monotonic() - started)

    direct = Configuration()
    await config.load_kube_config(config_file=str(cluster.api.kubeconfig), client_configuration=direct)
    async with a_client(direct) as client, through(plan.undisturbed()) as (_, client_through):
        rates = await per_second(client), await per_second(client_through)
    print(f"fault proxy: {rates[1]:.0f} requests/s, direct {rates[0]:.0f}")
    assert rates[1] > 50  # thousands a minute, also on a machine that is busy
