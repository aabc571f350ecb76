"""Several requests at once: all have ended when the call has, and which failure is told does not depend on time."""

from __future__ import annotations

import asyncio

import pytest

import virtual_time
from meshwright.api.errors import Conflict, Forbidden, MeshwrightError
from meshwright.cluster.together import together


class Requests:
    """Requests that end after so many seconds, and what became of them."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def __call__(self, name: str, seconds: float, fails: MeshwrightError | None = None) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.ended.append(f"{name} cancelled")
            raise
        self.ended.append(name)
        if fails:
            raise fails
        return name


def test_answers_are_in_the_order_of_the_requests_and_none_waits_for_another() -> None:
    request = Requests()

    async def run() -> tuple[list[str], float]:
        answers = await together(request("slow", 3), request("quick", 1), request("middling", 2))
        return answers, asyncio.get_running_loop().time()

    assert virtual_time.run(run()) == (["slow", "quick", "middling"], 3)
    assert request.ended == ["quick", "middling", "slow"]


def test_none_asked_none_answered() -> None:
    assert virtual_time.run(together()) == []


def test_a_failure_is_told_when_all_have_ended() -> None:
    request = Requests()

    async def run() -> float:
        with pytest.raises(Forbidden, match="first"):
            await together(request("failing", 0, Forbidden("first")), request("slow", 10))
        assert request.ended == ["failing", "slow"]
        return asyncio.get_running_loop().time()

    assert virtual_time.run(run()) == 10


@pytest.mark.parametrize("seconds", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2), (0, 0, 0)])
def test_of_several_failures_the_first_in_order_is_told_whichever_comes_first(seconds: tuple[int, int, int]) -> None:
    request = Requests()

    async def run() -> None:
        fine, first, second = seconds
        await together(
            request("fine", fine), request("b", first, Forbidden("first")), request("c", second, Conflict("second"))
        )

    with pytest.raises(Forbidden, match="first"):
        virtual_time.run(run())
    assert sorted(request.ended) == ["b", "c", "fine"]


def test_whoever_is_cancelled_takes_its_requests_along() -> None:
    request = Requests()

    async def run() -> None:
        task = asyncio.create_task(together(request("a", 10), request("b", 1), request("c", 20)))
        await asyncio.sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(request.ended) == ["a cancelled", "b", "c cancelled"]

    virtual_time.run(run())
