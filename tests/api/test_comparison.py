"""Meshwright's objects are those of `istioctl manifest generate` but for comparison/differences.yaml, line by line."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from api.comparison.both import ours, theirs
from api.comparison.grants import beyond, of_workloads
from api.comparison.intents import INTENTS, Intent
from api.comparison.record import (
    DEFINITIONS,
    UNEXPLAINED,
    USUALLY,
    Place,
    Recorded,
    Sections,
    found,
    places,
    read,
    write,
)
from api.comparison.trees import compare

SECTIONS = (USUALLY, *(intent.name for intent in INTENTS), DEFINITIONS)
QUICK_START = INTENTS[0]


@pytest.fixture(scope="module")
def there_are() -> Sections:
    return found()


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return read()


@pytest.mark.parametrize("section", SECTIONS)
def test_every_difference_is_listed(section: str, there_are: Sections, recorded: Recorded) -> None:
    real = {place: change for place, change in places(there_are) if place.section == section}
    listed = {place: change for place, change in places(recorded.sections) if place.section == section}
    unlisted = [f"{place.object} {place.path}: {real[place]}" for place in real if listed.get(place) != real[place]]
    gone = [f"{place.object} {place.path}: {listed[place]}" for place in listed if listed[place] != real.get(place)]
    assert not unlisted, "not in differences.yaml:\n" + "\n".join(unlisted)
    assert not gone, "in differences.yaml, and no more so:\n" + "\n".join(gone)


def test_no_section_is_of_an_intent_that_is_no_more(recorded: Recorded) -> None:
    assert set(recorded.sections) <= set(SECTIONS)


def test_every_difference_has_a_reason_and_every_reason_a_difference(recorded: Recorded) -> None:
    assert set(recorded.given.values()) == set(recorded.reasons)
    assert all(reason.endswith(".") for reason in recorded.reasons.values())


@pytest.mark.parametrize("intent", INTENTS, ids=lambda intent: intent.name)
def test_no_workload_may_do_more(intent: Intent) -> None:
    their_workloads = of_workloads(theirs(intent))
    for workload, granted in of_workloads(ours(intent)).items():
        assert granted, workload
        assert beyond(granted, their_workloads[workload]) == [], workload


# That the comparison itself sees what there is to see:


def changed(path: str, value: object) -> dict[str, str]:
    """What is found of istiod's Deployment when ours has another value at a path."""
    before = ours(QUICK_START)
    after = copy.deepcopy(before)
    parent: Any = next(each for each in after if each["kind"] == "Deployment")
    *way, last = path.split(".")
    for step in way:
        parent = parent[int(step) if isinstance(parent, list) else step]
    parent[last] = value
    return compare(before, after, {}).get("Deployment istio-system/istiod", {})


@pytest.mark.parametrize(
    ("path", "value", "difference"),
    [
        ("spec.template.spec.containers.0.image", "other", {
            "spec.template.spec.containers[discovery].image": '"docker.io/istio/pilot:1.31.4" → "other"'
        }),
        ("spec.template.spec.containers.0.ports.1.containerPort", 1, {
            "spec.template.spec.containers[discovery].ports[grpc-xds].containerPort": "15010 → 1"
        }),
        ("spec.template.spec.nodeName", "x", {"spec.template.spec.nodeName": 'nothing → "x"'}),
        ("spec.template.spec.containers.0.securityContext.capabilities.drop", ["A", "B"], {
            "spec.template.spec.containers[discovery].securityContext.capabilities.drop": '["ALL"] → ["A", "B"]'
        }),
        ("spec.template.spec.containers.0.resources.limits.memory", "4096Mi", {}),
        ("spec.template.spec.containers.0.resources.limits.memory", "4095Mi", {
            "spec.template.spec.containers[discovery].resources.limits.memory": '"4Gi" → "4095Mi"'
        }),
    ],
)  # fmt: skip
def test_a_leaf_that_differs_is_found(path: str, value: object, difference: dict[str, str]) -> None:
    assert changed(path, value) == difference


def test_an_object_on_one_side_only_is_found() -> None:
    objects = ours(QUICK_START)
    assert compare(objects, objects, {}) == {}
    assert compare(objects, objects[1:], {}) == {"Namespace istio-system": {"$": "the object → nothing"}}
    assert compare(objects[1:], objects, {}) == {"Namespace istio-system": {"$": "nothing → the object"}}


def test_rules_are_compared_by_what_they_grant() -> None:
    role = {"kind": "Role", "metadata": {"name": "a", "namespace": "b"}}
    rule = {"apiGroups": ["", "apps"], "resources": ["x", "y"], "verbs": ["get", "list"]}
    split = [
        {**rule, "apiGroups": [group], "resources": ["y", "x"], "verbs": ["list", "get"]} for group in ("apps", "")
    ]
    assert compare([{**role, "rules": [rule]}], [{**role, "rules": split}], {}) == {}
    less = [split[0], {**split[1], "verbs": ["get"]}]
    assert compare([{**role, "rules": split}], [{**role, "rules": less}], {}) == {
        "Role b/a": {f'rules["core/{each}"]': '"get list" → "get"' for each in "xy"}
    }


def test_a_permission_more_is_found_whatever_grants_it() -> None:
    istiod = "Deployment istio-system/istiod"
    objects = ours(QUICK_START)
    more = copy.deepcopy(objects)
    role = next(each for each in more if each["kind"] == "Role")
    role["rules"].append({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]})
    added = beyond(of_workloads(more)[istiod], of_workloads(objects)[istiod])
    assert [tuple(each) for each in added] == [("istio-system", "", "pods/exec", "", "create")]
    assert beyond(of_workloads(objects)[istiod], of_workloads(more)[istiod]) == []


def test_writing_anew_keeps_the_reasons(tmp_path_factory: pytest.TempPathFactory, recorded: Recorded) -> None:
    file = tmp_path_factory.mktemp("comparison") / "differences.yaml"
    kept = Place(USUALLY, "Service istio-system/istiod", "spec.ports[grpc-xds].targetPort")
    sections = {**recorded.sections, "another": {"Service x/y": {kept.path: "1 → 2", "spec.type": "1 → 2"}}}
    assert write(sections, recorded, file) == 1
    again = read(file)
    assert again.sections == sections
    assert {place: again.given[place] for place in recorded.given} == recorded.given
    assert again.given[Place("another", "Service x/y", kept.path)] == recorded.given[kept]
    assert again.given[Place("another", "Service x/y", "spec.type")] == UNEXPLAINED
