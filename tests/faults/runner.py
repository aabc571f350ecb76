"""A workflow, undisturbed and then with a crash before and after each of its writes: the end must be the same.

    INSTALL = Workflow("install", world=a_mesh, steps=(declare, becomes_ready), end=canonical_objects)
    result = await crash_at_every_write(INSTALL, kubeconfig=api.kubeconfig, operator=an_operator, logs=tmp_path)
    assert not result.differences

The steps play the user and the rest of the world, and know nothing of crashes: each waits until what it wants is there.
The operator is started again after a crash, as its Deployment would.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet

from kubernetes.aio.client import Configuration

from faults import plan as plans
from faults.call import Call
from faults.plan import Plan
from faults.proxy import Proxy, fault_proxy

STEP_SECONDS = 60.0
DEATH_SECONDS = 5.0
PAUSE = 0.02
AT_ONCE = 4
BEFORE_AND_AFTER = (False, True)
SHOWN = 120  # characters of a value

Tasks = WeakSet[asyncio.Task[Any]]
_LIFE: ContextVar[Tasks | None] = ContextVar("life", default=None)


class World(Protocol):
    @property
    def stand_ins(self) -> Mapping[str, str]:
        """What the names of this world are called in every world (`names` of `fault_proxy`)."""


W = TypeVar("W", bound=World)

Life = Callable[[Configuration], AbstractAsyncContextManager[Any]]
"""The operator's process: works while the block is open. All its tasks are cancelled at once when it is killed."""

Process = Callable[[W, Configuration], AbstractAsyncContextManager[Any]]
"""A life that leaves other worlds alone: they share the API server with this one."""


@dataclass(frozen=True)
class Workflow(Generic[W]):
    name: str
    world: Callable[[], AbstractAsyncContextManager[W]]  # a fresh one with each call
    steps: Sequence[Callable[[W], Awaitable[None]]]
    end: Callable[[W], Mapping[str, Any]]  # by object, in words that hold for every world
    rest: float = 0.3  # seconds without a write after which the operator is taken to be done


@dataclass(frozen=True)
class Run:
    """One time through a workflow."""

    end: Mapping[str, Any]
    writes: Sequence[Call]
    faults: int


@dataclass(frozen=True)
class Result:
    workflow: str
    writes: int
    runs: int
    missed: Sequence[str]  # the crashes that never came, because that run had no such write
    differences: Sequence[str]
    seconds: float

    def __str__(self) -> str:
        return (
            f"workflow {self.workflow}: {self.writes} writes, {self.runs} runs, {self.runs - len(self.missed)} crashed,"
            f" {len(self.differences)} differences, {self.seconds:.1f} s"
        )


class DifferentEndError(AssertionError):
    """Under these faults the workflow ended elsewhere than without them."""


async def crash_at_every_write(
    workflow: Workflow[W], *, kubeconfig: Path, operator: Process[W], logs: Path, at_once: int = AT_ONCE,
    moments: Sequence[bool] = BEFORE_AND_AFTER,
) -> Result:  # fmt: skip
    """Prints one line of counts. The log of each run that ended elsewhere, or not at all, is kept in `logs`.

    `moments`: whether the write takes effect. Before one and after the one before it, the cluster is the same.
    """
    started = time.monotonic()
    undisturbed = await run(
        workflow, plans.undisturbed(), kubeconfig=kubeconfig, operator=operator, log=logs / f"{workflow.name}.jsonl"
    )
    slots = asyncio.Semaphore(at_once)
    missed: list[str] = []
    differences: list[str] = []

    async def crashed(write: Call, *, committed: bool) -> None:
        plan = plans.crash_at(write, committed=committed)
        log = logs / f"{workflow.name}-{write.write}-{'after' if committed else 'before'}.jsonl"
        async with slots:
            try:
                disturbed = await run(
                    workflow, plan, kubeconfig=kubeconfig, operator=operator, log=log, expected=undisturbed.end
                )
            except (AssertionError, TimeoutError) as error:
                differences.append("; ".join([plan.title, repr(error), *getattr(error, "__notes__", ())]))
            else:
                missed.extend([] if disturbed.faults else [plan.title])

    runs = [crashed(write, committed=after) for write in undisturbed.writes for after in moments]
    await asyncio.gather(*runs)
    seconds = time.monotonic() - started
    result = Result(workflow.name, len(undisturbed.writes), len(runs), tuple(missed), tuple(differences), seconds)
    print(result)
    return result


