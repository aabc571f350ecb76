"""Bounds of autoscalers, budgets, and how pods spread."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright.api.meshinstall import Autoscaling, DisruptionBudget
from meshwright.mesh.availability import Bounds, bounds, budget, contradictions, fewest, spread

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
    ("given", "expected"),
    [
        ({}, {"maxUnavailable": 1}),
        ({"maxUnavailable": 3}, {"maxUnavailable": 3}),
        ({"minAvailable": 2}, {"minAvailable": 2}),
    ],
)
def test_a_budget_is_what_was_asked_for_or_one_pod_at_a_time(given: Json, expected: Json) -> None:
    assert budget(DisruptionBudget.model_validate(given)) == expected


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
