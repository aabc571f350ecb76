"""The operator with the permissions that `manifests/` gives it, and with one less: the condition names which.

It is the service account itself that asks, by the roles and bindings of `manifests/`, changed in place.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog
import yaml

from api.test_sizes import pod
from api.world import (
    ACTIONS,
    NETWORKING,
    NOW,
    OPERATOR_NAMESPACE,
    Cluster,
    Json,
    Mesh,
    Operator,
    networking_served,
    operator,
    path_of_item,
    short_istio_api,
)
from meshes import rendered
from meshwright.api.errors import Forbidden
from meshwright.cluster.kinds import (
    CRD,
    DAEMON_SET,
    EVENT,
    GATEWAY_CLASS,
    LEASE,
    MESH_ACTION,
    MESH_INSTALL,
    NAMESPACE,
    NODE,
    OWN_ENDPOINT_SLICE,
    OWNED,
    POD,
    SECRET,
    SERVICE_ACCOUNT,
    Kind,
    kind_of,
)
from meshwright.cluster.lease import Election
from meshwright.cluster.mirror import mirror_of
from rbac import Permission, in_rules
from testbed.rest import wait_until

RBAC = Path(__file__).parents[2] / "manifests/base/rbac.yaml"
ACCOUNT = f"system:serviceaccount:{OPERATOR_NAMESPACE}:meshwright"
GROUPS = ("system:serviceaccounts", f"system:serviceaccounts:{OPERATOR_NAMESPACE}")


class Role(NamedTuple):
    kind: str
    name: str


OWN = Role("ClusterRole", "meshwright")
ISTIODS = Role("ClusterRole", "meshwright-istiod")
IN_MESH = Role("ClusterRole", "meshwright-mesh-namespace")
IN_OPERATOR = Role("Role", "meshwright")
ROLES = (OWN, ISTIODS, IN_MESH, IN_OPERATOR)


def manifests() -> list[Json]:
    """As kustomize has them: what is namespaced goes into the operator's namespace."""
    found: list[Json] = [each for each in yaml.safe_load_all(RBAC.read_text()) if each]
    for each in found:
        if not each["kind"].startswith("Cluster"):
            each["metadata"]["namespace"] = OPERATOR_NAMESPACE
    return found


BY_ROLE = {Role(each["kind"], each["metadata"]["name"]): each for each in manifests() if "rules" in each}


def of(kind: Kind, verb: str, subresource: str = "") -> Permission:
    return Permission(kind.group, f"{kind.plural}/{subresource}" if subresource else kind.plural, verb)


def permissions(*roles: Role) -> set[Permission]:
    return {each for role in roles for each in in_rules(BY_ROLE[role]["rules"])}


def less(rules: list[Json], missing: Permission) -> Iterator[Json]:
    """The rules, each for one group and resource, without a verb. Of `*`, the verb goes for all."""
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                concerned = group == missing.group and resource in {missing.resource, "*"}
                verbs = [verb for verb in rule["verbs"] if not (concerned and verb == missing.verb)]
                if verbs:
                    yield {**rule, "apiGroups": [group], "resources": [resource], "verbs": verbs}


def holds(role: Role, permission: Permission) -> bool:
    return not {permission, permission._replace(resource="*")}.isdisjoint(permissions(role))


