"""The scaling decision: from what is measured now and the journal of actions, to what is done next.

Pure: the moment, the clocks and the journal are inputs, so that a decision that was recorded can be made again. One
step looks at every rule once. An action is a row of the journal that is written before anything is changed; while it
is in force, istiod is declared as the action has it (`meshwright.mesh.effects`). To undo it is to let that end.

    Acting ─► Verifying ─► Verified ─┐
       │          └─► Ineffective ───┴─► Undoing ─► Undone        Resize: Acting ─► Done | Failed
       └─► Failed                                                 a recommendation: Recommended ─► Withdrawn

What holds for every rule:

- above the threshold for the window it acts, below `clear` for `clear_for` that is undone; in between nothing happens;
- on missing data it holds: nothing is done, and the time below `clear` begins anew;
- one action of a cluster at a time, in the order of the rules, and none within the cool-down of the rule's last one;
- in a freeze nothing is done and nothing is undone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from meshwright.api.meshaction import ActionSpec, Evidence, MeshAction, Phase, Shape
from meshwright.api.meshinstall import Size
from meshwright.api.scaling import Action, RuleMode, RuleState
from meshwright.mesh import quantity
from meshwright.mesh.rules import Rule
from meshwright.mesh.signals import Reading
from meshwright.mesh.sizing import ROWS, Row

PATIENCE = dt.timedelta(minutes=10)  # for an action to be in force
SETTLED = dt.timedelta(seconds=90)  # after which what was measured before it has passed
GAP = dt.timedelta(minutes=2)  # in which nothing was seen: a time above the threshold begins anew
SHRINK = 0.8  # of a size's boundary, below which it is left downwards
ROOM = 0.7  # of the smaller size's memory that may be in use
PATIENCE_FOR_OOM = dt.timedelta(minutes=10)  # for how long a kill is news


@dataclass(frozen=True)
class Clock:
    """Since when a signal has been above its threshold, or below `clear`, without a break; when it was last seen."""

    over: dt.datetime | None = None
    clear: dt.datetime | None = None
    seen: dt.datetime | None = None

    def tick(self, *, over: bool, clear: bool, now: dt.datetime) -> Self:
        fresh = self.seen is None or now - self.seen > GAP
        return type(self)(
            over=(now if fresh else self.over or now) if over else None,
            clear=(now if fresh else self.clear or now) if clear else None,
            seen=now,
        )

    def hold(self) -> Self:
        """Without data: what was above stays so for a while, what was below has to show it anew."""
        return replace(self, clear=None)


@dataclass(frozen=True)
class Look:
    """One cluster at one moment."""

    now: dt.datetime
    pods: int  # in the mesh
    proxies: int
    replicas: int  # that are asked for
    base: Shape  # istiod as it is declared without actions
    settled: bool  # what is declared is rolled out, every replica is ready
    readings: Mapping[str, Reading] = field(default_factory=dict)
    size: Size = Size.SMALL  # that it has
    demanded: Size = Size.SMALL  # for so many pods, and so that proxies come back in time
    fixed: bool = False  # the size is set by hand
    most: int = 0  # replicas that the MeshInstall allows
    foreign_autoscaler: bool = False  # that is not ours
    killed: str = ""  # a pod that ran out of memory lately
    memory: str = ""  # limit of each replica
    memory_used: float = 0.0  # bytes, by the fullest
    refused: str = ""  # why a size was taken back,
    refused_size: Size | None = None  # which,
    refused_memory: str = ""  # and with what limit
    trouble: str = ""  # why replicas do not come up
    frozen: str = ""  # until when


@dataclass(frozen=True)
class Verdict:
    """What a rule says, and why."""

    action: Action
    state: RuleState
    message: str
    value: float | None = None
    threshold: float | None = None
    unit: str = ""
    since: dt.datetime | None = None


@dataclass(frozen=True)
class Move:
    """An action of the journal comes to another phase."""

    name: str
    phase: Phase
    message: str


@dataclass(frozen=True)
class Step:
    clocks: Mapping[Action, Clock]
    verdicts: tuple[Verdict, ...]
    moves: tuple[Move, ...] = ()
    new: tuple[ActionSpec, ...] = ()


@dataclass(frozen=True)
class Question:
    """All that a step rests on."""

    mesh: str
    cluster: str
    rules: tuple[Rule, ...]
    look: Look
    clocks: Mapping[Action, Clock] = field(default_factory=dict)
    journal: tuple[MeshAction, ...] = ()  # of this cluster, oldest first, without what each of them was decided by


def step(question: Question) -> Step:
    """Every rule, once."""
    return _Stepper(question).run()


class _Stepper:
    """The rules in their order; what one does keeps the next from acting."""

    def __init__(self, question: Question) -> None:
        self._question, self._look = question, question.look
        self._now = question.look.now
        self._clocks = dict(question.clocks)
        self._verdicts: list[Verdict] = []
        self._moves: list[Move] = []
        self._new: list[ActionSpec] = []
        self._flying = next((each for each in question.journal if each.in_flight), None)

    def run(self) -> Step:
        for rule in self._question.rules:
            self._judge(self._fitted(rule))
        return Step(self._clocks, tuple(self._verdicts), tuple(self._moves), tuple(self._new))

    def _fitted(self, rule: Rule) -> Rule:
        """Of Resize, the thresholds are the boundaries of the size that istiod has."""
        if rule.action is not Action.RESIZE:
            return rule
        row, smaller = ROWS[self._look.size], _smaller(self._look.size)
        return replace(rule, threshold=row.below_pods, clear=SHRINK * smaller.below_pods if smaller else 0)

    def _judge(self, rule: Rule) -> None:
        mine = [each for each in self._question.journal if each.spec.action is rule.action and not each.ended]
        if rule.mode is RuleMode.OFF:
            for each in mine:
                self._end(each, "its rule is off")
            self._say(rule, RuleState.OFF, "mode is Off")
            return
        # One whose rule only recommends by now is not in force any more, and one that acts takes its own advice.
        for each in [each for each in mine if each.spec.mode is not rule.mode]:
            self._end(each, f"the mode of its rule is {rule.mode}")
            mine.remove(each)
        for each in mine:
            self._advance(rule, each)
        if rule.action is Action.RESIZE:
            if self._more_memory(rule):
                return
            mine = [each for each in mine if each.spec.after.memory is None or each.in_flight]
        if rule.action is Action.RESIZE and self._look.fixed:
            self._say(rule, RuleState.OFF, f"spec.controlPlane.size is {self._look.size}: with Auto it would look")
            return
        if not mine and self._look.pods < rule.min_pods:
            self._clocks.pop(rule.action, None)
            text = f"it looks from {rule.min_pods} pods on, and there are {self._look.pods}"
            self._say(rule, RuleState.UNARMED, text)
            return
        reading = self._look.readings.get(rule.signal, Reading(missing="it was not measured yet"))
        clock = self._clocks.get(rule.action, Clock())
        if reading.missing:
            self._clocks[rule.action] = clock.hold()
            self._say(rule, RuleState.NO_DATA, f"it holds: {reading.missing}")
            return
        over, clear = self._is_over(rule, reading.value), rule.is_clear(reading.value)
        self._clocks[rule.action] = clock = clock.tick(over=over, clear=clear, now=self._now)
        self._conclude(rule, reading.value, clock, mine)

    def _is_over(self, rule: Rule, value: float) -> bool:
        if rule.action is Action.RESIZE:
            return list(ROWS).index(self._look.demanded) > list(ROWS).index(self._look.size)
        if rule.action is Action.OTHER_ARCHITECTURE and self._look.replicas < self._most():
            return False  # the autoscaler has not said its last word
        return rule.is_over(value)

    def _conclude(self, rule: Rule, value: float, clock: Clock, mine: Sequence[MeshAction]) -> None:
        verdict = Verdict(rule.action, RuleState.QUIET, "", value, rule.threshold, rule.unit)
        if moving := next((each for each in mine if each.in_flight), None):
            text = f"{moving.name} is {moving.phase.lower()}"
            self._verdicts.append(replace(verdict, state=RuleState.ACTING, message=text, since=clock.over))
            return
        if clock.over:
            verdict = replace(verdict, since=clock.over)
            left = clock.over + rule.window - self._now
            if left > dt.timedelta(0):
                text = f"above the threshold; it acts if that stays so for {span(left)}"
                self._verdicts.append(replace(verdict, state=RuleState.PENDING, message=text))
                return
            self._verdicts.append(self._act(rule, verdict, mine))
            return
        standing = mine[-1] if mine else None
        if clock.clear and (standing or self._can_shrink(rule)):
            verdict = replace(verdict, since=clock.clear)
            self._verdicts.append(self._clear(rule, verdict, clock.clear, standing))
        elif standing:
            state = RuleState.STANDING if standing.spec.mode is RuleMode.ENFORCE else RuleState.RECOMMENDED
            text = f"{standing.name} stands until it is below {rule.clear:g} {rule.unit} for {span(rule.clear_for)}"
            self._verdicts.append(replace(verdict, state=state, message=text))
        else:
            self._verdicts.append(replace(verdict, message="below the threshold"))

    # -- up

    def _act(self, rule: Rule, verdict: Verdict, mine: Sequence[MeshAction]) -> Verdict:
        newest = mine[-1] if mine else None
        if rule.mode is RuleMode.RECOMMEND or rule.action is Action.MULTI_CLUSTER_REQUIRED:
            if newest is None:
                self._new.append(self._spec(rule, verdict, self._target(rule)))
            text = newest.spec.reason if newest else self._new[-1].reason
            state = RuleState.RECOMMENDED if rule.mode is RuleMode.RECOMMEND else RuleState.STANDING
            return replace(verdict, state=state, message=text)
        if newest and newest.phase is Phase.INEFFECTIVE:
            text = f"{newest.name} did not help: what else there is, the next rules say"
            return replace(verdict, state=RuleState.HELD, message=text)
        target = self._target(rule)
        if why := self._hindrance(rule, target):
            return replace(verdict, state=RuleState.HELD, message=why)
        self._begin(self._spec(rule, verdict, target))
        return replace(verdict, state=RuleState.ACTING, message=self._new[-1].reason)

    def _hindrance(self, rule: Rule, target: Shape | str) -> str:
        """Why nothing may be done now; empty where something may."""
        if isinstance(target, str):
            return target
        if self._look.frozen:
            return f"frozen until {self._look.frozen}"
        if first := self._first():
            return f"{first} comes first: one action of a cluster at a time"
        if (ready := self._cooled_down(rule)) and ready > self._now:
            return f"its last action was less than {span(rule.cool_down)} ago: not before {ready:%H:%M:%S}"
        if not self._look.settled:
            return f"istiod is being rolled out{_because(self._look.trouble)}"
        return ""

    def _first(self) -> str:
        """What is under way already."""
        if self._flying:
            return self._flying.name
        return str(self._new[-1].action) if self._new else ""

    def _cooled_down(self, rule: Rule) -> dt.datetime | None:
        """When the rule may act again. Its actions count from their last turn, also from their undoing."""
        turns = [
            moment(each.status.since or each.spec.decided)
            for each in self._question.journal
            if each.spec.action is rule.action and each.spec.mode is RuleMode.ENFORCE
        ]
        return max(turns) + rule.cool_down if turns else None

    def _target(self, rule: Rule) -> Shape | str:
        """What the action would make of istiod, or why there is nothing that it could do."""
        look = self._look
        if rule.action is Action.RESIZE:
            if look.demanded is look.refused_size:
                return look.refused
            return Shape(size=look.demanded)
        if rule.action is not Action.ADD_REPLICA:
            return Shape()
        if look.foreign_autoscaler:
            return "an autoscaler that is not Meshwright's decides the replicas: raise its bounds, or delete it"
        most = self._most()
        wanted = max(look.replicas, look.base.replicas or 0) + 1
        if wanted > most:
            return f"istiod has {look.replicas} replicas, and {most} are the most that spec.controlPlane allows"
        return Shape(replicas=wanted, max_replicas=max(look.base.max_replicas or wanted, wanted))

    def _most(self) -> int:
        return self._look.most or 2 * (self._look.base.max_replicas or self._look.base.replicas or 1)

    def _spec(self, rule: Rule, verdict: Verdict, target: Shape | str) -> ActionSpec:
        look, after = self._look, target if isinstance(target, Shape) else Shape()
        return ActionSpec(
            mesh=self._question.mesh,
            cluster=self._question.cluster,
            action=rule.action,
            mode=rule.mode,
            decided=rfc3339(self._now),
            reason=_reason(rule, verdict, look, after),
            evidence=Evidence(
                signal=rule.measures,
                value=None if verdict.value is None else round(verdict.value, 4),
                threshold=verdict.threshold or 0.0,
                unit=rule.unit,
                since=rfc3339(verdict.since or self._now),
                pods=look.pods,
                replicas=look.replicas,
            ),
            before=_before(after, look),
            after=after,
            undo=_undo(rule, after, look),
        )

    def _begin(self, spec: ActionSpec) -> None:
        self._new.append(spec)

    # -- out of memory

    def _more_memory(self, rule: Rule) -> bool:
        """At once: a replica that was killed for its memory is killed again. Whether that is what the rule does now."""
        if not self._look.killed or rule.mode is not RuleMode.ENFORCE:
            return False
        verdict = Verdict(rule.action, RuleState.ACTING, "", since=self._now, threshold=0.0)
        more, why = _next_memory(self._look.memory), ""
        if more is None:
            why = f"{self._look.killed} ran out of its {self._look.memory}, and no size has more memory"
        elif self._look.refused_memory and _at_least(self._look.refused_memory, more):
            why = self._look.refused
        elif first := self._first():  # but no cool-down: that is for what may swing
            why = f"{first} comes first: one action of a cluster at a time"
        if more is None or why:
            self._verdicts.append(replace(verdict, state=RuleState.HELD, message=why))
            return True
        before = Shape(memory=self._look.memory)
        spec = self._spec(rule, verdict, Shape(memory=more))
        reason = f"{self._look.killed} ran out of its {self._look.memory} of memory: each replica gets {more}"
        undo = "It stays until istiod has a size with as much memory."
        self._begin(spec.model_copy(update={"reason": reason, "before": before, "undo": undo}))
        self._verdicts.append(replace(verdict, message=reason))
        return True

    # -- down

    def _can_shrink(self, rule: Rule) -> bool:
        return rule.action is Action.RESIZE and _smaller(self._look.size) is not None

    def _clear(self, rule: Rule, verdict: Verdict, since: dt.datetime, standing: MeshAction | None) -> Verdict:
        left = since + rule.clear_for - self._now
        if left > dt.timedelta(0):
            text = f"below {rule.clear:g} {rule.unit}; what it did is undone if that stays so for {span(left)}"
            return replace(verdict, state=RuleState.CLEARING, message=text)
        if standing and standing.spec.mode is RuleMode.RECOMMEND:
            self._move(standing, Phase.WITHDRAWN, f"below {rule.clear:g} {rule.unit} for {span(rule.clear_for)}")
            return replace(verdict, message="the recommendation was withdrawn")
        if standing and rule.action is Action.MULTI_CLUSTER_REQUIRED:
            self._move(standing, Phase.UNDONE, f"{self._look.pods} pods are in the mesh")
            return replace(verdict, message="one cluster is enough")
        target: Shape | str = Shape()
        if rule.action is Action.RESIZE:
            target = self._shrunk()
        if why := self._missing() or self._hindrance(rule, target):
            return replace(verdict, state=RuleState.HELD, message=why)
        if standing:
            self._move(standing, Phase.UNDOING, f"below {rule.clear:g} {rule.unit} for {span(rule.clear_for)}")
            return replace(verdict, state=RuleState.ACTING, message=f"{standing.name} is being undone")
        self._begin(self._spec(rule, verdict, target))
        return replace(verdict, state=RuleState.ACTING, message=self._new[-1].reason)

    def _missing(self) -> str:
        """Nothing is made smaller while anything is not known."""
        return next((f"it holds: {each.missing}" for each in self._look.readings.values() if each.missing), "")

    def _shrunk(self) -> Shape | str:
        smaller = _smaller(self._look.size)
        if smaller is None:
            return "there is no smaller size"
        room = ROOM * float(quantity.parse(smaller.memory))
        if self._look.memory_used > room:
            return f"the fullest replica uses {self._look.memory_used / 2**30:.1f} GiB, too much for {smaller.size}"
        return Shape(size=smaller.size)

    # -- the actions that are there

    def _advance(self, rule: Rule, action: MeshAction) -> None:
        if action.spec.mode is not RuleMode.ENFORCE or rule.action is Action.MULTI_CLUSTER_REQUIRED:
            return
        match action.phase:
            case Phase.ACTING:
                self._while_acting(action)
            case Phase.VERIFYING:
                self._while_verifying(rule, action)
            case Phase.VERIFIED if self._is_needless(action.spec.after):
                self._move(action, Phase.UNDONE, f"size {self._look.size} has as much memory")
            case Phase.UNDOING if self._look.settled:
                self._move(action, Phase.UNDONE, "istiod is as it is without it")

    def _is_needless(self, after: Shape) -> bool:
        base = self._look.base.memory
        return after.memory is not None and base is not None and _at_least(str(base), str(after.memory))

    def _while_acting(self, action: MeshAction) -> None:
        look, after = self._look, action.spec.after
        age = self._now - moment(action.spec.decided)
        if self._was_refused(after):
            self._move(action, Phase.FAILED, look.refused)
        elif self._is_in_force(after):
            if action.spec.action is Action.RESIZE:
                kept = after.memory is not None
                self._move(action, Phase.VERIFIED if kept else Phase.DONE, "rolled out, every replica is ready")
            else:
                self._move(action, Phase.VERIFYING, "rolled out, every replica is ready")
        elif age > PATIENCE:
            text = f"not in force after {span(PATIENCE)}{_because(look.trouble)}: it is taken back"
            self._move(action, Phase.FAILED, text)

    def _was_refused(self, after: Shape) -> bool:
        """Whether it is what found no room."""
        look = self._look
        if after.memory is not None:
            return bool(look.refused_memory) and _at_least(look.refused_memory, str(after.memory))
        return after.size is not None and after.size is look.refused_size

    def _is_in_force(self, after: Shape) -> bool:
        look = self._look
        return (
            look.settled
            and (after.replicas is None or look.replicas >= after.replicas)
            and (after.size is None or look.size is after.size)
            and (after.memory is None or _at_least(look.memory, str(after.memory)))
        )

    def _while_verifying(self, rule: Rule, action: MeshAction) -> None:
        reading = self._look.readings.get(rule.signal, Reading(missing="it was not measured yet"))
        age = self._now - moment(action.status.since or action.spec.decided)
        if reading.missing or age < SETTLED:
            return
        said = f"{reading.value:.3g} {rule.unit}, {span(age)} after"
        if rule.is_clear(reading.value) or (age > rule.cool_down and not rule.is_over(reading.value)):
            self._move(action, Phase.VERIFIED, f"it helped: {said}")
        elif age > max(rule.cool_down, 2 * SETTLED):
            self._move(action, Phase.INEFFECTIVE, f"it did not help: {said}")

    def _end(self, action: MeshAction, why: str) -> None:
        if action.spec.mode is RuleMode.RECOMMEND:
            self._move(action, Phase.WITHDRAWN, why)
        elif action.spec.action is Action.MULTI_CLUSTER_REQUIRED:
            self._move(action, Phase.UNDONE, why)
        elif action.phase is not Phase.UNDOING:
            self._move(action, Phase.UNDOING, why)
        elif self._look.settled:
            self._move(action, Phase.UNDONE, "istiod is as it is without it")

    def _move(self, action: MeshAction, phase: Phase, message: str) -> None:
        self._moves.append(Move(action.name, phase, message))
        if self._flying is None and phase is Phase.UNDOING:
            self._flying = action

    def _say(self, rule: Rule, state: RuleState, message: str) -> None:
        reading = self._look.readings.get(rule.signal)
        value = reading.value if reading and not reading.missing else None
        self._verdicts.append(
            Verdict(rule.action, state, message, value, rule.threshold or None, rule.unit if value is not None else "")
        )


def names(specs: Sequence[ActionSpec]) -> Iterator[str]:
    """Of the actions' objects: the same decision has the same name."""
    for each in specs:
        at = moment(each.decided)
        yield f"{each.mesh}-{each.cluster}-{each.action.lower()}-{at:%Y%m%d-%H%M%S}"


def moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def rfc3339(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _reason(rule: Rule, verdict: Verdict, look: Look, after: Shape) -> str:
    value, unit = verdict.value or 0.0, f" {rule.unit}".removesuffix(" ")
    lasted = span(look.now - (verdict.since or look.now))
    if rule.action is Action.RESIZE and after.size:
        return f"{look.pods} pods are in the mesh since {lasted}: istiod goes from {look.size} to {after.size}"
    if rule.action is Action.MULTI_CLUSTER_REQUIRED:
        return (
            f"{look.pods} pods are in the mesh, and one cluster is for less than {rule.threshold:g}: spread them over"
            " several clusters"
        )
    said = f"{value:.3g}{unit} for {lasted}, more than {rule.threshold:g}{unit}"
    if rule.action is Action.ADD_REPLICA and after.replicas:
        return f"config generation is slow ({said}): istiod gets {after.replicas} replicas instead of {look.replicas}"
    return f"{rule.measures}: {said}: {rule.does}"


def _before(after: Shape, look: Look) -> Shape:
    if after.size:
        return Shape(size=look.size)
    if after.replicas:
        return Shape(replicas=look.replicas, max_replicas=look.base.max_replicas)
    return Shape()


def _undo(rule: Rule, after: Shape, look: Look) -> str:
    if after.size:
        return "The next Resize, once there are fewer pods." if after.size is not look.size else ""
    if after.replicas:
        return (
            f"Below {rule.clear:g} {rule.unit} for {span(rule.clear_for)}, the autoscaler's bounds are those of the"
            " size again, and it takes the replica away when it is not busy."
        )
    return "Withdrawn by itself." if rule.mode is RuleMode.RECOMMEND else ""


def _smaller(size: Size) -> Row | None:
    rows = list(ROWS.values())
    place = rows.index(ROWS[size])
    return rows[place - 1] if place else None


def _next_memory(memory: str) -> str | None:
    """Of the next row of the table that has more."""
    have = quantity.parse(memory)
    return next((row.memory for row in ROWS.values() if quantity.parse(row.memory) > have), None)


def _at_least(one: str, other: str) -> bool:
    """Of two amounts of memory."""
    return quantity.parse(one) >= quantity.parse(other)


def _because(trouble: str) -> str:
    return f" ({trouble})" if trouble else ""


def span(time: dt.timedelta) -> str:
    """`90s`, `5m`, `1h30m`: as people write it."""
    total = max(round(time.total_seconds()), 0)
    hours, minutes, left = total // 3600, total % 3600 // 60, total % 60
    if not hours and total < 2 * 60:
        return f"{total}s"
    parts = ((hours, "h"), (minutes, "m"), (left if not hours else 0, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
