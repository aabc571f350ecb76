"""The blast radius of a change: which pods restart, which proxies are touched, what is requested in addition.

From the objects as they are and as they would be, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any

from meshwright.mesh import quantity
from meshwright.mesh.names import Names
from meshwright.mesh.objects import Key, Manifest

WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet")
PROXY_DEFAULTS = "defaultConfig"  # of the mesh config: what a proxy reads when it starts


class Action(StrEnum):
    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"
    LEAVE = "leave"  # an annotation takes the object out of our hands


@dataclass(frozen=True)
class Change:
    """An object as it is and as it would be; None where there is none."""

    action: Action
    key: Key
    before: Manifest | None = None
    after: Manifest | None = None


@dataclass(frozen=True)
class Restart:
    """A workload whose pod template changes: so many pods are replaced, a few at a time."""

    key: Key
    pods: int


class How(StrEnum):
    """What happens to a proxy."""

    PUSH = "get new configuration at once"
    RECONNECT = "reconnect to another replica of istiod, with their connections kept"
    RESTART = "change only when their pods are made anew"


@dataclass(frozen=True)
class Touch:
    """Proxies that a change concerns, and what of it."""

    how: How
    proxies: int
    why: str


@dataclass(frozen=True)
class Demand:
    """What all pods together request."""

    cpu: Fraction = Fraction(0)  # cores
    memory: Fraction = Fraction(0)  # bytes

    def __add__(self, other: Demand) -> Demand:
        return Demand(self.cpu + other.cpu, self.memory + other.memory)

    def __sub__(self, other: Demand) -> Demand:
        return Demand(self.cpu - other.cpu, self.memory - other.memory)

    def __mul__(self, pods: int) -> Demand:
        return Demand(self.cpu * pods, self.memory * pods)


@dataclass(frozen=True)
class Blast:
    restarts: tuple[Restart, ...]
    touches: tuple[Touch, ...]
    pods_added: int  # less those that go
    added: Demand  # requested in addition; negative where less is requested
    deleted: tuple[Key, ...]

    @property
    def pods_restarted(self) -> int:
        return sum(each.pods for each in self.restarts)

    @property
    def proxies_touched(self) -> int:
        """Those that notice at once; who changes with its next pod is not among them."""
        return max((each.proxies for each in self.touches if each.how is not How.RESTART), default=0)


def blast(
    changes: Sequence[Change], *, names: Names, proxies: int, read: Callable[[str], Any], nodes: int = 0
) -> Blast:
    """`proxies` are those of the mesh, gateways included; `nodes` how many a new DaemonSet would run on.

    `read` is the parser of the mesh config's YAML.
    """
    pods = _Pods(changes, nodes)
    return Blast(
        restarts=tuple(
            Restart(each.key, min(pods.before(each), pods.after(each))) for each in changes if template_changes(each)
        ),
        touches=tuple(_touches(changes, names, proxies, read)),
        pods_added=sum(pods.after(each) - pods.before(each) for each in changes),
        added=sum(
            (_demand(each.after) * pods.after(each) - _demand(each.before) * pods.before(each) for each in changes),
            Demand(),
        ),
        deleted=tuple(each.key for each in changes if each.action is Action.DELETE),
    )


# Pods


def template_changes(change: Change) -> bool:
    """Whether a workload's pods are replaced."""
    if change.key.kind not in WORKLOADS or change.before is None or change.after is None:
        return False
    return bool(change.before["spec"].get("template") != change.after["spec"].get("template"))


class _Pods:
    """How many pods a workload has, and would have: not fewer and not more than an autoscaler that comes lets it."""

    def __init__(self, changes: Iterable[Change], nodes: int) -> None:
        self._nodes = nodes
        self._bounds: dict[tuple[str, str, str], tuple[int, int]] = {}
        for change in changes:
            if change.key.kind == "HorizontalPodAutoscaler" and change.after:
                spec = change.after["spec"]
                target = spec["scaleTargetRef"]
                bounds = spec.get("minReplicas", 1), spec["maxReplicas"]
                self._bounds[change.key.namespace, target["kind"], target["name"]] = bounds

    def before(self, change: Change) -> int:
        return self._asked_for(change.before)

    def after(self, change: Change) -> int:
        asked_for, key = self._asked_for(change.after), change.key
        if change.after is None or (key.namespace, key.kind, key.name) not in self._bounds:
            return asked_for
        least, most = self._bounds[key.namespace, key.kind, key.name]
        return min(max(asked_for, least), most)

    def _asked_for(self, manifest: Manifest | None) -> int:
        if manifest is None or manifest["kind"] not in WORKLOADS:
            return 0
        if manifest["kind"] == "DaemonSet":
            return int((manifest.get("status") or {}).get("desiredNumberScheduled") or self._nodes)
        return int(manifest["spec"].get("replicas", 1))