class Account:
    """The operator's service account, and what it may do."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.kubeconfig = cluster.api.kubeconfig_for(ACCOUNT, groups=GROUPS)

    def install(self) -> None:
        for each in manifests():
            self._cluster.apply(each)

    def take_away(self) -> None:
        for each in manifests():
            self._cluster.delete(path_of_item(each))

    def bind(self, namespace: str) -> None:
        """What `manifests/mesh-namespace` does for istio-system, by the command for another one."""
        self._cluster.make_namespace(namespace)
        account = f"--serviceaccount={OPERATOR_NAMESPACE}:meshwright"
        role = f"--clusterrole={IN_MESH.name}"
        self._cluster.api.kubectl("create", "rolebinding", "meshwright", "-n", namespace, role, account)
        self._wait(of(SECRET, "create"), namespace, allowed=True)

    @contextmanager
    def without(self, missing: Permission, roles: Sequence[Role] = ROLES, *, namespace: str = "") -> Iterator[None]:
        """One verb less in `roles`, until the block ends. `namespace`: where that is to be seen."""
        concerned = [role for role in roles if holds(role, missing)]
        assert concerned, f"nobody holds {missing}"
        self._write({role: list(less(BY_ROLE[role]["rules"], missing)) for role in concerned})
        self._wait(missing, namespace, allowed=False)
        try:
            yield
        finally:
            self._write({role: BY_ROLE[role]["rules"] for role in concerned})
            self._wait(missing, namespace, allowed=True)

    @contextmanager
    def without_all_of(self, role: Role, *, seen_by: Permission, namespace: str) -> Iterator[None]:
        self._write({role: []})
        self._wait(seen_by, namespace, allowed=False)
        try:
            yield
        finally:
            self._write({role: BY_ROLE[role]["rules"]})
            self._wait(seen_by, namespace, allowed=True)

    def _write(self, rules: dict[Role, list[Json]]) -> None:
        for role, wanted in rules.items():
            self._cluster.merge(path_of_item(BY_ROLE[role]), {"rules": wanted})

    def _wait(self, permission: Permission, namespace: str, *, allowed: bool) -> None:
        resource, _, subresource = permission.resource.partition("/")
        attributes = {
            "verb": permission.verb,
            "group": permission.group,
            "resource": resource,
            "subresource": subresource,
            "namespace": namespace,
            "name": "meshwright",  # some rules are for a name
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": ACCOUNT, "groups": list(GROUPS), "resourceAttributes": attributes},
        }

        def known() -> bool:
            answer = self._cluster.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
            return bool(answer.body["status"]["allowed"]) is allowed

        wait_until(known, f"{permission} to be {'allowed' if allowed else 'refused'}", seconds=20, pause=0.01)


def names(message: str, permission: Permission) -> bool:
    """Whether the API server's words name the verb and the resource: as what one may not do, or may not grant."""
    group, resource, verb = permission
    plain = f'cannot {verb} resource "{resource}" in API group "{group}"'
    grant = rf'\{{APIGroups:\["{group}"\], Resources:\["{re.escape(resource)}"\], Verbs:\[[^]]*"{re.escape(verb)}"'
    return plain in message or ("attempting to grant" in message and bool(re.search(grant, message)))


@pytest.fixture(scope="module", autouse=True)
def _short(cluster: Cluster) -> Iterator[None]:
    with networking_served(cluster), short_istio_api():
        yield


@pytest.fixture(scope="module")
def account(cluster: Cluster) -> Iterator[Account]:
    account = Account(cluster)
    account.install()
    yield account
    account.take_away()


@pytest.fixture(scope="module")
def installed(cluster: Cluster, account: Account) -> Iterator[Mesh]:
    """A mesh that one life of the operator has made; each test is another life, and leaves it whole.

    With something of every kind, and so with istio-cni and an east-west gateway.
    """
    mesh = Mesh.fresh(cluster).create(dataPlane={"cni": "Enabled"}, **NETWORKING)
    account.bind(mesh.namespace)

    async def install() -> None:
        async with operator(account.kubeconfig) as op:
            await op.install(mesh)

    asyncio.run(install())
    yield mesh
    mesh.take_away()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def own_objects(mesh: Mesh, kind: Kind) -> list[Json]:
    return [each for each in mesh.objects() if each["kind"] == kind.kind]


async def refused(op: Operator, mesh: Mesh, missing: Permission) -> None:
    """The reconcile says what it may not do, and what to do about it; the mesh's Ready condition, that is."""
    again = await op.reconcile(mesh)
    ready = mesh.condition()
    assert (ready["status"], ready["reason"]) == ("False", "PermissionDenied"), ready
    assert names(ready["message"], missing), ready["message"]
    assert "apply the operator's manifests again, or grant" in ready["message"]
    assert mesh.condition("Stalled")["status"] == "True"
    assert again
    assert not again.failed  # it is somebody else's move


# What was made again has yet to come up.
GOING_ON = {"Installed", "Progressing", "WebhooksNotTrusted", "CNINotReady", "GatewayNotReady"}


async def goes_on(op: Operator, mesh: Mesh) -> None:
    again = await op.reconcile(mesh)
    assert again
    assert mesh.condition()["reason"] in GOING_ON, mesh.condition()


# -- enough


