"""Valid, not to be carried out, valid again: the condition explains, nothing of the mesh is touched, and the way back
leads to where it was.

From a few random valid states, once for each kind of refusal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple

import pytest

from api.world import WEBHOOKS, Json, Mesh, Operator, RefusedError, path_of_item
from campaign import specs
from campaign.play import Life, difference, end_state, replace_spec, versions
from campaign.tally import Tally
from testbed.rest import wait_until

STATES = 2

Change = Callable[[Mesh, Json], AbstractContextManager[None]]  # in force while it is entered


class Obstacle(NamedTuple):
    """What is done to a mesh with a spec, and what its condition then says."""

    reason: str
    words: tuple[str, ...]
    change: Change


def spec_with(path: tuple[str, ...], value: object) -> Change:
    @contextmanager
    def change(mesh: Mesh, spec: Json) -> Iterator[None]:
        replace_spec(mesh, specs.with_field(spec, path, value))
        yield
        replace_spec(mesh, spec)

    return change


FORBIDDEN = "FORBIDDEN_HERE"


def policy(mesh: Mesh) -> tuple[Json, Json]:
    """Somebody's rule about the Deployments of a namespace."""
    group = "admissionregistration.k8s.io/v1"
    name = f"no-{mesh.name}"
    rule = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["deployments"],
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": mesh.namespace}}
    free = f"!has(c.env) || !c.env.exists(e, e.name == '{FORBIDDEN}')"  # it lasts a while after its deletion
    refusal = {
        "expression": f"object.spec.template.spec.containers.all(c, {free})",
        "message": "no such variable in this house",
    }
    return (
        {
            "apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [rule], "namespaceSelector": here}, "validations": [refusal],
            },
        },
        {
            "apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    )  # fmt: skip


@contextmanager
def refused_by_a_policy(mesh: Mesh, spec: Json) -> Iterator[None]:
    """It looks at what is new in the spec, so the Deployment that is there stays welcome."""
    items = policy(mesh)
    paths = [f"{WEBHOOKS}/{item['kind'].lower()}s/{item['metadata']['name']}" for item in items]
    paths[0] = paths[0].replace("policys", "policies")
    for item, path in zip(items, paths, strict=True):
        mesh.cluster.ask("POST", path.rpartition("/")[0], item)
    probe = mesh.cluster.must_get(mesh.deployment_path)
    probe["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": FORBIDDEN, "value": "x"})

    def in_force() -> bool:
        try:
            mesh.cluster.ask("PUT", f"{mesh.deployment_path}?dryRun=All", probe)
        except RefusedError as refused:
            return "no such variable" in str(refused)
        return False

    try:
        wait_until(in_force, "the policy to be in force", seconds=20, pause=0.05)
        env = {**(spec["controlPlane"].get("env") or {}), FORBIDDEN: "x"}
        with spec_with(("controlPlane", "env"), env)(mesh, spec):
            yield
    finally:
        for path in paths:
            mesh.cluster.delete(path)


@contextmanager
def our_label_is_gone(mesh: Mesh, _spec: Json) -> Iterator[None]:
    path = f"/api/v1/namespaces/{mesh.namespace}/configmaps/{mesh.names.mesh_config}"
    mesh.cluster.merge(path, {"metadata": {"labels": {"meshwright.dev/mesh": None}}})
    yield
    mesh.cluster.delete(path)  # as the message says


@contextmanager
def in_its_place(mesh: Mesh, _spec: Json) -> Iterator[None]:
    """One of ours is gone, and somebody else's is there before we look."""
    path = f"/api/v1/namespaces/{mesh.namespace}/serviceaccounts/{mesh.names.istiod}"
    mesh.cluster.delete(path)
    head = {"name": mesh.names.istiod, "namespace": mesh.namespace}
    mesh.cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": head})
    yield
    mesh.cluster.delete(path)


@contextmanager
def beside(mesh: Mesh, item: Json) -> Iterator[None]:
    mesh.cluster.create(item)
    try:
        yield
    finally:
        mesh.cluster.delete(path_of_item(item))