def _demand(workload: Manifest | None) -> Demand:
    if workload is None or workload["kind"] not in WORKLOADS:
        return Demand()
    return requested(workload["spec"]["template"].get("spec") or {})


def requested(pod: Mapping[str, Any]) -> Demand:
    """What the scheduler reserves for one pod: all containers together, or the largest init container if that is more.

    An init container that goes on running (a native sidecar) counts with the containers, and beside later ones.
    """
    resting, peak = Demand(), Demand()
    for container in pod.get("initContainers") or ():
        own = _requests(container)
        if container.get("restartPolicy") == "Always":
            resting += own
            peak = _larger(peak, resting)
        else:
            peak = _larger(peak, resting + own)
    return _larger(peak, sum((_requests(each) for each in pod.get("containers") or ()), resting))


def _requests(container: Mapping[str, Any]) -> Demand:
    """What is not requested is as much as its limit, as the API server fills it in."""
    resources = container.get("resources") or {}
    wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return Demand(_parsed(wanted.get("cpu", 0)), _parsed(wanted.get("memory", 0)))


def _parsed(text: str | int) -> Fraction:
    try:
        return quantity.parse(text)
    except ValueError:  # of somebody else's container, in a form that the API server takes: 1e3
        return Fraction(str(text))


def _larger(one: Demand, other: Demand) -> Demand:
    return Demand(max(one.cpu, other.cpu), max(one.memory, other.memory))


# Proxies


def _touches_all(change: Change, names: Names) -> bool:
    """Istio's own kinds in the root namespace count for the whole mesh."""
    group = change.key.api_version.rpartition("/")[0]
    return group.endswith(".istio.io") and change.key.namespace == names.namespace


def _replaces_istiod(change: Change, names: Names) -> bool:
    return _is(change, "Deployment", names.namespace, names.istiod) and template_changes(change)


def _changes_injection(change: Change, names: Names) -> bool:
    return _is(change, "ConfigMap", names.namespace, names.injector)


def _is(change: Change, kind: str, namespace: str, name: str) -> bool:
    return (change.key.kind, change.key.namespace, change.key.name) == (kind, namespace, name)


@dataclass(frozen=True)
class _Rule:
    """A row: what a change of such an object does to all proxies of the mesh."""

    concerns: Callable[[Change, Names], bool]
    how: How
    why: str


RULES: tuple[_Rule, ...] = (
    _Rule(_touches_all, How.PUSH, "policy of the whole mesh"),
    _Rule(_replaces_istiod, How.RECONNECT, "istiod's pods are replaced, one at a time"),
    _Rule(_changes_injection, How.RESTART, "what is injected changes: template, image or resources"),
)


def _touches(changes: Sequence[Change], names: Names, proxies: int, read: Callable[[str], Any]) -> Iterator[Touch]:
    if not proxies:
        return
    done = [change for change in changes if change.action is not Action.LEAVE]
    for change in done:
        if _is(change, "ConfigMap", names.namespace, names.mesh_config):
            yield from _of_mesh_config(change, proxies, read)
    for rule in RULES:
        if any(rule.concerns(change, names) for change in done):
            yield Touch(rule.how, proxies, rule.why)


def _of_mesh_config(change: Change, proxies: int, read: Callable[[str], Any]) -> Iterator[Touch]:
    before, after = (_mesh_config(each, read) for each in (change.before, change.after))
    fields = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if pushed := [name for name in fields if name != PROXY_DEFAULTS]:
        yield Touch(How.PUSH, proxies, f"mesh config: {', '.join(pushed)}")
    if PROXY_DEFAULTS in fields:
        yield Touch(How.RESTART, proxies, f"mesh config: {PROXY_DEFAULTS}, which a proxy reads when it starts")


def _mesh_config(manifest: Manifest | None, read: Callable[[str], Any]) -> dict[str, Any]:
    found = read(((manifest or {}).get("data") or {}).get("mesh") or "{}")
    return found if isinstance(found, dict) else {"mesh": found}
