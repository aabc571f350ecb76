"""kubectl mesh plot: curves, gaps and marks, in letters and as a picture."""

from __future__ import annotations

import datetime as dt
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from meshes import NOW
from meshwright.api.errors import NotFound, Unreachable
from meshwright.cli.plot import COLUMNS, curves_of, lines, marks_of, remembered, svg
from meshwright.cli.terminal import Terminal
from virtual_time import run

Json = dict[str, Any]
SVG = "{http://www.w3.org/2000/svg}"


def point(minute: int, value: float | None = 0.1, replicas: int = 2) -> Json:
    rules = {"AddReplica": [value, 1.0, "Quiet"], "SidecarScoping": [None, 85.0, "NoData"]}
    return {"at": (NOW + dt.timedelta(minutes=minute)).isoformat(), "replicas": replicas, "pods": 1, "rules": rules}


POINTS = [point(0), point(10, 2.0), point(20, None), point(30, 0.5, 3), point(60)]
ACTIONS: list[Json] = [
    {"spec": {"mesh": "demo", "cluster": "primary", "action": "AddReplica",
              "decided": (NOW + dt.timedelta(minutes=12)).isoformat()},
     "status": {"phase": "Undone", "since": (NOW + dt.timedelta(minutes=50)).isoformat()}},
    {"spec": {"mesh": "demo", "cluster": "west", "action": "Resize", "decided": NOW.isoformat()}},
]  # fmt: skip


def test_curves_are_of_what_was_measured() -> None:
    replicas, rule = curves_of(POINTS)
    assert (replicas.name, replicas.values) == ("replicas", (2.0, 2.0, 2.0, 3.0, 2.0))
    assert (rule.name, rule.values, rule.threshold) == ("AddReplica", (0.1, 2.0, None, 0.5, 0.1), 1.0)


def test_marks_are_what_was_done_in_that_cluster() -> None:
    assert [each.text for each in marks_of(ACTIONS, "demo", "primary")] == ["AddReplica", "AddReplica undone"]


def test_in_a_terminal() -> None:
    shown = list(lines("primary", curves_of(POINTS), marks_of(ACTIONS, "demo", "primary"), Terminal()))
    assert shown[0] == "Cluster primary, 2026-03-01 12:00:00 to 13:00:00 UTC"
    (rule,) = (line for line in shown if "AddReplica " in line and "threshold" in line)
    assert "█" in rule
    assert "?" in rule
    assert rule.endswith("0 to 2, threshold 1")
    assert any("^ 12:12:00 AddReplica" in line for line in shown)
    assert all(len(line) < COLUMNS + 60 for line in shown)


def test_without_unicode() -> None:
    shown = "\n".join(lines("primary", curves_of(POINTS), [], Terminal(unicode=False)))
    assert shown.isascii()


@pytest.mark.parametrize("points", [POINTS, POINTS[:1]])
def test_as_a_picture(points: list[Json]) -> None:
    text = "\n".join(svg("mesh <demo>", curves_of(points), marks_of(ACTIONS, "demo", "primary")))
    root = ET.fromstring(text)  # noqa: S314
    assert root.tag == f"{SVG}svg"
    assert "mesh <demo>" in [each.text for each in root.iter(f"{SVG}text")]
    if len(points) > 1:
        # One for the replicas, and two for the rule: what is not known is a gap.
        assert len(list(root.iter(f"{SVG}polyline"))) == 3


class Pods:
    """The operator's, of which one leads."""

    def __init__(self, **answers: bytes | None) -> None:
        self.answers = answers

    async def list(self, *_: Any, **__: Any) -> list[Json]:
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        return [{"metadata": {"name": name}, "status": ready} for name in self.answers]

    async def forwarded(self, _namespace: str, pod: str, *_: Any) -> bytes:
        if (answer := self.answers[pod]) is None:
            raise Unreachable("silent")
        return answer


def test_the_replica_that_leads_is_found() -> None:
    found = run(remembered(Pods(a=b"[]", b=b'[{"mesh": "demo"}]'), "meshwright-system"))  # type: ignore[arg-type]
    assert found == [{"mesh": "demo"}]


@pytest.mark.parametrize(
    ("pods", "says"), [(Pods(a=None), "silent"), (Pods(a=b"<"), "does not tell"), (Pods(), "no operator is ready")]
)
def test_nobody_tells(pods: Pods, says: str) -> None:
    with pytest.raises(NotFound, match=says):
        run(remembered(pods, "meshwright-system"))  # type: ignore[arg-type]
