"""Each leaf of each object: what we own comes back, what others own stays.

A leaf that the API server lets nobody change cannot drift: what is left out is listed here, with the reason.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest_asyncio

from api.world import CRDS, Json, Mesh, Operator, path_of_item
from campaign.leaves import ITSELF, MISSING, Leaf, changed, foreign_leaves, other_values, owned_leaves, value_of
from campaign.play import Life, difference, put
from campaign.tally import Tally
from campaign.walk import LABELS, is_key

CRD = f"{CRDS}/peerauthentications.security.istio.io"
AT_ONCE = 6  # leaves of one object that are edited together

# Why the API server takes no edit of an owned leaf; `kind leaf` is searched for the pattern.
CANNOT_DRIFT = {
    r"^Deployment f:spec/f:selector$": "immutable",
    r"^Deployment f:spec/f:template/f:metadata/f:labels/f:(app|istio|istio.io/rev)$": "the selector asks for it",
    r"^Deployment f:spec/f:strategy/f:type$": "another type has no rollingUpdate",
    r'^Deployment .*k:\{"name":"discovery"\}/\.$': "a pod has a container",
    r"^Deployment f:spec/f:template/f:spec/f:volumes/k:[^/]*/\.$": "it is mounted",
    r"^(Cluster)?RoleBinding f:roleRef$": "immutable",
    r"^CustomResourceDefinition f:spec/f:(group|scope|names/f:(kind|plural))$": "immutable",
}
# The same for leaves of others.
CANNOT_BE_CHANGED = {
    r"^Service f:spec/f:(clusterIP|clusterIPs/i:0|ipFamilies/i:0|ipFamilyPolicy)$": "the address of a Service stays",
    r"^Deployment f:spec/f:template/f:spec/f:(restartPolicy|serviceAccount)$": "Always, and an alias of ours",
    r"^CustomResourceDefinition f:spec/f:conversion/f:strategy$": "it needs a webhook",
    r"^Namespace ": "not rendered field by field",
}


# One that is taken away comes back with the API server's policy (Fail) and not with ours for the time until istiod
# answers (Ignore): it would stand in the way of everything else here.
NOT_BORN_AGAIN = re.compile(r"^ValidatingWebhookConfiguration f:webhooks/k:[^/]*/\.$")


class Edit(NamedTuple):
    leaf: Leaf
    value: Any  # MISSING: it is taken away


@pytest_asyncio.fixture
async def life(op: Operator) -> Life:
    return Life(op.wire)


@pytest_asyncio.fixture
async def default_mesh(new_mesh: Callable[..., Mesh], life: Life) -> Mesh:
    """Installed. The default revision has one webhook configuration more than others."""
    return await installed(new_mesh("default"), life)


@pytest_asyncio.fixture
async def mesh(new_mesh: Callable[..., Mesh], life: Life) -> Mesh:
    """Installed. Its validating webhook may be turned to Fail: it is not asked about the mesh's own policy."""
    return await installed(new_mesh(), life)


async def installed(mesh: Mesh, life: Life) -> Mesh:
    mesh.create(controlPlane={"env": {"PILOT_TRACE_SAMPLING": "1", "EMPTY": ""}})
    await life.settle(mesh)
    return mesh


def items_of(mesh: Mesh) -> dict[str, Json]:
    """All that is rendered, by path; Secrets are made, not rendered."""
    found = [item for item in mesh.objects() if item["kind"] != "Secret"]
    return {path_of_item(item): item for item in (*found, mesh.cluster.must_get(CRD))}


# -- ours


async def test_each_leaf_of_ours_comes_back(default_mesh: Mesh, life: Life, tally: Tally) -> None:
    mesh = default_mesh
    before = items_of(mesh)
    to_do = {path: [edit for leaf in own(item) for edit in edits_of(mesh, item, leaf)] for path, item in before.items()}
    number, rounds = sum(map(len, to_do.values())), 0
    leaves = {leaf for path, edits in to_do.items() for leaf in ((path, edit.leaf) for edit in edits)}
    while any(to_do.values()):
        edited = [path for path, edits in to_do.items() if edits and drift_of(mesh, path, edits)]
        await life.settle(mesh)
        after = items_of(mesh)
        for path in edited:
            assert ours(after[path], before[path]) == ours(before[path], before[path]), path
        tally.settled(*("drift" for _ in edited))
        rounds += 1
    tally.say(
        f"leaves of ours: {number} edits of {len(leaves)} leaves in {len(before)} objects undone, {rounds} rounds"
    )


def own(item: Json) -> list[Leaf]:
    """But for labels without which it is not ours (tests/api says what then happens), and keys of list items: with
    another value, an item is another item.
    """
    return [leaf for leaf in owned_leaves(item) if leaf[-1] not in LABELS and not is_key(leaf)]