async def test_what_the_manifests_grant_is_enough(cluster: Cluster, account: Account, mesh: Mesh) -> None:
    """For a whole life: installed, looked at, changed, removed."""
    mesh.create(trust={"deletionPolicy": "Delete"})
    account.bind(mesh.namespace)
    async with operator(account.kubeconfig) as op:
        await op.install(mesh)
        mesh.change(mtls="Strict", controlPlane={"size": "Large"})
        await op.reconcile(mesh)
        assert mesh.condition()["reason"] == "Progressing"
        assert mesh.events()
        cluster.delete(mesh.path)
        await op.reconcile(mesh)
    assert cluster.get(mesh.path) is None
    assert mesh.objects() == []


async def test_a_namespace_that_the_operator_was_not_let_into(cluster: Cluster, account: Account, mesh: Mesh) -> None:
    """No Secret is written there, and the message names the namespace; the binding is all that is needed."""
    mesh.create()
    async with operator(account.kubeconfig) as op:
        await refused(op, mesh, of(SECRET, "create"))
        assert f'in the namespace "{mesh.namespace}"' in mesh.condition()["message"]
        assert cluster.get(mesh.cacerts_path) is None
        account.bind(mesh.namespace)
        await op.install(mesh)


async def test_secrets_elsewhere_are_out_of_its_hands(cluster: Cluster, account: Account, installed: Mesh) -> None:
    secret = cluster.must_get(installed.cacerts_path)
    cluster.make_namespace("bystander")
    secret["metadata"] = {"name": "cacerts", "namespace": "bystander"}
    cluster.apply(secret)
    secret = cluster.must_get("/api/v1/namespaces/bystander/secrets/cacerts")
    async with operator(account.kubeconfig) as op:
        for method in (op.wire.replace, op.wire.create):
            with pytest.raises(Forbidden, match='resource "secrets"'):
                await method(SECRET, secret, field_manager="meshwright-trust")
        with pytest.raises(Forbidden, match='cannot delete resource "secrets"'):
            await op.wire.delete(SECRET, secret)


# -- one less: reading, and changing what is there

# Of a cluster that another one's istiod serves; here, what is left of one is taken away.
HERE = [kind for kind in OWNED if kind is not OWN_ENDPOINT_SLICE]
LOOK = [
    *(of(kind, verb) for kind in HERE for verb in ("get", "list", "patch")),
    of(OWN_ENDPOINT_SLICE, "list"),
    *(of(CRD, verb) for verb in ("get", "list", "patch")),
    *(of(NAMESPACE, verb) for verb in ("get", "patch")),
    *(of(kind, "list") for kind in (POD, NAMESPACE, MESH_INSTALL, MESH_ACTION)),
]


@pytest.mark.parametrize("missing", LOOK, ids=str)
async def test_a_new_life_without_a_verb(account: Account, installed: Mesh, missing: Permission) -> None:
    """It reads everything, and asks by a dry run whether there is anything to change."""
    async with operator(account.kubeconfig) as op:
        with account.without(missing):
            await refused(op, installed, missing)
            assert op.wire.writes() == []


async def test_scaling_without_a_verb(cluster: Cluster, account: Account, installed: Mesh) -> None:
    """What was decided is written when it may be; nothing is decided twice for it."""
    space = f"{installed.namespace}-shop"
    cluster.make_namespace(space)
    account_of_pod = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": space}}
    cluster.create(account_of_pod)
    one = pod(space, 1)
    cluster.create(one)  # before the webhook, which nobody serves here, is asked
    cluster.merge(f"/api/v1/namespaces/{space}", {"metadata": {"labels": {"istio.io/rev": installed.revision}}})
    rule = {"action": "MultiClusterRequired", "threshold": 1, "clear": 0.5, "clearFor": "0s"}
    installed.change(scaling={"rules": [rule]})
    found = f"meshwright.dev/mesh={installed.name}"
    async with operator(account.kubeconfig) as op:
        with account.without(of(MESH_ACTION, "create")):
            await refused(op, installed, of(MESH_ACTION, "create"))
        assert cluster.list(ACTIONS, found) == []
        with account.without(of(MESH_ACTION, "patch", "status")):
            await refused(op, installed, of(MESH_ACTION, "patch", "status"))
        await goes_on(op, installed)
        assert len(cluster.list(ACTIONS, found)) == 1
        cluster.delete(path_of_item(one))
        await goes_on(op, installed)
        (action,) = cluster.list(ACTIONS, found)
        assert action["status"]["phase"] == "Undone"
    installed.change(scaling=None)
    cluster.delete(f"{ACTIONS}/{action['metadata']['name']}")


