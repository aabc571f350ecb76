"""The blast radius: which pods restart, which proxies are touched, what is requested in addition."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
import yaml

from meshes import rendered
from meshwright.mesh.blast import Action, Blast, Change, Demand, How, blast, requested, template_changes
from meshwright.mesh.names import Names
from meshwright.mesh.objects import Key

Json = dict[str, Any]

NAMES = Names("istio-system", "default")
MEBI = 2**20


def workload(
    kind: str = "Deployment", name: str = "istiod", *, replicas: int = 2, cpu: str = "500m", **pod: Any
) -> Json:
    container = {"name": "a", "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}
    spec: Json = {"template": {"spec": {"containers": [container], **pod}}}
    if kind != "DaemonSet":
        spec["replicas"] = replicas
    return {
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "istio-system"}, "spec": spec
    }  # fmt: skip


def autoscaler(least: int, most: int) -> Json:
    return {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "istiod", "namespace": "istio-system"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "istiod"}, "minReplicas": least, "maxReplicas": most},
    }  # fmt: skip


def change(before: Json | None, after: Json | None, action: Action | None = None) -> Change:
    there = after or before
    assert there
    usual = Action.CHANGE if before and after else Action.CREATE if after else Action.DELETE
    return Change(action or usual, Key.of(there), before, after)


def of(*changes: Change, proxies: int = 0, nodes: int = 0) -> Blast:
    return blast(changes, names=NAMES, proxies=proxies, nodes=nodes, read=yaml.safe_load)


# Pods


def test_nothing_changes() -> None:
    assert of(proxies=10) == Blast(restarts=(), touches=(), pods_added=0, added=Demand(), deleted=())


def test_a_workload_that_comes() -> None:
    found = of(change(None, workload(replicas=3)))
    assert (found.pods_restarted, found.pods_added) == (0, 3)
    assert found.added == Demand(Fraction(3, 2), Fraction(3 * 64 * MEBI))


def test_a_workload_that_goes() -> None:
    found = of(change(workload(replicas=3), None))
    assert (found.pods_added, found.added.cpu) == (-3, Fraction(-3, 2))
    assert [str(each) for each in found.deleted] == ["Deployment istio-system/istiod"]


def test_a_template_that_changes_restarts_every_pod() -> None:
    found = of(change(workload(), workload(cpu="1")))
    assert [(str(each.key), each.pods) for each in found.restarts] == [("Deployment istio-system/istiod", 2)]
    assert (found.pods_added, found.added) == (0, Demand(Fraction(1)))


def test_more_replicas_of_the_same_template_restart_none() -> None:
    found = of(change(workload(replicas=2), workload(replicas=5)))
    assert (found.restarts, found.pods_added) == ((), 3)
    assert found.added.cpu == Fraction(3, 2)


def test_fewer_replicas_of_another_template_restart_those_that_stay() -> None:
    found = of(change(workload(replicas=5), workload(replicas=2, cpu="1")))
    assert (found.pods_restarted, found.pods_added) == (2, -3)


@pytest.mark.parametrize(("least", "most", "pods"), [(3, 6, 3), (1, 6, 2), (1, 1, 1)])
def test_an_autoscaler_that_comes_keeps_replicas_within_its_bounds(least: int, most: int, pods: int) -> None:
    found = of(change(workload(), workload()), change(None, autoscaler(least, most)))
    assert found.pods_added == pods - 2


def test_a_daemon_set_has_a_pod_on_every_node() -> None:
    assert of(change(None, workload("DaemonSet")), nodes=7).pods_added == 7
    running = {**workload("DaemonSet"), "status": {"desiredNumberScheduled": 4}}
    found = of(change(running, {**workload("DaemonSet", cpu="1"), "status": running["status"]}), nodes=7)
    assert (found.pods_restarted, found.pods_added) == (4, 0)


def test_what_is_left_alone_changes_nothing() -> None:
    there = workload()
    found = of(change(there, there, Action.LEAVE), proxies=3)
    assert (found.restarts, found.touches, found.added, found.deleted) == ((), (), Demand(), ())


def test_other_objects_have_no_template() -> None:
    service: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {}}
    assert not template_changes(change(service, {**service, "spec": {"template": 1}}))
    assert not template_changes(change(None, workload()))


def container(cpu: str = "", *, limit: str = "", **fields: Any) -> Json:
    return {
        "resources": {"requests": {"cpu": cpu} if cpu else {}, "limits": {"cpu": limit} if limit else {}}, **fields
    }  # fmt: skip


NATIVE = {"restartPolicy": "Always"}
PODS: list[tuple[str, Json, Fraction]] = [
    ("nothing requested", {"containers": [container()]}, Fraction(0)),
    ("no containers", {}, Fraction(0)),
    ("containers together", {"containers": [container("1"), container("500m")]}, Fraction(3, 2)),
    ("a limit stands for a request", {"containers": [container(limit="2")]}, Fraction(2)),
    ("a request is before a limit", {"containers": [container("1", limit="2")]}, Fraction(1)),
    ("a larger init container", {"initContainers": [container("3")], "containers": [container("1")]}, Fraction(3)),
    ("one that is smaller", {"initContainers": [container("500m")], "containers": [container("1")]}, Fraction(1)),
    (
        "a native sidecar stays",
        {"initContainers": [container("1", **NATIVE)], "containers": [container("1")]}, Fraction(2),
    ),
    (
        "and runs beside the init containers after it",
        {"initContainers": [container("1", **NATIVE), container("3")], "containers": [container("1")]}, Fraction(4),
    ),
    ("a form that only the API server writes", {"containers": [container("1e3")]}, Fraction(1000)),
]  # fmt: skip


@pytest.mark.parametrize(("pod", "cores"), [row[1:] for row in PODS], ids=[row[0] for row in PODS])
def test_what_one_pod_requests(pod: Json, cores: Fraction) -> None:
    assert requested(pod) == Demand(cpu=cores)


# Proxies


def config_map(name: str, **data: str) -> Json:
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "istio-system"}, "data": data
    }  # fmt: skip


def policy(namespace: str) -> Json:
    return {
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": namespace}, "spec": {"mtls": {"mode": "STRICT"}},
    }  # fmt: skip


TOUCHES: list[tuple[str, Change, list[tuple[How, str]]]] = [
    (
        "mesh config",
        change(config_map("istio", mesh="a: 1\nb: 1"), config_map("istio", mesh="a: 1\nb: 2\nc: 3")),
        [(How.PUSH, "mesh config: b, c")],
    ),
    (
        "defaults of proxies",
        change(config_map("istio", mesh="defaultConfig: {a: 1}"), config_map("istio", mesh="defaultConfig: {a: 2}")),
        [(How.RESTART, "mesh config: defaultConfig, which a proxy reads when it starts")],
    ),
    ("mesh config of other layout", change(config_map("istio", mesh="a:   1"), config_map("istio", mesh="a: 1")), []),
    (
        "what is injected",
        change(config_map("istio-sidecar-injector", values="1"), config_map("istio-sidecar-injector", values="2")),
        [(How.RESTART, "what is injected changes: template, image or resources")],
    ),
    ("istiod", change(workload(), workload(cpu="1")), [(How.RECONNECT, "istiod's pods are replaced, one at a time")]),
    ("more of istiod", change(workload(), workload(replicas=5)), []),
    ("policy", change(None, policy("istio-system")), [(How.PUSH, "policy of the whole mesh")]),
    ("policy that goes", change(policy("istio-system"), None), [(How.PUSH, "policy of the whole mesh")]),
    ("policy of a namespace", change(None, policy("shop")), []),
    ("a map of somebody else", change(config_map("a", mesh="a: 1"), config_map("a", mesh="a: 2")), []),
    (
        "left alone",
        change(config_map("istio", mesh="a: 1"), config_map("istio", mesh="a: 2"), Action.LEAVE), [],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("made", "touches"), [row[1:] for row in TOUCHES], ids=[row[0] for row in TOUCHES])
def test_what_happens_to_proxies(made: Change, touches: list[tuple[How, str]]) -> None:
    found = of(made, proxies=12)
    assert [(each.how, each.why, each.proxies) for each in found.touches] == [(*each, 12) for each in touches]
    assert found.proxies_touched == (12 if any(how is not How.RESTART for how, _ in touches) else 0)
    assert of(made, proxies=0).touches == ()


def test_the_objects_that_we_render() -> None:
    """The names that the rules go by are those of the templates."""
    before = {each.key: each.manifest for each in rendered()}
    spec: Json = {"mtls": "Strict", "controlPlane": {"env": {"A": "b"}, "image": {"tag": "x"}}}
    after = {each.key: each.manifest for each in rendered(**spec)}
    changes = [change(before[key], after[key]) for key in before if before[key] != after[key]]
    found = of(*changes, proxies=5)
    assert {each.how for each in found.touches} == {How.PUSH, How.RECONNECT, How.RESTART}
    assert [each.key.name for each in found.restarts] == ["istiod"]


def test_the_input_stays_as_it_is() -> None:
    made = change(workload(), workload(cpu="1"))
    kept = copy.deepcopy(made)
    of(made, proxies=1)
    assert made == kept
