"""Fields that are set once and then belong to somebody else: replicas to an autoscaler, policy and CA to istiod."""

from __future__ import annotations

from typing import Any

import pytest

from api.world import DECLARED, WEBHOOKS, Json, Mesh, Operator, Sent, path_of_item
from meshwright.mesh.ownership import fields_of, owners

REPLICAS = ("spec", "replicas")


# -- replicas of istiod that are ours, until an autoscaler of somebody else comes


class Replicas:
    """Every number that the Deployment has had since, one after each write of the operator."""

    def __init__(self, op: Operator, mesh: Mesh) -> None:
        self.mesh = mesh
        self.seen = [self.now]
        op.wire.after = self._look

    def _look(self, request: Sent) -> None:
        if request.writes and request.kind == "Deployment":
            self.seen.append(self.now)

    @property
    def now(self) -> int:
        return int(self.deployment["spec"]["replicas"])

    @property
    def deployment(self) -> Json:
        return self.mesh.cluster.must_get(self.mesh.deployment_path)

    @property
    def owners(self) -> list[str]:
        return sorted(owners(self.deployment, REPLICAS))

    @property
    def note(self) -> str | None:
        note: str | None = (self.deployment["metadata"].get("annotations") or {}).get("meshwright.dev/replicas")
        return note


def autoscaler(mesh: Mesh, *, named: str = "istiod", **target: str) -> Json:
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": mesh.names.istiod, **target}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": named, "namespace": mesh.namespace},
        "spec": {"minReplicas": 1, "maxReplicas": 9, "scaleTargetRef": reference},
    }


def scale(mesh: Mesh, replicas: int, manager: str) -> None:
    """What the autoscaler's controller (or `kubectl scale`) does."""
    path = f"{mesh.deployment_path}/scale"
    mesh.cluster.merge(path, {"spec": {"replicas": replicas}}, manager=manager)


async def settled(op: Operator, mesh: Mesh) -> None:
    """Until nothing is to be done any more, which must not take more than two looks."""
    for _ in range(2):
        await op.reconcile(mesh)
    assert op.wire.writes() == []


async def test_an_autoscaler_comes_and_goes(op: Operator, mesh: Mesh) -> None:
    mesh.create(controlPlane=DECLARED)
    await op.install(mesh)
    replicas = Replicas(op, mesh)
    assert (replicas.now, replicas.owners, replicas.note) == (2, ["meshwright"], None)

    mesh.cluster.create(autoscaler(mesh))
    await settled(op, mesh)
    assert (replicas.now, replicas.note) == (2, "autoscaled")
    assert replicas.owners == ["meshwright-birth"]  # somebody must own it, or it would fall back to its default

    for number in (6, 1, 7):  # down, too: that is the autoscaler's to say
        scale(mesh, number, "kube-controller-manager")
        for each in (op, Operator.start(op.wire)):
            await settled(each, mesh)
            assert (replicas.now, replicas.owners) == (number, ["kube-controller-manager"])
    mesh.istiod_becomes_available()
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "Installed"

    mesh.cluster.delete(path_of_item(autoscaler(mesh)))
    for each in (op, Operator.start(op.wire)):
        await settled(each, mesh)
        assert (replicas.now, replicas.note) == (7, "7/size 2")
        assert "meshwright" in replicas.owners
    scale(mesh, 5, "kubectl")
    await settled(op, mesh)
    assert replicas.now == 7  # without an autoscaler, that is drift

    mesh.change(controlPlane={"size": "Medium"})
    await settled(op, mesh)
    assert (replicas.now, replicas.owners, replicas.note) == (3, ["meshwright"], None)
    # The operator lowered them where the size was changed, and nowhere else.
    fell = [(before, after) for before, after in zip(replicas.seen, replicas.seen[1:], strict=False) if after < before]
    assert fell == [(7, 3)]


