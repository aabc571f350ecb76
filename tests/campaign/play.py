"""The rest of the world, the operator's lives, and the state in which a mesh ends."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from api.world import BUNDLE, Json, Mesh, Operator, RefusedError, Wire, canonical, path_of_item

OURS = "meshwright"
SETTLING = 8  # looks after which a mesh that is still written to will never be silent
PATIENCE = 100  # tries of one that fails


@dataclass
class Life:
    """An operator in hand, and the next one after it, with what the watches would have told it."""

    wire: Wire
    generations: dict[str, int] = field(default_factory=dict)
    op: Operator = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.op = Operator.start(self.wire.again(), generation_of=lambda mesh: self.generations.get(mesh, 0))

    async def settle(self, mesh: Mesh, *, playing: bool = True) -> None:
        """Until a look finds nothing to write, with the rest of the world playing along."""
        written: list[str] = []
        for _ in range(SETTLING):
            written = await self._look(mesh)
            if not (playing and play(mesh)) and not written:
                return
        raise AssertionError(f"not silent after {SETTLING} looks: {written}; {mesh.condition()}")

    async def _look(self, mesh: Mesh) -> list[str]:
        """What a reconcile has written, once it could: a kind whose CRD has just changed is not served for a moment."""
        for _ in range(PATIENCE):
            again = await self.op.reconcile(mesh)
            if not (again and again.failed):
                return self.op.wire.everything_written()
            await asyncio.sleep(0.05)
        raise AssertionError(f"it fails and fails: {mesh.condition()}")


def play(mesh: Mesh) -> bool:
    """What the Deployments' controller and istiod do when they have had the time; whether there was anything."""
    rolling = [each for each in mesh.deployments() if not is_rolled_out(each)]
    for each in rolling:
        mesh.becomes_available(path_of_item(each))
    if mesh.cluster.get(mesh.deployment_path) is None:
        return bool(rolling)
    answers = [answer(mesh, mesh.injector_path, ()), answer(mesh, mesh.validator_path, ("failurePolicy",))]
    return bool(rolling) or any(answers)


def is_rolled_out(deployment: Json) -> bool:
    status, replicas = deployment.get("status") or {}, deployment["spec"]["replicas"]
    seen = (status.get("observedGeneration"), status.get("availableReplicas", 0), status.get("updatedReplicas", 0))
    return seen == (deployment["metadata"]["generation"], replicas, replicas)


def answer(mesh: Mesh, path: str, fields: tuple[str, ...]) -> bool:
    """istiod writes its CA into its webhooks, and Fail into those whose policy is its own; whether it had to."""
    found = mesh.cluster.get(path)
    operations = [
        {"op": "add", "path": f"/webhooks/{index}/{field}", "value": value}
        for index, webhook in enumerate((found or {}).get("webhooks") or ())
        if webhook["clientConfig"].get("caBundle") != BUNDLE
        for field, value in (("clientConfig/caBundle", BUNDLE), *((each, "Fail") for each in fields))
    ]
    if operations:
        mesh.cluster.json_patch(f"{path}?fieldManager=pilot-discovery", *operations)
    return bool(operations)


def replace_spec(mesh: Mesh, spec: Json) -> int:
    """The whole spec but for what is its own; a merge would keep what is not said any more. The new generation."""
    operation = {"op": "replace", "path": "/spec", "value": mesh.manifest(**spec)["spec"]}
    return int(mesh.cluster.json_patch(mesh.path, operation)["metadata"]["generation"])


def put(mesh: Mesh, item: Json, query: str = "") -> Json | None:
    """Somebody's edit of an object; None when the API server refuses it."""
    try:
        return mesh.cluster.ask("PUT", f"{path_of_item(item)}?fieldManager=kubectl-edit{query}", item).body
    except RefusedError as refused:
        if refused.status not in (400, 422):
            raise
        return None


def versions(mesh: Mesh) -> dict[str, str]:
    """Of every object of the mesh; two equal ones have no write between them."""
    return {path_of_item(item): item["metadata"]["resourceVersion"] for item in mesh.objects()}


def end_state(mesh: Mesh) -> dict[str, Json]:
    """All objects, comparable between meshes: their content, who wrote them, and every field that we own of them.

    The status is the world's, and says in which generation it looked.
    """
    state = canonical(mesh)
    for item in state.values():
        item.pop("status", None)
    owned = {
        f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}": {
            f"{each['manager']} {each['operation']}": each["fieldsV1"]
            for each in item["metadata"]["managedFields"]
            if each["manager"].startswith(OURS)
        }
        for item in mesh.objects()
    }
    text = json.dumps(owned, sort_keys=True)
    for word, stands_for in ((mesh.namespace, "NAMESPACE"), (mesh.revision, "REVISION"), (mesh.name, "MESH")):
        text = text.replace(word, stands_for)
    return {**state, "owned": json.loads(text)}


def difference(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two states are not the same, as `path: value ≠ value`."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other})
        return [line for key in keys for line in difference(one.get(key), other.get(key), f"{at}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [line for i, (a, b) in enumerate(zip(one, other, strict=True)) for line in difference(a, b, f"{at}/{i}")]
    return [] if one == other else [f"{at}: {one!r} ≠ {other!r}"]
