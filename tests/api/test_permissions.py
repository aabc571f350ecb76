"""The operator with the permissions that `manifests/` gives it, and with one less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from api.world import MESH_LABEL, Cluster, Json, Mesh, operator, short_istio_api
from testbed.rest import wait_until

RBAC = Path(__file__).parents[2] / "manifests/base/rbac.yaml"


def cluster_role() -> Json:
    documents: list[Json] = [each for each in yaml.safe_load_all(RBAC.read_text()) if each]
    return next(each for each in documents if each["kind"] == "ClusterRole")


def without(group: str, resource: str, verb: str) -> list[Json]:
    """The rules of `manifests/` less one verb on one resource."""
    rules = []
    for rule in cluster_role()["rules"]:
        if group in rule["apiGroups"] and resource in rule["resources"]:
            others = [each for each in rule["resources"] if each != resource]
            verbs = [each for each in rule["verbs"] if each != verb]
            for resources, allowed in ((others, rule["verbs"]), ([resource], verbs)):
                if resources and allowed:
                    rules.append({"apiGroups": [group], "resources": resources, "verbs": allowed})
            if more := [each for each in rule["apiGroups"] if each != group]:
                rules.append({**rule, "apiGroups": more})
        else:
            rules.append(rule)
    return rules


@contextmanager
def user(cluster: Cluster, name: str, rules: list[Json]) -> Iterator[Path]:
    """A kubeconfig of somebody who may do what `rules` say, and nothing else."""
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": name}],
    }
    cluster.create(role)
    cluster.create(binding)
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": name,
            "resourceAttributes": {"group": "meshwright.dev", "resource": "meshinstalls", "verb": "get"},
        },
    }

    def known() -> bool:
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(cluster.ask("POST", path, review).body["status"]["allowed"])

    wait_until(known, "the role", seconds=20, pause=0.05)
    try:
        yield cluster.api.kubeconfig_for(name)
    finally:
        cluster.delete(f"/apis/{group}/v1/clusterrolebindings/{name}")
        cluster.delete(f"/apis/{group}/v1/clusterroles/{name}")


async def test_what_the_manifests_grant_is_enough(cluster: Cluster, mesh: Mesh) -> None:
    """For a whole life: installed, looked at, changed, removed."""
    mesh.create()
    with user(cluster, f"operator-of-{mesh.name}", cluster_role()["rules"]) as kubeconfig:
        async with operator(kubeconfig) as op:
            await op.install(mesh)
            mesh.change(mtls="Strict", controlPlane={"size": "Large"})
            await op.reconcile(mesh)
            assert mesh.condition()["reason"] == "Progressing"
            assert mesh.events()
            cluster.delete(mesh.path)
            await op.reconcile(mesh)
    assert cluster.get(mesh.path) is None
    assert {each["kind"] for each in mesh.objects()} == {"Namespace", "Secret"}


# Which verb is missing → what the condition names.
MISSING = {
    ("apps", "deployments", "list"): ("cannot list resource", "deployments"),
    ("", "secrets", "create"): ("cannot create resource", "secrets"),
    ("", "secrets", "get"): ("cannot get resource", "secrets"),
    ("", "pods", "list"): ("cannot list resource", "pods"),
    ("", "namespaces", "create"): ("cannot create resource", "namespaces"),
    ("", "configmaps", "patch"): ("cannot patch resource", "configmaps"),
    ("meshwright.dev", "meshinstalls", "patch"): ("cannot patch resource", "meshinstalls"),
    ("rbac.authorization.k8s.io", "clusterroles", "patch"): ("cannot patch resource", "clusterroles"),
    # What istiod needs, the operator must hold to grant it.
    ("apps", "deployments", "patch"): ("attempting to grant RBAC permissions not currently held", "deployments"),
    ("", "nodes", "list"): ("attempting to grant RBAC permissions not currently held", "nodes"),
}


@pytest.mark.parametrize("missing", MISSING, ids=" ".join)
async def test_a_verb_that_is_missing(
    cluster: Cluster, new_mesh: Callable[..., Mesh], missing: tuple[str, str, str]
) -> None:
    mesh = new_mesh().create()
    before = cluster.snapshot()
    with short_istio_api():
        with user(cluster, f"operator-of-{mesh.name}", without(*missing)) as kubeconfig:
            async with operator(kubeconfig) as op:
                await op.reconcile(mesh)
                ready = mesh.condition()
                assert (ready["status"], ready["reason"]) == ("False", "PermissionDenied"), ready["message"]
                for words in MISSING[missing]:
                    assert words in ready["message"].replace('"', "")
                assert "apply the operator's manifests again, or grant" in ready["message"]
                assert mesh.condition("Stalled")["status"] == "True"
                again = await op.reconcile(mesh)
                assert op.wire.everything_written() == [] or missing[2] in ("patch", "create", "list")
                assert again
                assert not again.failed
        # Nothing of anybody else's was touched, and with the permission it goes on by itself.
        after = cluster.snapshot()
        assert {name for name in before if after.get(name) != before[name]} == set()
        async with operator(cluster.api.kubeconfig) as whole:
            await whole.install(mesh)
    assert cluster.list("/api/v1/secrets", f"{MESH_LABEL}={mesh.name}")
