"""Every workflow with a crash at every write, and install and delete with every kind of refusal: the same end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
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
from faults.workflows import WORKFLOWS, Recipe, delete_with_the_root, install, recipe_of

AT_ONCE = 8
REQUESTS = 3.0  # of a disturbed run, at most so many times those of the undisturbed one


@asynccontextmanager
async def on_stage(cluster: Cluster, recipe: Recipe) -> AsyncIterator[Workflow[World]]:
    with short_istio_api(), impatient():
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
    async with on_stage(cluster, recipe) as workflow:
        result = await crash_at_every_write(
            workflow, kubeconfig=cluster.api.kubeconfig, operator=operator, logs=tmp_path, at_once=recipe.at_once
        )
    results.append(result)
    assert result.writes > 0
    assert not result.differences, "\n".join(result.differences)


REFUSALS: dict[str, Callable[..., Plan]] = {
    "409": partial(plan.answer, 409),
    "422": partial(plan.answer, 422),
    "429": partial(plan.answer, 429, retry_after=1),
    "500": partial(plan.answer, 500),
    "no answer": partial(plan.lost, committed=True),
}


@pytest.mark.parametrize("story", [install, delete_with_the_root], ids=lambda story: story.__name__)
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_refused_at_every_write(cluster: Cluster, story: Any, refusal: str, tmp_path: Path) -> None:
    asked: list[int] = []

    def end(world: World) -> dict[str, Any]:
        asked.append(world.requests)
        return world.end()

    async with on_stage(cluster, recipe_of(story)) as told:
        workflow = replace(told, end=end)
        run = partial(runner.run, workflow, kubeconfig=cluster.api.kubeconfig, operator=operator)
        undisturbed = await run(plan.undisturbed(), log=tmp_path / "undisturbed.jsonl")
        slots = asyncio.Semaphore(AT_ONCE)

        async def refused(number: int) -> str | None:
            async with slots:
                try:
                    await run(REFUSALS[refusal](at=number), log=tmp_path / f"{number}.jsonl", expected=undisturbed.end)
                except (AssertionError, TimeoutError) as error:
                    return "; ".join([f"write {number}", repr(error), *getattr(error, "__notes__", ())])
            return None

        started = time.monotonic()
        numbers = range(1, len(undisturbed.writes) + 1)
        differences = [each for each in await asyncio.gather(*map(refused, numbers)) if each]
    print(
        f"{refusal} at each of {len(numbers)} writes of {told.name}: {len(differences)} differences, at most"
        f" {max(asked) / asked[0]:.1f} times the requests, {time.monotonic() - started:.0f} s"
    )
    assert not differences, "\n".join(differences)
    assert max(asked) <= REQUESTS * asked[0]
