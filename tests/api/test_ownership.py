"""Whose an object is: its labels say it, and what they do not say is left alone; so is what somebody asks us to."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest

from api.world import NETWORKING, Cluster, Json, Mesh, Operator, Sent, networking_served, path_of_item
from meshwright.cluster.kinds import OWNED, Kind
from meshwright.mesh.objects import Key

DISABLED = {"meshwright.dev/reconcile": "disabled"}
WEBHOOK = {
    "name": "nobody.example.com", "clientConfig": {"url": "https://nobody.example.com"}, "sideEffects": "None",
    "admissionReviewVersions": ["v1"],
    "rules": [
        {"operations": ["CREATE"], "apiGroups": ["nobody.example.com"], "apiVersions": ["v1"], "resources": ["x"]},
    ],
}  # fmt: skip
TEMPLATE = {
    "metadata": {"labels": {"app": "stray"}},
    "spec": {"containers": [{"name": "main", "image": "main"}]},
}
RBAC = "rbac.authorization.k8s.io"

# The least that the API server takes for an object of each kind.
LEAST: dict[str, Json] = {
    "ClusterRole": {},
    "ClusterRoleBinding": {"roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "view"}},
    "ConfigMap": {},
    "DaemonSet": {"spec": {"selector": {"matchLabels": {"app": "stray"}}, "template": TEMPLATE}},
    "DestinationRule": {"spec": {"host": "*.local"}},
    "Deployment": {"spec": {"selector": {"matchLabels": {"app": "stray"}}, "template": TEMPLATE}},
    "EndpointSlice": {"addressType": "IPv4", "endpoints": []},
    "Gateway": {"spec": {"selector": {"app": "stray"}}},
    "HorizontalPodAutoscaler": {
        "spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "stray"}},
    },
    "MutatingWebhookConfiguration": {"webhooks": [WEBHOOK]},
    "PeerAuthentication": {"spec": {}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": 1}},
    "Role": {},
    "RoleBinding": {"roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "view"}},
    "Service": {"spec": {"ports": [{"port": 80}]}},
    "ServiceAccount": {},
    "ValidatingWebhookConfiguration": {"webhooks": [WEBHOOK]},
}


@pytest.fixture(scope="module", autouse=True)
def _gateways(cluster: Cluster) -> Iterator[None]:
    with networking_served(cluster):
        yield


def labels_of(mesh: Mesh) -> dict[str, str]:
    return {
        "app.kubernetes.io/managed-by": "meshwright",
        "meshwright.dev/mesh": mesh.name,
        "meshwright.dev/mesh-id": "cluster.local",
    }


def labels_of_kind(kind: Kind) -> dict[str, str]:
    """That tell our objects from those that Kubernetes makes of ours."""
    return dict(each.split("=") for each in kind.labels.split(",") if each)


def least(key: Key, **metadata: Json) -> Json:
    where = {"namespace": key.namespace} if key.namespace else {}
    head = {"apiVersion": key.api_version, "kind": key.kind, "metadata": {"name": key.name, **where, **metadata}}
    return head | LEAST[key.kind]


def config_map(mesh: Mesh, name: str, **metadata: Json) -> Json:
    return least(Key("v1", "ConfigMap", mesh.namespace, name), **metadata)


def owned(mesh: Mesh) -> list[Json]:
    """What is rendered of it; the Secrets and the namespace are the room `keys`'s."""
    return [item for item in mesh.objects() if item["kind"] in LEAST]


def version(cluster: Cluster, item: Json) -> str:
    return str(cluster.must_get(path_of_item(item))["metadata"]["resourceVersion"])


# -- labels


async def test_every_object_says_whose_it_is(op: Operator, mesh: Mesh) -> None:
    mesh.create(
        meshID="payments",
        trustDomain="example.org",
        dataPlane={"cni": "Enabled"},
        gateways=[{"name": "ingress"}],
        **NETWORKING,
    )
    await op.install(mesh)
    ours = labels_of(mesh) | {"meshwright.dev/mesh-id": "payments"}
    written = {path_of_item(item): item for item in mesh.objects()}
    assert {item["kind"] for item in written.values()} == {*LEAST, "Namespace", "Secret"} - {
        "EndpointSlice"
    }  # of a remote cluster only
    for path, item in written.items():
        assert ours.items() <= item["metadata"]["labels"].items(), path


