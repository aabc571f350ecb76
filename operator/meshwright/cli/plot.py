"""`kubectl mesh plot`: what each scaling rule measured in the last hours, its threshold, and what was done.

The leading operator remembers six hours; it is asked by the permission to forward a port of its pods. Actions are those
of the journal.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from meshwright.api.errors import FinalError, MeshwrightError, NotFound
from meshwright.cli.kubeconfig import Access
from meshwright.cli.server import Server
from meshwright.cli.terminal import Terminal, Tone
from meshwright.cli.trial import with_client
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import POD
from meshwright.cluster.together import together
from meshwright.cluster.workloads import is_ready

Json = Mapping[str, Any]

PORT, PATH = 8080, "/scaling"
OPERATOR = "app.kubernetes.io/name=meshwright"
BARS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*#%@"
COLUMNS = 60


@dataclass(frozen=True)
class Curve:
    """What a rule measured: moments, values (None: not known), and its threshold."""

    name: str
    at: tuple[dt.datetime, ...]
    values: tuple[float | None, ...]
    threshold: float | None = None


@dataclass(frozen=True)
class Mark:
    """Something that was done."""

    at: dt.datetime
    text: str


def run(
    name: str, *, cluster: str | None, access: Access, operator_namespace: str, to: str | None, terminal: Terminal
) -> int:
    with Server(access) as server:
        server.meshes(name)  # which raises where there is none
        actions = server.actions()
    found = with_client(Client, access, partial(remembered, namespace=operator_namespace))
    clusters = [each for each in found if each["mesh"] == name and cluster in (None, each["cluster"])]
    if not clusters:
        raise NotFound(f"nothing is remembered of mesh {name}: the operator has just started, or has not looked at it")
    if to and len(clusters) > 1:
        names = ", ".join(each["cluster"] for each in clusters)
        raise FinalError(f"the mesh has several clusters ({names}): choose one by --cluster")
    for each in clusters:
        curves, marks = curves_of(each["points"]), marks_of(actions, name, each["cluster"])
        if to:
            title = f"mesh {name}, cluster {each['cluster']}"
            Path(to).write_text("\n".join(svg(title, curves, marks)) + "\n")
            print(f"{to}: {len(curves)} curves, {len(each['points'])} looks")
        else:
            print("\n".join(lines(each["cluster"], curves, marks, terminal)))
    return 0


async def remembered(client: Client, namespace: str) -> list[dict[str, Any]]:
    """By the replica that leads: the others remember nothing. Raises NotFound."""
    pods = await client.list(POD, namespace, labels=OPERATOR)
    names = [each["metadata"]["name"] for each in pods if is_ready(each)]
    troubles = []

    async def ask(pod: str) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = json.loads(await client.forwarded(namespace, pod, PORT, PATH))
        except (MeshwrightError, ValueError) as error:
            troubles.append(str(error))
            return []
        return found

    answers = await together(*(ask(each) for each in names))
    if not any(answers) and troubles:
        raise NotFound(f"the operator does not tell what it remembers: {troubles[0]}")
    if not names:
        raise NotFound(f"no operator is ready in namespace {namespace}: name it by --operator-namespace")
    return [each for answer in answers for each in answer]


def curves_of(points: Sequence[Json]) -> list[Curve]:
    """Replicas, and each rule that measured anything."""
    at = tuple(dt.datetime.fromisoformat(each["at"]) for each in points)
    rules = dict.fromkeys(name for each in points for name in each["rules"])
    found = [Curve("replicas", at, tuple(float(each["replicas"]) for each in points))]
    for name in rules:
        rows = [each["rules"].get(name, [None, None, ""]) for each in points]
        values = tuple(None if row[0] is None else float(row[0]) for row in rows)
        threshold = next((float(row[1]) for row in reversed(rows) if row[1] is not None), None)
        if any(value is not None for value in values):
            found.append(Curve(name, at, values, threshold))
    return found


def marks_of(actions: Sequence[Json], mesh: str, cluster: str) -> list[Mark]:
    found = []
    for each in actions:
        spec, status = each["spec"], each.get("status") or {}
        if (spec["mesh"], spec["cluster"]) != (mesh, cluster):
            continue
        found.append(Mark(dt.datetime.fromisoformat(spec["decided"]), spec["action"]))
        if status.get("phase") in ("Undoing", "Undone", "Failed", "Withdrawn") and status.get("since"):
            text = f"{spec['action']} {status['phase'].lower()}"
            found.append(Mark(dt.datetime.fromisoformat(status["since"]), text))
    return sorted(found, key=lambda mark: mark.at)


# -- in a terminal


def lines(cluster: str, curves: Sequence[Curve], marks: Sequence[Mark], terminal: Terminal) -> Iterator[str]:
    first, last = curves[0].at[0], curves[0].at[-1]
    yield terminal.paint(f"Cluster {cluster}", Tone.BOLD) + terminal.paint(
        f", {first:%Y-%m-%d %H:%M:%S} to {last:%H:%M:%S} UTC", Tone.FAINT
    )
    width = max(len(each.name) for each in curves)
    for each in curves:
        top = max([value for value in each.values if value is not None] + [each.threshold or 0.0])
        bars = bar(each, first, last, top, BARS if terminal.unicode else ASCII)
        limit = f", threshold {each.threshold:g}" if each.threshold is not None else ""
        yield f"  {each.name.ljust(width)}  {bars}  0 to {top:.3g}{limit}"
    for mark in marks:
        if first <= mark.at <= last:
            yield f"  {' ' * (width + 2 + column(mark.at, first, last))}^ {mark.at:%H:%M:%S} {mark.text}"


def bar(curve: Curve, first: dt.datetime, last: dt.datetime, top: float, letters: str) -> str:
    """The highest value of each column; `?` where nothing was known."""
    columns: list[list[float | None]] = [[] for _ in range(COLUMNS)]
    for at, value in zip(curve.at, curve.values, strict=True):
        columns[column(at, first, last)].append(value)
    text, before = "", " "
    for each in columns:
        known = [value for value in each if value is not None]
        if known:
            before = letters[min(round(max(known) / top * (len(letters) - 1)), len(letters) - 1)] if top else letters[0]
        elif each:
            before = "?"
        text += before
    return text


def column(at: dt.datetime, first: dt.datetime, last: dt.datetime) -> int:
    whole = (last - first).total_seconds() or 1.0
    return min(int((at - first).total_seconds() / whole * COLUMNS), COLUMNS - 1)


# -- as a picture

WIDTH, PANEL, LEFT, TOP = 960, 110, 170, 50
HEIGHT = PANEL - 40  # of a curve


def svg(title: str, curves: Sequence[Curve], marks: Sequence[Mark]) -> Iterator[str]:
    """A panel for each curve, over one axis of time; marks go through all of them."""
    first, last = curves[0].at[0], curves[0].at[-1]
    whole, room = (last - first).total_seconds() or 1.0, WIDTH - LEFT - 20
    bottom = TOP + PANEL * len(curves)

    def x(at: dt.datetime) -> float:
        return LEFT + room * (at - first).total_seconds() / whole

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 40}" font-family="sans-serif"'
        ' font-size="12">'
    )
    yield '<rect width="100%" height="100%" fill="white"/>'
    yield f'<text x="10" y="22" font-size="15" font-weight="bold">{escape(title)}</text>'
    for number, curve in enumerate(curves):
        yield from _panel(curve, TOP + PANEL * number, x)
    for number, mark in enumerate(each for each in marks if first <= each.at <= last):
        place = x(mark.at)
        yield _line((place, TOP - 8), (place, bottom), 'stroke="#888" stroke-dasharray="2 3"')
        yield f'<text x="{place + 3:.1f}" y="{TOP - 12 + 11 * (number % 2)}" font-size="10">{escape(mark.text)}</text>'
    for part in range(5):
        at = first + (last - first) * part / 4
        yield f'<text x="{x(at):.1f}" y="{bottom + 18}" text-anchor="middle">{at:%H:%M:%S}</text>'
    yield "</svg>"


def _panel(curve: Curve, top: int, x: Any) -> Iterator[str]:
    known = [value for value in curve.values if value is not None]
    highest = max([*known, curve.threshold or 0.0, 1e-9]) * 1.1
    floor = top + HEIGHT + 20

    def y(value: float) -> float:
        return floor - HEIGHT * value / highest

    yield f'<text x="10" y="{top + 40}" font-weight="bold">{escape(curve.name)}</text>'
    yield f'<text x="10" y="{top + 56}" fill="#555">0 to {highest / 1.1:.3g}</text>'
    yield _line((LEFT, floor), (WIDTH - 20, floor), 'stroke="#ccc"')
    if curve.threshold is not None:
        place = y(curve.threshold)
        yield _line((LEFT, place), (WIDTH - 20, place), 'stroke="#c33" stroke-dasharray="5 4"')
        style = 'text-anchor="end" fill="#c33" font-size="10"'
        yield f'<text x="{WIDTH - 20}" y="{place - 3:.1f}" {style}>{curve.threshold:g}</text>'
    run_of: list[str] = []
    for at, value in [*zip(curve.at, curve.values, strict=True), (curve.at[-1], None)]:
        if value is not None:
            run_of.append(f"{x(at):.1f},{y(value):.1f}")
        elif run_of:  # a gap is a gap
            yield f'<polyline points="{" ".join(run_of)}" fill="none" stroke="#26c" stroke-width="1.5"/>'
            run_of = []


def _line(start: tuple[float, float], end: tuple[float, float], style: str) -> str:
    return f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" {style}/>'
