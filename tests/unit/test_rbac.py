"""The operator's roles, verb by verb: what the code calls, and what istiod is given; no more, and in no more places."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any

import pytest
import yaml

from meshes import REPOSITORY, rendered
from meshwright.cluster import kinds
from meshwright.cluster.kinds import (
    CRD,
    GATEWAY_CLASS,
    LEASE,
    MESH_INSTALL,
    NAMESPACE,
    OWNED,
    POD,
    SECRET,
    Kind,
)
from rbac import Permission, in_rules

Json = dict[str, Any]

SOURCE = REPOSITORY / "operator/meshwright"


class Where(StrEnum):
    CLUSTER = "in the whole cluster"
    MESH = "in a mesh's namespace"
    OPERATOR = "in the operator's namespace"


Needs = tuple[Where, Permission]


def documents(path: str) -> list[Json]:
    return [each for each in yaml.safe_load_all((REPOSITORY / path).read_text()) if each]


RBAC = documents("manifests/base/rbac.yaml")
ROLES = {
    (each["kind"], each["metadata"]["name"]): in_rules(each["rules"])
    for each in RBAC
    if each["kind"] in {"ClusterRole", "Role"}
}
OWN = ROLES["ClusterRole", "meshwright"]
ISTIODS = ROLES["ClusterRole", "meshwright-istiod"]
HELD = {
    Where.CLUSTER: OWN | ISTIODS,
    Where.MESH: OWN | ISTIODS | ROLES["ClusterRole", "meshwright-mesh-namespace"],
    Where.OPERATOR: OWN | ISTIODS | ROLES["Role", "meshwright"],
}
EVERYTHING: set[Permission] = set().union(*ROLES.values())


def held(wanted: Permission, where: Where) -> bool:
    """`*` is granted by `*` alone: Kubernetes compares rules so when somebody grants what they hold."""
    return any(
        have.group == wanted.group and have.resource in {wanted.resource, "*"} and have.verb in {wanted.verb, "*"}
        for have in HELD[where]
    )


# -- what istiod, istio-cni and gateways are given

EVERY_COMPONENT: Json = {"locality": {}, "dataPlane": {"cni": "Enabled"}, "gateways": [{"name": "ingress"}]}
TWO_CLUSTERS: Json = {"clusters": [{"name": "primary"}, {"name": "west", "kubeconfigSecret": "west"}]}


def granted(kind: str) -> set[Permission]:
    return {
        permission
        for spec in ({}, {"revision": "canary", "namespace": "mesh"}, EVERY_COMPONENT, TWO_CLUSTERS)
        for each in rendered(**spec)
        if each.key.kind == kind
        for permission in in_rules(each.manifest["rules"])
    }


GRANTED = {Where.CLUSTER: granted("ClusterRole"), Where.MESH: granted("Role")}

# -- what the code calls

# What a call asks of the API server. An apply that creates needs both verbs.
VERBS = {
    "get": ("get",), "list": ("list",), "create": ("create",), "replace": ("update",), "apply": ("patch", "create"),
    "merge": ("patch",), "patch": ("patch",), "delete": ("delete",),
}  # fmt: skip
# The two ways to a pod's ports, see `meshwright.cluster.forward`. Proxies may be anywhere, istiod is not.
PORTS = {
    "proxied": (Where.CLUSTER, "pods/proxy", ("get",)),
    "forwarded": (Where.MESH, "pods/portforward", ("get", "create")),  # which of them, Kubernetes 1.35 has changed
    "request_token": (Where.MESH, "serviceaccounts/token", ("create",)),
}
# What a mesh is made of is created, patched and read, all of it; what of that is deleted are the owned kinds.
MADE = (*OWNED, NAMESPACE, CRD)
# What the search below does not see: calls for a kind that is looked up in a table. A list goes with a watch.
UNSEEN: tuple[tuple[str, Where, Kind, tuple[str, ...]], ...] = (
    *(("informers", Where.CLUSTER, kind, ("list", "watch")) for kind in (*OWNED, CRD, POD, NAMESPACE, MESH_INSTALL)),
    ("what istiod leaves", Where.CLUSTER, GATEWAY_CLASS, ("list", "delete")),
    ("what istiod leaves", Where.CLUSTER, LEASE, ("list",)),
    ("what istiod leaves", Where.MESH, LEASE, ("delete",)),
)


def calls(receivers: set[str], methods: Iterable[str]) -> Iterator[tuple[str, ast.Call, str]]:
    """Every call of a method of one of the receivers, in the operator's own rooms."""
    for room in ("cluster", "controller", "keys"):
        for path in sorted((SOURCE / room).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                owner = node.func.value
                name = (
                    owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
                )
                if name.strip("_") in receivers and node.func.attr in methods:
                    yield f"{path.name}:{node.lineno}", node, node.func.attr


def client_calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Of the client, or of what reads in its place."""
    return calls({"client", "reader"}, VERBS)


def kinds_of(call: ast.Call, method: str) -> tuple[Kind, ...]:
    kind = call.args[0]
    if isinstance(kind, ast.Name) and kind.id.isupper():
        return (getattr(kinds, kind.id),)
    return OWNED if method in {"list", "delete"} else MADE


def places(kind: Kind, method: str, where: str) -> tuple[Where, ...]:
    if kind is SECRET:  # the intermediate, which is renewed, and the root, which is not
        return (Where.MESH,) if method == "replace" else (Where.MESH, Where.OPERATOR)
    if kind is LEASE:  # the operator's own, and those of istiod
        return (Where.OPERATOR,) if where.startswith("lease") else (Where.MESH,)
    return (Where.CLUSTER,)


def used() -> Iterator[tuple[Needs, str]]:
    for where, call, method in client_calls():
        parts = [key.value for key in call.keywords if key.arg == "subresource"]
        names = [str(part.value) for part in parts if isinstance(part, ast.Constant)]
        for kind in kinds_of(call, method):
            resource = "/".join([kind.plural, *names])
            verbs = ("patch",) if names else VERBS[method]
            for place in places(kind, method, where):
                yield from (((place, Permission(kind.group, resource, verb)), where) for verb in verbs)
    for where, _, method in calls({"ports", "client"}, PORTS):
        place, resource, verbs = PORTS[method]
        yield from (((place, Permission("", resource, verb)), where) for verb in verbs)
    for where, place, kind, verbs in UNSEEN:
        yield from (((place, Permission(kind.group, kind.plural, verb)), where) for verb in verbs)


USED = sorted(dict(used()).items())


def used_in(place: Where) -> set[Permission]:
    return {permission for (where, permission), _ in USED if where is place}


def test_the_search_for_calls_finds_them() -> None:
    found = {(method, kind.plural) for _, call, method in client_calls() for kind in kinds_of(call, method)}
    assert len(found) > 40
    assert {("get", "secrets"), ("replace", "secrets"), ("apply", "deployments"), ("list", "roles")} <= found
    assert {method for _, _, method in calls({"ports", "client"}, PORTS)} == PORTS.keys()
    assert {permission.verb for place in Where for permission in used_in(place)} == {
        "get", "list", "watch", "create", "update", "patch", "delete",
    }  # fmt: skip


# -- enough


@pytest.mark.parametrize(
    ("place", "permission"),
    [(place, permission) for place, them in GRANTED.items() for permission in sorted(them)],
    ids=lambda value: value.name if isinstance(value, Where) else str(value),
)
def test_the_operator_holds_what_it_grants(place: Where, permission: Permission) -> None:
    assert held(permission, place)


@pytest.mark.parametrize(
    ("needs", "where"), USED, ids=[f"{permission} {place.name}" for (place, permission), _ in USED]
)
def test_the_operator_may_do_what_it_does(needs: Needs, where: str) -> None:
    place, permission = needs
    assert held(permission, place), where


# -- no more


def excess(have: set[Permission], *needed: set[Permission]) -> set[str]:
    return {str(permission) for permission in have - set().union(*needed)}


def test_its_own_role_holds_what_it_does_and_nothing_else() -> None:
    assert excess(OWN, used_in(Where.CLUSTER)) == set()
    assert excess(used_in(Where.CLUSTER), OWN) == set()  # not by way of what is istiod's


def test_the_role_for_istiod_is_istiods() -> None:
    assert excess(ISTIODS, GRANTED[Where.CLUSTER]) == set()


def test_in_a_meshs_namespace_nothing_but_what_is_done_and_granted_there() -> None:
    role = ROLES["ClusterRole", "meshwright-mesh-namespace"]
    assert excess(role, used_in(Where.MESH), GRANTED[Where.MESH]) == set()


def test_in_its_own_namespace_nothing_but_what_is_done_there() -> None:
    assert excess(ROLES["Role", "meshwright"], used_in(Where.OPERATOR)) == set()


def test_no_permission_is_for_everything() -> None:
    assert all("*" not in permission.group for permission in EVERYTHING)
    assert {str(permission) for permission in EVERYTHING if permission.verb == "*"} == {
        "* ingresses/status.networking.k8s.io"
    }
    assert all(permission.verb in {"get", "list", "watch"} for permission in EVERYTHING if permission.resource == "*")


@pytest.mark.parametrize("verb", ["escalate", "bind", "impersonate", "deletecollection"])
def test_no_verb_that_lifts_a_boundary(verb: str) -> None:
    assert verb not in {permission.verb for permission in EVERYTHING}


def test_secrets_are_written_only_where_they_belong() -> None:
    secrets = {place: {each.verb for each in HELD[place] if each.resource == "secrets"} for place in Where}
    assert secrets[Where.CLUSTER] == {"get", "list", "watch"}  # istiod's
    assert "secrets" not in {permission.resource for permission in OWN}
    assert secrets[Where.MESH] == {"get", "list", "watch", "create", "update", "delete"}
    assert secrets[Where.OPERATOR] == {"get", "list", "watch", "create", "delete"}


def test_secrets_are_never_patched() -> None:
    """Trust is created, or updated against a resourceVersion; a patch would overwrite in silence."""
    assert Permission("", "secrets", "patch") not in EVERYTHING


def test_of_leases_it_writes_its_own() -> None:
    role = next(each for each in RBAC if each["kind"] == "Role")
    rules = [rule for rule in role["rules"] if rule["resources"] == ["leases"]]
    assert [rule for rule in rules if rule["verbs"] != ["create"]] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["meshwright"],
            "verbs": ["get", "update"],
        }
    ]


# -- for people


def test_a_viewer_reads_and_an_admin_writes_meshinstalls_and_neither_is_aggregated() -> None:
    roles = {each["metadata"]["name"]: each for each in documents("manifests/crd/roles.yaml")}
    assert roles.keys() == {"meshwright-viewer", "meshwright-admin"}
    assert all(each["metadata"].keys() == {"name"} for each in roles.values())  # aggregation goes by labels
    assert all("aggregationRule" not in each for each in roles.values())
    verbs = {
        name: {each.verb for each in in_rules(role["rules"]) if each.resource == MESH_INSTALL.plural}
        for name, role in roles.items()
    }
    reading = {"get", "list", "watch"}
    assert verbs["meshwright-viewer"] == reading
    assert verbs["meshwright-admin"] == reading | {"create", "update", "patch", "delete", "deletecollection"}
    everything = set().union(*(in_rules(role["rules"]) for role in roles.values()))
    assert {each.group for each in everything} == {MESH_INSTALL.group}
    assert {each.verb for each in everything if each.resource.endswith("/status")} == {"get"}


# -- bound


def test_every_role_is_bound_to_the_account_that_the_operator_runs_as() -> None:
    (deployment,) = documents("manifests/base/deployment.yaml")
    (kustomization,) = documents("manifests/base/kustomization.yaml")
    account = {
        "kind": "ServiceAccount",
        "name": deployment["spec"]["template"]["spec"]["serviceAccountName"],
        "namespace": kustomization["namespace"],
    }
    assert account["name"] in {each["metadata"]["name"] for each in RBAC if each["kind"] == "ServiceAccount"}
    bindings = [*RBAC, *documents("manifests/mesh-namespace/rolebinding.yaml")]
    bindings = [each for each in bindings if each["kind"].endswith("Binding")]
    assert all(each["subjects"] == [account] for each in bindings)
    assert sorted((each["kind"], each["roleRef"]["kind"], each["roleRef"]["name"]) for each in bindings) == [
        ("ClusterRoleBinding", "ClusterRole", "meshwright"),
        ("ClusterRoleBinding", "ClusterRole", "meshwright-istiod"),
        ("RoleBinding", "ClusterRole", "meshwright-mesh-namespace"),
        ("RoleBinding", "Role", "meshwright"),
    ]


def test_the_command_for_another_namespace_makes_the_same_binding() -> None:
    (binding,) = documents("manifests/mesh-namespace/rolebinding.yaml")
    (subject,) = binding["subjects"]
    command = (
        f"kubectl create rolebinding {binding['metadata']['name']} -n X --clusterrole={binding['roleRef']['name']}"
        f" --serviceaccount={subject['namespace']}:{subject['name']}"
    )
    for path in ("manifests/mesh-namespace/kustomization.yaml", "docs/explanation/threat-model.md"):
        said = " ".join((REPOSITORY / path).read_text().replace("\\\n", " ").replace("#", " ").split())
        assert command in said, path