def edits_of(mesh: Mesh, item: Json, leaf: Leaf) -> Iterator[Edit]:
    """Another value, and none, where the API server takes that and puts no default in its place."""
    if NOT_BORN_AGAIN.search(name := f"{item['kind']} {'/'.join(leaf)}"):
        return
    values = [] if leaf[-1] == ITSELF else other_values(value_of(item, leaf))
    changes = next((Edit(leaf, value) for value in values if takes(mesh, item, Edit(leaf, value))), None)
    removal = Edit(leaf, MISSING) if takes(mesh, item, Edit(leaf, MISSING)) else None
    if changes is removal is None:
        assert known(name, CANNOT_DRIFT), name
    yield from (edit for edit in (changes, removal) if edit)


def takes(mesh: Mesh, item: Json, edit: Edit) -> bool:
    edited = changed(item, *edit)
    stored = edited and put(mesh, edited, "&dryRun=All")
    return bool(stored) and value_of(stored, edit.leaf) != value_of(item, edit.leaf)


def known(what: str, reasons: dict[str, str]) -> bool:
    return any(re.search(pattern, what) for pattern in reasons)


def drift_of(mesh: Mesh, path: str, edits: list[Edit]) -> bool:
    """Takes some edits from the list and carries them out, in one write."""
    live = mesh.cluster.must_get(path)
    together, done = live, []
    for edit in edits[:AT_ONCE]:
        if edited := changed(together, *edit):
            together = edited
            done.append(edit)
    if len(done) == 1 or not put(mesh, together):  # together they contradict each other
        done = edits[:1]
        alone = changed(live, *done[0])
        assert alone
        assert put(mesh, alone)
    edits[:] = [edit for edit in edits if edit not in done]
    return True


def ours(item: Json, before: Json) -> Json:
    """The values of what we owned before, and what we own now."""
    values = {"/".join(leaf): value_of(item, leaf) for leaf in owned_leaves(before) if leaf[-1] != ITSELF}
    return {**values, "owned": sorted("/".join(leaf) for leaf in owned_leaves(item))}


async def test_a_webhook_that_was_taken_away_is_born_again(mesh: Mesh, life: Life) -> None:
    """Nobody would answer it before istiod has written its CA: until then it must not refuse anything."""
    mesh.cluster.merge(mesh.validator_path, {"webhooks": []})
    await life.op.reconcile(mesh)
    [webhook] = mesh.cluster.must_get(mesh.validator_path)["webhooks"]
    assert webhook["failurePolicy"] == "Ignore"


# -- of others

EVERYWHERE: dict[str, Any] = {"metadata/annotations/example.com~owner": "team", "metadata/labels/cost": "7"}
POD = "spec/template/spec"
CONTAINER = f"{POD}/containers/0"
THEIR_WEBHOOK = {
    "name": "theirs.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
    "clientConfig": {"url": "https://localhost:1/x"},
    "rules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["things"]}],
}  # fmt: skip
CONDITION = {"name": "theirs", "expression": "true"}
# What somebody might add to an object of a kind, by path (`~` stands for a slash in a name); `-` is a new item.
ADDITIONS: dict[str, dict[str, Any]] = {
    "Deployment": {
        "spec/paused": True,
        "spec/minReadySeconds": 5,
        "spec/template/metadata/annotations/kubectl.kubernetes.io~restartedAt": "now",
        "spec/template/metadata/labels/team": "a",
        f"{POD}/nodeSelector/zone": "a",
        f"{POD}/priorityClassName": "system-cluster-critical",
        f"{POD}/affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        f"{POD}/topologySpreadConstraints/-": {
            "maxSkew": 1,
            "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule",
        },
        f"{POD}/imagePullSecrets/-": {"name": "theirs"},
        f"{POD}/hostAliases/-": {"ip": "10.0.0.1", "hostnames": ["theirs"]},
        f"{POD}/dnsConfig": {"searches": ["theirs"]},
        f"{POD}/securityContext/runAsGroup": 7,
        f"{POD}/initContainers/-": {"name": "before", "image": "theirs"},
        f"{POD}/containers/-": {"name": "beside", "image": "theirs"},
        f"{POD}/volumes/-": {"name": "extra", "emptyDir": {}},
        f"{CONTAINER}/volumeMounts/-": {"name": "extra", "mountPath": "/extra"},
        f"{CONTAINER}/env/-": {"name": "THEIRS", "value": "x"},
        f"{CONTAINER}/envFrom/-": {"configMapRef": {"name": "theirs"}},
        f"{CONTAINER}/ports/-": {"name": "extra", "containerPort": 9999},
        f"{CONTAINER}/livenessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
        f"{CONTAINER}/lifecycle/postStart": {"exec": {"command": ["sleep", "1"]}},
        f"{CONTAINER}/resources/limits/ephemeral-storage": "1Gi",
        f"{CONTAINER}/securityContext/runAsUser": 1337,
        f"{CONTAINER}/securityContext/capabilities/add": ["NET_BIND_SERVICE"],
        f"{CONTAINER}/workingDir": "/theirs",
    },
    "Service": {
        "spec/ports/-": {"name": "extra", "port": 8000, "protocol": "TCP"},
        "spec/publishNotReadyAddresses": True,
        "spec/externalIPs": ["192.0.2.7"],
    },
    "ServiceAccount": {"imagePullSecrets/-": {"name": "theirs"}, "automountServiceAccountToken": False},
    "ConfigMap": {"data/theirs": "x", "binaryData/theirs-too": "eA=="},
    "MutatingWebhookConfiguration": {"webhooks/-": THEIR_WEBHOOK, "webhooks/0/matchConditions/-": CONDITION},
    "ValidatingWebhookConfiguration": {"webhooks/-": THEIR_WEBHOOK, "webhooks/0/matchConditions/-": CONDITION},
}


