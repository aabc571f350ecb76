"""manifests/member and docs/how-to/clusters.md, as a user carries them out: what the operator may do there, and how it
gets in.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import yaml

from api.world import OPERATOR_NAMESPACE, Cluster, Json
from meshwright.api.errors import Forbidden, KubeconfigError
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import EVENT, MESH_ACTION, MESH_INSTALL, SECRET
from meshwright.cluster.kubeconfig import parse_kubeconfig
from meshwright.cluster.mirror import mirror_of
from rbac import Permission, in_rules
from testbed import pki, programs
from testbed.apiserver import ApiServer, api_server
from testbed.rest import wait_until

REPOSITORY = Path(__file__).parents[2]
MEMBER = REPOSITORY / "manifests/member"
HOW_TO = REPOSITORY / "docs/how-to/clusters.md"
MESH_NAMESPACE = "istio-system"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
SECRETS = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/secrets"
TOKEN = f"{SECRETS}/meshwright-token"
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """One of its own, with the manifests and nothing else, and the controller that fills in tokens."""
    with api_server(controllers=["serviceaccount-token-controller"]) as running:
        running.kubectl("apply", "--server-side", "-k", str(MEMBER))
        yield running


@pytest.fixture(scope="module")
def west(server: ApiServer) -> Iterator[Cluster]:
    bystander = Cluster(server)
    wait_for_token(bystander)
    yield bystander
    bystander.close()


def wait_for_token(cluster: Cluster) -> None:
    wait_until(lambda: "token" in (cluster.must_get(TOKEN).get("data") or {}), "the token", seconds=30, pause=0.05)


@pytest.fixture
def kubeconfig(west: Cluster, tmp_path: Path) -> Iterator[bytes]:
    """What the page's command puts into the Secret. Both contexts lead to one cluster here."""
    (command,) = SHELL.findall(HOW_TO.read_text())
    identity = pki.Identity(west.api.certificate, west.api.key)
    authority = pki.Authority.load(west.api.authority.parent, "ca").identity.certificate
    contexts = [pki.kubeconfig(name, west.api.url, authority, identity) for name in ("west", "east")]
    (tmp_path / "kubeconfig").write_text(pki.merge_kubeconfigs(contexts))
    environment = {
        **os.environ,
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "KUBECACHEDIR": str(tmp_path / "cache"),
        "PATH": f"{programs.kubectl().parent}:{os.environ['PATH']}",
    }
    subprocess.run(["bash", "-euc", command], env=environment, check=True, capture_output=True, timeout=120)
    yield base64.b64decode(west.must_get(f"{SECRETS}/west")["data"]["kubeconfig"])
    west.delete(f"{SECRETS}/west")


@asynccontextmanager
async def member(kubeconfig: bytes) -> AsyncIterator[Client]:
    access = parse_kubeconfig(kubeconfig, where=f"Secret {OPERATOR_NAMESPACE}/west, key kubeconfig")
    client = Client.for_member(access)
    try:
        yield client
    finally:
        await client.close()


def rules(kind: str, name: str) -> set[Permission]:
    """Of a role of the operator in its own cluster."""
    for each in yaml.safe_load_all((REPOSITORY / "manifests/base/rbac.yaml").read_text()):
        if (each["kind"], each["metadata"]["name"]) == (kind, name):
            return in_rules(each["rules"])
    raise LookupError(name)


# -- what is there


@pytest.mark.parametrize("name", ["meshwright-istiod", "meshwright-mesh-namespace"])
def test_roles_are_those_of_the_operators_own_cluster(west: Cluster, name: str) -> None:
    assert in_rules(west.must_get(f"{RBAC}/clusterroles/{name}")["rules"]) == rules("ClusterRole", name)


def test_its_own_role_is_the_same_but_for_what_only_the_operators_cluster_has(west: Cluster) -> None:
    there = in_rules(west.must_get(f"{RBAC}/clusterroles/meshwright")["rules"])
    here = rules("ClusterRole", "meshwright")
    assert there < here
    assert {(each.group, each.resource) for each in here - there} == {
        (MESH_INSTALL.group, MESH_INSTALL.plural),
        (MESH_INSTALL.group, f"{MESH_INSTALL.plural}/status"),
        (MESH_ACTION.group, MESH_ACTION.plural),
        (MESH_ACTION.group, f"{MESH_ACTION.plural}/status"),
        (EVENT.group, EVENT.plural),
    }
    assert MESH_INSTALL.group not in {each.group for each in there}


