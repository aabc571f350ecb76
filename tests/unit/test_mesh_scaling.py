"""When a rule acts, holds, undoes, and what it says of that. Time passes by looks of 15 seconds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from meshes import NOW
from meshwright.api.meshaction import ActionStatus, MeshAction, Phase, Shape
from meshwright.api.meshinstall import Resources, Size
from meshwright.api.scaling import Action, RuleMode, RuleState, Scaling
from meshwright.mesh import effects
from meshwright.mesh.availability import Bounds
from meshwright.mesh.record import record, replay
from meshwright.mesh.rules import DEFAULTS, frozen, problems, rules_of
from meshwright.mesh.scaling import Clock, Look, Question, Step, Verdict, moment, names, rfc3339, step
from meshwright.mesh.signals import CONVERGENCE, CPU, GENERATION, MEMORY, PODS, Reading
from meshwright.mesh.sizing import ROWS, size_of

Json = dict[str, Any]
TICK = dt.timedelta(seconds=15)
QUIET = {GENERATION: 0.1, CONVERGENCE: 0.0, MEMORY: 30.0, CPU: 20.0}
SLOW = {GENERATION: 2.0}


def look(now: dt.datetime = NOW, *, pods: int = 600, missing: str = "", **parts: Any) -> Look:
    values: dict[str, float] = {**QUIET, **parts.pop("values", {})}
    readings = {name: Reading(missing=missing) if missing else Reading(value) for name, value in values.items()}
    usual = Look(
        now=now, pods=pods, proxies=pods, replicas=3, base=Shape(replicas=3, max_replicas=6), settled=True,
        readings=readings | {PODS: Reading(float(pods))}, size=Size.MEDIUM, demanded=Size.MEDIUM, memory="8Gi",
    )  # fmt: skip
    return replace(usual, **parts)


@dataclass
class Life:
    """A cluster's decisions over time; what is written is in force at the next look."""

    spec: Json = field(default_factory=dict)
    now: dt.datetime = NOW
    every: dt.timedelta = TICK
    clocks: dict[Action, Clock] = field(default_factory=dict)
    journal: list[MeshAction] = field(default_factory=list)
    last: Step | None = None
    carries_out: bool = True

    def tick(self, **parts: Any) -> Step:
        question = self.question(**parts)
        self.last = answer = step(question)
        if answer.new or answer.moves:
            recorded, now = replay(record(question, answer))
            assert recorded == now
        self.clocks = dict(answer.clocks)
        for move in answer.moves:
            (place,) = [number for number, each in enumerate(self.journal) if each.name == move.name]
            status = ActionStatus(phase=move.phase, since=rfc3339(self.now), message=move.message)
            self.journal[place] = self.journal[place].model_copy(update={"status": status})
        for name, spec in zip(names(answer.new), answer.new, strict=True):
            self.journal.append(MeshAction(name=name, spec=spec))
        self.now += self.every
        return answer

    def question(self, **parts: Any) -> Question:
        shape = effects.effect(self.journal, "primary")
        if self.carries_out:
            parts.setdefault("replicas", shape.replicas or 3)
            parts.setdefault("size", shape.size or next((
                each.spec.after.size for each in reversed(self.journal)
                if each.spec.after.size and each.phase is Phase.DONE
            ), Size.MEDIUM))  # fmt: skip
        rules = rules_of(Scaling.model_validate(self.spec))
        return Question("demo", "primary", rules, look(self.now, **parts), dict(self.clocks), tuple(self.journal))

    def until(self, reached: Callable[[], bool], *, within: float = 240, **parts: Any) -> float:
        """Minutes until it is so."""
        began = self.now
        while not reached():
            assert self.now - began < dt.timedelta(minutes=within), self.verdicts()
            self.tick(**parts)
        return (self.now - began) / dt.timedelta(minutes=1)

    def phases(self, action: Action = Action.ADD_REPLICA) -> list[Phase]:
        return [each.phase for each in self.journal if each.spec.action is action]

    def verdict(self, action: Action = Action.ADD_REPLICA) -> Verdict:
        assert self.last
        return next(each for each in self.last.verdicts if each.action is action)

    def verdicts(self) -> list[tuple[str, str, str]]:
        assert self.last
        return [(each.action, each.state, each.message) for each in self.last.verdicts]


def rule(action: Action, **change: Any) -> Json:
    return {"rules": [{"action": str(action), **change}]}


# -- one action, from its first sign to its undoing


