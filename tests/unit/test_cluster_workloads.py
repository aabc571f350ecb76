"""What runs: from Deployments, DaemonSets, Services, pods and nodes to plain facts."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from meshes import NOW
from meshwright.api.meshinstall import Resources, Size
from meshwright.cluster import workloads
from meshwright.mesh.observed import Agents, GatewayPods, Node, Trouble

Json = dict[str, Any]

BARE: Json = {"metadata": {"namespace": "n", "name": "d"}, "spec": {}}


def deployment(resources: Json | None = None, annotations: Json | None = None) -> Json:
    other = {"name": "other", "resources": {"limits": {"cpu": "9"}}}
    containers = [{"name": "discovery", "resources": resources or {}}, other]
    return {
        "metadata": {
            "namespace": "n", "name": "d", "generation": 4, "annotations": annotations or {},
            "labels": {"meshwright.dev/mesh": "demo", "istio.io/rev": "canary"},
        },
        "spec": {"replicas": 3, "template": {"spec": {"containers": containers}}},
        "status": {"observedGeneration": 3, "replicas": 4, "updatedReplicas": 2, "availableReplicas": 1},
    }  # fmt: skip


# Deployments


@pytest.mark.parametrize(
    ("annotation", "size"),
    [("Small", Size.SMALL), ("Large", Size.LARGE), ("Auto", None), ("Huge", None), ("small", None), ("", None)],
)
def test_a_size_is_what_the_annotation_says_unless_it_says_nonsense(annotation: str, size: Size | None) -> None:
    assert workloads.istiod(deployment(annotations={"meshwright.dev/size": annotation})).size is size
    assert workloads.istiod(deployment()).size is None


WHOLE: Json = {"requests": {"cpu": "500m", "memory": "4Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}}


@pytest.mark.parametrize(
    ("resources", "found"),
    [
        (WHOLE, WHOLE),
        ({"limits": {"cpu": "2"}}, {"limits": {"cpu": "2"}}),
        ({"limits": {"cpu": "2", "nvidia.com/gpu": "1"}, "claims": []}, {"limits": {"cpu": "2"}}),
        ({}, None),
    ],
)
def test_resources_are_those_of_istiods_own_container(resources: Json, found: Json | None) -> None:
    expected = None if found is None else Resources.model_validate(found)
    assert workloads.istiod(deployment(resources)).resources == expected


def test_a_deployment_that_says_nothing_has_what_kubernetes_would_give_it() -> None:
    found = workloads.istiod(BARE)
    assert (found.replicas, found.existing, found.resources, found.owner) == (1, 0, None, None)
    assert found.revision == "default"
    assert not found.rolled_out


def test_a_gateway_and_its_addresses() -> None:
    service = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example"}, {}]}}}
    waiting = pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "no node"}])
    assert workloads.gateway(deployment(), service, [waiting], NOW) == GatewayPods(
        namespace="n", name="d", owner="demo", generation=4, observed_generation=3, replicas=3, existing=4, updated=2,
        available=1, addresses=("192.0.2.1", "lb.example"),
        troubles=(Trouble("p", "", "Unschedulable", "no node"),),
    )  # fmt: skip


@pytest.mark.parametrize("service", [None, {}, {"status": {}}, {"status": {"loadBalancer": {}}}])
def test_a_service_without_a_load_balancer_has_no_address(service: Json | None) -> None:
    assert workloads.gateway(deployment(), service, [], NOW).addresses == ()


@pytest.mark.parametrize(
    ("generation", "status", "found"),
    [
        (1, {"observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberReady": 2},
         Agents(wanted=3, updated=3, ready=2)),
        (2, {"observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberReady": 3},
         Agents(wanted=3, updated=3, ready=3, current=False)),
        (1, None, Agents(current=False)),
    ],
)  # fmt: skip
def test_agents_are_counted_by_node(generation: int, status: Json | None, found: Agents) -> None:
    manifest = {"metadata": {"generation": generation}, "status": status}
    assert workloads.agents(manifest, [], NOW) == found
    assert found.rolled_out is False


# Pods


def pod(**status: Any) -> Json:
    return {"metadata": {"name": "p"}, "status": status}


READY = {"type": "Ready", "status": "True"}


@pytest.mark.parametrize(
    ("subject", "ready"),
    [
        (pod(conditions=[{"type": "PodScheduled", "status": "True"}, READY]), True),
        (pod(conditions=[{**READY, "status": "False"}]), False),
        (pod(conditions=[]), False),
        (pod(), False),
        ({"metadata": {"name": "p"}}, False),
        ({**pod(conditions=[READY]), "metadata": {"name": "p", "deletionTimestamp": "x"}}, False),
    ],
)
def test_a_pod_is_ready_when_it_says_so_and_stays(subject: Json, ready: bool) -> None:  # noqa: FBT001
    assert workloads.is_ready(subject) is ready


def test_since_when_a_pod_waits_for_a_node() -> None:
    condition = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room",
        "lastTransitionTime": "2026-03-01T12:00:00Z",
    }  # fmt: skip
    assert workloads.troubles(pod(conditions=[condition]), NOW) == [
        Trouble("p", "", "Unschedulable", "no room", since=NOW)
    ]


# Nodes


def node(*, unschedulable: bool = False, **allocatable: str) -> Json:
    return {
        "metadata": {"name": "a"}, "spec": {"unschedulable": unschedulable}, "status": {"allocatable": allocatable},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("manifest", "found"),
    [
        (node(cpu="4", memory="8Gi"), Node("a", Fraction(4), Fraction(8 * 2**30))),
        (node(cpu="3920m", memory="7Gi", pods="110"), Node("a", Fraction(392, 100), Fraction(7 * 2**30))),
        (node(cpu="4", memory="8Gi", unschedulable=True), None),
        (node(cpu="4"), None),
        (node(), None),
        (node(cpu="many", memory="8Gi"), None),
        ({"metadata": {"name": "a"}, "spec": {}, "status": {}}, None),  # one that has just joined
    ],
)
def test_a_node_is_what_it_has_for_pods(manifest: Json, found: Node | None) -> None:
    assert workloads.node(manifest) == found
