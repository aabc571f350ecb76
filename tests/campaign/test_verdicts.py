"""Verdicts on generated MeshInstalls: what the operator takes, the API server takes too.

The other way round, the operator may know more than a schema can say: those are counted.
"""

from __future__ import annotations

import copy
import datetime as dt
import random
from collections import Counter
from typing import Any

from api.world import VERSION, Cluster, Json, accepted_by_the_server
from campaign import specs
from campaign.tally import Tally
from meshwright.api.errors import InvalidSpec
from meshwright.api.meshinstall import API_VERSION, KIND, MeshInstall
from meshwright.mesh.checks import first_finding
from meshwright.mesh.observed import Cluster as Member
from meshwright.mesh.observed import Observed

RESOURCES = 800
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

# What people (and programs) write where something else is meant.
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2.5, 10**18, "", "x", "X", "a b", "a\n", "true", "1", "1.31.4", "1.31", "v1.31.4",
    "01.1.1", "istio-system", "-a", "a-", "a.b", "a..b", "ü", "x" * 56, "x" * 57, "x" * 63, "x" * 64, "x" * 254,
    "x" * 4097, "1Gi", "0", "1e3", "-1", "+1", ".5", "5.", "1ki", "1K", " 1", "Strict", "STRICT", "Small", "Always",
    "docker.io/x:5000/y@z", [], {}, [1], {"x": 1}, {"cpu": "1"}, {"requests": {}}, {"A=B": "x"}, {"1A": "x"},
    {"REVISION": "x"}, {"trustDomain": "x"}, {f"V{number}": "x" for number in range(65)},
)  # fmt: skip
NAMES = (
    "version",
    "cluster_name",
    "clusterName",
    "meshID",
    "meshId",
    "mesh_id",
    "size",
    "env",
    "cpu",
    "memory",
    "hub",
    "odd",
    "replicas",
    "minAvailable",
    "minReplicas",
    "namespace",
    "type",
    "nodePort",
    "targetPort",
)


def resource(rng: random.Random) -> Json:
    """Valid, and then with up to three fields that are odd, missing or too many."""
    spec = {
        "version": VERSION,
        **specs.valid(rng, specs.identity(rng)),
        "mode": rng.choice(("Apply", "Plan", "Paused")),
    }
    spec = {name: value for name, value in spec.items() if value is not None}
    name: Any = "probe"
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        mutate(rng, spec)
    if rng.random() < 0.05:
        name = rng.choice(("a.b", "x" * 63, "x" * 64, "A", "-a", "1"))
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


def mutate(rng: random.Random, spec: Json) -> None:
    place = rng.choice(maps_in(spec))
    name = rng.choice([*place, *place, *NAMES]) if place else rng.choice(NAMES)
    match rng.randrange(4):
        case 0:
            place.pop(name, None)
        case 1:
            place[name] = copy.deepcopy(rng.choice(ODD))
        case 2 if isinstance(place.get(name), str):
            place[name] += rng.choice(("\n", " ", "x", "é", "\x00", ".", "-"))
        case _:
            place[name] = copy.deepcopy(rng.choice(ODD))


def maps_in(value: Any) -> list[Json]:
    """Also those in lists."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if isinstance(value, dict) else []), *(each for one in below for each in maps_in(one))]


def accepted_by_the_operator(manifest: Json) -> bool:
    try:
        mesh = MeshInstall.parse(manifest)
    except InvalidSpec:
        return False
    member = Member(name=mesh.spec.cluster_name)
    return first_finding(Observed(now=NOW, mesh=mesh, clusters=(member,))) is None


def test_the_server_is_never_stricter_than_the_operator(cluster: Cluster, tally: Tally) -> None:
    rng = random.Random(1)  # noqa: S311
    verdicts: Counter[tuple[bool, bool]] = Counter()
    stricter = []
    for _ in range(RESOURCES):
        manifest = resource(rng)
        verdict = accepted_by_the_operator(manifest), accepted_by_the_server(cluster, manifest)
        verdicts[verdict] += 1
        if verdict == (True, False):
            stricter.append(manifest)
    tally.say(
        f"verdicts on {RESOURCES} MeshInstalls: {verdicts[True, True]} taken by both, {verdicts[False, False]} refused,"
        f" {verdicts[False, True]} refused by the operator alone, {len(stricter)} by the API server alone"
    )
    assert not stricter, stricter[0]
    assert min(verdicts[True, True], verdicts[False, False]) > RESOURCES // 10  # it is about something