async def test_an_autoscaler_that_was_there_first(op: Operator, mesh: Mesh) -> None:
    """istiod is born with the replicas of its size, and they are the autoscaler's from then on."""
    mesh.cluster.make_namespace(mesh.namespace)
    mesh.cluster.create(autoscaler(mesh))
    mesh.create(controlPlane={"size": "Medium", **DECLARED})
    await op.install(mesh)
    replicas = Replicas(op, mesh)
    assert (replicas.now, replicas.owners, replicas.note) == (3, ["meshwright-birth"], "autoscaled")
    assert owned_by(replicas.deployment, "meshwright-birth") == {"f:spec": {"f:replicas": {}}}
    scale(mesh, 1, "kube-controller-manager")
    await settled(op, mesh)
    assert replicas.now == 1
    mesh.cluster.delete(path_of_item(autoscaler(mesh)))
    await settled(op, mesh)
    assert (replicas.now, replicas.owners, replicas.note) == (3, ["meshwright"], None)
    assert owned_by(replicas.deployment, "meshwright-birth") == {}


async def test_an_autoscaler_that_comes_while_we_look(op: Operator, mesh: Mesh) -> None:
    """What it has scaled meanwhile is not taken back on the word of a look from before it was there."""
    mesh.create(controlPlane=DECLARED)
    await op.install(mesh)
    replicas = Replicas(op, mesh)
    write_seen = op.wire.after

    def come(request: Sent) -> None:
        if request.what == "list horizontalpodautoscalers":
            op.wire.after = write_seen
            mesh.cluster.create(autoscaler(mesh))
            scale(mesh, 6, "kube-controller-manager")

    op.wire.after = come
    for _ in range(3):
        await op.reconcile(mesh)
    assert (replicas.now, replicas.note, set(replicas.seen[1:])) == (6, "autoscaled", {6})


async def test_an_autoscaler_that_scales_while_its_field_is_handed_over(op: Operator, mesh: Mesh) -> None:
    mesh.create(controlPlane=DECLARED)
    await op.install(mesh)
    mesh.cluster.create(autoscaler(mesh))
    replicas = Replicas(op, mesh)

    def hurry(request: Sent) -> None:
        if request.writes and request.kind == "Deployment":
            op.wire.before = lambda _: None
            scale(mesh, 6, "kube-controller-manager")

    op.wire.before = hurry
    await op.reconcile(mesh)
    await settled(op, mesh)
    assert (replicas.now, replicas.owners, replicas.note) == (6, ["kube-controller-manager"], "autoscaled")
    assert set(replicas.seen[1:]) == {6}


@pytest.mark.parametrize("other", [{"name": "somebody-elses"}, {"kind": "StatefulSet"}])
async def test_an_autoscaler_of_something_else(op: Operator, mesh: Mesh, other: dict[str, str]) -> None:
    mesh.create(controlPlane=DECLARED)
    await op.install(mesh)
    mesh.cluster.create(autoscaler(mesh, **other))
    scale(mesh, 5, "kubectl")
    await settled(op, mesh)
    replicas = Replicas(op, mesh)
    assert (replicas.now, replicas.owners, replicas.note) == (2, ["meshwright"], None)


async def test_more_of_a_size_while_an_autoscaler_decides(op: Operator, mesh: Mesh) -> None:
    """The rest of the row counts at once; its replicas when the autoscaler is gone."""
    mesh.create(controlPlane=DECLARED)
    await op.install(mesh)
    mesh.cluster.create(autoscaler(mesh))
    await settled(op, mesh)
    scale(mesh, 4, "kube-controller-manager")
    replicas = Replicas(op, mesh)
    mesh.change(controlPlane={"size": "Large"})
    await settled(op, mesh)
    assert replicas.now == 4
    container = replicas.deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["cpu"] == "8"
    mesh.cluster.delete(path_of_item(autoscaler(mesh)))
    await settled(op, mesh)
    assert (replicas.now, replicas.note) == (5, None)
    assert min(replicas.seen) == 4


