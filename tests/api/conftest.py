"""One API server for the session, with Meshwright's CRD; each test has names of its own and cleans up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from api.world import ACTIONS, MESHES, OPERATOR_NAMESPACE, Cluster, Mesh, Operator, operator, short_istio_api
from testbed.apiserver import ApiServer, api_server
from testbed.rest import wait_until

CRD_FILE = Path(__file__).parents[2] / "crds/meshinstalls.meshwright.dev.yaml"
ACTIONS_FILE = CRD_FILE.with_name("meshactions.meshwright.dev.yaml")


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    with api_server() as running:
        yield running


@pytest.fixture(scope="session")
def cluster(server: ApiServer) -> Iterator[Cluster]:
    bystander = Cluster(server)
    install_crd(bystander)
    bystander.make_namespace(OPERATOR_NAMESPACE)
    yield bystander
    bystander.close()


def install_crd(cluster: Cluster) -> None:
    for each in (ACTIONS_FILE, CRD_FILE):
        cluster.apply(yaml.safe_load(each.read_text()))
    wait_until(
        lambda: all(cluster.get(path) is not None for path in (ACTIONS, MESHES)), "the CRDs to be served",
        seconds=20, pause=0.05,
    )  # fmt: skip


@pytest.fixture
def new_mesh(cluster: Cluster) -> Iterator[Callable[..., Mesh]]:
    made: list[Mesh] = []

    def new(revision: str = "") -> Mesh:
        made.append(Mesh.fresh(cluster, revision))
        return made[-1]

    yield new
    for mesh in made:
        mesh.take_away()


@pytest.fixture
def mesh(new_mesh: Callable[..., Mesh]) -> Mesh:
    return new_mesh()


@pytest_asyncio.fixture
async def op(cluster: Cluster) -> AsyncIterator[Operator]:
    """An operator that has just started, with the administrator's permissions."""
    with short_istio_api():
        async with operator(cluster.api.kubeconfig) as started:
            yield started


@pytest_asyncio.fixture
async def whole_op(cluster: Cluster) -> AsyncIterator[Operator]:
    """The same, with all of Istio's CRDs."""
    async with operator(cluster.api.kubeconfig) as started:
        yield started


@pytest_asyncio.fixture
async def second_op(cluster: Cluster) -> AsyncIterator[Operator]:
    """The operator's next life."""
    async with operator(cluster.api.kubeconfig) as started:
        yield started


@pytest.fixture
def other_mesh(new_mesh: Callable[..., Mesh]) -> Mesh:
    return new_mesh()


@pytest.fixture
def default_mesh(new_mesh: Callable[..., Mesh]) -> Mesh:
    """Of the default revision, of which there can be only one at a time."""
    return new_mesh("default")
