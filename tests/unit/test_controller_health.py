"""What the operator says of its own health, on clocks that are set by hand."""

from __future__ import annotations

import asyncio

import pytest

from meshwright.controller.health import Overdue, Pulse, Verdict, Watchdog, first
from virtual_time import run


@pytest.mark.parametrize(
    ("age", "wrong"), [(None, None), (0.0, None), (10.0, None), (10.4, "silent for 10 s"), (75.0, "silent for 75 s")]
)
def test_above_its_limit_an_age_is_wrong(age: float | None, wrong: str | None) -> None:
    assert Overdue(lambda: age, 10.0, "silent for {}")() == wrong


@pytest.mark.parametrize(
    ("verdicts", "wrong"),
    [
        ((), None),
        ((lambda: None, lambda: None), None),
        ((lambda: None, lambda: "late", lambda: "silent"), "late"),
    ],
)
def test_of_several_the_first_that_objects_speaks(verdicts: tuple[Verdict, ...], wrong: str | None) -> None:
    assert first(*verdicts)() == wrong


def test_a_verdict_is_the_one_of_now() -> None:
    found: list[str | None] = [None, "late", None]
    verdict = first(lambda: found[0])
    said = []
    for _ in range(3):
        said.append(verdict())
        found.pop(0)
    assert said == [None, "late", None]


def test_the_watchdog_names_the_work_that_does_not_end() -> None:
    now = 0.0
    watchdog = Watchdog(limit=10, clock=lambda: now)
    with watchdog.watching("slow"):
        now = 10
        with watchdog.watching("quick"):
            assert watchdog() is None
            now = 11
            assert watchdog() == "the reconcile of slow has not ended for 11 s"
    assert watchdog() is None


def test_the_pulse_knows_how_late_the_event_loop_is() -> None:
    async def life() -> list[float]:
        blocked = 0.0
        loop = asyncio.get_running_loop()
        pulse = Pulse(every=1.0, clock=lambda: loop.time() + blocked)
        found = [pulse.late()]
        beating = asyncio.create_task(pulse.beat())
        await asyncio.sleep(5.5)
        found.append(pulse.late())
        blocked = 7.0  # somebody computes for seven seconds; nothing else runs meanwhile
        found.append(pulse.late())  # asked before the pulse is
        await asyncio.sleep(0.6)
        found.append(pulse.late())  # and after it
        await asyncio.sleep(1)
        found.append(pulse.late())
        beating.cancel()
        return found

    assert run(life()) == pytest.approx([0, 0, 6.5, 7, 0])