async def test_when_it_has_them_all_again(account: Account, installed: Mesh) -> None:
    async with operator(account.kubeconfig) as op:
        await goes_on(op, installed)
        assert op.wire.writes() == []


# -- one less: making what is gone


@pytest.mark.parametrize("kind", HERE, ids=lambda kind: kind.plural)
async def test_an_object_that_it_may_not_create(
    cluster: Cluster, account: Account, installed: Mesh, kind: Kind
) -> None:
    installed.istiod_becomes_available()  # or its webhooks would not be made
    for each in own_objects(installed, kind):
        cluster.delete(path_of_item(each))
    async with operator(account.kubeconfig) as op:
        with account.without(of(kind, "create")):
            await refused(op, installed, of(kind, "create"))
        await goes_on(op, installed)
    assert own_objects(installed, kind)


async def test_a_crd_that_it_may_not_create(cluster: Cluster, account: Account, installed: Mesh) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/peerauthentications.security.istio.io"
    cluster.delete(path)
    wait_until(lambda: cluster.get(path) is None, "the end of the CRD and of all of its kind", seconds=30, pause=0.05)
    async with operator(account.kubeconfig) as op:
        with account.without(of(CRD, "create")):
            await refused(op, installed, of(CRD, "create"))
        await goes_on(op, installed)


async def test_a_namespace_that_it_may_not_create(account: Account, mesh: Mesh) -> None:
    mesh.create()
    async with operator(account.kubeconfig) as op:
        with account.without(of(NAMESPACE, "create")):
            await refused(op, mesh, of(NAMESPACE, "create"))


async def test_nodes_that_it_may_not_list(account: Account, mesh: Mesh) -> None:
    """They are looked at while a size is decided, and before anything is written."""
    mesh.create()
    account.bind(mesh.namespace)
    async with operator(account.kubeconfig) as op:
        with account.without(of(NODE, "list")):
            await refused(op, mesh, of(NODE, "list"))
            assert op.wire.writes() == []
        await op.install(mesh)
        with account.without(of(NODE, "list")):
            await goes_on(op, mesh)  # as declared, it needs to know of none
            mesh.change(controlPlane={"size": "Medium"})
            await refused(op, mesh, of(NODE, "list"))


# -- one less: asking what runs

ASK = (of(POD, "get", "proxy"), of(POD, "get", "portforward"))


@pytest.mark.parametrize("missing", ASK, ids=str)
async def test_an_istiod_that_it_may_not_ask(
    cluster: Cluster, account: Account, installed: Mesh, missing: Permission
) -> None:
    """Nothing is known then of what istiod runs, and that is said; it is no reason to stop."""
    pod = istiod_pod(installed)
    cluster.create(pod)

    async def answers(*_: object, **__: object) -> bytes:
        return b""

    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}], "podIP": "192.0.2.1"}}
    cluster.merge(f"{path_of_item(pod)}/status", ready)
    async with operator(account.kubeconfig) as op:
        if missing.resource != "pods/proxy":
            op.wire.proxied = answers  # type: ignore[method-assign]  # there is no istiod that could
        with account.without(missing, namespace=installed.namespace):
            await goes_on(op, installed)
            accepted = installed.condition("ConfigurationAccepted")
            assert (accepted["status"], accepted["reason"]) == ("Unknown", "NotObserved")
            assert names(accepted["message"], missing), accepted["message"]
    cluster.delete(path_of_item(pod))


def istiod_pod(mesh: Mesh) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "istiod-0", "namespace": mesh.namespace, "labels": mesh.names.pod_labels},
        "spec": {
            "serviceAccountName": mesh.names.istiod, "nodeName": "nowhere",
            "containers": [{"name": "discovery", "image": "pilot"}],
        },
    }  # fmt: skip


# -- one less: what other clusters need of this one