async def test_replicas_by_hand(op: Operator, mesh: Mesh) -> None:
    """Without an autoscaler they are ours, whichever way they went."""
    mesh.create(controlPlane=DECLARED)
    await op.install(mesh)
    replicas = Replicas(op, mesh)
    for number in (7, 0):
        scale(mesh, number, "kubectl")
        await settled(op, mesh)
        assert (replicas.now, replicas.owners) == (2, ["meshwright"])


# -- replicas that an autoscaler of ours decides


def bounds(mesh: Mesh) -> tuple[int, int]:
    spec = mesh.cluster.must_get(mesh.autoscaler_path)["spec"]
    return spec["minReplicas"], spec["maxReplicas"]


async def test_by_default_an_autoscaler_of_ours_decides(op: Operator, mesh: Mesh) -> None:
    """istiod is born with the replicas of its size; what the autoscaler makes of them is not taken back."""
    mesh.create()
    await op.install(mesh)
    replicas = Replicas(op, mesh)
    assert (replicas.now, replicas.owners, replicas.note) == (2, ["meshwright-birth"], "autoscaled")
    assert bounds(mesh) == (2, 4)
    spec = mesh.cluster.must_get(mesh.autoscaler_path)["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": mesh.names.istiod}
    (metric,) = spec["metrics"]
    target = {"type": "AverageValue", "averageValue": "1600m"}  # 80 % of the limit of 2 CPUs
    assert metric == {"type": "Resource", "resource": {"name": "cpu", "target": target}}
    for number in (4, 3):
        scale(mesh, number, "kube-controller-manager")
        for each in (op, Operator.start(op.wire)):
            await settled(each, mesh)
            assert (replicas.now, replicas.owners) == (number, ["kube-controller-manager"])
    mesh.istiod_becomes_available()
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "Installed"


