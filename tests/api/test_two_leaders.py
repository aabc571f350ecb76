"""Two leaders at once, for a moment: one root, one end, no fight; and one that lost its lease writes no more."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from kubernetes.aio.client import Configuration

from api.world import Cluster, Json, Wire, short_istio_api
from faults import plan, runner
from faults.life import Life, a_wire, impatient, leading, operator
from faults.proxy import fault_proxy
from faults.runner import Run, Workflow, differences_of, until
from faults.scene import Scene, World, fresh_world, scene
from meshwright.api.errors import LeaseLost

# A life that is killed closes nothing behind it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SEEDS = range(int(os.environ.get("MESHWRIGHT_SEEDS", "8")))
AT_ONCE = 3
SLOWEST = 0.2  # seconds that a request waits before it is sent
WRITES = 2.5  # of two leaders, at most so many times those of one
SECONDS = 60


class Slow(Wire):
    """Each request waits a while of its own before it is sent."""

    random = Random()  # noqa: S311

    async def _request(self, *args: Any, **kwargs: Any) -> Json:
        await asyncio.sleep(self.random.random() ** 3 * SLOWEST)
        return await super()._request(*args, **kwargs)


def slow(seed: str) -> type[Slow]:
    return type("Slow", (Slow,), {"random": Random(seed)})  # noqa: S311


async def install_and_change(world: World) -> None:
    await world.declare()
    await world.installed()
    await world.change(mtls="Strict", controlPlane={"size": "Large", "env": {"PILOT_TRACE_SAMPLING": "1"}})
    await world.installed()
    await until(lambda: world.replicas == 5)


@asynccontextmanager
async def stage(cluster: Cluster) -> AsyncIterator[Scene]:
    with short_istio_api(), impatient():
        async with scene(cluster) as opened:
            yield opened


def workflow(stage: Scene) -> Workflow[World]:
    return Workflow("two leaders", partial(fresh_world, stage), (install_and_change, World.at_rest), World.end)


async def alone(stage: Scene, logs: Path) -> Run:
    kubeconfig, log = stage.cluster.api.kubeconfig, logs / "alone.jsonl"
    return await runner.run(workflow(stage), plan.undisturbed(), kubeconfig=kubeconfig, operator=operator, log=log)


async def with_seeds(one: Callable[[int], Awaitable[str]]) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def with_seed(seed: int) -> str:
        async with slots:
            try:
                return f"seed {seed}: {await one(seed)}"
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise

    async with asyncio.TaskGroup() as tasks:
        found = [tasks.create_task(with_seed(seed)) for seed in SEEDS]
    print(*(each.result() for each in found), sep="\n")


# -- both lead


@asynccontextmanager
async def two(seed: int, world: World, configuration: Configuration) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for name in ("a", "b"):
            wire = a_wire(world, configuration, slow(f"{seed} {name}"))
            world.born(await stack.enter_async_context(leading(wire, {world.name}, now=lambda: world.now)))
        yield


async def both_are_at_rest(world: World) -> None:
    """What the one wrote is no reason for the other to write."""
    while True:
        writes = [life.writes for life in world.lives]
        for life in world.lives:
            await looks_again(life, world.name)
        if writes == [life.writes for life in world.lives]:
            return


async def looks_again(life: Life, mesh: str) -> None:
    looks = life.looks
    life.leader.queue.add(mesh)
    await until(lambda: life.looks > looks)


async def test_both_lead_for_a_while(cluster: Cluster, tmp_path: Path) -> None:
    """From the first write of an install to the last of a change. Neither undoes what the other did."""
    async with stage(cluster) as opened:
        expected = await alone(opened, tmp_path)
        both = replace(workflow(opened), steps=(install_and_change, both_are_at_rest, both_are_at_rest))

        async def one(seed: int) -> str:
            found = await runner.run(
                both, plan.undisturbed(), kubeconfig=cluster.api.kubeconfig, operator=partial(two, seed),
                log=tmp_path / f"{seed}.jsonl", expected=expected.end,
            )  # fmt: skip
            assert found.end["roots"] == 1
            assert len(found.writes) <= WRITES * len(expected.writes)
            return f"{len(found.writes)} writes by two leaders, {len(expected.writes)} by one, the same end"

        await with_seeds(one)


# -- one has lost the lease


def lost_after(writes: int) -> Callable[[], None]:
    """A guard that lets so many writes pass."""
    left = iter(range(writes))

    def guard() -> None:
        if next(left, None) is None:
            raise LeaseLost("somebody else leads")

    return guard


async def leads_until_lost(world: World, wire: Wire) -> None:
    with pytest.RaisesGroup(LeaseLost, flatten_subgroups=True):
        async with leading(wire, {world.name}, now=lambda: world.now):
            await asyncio.Event().wait()


def writes_of(wires: Iterable[Wire]) -> int:
    return sum(len(wire.everything_written()) for wire in wires)


async def test_one_that_lost_its_lease_writes_no_more(cluster: Cluster, tmp_path: Path) -> None:
    """And ends, while another that took over brings the mesh to the same end."""
    kubeconfig = cluster.api.kubeconfig
    async with stage(cluster) as opened:
        expected = await alone(opened, tmp_path)

        async def one(seed: int) -> str:
            last = Random(seed).randint(1, 20)  # noqa: S311
            async with (
                asyncio.timeout(SECONDS),
                fresh_world(opened) as world,
                fault_proxy(kubeconfig, plan.undisturbed(), log=tmp_path / f"{seed}-first.jsonl") as first,
                fault_proxy(kubeconfig, plan.undisturbed(), log=tmp_path / f"{seed}-second.jsonl") as second,
            ):
                fading = a_wire(world, first.configuration(), slow(str(seed)))
                fading.guard = lost_after(last)
                following = a_wire(world, second.configuration(), slow(f"{seed} b"))
                async with leading(following, {world.name}, now=lambda: world.now) as life:
                    world.born(life)
                    async with asyncio.TaskGroup() as both:
                        both.create_task(leads_until_lost(world, fading))
                        await install_and_change(world)
                    await world.at_rest()
                    await second.at_rest(0.3)
                assert list(differences_of(expected.end, world.end())) == []
                assert len(first.all_writes) == last
                return f"{last} writes, then none; {len(second.all_writes)} of the other, the same end"

        await with_seeds(one)