async def test_its_own_address_that_it_may_not_look_up(cluster: Cluster, account: Account, mesh: Mesh) -> None:
    mesh.create(clusters=[{"name": "primary"}, {"name": "west", "kubeconfigSecret": "nothing"}])
    account.bind(mesh.namespace)
    async with operator(account.kubeconfig) as op:
        with account.without(of(OWN_ENDPOINT_SLICE, "list")):
            await refused(op, mesh, of(OWN_ENDPOINT_SLICE, "list"))
            assert op.wire.writes() == []
        await op.reconcile(mesh)
        (west,) = [each for each in mesh.status["clusters"] if each["name"] == "west"]
        assert f"Secret {OPERATOR_NAMESPACE}/nothing is not there" in west["away"]
    assert cluster.get(mesh.cacerts_path)


async def test_access_that_it_may_not_give(cluster: Cluster, account: Account, installed: Mesh) -> None:
    """A token of the reader's account, of that alone, and only where a mesh lives."""
    where = installed.namespace
    for name in ("istio-reader-service-account", "other"):
        cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": where}})
    made = cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bound", "namespace": where}})
    bound = ("bound", made.body["metadata"]["uid"])
    async with operator(account.kubeconfig) as op:
        granted = await op.wire.request_token(where, "istio-reader-service-account", secret=bound, seconds=3600)
        assert granted["token"]
        with pytest.raises(Forbidden, match='cannot create resource "serviceaccounts/token"'):
            await op.wire.request_token(where, "other", secret=bound, seconds=3600)
        with pytest.raises(Forbidden, match='cannot create resource "serviceaccounts/token"'):
            await op.wire.request_token("default", "istio-reader-service-account", secret=bound, seconds=3600)


# -- one less: taking away what is wanted no more


def slice_of(mesh: Mesh) -> Json:
    """As a cluster has it that another one's istiod serves."""
    labels = {"app.kubernetes.io/managed-by": "meshwright", "meshwright.dev/mesh-id": "cluster.local"}
    return {
        "apiVersion": OWN_ENDPOINT_SLICE.api_version, "kind": OWN_ENDPOINT_SLICE.kind, "addressType": "IPv4",
        "endpoints": [],
        "metadata": {"namespace": mesh.namespace,
                     "labels": {**labels, "endpointslice.kubernetes.io/managed-by": "meshwright"}},
    }  # fmt: skip


def stray(mesh: Mesh, kind: Kind, *, like: Mesh | None = None) -> Json:
    """An object of the mesh that nothing renders (any more), made after one of the mesh `like`, or its own."""
    model = next(iter(own_objects(like or mesh, kind)), None) or slice_of(mesh)
    labels = {name: text for name, text in model["metadata"]["labels"].items() if "meshwright" in text + name}
    labels |= {"meshwright.dev/mesh": mesh.name}
    metadata = {"name": f"stray-{mesh.name}", "labels": labels}
    if "namespace" in model["metadata"]:
        metadata["namespace"] = mesh.namespace
    body = {name: value for name, value in model.items() if name not in {"metadata", "status", "webhooks"}}
    if kind.kind == "Service":
        body["spec"] = {"ports": [{"port": 80}]}
    return {**body, "metadata": metadata}


@pytest.mark.parametrize("kind", OWNED, ids=lambda kind: kind.plural)
async def test_an_object_that_it_may_not_delete(
    cluster: Cluster, account: Account, installed: Mesh, kind: Kind
) -> None:
    more = stray(installed, kind)
    cluster.create(more)
    async with operator(account.kubeconfig) as op:
        with account.without(of(kind, "delete")):
            await refused(op, installed, of(kind, "delete"))
            assert cluster.get(path_of_item(more))
        await goes_on(op, installed)
    assert cluster.get(path_of_item(more)) is None


# -- one less: the CA

ELSEWHERE = {IN_MESH: (ISTIODS, IN_MESH), IN_OPERATOR: (ISTIODS, IN_OPERATOR)}  # istiod's holds everywhere