async def test_an_autoscaler_of_ours_that_somebody_edits_or_deletes(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    before = mesh.cluster.must_get(mesh.autoscaler_path)["spec"]
    for patch in (
        {"minReplicas": 1, "maxReplicas": 99},
        {"metrics": None},
        {"scaleTargetRef": {"name": "somebody-elses"}},
    ):
        mesh.cluster.merge(mesh.autoscaler_path, {"spec": patch})
        await settled(op, mesh)
        assert mesh.cluster.must_get(mesh.autoscaler_path)["spec"] == before
    replicas = Replicas(op, mesh)
    scale(mesh, 4, "kube-controller-manager")
    mesh.cluster.delete(mesh.autoscaler_path)
    await settled(op, mesh)
    assert mesh.cluster.must_get(mesh.autoscaler_path)["spec"] == before
    assert (replicas.now, replicas.note) == (4, "autoscaled")


async def test_bounds_follow_the_size_and_what_is_set(op: Operator, mesh: Mesh) -> None:
    """What is below them is raised at once, and stays the autoscaler's: it leaves alone what was scaled to nothing."""
    mesh.create()
    await op.install(mesh)
    replicas = Replicas(op, mesh)
    for plane, expected in (
        ({"size": "Medium"}, (3, 6)),
        ({"autoscaling": {"minReplicas": 4}}, (4, 8)),
        ({"autoscaling": {"maxReplicas": 5}}, (4, 5)),
        ({"autoscaling": None, "size": "Large"}, (5, 10)),
        ({"size": "Small"}, (2, 4)),  # down again is the autoscaler's to do
    ):
        mesh.change(controlPlane=plane)
        await raised(op, mesh)
        assert bounds(mesh) == expected
        assert replicas.now == max(expected[0], replicas.seen[-1])
        assert (replicas.owners, replicas.note) == (["meshwright-birth"], "autoscaled")
    assert replicas.seen == sorted(replicas.seen)
    scale(mesh, 0, "kubectl")
    await raised(op, mesh)
    assert (replicas.now, replicas.owners, replicas.note) == (2, ["meshwright-birth"], "autoscaled")


async def raised(op: Operator, mesh: Mesh) -> None:
    """Settled, after a look at which replicas are raised that are handed back at the next."""
    await op.reconcile(mesh)
    await settled(op, mesh)


async def test_an_autoscaler_of_somebody_else_takes_the_place_of_ours(op: Operator, mesh: Mesh) -> None:
    """Two would pull in two directions. Ours goes, and the replicas stay through all of it."""
    mesh.create()
    await op.install(mesh)
    replicas = Replicas(op, mesh)
    scale(mesh, 4, "kube-controller-manager")
    theirs = mesh.cluster.create(autoscaler(mesh, named="theirs")).body
    for each in (op, Operator.start(op.wire)):
        await settled(each, mesh)
        assert mesh.cluster.get(mesh.autoscaler_path) is None
        assert (replicas.now, replicas.owners, replicas.note) == (4, ["kube-controller-manager"], "autoscaled")
    found = mesh.cluster.must_get(path_of_item(theirs))["metadata"]["resourceVersion"]
    assert found == theirs["metadata"]["resourceVersion"]

    mesh.cluster.delete(path_of_item(theirs))
    await settled(op, mesh)
    assert bounds(mesh) == (2, 4)
    assert (replicas.now, replicas.note) == (4, "autoscaled")
    assert set(replicas.seen[1:]) <= {4}


async def test_our_autoscaler_is_switched_off_and_on(op: Operator, mesh: Mesh) -> None:
    """What it added stays: to switch it off is no word about the replicas."""
    mesh.create()
    await op.install(mesh)
    replicas = Replicas(op, mesh)
    scale(mesh, 4, "kube-controller-manager")
    mesh.change(controlPlane=DECLARED)
    await settled(op, mesh)
    assert mesh.cluster.get(mesh.autoscaler_path) is None
    assert (replicas.now, replicas.note) == (4, "4/size 2")
    assert "meshwright" in replicas.owners
    mesh.change(controlPlane={"autoscaling": {"enabled": True}})
    await settled(op, mesh)
    assert bounds(mesh) == (2, 4)
    assert (replicas.now, replicas.note) == (4, "autoscaled")
    assert "meshwright" not in replicas.owners


# -- webhooks


def owned_by(item: Json, manager: str) -> Json:
    """Everything that a manager owns of it, as fieldsV1; empty when it owns nothing."""
    entries = [each for each in item["metadata"]["managedFields"] if each["manager"] == manager]
    assert len(entries) <= 1
    return entries[0]["fieldsV1"] if entries else {}


def istiod_answers(mesh: Mesh) -> None:
    """Its CA, and Fail from then on."""
    write(mesh, mesh.validator_path, "clientConfig/caBundle", "Q0E=", manager="pilot-discovery")
    write(mesh, mesh.validator_path, "failurePolicy", "Fail", manager="pilot-discovery")


def write(mesh: Mesh, path: str, field: str, value: Any, *, manager: str = "kubectl-edit") -> None:
    """A field of a configuration's first webhook."""
    operation = {"op": "add", "path": f"/webhooks/0/{field}", "value": value}
    mesh.cluster.json_patch(f"{path}?fieldManager={manager}", operation)


def first_webhook(mesh: Mesh, path: str) -> Json:
    webhook: Json = mesh.cluster.must_get(path)["webhooks"][0]
    return webhook


async def test_a_birth_leaves_nothing_but_what_it_is_for(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    validator = mesh.cluster.must_get(mesh.validator_path)
    policy: Json = {'k:{"name":"rev.validation.istio.io"}': {"f:failurePolicy": {}}}
    assert owned_by(validator, "meshwright-birth") == {"f:webhooks": policy}
    assert "f:failurePolicy" not in str(fields_of(validator, "meshwright"))
    deployment = mesh.cluster.must_get(mesh.deployment_path)
    assert owned_by(deployment, "meshwright-birth") == {"f:spec": {"f:replicas": {}}}
    for item in mesh.objects():
        managers = {each["manager"] for each in item["metadata"]["managedFields"]}
        born = item["kind"] in ("Deployment", "ValidatingWebhookConfiguration")
        assert ("meshwright-birth" in managers) == born, item["kind"]
        if item["kind"] not in ("Namespace", "Secret"):
            assert "meshwright" in managers
        assert "f:caBundle" not in str(fields_of(item, "meshwright"))
    assert owned_by(mesh.cluster.must_get(mesh.injector_path), "pilot-discovery")


async def test_what_istiod_wrote_into_its_webhooks_stays(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    assert first_webhook(mesh, mesh.validator_path)["failurePolicy"] == "Ignore"
    istiod_answers(mesh)
    injector, validator = (first_webhook(mesh, path) for path in (mesh.injector_path, mesh.validator_path))
    assert (validator["failurePolicy"], validator["clientConfig"]["caBundle"]) == ("Fail", "Q0E=")
    for each in (op, Operator.start(op.wire)):  # one that remembers, and one that looks for the first time
        for path in (mesh.injector_path, mesh.validator_path):
            write(mesh, path, "timeoutSeconds", 1)
        await each.reconcile(mesh)
        assert len(each.wire.writes()) == 2
        assert first_webhook(mesh, mesh.validator_path) == validator
        assert first_webhook(mesh, mesh.injector_path) == injector
        assert owned_by(mesh.cluster.must_get(mesh.validator_path), "meshwright-birth") == {}

    mesh.cluster.delete(mesh.validator_path)
    await settled(op, mesh)
    assert first_webhook(mesh, mesh.validator_path)["failurePolicy"] == "Ignore"
    assert "caBundle" not in first_webhook(mesh, mesh.validator_path)["clientConfig"]


@pytest.mark.parametrize("policy", ["Ignore", "Fail"])
async def test_a_webhook_that_contradicts_ours_keeps_what_istiod_wrote(op: Operator, mesh: Mesh, policy: str) -> None:
    """An address beside our Service is refused, so the list is sent whole: not without the CA and the policy."""
    mesh.create()
    await op.install(mesh)
    write(mesh, mesh.validator_path, "clientConfig/caBundle", "Q0E=", manager="pilot-discovery")
    write(mesh, mesh.validator_path, "failurePolicy", policy, manager="pilot-discovery")
    for path in (mesh.injector_path, mesh.validator_path):
        before = mesh.cluster.must_get(path)
        elsewhere = {
            "url": "https://elsewhere.example.com",
            "caBundle": before["webhooks"][0]["clientConfig"]["caBundle"],
        }
        write(mesh, path, "clientConfig", elsewhere)
        await settled(op, mesh)
        after = mesh.cluster.must_get(path)
        assert after["webhooks"] == before["webhooks"]
        left = str(owned_by(after, "meshwright-birth"))
        assert "f:timeoutSeconds" not in left
        assert "f:caBundle" not in left


async def test_the_policy_of_the_injection_is_ours(op: Operator, mesh: Mesh) -> None:
    """Not even istiod's name turns it: a pod without its sidecar would talk past the mesh."""
    mesh.create()
    await op.install(mesh)
    write(mesh, mesh.injector_path, "failurePolicy", "Ignore", manager="pilot-discovery")
    await settled(op, mesh)
    webhook = first_webhook(mesh, mesh.injector_path)
    assert webhook["failurePolicy"] == "Fail"
    assert webhook["clientConfig"]["caBundle"]


async def test_both_validators_of_the_default_revision(op: Operator, default_mesh: Mesh) -> None:
    """The one for objects without a revision is born the same way."""
    mesh = default_mesh
    mesh.create()
    await op.install(mesh)
    for name in (mesh.names.validating_webhook, "istiod-default-validator"):
        item = mesh.cluster.must_get(f"{WEBHOOKS}/validatingwebhookconfigurations/{name}")
        assert [each["failurePolicy"] for each in item["webhooks"]] == ["Ignore"]
        assert "f:failurePolicy" in str(owned_by(item, "meshwright-birth"))
        assert "f:timeoutSeconds" not in str(owned_by(item, "meshwright-birth"))
