"""The scaling rules: a row for each, and what a MeshInstall changes of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

from meshwright.api.scaling import RECOMMENDED_ONLY, Action, Freeze, RuleMode, Scaling, ScalingRule
from meshwright.mesh import signals
from meshwright.mesh.dataplane import seconds

CLEAR = 0.7  # of a threshold that is set by hand
HALF_AN_HOUR = dt.timedelta(minutes=30)


@dataclass(frozen=True)
class Rule:
    """A row: above `threshold` for `window` it acts, below `clear` for `clear_for` that is undone."""

    action: Action
    signal: str
    measures: str
    unit: str
    threshold: float  # of Resize: no use, it goes by the sizes' own
    clear: float
    window: dt.timedelta
    cool_down: dt.timedelta
    min_pods: int
    mode: RuleMode
    does: str
    clear_for: dt.timedelta = HALF_AN_HOUR

    def is_over(self, value: float) -> bool:
        """Pods are counted: the number itself is already too many."""
        return value > self.threshold or (self.signal == signals.PODS and value == self.threshold)

    def is_clear(self, value: float) -> bool:
        return value < self.clear


DEFAULTS: dict[Action, Rule] = {
    row.action: row
    for row in (
        Rule(
            Action.RESIZE, signals.PODS, "pods in the mesh, against the sizes' own numbers", "pods",
            threshold=0, clear=0, window=dt.timedelta(minutes=5), cool_down=HALF_AN_HOUR, min_pods=0,
            mode=RuleMode.ENFORCE,
            does="gives istiod the size for so many pods; a replica that ran out of memory, the next row's memory",
        ),
        Rule(
            Action.ADD_REPLICA, signals.GENERATION, "p99 of `pilot_xds_push_time` or of"
            " `pilot_pushcontext_init_seconds`, the greater, in the last minute", "s",
            threshold=1.0, clear=0.5, window=dt.timedelta(minutes=2), cool_down=dt.timedelta(minutes=10), min_pods=500,
            mode=RuleMode.ENFORCE, does="raises the bounds of istiod's autoscaler by one replica",
        ),
        Rule(
            Action.DISCOVERY_SELECTORS, signals.CONVERGENCE, "share of `pilot_proxy_convergence_time` above 5 s in the"
            " last minute", "%",
            threshold=1.0, clear=0.5, window=dt.timedelta(minutes=5), cool_down=dt.timedelta(hours=1), min_pods=1000,
            mode=RuleMode.RECOMMEND, does="names the `discoverySelectors` with which istiod reads less",
        ),
        Rule(
            Action.SIDECAR_SCOPING, signals.MEMORY, "memory of the fullest replica, of its limit", "%",
            threshold=85.0, clear=70.0, window=dt.timedelta(minutes=5), cool_down=dt.timedelta(hours=1), min_pods=2000,
            mode=RuleMode.RECOMMEND, does="names the `Sidecar` with which proxies get only what they can use",
        ),
        Rule(
            Action.OTHER_ARCHITECTURE, signals.CPU, "CPU of the replicas, of their limit, while the autoscaler is at"
            " its maximum", "%",
            threshold=80.0, clear=60.0, window=dt.timedelta(minutes=10), cool_down=dt.timedelta(hours=6), min_pods=5000,
            mode=RuleMode.RECOMMEND, does="ranks several clusters and a data plane without sidecars",
        ),
        Rule(
            Action.MULTI_CLUSTER_REQUIRED, signals.PODS, "pods in the mesh", "pods",
            threshold=10000, clear=9500, window=dt.timedelta(0), cool_down=dt.timedelta(0), min_pods=0,
            mode=RuleMode.ENFORCE, does="says that one cluster is not enough",
        ),
    )
}  # fmt: skip


def rules_of(spec: Scaling) -> tuple[Rule, ...]:
    """All rules, in the order in which they come first."""
    changed = {each.action: each for each in spec.rules}
    return tuple(_with(row, changed[row.action]) if row.action in changed else row for row in DEFAULTS.values())


def _with(row: Rule, change: ScalingRule) -> Rule:
    threshold = row.threshold if change.threshold is None else change.threshold
    usual = row.clear if change.threshold is None else min(row.clear, CLEAR * threshold)
    return replace(
        row,
        mode=change.mode or row.mode,
        threshold=threshold,
        clear=usual if change.clear is None else change.clear,
        window=_time(change.window, row.window),
        clear_for=_time(change.clear_for, row.clear_for),
        cool_down=_time(change.cool_down, row.cool_down),
        min_pods=row.min_pods if change.min_pods is None else change.min_pods,
    )


def _time(text: str | None, usual: dt.timedelta) -> dt.timedelta:
    return dt.timedelta(seconds=float(seconds(text))) if text else usual


def frozen(freezes: list[Freeze], now: dt.datetime) -> str:
    """Until when nothing is done; empty where something may be."""
    ends = [each.end for each in freezes if _moment(each.start) <= now < _moment(each.end)]
    return max(ends, key=_moment, default="")


def _moment(text: str) -> dt.datetime:
    """Without a zone it is UTC. Raises ValueError."""
    moment = dt.datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def problems(spec: Scaling) -> list[str]:
    """What cannot be, with the fields' paths. The CRD says some of it, too; this is also for `render`."""
    found = []
    for number, each in enumerate(spec.rules):
        path, rule = f"spec.scaling.rules[{number}] ({each.action})", _with(DEFAULTS[each.action], each)
        if each.action in (other.action for other in spec.rules[:number]):
            found.append(f"{path}: the rule is there twice: merge the two")
        if each.mode is RuleMode.ENFORCE and each.action in RECOMMENDED_ONLY:
            found.append(f"{path}.mode: this action is recommended only: set Recommend or Off")
        if each.action is Action.RESIZE:
            if each.threshold is not None or each.clear is not None:
                found.append(f"{path} goes by the sizes' own numbers of pods: remove threshold and clear")
        elif rule.clear >= rule.threshold:
            found.append(
                f"{path}.clear ({rule.clear:g}) is not below threshold ({rule.threshold:g}): an action would be taken"
                " and undone in turns: lower clear"
            )
    for number, freeze in enumerate(spec.freezes):
        path = f"spec.scaling.freezes[{number}]"
        try:
            if _moment(freeze.start) >= _moment(freeze.end):
                found.append(f"{path} ends before it starts: correct start or end")
        except ValueError:
            found.append(f"{path}: start and end are moments such as 2026-12-20T00:00:00Z: correct them")
    return found