def test_a_slow_istiod_gets_a_replica_and_loses_it_when_it_is_quick_again() -> None:
    life = Life()
    life.tick(values=SLOW)
    assert life.verdict().state is RuleState.PENDING
    assert life.until(lambda: bool(life.journal), values=SLOW) == pytest.approx(2.0, abs=0.26)
    (action,) = life.journal
    assert (action.phase, action.spec.mode) == (Phase.ACTING, RuleMode.ENFORCE)
    assert action.spec.before == Shape(replicas=3, max_replicas=6)
    assert action.spec.after == Shape(replicas=4, max_replicas=6)
    assert action.spec.reason == (
        "config generation is slow (2 s for 2m, more than 1 s): istiod gets 4 replicas instead of 3"
    )
    life.until(lambda: life.phases() == [Phase.VERIFYING], within=1, values=SLOW)
    life.until(lambda: life.phases() == [Phase.VERIFIED], within=3)
    assert "it helped: 0.1 s" in life.journal[0].status.message
    minutes = life.until(lambda: life.phases() == [Phase.UNDOING])
    assert 28 < minutes < 32
    life.until(lambda: life.phases() == [Phase.UNDONE], within=1)
    life.tick()
    assert life.verdict().state is RuleState.QUIET
    assert effects.effect(life.journal, "primary") == effects.NONE


def test_one_that_does_not_help_is_not_done_again() -> None:
    life = Life()
    life.until(lambda: life.phases() == [Phase.INEFFECTIVE], values=SLOW)
    assert "it did not help: 2 s" in life.journal[0].status.message
    for _ in range(200):
        life.tick(values=SLOW)
    assert life.phases() == [Phase.INEFFECTIVE]
    assert life.verdict().state is RuleState.HELD
    assert "did not help" in life.verdict().message


def test_one_that_finds_no_room_is_taken_back() -> None:
    life = Life()
    life.until(lambda: bool(life.journal), values=SLOW)
    trouble = "pod istiod-4: Unschedulable"
    minutes = life.until(
        lambda: life.phases() == [Phase.FAILED], values=SLOW, replicas=4, settled=False, trouble=trouble
    )
    assert 10 <= minutes < 11
    assert trouble in life.journal[0].status.message
    assert effects.effect(life.journal, "primary") == effects.NONE
    life.tick(values=SLOW, replicas=3)
    assert "its last action was less than 10m ago" in life.verdict().message


def test_a_second_one_comes_after_the_cool_down() -> None:
    life = Life()
    life.until(lambda: life.phases() == [Phase.VERIFIED], values=SLOW | {GENERATION: 0.8}) if False else None
    life.until(lambda: bool(life.journal), values=SLOW)
    life.until(lambda: life.phases() == [Phase.VERIFIED], within=15)
    verified = life.now
    life.until(lambda: len(life.journal) == 2, values=SLOW)
    assert dt.timedelta(minutes=9) < life.now - verified < dt.timedelta(minutes=12)
    assert life.journal[1].spec.after.replicas == 5
    assert effects.effect(life.journal, "primary").replicas == 5


# -- why it does nothing


@pytest.mark.parametrize(
    ("spec", "parts", "state", "says"),
    [
        ({}, {"pods": 499}, RuleState.UNARMED, "it looks from 500 pods on, and there are 499"),
        ({}, {"missing": "pod a is silent"}, RuleState.NO_DATA, "it holds: pod a is silent"),
        ({}, {"values": {GENERATION: 1.0}}, RuleState.QUIET, "below the threshold"),
        (rule(Action.ADD_REPLICA, mode="Off"), {"values": SLOW}, RuleState.OFF, "mode is Off"),
        ({}, {"values": SLOW, "frozen": "2027"}, RuleState.HELD, "frozen until 2027"),
        ({}, {"values": SLOW, "settled": False}, RuleState.HELD, "istiod is being rolled out"),
        ({}, {"values": SLOW, "most": 3}, RuleState.HELD, "3 are the most that spec.controlPlane allows"),
        ({}, {"values": SLOW, "foreign_autoscaler": True}, RuleState.HELD, "not Meshwright's"),
        (rule(Action.ADD_REPLICA, threshold=3), {"values": SLOW}, RuleState.QUIET, "below the threshold"),
    ],
)
def test_why_nothing_is_done(spec: Json, parts: Json, state: RuleState, says: str) -> None:
    life = Life(spec)
    for _ in range(20):
        life.tick(**parts)
    assert (life.verdict().state, life.journal) == (state, [])
    assert says in life.verdict().message