# -- prune


async def test_what_is_wanted_no_more_goes_as_it_was_seen(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    before = {path_of_item(item) for item in mesh.objects()}
    keys = [Key(each.api_version, each.kind, mesh.namespace if each.namespaced else "", mesh.name) for each in OWNED]
    strays = [
        mesh.cluster.create(least(key, labels=labels_of(mesh) | labels_of_kind(kind))).body["metadata"]
        for key, kind in zip(keys, OWNED, strict=True)
    ]
    await op.reconcile(mesh)
    deletes = [request for request in op.wire.sent if request.method == "DELETE"]
    assert [request.what for request in deletes] == [f"delete {key}" for key in keys]
    assert [each.body and each.body["preconditions"] for each in deletes] == [
        {name: stray[name] for name in ("uid", "resourceVersion")} for stray in strays
    ]
    assert {path_of_item(item) for item in mesh.objects()} == before
    await op.reconcile(mesh)
    assert op.wire.everything_written() == []


async def test_what_is_not_ours_to_prune_stays(op: Operator, mesh: Mesh, other_mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    ours = labels_of(mesh)
    without = {f"without-{name.rpartition('/')[2]}": ours.keys() - {name} for name in ours}
    stay = [
        config_map(mesh, "unmarked"),
        config_map(mesh, "of-another-mesh", labels=labels_of(other_mesh)),
        config_map(mesh, "of-another-mesh-id", labels=ours | {"meshwright.dev/mesh-id": "other"}),
        config_map(mesh, "excepted", labels=ours, annotations=DISABLED),
        *(config_map(mesh, name, labels={key: ours[key] for key in kept}) for name, kept in without.items()),
    ]
    go = [
        config_map(mesh, "ours", labels=ours),
        # Any other value asks for nothing.
        config_map(mesh, "hesitant", labels=ours, annotations={"meshwright.dev/reconcile": "false"}),
    ]
    for each in (*stay, *go):
        mesh.cluster.create(each)
    before = [version(mesh.cluster, each) for each in stay]
    await op.reconcile(mesh)
    gone = sorted(f"delete ConfigMap {mesh.namespace}/{each['metadata']['name']}" for each in go)
    assert sorted(op.wire.writes()) == gone
    assert [version(mesh.cluster, each) for each in stay] == before


async def test_what_changes_under_our_eyes_is_looked_at_again(op: Operator, mesh: Mesh) -> None:
    """Somebody makes use of it between our look and our delete: the next look finds out what they want."""
    mesh.create()
    await op.install(mesh)
    stray = config_map(mesh, "stray", labels=labels_of(mesh))
    mesh.cluster.create(stray)

    def somebody_is_faster(request: Sent) -> None:
        if request.method == "DELETE":
            op.wire.before = lambda _: None
            mesh.cluster.merge(path_of_item(stray), {"data": {"in": "use"}, "metadata": {"annotations": DISABLED}})

    op.wire.before = somebody_is_faster
    again = await op.reconcile(mesh)
    assert again
    assert again.failed
    await op.reconcile(mesh)
    assert op.wire.writes() == []
    assert mesh.cluster.must_get(path_of_item(stray))["data"] == {"in": "use"}


async def test_nothing_is_pruned_while_the_mesh_is_on_its_way(op: Operator, mesh: Mesh) -> None:
    """What is replaced is there before what it replaces goes."""
    mesh.create()
    await op.reconcile(mesh)
    stray = config_map(mesh, "stray", labels=labels_of(mesh))
    mesh.cluster.create(stray)
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "Progressing"
    assert mesh.cluster.get(path_of_item(stray))
    mesh.istiod_becomes_available()
    await op.reconcile(mesh)
    assert mesh.cluster.get(path_of_item(stray)) is None


# -- what others have in our places


async def test_an_object_of_somebody_else_in_each_of_our_places(op: Operator, mesh: Mesh) -> None:
    mesh.create(dataPlane={"cni": "Enabled"})
    await op.install(mesh)
    for kind, item in {item["kind"]: item for item in owned(mesh)}.items():
        theirs = least(Key.of(item), labels={"team": "theirs"})
        mesh.cluster.delete(path_of_item(item))
        mesh.cluster.create(theirs, "fieldManager=terraform")
        before = version(mesh.cluster, theirs)
        await op.reconcile(mesh)
        assert mesh.condition()["reason"] == "ForeignObject"
        assert f"{Key.of(item)} was made by terraform: not touched" in mesh.condition()["message"], kind
        assert op.wire.writes() == []
        assert version(mesh.cluster, theirs) == before
        mesh.cluster.delete(path_of_item(theirs))
    await op.repair(mesh)


async def test_an_object_that_somebody_makes_while_we_look(op: Operator, mesh: Mesh) -> None:
    """Nothing in it contradicts ours, so server-side apply alone would join it."""
    mesh.create()
    theirs = least(Key("v1", "ServiceAccount", mesh.namespace, mesh.names.istiod), annotations={"team": "theirs"})

    def be_faster(request: Sent) -> None:
        if request.what.startswith("apply ServiceAccount"):
            op.wire.before = lambda _: None
            mesh.cluster.create(theirs, "fieldManager=terraform")

    op.wire.before = be_faster
    await op.reconcile(mesh)
    await op.reconcile(mesh)
    assert "was made by terraform: not touched" in mesh.condition()["message"]
    assert "labels" not in mesh.cluster.must_get(path_of_item(theirs))["metadata"]


async def test_an_object_of_ours_under_another_mesh_id(op: Operator, mesh: Mesh) -> None:
    """A mesh of our name that somebody had here before, with other keys."""
    mesh.create()
    await op.install(mesh)
    path = f"/api/v1/namespaces/{mesh.namespace}/services/{mesh.names.istiod}"
    mesh.cluster.merge(path, {"metadata": {"labels": {"meshwright.dev/mesh-id": "before"}}})
    await op.reconcile(mesh)
    assert mesh.condition()["reason"] == "ForeignObject"
    assert f"belongs to mesh {mesh.name} of mesh ID before: not touched" in mesh.condition()["message"]
    assert op.wire.writes() == []


# -- what people take out of our hands


async def test_an_object_that_is_excepted(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    path = f"/api/v1/namespaces/{mesh.namespace}/services/{mesh.names.istiod}"
    ours = mesh.cluster.must_get(path)["spec"]["ports"]
    total = mesh.status["clusters"][0]["objects"]
    mesh.cluster.merge(path, {"metadata": {"annotations": DISABLED}, "spec": {"ports": [{"port": 1}]}})
    for each in (op, Operator.start(op.wire)):  # one that remembers it, and one that sees it for the first time
        await each.reconcile(mesh)
        assert each.wire.writes() == []
        ready = mesh.condition()
        assert (ready["status"], ready["reason"]) == ("True", "Installed")
        assert f"but for what an annotation excepts: Service {mesh.namespace}/{mesh.names.istiod}" in ready["message"]
        counts = (mesh.status["clusters"][0]["objects"], mesh.status["clusters"][0]["notReconciled"])
        assert counts == (total, 1)
        assert each.measured("objects", mesh, cluster="primary", state="disabled") == 1
        assert each.measured("objects", mesh, cluster="primary", state="reconciled") == total - 1

    mesh.cluster.merge(path, {"metadata": {"annotations": {"meshwright.dev/reconcile": None}}})
    await op.reconcile(mesh)
    assert mesh.cluster.must_get(path)["spec"]["ports"] == ours
    assert mesh.condition()["message"] == "the mesh is as declared"
    assert mesh.status["clusters"][0]["notReconciled"] == 0
    assert op.measured("objects", mesh, cluster="primary", state="disabled") == 0


async def test_an_excepted_istiod_is_named_while_it_is_not_as_declared(op: Operator, mesh: Mesh) -> None:
    """Otherwise Ready would say that replicas are missing, and nobody would know why nothing is done about it."""
    mesh.create()
    await op.install(mesh)
    mesh.cluster.merge(mesh.deployment_path, {"metadata": {"annotations": DISABLED}, "spec": {"replicas": 7}})
    mesh.istiod_becomes_available()
    await op.reconcile(mesh)
    assert op.wire.writes() == []
    assert mesh.cluster.must_get(mesh.deployment_path)["spec"]["replicas"] == 7
    assert f"Deployment {mesh.namespace}/{mesh.names.istiod}" in mesh.condition()["message"]


async def test_the_status_counts_and_lists_nothing(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    items, sizes = owned(mesh), []
    for excepted in (4, len(items)):
        for each in items[:excepted]:
            mesh.cluster.merge(path_of_item(each), {"metadata": {"annotations": DISABLED}})
        mesh.istiod_becomes_available()  # an annotation of its Deployment is a generation more
        await op.reconcile(mesh)
        message, status = mesh.condition()["message"], mesh.status
        assert status["clusters"][0].pop("notReconciled") == excepted
        assert f" and {excepted - 3} more" in message
        assert len(message.partition("excepts: ")[2].partition(" and ")[0].split(", ")) == 3
        sizes.append(len(json.dumps(status["clusters"])))
    assert sizes[0] == sizes[1]


async def test_a_plan_names_the_first_and_counts_the_rest(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    mesh.change(mode="Plan")
    for number in range(50):
        mesh.cluster.create(config_map(mesh, f"stray-{number:02}", labels=labels_of(mesh)))
    await op.reconcile(mesh)
    assert mesh.status["plan"]["delete"] == 50
    assert len(mesh.status["plan"]["objects"]) == 20
    assert op.wire.writes() == []


@pytest.mark.parametrize(("mode", "reason"), [("Paused", "Paused"), ("Plan", "Planned")])
async def test_a_mesh_that_is_not_applied_drifts(op: Operator, mesh: Mesh, mode: str, reason: str) -> None:
    mesh.create()
    await op.install(mesh)
    assert op.measured("mode", mesh, mode="Apply") == 1
    mesh.change(mode=mode)
    mesh.cluster.create(config_map(mesh, "stray", labels=labels_of(mesh)))
    mesh.cluster.delete(mesh.injector_path)
    mesh.cluster.merge(mesh.deployment_path, {"spec": {"replicas": 0}})
    for _ in range(2):
        await op.reconcile(mesh)
        assert op.wire.writes() == []
    assert op.wire.everything_written() == []
    assert mesh.cluster.get(mesh.injector_path) is None
    assert mesh.condition()["reason"] == reason
    for each in ("Apply", "Plan", "Paused"):
        assert op.measured("mode", mesh, mode=each) == (each == mode)
    mesh.change(mode="Apply")
    await op.repair(mesh)
    assert mesh.cluster.get(mesh.injector_path)
    assert op.measured("mode", mesh, mode="Apply") == 1


async def test_a_pause_counts_from_the_next_write_on(op: Operator, mesh: Mesh) -> None:
    """Paused while each write of an install is on its way: no other one follows, and Apply goes on from there."""
    generations: dict[str, int] = {}
    pausing = Operator.start(op.wire, generation_of=lambda name: generations.get(name, 0))
    steps: dict[str, list[str]] = {}

    def pause(request: Sent) -> None:
        if request.writes and not request.reports and request.what not in steps:
            op.wire.before = lambda _: None
            steps[request.what] = []
            op.wire.sent.clear()
            mesh.change(mode="Paused")
            generations[mesh.name] = mesh.read()["metadata"]["generation"]

    async def go_on() -> None:
        """Until there is no write that was not paused at yet; for each of them, what was written from there on."""
        for number in itertools.count(len(steps) + 1):
            mesh.change(mode="Apply")
            op.wire.before = pause
            await pausing.reconcile(mesh)
            if len(steps) < number:
                return
            steps[next(reversed(steps))] += op.wire.writes()

    mesh.create()
    mesh.cluster.merge(mesh.path, {"metadata": {"finalizers": ["meshwright.dev/mesh"]}})
    await go_on()
    mesh.istiod_becomes_available()
    await go_on()
    mesh.istiod_writes_its_ca()
    await go_on()
    assert mesh.condition()["reason"] == "Installed"
    assert steps == {what: [what] for what in steps}
    assert len(steps) >= 18
    mesh.change(mode="Paused")
    await pausing.reconcile(mesh)
    assert op.wire.writes() == []
    assert mesh.condition()["reason"] == "Paused"
