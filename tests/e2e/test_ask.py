"""What istiods and proxies say when the operator asks, against what they say inside their own pods."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from e2e import workloads
from meshwright.api.errors import NotFound, Unreachable
from meshwright.cluster.census import Census, ask
from meshwright.cluster.client import Client
from testbed.backends import Backend
from testbed.product import NAMESPACE, Product, eventually

ASKED, OUTSIDE = "e2e-asked", "e2e-unasked"
ISTIOD = "istio-system"
NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)  # when they are asked is what they are told
# Takes connections, and says nothing on any of them.
SILENT = workloads.container(
    command=["python3", "-c", "import socket, time; held = socket.create_server(('', 8080)); time.sleep(3600)"],
    startupProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1},
)


@pytest.fixture(scope="module")
def apps(product: Product, mesh: str) -> Iterator[Product]:
    product.apply(
        workloads.namespace(ASKED),
        workloads.namespace(OUTSIDE, injected=False),
        workloads.deployment("one", ASKED),
        workloads.deployment("two", ASKED),
        workloads.deployment("silent", OUTSIDE, containers=[SILENT]),
    )
    for space, names in ((ASKED, ("one", "two")), (OUTSIDE, ("silent",))):
        for name in names:
            rollout = ("rollout", "status", f"deployment/{name}", "--timeout=120s")
            product.kubectl("-n", space, *rollout, timeout=130)
    yield product
    product.kubectl("delete", "namespace", ASKED, OUTSIDE, "--wait=false")


async def client_of(backend: Backend, product: Product, account: str, namespace: str) -> Client:
    """The operator's client, with a service account's permissions and no others."""
    configuration = Configuration()
    await config.load_kube_config(config_file=str(backend.kubeconfig), client_configuration=configuration)
    configuration.cert_file = configuration.key_file = None
    configuration.api_key = {
        "BearerToken": f"Bearer {product.kubectl('-n', namespace, 'create', 'token', account).strip()}"
    }
    return Client(configuration)


@pytest.fixture
async def operator(backend: Backend, product: Product) -> AsyncIterator[Client]:
    client = await client_of(backend, product, "meshwright", NAMESPACE)
    yield client
    await client.close()


@pytest.fixture
async def stranger(backend: Backend, apps: Product) -> AsyncIterator[Client]:
    client = await client_of(backend, apps, "default", OUTSIDE)
    yield client
    await client.close()


def pods(product: Product, namespace: str, labels: str = "") -> list[str]:
    """Names of those that run and stay."""
    found = product.get("pods", "-n", namespace, "-l", labels, "--field-selector=status.phase=Running")["items"]
    return [each["metadata"]["name"] for each in found if "deletionTimestamp" not in each["metadata"]]


def istiods(product: Product) -> list[str]:
    return pods(product, ISTIOD, "app=istiod,istio.io/rev=default")


def inside(product: Product, pod: str, path: str) -> Any:
    """What an istiod tells its own container."""
    return json.loads(product.kubectl("-n", ISTIOD, "exec", pod, "--", "pilot-discovery", "request", "GET", path))


def certificate_ends(product: Product, pod: str) -> dt.datetime:
    """When the certificate that Envoy presents ends, in Envoy's words."""
    request = ("exec", pod, "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", "certs")
    held = json.loads(product.kubectl("-n", ASKED, *request))["certificates"]
    chains = [chain for each in held for chain in each.get("cert_chain", ()) if f"/ns/{ASKED}/" in str(chain)]
    (end,) = {chain["expiration_time"] for chain in chains}
    return dt.datetime.fromisoformat(end)


async def test_every_istiod_tells_what_it_runs(apps: Product, operator: Client) -> None:
    names = istiods(apps)
    assert len(names) == 2
    # Each proxy hangs on one of the two, and those of other tests come and go.
    synced = [each for name in names for each in inside(apps, name, "/debug/syncz")]
    answers = await ask(operator, ISTIOD, names, now=NOW)
    assert [answer.pod for answer in answers] == names
    for answer in answers:
        assert answer.trouble == ""
        assert answer.version.startswith("1.31")
        assert answer.mesh_config == inside(apps, answer.pod, "/debug/mesh")
        assert answer.root_expires == dt.datetime.fromisoformat(root(apps)["rootExpires"])
    assert {version for answer in answers for version in answer.proxies_by_version} == {
        each["istio_version"] for each in synced
    }
    assert {f"{name}.{ASKED}" for name in pods(apps, ASKED)} <= {each["proxy"] for each in synced}
    assert sum(sum(answer.proxies_by_version.values()) for answer in answers) >= 2


