"""What holds for every course of signals: of steps, spikes, noise and silence, over hours."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from meshwright.api.meshaction import MeshAction, Phase
from meshwright.api.meshinstall import Size
from meshwright.api.scaling import Action
from meshwright.mesh.rules import DEFAULTS
from meshwright.mesh.scaling import moment
from meshwright.mesh.signals import GENERATION, MEMORY
from meshwright.mesh.sizing import size_for
from unit.test_mesh_scaling import Life

Json = dict[str, Any]

# So many looks at the same values. Minutes, so that windows are met and missed.
piece = st.fixed_dictionaries({
    "looks": st.integers(1, 90),
    "pods": st.sampled_from([100, 450, 600, 1500, 1700, 2500, 10001]),
    "generation": st.sampled_from([0.0, 0.4, 0.7, 1.0, 1.1, 8.0]),
    "memory": st.sampled_from([10.0, 80.0, 90.0]),
    "missing": st.sampled_from(["", "", "", "pod a is silent"]),
    "settled": st.sampled_from([True, True, True, False]),
    "frozen": st.sampled_from(["", "", "", "2027"]),
})  # fmt: skip


def parts(of: Json) -> Json:
    values = {GENERATION: of["generation"], MEMORY: of["memory"]}
    plain = {name: of[name] for name in ("pods", "missing", "settled", "frozen")}
    return {**plain, "values": values, "demanded": size_for(of["pods"])}


def turns(journal: list[MeshAction]) -> list[tuple[dt.datetime, str]]:
    """When an action was begun, and when it ended."""
    found = []
    for each in journal:
        if each.spec.action is not Action.ADD_REPLICA:
            continue
        found.append((moment(each.spec.decided), "up"))
        if each.phase in (Phase.UNDOING, Phase.UNDONE, Phase.FAILED) and each.status.since:
            found.append((moment(each.status.since), "down"))
    return sorted(found)


def larger(one: Size | None, other: Size | None) -> bool:
    assert one
    assert other
    return list(Size).index(one) > list(Size).index(other)


@settings(max_examples=100, deadline=None)
@given(st.lists(piece, min_size=1, max_size=8))
def test_whatever_is_measured(course: list[Json]) -> None:
    life = Life(every=dt.timedelta(minutes=1))
    for each in course:
        for _ in range(each["looks"]):
            before = {action.name: action.phase for action in life.journal}
            known = len(life.journal)
            life.tick(**parts(each))  # which also decides again what it decides
            # One at a time.
            assert sum(action.in_flight for action in life.journal) <= 1
            # Nothing is made smaller, and nothing undone, on missing data or in a freeze.
            if each["missing"] or each["frozen"]:
                undone = [a for a in life.journal if a.phase is Phase.UNDOING and before.get(a.name) is not a.phase]
                assert undone == []
                new = [a.spec for a in life.journal[known:] if a.spec.action is Action.RESIZE]
                assert all(not each["frozen"] and larger(spec.after.size, spec.before.size) for spec in new)
    cool_down = DEFAULTS[Action.ADD_REPLICA].cool_down
    for (first, one), (then, other) in pairwise(turns(life.journal)):
        assert one == other or then - first >= cool_down, (one, other, then - first)
    resizes = [moment(each.spec.decided) for each in life.journal if each.spec.action is Action.RESIZE]
    assert all(then - first >= DEFAULTS[Action.RESIZE].cool_down for first, then in pairwise(resizes))
