"""A member by its kubeconfig, at a real API server: by token and by certificate, under another name, and refused."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from api.world import OPERATOR_NAMESPACE, Cluster
from meshwright.api.errors import Forbidden, KubeconfigError, MeshwrightError, NotFound, Unreachable
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import NAMESPACE, SERVICE_ACCOUNT
from meshwright.cluster.kubeconfig import Access, parse_kubeconfig
from testbed.pki import Authority

ACCOUNT = "a-member"
NAME = "a-member-may-look"
WHERE = "Secret meshwright-system/west, key kubeconfig"


class Answers(NamedTuple):
    """What became of one question by each of the three ways to the API server."""

    request: MeshwrightError | None
    watch: MeshwrightError | None
    port: MeshwrightError | None


@asynccontextmanager
async def member(access: Access) -> AsyncIterator[Client]:
    client = Client.for_member(access)
    try:
        yield client
    finally:
        await client.close()


async def ask(client: Client) -> Answers:
    async def request() -> None:
        assert await client.get(NAMESPACE, "default")

    async def watch() -> None:
        async for event, _ in client.watch(NAMESPACE, resource_version="0", seconds=1):
            assert event == "BOOKMARK"  # the server has taken the watch on
            return

    async def port() -> None:
        await client.proxied("default", "nobody", 80, "/")

    found: list[MeshwrightError | None] = []
    for question in (request, watch, port):
        try:
            await question()
        except MeshwrightError as error:
            found.append(error)
        else:
            found.append(None)
    return Answers(*found)


def lets_in(answers: Answers) -> bool:
    """The pod whose port is asked for is not there, and the API server itself says so."""
    return (answers.request, answers.watch) == (None, None) and isinstance(answers.port, NotFound)


@pytest.fixture(scope="module")
def token(cluster: Cluster) -> Iterator[str]:
    """Of a ServiceAccount that may see namespaces and ask pods."""
    account = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": OPERATOR_NAMESPACE}
    rules = [
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]},
    ]
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": NAME}}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT, "namespace": OPERATOR_NAMESPACE},
        }
    )
    cluster.apply({**rbac, "kind": "ClusterRole", "rules": rules})
    cluster.apply({**rbac, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [account]})
    yield cluster.api.kubectl("create", "token", ACCOUNT, "-n", OPERATOR_NAMESPACE).strip()
    for kind in ("clusterrolebindings", "clusterroles"):
        cluster.delete(f"/apis/rbac.authorization.k8s.io/v1/{kind}/{NAME}")
    cluster.delete(f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/serviceaccounts/{ACCOUNT}")


@pytest.fixture
def by_token(cluster: Cluster, token: str) -> Access:
    return Access(cluster.api.url, ca=cluster.api.authority.read_bytes(), token=token)


@pytest.fixture
def by_certificate(cluster: Cluster) -> Access:
    return parse_kubeconfig(cluster.api.kubeconfig.read_bytes(), where=WHERE)


@pytest.fixture
def another_authority(tmp_path: Path) -> Authority:
    """Of the same name as the right one."""
    return Authority.create(tmp_path, "ca")


# -- let in


async def test_by_a_token(cluster: Cluster, by_token: Access) -> None:
    async with member(by_token) as client:
        assert lets_in(await ask(client))
        assert (await client.version()).startswith("v1.")


async def test_by_a_client_certificate(by_certificate: Access) -> None:
    assert by_certificate.client_key
    assert not by_certificate.token
    async with member(by_certificate) as client:
        assert lets_in(await ask(client))


async def test_by_the_kubeconfig_that_kubectl_makes_of_a_token(cluster: Cluster, by_token: Access) -> None:
    """The commands of docs/how-to/clusters.md."""
    path = cluster.api.folder / "west.kubeconfig"
    file = ("--kubeconfig", str(path))
    authority = f"--certificate-authority={cluster.api.authority}"
    run = cluster.api.kubectl
    run(*file, "config", "set-cluster", "west", f"--server={cluster.api.url}", authority, "--embed-certs")
    run(*file, "config", "set-credentials", "meshwright", f"--token={by_token.token}")
    run(*file, "config", "set-context", "west", "--cluster=west", "--user=meshwright")
    run(*file, "config", "use-context", "west")
    assert parse_kubeconfig(path.read_bytes(), where=WHERE) == by_token


@asynccontextmanager
async def another_address(server: str) -> AsyncIterator[str]:
    """Of the same server, as a load balancer in front of it has: one that is not in its certificate."""
    host, port = str(urlsplit(server).hostname), int(urlsplit(server).port or 443)

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(1 << 16):
                target.write(piece)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, thither = await asyncio.open_connection(host, port)
        await asyncio.gather(pass_on(reader, thither), pass_on(there, writer))

    relay = await asyncio.start_server(serve, "127.0.0.2")
    async with relay:
        yield f"https://127.0.0.2:{relay.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("credential", ["by_token", "by_certificate"])
async def test_at_an_address_that_the_certificate_does_not_have(
    request: pytest.FixtureRequest, credential: str
) -> None:
    """Each of the three ways has to ask for the name that it has."""
    access: Access = request.getfixturevalue(credential)
    async with another_address(access.server) as server:
        elsewhere = dataclasses.replace(access, server=server)
        async with member(elsewhere) as client:
            for error in await ask(client):
                assert isinstance(error, Unreachable)
                assert "127.0.0.2" in str(error)
        async with member(dataclasses.replace(elsewhere, tls_server_name="kubernetes.default.svc")) as client:
            assert lets_in(await ask(client))


async def test_that_name_must_be_in_the_certificate(by_token: Access) -> None:
    async with member(dataclasses.replace(by_token, tls_server_name="kubernetes.example")) as client:
        for error in await ask(client):
            assert isinstance(error, Unreachable)
            assert "kubernetes.example" in str(error)


# -- not let in


@pytest.mark.parametrize("credential", ["by_token", "by_certificate"])
async def test_an_authority_that_did_not_sign_the_server(
    request: pytest.FixtureRequest, credential: str, another_authority: Authority
) -> None:
    access: Access = request.getfixturevalue(credential)
    wrong = dataclasses.replace(access, ca=another_authority.identity.certificate.read_bytes())
    async with member(wrong) as client:
        for error in await ask(client):
            assert isinstance(error, Unreachable)
            assert "certificate verify failed" in str(error)


async def test_without_an_authority_those_that_everybody_knows_count(by_token: Access) -> None:
    async with member(dataclasses.replace(by_token, ca=None)) as client:
        assert all("certificate verify failed" in str(error) for error in await ask(client))


def another_token(access: Access, _: Authority) -> Access:
    header, content, signature = access.token.split(".")
    return dataclasses.replace(access, token=f"{header}.{content}.{signature[::-1]}")


def a_certificate_of_another_authority(access: Access, authority: Authority) -> Access:
    identity = authority.issue("admin", "kubernetes-admin", groups=["system:masters"])
    return dataclasses.replace(
        access, token="", client_certificate=identity.certificate.read_bytes(), client_key=identity.key.read_bytes()
    )


@pytest.mark.parametrize("wrong", [another_token, a_certificate_of_another_authority])
async def test_a_credential_that_is_not_accepted(
    by_token: Access, another_authority: Authority, wrong: Callable[[Access, Authority], Access]
) -> None:
    access = wrong(by_token, another_authority)
    async with member(access) as client:
        for error in await ask(client):
            assert isinstance(error, KubeconfigError)
            assert "does not accept the kubeconfig's credential" in str(error)
            assert by_token.token.rpartition(".")[2] not in str(error)
        with pytest.raises(KubeconfigError):  # so says the probe, too, although anybody may ask for the version
            await client.version()


async def test_a_token_of_an_account_that_is_gone(cluster: Cluster, by_token: Access) -> None:
    account = {"name": f"{ACCOUNT}-that-goes", "namespace": OPERATOR_NAMESPACE}
    cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    token = cluster.api.kubectl("create", "token", account["name"], "-n", OPERATOR_NAMESPACE).strip()
    cluster.delete(f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/serviceaccounts/{account['name']}")
    async with member(dataclasses.replace(by_token, token=token)) as client:
        with pytest.raises(KubeconfigError, match="make the kubeconfig again"):
            await client.version()


async def test_what_its_user_may_not_do_is_to_be_granted_there(by_token: Access) -> None:
    async with member(by_token) as client:
        with pytest.raises(Forbidden, match=r"cannot list resource .serviceaccounts.*apply manifests/member"):
            await client.list(SERVICE_ACCOUNT)