async def run(
    workflow: Workflow[W],
    plan: Plan,
    *,
    kubeconfig: Path,
    operator: Process[W],
    log: Path,
    expected: Mapping[str, Any] | None = None,
) -> Run:
    """Raises DifferentEndError when the end is not the expected one, and TimeoutError when a step never ends."""
    async with (
        workflow.world() as world,
        fault_proxy(kubeconfig, plan, names=world.stand_ins, log=log) as proxy,
    ):
        await kept_alive(proxy, partial(operator, world), _play(workflow, world, proxy))
        end = workflow.end(world)
        if expected is not None and (different := list(differences_of(expected, end))):
            raise DifferentEndError("; ".join(different))
        return Run(end, proxy.all_writes, len(proxy.faults))


async def until(condition: Callable[[], bool]) -> None:
    """For steps: they are given `STEP_SECONDS` each, and need no limit of their own."""
    while not condition():  # noqa: ASYNC110 - the cluster is looked at, and tells nobody
        await asyncio.sleep(PAUSE)


async def _play(workflow: Workflow[W], world: W, proxy: Proxy) -> None:
    for number, step in enumerate(workflow.steps, 1):
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await step(world)
        except TimeoutError as error:
            error.add_note(f"step {number}: {getattr(step, '__name__', step)}")
            raise
    async with asyncio.timeout(STEP_SECONDS):
        await proxy.at_rest(workflow.rest)  # a life that began at the very end may still spoil it


async def kept_alive(proxy: Proxy, life: Life, work: Coroutine[Any, Any, None]) -> None:
    """Does `work` while one life follows the other. What a life raises by itself, this raises."""
    asyncio.get_running_loop().set_task_factory(_recorded)
    working, living = asyncio.create_task(work), asyncio.create_task(_lives(proxy, life))
    try:
        await asyncio.wait({working, living}, return_when=asyncio.FIRST_COMPLETED)
        (living if living.done() else working).result()
    finally:
        working.cancel()
        living.cancel()
        await asyncio.wait({working, living})


async def _lives(proxy: Proxy, life: Life) -> None:
    while True:
        await _live(proxy, life)
        await proxy.new_life()


async def _live(proxy: Proxy, life: Life) -> None:
    """One life, until it is killed."""
    tasks: Tasks = WeakSet()
    killed = asyncio.Event()

    def kill() -> None:
        killed.set()
        for task in tasks:
            task.cancel()

    async def process() -> None:
        async with life(proxy.configuration()):
            await asyncio.Event().wait()

    proxy.on_crash = kill
    outside = _LIFE.set(tasks)
    running = asyncio.create_task(process())
    _LIFE.reset(outside)
    try:
        await asyncio.wait({running})
    finally:
        running.cancel()
        await _end(tasks)
    if not killed.is_set():
        await running  # raises what the life did


async def _end(tasks: Tasks) -> None:
    """Also what tries to clean up: the dead do not, and the proxy lets nothing of it through."""
    async with asyncio.timeout(DEATH_SECONDS):
        while alive := {task for task in tasks if not task.done()}:
            await asyncio.wait(alive, timeout=DEATH_SECONDS / 10)
            for task in alive:
                task.cancel()


def _recorded(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
    """A task factory: each task belongs to the life of the one that made it."""
    task = asyncio.Task(coroutine, loop=loop, **more)
    if (tasks := _LIFE.get()) is not None:
        tasks.add(task)
    return task


def differences_of(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """Each leaf that is not the same, by its path."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name in sorted({*expected, *found}):
            yield from differences_of(expected.get(name), found.get(name), f"{where}.{name}" if where else str(name))
    elif expected != found:
        yield f"{where}: expected {_shown(expected)}, found {_shown(found)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
