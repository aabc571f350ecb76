"""A path: changes of a mesh one after another, some of them before the last one was carried out.

What it comes to is told by `Expected`, a few lines of memory that know nothing of the operator.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from api.world import CRDS, LOOKED_AT, MESH_LABEL, Json, Mesh, Sent, path_of_item
from campaign import specs
from campaign.leaves import ITSELF, MISSING, changed, other_values, owned_leaves, value_of
from campaign.play import Life, put, replace_spec
from campaign.tally import Tally

MEMORY = "f:meshwright.dev/replicas"  # the annotation is all that is known of an autoscaler's time
LABELS = tuple(
    f"f:{name}" for name in ("meshwright.dev/mesh", "meshwright.dev/mesh-id", "app.kubernetes.io/managed-by")
)
SWITCH = "meshwright.dev/reconcile"
RENDERED = tuple(
    path for path in LOOKED_AT if path not in ("/api/v1/namespaces", "/api/v1/secrets", "/api/v1/pods", CRDS)
)
LAST = 9  # replicas that an autoscaler asks for at the end of a path, and not before


@dataclass
class Expected:
    """Replicas of istiod.

    Those of the size; while there is an autoscaler, its own; after it, what it left if that is more than the size asks
    for, until the size asks for another number or the Deployment is made anew.
    """

    size: int
    autoscaled: int | None = None
    kept: tuple[int, int] | None = None  # replicas, and those that the size asked for

    @property
    def replicas(self) -> int:
        return self.autoscaled or (self.kept[0] if self.kept else self.size)

    def carried_out(self, size: int) -> None:
        self.size = size
        if self.kept and self.kept[1] != size:
            self.kept = None

    def autoscaler_goes(self) -> None:
        left, self.autoscaled = self.autoscaled, None
        self.kept = (left, self.size) if left and left > self.size else None


class Walk:
    """One mesh on its way, from a seed."""

    def __init__(self, mesh: Mesh, life: Life, tally: Tally, seed: int) -> None:
        self.mesh, self.life, self.tally = mesh, life, tally
        self.rng = random.Random(seed)  # noqa: S311
        self.own = specs.identity(self.rng)
        self.spec = specs.valid(self.rng, self.own)
        self.mode = "Apply"
        self.expected = Expected(specs.replicas(self.spec))
        self.disabled: set[str] = set()
        self.pending: list[str] = []  # what has happened since the mesh was settled
        self.history: list[str] = []
        self.root = ""

    # -- the way

    async def begin(self) -> None:
        self.mesh.create(**self.spec)
        self.note("install", self.spec)
        await self.settle()

    async def step(self) -> None:
        happens = self.choose()
        if self.rng.random() < 0.2:
            await self.in_the_middle(happens)
        else:
            await happens()
        if self.rng.random() < 0.85:
            await self.settle()

    def choose(self) -> Callable[[], Awaitable[None]]:
        steps: dict[Callable[[], Awaitable[None]], int] = {
            self.change: 9, self.drift: 5, self.delete: 3, self.restart: 2, self.switch: 2, self.turn: 2,
            self.autoscale: 2,
        }  # fmt: skip
        return self.rng.choices(list(steps), list(steps.values()))[0]

    async def end(self) -> None:
        """All of it in force, and settled."""
        if self.mode != "Apply":
            self.mode = "Apply"
            self.write_spec()
            self.note("mode", self.mode)
        for path in sorted(self.disabled):
            self.annotate(path, None)
            self.note("enable", path)
        await self.settle()
        if self.expected.autoscaled:
            self.scale(LAST)  # a number of its own, so that the field is
            await self.settle()

    async def settle(self) -> None:
        await self.life.settle(self.mesh)
        if not self.pending:
            return
        self.check()
        self.tally.settled(*self.pending)
        self.pending.clear()

    def check(self) -> None:
        ready = self.mesh.condition()
        if self.mode != "Apply":
            assert ready["reason"] in ("Planned", "Paused"), self.told(ready)
            return
        trust = self.mesh.status["clusters"][0]["trust"]
        self.root = self.root or trust["rootFingerprint"]
        assert trust["rootFingerprint"] == self.root, self.told("another root")
        if self.mesh.deployment_path in self.disabled:
            return
        self.expected.carried_out(specs.replicas(self.spec))
        # A gateway that is out of our hands is not as declared, and that is said.
        assert ready["reason"] == "Installed" or any("/deployments/" in each for each in self.disabled), self.told(
            ready
        )
        found = self.mesh.cluster.must_get(self.mesh.deployment_path)["spec"]["replicas"]
        assert found == self.expected.replicas, self.told(f"{found} replicas, not {self.expected}")

    def told(self, what: Any) -> str:
        """With all that led to it."""
        return "\n".join([str(what), *self.history])

    def note(self, kind: str, what: Any) -> None:
        self.pending.append(kind)
        self.history.append(f"{len(self.history)}. {kind}: {what}")

    # -- what happens

    async def change(self) -> None:
        self.spec = specs.next_to(self.rng, self.spec)
        if self.mode != "Apply" and self.rng.random() < 0.5:
            self.mode = "Apply"
        self.write_spec()
        self.note("change", {**self.spec, "mode": self.mode})

    async def turn(self) -> None:
        self.mode = self.rng.choice(("Apply", "Plan", "Paused"))
        self.write_spec()
        self.note("mode", self.mode)

    def write_spec(self) -> None:
        generation = replace_spec(self.mesh, {**self.spec, "mode": self.mode})
        if self.rng.random() < 0.8:  # else the operator has not heard of it yet
            self.life.generations[self.mesh.name] = generation

    async def restart(self) -> None:
        self.life.restart()
        self.note("restart", "")

    async def drift(self) -> None:
        """A field of ours is changed or taken away."""
        for _ in range(10):
            item = self.pick()
            leaf = self.rng.choice(owned_leaves(item))
            if leaf[-1] in (MEMORY, *LABELS):
                continue
            value = value_of(item, leaf)
            others = [MISSING] if leaf[-1] == ITSELF or self.rng.random() < 0.4 else other_values(value)
            self.rng.shuffle(others)
            for other in others[:4]:
                edited = None if is_key(leaf) and other is not MISSING else changed(item, leaf, other)
                if edited and put(self.mesh, edited):
                    self.note("drift", f"{path_of_item(item)} {leaf} {value!r} → {other!r}")
                    return

    async def delete(self) -> None:
        """An object of ours is gone."""
        path = path_of_item(self.pick())
        self.mesh.cluster.delete(path)
        self.disabled.discard(path)
        if path == self.mesh.deployment_path:
            self.expected.kept = None
            if self.expected.autoscaled:
                self.note("deletion", path)
                await self.scale_again()
                return
        self.note("deletion", path)

    async def scale_again(self) -> None:
        """A Deployment that is made anew starts with the replicas of its size, until its autoscaler has seen it."""
        mode, self.mode = self.mode, "Apply"
        if mode != self.mode:
            self.write_spec()
        await self.life.settle(self.mesh)
        self.scale(self.rng.randrange(1, LAST))
        await self.settle()

    async def switch(self) -> None:
        """An annotation takes an object out of our hands, or back into them."""
        if self.disabled and self.rng.random() < 0.6:
            path = self.rng.choice(sorted(self.disabled))
            self.annotate(path, None)
            self.note("enable", path)
            return
        path = path_of_item(self.pick())
        self.annotate(path, "disabled")
        self.note("disable", path)

    def annotate(self, path: str, value: str | None) -> None:
        self.mesh.cluster.merge(path, {"metadata": {"annotations": {SWITCH: value}}}, manager="kubectl-annotate")
        (self.disabled.discard if value is None else self.disabled.add)(path)

    async def autoscale(self) -> None:
        """An autoscaler comes, scales, or goes: each for itself, so that it is known what it found and left."""
        await self.settle()
        if self.mode != "Apply" or self.mesh.deployment_path in self.disabled:
            return
        if self.expected.autoscaled is None:
            self.autoscaler_comes()
        elif self.rng.random() < 0.5:
            self.scale(self.rng.randrange(1, LAST))
        else:
            self.autoscaler_goes()
        await self.settle()

    def autoscaler_comes(self) -> None:
        self.mesh.cluster.create(autoscaler(self.mesh))
        self.expected.autoscaled, self.expected.kept = self.expected.replicas, None
        self.note("autoscaler", "comes")

    def autoscaler_goes(self) -> None:
        self.mesh.cluster.delete(path_of_item(autoscaler(self.mesh)))
        self.expected.autoscaler_goes()
        self.note("autoscaler", "goes")

    def scale(self, replicas: int) -> None:
        path = f"{self.mesh.deployment_path}/scale"
        self.mesh.cluster.merge(path, {"spec": {"replicas": replicas}}, manager="kube-controller-manager")
        self.expected.autoscaled = replicas
        self.note("autoscaler", replicas)

    async def in_the_middle(self, happens: Callable[[], Awaitable[None]]) -> None:
        """While the operator carries out what came before it, after some of its writes."""
        if happens in (self.autoscale, self.delete, self.restart) or self.expected.kept:
            await happens()  # these are about what was carried out, whole
            return
        left = self.rng.randint(0, 4)
        op = self.life.op

        def look(request: Sent) -> None:
            nonlocal left
            left -= request.writes
            if left < 0:
                op.wire.after = lambda _: None
                self.history.append(f"   after {request.what}:")
                run_now(happens())

        op.wire.after = look
        await op.reconcile(self.mesh)
        op.wire.after = lambda _: None
        if left >= 0:
            await happens()

    def pick(self) -> Json:
        """One of those that we keep as they are declared, leaf by leaf."""
        for path in self.rng.sample(RENDERED, len(RENDERED)):
            if found := self.mesh.cluster.list(path, f"{MESH_LABEL}={self.mesh.name}"):
                return self.rng.choice(found)
        raise AssertionError(self.told("nothing is left"))


def run_now(happens: Awaitable[None]) -> None:
    """To its end, inside of somebody else's step: what happens in one never waits."""
    try:
        happens.__await__().__next__()
    except StopIteration:
        return
    raise AssertionError("it waits")


def is_key(leaf: tuple[str, ...]) -> bool:
    """Whether the leaf identifies an item of a list: with another value, it is another item."""
    return len(leaf) > 1 and leaf[-2].startswith("k:") and f'"{leaf[-1].removeprefix("f:")}"' in leaf[-2]


def autoscaler(mesh: Mesh) -> Json:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "istiod", "namespace": mesh.namespace},
        "spec": {
            "minReplicas": 1, "maxReplicas": LAST,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": mesh.names.istiod},
        },
    }  # fmt: skip