def root(product: Product) -> dict[str, Any]:
    (cluster,) = product.get("mesh")["items"][0]["status"]["clusters"]
    trust: dict[str, Any] = cluster["trust"]
    return trust


@pytest.mark.parametrize("path", ["/debug/mesh", "/debug/inject", "/debug/syncz"])
async def test_what_istiod_tells_its_loopback_only(apps: Product, operator: Client, path: str) -> None:
    name = istiods(apps)[0]
    with pytest.raises(Unreachable, match="HTTP 401"):
        await operator.proxied(ISTIOD, name, 15014, path)
    answer, truth = json.loads(await operator.forwarded(ISTIOD, name, 15014, path)), inside(apps, name, path)
    if path == "/debug/syncz":  # proxies of other tests come and go
        answer, truth = ({each["proxy"] for each in found if ASKED in each["proxy"]} for found in (answer, truth))
    assert answer == truth


async def test_the_certificates_of_a_fleet(apps: Product, operator: Client) -> None:
    names = pods(apps, ASKED)
    ends = {f"{ASKED}/{name}": certificate_ends(apps, name) for name in names}
    fleet = [(ASKED, name) for name in names]
    census = Census()

    async def look(*more: tuple[str, str]) -> Any:
        return await census.look(operator, [*fleet, *more], now=dt.datetime.now(dt.UTC))

    found = await look()
    assert (found.read, found.of, found.trouble) == (2, 2, "")
    assert found.expires is not None
    assert abs(found.expires - min(ends.values())) < dt.timedelta(seconds=2)
    assert abs(found.expires - ends[found.pod]) < dt.timedelta(seconds=2)
    with_a_ghost = await look((ASKED, "gone"))
    assert (with_a_ghost.read, with_a_ghost.of) == (2, 3)
    assert 'pods "gone" not found' in with_a_ghost.trouble


async def test_a_pod_that_is_silent_holds_nobody_up(apps: Product, operator: Client) -> None:
    (name,) = pods(apps, OUTSIDE)
    began = time.monotonic()
    answers = await asyncio.gather(
        operator.proxied(OUTSIDE, name, 8080, "/metrics"),
        ask(operator, ISTIOD, istiods(apps), now=NOW),
        return_exceptions=True,
    )
    assert time.monotonic() - began < 8
    assert isinstance(answers[0], Unreachable)
    assert "no answer within 3 s" in str(answers[0])
    assert not isinstance(answers[1], BaseException)


async def test_nobody_there(apps: Product, operator: Client) -> None:
    name = istiods(apps)[0]
    with pytest.raises(Unreachable, match="nothing listens there"):
        await operator.forwarded(ISTIOD, name, 1, "/debug/mesh")
    with pytest.raises(Unreachable, match="connection refused"):
        await operator.proxied(ISTIOD, name, 1, "/metrics")
    for request in (operator.forwarded(ISTIOD, "gone", 15014, "/"), operator.proxied(ISTIOD, "gone", 15014, "/")):
        with pytest.raises(NotFound, match='pods "gone" not found'):
            await request


async def test_without_the_permissions_the_trouble_names_them(apps: Product, stranger: Client) -> None:
    (answer,) = await ask(stranger, ISTIOD, istiods(apps)[:1], now=NOW)
    assert 'cannot get resource "pods/proxy"' in answer.trouble
    assert answer.mesh_config is None
    found = await Census().look(stranger, [(ASKED, pods(apps, ASKED)[0])], now=dt.datetime.now(dt.UTC))
    assert (found.read, found.of) == (0, 1)
    assert 'cannot get resource "pods/proxy"' in found.trouble


async def test_a_mesh_whose_istiod_was_replaced(apps: Product, operator: Client) -> None:
    """The pods change under the question: who is gone is a trouble, who stays answers."""
    stays, goes = istiods(apps)
    apps.kubectl("-n", ISTIOD, "delete", "pod", goes, "--timeout=60s", timeout=70)
    first, second = await ask(operator, ISTIOD, [stays, goes], now=NOW)
    assert (first.trouble, bool(first.mesh_config)) == ("", True)
    assert "not found" in second.trouble
    assert eventually(lambda: len(istiods(apps)) == 2, seconds=60)