async def test_each_leaf_of_others_stays(mesh: Mesh, life: Life, tally: Tally) -> None:
    changes: dict[str, list[Edit]] = {}
    for path, item in items_of(mesh).items():
        changes[path] = [edit for leaf in foreign_leaves(item) for edit in their_edit(mesh, item, leaf)]
        write_all(mesh, path, changes[path])
        add_all(mesh, path)
    mesh.cluster.merge(f"{mesh.deployment_path}/status", {"status": {"conditions": [PROGRESSING]}})
    theirs = items_of(mesh)
    for life_number in (1, 2):  # one that remembers, and one that looks for the first time
        drifted = [path for path in theirs if drift_beside(mesh, mesh.cluster.must_get(path))]
        await life.settle(mesh, playing=False)
        after = items_of(mesh)
        for path, item in theirs.items():
            found = difference(without_versions(item), without_versions(after[path]))
            assert not found, (life_number, path, found)
        tally.settled(*("drift" for _ in drifted))
        life.restart()
    added = sum(len(EVERYWHERE) + len(ADDITIONS.get(item["kind"], ())) for item in theirs.values())
    number = sum(map(len, changes.values()))
    tally.say(f"leaves of others: {number} changed and {added} added in {len(theirs)} objects, all kept by two lives")


PROGRESSING = {"type": "Progressing", "status": "True", "reason": "Theirs", "message": "as they say"}


def their_edit(mesh: Mesh, item: Json, leaf: Leaf) -> list[Edit]:
    edits = (Edit(leaf, value) for value in other_values(value_of(item, leaf)))
    found = next((edit for edit in edits if item["kind"] != "Namespace" and takes(mesh, item, edit)), None)
    what = f"{item['kind']} {'/'.join(leaf)}"
    assert found or known(what, CANNOT_BE_CHANGED), what
    return [found] if found else []


def write_all(mesh: Mesh, path: str, edits: list[Edit]) -> None:
    for edit in edits:
        edited = changed(mesh.cluster.must_get(path), *edit)
        assert edited
        assert put(mesh, edited), edit


def add_all(mesh: Mesh, path: str) -> None:
    item = mesh.cluster.must_get(path)
    for where, value in {**EVERYWHERE, **ADDITIONS.get(item["kind"], {})}.items():
        *way, last = (name.replace("~", "/") for name in where.split("/"))
        parent: Any = item
        for name, below in zip(way, [*way, last][1:], strict=True):
            if isinstance(parent, list):
                parent = parent[int(name)]
            else:
                parent = parent.setdefault(name, [] if below == "-" else {})
        if last == "-":
            parent.append(copy.deepcopy(value))
        else:
            parent[last] = value
    assert put(mesh, item), path


def drift_beside(mesh: Mesh, item: Json) -> bool:
    """Something of ours is changed in the same object."""
    if not own(item):
        return False
    return any(
        takes(mesh, item, edit) and put(mesh, changed(item, *edit) or {})
        for leaf in own(item)[::-1]
        for edit in [Edit(leaf, MISSING), *(Edit(leaf, value) for value in other_values(value_of(item, leaf))[:3])]
    )


def without_versions(item: Json) -> Json:
    """Also without the status of a CRD, where the API server repeats the names."""
    hidden = ("resourceVersion", "managedFields", "generation")
    metadata = {name: value for name, value in item["metadata"].items() if name not in hidden}
    status = None if item["kind"] == "CustomResourceDefinition" else item.get("status")
    return {**item, "metadata": metadata, "status": status}
