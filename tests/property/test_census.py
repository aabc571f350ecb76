"""The turns of a fleet that comes and goes, against a model of what each pod may expect."""

from __future__ import annotations

import datetime as dt
import math

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshwright.mesh.census import LEAST, LOOKS_OF_A_ROUND, ROUND, Pod, Rolls, batch

EPOCH = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
PODS = [Pod("n", f"p{number:02}") for number in range(3 * LEAST)]

fleets = st.sets(st.sampled_from(PODS)).map(frozenset)


@given(st.integers(0, 100_000))
def test_all_are_asked_within_a_round(fleet: int) -> None:
    assert batch(fleet) * LOOKS_OF_A_ROUND >= fleet
    assert batch(fleet) >= LEAST


class Fleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rolls = Rolls()
        self.now = EPOCH
        self.present: frozenset[Pod] = frozenset()
        self.patience: dict[Pod, int] = {}  # looks until the pod must have had its turn
        self.truth: dict[Pod, tuple[dt.datetime, dt.datetime]] = {}  # what was read, and when

    @rule(
        present=fleets | st.just(frozenset(PODS)), silent=fleets, minutes=st.integers(0, 40), left=st.integers(-9, 99)
    )
    def look(self, present: frozenset[Pod], silent: frozenset[Pod], minutes: int, left: int) -> None:
        self.now += dt.timedelta(minutes=minutes)
        gone, self.present = self.present - present, present
        for pod in gone:
            self.patience.pop(pod, None)
            self.truth.pop(pod, None)
        self.rolls = self.rolls.of(sorted(present, reverse=True))
        turn = self.rolls.turn()
        assert len(turn) == len(set(turn)) == min(len(present), LEAST)
        assert set(turn) <= present

        answers = {pod: None if pod in silent else self.now + dt.timedelta(hours=left, seconds=int(pod.name[1:]))
                   for pod in turn}  # fmt: skip
        for place, pod in enumerate(self.rolls.line):
            self.patience.setdefault(pod, math.ceil((place + 1) / LEAST))
        for pod in present:
            self.patience[pod] -= 1
            assert self.patience[pod] > 0 or pod in turn, f"{pod} waits too long"
        for pod, expires in answers.items():
            del self.patience[pod]
            if expires:
                self.truth[pod] = (expires, self.now)
            elif pod in self.truth and self.now - self.truth[pod][1] > ROUND:
                del self.truth[pod]
        self.rolls = self.rolls.asked(answers, now=self.now)
        for place, pod in enumerate(self.rolls.line):
            if pod in answers:
                self.patience[pod] = math.ceil((place + 1) / LEAST)

    @invariant()
    def everybody_stands_in_line_once(self) -> None:
        assert sorted(self.rolls.line) == sorted(self.present)

    @invariant()
    def the_earliest_is_the_earliest_that_is_known(self) -> None:
        found = self.rolls.earliest()
        assert (found.read, found.of) == (len(self.truth), len(self.present))
        assert found.expires == min((expires for expires, _ in self.truth.values()), default=None)
        assert not found.pod or self.truth[Pod(*found.pod.split("/"))][0] == found.expires


TestFleet = Fleet.TestCase
