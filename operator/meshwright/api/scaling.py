"""`spec.scaling` and `status.clusters[].scaling`: by which rules istiod is scaled, and what each rule says now."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, StrictFloat, StrictInt

from meshwright.api.model import Duration, Model, rules


class Action(StrEnum):
    """What a rule does; in this order they come first."""

    RESIZE = "Resize"
    ADD_REPLICA = "AddReplica"
    DISCOVERY_SELECTORS = "DiscoverySelectors"
    SIDECAR_SCOPING = "SidecarScoping"
    OTHER_ARCHITECTURE = "OtherArchitecture"
    MULTI_CLUSTER_REQUIRED = "MultiClusterRequired"


class RuleMode(StrEnum):
    ENFORCE = "Enforce"
    RECOMMEND = "Recommend"
    OFF = "Off"


# Whose carrying out would be a change of configuration that somebody may rely on.
RECOMMENDED_ONLY = (Action.DISCOVERY_SELECTORS, Action.SIDECAR_SCOPING, Action.OTHER_ARCHITECTURE)

Moment = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
Text = Annotated[str, Field(max_length=4096)]


class ScalingRule(Model):
    model_config = ConfigDict(json_schema_extra=rules(
        ("!has(self.clear) || !has(self.threshold) || self.clear < self.threshold",
         "clear is not below threshold: an action would be taken and undone in turns: lower clear"),
        (f"!has(self.mode) || self.mode != 'Enforce' || !(self.action in {[str(each) for each in RECOMMENDED_ONLY]})",
         "this action is recommended only: set mode to Recommend or Off"),
        ("self.action != 'Resize' || (!has(self.threshold) && !has(self.clear))",
         "Resize goes by the sizes' own numbers of pods: remove threshold and clear"),
    ))  # fmt: skip

    action: Action
    """What the rule does: see the reference of scaling rules."""
    mode: RuleMode | None = None
    """`Enforce` acts, `Recommend` says what it would do, `Off` does not look. Unset: the rule's own."""
    threshold: Annotated[StrictFloat, Field(ge=0, le=1_000_000)] | None = None
    """The value above which it acts, in the unit of its signal. Unset: the rule's own."""
    clear: Annotated[StrictFloat, Field(ge=0, le=1_000_000)] | None = None
    """The value below which what it did is undone. Unset: the rule's own, or 70 % of a threshold that is set."""
    window: Duration | None = None
    """For how long the value must be above the threshold before it acts. Unset: the rule's own."""
    clear_for: Duration | None = None
    """For how long the value must be below `clear` before what it did is undone. Unset: 30m."""
    cool_down: Duration | None = None
    """The least time from one action of the rule to its next. Unset: the rule's own."""
    min_pods: Annotated[StrictInt, Field(ge=0, le=1_000_000)] | None = None
    """Pods in the mesh of a cluster from which on the rule looks. Unset: the rule's own."""


class Freeze(Model):
    model_config = ConfigDict(json_schema_extra=rules(
        ("timestamp(self.start) < timestamp(self.end)", "a freeze ends before it starts: correct start or end"),
    ))  # fmt: skip

    start: Moment
    """From when on nothing is done, as RFC 3339: `2026-12-20T00:00:00Z`."""
    end: Moment
    """Until when."""


class RebalanceMethod(StrEnum):
    CONNECTION_AGE = "ConnectionAge"


class Rebalance(Model):
    method: RebalanceMethod = RebalanceMethod.CONNECTION_AGE
    """`ConnectionAge`: istiod ends each connection of a proxy at that age, and the proxy connects anew, to any
    replica."""
    connection_age: Duration = "30m"
    """The age. Another one restarts istiod, a replica at a time."""


class Scaling(Model):
    rules: Annotated[
        list[ScalingRule],
        Field(max_length=8, json_schema_extra={
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["action"]
        }),
    ] = []  # fmt: skip
    """What is changed of the rules, by their action. Unset: all of them as they are."""
    rebalance: Rebalance = Rebalance()
    """How proxies are spread over the replicas after their number has changed."""
    freezes: Annotated[list[Freeze], Field(max_length=32)] = []
    """Times in which no rule acts and nothing is undone; recommendations go on."""


class RuleState(StrEnum):
    OFF = "Off"
    UNARMED = "Unarmed"
    NO_DATA = "NoData"
    QUIET = "Quiet"
    PENDING = "Pending"
    ACTING = "Acting"
    HELD = "Held"
    STANDING = "Standing"
    CLEARING = "Clearing"
    RECOMMENDED = "Recommended"


class RuleStatus(Model):
    action: Action
    """What the rule does."""
    state: RuleState
    """`Off`; `Unarmed` (too few pods); `NoData` (it holds); `Quiet`; `Pending` (above the threshold, not for long
    enough); `Acting` (about to, or under way); `Held` (it would act, and must not); `Standing` (it has acted);
    `Clearing` (about to undo that); `Recommended`."""
    value: float | None = None
    """Its signal, as it was when the status was written."""
    threshold: float | None = None
    """The value above which it acts."""
    unit: Annotated[str, Field(max_length=32)] = ""
    """Unit of both."""
    since: Moment | None = None
    """Since when the value is above the threshold, or below `clear`."""
    message: Text = ""
    """Why it acted, or why not."""


class ReconnectStatus(Model):
    one_replica: Annotated[str, Field(max_length=32)]
    """Until all its proxies are connected again after one replica is lost, by what istiod admits in a second."""
    restart: Annotated[str, Field(max_length=32)]
    """The same after all replicas were restarted at once."""


class ScalingStatus(Model):
    rules: Annotated[
        list[RuleStatus],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["action"]}),
    ] = []
    """Each rule, and why it acted or not."""
    next_size: Text = ""
    """Which size comes next, and at how many pods."""
    estimate: Text = ""
    """What istiod needs by what it uses now, beside what it has."""
    reconnects: ReconnectStatus | None = None
    """How long proxies take to come back."""
    written: Moment | None = None
    """When this was written: at once where a rule turns, else each few minutes."""
