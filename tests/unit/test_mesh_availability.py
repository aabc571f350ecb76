"""Bounds of autoscalers, budgets, and how pods spread."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright.api.meshinstall import Autoscaling, DisruptionBudget
from meshwright.mesh.availability import Bounds, bounds, budget, contradictions, declared, fewest, spread

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("given", "replicas", "cpu", "expected"),
    [
        ({}, 2, "2", Bounds(2, 4, "1600m")),
        ({}, 5, "8", Bounds(5, 10, "6400m")),
        ({}, 1, "2000m", Bounds(1, 2, "1600m")),
        ({}, 1, "5", Bounds(1, 2, "4")),
        ({}, 1, "100m", Bounds(1, 2, "80m")),
        ({"minReplicas": 3}, 2, "2", Bounds(3, 6, "1600m")),  # the maximum follows the minimum
        ({"minReplicas": 1}, 5, "2", Bounds(1, 2, "1600m")),
        ({"maxReplicas": 9}, 2, "2", Bounds(2, 9, "1600m")),
        ({"maxReplicas": 2}, 5, "2", Bounds(2, 2, "1600m")),  # what was right for the size that was taken back
        ({}, 1, "1m", Bounds(1, 2, "1m")),
        ({"minReplicas": 4, "maxReplicas": 4}, 2, "2", Bounds(4, 4, "1600m")),
        ({"enabled": False}, 2, "2", None),
        ({"enabled": False, "minReplicas": 4}, 2, "2", None),
    ],
)
def test_bounds(given: Json, replicas: int, cpu: str, expected: Bounds | None) -> None:
    assert bounds(Autoscaling.model_validate(given), replicas=replicas, cpu_limit=cpu) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 3), ({"minReplicas": 2}, 2), ({"enabled": False}, 3), ({"enabled": False, "minReplicas": 2}, 3)],
)
def test_the_fewest_replicas_are_those_that_nobody_goes_below(given: Json, expected: int) -> None:
    assert fewest(Autoscaling.model_validate(given), replicas=3) == expected


@pytest.mark.parametrize(
    ("given", "lowest", "expected"),
    [
        ({}, 2, {"maxUnavailable": 1}),
        ({}, 1, {"maxUnavailable": 1}),
        ({"maxUnavailable": 3}, 2, {"maxUnavailable": 3}),
        ({"minAvailable": 2}, 3, {"minAvailable": 2}),
        ({"minAvailable": 4}, 3, {"minAvailable": 2}),  # a size that was taken back has fewer replicas
        ({"minAvailable": 4}, 1, {"maxUnavailable": 1}),
    ],
)
def test_a_budget_is_what_was_asked_for_but_always_lets_a_pod_go(given: Json, lowest: int, expected: Json) -> None:
    assert budget(DisruptionBudget.model_validate(given), lowest=lowest) == expected


@pytest.mark.parametrize(
    ("scaled", "live", "expected"),
    [
        (False, None, 3),
        (False, 5, 3),
        (True, None, None),
        (True, 2, None),
        (True, 4, None),
        (True, 1, 2),
        (True, 0, 2),  # an autoscaler leaves alone what was scaled to nothing
    ],
)
def test_replicas_are_an_autoscalers_unless_there_are_too_few(
    scaled: bool,  # noqa: FBT001
    live: int | None,
    expected: int | None,
) -> None:
    assert declared(Bounds(2, 4, "1") if scaled else None, replicas=3, live=live) == expected


@pytest.mark.parametrize(
    ("autoscaling", "given", "replicas", "expected"),
    [
        ({}, {}, 2, []),
        ({}, {"maxUnavailable": 9}, 2, []),
        ({}, {"minAvailable": 1}, 2, []),
        ({"minReplicas": 3}, {"minAvailable": 2}, 2, []),
        ({"enabled": False, "maxReplicas": 1}, {}, 2, []),
        ({"maxReplicas": 1}, {}, 2,
         ["a.autoscaling.maxReplicas (1) is less than the replicas that are asked for (2): raise it"]),
        ({"minReplicas": 5, "maxReplicas": 3}, {}, 2,
         ["a.autoscaling.maxReplicas (3) is less than minReplicas (5): raise it"]),
        ({}, {"minAvailable": 1, "maxUnavailable": 1}, 2,
         ["a.podDisruptionBudget: minAvailable and maxUnavailable exclude each other: remove one"]),
        ({}, {"minAvailable": 1}, 1,
         [("a.podDisruptionBudget.minAvailable (1) leaves nothing to evict at 1 replica, so that no node could be"
          " drained: lower it, raise the replicas, or use maxUnavailable: 1")]),
        ({"enabled": False, "minReplicas": 9}, {"minAvailable": 2}, 2,
         [("a.podDisruptionBudget.minAvailable (2) leaves nothing to evict at 2 replicas, so that no node could be"
          " drained: lower it, raise the replicas, or use maxUnavailable: 1")]),
        ({"minReplicas": 5, "maxReplicas": 3}, {"minAvailable": 7, "maxUnavailable": 1}, 2,
         ["a.autoscaling.maxReplicas (3) is less than minReplicas (5): raise it",
          "a.podDisruptionBudget: minAvailable and maxUnavailable exclude each other: remove one",
          ("a.podDisruptionBudget.minAvailable (7) leaves nothing to evict at 5 replicas, so that no node could be"
          " drained: lower it, raise the replicas, or use maxUnavailable: 1")]),
    ],
)  # fmt: skip
def test_contradictions(autoscaling: Json, given: Json, replicas: int, expected: list[str]) -> None:
    found = contradictions(
        "a", Autoscaling.model_validate(autoscaling), DisruptionBudget.model_validate(given), replicas=replicas
    )
    assert found == expected


def test_pods_spread_over_hosts_strictly_and_over_zones_if_they_can() -> None:
    hosts, zones = spread({"app": "a"})
    common = {"maxSkew": 1, "labelSelector": {"matchLabels": {"app": "a"}}, "matchLabelKeys": ["pod-template-hash"]}
    assert hosts == {
        **common, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "nodeTaintsPolicy": "Honor",
    }  # fmt: skip
    assert zones == {
        **common, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway",
    }  # fmt: skip