def test_nothing_is_there_that_an_operator_runs_by(west: Cluster) -> None:
    def ours(path: str) -> set[str]:
        names = {each["metadata"]["name"] for each in west.list(path)}
        return {name for name in names if "meshwright" in name}

    for path in (
        "/apis/apps/v1/deployments",
        "/apis/policy/v1/poddisruptionbudgets",
        "/apis/networking.k8s.io/v1/networkpolicies",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        f"{RBAC}/roles",
    ):
        assert ours(path) == set(), path
    bindings = [each for each in west.list(f"{RBAC}/rolebindings") if each["metadata"]["name"] == "meshwright"]
    assert [each["metadata"]["namespace"] for each in bindings] == [MESH_NAMESPACE]
    assert ours("/api/v1/secrets") == {"meshwright-token"}


# -- how the operator gets in


async def test_the_kubeconfig_of_the_page_lets_the_operator_look_at_everything(kubeconfig: bytes) -> None:
    async with member(kubeconfig) as client:
        mirror = mirror_of(client, wake=lambda _: None, revision_changed=lambda _: None)
        watching = asyncio.create_task(mirror.run())
        async with asyncio.timeout(60):
            while not mirror.synced:
                assert not [each for each in mirror.troubles() if "forbidden" in each]
                await asyncio.sleep(0.05)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        assert mirror.troubles() == ()


async def test_it_writes_secrets_in_the_meshs_namespace_and_nowhere_else(kubeconfig: bytes) -> None:
    def secret(namespace: str) -> Json:
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "one", "namespace": namespace}}

    async with member(kubeconfig) as client:
        made = await client.create(SECRET, secret(MESH_NAMESPACE), field_manager="x")
        await client.delete(SECRET, made)
        for namespace in ("default", OPERATOR_NAMESPACE):
            with pytest.raises(Forbidden, match="apply manifests/member to that cluster again"):
                await client.create(SECRET, secret(namespace), field_manager="x")


async def test_meshinstalls_there_are_none_of_its_business(kubeconfig: bytes) -> None:
    async with member(kubeconfig) as client:
        with pytest.raises(Forbidden, match="meshinstalls"):
            await client.list(MESH_INSTALL)


async def test_tokens_it_asks_for_are_the_readers_and_nobody_elses(west: Cluster, kubeconfig: bytes) -> None:
    reader, bound = "istio-reader-service-account", {"name": "bound", "namespace": MESH_NAMESPACE}
    for name in (reader, "istiod"):
        west.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": MESH_NAMESPACE}}
        )
    secret = ("bound", west.apply({"apiVersion": "v1", "kind": "Secret", "metadata": bound}).body["metadata"]["uid"])
    async with member(kubeconfig) as client:
        granted = await client.request_token(MESH_NAMESPACE, reader, secret=secret, seconds=3600)
        assert granted["token"]
        for namespace, account in ((MESH_NAMESPACE, "istiod"), (OPERATOR_NAMESPACE, "meshwright")):
            with pytest.raises(Forbidden, match="serviceaccounts/token"):
                await client.request_token(namespace, account, secret=secret, seconds=3600)


async def test_who_deletes_the_token_takes_the_access_back(west: Cluster, tmp_path: Path) -> None:
    west.api.kubectl("-n", OPERATOR_NAMESPACE, "delete", "secret", "meshwright-token")
    west.api.kubectl("apply", "--server-side", "-k", str(MEMBER))
    wait_for_token(west)
    text = base64.b64decode(west.must_get(TOKEN)["data"]["token"]).decode()
    kubeconfig = json.loads(west.api.kubeconfig.read_text())
    kubeconfig["users"][0]["user"] = {"token": text}
    west.api.kubectl("-n", OPERATOR_NAMESPACE, "delete", "secret", "meshwright-token")
    async with member(json.dumps(kubeconfig).encode()) as client:
        with pytest.raises(KubeconfigError, match="does not accept the kubeconfig's credential"):
            await client.version()
    west.api.kubectl("apply", "--server-side", "-k", str(MEMBER))
    wait_for_token(west)