@pytest.mark.parametrize("role", [IN_MESH, IN_OPERATOR], ids=lambda role: role.name)
@pytest.mark.parametrize("verb", ["get", "create"])
async def test_a_secret_that_it_may_not_read_or_make(
    cluster: Cluster, account: Account, installed: Mesh, role: Role, verb: str
) -> None:
    namespace = installed.namespace if role is IN_MESH else OPERATOR_NAMESPACE
    if verb == "create":
        cluster.delete(installed.cacerts_path)
        if role is IN_OPERATOR:
            cluster.delete(installed.root_path)
    async with operator(account.kubeconfig) as op:
        with account.without(of(SECRET, verb), ELSEWHERE[role], namespace=namespace):
            await refused(op, installed, of(SECRET, verb))
            assert f'in the namespace "{namespace}"' in installed.condition()["message"]
        await goes_on(op, installed)
    assert cluster.get(installed.cacerts_path)
    assert cluster.get(installed.root_path)


async def test_an_intermediate_that_it_may_not_renew(account: Account, mesh: Mesh) -> None:
    mesh.create()
    account.bind(mesh.namespace)
    async with operator(account.kubeconfig) as op:
        await op.install(mesh)
        later = Operator.start(op.wire, now=NOW.replace(year=NOW.year + 1, month=8))
        before = mesh.cluster.must_get(mesh.cacerts_path)
        with account.without(of(SECRET, "update"), namespace=mesh.namespace):
            await refused(later, mesh, of(SECRET, "update"))
            assert mesh.cluster.must_get(mesh.cacerts_path) == before
        await goes_on(later, mesh)
    assert mesh.cluster.must_get(mesh.cacerts_path)["data"]["ca-cert.pem"] != before["data"]["ca-cert.pem"]


# -- one less: a removal


