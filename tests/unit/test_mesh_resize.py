"""Which size istiod is to have now: chosen once, tried where it could fit, and taken back where it does not."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from meshes import NOW, cluster, istiod, mesh
from meshwright.api.meshinstall import (
    ClusterStatus,
    ControlPlaneStatus,
    MeshInstall,
    MeshStatus,
    RefusedSize,
    Resources,
    Size,
)
from meshwright.mesh.observed import Cluster, Node, Trouble
from meshwright.mesh.resize import PATIENCE, Decision, chosen, decide_size, resize_due, status_of
from meshwright.mesh.sizing import Demand, Share, size_of

Json = dict[str, Any]

GIB = 2**30
SMALL, MEDIUM, LARGE = (size_of(size, Resources()) for size in (Size.SMALL, Size.MEDIUM, Size.LARGE))
WORDS = "0/3 nodes are available: 3 Insufficient memory."


def node(cpu: int = 4, gib: int = 8, name: str = "a") -> Node:
    return Node(name, Fraction(cpu), Fraction(gib * GIB))


def pending(minutes: float, size: Size = Size.LARGE) -> Trouble:
    """A pod of that size which has waited for a node for so long."""
    asks = size_of(size, Resources()).share.resources
    return Trouble("istiod-1", "", "Unschedulable", WORDS, since=NOW - dt.timedelta(minutes=minutes), resources=asks)


def asked(size: str = "Auto", *, status: ControlPlaneStatus | None = None, **plane: Any) -> MeshInstall:
    known = MeshStatus(clusters=[ClusterStatus(name="primary", control_plane=status)]) if status else MeshStatus()
    return mesh(status=known, controlPlane={"size": size, **plane})


def rolled_out(size: Size = Size.SMALL, refused: RefusedSize | None = None) -> ControlPlaneStatus:
    return ControlPlaneStatus(size=size, resources=size_of(size, Resources()).share.resources, refused=refused)


def running(size: Size = Size.SMALL, **parts: Any) -> Cluster:
    """A cluster with an istiod of that size."""
    return cluster(istiods=(istiod(size=size, resources=size_of(size, Resources()).share.resources),), **parts)


def decided(subject: MeshInstall, seen: Cluster) -> Decision:
    return decide_size(subject, seen, now=NOW)


def reason(decision: Decision) -> str | None:
    return decision.finding.reason if decision.finding else None


# Auto


@pytest.mark.parametrize(
    ("pods", "size"), [(0, Size.SMALL), (499, Size.SMALL), (500, Size.MEDIUM), (2000, Size.LARGE), (10**5, Size.LARGE)]
)
def test_auto_goes_by_the_pods_in_the_mesh_when_it_is_installed(pods: int, size: Size) -> None:
    assert decided(asked(), cluster(enrolled=pods)).sizing.size is size


@pytest.mark.parametrize("pods", [0, 500, 9999])
@pytest.mark.parametrize("size", [Size.SMALL, Size.MEDIUM, Size.LARGE])
def test_auto_is_decided_once_and_kept_also_without_a_status(size: Size, pods: int) -> None:
    assert decided(asked(), running(size, enrolled=pods)) == Decision(size_of(size, Resources()))
    assert decided(asked(status=rolled_out(size)), running(size, enrolled=pods)).sizing.size is size


def test_a_size_that_is_asked_for_is_taken_whatever_runs() -> None:
    assert chosen(Size.LARGE, rolled_out(Size.SMALL), istiod(size=Size.SMALL), 0) is Size.LARGE
    assert chosen(Size.SMALL, ControlPlaneStatus(), None, 10**5) is Size.SMALL


def test_auto_is_found_again_in_the_status_when_the_deployment_is_gone() -> None:
    assert chosen(Size.AUTO, rolled_out(Size.MEDIUM), None, 0) is Size.MEDIUM
    assert chosen(Size.AUTO, rolled_out(Size.MEDIUM), istiod(size=Size.LARGE), 0) is Size.LARGE
    assert chosen(Size.AUTO, ControlPlaneStatus(size=Size.AUTO), None, 600) is Size.MEDIUM


def test_an_istiod_of_somebody_else_decides_nothing() -> None:
    theirs = istiod(namespace="other", size=Size.LARGE)
    assert decided(asked(), cluster(istiods=(theirs,), enrolled=1)).sizing == SMALL


@pytest.mark.parametrize(("pods", "told"), [(9999, None), (10000, "MultiClusterRequired")])
def test_more_pods_than_the_largest_size_is_for_are_told(pods: int, told: str | None) -> None:
    for seen in (cluster(enrolled=pods), running(Size.LARGE, enrolled=pods)):
        decision = decided(asked(), seen)
        assert (decision.sizing.size, reason(decision), decision.nowhere) == (Size.LARGE, told, False)
    assert reason(decided(asked("Large"), cluster(enrolled=pods))) == told
    knows_better = mesh(scaling={"rules": [{"action": "MultiClusterRequired", "mode": "Off"}]})
    assert reason(decided(knows_better, cluster(enrolled=pods))) is None
    assert reason(decided(asked(), running(Size.SMALL, enrolled=pods))) == told


def test_what_is_said_of_too_many_pods() -> None:
    decision = decided(asked(), cluster(enrolled=12000))
    assert decision.finding
    assert decision.finding.message == (
        "cluster primary has 12000 pods in the mesh, and one cluster is for less than 10000: spread them over"
        " several clusters"
    )


# Before any size: is there room


def test_an_install_that_no_node_could_hold_does_not_begin() -> None:
    nodes = (node(2, 2, "a"), node(16, 3, "b"))
    decision = decided(asked("Small"), cluster(nodes=nodes))
    assert decision.nowhere
    assert (decision.sizing, reason(decision)) == (SMALL, "NoNodeLargeEnough")
    assert decision.finding
    assert decision.finding.message == (
        "no node of cluster primary is large enough for one replica of istiod of size Small (2 CPU, 4Gi): it requests"
        " 500m CPU and 4.0 GiB, and the largest, b, has 16 CPU and 3.0 GiB; nothing was installed"
    )


@pytest.mark.parametrize(
    ("nodes", "fits"),
    [
        ((), True),  # nobody told us of any
        ((node(1, 4),), True),
        ((node(1, 4), node(1, 1)), True),
        ((Node("a", Fraction(1, 2), Fraction(4 * GIB)),), True),
        ((Node("a", Fraction(499, 1000), Fraction(64 * GIB)),), False),
        ((Node("a", Fraction(64), Fraction(4 * GIB - 1)),), False),
        ((node(64, 1, "a"), Node("b", Fraction(1, 4), Fraction(64 * GIB))), False),  # not both on one
    ],
)
def test_one_node_has_to_have_both(nodes: tuple[Node, ...], fits: bool) -> None:  # noqa: FBT001
    assert decided(asked("Small"), cluster(nodes=nodes)).nowhere is not fits


def test_own_quantities_make_it_fit() -> None:
    little = {"requests": {"cpu": "50m", "memory": "192Mi"}}
    decision = decided(asked("Small", resources=little), cluster(nodes=(node(1, 1),)))
    assert (decision.finding, decision.sizing.share.requests) == (None, Demand("50m", "192Mi"))


def test_a_size_that_no_node_could_hold_is_not_tried_and_what_runs_stays() -> None:
    subject = asked("Large", status=rolled_out(Size.SMALL))
    decision = decided(subject, running(Size.SMALL, nodes=(node(4, 8),)))
    assert (decision.sizing, reason(decision), decision.refused, decision.nowhere) == (
        SMALL, "NoNodeLargeEnough", None, False,
    )  # fmt: skip
    assert decision.finding
    assert decision.finding.message == (
        "no node of cluster primary is large enough for one replica of istiod of size Large (8 CPU, 16Gi): it requests"
        " 2 CPU and 16.0 GiB, and the largest, a, has 4 CPU and 8.0 GiB; istiod stays size Small (2 CPU, 4Gi)"
    )
    larger = running(Size.SMALL, nodes=(node(4, 8), node(8, 32, "b")))
    assert decided(subject, larger) == Decision(LARGE)


# A pod that waits


@pytest.mark.parametrize(
    ("minutes", "sizing", "told"),
    [(0, LARGE, None), (4.99, LARGE, None), (5, SMALL, "SizeTakenBack"), (60, SMALL, "SizeTakenBack")],
)
def test_a_pod_that_waits_for_five_minutes_takes_the_size_back(minutes: float, sizing: Any, told: str | None) -> None:
    subject = asked("Large", status=rolled_out(Size.SMALL))
    decision = decided(subject, running(Size.LARGE, troubles=(pending(minutes),)))
    assert (decision.sizing, reason(decision)) == (sizing, told)


def test_what_is_said_of_a_size_that_was_taken_back() -> None:
    subject = asked("Large", status=rolled_out(Size.SMALL))
    decision = decided(subject, running(Size.LARGE, troubles=(pending(5),)))
    message = (
        "size Large (8 CPU, 16Gi) found no room within 5 minutes, istiod is size Small (2 CPU, 4Gi) again: pod"
        f" istiod-1: {WORDS}"
    )
    assert decision.finding
    assert decision.finding.message == message
    assert decision.refused == RefusedSize(size=Size.LARGE, resources=LARGE.share.resources, message=message)


@pytest.mark.parametrize(
    "trouble",
    [
        pending(9, Size.SMALL),  # a node of the old replicas went
        replace(pending(9), resources=None),
        replace(pending(9), reason="SchedulingGated"),
        replace(pending(9), since=None),
        Trouble("istiod-1", "discovery", "ImagePullBackOff", "no such image", since=NOW - 2 * PATIENCE),
    ],
)
def test_nothing_but_a_pod_without_a_node_takes_a_size_back(trouble: Trouble) -> None:
    decision = decided(asked("Large", status=rolled_out(Size.SMALL)), running(Size.LARGE, troubles=(trouble,)))
    assert decision == Decision(LARGE)


def test_a_size_that_is_tried_goes_on_when_its_node_is_cordoned() -> None:
    subject = asked("Large", status=rolled_out(Size.SMALL))
    assert decided(subject, running(Size.LARGE, nodes=(node(1, 1),))) == Decision(LARGE)


def test_without_a_status_the_way_back_is_what_runs() -> None:
    decision = decided(asked("Large"), running(Size.SMALL, nodes=(node(1, 1),)))
    assert (decision.sizing, reason(decision)) == (SMALL, "NoNodeLargeEnough")


def test_amounts_are_compared_and_not_their_spelling() -> None:
    spelt = Resources.model_validate(
        {"requests": {"cpu": "0.5", "memory": "4096Mi"}, "limits": {"cpu": 2, "memory": "4096Mi"}}
    )
    status = ControlPlaneStatus(size=Size.SMALL, resources=spelt)
    assert decided(asked("Small", status=status), running(Size.SMALL)) == Decision(SMALL)
    assert not resize_due(asked("Small", status=status), running(Size.SMALL), enrolled=0)


def test_a_first_install_that_waits_has_nowhere_to_go_back_to() -> None:
    for status in (None, ControlPlaneStatus(), ControlPlaneStatus(size=Size.SMALL)):
        decision = decided(asked("Large", status=status), running(Size.LARGE, troubles=(pending(60),)))
        assert decision == Decision(LARGE)


def test_a_pod_that_waits_while_nothing_is_resized_takes_nothing_back() -> None:
    waits = pending(60, Size.SMALL)
    decision = decided(asked("Small", status=rolled_out(Size.SMALL)), running(Size.SMALL, troubles=(waits,)))
    assert decision == Decision(SMALL)


def taken_back(size: Size = Size.LARGE) -> ControlPlaneStatus:
    return rolled_out(
        Size.SMALL, RefusedSize(size=size, resources=size_of(size, Resources()).share.resources, message="no room")
    )


@pytest.mark.parametrize("nodes", [(), (node(64, 256),)])
def test_a_refused_size_is_not_tried_again(nodes: tuple[Node, ...]) -> None:
    decision = decided(asked("Large", status=taken_back()), running(Size.SMALL, nodes=nodes))
    assert (decision.sizing, reason(decision)) == (SMALL, "SizeTakenBack")
    assert decision.refused == taken_back().refused  # and is remembered further
    assert decision.finding
    assert decision.finding.message == "no room"


@pytest.mark.parametrize(
    ("size", "plane", "sizing"),
    [
        ("Small", {}, SMALL),
        ("Medium", {}, MEDIUM),
        ("Large", {"resources": {"limits": {"memory": "8Gi"}}}, None),
    ],
)
def test_another_size_is_tried_and_the_refused_one_forgotten(size: str, plane: Json, sizing: Any) -> None:
    decision = decided(asked(size, status=taken_back(), **plane), running(Size.SMALL, nodes=(node(64, 256),)))
    wanted = sizing or size_of(Size(size), Resources.model_validate(plane["resources"]))
    assert decision == Decision(wanted)


def test_after_another_size_the_refused_one_is_tried_again() -> None:
    first = decided(asked("Small", status=taken_back()), running(Size.SMALL))
    again = decided(asked("Large", status=rolled_out(first.sizing.size, first.refused)), running(Size.SMALL))
    assert again == Decision(LARGE)


def test_quantities_of_ones_own_are_gone_back_to_as_they_were() -> None:
    own = Resources.model_validate(
        {"requests": {"cpu": "50m", "memory": "192Mi"}, "limits": {"cpu": 1, "memory": "1Gi"}}
    )
    status = ControlPlaneStatus(size=Size.MEDIUM, resources=own)
    decision = decided(asked("Large", status=status), running(Size.LARGE, troubles=(pending(6),)))
    assert reason(decision) == "SizeTakenBack"
    assert decision.sizing.size is Size.MEDIUM
    assert decision.sizing.replicas == MEDIUM.replicas
    assert decision.sizing.share == Share(Demand("50m", "192Mi"), Demand("1", "1Gi"))


# Whether nodes have to be looked at


@pytest.mark.parametrize(
    ("subject", "seen", "due"),
    [
        (asked(), cluster(), True),  # not installed yet
        (asked(), cluster(istiods=(istiod(namespace="other"),)), True),
        (asked(status=rolled_out(Size.SMALL)), running(Size.SMALL), False),
        (asked("Large", status=rolled_out(Size.SMALL)), running(Size.SMALL), True),
        (asked("Large", status=rolled_out(Size.SMALL)), running(Size.LARGE), True),  # under way
        (asked("Large", status=rolled_out(Size.LARGE)), running(Size.LARGE), False),
        (asked("Small", resources={"limits": {"cpu": "?"}}), running(Size.SMALL), False),  # a check says so
    ],
)
def test_nodes_are_looked_at_while_a_size_is_decided(subject: MeshInstall, seen: Cluster, due: bool) -> None:  # noqa: FBT001
    assert resize_due(subject, seen, enrolled=0) is due


def test_the_status_of_a_cluster_is_found_by_its_name() -> None:
    subject = asked(status=rolled_out(Size.MEDIUM))
    assert status_of(subject, cluster()).size is Size.MEDIUM
    assert status_of(subject, cluster(name="west")) == ControlPlaneStatus()
