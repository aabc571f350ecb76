"""The operator's ClusterRole: enough for what it does and for what it grants, verb by verb."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from meshes import REPOSITORY, rendered
from meshwright.cluster import kinds
from meshwright.cluster.kinds import CRD, MESH_INSTALL, NAMESPACE, OWNED, Kind
from meshwright.controller.chassis import WATCHED

Json = dict[str, Any]

SOURCE = REPOSITORY / "operator/meshwright"


class Permission(NamedTuple):
    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}.{self.group or 'core'}"


def documents(path: str) -> list[Json]:
    return [each for each in yaml.safe_load_all((REPOSITORY / path).read_text()) if each]


def permissions(rules: list[Json]) -> set[Permission]:
    assert all(rule.keys() == {"apiGroups", "resources", "verbs"} for rule in rules), "a rule of a kind not known here"
    return {
        Permission(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


HELD = permissions(
    next(each for each in documents("manifests/base/rbac.yaml") if each["kind"] == "ClusterRole")["rules"]
)


def held(wanted: Permission) -> bool:
    """`*` is granted by `*` alone: Kubernetes compares rules so when somebody grants what they hold."""
    return any(
        have.group in {wanted.group, "*"}
        and have.resource in {wanted.resource, "*"}
        and have.verb in {wanted.verb, "*"}
        for have in HELD
    )


GRANTED = sorted(
    {
        permission
        for spec in ({}, {"revision": "canary", "namespace": "mesh"})
        for each in rendered(**spec)
        if each.key.kind in {"ClusterRole", "Role"}
        for permission in permissions(each.manifest["rules"])
    }
)

# What a call of the client asks of the API server. An apply that creates needs both verbs.
VERBS = {
    "get": ("get",), "list": ("list",), "create": ("create",), "replace": ("update",), "apply": ("patch", "create"),
    "merge": ("patch",), "delete": ("delete",),
}  # fmt: skip


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of a method of the client in the operator's own rooms."""
    for room in ("cluster", "controller", "keys"):
        for path in sorted((SOURCE / room).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (
                    isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERBS
                ):
                    continue
                owner = node.func.value
                name = (
                    owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
                )
                if name.strip("_") == "client":
                    yield f"{path.name}:{node.lineno}", node


def used() -> Iterator[tuple[str, Permission]]:
    for where, call in calls():
        assert isinstance(call.func, ast.Attribute)
        kind = call.args[0]
        named: tuple[Kind, ...]
        if isinstance(kind, ast.Name) and kind.id.isupper():
            named = (getattr(kinds, kind.id),)
        else:  # one of those that a MeshInstall becomes; all but two of them go with it
            named = OWNED if where.startswith("remove") else (*OWNED, NAMESPACE, CRD)
        parts = [key.value for key in call.keywords if key.arg == "subresource"]
        names = [str(part.value) for part in parts if isinstance(part, ast.Constant)]
        for each in named:
            resource = "/".join([each.plural, *names])
            verbs = ("patch",) if names else VERBS[call.func.attr]
            yield from ((where, Permission(each.group, resource, verb)) for verb in verbs)
    for each in (*WATCHED, MESH_INSTALL):
        yield from (("chassis", Permission(each.group, each.plural, verb)) for verb in ("list", "watch"))


USED = sorted({permission: where for where, permission in used()}.items())


def test_the_search_for_calls_finds_them() -> None:
    assert len(USED) > 50
    assert {permission.verb for permission, _ in USED} == {
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
    }


@pytest.mark.parametrize("permission", GRANTED, ids=str)
def test_the_operator_holds_what_it_grants(permission: Permission) -> None:
    assert held(permission)


@pytest.mark.parametrize(("permission", "where"), USED, ids=[str(permission) for permission, _ in USED])
def test_the_operator_may_do_what_it_does(permission: Permission, where: str) -> None:
    assert held(permission), where


def test_the_operator_holds_nothing_that_it_neither_grants_nor_does() -> None:
    needed = set(GRANTED) | {permission for permission, _ in USED}
    known: set[Permission] = {
        # A list that is followed by a watch, as everywhere; the events that wake us are about children only.
        *(Permission(each.group, each.plural, "watch") for each in (NAMESPACE, CRD)),
        *(Permission(each.group, each.plural, "list") for each in (NAMESPACE, CRD)),
        *(Permission("security.istio.io", "peerauthentications", verb) for verb in ("list", "watch")),
    }
    assert {str(permission) for permission in HELD - needed - known} == set()


def test_no_permission_is_for_everything() -> None:
    assert all("*" not in permission.group for permission in HELD)
    assert {str(permission) for permission in HELD if permission.verb == "*"} == {
        "* ingresses/status.networking.k8s.io"
    }
    assert all(permission.verb in {"get", "list", "watch"} for permission in HELD if permission.resource == "*")


@pytest.mark.parametrize("verb", ["escalate", "bind", "impersonate", "deletecollection"])
def test_no_verb_that_lifts_a_boundary(verb: str) -> None:
    assert verb not in {permission.verb for permission in HELD}


def test_secrets_are_never_patched() -> None:
    """Trust is created, or updated against a resourceVersion; a patch would overwrite in silence."""
    assert not held(Permission("", "secrets", "patch"))


def test_the_role_is_bound_to_the_account_that_the_operator_runs_as() -> None:
    by_kind = {each["kind"]: each for each in documents("manifests/base/rbac.yaml")}
    account, binding, role = by_kind["ServiceAccount"], by_kind["ClusterRoleBinding"], by_kind["ClusterRole"]
    (deployment,) = documents("manifests/base/deployment.yaml")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [each["name"] for each in binding["subjects"]] == [account["metadata"]["name"]]
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    (kustomization,) = documents("manifests/base/kustomization.yaml")
    assert {each["namespace"] for each in binding["subjects"]} == {kustomization["namespace"]}