def test_it_recommends_where_it_is_told_to() -> None:
    life = Life(rule(Action.ADD_REPLICA, mode="Recommend"))
    life.until(lambda: bool(life.journal), values=SLOW)
    assert life.phases() == [Phase.RECOMMENDED]
    assert effects.effect(life.journal, "primary") == effects.NONE
    for _ in range(40):
        life.tick(values=SLOW)
    assert life.phases() == [Phase.RECOMMENDED]  # once
    life.until(lambda: life.phases() == [Phase.WITHDRAWN])


def test_a_rule_that_is_switched_off_undoes_what_it_did() -> None:
    life = Life()
    life.until(lambda: bool(life.journal), values=SLOW)
    life.spec = rule(Action.ADD_REPLICA, mode="Off")
    life.tick(values=SLOW)
    assert life.phases() == [Phase.UNDOING]
    life.tick(values=SLOW)
    assert life.phases() == [Phase.UNDONE]


def test_missing_data_never_undoes_anything() -> None:
    life = Life()
    life.until(lambda: bool(life.journal), values=SLOW)
    life.until(lambda: life.phases() == [Phase.VERIFIED], within=15)
    for _ in range(400):
        life.tick(missing="silent")
    assert life.phases() == [Phase.VERIFIED]
    life.tick()
    assert life.verdict().state is RuleState.CLEARING  # which begins anew


def test_a_spike_is_not_enough() -> None:
    life = Life()
    for _ in range(50):
        for _ in range(7):
            life.tick(values=SLOW)
        life.tick()
    assert life.journal == []


def test_between_the_thresholds_nothing_happens() -> None:
    life = Life()
    life.until(lambda: bool(life.journal), values=SLOW)
    life.until(lambda: life.phases() == [Phase.VERIFIED], within=15)
    for _ in range(400):
        life.tick(values={GENERATION: 0.8})
    assert life.phases() == [Phase.VERIFIED]
    assert life.verdict().state is RuleState.STANDING


def test_two_rules_at_once_act_one_after_the_other() -> None:
    life = Life()
    grown: Json = {"pods": 2500, "demanded": Size.LARGE, "values": SLOW}
    life.until(lambda: len(life.journal) == 1, **grown)
    assert life.verdict().state is RuleState.ACTING  # 2 minutes, and Resize takes 5
    life.until(lambda: bool(life.phases(Action.RESIZE)), **grown)
    flights = [each for each in life.journal if each.in_flight]
    assert len(flights) == 1


def test_a_gap_in_which_nobody_looked_begins_anew() -> None:
    life = Life()
    for _ in range(6):
        life.tick(values=SLOW)
    life.now += dt.timedelta(hours=1)
    life.tick(values=SLOW)
    assert life.journal == []


# -- sizes


def test_more_pods_make_a_larger_size_and_fewer_a_smaller_one() -> None:
    life = Life()
    grown: Json = {"pods": 2500, "demanded": Size.LARGE}
    assert life.until(lambda: bool(life.phases(Action.RESIZE)), **grown) == pytest.approx(5, abs=0.3)
    assert life.journal[0].spec.reason == "2500 pods are in the mesh since 5m: istiod goes from Medium to Large"
    life.until(lambda: life.phases(Action.RESIZE) == [Phase.DONE], within=1, **grown)
    fewer: Json = {"pods": 1700, "demanded": Size.MEDIUM}
    for _ in range(400):
        life.tick(**fewer)  # not below 80 % of 2000
    assert len(life.journal) == 1
    fewer["pods"] = 1599
    assert life.until(lambda: len(life.journal) == 2, **fewer) == pytest.approx(30, abs=0.6)
    assert life.journal[1].spec.after.size is Size.MEDIUM


def test_a_smaller_size_must_hold_what_is_in_use() -> None:
    life = Life()
    for _ in range(200):
        life.tick(pods=300, demanded=Size.SMALL, memory_used=3.0 * 2**30)
    assert life.journal == []
    assert "uses 3.0 GiB, too much for Small" in life.verdict(Action.RESIZE).message


def test_a_smaller_size_waits_for_data() -> None:
    life = Life()
    for _ in range(200):
        life.tick(pods=300, demanded=Size.SMALL, missing="pod a is silent")
    assert life.journal == []
    assert life.verdict(Action.RESIZE).message == "it holds: pod a is silent"


