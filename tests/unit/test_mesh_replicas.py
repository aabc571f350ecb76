"""Who decides the replicas of istiod, case by case."""

from __future__ import annotations

import pytest

from meshwright.mesh.replicas import AUTOSCALED, Decision, Kept, declared

TABLE: list[tuple[str, int, int | None, bool, str | None, Decision]] = [
    # case, the size's replicas, live ones, an autoscaler is there, annotation, decision
    ("an install", 2, None, False, None, Decision(2)),
    ("an install beside an autoscaler", 2, None, True, None, Decision(None, AUTOSCALED)),
    ("no autoscaler ever", 2, 2, False, None, Decision(2)),
    ("kubectl scale is drift", 2, 5, False, None, Decision(2)),
    ("an autoscaler appears", 2, 2, True, None, Decision(None, AUTOSCALED)),
    ("it decides", 2, 5, True, AUTOSCALED, Decision(None, AUTOSCALED)),
    ("it decides on less", 2, 1, True, AUTOSCALED, Decision(None, AUTOSCALED)),
    ("it goes", 2, 5, False, AUTOSCALED, Decision(5, "5/size 2")),
    ("it goes with the size's replicas", 2, 2, False, AUTOSCALED, Decision(2)),
    ("it goes with fewer", 3, 2, False, AUTOSCALED, Decision(3)),
    ("it goes together with the Deployment", 2, None, False, AUTOSCALED, Decision(2)),
    ("later", 2, 5, False, "5/size 2", Decision(5, "5/size 2")),
    ("kubectl scale is drift then, too", 2, 3, False, "5/size 2", Decision(5, "5/size 2")),
    ("a smaller size", 1, 5, False, "5/size 2", Decision(1)),
    ("a larger size that asks for less than was kept", 3, 5, False, "5/size 2", Decision(3)),
    ("an autoscaler comes back", 2, 5, True, "5/size 2", Decision(None, AUTOSCALED)),
    ("no number", 2, 5, False, "many", Decision(2)),
    ("too few kept", 2, 5, False, "1/size 2", Decision(2)),
    ("more than text", 2, 5, False, "5/size 2 ", Decision(2)),
    ("a number too large", 2, 5, False, "5000000000/size 2", Decision(2)),
    ("digits of another script", 2, 5, False, "٥/size 2", Decision(2)),
]


@pytest.mark.parametrize(
    ("size", "live", "autoscaled", "annotation", "decision"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_decisions(
    size: int,
    live: int | None,
    autoscaled: bool,  # noqa: FBT001 - a column of the table
    annotation: str | None,
    decision: Decision,
) -> None:
    assert declared(size=size, live=live, autoscaled=autoscaled, annotation=annotation) == decision


def test_what_is_kept_can_be_read_again() -> None:
    assert Kept.parse(str(Kept(5, 2))) == Kept(5, 2)