def foreign_istiod(mesh: Mesh, _spec: Json) -> AbstractContextManager[None]:
    labels = {"app": "istiod", "istio.io/rev": "theirs"}
    pod = {"containers": [{"name": "discovery", "image": "docker.io/istio/pilot:1.30.0"}]}
    return beside(mesh, {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "theirs", "namespace": mesh.namespace, "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    })  # fmt: skip


def foreign_injector(mesh: Mesh, _spec: Json) -> AbstractContextManager[None]:
    labels = {"app": "sidecar-injector", "istio.io/rev": mesh.revision}
    return beside(mesh, {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": f"istio-revision-tag-{mesh.revision}", "labels": labels},
    })  # fmt: skip


@contextmanager
def the_root_is_gone(mesh: Mesh, _spec: Json) -> Iterator[None]:
    secret = mesh.cluster.must_get(mesh.root_path)
    mesh.cluster.delete(mesh.root_path)
    yield
    kept = {name: secret["metadata"][name] for name in ("name", "namespace", "labels")}
    mesh.cluster.create({**secret, "metadata": kept}, "fieldManager=meshwright-trust")


OBSTACLES = {
    "version": Obstacle("UnsupportedVersion", ("1.32.0", "choose a patch of"), spec_with(("version",), "1.32.0")),
    "computed key": Obstacle(
        "InvalidSpec", ("spec.meshConfig.rootNamespace",), spec_with(("meshConfig",), {"rootNamespace": "x"})
    ),
    "spelling": Obstacle(
        "InvalidSpec", ("another spelling of",), spec_with(("meshConfig",), {"trust_domain": "x"})
    ),
    "resources": Obstacle(
        "InvalidSpec", ("lower the request",),
        spec_with(("controlPlane", "resources"), {"requests": {"cpu": "3"}, "limits": {"cpu": "2"}}),
    ),
    "nothing of it": Obstacle(
        "InvalidSpec", ("memory is 0",), spec_with(("controlPlane", "resources"), {"limits": {"memory": "0"}})
    ),
    "policy": Obstacle("ObjectRejected", ("Deployment", "no such variable in this house"), refused_by_a_policy),
    "label": Obstacle("ForeignObject", ("ConfigMap", "not touched"), our_label_is_gone),
    "foreign object": Obstacle("ForeignObject", ("ServiceAccount", "not touched"), in_its_place),
    "foreign istiod": Obstacle("ForeignControlPlane", ("Deployment", "theirs", "uninstall it"), foreign_istiod),
    "foreign injector": Obstacle("ForeignControlPlane", ("inject every pod twice",), foreign_injector),
    "root": Obstacle("TrustNotUsable", ("restore that Secret from a backup",), the_root_is_gone),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(STATES))
async def test_an_obstacle_comes_and_goes(op: Operator, new_mesh: Callable[..., Mesh], tally: Tally, seed: int) -> None:
    rng = random.Random(1000 + seed)  # noqa: S311
    mesh, life = new_mesh(), Life(op.wire)
    spec = specs.valid(rng, specs.identity(rng))
    mesh.create(**spec)
    await life.settle(mesh)
    before = end_state(mesh)
    for name, obstacle in rng.sample(list(OBSTACLES.items()), len(OBSTACLES)):
        if rng.random() < 0.3:
            life.restart()
        with obstacle.change(mesh, spec):
            await refused(life, mesh, obstacle, name)
        await life.settle(mesh)
        assert mesh.condition()["reason"] == "Installed", (name, mesh.condition())
        assert not difference(before, end_state(mesh)), (name, difference(before, end_state(mesh)))
        tally.settled("obstacle", "obstacle's end")


async def refused(life: Life, mesh: Mesh, obstacle: Obstacle, name: str) -> None:
    untouched = versions(mesh)
    for _ in range(2):
        await life.op.reconcile(mesh)
        assert mesh.condition()["reason"] == obstacle.reason, (name, mesh.condition())
        for word in obstacle.words:
            assert word in mesh.condition()["message"], (name, mesh.condition())
        assert versions(mesh) == untouched, name
    assert mesh.condition("Stalled")["status"] == "True", name


async def test_a_revision_that_is_taken(op: Operator, mesh: Mesh, new_mesh: Callable[..., Mesh], tally: Tally) -> None:
    """The newcomer is told; what runs is not disturbed, neither by its coming nor by its going."""
    life = Life(op.wire)
    mesh.create()
    await life.settle(mesh)
    before, untouched = end_state(mesh), versions(mesh)
    twin = new_mesh(mesh.revision).create()
    await life.op.reconcile(twin)
    assert twin.condition()["reason"] == "RevisionConflict"
    assert twin.objects() == []
    await life.settle(mesh)
    assert versions(mesh) == untouched
    with suppress(RefusedError):
        mesh.cluster.delete(twin.path)
    await life.op.reconcile(twin)
    await life.settle(mesh)
    assert mesh.condition()["reason"] == "Installed"
    assert versions(mesh) == untouched
    assert not difference(before, end_state(mesh))
    tally.settled("obstacle", "obstacle's end")