def test_a_size_that_found_no_room_fails_and_is_not_tried_again() -> None:
    life = Life()
    grown: Json = {"pods": 2500, "demanded": Size.LARGE}
    life.until(lambda: bool(life.journal), **grown)
    refused: Json = {"refused": "no room", "refused_size": Size.LARGE, "size": Size.MEDIUM}
    for _ in range(300):
        life.tick(**grown, **refused)
    assert life.phases(Action.RESIZE) == [Phase.FAILED]
    assert life.verdict(Action.RESIZE).message == "no room"


def test_a_size_that_is_set_by_hand_stays() -> None:
    life = Life()
    for _ in range(40):
        life.tick(pods=5000, demanded=Size.LARGE, fixed=True)
    assert (life.journal, life.verdict(Action.RESIZE).state) == ([], RuleState.OFF)


def test_a_replica_that_ran_out_of_memory_gets_more_at_once() -> None:
    life = Life()
    life.tick(pods=10, killed="istiod-1", memory="4Gi", fixed=True)
    (action,) = life.journal
    assert action.spec.after == Shape(memory="8Gi")
    assert action.spec.reason == "istiod-1 ran out of its 4Gi of memory: each replica gets 8Gi"
    life.tick(pods=10, killed="istiod-1", memory="8Gi", fixed=True)
    assert len(life.journal) == 1
    life.tick(pods=10, memory="8Gi", fixed=True)
    assert effects.effect(life.journal, "primary").memory == "8Gi"
    assert life.phases(Action.RESIZE) == [Phase.VERIFIED]


def test_memory_that_was_given_stays_however_few_pods_there_are() -> None:
    life = Life()
    life.tick(killed="istiod-1", memory="8Gi")
    for _ in range(400):
        life.tick(pods=300, demanded=Size.SMALL, memory="16Gi", size=Size.MEDIUM, settled=True)
    assert life.journal[0].phase is Phase.VERIFIED
    assert life.journal[1].spec.after.size is Size.SMALL


def test_memory_that_the_size_has_anyway_is_not_kept() -> None:
    life = Life()
    life.tick(killed="istiod-1", memory="8Gi", fixed=True)
    life.tick(memory="16Gi", fixed=True)
    life.tick(memory="16Gi", fixed=True, base=Shape(replicas=5, max_replicas=10, memory="16Gi"))
    assert life.phases(Action.RESIZE) == [Phase.UNDONE]


def test_memory_that_found_no_room_fails_and_is_not_asked_for_again() -> None:
    life = Life()
    for _ in range(50):
        refused: Json = {"refused": "no room", "refused_size": Size.SMALL, "refused_memory": "8Gi"}
        life.tick(killed="istiod-1", memory="4Gi", fixed=True, **(refused if life.journal else {}))
    assert life.phases(Action.RESIZE) == [Phase.FAILED]
    assert life.verdict(Action.RESIZE).message == "no room"


def test_a_size_that_was_refused_long_ago_fails_no_other() -> None:
    life = Life()
    old: Json = {"refused": "no room", "refused_size": Size.SMALL, "refused_memory": "4Gi"}
    life.until(lambda: bool(life.journal), pods=2500, demanded=Size.LARGE, **old)
    life.tick(pods=2500, demanded=Size.LARGE, **old)
    assert life.phases(Action.RESIZE) == [Phase.DONE]


def test_more_memory_than_the_largest_size_has_is_not_given() -> None:
    life = Life()
    life.tick(killed="istiod-1", memory="16Gi")
    assert life.journal == []
    assert "no size has more memory" in life.verdict(Action.RESIZE).message


# -- the others


@pytest.mark.parametrize(
    ("action", "pods", "values"),
    [
        (Action.DISCOVERY_SELECTORS, 1000, {CONVERGENCE: 2.0}),
        (Action.SIDECAR_SCOPING, 2000, {MEMORY: 90.0}),
        (Action.OTHER_ARCHITECTURE, 5000, {CPU: 90.0}),
    ],
)
def test_what_is_recommended_only(action: Action, pods: int, values: dict[str, float]) -> None:
    full: dict[str, Any] = {"replicas": 12, "fixed": True}
    too_few, enough = Life(), Life()
    for _ in range(80):
        too_few.tick(pods=pods - 1, values=values, **full)
        enough.tick(pods=pods, values=values, **full)
    assert too_few.phases(action) == []
    assert enough.phases(action) == [Phase.RECOMMENDED]


def test_another_architecture_is_for_an_autoscaler_at_its_end() -> None:
    life = Life()
    for _ in range(80):
        life.tick(pods=5000, values={CPU: 90.0}, fixed=True, replicas=5)
    assert life.journal == []


