"""Every workflow with a crash at every write, and install and delete with every kind of refusal: the same end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from api.world import Cluster, short_istio_api
from faults import plan, runner
from faults.life import impatient, operator
from faults.plan import Plan
from faults.runner import Result, Workflow, crash_at_every_write
from faults.scene import World, scene
from faults.workflows import WORKFLOWS, Recipe, Story, delete_with_the_root, install, recipe_of

# A life that is killed closes nothing behind it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SOAK = "MESHWRIGHT_SOAK" in os.environ
AT_ONCE = 8
# After each write; both takes twice as long, and before a write the cluster is as after the one before it.
MOMENTS = runner.BEFORE_AND_AFTER if SOAK else (True,)
SHOWN = 5
RESYNC = 5.0  # seconds: rarely needed, and each costs
BLOCKED = 1.0  # seconds after which what was refused for good is tried all the same
REQUESTS = 3.0  # of a disturbed run, at most so many times those of the undisturbed one


@asynccontextmanager
async def on_stage(cluster: Cluster, recipe: Recipe, *, resync: float) -> AsyncIterator[Workflow[World]]:
    with short_istio_api(), impatient(resync=resync):
        async with scene(cluster) as stage, recipe.on(stage) as workflow:
            yield workflow


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[list[Result]]:
    """Of the tests of this module; the sum is printed at their end, captured or not."""
    found: list[Result] = []
    yield found
    count, writes, runs = len(found), sum(each.writes for each in found), sum(each.runs for each in found)
    differences, seconds = sum(len(each.differences) for each in found), sum(each.seconds for each in found)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *found, sep="\n")
        print(f"crashes: {count} workflows, {writes} writes, {runs} runs, {differences} differences, {seconds:.0f} s")


@pytest.mark.parametrize("recipe", WORKFLOWS, ids=lambda recipe: recipe.name)
async def test_crashed_at_every_write(cluster: Cluster, recipe: Recipe, tmp_path: Path, results: list[Result]) -> None:
    async with on_stage(cluster, recipe, resync=RESYNC) as workflow:
        result = await crash_at_every_write(
            workflow, kubeconfig=cluster.api.kubeconfig, operator=operator, logs=tmp_path, at_once=recipe.at_once,
            moments=MOMENTS,
        )  # fmt: skip
    results.append(result)
    assert result.writes > 0
    assert not result.differences, "\n".join(result.differences[:SHOWN])


REFUSALS: Sequence[Callable[..., Plan]] = (
    partial(plan.answer, 409),
    partial(plan.answer, 422),
    partial(plan.answer, 429, retry_after=1),
    partial(plan.answer, 500),
    partial(plan.lost, committed=True),
)


def refusals_of(number: int) -> list[Plan]:
    """Each write meets one of them, and over all writes each of them often; in a soak each write meets them all."""
    chosen = REFUSALS if SOAK else (REFUSALS[number % len(REFUSALS)],)
    return [refusal(at=number) for refusal in chosen]


@pytest.mark.parametrize("story", [install, delete_with_the_root], ids=lambda story: story.__name__)
async def test_refused_at_every_write(cluster: Cluster, story: Story, tmp_path: Path) -> None:
    asked: list[int] = []

    def end(world: World) -> dict[str, Any]:
        asked.append(world.requests)
        return world.end()

    async with on_stage(cluster, recipe_of(story), resync=BLOCKED) as told:
        workflow = replace(told, end=end)
        run = partial(runner.run, workflow, kubeconfig=cluster.api.kubeconfig, operator=operator)
        undisturbed = await run(plan.undisturbed(), log=tmp_path / "undisturbed.jsonl")
        slots = asyncio.Semaphore(AT_ONCE)

        async def refused(refusal: Plan) -> str | None:
            log = tmp_path / f"{refusal.title.replace(' ', '-')}.jsonl"
            async with slots:
                try:
                    await run(refusal, log=log, expected=undisturbed.end)
                except (AssertionError, TimeoutError) as error:
                    return "; ".join([repr(error), *getattr(error, "__notes__", ())])
            return None

        started = time.monotonic()
        numbers = range(1, len(undisturbed.writes) + 1)
        runs = await asyncio.gather(*(refused(each) for number in numbers for each in refusals_of(number)))
    differences = [each for each in runs if each]
    print(
        f"refusals: {len(runs)} at {len(numbers)} writes of {told.name}, {len(differences)} differences, at most"
        f" {max(asked) / asked[0]:.1f} times the requests, {time.monotonic() - started:.0f} s"
    )
    assert not differences, "\n".join(differences[:SHOWN])
    assert max(asked) <= REQUESTS * asked[0]