@pytest.fixture
def gateway_classes(cluster: Cluster) -> Iterator[None]:
    """The kind alone: Gateway API is not part of this API server."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    crd: Json = {
        "apiVersion": CRD.api_version,
        "kind": CRD.kind,
        "metadata": {
            "name": f"{GATEWAY_CLASS.plural}.{GATEWAY_CLASS.group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, a test's"},
        },
        "spec": {
            "group": GATEWAY_CLASS.group,
            "scope": "Cluster",
            "names": {"plural": GATEWAY_CLASS.plural, "singular": "gatewayclass", "kind": GATEWAY_CLASS.kind},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
    cluster.apply(crd)
    wait_until(lambda: cluster.get(GATEWAY_CLASS.path()) is not None, "GatewayClasses", seconds=20, pause=0.05)
    yield
    cluster.delete(path_of_item(crd))
    wait_until(lambda: cluster.get(path_of_item(crd)) is None, "the CRD to go", seconds=20, pause=0.05)


def what_istiod_leaves(cluster: Cluster, mesh: Mesh) -> None:
    cluster.ask(
        "POST",
        f"{GATEWAY_CLASS.path()}?fieldManager=pilot-discovery",
        {
            "apiVersion": GATEWAY_CLASS.api_version,
            "kind": GATEWAY_CLASS.kind,
            "metadata": {"name": "istio"},
            "spec": {"controllerName": "istio.io/gateway-controller"},
        },
    )
    name = f"istio-gateway-deployment-{mesh.revision}"
    metadata = {"name": name, "namespace": mesh.namespace}
    cluster.create({"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": {}})


@pytest.mark.usefixtures("gateway_classes")
async def test_a_removal_without_a_verb(cluster: Cluster, account: Account, installed: Mesh, mesh: Mesh) -> None:
    """It stops there, keeps the finalizer, names the verb, and goes on when it has it."""
    cluster.delete(installed.deployment_path)  # with another istiod in the cluster, GatewayClasses stay
    mesh.create(trust={"deletionPolicy": "Delete"}, **NETWORKING)
    account.bind(mesh.namespace)
    rows = [  # in the order in which it comes to them
        *((of(kind, verb), "") for kind in HERE for verb in ("list", "delete")),
        (of(OWN_ENDPOINT_SLICE, "list"), ""),
        (of(GATEWAY_CLASS, "list"), ""),
        (of(LEASE, "list"), ""),
        (of(LEASE, "delete"), mesh.namespace),
        (of(GATEWAY_CLASS, "delete"), ""),
        *((of(SECRET, "delete"), where) for where in (mesh.namespace, OPERATOR_NAMESPACE)),
        (of(MESH_INSTALL, "patch"), ""),
    ]
    async with operator(account.kubeconfig) as op:
        await op.install(mesh)
        what_istiod_leaves(cluster, mesh)
        cluster.create(stray(mesh, DAEMON_SET, like=installed))  # istio-cni is the other mesh's
        cluster.delete(mesh.path)
        for missing, namespace in rows:
            role = {mesh.namespace: (IN_MESH,), OPERATOR_NAMESPACE: (IN_OPERATOR,)}.get(namespace, ROLES)
            with account.without(missing, role, namespace=namespace):
                await op.reconcile(mesh)
                ready = mesh.condition()
                assert ready["status"] == "False", missing
                assert ready["reason"] in {"Deleting", "PermissionDenied"}
                assert names(ready["message"], missing), f"{missing}: {ready['message']}"
                assert f'in the namespace "{namespace}"' in ready["message"] or not namespace
                assert mesh.read()["metadata"]["finalizers"]
        await op.reconcile(mesh)
        await goes_on(op, installed)
    assert cluster.get(mesh.path) is None
    assert mesh.objects() == []


# -- one less: the MeshInstall itself


async def test_a_finalizer_that_it_may_not_set(cluster: Cluster, account: Account, installed: Mesh) -> None:
    cluster.merge(installed.path, {"metadata": {"finalizers": None}})
    async with operator(account.kubeconfig) as op:
        with account.without(of(MESH_INSTALL, "patch")):
            await refused(op, installed, of(MESH_INSTALL, "patch"))
        await goes_on(op, installed)
    assert installed.read()["metadata"]["finalizers"]


@pytest.mark.parametrize("missing", [of(MESH_INSTALL, "get"), of(MESH_INSTALL, "patch", "status")], ids=str)
async def test_without_a_word_on_the_mesh_itself_the_log_has_it(
    cluster: Cluster, account: Account, installed: Mesh, missing: Permission
) -> None:
    """What cannot read or write the status cannot say so there; the worker logs what is raised."""
    cluster.merge(f"{installed.path}/status", {"status": {"proxies": 9}})
    async with operator(account.kubeconfig) as op:
        with account.without(missing), pytest.raises(Forbidden) as raised:
            await op.reconcile(installed)
        assert names(str(raised.value), missing)
        await goes_on(op, installed)
    assert installed.status["proxies"] == 0


async def test_an_event_that_it_may_not_write_is_no_obstacle(
    cluster: Cluster, account: Account, installed: Mesh
) -> None:
    cluster.merge(f"{installed.path}/status", {"status": {"conditions": []}})
    async with operator(account.kubeconfig) as op:
        with account.without(of(EVENT, "create")), structlog.testing.capture_logs() as logs:
            await goes_on(op, installed)
    (said,) = [each for each in logs if each["event"] == "event not written"]
    assert names(said["error"], of(EVENT, "create"))


# -- one less: what informers and the election say, each for itself


async def test_a_watch_that_it_may_not_keep(account: Account, installed: Mesh) -> None:
    """The view says that it is old, and why; reads then go to the API server."""
    del installed
    watched = {each for each in permissions(OWN) if each.verb == "watch"} - {of(MESH_INSTALL, "watch")}
    assert len(watched) > len(OWNED)
    async with operator(account.kubeconfig) as op:
        mirror = mirror_of(op.wire, wake=lambda _: None, revision_changed=lambda _: None)
        for missing in sorted(watched):
            informers = [each for each in mirror._informers if each.kind.plural == missing.resource]  # noqa: SLF001
            assert informers, f"{missing} is for nothing"
            with account.without(missing):
                tasks = [asyncio.create_task(each.run()) for each in informers]
                await until(lambda: all("cannot watch" in (each.trouble or "") for each in informers))  # noqa: B023
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            assert all(names(str(each.trouble), missing) for each in informers)


@pytest.mark.parametrize("verb", ["get", "create", "update"])
async def test_a_lease_that_it_may_not_have(cluster: Cluster, account: Account, verb: str) -> None:
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{OPERATOR_NAMESPACE}/leases/meshwright"
    cluster.delete(lease)
    async with operator(account.kubeconfig) as op:
        election = Election(op.wire, namespace=OPERATOR_NAMESPACE, name="meshwright", identity="one")
        if verb == "update":
            await election.acquire()
            election = Election(op.wire, namespace=OPERATOR_NAMESPACE, name="meshwright", identity="one")
        with account.without(of(LEASE, verb), (IN_OPERATOR,), namespace=OPERATOR_NAMESPACE):
            task = asyncio.create_task(election.acquire())
            await until(lambda: bool(election.trouble) or task.done())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert election.trouble
        assert names(election.trouble, of(LEASE, verb)), election.trouble
    cluster.delete(lease)


# -- one less: what istiod needs, the operator must hold to grant it


async def test_what_it_cannot_grant_is_named(cluster: Cluster, account: Account, installed: Mesh) -> None:
    for each in own_objects(installed, kind_of("rbac.authorization.k8s.io/v1", "ClusterRole")):
        cluster.delete(path_of_item(each))
    missing = Permission("", "nodes", "list")
    async with operator(account.kubeconfig) as op:
        with account.without(missing):
            await refused(op, installed, missing)
        await goes_on(op, installed)


@pytest.mark.parametrize(
    ("kind", "role", "one"),
    [
        ("ClusterRole", ISTIODS, Permission("", "nodes", "watch")),
        ("Role", IN_MESH, Permission("coordination.k8s.io", "leases", "patch")),
    ],
    ids=["ClusterRoles", "Role"],
)
async def test_every_permission_of_istiods_is_one_that_the_api_server_asks_for(
    account: Account, installed: Mesh, kind: str, role: Role, one: Permission
) -> None:
    """Without any of them, its refusal to grant names each that the operator does not have otherwise."""
    manifests = [each.manifest for each in rendered(namespace=installed.namespace) if each.key.kind == kind]
    otherwise = permissions(*{OWN, ISTIODS} - {role})
    wanted = {each for manifest in manifests for each in in_rules(manifest["rules"])} - otherwise
    assert one in wanted <= permissions(role)
    said = ""
    async with operator(account.kubeconfig) as op:
        with account.without_all_of(role, seen_by=one, namespace=installed.namespace):
            for manifest in manifests:
                with pytest.raises(Forbidden, match="attempting to grant") as refused:
                    await op.wire.apply(
                        kind_of(manifest["apiVersion"], kind), manifest, field_manager="x", dry_run=True
                    )
                said += str(refused.value)
    assert {str(each) for each in wanted if not names(said, each)} == set()


# -- nothing is left out

TESTED_IN_REMOVAL = {*(of(GATEWAY_CLASS, verb) for verb in ("list", "delete")), of(LEASE, "list")}
TESTED_ALONE = {
    *(of(MESH_INSTALL, verb) for verb in ("get", "patch")),
    of(MESH_INSTALL, "patch", "status"),
    of(EVENT, "create"),
    *(of(MESH_ACTION, verb) for verb in ("create", "delete")),  # in test_scaling
    of(MESH_ACTION, "patch", "status"),
    *(of(kind, "create") for kind in (CRD, NAMESPACE)),
    of(NODE, "list"),
    *(of(OWN_ENDPOINT_SLICE, verb) for verb in ("get", "patch", "create")),  # where there is a remote cluster
    ASK[0],
}
NOT_TESTED = {of(MESH_INSTALL, "watch")}  # kopf's


def test_every_verb_of_its_own_is_tested() -> None:
    watched = {each for each in permissions(OWN) if each.verb == "watch"} - NOT_TESTED
    made_and_deleted = {of(kind, verb) for kind in OWNED for verb in ("create", "delete")}
    tested = {*LOOK, *watched, *made_and_deleted, *TESTED_IN_REMOVAL, *TESTED_ALONE}
    assert permissions(OWN) - tested == NOT_TESTED


# Kubernetes asks for it since 1.35, and this API server may be older.
SINCE_1_35 = of(POD, "create", "portforward")


def test_every_verb_in_a_namespace_is_tested_or_istiods() -> None:
    istiods = {each for one in rendered() if one.key.kind == "Role" for each in in_rules(one.manifest["rules"])}
    removal = {of(LEASE, "delete"), of(SECRET, "delete")}
    trust = {of(SECRET, verb) for verb in ("get", "create", "update")}
    access = {of(SERVICE_ACCOUNT, "create", "token")}
    assert permissions(IN_MESH) - istiods <= removal | trust | access | {*ASK, SINCE_1_35}
    election = {of(LEASE, verb) for verb in ("get", "create", "update")}
    assert permissions(IN_OPERATOR) == election | trust - {of(SECRET, "update")} | {of(SECRET, "delete")}