def test_several_clusters_are_required_at_once_and_not_from_one_pod_on_to_the_next() -> None:
    life = Life()
    life.tick(pods=10000, fixed=True)
    assert life.phases(Action.MULTI_CLUSTER_REQUIRED) == [Phase.VERIFIED]
    for _ in range(200):
        life.tick(pods=9600, fixed=True)
    assert life.phases(Action.MULTI_CLUSTER_REQUIRED) == [Phase.VERIFIED]
    life.until(lambda: life.phases(Action.MULTI_CLUSTER_REQUIRED) == [Phase.UNDONE], pods=9000, fixed=True)


# -- rules


def test_the_rules_are_those_of_the_table() -> None:
    assert set(DEFAULTS) == set(Action)
    for row in DEFAULTS.values():
        assert row.action is Action.RESIZE or row.clear < row.threshold


def test_what_a_mesh_changes_of_a_rule() -> None:
    change = rule(Action.ADD_REPLICA, threshold=0.2, window="10s", clearFor="1m", minPods=0)
    changed = {each.action: each for each in rules_of(Scaling.model_validate(change))}[Action.ADD_REPLICA]
    assert (changed.threshold, changed.window, changed.clear_for) == (
        0.2,
        dt.timedelta(seconds=10),
        dt.timedelta(minutes=1),
    )
    assert changed.clear == pytest.approx(0.14)
    assert (changed.min_pods, changed.mode, changed.cool_down) == (0, RuleMode.ENFORCE, dt.timedelta(minutes=10))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (rule(Action.ADD_REPLICA, threshold=1, clear=1), "clear (1) is not below threshold (1)"),
        (rule(Action.ADD_REPLICA, clear=2), "clear (2) is not below threshold (1)"),
        (rule(Action.SIDECAR_SCOPING, mode="Enforce"), "recommended only"),
        (rule(Action.RESIZE, threshold=5), "remove threshold and clear"),
        ({"rules": [{"action": "Resize"}, {"action": "Resize"}]}, "the rule is there twice"),
        ({"freezes": [{"start": "2027-01-02T00:00:00Z", "end": "2027-01-01T00:00:00Z"}]}, "ends before it starts"),
        ({"freezes": [{"start": "soon", "end": "later"}]}, "start and end are moments"),
    ],
)
def test_rules_that_cannot_be(spec: Json, says: str) -> None:
    (found,) = problems(Scaling.model_validate(spec))
    assert says in found


def test_a_freeze_is_from_its_start_to_before_its_end() -> None:
    freezes = Scaling.model_validate({"freezes": [
        {"start": "2026-03-01T12:00:00Z", "end": "2026-03-01T13:00:00Z"},
        {"start": "2026-03-01T12:30:00Z", "end": "2026-03-01T14:00:00+01:00"},
    ]}).freezes  # fmt: skip
    assert frozen(freezes, NOW) == "2026-03-01T13:00:00Z"
    assert frozen(freezes, NOW + dt.timedelta(hours=1)) == ""
    assert frozen(freezes, NOW - TICK) == ""


# -- effects


def test_what_is_in_force_is_the_most_of_each() -> None:
    life = Life()
    life.until(lambda: bool(life.journal), values=SLOW)
    shape = effects.effect(life.journal, "primary")
    assert effects.effect(life.journal, "west") == effects.NONE
    assert effects.bounds(Bounds(3, 6, "1"), shape) == Bounds(4, 6, "1")
    assert effects.bounds(Bounds(5, 5, "1"), shape) == Bounds(5, 6, "1")
    assert effects.bounds(None, shape) is None
    assert effects.sizing(size_of(Size.MEDIUM, Resources()), shape).replicas == 4


@pytest.mark.parametrize(("given", "has"), [("8Gi", "8Gi"), ("2Gi", "4Gi")])
def test_memory_that_was_given_replaces_less(given: str, has: str) -> None:
    override = effects.resources(Resources(), Size.SMALL, Shape(memory=given))
    assert size_of(Size.SMALL, override).share.limits.memory == has


def test_a_name_tells_the_moment_and_a_moment_reads_back() -> None:
    life = Life()
    life.until(lambda: bool(life.journal), values=SLOW)
    assert life.journal[0].name == "demo-primary-addreplica-20260301-120200"
    assert moment(rfc3339(NOW)) == NOW
    assert ROWS[Size.SMALL].below_pods == 500
